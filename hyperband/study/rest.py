"""What a search that is gone left running: jobs of this machine and of others, by their folders alone."""

import contextlib
from pathlib import Path
from typing import Any

from hyperband.folder import JOBS_FOLDER, KEEPERS_FILE
from hyperband.launch.base import Ending, Launcher, Lease, Slot, StopReason
from hyperband.launch.carrier import Carrier, Room
from hyperband.launch.local import LocalLauncher
from hyperband.launch.ray_end import end_slots
from hyperband.launch.remote import RemoteLauncher
from hyperband.launch.slurm_end import end_allocations
from hyperband.machine.keeper import RESULT_FILE
from hyperband.machine.process import wait_for_end
from hyperband.report.text import counted

#: jobs that are already there are not started
_NOTHING_STARTS = "a job was to be started by what only ends jobs"


class _NoCarriers:
    """Carriers of a launcher that starts nothing."""

    def room(self, lease: Lease) -> Room:  # noqa: ARG002
        """Never: nothing starts."""
        raise AssertionError(_NOTHING_STARTS)

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:  # noqa: ARG002
        """Never: nothing starts."""
        raise AssertionError(_NOTHING_STARTS)

    def is_coming(self, label: str) -> bool:  # noqa: ARG002
        """Return False: what has not begun is claimed, and so never will."""
        return False

    def let_go(self, carrier: Carrier) -> None:
        """Do nothing: steps end with their jobs."""

    def close(self) -> None:
        """Do nothing: there is nothing."""


def launchers_of_rest(folder: Path, lock: int) -> tuple[LocalLauncher, RemoteLauncher]:
    """Return launchers that end jobs, and start none; to be closed.

    Args:
        folder: of the study.
        lock: descriptor of its lock: nobody may start a search meanwhile.
    """
    local = LocalLauncher(cwd=folder, lock=lock, errors=folder / KEEPERS_FILE, grace_s=0.0)
    return local, RemoteLauncher(_NoCarriers(), cwd=folder, grace_s=0.0)


def end_living_jobs(folder: Path, lock: int) -> int:
    """End the jobs of a study that nobody searches on, and wait for them; return how many there were.

    Args:
        folder: of the study.
        lock: descriptor of its lock: nobody may start a search meanwhile.

    Raises:
        MachineError: a job was started on another machine, where it may live still.
    """
    lease = Lease(Slot("stop", (), {}), ())
    with contextlib.ExitStack() as stack:
        jobs: list[tuple[Launcher[Any], Any]] = []
        launchers: list[Launcher[Any]] = [*launchers_of_rest(folder, lock)]
        for launcher in launchers:
            stack.callback(launcher.close)
        for path in sorted((folder / JOBS_FOLDER).glob("*-*")):
            launcher = next(launcher for launcher in launchers if launcher.knows(path))
            if not (path / RESULT_FILE).exists() and (job := launcher.adopt(path, lease)) is not None:
                jobs.append((launcher, job))
        for launcher, job in jobs:
            launcher.stop(job, StopReason.STOP)
        for launcher, job in jobs:
            wait_for_end(job.fileno())
            launcher.finish(job)
    return len(jobs)


def end_held(folder: Path) -> list[str]:
    """End what a search that is gone still holds of clusters; return what that was, counted.

    Raises:
        MachineError: a cluster does not answer, or does not end it.
    """
    found = {"allocation": end_allocations(folder), "slot": end_slots(folder)}
    return [counted(n, what) for what, n in found.items() if n]


def read_ended(attempt: Path, folder: Path, lock: int) -> Ending:
    """Return how an attempt ended that no longer lives, wherever it ran.

    Args:
        attempt: its folder.
        folder: of the study.
        lock: descriptor of its lock.

    Raises:
        MachineError: it may live still.
    """
    with contextlib.ExitStack() as stack:
        launchers: list[Launcher[Any]] = [*launchers_of_rest(folder, lock)]
        for launcher in launchers:
            stack.callback(launcher.close)
        return next(launcher for launcher in launchers if launcher.knows(attempt)).read(attempt)
