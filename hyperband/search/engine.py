"""The engine: events in, decisions out; what starts next is read from it.

Owns the state of a search, a pure function of its events, changed through `Engine.handle` alone. Must not
know clocks, files, processes, slots or how config ids are sampled.
"""

import math
from typing import NoReturn, assert_never

from hyperband.search.asynchronous import Asynchronous
from hyperband.search.decisions import Decision, Repeat, TrialFailed
from hyperband.search.events import (
    CheckpointsRemoved,
    Event,
    IdProposed,
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
from hyperband.search.ledger import trial_story
from hyperband.search.planning import PlannedSearch
from hyperband.search.ranking import is_better
from hyperband.search.state import LOST_LIMIT, own_error
from hyperband.search.trial import Outcome, TrialState


class Engine(PlannedSearch):
    """The one state of a search. `handle` changes it; everything else is a pure read."""

    def handle(self, event: Event) -> tuple[Decision, ...]:
        """Take one event in and say what it decides, in order.

        Raises:
            InternalError: the event cannot follow on those before; the state is as it was.
        """
        match event:
            case StudyCreated() | SearchStarted() | SearchEnded():
                return ()
            case SlotQuarantined() | SlotReleased() | CheckpointsRemoved():
                return ()  # where jobs run, and what they leave, changes no decision
            case PlanMade():
                return self._on_plan(event.plan)
            case IdsDrawn():
                return self._on_ids(event)
            case IdProposed():
                return self._on_proposed(event)
            case SpaceExhausted():
                return self._on_exhausted(event)
            case JobStarted():
                return self._on_started(event)
            case JobEnded():
                return self._on_ended(event)
            case _:
                assert_never(event)

    def _on_ids(self, event: IdsDrawn) -> tuple[Decision, ...]:
        """Give the next trial numbers their config ids."""
        n_ids = len(self._trials)
        if event.first != n_ids or len(event.ids) > self.n_ids_wanted():
            raise own_error(
                f"{len(event.ids)} config ids were drawn for the trials from {event.first} on, but the next "
                f"trial without an id is {n_ids} and {self.n_ids_wanted()} ids are wanted"
            )
        repeated = self._trials.first_repeated(event.ids)
        if repeated is not None:
            raise own_error(
                f"The config id {repeated!r}, drawn with those from trial {event.first} on, is that of two "
                "trials, but each trial must have one of its own"
            )
        self._trials.add(event.ids)
        return ()

    def _on_proposed(self, event: IdProposed) -> tuple[Decision, ...]:
        """Give the next trial number its config id; from now on jobs may start."""
        n_ids = len(self._trials)
        if event.trial != n_ids or self.n_ids_wanted() < 1:
            raise own_error(
                f"A config id was proposed for trial {event.trial}, but the next trial without an id is "
                f"{n_ids} and {self.n_ids_wanted()} ids are wanted"
            )
        if self._trials.first_repeated((event.config_id,)) is not None:
            raise own_error(
                f"The config id {event.config_id!r}, proposed for trial {event.trial}, is that of an earlier "
                "trial, but each trial must have one of its own"
            )
        self._is_on_demand = True
        self._trials.add((event.config_id,))
        return ()

    def _on_started(self, event: JobStarted) -> tuple[Decision, ...]:
        """A job got its slot: it must be one that may be next."""
        first = None
        for start in self.starts():
            first = first or start
            if start.trial == event.trial:
                break
        else:
            if first is None:
                self._refuse(event.trial, event, "no job could start")
            start = first
        wanted = (start.job, start.attempt, start.trial, start.rung, start.epochs)
        if (event.job, event.attempt, event.trial, event.rung, event.epochs) != wanted:
            self._refuse(
                event.trial,
                event,
                f"the next start is job {start.job}, attempt {start.attempt}, of trial {start.trial} in rung "
                f"{start.rung} to epoch {start.epochs}",
            )
        if event.several_gpus and (not start.alone or start.lost_on_several_gpus):
            self._refuse(event.trial, event, "this job must not have several GPUs")
        is_new = start.job == len(self._jobs)
        self._order.pop(start.trial, None if is_new else start.job)
        decisions: list[Decision] = []
        if is_new:
            self._jobs.add(start.trial)
            self._epochs_started += start.epochs
            bracket = self._brackets[start.bracket]
            if isinstance(bracket, Asynchronous):
                left = bracket.jobs_left, bracket.epochs_left
                decisions = bracket.begin(start.trial)
                self._recount(bracket, *left, was_over=False)
        self._running[start.job] = event
        self._trials.set_state(start.trial, TrialState.RUNNING)
        return tuple(decisions)

    def _on_ended(self, event: JobEnded) -> tuple[Decision, ...]:
        """An attempt ended: repeat it, or count it in its rung."""
        started = self._running.get(event.job)
        if started is None or started.attempt != event.attempt:
            known = 0 <= event.job < len(self._jobs)
            self._refuse(
                self._jobs.trial_of(event.job) if known else -1, event, "this attempt is not running"
            )
        finite = isinstance(event.loss, float) and math.isfinite(event.loss)
        if not (finite if event.outcome is Outcome.LOSS else event.loss is None):
            self._refuse(started.trial, event, "a finite loss belongs to the outcome Loss and to no other")
        if event.outcome is not self.final_outcome(event.job, event.outcome, event.search_alive):
            self._refuse(started.trial, event, f"Lost number {LOST_LIMIT} with the search alive is Crashed")
        if event.retry and not event.outcome.may_be_retried:
            self._refuse(started.trial, event, f"{event.outcome} is never retried")
        del self._running[event.job]
        if event.retry or not event.outcome.is_final:
            return (self._repeat(event, started),)
        return self._finish(event, started)

    def _repeat(self, event: JobEnded, started: JobStarted) -> Decision:
        """Queue the same job again."""
        attempt = self._jobs.add_repeat(
            event.job,
            event.outcome,
            slot=started.slot,
            search_alive=event.search_alive,
            several_gpus=started.several_gpus,
        )
        self._trials.set_state(started.trial, TrialState.QUEUED)
        self._order.add_retry(started.trial, event.job)
        why = "which may be the slot's fault" if event.retry else "which is no failure"
        reason = f"attempt {event.attempt} was {event.outcome}, {why}: the job starts again"
        return Repeat(event.job, started.trial, attempt, reason)

    def _finish(self, event: JobEnded, started: JobStarted) -> tuple[Decision, ...]:
        """Count a job that is final."""
        trial = started.trial
        bracket = self._brackets[self._bracket_of(trial)]
        jobs, epochs = bracket.jobs_left, bracket.epochs_left
        decisions: list[Decision] = []
        self._jobs.set_final(event.job, event.outcome)
        self._n_final += 1
        if event.loss is None:
            self._n_failed += 1
            reason = f"{event.outcome} on the way to epoch {started.epochs} is final: never promoted"
            decisions.append(TrialFailed(event.job, trial, event.outcome, reason))
        elif self._best is None or is_better(event.loss, started.epochs, trial, self._best):
            self._best = (event.loss, started.epochs, trial)
        decisions += bracket.finish(trial, event.loss)
        self._recount(bracket, jobs, epochs, was_over=False)
        if self._n_open == 0:
            decisions.append(self._complete_search())
        return tuple(decisions)

    def _refuse(self, trial: int, event: JobStarted | JobEnded, why: str) -> NoReturn:
        """Raise for an event that cannot be, with all that is known of its trial."""
        story = trial_story(trial, self._trials, self._jobs)
        raise own_error(f"{event} cannot follow: {why}. {story}")
