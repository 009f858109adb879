"""On which nodes of a Ray cluster slots may come yet: those that were asked for and are not there.

Pure: no clock, no process, no Ray. Times are seconds of one monotonic clock, given with each call. Must not
know: who has which slot, or what waits for one.
"""

from collections.abc import Mapping

#: slots that are missing are counted on for so long after the last one came, or after the first was missed
COMING_S = 30.0


class Coming:
    """Slots that were asked for and are not there. `settle` begins a turn of the search, `look` ends it."""

    def __init__(self) -> None:
        """Nothing was asked for."""
        #: slots that there is room for, by the name of a node; None: not known yet
        self._n_on: Mapping[str, int] | None = None
        #: None: not known since the nodes are
        self._n_wanted: int | None = None
        self._n_there = 0
        #: until when missing slots are counted on; None: they are not
        self._until_s: float | None = None
        #: they were for long enough
        self._is_given_up = False

    def note_joined(self, now_s: float) -> None:
        """Hear that the cluster was joined: no slot of it was met yet."""
        self._n_on, self._n_wanted, self._n_there = None, None, 0
        self._until_s, self._is_given_up = now_s + COMING_S, False

    def note_nodes(self, n_on: Mapping[str, int]) -> None:
        """Hear for how many slots there is room, by the names of the nodes that live."""
        self._n_on = n_on

    def settle(self, now_s: float) -> None:
        """Begin a turn: what was counted on for long enough is no longer."""
        if self._until_s is not None and now_s >= self._until_s:
            self._until_s, self._is_given_up = None, True

    def look(self, n_wanted: int, n_there: int, now_s: float) -> None:
        """End a turn: hear how many slots can be used, and how many are there."""
        has_come, self._n_there = n_there > self._n_there, n_there
        self._n_wanted = None if self._n_on is None else n_wanted
        if self._is_short(n_there):
            if has_come or (self._until_s is None and not self._is_given_up):
                self._until_s, self._is_given_up = now_s + COMING_S, False
        else:
            self._is_given_up = False
            if self._until_s is not None:
                self._until_s = now_s  # one more turn, for what waited for them

    def may_come(self, node: str, n_there: int) -> bool:
        """Return whether slots of a node may come yet, while so many are there of all nodes."""
        if self._until_s is None or not self._is_short(n_there):
            return False
        return self._n_on is None or self._n_on.get(node, 0) > 0

    def over_in_s(self, now_s: float) -> float | None:
        """Seconds until `settle` has something to do; None: it has not."""
        return None if self._until_s is None else max(0.0, self._until_s - now_s)

    def _is_short(self, n_there: int) -> bool:
        if self._n_on is None or self._n_wanted is None:
            return True  # before room is known, no more than one is asked for
        return n_there < min(self._n_wanted, sum(self._n_on.values()))
