"""What holds one slot of a Ray cluster whose nodes share no files with the search.

All that a job needs comes with its order, and all that it leaves is fetched from here: its output while it
runs, and its result, which is kept until a search has it. Each attempt has a folder of its own on the node,
with a copy of the code that Ray brought: so an old copy of an attempt can spoil nothing of a new one.

Owns that folder, and when a job ends because nobody has been heard of. Must not know Ray but for the question
whether its head answers, nor what a job is. It is sent to the nodes as it is. Standard library only.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperband.launch.ray.actor import _QUIET_S, SlotActor, _Keeper

#: of each output, so much comes with one answer
_PART_BYTES = 4 << 20
_LOOK_S = 1.0
#: Ray's head is asked whether it is there when the search has said nothing for so long
_ASK_AFTER_S = 10.0
#: a result that no search has taken is kept for so long; so is the slot
_KEEP_S = 86400.0
_FENCE = "fence"
#: in each folder of a slot's own: which process that was
_OWNER_FILE = "owner"
#: of ours in the folder of an attempt: where its job runs
_WORK = "work"


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
            mark: of what travelled here.
        """
        self._came_with = mark
        #: the code, as Ray unpacked it
        self._package = Path.cwd()
        self._lease_s = lease_s
        self._root = _own_folder(study)
        #: whose a folder is: of this process
        self._mark = f"{os.getpid()} {_start_ticks(os.getpid())} {_pid_namespace()}"
        self._known: dict[str, _Sent] = {}
        #: words for attempts that have not come yet: calls overtake each other
        self._early: dict[str, list[str]] = {}
        self._is_asking = False
        self._depot: subprocess.Popen[bytes] | None = None
        self._depot_lock = threading.Lock()
        self._node = self._root / "node" / uuid.uuid4().hex
        for name, text in files.items():
            path = self._node / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (self._node / _OWNER_FILE).write_text(self._mark)
        self._sweep()
        self._next_work: Path | None = self._prepare()
        super().__init__(str(self._node / "start.py"), give_up_s)

    def about(self) -> dict[str, Any]:
        """Return also which attempt somebody should fetch, and where its folder is at the search."""
        with self._lock:
            kept = list(self._known.values())[-1:]
        names = {"attempt": kept[0].attempt, "folder": kept[0].at_search} if kept else {"attempt": ""}
        return {**super().about(), **names, "root": str(self._root), "mark": self._came_with}

    def begin(self, order: Mapping[str, Any]) -> None:
        """Run an attempt; its end comes by `sync`."""
        sent = _Sent(order["attempt"], order["at_search"], self._root / "attempts" / order["attempt"])
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
                self._let_go(job)
            sent.result = {**result, "attempt": sent.attempt}
        sent.is_over.set()
        if sent.is_unwanted:
            self.forget(sent.attempt)
        shutil.rmtree(sent.folder / _WORK, ignore_errors=True)

    def _run_order(self, sent: _Sent, order: Mapping[str, Any]) -> dict[str, Any]:
        ready, self._next_work = self._next_work, None
        (ready or self._prepare()).rename(sent.folder)
        work = sent.folder / _WORK
        began = self._lay_out(order, work)
        words = dict(order["order"])
        python, script, *rest = words["argv"]
        words["argv"] = [python or sys.executable, str(work / script), *rest]
        words["cwd"] = str(work / words["cwd"])
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
            self._order(keeper, str(sent.folder), sent.attempt)
        # what the next job needs can wait until this one has started, which it would slow down
        keeper.wait(_QUIET_S)
        with self._lock:
            self._waiting = self._spawn()
        # a disk that is full is the next attempt's trouble
        with contextlib.suppress(OSError):
            self._next_work = self._prepare()
        if (order.get("checkpoint") or {}).get("pattern") is not None:
            # what it needs is imported by the time when it is needed; whether that works is told then
            self._ask_depot({"op": "warm"}, "", order["checkpoint"]["storage"])
        keeper.wait()
        result = _result_in(sent.folder, sent.attempt)
        if result is None:
            said = keeper.words() or f"its keeper ended with {keeper.process.wait()}, and left no result"
            return {"exit_status": None, "never_ran": not (sent.folder / "claim").exists(), "note": said}
        if order.get("checkpoint") is not None:
            result["checkpoint"] = {**began, **self._seal(order, work, result)}
        return result

    def _renewed(self, keeper: _Keeper | None) -> _Keeper:
        if keeper is not None:
            keeper.close()
        return self._spawn()

    # Checkpoints.

    def _lay_out(self, order: Mapping[str, Any], work: Path) -> dict[str, Any]:
        """Lay out the checkpoint that a job goes on from; return what is to be known of that."""
        checkpoint = order.get("checkpoint")
        if checkpoint is not None and checkpoint["pattern"] is not None:
            _remove_matching(work / order["order"]["cwd"], checkpoint["pattern"])
        if checkpoint is None or checkpoint["after"] is None:
            return {}
        after = checkpoint["after"]
        if not after["sealed"]:
            return {"started_over": after["why"]}
        asked = {
            "op": "lay_out",
            "attempt": after["sealed"]["attempt"],
            "manifest_sha256": after["sealed"]["manifest_sha256"],
            "folder": str(work / order["order"]["cwd"]),
        }
        answer = self._ask_depot(asked, after["disk"], after["storage"])
        if answer["ok"]:
            self._remove_others(Path(after["disk"]), after["sealed"]["attempt"])
            return {"went_on_from": after["sealed"]["attempt"]}
        if not answer["is_absent"]:
            raise RuntimeError(f"its checkpoint cannot be fetched: {answer['why']}")
        return {"started_over": f"its checkpoint cannot be used: {answer['why']}"}

    def _remove_others(self, disk: Path, attempt: str) -> None:
        """Remove what else of a trial is on this disk: what a job goes on from is the newest that counts."""
        for other in disk.glob("*"):
            if other.name != attempt:
                shutil.rmtree(other, ignore_errors=True)

    def _seal(self, order: Mapping[str, Any], work: Path, result: Mapping[str, Any]) -> dict[str, Any]:
        """Seal what a job left that ended well."""
        if result["exit_status"] != 0 or result["asked"] is not None or result["fenced"]:
            return {}
        checkpoint = order["checkpoint"]
        if checkpoint["pattern"] is None:
            return {}
        asked = {
            "op": "seal",
            "attempt": order["attempt"],
            "folder": str(work / order["order"]["cwd"]),
            "pattern": checkpoint["pattern"],
        }
        disk = str(self._root / "checkpoints" / checkpoint["key"])
        answer = self._ask_depot(asked, disk, checkpoint["storage"])
        if answer["ok"]:
            return {"sealed": answer["sealed"], "disk": disk, "storage": checkpoint["storage"]}
        return {"sealed": None, "why": f"its checkpoint could not be stored: {answer['why']}"}

    def _ask_depot(self, words: Mapping[str, Any], disk: str, storage: str | None) -> dict[str, Any]:
        """Have the process beside us carry files, which knows how, and keeps what it had to import."""
        about = {"disk": disk, "storage": storage}
        with self._depot_lock:
            if self._depot is None or self._depot.poll() is not None:
                self._depot = subprocess.Popen(
                    [sys.executable, "-P", str(self._node / "depot.py")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd=self._node,
                )
            assert self._depot.stdin is not None
            assert self._depot.stdout is not None
            self._depot.stdin.write(json.dumps({**words, **about}).encode() + b"\n")
            self._depot.stdin.flush()
            line = self._depot.stdout.readline()
        if not line:
            return {"ok": False, "is_absent": False, "why": "the process that carries checkpoints ended"}
        found: dict[str, Any] = json.loads(line)
        return found

    # The folder.

    def _prepare(self) -> Path:
        """Make the folder of an attempt to come, with the code in it: before anybody waits for it."""
        folder = self._root / "attempts" / f"next.{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        (folder / _OWNER_FILE).write_text(self._mark)
        shutil.copytree(self._package, folder / _WORK, symlinks=True)
        return folder

    def _sweep(self) -> None:
        """Remove what slots left on this node that were killed, of any study: nobody can fetch it now."""
        for owner in self._root.parent.glob(f"*/*/*/{_OWNER_FILE}"):
            # another sweeps, too, or its slot is just leaving
            with contextlib.suppress(OSError, ValueError):
                pid, ticks, namespace = map(int, owner.read_text().split())
                # of one in another container nothing can be said
                if namespace == _pid_namespace() and _start_ticks(pid) != ticks:
                    shutil.rmtree(owner.parent, ignore_errors=True)

    # Nobody.

    def _watch(self) -> None:
        """End when nobody wants us, and the job when nobody has been heard of."""
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                self._leaving = [process for process in self._leaving if process.poll() is None]
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
        """End; what runs of a job is killed by its keeper, by the end of its input if by nothing else."""
        shutil.rmtree(self._node, ignore_errors=True)
        if self._next_work is not None:
            shutil.rmtree(self._next_work, ignore_errors=True)
        # what other slots of the study or its checkpoints are in stays
        for folder in (self._root / "attempts", self._root / "node", self._root):
            with contextlib.suppress(OSError):
                folder.rmdir()
        os._exit(0)


def _head_answers() -> None:
    from ray.experimental.internal_kv import _internal_kv_exists

    _internal_kv_exists(b"hyperband")


def _own_folder(study: str) -> Path:
    """Return a folder of this node that nobody else can have put there.

    Raises:
        PermissionError: somebody has.
    """
    top = Path(tempfile.gettempdir()) / f"hyperband-{os.getuid()}"
    top.mkdir(mode=0o700, exist_ok=True)
    found = top.lstat()
    if top.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{top} is not ours alone")
    (top / study).mkdir(exist_ok=True)
    return top / study


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_ticks(pid: int) -> int:
    """Return when a process began, in the kernel's ticks; 0: it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(b")")[2].split()[19])


def _remove_matching(folder: Path, pattern: str) -> None:
    """Remove what came with the code of a trial's files: of these those count that an attempt sealed."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    for here, folders, names in os.walk(folder):
        for path in (Path(here, name) for name in (*names, *folders)):
            if matches(str(path.relative_to(folder))) and (path.is_symlink() or not path.is_dir()):
                path.unlink()


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
