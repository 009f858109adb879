"""Faults of every kind at random moments: is a result lost, a job run twice, a process or lease left over?

    python benchmarks/faults.py [--runs 200] [--seed 0] [--kinds a,b] [--keep] [--list]

Each run is a real search in a folder of its own. A fault is injected at a random moment, and the same command
is started again until the search is finished; its result must be that of an undisturbed search of the same
script. A guided search is like no other: its result must be what its journal gives when it is replayed. Kinds
take turns. The script keeps a record of when it ran and what it trained, which is held against journal
and files of the jobs.

results lost        a job that ended well is not in the journal, or otherwise; or is there alone
run twice           a job ran again after it had finished, twice at once, or trained an epoch again that its
                    checkpoint held
left over           processes or leases of GPUs, 10 s after the end
not as undisturbed  other config ids, promotions, losses or best, or not what the kind must lead to; guided:
                    other than the journal gives when it is replayed, or a journal that was rewritten
unclear ends        a traceback, an exit code that is none of ours, a hang, an error that says no next step

Run n has the seed --seed + n, so `--kinds KIND --runs 1 --seed SEED` repeats one that failed. The folder of a
failed run is kept. Exit code 1 if anything is wrong.
"""

import argparse
import collections
import concurrent.futures
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fault_campaign import devices, guided, places, processes, warm
from fault_campaign.checks import COLUMNS, check
from fault_campaign.kind import Kind
from fault_campaign.scene import Scene

KINDS = (*processes.KINDS, *places.KINDS, *devices.KINDS, *warm.KINDS, *guided.KINDS)


@dataclass
class Tally:
    """What was seen of one kind."""

    n_runs: int = 0
    n_faults: int = 0
    wrong: collections.Counter[str] = field(default_factory=collections.Counter)


class Campaign:
    """Runs of many kinds, some at a time."""

    def __init__(self, root: Path, max_epochs: int, *, keep: bool) -> None:
        """Put every run into a folder below `root`; keep: also of runs in which nothing was wrong."""
        self._root = root
        self._keep = keep
        self._plan = ("--max-epochs", str(max_epochs))
        self.tallies: dict[str, Tally] = collections.defaultdict(Tally)
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = collections.defaultdict(threading.Lock)
        self._wanted: dict[Hashable, tuple[dict[str, Any], float]] = {}

    def run(self, kind: Kind, seed: int) -> None:
        """Run one kind once, judge it, and count what was found."""
        wanted, length_s = self._undisturbed(kind)
        scene = self._scene(kind, f"{kind.name}-{seed}", seed, kind.script)
        scene.length_s = length_s
        try:
            kind.story(scene)
            if not scene.document or not scene.is_over():
                scene.settle()
            check(scene, wanted, is_guided=kind.is_guided)
        except Exception:  # noqa: BLE001 - one broken run must not end the campaign
            scene.complain("unclear ends", f"the run itself broke: {traceback.format_exc()[-1500:]}")
        finally:
            scene.close()
        with self._lock:
            tally = self.tallies[kind.name]
            tally.n_runs += 1
            tally.n_faults += scene.n_faults
            tally.wrong.update({column for column, _ in scene.wrong})
            if scene.wrong:
                print(f"{kind.name}, seed {seed}, kept in {scene.folder}:")
                for column, words in scene.wrong[:8]:
                    print(f"  {column}: {words}")
                sys.stdout.flush()
            elif not self._keep:
                shutil.rmtree(scene.folder)

    def _undisturbed(self, kind: Kind) -> tuple[dict[str, Any], float]:
        """What an undisturbed search prints, and how long it takes in seconds; kinds may share one."""
        key = (kind.undisturbed or kind.script, kind.options, kind.prepare, kind.is_guided)
        with self._lock:
            lock = self._locks[key]
        with lock:
            if key not in self._wanted:
                self._wanted[key] = self._run_undisturbed(kind)
        return self._wanted[key]

    def _run_undisturbed(self, kind: Kind) -> tuple[dict[str, Any], float]:
        scene = self._scene(kind, f"{kind.name}-undisturbed", 0, kind.undisturbed or kind.script)
        began_s = time.monotonic()
        try:
            if scene.finish() != 0:
                sys.exit(f"the undisturbed search of {kind.name} did not finish; see {scene.folder}")
            return scene.document, time.monotonic() - began_s
        finally:
            scene.close()

    def _scene(self, kind: Kind, name: str, seed: int, script: str) -> Scene:
        # without the guide, where it does not matter, what is tried does not depend on when jobs end
        guide = ("--guide", "model" if kind.is_guided else "none")
        scene = Scene(self._root / name, seed, (*self._plan, *guide, *kind.options))
        scene.script.write_text(script)
        kind.prepare(scene)
        return scene


def main() -> None:
    """Run the campaign and print what was seen."""
    options = _options()
    if options.list:
        print(tabulate([[kind.name, kind.about] for kind in KINDS], tablefmt="plain"))
        return
    wanted = options.kinds.split(",") if options.kinds else [kind.name for kind in KINDS]
    unknown = set(wanted) - {kind.name for kind in KINDS}
    if unknown:
        sys.exit(f"--kinds names {', '.join(sorted(unknown))}, which --list does not know")
    chosen = [kind for kind in KINDS if kind.name in wanted]
    kinds = [kind for kind in chosen if kind.missing() is None]
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    campaign = Campaign(root, options.max_epochs, keep=options.keep)
    began_s = time.monotonic()
    if kinds:
        with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
            runs = [
                pool.submit(campaign.run, kinds[n % len(kinds)], options.seed + n)
                for n in range(options.runs)
            ]
            for run in concurrent.futures.as_completed(runs):
                run.result()
    print(_table(chosen, campaign.tallies))
    print(f"{options.runs if kinds else 0} runs in {time.monotonic() - began_s:.0f} s")
    if any(tally.wrong for tally in campaign.tallies.values()):
        sys.exit(1)
    if options.keep:
        print(f"kept in {root}")
    else:
        shutil.rmtree(root)


def _table(kinds: list[Kind], tallies: dict[str, Tally]) -> str:
    rows: list[list[object]] = []
    total = Tally()
    for kind in kinds:
        missing = kind.missing()
        if missing is not None:
            rows.append([f"{kind.about} (skipped: {missing})", 0])
            continue
        tally = tallies.get(kind.name, Tally())
        total.n_runs += tally.n_runs
        total.n_faults += tally.n_faults
        total.wrong.update(tally.wrong)
        rows.append([kind.about, tally.n_runs, tally.n_faults, *(tally.wrong[column] for column in COLUMNS)])
    rows.append(["all", total.n_runs, total.n_faults, *(total.wrong[column] for column in COLUMNS)])
    headers = ["fault", "runs", "faults", *(column.replace(" ", "\n") for column in COLUMNS)]
    return tabulate(rows, headers=headers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="how many in all (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default 0)")
    parser.add_argument("--kinds", help="names of the kinds, with commas (default: all)")
    parser.add_argument("--max-epochs", type=int, default=9, help="of each search (default 9)")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all runs")
    parser.add_argument("--list", action="store_true", help="the kinds and what they are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
