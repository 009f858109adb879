"""Which slots this machine has for a search: GPUs where there are any, numbered CPU slots elsewhere.

Owns: the choice between the two, and the reason for it in words.
Must not know: how slots are leased, jobs, the journal.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from hyperband.errors import UsageError
from hyperband.launch.base import Slots
from hyperband.launch.cpu_slots import CpuSlots, default_n_slots
from hyperband.launch.gpu.sharing import Sharing
from hyperband.launch.gpu.slots import GpuSlots
from hyperband.machine.gpu import NoGpus
from hyperband.machine.leases import Leases, lease_folder
from hyperband.machine.nvml import open_nvml
from hyperband.machine.visible import choose_gpus, hides_all, wanted_entries
from hyperband.settings import Settings


def make_slots(
    settings: Settings, *, environ: Mapping[str, str], study: str, owns: Callable[[int], bool]
) -> Slots:
    """The slots of this machine for one search.

    Args:
        settings: Of the search; `gpus`, `slots`, `jobs_per_gpu`, `isolate`, `when_shared` and
                `leave_free` count here.
        environ: The environment that jobs inherit: CUDA_VISIBLE_DEVICES and HYPERBAND_LEASES in it.
        study: Absolute path of the study's folder: the name under which GPUs are leased.
        owns: Tells whether a pid belongs to one of this search's own jobs or its script host.

    Raises:
        UsageError: `--gpus` names what is not there or hidden, CUDA_VISIBLE_DEVICES is wrong, or no GPU
            is left by `--leave-free`.
        MachineError: A GPU is there but cannot be used, or leases cannot.
    """
    n_cpu_slots = settings.slots if settings.slots is not None else default_n_slots()
    if settings.gpus == "none":
        return CpuSlots(n_cpu_slots, "no GPU is used (--gpus none)")
    wanted = wanted_entries(settings.gpus)
    preset = environ.get("CUDA_VISIBLE_DEVICES")
    if hides_all(preset):
        reason = f"CUDA_VISIBLE_DEVICES is {preset!r}, which hides every GPU"
        if wanted is not None:
            raise UsageError(
                f"--gpus names {settings.gpus}, but {reason}. Unset CUDA_VISIBLE_DEVICES or leave --gpus out."
            )
        return CpuSlots(n_cpu_slots, reason)
    nvml = open_nvml()
    if isinstance(nvml, NoGpus):
        if wanted is not None:
            raise UsageError(
                f"--gpus names {settings.gpus}, but this machine has no NVIDIA GPU: {nvml.reason}. "
                "Leave --gpus out to run on CPU slots."
            )
        return CpuSlots(n_cpu_slots, f"no NVIDIA GPU ({nvml.reason})")
    gpus = nvml.gpus()
    choice = choose_gpus(gpus, wanted=wanted, preset=preset)
    if settings.slots is not None:
        note = f"--slots {settings.slots} is not used: it counts CPU slots"
        choice = replace(choice, notes=(*choice.notes, note))
    if settings.leave_free >= len(choice.units):
        n_gpus = "the only GPU" if len(choice.units) == 1 else f"all {len(choice.units)} GPUs"
        raise UsageError(
            f"--leave-free {settings.leave_free} leaves {n_gpus} of this search to others, so that no job "
            "could ever start. Give a lower number, or let the search use more GPUs (--gpus)."
        )
    leases = Leases(lease_folder(environ), study)
    return GpuSlots(nvml, leases, gpus=gpus, choice=choice, sharing=Sharing.of(settings), owns=owns)
