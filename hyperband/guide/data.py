"""What the model is given: configurations as rows of numbers, and what became of them. Arrays alone."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observed:
    """What jobs came to, one row for each that ended with a loss or failed for good, oldest first.

    A trial has a row for each number of epochs that it was trained to. There may be none, all may have
    failed, and losses may be as large as floats are.
    """

    #: (k, d), the configurations as `Encoding.encode` gives them
    x: FloatArray
    #: (k,), the total number of epochs at that point
    epochs: FloatArray
    #: (k,), finite; nan where the job failed for good
    loss: FloatArray
    #: (k,), seconds for each epoch trained; nan where unknown
    seconds_per_epoch: FloatArray
    #: (k,), 0 for this study, 1, 2, ... for those that it learns from: losses compare within a study only
    study: IntArray


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a model makes of candidates, as indices of theirs."""

    #: best first, each as if the ones before it were running already
    chosen: list[int]
    #: (m,), every candidate, best first, each as if it were the next
    order: IntArray


@dataclass(frozen=True, slots=True)
class Pending:
    """Jobs that run now."""

    #: (p, d), the configurations as `Encoding.encode` gives them
    x: FloatArray
    #: (p,), the total number of epochs that each trains to
    epochs: FloatArray
