"""Whole searches with `--on slurm`, on a real Slurm of three nodes."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from search_fixture import Ran, Searches, script, searches, until
from slurm_fixture import SlurmCluster

__all__ = ["searches"]

#: two jobs at once on each of up to three nodes
PROFILE = ("--slurm-set", "gpus=2", "--slurm-set", "time=10", "--slurm-set", "max_allocations=3")
#: waits for as long as its configuration says, and says where it ran
TRAIN = """
    import json, os, time
    about = {name: os.environ.get(name) for name in ("SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")}
    about["gpu"] = sys.argv[sys.argv.index("--gpu") + 1]
    print(json.dumps(about), file=sys.stderr)
    time.sleep(SECONDS)
    print(float(config_id[2:]) + 1 / epochs)
"""


def training(seconds: float) -> str:
    return script(TRAIN.replace("SECONDS", repr(seconds)))


class OnSlurm:
    """Searches of one folder, on a cluster or on this machine."""

    def __init__(self, searches: Searches, cluster: SlurmCluster) -> None:
        self.searches = searches
        self.cluster = cluster

    def start(self, *options: str, profile: tuple[str, ...] = PROFILE) -> "subprocess.Popen[str]":
        return self.searches.start("--on", "slurm", *profile, *options, gpus=None)

    def run(self, *options: str, profile: tuple[str, ...] = PROFILE) -> Ran:
        return self.searches.wait(self.start(*options, profile=profile))

    def queue(self) -> list[str]:
        """Jobs that Slurm has, with their states."""
        return self.cluster.run("squeue", "-h", "-o", "%i %T").splitlines()

    def n_jobs_begun(self) -> int:
        return len(list((self.searches.study / "jobs").glob("*/keeper.json")))

    def log(self) -> str:
        return (self.searches.study / "hyperband.log").read_text()


@pytest.fixture
def on_slurm(searches: Searches, slurm: SlurmCluster) -> Iterator[OnSlurm]:
    yield OnSlurm(searches, slurm)
    assert slurm.run("squeue", "-h", "-o", "%i %T") == "", "allocations were left behind"


def decided(ran: Ran) -> object:
    """What a search came to, wherever it ran and in whichever order its jobs ended."""
    document = ran.document
    keys = ("number", "config_id", "bracket", "rung", "state", "loss")
    return [tuple(trial[key] for key in keys) for trial in document["trials"]], document["best"]


@pytest.mark.slow
def test_a_search_on_three_nodes_comes_to_what_it_comes_to_here(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(0.05))
    there = on_slurm.run("--max-epochs", "9", "--logs", "there")
    assert there.exit_code == 0, there.err
    assert on_slurm.queue() == []
    here = on_slurm.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
    assert decided(there) == decided(here)
    jobs = sorted((on_slurm.searches.folder / "there" / "study" / "jobs").glob("*/stderr"))
    said = [json.loads(path.read_text()) for path in jobs]
    assert {about["SLURMD_NODENAME"] for about in said} == {"n1", "n2", "n3"}
    assert {about["CUDA_VISIBLE_DEVICES"] for about in said} == {"0", "1"}
    assert {about["gpu"] for about in said} == {"0"}
    assert not (on_slurm.searches.folder / "there" / "study" / "slurm" / "name").exists()


@pytest.mark.slow
def test_a_search_that_is_killed_leaves_its_jobs_and_the_next_one_has_them(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(2.0))
    first = on_slurm.start("--max-epochs", "3")
    until(lambda: on_slurm.n_jobs_begun() >= 4, "jobs to begin")
    on_slurm.searches.kill(first)
    allocations = on_slurm.queue()
    assert len(allocations) >= 2
    again = on_slurm.run("--max-epochs", "3")
    assert again.exit_code == 0, again.err
    assert {job["attempt"] for job in again.document["jobs"]} == {0}, "nothing was run twice"
    assert "Taken over" in on_slurm.log()
    assert f"took over the allocation {allocations[0].split()[0]} of an earlier start" in on_slurm.log()
    here = on_slurm.searches.run("--max-epochs", "3", "--slots", "6", "--logs", "here")
    assert decided(again) == decided(here)


@pytest.mark.slow
def test_stop_ends_what_a_killed_search_left_and_a_search_here_refuses_before(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(60.0))
    first = on_slurm.start("--max-epochs", "3", "--max-slots", "2")
    until(lambda: on_slurm.n_jobs_begun() == 2, "jobs to begin")
    on_slurm.searches.kill(first)
    assert on_slurm.queue()
    refused = on_slurm.searches.run("--max-epochs", "3")
    assert refused.exit_code == 1
    assert "with another --on" in refused.err
    stopped = on_slurm.searches.command("stop", str(on_slurm.searches.study))
    assert "ended 2 jobs" in stopped.out, stopped
    assert on_slurm.queue() == []
    on_slurm.searches.write(training(0.05))
    assert on_slurm.searches.run("--max-epochs", "3").exit_code == 0


@pytest.mark.slow
def test_an_interrupt_ends_jobs_and_allocations(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(60.0))
    search = on_slurm.start("--max-epochs", "3")
    until(lambda: on_slurm.n_jobs_begun() >= 2, "jobs to begin")
    search.send_signal(signal.SIGINT)
    search.send_signal(signal.SIGTERM)
    ran = on_slurm.searches.wait(search)
    assert ran.exit_code == 130, ran.err
    assert on_slurm.queue() == []
    assert ran.document["state"] == "stopped"


#: no two copies of a trial at once, and each says where it runs
ALONE = """
    import fcntl, os, time
    os.makedirs("alone", exist_ok=True)
    lock = open(f"alone/{config_id[2:]}", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open("twice", "w").close()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(0.05)
    print(os.environ["SLURMD_NODENAME"], file=sys.stderr)
    print(float(config_id[2:]) + 1 / epochs)
"""


def alone(seconds: float) -> str:
    return script(ALONE.replace("SECONDS", repr(seconds)))


def same_as_here(on_slurm: OnSlurm, ran: Ran) -> None:
    """The search ended well, came to what it comes to here, and no trial ran twice at once."""
    assert ran.exit_code == 0, ran.err
    assert not (on_slurm.searches.folder / "twice").exists()
    on_slurm.searches.write(training(0.01))
    here = on_slurm.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
    assert decided(ran) == decided(here)


def nodes_of_jobs(on_slurm: OnSlurm) -> list[str]:
    """The node of each allocation that runs."""
    return on_slurm.cluster.run("squeue", "-h", "-t", "RUNNING", "-o", "%N").split()


@pytest.mark.slow
def test_a_node_that_dies_costs_nothing_but_time(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(alone(1.0))
    search = on_slurm.start("--max-epochs", "9")
    until(lambda: on_slurm.n_jobs_begun() == 6, "six jobs")
    on_slurm.cluster.kill_node("n2")
    ran = on_slurm.searches.wait(search)
    assert [job["outcome"] for job in ran.document["jobs"]].count("Lost") == 2
    same_as_here(on_slurm, ran)


@pytest.mark.slow
def test_a_node_that_hangs_has_its_jobs_fenced_before_they_run_elsewhere(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(alone(6.0))
    search = on_slurm.start("--max-epochs", "9")
    until(lambda: on_slurm.n_jobs_begun() == 6, "six jobs")
    on_slurm.cluster.stop_node("n2")
    ran = on_slurm.searches.wait(search)
    lost = [job for job in ran.document["jobs"] if job["outcome"] == "Lost"]
    assert {job["slot"].split(":")[0] for job in lost} == {"n2"}
    assert len(lost) == 2
    same_as_here(on_slurm, ran)


@pytest.mark.slow
def test_jobs_that_are_preempted_are_tried_again(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(alone(1.5))
    search = on_slurm.start("--max-epochs", "9")
    until(lambda: on_slurm.n_jobs_begun() == 6, "six jobs")
    on_slurm.cluster.run(
        "sbatch", "--partition=high", "--gres=gpu:2", "--nodes=2", "--ntasks-per-node=1", "--wrap", "sleep 1"
    )
    ran = on_slurm.searches.wait(search)
    until(lambda: on_slurm.queue() == [], "the end of who came first")
    outcomes = [job["outcome"] for job in ran.document["jobs"]]
    assert outcomes.count("Lost") == 4
    same_as_here(on_slurm, ran)


@pytest.mark.slow
def test_a_job_whose_allocation_is_over_goes_on_in_the_next(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(alone(2.0))
    search = on_slurm.start("--max-epochs", "9")
    until(lambda: on_slurm.n_jobs_begun() == 6, "six jobs")
    first = on_slurm.queue()[0].split()[0]
    on_slurm.cluster.run("scontrol", "update", f"jobid={first}", "EndTime=now+1")
    ran = on_slurm.searches.wait(search)
    assert [job["outcome"] for job in ran.document["jobs"]].count("Lost") == 2
    assert f"the allocation {first} ended: time limit" in on_slurm.log()
    same_as_here(on_slurm, ran)


@pytest.mark.slow
def test_a_controller_that_is_away_ends_nothing(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(alone(1.0))
    search = on_slurm.start("--max-epochs", "9")
    until(lambda: on_slurm.n_jobs_begun() >= 6, "six jobs")
    on_slurm.cluster.stop_controller()
    time.sleep(20)
    assert search.poll() is None
    on_slurm.cluster.start_controller()
    ran = on_slurm.searches.wait(search)
    assert {job["outcome"] for job in ran.document["jobs"]} == {"Loss"}
    assert "Slurm does not answer" in on_slurm.log()
    assert "Slurm answers again" in on_slurm.log()
    same_as_here(on_slurm, ran)


@pytest.mark.slow
def test_what_is_cancelled_by_hand_is_told_and_tried_again(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(alone(1.5))
    search = on_slurm.start("--max-epochs", "9")
    until(lambda: on_slurm.n_jobs_begun() == 6, "six jobs")
    first, second, _ = (line.split()[0] for line in on_slurm.queue())
    steps = on_slurm.cluster.run("squeue", "-h", "-s", "-j", second, "-o", "%i").split()
    on_slurm.cluster.run("scancel", *(step for step in steps if step.endswith(".0")))
    on_slurm.cluster.run("scancel", first)
    ran = on_slurm.searches.wait(search)
    assert [job["outcome"] for job in ran.document["jobs"]].count("Lost") == 3
    assert f"the allocation {first} was cancelled by somebody, and none is asked for" in on_slurm.log()
    same_as_here(on_slurm, ran)


@pytest.mark.slow
def test_a_search_with_accounting(searches: Searches, slurm_accounting: SlurmCluster) -> None:
    on_slurm = OnSlurm(searches, slurm_accounting)
    searches.write(alone(0.1))
    ran = on_slurm.run("--max-epochs", "9")
    assert ", with accounting" in on_slurm.log()
    assert on_slurm.queue() == []
    same_as_here(on_slurm, ran)
