"""What the clusters of tests have alike: a folder of their own, processes with their mark, patience."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar


class Cluster(Protocol):
    """Daemons that are ended with everything on them."""

    def end(self) -> None:
        """End everything, and see that nothing is left."""
        ...


C = TypeVar("C", bound=Cluster)


@contextlib.contextmanager
def in_own_folder(make: Callable[[Path], C], start: Callable[[C], object], *, prefix: str) -> Iterator[C]:
    """Start a cluster in a folder of its own, named by a prefix; end it with everything on it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    cluster = make(folder)
    try:
        start(cluster)
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(what: Callable[[], object], patience_s: float = 60.0, words: str = "") -> None:
    """Return once this is true; fail when it does not become so."""
    until_s = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < until_s, f"waited {patience_s} s for {words or what}"
        time.sleep(0.05)


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    """Signal processes, of which some may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def cmdline(pid: int) -> bytes:
    """Return the command line of a process; empty: it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
