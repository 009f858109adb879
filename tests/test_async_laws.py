"""Laws of searches without barriers, over all plans, outcomes, slots, orders of ends, draws and kills."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from engine_fixture import Result, Simulation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine_laws import World, results, worlds

from hyperband.search.asha import AsyncRung, key_of, trial_of
from hyperband.search.brackets import is_extension, make_plan
from hyperband.search.decisions import Dropped, Finished, RungAdded, RungNotAdded, SearchComplete, WentOn
from hyperband.search.engine import Engine
from hyperband.search.events import IdProposed, IdSource, JobEnded, JobStarted, PlanMade
from hyperband.search.retention import Retention
from hyperband.search.trial import Algorithm, Outcome, Plan, TrialState

thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


LADDERS = (Algorithm.ASHA, Algorithm.PASHA)
BRACKETS = (Algorithm.HYPERBAND, Algorithm.HALVING)


@st.composite
def plans(draw: st.DrawFn, algorithms: Sequence[Algorithm] = LADDERS + BRACKETS) -> Plan:
    algorithm = draw(st.sampled_from(algorithms))
    max_epochs, eta, min_epochs = draw(
        st.sampled_from([(9, 3, 1), (8, 2, 1), (13, 3, 1), (4, 4, 1), (3, 2, 1), (1, 2, 1), (16, 2, 4)])
    )
    is_ladder = algorithm.has_one_ladder
    return make_plan(
        algorithm=algorithm,
        max_epochs=max_epochs,
        eta=eta,
        min_epochs=min_epochs,
        brackets=None,
        repeat=draw(st.integers(1, 2)),
        max_trials=draw(st.none() | st.integers(1, 40)) if is_ladder else None,
        asynchronous=not is_ladder,
        max_total_epochs=draw(st.none() | st.integers(min_epochs, 120)) if is_ladder else None,
    )


@dataclass
class Watched:
    """What each rung of each bracket has seen, kept apart from the engine."""

    search: Simulation
    plan: Plan
    #: (loss, trial) of each (bracket, rung), and who went on from it
    results: dict[tuple[int, int], list[tuple[float, int]]] = field(default_factory=dict)
    promoted: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    n_epochs: int = 0

    def see_start(self, started: JobStarted) -> None:
        """Check one start against the promotion rule, spelt out over all results."""
        if started.attempt > 0:
            return
        bracket = self.search.engine.trial(started.trial).bracket
        rungs = self.plan.brackets[bracket].rungs
        reached = rungs[started.rung - 1].epochs if started.rung else 0
        self.n_epochs += started.epochs - reached
        assert self.plan.max_total_epochs is None or self.n_epochs <= self.plan.max_total_epochs
        if started.rung == 0:
            return
        below = (bracket, started.rung - 1)
        ranked = sorted(self.results[below])
        gone = self.promoted.setdefault(below, [])
        left = [trial for _, trial in ranked if trial not in gone]
        assert started.trial == left[0], "the best that has not gone on"
        best = [trial for _, trial in ranked[: len(ranked) // self.plan.eta]]
        is_open = self.plan.promotion.is_open
        if is_open or started.trial not in best:
            assert not is_open or started.trial in best, "among the best 1 / eta of its rung"
            assert is_open or self.is_final(*below), "others only when their rung is complete"
        gone.append(started.trial)
        if not is_open:
            assert len(gone) <= self.search.engine.plan.brackets[bracket].rungs[started.rung].n

    def is_final(self, bracket: int, rung: int) -> bool:
        """Whether no result can be added to a rung."""
        views = [view for view in self.search.engine.trials() if view.bracket == bracket]
        missing = self.search.engine.plan.brackets[bracket].rungs[0].n - len(views)
        busy = (TrialState.QUEUED, TrialState.RUNNING)
        return missing == 0 and not any(view.rung <= rung and view.state in busy for view in views)

    def see_end(self, started: JobStarted, result: float | Outcome) -> None:
        if isinstance(result, float):
            bracket = self.search.engine.trial(started.trial).bracket
            self.results.setdefault((bracket, started.rung), []).append((result, started.trial))


def live(plan: Plan, result: Result, world: World, space: int | None, *, on_demand: bool) -> Simulation:
    """Run a search to its end: ends in any order, attempts lost and stopped on the way."""
    search = Simulation(PlanMade(plan))
    engine = search.engine
    watched = Watched(search, plan)
    repeats_left = 12
    if space is not None and on_demand:
        on_demand = space * plan.max_epochs > plan.epochs  # what whoever proposes answers for
    while not engine.is_complete:
        wants_ids = engine.n_ids_wanted() and (not engine.n_running or world.pick(3) == 0)
        if wants_ids and not on_demand:
            search.draw(1 + world.pick(plan.n_trials), space)
        while engine.n_running < world.n_slots:
            if on_demand and engine.wants_id():
                trial = len(engine.ids())
                if trial == space:
                    search.draw(1, space)
                else:
                    search.handle(IdProposed(trial, f"c{trial}", IdSource.RANDOM, 0))
            start = engine.next_start()
            assert engine.n_startable >= (start is not None)
            if start is None:
                break
            search.start()
            watched.see_start(search.events[-1])  # type: ignore[arg-type]
        running = engine.running()
        if not running:
            assert engine.n_ids_wanted() or engine.is_complete
            continue
        one = running[world.pick(len(running))]
        if repeats_left and world.pick(4) == 0:
            repeats_left -= 1
            alive = world.pick(2) == 0
            outcome = [Outcome.STOPPED, Outcome.LOST][world.pick(2)]
            if engine.final_outcome(one.job, outcome, alive) is outcome:
                search.end(one, outcome, search_alive=alive)
                continue
        came = result(one.trial, one.epochs)
        watched.see_end(one, came)
        search.end(one, came)
    assert engine.next_start() is None
    assert engine.n_startable == 0
    assert not engine.wants_id()
    return search


def spaces(plan: Plan) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(1, plan.n_trials + 1)


@thorough
@given(plans(), results(), worlds(), st.booleans(), st.data())
def test_every_search_keeps_the_rule_and_ends(
    plan: Plan, result: Result, world: World, on_demand: bool, data: st.DataObject
) -> None:
    search = live(plan, result, world, data.draw(spaces(plan)), on_demand=on_demand)
    engine = search.engine
    states = Counter(view.state for view in engine.trials())
    ended = [e for e in search.events if isinstance(e, JobEnded) and e.outcome.is_final]
    progress = engine.progress()
    assert (progress.n_jobs_final, progress.n_jobs_planned) == (len(ended), len(ended))
    assert (progress.epochs_left, progress.n_jobs_running) == (0, 0)
    assert not states[TrialState.RUNNING] + states[TrialState.WAITING]
    if plan.max_total_epochs is None:
        assert not states[TrialState.QUEUED]
    assert [d for d in search.decisions if isinstance(d, SearchComplete)] == [search.decisions[-1]]
    dropped = [trial for d in search.decisions if isinstance(d, Dropped) for trial in d.trials]
    assert len(dropped) == len(set(dropped)) == states[TrialState.DROPPED]
    for decision in search.decisions:
        assert decision.reason.strip() == decision.reason != ""
    losses = [
        (-started.epochs, e.loss, started.trial)
        for e in ended
        for started in [next(s for s in search.events if isinstance(s, JobStarted) and s.job == e.job)]
        if e.loss is not None
    ]
    best = engine.best()
    assert (None if best is None else (-best.epochs, best.loss, best.trial)) == min(losses, default=None)


@thorough
@given(plans(BRACKETS), results(), worlds())
def test_brackets_come_to_as_many_jobs_as_with_barriers(plan: Plan, result: Result, world: World) -> None:
    search = live(plan, lambda *_: float(result(*_) == 0), world, None, on_demand=False)
    in_rung = Counter(
        (search.engine.trial(e.trial).bracket, e.rung)
        for e in search.events
        if isinstance(e, JobStarted) and e.attempt == 0
    )
    planned = {
        (place, rung): numbers.n
        for place, bracket in enumerate(plan.brackets)
        for rung, numbers in enumerate(bracket.rungs)
    }
    assert in_rung == planned


@thorough
@given(plans(), results(), worlds(), st.booleans(), st.data())
def test_replay_is_the_same_search(
    plan: Plan, result: Result, world: World, on_demand: bool, data: st.DataObject
) -> None:
    search = live(plan, result, world, data.draw(spaces(plan)), on_demand=on_demand)
    replayed = Simulation()
    for event in search.events:
        start = replayed.engine.next_start()
        replayed.engine.progress()
        if isinstance(event, JobStarted):
            assert start is not None
            assert (start.job, start.attempt, start.trial, start.rung, start.epochs) == (
                event.job,
                event.attempt,
                event.trial,
                event.rung,
                event.epochs,
            )
        replayed.handle(event)
    assert repr(replayed.decisions) == repr(search.decisions)
    assert list(replayed.engine.trials()) == list(search.engine.trials())
    assert replayed.engine.progress() == search.engine.progress()


@thorough
@given(plans(LADDERS), results(), worlds(), st.data())
def test_a_larger_plan_goes_on_by_the_same_rule(
    plan: Plan, result: Result, world: World, data: st.DataObject
) -> None:
    """More trials, or more epochs: whoever was left behind is looked at again."""
    search = live(plan, result, world, None, on_demand=False)
    engine = search.engine
    n = plan.n_trials + data.draw(st.integers(0, 30))
    limit = plan.max_total_epochs
    rungs = plan.brackets[0].rungs
    larger = make_plan(
        algorithm=Algorithm(plan.promotion),
        max_epochs=plan.max_epochs,
        eta=plan.eta,
        min_epochs=rungs[0].epochs,
        brackets=None,
        repeat=1,
        max_trials=n,
        max_total_epochs=None if limit is None else limit + data.draw(st.integers(0, 60)),
    )
    assert is_extension(larger, of=plan)
    assert is_extension(plan, of=larger) == (larger == plan)
    search.handle(PlanMade(larger))
    watched = Watched(search, larger)
    for event in search.events:
        if isinstance(event, JobStarted):
            watched.see_start(event)
        elif isinstance(event, JobEnded) and event.loss is not None:
            started = next(s for s in search.events if isinstance(s, JobStarted) and s.job == event.job)
            watched.see_end(started, event.loss)
    search.draw(n)
    while engine.next_start() is not None:
        start = search.start()
        watched.see_start(search.events[-1])  # type: ignore[arg-type]
        came = result(start.trial, start.epochs)
        watched.see_end(search.events[-1], came)  # type: ignore[arg-type]
        search.end(start, came)
    assert engine.is_complete


@thorough
@given(plans(), results(), worlds(), st.booleans())
def test_who_lets_go_of_a_checkpoint_is_never_wanted_again(
    plan: Plan, result: Result, world: World, keep_done: bool
) -> None:
    search = live(plan, result, world, None, on_demand=False)
    engine = Engine()
    retention = Retention(keep_done=keep_done)
    gone: set[int] = set()
    for event in search.events:
        decisions = engine.handle(event)
        ended: list[int] = []
        if isinstance(event, JobStarted):
            assert event.trial not in gone, "a trial whose checkpoint is gone never runs again"
        if isinstance(event, JobEnded):
            ended = [s.trial for s in search.events if isinstance(s, JobStarted) and s.job == event.job][:1]
        new = retention.over(engine, ended, decisions)
        assert gone.isdisjoint(new), "each is told of once"
        gone.update(new)
        assert gone == set(Retention(keep_done=keep_done).all_over(engine))


@pytest.mark.parametrize("eta", [2, 3, 4])
@given(data=st.data())
@settings(max_examples=60)
def test_a_rung_knows_its_best(eta: int, data: st.DataObject) -> None:
    """The two heaps against sorting everything, with ties, huge losses and promotions in between."""
    losses = data.draw(
        st.lists(st.sampled_from([0.0, -0.0, 1.0, 1e300, -1e300, 5e-324, 1.7e308, -1.7e308]), max_size=60)
    )
    rung = AsyncRung(0, eta)
    rung_of = bytearray(len(losses))
    seen: list[tuple[float, int]] = []
    for trial, loss in enumerate(losses):
        rung.add(loss, trial, rung_of)
        seen.append((loss + 0.0, trial))
        while True:
            best = sorted(seen)[: len(seen) // eta]
            left = [t for _, t in best if not rung_of[t]]
            assert rung.n_promotable == len(left)
            if not left or data.draw(st.booleans()):
                break
            assert rung.head == left[0]
            rung_of[left[0]] = 1
            rung.take(rung_of)
    assert [trial_of(key) for key in rung.results()] == [t for _, t in sorted(seen)]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=300)
def test_keys_order_losses_and_then_trials(one: float, other: float) -> None:
    assert (key_of(one, 1) < key_of(other, 1)) == (one < other)
    assert (key_of(one, 1) < key_of(other, 2)) == (one <= other)
    assert trial_of(key_of(one, 2**40 - 1)) == 2**40 - 1


@thorough
@given(plans((Algorithm.PASHA,)), results(), worlds())
def test_pasha_adds_a_rung_only_after_a_result_in_its_top_one(
    plan: Plan, result: Result, world: World
) -> None:
    search = live(plan, result, world, None, on_demand=False)
    top = min(1, len(plan.brackets[0].rungs) - 1)
    for decision in search.decisions:
        if isinstance(decision, RungAdded):
            top += 1
            assert decision.rung == top
        elif isinstance(decision, RungNotAdded):
            assert decision.rung == top
        elif isinstance(decision, WentOn):
            assert decision.rung <= top
        elif isinstance(decision, Finished):
            assert decision.rung == top
        elif isinstance(decision, Dropped):
            assert decision.rung < top
