"""What was asked of the GPU slots of late in vain: a search asks for several jobs in one turn.

Owns: for how long a refusal counts, which GPU is kept for a job that is to be alone.
Must not know: NVML, leases, when a GPU is free.
"""

from collections.abc import Callable, Sequence

from hyperband.launch.base import NO_WISH, Wish
from hyperband.launch.gpu.place import Place

#: refusals this close together belong to one turn of the search
_SAME_TURN_S = 0.2


class Refusals:
    """The wishes that were refused in this turn, and what follows from them."""

    def __init__(self, places: Sequence[Place], clock: Callable[[], float]) -> None:
        """Nothing was refused yet. `clock`: monotonic seconds."""
        self._places = places
        self._clock = clock
        self._at_s: dict[Wish, float] = {}
        #: the last wish of a job that may have company
        self.usual = NO_WISH
        #: by the wish of a job that is to be alone and waits: nothing joins the jobs there until their end
        self._drained: dict[Wish, Place] = {}

    def begin(self, wish: Wish) -> None:
        """Something is asked for."""
        now_s = self._clock()
        self._at_s = {other: at_s for other, at_s in self._at_s.items() if now_s - at_s < _SAME_TURN_S}
        if not wish.whole:
            self.usual = wish
        self._drained = {other: place for other, place in self._drained.items() if other in self._at_s}

    def granted(self, wish: Wish) -> None:
        """It was given."""
        self._at_s.pop(wish, None)
        self._drained.pop(wish, None)

    def refused(self, wish: Wish) -> None:
        """It was not."""
        self._at_s[wish] = self._clock()
        self._drained.pop(wish, None)
        if wish.whole and (place := self._to_drain(wish)) is not None:
            self._drained[wish] = place

    @property
    def drained(self) -> list[Place]:
        """The GPUs that are kept from further jobs of ours, each for one that is to be alone.

        Jobs with different wishes may need different GPUs: one of them must not open what another waits for.
        """
        return list(self._drained.values())

    def wishes(self) -> list[Wish]:
        """What was refused in this turn."""
        return list(self._at_s) or [self.usual]

    def _to_drain(self, wish: Wish) -> Place | None:
        """The GPU that is kept from further jobs of ours until one that is to be alone can have it.

        Without that, short jobs that come and go would keep it waiting to the end of the search.
        """
        possible = [
            place
            for place in self._places
            if place.used
            and place.n_shares > 1
            and not place.is_shunned(wish.avoid)
            and not any(other.whole for other in place.jobs.wishes.values())
        ]
        most_bytes = max((place.total_bytes for place in possible), default=0)
        if wish.most_memory:
            possible = [place for place in possible if place.total_bytes == most_bytes]
        # one GPU for all that are to be alone, where they agree
        agreed = [place for place in possible if place in self._drained.values()]
        return min(agreed or possible, key=lambda place: len(place.used), default=None)
