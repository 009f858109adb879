"""The names of GPU slots, and what a job on each is told. Pure.

Owns: the grammar `gpu:K`, `gpu:K/j`, `gpu:0,1`, both ways.
Must not know: which slots are in use, leases, NVML.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hyperband.launch.base import Slot
from hyperband.machine.visible import Unit


@dataclass(frozen=True, slots=True)
class SlotMaker:
    """Makes the slots of one search."""

    #: names tell the share
    has_shares: bool
    #: a job sees its own GPU only: asked for, or since CUDA's numbers are not those of the PCI order here
    by_uuid: bool

    def name(self, unit: Unit, share: int) -> str:
        """The name of a share of a unit."""
        part = unit.instance if unit.instance is not None else share if self.has_shares else None
        return f"gpu:{unit.index}" if part is None else f"gpu:{unit.index}/{part}"

    def slot(self, unit: Unit, name: str) -> Slot:
        """The slot with this name on this unit."""
        if unit.instance is None and not self.by_uuid:
            return Slot(name, ("--gpu", str(unit.index)), {"CUDA_VISIBLE_DEVICES": None}, (unit.uuid,))
        return Slot(name, ("--gpu", "0"), {"CUDA_VISIBLE_DEVICES": unit.uuid}, (unit.uuid,))


def multi_slot(name: str, uuids: Sequence[str]) -> Slot:
    """The slot of a job on several GPUs."""
    return Slot(name, ("--multi_gpu",), {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}, tuple(uuids))


def parse(slot_name: str) -> tuple[tuple[int, ...], int | None]:
    """(GPU indices, share or instance) of a slot name; no indices for other kinds of slots."""
    kind, _, rest = slot_name.partition(":")
    if kind != "gpu":
        return (), None
    numbers, _, part = rest.partition("/")
    return tuple(int(number) for number in numbers.split(",")), int(part) if part else None


def is_meant(unit: Unit, slot_name: str) -> bool:
    """True when a slot of this name is on the unit."""
    indices, part = parse(slot_name)
    return unit.index in indices and (unit.instance is None or unit.instance == part)


def share_of(unit: Unit, slot_name: str) -> int:
    """The share that a slot name means; the part of a MIG instance's name is the instance."""
    part = parse(slot_name)[1]
    return part if part is not None and unit.instance is None else 0


def short(unit: Unit) -> str:
    """A unit in a list for people: `1`, or `1/0` for a MIG instance."""
    return str(unit.index) if unit.instance is None else f"{unit.index}/{unit.instance}"
