"""The order in which jobs start: the queue of those that could, with rungs that wait and without.

Owns the queue. Knows nothing of config ids, attempts, events and losses.
"""

import bisect
import heapq
from collections.abc import Iterator, Sequence

from hyperband.search.asynchronous import Asynchronous


class StartOrder:
    """The jobs that could start: retries, then plan order, then the higher rung, then the trial number.

    Trial numbers ascend in plan order, and the jobs of one bracket that could start are all in one rung,
    since a rung begins when the one below it is complete. So among the retries, and among the rest, the
    lowest trial number is next; and a promoted trial has started before, so no new one has a lower number.
    """

    __slots__ = ("_promoted", "_retries", "next_new")

    def __init__(self) -> None:
        """Nothing has started and nothing is queued but the new trials."""
        #: (trial, job) of the jobs to repeat, sorted: they are few
        self._retries: list[tuple[int, int]] = []
        #: trials that were promoted and have not started in their new rung, a heap
        self._promoted: list[int] = []
        #: the lowest trial that never started; every later one has not either
        self.next_new = 0

    @property
    def takes_new(self) -> bool:
        """Whether a trial that never ran may start, if it has an id."""
        return True

    def n_queued(self, n_ids: int) -> int:
        """How many jobs could start when the trials below `n_ids` have a config id."""
        return len(self._retries) + len(self._promoted) + n_ids - self.next_new

    def heads(self, n_ids: int) -> Iterator[tuple[int, int | None]]:
        """The trials that may be next, in order, each with its job's number when that is a retry.

        All retries, since some may not go where there is room, and then the one job that is no retry.
        """
        yield from self._retries
        if self._promoted:
            yield self._promoted[0], None
        elif self.next_new < n_ids:
            yield self.next_new, None

    def pop(self, trial: int, job: int | None) -> None:
        """Take away one of `heads`."""
        if job is not None:
            self._retries.remove((trial, job))
        elif self._promoted:
            heapq.heappop(self._promoted)
        else:
            self.next_new += 1

    def add_retry(self, trial: int, job: int) -> None:
        """Queue a job again."""
        bisect.insort(self._retries, (trial, job))

    def add_promoted(self, trials: Sequence[int]) -> None:
        """Queue trials for the rung that they entered."""
        for trial in trials:
            heapq.heappush(self._promoted, trial)

    def queued(self, n_ids: int) -> list[int]:
        """Every trial that could start, in no order; for checks."""
        retries = [trial for trial, _ in self._retries]
        return [*retries, *self._promoted, *range(self.next_new, n_ids)]


class AsyncOrder(StartOrder):
    """The jobs that could start: retries, then plan order, then the higher rung, then the lower loss.

    New trials come last in their bracket, and no bracket after theirs has started: so who goes on, in
    whichever bracket, comes before them.
    """

    __slots__ = ("_listed", "_n_ready", "_ready", "brackets")

    def __init__(self) -> None:
        """Nothing has started, and there is no bracket yet."""
        super().__init__()
        self.brackets: list[Asynchronous] = []
        #: a heap of the brackets from which somebody goes on, and some from which nobody does any more
        self._ready: list[int] = []
        self._listed: set[int] = set()
        self._n_ready = 0

    def n_queued(self, n_ids: int) -> int:
        """How many jobs could start when the trials below `n_ids` have a config id."""
        n_new = n_ids - self.next_new
        if n_new and not self.takes_new:
            n_new = 0
        return len(self._retries) + self._n_ready + n_new

    def heads(self, n_ids: int) -> Iterator[tuple[int, int | None]]:
        """The trials that may be next, in order, each with its job's number when that is a retry."""
        yield from self._retries
        if self._ready:
            yield self.brackets[self._ready[0]].head_trial, None
        elif self.next_new < n_ids and self.takes_new:
            yield self.next_new, None

    @property
    def takes_new(self) -> bool:
        """Whether a trial that never ran may start, if it has an id."""
        # the only limit besides the ids is a budget, and a plan with a budget has one bracket
        return bool(self.brackets) and self.brackets[-1].takes_new

    def pop(self, trial: int, job: int | None) -> None:
        """Take away one of `heads`; a promotion is taken away by its bracket."""
        if job is not None:
            self._retries.remove((trial, job))
        elif trial == self.next_new:
            self.next_new += 1

    def update(self, bracket: Asynchronous) -> None:
        """A bracket has changed."""
        self._n_ready += bracket.n_ready - bracket.n_counted
        bracket.n_counted = bracket.n_ready
        if bracket.head is not None and bracket.place not in self._listed:
            self._listed.add(bracket.place)
            heapq.heappush(self._ready, bracket.place)
        while self._ready and self.brackets[self._ready[0]].head is None:
            self._listed.remove(heapq.heappop(self._ready))

    def queued(self, n_ids: int) -> list[int]:
        """Every trial that is queued, in no order; for checks."""
        return [*(trial for trial, _ in self._retries), *range(self.next_new, n_ids)]
