"""Ending what a search that is gone still holds of Slurm: its allocations, or its jobs, by id."""

import contextlib
import os
import time
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.slurm.clerk import Clerk
from hyperband.launch.slurm.files import forget_name, mode_of, read_name, say_unwanted
from hyperband.launch.slurm.reports import CancelRefused, Status, Unreachable
from hyperband.launch.slurm.words import JobState
from hyperband.machine.process import wait_for_end

#: patience with allocations that end, and with a Slurm that does not answer
_END_S, _UNREACHABLE_S = 90.0, 20.0


def what_is_held(study: Path) -> str:
    """Return what a search of this study that is gone may hold of Slurm, in words, one of them."""
    name = read_name(study)
    return "Slurm job" if name is not None and mode_of(name) == "jobs" else "allocation"


def end_other_mode(study: Path, mode: str) -> list[str]:
    """End what a search with the other `--slurm-mode` holds, none of whose attempts lives; say what it was.

    Raises:
        MachineError: Slurm does not answer, or does not end it.
    """
    name = read_name(study)
    if name is None or mode_of(name) == mode:
        return []
    what = what_is_held(study)
    n = end_allocations(study)
    held = f"{n} {what}{'' if n == 1 else 's'}"
    return [f"Given back what an earlier start with another --slurm-mode held: {held}."] if n else []


def end_allocations(study: Path) -> int:
    """Cancel the allocations of a study, or its jobs, and see their end begin; return how many there were.

    Raises:
        MachineError: Slurm does not answer, or does not end them.
    """
    name = read_name(study)
    if name is None:
        return 0
    with contextlib.suppress(OSError):  # they end nevertheless, by themselves after a while
        # of a request whose answer nobody waited for an allocation may come later
        say_unwanted(study)
    with contextlib.closing(Clerk(name, os.environ)) as clerk:
        cancelled = _end(clerk, name)
    forget_name(study)
    return len(cancelled)


def _end(clerk: Clerk, name: str) -> set[str]:
    began_s = time.monotonic()
    cancelled: set[str] = set()
    words, patience_s = "", _END_S
    clerk.look()
    while (left_s := began_s + patience_s - time.monotonic()) > 0:
        wait_for_end(clerk.fileno(), left_s)
        for report in clerk.reports():
            if isinstance(report, Status):
                words, patience_s = "", _END_S
                at_end = {line.job_id for line in report.jobs if line.state is JobState.ENDING}
                alive = {line.job_id for line in report.jobs if not line.state.is_over} - at_end
                if not alive:
                    return cancelled
                clerk.cancel(sorted(alive - cancelled))
                cancelled |= alive
            elif isinstance(report, Unreachable):
                words, patience_s = report.words, _UNREACHABLE_S
            elif isinstance(report, CancelRefused):
                words = report.words
    raise MachineError(
        f"Slurm did not end the jobs of this study within {patience_s:g} s{words and f' ({words})'}; "
        f"`scancel --name={name}` ends them, and by themselves they end when it answers again. Start the "
        "same command again then"
    )
