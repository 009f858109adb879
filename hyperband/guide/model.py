"""Which candidate to start: expected improvement at the full number of epochs, for the time that it costs.

Owns what a loss, a number of epochs, a failure and a duration are to the model. Pure but for its memory of
parameters: the same calls give the same answers. Time and memory do not grow with the number of observations.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperband.guide.data import FloatArray, IntArray, Observed, Pending, Ranking
from hyperband.guide.gp import GaussianProcess, Points, Priors

BoolArray: TypeAlias = NDArray[np.bool_]

#: observations that the process is conditioned on, and that the durations are read from
_MOST_OBSERVED = 350
_MOST_TIMED = 200
_MOST_PENDING = 200
#: the parameters are learned again when there are so many times more observations
_GROWTH = 1.07
_N_STEPS = 20
#: of the median's distance from the best loss, so much is added before the logarithm
_SOFTNESS = 0.3
#: and what is farther from the best than so many times that distance is as bad as that: it has diverged
_FARTHEST = 100.0
#: the improvement is divided by the predicted seconds per epoch to this power
_COST_POWER = 0.5
#: success is 1 and failure -1; nobody is surer of either than by this variance
_SUCCESS_VARIANCE = 0.01
_SQRT2 = math.sqrt(2.0)
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


class Model:
    """Ranks candidates by what is known of trials; one for each encoding."""

    def __init__(self, *, max_epochs: int, groups: IntArray, seed: int) -> None:
        """A model that has seen nothing.

        Args:
            max_epochs: R, where the improvement is expected.
            groups: (d,), the feature of each column.
            seed: of what is chosen at random: which observations are left out.
        """
        n_features = int(groups.max()) + 1 if len(groups) else 0
        self._log_max_epochs = max(math.log(max_epochs), 1e-9)
        # two more columns: how far it is trained, and of which study it is
        both = np.concatenate([groups, [n_features, n_features + 1]])
        self._losses = GaussianProcess(both, Priors(np.zeros(n_features + 2), noise=-6.0))
        self._durations = GaussianProcess(groups, Priors(np.full(n_features, 0.5), noise=-5.0))
        self._successes = GaussianProcess(groups, Priors(np.zeros(n_features), noise=-3.0))
        self._seed = seed
        #: how many observations the parameters of each were learned from
        self._n_learned = 0
        self._n_timed = 0
        self._n_judged = 0

    def propose(self, *, observed: Observed, pending: Pending, candidates: FloatArray, n: int) -> Ranking:
        """Choose candidates to start, best first, each as if the ones before it were running already.

        Args:
            observed: of this study and of others.
            pending: what runs now.
            candidates: (m, d).
            n: at most so many.

        Returns:
            The min(n, m) that are chosen, and the order of all.
        """
        n = min(n, len(candidates))
        worth = self._log_cost(observed, candidates) * -_COST_POWER + self._log_success(observed, candidates)
        known = self._known(observed)
        if known is None:
            order = np.argsort(-worth, kind="stable")
            return Ranking([int(index) for index in order[:n]], order)
        rows, targets, incumbent = known
        process = self._losses
        if len(targets) >= self._n_learned * _GROWTH + 1:
            process.learn(rows, targets, n_steps=_N_STEPS)
            self._n_learned = len(observed.loss)
        process.condition(rows, targets)
        points = process.points(self._rows(candidates, np.ones(len(candidates))))
        assumed = [process.points(self._pending_rows(pending))]
        points = process.assume(points, assumed[0])
        first_epochs = self._share_trained(np.append(observed.epochs, pending.epochs)).min()
        # while this study has no loss, an improvement is one on what its own trials are expected to give
        is_guessed = incumbent is None
        if incumbent is None:
            running = self._rows(pending.x[-_MOST_PENDING:], np.ones(min(len(pending.x), _MOST_PENDING)))
            incumbent = float(np.min(process.points(running).mean, initial=0.0))
        chosen: list[int] = []
        score = _log_expected_improvement(points, incumbent) + worth
        order = np.argsort(-score, kind="stable")
        for _ in range(n):
            score[chosen] = -np.inf
            best = int(np.argmax(score))
            chosen.append(best)
            if len(chosen) < n:
                there = process.points(self._rows(candidates[best : best + 1], np.array([first_epochs])))
                for before in assumed:
                    there = process.assume(there, before)
                points = process.assume(points, there)
                if is_guessed:
                    incumbent = min(incumbent, float(points.mean[best]))
                score = _log_expected_improvement(points, incumbent) + worth
                assumed.append(there)
        return Ranking(chosen, order)

    def _known(self, observed: Observed) -> tuple[FloatArray, FloatArray, float | None] | None:
        """What it is conditioned on: rows, targets of mean 0 and variance 1; and the best of this study's."""
        kept = np.flatnonzero(np.isfinite(observed.loss))
        if len(kept) == 0:
            return None
        targets = np.empty(len(kept))
        for study in np.unique(observed.study[kept]):
            of_study = observed.study[kept] == study
            targets[of_study] = _targets(observed.loss[kept[of_study]])
        own = observed.study[kept] == 0
        x, epochs, studies = observed.x[kept], observed.epochs[kept], observed.study[kept]
        if own.any() and not own.all():
            targets[own] += self._level(x, epochs, studies, targets, own)
        incumbent = targets[own].min() if own.any() else None
        chosen = self._chosen(targets, epochs, own)
        rows = self._rows(x[chosen], self._share_trained(epochs[chosen]), studies[chosen])
        targets = targets[chosen]
        middle, spread = targets.mean(), max(float(targets.std()), 1e-9)
        scaled = None if incumbent is None else float((incumbent - middle) / spread)
        return rows, (targets - middle) / spread, scaled

    def _level(
        self, x: FloatArray, epochs: FloatArray, studies: IntArray, targets: FloatArray, own: BoolArray
    ) -> float:
        """What this study's targets lack to be, on average, what other studies make expect there.

        Each study's targets are distances from its own best, and of few losses the best is no good one.
        """
        taken = np.flatnonzero(~own)[self._chosen(targets[~own], epochs[~own], own[~own])]
        middle, spread = targets[taken].mean(), max(float(targets[taken].std()), 1e-9)
        trained = self._share_trained(epochs)
        self._losses.condition(
            self._rows(x[taken], trained[taken], studies[taken]), (targets[taken] - middle) / spread
        )
        latest = np.flatnonzero(own)[-_MOST_OBSERVED:]
        # asked for as one of theirs: how far the studies are alike is not known yet
        like = np.full(len(latest), studies[taken].min())
        expected = self._losses.predict(self._rows(x[latest], trained[latest], like))[0] * spread + middle
        return float((expected - targets[latest]).mean())

    def _chosen(self, targets: FloatArray, epochs: FloatArray, own: BoolArray) -> IntArray:
        """Of too many observations: half the best, a quarter the longest trained, the rest at random."""
        n = len(targets)
        if n <= _MOST_OBSERVED:
            return np.arange(n)
        foreign = ~own
        taken = np.zeros(n, dtype=bool)
        taken[np.lexsort((targets, foreign))[: _MOST_OBSERVED // 2]] = True
        taken[np.lexsort((targets, -epochs, foreign))[: _MOST_OBSERVED // 4]] = True
        rest = np.flatnonzero(~taken)
        rng = np.random.default_rng([self._seed & 0xFFFFFFFF, n])
        taken[rng.choice(rest, _MOST_OBSERVED - int(taken.sum()), replace=False)] = True
        return np.flatnonzero(taken)

    def _share_trained(self, epochs: FloatArray) -> FloatArray:
        """Logarithm of the epochs, 0 for one and 1 for the full number."""
        return np.log(np.maximum(epochs, 1.0)) / self._log_max_epochs

    def _rows(self, x: FloatArray, trained: FloatArray, study: IntArray | None = None) -> FloatArray:
        foreign = np.zeros(len(x)) if study is None else study.astype(np.float64)
        return np.column_stack([x, trained, foreign])

    def _pending_rows(self, pending: Pending) -> FloatArray:
        x, epochs = pending.x[-_MOST_PENDING:], pending.epochs[-_MOST_PENDING:]
        return self._rows(x, self._share_trained(epochs))

    def _log_cost(self, observed: Observed, candidates: FloatArray) -> FloatArray:
        """(m,), logarithm of the predicted seconds per epoch; 0 while nothing is known."""
        timed = np.flatnonzero(
            (observed.study == 0) & (observed.seconds_per_epoch > 0) & np.isfinite(observed.seconds_per_epoch)
        )
        if len(timed) < 2 or candidates.shape[1] == 0:
            return np.zeros(len(candidates))
        latest = timed[-_MOST_TIMED:]
        logs = np.log(observed.seconds_per_epoch[latest])
        middle, spread = logs.mean(), float(logs.std())
        if spread < 1e-3:
            return np.full(len(candidates), middle)
        x, y = observed.x[latest], (logs - middle) / spread
        if len(timed) >= self._n_timed * 1.3 and self._n_timed < _MOST_TIMED:
            self._durations.learn(x, y, n_steps=_N_STEPS)
            self._n_timed = len(timed)
        self._durations.condition(x, y)
        found: FloatArray = self._durations.predict(candidates)[0] * spread + middle
        return found

    def _log_success(self, observed: Observed, candidates: FloatArray) -> FloatArray:
        """(m,), logarithm of the chance that a job succeeds; 0 while none has failed.

        A regression on 1 for success and -1 for failure, with length scales of its own, squashed by the
        normal distribution (Rasmussen and Williams 2006, 6.5); where nothing is known, the chance is a half.
        """
        # this study's last: they are the ones that count when there are too many
        latest = np.argsort(observed.study == 0, kind="stable")[-_MOST_OBSERVED:]
        x, failed = observed.x[latest], np.isnan(observed.loss[latest])
        if not failed.any() or candidates.shape[1] == 0:
            return np.zeros(len(candidates))
        labels = np.where(failed, -1.0, 1.0)
        if len(latest) >= self._n_judged * 1.3 and self._n_judged < _MOST_OBSERVED:
            self._successes.learn(x, labels, n_steps=_N_STEPS)
            self._n_judged = len(latest)
        self._successes.condition(x, labels)
        mean, sd = self._successes.predict(candidates)
        z = mean / np.sqrt(sd**2 + _SUCCESS_VARIANCE)
        logs: FloatArray = np.log(np.maximum(0.5 * _erfc(-z / _SQRT2), 1e-300))
        return logs


def _targets(losses: FloatArray) -> FloatArray:
    """Losses of one study as the process sees them: logarithms of the distance from the best, softened.

    Whatever the scale of the losses, the result is of the order of 1: the differences among good ones count
    as much as those among bad ones.
    """
    scaled = losses / max(float(np.abs(losses).max()), 1e-300)
    above = scaled - scaled.min()
    usual = float(np.median(above))
    if usual <= 0.0:
        usual = float(above.max()) / _SOFTNESS
    if usual <= 0.0:
        return np.zeros(len(losses))
    softness = _SOFTNESS * usual
    above = np.minimum(above, _FARTHEST * usual)
    logs: FloatArray = np.log1p(above / softness)
    return logs


def _log_expected_improvement(points: Points, incumbent: float) -> FloatArray:
    """(m,), logarithm of the expected improvement on the incumbent (Ament et al. 2023)."""
    sd = np.sqrt(points.variance)
    z = (incumbent - points.mean) / sd
    tail = np.minimum(z, -5.0)
    density = np.exp(-0.5 * np.maximum(z, -37.0) ** 2) / math.sqrt(2.0 * math.pi)
    near = density + z * 0.5 * _erfc(-np.maximum(z, -37.0) / _SQRT2)
    # far below, the sum cancels: the first terms of its asymptotic series (Abramowitz and Stegun, 26.2.12)
    far = -0.5 * tail**2 - 0.5 * math.log(2.0 * math.pi) - 2.0 * np.log(-tail) + np.log1p(-3.0 / tail**2)
    found: FloatArray = np.where(z < -5.0, far, np.log(np.maximum(near, 1e-300))) + np.log(sd)
    return found
