"""The GPU slots of one machine: which GPU, or share of one, a job gets.

Owns: which GPUs this search has leased, and how many it leaves to others.
Must not know: how NVML answers, how locks work, when a GPU is free (place.py), jobs, the journal.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence

from hyperband.errors import InternalError, MachineError
from hyperband.launch.base import NO_WISH, Lease, Observation, Slot, Wish
from hyperband.launch.gpu.names import SlotMaker, is_meant, multi_slot, parse, share_of
from hyperband.launch.gpu.observe import observe
from hyperband.launch.gpu.place import Place, Surroundings
from hyperband.launch.gpu.refusals import Refusals
from hyperband.launch.gpu.sharing import Sharing
from hyperband.launch.gpu.words import counted, described, reasons
from hyperband.machine.gpu import Gpu
from hyperband.machine.leases import Leases
from hyperband.machine.nvml import Nvml
from hyperband.machine.visible import Choice

#: more leases than one message to a keeper can carry
_MAX_DESCRIPTORS = 200
#: GPUs of one model differ by a few MiB
_AS_MUCH = 0.95


class GpuSlots:
    """Slots on GPUs and MIG instances in PCI order; jobs are spread before GPUs are shared."""

    def __init__(
        self,
        nvml: Nvml,
        leases: Leases,
        *,
        gpus: Sequence[Gpu],
        choice: Choice,
        sharing: Sharing,
        owns: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the slots; nothing is leased yet.

        Args:
            nvml: Open NVML.
            leases: The leases of this study.
            gpus: All GPUs of the machine.
            choice: What the search may use of them.
            sharing: Among the search's own jobs, and with others.
            owns: Tells whether a pid belongs to one of this search's own jobs.
            clock: Monotonic seconds.
        """
        self._nvml = nvml
        self._gpus = tuple(gpus)
        self._notes = choice.notes
        self._sharing = sharing
        # Where any GPU is in MIG mode, the numbers that CUDA gives are not those of the PCI order.
        by_uuid = sharing.isolate or any(gpu.mig for gpu in gpus)
        self._maker = SlotMaker(has_shares=sharing.n_shares > 1, by_uuid=by_uuid)
        around = Surroundings(nvml, leases, owns, clock)
        self._places = [Place(unit, sharing, around) for unit in choice.units]
        #: leases given and not yet released, by slot name
        self._given: dict[str, Lease] = {}
        self._refusals = Refusals(self._places, clock)

    def describe(self) -> str:
        """One line: the GPUs, the slots on them, and what narrowed the choice."""
        return described(self._places, self._sharing, self.n_slots(), self._notes)

    def n_slots(self) -> int:
        """How many jobs could run at once if nothing else used the GPUs.

        Where memory decides: jobs such as the last that was asked for and need not be alone.
        """
        return sum(place.capacity(self._refusals.usual) for place in self._places)

    def names(self) -> tuple[str, ...]:
        """Every slot, in the order in which they are taken."""
        return tuple(name for name, place, _share in self._shares() if not place.is_lost)

    def take(self, wish: Wish) -> Lease | None:
        """Lease the first free slot that grants the wish: the lowest share number, then the lowest GPU.

        Before that order go GPUs none of whose slots is to be avoided. Where the most memory is wished
        for, a smaller GPU is not given while a job of ours runs on a larger one.

        Raises:
            MachineError: Every GPU of this search is lost, or the lock files cannot be used.
        """
        self._refusals.begin(wish)
        lease = self._take(wish)
        if lease is not None:
            self._refusals.granted(wish)
            return lease
        self._refusals.refused(wish)
        self._check_any_left()
        return None

    def _take(self, wish: Wish) -> Lease | None:
        free: dict[str, bool] = {}  # one look at a unit serves all its shares

        def is_free(place: Place) -> bool:
            uuid = place.unit.uuid
            if uuid not in free:
                free[uuid] = place.look(wish)
            return free[uuid]

        possible = [(place, share) for name, place, share in self._open(wish)]
        shunned = {place.unit.uuid for place in self._places if place.is_shunned(wish.avoid)}
        possible.sort(key=lambda found: found[0].unit.uuid in shunned)
        if wish.most_memory:
            possible = [found for found in possible if is_free(found[0])]
            possible = [found for found in possible if found[0].total_bytes >= self._least_bytes(wish)]
        for place, share in possible:
            if is_free(place) and self._leaves_enough(place):
                descriptor = place.lease(share)
                if descriptor is not None:
                    slot = self._maker.slot(place.unit, self._maker.name(place.unit, share))
                    return self._give(slot, (descriptor,), [(place, share)], wish)
                free[place.unit.uuid] = False
        return None

    def take_all(self, avoid: frozenset[str] = frozenset()) -> Lease | None:
        """Lease every free whole GPU for one `--multi_gpu` job, but those to be avoided or left to others.

        Returns:
            None unless at least two are free.
        """
        possible = [
            place
            for place in self._places
            if place.unit.instance is None and not place.used and not place.is_shunned(avoid)
        ]
        if len(possible) < 2:
            return None
        # One share holds a GPU against other studies; against ourselves the books do.
        leased = [(place, place.lease(0)) for place in possible if place.look()]
        got = [(place, descriptor) for place, descriptor in leased if descriptor is not None]
        n_kept = max(0, min(len(got) - self._n_owed(got), _MAX_DESCRIPTORS))
        if n_kept < 2:
            n_kept = 0
        for _place, descriptor in got[n_kept:]:
            os.close(descriptor)
        if n_kept == 0:
            return None
        places = [place for place, _descriptor in got[:n_kept]]
        name = "gpu:" + ",".join(str(place.unit.index) for place in places)
        shares = [(place, share) for place in places for share in range(place.n_shares)]
        slot = multi_slot(name, [place.unit.uuid for place in places])
        return self._give(slot, tuple(descriptor for _place, descriptor in got[:n_kept]), shares, NO_WISH)

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:
        """Count the slot of a living job of an earlier search; its keeper holds the lock.

        The name may be of a GPU that is not chosen any more, or of none: then it blocks nothing. Where
        memory decides, nothing joins a job of which the wish does not tell how much it needs.

        Raises:
            InternalError: The slot is taken already.
        """
        if slot_name in self._given:
            raise InternalError(
                f"Slot {slot_name} was adopted twice. This is a bug of ours: please report it."
            )
        indices, _part = parse(slot_name)
        is_multi = len(indices) > 1
        places = [place for place in self._places if is_meant(place.unit, slot_name)]
        shares = [
            (place, share)
            for place in places
            for share in (range(place.n_shares) if is_multi else [share_of(place.unit, slot_name)])
        ]
        uuids = [place.unit.uuid for place in places]
        if not uuids:
            uuids = [gpu.uuid for gpu in self._gpus if gpu.index in indices and gpu.uuid and not gpu.mig]
        if is_multi:
            slot = multi_slot(slot_name, uuids)
        elif places:
            slot = self._maker.slot(places[0].unit, slot_name)
        else:
            slot = Slot(slot_name, (), {}, tuple(uuids))
        return self._give(slot, (), shares, wish)

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
            place.reconsider()

    def observe(self, lease: Lease, belongs: Callable[[int], bool]) -> Observation:
        """Look at the GPUs of a lease once."""
        places = {place.unit.uuid: place for place in self._places}
        return observe(self._nvml, places, lease, belongs)

    def news(self) -> tuple[str, ...]:
        """Lines on memory that ended jobs did not give back, since the last call."""
        lines = tuple(line for place in self._places for line in place.settling.news)
        for place in self._places:
            place.settling.news.clear()
        return lines

    def is_lost(self, lease: Lease) -> bool:
        """True when NVML says now that a GPU of this lease is lost."""
        return any(self._nvml.lost(uuid) for uuid in lease.slot.gpu_uuids)

    def next_look_s(self) -> float | None:
        """Seconds after which `take` is worth another try, counted from a `take` that gave None.

        None when only the end of a job of ours can help.
        """
        return min(
            (place.wait_s() for wish in self._refusals.wishes() for place in self._awaited(wish)),
            default=None,
        )

    def why_none(self) -> str:
        """One line: what each GPU waits for, before the jobs that were refused can have it.

        A GPU that a job of ours has just left is named only when it is the only reason.
        """
        refused = self._refusals.wishes()
        found = reasons(
            self._places,
            [place for wish in refused for place in self._awaited(wish)],
            refused,
            leave_free=self._sharing.leave_free,
            unused=[name for name, _place, _share in self._shares() if name not in self._given],
        )
        return "; ".join(found) or f"{len(self._given)} of {counted(self.n_slots(), 'GPU slot')} run jobs"

    def validate(self) -> None:
        """Check that free + leased = all: what is booked is given, and what is given is booked.

        Raises:
            InternalError: The two books differ, or a job that is to be alone is not.
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
        for place in self._places:
            crowd = place.jobs.wishes
            # an adopted job's company was given to it by an earlier search
            alone = [name for name, wish in crowd.items() if wish.whole and self._given[name].descriptors]
            if len(crowd) > 1 and alone:
                raise InternalError(f"A job that is to be alone on {place.unit} is not: {sorted(crowd)}.")

    def _shares(self) -> Iterable[tuple[str, Place, int]]:
        """(name, place, share) of every slot, in the order in which they are taken."""
        for share in range(self._sharing.n_shares):
            for place in self._places:
                if share < place.n_shares:
                    yield self._maker.name(place.unit, share), place, share

    def _open(self, wish: Wish) -> list[tuple[str, Place, int]]:
        """The slots that our own jobs leave to this wish."""
        closed = {place.unit.uuid for place in self._places if place.why_no_room(wish)}
        closed |= {place.unit.uuid for place in self._refusals.drained if place.used}
        return [
            (name, place, share)
            for name, place, share in self._shares()
            if share not in place.used and place.unit.uuid not in closed and name not in wish.avoid
        ]

    def _awaited(self, wish: Wish) -> list[Place]:
        """The GPUs that a later look may give to this wish, although no job of ours ends."""
        least_bytes = self._least_bytes(wish)
        found = [place for _name, place, _share in self._open(wish)]
        return [
            place for place in found if place.why_not or place.is_left or place.total_bytes >= least_bytes
        ]

    def _least_bytes(self, wish: Wish) -> int:
        """The memory that a GPU must have for this wish.

        Who wants the most gets it from a GPU that is free, or waits for one that only jobs of ours use; a
        GPU that others use may stay so for days.
        """
        if not wish.most_memory:
            return 0
        allowed = {place.unit.uuid for name, place, _share in self._shares() if name not in wish.avoid}
        ours = [place for place in self._places if place.used or not place.why_not or place.settling.is_on]
        most_bytes = max((place.total_bytes for place in ours if place.unit.uuid in allowed), default=0)
        return int(_AS_MUCH * most_bytes)

    def _leaves_enough(self, place: Place) -> bool:
        """True when enough other GPUs are idle, or this one is in use by us anyway; it is left otherwise."""
        n_owed = self._sharing.leave_free
        if not n_owed or place.used:
            return True
        others = [other for other in self._places if other is not place]
        if sum(other.is_idle() for other in others) >= n_owed:
            return True
        # what is about to be idle may be left instead of this one
        place.leave(min((other.look_at_s for other in others if other.is_settling()), default=None))
        return False

    def _n_owed(self, got: Sequence[tuple[Place, int]]) -> int:
        """How many of the GPUs that could be leased must be given back for others."""
        if not self._sharing.leave_free:
            return 0
        leased = [place for place, _descriptor in got]
        n_idle = sum(place.is_idle() for place in self._places if place not in leased)
        return max(0, self._sharing.leave_free - n_idle)

    def _give(
        self, slot: Slot, descriptors: tuple[int, ...], shares: Iterable[tuple[Place, int]], wish: Wish
    ) -> Lease:
        lease = Lease(slot, descriptors)
        self._given[slot.name] = lease
        for place, share in shares:
            place.book(share, slot.name, wish)
        return lease

    def _check_any_left(self) -> None:
        """A search whose GPUs are all lost would wait for ever."""
        if not self._given and all(place.is_lost for place in self._places):
            raise MachineError(
                f"Every GPU of this search is lost: {self.why_none()}. The driver's messages are in "
                "`dmesg`; after a reset or reboot the same command goes on with the search."
            )
