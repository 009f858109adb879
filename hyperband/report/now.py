"""`now.json`: what a living search knows at this moment, and its journal does not: what it waits for, say.

Owns the file, and from when on it says nothing any more. It is no part of the study: who goes on with one
never reads it. Must not know: what is waited for, or why.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperband.folder import NEW_NOW_FILE, NOW_FILE
from hyperband.machine.claim import parse, read_fresh

#: words change with every job that ends: they are written once in so many seconds
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Now:
    """What a search said last. Times are Unix seconds."""

    #: when that search began, as its journal has it: what another one said is nothing of it
    began_at: float
    #: when it said so
    at: float
    #: why nothing starts; empty: something does, or nothing is wanted
    waits_for: str = ""
    #: since when that is so in these words
    since: float | None = None
    #: numbers of jobs and attempts that their engine has stopped, to let them go on later
    suspended: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def read(cls, study: Path) -> "Now | None":
        """Return what the search that writes, or last wrote, a study said of itself; None: nothing."""
        try:
            (data,) = read_fresh(str(study), NOW_FILE)
            found = {} if data is None else parse(data) or {}
            return cls(
                float(found["began_at"]),
                float(found["at"]),
                str(found["waits_for"]),
                None if found["since"] is None else float(found["since"]),
                frozenset((int(job), int(attempt)) for job, attempt in found["suspended"]),
            )
        except (OSError, KeyError, TypeError, ValueError):
            return None  # a report says less without it, and nothing wrong


class NowFile:
    """What one search says of itself now. One owner: its voice."""

    def __init__(
        self, study: Path, began_at: float, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Say nothing yet; what an earlier search said goes when there is something to say, or at the end.

        Args:
            study: its folder.
            began_at: when this search began, Unix seconds, as the journal has it.
            monotonic: the clock that limits how often is written, in seconds.
        """
        self._path = study / NOW_FILE
        #: what is not whole yet; of the one writer that a study has
        self._beside = study / NEW_NOW_FILE
        self._monotonic = monotonic
        self._written = self._latest = Now(began_at, 0.0)
        self._may_write_at_s = float("-inf")

    def see(self, waits_for: str | None, suspended: frozenset[tuple[int, int]]) -> None:
        """Take in what is so now, and write it if it is something else.

        Args:
            waits_for: why nothing starts, in words; None: something does, or nothing is wanted.
            suspended: numbers of jobs and attempts that are.

        Raises:
            OSError: it cannot be written; the next call tries again when something has changed.
        """
        words = waits_for or ""
        if (words, suspended) != (self._latest.waits_for, self._latest.suspended):
            at = time.time()
            since = self._latest.since if words == self._latest.waits_for else at
            self._latest = Now(self._latest.began_at, at, words, since if words else None, suspended)
        self._write_if_due()

    def wait_s(self) -> float | None:
        """Return seconds until something is to be written although nothing happens; None: nothing is."""
        if self._is_written():
            return None
        return max(0.0, self._may_write_at_s - self._monotonic())

    def close(self) -> None:
        """Say nothing more: the search is over, and its journal has all.

        Raises:
            OSError: it cannot be removed.
        """
        for path in (self._path, self._beside):
            path.unlink(missing_ok=True)

    def _is_written(self) -> bool:
        one, other = self._latest, self._written
        return (one.waits_for, one.suspended) == (other.waits_for, other.suspended)

    def _write_if_due(self) -> None:
        now_s = self._monotonic()
        if self._is_written() or now_s < self._may_write_at_s:
            return
        # first: a disk that does not take it is not asked again and again
        self._written, self._may_write_at_s = self._latest, now_s + _PAUSE_S
        found = self._latest
        about = {name: getattr(found, name) for name in found.__slots__}
        self._beside.write_text(json.dumps({**about, "suspended": sorted(found.suspended)}))
        self._beside.rename(self._path)
