"""What allocations are told and what they want done: closed sets of frozen values; no clock, no command."""

from dataclasses import dataclass

from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.orders import Cancel, Fail, Say, Stop, Tick
from hyperband.launch.slurm.reports import Report
from hyperband.launch.slurm.words import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How many allocations there may be, and what one is."""

    max_allocations: int
    min_allocations: int = 0
    n_nodes: int = 1
    n_slots_per_node: int = 1
    #: an allocation that is not needed is given up after so long
    idle_s: float = 120.0
    #: so long before the end of an allocation jobs should be over
    margin_s: float = 60.0
    #: that is asked for; None: none is, or it is not known
    time_limit_s: float | None = None
    #: jobs at once in all allocations together; None: no limit of its own
    max_slots: int | None = None

    @property
    def n_slots(self) -> int:
        """Jobs at once in one allocation."""
        return self.n_nodes * self.n_slots_per_node

    @property
    def n_most(self) -> int:
        """Allocations at most: no more than it takes for `max_slots`."""
        if self.max_slots is None:
            return self.max_allocations
        return min(self.max_allocations, -(-self.max_slots // self.n_slots))


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many jobs wait for a slot now; each one that begins after that takes itself off."""

    n_jobs: int
    #: how long the shortest of them is expected to run; None: not known
    shortest_s: float | None = None


@dataclass(frozen=True, slots=True)
class Avoid:
    """Jobs fail on these nodes, and on no others: nothing is started there, and they are not asked for."""

    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ready:
    """The holder of an allocation wrote down where it is: jobs may be started there."""

    job_id: str
    #: tells this start from others; Slurm's count of them does not: a controller that was killed forgets
    token: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Began:
    """A job runs at a place: a new one, or one of an earlier search."""

    place: Place


@dataclass(frozen=True, slots=True)
class Ended:
    """The job at a place is over, and nothing of it can run any more."""

    place: Place


#: what allocations are told: of Slurm by its clerk, of jobs and time by the search
Event = Report | Wanted | Avoid | Ready | Began | Ended | Stop | Tick


@dataclass(frozen=True, slots=True)
class Submit:
    """Ask Slurm for one more allocation; the answer has this ticket."""

    ticket: int
    #: nodes that it is not to have
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """The jobs at these places are lost with their allocation; fence each before it is tried again."""

    places: tuple[Place, ...]
    #: how the allocation ended; WAITING: Slurm queued it again
    state: JobState
    #: what happened to the allocation, in words
    words: str


Action = Submit | Cancel | Lost | Say | Fail
