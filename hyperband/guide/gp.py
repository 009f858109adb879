"""A Gaussian process in plain numpy: Matern 5/2 with one length scale for each group of columns.

Owns the kernel, its marginal likelihood with gradients, and the fit of its parameters. Must not know what
rows mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hyperband.guide.data import FloatArray, IntArray

_SQRT5 = math.sqrt(5.0)
#: added to the diagonal beside the noise: rows may repeat
_JITTER = 1e-6
#: standard deviations of the normal priors on logarithms of the parameters
_LENGTH_SCALE_SD = 1.0
_AMPLITUDE_SD = 1.0
_NOISE_SD = 1.5
#: parameters stay within these (logarithms): beyond, nothing changes but the condition of the matrix
_LENGTH_SCALE_BOUNDS = (math.log(0.05), math.log(20.0))
_AMPLITUDE_BOUNDS = (-3.0, 3.0)
_NOISE_BOUNDS = (-9.0, 0.0)

Objective = Callable[[FloatArray], tuple[float, FloatArray]]


def minimise(
    objective: Objective, start: FloatArray, *, n_steps: int, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Minimise with projected L-BFGS (Nocedal and Wright 2006, Algorithm 7.4), and backtracking.

    Args:
        objective: value and gradient; a value of inf turns a step back.
        start: (p,), within the bounds.
        n_steps: at most so many; each asks for the objective once or a few times.
        low: (p,), lower bounds.
        high: (p,), upper bounds.
    """
    at = start.copy()
    value, gradient = objective(at)
    steps: list[tuple[FloatArray, FloatArray]] = []
    for _ in range(n_steps):
        free = ~(((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0)))
        if not np.any(np.abs(gradient[free]) > 1e-3):
            break
        direction = _direction(np.where(free, gradient, 0.0), steps)
        slope = float(direction @ gradient)
        if slope >= 0.0:
            steps.clear()
            direction = np.where(free, -gradient, 0.0)
            slope = float(direction @ gradient)
        length = 1.0 if steps else min(1.0, 0.5 / float(np.abs(direction).max()))
        found = None
        for _ in range(12):
            there = np.clip(at + length * direction, low, high)
            new_value, new_gradient = objective(there)
            if new_value <= value + 1e-4 * length * slope:
                found = (there, new_value, new_gradient)
                break
            length *= 0.35
        if found is None:
            break
        there, new_value, new_gradient = found
        moved, turned = there - at, new_gradient - gradient
        if moved @ turned > 1e-10:
            steps.append((moved, turned))
            del steps[:-8]
        gained = value - new_value
        at, value, gradient = there, new_value, new_gradient
        if gained < 1e-4:
            break
    return at


def _direction(gradient: FloatArray, steps: list[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """The two loops of L-BFGS."""
    q = -gradient
    parts = []
    for moved, turned in reversed(steps):
        share = (moved @ q) / (moved @ turned)
        q = q - share * turned
        parts.append(share)
    if steps:
        moved, turned = steps[-1]
        q = q * ((moved @ turned) / (turned @ turned))
    for (moved, turned), share in zip(steps, reversed(parts), strict=True):
        q = q + moved * (share - (turned @ q) / (moved @ turned))
    return q


@dataclass(frozen=True, slots=True)
class Priors:
    """Means of the normal priors on the logarithms of the parameters."""

    #: (g,), of each group's length scale
    length_scales: FloatArray
    amplitude: float = 0.0
    noise: float = -4.0


class GaussianProcess:
    """Regression on rows; its parameters stay: what is learned later begins where the last ended."""

    def __init__(self, groups: IntArray, priors: Priors) -> None:
        """Nothing is known.

        Args:
            groups: (d,), the group of each column, 0 to g - 1; columns of one group share a length scale.
            priors: on the parameters.
        """
        self._groups = groups
        self._priors = priors
        self._n_groups = len(priors.length_scales)
        #: (g + 2,): log length scales, log amplitude, log noise variance
        self._parameters = np.concatenate([priors.length_scales, [priors.amplitude, priors.noise]])
        self._low = np.array(
            [_LENGTH_SCALE_BOUNDS[0]] * self._n_groups + [_AMPLITUDE_BOUNDS[0], _NOISE_BOUNDS[0]]
        )
        self._high = np.array(
            [_LENGTH_SCALE_BOUNDS[1]] * self._n_groups + [_AMPLITUDE_BOUNDS[1], _NOISE_BOUNDS[1]]
        )
        self._means = self._parameters.copy()
        self._sds = np.array([_LENGTH_SCALE_SD] * self._n_groups + [_AMPLITUDE_SD, _NOISE_SD])

    def learn(self, x: FloatArray, y: FloatArray, *, n_steps: int) -> None:
        """Improve the parameters on this data by so many steps.

        Args:
            x: (n, d).
            y: (n,), of mean about 0 and variance about 1.
            n_steps: of the optimiser.
        """
        self._parameters = minimise(
            lambda parameters: self._loss(parameters, x, y),
            np.clip(self._parameters, self._low, self._high),
            n_steps=n_steps,
            low=self._low,
            high=self._high,
        )

    def condition(self, x: FloatArray, y: FloatArray) -> None:
        """Take this data for what predictions follow from; shapes as in `learn`."""
        self._x = x * self._weights(self._parameters)
        covariance = self._amplitude * _matern(_squared(self._x, self._x))[0]
        covariance[np.diag_indices(len(x))] += self._noise + _JITTER
        # numpy has no triangular solver: the inverse of the factor serves every later question
        self._inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        self._weighted = self._inverse.T @ (self._inverse @ y)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of the function at (m, d) rows, each (m,)."""
        at = self.points(x)
        return at.mean, np.sqrt(at.variance)

    def points(self, x: FloatArray) -> "Points":
        """Prepare (m, d) rows for predictions that may be conditioned on more."""
        scaled = x * self._weights(self._parameters)
        cross = self._amplitude * _matern(_squared(scaled, self._x))[0]
        explained = cross @ self._inverse.T
        variance = np.maximum(self._amplitude - np.einsum("ij,ij->i", explained, explained), 1e-9)
        return Points(scaled, cross @ self._weighted, explained, variance)

    def assume(self, points: "Points", others: "Points") -> "Points":
        """Condition points on others being observed at their mean: the mean stays, the variance shrinks.

        Ginsbourger et al. 2010, "kriging believer".
        """
        if len(others.mean) == 0:
            return points
        among = self._amplitude * _matern(_squared(others.scaled, others.scaled))[0]
        among = among - others.explained @ others.explained.T
        among[np.diag_indices(len(among))] += self._noise + _JITTER
        cross = self._amplitude * _matern(_squared(points.scaled, others.scaled))[0]
        cross = cross - points.explained @ others.explained.T
        explained = cross @ np.linalg.inv(np.linalg.cholesky(among)).T
        variance = np.maximum(points.variance - np.einsum("ij,ij->i", explained, explained), 1e-9)
        return Points(points.scaled, points.mean, np.hstack([points.explained, explained]), variance)

    @property
    def _amplitude(self) -> float:
        return float(np.exp(self._parameters[-2]))

    @property
    def _noise(self) -> float:
        return float(np.exp(self._parameters[-1]))

    def _weights(self, parameters: FloatArray) -> FloatArray:
        """(d,), one over the length scale of each column."""
        weights: FloatArray = np.exp(-parameters[: self._n_groups])[self._groups]
        return weights

    def _loss(self, parameters: FloatArray, x: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
        """Negative log posterior and its gradient (Rasmussen and Williams 2006, (5.8), (5.9))."""
        scaled = x * self._weights(parameters)
        kernel, slope = _matern(_squared(scaled, scaled))
        amplitude, noise = math.exp(parameters[-2]), math.exp(parameters[-1])
        covariance = amplitude * kernel
        covariance[np.diag_indices(len(x))] += noise + _JITTER
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return math.inf, np.zeros_like(parameters)
        inverse_factor = np.linalg.inv(factor)
        precision = inverse_factor.T @ inverse_factor
        weighted = precision @ y
        value = 0.5 * float(y @ weighted) + float(np.log(np.diag(factor)).sum())
        outer = 0.5 * (precision - np.outer(weighted, weighted))
        gradient = np.empty_like(parameters)
        # sum over i, j of moved_ij (x_i - x_j)^2, column by column, without an array of all the differences
        moved = outer * slope
        moved *= amplitude
        columns = 2.0 * (moved.sum(1) @ scaled**2 - np.einsum("ij,ij->j", scaled, moved @ scaled))
        gradient[: self._n_groups] = np.bincount(self._groups, columns, minlength=self._n_groups)
        gradient[-2] = amplitude * float(np.einsum("ij,ij->", outer, kernel))
        gradient[-1] = noise * float(np.trace(outer))
        off = (parameters - self._means) / self._sds
        return value + 0.5 * float(off @ off), gradient + off / self._sds


@dataclass(frozen=True, slots=True)
class Points:
    """Rows at which a process is asked."""

    #: (m, d), over their length scales
    scaled: FloatArray
    #: (m,)
    mean: FloatArray
    #: (m, n), whose row products are what the data explains of the covariance
    explained: FloatArray
    #: (m,), of the function, without noise
    variance: FloatArray

    def take(self, index: IntArray) -> "Points":
        """Return some of the rows."""
        return Points(self.scaled[index], self.mean[index], self.explained[index], self.variance[index])


def _squared(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, m), squared distances."""
    found: FloatArray = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(found, 0.0, out=found)


def _matern(squared: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Matern 5/2 of squared distances, and minus twice its derivative by them."""
    distance = _SQRT5 * np.sqrt(squared)
    decay = np.exp(-distance)
    slope = (5.0 / 3.0) * (1.0 + distance) * decay
    return (1.0 + distance) * decay + (5.0 / 3.0) * squared * decay, slope
