"""Starts that failed: where nothing is started for a moment, and when it is no allocation's fault any more.

Pure: no clock, no command. A start fails where its allocation has just ended, or is told to, which is
nobody's fault; or again and again since the nodes lack something, of which somebody must be told.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hyperband.launch.allocation_events import Place

#: nothing is started in an allocation for so long after a start failed, and twice as long each time, at most
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: the same where the allocation seems to end: one that is preempted may take a while, and takes no job
_ENDING_PAUSE_S = 5.0
#: failures in a row, in allocations that went on to run, that are the nodes' or ours
_N_FAILURES = 4


@dataclass(slots=True)
class _Failed:
    """What failed in one allocation since something ran there."""

    #: in a row that were not for its end
    n_faults: int
    until_s: float
    #: the latest
    pause_s: float
    words: str


class FailedStarts:
    """Starts that failed, by allocation. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        """Nothing has failed."""
        self._failed: dict[str, _Failed] = {}

    def note(
        self, place: Place, words: str, now_s: float, *, is_ending: bool, does_run: bool = False
    ) -> None:
        """Hear of a start that failed, or of a job that was ended; those within a pause are one.

        is_ending: its allocation seems to come to its end, or it was ended by somebody.
        does_run: its allocation goes on nevertheless.
        """
        pause_s = _ENDING_PAUSE_S if is_ending and not does_run else _PAUSE_S
        before = self._failed.get(place.job_id)
        if before is not None and now_s < before.until_s:
            if is_ending:
                before.until_s = max(before.until_s, now_s + pause_s)
            return
        if before is not None:
            pause_s = min(_LONGEST_PAUSE_S, max(pause_s, 2 * before.pause_s))
        n_faults = 0 if before is None else before.n_faults
        n_faults = n_faults if is_ending else n_faults + 1
        self._failed[place.job_id] = _Failed(n_faults, now_s + pause_s, pause_s, words)

    def forget(self, place: Place) -> None:
        """Hear that something ran in an allocation to its end."""
        self._failed.pop(place.job_id, None)

    def are_held_back(self, place: Place, now_s: float) -> bool:
        """Whether nothing is to be started at a place now."""
        failed = self._failed.get(place.job_id)
        return failed is not None and now_s < failed.until_s

    def wait_s(self, now_s: float) -> float | None:
        """Return seconds until the next pause is over."""
        waits_s = (one.until_s - now_s for one in self._failed.values())
        return min((wait_s for wait_s in waits_s if wait_s > 0), default=None)

    def words(self, now_s: float) -> str:
        """Return why nothing is started, if that is a pause."""
        found = [one.words for one in self._failed.values() if now_s < one.until_s]
        return f"a job could not run: {found[0]}" if found else ""

    def judge(self, runs: Callable[[Place], bool]) -> str | None:
        """Take in which allocations run; return what failed too often in one that does."""
        for job_id in list(self._failed):
            if not runs(Place(job_id, "", 0)):
                del self._failed[job_id]
        return next((one.words for one in self._failed.values() if one.n_faults >= _N_FAILURES), None)
