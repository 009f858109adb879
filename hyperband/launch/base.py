"""The protocols between the search and the places where jobs run, drawn from this machine's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Slot:
    """What one job occupies, and how the job is told."""

    #: `gpu:K`, `gpu:K/j` (share j of GPU K), `gpu:0,1` (several GPUs for one job) or `cpu:K`
    name: str
    #: `("--gpu", "1")` or `("--multi_gpu",)`: what the script gets after `--epochs N`
    arguments: tuple[str, ...]
    #: environment variables to set, or to take out where the value is None
    environment: Mapping[str, str | None]
    #: UUIDs of the GPUs (or MIG instances); empty for CPU slots
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a slot, until it is given back to the Slots that gave it."""

    slot: Slot
    #: locked descriptors that the keeper and the job inherit; the search closes its own copies once
    #: the keeper has them. Empty for CPU slots and for adopted jobs (their keepers hold the locks).
    descriptors: tuple[int, ...]


class Slots(Protocol):
    """The slots of one machine. One owner: the search's loop. Nothing here blocks."""

    def describe(self) -> str:
        """One line for people: which slots there are and why these (`4 GPUs: ...`, `2 CPU slots: no ...`)."""
        ...

    def n_slots(self) -> int:
        """How many jobs could run at once if nothing else used the machine."""
        ...

    def take(self) -> Lease | None:
        """Lease the first free slot in order, or None."""
        ...

    def take_all(self) -> Lease | None:
        """Lease every free GPU at once for one `--multi_gpu` job; None unless at least two are free."""
        ...

    def adopt(self, slot_name: str) -> Lease:
        """Count a slot as used by a job that was started by an earlier search and still lives."""
        ...

    def release(self, lease: Lease) -> None:
        """Count the slot as free again: all processes of its job are gone."""
        ...

    def is_lost(self, lease: Lease) -> bool:
        """True when a GPU of this lease has been lost (fell off the bus)."""
        ...

    def next_look_s(self) -> float | None:
        """Seconds after which `take` is worth another try although nothing ended; None: never."""
        ...

    def why_none(self) -> str:
        """One line: what the slots that are not free are waiting for (`GPU 0 is used by pid 123 (python)`)."""
        ...
