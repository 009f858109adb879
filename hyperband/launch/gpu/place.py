"""One GPU, or MIG instance, as a search sees it: its jobs, who else is on it, when to look again.

Owns: the rule of when a GPU is free; the pauses between looks.
Must not know: the other GPUs.

A GPU is free when no foreign compute process is on it *and* its lease can be had. NVML alone is not
enough, since a job takes its memory seconds after its start; leases alone are not enough, since not
everyone on the machine takes one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hyperband.launch.base import NO_WISH, Wish
from hyperband.launch.gpu.names import is_meant
from hyperband.launch.gpu.processes import exists, in_words
from hyperband.launch.gpu.settling import CONTEXT_BYTES, IDLE_PART, Settling
from hyperband.launch.gpu.sharing import Residents, Sharing
from hyperband.machine.gpu import GpuProcess, Usage
from hyperband.machine.leases import Leases
from hyperband.machine.nvml import Nvml
from hyperband.machine.visible import Unit
from hyperband.settings import WhenShared

#: between looks at a GPU that someone else uses
_LOOK_S = 2.0
#: between looks at a GPU that a job of ours has just left: its keeper goes and its memory comes back
#: within milliseconds, mostly
_AFTER_RELEASE_S = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: another search is inside the gate of the lease, which takes microseconds
_AT_GATE_S = 0.02


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
    """One unit with our jobs on it. Written by `GpuSlots` and `observe`, through its methods."""

    def __init__(self, unit: Unit, sharing: Sharing, around: Surroundings) -> None:
        """A place of which nothing is used yet."""
        self.unit = unit
        is_whole_gpu = unit.instance is None
        self.jobs = Residents(
            sharing.n_shares if is_whole_gpu else 1, is_packed=sharing.is_packed and is_whole_gpu
        )
        #: why the last try did not get it, in words
        self.why_not = ""
        self.is_lost = False
        #: idle at the last look, and left to others
        self.is_left = False
        self.settling = Settling(str(unit))
        self._with_strangers = sharing.when_shared is WhenShared.SHARE
        self._total_bytes: int | None = None
        self._around = around
        #: by slot name, processes that were seen to belong to the job there
        self._seen: dict[str, set[int]] = {}
        #: a job of this search was here
        self._was_ours = False
        #: another look is pointless before
        self._look_at_s = 0.0
        #: looks in vain since our own last release
        self._n_looks = len(_AFTER_RELEASE_S)

    @property
    def n_shares(self) -> int:
        """How many jobs may run here at once at most."""
        return self.jobs.n_shares

    @property
    def used(self) -> dict[int, str]:
        """Share -> name of the slot that uses it."""
        return self.jobs.used

    @property
    def total_bytes(self) -> int:
        """The unit's memory; 0 until a look has told it."""
        return self._total_bytes or 0

    def is_shunned(self, avoid: frozenset[str]) -> bool:
        """True when a slot here is among those to avoid."""
        return any(is_meant(self.unit, name) for name in avoid)

    def why_no_room(self, wish: Wish) -> str:
        """Why our own jobs leave no room for this wish, fit to follow the unit's name; empty if they do."""
        return self.jobs.why_not(wish, self._total_bytes)

    def capacity(self, wish: Wish) -> int:
        """How many jobs with this wish could run here if nothing else did."""
        return self.jobs.capacity(wish, self._total_bytes)

    def is_settling(self) -> bool:
        """True when a job of ours left so lately that what is in the way is probably its remains."""
        return bool(self.why_not) and self._n_looks < len(_AFTER_RELEASE_S)

    @property
    def look_at_s(self) -> float:
        """The moment of the clock from which on it is worth another look."""
        return self._look_at_s

    def wait_s(self) -> float:
        """Seconds until it is worth another look."""
        return max(0.0, self._look_at_s - self._around.clock())

    def book(self, share: int, slot_name: str, wish: Wish) -> None:
        """Note that a slot uses a share."""
        self.jobs.add(share, slot_name, wish)
        self.why_not, self.is_left, self._was_ours = "", False, True

    def unbook(self, slot_name: str) -> None:
        """Note that a slot does not use its shares any more, and look again at once."""
        if self.jobs.remove(slot_name):
            self._look_at_s, self._n_looks = 0.0, 0
            self.settling.begin(frozenset(self._seen.pop(slot_name, ())), self._around.clock())

    def saw(self, slot_name: str, pid: int) -> None:
        """Note a process of the job that has this slot: its memory is waited for when the job ends."""
        self._seen.setdefault(slot_name, set()).add(pid)

    def look(self, wish: Wish = NO_WISH) -> bool:
        """True when nobody but us uses the unit and a job with this wish fits; False while paused, too."""
        if self.wait_s() > 0:
            return False
        usage = self._around.nvml.usage(self.unit.uuid)
        self.is_lost, self.is_left = bool(usage.lost), False
        self._total_bytes = usage.total_bytes or self._total_bytes
        self.why_not = self._why_busy(usage) or self._why_full(usage, wish)
        if self.why_not:
            self._pause()
        elif not self.used:
            self.settling.idle_bytes = usage.used_bytes
        return not self.why_not

    def is_idle(self) -> bool:
        """True when nobody uses the unit, neither we nor others, and no other study has leased it."""
        if self.used:
            return False
        if self.is_left and self.wait_s() > 0:
            return True
        if not self.look():
            return False
        holder = self._around.leases.holder(self.unit.uuid)
        if holder is not None:
            self._note_holder()
        return holder is None

    def leave(self, until_s: float | None = None) -> None:
        """Leave the unit, which is idle, to others until that moment of the clock, or the next look."""
        self.is_left = True
        usual_s = self._around.clock() + _LOOK_S
        self._look_at_s = usual_s if until_s is None else min(until_s, usual_s)

    def reconsider(self) -> None:
        """A job of ours has ended somewhere: if the unit was left to others, another may be left instead."""
        if self.is_left:
            self._look_at_s = 0.0

    def lease(self, share: int) -> int | None:
        """Lease a share of a unit that nobody uses; a locked descriptor, or None."""
        descriptor = self._around.leases.take(self.unit.uuid, share)
        if descriptor is None:
            self._note_holder()
        return descriptor

    def _is_ours(self, pid: int) -> bool:
        """True for a process of our own jobs, as far as that can be told.

        In a container NVML may give pids of the host. Nobody was on the unit when we got it, so that a pid
        which does not exist here is a job of ours.
        """
        return self._around.owns(pid) or (bool(self.used) and not exists(pid))

    def strangers(self, usage: Usage) -> list[GpuProcess]:
        """Processes on the unit that are not ours and not what is left of ours."""
        gone = {pid for pid in self.settling.pids if not exists(pid)}
        return [
            process for process in usage.compute if process.pid not in gone and not self._is_ours(process.pid)
        ]

    def hidden_bytes(self, usage: Usage) -> int | None:
        """Memory in use while no process of any kind can be seen there; None where that cannot be told."""
        if usage.used_bytes is None or any(p.pid not in self.settling.pids for p in usage.compute):
            return None
        if usage.used_bytes > CONTEXT_BYTES and self._around.nvml.has_visible_processes(self.unit.uuid):
            return None
        return usage.used_bytes

    def _why_busy(self, usage: Usage) -> str:
        """Who uses the unit besides our own jobs, in words; empty when nobody does."""
        if usage.lost:
            return f"{self.unit} is lost ({usage.lost})"
        if usage.problem:
            return f"{self.unit} could not be looked at ({usage.problem})"
        hidden_bytes = None if self.used else self.hidden_bytes(usage)
        remains = self.settling.why_not(usage, hidden_bytes, self._around.clock())
        strangers = self.strangers(usage)
        with_strangers = self._with_strangers and self._was_ours
        if strangers and not with_strangers:
            return f"{self.unit} is used by {in_words(strangers[0])}"
        if remains or with_strangers:
            return remains
        room_bytes = IDLE_PART * (usage.total_bytes or 0) + self.settling.written_off_bytes
        if hidden_bytes is None or hidden_bytes <= room_bytes:
            return ""
        return f"{self.unit} has {hidden_bytes >> 20} MiB in use by no process that can be seen"

    def _why_full(self, usage: Usage, wish: Wish) -> str:
        """Why a job that needs so much memory does not fit, in words; empty when it does."""
        need_bytes = wish.gpu_memory_bytes
        strangers = self.strangers(usage)
        if not self.jobs.is_packed or need_bytes is None or not (self.used or strangers):
            return ""
        others_bytes = sum(process.used_bytes or 0 for process in strangers)
        taken_bytes = max(self.jobs.expected_bytes() + others_bytes, usage.used_bytes or 0)
        why_full = self.jobs.why_full(need_bytes, taken_bytes, usage.total_bytes)
        return why_full and f"{self.unit} {why_full}"

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
