"""The learning curves that are searched: a folder with its own `load.py`, read here and nowhere else.

Owns the way from a task and a configuration to its errors and its seconds per epoch. Must not know methods,
clocks or cells. Runs in the environments of the peers too: standard library and numpy only.
"""

import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

#: what stands in `load.py`, and where the data come from
SOURCE = (
    "a folder with load.py, npnet.py, surrogate.npz and tasks.json: the learning curves of LCBench "
    "(Apache-2.0, doi 10.6084/m9.figshare.13286105) as the surrogate of YAHPO Gym's yahpo_data (scenario "
    "lcbench) predicts them"
)
#: so many curves are kept: searches without a model share their configurations, and promoted ones come again
_N_KEPT = 40_000


class NoData(Exception):
    """The folder of the learning curves is missing, or is not one."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the values that a configuration has."""

    name: str
    is_int: bool
    low: float
    high: float
    is_log: bool

    def native(self, value: float) -> float:
        """The value, rounded if it is a whole number, within its bounds."""
        return float(min(max(round(value) if self.is_int else value, self.low), self.high))


@dataclass(frozen=True, slots=True)
class Curve:
    """What a configuration does when it is trained."""

    #: validation error in per cent after epochs 1, 2, ...
    errors: tuple[float, ...]
    epoch_s: float


def default_folder() -> Path:
    """LCBENCH_DIR, or else the folder beside the project."""
    named = os.environ.get("LCBENCH_DIR")
    return Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "lcbench"


class Landscape:
    """The curves of every task of one folder."""

    def __init__(self, folder: Path) -> None:
        """Import `load.py` of this folder.

        Raises:
            NoData: there is none.
        """
        self._load = _imported(folder)
        self._bench = self._load.LCBench()
        self.max_epochs = int(self._load.MAX_EPOCH)
        self.space = tuple(
            Parameter(name, kind == "int", float(low), float(high), bool(is_log))
            for name, kind, low, high, is_log in self._load.SPACE
        )
        self.tasks = tuple(str(task) for task in self._load.TASKS)
        self._kept: dict[tuple[str, tuple[float, ...]], Curve] = {}

    def from_unit(self, rows: Any) -> tuple[tuple[float, ...], ...]:  # noqa: ANN401  # whatever numpy takes
        """Configurations of points in the unit cube: (n, d) -> n rows of native values."""
        return tuple(tuple(map(float, row)) for row in self._load.from_unit(np.asarray(rows, dtype=float)))

    def curve(self, task: str, values: Sequence[float]) -> Curve:
        """The curve of one configuration, kept for its next job.

        Args:
            task: one of `tasks`.
            values: native values in the order of `space`.
        """
        row = tuple(parameter.native(value) for parameter, value in zip(self.space, values, strict=True))
        key = (task, row)
        if key not in self._kept:
            if len(self._kept) >= _N_KEPT:
                self._kept.clear()
            self._kept[key] = self.curves(task, [row])[0]
        return self._kept[key]

    def curves(self, task: str, rows: Sequence[Sequence[float]]) -> list[Curve]:
        """The curves of many configurations.

        Raises:
            NoData: an error or a time is no number.
        """
        found = self._bench.curve(task, np.asarray(rows, dtype=float))
        curves = [
            Curve(tuple(map(float, errors)), float(epoch_s))
            for errors, epoch_s in zip(found["err"], found["epoch_time"], strict=True)
        ]
        for curve in curves:
            if not all(map(math.isfinite, curve.errors)) or not curve.epoch_s > 0:
                raise NoData(f"task {task} has a curve {curve}, but errors must be finite and times above 0")
        return curves


def _imported(folder: Path) -> ModuleType:
    """The folder's `load.py`, which imports its neighbours by name."""
    path = folder / "load.py"
    if not path.is_file():
        raise NoData(
            f"{path} does not exist, but must hold the learning curves: {SOURCE}. "
            "Name its folder with --data or LCBENCH_DIR."
        )
    name = f"_learning_curves_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # its neighbours are its own, not those of a folder that was read before
    for neighbour in folder.glob("*.py"):
        sys.modules.pop(neighbour.stem, None)
    sys.path.insert(0, str(folder.resolve()))
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as err:
        raise NoData(
            f"{path} could not be imported ({err}), but must hold the learning curves: {SOURCE}"
        ) from err
    finally:
        sys.path.remove(str(folder.resolve()))
    return module
