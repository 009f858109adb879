"""PASHA's rule: a higher rung is added only while it changes who is ahead.

Bohdal et al. 2023, "PASHA: Efficient HPO and NAS with Progressive Resource Allocation". Owns the rankings of
the two highest rungs, and the noise that they are compared within. Knows nothing of jobs and promotions.
"""

import bisect
from collections.abc import Sequence
from itertools import pairwise

from hyperband.search.decisions import RungAdded, RungNotAdded
from hyperband.search.trial import Bracket

#: so many trials of a rung are compared, its best: the costs of a decision must not grow with the search
N_RANKED = 256
#: from so many trials of each rung, the first to get there, the noise is estimated
N_SAMPLED = 128
#: of the distances of pairs whose curves cross again and again, this one is the noise (N in the paper)
PERCENTILE = 90


class Growth:
    """What is known of the curves of the trials that went on, as far as rungs show them."""

    def __init__(self) -> None:
        """No trial has gone on."""
        #: losses of rungs 0, 1, .. by trial, of those with two at least
        self._curves: dict[int, list[float]] = {}
        #: the best of the highest rung so far: (loss there, trial), and (loss one below, trial), sorted
        self._rung = 0
        self._high: list[tuple[float, int]] = []
        self._low: list[tuple[float, int]] = []
        #: by rung, trials whose curves are looked at for noise
        self._sampled: dict[int, list[int]] = {}
        #: distances of pairs that criss-cross, at the highest rung that both have; sorted
        self._distances: list[float] = []

    def see(self, trial: int, rung: int, before: float, loss: float) -> None:
        """Take in a result above the first rung.

        Args:
            trial: whose it is.
            rung: where.
            before: its loss in the rung below.
            loss: its loss here.
        """
        curve = self._curves.setdefault(trial, [before])
        curve.append(loss)
        self._see_noise(trial, rung)
        if rung > self._rung:
            # the first result in a rung that was added
            self._rung = rung
            self._high, self._low = [], []
        elif rung < self._rung:
            return
        bisect.insort(self._high, (loss, trial))
        bisect.insort(self._low, (before, trial))
        if len(self._high) > N_RANKED:
            _, worst = self._high.pop()
            lost = (self._curves[worst][rung - 1], worst)
            del self._low[bisect.bisect_left(self._low, lost)]

    def epsilon(self) -> float:
        """Losses no further apart than this are the same; 0 while no pair of curves shows any noise.

        Section 4.3 of the paper: of all pairs of trials whose order changed and changed back along their
        curves, the 90th percentile of the distance at the highest rung that both have. Here the curves are
        the losses of the rungs, so that three rungs are the fewest that show noise.
        """
        if not self._distances:
            return 0.0
        return self._distances[(len(self._distances) - 1) * PERCENTILE // 100]

    def decide(self, place: int, bracket: Bracket, top: int) -> RungAdded | RungNotAdded:
        """Say whether a rung above `top` is needed, after a result in `top`.

        Sections 4.1 and 4.2: rank the trials of the top rung by their losses there, and by those of the
        rung below. The rankings agree if at each place the trial of the first has, in the rung below, a loss
        within epsilon of that of the trial at this place of the second.

        Args:
            place: the bracket's number.
            bracket: its rungs.
            top: the highest rung in use.
        """
        epsilon = self.epsilon()
        low, high = (bracket.rungs[rung].epochs for rung in (top - 1, top))
        within = f"within {epsilon:.6g}" if epsilon > 0 else "with no noise known"
        rankings = f"the rankings of {len(self._high)} trials at epochs {low} and {high}"
        for number, ((_, here), (at_place, there)) in enumerate(zip(self._high, self._low, strict=True), 1):
            below = self._curves[here][top - 1]
            if abs(below - at_place) > epsilon:
                reason = (
                    f"{rankings} differ at place {number} ({within}): trial {here}, before trial {there}; "
                    f"trials may go on to epoch {bracket.rungs[top + 1].epochs}"
                )
                return RungAdded(place, top + 1, reason)
        return RungNotAdded(place, top, f"{rankings} agree ({within}): nobody goes on beyond epoch {high}")

    def _see_noise(self, trial: int, rung: int) -> None:
        """Compare a curve with those that got as far before."""
        sampled = self._sampled.setdefault(rung, [])
        if len(sampled) >= N_SAMPLED:
            return
        curve = self._curves[trial]
        were_sampled = set(self._sampled.get(rung - 1, ()))
        for other in sampled:
            if trial in were_sampled and other in were_sampled:
                # their distance is now known further up
                before = criss_crossed(curve[:rung], self._curves[other][:rung])
                if before is not None:
                    del self._distances[bisect.bisect_left(self._distances, before)]
            distance = criss_crossed(curve, self._curves[other][: rung + 1])
            if distance is not None:
                bisect.insort(self._distances, distance)
        sampled.append(trial)


def criss_crossed(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The last distance of two curves, if one was ahead, then the other, then the one again; else None."""
    signs = [(a > b) - (a < b) for a, b in zip(one, other, strict=True)]
    if signs[-1] == 0:
        return None
    n_changes = sum(a != b for a, b in pairwise([sign for sign in signs if sign]))
    return abs(one[-1] - other[-1]) if n_changes >= 2 else None
