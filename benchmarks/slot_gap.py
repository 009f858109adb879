"""How long a slot stands idle between two jobs: hyperband beside `xargs -P`, in the same run.

    python benchmarks/slot_gap.py [--slots 1,2,8] [--jobs 40] [--rounds 3] [--logs DIR]

What is measured. Every job is the same script under the same interpreter: it sleeps, and appends to one
file its slot and CLOCK_MONOTONIC at the first and at the last statement of its main block. Idle time is the
start of a job's main block minus the end of the job before it on the same slot. So it holds all that lies
between two experiments: the end of one interpreter, the news of it, the decision, the start of the next.
The definition is the same for both: a slot is the K of `--gpu K` under hyperband, and under xargs the number
that `--process-slot-var` gives (xargs starts the next command in the place of the one that ended). The first
job of a slot has none before it and counts for nothing.

The two take turns, round by round, so that a noisy machine troubles both alike; all rounds are pooled.
The 99th percentile is by nearest rank. Hyperband writes its journal durably before it starts what depends
on it, xargs writes nothing; so the cost of an fsync where LOGS lies stands in a column of its own.
LOGS is on /dev/shm, unless `--logs` names a folder.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

HYPERBAND = Path(__file__).resolve().parents[1] / "hyperband.py"
TMPFS = Path("/dev/shm")
GOAL_MEDIAN_MS = 5.0
GOAL_P99_MS = 20.0

JOB = """\
import os
import sys
import time


def get_random_config_id(rng):
    return f"job:{rng.randint(2**31)}"


def run_identity(argv):
    return "slot-gap"


if __name__ == "__main__":
    started_ns = time.monotonic_ns()
    time.sleep(float(os.environ["SLOT_GAP_SLEEP_S"]))
    slot = os.environ.get("SLOT_GAP_XARGS_SLOT") or sys.argv[sys.argv.index("--gpu") + 1]
    record = os.open(os.environ["SLOT_GAP_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    print(0.5, flush=True)
    os.write(record, f"{slot} {started_ns} {time.monotonic_ns()}\\n".encode())
"""


@dataclass(frozen=True)
class Run:
    """What one run of the jobs needs to know; `folder` is its own, on the file system of LOGS."""

    folder: Path
    script: Path
    n_slots: int
    n_jobs: int
    sleep_s: float


def main() -> None:
    """Measure, print the table, and say whether the goal is met."""
    options = parse_options()
    logs = choose_logs(options.logs)
    rows: list[list[float]] = []
    missed: list[str] = []
    with tempfile.TemporaryDirectory(dir=logs, prefix="slot-gap-") as scratch:
        for n_slots in options.slots:
            fsync_ms = median_fsync_ms(Path(scratch))
            xargs_ms, hyperband_ms = measure(Path(scratch), n_slots, options)
            peer, own = Summary.of(xargs_ms), Summary.of(hyperband_ms)
            over_median_ms, over_p99_ms = own.median - peer.median, own.p99 - peer.p99
            row = [n_slots, len(hyperband_ms), fsync_ms, peer.median, own.median, over_median_ms]
            rows.append([*row, own.median / peer.median, peer.p99, own.p99, over_p99_ms])
            if over_median_ms > GOAL_MEDIAN_MS or over_p99_ms > GOAL_P99_MS:
                missed.append(str(n_slots))
        kind = file_system(Path(scratch))
    print(f"idle milliseconds per job and slot; jobs of {options.sleep:g} s; LOGS in {logs} ({kind})")
    medians = [f"median\n{what}" for what in ("xargs", "hyperband", "difference", "ratio")]
    p99s = [f"p99\n{what}" for what in ("xargs", "hyperband", "difference")]
    headers = ["slots", "gaps", "fsync", *medians, *p99s]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".4f", *[".2f"] * 7)))
    goal = f"within {GOAL_MEDIAN_MS:g} ms of xargs at the median and {GOAL_P99_MS:g} ms at p99, LOGS on tmpfs"
    if kind != "tmpfs":
        print(f"goal ({goal}): not judged here")
    else:
        print(f"goal ({goal}): {'missed on ' + ', '.join(missed) + ' slots' if missed else 'met'}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=slot_counts, default="1,2,8", help="counts of slots (default 1,2,8)")
    parser.add_argument("--jobs", type=int, default=40, help="per slot and round (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="times that both take their turn (default 3)")
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds that each job sleeps (default 0.2)")
    parser.add_argument("--logs", type=Path, help=f"folder for LOGS (default: a new one in {TMPFS})")
    options = parser.parse_args()
    if options.jobs < 2 or options.rounds < 1:
        parser.error("--jobs must be at least 2 (one has none before it) and --rounds at least 1")
    return options


def slot_counts(text: str) -> list[int]:
    """Read `1,2,8`."""
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text}: each must be at least 1")
    return counts


def choose_logs(wanted: Path | None) -> Path:
    """Return the folder to work in; says so when there is no tmpfs to default to."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        return wanted.resolve()
    if TMPFS.is_dir() and os.access(TMPFS, os.W_OK) and file_system(TMPFS) == "tmpfs":
        return TMPFS
    fallback = Path(tempfile.gettempdir())
    print(f"note: no tmpfs to write to at {TMPFS}; LOGS goes to {fallback}")
    return fallback


def file_system(path: Path) -> str:
    """Return the type of the file system at `path`, such as `tmpfs`."""
    return subprocess.check_output(["stat", "--file-system", "--format=%T", path], text=True).strip()


def median_fsync_ms(folder: Path) -> float:
    """Return what it costs to make one appended page durable, as the journal does."""
    costs_ns: list[int] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(100):
            file.write(bytes(4096))
            before_ns = time.monotonic_ns()
            os.fsync(file.fileno())
            costs_ns.append(time.monotonic_ns() - before_ns)
    return statistics.median(costs_ns) / 1e6


def measure(scratch: Path, n_slots: int, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Return the idle times in ms of all rounds: under xargs, under hyperband."""
    xargs_ms: list[float] = []
    hyperband_ms: list[float] = []
    for number in range(options.rounds):
        turns = [("xargs", under_xargs, xargs_ms), ("hyperband", under_hyperband, hyperband_ms)]
        for name, start, idle_ms in turns if number % 2 == 0 else reversed(turns):
            folder = scratch / f"{n_slots}-{number}-{name}"
            folder.mkdir()
            script = folder / "job.py"
            script.write_text(JOB)
            run = Run(folder, script, n_slots, options.jobs * n_slots, options.sleep)
            start(run)
            idle_ms += read_idle_ms(run)
    return xargs_ms, hyperband_ms


def under_xargs(run: Run) -> None:
    """Run the jobs under `xargs -P`."""
    command = ["xargs", "-P", str(run.n_slots), "--process-slot-var=SLOT_GAP_XARGS_SLOT", "-I", "{}"]
    command += [sys.executable, str(run.script), "{}", "--epochs", "1", "--gpu", "0"]
    finish(run, command, "".join(f"job:{number}\n" for number in range(run.n_jobs)))


def under_hyperband(run: Run) -> None:
    """Run as many jobs by a random search of one epoch each."""
    command = [sys.executable, str(HYPERBAND), "--algorithm", "random", "--max-trials", str(run.n_jobs)]
    command += ["--max-epochs", "1", "--gpus", "none", "--guide", "none", "--slots", str(run.n_slots)]
    finish(run, [*command, "--logs", str(run.folder / "logs"), str(run.script)], "")


def finish(run: Run, command: Sequence[str], standard_input: str) -> None:
    """Run a command to its end in the run's folder; show what it said if it fails."""
    environment = os.environ | {
        "SLOT_GAP_RECORD": str(run.folder / "record"),
        "SLOT_GAP_SLEEP_S": str(run.sleep_s),
    }
    output = run.folder / "output"
    with output.open("w") as stream:
        done = subprocess.run(
            command,
            cwd=run.folder,
            env=environment,
            input=standard_input,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"{output.read_text()}\n{command[:2]} ended with {done.returncode} instead of 0")


def read_idle_ms(run: Run) -> list[float]:
    """Return the idle time before each job but the first of its slot."""
    jobs = [tuple(map(int, line.split())) for line in (run.folder / "record").read_text().splitlines()]
    if len(jobs) != run.n_jobs:
        sys.exit(f"{run.folder.name}: {len(jobs)} jobs wrote their times instead of {run.n_jobs}")
    idle_ms: list[float] = []
    ended_ns: dict[int, int] = {}
    for slot, start_ns, end_ns in sorted(jobs, key=lambda job: job[1]):
        if slot in ended_ns:
            idle_ms.append((start_ns - ended_ns[slot]) / 1e6)
        ended_ns[slot] = end_ns
    if len(ended_ns) > run.n_slots or min(idle_ms) < 0:
        sys.exit(f"{run.folder.name}: jobs overlap: {len(ended_ns)} slots, shortest gap {min(idle_ms)} ms")
    return idle_ms


@dataclass(frozen=True)
class Summary:
    """Idle times in ms."""

    median: float
    p99: float

    @classmethod
    def of(cls, idle_ms: Sequence[float]) -> "Summary":
        """Summarise at least one value; the percentile by nearest rank."""
        ordered = sorted(idle_ms)
        return cls(statistics.median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1])


if __name__ == "__main__":
    main()
