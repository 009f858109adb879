"""The plans: the published numbers, exact rational arithmetic, options that do not go together."""

from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperband.errors import UsageError
from hyperband.search.brackets import exhausted_plan, hyperband_brackets, is_extension, make_plan
from hyperband.search.trial import Algorithm, Bracket, Plan, Rung

Numbers = list[list[tuple[int, int]]]


def numbers(plan: Plan) -> Numbers:
    return [[(rung.n, rung.epochs) for rung in bracket.rungs] for bracket in plan.brackets]


def plan_of(
    max_epochs: int = 81,
    eta: int = 3,
    min_epochs: int = 1,
    *,
    algorithm: Algorithm = Algorithm.HYPERBAND,
    brackets: int | None = None,
    repeat: int = 1,
    max_trials: int | None = None,
) -> Plan:
    return make_plan(
        algorithm=algorithm,
        max_epochs=max_epochs,
        eta=eta,
        min_epochs=min_epochs,
        brackets=brackets,
        repeat=repeat,
        max_trials=max_trials,
    )


PLAN_81_3: Numbers = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
]


@pytest.mark.parametrize(
    ("max_epochs", "eta", "min_epochs", "expected"),
    [
        (81, 3, 1, PLAN_81_3),
        (
            180,
            5,
            1,
            [
                [(125, 1), (25, 7), (5, 36), (1, 180)],
                [(34, 7), (6, 36), (1, 180)],
                [(10, 36), (2, 180)],
                [(4, 180)],
            ],
        ),
        (
            243,
            3,
            1,
            [
                [(243, 1), (81, 3), (27, 9), (9, 27), (3, 81), (1, 243)],
                [(98, 3), (32, 9), (10, 27), (3, 81), (1, 243)],
                [(41, 9), (13, 27), (4, 81), (1, 243)],
                [(18, 27), (6, 81), (2, 243)],
                [(9, 81), (3, 243)],
                [(6, 243)],
            ],
        ),
        (
            1000,
            10,
            1,
            [
                [(1000, 1), (100, 10), (10, 100), (1, 1000)],
                [(134, 10), (13, 100), (1, 1000)],
                [(20, 100), (2, 1000)],
                [(4, 1000)],
            ],
        ),
        (9, 3, 1, [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)]]),
        (81, 3, 9, [[(9, 9), (3, 27), (1, 81)], [(5, 27), (1, 81)], [(3, 81)]]),
        (1, 2, 1, [[(1, 1)]]),
        (7, 7, 7, [[(1, 7)]]),
        (8, 3, 3, [[(1, 8)]]),
    ],
)
def test_plans_by_the_number(max_epochs: int, eta: int, min_epochs: int, expected: Numbers) -> None:
    assert numbers(plan_of(max_epochs, eta, min_epochs)) == expected


def test_the_totals_with_and_without_resuming() -> None:
    plan = plan_of(81, 3)
    assert plan.n_trials == 143
    assert plan.n_jobs == 206
    assert plan.epochs == 405 + 363 + 351 + 378 + 405
    assert (
        plan.epochs_resumed == (81 + 54 + 54 + 54 + 54) + (102 + 66 + 54 + 54) + (135 + 90 + 54) + 324 + 405
    )


def algorithm_1(max_epochs: int, eta: int, min_epochs: int) -> Numbers:
    """Li et al. 2018, Algorithm 1, in rational numbers and in the paper's own symbols.

    R is counted in units of the smallest resource for s_max; n and r are exact until their floors.
    """
    ratio = Fraction(max_epochs, min_epochs)
    s_max = max(s for s in range(max_epochs.bit_length() + 1) if Fraction(eta) ** s <= ratio)
    budget = (s_max + 1) * Fraction(max_epochs)
    plan = []
    for s in reversed(range(s_max + 1)):
        n = ceil(budget / max_epochs * Fraction(eta**s, s + 1))
        r = max_epochs * Fraction(eta) ** -s
        plan.append([(floor(n * Fraction(eta) ** -i), floor(r * eta**i)) for i in range(s + 1)])
    return plan


@st.composite
def resources(draw: st.DrawFn) -> tuple[int, int, int]:
    """(R, eta, r), often at or beside an exact power, where floating point goes wrong."""
    eta = draw(st.integers(2, 12))
    min_epochs = draw(st.integers(1, 40))
    near_a_power = min_epochs * eta ** draw(st.integers(0, 5)) + draw(st.integers(-1, 1))
    max_epochs = draw(st.one_of(st.just(near_a_power), st.integers(1, 3000)))
    return max(max_epochs, min_epochs), eta, min_epochs


@settings(deadline=None)
@given(resources())
def test_plans_against_exact_rational_arithmetic(case: tuple[int, int, int]) -> None:
    max_epochs, eta, min_epochs = case
    assert numbers(plan_of(max_epochs, eta, min_epochs)) == algorithm_1(max_epochs, eta, min_epochs)


@settings(deadline=None)
@given(resources())
def test_what_holds_for_every_plan(case: tuple[int, int, int]) -> None:
    max_epochs, eta, min_epochs = case
    brackets = hyperband_brackets(max_epochs=max_epochs, eta=eta, min_epochs=min_epochs)
    assert [len(bracket.rungs) for bracket in brackets] == list(range(len(brackets), 0, -1))
    for bracket in brackets:
        epochs = [rung.epochs for rung in bracket.rungs]
        assert epochs == sorted(set(epochs))
        assert epochs[0] >= min_epochs
        assert epochs[-1] == max_epochs
        sizes = [rung.n for rung in bracket.rungs]
        assert sizes[-1] >= 1
        assert all(after * eta <= before for before, after in pairwise(sizes))


def test_an_epoch_count_beyond_floating_point() -> None:
    brackets = hyperband_brackets(max_epochs=10**18 - 1, eta=10, min_epochs=1)
    assert len(brackets) == 18
    assert brackets[0].rungs[0].n == 10**17
    assert brackets[0].rungs[-2].epochs == 10**17 - 1


@pytest.mark.parametrize("n_brackets", [1, 2, 5])
@pytest.mark.parametrize("repeat", [1, 3])
def test_the_most_exploring_brackets_several_times(n_brackets: int, repeat: int) -> None:
    assert numbers(plan_of(brackets=n_brackets, repeat=repeat)) == PLAN_81_3[:n_brackets] * repeat


def test_halving_is_the_most_exploring_bracket_alone() -> None:
    assert numbers(plan_of(algorithm=Algorithm.HALVING, repeat=2)) == PLAN_81_3[:1] * 2


@pytest.mark.parametrize(
    ("repeat", "max_trials", "n"), [(1, None, 23), (2, None, 46), (10, None, 234), (1, 7, 7), (3, 1, 1)]
)
def test_random_costs_as_much_as_hyperband_or_what_is_said(
    repeat: int, max_trials: int | None, n: int
) -> None:
    plan = plan_of(algorithm=Algorithm.RANDOM, repeat=repeat, max_trials=max_trials)
    assert numbers(plan) == [[(n, 81)]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eta": 1}, "--eta is 1"),
        ({"eta": -3}, "--eta is -3"),
        ({"min_epochs": 0}, "--min-epochs is 0"),
        ({"min_epochs": 82}, "--min-epochs is 82 and --max-epochs is 81"),
        ({"max_epochs": 0}, "--max-epochs is 0"),
        ({"repeat": 0}, "--repeat is 0"),
        ({"brackets": 0}, "--brackets is 0, but must be from 1 to 5"),
        ({"brackets": 6}, "--brackets is 6, but must be from 1 to 5"),
        ({"brackets": 1, "algorithm": Algorithm.HALVING}, "--brackets 1 was given with --algorithm halving"),
        ({"brackets": 1, "algorithm": Algorithm.RANDOM}, "--brackets 1 was given with --algorithm random"),
        ({"max_trials": 5}, "--max-trials 5 was given with --algorithm hyperband"),
        (
            {"max_trials": 5, "algorithm": Algorithm.HALVING},
            "--max-trials 5 was given with --algorithm halving",
        ),
        ({"max_trials": 0, "algorithm": Algorithm.RANDOM}, "--max-trials is 0"),
    ],
)
def test_wrong_numbers_are_refused_with_what_to_do(options: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        plan_of(**options)  # type: ignore[arg-type]
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    ("n_ids", "expected"),
    [
        (17, [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)]]),
        (16, [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(2, 9)]]),
        (14, [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)]]),
        (11, [[(9, 1), (3, 3), (1, 9)], [(2, 3), (1, 9)]]),
        (9, [[(9, 1), (3, 3), (1, 9)]]),
        (7, [[(7, 1), (2, 3), (1, 9)]]),
        (2, [[(2, 1), (1, 3), (1, 9)]]),
        (1, [[(1, 1), (1, 3), (1, 9)]]),
    ],
)
def test_a_small_space_shrinks_and_drops_brackets(n_ids: int, expected: Numbers) -> None:
    plan = exhausted_plan(plan_of(9, 3), n_ids=n_ids, train_all=False)
    assert numbers(plan) == expected
    assert plan.n_trials == n_ids


def test_a_space_small_enough_is_trained_whole() -> None:
    assert numbers(exhausted_plan(plan_of(9, 3, repeat=2), n_ids=7, train_all=True)) == [[(7, 9)]]


@settings(deadline=None)
@given(resources(), st.data())
def test_shrunk_rungs_divide_by_eta_in_every_bracket(case: tuple[int, int, int], data: st.DataObject) -> None:
    max_epochs, eta, min_epochs = case
    plan = plan_of(max_epochs, eta, min_epochs, repeat=data.draw(st.integers(1, 2)))
    n_ids = data.draw(st.integers(1, plan.n_trials))
    expected = []
    for bracket in numbers(plan):
        m = min(bracket[0][0], n_ids)
        n_ids -= m
        if m == bracket[0][0]:
            expected.append(bracket)
        elif m > 0:
            expected.append([(max(1, m // eta**i), epochs) for i, (_, epochs) in enumerate(bracket)])
    shrunk = exhausted_plan(plan, n_ids=sum(bracket[0][0] for bracket in expected), train_all=False)
    assert numbers(shrunk) == expected
    assert shrunk.epochs <= plan.epochs


def test_what_extends_a_plan() -> None:
    once, twice = plan_of(repeat=1), plan_of(repeat=2)
    assert is_extension(once, of=once)
    assert is_extension(twice, of=once)
    assert not is_extension(once, of=twice)
    assert not is_extension(plan_of(eta=2), of=once)
    assert not is_extension(plan_of(9, 3), of=once)
    ten, twenty = (plan_of(algorithm=Algorithm.RANDOM, max_trials=n) for n in (10, 20))
    assert is_extension(twenty, of=ten)
    assert not is_extension(ten, of=twenty)
    assert not is_extension(plan_of(80, algorithm=Algorithm.RANDOM, max_trials=20), of=ten)
    shorter = Plan((Bracket((Rung(20, 80),)),), 81)
    assert not is_extension(shorter, of=ten)
    halving = plan_of(algorithm=Algorithm.HALVING)
    assert not is_extension(twenty, of=halving)
    assert not is_extension(halving, of=ten)
