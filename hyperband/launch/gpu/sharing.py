"""Jobs of one search beside each other on one GPU: who is there, and whether another may join.

Owns: the arithmetic of sharing: shares, jobs that are to be alone, memory that jobs are expected to take.
Must not know: NVML, leases, other GPUs, where the expectations come from.
"""

from dataclasses import dataclass, field

from hyperband.launch.base import Wish
from hyperband.settings import Settings, WhenShared

#: jobs on one GPU at most where memory decides: beyond that they only take each other's time
_MOST_PACKED = 16
#: of a GPU's memory, kept free where memory decides: fragments, and what the driver takes for more contexts
_KEPT_FREE_PART = 0.10


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a search shares GPUs, among its own jobs and with others."""

    #: jobs on a GPU at most; a MIG instance runs one job whatever this is
    n_shares: int = 1
    #: of these only as many as fit by the memory that they are expected to take
    is_packed: bool = False
    #: a job sees its own GPU only
    isolate: bool = False
    when_shared: WhenShared = WhenShared.WAIT
    #: so many idle GPUs are left to others
    leave_free: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "Sharing":
        """What the settings of a search say."""
        n_shares = settings.jobs_per_gpu
        return cls(
            n_shares=_MOST_PACKED if n_shares is None else n_shares,
            is_packed=n_shares is None,
            isolate=settings.isolate,
            when_shared=settings.when_shared,
            leave_free=settings.leave_free,
        )


@dataclass(slots=True)
class Residents:
    """Our jobs on one unit."""

    #: how many may run there at once
    n_shares: int
    is_packed: bool
    #: share -> name of the slot that uses it; an adopted job may hold a share beyond `n_shares`
    used: dict[int, str] = field(default_factory=dict)
    #: by slot name, what the job there was given
    wishes: dict[str, Wish] = field(default_factory=dict)

    def add(self, share: int, slot_name: str, wish: Wish) -> None:
        """A job has this share now."""
        self.used[share] = slot_name
        self.wishes[slot_name] = wish

    def remove(self, slot_name: str) -> bool:
        """Free all shares of a slot; False if it had none."""
        self.used = {share: name for share, name in self.used.items() if name != slot_name}
        return self.wishes.pop(slot_name, None) is not None

    def why_not(self, wish: Wish, total_bytes: int | None) -> str:
        """Why another job with this wish may not join, fit to follow the unit's name; empty if it may."""
        if not self.used:
            return ""
        n_jobs = f"runs {len(self.wishes)} job{'s' if len(self.wishes) > 1 else ''}"
        if len(self.used) >= self.n_shares:
            return n_jobs
        if any(other.whole for other in self.wishes.values()):
            return "runs a job that is to be alone"
        if wish.whole:
            return f"{n_jobs}, and the next one is to be alone"
        if not self.is_packed:
            return ""
        needs = [other.gpu_memory_bytes for other in self.wishes.values()]
        if wish.gpu_memory_bytes is None or None in needs:
            return f"{n_jobs}, and not all memory that is needed is known"
        if wish.most_jobs is not None and len(self.wishes) >= wish.most_jobs:
            return f"{n_jobs}: with more of them memory ran out"
        if total_bytes is None:  # nobody has looked yet: the look will tell
            return ""
        return self.why_full(wish.gpu_memory_bytes, self.expected_bytes(), total_bytes)

    def why_full(self, need_bytes: int, taken_bytes: int, total_bytes: int | None) -> str:
        """Why a job that needs so much does not fit beside what is taken, or an empty string."""
        if total_bytes is not None and taken_bytes + need_bytes <= _room_bytes(total_bytes):
            return ""
        return f"has {taken_bytes >> 20} MiB taken, and {need_bytes >> 20} MiB more do not fit"

    def expected_bytes(self) -> int:
        """Memory that the jobs are expected to take, as far as that is known."""
        return sum(wish.gpu_memory_bytes or 0 for wish in self.wishes.values())

    def capacity(self, wish: Wish, total_bytes: int | None) -> int:
        """How many jobs with this wish could run here if nothing else did."""
        if self.n_shares == 1 or wish.whole:
            return 1
        if not self.is_packed:
            return self.n_shares
        if not wish.gpu_memory_bytes or total_bytes is None:
            return 1
        n_fit = max(1, _room_bytes(total_bytes) // wish.gpu_memory_bytes)
        return min(n_fit, self.n_shares, wish.most_jobs or self.n_shares)


def _room_bytes(total_bytes: int) -> int:
    return int(total_bytes * (1 - _KEPT_FREE_PART))
