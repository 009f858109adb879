"""Processes by what /proc says of them. Knows no search."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def marked(mark: bytes) -> Iterator[int]:
    """Pids of all others that have these bytes, NAME=VALUE, in the environment that they began with."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    yield int(process.name)


def lives(pid: int, start_ticks: int) -> bool:
    """Whether this very process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) == start_ticks and fields[0] not in (b"Z", b"X")


def children(pid: int) -> Iterator[int]:
    """Pids of the children that its first thread made."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def command(pid: int) -> bytes:
    """Its command line, words ended by NUL; empty once it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
