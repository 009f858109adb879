"""What trials' own Slurm jobs are told and what they want done: closed sets of frozen values; no clock.

An attempt is known by its name (claim.py), which is unlike any other's; a job of Slurm's by its number, or by
`15_3` for a task of an array.
"""

from dataclasses import dataclass

from hyperband.launch.slurm.jobs.nodes import Fate
from hyperband.launch.slurm.orders import Cancel, Fail, Say, Stop, Tick
from hyperband.launch.slurm.reports import (
    CancelRefused,
    Changed,
    FoundSite,
    NotSubmitted,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm.words import JobLine, JobState


@dataclass(frozen=True, slots=True)
class Asked:
    """Attempts that are to run, each in a Slurm job of its own; they became ready at the same moment."""

    attempts: tuple[str, ...]
    #: what each of them is an attempt at; empty: it is not known, of none
    of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """An attempt that an earlier search ordered: Slurm may have a job for it already."""

    attempt: str
    #: of the job that it was given, as far as that was written down
    job_id: str = ""
    #: what it is an attempt at; empty: it is not known, of none
    of: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """A node has an attempt: no other job for it can do anything."""

    attempt: str


@dataclass(frozen=True, slots=True)
class Done:
    """An attempt is over, or will never begin: a job for it is of no use any more."""

    attempt: str


@dataclass(frozen=True, slots=True)
class Fared:
    """How an attempt ended, as far as that says something of its node; told before it is Done."""

    attempt: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class Recalled:
    """How an attempt of an earlier search ended, in the order in which that search asked to Remember it."""

    node: str
    #: what it was an attempt at
    of: str
    fate: Fate
    #: so many seconds ago
    ago_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A job of Slurm's could not run its attempt: the nodes or the profile are at fault."""

    words: str


@dataclass(frozen=True, slots=True)
class Worked:
    """An attempt was run to its end: jobs of Slurm's can do that."""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job that Slurm knows, and whose it is."""

    line: JobLine
    #: which it was submitted for; None: nobody knows
    attempt: str | None
    #: nodes that it was not to get when it was submitted, besides those of the profile
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """All jobs of ours that Slurm knows; of each that is over it is told at least once. See Status."""

    jobs: tuple[SeenJob, ...]


#: what trials' jobs are told
Event = (
    Asked
    | Found
    | Begun
    | Done
    | Fared
    | Recalled
    | Failed
    | Worked
    | Seen
    | Submitted
    | NotSubmitted
    | Changed
    | Unreachable
    | CancelRefused
    | FoundSite
    | StepOver
    | Stop
    | Tick
)


@dataclass(frozen=True, slots=True)
class SubmitJobs:
    """Ask Slurm for a job for each of these attempts: one job, or an array where there are several."""

    ticket: int
    attempts: tuple[str, ...]
    #: nodes that none of them is to get
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exclude:
    """Have a job that is in the queue get any node but these, and those that the profile excludes."""

    job_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this for the next start of the search: see Recalled."""

    node: str
    of: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class Given:
    """An attempt has this job."""

    attempt: str
    job_id: str


@dataclass(frozen=True, slots=True)
class JobOver:
    """The job that an attempt had is over, whether or not it ever began there."""

    attempt: str
    job_id: str
    state: JobState
    #: in words
    words: str
    #: neither we nor Slurm but somebody ended it
    by_somebody: bool


Action = SubmitJobs | Exclude | Remember | Given | Cancel | JobOver | Say | Fail
