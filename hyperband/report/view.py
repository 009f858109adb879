"""A study as its events tell it: one frozen look for tables, JSON and CSV alike.

Owns the reading of events for people. Decides nothing: brackets, promotions and states are the engine's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from hyperband.errors import JournalError
from hyperband.folder import job_folder_name
from hyperband.search.engine import Engine
from hyperband.search.events import (
    CheckpointsRemoved,
    Event,
    IdsDrawn,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    SlotQuarantined,
    SlotReleased,
    SpaceExhausted,
    StudyCreated,
)
from hyperband.search.trial import Best, Outcome, Plan, TrialState, TrialView


@dataclass(frozen=True, slots=True)
class JobView:
    """One attempt at a job."""

    job: int
    attempt: int
    trial: int
    config_id: str
    bracket: int
    rung: int
    #: total number of epochs it trains to
    epochs: int
    slot: str
    #: None while it runs
    outcome: Outcome | None
    #: the number for Loss, else None
    loss: float | None
    #: Unix seconds
    started_at: float
    ended_at: float | None
    #: a few words on what was found instead of a loss
    note: str
    #: None where it is not known
    study_folder: Path | None

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
    #: by start
    jobs: tuple[JobView, ...]

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


def study_view(events: Iterable[Event], *, folder: Path | None, running: bool) -> StudyView:
    """Replay a study's events.

    Args:
        events: all of them, in order.
        folder: the study's folder, for the paths of logs.
        running: whether a living search writes the study now.

    Raises:
        JournalError: the journal does not say whose study it is.
    """
    engine = Engine()
    told = _Told()
    for event in events:
        engine.handle(event)
        told.hear(event)
    created = told.created
    if created is None:
        raise JournalError(
            f"The journal in {folder} is empty, expected a study: its first start ended before it was made."
            " Start the search again."
        )
    trials = tuple(engine.trials())
    jobs = [
        _job_view(start, told.job_ends.get(key), trials[start.trial], folder)
        for key, start in told.job_starts.items()
    ]
    jobs.sort(key=lambda job: (job.started_at, job.job, job.attempt))
    return StudyView(
        identity=created.identity,
        script=created.script,
        script_args=created.script_args,
        cwd=created.cwd,
        settings={} if told.search_started is None else told.search_started.settings,
        state=_state(told.search_ended, engine, running=running),
        reason="" if told.search_ended is None else told.search_ended.reason,
        plan=engine.plan if told.has_plan else Plan((), 0),
        best=engine.best(),
        trials=trials,
        jobs=tuple(jobs),
    )


class _Told:
    """What the events say that the engine has no use for."""

    def __init__(self) -> None:
        self.created: StudyCreated | None = None
        self.has_plan = False
        self.search_started: SearchStarted | None = None
        #: None again once another process began to write
        self.search_ended: SearchEnded | None = None
        #: both by (job, attempt), in order of starting
        self.job_starts: dict[tuple[int, int], JobStarted] = {}
        self.job_ends: dict[tuple[int, int], JobEnded] = {}

    def hear(self, event: Event) -> None:
        match event:
            case StudyCreated():
                self.created = event
            case PlanMade():
                self.has_plan = True
            case SearchStarted():
                self.search_started, self.search_ended = event, None
            case SearchEnded():
                self.search_ended = event
            case JobStarted():
                self.job_starts[event.job, event.attempt] = event
            case JobEnded():
                self.job_ends[event.job, event.attempt] = event
            case IdsDrawn() | SpaceExhausted():
                pass  # the engine's trials and plan have them
            case SlotQuarantined() | SlotReleased() | CheckpointsRemoved():
                pass
            case _:
                assert_never(event)


def _state(ended: SearchEnded | None, engine: Engine, *, running: bool) -> str:
    if running:
        return "running"
    if ended is not None:
        return ended.state
    # Killed after its last outcome: nothing is left to do, although nobody could say so any more.
    if engine.is_complete:
        return "failed" if engine.best() is None else "finished"
    return "stopped"


def _job_view(start: JobStarted, end: JobEnded | None, trial: TrialView, folder: Path | None) -> JobView:
    return JobView(
        job=start.job,
        attempt=start.attempt,
        trial=start.trial,
        config_id=trial.config_id,
        bracket=trial.bracket,
        rung=start.rung,
        epochs=start.epochs,
        slot=start.slot,
        outcome=None if end is None else end.outcome,
        loss=None if end is None else end.loss,
        started_at=start.at if end is None else end.started_at,
        ended_at=None if end is None else end.ended_at,
        note="" if end is None else end.note,
        study_folder=folder,
    )
