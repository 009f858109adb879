"""One GPU, or MIG instance, as a search sees it: its shares, who else is on it, when to look again.

Owns: the rule of when a GPU is free; the pauses between looks.
Must not know: the other GPUs, how slots are named, jobs.

A GPU is free when no foreign compute process is on it *and* its lease can be had. NVML alone is not
enough, since a job takes its memory seconds after its start; leases alone are not enough, since not
everyone on the machine takes one.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from hyperband.machine.gpu import Usage
from hyperband.machine.leases import Leases
from hyperband.machine.nvml import Nvml
from hyperband.machine.visible import Unit

#: between looks at a GPU that someone else uses
_LOOK_S = 2.0
#: between looks at a GPU that a job of ours has just left: its keeper goes and its memory comes back
#: within milliseconds, mostly
_AFTER_RELEASE_S = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: another search is inside the gate of the lease, which takes microseconds
_AT_GATE_S = 0.02
#: of a GPU's memory: more than this, used by nobody that can be seen, is somebody that cannot
_IDLE_PART_OF_MEMORY = 0.10


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a place looks at; the same for all places of a search."""

    nvml: Nvml
    leases: Leases
    #: tells whether a pid belongs to one of this search's own jobs
    owns: Callable[[int], bool]
    #: monotonic seconds
    clock: Callable[[], float]


class Place:
    """One unit with its shares. Written by `GpuSlots` alone, through its methods."""

    def __init__(self, unit: Unit, n_shares: int, around: Surroundings) -> None:
        """A place of which nothing is used yet; `n_shares` is how many jobs may run there at once."""
        self.unit = unit
        self.n_shares = n_shares
        #: share -> name of the slot that uses it; an adopted job may hold a share beyond `n_shares`
        self.used: dict[int, str] = {}
        #: why the last try did not get it, in words
        self.why_not = ""
        self.is_lost = False
        self._around = around
        #: another look is pointless before
        self._look_at_s = 0.0
        #: looks in vain since our own last release
        self._n_looks = len(_AFTER_RELEASE_S)

    def has_room(self) -> bool:
        """True when another job of ours may run here as far as we are concerned."""
        return len(self.used) < self.n_shares

    def is_settling(self) -> bool:
        """True when a job of ours left so lately that what is in the way is probably its remains."""
        return bool(self.why_not) and self._n_looks < len(_AFTER_RELEASE_S)

    def wait_s(self) -> float:
        """Seconds until it is worth another look."""
        return max(0.0, self._look_at_s - self._around.clock())

    def book(self, share: int, slot_name: str) -> None:
        """Note that a slot uses a share."""
        self.used[share] = slot_name
        self.why_not = ""

    def unbook(self, slot_name: str) -> None:
        """Note that a slot does not use its shares any more, and look again at once."""
        kept = {share: name for share, name in self.used.items() if name != slot_name}
        if len(kept) < len(self.used):
            self.used = kept
            self._look_at_s, self._n_looks = 0.0, 0

    def look(self) -> bool:
        """True when nobody but us uses the unit; False also while another look is pointless."""
        if self.wait_s() > 0:
            return False
        usage = self._around.nvml.usage(self.unit.uuid)
        self.is_lost = bool(usage.lost)
        self.why_not = self._why_busy(usage)
        if self.why_not:
            self._pause()
        return not self.why_not

    def lease(self, share: int) -> int | None:
        """Lease a share of a unit that nobody uses; a locked descriptor, or None."""
        descriptor = self._around.leases.take(self.unit.uuid, share)
        if descriptor is None:
            self._note_holder()
        return descriptor

    def lease_whole(self) -> list[int]:
        """Lease all shares of a unit that nobody uses; locked descriptors, none if one is refused."""
        descriptors: list[int] = []
        for share in range(self.n_shares):
            descriptor = self.lease(share)
            if descriptor is None:
                for taken in descriptors:
                    os.close(taken)
                return []
            descriptors.append(descriptor)
        return descriptors

    def _why_busy(self, usage: Usage) -> str:
        """Who uses the unit besides our own jobs, in words; empty when nobody does."""
        if usage.lost:
            return f"{self.unit} is lost ({usage.lost})"
        if usage.problem:
            return f"{self.unit} could not be looked at ({usage.problem})"
        for process in usage.compute:
            # In a container NVML may give pids of the host. Nobody was on the unit when we got it, so
            # that a pid which does not exist here is a job of ours.
            if not self._around.owns(process.pid) and not (self.used and not _exists(process.pid)):
                return f"{self.unit} is used by pid {process.pid} ({process.name})"
        if self.used or usage.compute or usage.used_bytes is None or not usage.total_bytes:
            return ""
        if usage.used_bytes <= _IDLE_PART_OF_MEMORY * usage.total_bytes:
            return ""
        if self._around.nvml.has_visible_processes(self.unit.uuid):
            return ""
        return f"{self.unit} has {usage.used_bytes >> 20} MiB in use by no process that can be seen"

    def _note_holder(self) -> None:
        """The unit is not in use, but a lease of it could not be had."""
        holder = self._around.leases.holder(self.unit.uuid)
        if holder is not None:
            self.why_not = f"{self.unit} is leased by {holder}"
            self._n_looks = len(_AFTER_RELEASE_S)
            self._pause()
        elif self._n_looks < len(_AFTER_RELEASE_S):
            self.why_not = f"{self.unit} is being given back by a job that ended"
            self._pause()
        else:
            self.why_not = f"{self.unit} is being looked at by another search, or given back"
            self._look_at_s = self._around.clock() + _AT_GATE_S

    def _pause(self) -> None:
        is_fresh = self._n_looks < len(_AFTER_RELEASE_S)
        pause_s = _AFTER_RELEASE_S[self._n_looks] if is_fresh else _LOOK_S
        self._n_looks += is_fresh
        self._look_at_s = self._around.clock() + pause_s


def _exists(pid: int) -> bool:
    """True when there is such a process in our pid namespace."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
