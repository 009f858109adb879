"""The plan of a search on its way: taken, extended, cut down to the configurations there are.

Owns how brackets under way follow from the plan, and the sums over them. Starts and ends of jobs are the
engine's.
"""

from dataclasses import replace

from hyperband.search.asynchronous import Asynchronous
from hyperband.search.brackets import exhausted_plan, is_extension
from hyperband.search.decisions import Decision, PlanChanged, PlanKept, SearchComplete
from hyperband.search.events import SpaceExhausted
from hyperband.search.halving import Halving
from hyperband.search.order import AsyncOrder, StartOrder
from hyperband.search.state import SearchState, own_error
from hyperband.search.trial import Bracket, Plan, Promotion


class PlannedSearch(SearchState):
    """A search whose plan may change; see `Engine`, which alone is used."""

    def _on_plan(self, plan: Plan) -> tuple[Decision, ...]:
        """Take the first plan, or one that extends it."""
        before = self._plan_made
        if before is not None and not is_extension(plan, of=before):
            raise own_error(
                f"A new plan with {plan.n_trials} trials does not extend the study's plan with "
                f"{before.n_trials}, but a later plan may only add brackets, or trials to a sole rung or to "
                "the first one of asha, or epochs to train in all"
            )
        if plan == before:
            return ()
        if not plan.brackets or any(n < 1 for bracket in plan.brackets for n in _sizes(bracket, plan)):
            raise own_error(f"{plan} has no bracket or a rung without trials, but needs one at least")
        self._plan_made = plan
        words = "the settings give it" if before is None else "the settings now give more of the same"
        if self._exhausted:
            is_dearer = plan.max_total_epochs != self.plan.max_total_epochs
            if not self.plan.promotion.is_open or not is_dearer:
                n_ids = _counted(len(self._trials), "config id")
                return (PlanKept(self.plan, f"the space has only {n_ids}: a larger plan adds nothing"),)
            plan = replace(self.plan, max_total_epochs=plan.max_total_epochs)
        self._budget.limit = plan.max_total_epochs
        decisions: list[Decision] = [PlanChanged(plan, words)]
        if before is None:
            self._begin_plan(plan)
            return tuple(decisions)
        first = self._brackets[0]
        if len(plan.brackets) == len(before.brackets):
            first.resize(plan.brackets[0])
        if isinstance(first, Asynchronous):
            first.reopen()
        self._add_brackets(plan)
        self._use_plan(plan)
        return tuple(decisions + self._settle(0))

    def _begin_plan(self, plan: Plan) -> None:
        """Take a plan of which nothing has started."""
        is_synchronous = plan.promotion is Promotion.SYNCHRONOUS
        self._order = StartOrder() if is_synchronous else AsyncOrder()
        self._brackets.clear()
        self._firsts.clear()
        self._add_brackets(plan)
        self._use_plan(plan)

    def _add_brackets(self, plan: Plan) -> None:
        """Make those brackets of the plan that are not there yet."""
        first = self._n_trials if self._brackets else 0
        order = self._order
        for place in range(len(self._brackets), len(plan.brackets)):
            bracket = plan.brackets[place]
            if isinstance(order, AsyncOrder):
                new = Asynchronous(place, bracket, first, plan, self._trials, self._budget)
                order.brackets.append(new)
                self._brackets.append(new)
            else:
                self._brackets.append(Halving(place, bracket, first, self._trials, order))
            self._firsts.append(first)
            first += bracket.rungs[0].n

    def _use_plan(self, plan: Plan) -> None:
        """Set everything that follows from the plan and the brackets under way."""
        self._plan = plan
        self._n_trials = plan.n_trials
        self._plan_epochs = plan.epochs
        if plan.max_total_epochs is not None:
            self._plan_epochs = min(plan.epochs, plan.max_total_epochs)
        self._first_open = 0
        self._skip_closed()
        self._uncounted.clear()
        for bracket in self._brackets:
            if isinstance(bracket, Asynchronous):
                bracket.count()
        self._jobs_left = sum(bracket.jobs_left for bracket in self._brackets)
        self._epochs_left = sum(bracket.epochs_left for bracket in self._brackets)
        self._n_open = sum(not bracket.is_over for bracket in self._brackets)

    def _settle(self, place: int) -> list[Decision]:
        """What follows for a bracket when its numbers have changed, and with it for the search."""
        bracket = self._brackets[place]
        left = bracket.jobs_left, bracket.epochs_left
        was_over = bracket.is_over
        decisions = bracket.settle()
        self._recount(bracket, *left, was_over=was_over)
        return decisions

    def _recount(self, bracket: Halving | Asynchronous, jobs: int, epochs: int, *, was_over: bool) -> None:
        """Bring the sums up to date when a bracket has changed that had so many jobs and epochs left."""
        if isinstance(bracket, Asynchronous):
            self._uncounted[bracket.place] = bracket
            if isinstance(self._order, AsyncOrder):
                self._order.update(bracket)
        else:
            self._jobs_left += bracket.jobs_left - jobs
            self._epochs_left += bracket.epochs_left - epochs
        if bracket.is_over and not was_over:
            self._n_open -= 1
            self._skip_closed()

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
        was_complete = self.is_complete
        if n_ids == self._n_trials:
            whose = "its only trial" if n_ids == 1 else f"every one of its {n_ids} trials"
            return (PlanKept(made, f"{whose} has its config id"),)
        plan = exhausted_plan(made, n_ids=n_ids, train_all=event.train_all)
        last = len(plan.brackets) - 1
        if event.train_all:
            self._begin_plan(plan)
        else:
            del self._brackets[last + 1 :], self._firsts[last + 1 :]
            if isinstance(self._order, AsyncOrder):
                del self._order.brackets[last + 1 :]
            if plan.brackets[last] != made.brackets[last]:
                # without barriers a rung may have more trials by now than it would have got
                kept = self._brackets[last].resize(plan.brackets[last])
                plan = replace(plan, brackets=(*plan.brackets[:last], kept))
            self._use_plan(plan)
        all_are, them = ("it is", "it") if n_ids == 1 else ("all are", "them")
        words = (
            f"{all_are} trained to the full number of epochs"
            if event.train_all
            else f"the plan shrinks to {them}"
        )
        reason = f"the space has only {_counted(n_ids, 'config id')}: {words}"
        decisions: list[Decision] = [PlanChanged(plan, reason), *self._settle(last)]
        if self._n_open == 0 and not was_complete:
            decisions.append(self._complete_search())
        return tuple(decisions)

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


def _sizes(bracket: Bracket, plan: Plan) -> tuple[int, ...]:
    """How many trials each rung of a bracket must have; above the first of an open plan there may be none."""
    n_needed = 1 if plan.promotion.is_open else len(bracket.rungs)
    return tuple(rung.n for rung in bracket.rungs[:n_needed])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
