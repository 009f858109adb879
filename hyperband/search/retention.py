"""Which trials may lose their checkpoints: those that no job of the search will ever want again.

Owns that rule, and keeps count of whom it has let go. Knows no file.
"""

from collections.abc import Iterable

from hyperband.search.decisions import Decision, Dropped, Finished
from hyperband.search.state import SearchState
from hyperband.search.trial import TrialState

_UNDER_WAY = (TrialState.QUEUED, TrialState.RUNNING, TrialState.WAITING)


def needs_checkpoint(state: SearchState, trial: int, *, keep_done: bool) -> bool:
    """Whether a trial keeps its checkpoint.

    Those that still can be promoted or repeated do, and the best so far; a trial that is over cannot become
    the best later, since it gets no further loss.

    Args:
        state: of the search.
        trial: one that has a config id.
        keep_done: those that finished the last rung of their bracket keep theirs as well.
    """
    best = state.best()
    if best is not None and best.trial == trial:
        return True
    found = state.trial(trial).state
    return found in _UNDER_WAY or (keep_done and found is TrialState.DONE)


class Retention:
    """Says of each trial once that it may lose its checkpoint."""

    def __init__(self, *, keep_done: bool) -> None:
        """Nobody may yet; see `needs_checkpoint`."""
        self._keep_done = keep_done
        self._best: int | None = None

    def all_over(self, state: SearchState) -> list[int]:
        """Return every trial that may lose its checkpoint: a look at all of them, for a start."""
        self._best = _best(state)
        return [view.number for view in state.trials() if not self.needs(state, view.number)]

    def over(self, state: SearchState, ended: Iterable[int], decisions: Iterable[Decision]) -> list[int]:
        """Return the trials that may since the last call.

        Args:
            state: of the search, after the events.
            ended: the trials of the attempts that ended since then.
            decisions: what the engine decided since then.
        """
        candidates = dict.fromkeys(ended)
        for decision in decisions:
            if isinstance(decision, Dropped | Finished):
                candidates.update(dict.fromkeys(decision.trials))
        best = _best(state)
        if self._best is not None and self._best != best:
            candidates[self._best] = None  # it was kept as the best alone, perhaps
        self._best = best
        return [trial for trial in candidates if not self.needs(state, trial)]

    def needs(self, state: SearchState, trial: int) -> bool:
        """Whether a trial keeps its checkpoint."""
        return needs_checkpoint(state, trial, keep_done=self._keep_done)


def _best(state: SearchState) -> int | None:
    best = state.best()
    return None if best is None else best.trial
