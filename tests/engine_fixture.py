"""A search in miniature around the engine: draws, starts and ends in any order that a test wants.

Also the model that the engine is held against: synchronous halving, bracket by bracket, in a few plain lines
that know nothing of slots, queues or timing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hyperband.search.brackets import exhausted_plan
from hyperband.search.decisions import Decision, Promoted
from hyperband.search.engine import Engine
from hyperband.search.events import Event, IdsDrawn, JobEnded, JobStarted, SpaceExhausted
from hyperband.search.trial import Bracket, Outcome, Plan, Rung, Start, TrialState, TrialView

#: what a job gives, as a function of trial number and epochs: a loss, or the outcome of a failure
Result = Callable[[int, int], "float | Outcome"]


def plan(*brackets: list[tuple[int, int]], max_epochs: int | None = None) -> Plan:
    """A plan from (n, epochs) pairs."""
    made = tuple(Bracket(tuple(Rung(n, epochs) for n, epochs in rungs)) for rungs in brackets)
    return Plan(made, brackets[0][-1][1] if max_epochs is None else max_epochs)


def ids(n: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"c{number}" for number in range(first, first + n))


def started(start: Start, *, several_gpus: bool = False) -> JobStarted:
    return JobStarted(
        at=0.0,
        job=start.job,
        attempt=start.attempt,
        trial=start.trial,
        rung=start.rung,
        epochs=start.epochs,
        slot="gpu:0,1" if several_gpus else "cpu:0",
        several_gpus=several_gpus,
        script_sha256="",
        host="",
    )


def ended(start: Start | JobStarted, result: float | Outcome, *, search_alive: bool = True) -> JobEnded:
    return JobEnded(
        at=0.0,
        job=start.job,
        attempt=start.attempt,
        outcome=result if isinstance(result, Outcome) else Outcome.LOSS,
        loss=None if isinstance(result, Outcome) else result,
        exit_status=None,
        started_at=0.0,
        ended_at=0.0,
        search_alive=search_alive,
        note="",
    )


class Simulation:
    """An engine, its journal, and a check of every invariant after each event."""

    def __init__(self, *events: Event) -> None:
        self.engine = Engine()
        self.events: list[Event] = []
        self.decisions: list[Decision] = []
        for event in events:
            self.handle(event)

    def handle(self, event: Event) -> tuple[Decision, ...]:
        made = self.engine.handle(event)
        self.engine.validate()
        self.events.append(event)
        self.decisions += made
        return made

    def draw(self, n: int, space: int | None = None) -> None:
        """Draw up to n ids that are wanted from a space of so many, and say when it is exhausted."""
        first = len(self.engine.ids())
        wanted = min(n, self.engine.n_ids_wanted())
        left = wanted if space is None else min(wanted, space - first)
        if left:
            self.handle(IdsDrawn(first, ids(left, first)))
        if left < wanted:
            n_ids = first + left
            self.handle(SpaceExhausted(n_ids, self.engine.will_train_all(n_ids)))

    def start(self, *, several_gpus: bool = False) -> Start:
        start = self.engine.next_start()
        assert start is not None
        self.handle(started(start, several_gpus=several_gpus))
        return start

    def end(
        self, start: Start | JobStarted, result: float | Outcome, *, search_alive: bool = True
    ) -> tuple[Decision, ...]:
        return self.handle(ended(start, result, search_alive=search_alive))

    def run(self, result: Result) -> "Simulation":
        """Everything that is left, one job at a time."""
        while self.engine.next_start() is not None:
            start = self.start()
            self.end(start, result(start.trial, start.epochs))
        return self

    def states(self) -> str:
        """A letter a trial: Queued, Running, Waiting, droPped, Failed, Done."""
        letters = {TrialState.DROPPED: "P"}
        return "".join(letters.get(view.state, view.state[0].upper()) for view in self.engine.trials())

    def promotions(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """Trials that entered each (bracket, rung)."""
        made = [decision for decision in self.decisions if isinstance(decision, Promoted)]
        assert len({(promoted.bracket, promoted.rung) for promoted in made}) == len(made)
        return {(promoted.bracket, promoted.rung): promoted.trials for promoted in made}


@dataclass
class Expected:
    """What a search must come to."""

    plan: Plan
    promotions: dict[tuple[int, int], tuple[int, ...]]
    trials: list[TrialView]
    #: (epochs, loss, trial), or None
    best: tuple[int, float, int] | None
    #: (trial, epochs) of every job
    jobs: set[tuple[int, int]]


def plan_in_use(made: Plan, space: int | None) -> Plan:
    """The plan, or what is left of it in a space of so many ids."""
    if space is None or space >= made.n_trials:
        return made
    return exhausted_plan(made, n_ids=space, train_all=space * made.max_epochs <= made.epochs)


def expected(made: Plan, result: Result, space: int | None = None) -> Expected:
    """Synchronous halving of each bracket on its own, in plan order."""
    in_use = plan_in_use(made, space)
    promotions: dict[tuple[int, int], tuple[int, ...]] = {}
    views: list[TrialView] = []
    losses: list[tuple[int, float, int]] = []
    jobs: set[tuple[int, int]] = set()
    for place, bracket in enumerate(in_use.brackets):
        first = len(views)
        members = list(range(first, first + bracket.rungs[0].n))
        views += [TrialView(t, f"c{t}", place, 0, TrialState.QUEUED, None) for t in members]
        ranked: list[tuple[float, int]] = []
        for rung, numbers in enumerate(bracket.rungs):
            if rung > 0:
                members = sorted(t for _, t in sorted(ranked)[: numbers.n])
                if not members:
                    break
                promotions[place, rung] = tuple(members)
            last = rung == len(bracket.rungs) - 1
            jobs |= {(t, numbers.epochs) for t in members}
            ranked = []
            for t in members:
                loss = result(t, numbers.epochs)
                if isinstance(loss, Outcome):
                    views[t] = TrialView(t, f"c{t}", place, rung, TrialState.FAILED, views[t].loss)
                else:
                    # Whoever goes on is overwritten by the next rung.
                    state = TrialState.DONE if last else TrialState.DROPPED
                    views[t] = TrialView(t, f"c{t}", place, rung, state, loss)
                    ranked.append((loss, t))
                    losses.append((-numbers.epochs, loss, t))
    best = min(losses, default=None)
    return Expected(in_use, promotions, views, None if best is None else (-best[0], *best[1:]), jobs)
