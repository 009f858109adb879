"""The engine by example: events in, decisions and starts out."""

import math
from dataclasses import replace

import pytest
from engine_fixture import Simulation, ended, ids, plan, started

from hyperband.errors import InternalError
from hyperband.search.brackets import make_plan
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
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdProposed,
    IdsDrawn,
    IdSource,
    JobEnded,
    PlanMade,
    SearchEnded,
    SearchStarted,
    SpaceExhausted,
    StudyCreated,
)
from hyperband.search.trial import Algorithm, Best, Outcome, Plan, Progress, TrialState, TrialView

SMALL = plan([(3, 1), (1, 3)])
TWO = plan([(3, 1), (1, 3)], [(2, 3)])


def search_of(made: Plan = SMALL) -> Simulation:
    """A search with every id drawn."""
    return Simulation(PlanMade(made), IdsDrawn(0, ids(made.n_trials)))


def kinds(decisions: tuple[Decision, ...]) -> list[type[Decision]]:
    return [type(decision) for decision in decisions]


# One bracket.


def test_a_bracket_from_the_first_start_to_the_last_line() -> None:
    search = search_of()
    first, second, third = search.start(), search.start(), search.start()
    assert [(s.job, s.attempt, s.trial, s.rung, s.epochs) for s in (first, second, third)] == [
        (0, 0, 0, 0, 1),
        (1, 0, 1, 0, 1),
        (2, 0, 2, 0, 1),
    ]
    assert search.engine.next_start() is None
    assert search.end(second, 0.5) == ()
    assert search.end(third, 0.25) == ()
    assert search.states() == "RWW"
    assert search.end(first, 0.75) == (
        Promoted(0, 1, (2,), "rung 0 is complete (3 to epoch 1, 0 failed): the best 1 go on to epoch 3"),
        Dropped(0, 0, (0, 1), "rung 0 is complete (3 to epoch 1, 0 failed): not among the best 1"),
    )
    assert search.states() == "PPQ"
    last = search.start()
    assert (last.job, last.trial, last.config_id, last.rung, last.epochs) == (3, 2, "c2", 1, 3)
    assert search.end(last, 0.125) == (
        BracketDone(0, "rung 1 (1 to epoch 3), its last, is complete"),
        SearchComplete("every bracket is over after 4 jobs, 0 of them failed: best loss 0.125 at epoch 3"),
    )
    assert search.engine.is_complete
    assert search.states() == "PPD"
    assert search.engine.trial(2) == TrialView(2, "c2", 0, 1, TrialState.DONE, 0.125)
    assert search.engine.best() == Best(2, "c2", 0.125, 3)


@pytest.mark.parametrize(
    ("losses", "promoted"),
    [
        ([1.0, 1.0, 1.0, 1.0], (0, 1)),
        ([2.0, 1.0, 1.0, 1.0], (1, 2)),
        ([0.0, -0.0, 0.0, -0.0], (0, 1)),
        ([1.7e308, -1.7e308, 5e-324, 0.0], (1, 3)),
        ([-1.0, -2.0, -3.0, -4.0], (2, 3)),
        ([1000.5, Outcome.CRASHED, 1000.0, 1001.0], (0, 2)),
        ([1e300, Outcome.NOT_FINITE, Outcome.NO_LOSS, 1e301], (0, 3)),
        ([Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.CRASHED, 1e9], (3,)),
    ],
)
def test_who_is_promoted(losses: list[float | Outcome], promoted: tuple[int, ...]) -> None:
    search = search_of(plan([(4, 1), (2, 2), (1, 4)]))
    starts = [search.start() for _ in losses]
    for start, loss in zip(reversed(starts), reversed(losses), strict=True):
        search.end(start, loss)
    assert search.promotions() == {(0, 1): promoted}


def test_a_rung_in_which_all_failed_ends_its_bracket_with_a_line() -> None:
    search = search_of(TWO)
    starts = [search.start() for _ in range(3)]
    search.end(starts[0], Outcome.CRASHED)
    search.end(starts[1], Outcome.NO_LOSS)
    assert search.end(starts[2], Outcome.TIMED_OUT) == (
        TrialFailed(2, 2, Outcome.TIMED_OUT, "TimedOut on the way to epoch 1 is final: never promoted"),
        BracketFailed(0, 0, "every job of rung 0 (3 to epoch 1) failed: nothing to promote"),
    )
    assert not search.engine.is_complete
    search.run(lambda _trial, _epochs: Outcome.CRASHED)
    last = search.decisions[-1]
    assert isinstance(last, SearchComplete)
    assert last.reason.endswith("5 jobs, 5 of them failed: without a single loss")
    assert search.states() == "FFFFF"
    assert search.engine.best() is None


def test_a_failure_in_a_later_rung_keeps_the_loss_before() -> None:
    search = search_of()
    search.run(lambda trial, epochs: float(trial) if epochs == 1 else Outcome.CRASHED)
    assert search.engine.trial(0) == TrialView(0, "c0", 0, 1, TrialState.FAILED, 0.0)
    assert search.engine.trial(1) == TrialView(1, "c1", 0, 0, TrialState.DROPPED, 1.0)
    assert search.engine.best() == Best(0, "c0", 0.0, 1)
    assert kinds(tuple(search.decisions[-3:])) == [TrialFailed, BracketFailed, SearchComplete]


def test_fewer_survivors_make_every_later_rung_smaller() -> None:
    search = search_of(plan([(8, 1), (4, 2), (2, 4), (1, 8)]))
    search.run(lambda trial, epochs: float(trial) if epochs > 1 or trial == 5 else Outcome.CRASHED)
    assert search.promotions() == {(0, 1): (5,), (0, 2): (5,), (0, 3): (5,)}


def test_the_best_is_the_lowest_loss_at_the_highest_epochs() -> None:
    search = search_of(plan([(2, 1), (1, 4)], [(2, 4)]))
    losses = {(0, 1): -9.0, (1, 1): 5.0, (0, 4): 3.0, (2, 4): 2.0, (3, 4): 2.0}
    search.run(lambda trial, epochs: losses[trial, epochs])
    assert search.engine.best() == Best(2, "c2", 2.0, 4)


# The order of starts.


def test_retries_then_plan_order_then_trial_numbers() -> None:
    search = search_of(plan([(2, 1), (1, 2)], [(2, 1), (1, 2)]))
    starts = [search.start() for _ in range(3)]
    search.end(starts[2], Outcome.STOPPED)
    search.end(starts[0], 1.0)
    search.end(starts[1], 2.0)
    order = [search.start() for _ in range(3)]
    assert [(s.trial, s.rung, s.job, s.attempt) for s in order] == [(2, 0, 2, 1), (0, 1, 3, 0), (3, 0, 4, 0)]
    search.end(order[2], Outcome.LOST)
    search.end(order[0], Outcome.LOST)
    assert [(s.trial, s.job, s.attempt) for s in (search.start(), search.start())] == [(2, 2, 2), (3, 4, 1)]


def test_next_start_is_a_read() -> None:
    search = search_of()
    assert search.engine.next_start() == search.engine.next_start()
    assert search.engine.n_startable == 3
    assert search.engine.n_running == 0


def test_a_promotion_waits_for_every_id_of_its_bracket() -> None:
    search = Simulation(PlanMade(plan([(4, 1), (1, 2)], [(9, 1)], max_epochs=2)))
    search.handle(IdsDrawn(0, ids(3)))
    # 15 epochs are planned: up to 7 ids might yet turn out to be the whole space and be trained to 2 epochs.
    assert search.engine.next_start() is None
    assert search.engine.n_startable == 0
    search.handle(IdsDrawn(3, ids(5, 3)))
    assert search.engine.n_startable == 8
    assert search.start().trial == 0


def test_a_sole_rung_starts_with_its_first_id() -> None:
    search = Simulation(PlanMade(plan([(5, 9)])), IdsDrawn(0, ids(1)))
    assert search.start().trial == 0
    assert search.engine.next_start() is None
    assert not search.engine.will_train_all(1)
    search.handle(SpaceExhausted(1, train_all=False))
    assert search.engine.plan == plan([(1, 9)])


# Lost and stopped.


def test_lost_and_stopped_attempts_are_repeated_and_are_no_failures() -> None:
    search = search_of()
    start = search.start()
    assert search.end(start, Outcome.LOST) == (
        Repeat(0, 0, 1, "attempt 0 was Lost, which is no failure: the job starts again"),
    )
    for attempt in range(1, 6):
        start = search.start()
        assert (start.job, start.attempt, start.trial) == (0, attempt, 0)
        search.end(start, Outcome.STOPPED)
    assert search.engine.progress().n_jobs_failed == 0


@pytest.mark.parametrize(
    ("lost_alive", "expected"),
    [
        ([], Outcome.LOST),
        ([True], Outcome.LOST),
        ([True, True], Outcome.CRASHED),
        ([False, False, False, False], Outcome.LOST),
        ([True, False, False], Outcome.LOST),
        ([False, True, True], Outcome.CRASHED),
    ],
)
def test_the_third_lost_with_the_search_alive_is_crashed(lost_alive: list[bool], expected: Outcome) -> None:
    search = search_of()
    for alive in lost_alive:
        search.end(search.start(), Outcome.LOST, search_alive=alive)
        search.end(search.start(), Outcome.STOPPED)
    start = search.start()
    assert search.engine.final_outcome(start.job, Outcome.LOST, search_alive=True) is expected
    assert search.engine.final_outcome(start.job, Outcome.LOST, search_alive=False) is Outcome.LOST
    assert search.engine.final_outcome(start.job, Outcome.STOPPED, search_alive=True) is Outcome.STOPPED
    assert search.engine.final_outcome(start.job, Outcome.NO_LOSS, search_alive=True) is Outcome.NO_LOSS
    if expected is Outcome.CRASHED:
        with pytest.raises(InternalError, match="Lost number 3 with the search alive is Crashed"):
            search.end(start, Outcome.LOST)
    search.end(start, expected)
    assert search.states()[0] == ("F" if expected is Outcome.CRASHED else "Q")


def test_what_still_runs_is_known_for_adoption() -> None:
    search = search_of()
    first, second = search.start(), search.start()
    search.end(first, Outcome.LOST, search_alive=False)
    again = search.start()
    assert search.engine.running() == (started(again), started(second))
    search.end(again, 1.0)
    assert search.engine.running() == (started(second),)
    assert search.engine.n_running == 1


# One job alone on the machine.


def alone(search: Simulation) -> bool:
    start = search.engine.next_start()
    assert start is not None
    return start.alone


def test_alone_once_only_promotions_of_one_trial_are_left() -> None:
    search = search_of(plan([(2, 1), (1, 2), (1, 4)]))
    assert not alone(search)
    first, second = search.start(), search.start()
    search.end(first, 1.0)
    search.end(second, 2.0)
    assert alone(search)
    search.end(search.start(several_gpus=True), 1.0)
    assert alone(search)
    search.end(search.start(several_gpus=True), 1.0)
    assert search.engine.is_complete


@pytest.mark.parametrize(
    ("rungs", "others", "expected"),
    [
        # nobody else: of one trial
        ([(1, 1), (1, 2)], [], True),
        # the other trial of this rung may be the one that is promoted
        ([(2, 1), (1, 2)], [1.0], False),
        # it failed: only this one can be
        ([(2, 1), (1, 2)], [Outcome.CRASHED], True),
        ([(3, 1), (1, 2)], [Outcome.CRASHED, 1.0], False),
        # the last rung: no later job at all
        ([(3, 2)], [1.0, 1.0], True),
        # two could start
        ([(3, 2)], [1.0], False),
    ],
)
def test_alone_in_a_rung(rungs: list[tuple[int, int]], others: list[float | Outcome], expected: bool) -> None:
    search = search_of(plan(rungs))
    for result in others:
        search.end(search.start(), result)
    assert alone(search) is expected


def test_not_alone_while_another_runs_or_another_bracket_has_work() -> None:
    search = search_of(plan([(2, 2)]))
    search.start()
    assert not alone(search)

    search = search_of(plan([(1, 1), (1, 2)], [(1, 2)]))
    assert not alone(search)
    search.end(search.start(), 1.0)
    assert not alone(search)
    search.end(search.start(), 1.0)
    assert alone(search)


def test_not_alone_while_ids_are_still_to_be_drawn() -> None:
    search = Simulation(PlanMade(plan([(2, 9)])), IdsDrawn(0, ids(1)))
    assert not alone(search)
    search.handle(SpaceExhausted(1, train_all=False))
    assert alone(search)


def test_the_retry_of_a_job_lost_on_several_gpus_says_so() -> None:
    search = search_of(plan([(1, 1), (1, 2)]))
    search.end(search.start(several_gpus=True), Outcome.STOPPED)
    start = search.engine.next_start()
    assert start is not None
    assert (start.alone, start.lost_on_several_gpus) == (True, False)
    search.end(search.start(several_gpus=True), Outcome.LOST, search_alive=False)
    start = search.engine.next_start()
    assert start is not None
    assert (start.alone, start.lost_on_several_gpus) == (True, True)
    with pytest.raises(InternalError, match="must not have several GPUs"):
        search.start(several_gpus=True)
    search.end(search.start(), Outcome.LOST, search_alive=False)
    start = search.engine.next_start()
    assert start is not None
    assert (start.attempt, start.lost_on_several_gpus) == (3, True)
    search.end(search.start(), 1.0)
    # The next job of the trial is another one.
    assert search.start(several_gpus=True).rung == 1


# Config ids on demand.


def proposed(trial: int, config_id: str | None = None) -> IdProposed:
    return IdProposed(trial, f"c{trial}" if config_id is None else config_id, IdSource.MODEL, 7)


def test_ids_on_demand_are_asked_for_one_by_one() -> None:
    search = Simulation(PlanMade(SMALL))
    engine = search.engine
    for trial in range(3):
        assert (engine.wants_id(), engine.next_start(), engine.n_new_wanted(9)) == (True, None, 3 - trial)
        assert search.handle(proposed(trial)) == ()
        assert not engine.wants_id()
        assert search.start().config_id == f"c{trial}"
    assert (engine.wants_id(), engine.n_new_wanted(9)) == (False, 0)
    for started_job in engine.running():
        search.end(started_job, 1.0)
    search.run(lambda *_: 0.0)
    assert engine.is_complete


def test_promotions_and_retries_come_before_an_id_on_demand() -> None:
    search = Simulation(PlanMade(plan([(2, 1), (1, 3)], [(2, 3)])), proposed(0), proposed(1))
    engine = search.engine
    first = search.start()
    assert (engine.wants_id(), engine.n_new_wanted(2)) == (False, 1)
    second = search.start()
    assert engine.wants_id()
    search.end(first, Outcome.LOST)
    assert not engine.wants_id()
    assert engine.wants_id(past_retries=True)
    search.end(search.start(), 1.0)
    search.end(second, 2.0)
    assert not engine.wants_id(past_retries=True)
    assert search.start().trial == 0
    assert engine.wants_id()


def test_the_first_proposal_opens_the_gate_and_more_ids_may_be_drawn_ahead() -> None:
    made = plan([(9, 1), (3, 3), (1, 9)])
    search = Simulation(PlanMade(made), IdsDrawn(0, ids(1)))
    assert (search.engine.wants_id(), search.engine.next_start()) == (True, None)
    search.handle(proposed(1))
    assert search.start().trial == 0
    search.handle(IdsDrawn(2, ids(2, 2)))
    assert [search.start().trial for _ in range(3)] == [1, 2, 3]
    assert search.engine.wants_id()


def test_a_space_that_ends_after_a_proposal_shrinks_the_plan() -> None:
    search = Simulation(PlanMade(plan([(9, 1), (3, 3), (1, 9)])), proposed(0), proposed(1))
    illegal(search, SpaceExhausted(2, train_all=True), "train_all=False")
    search.handle(SpaceExhausted(2, train_all=False))
    assert search.engine.plan == plan([(2, 1), (1, 3), (1, 9)])
    assert not search.engine.wants_id()


def test_not_alone_while_an_id_on_demand_may_come() -> None:
    search = Simulation(PlanMade(plan([(2, 9)])), proposed(0))
    assert not alone(search)


def test_proposals_out_of_order_are_refused() -> None:
    search = Simulation(PlanMade(plan([(3, 1)])), proposed(0))
    illegal(search, proposed(0), "next trial without an id is 1")
    illegal(search, proposed(2), "next trial without an id is 1")
    illegal(search, proposed(1, "c0"), "'c0', proposed for trial 1")
    search.handle(proposed(1))
    search.handle(SpaceExhausted(2, train_all=False))
    illegal(search, proposed(2), "0 ids are wanted")
    illegal(Simulation(), proposed(0), "0 ids are wanted")


# Exhausted spaces and larger plans.


def test_an_exhausted_space_completes_the_rung_that_waited_for_ids() -> None:
    search = Simulation(PlanMade(plan([(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)])))
    search.draw(12)
    search.run(lambda trial, _epochs: float(trial))
    # 12 ids: more than the 8 that could be trained whole at the cost of the plan
    assert not search.engine.will_train_all(12)
    assert search.engine.next_start() is None
    assert search.engine.progress().bracket == 1
    decisions = search.handle(SpaceExhausted(12, train_all=False))
    assert kinds(decisions) == [PlanChanged, Promoted, Dropped]
    assert search.engine.plan == plan([(9, 1), (3, 3), (1, 9)], [(3, 3), (1, 9)])
    assert decisions[1] == Promoted(
        1, 1, (9,), "rung 0 is complete (3 to epoch 3, 0 failed): the best 1 go on to epoch 9"
    )
    search.run(lambda trial, _epochs: float(trial))
    assert search.engine.is_complete


def test_an_exhausted_space_may_end_the_search_at_once() -> None:
    search = Simulation(PlanMade(plan([(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)])))
    search.draw(9)
    search.run(lambda trial, _epochs: float(trial))
    assert not search.engine.is_complete
    decisions = search.handle(SpaceExhausted(9, train_all=False))
    assert kinds(decisions) == [PlanChanged, SearchComplete]
    assert search.engine.is_complete


def test_a_small_space_is_trained_whole() -> None:
    search = Simulation(PlanMade(plan([(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)])))
    search.handle(IdsDrawn(0, ids(8)))
    assert search.engine.next_start() is None
    assert search.engine.will_train_all(8)
    with pytest.raises(InternalError, match="train_all=True"):
        search.handle(SpaceExhausted(8, train_all=False))
    assert search.handle(SpaceExhausted(8, train_all=True)) == (
        PlanChanged(
            plan([(8, 9)]), "the space has only 8 config ids: all are trained to the full number of epochs"
        ),
    )
    search.run(lambda trial, _epochs: float(-trial))
    assert search.engine.best() == Best(7, "c7", -7.0, 9)


def test_a_space_that_costs_exactly_the_plan_is_trained_whole() -> None:
    search = Simulation(PlanMade(plan([(4, 1), (2, 2), (1, 4)])), IdsDrawn(0, ids(3)))
    assert search.engine.next_start() is None
    search.handle(SpaceExhausted(3, train_all=True))
    assert search.engine.plan == plan([(3, 4)])


def test_a_larger_plan_after_the_space_was_exhausted_changes_nothing() -> None:
    search = Simulation(PlanMade(SMALL), IdsDrawn(0, ids(2)))
    search.handle(SpaceExhausted(2, search.engine.will_train_all(2)))
    in_use = search.engine.plan
    search.run(lambda trial, _epochs: float(trial))
    grown = plan([(3, 1), (1, 3)], [(3, 1), (1, 3)])
    assert kinds(search.handle(PlanMade(grown))) == [PlanKept]
    assert search.engine.plan == in_use
    assert search.engine.is_complete
    assert search.engine.n_ids_wanted() == 0
    with pytest.raises(InternalError, match="does not extend"):
        search.handle(PlanMade(SMALL))


def test_a_larger_plan_turns_out_to_have_no_ids_left() -> None:
    search = search_of().run(lambda trial, _epochs: float(trial))
    search.handle(PlanMade(plan([(3, 1), (1, 3)], [(3, 1), (1, 3)])))
    assert (search.engine.is_complete, search.engine.n_ids_wanted()) == (False, 3)
    assert kinds(search.handle(SpaceExhausted(3, train_all=False))) == [PlanChanged, SearchComplete]
    assert search.engine.plan == SMALL


def test_exhausted_with_the_last_id_changes_nothing() -> None:
    search = search_of()
    assert kinds(search.handle(SpaceExhausted(3, train_all=False))) == [PlanKept]
    assert search.engine.plan == SMALL


def test_a_plan_grows_by_repeats() -> None:
    search = search_of().run(lambda trial, _epochs: float(trial))
    grown = plan([(3, 1), (1, 3)], [(3, 1), (1, 3)])
    assert search.handle(PlanMade(grown)) == (PlanChanged(grown, "the settings now give more of the same"),)
    assert search.handle(PlanMade(grown)) == ()
    search.draw(3)
    assert [search.start().trial for _ in range(3)] == [3, 4, 5]


def test_a_random_search_grows_by_trials() -> None:
    search = search_of(plan([(2, 9)])).run(lambda _trial, _epochs: Outcome.CRASHED)
    assert kinds(tuple(search.decisions[-2:])) == [BracketFailed, SearchComplete]
    search.handle(PlanMade(plan([(4, 9)])))
    search.draw(2)
    search.run(lambda trial, _epochs: float(trial))
    assert search.states() == "FFDD"
    assert kinds(tuple(search.decisions[-2:])) == [BracketDone, SearchComplete]


# What people see.


def test_progress_counts_down_and_forgets_what_failures_made_impossible() -> None:
    search = Simulation(PlanMade(TWO))
    assert search.engine.progress() == Progress(6, 0, 0, 0, 3 + 2 + 6, 0, 0, 2, None)
    search.draw(9)
    starts = [search.start() for _ in range(3)]
    assert search.engine.progress() == Progress(6, 0, 0, 3, 11, 0, 0, 2, None)
    search.end(starts[0], 4.0)
    assert search.engine.progress() == Progress(6, 1, 0, 2, 10, 0, 0, 2, Best(0, "c0", 4.0, 1))
    search.end(starts[1], Outcome.CRASHED)
    search.end(starts[2], 5.0)
    assert search.engine.progress() == Progress(6, 3, 1, 0, 8, 0, 1, 2, Best(0, "c0", 4.0, 1))
    search.end(search.start(), Outcome.CRASHED)
    assert search.engine.progress() == Progress(6, 4, 2, 0, 6, 1, 0, 2, Best(0, "c0", 4.0, 1))

    search = search_of(TWO)
    for start in [search.start() for _ in range(3)]:
        search.end(start, Outcome.CRASHED)
    assert search.engine.progress() == Progress(5, 3, 3, 0, 6, 1, 0, 2, None)


def test_events_that_are_not_the_engines_change_nothing() -> None:
    search = search_of()
    created = StudyCreated("x", "/x.py", (), "/", ("a", "b"))
    for event in (created, SearchStarted(0.0, {}, "host", 1, "boot", "0"), SearchEnded(0.0, "stopped", "")):
        assert search.handle(event) == ()
    assert search.states() == "QQQ"


# Illegal events.


def illegal(search: Simulation, event: Event, words: str) -> str:
    """The message of the refusal; the engine is unchanged by it."""
    before = list(search.engine.trials()), search.engine.progress(), search.engine.next_start()
    with pytest.raises(InternalError, match=words) as refusal:
        search.engine.handle(event)
    search.engine.validate()
    assert (list(search.engine.trials()), search.engine.progress(), search.engine.next_start()) == before
    return str(refusal.value)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (IdsDrawn(2, ids(1, 2)), "next trial without an id is 1"),
        (IdsDrawn(0, ids(1)), "next trial without an id is 1"),
        (IdsDrawn(1, ids(5, 1)), "4 ids are wanted"),
        (IdsDrawn(1, ("a", "a")), "'a'"),
        (IdsDrawn(1, ("a", "c0")), "'c0'"),
        (SpaceExhausted(2, train_all=False), "n_ids=2"),
        (SpaceExhausted(1, train_all=False), "train_all=True"),
        (PlanMade(plan([(4, 1), (1, 3)])), "does not extend"),
        (PlanMade(plan([(3, 1), (1, 3)], [(2, 3)], max_epochs=4)), "does not extend"),
        (PlanMade(SMALL), "does not extend"),
    ],
)
def test_illegal_plans_and_ids_are_refused(event: Event, words: str) -> None:
    message = illegal(Simulation(PlanMade(TWO), IdsDrawn(0, ids(1))), event, words)
    assert "please report it with the study's journal" in message


def test_nothing_comes_before_the_plan() -> None:
    for event in (IdsDrawn(0, ids(1)), SpaceExhausted(0, train_all=False), PlanMade(Plan((), 1))):
        with pytest.raises(InternalError):
            Engine().handle(event)
    with pytest.raises(InternalError, match="PlanMade must come before"):
        assert Engine().plan
    assert Engine().handle(IdsDrawn(0, ())) == ()


@pytest.mark.parametrize("train_all", [True, False])
@pytest.mark.parametrize("made", [SMALL, plan([(2, 3)])])
def test_a_space_without_a_single_id_is_refused(made: Plan, train_all: bool) -> None:
    illegal(Simulation(PlanMade(made)), SpaceExhausted(0, train_all), "after the plan and an id")


def test_only_the_next_start_may_start() -> None:
    search = search_of()
    start = search.engine.next_start()
    assert start is not None
    event = started(start)
    for changes in (
        {"job": 1},
        {"attempt": 1},
        {"trial": 1},
        {"rung": 1},
        {"epochs": 3},
        {"trial": 99},
        {"several_gpus": True},
    ):
        message = illegal(search, replace(event, **changes), "cannot follow")
        assert "Trial" in message
    search.handle(event)
    illegal(search, event, "cannot follow")
    illegal(search_of(plan([(1, 1)])).run(lambda *_: 0.0), event, "no job could start")


def test_only_a_running_attempt_may_end() -> None:
    search = search_of()
    start = search.start()
    for event in (
        ended(start, math.nan),
        ended(start, math.inf),
        JobEnded(0.0, 0, 0, Outcome.LOSS, None, 0, 0.0, 0.0, True, ""),
        JobEnded(0.0, 0, 0, Outcome.CRASHED, 1.0, 0, 0.0, 0.0, True, ""),
        JobEnded(0.0, 0, 0, Outcome.LOST, 1.0, 0, 0.0, 0.0, True, ""),
        JobEnded(0.0, 0, 1, Outcome.CRASHED, None, 0, 0.0, 0.0, True, ""),
        JobEnded(0.0, 1, 0, Outcome.CRASHED, None, 0, 0.0, 0.0, True, ""),
    ):
        illegal(search, event, "cannot follow")
    search.end(start, 1.0)
    illegal(search, ended(start, 1.0), "this attempt is not running")


def test_the_refusal_tells_the_whole_story_of_the_trial() -> None:
    search = search_of()
    search.end(search.start(), Outcome.LOST)
    search.end(search.start(), Outcome.STOPPED)
    search.run(lambda trial, epochs: float(trial) if epochs == 1 else Outcome.OUT_OF_MEMORY)
    message = illegal(
        search, JobEnded(0.0, 3, 0, Outcome.CRASHED, None, 1, 0.0, 0.0, True, ""), "not running"
    )
    assert (
        "Trial 0 ('c0') is failed in rung 1. Its last loss is 0.0. Job 0, rung 0, attempts: Lost, Stopped, "
        "Loss. Job 3, rung 1, attempts: OutOfMemory." in message
    )


@pytest.mark.parametrize("number", [-1, 3])
def test_a_trial_without_an_id_cannot_be_looked_at(number: int) -> None:
    with pytest.raises(InternalError, match=f"Trial {number} was asked for"):
        search_of().engine.trial(number)


def test_a_broken_state_is_found() -> None:
    """The checks are worth something: spoil one field at a time."""
    spoils = [
        ("_n_open", 7, "7 brackets are counted as open"),
        ("_n_final", 2, "2 jobs are counted as final"),
        ("_epochs_left", 1, "epochs are counted as left"),
        ("_epochs_started", 99, "jobs of 99 epochs started"),
        ("_n_trials", 1, "trials have ids, the plan has 1"),
        ("_running", {}, "1 trials are running, but 0 jobs are"),
        ("_firsts", [1], "bracket 0 begins at trial 1, not 0"),
    ]
    for field, value, words in spoils:
        search = search_of()
        search.start()
        setattr(search.engine, field, value)
        with pytest.raises(InternalError, match=words):
            search.engine.validate()


# The whole of a published plan.


def test_hyperband_81_3_from_end_to_end() -> None:
    made = make_plan(
        algorithm=Algorithm.HYPERBAND,
        max_epochs=81,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=None,
    )
    search = search_of(made).run(lambda trial, epochs: trial * 37 % 101 + 1 / epochs)
    promotions = search.promotions()
    assert {place: len(trials) for place, trials in promotions.items()} == {
        (0, 1): 27,
        (0, 2): 9,
        (0, 3): 3,
        (0, 4): 1,
        (1, 1): 11,
        (1, 2): 3,
        (1, 3): 1,
        (2, 1): 5,
        (2, 2): 1,
        (3, 1): 2,
    }
    assert [view.state for view in search.engine.trials()].count(TrialState.DONE) == 1 + 1 + 1 + 2 + 5
    assert search.engine.progress().n_jobs_final == 206
    assert search.engine.best() == Best(0, "c0", 1 / 81, 81)
