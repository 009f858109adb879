"""The draws of a guided search: which no trial has, in the order of the stream, and whether there are others.

Pure bookkeeping. Must not know who draws, and what a draw is worth.
"""

from collections import OrderedDict
from collections.abc import Iterable

#: so many draws that repeat in a row exhaust a space, as they do without a guide
MAX_REPEATS = 1000
#: so many draws that no trial has are kept; the oldest go first
MAX_UNUSED = 4000


class Draws:
    """The config ids that were drawn, and those that trials have. Bounded but for the latter."""

    def __init__(self) -> None:
        """Nothing was drawn."""
        #: ids that trials have
        self.used: set[str] = set()
        #: how many draws there were, repeats included
        self.n_drawn = 0
        #: the sampler gives no further distinct id
        self.is_exhausted = False
        #: no trial has them, in the order in which they were drawn
        self._unused: OrderedDict[str, None] = OrderedDict()
        #: distinct draws that are still known
        self._known: set[str] = set()
        self._n_repeats = 0

    @property
    def n_unused(self) -> int:
        """How many draws no trial has."""
        return len(self._unused)

    @property
    def n_distinct(self) -> int:
        """How many config ids there are: those of trials, and those that could be."""
        return len(self.used) + len(self._unused)

    def unused(self) -> tuple[str, ...]:
        """The draws that no trial has, in order."""
        return tuple(self._unused)

    def next_unused(self) -> str:
        """The first of them.

        Raises:
            StopIteration: there is none.
        """
        return next(iter(self._unused))

    def use(self, ids: Iterable[str]) -> None:
        """Trials have these."""
        for config_id in ids:
            self.used.add(config_id)
            self._unused.pop(config_id, None)

    def add(self, ids: Iterable[str]) -> None:
        """Take in the next draws, repeats included.

        A draw that repeats counts although a trial has it, but what trials had before the first draw does not
        count as drawn: the stream begins anew at each start of a search.
        """
        for config_id in ids:
            self.n_drawn += 1
            if config_id in self._known:
                self._n_repeats += 1
                self.is_exhausted = self.is_exhausted or self._n_repeats >= MAX_REPEATS
                continue
            self._n_repeats = 0
            self._known.add(config_id)
            if config_id not in self.used:
                self._unused[config_id] = None
        while len(self._unused) > MAX_UNUSED:
            self._known.discard(self._unused.popitem(last=False)[0])
