"""The candidates: draws of the sampler that no trial has. Bounded: the newest stay, and those that are kept.

Owns which draws are still to be had, and their rows. Must not know what they are worth.
"""

from collections.abc import Collection, Sequence

import numpy as np

from hyperband.guide.data import FloatArray
from hyperband.guide.encoding import Encoding, Flat

#: so many candidates are held
CAPACITY = 1500


class Pool:
    """Config ids and what is read from each, in the order in which they came."""

    def __init__(self) -> None:
        """It is empty."""
        self._configs: dict[str, Flat] = {}
        #: rows of those that have been encoded, as `_encoding` has them
        self._rows: dict[str, FloatArray] = {}
        self._encoding: Encoding | None = None

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self._configs)

    def __contains__(self, config_id: object) -> bool:
        """Whether this id is one."""
        return config_id in self._configs

    def ids(self) -> list[str]:
        """All of them, oldest first."""
        return list(self._configs)

    def add(self, config_id: str, config: Flat) -> None:
        """Take in a draw; one that is there changes nothing."""
        self._configs.setdefault(config_id, config)

    def config(self, config_id: str) -> Flat | None:
        """What is read from a candidate; None: it is not there."""
        return self._configs.get(config_id)

    def take(self, config_id: str) -> Flat | None:
        """Take one out, since a trial has it; None: it is not there."""
        self._rows.pop(config_id, None)
        return self._configs.pop(config_id, None)

    def trim(self, keep: Collection[str]) -> None:
        """Let the oldest go, but for those to keep, down to the capacity."""
        n_over = len(self._configs) - CAPACITY
        if n_over > 0:
            for config_id in [one for one in self._configs if one not in keep][:n_over]:
                self.take(config_id)

    def rows(self, encoding: Encoding) -> FloatArray:
        """(n, d), the rows of `ids()`; each is made once for an encoding."""
        if encoding is not self._encoding:
            self._encoding = encoding
            self._rows.clear()
        new: Sequence[str] = [one for one in self._configs if one not in self._rows]
        x = encoding.encode([self._configs[one] for one in new])
        self._rows.update(zip(new, x, strict=True))
        if not self._configs:
            return x
        return np.stack([self._rows[one] for one in self._configs])
