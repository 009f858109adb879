"""What a search has still to say, in order: who waits for a slot comes before who waits for words.

Owns the order of what is said of one turn. Must not know: when there is time for it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hyperband.launch.base import Order
from hyperband.report.completions import Completed
from hyperband.search.decisions import Decision
from hyperband.search.events import (
    CheckpointsRemoved,
    Event,
    IdProposed,
    JobEnded,
    JobStarted,
    SlotQuarantined,
    SlotReleased,
)
from hyperband.search.trial import Progress
from hyperband.study.starting import Chosen
from hyperband.study.voice import Voice

#: words may wait for jobs, but not for ever
_MOST = 200


class Unsaid:
    """Words that wait. One owner: the search's loop."""

    def __init__(self, voice: Voice) -> None:
        """Nothing is to be said; voice: says it."""
        self._voice = voice
        self._words: list[Callable[[], None]] = []
        #: about slots, of this turn
        self._of_slots: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """Return how much is to be said."""
        return len(self._words)

    @property
    def are_many(self) -> bool:
        """Whether it must be said now, whoever else waits."""
        return len(self._words) > _MOST

    def add_removed(self, removed: CheckpointsRemoved) -> None:
        """Have it said whose checkpoints are deleted."""
        self._words.append(partial(self._voice.removed, removed))

    def add_slot(self, change: SlotQuarantined | SlotReleased) -> None:
        """Have it said, after the ends that it follows from, that a slot is not used now, or again."""
        self._of_slots.append(partial(self._voice.slot, change))

    def add_held(self, places: Iterable[str]) -> None:
        """Have it said, after the ends that it follows from, that places get no job for now."""
        self._of_slots += [partial(self._voice.holds, place) for place in places]

    def add_turn(
        self,
        *,
        ended: Iterable[tuple[JobStarted, JobEnded, Progress]],
        complete: Iterable[Completed],
        decisions: Sequence[Decision],
        events: Iterable[Event],
        orders: Iterable[tuple[Chosen, Order]],
        lines: Iterable[str],
    ) -> None:
        """Have it said what happened in one turn.

        Args:
            ended: attempts, each with how far the search was then.
            complete: rungs for which nobody waits; those that a decision tells of are left out.
            decisions: of the engine.
            events: that were journalled.
            orders: what was started.
            lines: whatever else is worth it.
        """
        self._words += [partial(self._voice.ended, *one) for one in ended]
        self._words += self._of_slots
        self._of_slots.clear()
        untold = [one for one in complete if not one.is_told_by(decisions)]
        self._words += [partial(self._voice.complete, one.bracket, one.words) for one in untold]
        self._words += [partial(self._voice.decided, decision) for decision in decisions]
        proposed = [event for event in events if isinstance(event, IdProposed)]
        self._words += [partial(self._voice.proposed, event) for event in proposed]
        self._words += [
            partial(self._voice.started, new.start, new.lease.slot.name, order) for new, order in orders
        ]
        self._words += [partial(self._voice.says, line) for line in lines]

    def say(self) -> None:
        """Say all of it."""
        words, self._words = self._words, []
        for one in words:
            one()
