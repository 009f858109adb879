"""A bracket without barriers: its trials go on one by one, whenever a slot is free.

Owns how far such a bracket is, for `--async`, ASHA and PASHA alike: who may go on, who will not any more,
when it is over. Knows nothing of config ids, attempts and events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hyperband.search.asha import AsyncRung
from hyperband.search.decisions import BracketDone, BracketFailed, Decision, Dropped, Finished, WentOn
from hyperband.search.ledger import Trials
from hyperband.search.pasha import Growth
from hyperband.search.trial import Bracket, Plan, Promotion, Rung, TrialState


@dataclass(slots=True)
class Budget:
    """Epochs that jobs may train, each from its trial's checkpoint; further attempts are not counted."""

    limit: int | None = None
    #: of every job that has started
    committed: int = 0

    def fits(self, n_epochs: int) -> bool:
        """Whether a job of so many epochs may start."""
        return self.limit is None or self.committed + n_epochs <= self.limit


class Asynchronous:
    """One bracket under way; all of its rungs at a time."""

    def __init__(
        self, place: int, bracket: Bracket, first: int, plan: Plan, trials: Trials, budget: Budget
    ) -> None:
        """A bracket in which nothing has started.

        Args:
            place: its number in the plan.
            bracket: its rungs; where the plan is open, the sizes above the first are estimates.
            first: its lowest trial number.
            plan: that it is part of.
            trials: their states, rungs and losses are changed here.
            budget: of the whole search; what starts here is charged to it.
        """
        self.place = place
        self.bracket = bracket
        self.first = first
        self.is_over = False
        self.is_open = plan.promotion.is_open
        self.rungs = [AsyncRung(rung, plan.eta) for rung in range(len(bracket.rungs))]
        #: nobody goes on from a rung below this one any more, and nothing runs there
        self.floor = 0
        #: nobody goes on from this rung, for now (PASHA) or because it is the last
        self.top = self.last
        self.growth: Growth | None = None
        if plan.promotion is Promotion.PASHA:
            self.top = min(1, self.last)
            self.growth = Growth()
        #: the rung from which somebody goes on next; None: nobody can
        self.head: int | None = None
        #: how many could go on now
        self.n_ready = 0
        #: as many as that, when the order of starts was told
        self.n_counted = 0
        #: about so many jobs are not final yet, and epochs when each goes on from a checkpoint: when counted
        self.jobs_left = 0
        self.epochs_left = 0
        self._increments = bracket.increments
        self._trials = trials
        self._budget = budget
        self._look()

    @property
    def last(self) -> int:
        """The last rung, at the full number of epochs."""
        return len(self.bracket.rungs) - 1

    @property
    def rung(self) -> int:
        """The highest rung that a job has started in."""
        return max((here.place for here in self.rungs if here.entered), default=0)

    @property
    def head_trial(self) -> int:
        """Who goes on next; only while `head` is not None."""
        assert self.head is not None
        return self.rungs[self.head].head

    @property
    def takes_new(self) -> bool:
        """Whether a trial that never ran may start."""
        return self.rungs[0].entered < self.bracket.rungs[0].n and self._budget.fits(self._increments[0])

    def leads_nowhere_else(self, rung: int) -> bool:
        """True if what a job in this rung comes to decides about its own trial alone."""
        return not any(here.n_waiting for here in self.rungs[rung : self.last])

    def begin(self, trial: int) -> list[Decision]:
        """A job of this trial starts, not for a second time: its first, or that of the rung it goes on to."""
        rung_of = self._trials.rungs
        decisions: list[Decision] = []
        if self._trials.state(trial) is TrialState.WAITING:
            below = self.rungs[rung_of[trial]]
            rung_of[trial] += 1
            decisions.append(self._went_on(trial, below))
            below.take(rung_of)
            if self._has_no_room_above(below):
                decisions += self._drop(below, f"rung {below.place + 1} has all of its trials")
        rung = rung_of[trial]
        self.rungs[rung].entered += 1
        self._budget.committed += self._increments[rung]
        self._look()
        return decisions

    def finish(self, trial: int, loss: float | None) -> list[Decision]:
        """A job of this trial is final; None: it failed."""
        trials = self._trials
        here = self.rungs[trials.rungs[trial]]
        here.final += 1
        decisions: list[Decision] = []
        if loss is None:
            trials.set_state(trial, TrialState.FAILED)
        else:
            before, trials.losses[trial] = trials.losses[trial], loss
            here.add(loss, trial, trials.rungs)
            trials.set_state(trial, TrialState.DONE if here.place == self.last else TrialState.WAITING)
            if self._has_no_room_above(here):
                decisions += self._drop(here, f"rung {here.place + 1} has all of its trials", (trial,))
            if self.is_open and here.place < self.top:
                decisions += self._drop_hopeless(here)
            if self.growth is not None and here.place > 0:
                decisions += self._grow(trial, here.place, before, loss)
        decisions += self._settle()
        self._look()
        return decisions

    def resize(self, bracket: Bracket) -> Bracket:
        """Take on other numbers of trials: fewer exist, or more are wanted. Return what became of them.

        A rung that has more trials already than it should now have keeps them.
        """
        if not self.is_open:
            pairs = zip(bracket.rungs, self.rungs, strict=True)
            bracket = Bracket(tuple(Rung(max(rung.n, here.entered), rung.epochs) for rung, here in pairs))
        self.bracket = bracket
        self._look()
        return bracket

    def reopen(self) -> None:
        """There may be more to do than before: whoever was left behind for want of results waits again."""
        if self.is_open:
            for here in self.rungs[: self.last]:
                for trial in here.left(self._trials.rungs) if here.n_dropped else ():
                    self._trials.set_state(trial, TrialState.WAITING)
                here.n_dropped = here.looked_at = 0
            self.floor = 0
            self.is_over = False
        self._look()

    def settle(self) -> list[Decision]:
        """Find out whether it is over, after its numbers of trials or the budget have changed."""
        decisions = self._settle()
        self._look()
        return decisions

    def _settle(self) -> list[Decision]:
        """Close the rungs that can get no further result, from the lowest on."""
        decisions: list[Decision] = []
        while not self.is_over:
            here = self.rungs[self.floor]
            if here.n_running or (self.floor == 0 and self.takes_new):
                break
            if self.floor < self.top:
                if not self.is_open and not here.is_filled:
                    n_more = self.bracket.rungs[self.floor + 1].n - here.n_promoted
                    here.fill(n_more, self._trials.rungs)
                if self._n_may_go(here):
                    break
            what = f"rung {here.place} is complete ({self._count_of(here)})"
            if self.floor < self.top:
                decisions += self._drop(here, f"{what}: not among the best {here.n_promoted}")
            elif self.floor < self.last:
                decisions += self._end_at_top(here, what)
            self.is_over = self.floor == self.top or self.rungs[self.floor + 1].entered == 0
            if self.is_over:
                decisions.append(self._over(here))
            self.floor += 1
        return decisions

    def _over(self, here: AsyncRung) -> Decision:
        if here.n_results == 0:
            reason = f"every job of rung {here.place} ({self._count_of(here)}) failed: nothing to promote"
            return BracketFailed(self.place, here.place, reason)
        why = "nobody goes on from it"
        if here.place == self.top:
            why = "its last, is complete"
        elif here.n_promotable:
            why = (
                f"the epochs that all jobs together may train ({self._budget.limit}) do not suffice to go on"
            )
        return BracketDone(self.place, f"rung {here.place} ({self._count_of(here)}), {why}")

    def _drop(self, here: AsyncRung, why: str, trials: Sequence[int] | None = None) -> list[Decision]:
        """Leave behind those of a rung that wait: these, or all."""
        states = self._trials
        if trials is None:
            left = here.left(states.rungs) if here.n_waiting else []
            trials = [trial for trial in left if states.state(trial) is TrialState.WAITING]
        for trial in trials:
            states.set_state(trial, TrialState.DROPPED)
        here.n_dropped += len(trials)
        return [Dropped(self.place, here.place, tuple(trials), why)] if trials else []

    def _drop_hopeless(self, here: AsyncRung) -> list[Decision]:
        """Leave behind whoever would not go on whatever came: then nobody keeps its checkpoint.

        A rank only gets worse, and the best 1 / eta of all losses that a rung can ever have are the most that
        go on. Looked at after each fourth more results, so that sorting costs a logarithm for each.
        """
        n_to_come = self.bracket.rungs[0].n - self.rungs[0].entered
        n_to_come += sum(below.n_running + below.n_waiting for below in self.rungs[: here.place])
        n_most = here.n_results + here.n_running + n_to_come
        reach = n_most // here.eta
        if here.n_results <= reach or here.n_results <= here.looked_at * 5 // 4:
            return []
        here.looked_at = here.n_results
        trials = here.beyond(reach, self._trials.rungs)
        waiting = [trial for trial in trials if self._trials.state(trial) is TrialState.WAITING]
        why = f"not among the best {reach} of rung {here.place}, which can have {n_most} losses at most"
        return self._drop(here, why, waiting)

    def _end_at_top(self, here: AsyncRung, what: str) -> list[Decision]:
        """The trials of the highest rung that was needed are done."""
        trials = here.left(self._trials.rungs)
        for trial in trials:
            self._trials.set_state(trial, TrialState.DONE)
        here.n_dropped = len(trials)
        reason = f"{what}: the rankings did not ask for a higher rung"
        return [Finished(self.place, here.place, tuple(trials), reason)] if trials else []

    def _went_on(self, trial: int, below: AsyncRung) -> Decision:
        """Say why; before `below` is told."""
        to = f"goes on to epoch {self.bracket.rungs[below.place + 1].epochs}"
        if below.is_filled:
            reason = f"rung {below.place} is complete ({self._count_of(below)}): the best left {to}"
        else:
            reason = (
                f"among the best {below.n_best} of {below.n_results} losses in rung {below.place} so far, "
                f"and the best of them that had not gone on: {to}"
            )
        return WentOn(trial, self.place, below.place + 1, reason)

    def _grow(self, trial: int, rung: int, before: float, loss: float) -> list[Decision]:
        """Compare the two top rungs after a result in the higher one; see `Growth`."""
        assert self.growth is not None
        self.growth.see(trial, rung, before, loss)
        if rung != self.top or self.top == self.last:
            return []
        decision = self.growth.decide(self.place, self.bracket, self.top)
        self.top += decision.is_higher
        return [decision]

    def _count_of(self, here: AsyncRung) -> str:
        epochs = self.bracket.rungs[here.place].epochs
        return f"{here.final} to epoch {epochs}, {here.final - here.n_results} failed"

    def _has_no_room_above(self, here: AsyncRung) -> bool:
        """True if nobody can go on from this rung any more, since the next one has all of its trials."""
        if self.is_open or here.place == self.last:
            return False
        return here.n_promoted == self.bracket.rungs[here.place + 1].n

    def _n_may_go(self, here: AsyncRung) -> int:
        """How many may go on from a rung below the top."""
        n = here.n_promotable
        if n and not self.is_open:
            n = min(n, self.bracket.rungs[here.place + 1].n - here.n_promoted)
        return n if n and self._budget.fits(self._increments[here.place + 1]) else 0

    def _look(self) -> None:
        """Set everything that is only read of the counts."""
        self.head = None
        self.n_ready = 0
        for rung in range(self.top - 1, self.floor - 1, -1):
            here = self.rungs[rung]
            if here.n_promotable and (n := self._n_may_go(here)):
                self.n_ready += n
                if self.head is None:
                    self.head = rung

    def count(self) -> None:
        """Bring up to date what is left: for people alone, so not after every event."""
        self.jobs_left, self.epochs_left = self.jobs_ahead()

    def jobs_ahead(self) -> tuple[int, int]:
        """(jobs, epochs) that are not final yet: at most, or where the plan is open, if 1 in eta goes on.

        With a budget no more than it pays for.
        """
        if self.is_over:
            return 0, 0
        n_jobs = n_epochs = 0
        n_to_come = self.bracket.rungs[0].n
        for rung in range(self.top + 1):
            here = self.rungs[rung]
            n_left = max(n_to_come, here.entered) - here.final
            n_jobs += n_left
            n_epochs += n_left * self._increments[rung]
            n_to_come = here.n_results + n_left
            if self.is_open:
                n_to_come //= here.eta
            elif rung < self.last:
                n_to_come = min(n_to_come, self.bracket.rungs[rung + 1].n)
        return self._within_budget(n_jobs, n_epochs)

    def _within_budget(self, n_jobs: int, n_epochs: int) -> tuple[int, int]:
        """As many of (jobs, epochs) as the budget pays for, with those that run: it has paid for them."""
        if self._budget.limit is None:
            return n_jobs, n_epochs
        n_running = sum(here.n_running for here in self.rungs)
        pairs = zip(self.rungs, self._increments, strict=True)
        n_running_epochs = sum(here.n_running * n_more for here, n_more in pairs)
        n_paid = self._budget.limit - self._budget.committed
        n_new = n_epochs - n_running_epochs
        if n_new <= n_paid:
            return n_jobs, n_epochs
        return n_running + (n_jobs - n_running) * n_paid // n_new, n_running_epochs + n_paid
