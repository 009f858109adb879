"""The GPU slots of one machine: which GPU, or share of one, a job gets, and when.

Owns: which GPUs this search has leased; when a GPU is worth another look.
Must not know: how NVML answers (machine.nvml), how locks work (machine.leases), jobs, the journal.

A GPU is free when no foreign compute process is on it *and* its lease can be had. NVML alone is not
enough, since a job takes its memory seconds after its start; leases alone are not enough, since not
everyone on the machine takes one.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hyperband.errors import InternalError, MachineError
from hyperband.launch.base import Lease, Slot
from hyperband.machine.leases import Leases
from hyperband.machine.nvml import Gpu, Nvml
from hyperband.machine.visible import Choice, Unit

#: between looks at a GPU that someone else uses
_LOOK_S = 2.0
#: between looks at a GPU that our own job has just left: its keeper goes and its memory comes back
#: within milliseconds, mostly
_AFTER_RELEASE_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: another search is inside the gate of the lease, which takes microseconds
_AT_GATE_S = 0.02
#: of a GPU's memory: more than this, used by nobody that can be seen, is somebody that cannot
_IDLE_SHARE_OF_MEMORY = 0.10


@dataclass(slots=True)
class _Place:
    """One unit with its shares. `GpuSlots` alone writes it."""

    unit: Unit
    n_shares: int
    #: share -> name of the slot that uses it; an adopted job may hold a share beyond n_shares
    used: dict[int, str] = field(default_factory=dict)
    #: monotonic time before which another look is pointless
    look_at_s: float = 0.0
    #: looks without success since our own last release
    n_looks: int = len(_AFTER_RELEASE_S)
    #: why the last look found it not free
    why_not: str = ""
    is_lost: bool = False

    def has_room(self) -> bool:
        return len(self.used) < self.n_shares


class GpuSlots:
    """Slots on GPUs and MIG instances, in PCI order, spread before they are shared."""

    def __init__(
        self,
        nvml: Nvml,
        leases: Leases,
        *,
        gpus: Sequence[Gpu],
        choice: Choice,
        n_shares: int,
        owns: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the slots; nothing is leased yet.

        Args:
            nvml: Open NVML.
            leases: The leases of this study.
            gpus: All GPUs of the machine.
            choice: What the search may use of them.
            n_shares: Jobs per GPU; a MIG instance runs one job whatever this is.
            owns: Tells whether a pid belongs to one of this search's own jobs.
            clock: Monotonic seconds.
        """
        self._nvml = nvml
        self._leases = leases
        self._gpus = tuple(gpus)
        self._notes = choice.notes
        self._n_shares = n_shares
        self._owns = owns
        self._clock = clock
        # Where any GPU is in MIG mode, the numbers that CUDA gives are not those of the PCI order.
        self._by_uuid = any(gpu.mig for gpu in gpus)
        self._places = [_Place(unit, n_shares if unit.instance is None else 1) for unit in choice.units]
        #: leases given and not yet released, by slot name
        self._given: dict[str, Lease] = {}

    def describe(self) -> str:
        """One line: the GPUs, the slots on them, and what narrowed the choice."""
        models = sorted({place.unit.model for place in self._places})
        names = ", ".join(_short(place.unit) for place in self._places)
        line = f"{_count(len(self._places), 'GPU')}: {names} ({', '.join(models)})"
        if self._n_shares > 1:
            line += f", {self._n_shares} jobs on each, {_count(self.n_slots(), 'slot')}"
        return "; ".join([line, *self._notes])

    def n_slots(self) -> int:
        """How many jobs could run at once if nothing else used the GPUs."""
        return sum(place.n_shares for place in self._places)

    def take(self) -> Lease | None:
        """Lease the first free slot: the lowest share number, then the lowest GPU index.

        Raises:
            MachineError: Every GPU of this search is lost, or the lock files cannot be used.
        """
        free: dict[str, bool] = {}
        for share in range(self._n_shares):
            for place in self._places:
                if share >= place.n_shares or share in place.used or not place.has_room():
                    continue
                if not self._is_free(place, free):
                    continue
                descriptor = self._leases.take(place.unit.uuid, share)
                if descriptor is None:
                    self._put_off_leased(place)
                    continue
                return self._give(self._slot(place, share), (descriptor,), [(place, share)])
        self._check_any_left()
        return None

    def take_all(self) -> Lease | None:
        """Lease every free whole GPU, with all its shares, for one `--multi_gpu` job.

        Returns:
            None unless at least two are free.
        """
        whole = [place for place in self._places if place.unit.instance is None and not place.used]
        if len(whole) < 2:
            return None
        free: dict[str, bool] = {}
        taken: list[tuple[_Place, list[int]]] = []
        for place in whole:
            if self._is_free(place, free):
                descriptors = self._take_whole(place)
                if descriptors:
                    taken.append((place, descriptors))
        if len(taken) < 2:
            for _place, descriptors in taken:
                _close(descriptors)
            return None
        places = [place for place, _descriptors in taken]
        uuids = tuple(place.unit.uuid for place in places)
        slot = Slot(
            "gpu:" + ",".join(str(place.unit.index) for place in places),
            ("--multi_gpu",),
            {"CUDA_VISIBLE_DEVICES": ",".join(uuids)},
            uuids,
        )
        shares = [(place, share) for place in places for share in range(place.n_shares)]
        return self._give(slot, tuple(fd for _place, fds in taken for fd in fds), shares)

    def adopt(self, slot_name: str) -> Lease:
        """Count the slot of a living job of an earlier search; its keeper holds the lock.

        The name may be of a GPU that is not chosen any more, or of none: then it is kept, and
        blocks nothing.

        Raises:
            InternalError: The slot is taken already.
        """
        if slot_name in self._given:
            raise InternalError(
                f"Slot {slot_name} was adopted twice. This is a bug of ours: please report it."
            )
        indices, share = _parse(slot_name)
        places = [place for place in self._places if _is_meant(place.unit, indices, share)]
        if len(indices) > 1:
            shares = [(place, k) for place in places for k in range(place.n_shares)]
        else:
            shares = [(place, share or 0 if place.unit.instance is None else 0) for place in places]
        known = [place.unit.uuid for place in places]
        elsewhere = [gpu.uuid for gpu in self._gpus if gpu.index in indices and gpu.uuid and not gpu.mig]
        uuids = tuple(known or elsewhere)
        if len(indices) > 1:
            slot = Slot(slot_name, ("--multi_gpu",), {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}, uuids)
        elif places:
            slot = self._slot(places[0], shares[0][1], name=slot_name)
        else:
            slot = Slot(slot_name, (), {}, uuids)
        return self._give(slot, (), shares)

    def release(self, lease: Lease) -> None:
        """Count the slot as free. The locks go with the descriptors, which are not touched here.

        Raises:
            InternalError: The slot was not taken.
        """
        if self._given.pop(lease.slot.name, None) is None:
            raise InternalError(
                f"Slot {lease.slot.name} was released but not taken. This is a bug of ours: please report it."
            )
        for place in self._places:
            for share in [share for share, name in place.used.items() if name == lease.slot.name]:
                del place.used[share]
                place.look_at_s, place.n_looks = 0.0, 0

    def is_lost(self, lease: Lease) -> bool:
        """True when NVML says now that a GPU of this lease is lost."""
        return any(self._nvml.lost(uuid) for uuid in lease.slot.gpu_uuids)

    def next_look_s(self) -> float | None:
        """Seconds after which `take` is worth another try, counted from a `take` that gave None.

        None when all slots are used by our own jobs.
        """
        waits = [place.look_at_s for place in self._places if place.has_room()]
        return max(0.0, min(waits) - self._clock()) if waits else None

    def why_none(self) -> str:
        """One line: what each GPU that is not ours is waiting for."""
        reasons = [place.why_not for place in self._places if place.has_room() and place.why_not]
        return "; ".join(reasons) or f"all {_count(self.n_slots(), 'GPU slot')} run jobs"

    def validate(self) -> None:
        """Check that free + leased = all, and that both books agree.

        Raises:
            InternalError: They do not.
        """
        booked = [name for place in self._places for name in place.used.values()]
        if set(booked) - set(self._given):
            raise InternalError(f"Shares are booked for slots that were not given: {booked}.")
        for name, lease in self._given.items():
            places = [place for place in self._places if place.unit.uuid in lease.slot.gpu_uuids]
            if any(name not in place.used.values() for place in places):
                raise InternalError(f"Slot {name} is given, but a GPU of it is not booked.")

    def _is_free(self, place: _Place, free: dict[str, bool]) -> bool:
        """Look at a unit, once in a call of `take`, and not before it is worth it."""
        uuid = place.unit.uuid
        if uuid not in free:
            if self._clock() < place.look_at_s:
                free[uuid] = False
            else:
                place.why_not = self._why_busy(place)
                free[uuid] = not place.why_not
                if place.why_not:
                    self._put_off(place)
        return free[uuid]

    def _why_busy(self, place: _Place) -> str:
        """Who uses a unit besides our own jobs, in words; empty when nobody does."""
        usage = self._nvml.usage(place.unit.uuid)
        place.is_lost = bool(usage.lost)
        if usage.lost:
            return f"{place.unit} is lost ({usage.lost})"
        if usage.problem:
            return f"{place.unit} could not be looked at ({usage.problem})"
        for process in usage.compute:
            # In a container NVML may give pids of the host. When we got this GPU nobody was on it,
            # so that a pid that does not exist here is one of our own jobs.
            ours = self._owns(process.pid) or (place.used and not _exists(process.pid))
            if not ours:
                return f"{place.unit} is used by pid {process.pid} ({process.name})"
        if place.used or usage.compute or usage.used_bytes is None or not usage.total_bytes:
            return ""
        if usage.used_bytes <= _IDLE_SHARE_OF_MEMORY * usage.total_bytes:
            return ""
        if self._nvml.has_other_processes(place.unit.uuid):
            return ""
        return f"{place.unit} has {usage.used_bytes >> 20} MiB in use by no process that can be seen"

    def _put_off(self, place: _Place) -> None:
        pause_s = _AFTER_RELEASE_S[place.n_looks] if place.n_looks < len(_AFTER_RELEASE_S) else _LOOK_S
        place.n_looks += 1
        place.look_at_s = self._clock() + pause_s

    def _put_off_leased(self, place: _Place) -> None:
        """The unit is idle, but a lease of it could not be had."""
        holder = self._leases.holder(place.unit.uuid)
        if holder is not None:
            place.why_not = f"{place.unit} is leased by {holder}"
            place.n_looks = len(_AFTER_RELEASE_S)
            self._put_off(place)
        elif place.n_looks < len(_AFTER_RELEASE_S):
            place.why_not = f"{place.unit} is being given back by a job that ended"
            self._put_off(place)
        else:
            place.why_not = f"{place.unit} is being looked at by another search, or left by a job that ended"
            place.look_at_s = self._clock() + _AT_GATE_S

    def _take_whole(self, place: _Place) -> list[int]:
        """Lease all shares of a unit, or none."""
        descriptors: list[int] = []
        for share in range(place.n_shares):
            descriptor = self._leases.take(place.unit.uuid, share)
            if descriptor is None:
                _close(descriptors)
                self._put_off_leased(place)
                return []
            descriptors.append(descriptor)
        return descriptors

    def _slot(self, place: _Place, share: int, *, name: str | None = None) -> Slot:
        unit = place.unit
        if name is None:
            part = share if self._n_shares > 1 else None
            part = part if unit.instance is None else unit.instance
            name = f"gpu:{unit.index}" if part is None else f"gpu:{unit.index}/{part}"
        if unit.instance is None and not self._by_uuid:
            return Slot(name, ("--gpu", str(unit.index)), {"CUDA_VISIBLE_DEVICES": None}, (unit.uuid,))
        return Slot(name, ("--gpu", "0"), {"CUDA_VISIBLE_DEVICES": unit.uuid}, (unit.uuid,))

    def _give(self, slot: Slot, descriptors: tuple[int, ...], shares: Iterable[tuple[_Place, int]]) -> Lease:
        lease = Lease(slot, descriptors)
        self._given[slot.name] = lease
        for place, share in shares:
            place.used[share] = slot.name
            place.why_not = ""
        return lease

    def _check_any_left(self) -> None:
        """A search whose GPUs are all lost would wait for ever."""
        if not self._given and all(place.is_lost for place in self._places):
            raise MachineError(
                f"Every GPU of this search is lost: {self.why_none()}. The driver's messages are in "
                "`dmesg`; after a reset or reboot the same command goes on with the search."
            )


def _exists(pid: int) -> bool:
    """True when there is such a process in our pid namespace."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _parse(slot_name: str) -> tuple[tuple[int, ...], int | None]:
    """(GPU indices, share or instance) of a slot name; no indices for other kinds of slots."""
    kind, _, rest = slot_name.partition(":")
    if kind != "gpu":
        return (), None
    numbers, _, part = rest.partition("/")
    return tuple(int(number) for number in numbers.split(",")), int(part) if part else None


def _is_meant(unit: Unit, indices: tuple[int, ...], share: int | None) -> bool:
    return unit.index in indices and (unit.instance is None or unit.instance == share)


def _short(unit: Unit) -> str:
    return str(unit.index) if unit.instance is None else f"{unit.index}/{unit.instance}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
