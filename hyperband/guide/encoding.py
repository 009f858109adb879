"""Configurations as rows of numbers between 0 and 1, by what the sampler draws.

Owns which features there are, and their scales. No space is declared: the draws are the space. A number
becomes the share of the draws below it, so that what is drawn evenly on any scale, logarithms included, is
even here. Words become columns of their own. Must not know losses.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np

from hyperband.guide.data import FloatArray, IntArray
from hyperband.script.config import Value

#: a configuration, flat
Flat: TypeAlias = Mapping[str, Value]

#: more would cost the model its time, and no budget of trials would tell them apart
MAX_COLUMNS = 60
#: a feature has columns for so many words at most; all others look alike
_MAX_WORDS = 20
#: what fewer of the draws have, a name or a word, is left out
_FEWEST_SHARE = 0.01
_FEWEST = 2
#: floats beyond it are taken for it: the difference of two must be finite
_LARGEST = 8e307
#: names of what is no word of the configurations themselves; theirs have a blank in it
_ABSENT, _NUMBER = "absent", "number"
#: columns that agree to so many decimals are one
_DECIMALS = 6


def _number(value: Value) -> float:
    """The value as a finite number; nan: it is a word."""
    if value is None or isinstance(value, (bool, str)):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # a whole number that no float holds
        number = math.inf if value > 0 else -math.inf
    return number if math.isnan(number) else min(max(number, -_LARGEST), _LARGEST)


def _label(config: Flat, name: str) -> str:
    """What stands for the value among words: the text `True` is not the boolean, and all numbers are one."""
    if name not in config:
        return _ABSENT
    value = config[name]
    return f"{type(value).__name__} {value}" if math.isnan(_number(value)) else _NUMBER


@dataclass(frozen=True, slots=True, eq=False)
class _Feature:
    """One name. Its columns: one for its numbers, if it has several, then one for each of its words.

    A number is its share of the draws in the first, what is no number has the middle there; a word is 1 in
    its own column and 0 in those of the others.
    """

    name: str
    #: numbers that were drawn, ascending; none where they do not differ
    levels: FloatArray
    #: (n_levels,), from 0 to 1
    shares: FloatArray
    #: labels
    words: tuple[str, ...]

    @classmethod
    def read(cls, name: str, draws: Sequence[Flat]) -> Self | None:
        """As the draws have it; None where they do not differ, or where each differs from all others."""
        numbers = np.array([_number(draw[name]) for draw in draws if name in draw])
        levels, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
        fewest = max(_FEWEST, _FEWEST_SHARE * len(draws))
        if len(numbers) < fewest:
            return None
        labels = Counter(_label(draw, name) for draw in draws)
        has_levels = levels.size > 1
        if has_levels:
            del labels[_NUMBER]  # the others have columns: what has none is a number
        own = [label for label in labels if label not in (_ABSENT, _NUMBER)]
        kept = [label for label, n in labels.most_common(_MAX_WORDS) if n >= fewest]
        if 2 * sum(labels[label] for label in own if label in kept) < sum(labels[label] for label in own):
            kept = [label for label in kept if label not in own]  # most are nearly unique, such as a hash
        if not has_levels and kept and (len(kept) == len(labels) <= 2):
            kept = kept[1:]  # of two, one column says all; a single one says nothing
        if not has_levels:
            levels, shares = levels[:0], np.empty(0)
        else:
            ranks = np.cumsum(counts) - counts / 2
            shares = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
        return cls(name, levels, shares, tuple(kept)) if has_levels or kept else None

    def columns(self, configs: Sequence[Flat]) -> FloatArray:
        """(n, n_columns), one row for each configuration."""
        columns = []
        if self.levels.size:
            numbers = np.array([_number(config.get(self.name)) for config in configs], dtype=np.float64)
            columns.append(self._shares_of(numbers))
        if self.words:
            place = {word: index for index, word in enumerate(self.words)}
            found = np.array([place.get(_label(config, self.name), -1) for config in configs], dtype=np.int64)
            columns.extend((found == index).astype(np.float64) for index in range(len(self.words)))
        return np.column_stack(columns)

    def _shares_of(self, numbers: FloatArray) -> FloatArray:
        """Between two levels in proportion, beyond the last as the last."""
        above = np.clip(np.searchsorted(self.levels, numbers), 1, self.levels.size - 1)
        low, high = self.levels[above - 1], self.levels[above]
        # no slope, and nothing from beyond a level: over tiny steps either overflows
        part = (np.clip(numbers, low, high) - low) / (high - low)
        shares = self.shares[above - 1] * (1.0 - part) + self.shares[above] * part
        return np.where(np.isnan(numbers), 0.5, shares)


class Encoding:
    """How configurations of one space become rows."""

    def __init__(self, features: Sequence[_Feature], columns: Sequence[tuple[int, int]]) -> None:
        """Put together by `build`: the feature of each column, and its number among the feature's columns."""
        self._features = tuple(features)
        self._columns = tuple(columns)
        #: (d,), the number of each column's feature: columns of one feature share a length scale
        self.groups: IntArray = np.array([feature for feature, _ in columns], dtype=np.int64)
        #: of the features, in their order
        self.names: tuple[str, ...] = tuple(feature.name for feature in features)

    @classmethod
    def build(cls, draws: Sequence[Flat | None]) -> Self | None:
        """Read the space from draws of its sampler.

        Args:
            draws: as many as there are, repeats included; None for an id that could not be read.

        Returns:
            None when most ids cannot be read, or when they do not differ in anything that is recognised.
        """
        read = [draw for draw in draws if draw is not None]
        if 2 * len(read) < len(draws) or not read:
            return None
        # the names that most draws have come first: a space with more than there is room for loses conditions
        n_with = Counter(name for draw in read for name in draw)
        features: list[_Feature] = []
        columns: list[tuple[int, int]] = []
        seen: set[bytes] = set()
        for name, _ in n_with.most_common():
            feature = _Feature.read(name, read)
            if feature is None:
                continue
            fresh = [
                (len(features), index)
                for index, column in enumerate(feature.columns(read).T)
                if _is_new(column, seen)
            ]
            if fresh and len(columns) + len(fresh) <= MAX_COLUMNS:
                features.append(feature)
                columns += fresh
        return cls(features, columns) if columns else None

    def encode(self, configs: Sequence[Flat]) -> FloatArray:
        """The configurations as rows; names that the draws did not have are passed over.

        Returns:
            (n, d), from 0 to 1.
        """
        x = np.empty((len(configs), len(self._columns)))
        if configs:
            found = [feature.columns(configs) for feature in self._features]
            for place, (feature, index) in enumerate(self._columns):
                x[:, place] = found[feature][:, index]
        return x


def _is_new(column: FloatArray, seen: set[bytes]) -> bool:
    """Whether no column before said the same, or its opposite; it is then among those."""
    keys = {(np.round(values, _DECIMALS) + 0.0).tobytes() for values in (column, 1.0 - column)}
    is_new = seen.isdisjoint(keys)
    seen |= keys
    return is_new
