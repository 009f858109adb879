"""The search of a study that was submitted as a job of Slurm's: looked at and ended, and what is known of it.

Owns the words for where Slurm cannot be asked: whoever starts or stops such a study must know what is certain
without it, and what to do. How Slurm is asked is launch/slurm/search.py's, which is imported only for a study
that has something of Slurm: no other search waits for that.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hyperband.errors import HyperbandError, MachineError, StudyBusyError
from hyperband.folder import SLURM_FOLDER, has_study
from hyperband.journal import read_events, writer_of
from hyperband.search.events import SearchEnded, SearchStarted

if TYPE_CHECKING:
    from hyperband.launch.slurm.search import SearchJob
    from hyperband.launch.slurm.words import JobLine

#: an answer that takes longer is told of
_WORTH_TELLING_S = 2.0


def submitted_job(study: Path) -> "SearchJob | None":
    """Return the search that was submitted last and has not ended in order; None: there is none."""
    if not (study / SLURM_FOLDER).exists():
        return None
    from hyperband.launch.slurm.search import SearchJob

    return SearchJob.read(study)


def refuse_submitted(study: Path, say: Callable[[str], None]) -> None:
    """Refuse to start a search that waits, or runs, as another job of Slurm's.

    Args:
        study: its folder.
        say: told when Slurm takes long to answer.

    Raises:
        StudyBusyError: there is such a job.
        MachineError: Slurm does not say.
    """
    job = submitted_job(study)
    if job is None or job.job_id == os.environ.get("SLURM_JOB_ID"):
        return
    from hyperband.launch.slurm.search import look_at

    with _explained(study, job), _told(say, f"Slurm is asked about its job {job.job_id}"):
        line = look_at(job, os.environ)
    if line is None:
        job.forget(study)
    else:
        raise StudyBusyError(
            f"the search of the study in {study} is Slurm's job {job.job_id}, which {_doing(line)}; wait for "
            f"it, or end it with `hyperband stop {study}`"
        )


def end_submitted(study: Path, say: Callable[[str], None]) -> str | None:
    """End the search that was submitted, and wait for that; return its id if there was anything to end.

    Args:
        study: its folder.
        say: told when Slurm takes long to answer, or the search to end.

    Raises:
        MachineError: Slurm does not say whether there is, or the search does not end.
    """
    job = submitted_job(study)
    if job is None:
        return None
    from hyperband.launch.slurm.search import end_search, look_at

    with _explained(study, job):
        with _told(say, f"Slurm is asked about its job {job.job_id}"):
            line = look_at(job, os.environ)
        is_ended = line is not None and end_search(job, os.environ, say)
    job.forget(study)
    return job.job_id if is_ended else None


def _doing(line: "JobLine") -> str:
    """What the job of a search does, in words that follow on "which"."""
    from hyperband.launch.slurm.words import JobState

    match line.state:
        case JobState.WAITING:
            reason = f" ({line.reason})" if line.reason not in ("", "None") else ""
            return f"waits in Slurm's queue{reason}"
        case JobState.RUNNING:
            return "runs"
        case JobState.SUSPENDED:
            return "Slurm has suspended"
        case JobState.ENDING:
            return "is just ending"
        case _:
            return f"is not over (Slurm calls it {line.said})"


@contextlib.contextmanager
def _told(say: Callable[[str], None], words: str) -> Iterator[None]:
    """Say these words if what is done here takes long; nothing else is said meanwhile."""
    from hyperband.launch.slurm.search import COMMAND_S

    timer = threading.Timer(_WORTH_TELLING_S, lambda: say(f"{words}; for at most {COMMAND_S:g} s."))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.contextmanager
def _explained(study: Path, job: "SearchJob") -> Iterator[None]:
    """Add to an error of Slurm's what is known without it, and the way on."""
    from hyperband.launch.slurm.search import about_file

    try:
        yield
    except MachineError as err:
        raise MachineError(
            f"the search of the study in {study} was last submitted as Slurm's job {job.job_id}, on "
            f"{_time(job.submitted_at)}: {err}. {_known(study)} Give the command where Slurm answers, on a "
            "login node of the cluster; or, if that job is known to be over, or that is lost for good, "
            f"remove {about_file(study)} and give it again here"
        ) from err


def _known(study: Path) -> str:
    """What the study's folder says of its search, in sentences."""
    try:
        writer = writer_of(study)
        if writer is not None:
            return f"It runs: {writer.describe()} writes its journal."
        if not has_study(study):
            return "It has not written anything yet."
        events = read_events(study)
    except HyperbandError as err:
        return f"Its journal cannot be read ({err})."
    last = next((event for event in reversed(events) if isinstance(event, SearchEnded | SearchStarted)), None)
    if isinstance(last, SearchEnded):
        how = f"ended ({last.state}: {last.reason}) at {_time(last.at)}"
        return f"Its journal says that it {how}; Slurm may have started it again since."
    return "Nobody writes its journal, which does not say that it has ended."


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
