"""What a task's errors and seconds are measured against: its best, its median, its full training.

Owns the reference figures of a task and their file beside the cells. Must not know methods.
"""

import hashlib
import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from efficiency.landscape import Curve, Landscape

N_RANDOM = 10_000
_BATCH = 200
#: of the best random configurations, so many are improved upon
_N_LOCAL = 10
#: standard deviations of the steps in the unit cube, from wide to narrow
_STEPS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
#: neighbours tried at once; a step is made narrower when none is better
_N_NEIGHBOURS = 24


@dataclass(frozen=True, slots=True)
class Scale:
    """The reference figures of one task."""

    #: lowest error in per cent, of any epoch, that was found
    best: float
    #: median error of a random configuration after its last epoch
    median: float
    #: highest error of a random configuration after its last epoch
    worst: float
    #: mean seconds that a random configuration takes for all epochs: the unit of budgets
    full_training_s: float
    n_random: int
    #: of `load.py` and of all that lies beside it
    data_sha256: str

    def regret(self, error: float) -> float:
        """0: the best known; 1: the median random configuration fully trained."""
        return (error - self.best) / (self.median - self.best)


def data_sha256(folder: Path) -> str:
    """One digest of the files of a folder of learning curves."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in {".py", ".npz", ".json"}):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def scales(
    landscape: Landscape, tasks: list[str], *, file: Path, sha256: str, n_random: int = N_RANDOM
) -> dict[str, Scale]:
    """The figures of these tasks, from the file, or computed and written there."""
    found = _read(file)
    for task in tasks:
        known = found.get(task)
        if known is None or known.data_sha256 != sha256 or known.n_random != n_random:
            print(f"task {task}: its best, median and full training, once ...", flush=True)
            found[task] = measured(landscape, task, n_random=n_random, sha256=sha256)
            _write(file, {**_read(file), task: found[task]})
    return {task: found[task] for task in tasks}


def measured(landscape: Landscape, task: str, *, n_random: int, sha256: str) -> Scale:
    """`n_random` random configurations, and a local search from the best of them."""
    rng = np.random.default_rng(0)
    unit = rng.random((n_random, len(landscape.space)))
    curves: list[Curve] = []
    for first in range(0, n_random, _BATCH):
        curves += landscape.curves(task, landscape.from_unit(unit[first : first + _BATCH]))
    lowest = np.array([min(curve.errors) for curve in curves])
    finals = [curve.errors[-1] for curve in curves]
    starts = np.argsort(lowest)[:_N_LOCAL]
    best = min(_descended(landscape, task, unit[i], float(lowest[i]), rng) for i in starts)
    return Scale(
        best=best,
        median=statistics.median(finals),
        worst=max(finals),
        full_training_s=landscape.max_epochs * statistics.fmean(curve.epoch_s for curve in curves),
        n_random=n_random,
        data_sha256=sha256,
    )


def _descended(
    landscape: Landscape, task: str, point: np.ndarray, lowest: float, rng: np.random.Generator
) -> float:
    """The lowest error that steps of shrinking width lead to from this point of the unit cube."""
    for step in _STEPS:
        while True:
            noise = rng.normal(0, step, (_N_NEIGHBOURS, len(point)))
            # a step along a few axes only: most of them are right already
            noise *= rng.random(noise.shape) < 0.5
            near = np.clip(point + noise, 0, 1)
            errors = [min(curve.errors) for curve in landscape.curves(task, landscape.from_unit(near))]
            i = int(np.argmin(errors))
            if errors[i] >= lowest - 1e-9:
                break
            point, lowest = near[i], errors[i]
    return lowest


def _read(file: Path) -> dict[str, Scale]:
    if not file.exists():
        return {}
    return {task: Scale(**figures) for task, figures in json.loads(file.read_text()).items()}


def _write(file: Path, found: dict[str, Scale]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f"{file.name}.{os.getpid()}.new")
    written.write_text(json.dumps({task: asdict(found[task]) for task in sorted(found)}, indent=1) + "\n")
    written.replace(file)
