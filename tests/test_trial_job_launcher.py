"""Attempts in Slurm jobs of their own, from one search to the next; on a stub of Slurm."""

import os
from pathlib import Path

import pytest
from search_fixture import until

from hyperband.launch.base import NO_WISH, Lease, Order, Slot
from hyperband.launch.slurm.clerk import Pace
from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.launcher import TrialJobLauncher
from hyperband.launch.slurm.jobs.slots import TrialJobSlots
from hyperband.launch.slurm.profile import Profile
from hyperband.study.rest import launchers_of_rest

#: Slurm takes every job, lists it as what the file `state` says, and cancels it when it is told to
STUB = {
    "sbatch": 'for word; do case $word in --comment=*) echo "${word#*=}" > comment;; esac; done; echo 7',
    "squeue": '[ -e comment ] && echo "7|$(cat name)|$(cat state)|None||N/A|1:00:00|$(cat comment)" || true',
    "scancel": "echo CANCELLED > state",
    "scontrol": "echo 'SLURM_VERSION = 23.11'",
}


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

        def says() -> bool:
            self.heed()
            return words in path.read_text()

        until(says, f"{path.name} to say {words}")

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
