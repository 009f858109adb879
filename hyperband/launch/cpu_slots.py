"""The slots of a machine without GPUs: numbered places, nothing else.

Owns: which CPU slots are in use by this search.
Must not know: GPUs, leases of others, processes. CPU slots are not leased: searches may share cores.
"""

import os
from collections.abc import Callable

from hyperband.errors import InternalError
from hyperband.launch.base import NO_WISH, Lease, Observation, Slot, Wish


def default_n_slots() -> int:
    """Half of the cores that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


class CpuSlots:
    """CPU slots `cpu:0` to `cpu:N-1`, the lowest free one first."""

    def __init__(self, n_slots: int, reason: str) -> None:
        """Make the slots.

        Args:
            n_slots: How many, at least 1.
            reason: Why there are CPU slots and no GPUs, in words.
        """
        self._n_slots = n_slots
        self._reason = reason
        #: by slot name; adopted jobs of an earlier search may stand here under any name
        self._leases: dict[str, Lease] = {}

    def describe(self) -> str:
        """One line: how many slots, and why no GPU."""
        return f"{self._n_slots} CPU slot{'s' if self._n_slots > 1 else ''}: {self._reason}"

    def n_slots(self) -> int:
        """How many jobs may run at once."""
        return self._n_slots

    def take(self, wish: Wish) -> Lease | None:
        """Lease the lowest free slot that the wish does not avoid, or None."""
        if self._n_used() >= self._n_slots:
            return None
        taken = wish.avoid | self._leases.keys()
        name = next((name for name in self.names() if name not in taken), None)
        return None if name is None else self._book(name)

    def names(self) -> tuple[str, ...]:
        """Every slot, lowest first."""
        return tuple(f"cpu:{k}" for k in range(self._n_slots))

    def take_all(self, avoid: frozenset[str] = frozenset()) -> Lease | None:  # noqa: ARG002
        """Never: a `--multi_gpu` job needs GPUs."""
        return None

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:  # noqa: ARG002
        """Count a living job of an earlier search, also one of a slot that is not ours (any more).

        Raises:
            InternalError: The slot is taken already.
        """
        if slot_name in self._leases:
            raise InternalError(
                f"Slot {slot_name} was adopted twice. This is a bug of ours: please report it."
            )
        return self._book(slot_name)

    def release(self, lease: Lease) -> None:
        """Count the slot as free.

        Raises:
            InternalError: The slot was not taken.
        """
        if self._leases.pop(lease.slot.name, None) is None:
            raise InternalError(
                f"Slot {lease.slot.name} was released but not taken. This is a bug of ours: please report it."
            )

    def observe(self, lease: Lease, belongs: Callable[[int], bool]) -> Observation:  # noqa: ARG002
        """Nothing: a CPU slot has no GPU to look at."""
        return Observation()

    def news(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def is_lost(self, lease: Lease) -> bool:  # noqa: ARG002 - the protocol's
        """False: cores do not get lost."""
        return False

    def next_look_s(self) -> float | None:
        """None: only the end of one of our own jobs frees a CPU slot."""
        return None

    def why_none(self) -> str:
        """One line on what the slots wait for."""
        return f"{self._n_used()} of {self._n_slots} CPU slots run jobs"

    def validate(self) -> None:
        """Check that every lease stands under its own name, and that what `take` gave lies in range.

        Raises:
            InternalError: It does not.
        """
        for name, lease in self._leases.items():
            if lease.slot.name != name or lease.descriptors:
                raise InternalError(f"The CPU slot {name} is kept as {lease}: please report it.")
        n_free = sum(f"cpu:{k}" not in self._leases for k in range(self._n_slots))
        if n_free < self._n_slots - self._n_used():
            raise InternalError(f"CPU slots do not add up: {sorted(self._leases)} of {self._n_slots}.")

    def _n_used(self) -> int:
        return sum(name.startswith("cpu:") for name in self._leases)

    def _book(self, name: str) -> Lease:
        kind, _, number = name.partition(":")
        arguments = ("--gpu", number) if kind == "cpu" else ()
        lease = Lease(Slot(name, arguments, {"CUDA_VISIBLE_DEVICES": ""}), ())
        self._leases[name] = lease
        return lease
