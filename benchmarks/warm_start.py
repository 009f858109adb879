"""What `--warm` saves: from a free slot to the first line of a script, and a whole search, cold and warm.

    python benchmarks/warm_start.py [--python PATH] [--jobs 30] [--rounds 2] [--max-epochs 27] [--logs DIR]

**A slot becomes free, a job begins.** A random search of one epoch on one slot. Each job writes the time at
the first line of its main block. The slot is free from the moment at which the keeper of the job before saw
its job end (`ended_at` in result.json), so that all of ours lies between the two: the keeper's last work, the
news of the end, the journal, the decision, the start, the imports. A job counts as warm if it found the
library of its script imported already; the jobs of a warm search that began before the host was ready count
for nothing, and how many they were is shown. Also the time from the first line to the end of the work: for
PyTorch that is its first optimizer step, in which it imports a large part of itself.

The first script imports numpy. The second imports PyTorch and is left out where `--python` (default: this
interpreter) has none. Both run cold and warm in turns, and all rounds are pooled.

**A whole search.** dummy.py with one import more: a module of its own folder that takes one second. The same
search (Hyperband, 2 slots) cold and warm, from the start of the command to its end, all imports of
hyperband's own process and of the warm host included.

LOGS is on /dev/shm, unless `--logs` names a folder.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
TMPFS = Path("/dev/shm")
GOAL_MS = 10.0
GOAL_TIMES = 5.0

SCRIPT = """\
import sys

IS_WARM = "{library}" in sys.modules
import {library}


def get_random_config_id(rng):
    return f"job:{{rng.randint(2**31)}}"


def run_identity(argv):
    return "warm-start"


if __name__ == "__main__":
    import time

    began_s = time.time()
    {work}
    worked_s = time.time()
    import json
    import os

    record = {{"began_s": began_s, "work_s": worked_s - began_s, "is_warm": IS_WARM}}
    record["folder"] = os.path.dirname(os.readlink("/proc/self/fd/1"))
    with open(os.environ["WARM_START_RECORD"], "a") as file:
        file.write(json.dumps(record) + "\\n")
    print(0.5)
"""
WORKS = {
    "numpy": "numpy.ones((50, 50)).sum()",
    "torch": """\
model = torch.nn.Linear(10, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 10)).square().mean().backward()
    optimizer.step()""",
}


@dataclass
class Measured:
    """All jobs of one kind."""

    idle_ms: list[float] = field(default_factory=list)
    work_ms: list[float] = field(default_factory=list)
    #: jobs of a warm search that were started cold
    n_before_ready: int = 0

    def row(self) -> list[object]:
        """Median and 90th percentile, by nearest rank, of the idle times; median of the work."""
        ordered = sorted(self.idle_ms)
        p90 = ordered[math.ceil(0.9 * len(ordered)) - 1]
        return [len(ordered), statistics.median(ordered), p90, statistics.median(self.work_ms)]


def main() -> None:
    """Measure, print both tables, and say whether the goals are met."""
    options = parse_options()
    libraries = [library for library in WORKS if has(options.python, library)]
    with tempfile.TemporaryDirectory(dir=options.logs, prefix="warm-start-") as scratch:
        rows: list[list[object]] = []
        missed: list[str] = []
        for library in libraries:
            cold, warm = Measured(), Measured()
            for number in range(options.rounds):
                for measured, words in ((cold, ()), (warm, ("--warm",))):
                    folder = Path(scratch) / f"{library}-{number}-{'warm' if words else 'cold'}"
                    run_jobs(folder, library, words, options, measured)
            rows += [[library, "cold", *cold.row(), ""], [library, "warm", *warm.row(), warm.n_before_ready]]
            if statistics.median(warm.idle_ms) >= GOAL_MS:
                missed.append(library)
        print(
            "milliseconds from the end of a job to the first line of the next, and from there to the end of"
        )
        print(f"its work; LOGS in {options.logs}")
        headers = ["script", "start", "jobs", "median", "p90", "work", "not counted: cold"]
        print(tabulate(rows, headers=headers, floatfmt=".1f"))
        print(
            f"goal (warm below {GOAL_MS:g} ms at the median): {'missed: ' + str(missed) if missed else 'met'}"
        )
        for library in sorted(set(WORKS) - set(libraries)):
            print(f"not measured: {options.python} has no {library}")
        searches = {words: run_search(Path(scratch), words, options) for words in ((), ("--warm",))}
    cold_s, warm_s = searches[()][0], searches["--warm",][0]
    print(f"\na search of dummy.py with 1 s of imports, --max-epochs {options.max_epochs}, 2 slots:")
    print(f"{searches[()][1]} jobs, cold {cold_s:.1f} s, warm {warm_s:.1f} s: {cold_s / warm_s:.1f} times")
    print(f"goal (at least {GOAL_TIMES:g} times): {'met' if cold_s / warm_s >= GOAL_TIMES else 'missed'}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of the scripts")
    parser.add_argument("--jobs", type=int, default=30, help="jobs of a search (default 30)")
    parser.add_argument("--rounds", type=int, default=2, help="searches of a kind (default 2)")
    parser.add_argument("--max-epochs", type=int, default=27, help="of the whole search (default 27)")
    parser.add_argument("--logs", type=Path, default=TMPFS if TMPFS.is_dir() else tempfile.gettempdir())
    return parser.parse_args()


def has(python: str, library: str) -> bool:
    """Return whether the interpreter can import it."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def run_jobs(
    folder: Path, library: str, words: Sequence[str], options: argparse.Namespace, measured: Measured
) -> None:
    """Run one random search on one slot, and add what it shows."""
    folder.mkdir()
    script = folder / "job.py"
    script.write_text(SCRIPT.format(library=library, work=WORKS[library]))
    record = folder / "record"
    search = ["--algorithm", "random", "--max-trials", str(options.jobs), "--max-epochs", "1", "--slots", "1"]
    command([*search, *words], script, folder, options, {"WARM_START_RECORD": str(record)})
    jobs = [json.loads(line) for line in record.read_text().splitlines()]
    if len(jobs) != options.jobs:
        sys.exit(f"{folder.name}: {len(jobs)} jobs wrote their times instead of {options.jobs}")
    for before, job in pairwise(jobs):
        ended_at = json.loads((Path(before["folder"]) / "result.json").read_text())["ended_at"]
        if job["is_warm"] != bool(words):
            measured.n_before_ready += 1
            continue
        measured.idle_ms.append((job["began_s"] - ended_at) * 1000)
        measured.work_ms.append(job["work_s"] * 1000)


def run_search(scratch: Path, words: Sequence[str], options: argparse.Namespace) -> tuple[float, int]:
    """Run the whole search; return its seconds and the number of its jobs."""
    folder = scratch / ("search-warm" if words else "search-cold")
    folder.mkdir()
    (folder / "slow.py").write_text("import time\n\ntime.sleep(1)\n")
    dummy = (ROOT / "dummy.py").read_text()
    script = folder / "dummy.py"
    script.write_text(dummy.replace("import numpy as np\n", "import numpy as np\n\nimport slow\n", 1))
    search = ["--max-epochs", str(options.max_epochs), "--slots", "2"]
    began_s = time.monotonic()
    document = command([*search, *words], script, folder, options, {})
    return time.monotonic() - began_s, len(document["jobs"])


def command(
    search: Sequence[str], script: Path, folder: Path, options: argparse.Namespace, added: dict[str, str]
) -> dict[str, list[object]]:
    """Run a search to its end, and return what it tells in JSON; show what it said if it fails."""
    argv = [sys.executable, str(ROOT / "hyperband.py"), "--json", "--gpus", "none", "--guide", "none"]
    argv += [*search, "--python", options.python, "--logs", str(folder / "logs"), str(script)]
    done = subprocess.run(
        argv, cwd=folder, env=os.environ | added, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{done.stderr.decode()}\nthe search in {folder} ended with {done.returncode} instead of 0")
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
