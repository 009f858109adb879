"""What is known of the Slurm jobs of one search's attempts, and what may be said and ordered of them.

Must not know: what follows from it; that is for TrialJobs and its parts to decide.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hyperband.launch.remote.place import Place
from hyperband.launch.remote.starts import FailedStarts
from hyperband.launch.slurm.jobs.events import Action
from hyperband.launch.slurm.jobs.nodes import NodeRecord
from hyperband.launch.slurm.orders import Cancel
from hyperband.launch.slurm.state import SlurmState
from hyperband.launch.slurm.words import JobState

#: tasks of one array; Slurm's own limit is 1000 unless a site says otherwise
MOST_TASKS = 500
#: failures are counted over all nodes: which one a job gets is Slurm's to say
ANYWHERE = Place("", "", 0)


def array_of(job_id: str) -> str:
    """Return the array that a job is a task of; empty: of none."""
    whole, task, _ = job_id.partition("_")
    return whole if task else ""


class Stage(StrEnum):
    """Where an attempt is on its way."""

    WAITING = "not submitted"
    ASKED = "being submitted"
    #: Slurm may or may not have a job for it: the next status tells
    UNSURE = "perhaps submitted"
    QUEUED = "queued"
    RUNNING = "running"


@dataclass(slots=True)
class TrialAttempt:
    """One attempt that is not done."""

    name: str
    stage: Stage
    #: of its job; empty: it has none, or it is not known
    job_id: str = ""
    #: why that waits, as Slurm says
    reason: str = ""
    #: in the queue since then
    since_s: float = 0.0
    #: seen there then
    listed_s: float = 0.0
    has_begun: bool = False
    is_suspended: bool = False
    #: where it runs, as Slurm names it; empty: it does not, or that is not known
    node: str = ""
    #: what it is an attempt at; empty: that is not known
    of: str = ""
    #: nodes that its job, in the queue, is not to get
    excluded: tuple[str, ...] = ()
    #: why Slurm did not change that when it was asked to; empty: it did, or was not asked
    unchanged: str = ""


@dataclass(slots=True)
class Unwanted:
    """A job of Slurm's that has nothing to do any more."""

    since_s: float
    state: JobState
    #: it was there as long after that
    lingers: bool = False


@dataclass(slots=True, kw_only=True)
class TrialJobState(SlurmState):
    """One owner: TrialJobs, which shares it with its parts."""

    #: so many jobs run at once, at most; None: as many as there are
    n_at_once: int | None
    attempts: dict[str, TrialAttempt] = field(default_factory=dict)
    #: what was submitted and not answered, by ticket
    asked: dict[int, tuple[str, ...]] = field(default_factory=dict)
    #: nodes that orders that were not answered exclude, by ticket
    excluding: dict[int, tuple[str, ...]] = field(default_factory=dict)
    nodes: NodeRecord = field(default_factory=NodeRecord)
    #: by job in the queue, the nodes that it is not to get by what Slurm was asked for since
    changed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: of those that have not been answered, what they excluded before
    changing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: tasks of each array, in order
    arrays: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unwanted: dict[str, Unwanted] = field(default_factory=dict)
    #: jobs that we cancelled, and jobs whose end was told
    cancelled: set[str] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    #: of one array: fewer while it is found out how many Slurm takes
    most_tasks: int = MOST_TASKS
    has_arrays: bool = True
    #: counted over all nodes, at ANYWHERE
    starts: FailedStarts = field(default_factory=FailedStarts)
    #: jobs in the last status that were neither over nor about to be
    n_live: int = 0

    def note_done(self, attempt: str, now_s: float) -> None:
        """Take in that an attempt is over, or will never begin."""
        one = self.attempts.pop(attempt, None)
        if one is not None and one.job_id and one.job_id not in self.over:
            is_queued = one.stage == Stage.QUEUED and not one.has_begun
            self.unwanted[one.job_id] = Unwanted(now_s, JobState.WAITING if is_queued else JobState.RUNNING)

    def cancel(self, job_ids: list[str], why: str, actions: list[Action]) -> None:
        """Order the end of those jobs of which it was not ordered before."""
        if new := tuple(job_id for job_id in job_ids if job_id not in self.cancelled):
            self.cancelled |= set(new)
            actions.append(Cancel(new, why))

    @property
    def in_use(self) -> set[str]:
        """Nodes on which attempts run now."""
        running = (one for one in self.attempts.values() if one.stage == Stage.RUNNING and one.job_id)
        return {one.node for one in running} - {""}

    def alike(self, those: Iterable[TrialAttempt], now_s: float) -> dict[tuple[str, ...], list[TrialAttempt]]:
        """Return attempts by the nodes that they are not to get."""
        in_use = self.in_use
        found: dict[tuple[str, ...], list[TrialAttempt]] = {}
        for one in those:
            found.setdefault(self.nodes.excluded(one.of, now_s, in_use=in_use), []).append(one)
        return found

    def queued(self) -> list[TrialAttempt]:
        """Attempts that wait in Slurm's queue, or for others of ours to be over."""
        waits = [Stage.QUEUED] if self.n_at_once is None else [Stage.QUEUED, Stage.WAITING]
        return [one for one in self.attempts.values() if one.stage in waits and not one.has_begun]
