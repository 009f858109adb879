"""The model learns where jobs fail: it keeps away, and still finds what is best beside."""

import math

import numpy as np

from hyperband.guide.data import Observed, Pending
from hyperband.guide.model import Model

N_RANDOM, N_GUIDED = 20, 40


def losses_of_a_search(seed: int, n_columns: int) -> list[float]:
    """Half of the space fails, and nothing in the losses says which; the best is not far from that half."""
    rng = np.random.default_rng(seed)
    model = Model(max_epochs=27, groups=np.arange(n_columns), seed=seed)
    x = np.empty((0, n_columns))
    losses: list[float] = []
    for trial in range(N_RANDOM + N_GUIDED):
        candidates = rng.uniform(size=(500, n_columns))
        chosen = 0
        if trial >= N_RANDOM:
            seen = Observed(
                x, np.full(trial, 27.0), np.array(losses), np.ones(trial), np.zeros(trial, dtype=np.int64)
            )
            nothing = Pending(np.empty((0, n_columns)), np.empty(0))
            (chosen,) = model.propose(observed=seen, pending=nothing, candidates=candidates, n=1).chosen
        row = candidates[chosen]
        x = np.vstack([x, row])
        losses.append(float(((row - 0.3) ** 2).sum()) if row[0] < 0.5 else math.nan)
    return losses


def test_a_region_of_failures_is_left() -> None:
    searches = np.array([losses_of_a_search(seed, 5) for seed in range(4)])
    guided = searches[:, N_RANDOM:]
    assert np.isnan(guided).mean() < 0.3
    assert np.nanmin(guided, axis=1).mean() < np.nanmin(searches[:, :N_RANDOM], axis=1).mean() / 3


def test_where_all_have_failed_others_are_tried() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(30, 2)) * 0.4
    seen = Observed(x, np.full(30, 1.0), np.full(30, math.nan), np.ones(30), np.zeros(30, dtype=np.int64))
    model = Model(max_epochs=27, groups=np.arange(2), seed=0)
    candidates = rng.uniform(size=(500, 2))
    nothing = Pending(np.empty((0, 2)), np.empty(0))
    (best,) = model.propose(observed=seen, pending=nothing, candidates=candidates, n=1).chosen
    assert candidates[best].max() > 0.6
