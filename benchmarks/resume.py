"""How long it takes to open a study of many jobs, as a restart and a report do.

    python benchmarks/resume.py [--jobs 100000]

A journal of that many ended jobs is written (by the real engine and journal; the jobs themselves are made
up), and then measured, each a few times: reading the journal and replaying it in one process; the command
that goes on with the search, from its start to the main block of the first job, written down by the job on
the monotonic clock; the whole `report --json`. Beside them the floor: SQLite giving out every row, unparsed.
"""

import argparse
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from hyperband.folder import JOURNAL_FILE
from hyperband.journal import Journal, read_events
from hyperband.search.brackets import make_plan
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdsDrawn,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    StudyCreated,
)
from hyperband.search.trial import Algorithm, Outcome
from hyperband.settings import Settings

HYPERBAND = Path(__file__).resolve().parents[1] / "hyperband.py"
GOAL_S = 5.0
N_SLOTS = 16
SCRIPT = """\
def get_random_config_id(rng):
    return f"x:{rng.uniform():.9f}"


def run_identity(argv):
    return "resume"


if __name__ == "__main__":
    import os
    import time

    began = os.open("began", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(began, b"%r\\n" % time.monotonic())
    print(0.5)
"""


def main() -> None:
    """Write the study, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--jobs", type=int, default=100_000, help="ended jobs in the journal (default 100000)"
    )
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each (default 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        script = Path(scratch) / "script.py"
        script.write_text(SCRIPT)
        n_repeats = 1 + options.jobs // 206
        settings = Settings(
            script=script,
            python=Path(sys.executable),
            logs=Path(scratch) / "logs",
            gpus="none",
            repeat=n_repeats,
        )
        folder = settings.logs / "resume"
        write_study(folder, settings, options.jobs)
        command = [sys.executable, str(HYPERBAND), "--gpus", "none", "--guide", "none"]
        command += ["--repeat", str(n_repeats)]
        report = [sys.executable, str(HYPERBAND), "report", str(folder), "--json"]
        measured: list[tuple[str, Callable[[], float]]] = [
            ("floor: rows out of SQLite", timed(lambda: rows(folder))),
            ("read and replay", timed(lambda: replay(folder))),
            ("restart, up to its first job", lambda: restart([*command, str(script)], Path(scratch))),
            ("whole report --json", timed(lambda: run(report))),
        ]
        table: list[tuple[str, float, float, float]] = []
        for name, measure in measured:
            times_s = [measure() for _ in range(options.runs)]
            table.append((name, min(times_s), statistics.median(times_s), max(times_s)))
        size_mib = (folder / JOURNAL_FILE).stat().st_size / 2**20
    print(f"{options.jobs:,} ended jobs, journal of {size_mib:.0f} MiB; seconds")
    print(tabulate(table, headers=["", "min", "median", "max"], floatfmt=".2f"))
    met = all(row[2] <= GOAL_S for row in table)
    print(f"goal (within {GOAL_S:g} s): {'met' if met else 'missed'}")


def write_study(folder: Path, settings: Settings, n_jobs: int) -> None:
    """Play a search until so many jobs have ended."""
    plan = make_plan(
        algorithm=Algorithm.HYPERBAND,
        max_epochs=81,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=settings.repeat,
        max_trials=None,
    )
    rng = random.Random(0)
    created = StudyCreated("resume", str(settings.script), (), str(settings.script.parent), ())
    begun = SearchStarted(0.0, settings.document(), "host", 1, "boot", "0")
    ids = tuple(f"x:{number / plan.n_trials:.9f}" for number in range(plan.n_trials))
    events: list[Event] = [created, begun, PlanMade(plan), IdsDrawn(0, ids)]
    engine = Engine()
    for event in events:
        engine.handle(event)
    running: list[JobStarted] = []
    n_ended = 0
    while n_ended < n_jobs:
        while len(running) < N_SLOTS and n_ended + len(running) < n_jobs and (start := engine.next_start()):
            slot = f"cpu:{len(running)}"
            started = JobStarted(
                1.0, start.job, 0, start.trial, start.rung, start.epochs, slot, False, "0" * 64, "host"
            )
            engine.handle(started)
            events.append(started)
            running.append(started)
        started = running.pop(rng.randrange(len(running)))
        loss = rng.random()
        ended = JobEnded(2.0, started.job, 0, Outcome.LOSS, loss, 0, 1.0, 2.0, True, "")
        engine.handle(ended)
        events.append(ended)
        n_ended += 1
    journal = Journal.open(folder)
    journal.append(*events, SearchEnded(3.0, "stopped", "terminated"), durable=True)
    journal.close()


def rows(folder: Path) -> int:
    """Fetch every row."""
    connection = sqlite3.connect(folder / JOURNAL_FILE)
    n_rows = len(connection.execute("SELECT seq, kind, body FROM event").fetchall())
    connection.close()
    return n_rows


def replay(folder: Path) -> Engine:
    """Read and replay."""
    engine = Engine()
    for event in read_events(folder):
        engine.handle(event)
    return engine


def run(argv: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def restart(argv: list[str], folder: Path) -> float:
    """Go on with a search; return the seconds until its first job began. Then end it."""
    record = folder / "began"
    record.unlink(missing_ok=True)
    began_s = time.monotonic()
    search = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert search.stdout is not None
    # the first job that has ended is told of in a line
    for line in search.stdout:
        if line.startswith("["):
            break
    search.terminate()
    search.communicate()
    return float(record.read_text().split()[0]) - began_s


def timed(action: Callable[[], object]) -> Callable[[], float]:
    """Return what measures the seconds that an action takes."""

    def measure() -> float:
        began_s = time.perf_counter()
        action()
        return time.perf_counter() - began_s

    return measure


if __name__ == "__main__":
    main()
