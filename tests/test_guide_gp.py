"""The Gaussian process against formulas written out, and its optimiser against known minima."""

import math

import numpy as np
import pytest

from hyperband.guide.data import FloatArray
from hyperband.guide.gp import GaussianProcess, Priors, minimise


def data(n: int = 40, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Rows with four columns, the last of no influence; targets of mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4))
    y = np.sin(5 * x[:, 0]) + x[:, 1] * x[:, 2]
    return x, (y - y.mean()) / y.std()


def process(n_columns: int = 4) -> GaussianProcess:
    return GaussianProcess(np.arange(n_columns), Priors(np.zeros(n_columns)))


def matern(a: FloatArray, b: FloatArray) -> FloatArray:
    """Matern 5/2 with all length scales 1 and amplitude 1, as Rasmussen and Williams 2006 (4.17) has it."""
    r = np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(2))
    found: FloatArray = (1 + math.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-math.sqrt(5) * r)
    return found


def test_predictions_before_anything_is_learned_are_those_of_the_formula() -> None:
    x, y = data()
    there = np.random.default_rng(1).random((25, 4))
    model = process()
    model.condition(x, y)
    mean, sd = model.predict(there)
    covariance = matern(x, x) + (math.exp(-4) + 1e-6) * np.eye(len(x))
    cross = matern(there, x)
    assert mean == pytest.approx(cross @ np.linalg.solve(covariance, y))
    explained = (cross * np.linalg.solve(covariance, cross.T).T).sum(1)
    assert sd == pytest.approx(np.sqrt(1 - explained))


def test_what_is_assumed_is_as_if_it_had_been_observed_at_its_mean() -> None:
    x, y = data()
    rng = np.random.default_rng(2)
    there, others, more = rng.random((25, 4)), rng.random((3, 4)), rng.random((2, 4))
    model = process()
    model.condition(x, y)
    first = model.points(others)
    second = model.assume(model.points(more), first)
    assumed = model.assume(model.assume(model.points(there), first), second)
    means = np.concatenate([first.mean, second.mean])
    model.condition(np.vstack([x, others, more]), np.concatenate([y, means]))
    mean, sd = model.predict(there)
    assert assumed.mean == pytest.approx(mean, abs=1e-6)
    assert np.sqrt(assumed.variance) == pytest.approx(sd, abs=1e-6)


def test_the_gradient_is_that_of_the_objective() -> None:
    x, y = data()
    groups = np.array([0, 1, 1, 2])
    model = GaussianProcess(groups, Priors(np.zeros(3)))
    at = np.array([0.3, -0.4, 0.1, 0.2, -3.0])
    found = model._loss(at, x, y)[1]
    steps = 1e-6 * np.eye(len(at))
    slopes = [(model._loss(at + step, x, y)[0] - model._loss(at - step, x, y)[0]) / 2e-6 for step in steps]
    assert found == pytest.approx(slopes, rel=1e-4, abs=1e-4)


def test_learning_finds_which_columns_matter() -> None:
    x, y = data(80)
    there, wanted = data(200, seed=3)
    model = process()
    model.condition(x, y)
    before = np.abs(model.predict(there)[0] - wanted).mean()
    model.learn(x, y, n_steps=30)
    model.condition(x, y)
    after = np.abs(model.predict(there)[0] - wanted).mean()
    assert after < before
    scales = np.exp(model._parameters[:4])
    assert scales[3] == max(scales)
    assert scales[0] == min(scales)


def test_the_optimiser_finds_a_minimum_inside_and_one_on_the_bounds() -> None:
    def bowl(at: FloatArray) -> tuple[float, FloatArray]:
        off = at - np.array([0.3, 5.0])
        scales = np.array([100.0, 1.0])
        return float(scales @ off**2), 2 * scales * off

    low, high = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
    found = minimise(bowl, np.zeros(2), n_steps=50, low=low, high=high)
    assert found == pytest.approx([0.3, 1.0], abs=1e-3)


def test_a_step_into_the_impossible_is_taken_back() -> None:
    def walled(at: FloatArray) -> tuple[float, FloatArray]:
        if at[0] > 0.5:
            return math.inf, np.zeros(1)
        return float((at[0] - 0.4) ** 2), 2 * (at - 0.4)

    low, high = np.array([-10.0]), np.array([10.0])
    found = minimise(walled, np.array([-9.0]), n_steps=50, low=low, high=high)
    assert found == pytest.approx([0.4], abs=1e-2)
