"""One bracket under way: synchronous successive halving, and the order in which jobs start.

Owns how far a bracket is and which trials are in its rung, and the queue of jobs that could start. Knows
nothing of config ids, attempts or events.
"""

import bisect
import heapq
from collections.abc import Iterator, Sequence

from hyperband.search.trial import Bracket


class Halving:
    """One bracket under way; one rung of it at a time."""

    __slots__ = ("bracket", "is_over", "members", "n_final", "n_losses", "rung")

    def __init__(self, bracket: Bracket, first: int) -> None:
        """A bracket whose trials are numbered from `first` on; none has started."""
        self.bracket = bracket
        #: the rung that is being worked on, or the last one that was
        self.rung = 0
        #: its trials, ascending; in rung 0 also those that have no config id yet
        self.members: Sequence[int] = range(first, first + bracket.rungs[0].n)
        #: how many of their jobs in this rung are final, and how many of those gave a loss
        self.n_final = 0
        self.n_losses = 0
        #: no job of this bracket will ever start again
        self.is_over = False

    @property
    def epochs(self) -> int:
        """Total epochs that the current rung trains to."""
        return self.bracket.rungs[self.rung].epochs

    @property
    def is_last_rung(self) -> bool:
        """True if nobody can be promoted from the current rung."""
        return self.rung == len(self.bracket.rungs) - 1

    @property
    def is_rung_complete(self) -> bool:
        """True once each job of the current rung is final."""
        return self.n_final == len(self.members)

    @property
    def n_to_promote(self) -> int:
        """How many trials go on from the current rung when it is complete."""
        if self.is_last_rung:
            return 0
        return min(self.bracket.rungs[self.rung + 1].n, self.n_losses)

    @property
    def cannot_lead_elsewhere(self) -> bool:
        """True if the last job of this rung is the last of all, or only its own trial can be promoted."""
        return self.is_last_rung or self.n_losses == 0

    def increment(self, rung: int) -> int:
        """Epochs that a job of this rung adds to its trial's checkpoint."""
        rungs = self.bracket.rungs
        return rungs[rung].epochs - (rungs[rung - 1].epochs if rung else 0)

    def promote(self, trials: Sequence[int]) -> None:
        """Enter the next rung with these trials, ascending."""
        self.rung += 1
        self.members = trials
        self.n_final = 0
        self.n_losses = 0

    def resize(self, bracket: Bracket) -> None:
        """Take on other numbers while in rung 0: fewer trials exist, or a sole rung gets more."""
        first = self.members[0]
        self.bracket = bracket
        self.members = range(first, first + bracket.rungs[0].n)
        self.is_over = False

    def jobs_ahead(self) -> tuple[int, int]:
        """(jobs, epochs) that are not final yet, at most, when every job goes on from a checkpoint."""
        if self.is_over:
            return 0, 0
        n_jobs = len(self.members) - self.n_final
        n_epochs = n_jobs * self.increment(self.rung)
        later_jobs, later_epochs = self.jobs_after(len(self.members))
        return n_jobs + later_jobs, n_epochs + later_epochs

    def jobs_after(self, n_entering: int) -> tuple[int, int]:
        """(jobs, epochs) of the rungs after the current one if at most `n_entering` trials go on."""
        n_jobs = n_epochs = 0
        for rung in range(self.rung + 1, len(self.bracket.rungs)):
            n = min(self.bracket.rungs[rung].n, n_entering)
            n_jobs += n
            n_epochs += n * self.increment(rung)
        return n_jobs, n_epochs


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
