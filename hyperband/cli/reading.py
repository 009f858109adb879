"""Reading a study for the commands that show one: its journal, who writes it, and what that one says now."""

from pathlib import Path
from typing import TYPE_CHECKING

from hyperband.cli.output import complain
from hyperband.errors import JournalError
from hyperband.folder import has_study
from hyperband.journal import read_study, writer_of
from hyperband.report.now import Now
from hyperband.report.text import moment
from hyperband.report.view import StudyView, study_view
from hyperband.study.submitted import submitted_job

if TYPE_CHECKING:
    from hyperband.launch.slurm.search import SearchJob


def read_view(folder: Path) -> StudyView:
    """Read a study, which may be being written at this moment.

    Raises:
        JournalError: there is none, it has not begun, or it cannot be read.
    """
    if not has_study(folder) and (job := _submitted(folder)) is not None:
        raise JournalError(
            f"the search of {folder} was submitted as Slurm's job {job.job_id} and has not begun: "
            f"`squeue --jobs={job.job_id}` says why"
        )
    # Asked before the events are read: a search that ends in between has told its events how it ended.
    running = writer_of(folder) is not None
    found = read_study(folder, say=complain)
    now = Now.read(folder)
    return study_view(found.events, folder=folder, running=running, beginnings=found.beginnings, now=now)


def is_submitted(folder: Path) -> bool:
    """Whether a search was submitted that has not written anything yet."""
    return not has_study(folder) and _submitted(folder) is not None


def words_on_submitted(folder: Path) -> str:
    """Return a line on a search that may wait in Slurm's queue to go on with a study; empty: none does."""
    job = _submitted(folder)
    if job is None:
        return ""
    return (
        f"last submitted as Slurm's job {job.job_id} on {moment(job.submitted_at)}: "
        f"`squeue --jobs={job.job_id}` says whether it waits"
    )


def _submitted(folder: Path) -> "SearchJob | None":
    try:
        return submitted_job(folder)
    except PermissionError:
        return None  # a colleague's: what Slurm runs is for its owner's eyes alone
