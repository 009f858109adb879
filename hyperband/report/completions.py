"""When a rung that has no barrier has all of its results: nothing follows at once, but people wait for it.

Owns the count and the words. Who goes on is the engine's, and said when it does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hyperband.search.decisions import Decision, WentOn
from hyperband.search.events import Event, JobEnded, JobStarted
from hyperband.search.trial import Outcome, Plan


@dataclass(frozen=True, slots=True)
class Completed:
    """A rung that has all of its results."""

    bracket: int
    rung: int
    words: str

    def is_told_by(self, decisions: Iterable[Decision]) -> bool:
        """Whether one of these says it as well: somebody goes on from it."""
        return any(
            isinstance(one, WentOn) and (one.bracket, one.rung) == (self.bracket, self.rung + 1)
            for one in decisions
        )


class Completions:
    """Counts the final jobs of each rung, by events in order."""

    def __init__(
        self, plan: Callable[[], Plan], bracket_of: Callable[[int], int], events: Iterable[Event] = ()
    ) -> None:
        """Begin with what has happened; of that nothing is told.

        Args:
            plan: gives the one in use.
            bracket_of: gives the bracket of a trial that has started.
            events: of the study so far.
        """
        self._plan = plan
        self._bracket_of = bracket_of
        #: losses and failures, by bracket and rung
        self._n_final: dict[tuple[int, int], tuple[int, int]] = {}
        starts: dict[int, JobStarted] = {}
        for event in events:
            if isinstance(event, JobStarted):
                starts[event.job] = event
            elif isinstance(event, JobEnded):
                self.see(starts[event.job], event)

    def see(self, started: JobStarted, event: JobEnded) -> Completed | None:
        """Count one end; return the rung that is complete by that, if it is not the last one.

        Of the last one, and of one without a loss, the engine's decisions say it.
        """
        n_new = (event.outcome is Outcome.LOSS, event.outcome.is_failure and not event.retry)
        if not any(n_new):
            return None
        bracket = self._bracket_of(started.trial)
        before = self._n_final.get((bracket, started.rung), (0, 0))
        n_losses, n_failed = before[0] + n_new[0], before[1] + n_new[1]
        self._n_final[bracket, started.rung] = n_losses, n_failed
        rungs = self._plan().brackets[bracket].rungs
        if n_losses + n_failed != rungs[started.rung].n or started.rung == len(rungs) - 1 or n_losses == 0:
            return None
        count = f"{n_losses} to epoch {started.epochs}, {n_failed} failed"
        return Completed(bracket, started.rung, f"rung {started.rung} is complete ({count})")
