"""How fast the search goes: seconds per epoch, for the estimate of the time left and of what still fits.

It is a fold over the study's events: a search that was started again knows what the one before measured.
"""

from collections.abc import Iterable

from hyperband.report.again import started_over
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted
from hyperband.search.trial import Outcome, Start


def epochs_before(engine: Engine, started: JobStarted | Start) -> int:
    """Return the epochs of the trial's rung before, from whose checkpoint it goes on."""
    if started.rung == 0:
        return 0
    bracket = engine.trial(started.trial).bracket
    return engine.plan.brackets[bracket].rungs[started.rung - 1].epochs


class Pace:
    """Counts the epochs and seconds of jobs that gave a loss."""

    def __init__(self, engine: Engine, events: Iterable[Event] = ()) -> None:
        """Begin with what was measured before.

        Args:
            engine: all these events were fed; is only read.
            events: of the study so far.
        """
        self._engine = engine
        self._seconds = 0.0
        self._epochs = 0
        starts: dict[int, JobStarted] = {}
        for event in events:
            if isinstance(event, JobStarted):
                starts[event.job] = event
            elif isinstance(event, JobEnded):
                self.see(starts[event.job], event)

    def see(self, started: JobStarted, event: JobEnded) -> None:
        """Count one job, with what it trained: the epochs beyond its checkpoint, unless it began anew."""
        if event.outcome is Outcome.LOSS:
            before = 0 if started_over(event.note) else epochs_before(self._engine, started)
            self._seconds += max(0.0, event.ended_at - event.started_at)
            self._epochs += started.epochs - before

    def expected_s(self, n_epochs: int) -> float | None:
        """Return how long a job takes that trains so many; None before the first loss."""
        return None if self._epochs == 0 else n_epochs * self._seconds / self._epochs

    def time_left_s(self, epochs_left: int, n_slots: int) -> float | None:
        """Return the estimate for the rest with all slots busy; None before the first loss."""
        if self._epochs == 0:
            return None
        return epochs_left * self._seconds / self._epochs / max(1, n_slots)
