"""Laws of the engine over all plans, outcomes, slots, orders of ends, draws and kills."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from engine_fixture import Result, Simulation, ended, expected, started
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperband.errors import InternalError
from hyperband.search.brackets import make_plan
from hyperband.search.engine import Engine
from hyperband.search.events import JobStarted, PlanMade
from hyperband.search.trial import Algorithm, Bracket, Outcome, Plan, Rung, Start, TrialState

FAILURES = [outcome for outcome in Outcome if outcome.is_failure]

thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=120)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    algorithm = draw(st.sampled_from([Algorithm.HYPERBAND, Algorithm.HALVING, Algorithm.RANDOM]))
    max_epochs, eta, min_epochs = draw(
        st.sampled_from(
            [(9, 3, 1), (8, 2, 1), (4, 2, 1), (4, 4, 1), (3, 2, 1), (2, 2, 1), (1, 2, 1), (16, 2, 4)]
        )
    )
    return make_plan(
        algorithm=algorithm,
        max_epochs=max_epochs,
        eta=eta,
        min_epochs=min_epochs,
        brackets=1 if algorithm is Algorithm.HYPERBAND and draw(st.booleans()) else None,
        repeat=draw(st.integers(1, 3)),
        max_trials=draw(st.integers(1, 12)) if algorithm is Algorithm.RANDOM else None,
    )


@st.composite
def results(draw: st.DrawFn) -> Result:
    """A script: few different losses, so that ties are common, or huge ones; and some share of failures."""
    salt = draw(st.integers(0, 2**32))
    losses = draw(
        st.sampled_from(
            [
                [0.0, -0.0, 1.0],
                [1000.0, 1000.5, 999.0, 1001.0],
                [-1.7e308, 1.7e308, 5e-324, -5e-324, 0.0],
                [float(n) for n in range(100)],
            ]
        )
    )
    failing_in_12 = draw(st.sampled_from([0, 1, 4, 11, 12]))

    def result(trial: int, epochs: int) -> float | Outcome:
        mixed = (trial * 2654435761 + epochs * 40503 + salt) * 6364136223846793005 % 2**64 >> 20
        if mixed % 12 < failing_in_12:
            return FAILURES[mixed // 12 % len(FAILURES)]
        return losses[mixed // 144 % len(losses)]

    return result


@dataclass
class World:
    """One way for a search to go: how many slots, which of all possible things happens next."""

    n_slots: int
    #: which of n possible things happens
    pick: Callable[[int], int]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    random = draw(st.randoms(use_true_random=False))
    return World(draw(st.sampled_from([1, 2, 3, 16, 1000])), random.randrange)


def live(plan: Plan, result: Result, world: World, space: int | None) -> Simulation:
    """Run a search to its end: ids in batches, ends in any order, attempts lost and stopped on the way."""
    search = Simulation(PlanMade(plan))
    engine = search.engine
    repeats_left = 12
    while not engine.is_complete:
        if engine.n_ids_wanted() and (not engine.n_running or world.pick(3) == 0):
            search.draw(1 + world.pick(plan.n_trials), space)
        while engine.n_running < world.n_slots:
            check_next(search)
            if engine.next_start() is None:
                break
            start = search.start()
            assert start.config_id == f"c{start.trial}"
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
        search.end(one, result(one.trial, one.epochs))
    assert engine.next_start() is None
    return search


def check_next(search: Simulation) -> None:
    """The next start against the order of the specification, spelt out over all trials."""
    engine = search.engine
    views = list(engine.trials())
    retried = {e.trial: e for e in search.events if isinstance(e, JobStarted)}
    queued = [view for view in views if view.state is TrialState.QUEUED]
    order = sorted(
        (
            not (view.number in retried and retried[view.number].rung == view.rung),
            view.bracket,
            -view.rung,
            view.number,
        )
        for view in queued
    )
    start = engine.next_start()
    if start is None:
        # Nothing idles but for the ids that decide whether the plan is replaced by one that trains them all.
        gate = len(views) * engine.plan.max_epochs <= engine.plan.epochs and len(views) < engine.plan.n_trials
        assert not queued or gate
        assert engine.n_startable == 0
        return
    assert engine.n_startable == len(queued)
    assert start.trial == order[0][-1]
    waiting = [view for view in views if view.state is TrialState.WAITING]
    assert start.alone == (
        not engine.n_running and len(queued) == 1 and not waiting and not engine.n_ids_wanted()
    )


def check_outcome(search: Simulation, plan: Plan, result: Result, space: int | None) -> None:
    engine, model = search.engine, expected(plan, result, space)
    assert engine.plan == model.plan
    assert search.promotions() == model.promotions
    assert list(engine.trials()) == model.trials
    best = engine.best()
    assert (None if best is None else (best.epochs, best.loss, best.trial)) == model.best
    jobs = [(e.trial, e.epochs) for e in search.events if isinstance(e, JobStarted) and e.attempt == 0]
    assert set(jobs) == model.jobs
    assert len(jobs) == len(model.jobs)
    progress = engine.progress()
    assert progress.n_jobs_planned == progress.n_jobs_final == len(jobs)
    assert (progress.n_jobs_running, progress.epochs_left, progress.best) == (0, 0, best)


@thorough
@given(plans(), results(), worlds(), st.data())
def test_every_search_ends_as_synchronous_halving_does(
    plan: Plan, result: Result, world: World, data: st.DataObject
) -> None:
    space = data.draw(st.none() | st.integers(1, plan.n_trials + 1))
    search = live(plan, result, world, space)
    check_outcome(search, plan, result, space)
    for decision in search.decisions:
        assert decision.reason.strip() == decision.reason != ""


@thorough
@given(plans(), results(), worlds(), st.data())
def test_replay_is_the_same_search(plan: Plan, result: Result, world: World, data: st.DataObject) -> None:
    space = data.draw(st.none() | st.integers(1, plan.n_trials + 1))
    search = live(plan, result, world, space)
    cut = data.draw(st.integers(0, len(search.events)))
    replayed = Simulation()
    starts: list[Start | None] = []
    for event in search.events[:cut]:
        replayed.handle(event)
    # Reads in between must not change anything.
    for event in search.events[cut:]:
        starts.append(replayed.engine.next_start())
        replayed.engine.progress()
        list(replayed.engine.trials())
        replayed.handle(event)
    assert repr(replayed.decisions) == repr(search.decisions)
    assert list(replayed.engine.trials()) == list(search.engine.trials())
    assert replayed.engine.ids() == search.engine.ids()
    assert replayed.engine.progress() == search.engine.progress()
    begun = [e for e in search.events[cut:] if isinstance(e, JobStarted)]
    proposed = [
        s
        for s, e in zip(starts, search.events[cut:], strict=True)
        if s is not None and isinstance(e, JobStarted)
    ]
    assert [(s.job, s.attempt, s.trial) for s in proposed] == [(e.job, e.attempt, e.trial) for e in begun]


@pytest.mark.parametrize("space", range(1, 19))
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_exhausted_spaces_of_every_small_size(space: int, batch: int) -> None:
    plan = make_plan(
        algorithm=Algorithm.HYPERBAND,
        max_epochs=9,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=None,
    )

    def result(trial: int, epochs: int) -> float:
        return float((trial * 7 + epochs) % 5)

    search = Simulation(PlanMade(plan))
    while not search.engine.is_complete:
        if search.engine.n_ids_wanted() and search.engine.next_start() is None:
            search.draw(batch, space)
        if search.engine.next_start() is not None:
            start = search.start()
            search.end(start, result(start.trial, start.epochs))
    check_outcome(search, plan, result, space)


@thorough
@given(plans(), results(), worlds(), worlds(), st.data())
def test_growing_after_the_end_is_as_if_asked_for_at_once(
    plan: Plan, result: Result, first: World, second: World, data: st.DataObject
) -> None:
    sole_rung = len(plan.brackets) == len(plan.brackets[0].rungs) == 1
    times = data.draw(st.integers(1, 3))
    if sole_rung:
        rung = plan.brackets[0].rungs[0]
        larger = Plan((Bracket((Rung(rung.n * times, rung.epochs),)),), plan.max_epochs)
    else:
        larger = Plan(plan.brackets * times, plan.max_epochs)
    search = live(plan, result, first, None)
    search.handle(PlanMade(larger))
    engine = search.engine
    assert engine.is_complete == (times == 1)
    while not engine.is_complete:
        if engine.n_ids_wanted():
            search.draw(1 + second.pick(5))
        while engine.n_running < second.n_slots and engine.next_start() is not None:
            search.start()
        running = engine.running()
        if running:
            one = running[second.pick(len(running))]
            search.end(one, result(one.trial, one.epochs))
    check_outcome(search, larger, result, None)


@thorough
@given(plans(), st.data())
def test_a_wrong_event_changes_nothing(plan: Plan, data: st.DataObject) -> None:
    """Whatever a journal could hold in the wrong place is refused, and the search goes on as before."""
    search = Simulation(PlanMade(plan))
    search.draw(plan.n_trials)
    for _ in range(data.draw(st.integers(0, plan.n_jobs - 1))):
        start = search.start()
        search.end(start, float(start.trial % 3))
    start = search.start()
    before = list(search.engine.trials()), search.engine.progress(), search.engine.next_start()
    for wrong in (
        started(start),
        ended(start, float("nan")),
        ended(start, float("inf")),
        PlanMade(Plan((), 1)),
    ):
        with pytest.raises(InternalError):
            search.engine.handle(wrong)
        search.engine.validate()
    assert (list(search.engine.trials()), search.engine.progress(), search.engine.next_start()) == before
    search.end(start, 1.0)


def test_an_engine_with_nothing_in_it_answers() -> None:
    engine = Engine()
    assert engine.next_start() is None
    assert (engine.n_ids_wanted(), engine.n_startable, engine.n_running) == (0, 0, 0)
    assert not engine.is_complete
    assert engine.best() is None
    assert engine.progress().n_brackets == 0
    engine.validate()
