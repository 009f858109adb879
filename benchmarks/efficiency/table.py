"""The figures of the comparison, from cells alone.

Owns the arithmetic and its words. Must not know how a cell came about.

The regret of a cell at a mark is that of the best error seen by then; before the first observation it is that
of the worst random configuration, for every method. A seed counts at a mark when it has a cell for every task
that reaches the mark. The mean of a method is that over its seeds of the mean over the tasks; its standard
error is the standard deviation of the seeds' means over the root of their number.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from efficiency.cells import Cell
from efficiency.scale import Scale

Found = Mapping[tuple[str, int], Cell]
#: full trainings per worker -> for which numbers of workers it is looked at
MARKS: Mapping[float, tuple[int, ...]] = {
    0.5: (8, 32),
    1: (1, 8, 32),
    2: (1, 8, 32),
    5: (1, 8, 32),
    10: (1, 8, 32),
    20: (1, 8, 32),
}


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds."""

    mean: float
    #: None: one seed alone says nothing about it
    error: float | None
    n_seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.error is None else f"{self.mean:.3f} ±{self.error:.3f}"


def marks(workers: int) -> list[float]:
    """The marks of a number of workers; all of them for a number that the list does not have."""
    return [
        mark for mark, for_workers in MARKS.items() if workers in for_workers or workers not in (1, 8, 32)
    ]


def regret(cell: Cell, scale: Scale, mark: float) -> float:
    """The regret of a cell at a mark that it reaches."""
    error = cell.error_at(mark)
    return scale.regret(scale.worst if error is None else error)


def by_seed(found: Found, tasks: Sequence[str], scales: Mapping[str, Scale], mark: float) -> dict[int, float]:
    """Seed -> mean regret over these tasks, for the seeds that have all of them at the mark."""
    means = {}
    for seed in sorted({seed for _, seed in found}):
        cells = [found.get((task, seed)) for task in tasks]
        reaching = [cell for cell in cells if cell is not None and cell.horizon >= mark]
        if len(reaching) == len(tasks):
            means[seed] = statistics.fmean(regret(cell, scales[cell.task], mark) for cell in reaching)
    return means


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and standard error; None of nothing."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error, len(values))


def means_table(
    found: Mapping[str, Found], tasks: Sequence[str], scales: Mapping[str, Scale], workers: int
) -> str:
    """One row a method: mean, standard error and rank at each mark, and the seeds behind it."""
    columns: list[dict[str, Mean]] = []
    for mark in marks(workers):
        means = {
            name: mean_of([*by_seed(cells, tasks, scales, mark).values()]) for name, cells in found.items()
        }
        columns.append({name: mean for name, mean in means.items() if mean is not None})
    rows = []
    for name in found:
        ours = [column.get(name) for column in columns]
        if not any(ours):
            continue
        row = [name, _seeds([mean.n_seeds for mean in ours if mean is not None])]
        for mean, column in zip(ours, columns, strict=True):
            row.append("-" if mean is None else f"{mean} {'(' + str(_rank(name, column)) + ')':>4}")
        rows.append(row)
    headers = ["method", "seeds", *(f"{mark:g}" for mark in marks(workers))]
    return tabulate(
        rows, headers, disable_numparse=True, colalign=["left", "right"] + ["right"] * len(columns)
    )


def _seeds(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _rank(name: str, column: Mapping[str, Mean]) -> int:
    return 1 + sum(other.mean < column[name].mean for other in column.values())


@dataclass(frozen=True, slots=True)
class Paired:
    """How a method compares with another at the marks of the tasks, by seeds that both have."""

    n_comparisons: int
    n_worse: int
    n_better: int
    #: (task, mark, mean difference, standard error) where it is worse
    worse: tuple[tuple[str, float, float, float], ...]


def paired(
    found: Found, base: Found, tasks: Sequence[str], scales: Mapping[str, Scale], workers: int
) -> Paired:
    """Differences of regret by seed; two standard errors of their mean make one worse, or better."""
    n, better = 0, 0
    worse = []
    for task in tasks:
        for mark in marks(workers):
            gaps = []
            for (of_task, seed), cell in found.items():
                other = base.get((task, seed))
                if of_task == task and other is not None and min(cell.horizon, other.horizon) >= mark:
                    gaps.append(regret(cell, scales[task], mark) - regret(other, scales[task], mark))
            mean = mean_of(gaps)
            if mean is None or mean.error is None:
                continue
            n += 1
            better += mean.mean < -2 * mean.error
            if mean.mean > 2 * mean.error:
                worse.append((task, mark, mean.mean, mean.error))
    return Paired(n, len(worse), better, tuple(worse))


def paired_table(
    found: Mapping[str, Found], base: str, tasks: Sequence[str], scales: Mapping[str, Scale], workers: int
) -> str:
    """One row a method: in how many comparisons with `base` it is worse, better, and where it is worse."""
    rows = []
    for name, cells in found.items():
        if name == base:
            continue
        result = paired(cells, found[base], tasks, scales, workers)
        if result.n_comparisons == 0:
            continue
        where = ", ".join(f"{task} at {mark:g}" for task, mark, _, _ in result.worse)
        rows.append([name, f"{result.n_worse} of {result.n_comparisons}", str(result.n_better), _cut(where)])
    headers = ["method", "worse", "better", "worse where"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", "right", "right", "left"])


def _cut(words: str, length: int = 60) -> str:
    return words if len(words) <= length else words[: length - 4] + " ..."
