"""What the clerk is asked to do: a closed set of values."""

from dataclasses import dataclass

from hyperband.launch.slurm.watch import AwaitedStep


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """Run sbatch."""

    #: for the answer
    ticket: int
    argv: tuple[str, ...]
    #: of an array, numbered from 0; 1: it is none
    n_tasks: int = 1


@dataclass(frozen=True, slots=True)
class CancelJobs:
    """Have jobs ended, by id."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExcludeNodes:
    """Say which nodes a job in the queue is not to get, instead of those that it was not to get before."""

    job_id: str
    #: as sbatch takes them; empty: it may get all
    nodes: str


@dataclass(frozen=True, slots=True)
class WatchJobs:
    """Report on jobs of an earlier search until their end."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Ask Slurm now."""


@dataclass(frozen=True, slots=True)
class Close:
    """Come to an end."""


#: AwaitedStep: report its end
Task = SubmitJob | CancelJobs | ExcludeNodes | WatchJobs | AwaitedStep | Look | Close
