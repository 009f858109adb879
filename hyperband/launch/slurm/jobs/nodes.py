"""Which nodes trials' own Slurm jobs are not to get: those that took a job with them, or failed it. Pure.

Slurm chooses the nodes; all that can be said is which not. That is said only while others are known to be
good: where all nodes fail alike it is no node's fault, and a job that may run nowhere helps nobody. Times are
seconds of one monotonic clock. Must not know: how Slurm is told, or how a later search comes to know it.
"""

from collections.abc import Set
from enum import StrEnum

#: a node that took a job with it is avoided by all jobs for so long
AVOID_S = 600.0


class Fate(StrEnum):
    """What the end of an attempt says of its node."""

    #: it runs jobs
    WELL = "well"
    #: it may be the node's fault, or the job's own
    FAILED = "failed"
    #: the node went, or was silent, and the job with it
    LOST = "lost"


class NodeRecord:
    """What ended how where."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._avoided_until_s: dict[str, float] = {}
        self._good: set[str] = set()
        #: by job: nodes on which an attempt at it failed
        self._failed: dict[str, set[str]] = {}
        #: Slurm takes jobs that exclude nodes
        self.may_exclude = True

    def is_news(self, node: str, job: str, fate: Fate) -> bool:
        """Return whether to note such an end would change anything."""
        if fate != Fate.WELL:
            return True
        return node not in self._good or node in self._avoided_until_s or job in self._failed

    def note(self, node: str, job: str, fate: Fate, now_s: float) -> bool:
        """Take in how an attempt at a job ended; return True if its node is avoided from now on."""
        match fate:
            case Fate.WELL:
                self._good.add(node)
                self._avoided_until_s.pop(node, None)
                self._failed.pop(job, None)
            case Fate.FAILED:
                self._failed.setdefault(job, set()).add(node)
            case Fate.LOST:
                self._good.discard(node)
                was_avoided = now_s < self._avoided_until_s.get(node, now_s)
                self._avoided_until_s[node] = now_s + AVOID_S
                return not was_avoided
        return False

    def next_change_s(self, now_s: float) -> float | None:
        """Return seconds until a node is not avoided any more; None: none is."""
        return min(
            (until_s - now_s for until_s in self._avoided_until_s.values() if until_s > now_s), default=None
        )

    def excluded(self, job: str, now_s: float, *, in_use: Set[str]) -> tuple[str, ...]:
        """Return the nodes that the next attempt at a job is not to get, in order.

        Args:
            job: its name; empty: nothing is known of it.
            now_s: of the clock.
            in_use: nodes on which attempts run now.
        """
        bad = {node for node, until_s in self._avoided_until_s.items() if now_s < until_s}
        bad |= self._failed.get(job, set())
        if not self.may_exclude or not (self._good | in_use) - bad:
            return ()
        return tuple(sorted(bad))
