"""Whole searches with `--on ray`, on a real Ray of three machines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ray_fixture import N_GPUS, RayCluster, running_cluster, wait_for, why_no_ray
from search_fixture import HYPERBAND, Ran, Searches, script, searches, until

__all__ = ["searches"]

#: waits for as long as its configuration says, and says where it ran
TRAIN = """
    import json, os, socket, time
    about = {"host": socket.gethostname(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    about["threads"] = os.environ.get("OMP_NUM_THREADS")
    about["gpu"] = sys.argv[sys.argv.index("--gpu") + 1]
    print(json.dumps(about), file=sys.stderr)
    time.sleep(SECONDS)
    print(float(config_id[2:]) + 1 / epochs)
"""
#: no two copies of a trial at once; each waits for the word to go on
ALONE = """
    import fcntl, os, time
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


def training(seconds: float) -> str:
    return script(TRAIN.replace("SECONDS", repr(seconds)))


class OnRay:
    """Searches of one folder, run on the cluster's head or without a cluster."""

    def __init__(self, searches: Searches, cluster: RayCluster) -> None:
        self.searches = searches
        self.cluster = cluster
        searches.environment.update(cluster.ray_environment)

    def words(self, *options: str) -> list[str]:
        on_ray = ["--on", "ray", "--ray-address", self.cluster.address]
        words = [str(HYPERBAND), "--json", "--guide", "none", *on_ray, *options, str(self.searches.path)]
        return self.cluster.on_head([sys.executable, *words], self.searches.folder)

    def start(self, *options: str) -> "subprocess.Popen[str]":
        return self.searches.start_argv(self.words(*options))

    def run(self, *options: str) -> Ran:
        return self.searches.wait(self.start(*options))

    def stop(self) -> Ran:
        words = [sys.executable, str(HYPERBAND), "stop", str(self.searches.study)]
        return self.searches.wait(self.searches.start_argv(self.cluster.on_head(words, self.searches.folder)))

    def said(self, logs: str = "logs") -> list[dict[str, str]]:
        jobs = sorted((self.searches.folder / logs / "study" / "jobs").glob("*/stderr"))
        return [json.loads(path.read_text()) for path in jobs]

    def n_jobs_begun(self) -> int:
        return len(list((self.searches.study / "jobs").glob("*/keeper.json")))

    def log(self) -> str:
        return (self.searches.study / "hyperband.log").read_text()

    def is_all_given_back(self) -> bool:
        return not (self.searches.study / "ray" / "cluster.json").exists() and not self.cluster.actors()


@pytest.fixture
def on_ray(searches: Searches, ray_cluster: RayCluster) -> OnRay:
    return OnRay(searches, ray_cluster)


def decided(ran: Ran) -> object:
    """What a search came to, wherever it ran and in whichever order its jobs ended."""
    document = ran.document
    keys = ("number", "config_id", "bracket", "rung", "state", "loss")
    return [tuple(trial[key] for key in keys) for trial in document["trials"]], document["best"]


@pytest.mark.slow
def test_a_search_on_three_machines_comes_to_what_it_comes_to_here(on_ray: OnRay) -> None:
    on_ray.searches.write(training(0.3))
    there = on_ray.run("--max-epochs", "9", "--logs", "there")
    assert there.exit_code == 0, there.err
    assert not on_ray.cluster.actors()
    assert not (on_ray.searches.folder / "there" / "study" / "ray" / "cluster.json").exists()
    here = on_ray.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
    assert decided(there) == decided(here)
    said = on_ray.said("there")
    assert {about["host"] for about in said} == {"m1", "m2", "m3"}
    assert {about["gpus"] for about in said} == {"0", "1"}
    assert {about["gpu"] for about in said} == {"0"}
    assert {job["slot"].split("/")[0] for job in there.document["jobs"]} == {
        f"{host}:gpu{gpu}" for host in ("m1", "m2", "m3") for gpu in range(N_GPUS)
    }
    assert "asks for no token" in there.err


@pytest.mark.slow
def test_a_search_that_is_killed_leaves_its_jobs_and_the_next_one_has_them(on_ray: OnRay) -> None:
    on_ray.searches.write(training(4.0))
    first = on_ray.start("--max-epochs", "3")
    until(lambda: on_ray.n_jobs_begun() >= 4, "jobs to begin")
    on_ray.searches.kill(first)
    n_actors = len(on_ray.cluster.actors())
    again = on_ray.run("--max-epochs", "3")
    assert again.exit_code == 0, again.err
    assert {job["attempt"] for job in again.document["jobs"]} == {0}, "nothing was run twice"
    assert len({job["slot"] for job in again.document["jobs"]}) <= 6 <= n_actors + 2, "slots were found again"
    assert "Taken over" in on_ray.log()
    assert on_ray.is_all_given_back()
    here = on_ray.searches.run("--max-epochs", "3", "--slots", "6", "--logs", "here")
    assert decided(again) == decided(here)


@pytest.mark.slow
def test_stop_ends_what_a_killed_search_left(on_ray: OnRay) -> None:
    on_ray.searches.write(training(60.0))
    first = on_ray.start("--max-epochs", "3", "--max-slots", "2")
    until(lambda: on_ray.n_jobs_begun() == 2, "jobs to begin")
    on_ray.searches.kill(first)
    refused = on_ray.searches.run("--max-epochs", "3")
    assert refused.exit_code == 1
    assert "with another --on" in refused.err
    stopped = on_ray.stop()
    assert "ended 2 jobs and 2 slots that" in stopped.out, stopped
    assert on_ray.is_all_given_back()


@pytest.mark.slow
def test_an_interrupt_ends_jobs_and_slots(on_ray: OnRay) -> None:
    on_ray.searches.write(training(60.0))
    search = on_ray.start("--max-epochs", "3")
    until(lambda: on_ray.n_jobs_begun() >= 2, "jobs to begin")
    search.send_signal(signal.SIGINT)
    search.send_signal(signal.SIGTERM)
    ran = on_ray.searches.wait(search)
    assert ran.exit_code == 130, ran.err
    assert ran.document["state"] == "stopped"
    assert on_ray.is_all_given_back()


@pytest.mark.slow
def test_jobs_share_a_gpu_in_parts_and_run_without_one(on_ray: OnRay) -> None:
    on_ray.searches.write(training(0.3))
    few = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "6")
    shared = on_ray.run(*few, "--jobs-per-gpu", "3", "--max-slots", "3", "--logs", "shared")
    assert shared.exit_code == 0, shared.err
    assert len({job["slot"] for job in shared.document["jobs"]}) == 3
    on_cpus = on_ray.run(*few, "--ray-resources", "GPU=0", "--ray-resources", "CPU=2", "--logs", "cpus")
    assert on_cpus.exit_code == 0, on_cpus.err
    assert {about["gpus"] for about in on_ray.said("cpus")} == {""}
    assert {about["threads"] for about in on_ray.said("cpus")} == {"1"}


# Machines and the head die.


class Waiting(OnRay):
    """A search of which the first six jobs wait for the word to go on."""

    def __init__(self, searches: Searches, cluster: RayCluster, n_first: int = 6) -> None:
        super().__init__(searches, cluster)
        searches.write(script(ALONE))
        self.search = self.start("--max-epochs", "9")
        until(lambda: self.n_begun() == n_first, f"{n_first} jobs")

    def n_begun(self) -> int:
        path = self.searches.folder / "began"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def until_lost(self, n_lost: int, patience_s: float = 60.0) -> None:
        until(
            lambda: self.log().count(": Lost after ") >= n_lost, f"lost jobs, found {self.log()}", patience_s
        )

    def finish(self) -> list[dict[str, Any]]:
        """Let it go on to its end; it must come to what it comes to here. Return its jobs."""
        (self.searches.folder / "go").touch()
        ran = self.searches.wait(self.search)
        assert ran.exit_code == 0, ran.err
        assert not (self.searches.folder / "twice").exists()
        here = self.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
        assert decided(ran) == decided(here)
        found: list[dict[str, Any]] = ran.document["jobs"]
        return found


@pytest.fixture
def waiting(on_ray: OnRay) -> Waiting:
    return Waiting(on_ray.searches, on_ray.cluster)


def hosts_of_lost(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["slot"].split(":")[0] for job in jobs if job["outcome"] == "Lost"]


@pytest.mark.slow
def test_a_machine_that_dies_costs_nothing_but_time(waiting: Waiting) -> None:
    waiting.cluster.cut("m2")
    waiting.cluster.kill_machine("m2")
    waiting.until_lost(2)
    assert hosts_of_lost(waiting.finish()) == ["m2", "m2"]


@pytest.mark.slow
def test_an_actor_that_is_killed_ends_its_job_which_is_tried_again(waiting: Waiting) -> None:
    actor = next(pid for pid in waiting.cluster.pids("m3") if pid in waiting.cluster.actors())
    os.kill(actor, signal.SIGKILL)
    waiting.until_lost(1)
    assert hosts_of_lost(waiting.finish()) == ["m3"]


@pytest.mark.slow
def test_a_machine_that_is_cut_off_has_its_jobs_fenced_before_they_run_elsewhere(waiting: Waiting) -> None:
    began_s = time.monotonic()
    waiting.cluster.cut("m2")
    waiting.until_lost(2)
    assert time.monotonic() - began_s < 40
    assert hosts_of_lost(waiting.finish()) == ["m2", "m2"]
    # what is still on the machine ends there, too
    wait_for(lambda: not waiting.cluster.keepers(), 40, "keepers that end")


@pytest.mark.slow
def test_a_machine_that_joins_is_used_within_seconds(searches: Searches, ray_cluster: RayCluster) -> None:
    ray_cluster.kill_machine("m3")
    wait_for(lambda: ray_cluster.n_alive() == 2, 30, "a head that has noticed")
    waiting = Waiting(searches, ray_cluster, n_first=4)
    ray_cluster.start_ray("m3")
    began_s = time.monotonic()
    until(lambda: waiting.n_begun() == 6, "jobs on the machine that joined")
    assert time.monotonic() - began_s < 10
    jobs = waiting.finish()
    assert {job["outcome"] for job in jobs} == {"Loss"}
    assert {job["slot"][:2] for job in jobs} == {"m1", "m2", "m3"}


@pytest.mark.slow
def test_a_head_that_dies_is_waited_for(waiting: Waiting) -> None:
    waiting.cluster.kill_ray("m1")
    waiting.until_lost(6)
    assert waiting.search.poll() is None
    for machine in ("m1", "m2", "m3"):
        waiting.cluster.kill_ray(machine)
    for machine in ("m1", "m2", "m3"):
        waiting.cluster.start_ray(machine)
    until(lambda: waiting.n_begun() == 12, "jobs of the new cluster", 60.0)
    jobs = waiting.finish()
    assert sorted(hosts_of_lost(jobs)) == ["m1", "m1", "m2", "m2", "m3", "m3"]
    assert "is away" in waiting.log()


@pytest.fixture
def guarded() -> Iterator[RayCluster]:
    """A cluster that asks for a token, on one machine."""
    reason = why_no_ray()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster("m1", token=True) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_token_opens_the_cluster_and_a_wrong_one_ends_the_search(
    searches: Searches, guarded: RayCluster
) -> None:
    on_ray = OnRay(searches, guarded)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        del searches.environment[name]
    on_ray.searches.write(training(0.1))
    few = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "4")
    right = on_ray.run(*few, "--ray-token", str(guarded.token))
    assert right.exit_code == 0, right.err
    assert "asks for no token" not in right.err
    wrong = searches.folder / "wrong"
    wrong.write_text("f" * 64)
    refused = on_ray.run(*few, "--ray-token", str(wrong), "--logs", "wrong-token")
    assert refused.exit_code == 1
    assert "cannot join Ray at" in refused.err
    none = on_ray.run(*few, "--ray-token", str(searches.folder / "nothing"), "--logs", "no-token")
    assert "the token of --ray-token cannot be read" in none.err
