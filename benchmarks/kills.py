"""Kill -9 of the search at random moments: is anything lost, repeated, run twice at once, or left over?

    python benchmarks/kills.py [--max-epochs 9] [--kills 50] [--slots 2] [--seed 0]

One search runs undisturbed. Then searches of the same script are started, killed with SIGKILL after a random
time, left dead for a random time while their jobs go on and end, and started again with the same command,
until each is finished; as many searches as it takes for the number of kills. Each must end with the same
config ids, promotions, losses and best as the undisturbed one. The script itself keeps a record of when it
ran: no run that ended may happen again, no two runs of one configuration may overlap. In the end no process
that descends from the searches may be alive. Prints a table; exit code 1 if anything is wrong.
"""

import argparse
import collections
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

HYPERBAND = Path(__file__).resolve().parents[1] / "hyperband.py"
MARK = "HYPERBAND_KILLS_MARK"

SCRIPT = """\
import hashlib
import os
import sys
import time


def get_random_config_id(rng):
    return f"x:{rng.uniform(0, 1):.9f}"


def run_identity(argv):
    return "kills"


if __name__ == "__main__":
    config_id, epochs = sys.argv[1], int(sys.argv[sys.argv.index("--epochs") + 1])
    record = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    started = time.monotonic_ns()
    os.write(record, f"start {config_id} {epochs} {started}\\n".encode())
    luck = int(hashlib.sha256(f"{config_id} {epochs}".encode()).hexdigest()[:8], 16) / 2**32
    time.sleep(0.02 + 0.1 * luck)
    os.write(record, f"end {config_id} {epochs} {started} {time.monotonic_ns()}\\n".encode())
    if luck < 0.1:
        sys.exit("bad luck")
    print(float(config_id[2:]) + 1 / epochs)
"""


@dataclass
class Tally:
    """What was seen over the whole campaign."""

    n_kills: int = 0
    n_searches: int = 0
    n_runs: int = 0
    n_ended_while_dead: int = 0
    wrong: collections.Counter[str] = field(default_factory=collections.Counter)


def main() -> None:
    """Run the campaign and print what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--max-epochs", type=int, default=9, help="of each search (default 9)")
    parser.add_argument("--kills", type=int, default=50, help="how many in all (default 50)")
    parser.add_argument("--slots", type=int, default=2, help="CPU slots of each search (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    os.environ[MARK] = str(uuid.uuid4())
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        root = Path(scratch)
        (root / "script.py").write_text(SCRIPT)
        began_s = time.monotonic()
        wanted = undisturbed(root, options)
        length_s = time.monotonic() - began_s
        while tally.n_kills < options.kills:
            disturbed(root, options, rng, length_s, wanted, tally)
        left = survivors()
    if left:
        tally.wrong["processes left over"] = len(left)
    checks = [
        "config ids differ",
        "promotions or losses differ",
        "best differs",
        "jobs run again after they ended",
    ]
    checks += ["jobs not run", "runs of one configuration at once", "processes left over", "exit codes not 0"]
    rows: list[list[object]] = [["kill -9 of the search", tally.n_kills], ["searches", tally.n_searches]]
    rows += [
        ["jobs run to their end", tally.n_runs],
        ["of these while the search was dead", tally.n_ended_while_dead],
    ]
    rows += [[check, tally.wrong[check]] for check in checks]
    print(tabulate(rows, headers=[f"--max-epochs {options.max_epochs}, {options.slots} slots", "number"]))
    sys.exit(1 if tally.wrong.total() else 0)


def undisturbed(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one search to its end; return its JSON."""
    folder = root / "undisturbed"
    folder.mkdir()
    search = start(folder, options)
    output, _ = search.communicate()
    if search.returncode != 0:
        sys.exit(f"the undisturbed search ended with exit code {search.returncode}")
    found: dict[str, Any] = json.loads(output)
    return found


def disturbed(
    root: Path,
    options: argparse.Namespace,
    rng: random.Random,
    length_s: float,
    wanted: dict[str, Any],
    tally: Tally,
) -> None:
    """Run one search with kills until it is finished, and compare."""
    folder = root / f"search-{tally.n_searches}"
    folder.mkdir()
    tally.n_searches += 1
    while True:
        search = start(folder, options)
        # a third of the kills fall into the start, where locks, adoption and the first starts happen
        span_s = 0.5 if rng.random() < 1 / 3 else min(length_s, 3.0)
        try:
            output, _ = search.communicate(
                timeout=rng.uniform(0, span_s) if tally.n_kills < options.kills else None
            )
        except subprocess.TimeoutExpired:
            search.send_signal(signal.SIGKILL)
            search.communicate()
            tally.n_kills += 1
            n_before = n_ends(folder)
            time.sleep(rng.choice([0.0, rng.uniform(0, 0.3)]))  # dead for a while: that is the experiment
            tally.n_ended_while_dead += n_ends(folder) - n_before
            continue
        break
    if search.returncode != 0:
        tally.wrong["exit codes not 0"] += 1
        return
    compare(json.loads(output), wanted, tally)
    check_record(folder / "record", wanted, tally)


def start(folder: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start a search in a folder of its own."""
    argv = [
        sys.executable,
        str(HYPERBAND),
        "--max-epochs",
        str(options.max_epochs),
        "--gpus",
        "none",
        # what is tried must not depend on when jobs end
        "--guide",
        "none",
        "--json",
    ]
    argv += ["--slots", str(options.slots), "../script.py"]
    return subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def n_ends(folder: Path) -> int:
    """How many runs the script has recorded as ended."""
    record = folder / "record"
    return record.read_text().count("end ") if record.exists() else 0


def compare(found: dict[str, Any], wanted: dict[str, Any], tally: Tally) -> None:
    """Hold the result of a disturbed search against that of the undisturbed one."""

    def ids(document: dict[str, Any]) -> list[str]:
        return [trial["config_id"] for trial in document["trials"]]

    tally.wrong["config ids differ"] += ids(found) != ids(wanted)
    tally.wrong["promotions or losses differ"] += found["trials"] != wanted["trials"]
    tally.wrong["best differs"] += found["best"] != wanted["best"]


def check_record(record: Path, wanted: dict[str, Any], tally: Tally) -> None:
    """Check what the script itself saw of its runs."""
    spans: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    ended: collections.Counter[tuple[str, str]] = collections.Counter()
    started = 0
    for line in record.read_text().splitlines():
        word, config_id, epochs, *times = line.split()
        if word == "start":
            started += 1
        else:
            ended[config_id, epochs] += 1
            spans[config_id].append((int(times[0]), int(times[1])))
    tally.n_runs += ended.total()
    # a job that fails is tried again, also in the undisturbed search
    attempts = collections.Counter((job["config_id"], str(job["epochs"])) for job in wanted["jobs"])
    tally.wrong["jobs run again after they ended"] += (ended - attempts).total()
    tally.wrong["jobs not run"] += len(attempts.keys() - ended.keys())
    for runs in spans.values():
        runs.sort()
        tally.wrong["runs of one configuration at once"] += sum(
            later[0] < earlier[1] for earlier, later in itertools.pairwise(runs)
        )


def survivors() -> list[int]:
    """Pids of processes that descend from this campaign, by its mark in their environment."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    deadline_s = time.monotonic() + 10
    while True:
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                try:
                    if mark in (process / "environ").read_bytes().split(b"\0"):
                        found.append(int(process.name))
                except (FileNotFoundError, PermissionError, ProcessLookupError):
                    continue
        if not found or time.monotonic() > deadline_s:
            return found
        time.sleep(0.05)


if __name__ == "__main__":
    main()
