"""A trial's checkpoint at a slot that shares no files with the search: laid out and sealed beside its jobs.

Owns the process beside the slot that does it, and how it is asked. What is written, and for how long a
storage may be silent, is that process's business (machine/depot.py). Must not know Ray. It is sent to the
nodes as it is. Standard library only.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BURY_S = 2.0


class SentCheckpoints:
    """Those of all trials that come to one slot."""

    def __init__(self, node: Path, disk: Path) -> None:
        """Start nothing.

        Args:
            node: folder with what is run here.
            disk: folder of checkpoints that stay here.
        """
        self._process = _DepotProcess(node)
        self._disk = disk

    def get_ready(self, order: Mapping[str, Any]) -> None:
        """Have imported what will be needed; whether that works is told when it is."""
        if (order.get("checkpoint") or {}).get("pattern") is not None:
            self._process.ask({"op": "warm"}, "", order["checkpoint"]["storage"])

    def end(self, why: str) -> None:
        """End what is being done, if anything is: whoever asked for it is told why."""
        self._process.end(why)

    def lay_out(self, order: Mapping[str, Any], work: Path) -> dict[str, Any]:
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
        answer = self._process.ask(asked, after["disk"], after["storage"])
        if answer["ok"]:
            _remove_others(Path(after["disk"]), after["sealed"]["attempt"])
            return {"went_on_from": after["sealed"]["attempt"]}
        if not answer["is_absent"]:
            raise RuntimeError(f"its checkpoint cannot be fetched: {answer['why']}")
        return {"started_over": f"its checkpoint cannot be used: {answer['why']}"}

    def seal(self, order: Mapping[str, Any], work: Path, result: Mapping[str, Any]) -> dict[str, Any]:
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
        disk = str(self._disk / checkpoint["key"])
        answer = self._process.ask(asked, disk, checkpoint["storage"])
        if answer["ok"]:
            return {"sealed": answer["sealed"], "disk": disk, "storage": checkpoint["storage"]}
        return {"sealed": None, "why": f"its checkpoint could not be stored: {answer['why']}"}


class _DepotProcess:
    """Started when it is first asked, and then kept, with what it had to import."""

    def __init__(self, folder: Path) -> None:
        """Start nothing; folder: where its script is."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        #: why it was ended; empty: it was not
        self._why = ""

    def ask(self, words: Mapping[str, Any], disk: str, storage: str | None) -> dict[str, Any]:
        """Have something done on the disk, or in a storage if one is named, and return what came of it."""
        with self._lock:
            self._why = ""
            if self._process is None or self._process.poll() is not None:
                try:
                    self._process = self._start()
                except OSError as err:
                    # a job that has its result must not lose it for this
                    why = f"the process that carries checkpoints cannot be started: {err}"
                    return {"ok": False, "is_absent": False, "why": why}
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            line = b""
            with contextlib.suppress(BrokenPipeError):
                asked = json.dumps({**words, "disk": disk, "storage": storage})
                self._process.stdin.write(asked.encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            if not line:
                self._bury(self._process)
        if not line:
            where = "" if storage is None else f"in {storage}: "
            why = self._why or "the process that carries checkpoints ended"
            return {"ok": False, "is_absent": False, "why": f"{where}{why}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", str(self._folder / "depot.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder,
        )

    def end(self, why: str) -> None:
        """End what it is doing, if it does anything: whoever asked is told why."""
        process = self._process
        if process is not None and self._lock.locked():
            self._why = why
            process.kill()

    def _bury(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = None
        process.kill()
        # one that hangs in its disk does not end, and is left alone
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_BURY_S)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _remove_others(disk: Path, attempt: str) -> None:
    """Remove what else of a trial is on this disk: what a job goes on from is the newest that counts."""
    for other in disk.glob("*"):
        if other.name != attempt:
            shutil.rmtree(other, ignore_errors=True)


def _remove_matching(folder: Path, pattern: str) -> None:
    """Remove what came with the code of a trial's files: of these those count that an attempt sealed."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    for here, folders, names in os.walk(folder):
        for path in (Path(here, name) for name in (*names, *folders)):
            if matches(str(path.relative_to(folder))) and (path.is_symlink() or not path.is_dir()):
                path.unlink()
