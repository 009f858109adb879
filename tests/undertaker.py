"""Waits for the end of a pipe, kills what has a mark in its environment, and removes a folder.

Started by clusters of tests, so that nothing of them is left however the test process ends: the pipe is its
standard input, and ends with whoever holds the other side. Arguments: the mark (`NAME=VALUE`) and the folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Set
from pathlib import Path

_PATIENCE_S = 20.0


def start_undertaker(mark: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Return one that waits; its end is asked for by closing its standard input."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark, str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def running() -> set[int]:
    """Return all processes but for ourselves."""
    return {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()} - {os.getpid()}


def marked(*marks: str, but: Set[int] = frozenset()) -> list[int]:
    """Return what has all of these, `NAME=VALUE`, in its environment, but for ourselves and some others."""
    wanted = {mark.encode() for mark in marks}
    found = []
    for pid in running() - but:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue  # it has ended, or is not ours
        if wanted <= set(environment.split(b"\0")):
            found.append(pid)
    return found


def main(mark: str, folder: str) -> None:
    """Wait, and bury."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    sys.stdin.buffer.read()
    ends_s = time.monotonic() + _PATIENCE_S
    while (found := marked(mark)) and time.monotonic() < ends_s:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
