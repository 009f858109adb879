"""Jobs of Slurm's that are suspended: stopped as a whole, for a while, and nobody's loss.

Owns whether silence of an attempt may be that of a suspended job. Slurm says so only where it is asked: so an
attempt whose lease is not renewed is given up only if Slurm, asked after that had run out, says otherwise.
Must not know: attempts, folders, or what else a status says.

`note` is called by the search's loop, `excuses` by the patrol's thread.
"""

from collections.abc import Callable

from hyperband.launch.slurm.reports import Status
from hyperband.launch.slurm.words import JobState

#: between questions about a silent attempt
_ASK_S = 2.0


class SuspendedJobs:
    """What Slurm said last of which jobs are suspended. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        """Know nothing yet."""
        #: replaced as a whole: two threads read it
        self._jobs: frozenset[str] = frozenset()
        #: when each was seen to be suspended last, or first to go on
        self._seen_s: dict[str, float] = {}
        #: Slurm was asked then for what it said last
        self._asked_s = float("-inf")
        #: and is to be asked again from then on
        self._ask_at_s = float("-inf")

    @property
    def jobs(self) -> frozenset[str]:
        """The ids of those that are suspended, as far as is known."""
        return self._jobs

    def note(self, status: Status) -> list[str]:
        """Take in what Slurm says; return what is worth saying of it."""
        now = {line.job_id for line in status.jobs if line.state == JobState.SUSPENDED}
        live = {line.job_id for line in status.jobs if line.state == JobState.RUNNING}
        before = self._jobs
        # one that goes on may have been stopped until just now, however long ago Slurm was asked before;
        # first of all: the other thread may look between
        self._seen_s.update(dict.fromkeys(now | before, status.asked_s))
        self._jobs = frozenset(now)
        self._asked_s = status.asked_s
        found = [
            f"Slurm has suspended its job {job_id}: what runs there is left alone until it goes on"
            for job_id in sorted(now - before)
        ]
        return found + [
            f"Slurm's job {job_id} goes on after it was suspended" for job_id in sorted(before & live)
        ]

    def excuses(
        self, job_id: str, silent_since_s: float, *, lease_s: float, at_s: float, ask: Callable[[], None]
    ) -> bool:
        """Return whether an attempt that is silent may be stopped, and not lost.

        Args:
            job_id: of what it runs in.
            silent_since_s: since when.
            lease_s: how long a renewal lasts; a job that goes on again needs no longer to renew it.
            at_s: now.
            ask: has Slurm asked.
        """
        if job_id in self._jobs:
            return True
        if self._asked_s >= silent_since_s + lease_s:
            return at_s < self._seen_s.get(job_id, float("-inf")) + 2 * lease_s
        if at_s >= self._ask_at_s:
            self._ask_at_s = at_s + _ASK_S
            ask()
        return True
