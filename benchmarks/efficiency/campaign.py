"""The campaign: every missing cell, by seed first, so that one cut short has all methods at few seeds.

Owns the processes that simulate. Must not know how a method is driven or what is printed of its cells.
"""

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from efficiency import environments
from efficiency.cells import Cell, Cells
from efficiency.methods import NAMED, MethodKind
from efficiency.scale import Scale

_BENCHMARKS = Path(__file__).resolve().parents[1]
#: of improvements within this part of a full training only the last is kept, so that the files stay small
_GRID = 0.1
_TIME_DIGITS = 4
_ERROR_DIGITS = 3


class CellFailed(Exception):
    """A method raised, or its process died."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cell to be run."""

    method: MethodKind
    task: str
    seed: int
    workers: int
    horizon: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie."""

    data: Path
    data_sha256: str
    cells: Cells
    environments: Path


def wanted(
    places: Places,
    methods: Sequence[MethodKind],
    *,
    tasks: Sequence[str],
    seeds: Sequence[int],
    workers: Sequence[int],
    horizon: float | None,
) -> list[Wanted]:
    """The cells that are missing, stale or too short, in the order of the campaign.

    Args:
        places: where the cells lie.
        methods: what is compared.
        tasks: names of tasks.
        seeds: in the order in which they are run.
        workers: numbers of workers.
        horizon: full trainings per worker at most; None: as far as each method goes.
    """
    known = {(method.name, n): places.cells.of(method.name, n) for method in methods for n in workers}
    found = []
    for seed in seeds:
        for n in workers:
            for method in methods:
                far = method.horizon(n)
                far = far if horizon is None else min(far, horizon)
                for task in tasks:
                    cell = known[method.name, n].get((task, seed))
                    is_done = cell is not None and cell.serves(
                        versions=method.versions, data=places.data_sha256, horizon=far
                    )
                    if not is_done:
                        found.append(Wanted(method, task, seed, n, far))
    return found


def differing(places: Places, cells: Sequence[Cell], scales: dict[str, Scale]) -> list[str]:
    """Run cells again, keep none, and name those that do not come out the same.

    Raises:
        CellFailed: one cannot be run.
    """
    found = []
    for number, cell in enumerate(cells, 1):
        method = NAMED[cell.method]
        server = _Server(places, method)
        try:
            wanted = Wanted(method, cell.task, cell.seed, cell.workers, cell.horizon)
            again = _asked(places, server, wanted, scales[cell.task])
        finally:
            server.close()
        name = f"{cell.method}, task {cell.task}, seed {cell.seed}, {cell.workers} workers"
        is_same = again.says_the_same(cell)
        print(f"{number}/{len(cells)} {name}: {'the same' if is_same else 'DIFFERENT'}", flush=True)
        found += [] if is_same else [name]
    return found


class _Server:
    """A process in the environment of a driver, which answers one request at a time."""

    def __init__(self, places: Places, method: MethodKind) -> None:
        interpreter = (
            Path(sys.executable)
            if method.environment is None
            else environments.python(places.environments, method.environment)
        )
        paths = [str(_BENCHMARKS)] + ([str(_BENCHMARKS.parent)] if method.environment is None else [])
        self._process = subprocess.Popen(
            [str(interpreter), "-m", "efficiency.serve", str(places.data), method.driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        #: of the code that it imports
        self.version = method.version
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = [*self._said[-20:], line]

    def ask(self, request: dict[str, object]) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._listener.join(1)
            raise CellFailed(f"its process ended with status {status}:\n{''.join(self._said)}")
        answer: dict[str, object] = json.loads(line)
        if "failure" in answer:
            raise CellFailed(str(answer["failure"]))
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def run(places: Places, cells: Sequence[Wanted], scales: dict[str, Scale], *, n_jobs: int) -> list[str]:
    """Run these cells in `n_jobs` processes; the failures in words, by cell.

    A cell that fails is told and left out; the others go on.
    """
    todo: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
    for cell in cells:
        todo.put(cell)
    servers: list[dict[str, _Server]] = [{} for _ in range(n_jobs)]
    done = _Done(len(cells))
    threads = [
        threading.Thread(target=_work, args=(places, todo, scales, mine, done), daemon=True)
        for mine in servers
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        done.over.set()
        for mine in servers:
            for server in list(mine.values()):
                server.close()
    if done.broken is not None:
        raise done.broken
    return done.failures


class _Done:
    """What was done so far, said line by line."""

    def __init__(self, n_wanted: int) -> None:
        self.failures: list[str] = []
        self.broken: BaseException | None = None
        self.over = threading.Event()
        self._n_wanted = n_wanted
        self._n_done = 0
        self._lock = threading.Lock()

    def say(self, cell: Wanted, words: str, *, failed: bool = False) -> None:
        name = f"{cell.method.name}, task {cell.task}, seed {cell.seed}, {cell.workers} workers"
        with self._lock:
            self._n_done += 1
            if failed:
                self.failures.append(f"{name}: {words}")
            print(f"{self._n_done}/{self._n_wanted} {name}: {words}", flush=True)


def _work(
    places: Places,
    todo: "queue.SimpleQueue[Wanted]",
    scales: dict[str, Scale],
    servers: dict[str, _Server],
    done: _Done,
) -> None:
    """One of the parallel lines of work: a server per driver, kept for the next cell."""
    try:
        while not done.over.is_set():
            try:
                cell = todo.get_nowait()
            except queue.Empty:
                return
            where = f"{cell.method.environment} {cell.method.driver}"
            try:
                if where in servers and servers[where].version != cell.method.version:
                    servers.pop(where).close()  # our code has changed since that process imported it
                if where not in servers:
                    servers[where] = _Server(places, cell.method)
                began_s = time.monotonic()
                places.cells.put(_asked(places, servers[where], cell, scales[cell.task]))
                done.say(cell, f"{time.monotonic() - began_s:.1f} s")
            except CellFailed as err:
                if done.over.is_set():
                    return
                if where in servers:
                    servers.pop(where).close()
                done.say(cell, f"failed: {err}", failed=True)
    except BaseException as err:  # noqa: BLE001  # told by `run`, where it is raised again
        done.broken = err
        done.over.set()


def _asked(places: Places, server: _Server, cell: Wanted, scale: Scale) -> Cell:
    """The cell as its server simulated it."""
    unit_s = scale.full_training_s
    answer = server.ask(
        {
            "method": cell.method.argument,
            "task": cell.task,
            "seed": cell.seed,
            "workers": cell.workers,
            "horizon_s": cell.horizon * unit_s,
        }
    )
    steps = answer["improvements"]
    assert isinstance(steps, list)
    return Cell(
        method=cell.method.name,
        task=cell.task,
        seed=cell.seed,
        workers=cell.workers,
        version=server.version,
        data=places.data_sha256,
        horizon=cell.horizon,
        improvements=thinned([(at_s / unit_s, error) for at_s, error in steps]),
        n_jobs=int(str(answer["n_jobs"])),
        n_epochs=int(str(answer["n_epochs"])),
        wall_s=float(str(answer["wall_s"])),
        ran_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
    )


def thinned(steps: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The improvements that say what was best at each multiple of a tenth of a full training."""
    last: dict[int, tuple[float, float]] = {}
    for at, error in steps:
        last[math.ceil(at / _GRID)] = (round(at, _TIME_DIGITS), round(error, _ERROR_DIGITS))
    return tuple(last.values())
