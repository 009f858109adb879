"""PASHA's stopping rule by example: results of the two highest rungs -> is a higher one added."""

import itertools
import random

import pytest
from engine_fixture import Simulation, ids
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperband.search.brackets import make_plan
from hyperband.search.decisions import Decision, Finished, RungAdded, RungNotAdded, WentOn
from hyperband.search.events import IdsDrawn, PlanMade
from hyperband.search.pasha import N_RANKED, N_SAMPLED, PERCENTILE, Growth, criss_crossed
from hyperband.search.trial import Algorithm, Bracket, Outcome, Plan, Rung, TrialState

LADDER = Bracket(tuple(Rung(n, epochs) for n, epochs in ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81))))


def pasha_plan(n: int, max_epochs: int = 27) -> Plan:
    return make_plan(
        algorithm=Algorithm.PASHA,
        max_epochs=max_epochs,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=n,
    )


def search_of(made: Plan) -> Simulation:
    return Simulation(PlanMade(made), IdsDrawn(0, ids(made.n_trials)))


def growth_of(*curves: tuple[float, ...]) -> Growth:
    """What is known of trials 0, 1, .. with these losses, rung by rung."""
    growth = Growth()
    for rung in range(1, max(map(len, curves))):
        for trial, curve in enumerate(curves):
            if rung < len(curve):
                growth.see(trial, rung, curve[rung - 1], curve[rung])
    return growth


# The rule alone.


@pytest.mark.parametrize(
    ("curves", "is_added"),
    [
        # one trial has no rival
        ([(0.9, 0.5)], False),
        ([(0.9, 0.5), (0.8, 0.4)], False),
        ([(0.8, 0.5), (0.9, 0.4)], True),
        # losses that are the same in the lower rung say nothing about who is ahead there
        ([(0.9, 0.5), (0.9, 0.4)], False),
        # losses that become the same: by number, as the ranking has it
        ([(0.9, 0.5), (0.8, 0.5)], True),
        ([(0.8, 0.5), (0.9, 0.5)], False),
        ([(1e300, -1e300), (-1e300, 1e300)], True),
        ([(1.7e308, 1.0), (-1.7e308, 0.0)], False),
        # the best two agree and the others do not: the whole ranking counts
        ([(0.1, 0.1), (0.2, 0.2), (0.3, 0.4), (0.4, 0.3)], True),
    ],
)
def test_two_rungs_know_no_noise(curves: list[tuple[float, ...]], is_added: bool) -> None:
    growth = growth_of(*curves)
    assert growth.epsilon() == 0.0
    decision = growth.decide(0, LADDER, 1)
    assert isinstance(decision, RungAdded) == is_added
    assert decision.rung == (2 if is_added else 1)
    assert "with no noise known" in decision.reason


def test_the_noise_is_that_of_curves_that_cross_again_and_again() -> None:
    """Trials 0 and 1 change places twice, by 0.02 at last; 2 and 3 only once."""
    zigzag = (0.50, 0.40, 0.30), (0.49, 0.41, 0.28)
    assert criss_crossed(zigzag[0], zigzag[1]) == pytest.approx(0.02)
    assert criss_crossed((0.9, 0.8, 0.7), (0.95, 0.7, 0.6)) is None
    assert criss_crossed((0.9, 0.8, 0.7), (0.95, 0.7, 0.7)) is None, "who is ahead at last must be known"
    assert criss_crossed((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is None
    assert growth_of(*zigzag).epsilon() == pytest.approx(0.02)


def test_rankings_agree_within_the_noise() -> None:
    zigzag = (0.50, 0.40, 0.30), (0.49, 0.41, 0.28)
    near = growth_of(*zigzag)  # 0.40, 0.41 below, 0.30, 0.28 on top
    assert isinstance(near.decide(0, LADDER, 2), RungNotAdded)
    far = growth_of(*zigzag, (0.9, 0.7, 0.2))
    decision = far.decide(0, LADDER, 2)
    assert isinstance(decision, RungAdded)
    assert decision.reason == (
        "the rankings of 3 trials at epochs 3 and 9 differ at place 1 (within 0.02): trial 2, before trial 0;"
        " trials may go on to epoch 27"
    )


def test_the_distance_of_a_pair_is_that_of_the_highest_rung_it_reached() -> None:
    first, second = (0.50, 0.40, 0.30, 0.25), (0.49, 0.41, 0.28, 0.20)
    growth = growth_of(first, second)
    assert growth.epsilon() == pytest.approx(0.05)
    # it crosses once more: still one pair, and its last distance
    assert growth_of((*first, 0.1), (*second, 0.2)).epsilon() == pytest.approx(0.1)


def test_of_many_distances_the_ninetieth_percentile() -> None:
    """Pairs (0, 1), (2, 3), .. cross twice, n / 100 apart; those of different pairs never cross."""
    curves: list[tuple[float, ...]] = []
    for n in range(1, 11):
        level = 10.0 * n
        curves += [(level + 1, level - 1, level + n / 100), (level, level, level)]
    assert growth_of(*curves).epsilon() == pytest.approx(0.09)
    assert PERCENTILE == 90


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=3, max_size=3), max_size=12))
@settings(max_examples=100, deadline=None)
def test_against_the_definition(curves: list[list[float]]) -> None:
    """All pairs, all places, from the paper's words."""
    growth = growth_of(*map(tuple, curves)) if curves else Growth()
    distances = sorted(
        abs(a[2] - b[2])
        for a, b in itertools.combinations(curves, 2)
        if (a[2] - b[2]) * (a[1] - b[1]) < 0 and (a[1] - b[1]) * (a[0] - b[0]) < 0
    )
    epsilon = distances[(len(distances) - 1) * 9 // 10] if distances else 0.0
    assert growth.epsilon() == epsilon
    high = sorted(range(len(curves)), key=lambda trial: (curves[trial][2], trial))
    low = sorted(range(len(curves)), key=lambda trial: (curves[trial][1], trial))
    agree = all(abs(curves[a][1] - curves[b][1]) <= epsilon for a, b in zip(high, low, strict=True))
    assert isinstance(growth.decide(0, LADDER, 2), RungNotAdded) == agree


def test_its_costs_do_not_grow_with_the_search() -> None:
    """Only the best are ranked, and only the first are compared for noise."""
    growth = Growth()
    rng = random.Random(1)
    for trial in range(2_000):
        growth.see(trial, 1, rng.random(), rng.random())
        growth.decide(0, LADDER, 1)
    assert len(growth._high) == len(growth._low) == N_RANKED
    assert len(growth._sampled[1]) == N_SAMPLED
    best = sorted(growth._high)
    assert best == growth._high
    assert {trial for _, trial in growth._low} == {trial for _, trial in growth._high}


# Whole searches.


def verdicts(decisions: list[Decision]) -> str:
    """A letter for each look at the rankings: Added or Kept."""
    looks = [d for d in decisions if isinstance(d, RungAdded | RungNotAdded)]
    return "".join("A" if isinstance(d, RungAdded) else "K" for d in looks)


def test_rankings_that_never_change_end_far_below_the_full_number_of_epochs() -> None:
    search = search_of(pasha_plan(27)).run(lambda trial, epochs: trial / epochs)
    assert set(verdicts(search.decisions)) == {"K"}
    best = search.engine.best()
    assert best is not None
    assert (best.trial, best.epochs) == (0, 3)
    assert search.engine.is_complete
    finished = [d for d in search.decisions if isinstance(d, Finished)]
    assert [(d.rung, d.trials[0]) for d in finished] == [(1, 0)]
    assert finished[0].reason.endswith("the rankings did not ask for a higher rung")
    assert search.engine.trial(0).state is TrialState.DONE


def test_rankings_that_change_add_rungs_up_to_the_last() -> None:
    """At every other rung the order of the trials is turned over."""
    search = search_of(pasha_plan(81)).run(lambda trial, epochs: float(trial if epochs in (1, 9) else -trial))
    assert verdicts(search.decisions).count("A") == 2
    assert search.engine.best().epochs == 27  # type: ignore[union-attr]
    added = [d.rung for d in search.decisions if isinstance(d, RungAdded)]
    assert added == [2, 3]
    first_to = {d.rung: at for at, d in reversed(list(enumerate(search.decisions))) if isinstance(d, WentOn)}
    grown_at = {d.rung: at for at, d in enumerate(search.decisions) if isinstance(d, RungAdded)}
    assert all(grown_at[rung] < first_to[rung] for rung in (2, 3)), "nobody goes where no rung is yet"


@pytest.mark.parametrize("value", [1.0, 1e300, -1e300, 0.0])
def test_all_losses_equal(value: float) -> None:
    search = search_of(pasha_plan(27)).run(lambda *_: value)
    assert set(verdicts(search.decisions)) == {"K"}
    assert search.engine.best().epochs == 3  # type: ignore[union-attr]


def test_all_failed_and_failures_on_the_top_rung() -> None:
    assert search_of(pasha_plan(9)).run(lambda *_: Outcome.CRASHED).engine.is_complete
    search = search_of(pasha_plan(27)).run(
        lambda trial, epochs: Outcome.OUT_OF_MEMORY if epochs > 1 else float(trial)
    )
    assert verdicts(search.decisions) == "", "a failure changes no ranking"
    assert search.engine.best().epochs == 1  # type: ignore[union-attr]


def test_more_trials_later_may_still_add_a_rung() -> None:
    search = search_of(pasha_plan(9)).run(lambda trial, epochs: trial / epochs)
    assert search.engine.best().epochs == 3  # type: ignore[union-attr]
    search.handle(PlanMade(pasha_plan(18)))
    assert search.engine.trial(0).state is TrialState.WAITING
    search.draw(9)
    search.run(lambda trial, epochs: float(-trial if epochs == 1 else trial))
    assert "A" in verdicts(search.decisions)
    assert search.engine.best().epochs > 3  # type: ignore[union-attr]


def test_a_single_rung_is_no_pasha() -> None:
    search = search_of(pasha_plan(3, 1)).run(lambda trial, _: float(trial))
    assert search.states() == "DDD"
