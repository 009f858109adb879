"""The engine: events in, decisions out; what starts next is read from it.

Owns the state of a search, a pure function of its events, changed through `Engine.handle` alone. Must not
know clocks, files, processes, slots or how config ids are sampled.
"""

import math
from typing import NoReturn, assert_never

from hyperband.search.brackets import exhausted_plan, is_extension
from hyperband.search.decisions import (
    BracketDone,
    BracketFailed,
    Decision,
    Dropped,
    PlanChanged,
    PlanKept,
    Promoted,
    Repeat,
    SearchComplete,
    TrialFailed,
)
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
from hyperband.search.halving import Halving
from hyperband.search.ledger import trial_story
from hyperband.search.ranking import best_trials, is_better
from hyperband.search.state import LOST_LIMIT, SearchState, own_error
from hyperband.search.trial import Outcome, Plan, TrialState


class Engine(SearchState):
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

    def _on_plan(self, plan: Plan) -> tuple[Decision, ...]:
        """Take the first plan, or one that extends it."""
        before = self._plan_made
        if before is not None and not is_extension(plan, of=before):
            raise own_error(
                f"A new plan with {plan.n_trials} trials does not extend the study's plan with "
                f"{before.n_trials}, but a later plan may only add brackets, or trials to a sole rung"
            )
        if plan == before:
            return ()
        if not plan.brackets or any(rung.n < 1 for bracket in plan.brackets for rung in bracket.rungs):
            raise own_error(f"{plan} has no bracket or a rung without trials, but needs one at least")
        self._plan_made = plan
        if self._exhausted:
            n_ids = _counted(len(self._trials), "config id")
            reason = f"the space has only {n_ids}: a larger plan adds nothing"
            return (PlanKept(self.plan, reason),)
        if before is not None and len(plan.brackets) == len(before.brackets):
            self._brackets[0].resize(plan.brackets[0])
        first = self._n_trials if before is not None else 0
        for bracket in plan.brackets[len(self._brackets) :]:
            self._brackets.append(Halving(bracket, first))
            self._firsts.append(first)
            first += bracket.rungs[0].n
        self._use_plan(plan)
        words = "the settings give it" if before is None else "the settings now give more of the same"
        return (PlanChanged(plan, words),)

    def _use_plan(self, plan: Plan) -> None:
        """Set everything that follows from the plan and the brackets under way."""
        self._plan = plan
        self._n_trials = plan.n_trials
        self._plan_epochs = plan.epochs
        self._first_open = 0
        self._skip_closed()
        ahead = [halving.jobs_ahead() for halving in self._brackets]
        self._jobs_left = sum(n_jobs for n_jobs, _ in ahead)
        self._epochs_left = sum(n_epochs for _, n_epochs in ahead)
        self._n_open = sum(not halving.is_over for halving in self._brackets)

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

    def _on_exhausted(self, event: SpaceExhausted) -> tuple[Decision, ...]:
        """Cut the plan down to the ids there are."""
        made = self._plan_made
        n_ids = len(self._trials)
        if (
            made is None
            or self._exhausted
            or event.n_ids != n_ids
            or n_ids == 0
            or event.train_all != self.will_train_all(n_ids)
        ):
            raise own_error(
                f"{event} came in a search with {n_ids} config ids, train_all="
                f"{self.will_train_all(n_ids)}, exhausted before: {self._exhausted}, with a plan: "
                f"{made is not None}, but it must agree with the first two, once, after the plan and an id"
            )
        self._exhausted = True
        if n_ids == self._n_trials:
            whose = "its only trial" if n_ids == 1 else f"every one of its {n_ids} trials"
            return (PlanKept(made, f"{whose} has its config id"),)
        plan = exhausted_plan(made, n_ids=n_ids, train_all=event.train_all)
        del self._brackets[len(plan.brackets) :], self._firsts[len(plan.brackets) :]
        cut = len(plan.brackets) - 1
        if plan.brackets[cut] != made.brackets[cut]:
            self._brackets[cut].resize(plan.brackets[cut])
        self._use_plan(plan)
        all_are, them = ("it is", "it") if n_ids == 1 else ("all are", "them")
        words = (
            f"{all_are} trained to the full number of epochs"
            if event.train_all
            else f"the plan shrinks to {them}"
        )
        reason = f"the space has only {_counted(n_ids, 'config id')}: {words}"
        decisions: list[Decision] = [PlanChanged(plan, reason)]
        if not self._brackets[cut].is_over and self._brackets[cut].is_rung_complete:
            decisions += self._complete_rung(cut)
        elif self._n_open == 0:
            decisions.append(self._complete_search())
        return tuple(decisions)

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
        if is_new:
            self._jobs.add(start.trial)
            self._epochs_started += start.epochs
        self._running[start.job] = event
        self._trials.set_state(start.trial, TrialState.RUNNING)
        return ()

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
        bracket = self._bracket_of(trial)
        halving = self._brackets[bracket]
        decisions: list[Decision] = []
        self._jobs.set_final(event.job, event.outcome)
        self._n_final += 1
        self._jobs_left -= 1
        self._epochs_left -= halving.increment(halving.rung)
        halving.n_final += 1
        if event.loss is None:
            self._n_failed += 1
            self._trials.set_state(trial, TrialState.FAILED)
            reason = f"{event.outcome} on the way to epoch {started.epochs} is final: never promoted"
            decisions.append(TrialFailed(event.job, trial, event.outcome, reason))
        else:
            halving.n_losses += 1
            self._trials.losses[trial] = event.loss
            self._trials.set_state(trial, TrialState.DONE if halving.is_last_rung else TrialState.WAITING)
            if self._best is None or is_better(event.loss, started.epochs, trial, self._best):
                self._best = (event.loss, started.epochs, trial)
        if halving.is_rung_complete:
            decisions += self._complete_rung(bracket)
        return tuple(decisions)

    def _complete_rung(self, bracket: int) -> list[Decision]:
        """Every job of the rung is final: promote, or end the bracket."""
        halving = self._brackets[bracket]
        rung = halving.rung
        n_members = len(halving.members)
        n_promoted = halving.n_to_promote
        jobs_before, epochs_before = halving.jobs_after(n_members)
        jobs_after, epochs_after = halving.jobs_after(n_promoted)
        self._jobs_left += jobs_after - jobs_before
        self._epochs_left += epochs_after - epochs_before
        if n_promoted > 0:
            return self._promote(bracket, n_promoted)
        halving.is_over = True
        self._n_open -= 1
        self._skip_closed()
        jobs = f"rung {rung} ({n_members} to epoch {halving.epochs})"
        decisions: list[Decision] = []
        if halving.n_losses == 0:
            decisions.append(BracketFailed(bracket, rung, f"every job of {jobs} failed: nothing to promote"))
        else:
            decisions.append(BracketDone(bracket, f"{jobs}, its last, is complete"))
        if self._n_open == 0:
            decisions.append(self._complete_search())
        return decisions

    def _promote(self, bracket: int, n_promoted: int) -> list[Decision]:
        """Send the best trials of a complete rung on."""
        halving, trials = self._brackets[bracket], self._trials
        ranked = [trial for trial in halving.members if trials.state(trial) is TrialState.WAITING]
        n_failed = len(halving.members) - len(ranked)
        promoted = best_trials(ranked, trials.losses, n_promoted)
        chosen = set(promoted)
        dropped = tuple(trial for trial in ranked if trial not in chosen)
        rung = halving.rung
        what = (
            f"rung {rung} is complete ({len(halving.members)} to epoch {halving.epochs}, {n_failed} failed)"
        )
        halving.promote(promoted)
        for trial in promoted:
            trials.set_state(trial, TrialState.QUEUED)
            trials.rungs[trial] = halving.rung
        for trial in dropped:
            trials.set_state(trial, TrialState.DROPPED)
        self._order.add_promoted(promoted)
        decisions: list[Decision] = [
            Promoted(
                bracket,
                halving.rung,
                tuple(promoted),
                f"{what}: the best {len(promoted)} go on to epoch {halving.epochs}",
            )
        ]
        if dropped:
            decisions.append(Dropped(bracket, rung, dropped, f"{what}: not among the best {len(promoted)}"))
        return decisions

    def _complete_search(self) -> Decision:
        """Say that nothing is left to start."""
        best = self.best()
        found = "without a single loss" if best is None else f"best loss {best.loss!r} at epoch {best.epochs}"
        jobs = f"{_counted(self._n_final, 'job')}, {self._n_failed} of them failed"
        return SearchComplete(f"every bracket is over after {jobs}: {found}")

    def _skip_closed(self) -> None:
        """Move on to the first bracket that is not over."""
        while self._first_open < len(self._brackets) and self._brackets[self._first_open].is_over:
            self._first_open += 1

    def _refuse(self, trial: int, event: JobStarted | JobEnded, why: str) -> NoReturn:
        """Raise for an event that cannot be, with all that is known of its trial."""
        story = trial_story(trial, self._trials, self._jobs)
        raise own_error(f"{event} cannot follow: {why}. {story}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
