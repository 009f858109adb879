"""Starts that failed: where nothing is started for a moment, and when it is no allocation's fault any more.

Pure: no clock, no command. A start fails where its allocation has just ended, which is nobody's fault; or
again and again where the nodes lack something, of which somebody must be told.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hyperband.launch.allocation_events import Place

#: nothing is started in an allocation for so long after it failed, and twice as long each time, at most
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: failures in a row, in allocations that went on to run, that are the nodes' or ours
_N_FAILURES = 4


@dataclass(slots=True)
class _Failed:
    """What failed in one allocation since something ran there."""

    n: int
    until_s: float
    words: str


class FailedStarts:
    """Starts that failed, by allocation. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        """Nothing has failed."""
        self._failed: dict[str, _Failed] = {}

    def note(self, place: Place, words: str, now_s: float) -> None:
        """Hear of a start that failed; those within a pause are one."""
        before = self._failed.get(place.job_id)
        if before is not None and now_s < before.until_s:
            return
        n = 1 if before is None else before.n + 1
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0 ** (n - 1))
        self._failed[place.job_id] = _Failed(n, now_s + pause_s, words)

    def forget(self, place: Place) -> None:
        """Hear that something ran in an allocation."""
        self._failed.pop(place.job_id, None)

    def are_held_back(self, place: Place, now_s: float) -> bool:
        """Whether nothing is to be started at a place now."""
        failed = self._failed.get(place.job_id)
        return failed is not None and now_s < failed.until_s

    def wait_s(self, now_s: float) -> float | None:
        """Return seconds until the next pause is over."""
        return min(
            (one.until_s - now_s for one in self._failed.values() if one.until_s > now_s), default=None
        )

    def words(self, now_s: float) -> str:
        """Return why nothing is started, if that is a pause."""
        found = [one.words for one in self._failed.values() if now_s < one.until_s]
        return f"a start failed: {found[0]}" if found else ""

    def judge(self, runs: Callable[[Place], bool]) -> str | None:
        """Take in which allocations run; return what failed too often in one that does."""
        for job_id in list(self._failed):
            if not runs(Place(job_id, "", 0)):
                del self._failed[job_id]
        return next((one.words for one in self._failed.values() if one.n >= _N_FAILURES), None)
