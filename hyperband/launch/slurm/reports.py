"""What the clerk reports of Slurm: a closed set of values, without a clock or a command."""

from dataclasses import dataclass, field

from hyperband.launch.slurm.words import JobLine, Refusal, Site


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job is in Slurm's queue."""

    #: what whoever submitted calls it
    ticket: int
    job_id: str


@dataclass(frozen=True, slots=True)
class NotSubmitted:
    """sbatch did not take a job."""

    ticket: int
    refusal: Refusal
    #: Slurm's own
    words: str
    #: it may have been taken all the same: sbatch was ended while it waited for an answer
    is_unsure: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """All jobs that Slurm knows under our name, and all that we asked for and that it no longer knows.

    It was asked for after everything that was reported before it. A job that is not in it is not over: each
    end is reported, at least once, also where Slurm forgets it.
    """

    jobs: tuple[JobLine, ...]
    #: when Slurm was asked, on the monotonic clock
    asked_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nobody answered; it is asked again, ever less often. Said once, until there is an answer."""

    words: str


@dataclass(frozen=True, slots=True)
class FoundSite:
    """How the site is set up: whether there is accounting, and which version this is. Said once."""

    site: Site


@dataclass(frozen=True, slots=True)
class CancelRefused:
    """scancel failed for another reason than that nobody answered; it is not tried again."""

    job_ids: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Which nodes a job in the queue is not to get was changed, or not."""

    job_id: str
    #: None: it was
    refusal: Refusal | None = None
    #: Slurm's own on that
    words: str = ""


@dataclass(frozen=True, slots=True)
class StepOver:
    """A step is over, and with it every process of it: its node said so, and its allocation goes on."""

    name: str


Report = Submitted | NotSubmitted | Status | Unreachable | FoundSite | CancelRefused | Changed | StepOver
