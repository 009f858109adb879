"""What was trained twice: jobs that could not go on from their trial's checkpoint, and the epochs that cost.

Owns the words by which such a job is known in the journal, and the count.
"""

from hyperband.report.text import counted
from hyperband.report.view import StudyView
from hyperband.search.trial import Outcome

#: begins what is noted of a job that did not go on from its trial's checkpoint, before a colon and the reason
STARTED_OVER = "trained from the beginning"
#: begins what a node says of a checkpoint that no job will find, before a colon and the reason
NOT_STORED = "its checkpoint could not be stored"


def started_over(note: str) -> bool:
    """Return whether the note on a job's end says that it began anew."""
    return any(part.startswith(f"{STARTED_OVER}: ") for part in note.split("; "))


def not_stored(note: str) -> bool:
    """Return whether the note on a job's end says that its checkpoint could not be stored."""
    return any(part.startswith(f"{NOT_STORED}: ") for part in note.split("; "))


def trained_twice(study: StudyView) -> tuple[int, int]:
    """Return how many jobs began anew, and how many epochs they trained again."""
    n_jobs = n_epochs = 0
    reached: dict[int, int] = {}
    for job in study.jobs:
        if started_over(job.note):
            n_jobs += 1
            n_epochs += reached.get(job.trial, 0)
        if job.outcome is Outcome.LOSS:
            reached[job.trial] = max(reached.get(job.trial, 0), job.epochs)
    return n_jobs, n_epochs


def trained_twice_text(study: StudyView) -> str:
    """Return a line on it; empty if nothing was trained twice."""
    n_jobs, n_epochs = trained_twice(study)
    if n_jobs == 0:
        return ""
    return (
        f"{counted(n_epochs, 'epoch')} trained twice: {counted(n_jobs, 'job')} could not go on from a "
        "checkpoint (the notes on their ends say why)"
    )
