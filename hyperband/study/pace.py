"""How fast the search goes: measured seconds per epoch, for the estimate of the time left."""

from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome


class Pace:
    """Counts the epochs and seconds of jobs that gave a loss."""

    def __init__(self) -> None:
        """Nothing has been measured yet."""
        self._seconds = 0.0
        self._epochs = 0

    def see(self, event: JobEnded, n_epochs: int) -> None:
        """Count one job; n_epochs is what it trained if it went on from its checkpoint."""
        if event.outcome is Outcome.LOSS:
            self._seconds += max(0.0, event.ended_at - event.started_at)
            self._epochs += n_epochs

    def expected_s(self, n_epochs: int) -> float | None:
        """Return how long a job takes that trains so many; None before the first loss."""
        return None if self._epochs == 0 else n_epochs * self._seconds / self._epochs

    def time_left_s(self, epochs_left: int, n_slots: int) -> float | None:
        """Return the estimate for the rest with all slots busy; None before the first loss."""
        if self._epochs == 0:
            return None
        return epochs_left * self._seconds / self._epochs / max(1, n_slots)
