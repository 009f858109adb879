"""The value types of a search: outcomes, rungs, brackets, plans, states. Frozen, closed sets."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How one attempt at a job ended."""

    LOSS = "Loss"
    CRASHED = "Crashed"
    TIMED_OUT = "TimedOut"
    OUT_OF_MEMORY = "OutOfMemory"
    NO_LOSS = "NoLoss"
    NOT_FINITE = "NotFinite"
    CANCELLED = "Cancelled"
    LOST = "Lost"
    STOPPED = "Stopped"

    @property
    def is_final(self) -> bool:
        """True unless the attempt is to be repeated (Lost and Stopped are no failures)."""
        return self not in (Outcome.LOST, Outcome.STOPPED)

    @property
    def may_be_retried(self) -> bool:
        """True for a failure that may be the slot's fault; too slow and not finite are the config's own.

        Who cancels a job by hand does not want it again.
        """
        return self in (Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.NO_LOSS)

    @property
    def is_failure(self) -> bool:
        """True for a final outcome without a loss."""
        return self.is_final and self is not Outcome.LOSS


class TrialState(StrEnum):
    """Where a trial stands."""

    #: waits for a slot: for its first job, or for the next one after a promotion
    QUEUED = "queued"
    RUNNING = "running"
    #: its job in this rung is final; it may still go on
    WAITING = "waiting"
    #: others of its rung went on, and it will not
    DROPPED = "dropped"
    FAILED = "failed"
    #: finished the last rung of its bracket
    DONE = "done"


class Algorithm(StrEnum):
    """How the brackets of the plan are chosen."""

    HYPERBAND = "hyperband"
    HALVING = "halving"
    RANDOM = "random"
    ASHA = "asha"
    PASHA = "pasha"

    @property
    def has_one_ladder(self) -> bool:
        """True for those without brackets: all trials climb the same rungs, as far as they get."""
        return self in (Algorithm.ASHA, Algorithm.PASHA)


class Promotion(StrEnum):
    """When the trials of a rung go on."""

    #: once the rung is complete: its best, as many as the plan says
    SYNCHRONOUS = "synchronous"
    #: at any time: the best 1 / eta of the results so far, and as many as the plan says in the end
    ASYNCHRONOUS = "asynchronous"
    #: at any time, the best 1 / eta of the results so far and no others: rungs above the first have no size
    ASHA = "asha"
    #: like asha, with rungs that are added while rankings still change
    PASHA = "pasha"

    @property
    def is_open(self) -> bool:
        """True if the plan's numbers of trials above the first rung are estimates."""
        return self in (Promotion.ASHA, Promotion.PASHA)


@dataclass(frozen=True, slots=True)
class Rung:
    """n trials trained up to a total of `epochs` epochs."""

    n: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Bracket:
    """One run of successive halving: rungs from many short jobs to few long ones."""

    rungs: tuple[Rung, ...]

    @property
    def increments(self) -> tuple[int, ...]:
        """Epochs that a job of each rung adds to its trial's checkpoint."""
        epochs = [rung.epochs for rung in self.rungs]
        return tuple(to - before for before, to in zip([0, *epochs], epochs, strict=False))


@dataclass(frozen=True, slots=True)
class Plan:
    """Every bracket of a search in plan order, repeats written out one after the other."""

    brackets: tuple[Bracket, ...]
    max_epochs: int
    promotion: Promotion = Promotion.SYNCHRONOUS
    #: one trial in eta goes on; 0 where rungs are complete before anybody does, since their sizes say it
    eta: int = 0
    #: epochs that all jobs together may train, if each goes on from its checkpoint; None: no limit
    max_total_epochs: int | None = None

    @property
    def n_trials(self) -> int:
        """How many trial numbers the plan hands out."""
        return sum(bracket.rungs[0].n for bracket in self.brackets)

    @property
    def n_jobs(self) -> int:
        """How many jobs the plan has at most (retries apart)."""
        return sum(rung.n for bracket in self.brackets for rung in bracket.rungs)

    @property
    def epochs(self) -> int:
        """The sum of n * epochs over all rungs: epochs trained if no job resumed from a checkpoint."""
        return sum(rung.n * rung.epochs for bracket in self.brackets for rung in bracket.rungs)

    @property
    def epochs_resumed(self) -> int:
        """Epochs trained when every promoted trial goes on from its checkpoint."""
        total = 0
        for bracket in self.brackets:
            reached = 0
            for rung in bracket.rungs:
                total += rung.n * (rung.epochs - reached)
                reached = rung.epochs
        return total


@dataclass(frozen=True, slots=True)
class Start:
    """A job that may start next; a proposal until a JobStarted event says it did."""

    #: job number, from 0 in order of first starts; a retry keeps its job's number
    job: int
    #: number of this try at the job, from 0
    attempt: int
    trial: int
    config_id: str
    bracket: int
    rung: int
    #: total number of epochs to train to
    epochs: int
    #: no job is running, no other could start, and every later job is a promotion of this trial
    alone: bool
    #: an earlier attempt at this job on several GPUs was lost
    lost_on_several_gpus: bool
    #: slots on which earlier attempts failed
    failed_on: tuple[str, ...]
    #: one of them ran out of memory
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class Best:
    """The lowest loss at the highest number of epochs that has one."""

    trial: int
    config_id: str
    loss: float
    epochs: int


@dataclass(frozen=True, slots=True)
class TrialView:
    """A frozen look at one trial."""

    number: int
    config_id: str
    bracket: int
    #: the highest rung it entered
    rung: int
    state: TrialState
    #: loss of its highest rung that has one
    loss: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """A frozen look at the whole search, for people."""

    n_jobs_planned: int
    n_jobs_final: int
    n_jobs_failed: int
    n_jobs_running: int
    #: epochs still to train if every job resumes, running jobs counted whole
    epochs_left: int
    #: first bracket of the plan that is not complete, and its rung that is being worked on
    bracket: int
    rung: int
    n_brackets: int
    best: Best | None
    #: how many jobs and epochs there will be depends on their losses
    is_estimate: bool = False
