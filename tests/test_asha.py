"""Searches without barriers by example: events in, decisions and starts out; and real ones."""

from collections import Counter
from typing import Any

import pytest
from engine_fixture import Simulation, ids, plan, started
from search_fixture import LOSS, Searches, script, searches, until

from hyperband.errors import InternalError, UsageError
from hyperband.journal import read_events
from hyperband.report.tables import plan_table
from hyperband.search.brackets import exhausted_plan, is_extension, ladder, make_plan
from hyperband.search.decisions import (
    BracketDone,
    BracketFailed,
    Decision,
    Dropped,
    PlanChanged,
    PlanKept,
    SearchComplete,
    TrialFailed,
    WentOn,
)
from hyperband.search.events import IdsDrawn, JobStarted, PlanMade, SpaceExhausted
from hyperband.search.trial import Algorithm, Outcome, Plan, Promotion, Start, TrialState

__all__ = ["searches"]

CRASHED = Outcome.CRASHED


def asha_plan(
    n: int | None = 9,
    max_epochs: int = 9,
    *,
    eta: int = 3,
    min_epochs: int = 1,
    total: int | None = None,
    algorithm: Algorithm = Algorithm.ASHA,
) -> Plan:
    return make_plan(
        algorithm=algorithm,
        max_epochs=max_epochs,
        eta=eta,
        min_epochs=min_epochs,
        brackets=None,
        repeat=1,
        max_trials=n,
        max_total_epochs=total,
    )


def search_of(made: Plan) -> Simulation:
    return Simulation(PlanMade(made), IdsDrawn(0, ids(made.n_trials)))


def next_of(search: Simulation) -> tuple[int, int] | None:
    """(trial, rung) of the next start."""
    start = search.engine.next_start()
    return None if start is None else (start.trial, start.rung)


def is_complete(search: Simulation) -> bool:
    return search.engine.is_complete


def kinds(decisions: tuple[Decision, ...]) -> list[type[Decision]]:
    return [type(decision) for decision in decisions]


# The plan.


@pytest.mark.parametrize(
    ("max_epochs", "eta", "min_epochs", "epochs"),
    [
        (52, 3, 1, (1, 3, 9, 27, 52)),
        (81, 3, 1, (1, 3, 9, 27, 81)),
        (81, 3, 2, (2, 6, 18, 54, 81)),
        (1000, 10, 1, (1, 10, 100, 1000)),
        (9, 9, 1, (1, 9)),
        (5, 3, 5, (5,)),
        (28, 3, 1, (1, 3, 9, 27, 28)),
    ],
)
def test_the_rungs_count_up_from_the_shortest(
    max_epochs: int, eta: int, min_epochs: int, epochs: tuple[int, ...]
) -> None:
    assert ladder(max_epochs=max_epochs, eta=eta, min_epochs=min_epochs) == epochs


def test_the_number_of_trials_by_default() -> None:
    """As many as Hyperband starts, or as it takes to expect one at R."""
    assert asha_plan(None, 81).n_trials == 143
    assert asha_plan(None, 52).n_trials == 81
    assert [(rung.n, rung.epochs) for rung in asha_plan(None, 52).brackets[0].rungs] == [
        (81, 1),
        (27, 3),
        (9, 9),
        (3, 27),
        (1, 52),
    ]


@pytest.mark.parametrize("total", [3, 4, 60, 268, 10_000])
def test_trials_are_short_of_no_epoch(total: int) -> None:
    made = asha_plan(None, 52, total=total, min_epochs=3)
    assert made.n_trials == total // 3, "also if none of them ever goes on, all the epochs are used"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": Algorithm.ASHA, "asynchronous": True}, "--async was given with --algorithm asha"),
        ({"algorithm": Algorithm.RANDOM, "asynchronous": True}, "--async was given with --algorithm random"),
        ({"algorithm": Algorithm.PASHA, "brackets": 1}, "--brackets 1 was given with --algorithm pasha"),
        ({"algorithm": Algorithm.RANDOM, "max_total_epochs": 9}, "--max-total-epochs 9 was given"),
        ({"algorithm": Algorithm.ASHA, "max_total_epochs": 1, "min_epochs": 2}, "--max-total-epochs is 1"),
        ({"algorithm": Algorithm.ASHA, "max_trials": 0}, "--max-trials is 0"),
        ({"algorithm": Algorithm.HYPERBAND, "max_trials": 3}, "only random, asha and pasha"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, object], words: str) -> None:
    options: dict[str, object] = {
        "max_epochs": 9,
        "eta": 3,
        "min_epochs": 1,
        "brackets": None,
        "repeat": 1,
        "max_trials": None,
    }
    with pytest.raises(UsageError, match=words):
        make_plan(**(options | changes))  # type: ignore[arg-type]


def test_what_extends_a_plan() -> None:
    limited = asha_plan(9, total=20)
    assert is_extension(asha_plan(10, total=20), of=limited)
    assert is_extension(asha_plan(9, total=21), of=limited)
    assert is_extension(asha_plan(9), of=limited)
    assert not is_extension(limited, of=asha_plan(9))
    assert not is_extension(asha_plan(8, total=20), of=limited)
    assert not is_extension(asha_plan(9, 27, total=20), of=limited)
    assert not is_extension(asha_plan(9, algorithm=Algorithm.PASHA), of=asha_plan(9))


def test_the_plan_says_what_is_an_estimate() -> None:
    text = plan_table(asha_plan(9, total=30))
    assert "9 @ 1  about 3 @ 3  about 1 @ 9" in text
    assert "about 13" in text
    assert "among the best 1/3 of its rung so far" in text
    assert (
        "The numbers above rung 0 are estimates, and rather low: later trials that are better go on, too."
        in text
    )
    assert "more than 30 epochs in all" in text
    assert "About 9 trials in rung 0 are needed for one at 9 epochs" in plan_table(asha_plan(8))
    assert "estimates" not in plan_table(plan([(9, 1), (3, 3)]))


# ASHA's promotion rule: events -> the next start.


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        # nobody is among the best third of two
        ([0.2, 0.1], (2, 0)),
        ([0.2, 0.1, 0.3], (1, 1)),
        # a tie goes to the lower trial number, and -0.0 is 0.0
        ([0.1, 0.1, 0.1], (0, 1)),
        ([0.0, -0.0, 0.5], (0, 1)),
        # failures are no results: two losses are too few
        ([0.2, 0.1, CRASHED], (3, 0)),
        ([CRASHED, 0.2, CRASHED, 0.1, 0.3], (3, 1)),
        ([1e300, -1e300, 1e300], (1, 1)),
        ([CRASHED] * 8, (8, 0)),
    ],
)
def test_who_goes_on_first(losses: list[float | Outcome], expected: tuple[int, int]) -> None:
    search = search_of(asha_plan(27))
    for result in losses:
        search.end(search.start(), result)
    assert next_of(search) == expected


def test_the_rule_step_by_step() -> None:
    """Li et al. 2020, Algorithm 2, with eta 3: the highest rung first, and every result may change who is."""
    search = search_of(asha_plan(27))
    running = [search.start() for _ in range(9)]
    assert [start.trial for start in running] == list(range(9))
    steps: list[tuple[int, float | Outcome, tuple[int, int]]] = [
        (4, 0.5, (9, 0)),
        (8, 0.4, (9, 0)),
        (0, CRASHED, (9, 0)),
        (1, 0.6, (8, 1)),
    ]
    for trial, result, following in steps:
        search.end(running[trial], result)
        assert next_of(search) == following
    promoted = search.start()
    assert (promoted.trial, promoted.epochs) == (8, 3)
    assert search.decisions[-1] == WentOn(
        8,
        0,
        1,
        "among the best 1 of 3 losses in rung 0 so far, and the best of them that had not gone on: goes on "
        "to epoch 3",
    )
    # one better than all: it is the best third of four, although one went on already
    search.end(running[2], 0.1)
    assert next_of(search) == (2, 1)
    search.start()
    search.end(running[3], 0.2)
    assert next_of(search) == (9, 0)
    search.end(running[5], 0.3)
    assert next_of(search) == (3, 1)
    # three results in rung 1: it comes before rung 0, where another one waits as well
    third = search.start()
    search.end(promoted, 9.0)
    search.end(next(s for s in search.engine.running() if s.trial == 2), 8.0)
    search.end(third, 7.0)
    search.end(running[6], 0.01)
    assert search.engine.n_startable == 2 + 18
    assert next_of(search) == (3, 2)
    search.start()
    assert next_of(search) == (6, 1)


def test_a_trial_that_was_pushed_out_of_the_best_waits() -> None:
    search = search_of(asha_plan(27))
    running = [search.start() for _ in range(6)]
    for trial, loss in ((0, 0.5), (1, 0.6), (2, 0.7)):
        search.end(running[trial], loss)
    assert next_of(search) == (0, 1)
    search.end(running[3], 0.4)  # nobody had a slot for trial 0 in the meantime
    assert next_of(search) == (3, 1)
    search.start()
    assert next_of(search) == (6, 0)
    search.end(running[4], 0.8)
    search.end(running[5], 0.9)
    assert next_of(search) == (0, 1)


def test_retries_come_before_promotions() -> None:
    search = search_of(asha_plan(27))
    running = [search.start() for _ in range(4)]
    for trial in range(3):
        search.end(running[trial], float(trial))
    search.end(running[3], Outcome.LOST)
    assert [(s.trial, s.rung) for s in search.engine.starts()] == [(3, 0), (0, 1)]
    retried = search.start()
    assert (retried.attempt, retried.job) == (1, 3)
    promoted = search.start()
    search.end(promoted, Outcome.STOPPED)
    assert [(s.trial, s.rung, s.attempt) for s in search.engine.starts()] == [(0, 1, 1), (4, 0, 0)]


def test_asha_ends_when_nothing_runs_or_can_go_on() -> None:
    search = search_of(asha_plan(9)).run(lambda trial, epochs: trial + 1 / epochs)
    assert search.states() == "DPPPPPPPP"
    dropped = [trial for d in search.decisions if isinstance(d, Dropped) for trial in d.trials]
    assert sorted(dropped) == list(range(1, 9)), "each once"
    assert kinds(tuple(d for d in search.decisions if not isinstance(d, Dropped))) == [
        PlanChanged,
        WentOn,
        WentOn,
        WentOn,
        WentOn,
        BracketDone,
        SearchComplete,
    ]
    assert search.decisions[-1].reason == (
        "every bracket is over after 13 jobs, 0 of them failed: best loss 0.1111111111111111 at epoch 9"
    )
    progress = search.engine.progress()
    assert (progress.n_jobs_planned, progress.epochs_left, progress.is_estimate) == (13, 0, True)


def test_who_cannot_go_on_whatever_comes_is_left_behind_at_once() -> None:
    """Nine trials: the best three of nine losses go on at most, of eight the best two."""
    search = search_of(asha_plan(9))
    running = [search.start() for _ in range(9)]
    for trial in range(3):
        assert search.end(running[trial], float(trial)) == ()
    why = "not among the best 3 of rung 0, which can have 9 losses at most"
    assert search.end(running[3], 3.0) == (Dropped(0, 0, (3,), why),)
    search.end(running[4], CRASHED)
    why = "not among the best 2 of rung 0, which can have 8 losses at most"
    assert search.end(running[5], -1.0) == ()
    assert search.end(running[6], 1.5) == (Dropped(0, 0, (1, 2, 6), why),)
    assert search.states() == "WPPPFWPRR"


def test_what_may_still_come_from_below_keeps_a_trial() -> None:
    search = search_of(asha_plan(9))
    running = [search.start() for _ in range(9)]
    for trial in range(3):
        search.end(running[trial], float(trial))
    assert search.end(search.start(), 0.5) == (), "rung 1 can have 9 losses"
    assert search.states() == "WWWRRRRRR"
    for trial in range(3, 8):
        search.end(running[trial], CRASHED)
    assert search.states() == "WWWFFFFFR"


def test_losses_that_get_better_and_better_promote_more_than_one_in_eta() -> None:
    """The estimate of the plan is no limit: each new best is among the best third when it comes."""
    search = search_of(asha_plan(9)).run(lambda trial, epochs: -trial - epochs / 100)
    jobs = Counter(event.rung for event in search.events if isinstance(event, JobStarted))
    assert jobs[0] == 9
    assert jobs[1] > 3


def test_all_losses_equal_and_all_failed() -> None:
    equal = search_of(asha_plan(9)).run(lambda *_: 1.0)
    assert equal.states() == "DPPPPPPPP"
    failed = search_of(asha_plan(9)).run(lambda *_: CRASHED)
    assert failed.states() == "F" * 9
    assert [d for d in failed.decisions if not isinstance(d, TrialFailed | PlanChanged)] == [
        BracketFailed(0, 0, "every job of rung 0 (9 to epoch 1, 9 failed) failed: nothing to promote"),
        SearchComplete("every bracket is over after 9 jobs, 9 of them failed: without a single loss"),
    ]


def test_a_limit_of_epochs() -> None:
    """The highest rung first while it fits; jobs that fit go on below it; retries are free."""
    search = search_of(asha_plan(27, total=12))
    n_epochs = 0
    while search.engine.next_start() is not None:
        start = search.start()
        if start.attempt == 0 and start.job in (2, 3):
            search.end(start, Outcome.LOST)
            continue
        n_epochs += start.epochs - (start.epochs // 3 if start.rung else 0)
        search.end(start, start.trial + 1 / start.epochs)
    assert n_epochs == 12
    assert is_complete(search)
    assert search.engine.n_ids_wanted() == 0
    assert search.states().count("Q") > 0, "there were more trials than epochs"
    search.handle(PlanMade(asha_plan(27, total=30)))
    assert not is_complete(search)
    search.run(lambda trial, epochs: trial + 1 / epochs)
    assert search.engine.best().epochs == 9  # type: ignore[union-attr]


def test_a_limit_that_ends_a_search_before_all_ids_are_there() -> None:
    search = Simulation(PlanMade(asha_plan(27, total=10)), IdsDrawn(0, ids(12)))
    search.run(lambda trial, epochs: trial + 1 / epochs)
    assert is_complete(search)
    assert not search.engine.wants_id()
    search.handle(IdsDrawn(12, ids(3, 12)))
    search.handle(SpaceExhausted(15, train_all=False))
    assert kinds(tuple(search.decisions[-2:])) == [SearchComplete, PlanChanged]


def test_more_trials_take_those_back_that_were_left_behind() -> None:
    search = search_of(asha_plan(6)).run(lambda trial, epochs: trial + 1 / epochs)
    assert search.states() == "PPPPPP"
    search.handle(PlanMade(asha_plan(9)))
    assert search.states() == "WWWWWW"
    assert next_of(search) is None
    search.draw(3)
    search.end(search.start(), 6.5)
    assert search.states() == "WWWPPPPQQ", "nine losses have three best"
    search.run(lambda trial, epochs: trial + 1 / epochs)
    assert search.states() == "DPPPPPPPP"
    assert search.engine.trial(2).rung == 1


def test_a_small_space_is_trained_whole() -> None:
    search = Simulation(PlanMade(asha_plan(27)), IdsDrawn(0, ids(4)))
    assert next_of(search) is None, "who knows how many there are"
    search.handle(SpaceExhausted(4, train_all=True))
    assert search.engine.plan == plan([(4, 9)])
    search.run(lambda trial, _: float(trial))
    assert search.states() == "DDDD"
    search.handle(PlanMade(asha_plan(40)))
    assert isinstance(search.decisions[-1], PlanKept)


def test_a_space_that_ends_later() -> None:
    search = Simulation(PlanMade(asha_plan(27)), IdsDrawn(0, ids(10)))
    search.run(lambda trial, epochs: trial + 1 / epochs)
    assert not is_complete(search)
    search.handle(SpaceExhausted(10, train_all=False))
    assert search.engine.plan == asha_plan(10)
    assert is_complete(search)
    assert search.states() == "DPPPPPPPPP"
    assert exhausted_plan(asha_plan(27), n_ids=10, train_all=False) == asha_plan(10)


def test_more_epochs_after_the_space_has_ended() -> None:
    search = Simulation(PlanMade(asha_plan(27, total=12)), IdsDrawn(0, ids(9)))
    search.handle(SpaceExhausted(9, train_all=False))
    search.run(lambda trial, epochs: trial + 1 / epochs)
    assert is_complete(search)
    search.handle(PlanMade(asha_plan(27, total=40)))
    assert not is_complete(search)
    search.run(lambda trial, epochs: trial + 1 / epochs)
    assert search.states() == "DPPPPPPPP"


def test_alone_once_nothing_else_can_follow() -> None:
    search = search_of(asha_plan(3))
    for loss in (0.1, 0.2, 0.3):
        assert not search.engine.next_start().alone  # type: ignore[union-attr]
        search.end(search.start(), loss)
    start = search.engine.next_start()
    assert start is not None
    assert (start.trial, start.rung, start.alone) == (0, 1, True)


def test_only_the_next_start_may_start() -> None:
    search = search_of(asha_plan(9))
    for loss in (0.3, 0.2, 0.1):
        search.end(search.start(), loss)
    wrong = Start(3, 0, 1, "c1", 0, 1, 3, False, False, (), False)
    with pytest.raises(InternalError, match=r"the next start is job 3, attempt 0, of trial 2 in rung 1"):
        search.engine.handle(started(wrong))
    search.engine.validate()


def test_a_broken_state_is_found() -> None:
    spoils = [
        ("entered", 5, "counts"),
        ("n_promotable", 2, "to promote"),
        ("n_dropped", 1, "that wait"),
        ("n_results", 7, "of 7"),
    ]
    for field, value, words in spoils:
        search = search_of(asha_plan(9))
        for loss in (0.3, 0.2, 0.1):
            search.end(search.start(), loss)
        setattr(search.engine._brackets[0].rungs[0], field, value)  # type: ignore[union-attr]
        with pytest.raises(InternalError, match=words):
            search.engine.validate()


# Brackets without barriers.


def async_plan(*brackets: list[tuple[int, int]]) -> Plan:
    made = plan(*brackets)
    return Plan(made.brackets, made.max_epochs, Promotion.ASYNCHRONOUS, 3)


def test_a_bracket_goes_on_before_its_rung_is_complete_and_is_filled_in_the_end() -> None:
    search = search_of(async_plan([(9, 1), (3, 3), (1, 9)]))
    running = [search.start() for _ in range(9)]
    for trial, loss in ((8, 0.8), (7, 0.7), (6, 0.6)):
        search.end(running[trial], loss)
    assert next_of(search) == (6, 1)
    search.start()
    for trial in (0, 1, 2, 3):
        search.end(running[trial], CRASHED)
    assert next_of(search) is None
    search.end(running[4], 0.9)
    search.end(running[5], 1.0)
    # five losses have one best third, but three trials are to go on
    assert search.engine.n_startable == 2
    assert next_of(search) == (7, 1)
    search.start()
    reason = search.decisions[-1].reason
    assert reason == "rung 0 is complete (9 to epoch 1, 4 failed): the best left goes on to epoch 3"
    search.start()
    assert search.decisions[-1] == Dropped(0, 0, (4, 5), "rung 1 has all of its trials")


def test_a_rung_that_is_full_takes_nobody_else() -> None:
    search = search_of(async_plan([(6, 1), (2, 3)]))
    running = [search.start() for _ in range(6)]
    for trial, loss in enumerate((0.6, 0.5, 0.4, 0.3)):
        search.end(running[trial], loss)
        if next_of(search):
            search.start()
    assert search.states() == "PPRRRR"
    assert search.end(running[4], 0.2) == (Dropped(0, 0, (4,), "rung 1 has all of its trials"),)
    search.end(running[5], 0.1)
    assert next_of(search) is None
    for job in search.engine.running():
        search.end(job, 1.0)
    assert is_complete(search)
    assert search.states() == "PPDDPP"


def test_no_bracket_waits_for_another_and_the_first_comes_first() -> None:
    search = search_of(async_plan([(3, 1), (1, 3)], [(3, 1), (1, 3)]))
    running = [search.start() for _ in range(5)]
    assert [start.bracket for start in running] == [0, 0, 0, 1, 1]
    search.end(running[0], 0.1)
    search.end(running[1], 0.2)
    assert next_of(search) == (5, 0)
    search.end(running[2], 0.3)
    assert next_of(search) == (0, 1)
    search.start()
    assert next_of(search) == (5, 0)
    search.run(lambda *_: 1.0)
    for job in search.engine.running():
        search.end(job, 1.0)
    assert search.run(lambda *_: 1.0).engine.is_complete


def test_a_space_that_ends_within_an_asynchronous_bracket_keeps_who_went_on() -> None:
    search = Simulation(PlanMade(async_plan([(9, 1), (3, 3), (1, 9)])), IdsDrawn(0, ids(6)))
    running = [search.start() for _ in range(6)]
    for trial, loss in enumerate((0.6, 0.5, 0.4, 0.3, 0.2)):
        search.end(running[trial], loss)
        if next_of(search):
            search.start()
    search.handle(SpaceExhausted(6, train_all=False))
    assert [rung.n for rung in search.engine.plan.brackets[0].rungs] == [6, 3, 1]
    search.end(running[5], 0.1)
    for job in search.engine.running():
        search.end(job, 1.0)
    search.run(lambda *_: 0.5)
    assert is_complete(search)


# Real searches.


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--algorithm", "asha", "--max-total-epochs", "21"),
        ("--algorithm", "pasha", "--max-trials", "9"),
        ("--algorithm", "halving", "--async"),
    ],
)
def test_a_whole_search_that_is_killed_on_the_way(searches: Searches, options: tuple[str, ...]) -> None:
    searches.write(script(f"import time\ntime.sleep(0.1)\n{LOSS}"))
    options = (*options, "--max-epochs", "9", "--slots", "2", "--debug")
    search = searches.start(*options)
    until(lambda: len(starts_of(searches)) >= 5, "five jobs have started")
    searches.kill(search)
    before = starts_of(searches)
    ran = searches.run(*options)
    assert ran.exit_code == 0, ran.err
    assert starts_of(searches)[: len(before)] == before
    assert ran.document["state"] == "finished"
    states = Counter(trial["state"] for trial in ran.document["trials"])
    assert set(states) <= {TrialState.DROPPED, TrialState.DONE, TrialState.QUEUED}
    jobs = [job for job in ran.document["jobs"] if job["outcome"] == "Loss"]
    assert len(jobs) == len({(job["trial"], job["epochs"]) for job in jobs})
    again = searches.run(*options)
    assert again.document["best"] == ran.document["best"]
    assert len(again.document["jobs"]) == len(ran.document["jobs"])


@pytest.mark.slow
def test_more_may_be_asked_for_later_and_less_is_refused(searches: Searches) -> None:
    searches.write(script())
    options = ("--algorithm", "asha", "--max-epochs", "9", "--slots", "2", "--max-total-epochs")
    ran = searches.run(*options, "12")
    assert ran.exit_code == 0, ran.err
    grown = searches.run(*options, "25")
    assert grown.exit_code == 0, grown.err
    assert n_epochs_of(ran.document) == 12
    assert 12 < n_epochs_of(grown.document) <= 25
    assert grown.document["jobs"][: len(ran.document["jobs"])] == ran.document["jobs"]
    refusals = {
        (*options, "24"): "--max-total-epochs was 25 and is now 24, but it may only grow",
        (*options, "25", "--max-trials", "5"): "--max-trials was 25 (its default) and is now 5",
    }
    for words, found in refusals.items():
        refused = searches.run(*words)
        assert refused.exit_code == 2
        assert found in refused.err
    forgotten = searches.run(*options[:-1])
    assert forgotten.exit_code == 2
    assert "--max-total-epochs was 25 and is left out now" in forgotten.err
    assert "--max-total-epochs none" in forgotten.err
    lifted = searches.run(*options, "none")
    assert lifted.exit_code == 0, lifted.err
    assert n_epochs_of(lifted.document) > 25
    assert "of at most" not in searches.command("report", str(searches.study)).out.partition("epochs  ")[2]
    again = searches.run(*options[:-1])
    assert again.exit_code == 0, again.err
    assert again.document["jobs"] == lifted.document["jobs"]


def test_a_study_without_a_limit_of_epochs_gets_none_later(searches: Searches) -> None:
    searches.write(script())
    options = ("--algorithm", "asha", "--max-epochs", "3", "--slots", "2")
    assert searches.run(*options).exit_code == 0
    refused = searches.run(*options, "--max-total-epochs", "300")
    assert refused.exit_code == 2
    assert "this study has no such limit" in refused.err


def n_epochs_of(document: dict[str, Any]) -> int:
    """Epochs of all jobs, each from the rung below its own."""
    rungs = [rung["epochs"] for rung in document["plan"][0]["rungs"]]
    return sum(job["epochs"] - (rungs[job["rung"] - 1] if job["rung"] else 0) for job in document["jobs"])


def test_barriers_cannot_be_taken_away_later(searches: Searches) -> None:
    searches.write(script())
    options = ("--algorithm", "halving", "--max-epochs", "3")
    assert searches.run(*options).exit_code == 0
    refused = searches.run(*options, "--async")
    assert refused.exit_code == 2
    assert "--async was not given and now is; leave it out" in refused.err


#: goes on from a checkpoint, and crashes where one should be and is not
SAVES = """
import os
path = os.path.join("runs", config_id)
if epochs > 1 and not os.path.exists(path):
    sys.exit("no checkpoint")
os.makedirs("runs", exist_ok=True)
open(path, "w").close()
print(float(config_id[2:]) + 1 / epochs)
"""


@pytest.mark.parametrize(
    "options",
    [("--algorithm", "asha"), ("--algorithm", "pasha"), ("--algorithm", "halving", "--async")],
)
def test_checkpoints_stay_until_nobody_can_want_them(searches: Searches, options: tuple[str, ...]) -> None:
    searches.write(script(SAVES))
    keep = ("--keep-checkpoints", "none", "--checkpoints", "runs/{config_id}")
    ran = searches.run(*options, *keep, "--max-epochs", "9", "--slots", "3")
    assert ran.exit_code == 0, ran.err
    assert {job["outcome"] for job in ran.document["jobs"]} == {"Loss"}
    left = [path.name for path in (searches.folder / "runs").iterdir() if path.is_file()]
    assert left == [ran.document["best"]["config_id"]]


def starts_of(searches: Searches) -> list[tuple[int, int]]:
    """(trial, rung) of each start in the journal."""
    if not (searches.study / "journal.db").exists():
        return []
    return [(e.trial, e.rung) for e in read_events(searches.study) if isinstance(e, JobStarted)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("asha", "--max-trials", "9"), "all 9 trials were tried, and nobody is left to go on"),
        (
            ("asha", "--max-total-epochs", "5"),
            "--max-total-epochs 5 is used up, after 3 of at most 5 trials; no trial went on beyond 3 epochs",
        ),
        (
            ("asha", "--max-total-epochs", "4"),
            "--max-total-epochs 4 is used up; no trial went on beyond 1 epoch",
        ),
        (
            ("asha", "--max-total-epochs", "5", "--min-epochs", "3", "--max-trials", "2"),
            "--max-total-epochs 5 is used up, after 1 of at most 2 trials: no job fits into the 2 epochs"
            " left; no trial went on beyond 3 epochs",
        ),
        (
            ("asha", "--max-total-epochs", "5", "--max-trials", "9"),
            "--max-total-epochs 5 is used up, after 3 of at most 9 trials; no trial went on beyond 3 epochs",
        ),
        (
            ("pasha", "--max-trials", "4"),
            "all 4 trials were tried, and their rankings at epochs 1 and 3 agree, so no higher rung was"
            " needed; no trial went on beyond 3 epochs",
        ),
    ],
)
def test_the_end_says_how_far_a_search_without_barriers_got(
    searches: Searches, options: tuple[str, ...], reason: str
) -> None:
    searches.write(script())
    ran = searches.run("--max-epochs", "9", "--slots", "1", "--algorithm", *options)
    assert ran.exit_code == 0, ran.err
    assert f"finished: {reason}\n" in ran.err
