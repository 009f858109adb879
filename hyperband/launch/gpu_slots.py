"""The GPU slots of one machine: which GPU, or share of one, a job gets.

Owns: which GPUs this search has leased, the names of slots, what a job is told about its GPU.
Must not know: how NVML answers, how locks work, when a GPU is free (gpu_place), jobs, the journal.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence

from hyperband.errors import InternalError, MachineError
from hyperband.launch.base import Lease, Observation, Slot, Wish
from hyperband.launch.gpu_place import Place, Surroundings
from hyperband.machine.gpu import Gpu
from hyperband.machine.leases import Leases
from hyperband.machine.nvml import Nvml
from hyperband.machine.visible import Choice, Unit

#: more leases than one message to a keeper can carry
_MAX_DESCRIPTORS = 200


class GpuSlots:
    """Slots on GPUs and MIG instances in PCI order; jobs are spread before GPUs are shared."""

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
        self._gpus = tuple(gpus)
        self._notes = choice.notes
        self._n_shares = n_shares
        # Where any GPU is in MIG mode, the numbers that CUDA gives are not those of the PCI order.
        self._by_uuid = any(gpu.mig for gpu in gpus)
        around = Surroundings(nvml, leases, owns, clock)
        self._places = [
            Place(unit, n_shares if unit.instance is None else 1, around) for unit in choice.units
        ]
        #: leases given and not yet released, by slot name
        self._given: dict[str, Lease] = {}

    def describe(self) -> str:
        """One line: the GPUs, the slots on them, and what narrowed the choice."""
        n_whole = sum(place.unit.instance is None for place in self._places)
        counts = [_count(n_whole, "GPU")] if n_whole else []
        if n_whole < len(self._places):
            counts.append(_count(len(self._places) - n_whole, "MIG instance"))
        names = ", ".join(_short(place.unit) for place in self._places)
        models = ", ".join(sorted({place.unit.model for place in self._places}))
        line = f"{' and '.join(counts)}: {names} ({models})"
        if self._n_shares > 1 and n_whole:
            line += f", {self._n_shares} jobs on a GPU, {_count(self.n_slots(), 'slot')}"
        return "; ".join([line, *self._notes])

    def n_slots(self) -> int:
        """How many jobs could run at once if nothing else used the GPUs."""
        return sum(place.n_shares for place in self._places)

    def names(self) -> tuple[str, ...]:
        """Every slot, in the order in which they are taken."""
        shares = [(share, place) for share in range(self._n_shares) for place in self._places]
        return tuple(self._slot(place, share).name for share, place in shares if share < place.n_shares)

    def take(self, wish: Wish) -> Lease | None:
        """Lease the first free slot: the lowest share number, then the lowest GPU index.

        Raises:
            MachineError: Every GPU of this search is lost, or the lock files cannot be used.
        """
        free: dict[str, bool] = {}  # one look at a unit serves all its shares
        for share in range(self._n_shares):
            for place in self._places:
                if share >= place.n_shares or share in place.used or not place.has_room():
                    continue
                if self._slot(place, share).name in wish.avoid:
                    continue
                uuid = place.unit.uuid
                if uuid not in free:
                    free[uuid] = place.look()
                descriptor = place.lease(share) if free[uuid] else None
                if descriptor is not None:
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
        leased = [(place, place.lease_whole()) for place in whole if place.look()]
        places = [place for place, descriptors in leased if descriptors]
        descriptors = tuple(descriptor for _place, some in leased for descriptor in some)
        if len(places) < 2 or len(descriptors) > _MAX_DESCRIPTORS:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        name = "gpu:" + ",".join(str(place.unit.index) for place in places)
        shares = [(place, share) for place in places for share in range(place.n_shares)]
        return self._give(_multi_slot(name, [place.unit.uuid for place in places]), descriptors, shares)

    def adopt(self, slot_name: str) -> Lease:
        """Count the slot of a living job of an earlier search; its keeper holds the lock.

        The name may be of a GPU that is not chosen any more, or of none: then it blocks nothing.

        Raises:
            InternalError: The slot is taken already.
        """
        if slot_name in self._given:
            raise InternalError(
                f"Slot {slot_name} was adopted twice. This is a bug of ours: please report it."
            )
        indices, part = _parse(slot_name)
        is_multi = len(indices) > 1
        places = [place for place in self._places if _is_meant(place.unit, indices, part)]
        shares = [
            (place, share)
            for place in places
            for share in (range(place.n_shares) if is_multi else [_share(place.unit, part)])
        ]
        uuids = [place.unit.uuid for place in places]
        if not uuids:
            uuids = [gpu.uuid for gpu in self._gpus if gpu.index in indices and gpu.uuid and not gpu.mig]
        if is_multi:
            slot = _multi_slot(slot_name, uuids)
        elif places:
            slot = self._slot(places[0], shares[0][1], name=slot_name)
        else:
            slot = Slot(slot_name, (), {}, tuple(uuids))
        return self._give(slot, (), shares)

    def release(self, lease: Lease) -> None:
        """Count the slot as free. The locks go with the descriptors, which are not touched here.

        Raises:
            InternalError: The slot was not taken.
        """
        name = lease.slot.name
        if self._given.pop(name, None) is None:
            raise InternalError(
                f"Slot {name} was released but not taken. This is a bug of ours: please report it."
            )
        for place in self._places:
            place.unbook(name)

    def observe(self, lease: Lease, belongs: Callable[[int], bool]) -> Observation:  # noqa: ARG002
        """Nothing yet."""
        return Observation()

    def news(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def is_lost(self, lease: Lease) -> bool:
        """True when NVML says now that a GPU of this lease is lost."""
        return any(self._nvml.lost(uuid) for uuid in lease.slot.gpu_uuids)

    def next_look_s(self) -> float | None:
        """Seconds after which `take` is worth another try, counted from a `take` that gave None.

        None when all slots are used by our own jobs.
        """
        return min((place.wait_s() for place in self._places if place.has_room()), default=None)

    def why_none(self) -> str:
        """One line: what each GPU that is not ours is waiting for.

        A GPU that a job of ours has just left is named only when it is the only reason.
        """
        waiting = [place for place in self._places if place.has_room() and place.why_not]
        reasons = [place.why_not for place in waiting if not place.is_settling()]
        reasons = reasons or [place.why_not for place in waiting]
        return "; ".join(reasons) or f"{len(self._given)} of {_count(self.n_slots(), 'GPU slot')} run jobs"

    def validate(self) -> None:
        """Check that free + leased = all: what is booked is given, and what is given is booked.

        Raises:
            InternalError: The two books differ.
        """
        booked = {name for place in self._places for name in place.used.values()}
        if not booked <= set(self._given):
            raise InternalError(
                f"GPUs are booked for slots that were not given: {booked - set(self._given)}."
            )
        for name, lease in self._given.items():
            for place in self._places:
                if place.unit.uuid in lease.slot.gpu_uuids and name not in place.used.values():
                    raise InternalError(f"Slot {name} is given, but {place.unit} is not booked for it.")

    def _slot(self, place: Place, share: int, *, name: str | None = None) -> Slot:
        unit = place.unit
        if name is None:
            part = unit.instance if unit.instance is not None else share if self._n_shares > 1 else None
            name = f"gpu:{unit.index}" if part is None else f"gpu:{unit.index}/{part}"
        if unit.instance is None and not self._by_uuid:
            return Slot(name, ("--gpu", str(unit.index)), {"CUDA_VISIBLE_DEVICES": None}, (unit.uuid,))
        return Slot(name, ("--gpu", "0"), {"CUDA_VISIBLE_DEVICES": unit.uuid}, (unit.uuid,))

    def _give(self, slot: Slot, descriptors: tuple[int, ...], shares: Iterable[tuple[Place, int]]) -> Lease:
        lease = Lease(slot, descriptors)
        self._given[slot.name] = lease
        for place, share in shares:
            place.book(share, slot.name)
        return lease

    def _check_any_left(self) -> None:
        """A search whose GPUs are all lost would wait for ever."""
        if not self._given and all(place.is_lost for place in self._places):
            raise MachineError(
                f"Every GPU of this search is lost: {self.why_none()}. The driver's messages are in "
                "`dmesg`; after a reset or reboot the same command goes on with the search."
            )


def _multi_slot(name: str, uuids: Sequence[str]) -> Slot:
    return Slot(name, ("--multi_gpu",), {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}, tuple(uuids))


def _parse(slot_name: str) -> tuple[tuple[int, ...], int | None]:
    """(GPU indices, share or instance) of a slot name; no indices for other kinds of slots."""
    kind, _, rest = slot_name.partition(":")
    if kind != "gpu":
        return (), None
    numbers, _, part = rest.partition("/")
    return tuple(int(number) for number in numbers.split(",")), int(part) if part else None


def _is_meant(unit: Unit, indices: tuple[int, ...], part: int | None) -> bool:
    return unit.index in indices and (unit.instance is None or unit.instance == part)


def _share(unit: Unit, part: int | None) -> int:
    """The share that a slot name means; the part of a MIG instance's name is the instance."""
    return part if part is not None and unit.instance is None else 0


def _short(unit: Unit) -> str:
    return str(unit.index) if unit.instance is None else f"{unit.index}/{unit.instance}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
