"""Whether files are read before they are written, by whoever: inotify through ctypes.

A checkpoint that is loaded is opened and read before anything is written to it. That shows how a job begins,
however short its epochs are.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_ACCESS = 0x001
_MODIFY = 0x002
_CLOSE_NOWRITE = 0x010
_OVERFLOW = 0x4000
_NONBLOCK = 0o4000
_CLOEXEC = 0o2000000
_EVENT = struct.Struct("iIII")


class ReadWatch:
    """Watches files from its making until `close`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Begin; files that cannot be watched are left out."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        #: -1 where the kernel gives none (fs.inotify.max_user_instances)
        self._descriptor: int = self._libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        self._paths: dict[int, Path] = {}
        #: whether nothing that was read can have been missed
        self.is_complete = self._descriptor >= 0 and bool(paths)
        for path in paths if self._descriptor >= 0 else ():
            watch = self._libc.inotify_add_watch(
                self._descriptor, os.fsencode(path), _ACCESS | _MODIFY | _CLOSE_NOWRITE
            )
            if watch >= 0:
                self._paths[watch] = path
            else:  # gone meanwhile, or more than fs.inotify.max_user_watches
                self.is_complete = False

    def __enter__(self) -> Self:
        """The watch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def read_first(self) -> list[Path]:
        """The files that were read before they were changed, since the beginning. Ask once."""
        first: dict[int, int] = {}
        while data := self._read():
            at = 0
            while at < len(data):
                watch, mask, _, n_name = _EVENT.unpack_from(data, at)
                at += _EVENT.size + n_name
                self.is_complete &= not mask & _OVERFLOW
                if mask & (_ACCESS | _MODIFY | _CLOSE_NOWRITE):
                    first.setdefault(watch, mask)
        return [self._paths[watch] for watch, mask in first.items() if not mask & _MODIFY]

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
