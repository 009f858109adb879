"""The promotion rule of ASHA: which trial of a rung may go on, after every single result.

Owns one rung's results in the order of their losses. Knows nothing of brackets, jobs and budgets, and reads
of the trials only which rung each has entered.
"""

import heapq
import struct
from collections.abc import Sequence

_DOUBLE = struct.Struct(">d")
_TRIAL_BITS = 40
_TRIAL_MASK = (1 << _TRIAL_BITS) - 1
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


def key_of(loss: float, trial: int) -> int:
    """A number that orders results: the lower loss first, ties to the lower trial number.

    One whole number takes half the memory of a tuple, and there may be a million of them. The bits of a
    double, read as a whole number, ascend with it once the sign is turned over.
    """
    bits = int.from_bytes(_DOUBLE.pack(loss + 0.0))  # -0.0 and 0.0 are the same loss
    ordered = bits ^ (_ALL if bits & _SIGN else _SIGN)
    return ordered << _TRIAL_BITS | trial


def trial_of(key: int) -> int:
    """The trial of a key."""
    return key & _TRIAL_MASK


class AsyncRung:
    """One rung whose trials go on one by one: the best not yet promoted of its best n_results // eta.

    Li et al. 2020, Algorithm 2, lines 13 to 17 (get_job). Only finite results count: a failure has no rank
    and makes nobody else better. The best n_results // eta are in one heap with the worst of them on top,
    all others in a second one with the best on top, so that a result moves at most one of each over: the
    costs grow with the logarithm of their number.
    """

    __slots__ = (
        "_best",
        "_others",
        "_promotable",
        "entered",
        "eta",
        "final",
        "is_filled",
        "looked_at",
        "n_dropped",
        "n_promotable",
        "n_promoted",
        "n_results",
        "place",
    )

    def __init__(self, place: int, eta: int) -> None:
        """Nobody is in it; `place` is its number in its bracket."""
        self.place = place
        self.eta = eta
        #: trials whose first attempt here has started; how many of their jobs are final, and gave a loss
        self.entered = 0
        self.final = 0
        self.n_results = 0
        self.n_promoted = 0
        #: how many of the best 1 / eta were not promoted
        self.n_promotable = 0
        #: how many will not go on
        self.n_dropped = 0
        #: how many results there were when it was last looked for those who cannot go on any more
        self.looked_at = 0
        #: no result can follow, and others than the best 1 / eta go on as well
        self.is_filled = False
        #: keys of the best n_results // eta, negated; of all others; of those that became promotable: heaps
        self._best: list[int] = []
        self._others: list[int] = []
        self._promotable: list[int] = []

    @property
    def n_running(self) -> int:
        """Jobs that run here, or wait to be repeated."""
        return self.entered - self.final

    @property
    def n_waiting(self) -> int:
        """Trials with a result that may still go on."""
        return self.n_results - self.n_promoted - self.n_dropped

    @property
    def head(self) -> int:
        """The trial that is promoted next; only while `n_promotable` is not 0."""
        return trial_of(self._promotable[0])

    @property
    def n_best(self) -> int:
        """How many trials the best 1 / eta are now."""
        return len(self._best)

    def add(self, loss: float, trial: int, rung_of: Sequence[int]) -> None:
        """Take in a result.

        Args:
            loss: finite.
            trial: whose it is; not promoted.
            rung_of: the highest rung that each trial entered.
        """
        key = key_of(loss, trial)
        self.n_results += 1
        n_best = self.n_results // self.eta
        if self._best and key < -self._best[0]:
            heapq.heappush(self._best, -key)
            self._admit(key, rung_of)
            if len(self._best) > n_best:
                worst = -heapq.heappop(self._best)
                heapq.heappush(self._others, worst)
                self.n_promotable -= rung_of[trial_of(worst)] == self.place
        else:
            heapq.heappush(self._others, key)
        if len(self._best) < n_best:
            key = heapq.heappop(self._others)
            heapq.heappush(self._best, -key)
            self._admit(key, rung_of)
        self._clean(rung_of)

    def take(self, rung_of: Sequence[int]) -> None:
        """Note that `head` went on; `rung_of` says so already."""
        heapq.heappop(self._promotable)
        self.n_promotable -= 1
        self.n_promoted += 1
        self._clean(rung_of)

    def fill(self, n: int, rung_of: Sequence[int]) -> None:
        """No result can follow: the best `n` that are left go on, whatever their share of the rung."""
        keys = sorted(key for key in self._keys() if rung_of[trial_of(key)] == self.place)
        self.is_filled = True
        self._promotable = keys[:n]
        self.n_promotable = len(self._promotable)

    def left(self, rung_of: Sequence[int]) -> list[int]:
        """The trials with a result that were not promoted, by number."""
        return sorted(trial for trial in map(trial_of, self._keys()) if rung_of[trial] == self.place)

    def beyond(self, n: int, rung_of: Sequence[int]) -> list[int]:
        """The trials that were not promoted and are not among the best `n`, by number."""
        trials = map(trial_of, sorted(self._keys())[n:])
        return sorted(trial for trial in trials if rung_of[trial] == self.place)

    def results(self) -> list[int]:
        """The keys of all results, the best first; for checks."""
        return sorted(self._keys())

    def _keys(self) -> list[int]:
        return [*(-key for key in self._best), *self._others]

    def _admit(self, key: int, rung_of: Sequence[int]) -> None:
        if rung_of[trial_of(key)] == self.place:
            self.n_promotable += 1
            heapq.heappush(self._promotable, key)

    def _clean(self, rung_of: Sequence[int]) -> None:
        """Take away what is on top of the promotable and was promoted.

        Who was pushed out of the best may stay there: all who are still among them come before.
        """
        promotable = self._promotable
        while promotable and rung_of[trial_of(promotable[0])] != self.place:
            heapq.heappop(promotable)
