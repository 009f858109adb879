"""Who may lose checkpoints: never the best, never one that can still be promoted or runs."""

import math

from engine_fixture import Simulation, ids, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperband.search.events import IdsDrawn, PlanMade
from hyperband.search.retention import Retention, needs_checkpoint
from hyperband.search.trial import Outcome, Plan, TrialState

PLANS = (
    plan([(9, 1), (3, 3), (1, 9)], [(3, 3), (1, 9)], [(2, 9)]),
    plan([(8, 1)]),
    plan([(4, 1), (2, 2), (1, 4)], [(4, 1), (2, 2), (1, 4)]),
)
RESULTS: st.SearchStrategy[float | Outcome] = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0.5, Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.LOST, Outcome.STOPPED]),
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PLANS), st.booleans(), st.data())
def test_who_lets_go_is_never_wanted_again(made: Plan, keep_done: bool, data: st.DataObject) -> None:
    n = made.n_trials
    simulation = Simulation(PlanMade(made), IdsDrawn(0, ids(n)))
    engine = simulation.engine
    retention = Retention(keep_done=keep_done)
    gone: set[int] = set()
    n_lost = 0
    while engine.next_start() is not None or engine.running():
        if engine.next_start() is not None and (not engine.running() or data.draw(st.booleans())):
            start = simulation.start()
            assert start.trial not in gone, "a trial whose checkpoint is gone never runs again"
            continue
        started = data.draw(st.sampled_from(engine.running()))
        result = data.draw(RESULTS)
        if isinstance(result, Outcome) and not result.is_final:
            n_lost += 1
            result = Outcome.CRASHED if n_lost > 3 else result
        decisions = simulation.end(started, result, search_alive=False)
        new = retention.over(engine, [started.trial], decisions)
        assert gone.isdisjoint(new), "each is told of once"
        gone.update(new)
        best = engine.best()
        assert best is None or best.trial not in gone
        for view in engine.trials():
            if view.state in (TrialState.QUEUED, TrialState.RUNNING, TrialState.WAITING):
                assert view.number not in gone
            if view.state is TrialState.DONE and keep_done:
                assert view.number not in gone
        # whoever looks at all of them, as a restart does, finds the same
        assert gone == set(Retention(keep_done=keep_done).all_over(engine))
    done = {view.number for view in engine.trials() if view.state is TrialState.DONE}
    kept = {view.number for view in engine.trials()} - gone
    best = engine.best()
    assert kept == (done if keep_done else set()) | ({best.trial} if best else set())


def test_the_former_best_goes_when_another_becomes_it() -> None:
    simulation = Simulation(PlanMade(plan([(3, 1)])), IdsDrawn(0, ids(3)))
    retention = Retention(keep_done=False)
    told = []
    for loss in (0.5, 0.7, 0.3):
        start = simulation.start()
        told.append(retention.over(simulation.engine, [start.trial], simulation.end(start, loss)))
    assert told == [[], [1], [0]]
    assert needs_checkpoint(simulation.engine, 2, keep_done=False)
    assert math.isclose(simulation.engine.best().loss, 0.3)  # type: ignore[union-attr]
