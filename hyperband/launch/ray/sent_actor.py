"""What holds one slot of a Ray cluster whose nodes share no files with the search.

All that a job needs comes with its order, and all that it leaves is fetched from here: its output while it
runs, and its result, which is kept until a search has it. Each attempt has a folder of its own on the node,
with a copy of the code that Ray brought: so an old copy of an attempt can spoil nothing of a new one.

Owns the life of an attempt there, and when a job ends because nobody has been heard of. Its folders are
those of sent_folder.py, its checkpoints those of sent_checkpoints.py. Must not know Ray but for the
question whether its head answers, nor what a job is. It is sent to the nodes as it is. Standard library
only.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperband.launch.ray.actor import _QUIET_S, SlotActor, _Keeper, _wait_for_end
from hyperband.launch.ray.sent_checkpoints import SentCheckpoints
from hyperband.launch.ray.sent_folder import WORK, SlotFolder

#: of each output, so much comes with one answer
_PART_BYTES = 4 << 20
_LOOK_S = 1.0
#: Ray's head is asked whether it is there when the search has said nothing for so long
_ASK_AFTER_S = 10.0
#: a result that no search has taken is kept for so long; so is the slot
_KEEP_S = 86400.0
_FENCE, _STOP = "fence", "stop"
#: a job that is killed when its slot leaves takes so long at most
_KILL_S = 3.0
_ENDED = "the search ended it while it was carried"


@dataclass(slots=True)
class _Sent:
    """One attempt, from its order until a search has its result."""

    attempt: str
    #: its folder at the search
    at_search: str
    #: and here
    folder: Path
    #: what the search said to it
    words: list[str] = field(default_factory=list)
    #: its keeper has it
    is_told: bool = False
    #: something is done for its checkpoint although its job has begun
    is_carried: bool = False
    #: between the word to end and the end
    grace_s: float = 0.0
    result: dict[str, Any] | None = None
    is_over: threading.Event = field(default_factory=threading.Event)
    n_answers: int = 0
    #: nobody will fetch what it leaves
    is_unwanted: bool = False


class SentSlotActor(SlotActor):
    """One slot. Its methods are called from several threads of Ray's, one job at a time."""

    def __init__(
        self, study: str, files: Mapping[str, str], give_up_s: float, lease_s: float, mark: str = ""
    ) -> None:
        """Have a keeper wait for a job.

        Args:
            study: part of the name of its folder on this node.
            files: what is run here, by path.
            give_up_s: without a word from a search and without a job it ends after so long.
            lease_s: without a word from a search or Ray's head a job ends after so long.
            mark: tells it from slots of other starts.
        """
        self._lease_s = lease_s
        # the code is where Ray unpacked it
        self._folder = SlotFolder(study, Path.cwd(), files)
        self._checkpoints = SentCheckpoints(self._folder.node, self._folder.root / "checkpoints")
        self._known: dict[str, _Sent] = {}
        #: words for attempts that have not come yet: calls overtake each other
        self._early: dict[str, list[str]] = {}
        self._is_asking = False
        self._next_work: Path | None = self._folder.prepare()
        super().__init__(str(self._folder.node / "start.py"), give_up_s, mark)

    def about(self) -> dict[str, Any]:
        """Return also which attempt somebody should fetch, and where its folder is at the search."""
        with self._lock:
            kept = list(self._known.values())[-1:]
        names = {"attempt": kept[0].attempt, "folder": kept[0].at_search} if kept else {"attempt": ""}
        return {**super().about(), **names, "root": str(self._folder.root)}

    def begin(self, order: Mapping[str, Any]) -> None:
        """Run an attempt; its end comes by `sync`."""
        sent = _Sent(order["attempt"], order["at_search"], self._folder.of(order["attempt"]))
        sent.grace_s = float(order["order"].get("grace_s", 0.0))
        with self._lock:
            self._heard_s = time.monotonic()
            if self._attempt or sent.attempt in self._known:
                raise RuntimeError(f"the attempt {self._attempt or sent.attempt} is here already")
            sent.words = self._early.pop(sent.attempt, [])
            self._known[sent.attempt] = sent
            self._attempt = sent.attempt
        threading.Thread(target=self._see_through, args=(sent, order), name="job", daemon=True).start()

    def sync(
        self, attempt: str, offsets: Mapping[str, int], has_keeper: bool, wait_s: float
    ) -> dict[str, Any] | None:
        """Return what is new of an attempt; None: nothing is known of it.

        Args:
            attempt: its name.
            offsets: how much of its outputs is there already, by name.
            has_keeper: so is `keeper.json`.
            wait_s: for so long its end is waited for, at most.
        """
        self._heard_s = time.monotonic()
        sent = self._known.get(attempt)
        if sent is None:
            return None
        is_over = sent.is_over.wait(wait_s)
        self._heard_s = time.monotonic()
        parts = {name: _read(sent.folder / name, offset, _PART_BYTES) for name, offset in offsets.items()}
        is_all = is_over and not any(len(part) == _PART_BYTES for part in parts.values())
        sent.n_answers += 1
        age = _read(sent.folder / "lease", 0, 1 << 10).split()[1:2]
        return {
            "parts": parts,
            "keeper": b"" if has_keeper else _read(sent.folder / "keeper.json", 0, 1 << 16),
            "n_answers": sent.n_answers,
            "age_s": float(age[0]) if age else 0.0,
            "result": sent.result if is_all else None,
            "has_more": any(len(part) == _PART_BYTES for part in parts.values()),
        }

    def tell(self, attempt: str, line: str) -> None:
        """Hand a word of the search on to the keeper of an attempt, or keep it until there is one."""
        with self._lock:
            sent = self._known.get(attempt)
            if sent is None:
                self._early.setdefault(attempt, []).append(line)
            else:
                sent.words.append(line)
                if sent.is_told and self._job is not None and self._attempt == attempt:
                    self._tell(self._job, line)
                if not sent.is_over.is_set():
                    self._hurry(sent, 0.0 if line == _FENCE else 2 * sent.grace_s)

    def _hurry(self, sent: _Sent, patience_s: float) -> None:
        """Give up what is carried for an attempt that is to end: at once before its job, later after it."""
        if not sent.is_told:
            self._checkpoints.end(_ENDED)
            return

        def end() -> None:
            if sent.is_carried:
                self._checkpoints.end(_ENDED)

        timer = threading.Timer(patience_s, end)
        timer.daemon = True
        timer.start()

    def forget(self, attempt: str) -> None:
        """Hear that a search has all of an attempt that it wants."""
        with self._lock:
            self._heard_s = time.monotonic()
            sent = self._known.get(attempt)
            if sent is None:
                return
            if not sent.is_over.is_set():
                sent.is_unwanted = True
                return
            del self._known[attempt]
        shutil.rmtree(sent.folder, ignore_errors=True)

    # A job.

    def _see_through(self, sent: _Sent, order: Mapping[str, Any]) -> None:
        try:
            result = self._run_order(sent, order)
        except Exception as err:  # noqa: BLE001 (it is told to the search)
            note = f"{type(err).__name__}: {err}"
            result = {"exit_status": None, "never_ran": not sent.is_told, "note": note}
        with self._lock:
            self._heard_s = time.monotonic()
            job, self._job, self._attempt = self._job, None, ""
            if job is not None:
                self._leaving.append(job)
            sent.result = {**result, "attempt": sent.attempt}
            sent.is_over.set()
            is_unwanted = sent.is_unwanted  # from here on whoever does not want it removes it
        if is_unwanted:
            self.forget(sent.attempt)
        shutil.rmtree(sent.folder / WORK, ignore_errors=True)

    def _run_order(self, sent: _Sent, order: Mapping[str, Any]) -> dict[str, Any]:
        ready, self._next_work = self._next_work, None
        (ready or self._folder.prepare()).rename(sent.folder)
        work = sent.folder / WORK
        try:
            began = self._checkpoints.lay_out(order, work)
        except RuntimeError:
            if sent.words:
                return _ended_before(sent.words[0])
            raise
        words = dict(order["order"])
        python, script, *rest = words["argv"]
        words["argv"] = [python or sys.executable, str(work / script), *rest]
        words["cwd"] = str(work / words["cwd"])
        Path(words["cwd"]).mkdir(parents=True, exist_ok=True)  # no file of it may have travelled
        for name in ("stdout", "stderr"):
            (sent.folder / name).touch()
        (sent.folder / "order.json").write_text(json.dumps(words), encoding="utf-8")
        with self._lock:
            if sent.words:
                return _ended_before(sent.words[0])
            keeper, self._waiting = self._waiting, None
            if keeper is None or keeper.process.poll() is not None:
                keeper = self._renewed(keeper)
            self._job, sent.is_told = keeper, True
            # the folder goes when a search has all of it: nobody may be left there
            self._order(keeper, str(sent.folder), sent.attempt, says_over=False)
        # what the next job needs can wait until this one has started, which it would slow down
        keeper.wait(_QUIET_S)
        with self._lock:
            self._have_another_wait()
        # a disk that is full is the next attempt's trouble
        with contextlib.suppress(OSError):
            self._next_work = self._folder.prepare()
        sent.is_carried = True
        self._checkpoints.get_ready(order)
        sent.is_carried = False
        keeper.wait()
        result = _result_in(sent.folder, sent.attempt)
        if result is None:
            said = keeper.words() or f"its keeper ended with {keeper.process.wait()}, and left no result"
            # a folder that is gone was removed by the job
            never_ran = sent.folder.exists() and not (sent.folder / "claim").exists()
            return {"exit_status": None, "never_ran": never_ran, "note": said}
        if order.get("checkpoint") is not None:
            sent.is_carried = True
            result["checkpoint"] = {**began, **self._checkpoints.seal(order, work, result)}
            sent.is_carried = False
        return result

    def _renewed(self, keeper: _Keeper | None) -> _Keeper:
        if keeper is not None:
            keeper.close()
        return self._spawn()

    # Nobody.

    def _watch(self) -> None:
        """End when nobody wants us, and the job when nobody has been heard of."""
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                self._sweep()
                silent_s = time.monotonic() - self._heard_s
                has_job, keeps_result = bool(self._attempt), bool(self._known)
                if has_job and silent_s >= self._lease_s and self._job is not None:
                    self._tell(self._job, _FENCE)
            if has_job and silent_s >= self._lease_s:
                self.leave()
            if not has_job and silent_s >= (_KEEP_S if keeps_result else self._give_up_s):
                self.leave()
            if has_job and silent_s >= min(_ASK_AFTER_S, self._lease_s / 4) and not self._is_asking:
                self._is_asking = True
                threading.Thread(target=self._ask_head, name="head", daemon=True).start()

    def _ask_head(self) -> None:
        """Ask whether Ray's head is there; one that does not answer says nothing, and nor do we."""
        # Ray has many ways to say that it did not
        with contextlib.suppress(Exception):
            _head_answers()
            self._heard_s = time.monotonic()
        self._is_asking = False

    def leave(self) -> None:
        """End, with a job that runs, and leave nothing here but checkpoints."""
        self._checkpoints.end("its slot ended")
        # to the end, so that no keeper is started any more
        with self._lock:
            if self._waiting is not None:
                self._waiting.process.kill()
                self._waiting.process.wait()
            if self._job is not None:
                self._tell(self._job, _FENCE)
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    _wait_for_end(self._job.process.pid, _KILL_S)
            self._folder.remove()
            os._exit(0)


def _head_answers() -> None:
    from ray.experimental.internal_kv import _internal_kv_exists

    _internal_kv_exists(b"hyperband")


def _read(path: Path, offset: int, most_bytes: int) -> bytes:
    """Return a part of a file; empty where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(most_bytes)
    except FileNotFoundError:
        return b""


def _result_in(folder: Path, attempt: str) -> dict[str, Any] | None:
    """Return the result that a keeper left; None: there is none of this attempt."""
    parse: Callable[[str], Any] = json.loads
    try:
        result = parse((folder / "result.json").read_text(encoding="utf-8"))
        claim = parse((folder / "claim").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if result["attempt"] != attempt or result["token"] != claim["token"]:
        return None
    found: dict[str, Any] = result
    return found


def _ended_before(word: str) -> dict[str, Any]:
    """Return the result of an attempt that was ended before its first moment."""
    if word == _FENCE:
        return {"exit_status": None, "never_ran": True, "note": "the search had given it up"}
    if word != _STOP:
        # that says nothing of a configuration: most likely its checkpoint took so long
        return {
            "exit_status": None,
            "never_ran": True,
            "note": "its time limit was over before it could begin",
        }
    now = time.time()
    return {
        "exit_status": -signal.SIGTERM,
        "asked": word,
        "started_at": now,
        "ended_at": now,
        "leftovers": [],
        "never_ran": True,
        "n_oom_kills": 0,
        "memory_peak_bytes": 0,
        "cpu_s": 0.0,
    }
