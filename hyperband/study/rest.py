"""What a search that is gone left running: jobs of this machine and of others, by their folders alone.

What is of Slurm or Ray is imported only for a study that has something there: no other search waits for that.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperband.errors import MachineError
from hyperband.folder import JOBS_FOLDER, KEEPERS_FILE, RAY_FOLDER, SLURM_FOLDER, job_folder
from hyperband.launch.base import Ending, Launcher, Lease, Slot, StopReason
from hyperband.launch.local import LocalLauncher
from hyperband.launch.remote.carrier import Carrier, Room
from hyperband.launch.remote.files import Ordered
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.machine.claim import ORDER_FILE
from hyperband.machine.keeper import RESULT_FILE
from hyperband.machine.limits import allow_one_more
from hyperband.machine.process import wait_for_end
from hyperband.report.text import counted
from hyperband.search.events import JobStarted
from hyperband.settings import On

#: files that a job of an earlier search takes here: its end, and that of what carries it
N_FILES_EACH = 2
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


class _RestLauncher(RemoteLauncher):
    """Knows the jobs of every engine of other machines but one, if one is said. Starts none."""

    def __init__(self, folder: Path, but: str) -> None:
        """Of a study's folder; but: see RemoteLauncher.engine."""
        super().__init__(_NoCarriers(), cwd=folder, grace_s=0.0)
        self._but = "" if but == LocalLauncher.engine else but

    def knows(self, folder: Path) -> bool:
        """Return whether an attempt was ordered by another engine than that, or not at all."""
        if not self._but or not (folder / ORDER_FILE).exists():
            return super().knows(folder)
        ordered = Ordered.read(folder)
        return ordered is not None and ordered.engine not in (self._but, "")


def launchers_of_rest(folder: Path, lock: int, *, but: str = "") -> tuple[LocalLauncher, RemoteLauncher]:
    """Return launchers that end jobs, and start none; to be closed.

    Args:
        folder: of the study.
        lock: descriptor of its lock: nobody may start a search meanwhile.
        but: an engine of other machines whose jobs are somebody else's to know.
    """
    local = LocalLauncher(cwd=folder, lock=lock, errors=folder / KEEPERS_FILE, grace_s=0.0)
    return local, _RestLauncher(folder, but)


def refuse_living_elsewhere(running: Iterable[JobStarted], folder: Path, lock: int, *, engine: str) -> None:
    """Refuse to go on with a study while jobs live that another engine than this one would have to know.

    A job that was ordered there and that nobody has begun never begins.

    Args:
        running: what runs, as far as the journal knows.
        folder: of the study.
        lock: descriptor of its lock.
        engine: what starts the jobs of this search, see RemoteLauncher.engine.

    Raises:
        MachineError: such a job lives, or may.
    """
    with contextlib.ExitStack() as stack:
        local, remote = launchers_of_rest(folder, lock, but=engine)
        stack.callback(local.close)
        stack.callback(remote.close)
        for started in running:
            path = job_folder(folder, started.job, started.attempt)
            if not path.exists() or (local.knows(path) and engine == local.engine):
                continue
            launcher: Launcher[Any] | None = next((one for one in (local, remote) if one.knows(path)), None)
            if launcher is None or launcher.adopt(path, Lease(Slot(started.slot, (), {}), ())) is None:
                continue
            ordered = Ordered.read(path)
            was = local.engine if ordered is None else ordered.engine
            raise MachineError(
                f"job {started.job} still runs on {started.slot}, where the search was started with another "
                f"--on ({was}, and now it is {engine}); start the same command with --on {was} again, which "
                f"goes on with the job, or end the job first: hyperband stop {folder}"
            )


@dataclass(frozen=True, slots=True)
class Rest:
    """What became of jobs that a search which is gone left running, as far as it knew."""

    #: so many were ended
    n_ended: int
    #: so many had ended by themselves on nodes that share no files with us, and were fetched
    n_fetched: int
    #: what of a cluster was ended with them, counted
    held: tuple[str, ...] = ()


def end_living_jobs(
    folder: Path, lock: int, *, gives_up: bool = False, say: Callable[[str], None] = lambda _: None
) -> Rest:
    """End the jobs of a study that nobody searches on, and wait for them; return how many there were.

    Args:
        folder: of the study.
        lock: descriptor of its lock: nobody may start a search meanwhile.
        gives_up: what jobs left on other machines is lost where it cannot be fetched.
        say: told what is waited for.

    Raises:
        MachineError: a job was started on another machine, where it may live still; or what it left is there,
            and cannot be fetched.
    """
    lease = Lease(Slot("stop", (), {}), ())
    with contextlib.ExitStack() as stack:
        jobs: list[tuple[Launcher[Any], Any]] = []
        launchers: list[Launcher[Any]] = [*launchers_of_rest(folder, lock)]
        for launcher in launchers:
            stack.callback(launcher.close)
        for path in sorted((folder / JOBS_FOLDER).glob("*-*")):
            if (path / RESULT_FILE).exists():
                continue
            allow_one_more(len(jobs), N_FILES_EACH, "all jobs that run")
            launcher = next(launcher for launcher in launchers if launcher.knows(path))
            if (job := launcher.adopt(path, lease)) is not None:
                jobs.append((launcher, job))
        for launcher, job in jobs:
            launcher.stop(job, StopReason.STOP)
        is_sent, held = _shares_no_files(folder), list[str]()
        if is_sent:
            remote = [(launcher, job) for launcher, job in jobs if isinstance(launcher, RemoteLauncher)]
            held = _end_sent(remote, folder, gives_up=gives_up, say=say)
        n_fetched = 0
        for launcher, job in jobs:
            wait_for_end(job.fileno())
            while (ending := launcher.finish(job)) is None:  # told of a moment before it is over
                wait_for_end(job.fileno())
            has_ended = ending.exit_status is not None and ending.asked is None
            n_fetched += is_sent and has_ended
    return Rest(len(jobs) - n_fetched, n_fetched, tuple(held))


def _shares_no_files(folder: Path) -> bool:
    """Return whether jobs of a study may run on nodes that share no files with us."""
    if not (folder / RAY_FOLDER).exists():
        return False
    from hyperband.launch.ray.end import shares_no_files

    return shares_no_files(folder)


def _end_sent(
    jobs: list[tuple[RemoteLauncher, Any]], folder: Path, *, gives_up: bool, say: Callable[[str], None]
) -> list[str]:
    """End jobs on nodes that share no files with us, where only slots hear anything; these go, too.

    Return what was held, counted.

    Raises:
        UnfetchedError: what they left is there, and cannot be fetched.
    """
    from hyperband.launch.ray.end import UnfetchedError

    try:
        held = _end_on_ray(folder, gives_up=gives_up, say=say)
    except UnfetchedError:
        raise  # nothing is lost yet
    except MachineError:
        return []  # whoever asks for the slots later is told; jobs that nothing is heard of are given up
    for launcher, job in jobs:
        launcher.give_up(job, "ended with its slot", is_proven=True)
    return held


def end_held(
    folder: Path,
    *,
    but: On | None = None,
    gives_up: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """End what a search that is gone still holds of clusters; return what that was, counted.

    Args:
        folder: of the study.
        but: what is held there is still wanted.
        gives_up: a Ray cluster that does not answer is gone for good; then nothing is held there.
        say: told of that.

    Raises:
        MachineError: a cluster does not answer, or does not end it.
    """
    held = [] if but is On.SLURM else _end_on_slurm(folder)
    if but is On.RAY:
        return held
    try:
        return held + _end_on_ray(folder)
    except MachineError as err:
        if not gives_up:
            raise
        from hyperband.launch.ray.files import forget

        forget(folder)
        say(f"Given up: {err}")
        return held


def _end_on_slurm(folder: Path) -> list[str]:
    if not (folder / SLURM_FOLDER).exists():
        return []
    from hyperband.launch.slurm.end import end_allocations, what_is_held

    what, n_held = what_is_held(folder), end_allocations(folder)
    return [counted(n_held, what)] if n_held else []


def _end_on_ray(
    folder: Path, *, gives_up: bool = False, say: Callable[[str], None] = lambda _: None
) -> list[str]:
    if not (folder / RAY_FOLDER).exists():
        return []
    from hyperband.launch.ray.end import end_slots, has_own_ray

    was_ours = has_own_ray(folder)
    n_slots = end_slots(folder, gives_up=gives_up, say=say)
    held = [counted(n_slots, "slot")] if n_slots else []
    return [*held, "the Ray of this machine"] if was_ours else held


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
