"""What a search asks of a site's Slurm: one frozen value, and what follows from it for jobs.

Must not know: how it is read or checked (launch/slurm/profile_file.py, profile_keys.py), how the values
become arguments of sbatch, jobs, the search.
"""

import re
from dataclasses import dataclass

_WHOLE = re.compile(r"[0-9]{1,9}")
#: the forms that `man sbatch` gives for --time
_TIMES = (
    re.compile(r"(?P<m>\d+)(:(?P<s>\d+))?"),
    re.compile(r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)"),
    re.compile(r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?"),
)
_UNIT_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_UNLIMITED = ("unlimited", "infinite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one allocation is, and how many may be; texts as sbatch takes them, None: the site's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    #: per node, `2` or `a100:2`
    gpus: str | None = None
    #: instead of `gpus`, per node, as sbatch takes it
    gres: str | None = None
    #: per node
    cpus: int | None = None
    #: per node
    mem: str | None = None
    #: how many nodes one allocation has
    nodes: int = 1
    exclude: str | None = None
    constraint: str | None = None
    #: `--slurm-mode jobs`: how many run at once; None: no limit
    array_throttle: int | None = None
    #: `USR1@120`: so many seconds before the time limit the script gets this signal
    signal: str | None = None
    #: shell lines that run before anything else on the node
    setup: tuple[str, ...] = ()
    max_allocations: int = 4
    min_allocations: int = 0
    #: an allocation without a job is given up after so long
    idle_s: float = 120.0
    slots_per_allocation: int | None = None
    #: of the search itself, where it is a job of its own
    search_partition: str | None = None
    search_time: str | None = None
    search_mem: str | None = None

    @property
    def time_limit_s(self) -> float | None:
        """The time limit that the profile asks for; None: it names none, or asks for none."""
        return None if self.time is None else seconds_of(self.time)

    @property
    def n_gpus(self) -> int:
        """GPUs of an allocation on each of its nodes."""
        if self.gpus is not None:
            return int(self.gpus.rpartition(":")[2])
        return 0 if self.gres is None else _n_gpus_in(self.gres)

    @property
    def n_slots(self) -> int:
        """How many jobs may run at once in one allocation, on all of its nodes together."""
        if self.slots_per_allocation is not None:
            return self.slots_per_allocation
        return max(1, self.n_gpus) * self.nodes

    @property
    def n_slots_per_node(self) -> int:
        """The same on each of its nodes."""
        return self.n_slots // self.nodes


def seconds_of(time: str) -> float | None:
    """Seconds of a time limit in one of sbatch's forms, None for no limit.

    Raises:
        ValueError: it has none of the forms.
    """
    if time.lower() in _UNLIMITED:
        return None
    for form in _TIMES:
        if found := form.fullmatch(time):
            return float(sum(_UNIT_S[unit] * int(n) for unit, n in found.groupdict().items() if n))
    raise ValueError(time)


def _n_gpus_in(gres: str) -> int:
    """GPUs that a --gres text asks for: `gpu`, `gpu:2`, `gpu:a100:2`, among others separated by commas."""
    n = 0
    for entry in gres.split(","):
        name, *rest = entry.removeprefix("gres/").removeprefix("gres:").split(":")
        if name == "gpu":
            n += int(rest[-1]) if rest and _WHOLE.fullmatch(rest[-1]) else 1
    return n
