"""The model of the guide: lists of proposals."""

from typing import Any

import numpy as np
import pytest

from hyperband.guide.data import Observed, Pending
from hyperband.guide.gp import Points
from hyperband.guide.model import Model, _log_expected_improvement


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


def test_the_improvement_that_is_expected_is_that_of_the_formula_and_finite_far_below() -> None:
    z = np.array([-300.0, -40.0, -8.0, -5.001, -4.999, -1.0, 0.0, 3.0, 40.0])
    sd = 0.5
    mean = -z * sd  # the incumbent is 0
    nothing = np.empty((len(z), 0))
    found = _log_expected_improvement(Points(nothing, mean, nothing, np.full(len(z), sd**2)), 0.0)
    draws = np.random.default_rng(0).normal(size=2_000_000)
    for at in (4, 5, 6, 7, 8):
        if z[at] > -4:
            assert found[at] == pytest.approx(np.log(sd * np.maximum(z[at] + draws, 0).mean()), abs=0.01)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all(), "it grows with the distance below the incumbent"
    assert found[4] - found[3] < 0.05, "no step where one formula follows on the other"


def test_of_two_that_promise_the_same_the_cheaper_is_chosen() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((40, 2))
    # the loss depends on the first column, the time on the second
    observed = Observed(
        x, np.full(40, 9.0), (x[:, 0] - 0.5) ** 2, np.exp(4 * x[:, 1]), np.zeros(40, dtype=np.int64)
    )
    candidates = np.array([[0.5, 0.9], [0.5, 0.1]])
    nothing = Pending(np.empty((0, 2)), np.empty(0))
    model = Model(max_epochs=9, groups=np.arange(2), seed=0)
    ranking = model.propose(observed=observed, pending=nothing, candidates=candidates, n=1)
    assert ranking.chosen == [1]
    assert ranking.order.tolist() == [1, 0]


def test_what_another_study_knows_leads_the_first_choice() -> None:
    rng = np.random.default_rng(4)
    foreign = rng.random((60, 2))
    own = np.array([[0.9, 0.9]])
    # losses of the other study are of another scale
    losses = np.concatenate([1000 + 500 * ((foreign - 0.25) ** 2).sum(1), [0.7]])
    observed = Observed(
        np.vstack([foreign, own]),
        np.full(61, 9.0),
        losses,
        np.full(61, np.nan),
        np.array([1] * 60 + [0], dtype=np.int64),
    )
    candidates = rng.random((300, 2))
    nothing = Pending(np.empty((0, 2)), np.empty(0))
    model = Model(max_epochs=9, groups=np.arange(2), seed=0)
    (best,) = model.propose(observed=observed, pending=nothing, candidates=candidates, n=1).chosen
    assert np.abs(candidates[best] - 0.25).max() < 0.2


def test_losses_of_runs_that_diverged_hide_nothing() -> None:
    rng = np.random.default_rng(5)
    x = rng.random((80, 2))
    losses = ((x - 0.25) ** 2).sum(1)
    losses[x[:, 1] > 0.9] = 9e66
    losses[0] = 1e300
    observed = Observed(x, np.full(80, 9.0), losses, np.full(80, np.nan), np.zeros(80, dtype=np.int64))
    candidates = rng.random((300, 2))
    nothing = Pending(np.empty((0, 2)), np.empty(0))
    model = Model(max_epochs=9, groups=np.arange(2), seed=0)
    (best,) = model.propose(observed=observed, pending=nothing, candidates=candidates, n=1).chosen
    assert ((candidates[best] - 0.25) ** 2).sum() < 0.1, "among the best fifth"


def of_two_studies(
    foreign: np.ndarray[Any, np.dtype[np.float64]], own: np.ndarray[Any, np.dtype[np.float64]], losses: object
) -> Observed:
    n_foreign, n_own = len(foreign), len(own)
    return Observed(
        np.vstack([foreign, own]),
        np.full(n_foreign + n_own, 9.0),
        np.asarray(losses, dtype=float),
        np.full(n_foreign + n_own, np.nan),
        np.array([1] * n_foreign + [0] * n_own, dtype=np.int64),
    )


def test_before_a_loss_of_its_own_a_study_goes_where_another_one_was_best_and_nothing_failed() -> None:
    rng = np.random.default_rng(6)
    foreign = rng.random((60, 2))
    losses = (foreign[:, 0] - 0.75) ** 2 + 0.1 * foreign[:, 1]
    losses[(foreign[:, 0] > 0.6) & (foreign[:, 1] < 0.4)] = np.nan
    candidates = rng.random((400, 2))
    for own in (np.empty((0, 2)), np.array([[0.7, 0.1]])):  # with nothing at all, and with one failure
        observed = of_two_studies(foreign, own, [*losses, *([np.nan] * len(own))])
        for pending in (np.empty((0, 2)), np.array([[0.7, 0.5]])):
            model = Model(max_epochs=9, groups=np.arange(2), seed=0)
            running = Pending(pending, np.full(len(pending), 9.0))
            (best,) = model.propose(observed=observed, pending=running, candidates=candidates, n=1).chosen
            at, height = candidates[best]
            assert 0.45 < at < 1.0, "near the best of the other study"
            assert not (at > 0.6 and height < 0.35), "not where the other study failed"


def test_one_bad_loss_of_its_own_is_not_taken_for_the_best_there_is() -> None:
    rng = np.random.default_rng(7)
    foreign = rng.random((60, 2))
    own = np.array([[0.95, 0.95]])
    losses = [*((foreign - 0.25) ** 2).sum(1), 40.0]
    candidates = rng.random((400, 2))
    nothing = Pending(np.empty((0, 2)), np.empty(0))
    model = Model(max_epochs=9, groups=np.arange(2), seed=0)
    observed = of_two_studies(foreign, own, losses)
    chosen = model.propose(observed=observed, pending=nothing, candidates=candidates, n=3).chosen
    assert all(np.abs(candidates[one] - 0.25).max() < 0.3 for one in chosen[:2])
