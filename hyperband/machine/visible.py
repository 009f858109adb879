"""Which of the machine's GPUs a search may use: CUDA_VISIBLE_DEVICES, then `--gpus` on top of it.

Owns: the grammar of both and what they mean together. Pure: it gets the GPUs and the two strings.
Must not know: NVML, leases, the environment, what is free.

CUDA reads CUDA_VISIBLE_DEVICES from left to right: the list ends at the first entry that names no
device, and an entry given twice hides everything (CUDA C++ Programming Guide, "CUDA Environment
Variables"). We read it alike, but say what it did.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hyperband.errors import MachineError, UsageError
from hyperband.machine.gpu import Gpu, MigInstance

_OLD_MIG_NAME = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Unit:
    """What can be leased: a whole GPU, or one MIG instance of a GPU in MIG mode."""

    uuid: str
    #: the GPU's rank in PCI order
    index: int
    #: number of the MIG instance; None for a whole GPU
    instance: int | None
    #: of the GPU, for people
    model: str

    def __str__(self) -> str:
        """For people: `GPU 1`, `MIG instance 0 of GPU 1`."""
        whole = f"GPU {self.index}"
        return whole if self.instance is None else f"MIG instance {self.instance} of {whole}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a search may use, and what is worth saying about it."""

    #: by GPU index, then instance
    units: tuple[Unit, ...]
    #: each a clause for people
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Named:
    """A GPU or an instance that an entry named."""

    gpu: Gpu
    instance: MigInstance | None = None

    def __str__(self) -> str:
        whole = f"GPU {self.gpu.index}"
        return whole if self.instance is None else f"MIG instance {self.instance.index} of {whole}"


def wanted_entries(gpus_option: str) -> tuple[str, ...] | None:
    """The entries of `--gpus`, or None for `all`; `none` is the caller's business.

    Raises:
        UsageError: It is not a list of indices and UUIDs.
    """
    if gpus_option == "all":
        return None
    entries = tuple(part.strip() for part in gpus_option.split(","))
    for entry in entries:
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-.+", entry, re.IGNORECASE):
            raise UsageError(
                f"--gpus is {gpus_option!r}, of which {entry!r} is neither an index nor a UUID. "
                "Expected `all`, `none`, or a list such as `0,2` or `GPU-1a2b`, where a UUID may be cut "
                "short as long as it names one GPU (`nvidia-smi -L` lists them)."
            )
    return entries


def hides_all(preset: str | None) -> bool:
    """True when CUDA_VISIBLE_DEVICES is meant to hide every GPU: empty, -1, or Slurm's NoDevFiles."""
    return preset is not None and preset.split(",", 1)[0].strip() in ("", "-1", "NoDevFiles")


def choose_gpus(gpus: tuple[Gpu, ...], *, wanted: tuple[str, ...] | None, preset: str | None) -> Choice:
    """Narrow the machine's GPUs by CUDA_VISIBLE_DEVICES and `--gpus`.

    Args:
        gpus: All GPUs of the machine, in PCI order.
        wanted: Entries of `--gpus`, or None for `all` (see `wanted_entries`).
        preset: CUDA_VISIBLE_DEVICES as it stands, or None; must not hide all (see `hides_all`).

    Raises:
        UsageError: An entry of `--gpus` names nothing, several things, or something hidden; or
            nothing is left.
        MachineError: Nothing is left because GPUs are lost.
    """
    notes: list[str] = []
    visible = None if preset is None else _read_preset(gpus, preset, notes)
    if wanted is None:
        named = [_Named(gpu) for gpu in gpus] if visible is None else visible
    else:
        named = _read_wanted(gpus, wanted, visible, preset)
    units = _units(named, notes)
    if not units:
        kind = MachineError if any(name.gpu.lost for name in named) else UsageError
        raise kind(
            f"No GPU is left to use: {'; '.join(notes)}. The machine has {listing(gpus)}. "
            "Choose others with --gpus, or run on CPUs with `--gpus none`."
        )
    return Choice(units, tuple(notes))


def listing(gpus: Iterable[Gpu]) -> str:
    """All GPUs with index and UUID in one line, MIG instances included."""
    parts = []
    for gpu in gpus:
        parts.append(f"{gpu.index} ({gpu.uuid or 'lost'})")
        parts += [f"{instance.uuid}" for instance in gpu.instances]
    return "GPUs " + ", ".join(parts)


def _read_preset(gpus: tuple[Gpu, ...], preset: str, notes: list[str]) -> list[_Named]:
    """CUDA's reading of CUDA_VISIBLE_DEVICES.

    Raises:
        UsageError: CUDA would show nothing, which nobody asked for.
    """
    named: list[_Named] = []
    for entry in (part.strip() for part in preset.split(",")):
        found = _find(gpus, entry)
        if len(found) != 1:
            if not named:
                why = "names no GPU" if not found else "names several GPUs"
                raise UsageError(
                    f"CUDA_VISIBLE_DEVICES is {preset!r}, but its first entry {entry!r} {why} here, so that "
                    f"CUDA would show none. The machine has {listing(gpus)}. Correct it or unset it; "
                    "for a search on CPUs set it to -1 or give `--gpus none`."
                )
            end = "" if entry in ("", "-1") else f" ends before {entry!r}, which names no single GPU"
            notes.append(f"CUDA_VISIBLE_DEVICES={preset}{end}")
            return named
        if found[0] in named:
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES is {preset!r}, which names {found[0]} twice; CUDA shows no GPU at all "
                "then. Name each GPU once, or unset it."
            )
        named.append(found[0])
    if len(named) < len(gpus) or any(name.instance for name in named):
        notes.append(f"CUDA_VISIBLE_DEVICES={preset}")
    return named


def _read_wanted(
    gpus: tuple[Gpu, ...], wanted: tuple[str, ...], visible: list[_Named] | None, preset: str | None
) -> list[_Named]:
    named: list[_Named] = []
    for entry in wanted:
        found = _find(gpus, entry)
        if len(found) != 1:
            problem = "is not on this machine" if not found else "is the beginning of several UUIDs"
            raise UsageError(
                f"--gpus names {entry}, which {problem}. The machine has {listing(gpus)}. "
                "Give indices in PCI order or UUIDs of these."
            )
        # Naming a GPU in MIG mode whose instances are visible picks these instances.
        inside = [name for name in visible or () if found[0].instance is None and name.gpu == found[0].gpu]
        picked = inside or found
        if visible is not None and any(name not in visible for name in picked):
            raise UsageError(
                f"--gpus names {entry}, but CUDA_VISIBLE_DEVICES is {preset!r} and hides it. "
                "Add it there, unset CUDA_VISIBLE_DEVICES, or choose among the visible ones."
            )
        if any(name in named for name in picked):
            raise UsageError(
                f"--gpus names {found[0]} twice (the second time as {entry}). Name each GPU once."
            )
        named += picked
    return named


def _find(gpus: tuple[Gpu, ...], entry: str) -> list[_Named]:
    """All GPUs and instances that an entry may mean."""
    if re.fullmatch(r"[0-9]+", entry):
        return [_Named(gpu) for gpu in gpus if gpu.index == int(entry)]
    old = _OLD_MIG_NAME.fullmatch(entry)
    if old is not None:
        parent, gpu_instance, compute_instance = old.groups()
        numbers = (int(gpu_instance), int(compute_instance))
        found = [
            _Named(gpu, instance)
            for gpu in gpus
            for instance in gpu.instances
            if gpu.uuid.lower() == parent.lower()
            and (instance.gpu_instance, instance.compute_instance) == numbers
        ]
        if found:
            return found
    prefix = entry.lower()
    if prefix.startswith("gpu-"):
        return [_Named(gpu) for gpu in gpus if gpu.uuid.lower().startswith(prefix)]
    if prefix.startswith("mig-"):
        return [
            _Named(gpu, instance)
            for gpu in gpus
            for instance in gpu.instances
            if instance.uuid.lower().startswith(prefix)
        ]
    return []


def _units(named: list[_Named], notes: list[str]) -> tuple[Unit, ...]:
    units = []
    for name in sorted(
        named, key=lambda name: (name.gpu.index, name.instance.index if name.instance else -1)
    ):
        gpu = name.gpu
        if gpu.lost:
            notes.append(f"GPU {gpu.index} is lost ({gpu.lost}) and not used")
        elif name.instance is not None:
            units.append(Unit(name.instance.uuid, gpu.index, name.instance.index, gpu.name))
        elif gpu.mig:
            notes.append(
                f"GPU {gpu.index} is in MIG mode and cannot be used as a whole: name its instances "
                f"({', '.join(instance.uuid for instance in gpu.instances) or 'it has none'}) in "
                "CUDA_VISIBLE_DEVICES or --gpus"
            )
        else:
            units.append(Unit(gpu.uuid, gpu.index, None, gpu.name))
    return tuple(units)
