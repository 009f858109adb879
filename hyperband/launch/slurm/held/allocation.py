"""One allocation of a search: where it is on its way, its places, and what still fits into its time.

Must not know: other allocations, how many there should be, Slurm's commands, a clock.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.held.events import Ready, Rules

#: a job that is longer than any allocation starts only where so much of one is left
_NEARLY_WHOLE = 0.9


class Phase(StrEnum):
    """Where an allocation is on its way."""

    QUEUED = "queued"
    #: it has its nodes, and the setup lines run
    STARTING = "starting"
    HELD = "held"
    #: its end has begun
    ENDING = "ending"


@dataclass(slots=True)
class Allocation:
    """What is known of one; who changes it is Allocations alone."""

    job_id: str
    phase: Phase = Phase.QUEUED
    nodes: tuple[str, ...] = ()
    #: Slurm's word for when it started; another one means that it was started again
    started: str = ""
    #: the newest word of a holder
    told: Ready | None = None
    #: of every holder that was ready in its time
    tokens: set[str] = field(default_factory=set)
    #: on the clock of the events; None: no limit, or not known
    ends_at_s: float | None = None
    #: from its start to its time limit, as far as it was seen; without what setup lines took of that
    whole_s: float = 0.0
    #: it was there before this search, which has not seen it start
    is_adopted: bool = False
    busy: set[Place] = field(default_factory=set)
    #: of before it was started again: their jobs have not been seen to end
    lost: set[Place] = field(default_factory=set)
    idle_since_s: float = 0.0
    #: when it was held first; None: it never was
    held_since_s: float | None = None
    is_suspended: bool = False
    #: by us
    is_cancelled: bool = False
    #: its end had begun before this search saw it first
    was_ending: bool = False
    #: why it waits, as Slurm says
    reason: str = ""

    @property
    def may_get_jobs(self) -> bool:
        """Whether jobs may be started there, if there is a free place and time."""
        return self.phase == Phase.HELD and not self.is_cancelled and not self.is_suspended

    @property
    def number(self) -> int:
        """For sorting: lower ones were asked for earlier."""
        return int(self.job_id) if self.job_id.isdigit() else 0

    def note_ready(self, now_s: float) -> None:
        """Be held if it has its nodes and the holder of this start said that it is there."""
        told = self.told
        if self.phase != Phase.STARTING or told is None:
            return
        if told.token not in self.tokens and set(told.nodes) == set(self.nodes):
            self.tokens.add(told.token)
            self.phase = Phase.HELD
            self.idle_since_s = now_s
            if self.held_since_s is None:
                self.held_since_s = now_s
            if self.ends_at_s is not None and not self.is_adopted:
                # what jobs can have of such a one; setup lines took the rest
                self.whole_s = self.ends_at_s - now_s

    def note_queued_again(self) -> None:
        """Be as good as new, but for the places of jobs that have not been seen to end."""
        self.phase = Phase.QUEUED
        self.nodes, self.started, self.ends_at_s = (), "", None
        self.is_suspended = self.was_ending = False
        self.lost |= self.busy
        self.busy = set()

    def is_too_short(self, expected_s: float | None, margin_s: float) -> bool:
        """Whether a job that takes so long would not be over in time, however early it began."""
        return self.ends_at_s is not None and expected_s is not None and expected_s > self.whole_s - margin_s

    def fits(self, expected_s: float | None, margin_s: float, now_s: float) -> bool:
        """Whether a job that takes so long (None: not known) would be over in time, with a margin."""
        if self.ends_at_s is None:
            return True
        left_s = self.ends_at_s - now_s - margin_s
        if expected_s is None or left_s <= 0:
            return left_s > 0
        if self.is_too_short(expected_s, margin_s):
            # it fits nowhere: the script's checkpoints carry it from one allocation to the next
            return left_s >= _NEARLY_WHOLE * (self.whole_s - margin_s)
        return left_s >= expected_s

    def places(self, rules: Rules) -> list[Place]:
        """Every place, in order."""
        each = range(rules.n_slots_per_node)
        return [Place(self.job_id, node, index) for node in self.nodes for index in each]

    def free_places(self, rules: Rules) -> list[Place]:
        """Those where nothing of ours runs or may still run."""
        return [place for place in self.places(rules) if place not in self.busy | self.lost]
