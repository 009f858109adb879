"""Jobs that Slurm suspends: stopped for longer than their leases last, and nobody's loss; on a real Slurm."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from search_fixture import HYPERBAND, Searches, script, searches, until
from slurm_fixture import SlurmCluster
from test_slurm_search import OnSlurm

from hyperband.launch.base import Ending
from hyperband.launch.remote.files import Sight
from hyperband.launch.remote.patrol import Patrol
from hyperband.launch.slurm.jobs.slots import TrialJobSlots
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.reports import Status
from hyperband.launch.slurm.suspended import SuspendedJobs
from hyperband.launch.slurm.words import JobLine, JobState
from hyperband.machine.claim import BY_NODE, FENCED_FILE, claim

__all__ = ["searches"]

LEASE_S, MARGIN_S = 2.5, 0.5
#: a search whose leases are short
SHORT = f"""
import sys
sys.path.insert(0, {str(HYPERBAND.parent)!r})
from hyperband.launch.remote.launcher import RemoteLauncher
RemoteLauncher.__init__.__kwdefaults__.update(lease_s={LEASE_S}, margin_s={MARGIN_S})
from hyperband.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
#: writes until it is told to end
WRITES = """
    import os, time
    with open("began", "a") as began:
        began.write(".")
    while not os.path.exists("go"):
        with open("ticks", "a") as ticks:
            ticks.write(".")
        time.sleep(0.02)
    print(float(config_id[2:]) + 1 / epochs)
"""
ONE = ("--algorithm", "random", "--max-trials", "1", "--max-epochs", "1")
PROFILE = ("--slurm-set", "gpus=1", "--slurm-set", "time=10", "--slurm-set", "max_allocations=1")


class Silent:
    """A job whose lease is not renewed, and whose engine may be asked about it."""

    attempt, lease_s, carrier = "a", 0.2, None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slots = TrialJobSlots(Profile(), max_slots=1)
        self.suspended = SuspendedJobs()
        #: what asks Slurm, once there is one that answers
        self.is_there = threading.Event()
        self.asked, self.over = threading.Event(), threading.Event()
        self.n_excused = 0
        claim(str(folder), {"token": "t", "by": BY_NODE, "host": "n1", "attempt": "a"})

    def saw(self, sight: Sight, at_s: float) -> None:
        pass

    def lose_carrier(self) -> None:
        pass

    def is_excused(self, silent_since_s: float, at_s: float) -> bool:
        if not self.is_there.is_set():
            found = self.slots.excuses("7", silent_since_s, lease_s=self.lease_s, at_s=at_s)
        else:
            found = self.suspended.excuses(
                "7", silent_since_s, lease_s=self.lease_s, at_s=at_s, ask=self.asked.set
            )
        self.n_excused += found
        return found

    def end(self, ending: Ending) -> None:  # noqa: ARG002
        self.over.set()

    def fail(self, error: Exception) -> None:
        raise error


def test_nothing_is_given_up_for_silence_alone_while_slurm_cannot_be_asked(tmp_path: Path) -> None:
    job = Silent(tmp_path)
    patrol = Patrol(margin_s=0.1)
    patrol.watch(job)

    def until_seen(is_so: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            patrol.look(job)
            return is_so()

        until(look, what)

    # first there is nobody who could ask, as at the end of a search; then nobody answers
    until_seen(lambda: job.n_excused > 0, "its lease to run out")
    job.is_there.set()
    until_seen(job.asked.is_set, "the question")
    n = job.n_excused
    until_seen(lambda: job.n_excused > n, "another look")
    assert not (tmp_path / "stop").exists()
    assert not job.over.is_set()
    job.suspended.note(Status((JobLine("7", "name", JobState.RUNNING, ""),), time.monotonic()))
    until_seen(job.over.is_set, "its end: it runs, and says nothing")
    assert (tmp_path / "stop").exists()
    assert (tmp_path / FENCED_FILE).exists()
    patrol.close()


def ticks(searches: Searches) -> int:
    path = searches.folder / "ticks"
    return path.stat().st_size if path.exists() else 0


def reported(searches: Searches) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(searches.command("report", "--json", str(searches.study)).out)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["held", "jobs"])
def test_a_suspended_job_is_left_alone_and_goes_on(
    searches: Searches, slurm: SlurmCluster, mode: str
) -> None:
    on_slurm = OnSlurm(searches, slurm)
    searches.write(script(WRITES))
    argv = [sys.executable, "-c", SHORT, "--json", "--guide", "none", "--on", "slurm", "--slurm-mode", mode]
    search = searches.start_argv([*argv, *PROFILE, *ONE, str(searches.path)])
    until(lambda: ticks(searches) > 0, "the job to write")
    until(lambda: any((searches.study / "jobs").glob("*/lease")), "its lease to be renewed")
    job_id = slurm.run("squeue", "-h", "-o", "%i").strip()
    slurm.run("scontrol", "suspend", job_id)
    until(lambda: "left alone until it goes on" in on_slurm.log(), "that to be told")
    path = next((searches.study / "jobs").glob("*/lease"))
    is_stopped_s = os.times().elapsed
    until(lambda: os.times().elapsed > is_stopped_s + 2.0 + LEASE_S + 2 * MARGIN_S, "its lease to run out")
    lease, n = path.read_bytes(), ticks(searches)
    assert not list((searches.study / "jobs").glob("*/stop"))
    until(lambda: reported(searches)["jobs"][0]["state"] == "suspended", "the report to tell of it")
    assert "suspended by Slurm" in reported(searches)["waiting"]["why"]
    slurm.run("scontrol", "resume", job_id)
    until(lambda: ticks(searches) > n + 5 and path.read_bytes() != lease, "the job to go on")
    (searches.folder / "go").touch()
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Loss"], on_slurm.log()
    assert "wait   " in on_slurm.log()
    assert "1 suspended by Slurm" in on_slurm.log() or "1 job suspended by Slurm" in on_slurm.log()
    assert (searches.folder / "began").read_text() == "."
    until(lambda: on_slurm.queue() == [], "nodes that are free")


def test_only_slurms_word_that_comes_late_enough_tells_silence_from_suspension() -> None:
    """A lease of 15 s that was renewed last at 100 s."""
    jobs = SuspendedJobs()
    asked: list[float] = []

    def excuses(at_s: float) -> bool:
        return jobs.excuses("7", 100.0, lease_s=15.0, at_s=at_s, ask=lambda: asked.append(at_s))

    def said(state: JobState, asked_s: float) -> list[str]:
        return jobs.note(Status((JobLine("7", "name", state, ""),), asked_s))

    assert said(JobState.RUNNING, 114.0) == []
    assert excuses(115.5), "it ran before its lease ran out, which says nothing"
    assert excuses(116.0)
    assert asked == [115.5], "and is asked for again, in moderation"
    assert said(JobState.RUNNING, 116.5) == []
    assert not excuses(120.1), "it is said to run, and does not renew its lease"
    assert len(said(JobState.SUSPENDED, 121.0)) == 1
    assert jobs.jobs == {"7"}
    assert excuses(1000.0)
    assert said(JobState.SUSPENDED, 1000.0) == []
    assert said(JobState.RUNNING, 1001.0) == ["Slurm's job 7 goes on after it was suspended"]
    assert excuses(1005.0), "it has a moment to renew its lease"
    assert not excuses(1031.0)
    # one that Slurm let go on while it could not be asked has that moment, too
    assert not excuses(1031.5), "which is over for this one"
    said(JobState.SUSPENDED, 1032.0)
    said(JobState.RUNNING, 1200.0)
    assert excuses(1201.0)
    assert not excuses(1231.0)
    # a job that is over is none that goes on
    said(JobState.SUSPENDED, 1040.0)
    assert said(JobState.CANCELLED, 1041.0) == []
