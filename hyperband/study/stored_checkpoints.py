"""Checkpoints in a storage: what no job will want again is removed from there, beside the search.

A trial's checkpoint is superseded by that of its next job, and goes when the outcome that says so is on disk;
all of a trial's go as `--keep-checkpoints` says, decided by `hyperband.search.retention`. What a killed
search left is removed by the next one. A storage that does not answer holds nothing up.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hyperband
from hyperband.errors import MachineError
from hyperband.folder import job_folder
from hyperband.report.text import counted
from hyperband.search.decisions import Decision
from hyperband.search.events import CheckpointsRemoved, Event, JobEnded, JobStarted
from hyperband.search.retention import Retention
from hyperband.search.state import SearchState
from hyperband.search.trial import Outcome
from hyperband.settings import KeepCheckpoints, Settings
from hyperband.study.first_stored import FirstStored

#: in the folder of an attempt whose checkpoint was removed since another one came
_REMOVED_FILE = "checkpoint.removed"
_NOTHING_LOST = (
    "So the search ended. Nothing is lost: the same command goes on when the storage takes them, and at once "
    "with --keep-going"
)
#: what is said while running jobs end
_UNTIL_OVER = "in --storage: nothing more is started, and the search ends when the jobs that run have ended."
#: patience with a storage at the end of a search
_FINISH_S = 60.0
_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hyperband.machine.depot import main; main()"


@dataclass(frozen=True, slots=True)
class _Removal:
    """What is to be removed."""

    #: folder of the attempt that left it
    folder: Path
    #: what is known of it, see sealed_by of launch/ray/sent.py
    sealed: Mapping[str, Any]
    #: the trial, if all that it has goes
    trial: int | None

    def words(self) -> dict[str, Any]:
        """Return what the process is told that removes it."""
        op = "remove" if self.trial is None else "remove_all"
        found = self.sealed["sealed"]["attempt"]
        return {"op": op, "attempt": found, "storage": self.sealed["storage"], "disk": ""}


class StoredCheckpoints:
    """The checkpoints of one search. Call `recover` once, and then `note` and `after_turn` each turn."""

    #: nothing here wants another turn of the loop
    pending = False

    def __init__(self, settings: Settings, *, engine: SearchState, study_folder: Path) -> None:
        """Read the settings; nothing is removed yet.

        Args:
            settings: of the search.
            engine: is only read.
            study_folder: where the folders of attempts are.
        """
        #: lines for the user; whoever tells them empties this
        self.news: list[str] = []
        #: why the search had better end; None: nothing of theirs says so
        self.failure: MachineError | None = None
        self._engine = engine
        self._study_folder = study_folder
        keep = settings.keep_checkpoints
        self._retention = None
        if keep is not KeepCheckpoints.ALL:
            self._retention = Retention(keep_done=keep is not KeepCheckpoints.NONE)
        self._is_on = settings.storage is not None
        self._keep_going = settings.keep_going
        self._first = FirstStored(settings.storage or "")
        #: jobs and attempts that began before this start
        self._began_before: set[tuple[int, int]] = set()
        #: folders of the attempts whose checkpoints count, by trial
        self._counts: dict[int, Path] = {}
        self._wanted: list[_Removal] = []
        self._worker = _Worker()
        self._is_in_trouble = False

    def recover(self, events: Iterable[Event]) -> None:
        """Find out what an earlier search left to be removed.

        Args:
            events: of the study so far, which the engine has seen.
        """
        if not self._is_on:
            return
        trials: dict[int, int] = {}
        done: set[int] = set()
        for event in events:
            if isinstance(event, CheckpointsRemoved):
                done.update(event.trials)
            elif isinstance(event, JobStarted):
                trials[event.job] = event.trial
                done.discard(event.trial)
            elif isinstance(event, JobEnded):
                self._supersede(trials[event.job], event)
                self._first.see_before(event)
        self._began_before = {(started.job, started.attempt) for started in self._engine.running()}
        if self._retention is not None:
            self._let_go(trial for trial in self._retention.all_over(self._engine) if trial not in done)

    def note_end(self, trial: int, event: JobEnded) -> None:
        """Take in how an attempt ended: one with a loss supersedes the checkpoint of the one before."""
        if not self._is_on:
            return
        self._supersede(trial, event)
        if (event.job, event.attempt) in self._began_before:
            self._first.see_before(event)
        elif (said := self._first.see(event)) is not None:
            if self._keep_going:
                self.news.append(f"Warning: {said}.")
            else:
                self.failure = MachineError(f"{said}. {_NOTHING_LOST}")
                self.news.append(f"Not one checkpoint could be stored {_UNTIL_OVER}")

    def _supersede(self, trial: int, event: JobEnded) -> None:
        if event.outcome is not Outcome.LOSS:
            return
        before = self._counts.get(trial)
        self._counts[trial] = job_folder(self._study_folder, event.job, event.attempt)
        if before is not None and before != self._counts[trial] and not (before / _REMOVED_FILE).exists():
            self._want(before, None)

    def note(self, ended: Iterable[int], decisions: Iterable[Decision]) -> None:
        """Take in what happened, after the engine did.

        Args:
            ended: trials of the attempts that ended.
            decisions: what the engine decided.
        """
        if self._is_on and self._retention is not None:
            self._let_go(self._retention.over(self._engine, ended, decisions))

    def after_turn(self, *, durable: bool) -> CheckpointsRemoved | None:
        """Have removed what is known to go; call after the journal was written.

        Args:
            durable: what was written would survive a power cut.

        Returns:
            What to journal, with whatever comes next.
        """
        if durable:
            for removal in self._wanted:
                self._worker.do(removal)
            self._wanted.clear()
        return self._told()

    def finish(self) -> CheckpointsRemoved | None:
        """Remove all that is left, and wait for it, though not for ever: the search ends."""
        for removal in self._wanted:
            self._worker.do(removal)
        self._wanted.clear()
        n_left = self._worker.finish(_FINISH_S)
        if n_left:
            self.news.append(
                f"{counted(n_left, 'old checkpoint')} in the storage could not be removed within "
                f"{_FINISH_S:g} s; the same command removes them at its next start."
            )
        return self._told()

    def _let_go(self, trials: Iterable[int]) -> None:
        for trial in trials:
            if (folder := self._counts.get(trial)) is not None:
                self._want(folder, trial)

    def _want(self, folder: Path, trial: int | None) -> None:
        # here, because searches without a storage import this module, too
        from hyperband.launch.ray.sent import sealed_by

        sealed = sealed_by(folder)
        if sealed["sealed"] is not None and sealed.get("storage") is not None:
            self._wanted.append(_Removal(folder, sealed, trial))

    def _told(self) -> CheckpointsRemoved | None:
        trials: list[int] = []
        n_files = n_bytes = 0
        for removal, answer in self._worker.take():
            if not answer["ok"]:
                if not self._is_in_trouble:
                    self.news.append(f"Old checkpoints stay in the storage for now: {answer['why']}")
                self._is_in_trouble = True
                continue
            if removal.trial is None:
                # a folder that was removed meanwhile needs no mark
                with contextlib.suppress(OSError):
                    (removal.folder / _REMOVED_FILE).touch()
                continue
            trials.append(removal.trial)
            n_files += removal.sealed["sealed"]["n_files"]
            n_bytes += removal.sealed["sealed"]["n_bytes"]
        if not trials:
            return None
        return CheckpointsRemoved(time.time(), tuple(trials), n_files, n_bytes)


class _Worker:
    """The thread that waits for what speaks with the storage."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[_Removal | None] = queue.SimpleQueue()
        self._done: deque[tuple[_Removal, dict[str, Any]]] = deque()
        self._n_asked = 0
        self._n_done = 0
        self._thread: threading.Thread | None = None

    def do(self, removal: _Removal) -> None:
        """Have something removed, some time."""
        self._n_asked += 1
        self._tasks.put(removal)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
            self._thread.start()

    def take(self) -> list[tuple[_Removal, dict[str, Any]]]:
        """Return what was answered since the last call."""
        found = []
        while self._done:
            found.append(self._done.popleft())
        return found

    def finish(self, patience_s: float) -> int:
        """Wait for what was asked, and end; return how much of it was not done."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join(patience_s)
            self._thread = None
        return self._n_asked - self._n_done

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            speaker = _Speaker(stack)
            while (removal := self._tasks.get()) is not None:
                self._done.append((removal, speaker.ask(removal)))
                self._n_done += 1


class _Speaker:
    """The process that speaks with the storage; where it ended (some hang), another one the next time."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Start nothing; stack: sees the ends of processes."""
        self._stack = stack
        self._process: subprocess.Popen[bytes] | None = None
        #: one that never answered would not the next time
        self._may_start = True
        self._why = ""

    def ask(self, removal: _Removal) -> dict[str, Any]:
        """Have something removed; return what came of it."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._started() if self._may_start else None
        answer = None if self._process is None else _answer(self._process, removal)
        if answer is None:
            self._process = None
            return {"ok": False, "why": self._why}
        self._may_start = True
        return answer

    def _started(self) -> "subprocess.Popen[bytes] | None":
        self._may_start = False
        self._why = "what speaks with it has ended"
        root = str(Path(hyperband.__file__).resolve().parents[1])
        argv = [sys.executable, "-P", "-c", _RUN, root]
        try:
            return self._stack.enter_context(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
            )
        except OSError as err:
            self._why = f"what speaks with it cannot be started: {err.strerror or err}"
            return None


def _answer(process: "subprocess.Popen[bytes]", removal: _Removal) -> dict[str, Any] | None:
    """Ask for a removal, and wait for what is said of it; None: nobody is there any more."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(removal.words()).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
    except BrokenPipeError:
        return None
    return answer
