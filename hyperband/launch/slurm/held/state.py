"""What is known of all allocations of one search, and what may be said and ordered of them.

Must not know: what follows from it; that is for Allocations and its parts to decide.
"""

from dataclasses import dataclass, field

from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.held.allocation import Allocation
from hyperband.launch.slurm.held.events import Action, Rules, Wanted
from hyperband.launch.slurm.orders import Cancel
from hyperband.launch.slurm.state import SlurmState


@dataclass(slots=True, kw_only=True)
class AllocationState(SlurmState):
    """One owner: Allocations, which shares it with its parts."""

    rules: Rules
    #: how many there may be: fewer when a user cancels some, or Slurm takes no more
    n_most: int
    allocations: dict[str, Allocation] = field(default_factory=dict)
    #: tickets of requests that have not been answered; True: Slurm may or may not have taken it
    asked: dict[int, bool] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=lambda: Wanted(0))
    #: nodes on which nothing is started
    avoided: frozenset[str] = frozenset()
    #: Slurm takes requests that exclude them
    may_exclude: bool = True
    #: jobs of an earlier search, before Slurm said where their allocations are
    early: set[Place] = field(default_factory=set)
    #: ends in a row of allocations in which no job came to its end
    n_failures: int = 0
    #: since when there are more than are needed
    surplus_since_s: float | None = None
    #: that jobs take longer than an allocation has
    has_told_of_time: bool = False

    def fits(self, one: Allocation, expected_s: float | None, now_s: float) -> bool:
        """Whether a job that takes so long (None: not known) would be over in time there."""
        return one.fits(expected_s, self.rules.margin_s, now_s)

    def usable_places(self, one: Allocation) -> list[Place]:
        """Return its places where a job could run and none does or may still."""
        return [place for place in one.free_places(self.rules) if place.node not in self.avoided]

    def n_slots_left(self) -> int:
        """Return how many jobs may begin yet, besides those that run."""
        n_busy = sum(len(one.busy) for one in self.allocations.values())
        if self.rules.max_slots is None:
            return len(self.allocations) * self.rules.n_slots
        return max(0, self.rules.max_slots - n_busy)

    def cancel(self, those: list[Allocation], why: str, actions: list[Action]) -> None:
        """Have some ended; why: in words."""
        for one in those:
            one.is_cancelled = True
        if those:
            actions.append(Cancel(tuple(one.job_id for one in those), why))
