"""Whole searches with `--on ray`, on a real Ray of three machines. Each comes to what it comes to here."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cluster_fixture import wait_for
from ray_fixture import ACCELERATOR, N_GPUS, RayCluster
from search_fixture import HYPERBAND, Ran, Searches, script, searches, until

__all__ = ["searches"]
#: one cluster, and not one for each worker
pytestmark = pytest.mark.xdist_group("ray")

#: no two copies of a trial at once; each says where it is, and waits for the word to go on
ALONE = """
    import fcntl, json, os, socket, time
    about = {"host": socket.gethostname(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    about["threads"] = os.environ.get("OMP_NUM_THREADS")
    about["gpu"] = sys.argv[sys.argv.index("--gpu") + 1]
    print(json.dumps(about), file=sys.stderr)
    os.makedirs("alone", exist_ok=True)
    lock = open(f"alone/{config_id[2:]}", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open("twice", "w").close()
    with open("began", "a") as began:
        began.write(f"{config_id}\\n")
    while not os.path.exists("go"):
        time.sleep(0.05)
    print(float(config_id[2:]) + 1 / epochs)
"""
PLAN = ("--max-epochs", "9")
FEW = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "3")


class OnRay:
    """Searches of one folder, run on the cluster's head or without a cluster."""

    def __init__(self, searches: Searches, cluster: RayCluster) -> None:
        self.searches = searches
        self.cluster = cluster
        self.folder = searches.folder
        searches.write(script(ALONE))
        searches.environment.update(cluster.ray_environment)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            del searches.environment[name]

    def words(self, *options: str) -> list[str]:
        on_ray = ["--on", "ray", "--ray-address", self.cluster.address]
        if "--ray-token" not in options:
            on_ray += ["--ray-token", str(self.cluster.token)]
        words = [str(HYPERBAND), "--json", "--guide", "none", *on_ray, *options, str(self.searches.path)]
        return self.cluster.on_head([sys.executable, *words], self.folder)

    def start(self, *options: str) -> "subprocess.Popen[str]":
        return self.searches.start_argv(self.words(*options))

    def run(self, *options: str) -> Ran:
        return self.searches.wait(self.start(*options))

    def stop(self) -> Ran:
        words = [sys.executable, str(HYPERBAND), "stop", str(self.searches.study)]
        return self.searches.wait(self.searches.start_argv(self.cluster.on_head(words, self.folder)))

    def go(self) -> None:
        """Let jobs end at once."""
        (self.folder / "go").touch()

    def n_begun(self) -> int:
        path = self.folder / "began"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def said(self, logs: str = "logs") -> list[dict[str, str]]:
        """What the jobs of a study found; some may not have said it yet."""
        jobs = sorted((self.folder / logs / "study" / "jobs").glob("*/stderr"))
        said = [path.read_text().partition("\n") for path in jobs]
        return [json.loads(line) for line, end, _ in said if end]

    def n_jobs_begun(self) -> int:
        return len(list((self.searches.study / "jobs").glob("*/keeper.json")))

    def log(self) -> str:
        return (self.searches.study / "hyperband.log").read_text()

    def is_all_given_back(self) -> bool:
        return not (self.searches.study / "ray" / "cluster.json").exists() and not self.cluster.actors()


@pytest.fixture
def on_ray(searches: Searches, ray_cluster: RayCluster) -> OnRay:
    return OnRay(searches, ray_cluster)


class Waiting(OnRay):
    """A search of which the first jobs, one on each GPU, wait for the word to go on."""

    def __init__(self, searches: Searches, cluster: RayCluster) -> None:
        super().__init__(searches, cluster)
        self.search = self.start(*PLAN)
        until(lambda: self.n_begun() == 3 * N_GPUS, "a job on each GPU")

    def until_lost(self, n_lost: int) -> None:
        until(lambda: self.log().count(": Lost after ") >= n_lost, f"{n_lost} lost jobs", 90.0)

    def finish(self) -> list[dict[str, Any]]:
        """Let it go on to its end; it must come to what it comes to here. Return its jobs."""
        self.go()
        ran = self.searches.wait(self.search)
        assert ran.exit_code == 0, ran.err
        assert not (self.folder / "twice").exists()
        assert decided(ran) == decided_here()
        assert self.is_all_given_back()
        found: list[dict[str, Any]] = ran.document["jobs"]
        return found


@pytest.mark.slow
def test_a_job_that_kills_its_keeper_each_time_is_not_tried_for_ever(on_ray: OnRay) -> None:
    on_ray.searches.write(
        script("""
            import os, signal, time
            if os.environ["HYPERBAND_TRIAL"] == "0":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(600)
            print(float(config_id[2:]))
        """)
    )
    ran = on_ray.run(*FEW)
    outcomes = [job["outcome"] for job in ran.document["jobs"] if job["trial"] == 0]
    assert outcomes == ["Lost", "Lost", "Crashed"], on_ray.log()


@pytest.fixture
def waiting(on_ray: OnRay) -> Waiting:
    return Waiting(on_ray.searches, on_ray.cluster)


def decided(ran: Ran) -> object:
    """What a search came to, wherever it ran and in whichever order its jobs ended."""
    document = ran.document
    keys = ("number", "config_id", "bracket", "rung", "state", "loss")
    return [tuple(trial[key] for key in keys) for trial in document["trials"]], document["best"]


@functools.cache
def decided_here() -> object:
    """The same of a search on this machine; it is run once."""
    with tempfile.TemporaryDirectory() as folder:
        here = Searches(Path(folder))
        here.write(script(ALONE))
        (here.folder / "go").touch()
        ran = here.run(*PLAN, "--slots", "2")
        assert ran.exit_code == 0, ran.err
        return decided(ran)


def hosts_of_lost(jobs: list[dict[str, Any]]) -> list[str]:
    # a start at a slot that just ends does not begin
    lost = [job for job in jobs if job["outcome"] == "Lost" and job["started_at"] is not None]
    return sorted(job["slot"].split(":")[0] for job in lost)


@pytest.mark.slow
def test_a_search_that_is_killed_is_taken_over_with_its_jobs_and_slots(waiting: Waiting) -> None:
    waiting.searches.kill(waiting.search)
    waiting.search = waiting.start(*PLAN)
    until(lambda: "Taken over: 6 running jobs" in waiting.log(), "the jobs to be taken over")
    jobs = waiting.finish()
    assert {job["attempt"] for job in jobs} == {0}, "nothing was run twice"
    gpus = {f"{host}:gpu{gpu}" for host in ("m1", "m2", "m3") for gpu in range(N_GPUS)}
    assert sorted({job["slot"] for job in jobs}) == sorted({job["slot"] for job in jobs[:6]})
    assert {job["slot"].split("/")[0] for job in jobs} == gpus
    said = waiting.said()
    assert {f"{about['host']}:gpu{about['gpus']}" for about in said} == gpus
    assert {about["gpu"] for about in said} == {"0"}
    assert "asks for no token" not in waiting.log()


@pytest.mark.slow
def test_stop_ends_what_a_killed_search_left_on_a_node_with_the_accelerator(on_ray: OnRay) -> None:
    resources = ("--ray-resources", f"{ACCELERATOR}=0.001", "--jobs-per-gpu", "3", "--max-slots", "3")
    first = on_ray.start(*FEW, *resources)
    until(lambda: on_ray.n_begun() == 3, "jobs to begin")
    on_ray.searches.kill(first)
    assert [(about["host"], about["gpus"]) for about in on_ray.said()] == [("m2", "0")] * 3
    refused = on_ray.searches.run(*FEW)
    assert refused.exit_code == 1
    assert "--on" in refused.err
    stopped = on_ray.stop()
    assert "ended 3 jobs and 3 slots that" in stopped.out, stopped
    assert on_ray.is_all_given_back()


@pytest.mark.slow
def test_jobs_without_a_gpu_share_the_cores(on_ray: OnRay) -> None:
    on_ray.go()
    ran = on_ray.run(*FEW, "--ray-resources", "GPU=0", "--ray-resources", "CPU=2")
    assert ran.exit_code == 0, ran.err
    assert {(about["gpus"], about["threads"]) for about in on_ray.said()} == {("", "1")}


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_an_attempt_and_an_interrupt_ends_all(waiting: Waiting) -> None:
    actor = next(pid for pid in waiting.cluster.pids("m3") if pid in waiting.cluster.actors())
    os.kill(actor, signal.SIGKILL)
    until(lambda: waiting.n_begun() == 7, "its job to be tried again")
    waiting.search.send_signal(signal.SIGINT)
    waiting.search.send_signal(signal.SIGTERM)
    ran = waiting.searches.wait(waiting.search)
    assert ran.exit_code == 130, ran.err
    assert ran.document["state"] == "stopped"
    assert hosts_of_lost(ran.document["jobs"]) == ["m3"]
    assert waiting.is_all_given_back()


@pytest.mark.slow
def test_machines_that_die_or_are_cut_off_cost_time_and_one_that_joins_is_used(waiting: Waiting) -> None:
    cluster = waiting.cluster
    cluster.cut("m2")
    cluster.cut("m3")
    cluster.kill_machine("m3")
    # m2 reads its word in the shared folder; of m3 there is no sign until its lease is over
    waiting.until_lost(4)
    wait_for(
        lambda: {pid for pid in cluster.keepers() if pid in cluster.pids("m2")} == set(),
        words="m2 to end its jobs",
    )
    assert waiting.n_begun() == 6, "there is no room"
    cluster.heal("m3")
    cluster.start_ray("m3")
    until(lambda: waiting.n_begun() == 8, "jobs on the machine that joined")
    jobs = waiting.finish()
    assert hosts_of_lost(jobs) == ["m2", "m2", "m3", "m3"]
    assert {job["slot"][:2] for job in jobs if job["outcome"] == "Loss"} == {"m1", "m3"}


@pytest.mark.slow
def test_a_head_that_dies_is_waited_for(waiting: Waiting) -> None:
    waiting.cluster.kill_ray("m1")
    waiting.until_lost(6)
    assert waiting.search.poll() is None
    waiting.cluster.mend()
    until(lambda: waiting.n_begun() == 12, "jobs of the new cluster", 90.0)
    jobs = waiting.finish()
    assert hosts_of_lost(jobs) == ["m1", "m1", "m2", "m2", "m3", "m3"]
    assert "is away" in waiting.log()


@pytest.mark.slow
def test_a_wrong_token_ends_the_search(on_ray: OnRay) -> None:
    wrong = on_ray.folder / "wrong"
    wrong.write_text("f" * 64)
    refused = on_ray.run(*FEW, "--ray-token", str(wrong))
    assert refused.exit_code == 1
    assert "cannot join Ray at" in refused.err
    assert "it runs, but the token of --ray-token is not the one it has" in refused.err
    none = on_ray.run(*FEW, "--ray-token", str(on_ray.folder / "nothing"), "--logs", "no-token")
    assert "the token of --ray-token cannot be read" in none.err
