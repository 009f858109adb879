"""The slots that a search holds in Slurm's allocations.

Owns which of them are taken. Must not know: how allocations are asked for (holding.py), or how a job gets
onto its node.
"""

import time
from collections.abc import Callable

from hyperband.launch.base import NO_WISH, Lease, Wish
from hyperband.launch.remote.place import Place
from hyperband.launch.remote.slots import Booked
from hyperband.launch.slurm.files import described
from hyperband.launch.slurm.held.events import Began, Ended
from hyperband.launch.slurm.held.holding import SlurmHolding
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.room import lease_of, place_named, place_of


class SlurmSlots(SlurmHolding):
    """Slots `NODE/ALLOCATION/K`; see RemoteSlots."""

    def __init__(self, profile: Profile, *, max_slots: int | None) -> None:
        """Ask nothing yet.

        Args:
            profile: what an allocation is.
            max_slots: jobs at once in all of them; None: as many as there is room for.
        """
        super().__init__(profile, max_slots=max_slots)
        self._booked = Booked()
        #: tells whether a job that is started at a place now needs no word of Slurm's
        self._is_prepared: Callable[[Place], bool] = lambda _: False

    def heed_prepared(self, is_prepared: Callable[[Place], bool]) -> None:
        """While Slurm does not answer, give out only slots that need no word of it, as this says."""
        self._is_prepared = is_prepared

    def used(self) -> list[Place]:
        """Return the slots that are taken."""
        return [place_named(name) for name in self._booked]

    def describe(self) -> str:
        """One line: how many there may be, and of what kind."""
        n, n_each = self._rules.n_most, self._rules.n_slots
        each = f"{n_each} slot{'s' if n_each > 1 else ''} each"
        asked = ", ".join(described(self._profile)) or "the site's defaults"
        return f"Slurm: up to {n} allocation{'s' if n > 1 else ''} with {each} ({asked})"

    def n_slots(self) -> int:
        """How many jobs may run at once."""
        n_slots = self._rules.n_most * self._rules.n_slots
        return n_slots if self._rules.max_slots is None else min(n_slots, self._rules.max_slots)

    def take(self, wish: Wish) -> Lease | None:
        """Lease the best free slot that the wish does not avoid and in which there is time for it."""
        if self._open is None:
            return None
        is_reachable = self._allocations.is_reachable
        now_s = time.monotonic()
        for place in self._allocations.free(wish.expected_s, now_s):
            is_out = place.name in wish.avoid or self._starts.are_held_back(place, now_s)
            if not is_out and (is_reachable or self._is_prepared(place)):
                self._tell(Began(place))
                self._expected_s[place] = wish.expected_s
                return self._booked.book(lease_of(self._profile, place))
        return None

    def names(self) -> tuple[str, ...]:
        """Every slot of allocations that run."""
        return tuple(place.name for place in self._allocations.places())

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:  # noqa: ARG002
        """Count a slot as used by a job of an earlier search.

        Raises:
            InternalError: it is none, or is taken.
        """
        place = place_named(slot_name)
        lease = self._booked.book(lease_of(self._profile, place))
        self._tell(Began(place))
        return lease

    def release(self, lease: Lease) -> None:
        """Count the slot as free.

        Raises:
            InternalError: it was not taken.
        """
        self._booked.free(lease.slot.name)
        place = place_of(lease)
        self._expected_s.pop(place, None)
        self._tell(Ended(place))

    def next_look_s(self) -> float | None:
        """Seconds after which a slot may be free that was held back; of all else the grounds tell."""
        return self._starts.wait_s(time.monotonic())

    def why_none(self) -> str:
        """One line: what allocations wait for, or do."""
        return self._starts.words(time.monotonic()) or self._allocations.why_none()
