"""What is known of trials: which ids they have, what those mean, and what became of them. Made for a million.

Owns the observations of all studies as arrays, and the rows of their configurations; each is encoded once for
an encoding. Must not know candidates or the model.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from hyperband.guide.data import FloatArray, Observed, Pending
from hyperband.guide.encoding import Encoding, Flat
from hyperband.guide.messages import Ids, Observations, Running
from hyperband.script.config import Value

#: names and values of a configuration: a small part of what a dict of them takes
_Packed: TypeAlias = tuple[tuple[str, ...], tuple[Value, ...]]

#: so many configurations are encoded at once
_PART = 4096
#: what is known of an id
_UNKNOWN, _READ, _UNREADABLE = 0, 1, 2


class Ledger:
    """Trials of this study (0) and of those that it learns from (1, 2, ...)."""

    def __init__(self) -> None:
        """Nothing is known, and there is no encoding."""
        #: every id of a trial, numbered as they came; one that two studies have is one
        self._numbers: dict[str, int] = {}
        self._known = bytearray()
        #: configurations by number; given up when the encoding is final
        self._configs: list[_Packed | None] | None = []
        #: every set of names that configurations have, once
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._encoding: Encoding | None = None
        #: rows by number, one after the other; a row of zeros where none is known
        self._rows = array("d")
        #: numbers of the trials' ids, by study and trial
        self._trials: dict[int, array[int]] = {}
        # the columns of the observations
        self._ids = array("q")
        self._studies = array("q")
        self._epochs = array("d")
        self._losses = array("d")
        self._seconds = array("d")
        self._running: list[tuple[int, int]] = []

    def __len__(self) -> int:
        """How many observations there are, those included whose ids are not read."""
        return len(self._ids)

    def add_ids(self, told: Ids) -> list[str]:
        """Take in the ids of the next trials; those of them that nothing is known of."""
        trials = self._trials.setdefault(told.study, array("q"))
        new: list[str] = []
        for config_id in told.ids:
            number = self._numbers.setdefault(config_id, len(self._numbers))
            if number == len(self._known):
                self._known.append(_UNKNOWN)
                if self._configs is not None:
                    self._configs.append(None)
                new.append(config_id)
            trials.append(number)
        self._rows.frombytes(bytes(self._rows.itemsize * len(new) * self._width))
        return new

    def add_observations(self, told: Observations) -> None:
        """Take in what jobs came to."""
        trials = self._trials[told.study]
        self._ids.extend(trials[trial] for trial in told.trials)
        self._studies.extend([told.study] * len(told.trials))
        self._epochs.extend(told.epochs)
        self._losses.extend(np.nan if loss is None else loss for loss in told.losses)
        self._seconds.extend(np.nan if one is None else one for one in told.seconds_per_epoch)

    def set_running(self, told: Running) -> None:
        """Take in which jobs of this study run now."""
        trials = self._trials.get(0, array("q"))
        self._running = [
            (trials[trial], epochs) for trial, epochs in zip(told.trials, told.epochs, strict=True)
        ]

    def describe(self, found: Mapping[str, Flat | None]) -> None:
        """Take in what ids of trials mean; None: they cannot be read."""
        numbers = [self._numbers[config_id] for config_id in found]
        read: list[int] = []
        configs: list[Flat] = []
        for number, config in zip(numbers, found.values(), strict=True):
            self._known[number] = _UNREADABLE if config is None else _READ
            if config is not None:
                read.append(number)
                configs.append(config)
            if self._configs is not None:
                self._configs[number] = None if config is None else self._packed(config)
        if self._encoding is not None:
            self._write(read, self._encoding.encode(configs))

    def use(self, encoding: Encoding, *, is_final: bool) -> None:
        """Encode all anew; after a final encoding no other may come.

        Raises:
            ValueError: one came.
        """
        if self._configs is None:
            raise ValueError("another encoding came after the final one")
        self._encoding = encoding
        self._rows = array("d", bytes(self._rows.itemsize * len(self._known) * self._width))
        read = [number for number, config in enumerate(self._configs) if config is not None]
        for first in range(0, len(read), _PART):
            part = read[first : first + _PART]
            packed = [self._configs[number] for number in part]
            self._write(part, encoding.encode([dict(zip(*one, strict=True)) for one in packed if one]))
        if is_final:
            self._configs = None

    def _packed(self, config: Flat) -> _Packed:
        names = tuple(config)
        return self._names.setdefault(names, names), tuple(config.values())

    @property
    def _width(self) -> int:
        return 0 if self._encoding is None else len(self._encoding.groups)

    def _matrix(self) -> FloatArray:
        """A view of the rows; none may be added while it is held."""
        return np.frombuffer(self._rows, dtype=np.float64).reshape(len(self._known), self._width)

    def _write(self, numbers: Sequence[int], x: FloatArray) -> None:
        self._matrix()[numbers] = x

    def observed(self) -> Observed:
        """The observations whose ids are read."""
        ids = np.array(self._ids, dtype=np.int64)
        is_read = np.array(self._known, dtype=np.uint8)[ids] == _READ
        return Observed(
            x=self._matrix()[ids[is_read]],
            epochs=np.array(self._epochs)[is_read],
            loss=np.array(self._losses)[is_read],
            seconds_per_epoch=np.array(self._seconds)[is_read],
            study=np.array(self._studies, dtype=np.int64)[is_read],
        )

    def pending(self) -> Pending:
        """The running jobs whose ids are read."""
        read = [(number, epochs) for number, epochs in self._running if self._known[number] == _READ]
        return Pending(
            x=self._matrix()[[number for number, _ in read]],
            epochs=np.array([epochs for _, epochs in read], dtype=np.float64),
        )
