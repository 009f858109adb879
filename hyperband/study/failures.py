"""When failures are the script's fault: a pure count of how the first jobs of this start ended.

And what is said of the last of them.
"""

from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome

#: so many first final jobs that all failed in the same way end the search
N_SAME_FAILURES = 10


def last_words(end: JobEnded, *, trial: int, error_lines: str) -> str:
    """Return the last a failed job said, or what was found of it, to be put behind a message; empty: nothing.

    Args:
        end: of the job.
        trial: number of its trial.
        error_lines: the last that it printed on standard error.
    """
    if error_lines:
        return f" The last lines of job {end.job} (trial {trial}):\n{error_lines}"
    if not end.note:
        return ""
    return f" Job {end.job} (trial {trial}) printed nothing on standard error; found was: {end.note}"


class FirstFailures:
    """Watches the first final jobs since this start."""

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self._n = 0
        self._kind: tuple[Outcome, int | None] | None = None
        self._same = True

    def see(self, event: JobEnded) -> bool:
        """Count a job; return True at the tenth, if all ten failed with one outcome and exit status."""
        if not event.outcome.is_final or event.outcome is Outcome.CANCELLED or event.retry or not self._same:
            return False
        self._n += 1
        kind = (event.outcome, event.exit_status)
        self._kind = self._kind or kind
        self._same = event.outcome.is_failure and kind == self._kind
        return self._same and self._n == N_SAME_FAILURES
