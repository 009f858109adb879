"""The scene of one run: a search in a folder of its own, its processes by their parts, and faults for them.

Owns starting, waiting, signalling and finding processes. What was right in the end is judged in checks.py.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_campaign.living import children, command, lives, marked
from hyperband.errors import JournalError
from hyperband.journal import read_events
from hyperband.journal.rows import row_of

HYPERBAND = Path(__file__).resolve().parents[2] / "hyperband.py"
_MARK = "FAULTS_MARK"
#: a search that takes longer than this hangs
_PATIENCE_S = 60.0
#: how a search ends by a signal that is no kill -9
_ENDED_BY_SIGNAL = (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)
#: of our code; one of the user's script may be shown
_OUR_TRACEBACK = re.compile(r'File "[^"]*hyperband/[^"]*\.py", line')
#: what a message must hold to say what to do next
_NEXT_STEPS = (
    "again",
    "Look for",
    "check ",
    "choose",
    "make ",
    "free ",
    "wait",
    "move",
    "restore",
    "mend",
    "--",
    "end it",
    "give",
)


@dataclass(frozen=True)
class Job:
    """An attempt that lives."""

    number: int
    folder: Path
    keeper: int
    pid: int


@dataclass
class Scene:
    """One run. Kinds of fault are functions of it."""

    folder: Path
    seed: int
    options: tuple[str, ...]
    #: how long the undisturbed search took
    length_s: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)
    n_faults: int = 0
    #: what went wrong, as (column, words)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    #: jobs that were harmed on purpose: these may have to run again although the script had ended
    harmed: set[int] = field(default_factory=set)
    #: epochs whose checkpoints were taken away may be trained again
    may_retrain: bool = False
    #: the files of jobs were deleted: a loss may be in the journal alone
    outputs_deleted: bool = False
    #: exit codes that this kind may lead to besides ours
    allowed_ends: set[int] = field(default_factory=set)
    document: dict[str, Any] = field(default_factory=dict)
    #: GPUs that do not exist, if the kind has any
    machine: Any = None
    #: standard error of every search so far
    said: str = ""
    #: the journal as it was at some moments without a search, to the letter
    journals: list[list[tuple[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the folder and the environment; nothing is started."""
        self.folder.mkdir()
        self.rng = random.Random(self.seed)
        self.mark = str(uuid.uuid4())
        self.leases = self.folder / "leases"
        self.record = self.folder / "record"
        self.script = self.folder / "script.py"
        #: where searches and their jobs run
        self.cwd = self.folder
        self.search: subprocess.Popen[bytes] | None = None
        self._n_searches = 0
        self._cleanup = contextlib.ExitStack()
        self.environment = {
            **os.environ,
            _MARK: self.mark,
            "FAULTS_RECORD": str(self.record),
            "FAULTS_SEED": str(self.seed),
            "HYPERBAND_LEASES": str(self.leases),
            **self.environment,
        }

    @property
    def study(self) -> Path:
        """The study's folder."""
        return self.folder / "logs" / "faults"

    def later(self, undo: Callable[..., object], *arguments: object) -> None:
        """Undo something when the run is over."""
        self._cleanup.callback(undo, *arguments)

    def close(self) -> None:
        """End what still runs, and undo what was to be undone."""
        for _ in range(3):  # what is killed may have been about to start something
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.search is not None:
            self.search.wait()
        self._cleanup.close()

    # Searches.

    def start(self) -> subprocess.Popen[bytes]:
        """Start the search, or return the one that runs."""
        if self.search is None:
            self.search = self.spawn(f"search-{self._n_searches}")
            self._n_searches += 1
        return self.search

    def spawn(self, name: str, words: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a search, or a command of ours; its output goes to `name`.out and `name`.err."""
        argv = [sys.executable, str(HYPERBAND)]
        logs = ["--logs", str(self.study.parent)]
        argv += words or [*self.options, *logs, "--json", str(self.script)]
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            return subprocess.Popen(
                argv, cwd=self.cwd, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def is_over(self) -> bool:
        """Whether no search runs (it has ended, or was never started)."""
        return self.search is None or self.search.poll() is not None

    def finish(self, patience_s: float = _PATIENCE_S) -> int:
        """Wait for the end of the search that runs (start one if none does); return its exit code."""
        search = self.start()
        try:
            code = search.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.complain("unclear ends", f"search {self._n_searches - 1} hangs")
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = search.wait()
        self.search = None
        name = f"search-{self._n_searches - 1}"
        out = (self.folder / f"{name}.out").read_text(errors="replace")
        err = (self.folder / f"{name}.err").read_text(errors="replace")
        self.said += err
        self._check_end(code, out, err, name)
        if code == 0:
            self.document = json.loads(out)
        return code

    def settle(self, n_starts: int = 8) -> None:
        """Start the same command again until the search is finished."""
        for _ in range(n_starts):
            if self.finish() == 0:
                return
        self.complain("unclear ends", f"not finished after {n_starts} starts")

    def _check_end(self, code: int, out: str, err: str, name: str) -> None:
        where = f"{name} (exit code {code})"
        starting = not err or (err.endswith("KeyboardInterrupt\n") and ", in <module>" in err)
        # a second Ctrl-C, while it was going because of the first
        going = code == -signal.SIGINT and err.endswith("hyperband: interrupted.\n")
        ending = "\nfinished: " in err
        if code == -signal.SIGKILL or (code in _ENDED_BY_SIGNAL and (starting or ending)) or going:
            return  # by us; the others while Python was starting or ending, and had no handlers
        if code not in (0, 1, 2, 130) and code not in self.allowed_ends:
            self.complain("unclear ends", where)
        if _OUR_TRACEBACK.search(err + out) or "please report" in err:
            self.complain("unclear ends", f"{where} ends like a bug: {err[-600:]}")
        last = err.rpartition("hyperband: ")[2] if "hyperband: " in err else ""
        if code in (1, 2) and not any(step in last for step in _NEXT_STEPS):
            self.complain("unclear ends", f"{where} does not say what to do next: {err[-300:]}")

    def note_journal(self) -> None:
        """Remember the journal, if there is one: what it holds by now may never change."""
        if self.is_over():
            with contextlib.suppress(JournalError):  # none yet
                self.journals.append([row_of(event) for event in read_events(self.study)])

    def complain(self, column: str, words: str) -> None:
        """Something is wrong."""
        self.wrong.append((column, words))

    def expect(self, holds: bool, words: str) -> None:
        """Complain if a thing that this kind of fault must lead to is not so."""
        if not holds:
            self.complain("not as undisturbed", words)

    # Moments.

    def moment(self) -> None:
        """Let a random part of the search pass; a third of all falls into the start of a search."""
        self.start()
        span_s = 0.6 if self.rng.random() < 1 / 3 else 0.9 * self.length_s
        self.pause(0.0, span_s)

    def pause(self, least_s: float, most_s: float) -> None:
        """Let a random time pass: that is the experiment. Ends early with the search."""
        ends_s = time.monotonic() + self.rng.uniform(least_s, most_s)
        while time.monotonic() < ends_s and not self.is_over():
            time.sleep(0.002)

    def dead(self, least_s: float = 0.0, most_s: float = 0.3) -> None:
        """Let a random time pass while no search is there."""
        time.sleep(self.rng.uniform(least_s, most_s))

    def until(self, condition: Callable[[], object], patience_s: float = 20.0) -> bool:
        """Wait until something is so; False if the search ended before, or it never was."""
        ends_s = time.monotonic() + patience_s
        while not condition():
            if self.is_over() or time.monotonic() > ends_s:
                return bool(condition())
            time.sleep(0.002)
        return True

    # Processes.

    def processes(self) -> list[int]:
        """Pids of everything that descends from this run, by the mark in its environment."""
        return list(marked(f"{_MARK}={self.mark}".encode()))

    def jobs(self) -> list[Job]:
        """Attempts whose own process lives."""
        found = []
        for path in sorted(self.study.glob("jobs/*/keeper.json")):
            with contextlib.suppress(OSError, ValueError):
                about = json.loads(path.read_bytes())
                folder = path.parent
                if not (folder / "result.json").exists() and lives(
                    about["job_pid"], about["job_start_ticks"]
                ):
                    number = int(folder.name.partition("-")[0])
                    found.append(Job(number, folder, about["pid"], about["job_pid"]))
        return found

    def a_job(self) -> Job | None:
        """One of the attempts that live, at random; waits for one. None: the search ended before."""
        found: list[Job] = []

        def is_there() -> bool:
            found[:] = self.jobs()
            return bool(found)

        return self.rng.choice(found) if self.until(is_there) else None

    def children(self, words: bytes) -> list[int]:
        """Pids of direct children of the search whose command line holds these words."""
        return (
            [] if self.search is None else [pid for pid in children(self.search.pid) if words in command(pid)]
        )

    def host(self) -> int | None:
        """The process that imports the script."""
        return next(iter(self.children(b"child.py")), None)

    def fork_server(self) -> int | None:
        """The process that makes keepers."""
        return next(iter(self.children(b"fork_server")), None)

    def waiting_keeper(self) -> int | None:
        """The keeper without a job."""
        server = self.fork_server()
        known = {job.keeper for job in self.jobs()}
        waiting = [] if server is None else [pid for pid in children(server) if pid not in known]
        return max(waiting, default=None)

    def hit(self, pid: int, number: signal.Signals = signal.SIGKILL, *, counts: bool = True) -> bool:
        """Send a signal: a fault, if the process was there."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        self.n_faults += counts
        return True

    def kill_search(self) -> bool:
        """Kill -9 of the search, as a fault if it lived; it is reaped."""
        if self.search is None or self.search.poll() is not None:
            return False
        self.hit(self.search.pid)
        self.finish()
        return True

    # Places.

    def mount(self, folder: Path, megabytes: float) -> None:
        """Mount a small file system of its own, until the run is over."""
        folder.mkdir(parents=True, exist_ok=True)
        size = f"size={int(megabytes * 1024)}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "faults", folder], check=True)
        self.later(subprocess.run, ["umount", "-l", folder])

    def resize(self, folder: Path, megabytes: float) -> None:
        """Give a mounted file system another size."""
        size = f"remount,size={int(megabytes * 1024)}k"
        subprocess.run(["mount", "-o", size, folder], check=True)

    def fill(self, folder: Path) -> Path:
        """Fill a file system to its last byte with one file; return that file."""
        hog = folder / "hog"
        self.n_faults += 1
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError), hog.open("ab", buffering=0) as stream:
                while stream.write(b"x" * size) == size:
                    pass
        return hog

    def copy_study(self, name: str) -> Path:
        """Copy the study's folder beside; only while no search writes it."""
        target = self.folder / name
        shutil.copytree(self.study, target, ignore_dangling_symlinks=True)
        return target
