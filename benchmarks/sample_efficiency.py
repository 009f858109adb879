"""How little training a search needs: hyperband and its peers from PyPI on recorded learning curves.

Run it from the repository:  python benchmarks/sample_efficiency.py --make-environments .venv-peers
                             python benchmarks/sample_efficiency.py --environments .venv-peers

Each cell follows one method on one task with one seed and one number of workers, in the seconds of the
learning curves: an epoch of a configuration takes as long as the curves say; deciding takes no time; starting
costs nothing; a trial that goes on resumes from its checkpoint and pays only its new epochs, for every
method, also for those whose own runner would train it again. For peers every epoch's error counts when the
epoch ends; for ours only those at the ends of jobs, which is all that the tool sees.

Printed is the normalised regret of the best validation error seen, after so many full trainings per worker: 0
is the lowest error that 10,000 random configurations and a local search found, 1 the median random
configuration after all epochs; a full training is the mean time of all epochs of a random configuration. Each
mean is over the tasks and then over the seeds, with the standard error over the seeds and the rank among the
methods; `-` is beyond the horizon to which a method was followed. Then, against plain ASHA: at how many marks
of tasks a method's regret is higher by more than two standard errors of the difference paired by seed.

Cells are kept, and what is missing, too short or of other code is run: stop it at any time, and go on later.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from efficiency import campaign, environments, table
from efficiency.cells import BrokenCells, Cell, Cells
from efficiency.landscape import Landscape, NoData, default_folder
from efficiency.methods import BASELINES, METHODS, NAMED, SAME, MethodKind, code_sha256
from efficiency.scale import N_RANDOM, Scale, data_sha256, scales

_ROOT = Path(__file__).resolve().parent.parent
#: the tasks of the published lines
FIVE = ("126026", "167190", "168330", "168910", "189906")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="How little training a search needs, ours and its peers'.")
    made.add_argument("--data", type=Path, default=default_folder(), help="learning curves (LCBENCH_DIR)")
    cells = Path(__file__).resolve().parent / "efficiency" / "cells"
    made.add_argument("--cells", type=Path, default=cells, help="folder of the cells (efficiency/cells)")
    made.add_argument("--methods", help="names, comma-separated; a * stands for anything (all but extras)")
    made.add_argument("--tasks", default=",".join(FIVE), help="comma-separated, or all (five)")
    made.add_argument("--seeds", default="0-19", help="such as 0-19 or 0,3,7-9 (0-19)")
    made.add_argument("--workers", default="1,8,32", help="comma-separated (1,8,32)")
    made.add_argument("--horizon", type=float, help="full trainings per worker at most (each method's own)")
    made.add_argument("--jobs", type=int, default=1, help="processes that simulate at once (1)")
    made.add_argument("--only-table", action="store_true", help="run nothing")
    made.add_argument("--by-task", action="store_true", help="a table for each task too")
    made.add_argument("--list", action="store_true", help="name the methods, and end")
    made.add_argument(
        "--environments", type=Path, default=_ROOT / ".venv-peers", help="the peers' (.venv-peers)"
    )
    made.add_argument(
        "--make-environments", type=Path, metavar="DIR", help="install the peers there with pip, and end"
    )
    made.add_argument(
        "--verify",
        type=int,
        metavar="N",
        help="run N stale cells of ours again; if all come out the same, the others count as well",
    )
    # a smaller reference, for tests
    made.add_argument("--random", type=int, default=N_RANDOM, help=argparse.SUPPRESS)
    return made


def chosen(patterns: str | None) -> list[MethodKind]:
    """The methods with these names.

    Raises:
        ValueError: a name fits none.
    """
    if patterns is None:
        return [method for method in METHODS if not method.is_extra]
    found: dict[str, MethodKind] = {}
    for pattern in patterns.split(","):
        fitting = [method for method in METHODS if Path(method.name).match(pattern)]
        if not fitting:
            raise ValueError(f"--methods has {pattern!r}, but the methods are {', '.join(NAMED)}")
        found.update((method.name, method) for method in fitting)
    return [method for method in METHODS if method.name in found]


def numbers(option: str, text: str) -> list[int]:
    """`0-2,7` -> 0, 1, 2, 7.

    Raises:
        ValueError: it is no such list.
    """
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or (dash and (not high.isdigit() or int(high) < int(low))):
            raise ValueError(
                f"{option} is {text!r}, but must be whole numbers and ranges such as 0-19 or 0,3,7"
            )
        found += range(int(low), int(high if dash else low) + 1)
    return found


def main(words: Sequence[str]) -> None:
    """Run what is missing and print the tables."""
    arguments = parser().parse_args(words)
    if arguments.list:
        for method in METHODS:
            print(f"{method.name:<28} {method.version}{', extra' if method.is_extra else ''}")
        return
    try:
        methods = chosen(arguments.methods)
        if arguments.make_environments is not None:
            environments.make(
                arguments.make_environments,
                list(dict.fromkeys(method.environment for method in methods if method.environment)),
            )
            return
        n_failed = compare(arguments, methods)
    except (ValueError, NoData, BrokenCells, environments.NoEnvironment) as err:
        raise SystemExit(f"sample_efficiency.py: {err}") from None
    except subprocess.CalledProcessError as err:
        raise SystemExit(f"sample_efficiency.py: {' '.join(err.cmd)} ended with {err.returncode}") from None
    sys.exit(1 if n_failed else 0)


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def compare(arguments: argparse.Namespace, methods: list[MethodKind]) -> int:
    """Run the campaign unless told not to, print the tables; how many cells failed."""
    landscape = Landscape(arguments.data)
    tasks = list(landscape.tasks) if arguments.tasks == "all" else arguments.tasks.split(",")
    for task in tasks:
        if task not in landscape.tasks:
            raise ValueError(f"--tasks has {task}, but {arguments.data} has {', '.join(landscape.tasks)}")
    workers = numbers("--workers", arguments.workers)
    if 0 in workers:
        raise ValueError(f"--workers is {arguments.workers}, but each number must be at least 1")
    seeds = numbers("--seeds", arguments.seeds)
    if arguments.horizon is not None and not arguments.horizon > 0:
        raise ValueError(f"--horizon is {arguments.horizon}, but must be above 0")
    if arguments.jobs < 1:
        raise ValueError(f"--jobs is {arguments.jobs}, but must be at least 1")
    places = campaign.Places(
        data=arguments.data,
        data_sha256=data_sha256(arguments.data),
        cells=Cells(arguments.cells),
        environments=arguments.environments,
    )
    known = scales(
        landscape,
        tasks,
        file=arguments.cells / "scale.json",
        sha256=places.data_sha256,
        n_random=arguments.random,
    )
    if arguments.verify is not None:
        return verify(places, methods, known, n=arguments.verify)
    failures: list[str] = []
    if not arguments.only_table:
        cells = campaign.wanted(
            places, methods, tasks=tasks, seeds=seeds, workers=workers, horizon=arguments.horizon
        )
        failures = campaign.run(places, cells, known, n_jobs=arguments.jobs)
    for n in workers:
        show(places, methods, tasks, seeds, n, known, by_task=arguments.by_task)
    for failure in failures:
        print(f"FAILED {failure}")
    return len(failures)


def verify(places: campaign.Places, methods: list[MethodKind], known: dict[str, Scale], *, n: int) -> int:
    """Run stale cells of ours again, and note it when they come out the same; how many did not.

    Raises:
        ValueError: there are none, or of several versions.
    """
    ours = [method for method in methods if method.environment is None]
    stale = [
        cell
        for method in ours
        for workers in (1, 8, 32)
        for cell in places.cells.of(method.name, workers).values()
        if not cell.is_of(versions=method.versions, data=places.data_sha256) and cell.task in known
    ]
    versions = sorted({cell.version for cell in stale})
    if len(versions) != 1 or n < 1:
        raise ValueError(f"--verify {n} needs stale cells of one version, but there are {versions or 'none'}")
    # spread over methods, tasks and seeds
    taken = stale[:: max(1, len(stale) // n)][:n]
    different = campaign.differing(places, taken, known)
    if not different:
        same = json.loads(SAME.read_text()) if SAME.exists() else {}
        same[code_sha256()] = {"same_as": versions[0].split()[1], "n_cells": len(taken)}
        SAME.write_text(json.dumps(same, indent=1) + "\n")
        print(f"{len(taken)} of {len(stale)} cells came out the same: all of them count ({SAME.name})")
    return len(different)


def show(
    places: campaign.Places,
    methods: list[MethodKind],
    tasks: list[str],
    seeds: list[int],
    workers: int,
    known: dict[str, Scale],
    *,
    by_task: bool,
) -> None:
    """The tables of one number of workers."""
    found: dict[str, dict[tuple[str, int], Cell]] = {}
    for method in methods:
        cells = places.cells.of(method.name, workers)
        kept = {key: cell for key, cell in cells.items() if key[0] in tasks and key[1] in seeds}
        if kept:
            found[method.name] = kept
    if not found:
        return
    crew = "1 worker" if workers == 1 else f"{workers} workers"
    print(f"\nmean normalised regret, {crew}, {len(tasks)} tasks: {', '.join(tasks)}")
    print("after so many full trainings per worker; ± standard error over seeds, (rank)")
    print(table.means_table(found, tasks, known, workers))
    if by_task:
        for task in tasks:
            print(f"\ntask {task}, {crew}")
            print(table.means_table(found, [task], known, workers))
    for base in BASELINES:
        if base in found and len(found) > 1:
            print(f"\nagainst {base}, by task and mark: worse, better by more than two standard errors")
            print(table.paired_table(found, base, tasks, known, workers))
    print()
    for name, cells in found.items():
        method = NAMED[name]
        n_stale = sum(
            not cell.is_of(versions=method.versions, data=places.data_sha256) for cell in cells.values()
        )
        versions = sorted({cell.version for cell in cells.values()})
        when = sorted(cell.ran_at for cell in cells.values())
        seconds = sum(cell.wall_s for cell in cells.values())
        print(
            f"{name}: {len(cells)} cells of {', '.join(versions)}, {when[0]} to {when[-1]}, {seconds:.0f} s"
            + (f"; STALE: {n_stale}, the code now is {method.version}" if n_stale else "")
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    main(sys.argv[1:])
