"""A study as its events tell it: one frozen look for tables, JSON and CSV alike.

Owns the reading of events for people. Decides nothing: brackets, promotions and states are the engine's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hyperband.errors import JournalError
from hyperband.folder import job_folder_name
from hyperband.journal import Beginnings
from hyperband.report.now import Now
from hyperband.report.told import Span, Told
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdSource,
    JobEnded,
    JobStarted,
    SearchEnded,
    SlotQuarantined,
)
from hyperband.search.trial import (
    Algorithm,
    Best,
    Outcome,
    Plan,
    Progress,
    Promotion,
    TrialState,
    TrialView,
)


@dataclass(frozen=True, slots=True)
class JobView:
    """One attempt at a job: a look at its events, which are not copied, since there may be very many."""

    start: JobStarted
    #: None while it runs
    end: JobEnded | None
    config_id: str
    bracket: int
    #: None where it is not known
    study_folder: Path | None
    #: of the start of the search under which it began
    settings: Mapping[str, object]
    #: its start was an order: it had to wait until it began
    was_ordered: bool = False
    #: when it was seen to begin, Unix seconds; None: it was not, or did not have to wait
    began_at: float | None = None
    #: its engine has stopped it, to let it go on later
    is_suspended: bool = False

    @property
    def job(self) -> int:
        """Number of the job."""
        return self.start.job

    @property
    def attempt(self) -> int:
        """Number of this try at it, from 0."""
        return self.start.attempt

    @property
    def trial(self) -> int:
        """Number of its trial."""
        return self.start.trial

    @property
    def rung(self) -> int:
        """Its rung in its bracket."""
        return self.start.rung

    @property
    def epochs(self) -> int:
        """Total number of epochs it trains to."""
        return self.start.epochs

    @property
    def slot(self) -> str:
        """Name of its slot."""
        return self.start.slot

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs or waits to begin."""
        return None if self.end is None else self.end.outcome

    @property
    def loss(self) -> float | None:
        """The number for Loss, else None."""
        return None if self.end is None else self.end.loss

    @property
    def has_begun(self) -> bool:
        """Whether it ever ran: one that was only ordered may wait, or have ended while it did."""
        if not self.was_ordered or self.began_at is not None:
            return True
        end = self.end
        return end is not None and (end.loss is not None or end.started_at != end.ended_at)

    @property
    def state(self) -> str:
        """`queued`: it waits to begin; `running`; `suspended`: its engine has stopped it; or `ended`."""
        if self.end is not None:
            return "ended"
        if not self.has_begun:
            return "queued"
        return "suspended" if self.is_suspended else "running"

    @property
    def started_at(self) -> float | None:
        """When it began, Unix seconds: its process, or as the search saw it; None: it never did, so far."""
        if not self.has_begun:
            return None
        if self.end is not None:
            return self.end.started_at
        return self.start.at if self.began_at is None else self.began_at

    @property
    def ordered_at(self) -> float:
        """When the search started it, Unix seconds: on a cluster, when it was ordered."""
        return self.start.at

    @property
    def ended_at(self) -> float | None:
        """When it ended, Unix seconds."""
        return None if self.end is None else self.end.ended_at

    @property
    def note(self) -> str:
        """A few words on what was found instead of a loss."""
        return "" if self.end is None else self.end.note

    @property
    def has_failed(self) -> bool:
        """Whether it failed, be it for good or to be tried again."""
        return self.end is not None and self.end.outcome.is_failure

    @property
    def retry(self) -> bool:
        """Whether it failed and its job is tried again."""
        return self.end is not None and self.end.retry

    @property
    def folder(self) -> str:
        """Where its stdout and stderr are; empty where the study's folder is not known."""
        # a string, and only when asked for: a hundred thousand paths take seconds
        if self.study_folder is None:
            return ""
        return f"{self.study_folder}/{job_folder_name(self.job, self.attempt)}"


@dataclass(frozen=True, slots=True)
class StudyView:
    """Everything that can be said of a study at one moment."""

    identity: str
    #: absolute path
    script: str
    #: those of the latest start
    script_args: tuple[str, ...]
    #: working directory of every job
    cwd: str
    #: those of the latest start, under their long option names with underscores
    settings: Mapping[str, object]
    #: planned, running, stopped, finished or failed
    state: str
    #: why the search ended; empty when it did not say
    reason: str
    #: the plan in use
    plan: Plan
    best: Best | None
    #: by number
    trials: tuple[TrialView, ...]
    #: where the config id of each trial is from, by number
    sources: tuple[IdSource, ...]
    #: by start
    jobs: tuple[JobView, ...]
    #: slots that nothing starts on for a while, by name
    quarantined: tuple[SlotQuarantined, ...]
    #: what deleting the checkpoints of trials that were left behind gave back
    checkpoints_freed_bytes: int
    #: the highest rung that pasha uses; None: all of them are used
    top_rung: int | None = None
    #: how many jobs there are and will be; None before the plan
    progress: Progress | None = None
    #: by start
    spans: tuple[Span, ...] = ()
    #: the folders of --learn-from, those of the latest start and those of earlier ones that it left out
    learns_from: tuple[str, ...] = ()
    learned_from: tuple[str, ...] = ()
    #: what a living search waits for, and since when in these words, Unix seconds; empty: for nothing
    waits_for: str = ""
    waits_since: float | None = None
    #: no search runs, and these jobs have not ended as far as is known: as they were then, Unix seconds
    last_seen_at: float | None = None

    @property
    def n_queued(self) -> int:
        """How many of the jobs that have not ended wait to begin."""
        return sum(job.state == "queued" for job in self.jobs)

    @property
    def n_suspended(self) -> int:
        """How many of the jobs that have not ended are stopped by their engine for a while."""
        return sum(job.state == "suspended" for job in self.jobs)

    @property
    def has_brackets(self) -> bool:
        """False for asha and pasha, whose trials all climb the same rungs."""
        algorithm = self.settings.get("algorithm")
        return not self.plan.promotion.is_open and algorithm not in (Algorithm.ASHA, Algorithm.PASHA)

    @property
    def penalty(self) -> float | None:
        """The loss shown for a final failure; None before the first start."""
        penalty = self.settings.get("penalty")
        return float(penalty) if isinstance(penalty, int | float) else None

    def shown_loss(self, trial: TrialView) -> float | None:
        """The loss of its highest rung that has one, else the penalty if it failed, else None."""
        if trial.loss is None and trial.state is TrialState.FAILED:
            return self.penalty
        return trial.loss


def study_view(
    events: Iterable[Event],
    *,
    folder: Path | None,
    running: bool,
    beginnings: Beginnings | None = None,
    now: Now | None = None,
) -> StudyView:
    """Replay a study's events.

    Args:
        events: all of them, in order.
        folder: the study's folder, for the paths of logs.
        running: whether a living search writes the study now.
        beginnings: when attempts began that had to wait; None: none had to.
        now: what a search said of itself last; it counts if that one still runs.

    Raises:
        JournalError: the journal does not say whose study it is.
    """
    engine = Engine()
    began = Beginnings() if beginnings is None else beginnings
    told = Told(began.began_at.values())
    for event in events:
        told.heed(engine.handle(event))
        told.hear(event)
    created = told.created
    if created is None:
        raise JournalError(
            f"The journal in {folder} is empty, expected a study: its first start ended before it was made."
            " Start the search again."
        )
    trials = list(engine.trials())
    started = told.search_started
    settings: Mapping[str, object] = {} if started is None else started.settings
    is_said = running and now is not None and started is not None and now.began_at == started.at
    said = now if is_said else None
    suspended = frozenset() if said is None else said.suspended
    jobs = [
        JobView(
            start,
            told.job_ends.get(key),
            trials[start.trial].config_id,
            trials[start.trial].bracket,
            folder,
            told.job_settings.get(key, {}),
            key in began.ordered,
            began.began_at.get(key),
            key in suspended,
        )
        for key, start in told.job_starts.items()
    ]
    jobs.sort(key=lambda job: (_place_in_time(job), job.job, job.attempt))
    for job in jobs:
        if job.was_ordered and job.state == "queued":  # to the engine a start is a start
            trials[job.trial] = replace(trials[job.trial], state=TrialState.QUEUED)
    return StudyView(
        identity=created.identity,
        script=created.script,
        script_args=created.script_args if started is None else handed_on(settings),
        cwd=created.cwd,
        settings=settings,
        state=_state(told.search_ended, engine, running=running),
        reason="" if told.search_ended is None else told.search_ended.reason,
        plan=engine.plan if told.has_plan else Plan((), 0),
        best=engine.best(),
        trials=tuple(trials),
        sources=tuple(told.sources),
        jobs=tuple(jobs),
        quarantined=tuple(told.quarantined[slot] for slot in sorted(told.quarantined)),
        checkpoints_freed_bytes=told.checkpoints_freed_bytes,
        top_rung=_top_rung(engine.plan, told.rung_added) if told.has_plan else None,
        progress=engine.progress() if told.has_plan else None,
        spans=told.spans(running=running),
        learns_from=told.learns_from,
        learned_from=tuple(folder for folder in told.lessons if folder not in told.learns_from),
        waits_for="" if said is None else said.waits_for,
        waits_since=None if said is None else said.since,
        last_seen_at=None if running or all(job.end is not None for job in jobs) else told.last_seen_at(),
    )


def handed_on(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return the words that a start of a search with these settings handed on to the script."""
    words = settings["script_args"]
    assert isinstance(words, list | tuple)
    return tuple(map(str, words))


def _place_in_time(job: JobView) -> float:
    started_at = job.started_at
    return job.ordered_at if started_at is None else started_at


def _top_rung(plan: Plan, added: int | None) -> int | None:
    if plan.promotion is not Promotion.PASHA:
        return None
    return min(1, len(plan.brackets[0].rungs) - 1) if added is None else added


def _state(ended: SearchEnded | None, engine: Engine, *, running: bool) -> str:
    if running:
        return "running"
    if ended is not None:
        return ended.state
    # Killed after its last outcome: nothing is left to do, although nobody could say so any more.
    if engine.is_complete:
        return "failed" if engine.best() is None else "finished"
    return "stopped"
