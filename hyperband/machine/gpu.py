"""What can be said about a GPU: value types that the modules on GPUs share.

Owns: the vocabulary. Must not know: where the values come from, or what is decided with them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU in MIG mode: a device of its own to CUDA."""

    uuid: str
    #: place among the instances of its GPU, as NVML counts them
    index: int
    gpu_instance: int | None
    compute_instance: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as it stands now; what changes by the second is `Usage`."""

    #: rank in PCI order; never shifts while this process runs, whatever is lost
    index: int
    #: empty when the GPU was lost before its UUID could be read
    uuid: str
    name: str
    #: why the GPU cannot be used any more, in words; empty while it can
    lost: str = ""
    mig: bool = False
    instances: tuple[MigInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a compute context on a GPU."""

    pid: int
    name: str
    #: None where the driver does not tell
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Who uses a GPU (or a MIG instance) and how much of its memory, at one look."""

    #: the GPU fell off the bus or needs a reset, in words; empty while it is there
    lost: str = ""
    #: this look failed for a reason that may pass, in words; nothing else here is known then
    problem: str = ""
    total_bytes: int | None = None
    #: without what the driver reserves for itself, where the driver can tell them apart
    used_bytes: int | None = None
    #: compute processes, the MPS server left out
    compute: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class NoGpus:
    """This machine has no NVIDIA GPU that this process may use."""

    #: in words, fit to follow "no NVIDIA GPU: "
    reason: str
