"""What one look at the GPUs of a running job shows: its memory, how busy they are, who else is there.

Owns: which processes on a GPU count as the job's.
Must not know: when a GPU is free, leases, what is done about strangers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyperband.launch.base import Lease, Observation
from hyperband.launch.gpu.place import Place
from hyperband.launch.gpu.processes import exists, in_words
from hyperband.launch.gpu.settling import CONTEXT_BYTES
from hyperband.machine.gpu import Usage
from hyperband.machine.nvml import Nvml


@dataclass(slots=True)
class _Seen:
    """One GPU of the job."""

    memory_bytes: int | None = None
    busy_percent: float | None = None
    strangers: list[str] = field(default_factory=list)


def observe(
    nvml: Nvml, places: Mapping[str, Place], lease: Lease, belongs: Callable[[int], bool]
) -> Observation:
    """Look at each GPU of a lease once.

    Args:
        nvml: Open NVML.
        places: What this search may use, by UUID; a job of an earlier search may be elsewhere.
        lease: Of the job.
        belongs: Tells whether a pid is of the job.
    """
    found = []
    for uuid in lease.slot.gpu_uuids:
        usage = nvml.usage(uuid)
        if uuid in places and not usage.lost and not usage.problem:
            found.append(_look(nvml, places[uuid], usage, lease.slot.name, belongs))
    memory = [seen.memory_bytes for seen in found if seen.memory_bytes is not None]
    busy = [seen.busy_percent for seen in found if seen.busy_percent is not None]
    return Observation(
        gpu_memory_bytes=max(memory, default=None),
        gpu_utilisation_percent=sum(busy) / len(busy) if busy else None,
        strangers=tuple(dict.fromkeys(words for seen in found for words in seen.strangers)),
    )


def _look(nvml: Nvml, place: Place, usage: Usage, slot_name: str, belongs: Callable[[int], bool]) -> _Seen:
    is_alone = set(place.used.values()) == {slot_name}
    place.settling.shows_processes |= bool(usage.compute)
    mine = []
    for process in usage.compute:
        if belongs(process.pid):
            place.saw(slot_name, process.pid)
            mine.append(process)
        elif is_alone and not exists(process.pid) and process.pid not in place.settling.pids:
            # shown by its pid on the host of our container: nobody else was here when the job came
            mine.append(process)
    strangers = [process for process in place.strangers(usage) if process not in mine]
    seen = _Seen(strangers=[in_words(process) for process in strangers])
    parts = [process.used_bytes for process in mine]
    known = [part for part in parts if part is not None]
    if known and len(known) == len(parts):
        seen.memory_bytes = sum(known)
    elif is_alone and not strangers and (mine or place.hidden_bytes(usage)):
        # the driver tells no memory of single processes, or shows none of them: all that came is the job's
        more_bytes = (usage.used_bytes or 0) - (place.settling.idle_bytes or 0)
        seen.memory_bytes = more_bytes if more_bytes > CONTEXT_BYTES else None
    seen.busy_percent = _busy_percent(nvml, place, [process.pid for process in mine])
    return seen


def _busy_percent(nvml: Nvml, place: Place, pids: list[int]) -> float | None:
    """The job's part where it shares the GPU with others of ours and the driver tells; else the GPU's."""
    if len(set(place.used.values())) > 1 and pids:
        by_process = nvml.busy_by_process(place.unit.uuid)
        if by_process is not None:
            return sum(by_process.get(pid, 0.0) for pid in pids)
    return nvml.busy_percent(place.unit.uuid)
