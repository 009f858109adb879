"""What a job that ended still takes on a GPU, until it is released: a slot is not free before.

Owns: the wait for it, and its end.
Must not know: NVML, leases, who else is on the GPU.

A driver tears a context down after the process has gone, mostly within milliseconds. What is waited for
are processes that were seen to belong to the ended job, and, where no job of ours is left, memory that
was not in use before and that no process explains. The wait ends; what is still there then is written
off, since the next job may well live beside it, and a GPU that fails jobs is found out otherwise. Where
the driver shows no processes at all, memory may be that of somebody who came, and is never written off.
"""

from hyperband.launch.gpu.processes import exists
from hyperband.machine.gpu import Usage

#: the wait ends then
_WAIT_S = 30.0
#: a CUDA context alone takes more
CONTEXT_BYTES = 256 << 20
#: of a GPU's memory: more than this, used by nobody that can be seen, is somebody that cannot
IDLE_PART = 0.10


class Settling:
    """The remains on one unit; `why_not` at each look."""

    def __init__(self, unit: str) -> None:
        """Nothing remains; `unit` is its name for people."""
        self._unit = unit
        #: processes of jobs that ended
        self._pids: frozenset[int] = frozenset()
        #: when the wait ends, on the monotonic clock; None: nothing is waited for
        self._until_s: float | None = None
        #: memory without a process has been there at each look since the job ended
        self._was_seen = False
        #: waited for in vain
        self._given_up: frozenset[int] = frozenset()
        #: in use by nobody that can be seen, and not counted any more
        self.written_off_bytes = 0
        #: in use when the last job came to the empty unit, what is written off included; None: not known
        self.idle_bytes: int | None = None
        #: the driver has shown a process here: it does not hide them, as it may in a container
        self.shows_processes = False
        self.news: list[str] = []

    @property
    def pids(self) -> frozenset[int]:
        """Processes of ours that are gone although the driver still shows them."""
        return self._pids | self._given_up

    @property
    def is_on(self) -> bool:
        """True while something is waited for."""
        return self._until_s is not None

    def begin(self, pids: frozenset[int], now_s: float) -> None:
        """A job has ended, of which these processes were seen."""
        self._pids |= pids
        self._until_s = now_s + _WAIT_S
        self._was_seen = False

    def why_not(self, usage: Usage, hidden_bytes: int | None, now_s: float) -> str:
        """Why the unit is not released yet, in words; empty when it is, or when the wait is over.

        Args:
            usage: One look.
            hidden_bytes: In use there although no process can be seen; None where that cannot be told.
            now_s: On the monotonic clock.
        """
        self.shows_processes |= bool(usage.compute)
        # a pid that is somebody's again is not ours any more
        listed = frozenset(process.pid for process in usage.compute if not exists(process.pid))
        self._pids &= listed
        self._given_up &= listed
        if hidden_bytes is not None:
            self.written_off_bytes = min(self.written_off_bytes, hidden_bytes)
        if self._until_s is None:
            return ""
        why_not = self._remains(usage, hidden_bytes)
        if why_not and now_s < self._until_s:
            self._was_seen = True
            return why_not
        if self._pids or (why_not and self._was_seen and self.shows_processes):
            self.news.append(
                f"{why_not}: a job that ended there {_WAIT_S:g} s ago has not given it back; it counts as "
                "free from now on"
            )
            self._given_up |= self._pids
            self.written_off_bytes = usage.used_bytes or 0
        self._pids, self._until_s = frozenset(), None
        return ""

    def _remains(self, usage: Usage, hidden_bytes: int | None) -> str:
        held = [process for process in usage.compute if process.pid in self._pids]
        if held:
            mib = sum(process.used_bytes or 0 for process in held) >> 20
            pids = ", ".join(str(process.pid) for process in held)
            return f"{self._unit} has {mib} MiB in use by pid {pids}, which has ended"
        if self.idle_bytes is None:  # of an adopted job
            limit_bytes = int(IDLE_PART * (usage.total_bytes or 0)) + self.written_off_bytes
        else:
            limit_bytes = self.idle_bytes + CONTEXT_BYTES
        if hidden_bytes is not None and hidden_bytes > limit_bytes:
            return f"{self._unit} has {hidden_bytes >> 20} MiB in use by no process that can be seen"
        return ""
