"""When a storage never takes anything: a pure count of what became of the first jobs' checkpoints.

Owns how many are enough to end a search. Must not know: storages, files, or how a search ends.
"""

from hyperband.report.again import NOT_STORED, not_stored
from hyperband.report.text import counted
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome

#: the checkpoints of so many first jobs, none of which could be stored, say what becomes of all others
N_NOT_STORED = 3


class FirstStored:
    """Watches the checkpoints of the first jobs since this start, where none was ever stored before."""

    def __init__(self, storage: str) -> None:
        """Nothing has been seen yet; storage: URI, for words."""
        self._storage = storage
        self._n = 0
        self._was_stored = False

    def see_before(self, event: JobEnded) -> None:
        """Take in a job of an earlier start, or one that began in it: the storage may be mended since."""
        if event.outcome is Outcome.LOSS and not not_stored(event.note):
            self._was_stored = True

    def see(self, event: JobEnded) -> str | None:
        """Count a job; return at the third what has happened, if none was ever stored."""
        self.see_before(event)
        if event.outcome is not Outcome.LOSS or self._was_stored:
            return None
        self._n += 1
        if self._n != N_NOT_STORED:
            return None
        why = event.note.partition(f"{NOT_STORED}: ")[2]
        return (
            f"no checkpoint of this search could be stored in --storage {self._storage}, not one of "
            f"{counted(self._n, 'job')} ({why}). Is its address right, and may the nodes write "
            "there? Until it takes them each promotion trains from the beginning"
        )
