"""Room on the file systems that a search and its jobs write to: nothing starts once one is nearly full.

Owns the look at free space. What happens then is the loop's business.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

_GIB = 1 << 30
#: a look costs microseconds on a disk, and a round trip on a network
_LOOK_S = 0.2


class DiskWatch:
    """Looks after the file systems of some folders."""

    def __init__(self, paths: Iterable[Path], min_free_bytes: int) -> None:
        """Watch the file systems of these folders.

        Args:
            paths: folders; several on one file system are looked at once.
            min_free_bytes: so much must be free for us on each; 0: nothing is watched.
        """
        self._paths = tuple(dict.fromkeys(paths))
        self._min_free_bytes = min_free_bytes
        self._looked_s = float("-inf")
        self._why_full: str | None = None

    def why_full(self) -> str | None:
        """Return in words why nothing should start, None if there is room; at most every 0.2 s a new look."""
        if self._min_free_bytes <= 0:
            return None
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._why_full = self._look()
        return self._why_full

    def forget(self) -> None:
        """Make the next look a new one."""
        self._looked_s = float("-inf")

    def _look(self) -> str | None:
        seen: set[int] = set()
        for path in self._paths:
            try:
                device = path.stat().st_dev
                if device in seen:
                    continue
                found = os.statvfs(path)
            except OSError:
                # A folder that is gone or a server that does not answer says nothing of free space. Whoever
                # needs the folder next says what is wrong with it.
                continue
            seen.add(device)
            free_bytes = found.f_bavail * found.f_frsize
            if free_bytes < self._min_free_bytes:
                return (
                    f"--min-free-disk is {_gib(self._min_free_bytes)} GiB, only {_gib(free_bytes)} GiB are "
                    f"free on {_place(path)}"
                )
            # some file systems have no fixed number of inodes, and say 0 of 0
            if found.f_files > 0 and found.f_favail == 0:
                return f"no more files can be made on {_place(path)}: all {found.f_files} inodes are in use"
        return None


def _gib(n_bytes: int) -> str:
    """Return bytes as GiB with as many digits as tell them from 0."""
    gib = n_bytes / _GIB
    return f"{gib:.1f}".removesuffix(".0") if gib >= 0.1 or n_bytes == 0 else f"{gib:.2g}"


def _place(path: Path) -> str:
    """Return where a folder's file system is mounted, with the folder if that is another."""
    place = path.absolute()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return str(place) if place == path.absolute() else f"{place} (of {path})"
