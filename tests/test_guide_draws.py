"""The bookkeeping of draws, and what a look at a few of them finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband.script.config import Value
from hyperband.study.drawing import MAX_REPEATS, MAX_UNUSED, Draws
from hyperband.study.looking import varying_names


def test_draws_are_used_in_order_and_once() -> None:
    draws = Draws()
    draws.use(["known", "b"])
    draws.add(["a", "b", "c", "a", "d"])
    assert (draws.n_drawn, draws.n_distinct, draws.unused()) == (5, 5, ("a", "c", "d"))
    draws.use(["c"])
    assert draws.next_unused() == "a"
    draws.use(["a"])
    assert (draws.next_unused(), draws.n_unused, draws.n_distinct) == ("d", 1, 5)
    draws.add(["c", "e"])
    assert draws.unused() == ("d", "e")


def test_a_thousand_repeats_in_a_row_exhaust_a_space() -> None:
    draws = Draws()
    draws.add(["a", "b"])
    draws.add(["a"] * (MAX_REPEATS - 1))
    draws.add(["c"])
    draws.use(["a", "b"])
    draws.add(["a"] * (MAX_REPEATS - 1))
    before = draws.is_exhausted
    draws.add(["c", "d"])
    assert (before, draws.is_exhausted) == (False, True)
    assert draws.unused() == ("c", "d")


def test_what_trials_had_before_is_no_repeat_when_it_is_drawn_first() -> None:
    draws = Draws()
    draws.use(f"x{n}" for n in range(2 * MAX_REPEATS))
    draws.add(f"x{n}" for n in range(2 * MAX_REPEATS))
    assert not draws.is_exhausted
    draws.add(["new"])
    assert draws.unused() == ("new",)


def test_the_oldest_go_where_there_are_too_many() -> None:
    draws = Draws()
    draws.add(f"x{n}" for n in range(MAX_UNUSED + 10))
    assert (draws.n_unused, draws.next_unused()) == (MAX_UNUSED, "x10")
    draws.add(["x0"])
    assert draws.unused()[-1] == "x0"


@given(st.lists(st.integers(0, 9).map(str)), st.lists(st.integers(0, 9).map(str)))
def test_no_unused_draw_is_one_that_a_trial_has(drawn: list[str], used: list[str]) -> None:
    draws = Draws()
    draws.add(drawn)
    draws.use(used)
    draws.add(drawn)
    assert set(draws.unused()) == set(drawn) - set(used)
    assert draws.n_distinct == len(set(drawn) | set(used))


@pytest.mark.parametrize(
    ("configs", "names"),
    [
        ([{"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 1}], ("lr",)),
        ([{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}], ("momentum",)),
        ([{"on": True}, {"on": 1}], ("on",)),
        ([{"lr": 0.1}], ("lr",)),  # a sampler so slow that there is one draw
        ([{"lr": 0.1}, {"lr": 0.1}], ()),
        ([None, None, {"lr": 0.1}, {"lr": 0.2}, None], ()),
        ([None, {"lr": 0.1}, {"lr": 0.2}, None], ("lr",)),
        ([{}, {}], ()),
        ([{"name": f"a{n}"} for n in range(9)], ()),
        ([{"name": f"a{n % 5}"} for n in range(9)], ("name",)),
        ([{"n": n} for n in range(9)], ("n",)),
    ],
)
def test_names_that_vary(configs: list[dict[str, Value] | None], names: tuple[str, ...]) -> None:
    assert varying_names(configs) == names
