"""What the engine decided, for the log and the screen: frozen, a closed union, each with its reason.

A decision reports a change of the engine's state; nothing has to be done to make it true. What to start is
asked of `Engine.next_start`.
"""

from dataclasses import dataclass
from typing import ClassVar

from hyperband.search.trial import Outcome, Plan


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """This plan is in use from now on."""

    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True)
class PlanKept:
    """The plan in use stays as it is, although another one was asked for or the space ran out of ids."""

    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """The attempt was no failure: the same job starts again, before anything else."""

    job: int
    trial: int
    #: number of the next attempt
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrialFailed:
    """The job failed for good: its trial is never promoted."""

    job: int
    trial: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """A rung is complete and its best trials go on."""

    bracket: int
    #: the rung they enter
    rung: int
    #: by trial number
    trials: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class WentOn:
    """One trial goes on from a rung for which nobody waits: it starts at once."""

    trial: int
    bracket: int
    #: the rung it enters
    rung: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """These trials of a rung, each with a loss, do not go on."""

    bracket: int
    #: the rung they end in
    rung: int
    #: by trial number
    trials: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """These trials, each with a loss, are done in what has turned out to be the last rung that is needed."""

    bracket: int
    rung: int
    #: by trial number
    trials: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class RungAdded:
    """The rankings in the two highest rungs in use differ: trials may go on to one more."""

    bracket: int
    #: the one that is in use from now on
    rung: int
    reason: str
    is_higher: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class RungNotAdded:
    """The rankings in the two highest rungs in use agree: for now nobody goes on beyond them."""

    bracket: int
    #: the highest in use
    rung: int
    reason: str
    is_higher: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class BracketDone:
    """The last rung of a bracket is complete and has a loss."""

    bracket: int
    reason: str


@dataclass(frozen=True, slots=True)
class BracketFailed:
    """Every job of a rung failed: nothing is left to promote."""

    bracket: int
    rung: int
    reason: str


@dataclass(frozen=True, slots=True)
class SearchComplete:
    """Every bracket of the plan is over."""

    reason: str


Decision = (
    PlanChanged
    | PlanKept
    | Repeat
    | TrialFailed
    | Promoted
    | WentOn
    | Dropped
    | Finished
    | RungAdded
    | RungNotAdded
    | BracketDone
    | BracketFailed
    | SearchComplete
)
