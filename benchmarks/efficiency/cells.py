"""The cells of the comparison on disk: one line of JSON each, one file per method and number of workers.

Owns the files. A file is replaced as a whole under a lock, so that neither a reader nor a kill leaves half a
cell, and several campaigns may write to one folder.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one task with one seed and one number of workers."""

    method: str
    task: str
    seed: int
    workers: int
    #: of the method; for ours with a digest of the code that decides
    version: str
    #: of the learning curves
    data: str
    #: full trainings per worker that it was followed for
    horizon: float
    #: (full trainings since the start, error in per cent) whenever the best error seen fell
    improvements: tuple[tuple[float, float], ...]
    n_jobs: int
    n_epochs: int
    #: seconds that the method and the simulation took
    wall_s: float
    #: UTC, when it was done
    ran_at: str

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the others of its file."""
        return (self.task, self.seed)

    def error_at(self, mark: float) -> float | None:
        """The best error seen by `mark` full trainings; None: none was seen by then."""
        found = None
        for at, error in self.improvements:
            if at > mark:
                break
            found = error
        return found

    def serves(self, *, versions: Set[str], data: str, horizon: float) -> bool:
        """Whether it need not be run again."""
        return self.is_of(versions=versions, data=data) and self.horizon >= horizon

    def is_of(self, *, versions: Set[str], data: str) -> bool:
        """Whether it is of one of these versions of the method and of these curves."""
        return self.version in versions and self.data == data

    def says_the_same(self, other: "Cell") -> bool:
        """Whether the same was found by the same work."""
        mine, others = ((one.key, one.n_jobs, one.n_epochs, one.improvements) for one in (self, other))
        return mine == others


class BrokenCells(Exception):
    """A file holds something that is no cell."""


class Cells:
    """A folder of cells."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first cell is written."""
        self.folder = folder

    def of(self, method: str, workers: int) -> dict[tuple[str, int], Cell]:
        """Every cell of a method with so many workers, by task and seed.

        Raises:
            BrokenCells: a line is no cell.
        """
        path = self._path(method, workers)
        if not path.exists():
            return {}
        found = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                fields = json.loads(line)
                steps = tuple((float(at), float(error)) for at, error in fields.pop("improvements"))
                cell = Cell(improvements=steps, **fields)
            except (ValueError, TypeError, KeyError) as err:
                raise BrokenCells(
                    f"line {number} of {path} is no cell ({err}). Delete the line: its cell is run again."
                ) from err
            found[cell.key] = cell
        return found

    def put(self, cell: Cell) -> None:
        """Add a cell, in place of one with the same key."""
        path = self._path(cell.method, cell.workers)
        with self._locked():
            found = {**self.of(cell.method, cell.workers), cell.key: cell}
            written = path.with_name(f"{path.name}.{os.getpid()}.new")
            lines = [json.dumps(asdict(found[key]), separators=(",", ":")) for key in sorted(found)]
            written.write_text("\n".join(lines) + "\n")
            written.replace(path)

    def _path(self, method: str, workers: int) -> Path:
        return self.folder / f"{method}.w{workers}.jsonl"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        held = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
        finally:
            os.close(held)
