"""What a search is at one moment, and everything that can be read of it.

Owns the fields that `Engine` changes, the pure reads, and the checks of what must always hold. Nothing here
changes anything.
"""

from bisect import bisect_right
from collections.abc import Iterator

from hyperband.errors import InternalError
from hyperband.search.asynchronous import Asynchronous, Budget
from hyperband.search.events import JobStarted
from hyperband.search.halving import Halving
from hyperband.search.invariants import check_asynchronous, check_halving, check_jobs
from hyperband.search.ledger import Jobs, Trials
from hyperband.search.order import StartOrder
from hyperband.search.trial import Best, Outcome, Plan, Progress, Start, TrialState, TrialView

#: this Lost of one job, with the search alive each time, is the job's own fault
LOST_LIMIT = 3


def own_error(what: str) -> InternalError:
    """The error for a bug of ours: what was found and expected, and what to do."""
    return InternalError(
        f"{what}. This is an error of hyperband's own: please report it with the study's journal."
    )


class SearchState:
    """The state of a search, to be read."""

    def __init__(self) -> None:
        """A search of which nothing is known yet."""
        #: the plan as the settings give it, and the plan in use: they differ once the space is exhausted
        self._plan_made: Plan | None = None
        self._plan: Plan | None = None
        self._exhausted = False
        #: an id was proposed on its own, so that the space is known to be large enough for the plan
        self._is_on_demand = False
        #: sums of the plan in use (Plan computes them anew each time)
        self._n_trials = 0
        self._plan_epochs = 0
        #: the brackets of the plan in use and the first trial number of each
        self._brackets: list[Halving | Asynchronous] = []
        self._firsts: list[int] = []
        self._n_open = 0
        #: every bracket before this one is over
        self._first_open = 0
        self._trials = Trials()
        self._jobs = Jobs()
        self._order = StartOrder()
        #: epochs that may be trained, where the plan says so
        self._budget = Budget()
        #: the attempts that run, by job; none of their jobs is queued
        self._running: dict[int, JobStarted] = {}
        #: (loss, epochs, trial) of the best so far
        self._best: tuple[float, int, int] | None = None
        #: planned epochs of every job that started, retries apart
        self._epochs_started = 0
        self._n_final = 0
        self._n_failed = 0
        #: at most so many (jobs, epochs) are not final yet
        self._jobs_left = 0
        self._epochs_left = 0
        #: brackets that have changed since these were counted, by place
        self._uncounted: dict[int, Asynchronous] = {}

    @property
    def plan(self) -> Plan:
        """The plan in use.

        Raises:
            InternalError: before the first PlanMade.
        """
        if self._plan is None:
            raise own_error(
                "The plan was asked for before any was made, but PlanMade must come before all that needs it"
            )
        return self._plan

    @property
    def is_complete(self) -> bool:
        """True once every bracket of the plan is over."""
        return self._plan is not None and self._n_open == 0

    @property
    def n_running(self) -> int:
        """How many attempts run."""
        return len(self._running)

    @property
    def n_startable(self) -> int:
        """How many jobs could start now if there were slots for all."""
        return self._order.n_queued(len(self._trials)) if self._may_start() else 0

    def running(self) -> tuple[JobStarted, ...]:
        """The start of each attempt that has not ended, by job number."""
        return tuple(started for _, started in sorted(self._running.items()))

    def n_ids_wanted(self) -> int:
        """How many trials of the plan have no config id yet; 0 once the space is exhausted."""
        return self._n_trials - len(self._trials)

    def n_new_wanted(self, n: int) -> int:
        """How many trials without a config id would be among the next `n` starts.

        For whoever gives ids one at a time (IdProposed): so many may be made ready. Trials that have an id
        count as startable here although none may start before the first proposal.
        """
        n_queued = self._order.n_queued(len(self._trials))
        return min(max(0, n - n_queued), self.n_ids_wanted()) if self._order.takes_new else 0

    def wants_id(self, *, past_retries: bool = False) -> bool:
        """Whether nothing more can start before an IdProposed gives the next trial its id.

        So it is when the next start in order would be a new trial without an id: no retry, no promotion and
        no trial with an id comes before it. And so it is before the first proposal, without which no trial
        may start, unless enough ids were drawn ahead.

        Args:
            past_retries: none of the retries can have the slot that is free, since they avoid it.
        """
        if self._plan is None or self.n_ids_wanted() == 0 or not self._order.takes_new:
            return False
        if not self._may_start():
            return True
        heads = self._order.heads(len(self._trials))
        return not any(retried is None or not past_retries for _, retried in heads)

    def ids(self) -> tuple[str, ...]:
        """Every config id, by trial number."""
        return tuple(self._trials.ids)

    def will_train_all(self, n_ids: int) -> bool:
        """What SpaceExhausted must carry: `n_ids` trials at full epochs cost no more than the plan.

        Nothing can have started then: see `_may_start`. False after an id on demand, which says that there
        are more; and where it makes no difference, that is for a plan of one rung, the same either way.
        """
        return (
            len(self._jobs) == 0
            and not self._is_on_demand
            and n_ids < self._n_trials
            and not self._has_sole_rung()
            and n_ids * self.plan.max_epochs <= self._plan_epochs
        )

    def _has_sole_rung(self) -> bool:
        return len(self._brackets) == 1 and len(self._brackets[0].bracket.rungs) == 1

    def _may_start(self) -> bool:
        """True once no further draw of config ids can replace the plan by one that trains them all.

        Without this gate it would depend on the timing of the draws whether jobs of the first plan had
        already run when the space turned out to be small.
        """
        if self._plan is None:
            return False
        n_ids = len(self._trials)
        return (
            self._exhausted
            or self._is_on_demand
            or len(self._jobs) > 0
            or n_ids == self._n_trials
            or self._has_sole_rung()
            or n_ids * self._plan.max_epochs > self._plan_epochs
        )

    def next_start(self) -> Start | None:
        """The job that starts next on a slot that any job may have; None: nothing can start now."""
        return next(self.starts(), None)

    def starts(self) -> Iterator[Start]:
        """The jobs one of which must start next: the first in this order that the free slots are good for.

        The order is exact: retries first, then plan order, then the higher rung, then the lower trial number.
        Only a retry can be passed over, since it may have to avoid a slot: so all of them are here, and then
        the one job that comes after them.
        """
        if self._may_start():
            for trial, retried in self._order.heads(len(self._trials)):
                yield self._start(trial, retried)

    def _start(self, trial: int, retried: int | None) -> Start:
        job = len(self._jobs) if retried is None else retried
        repeats = self._jobs.repeats(job)
        place = self._bracket_of(trial)
        bracket = self._brackets[place]
        # without barriers a trial enters its next rung when it starts there
        rung = self._trials.rungs[trial] + (self._trials.state(trial) is TrialState.WAITING)
        return Start(
            job=job,
            attempt=self._jobs.attempt(job),
            trial=trial,
            config_id=self._trials.ids[trial],
            bracket=place,
            rung=rung,
            epochs=bracket.bracket.rungs[rung].epochs,
            alone=self._is_alone(bracket, rung),
            lost_on_several_gpus=repeats is not None and repeats.lost_on_several_gpus,
            failed_on=() if repeats is None else repeats.failed_on,
            out_of_memory=repeats is not None and repeats.out_of_memory,
        )

    def _is_alone(self, bracket: Halving | Asynchronous, rung: int) -> bool:
        """True if the next start is the only work there is, but for promotions of its own trial.

        With every id drawn, an open bracket has a job that runs or could start: so only one is open here.
        """
        return (
            not self._running
            and (self.n_ids_wanted() == 0 or not self._order.takes_new)
            and self.n_startable == 1
            and bracket.leads_nowhere_else(rung)
        )

    def _bracket_of(self, trial: int) -> int:
        """The bracket that the plan puts this trial in."""
        return bisect_right(self._firsts, trial) - 1

    def ran_out_of_memory(self, job: int) -> bool:
        """Whether an earlier attempt at a job did."""
        repeats = self._jobs.repeats(job)
        return repeats is not None and repeats.out_of_memory

    def final_outcome(self, job: int, outcome: Outcome, search_alive: bool) -> Outcome:
        """What JobEnded must carry: the third Lost of a job with the search alive each time is Crashed."""
        repeats = self._jobs.repeats(job)
        if (
            outcome is Outcome.LOST
            and search_alive
            and repeats is not None
            and repeats.n_lost_alive >= LOST_LIMIT - 1
        ):
            return Outcome.CRASHED
        return outcome

    def trials(self) -> Iterator[TrialView]:
        """Every trial that has a config id, by number."""
        return map(self.trial, range(len(self._trials)))

    def trial(self, number: int) -> TrialView:
        """One trial.

        Raises:
            InternalError: no trial of this number has a config id.
        """
        trials = self._trials
        if not 0 <= number < len(trials):
            raise own_error(
                f"Trial {number} was asked for, but only the trials below {len(trials)} have a config id"
            )
        return TrialView(
            number=number,
            config_id=trials.ids[number],
            bracket=self._bracket_of(number),
            rung=trials.rungs[number],
            state=trials.state(number),
            loss=trials.losses[number] if trials.has_loss(number) else None,
        )

    def best(self) -> Best | None:
        """The lowest loss at the highest epochs that has one, ties to the lower trial number."""
        if self._best is None:
            return None
        loss, epochs, trial = self._best
        return Best(trial=trial, config_id=self._trials.ids[trial], loss=loss, epochs=epochs)

    def progress(self) -> Progress:
        """How far the search is; cheap, from counters.

        Jobs that failures made impossible no longer count as planned. When the search is complete, bracket
        and rung are the last ones.
        """
        self._count_left()
        n_brackets = len(self._brackets)
        bracket = min(self._first_open, max(0, n_brackets - 1))
        return Progress(
            n_jobs_planned=self._n_final + self._jobs_left,
            n_jobs_final=self._n_final,
            n_jobs_failed=self._n_failed,
            n_jobs_running=len(self._running),
            epochs_left=self._epochs_left,
            bracket=bracket,
            rung=self._brackets[bracket].rung if self._brackets else 0,
            n_brackets=n_brackets,
            best=self.best(),
            is_estimate=self._plan is not None and self._plan.promotion.is_open,
        )

    def _count_left(self) -> None:
        """Count anew what is left in brackets that have changed: no state of the search."""
        for bracket in self._uncounted.values():
            self._jobs_left -= bracket.jobs_left
            self._epochs_left -= bracket.epochs_left
            bracket.count()
            self._jobs_left += bracket.jobs_left
            self._epochs_left += bracket.epochs_left
        self._uncounted.clear()

    def validate(self) -> None:
        """Check everything that must always hold; looks at every trial, so for tests and `--debug`.

        Raises:
            InternalError: something does not hold.
        """
        self._count_left()
        broken = check_jobs(self._running, self._order, self._trials)
        first = 0
        for place, bracket in enumerate(self._brackets):
            if self._firsts[place] != first:
                broken.append(f"bracket {place} begins at trial {self._firsts[place]}, not {first}")
            check = check_halving(bracket, self._trials) if isinstance(bracket, Halving) else None
            if isinstance(bracket, Asynchronous):
                check = check_asynchronous(bracket, self._trials, self._order.next_new)
            broken += check or []
            first += bracket.bracket.rungs[0].n
        ahead = [bracket.jobs_ahead() for bracket in self._brackets]
        is_open = self._plan is not None and self._plan.promotion.is_open
        if self._epochs_started > self._plan_epochs and not is_open:
            broken.append(f"jobs of {self._epochs_started} epochs started, planned are {self._plan_epochs}")
        limit = self._budget.limit
        if limit is not None and self._budget.committed > limit:
            broken.append(f"jobs train {self._budget.committed} epochs, allowed are {limit}")
        if self._n_open != sum(not bracket.is_over for bracket in self._brackets):
            broken.append(f"{self._n_open} brackets are counted as open")
        if (self._jobs_left, self._epochs_left) != (sum(a for a, _ in ahead), sum(b for _, b in ahead)):
            broken.append(f"{self._jobs_left} jobs and {self._epochs_left} epochs are counted as left")
        if self._n_final != sum(self._jobs.final(job) is not None for job in range(len(self._jobs))):
            broken.append(f"{self._n_final} jobs are counted as final")
        if self.n_ids_wanted() < 0:
            broken.append(f"{len(self._trials)} trials have ids, the plan has {self._n_trials}")
        if broken:
            raise own_error(
                f"The state of the search contradicts itself: {'; '.join(broken)}, but every count must agree"
            )
