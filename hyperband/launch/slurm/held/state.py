"""What is known of all allocations of one search, and what may be said and ordered of them.

Must not know: what follows from it; that is for Allocations and its parts to decide.
"""

from dataclasses import dataclass, field

from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.held.allocation import Allocation
from hyperband.launch.slurm.held.events import Action, Rules, Wanted
from hyperband.launch.slurm.orders import Cancel, Fail, Say


@dataclass(slots=True)
class AllocationState:
    """One owner: Allocations, which shares it with its parts."""

    rules: Rules
    #: where the output of allocations is, for messages
    log_of: str
    #: how many there may be: fewer when a user cancels some, or Slurm takes no more
    n_most: int
    allocations: dict[str, Allocation] = field(default_factory=dict)
    #: tickets of requests that have not been answered; True: Slurm may or may not have taken it
    asked: dict[int, bool] = field(default_factory=dict)
    n_tickets: int = 0
    wanted: Wanted = field(default_factory=lambda: Wanted(0))
    #: nodes on which nothing is started
    avoided: frozenset[str] = frozenset()
    #: Slurm takes requests that exclude them
    may_exclude: bool = True
    #: jobs of an earlier search, before Slurm said where their allocations are
    early: set[Place] = field(default_factory=set)
    has_looked: bool = False
    is_reachable: bool = True
    is_stopping: bool = False
    has_failed: bool = False
    #: ends in a row of allocations in which no job came to its end
    n_failures: int = 0
    #: until then none is asked for
    not_before_s: float = 0.0
    #: since when there are more than are needed
    surplus_since_s: float | None = None
    #: that jobs take longer than an allocation has
    has_told_of_time: bool = False
    #: said already
    said: set[str] = field(default_factory=set)

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

    def fail(self, words: str, actions: list[Action]) -> None:
        """Have the search end, once, with what was found and what to do."""
        if not self.has_failed:
            self.has_failed = True
            actions.append(Fail(words))

    def say_once(self, words: str, actions: list[Action]) -> None:
        """Have a line said, unless it was before."""
        if words not in self.said:
            self.said.add(words)
            actions.append(Say(words))
