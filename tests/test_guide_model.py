"""The model of the guide: lists of proposals."""

import numpy as np
import pytest

from hyperband.guide.data import Observed, Pending
from hyperband.guide.model import Model


@pytest.mark.parametrize("n_pending", [0, 1, 3])
def test_a_list_is_made_as_if_those_before_were_running(n_pending: int) -> None:
    rng = np.random.default_rng(7)
    x = rng.random((30, 2))
    observed = Observed(
        x,
        np.full(30, 3.0),
        ((x - 0.5) ** 2).sum(1),
        np.full(30, np.nan),
        np.zeros(30, dtype=np.int64),
    )
    pending = Pending(rng.random((n_pending, 2)), np.full(n_pending, 1.0))
    candidates = rng.random((500, 2))
    model = Model(max_epochs=9, groups=np.arange(2), seed=0)
    chosen = model.propose(observed=observed, pending=pending, candidates=candidates, n=6).chosen
    assert len(set(chosen)) == 6
    # the first ones of a longer list are those of a shorter one
    again = Model(max_epochs=9, groups=np.arange(2), seed=0)
    assert again.propose(observed=observed, pending=pending, candidates=candidates, n=3).chosen == chosen[:3]
