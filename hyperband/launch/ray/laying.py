"""What comes back of an attempt whose node shares no files with us, laid into its folder here.

There it lies as a keeper on a shared file system would have left it, so that whoever looks at the folder need
not know the difference. Owns what is written there, and that a second copy of it changes nothing: another
process may have laid the same before. Must not know Ray.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperband.launch.remote.files import Ordered
from hyperband.machine.claim import CLAIM_FILE, parse, read_fresh, write_lease, write_whole
from hyperband.machine.keeper import KEEPER_FILE, RESULT_FILE, checksum_of

_OUTPUTS = ("stdout", "stderr")


class Laying:
    """One attempt's folder at the search."""

    def __init__(self, folder: Path, attempt: str) -> None:
        """Begin with nothing of it; what is there already is written again."""
        self._folder = folder
        self.attempt = attempt
        #: how much of its outputs is here, in bytes
        self.offsets = dict.fromkeys(_OUTPUTS, 0)
        self.has_keeper = False
        #: its output was other than its keeper saw it in the end, and is fetched from its beginning again
        self._is_again = False

    def is_wanted(self) -> bool:
        """Return whether the folder is this attempt's still.

        Raises:
            OSError: it cannot be looked at.
        """
        ordered = Ordered.read(self._folder)
        return ordered is not None and ordered.attempt == self.attempt

    def lay(self, part: Mapping[str, Any]) -> bool:
        """Lay down what came, its result last; return whether that was it.

        Raises:
            OSError: it cannot be written; whoever comes with the same again loses nothing.
        """
        # first, and in place: its node is there also while there is no room here for what it sends
        write_lease(str(self._folder), part["n_answers"], part["age_s"])
        for name in _OUTPUTS:
            self._write(name, part["parts"][name])
        if part["keeper"] and not self.has_keeper:
            write_whole(str(self._folder), KEEPER_FILE, part["keeper"])
            self.has_keeper = True
        if part["result"] is None or self._begins_again(part["result"]):
            return False
        # what its keeper claimed on its node stands for our claim
        claimed = parse(read_fresh(str(self._folder), CLAIM_FILE)[0]) or {}
        result = {**part["result"], "token": claimed.get("token")}
        write_whole(str(self._folder), RESULT_FILE, json.dumps(result).encode())
        return True

    def _begins_again(self, result: Mapping[str, Any]) -> bool:
        """Return whether all output has to come once more: the script may have cut it short meanwhile."""
        if self._is_again or "stdout_bytes" not in result:
            return False
        directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if checksum_of(directory, "stdout") == (result["stdout_bytes"], result["stdout_crc32"]):
                return False
        finally:
            os.close(directory)
        self._is_again = True
        for name in _OUTPUTS:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self._folder / name, 0)
        self.offsets = dict.fromkeys(_OUTPUTS, 0)
        return True

    def lay_unbegun(self, why: str) -> None:
        """Lay down that nothing of it ever ran.

        Raises:
            OSError: it cannot be written.
        """
        result = {"attempt": self.attempt, "exit_status": None, "never_ran": True, "note": why}
        nothing = {"parts": dict.fromkeys(_OUTPUTS, b""), "keeper": b"", "n_answers": 0, "age_s": 0.0}
        self.lay({**nothing, "result": result})

    def make_sure(self) -> None:
        """Have all of it on the disk: its slot is about to forget it.

        Raises:
            OSError: that failed.
        """
        for name in (*_OUTPUTS, RESULT_FILE, "."):
            self._sync(name)

    def _write(self, name: str, data: bytes) -> None:
        if not data:
            return
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            at = self.offsets[name]
            while data:
                n_bytes = os.pwrite(descriptor, data, at)
                at, data = at + n_bytes, data[n_bytes:]
            self.offsets[name] = at
        finally:
            os.close(descriptor)

    def _sync(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
