"""Attempts in Slurm jobs of their own, from one search to the next; on a stub of Slurm."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_fixture import until
from study_fixture import play, settings, small_plan

from hyperband.journal import Beginnings
from hyperband.launch.base import NO_WISH, Lease, Order, Slot
from hyperband.launch.remote.files import Ordered
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.shipping import ship
from hyperband.launch.slurm.clerk import Pace
from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.launcher import TrialJobLauncher
from hyperband.launch.slurm.jobs.slots import TrialJobSlots
from hyperband.launch.slurm.profile import Profile
from hyperband.machine.claim import BY_NODE, claim
from hyperband.report.log import StudyLog
from hyperband.search.engine import Engine
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome
from hyperband.study.attempts import Attempts
from hyperband.study.rest import launchers_of_rest
from hyperband.study.wake import Wake

#: Slurm takes every job, lists it as what the file `state` says, and cancels it when it is told to
STUB = {
    "sbatch": 'for word; do case $word in --comment=*) echo "${word#*=}" > comment;; esac; done; echo 7',
    "squeue": '[ -e comment ] && echo "7|$(cat name)|$(cat state)|None||N/A|1:00:00|$(cat comment)" || true',
    "scancel": "echo CANCELLED > state",
    "scontrol": "echo 'SLURM_VERSION = 23.11'",
}


def attempt_of(folder: Path) -> str:
    """The name of what was ordered in a folder."""
    ordered = Ordered.read(folder)
    assert ordered is not None
    return ordered.attempt


class Start:
    """One start of a search: its slots and its launcher."""

    def __init__(self, folder: Path) -> None:
        environ = {**os.environ, "PATH": f"{folder / 'tools'}:/usr/bin:/bin"}
        profile = Profile(max_allocations=2)
        (folder / "study").mkdir(exist_ok=True)
        files = TrialJobFiles(folder / "study", profile, folder)
        (folder / "name").write_text(files.name)
        self.slots = TrialJobSlots(profile, max_slots=None)
        self.slots.open(files, environ, Pace(soonest_s=0.02, latest_s=0.1))
        self.launcher = TrialJobLauncher(self.slots, cwd=folder, grace_s=1.0)

    def heed(self) -> None:
        self.slots.heed()
        self.launcher.heed()

    def until(self, path: Path, words: str) -> None:
        """Heed what Slurm says until a file says this."""

        self.until_heeded(lambda: words in path.read_text(), f"{path.name} to say {words}")

    def until_heeded(self, is_so: Callable[[], bool], what: str) -> None:
        """Heed what Slurm says until something is so."""

        def heeds() -> bool:
            self.heed()
            return is_so()

        until(heeds, what)

    def lease(self) -> Lease:
        found: list[Lease] = []

        def take() -> bool:
            self.heed()
            if not found and (lease := self.slots.take(NO_WISH)) is not None:
                found.append(lease)
            return bool(found)

        until(take, "a slot")
        return found[0]

    def close(self) -> None:
        self.launcher.close()
        self.slots.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    for name, words in STUB.items():
        path = tmp_path / "tools" / name
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{words}\n")
        path.chmod(0o755)
    (tmp_path / "state").write_text("PENDING")
    return tmp_path


def test_what_a_start_kept_from_beginning_is_tried_again_and_nobody_cancelled_it(folder: Path) -> None:
    """A start with another --on claims what waits and gives its job back; it is killed before it tells."""
    first = Start(folder)
    attempt = folder / "000003-0"
    attempt.mkdir()
    first.launcher.start(Order(attempt, ("/bin/true",), {}), first.lease())
    first.until(attempt / "carrier.json", '"label": "7"')
    first.close()
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    for other in launchers_of_rest(folder / "study", lock, but="local"):
        assert not other.knows(attempt) or other.adopt(attempt, Lease(Slot("slurm/0", (), {}), ())) is None
        other.close()
    os.close(lock)
    (folder / "state").write_text("CANCELLED")
    second = Start(folder)
    try:
        adopted = second.launcher.adopt(attempt, second.slots.adopt("slurm/0"))
        assert adopted is None, "only Slurm's word would be heard of it, which is that it was cancelled"
        ending = second.launcher.read(attempt)
        assert (ending.asked, ending.never_ran, ending.was_cancelled) == (None, True, False)
    finally:
        second.close()


def test_an_attempt_that_begins_and_is_lost_between_two_looks_of_one_turn_has_run(folder: Path) -> None:
    engine = Engine()
    for event in play(small_plan(), settings(folder), n_ends=0):
        engine.handle(event)
    (started,) = engine.running()
    path = folder / "000000-0"
    path.mkdir()
    order = Order(path, ("/bin/true",), {})
    first = Start(folder)
    log, wake = StudyLog(folder / "log"), Wake()
    files: Any = SimpleNamespace(order=lambda *_: order, make_folder=lambda _: None)
    attempts = Attempts(
        folder=folder,
        engine=engine,
        launcher=first.launcher,
        others=(),
        slots=first.slots,
        files=files,
        log=log,
        wake=wake,
        beginnings=Beginnings(),
        is_timed=False,
    )
    ended: list[JobEnded] = []
    with wake, contextlib.closing(log), contextlib.closing(first):
        attempts.start(files, first.lease(), started)
        (attempt,) = attempts
        first.until(path / "carrier.json", '"label": "7"')
        assert attempts.began() == [], "the turn begins"
        claim(str(path), {"token": "t", "by": BY_NODE, "host": "n1", "attempt": attempt_of(path)})
        assert isinstance(attempt.job, RemoteJob)
        first.launcher.give_up(attempt.job, "its node is gone", is_proven=True)
        # what Slurm says of it is waited for
        (folder / "state").write_text("NODE_FAIL")

        def is_over() -> bool:
            first.heed()
            ended.extend(event for _, event in attempts.ended(wake.peek()))
            return bool(ended)

        until(is_over, "its end")
    assert ended[0].outcome is Outcome.LOST
    assert ended[0].started_at < ended[0].ended_at, "it had begun, and no turn saw that alone"


def test_the_job_of_an_attempt_that_ran_between_two_looks_ends_by_itself(folder: Path) -> None:
    path = folder / "000003-0"
    path.mkdir()
    first = Start(folder)
    with contextlib.closing(first):
        job = first.launcher.start(Order(path, ("/bin/true",), {}), first.lease())
        first.until(path / "carrier.json", '"label": "7"')
        node = [sys.executable, "-I", "-S", str(ship(folder / "study")), str(path), attempt_of(path)]
        subprocess.run(node, check=True, stdin=subprocess.DEVNULL)
        until(lambda: job.is_over, "its end to be seen")
        ending = first.launcher.finish(job)
        assert ending is not None
        assert ending.exit_status == 0
        assert not [words for words in first.slots.news() if "cancelled" in words]


def test_a_job_of_slurms_that_fails_before_a_node_has_its_attempt_is_over_at_once(folder: Path) -> None:
    path = folder / "000003-0"
    path.mkdir()
    first = Start(folder)
    with contextlib.closing(first):
        job = first.launcher.start(Order(path, ("/bin/true",), {}), first.lease())
        first.until(path / "carrier.json", '"label": "7"')
        (folder / "state").write_text("FAILED")
        first.until_heeded(lambda: job.is_over, "its end")
        ending = first.launcher.finish(job)
        assert ending is not None, "no word is waited for"
        assert ending.never_ran, "nobody can begin it any more"
        assert ending.note == "its Slurm job 7 is over: failed", "no lease ran out"
        assert "failed" in first.slots.why_none(), "and there is a pause"
