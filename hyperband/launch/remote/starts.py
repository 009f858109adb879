"""Starts that failed: where nothing is started for a moment, and when it is no allocation's fault any more.

Pure: no clock, no command. A start fails where its allocation has just ended, or is told to, which is
nobody's fault; or again and again since a node lacks something: it is avoided if jobs run on others, and
somebody must be told if they run nowhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hyperband.launch.remote.place import Place

#: nothing is started in an allocation for so long after a start failed, and twice as long each time, at most
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: the same where the allocation seems to end: one that is preempted may take a while, and takes no job
_ENDING_PAUSE_S = 5.0
#: failures in a row on one node, in allocations that went on to run, that are its own or ours
_N_FAILURES = 4


@dataclass(slots=True)
class _Failed:
    """What failed in one allocation since something ran there."""

    until_s: float
    #: the latest
    pause_s: float
    words: str


class FailedStarts:
    """Starts that failed, by allocation. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        """Nothing has failed."""
        self._failed: dict[str, _Failed] = {}
        #: that were not for the end of their allocation, as far as is known yet, and what was said
        self._unjudged: list[tuple[Place, str]] = []
        #: what failed on a node since something ran there, in any allocation
        self._faults: dict[str, list[str]] = {}
        #: nodes on which something ran
        self._good: set[str] = set()
        self._bad: set[str] = set()
        self._news: list[str] = []

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
        if not is_ending:
            self._unjudged.append((place, words))
        self._failed[place.job_id] = _Failed(now_s + pause_s, pause_s, words)

    def forget(self, place: Place) -> None:
        """Hear that something ran in an allocation to its end."""
        self._failed.pop(place.job_id, None)
        self._faults.pop(place.node, None)
        self._good.add(place.node)

    def are_held_back(self, place: Place, now_s: float) -> bool:
        """Whether nothing is to be started at a place now."""
        failed = self._failed.get(place.job_id)
        return place.node in self._bad or (failed is not None and now_s < failed.until_s)

    @property
    def bad_nodes(self) -> frozenset[str]:
        """Nodes on which nothing can be started, although it can on others."""
        return frozenset(self._bad)

    def take_news(self) -> list[str]:
        """Return lines worth saying that came up since the last call."""
        news, self._news = self._news, []
        return news

    def wait_s(self, now_s: float) -> float | None:
        """Return seconds until the next pause is over."""
        waits_s = (one.until_s - now_s for one in self._failed.values())
        return min((wait_s for wait_s in waits_s if wait_s > 0), default=None)

    def words(self, now_s: float) -> str:
        """Return why nothing is started, if that is a pause."""
        found = [one.words for one in self._failed.values() if now_s < one.until_s]
        return f"a moment's pause after this: {found[0]}" if found else ""

    def judge(self, runs: Callable[[Place], bool]) -> str | None:
        """Take in which allocations run; return what failed too often where nothing runs elsewhere."""
        for job_id in list(self._failed):
            if not runs(Place(job_id, "", 0)):
                del self._failed[job_id]
        for place, words in self._unjudged:
            if runs(place):
                self._faults.setdefault(place.node, []).append(words)
        self._unjudged.clear()
        for node, found in self._faults.items():
            if len(found) < _N_FAILURES or node in self._bad:
                continue
            if not self._good - self._bad - {node}:
                return found[-1]
            self._bad.add(node)
            self._news.append(
                f"jobs cannot be started on {node}, and can on other nodes: nothing is started there any "
                f"more, and it is not asked for; the latest said: {found[-1]}"
            )
        return None
