"""Configurations as rows: by what the sampler draws, whatever its scales, conditions and names are."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperband.guide.encoding import MAX_COLUMNS, Encoding, Flat
from hyperband.script.config import Value, decode

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), math.inf, -math.inf, math.nan, 5e-324, 1e308, -1e308, 0.0, -0.0]),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["adam", "sgd", "None", "True", "1"]),
)
names = st.sampled_from(["lr", "depth", "ü", "optimiser.name", ""]) | st.text(max_size=2)
configs = st.dictionaries(names, values, max_size=5)


def built(draws: Sequence[Flat | None]) -> Encoding:
    encoding = Encoding.build(draws)
    assert encoding is not None
    return encoding


def column(draws: Sequence[Flat], values: Sequence[Value]) -> list[float]:
    """How values of the only feature, x, are encoded."""
    encoding = built(draws)
    assert encoding.names == ("x",)
    x = encoding.encode([{"x": value} for value in values])
    assert x.shape == (len(values), 1)
    return [float(value) for value in x[:, 0]]


@given(st.lists(configs | st.none(), max_size=40), st.lists(configs, max_size=10))
@example([{"lr": 5e-324}, {"lr": 0.0}], [{"lr": 1}])
def test_whatever_the_configurations_are_rows_are_numbers_from_0_to_1(
    draws: list[Flat | None], others: list[Flat]
) -> None:
    encoding = Encoding.build(draws)
    if encoding is None:
        return
    found = [draw for draw in draws if draw is not None] + others
    x = encoding.encode(found)
    assert x.shape == (len(found), len(encoding.groups))
    assert x.dtype == np.float64
    assert np.all((x >= 0.0) & (x <= 1.0))
    assert 1 <= len(encoding.groups) <= MAX_COLUMNS
    assert sorted(set(encoding.groups.tolist())) == list(range(len(encoding.names)))
    # one at a time or all together: the same rows
    assert np.array_equal(x, np.vstack([encoding.encode([one]) for one in found]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, unique=True), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_larger_number_is_no_further_down(drawn: list[float], one: float, other: float) -> None:
    low, high = column([{"x": value} for value in drawn], sorted([one, other]))
    assert low <= high


@given(st.lists(st.integers(-300, 300), min_size=4, unique=True))
def test_a_scale_makes_no_difference(exponents: list[int]) -> None:
    plain = column([{"x": value} for value in exponents], exponents)
    powers = [10.0**value for value in exponents]
    assert column([{"x": value} for value in powers], powers) == pytest.approx(plain)


def test_numbers_are_their_share_of_the_draws() -> None:
    draws = [{"x": value} for value in (1, 10, 100, 1000, 10000)]
    assert column(draws, [1, 10, 100, 1000, 10000]) == [0.0, 0.25, 0.5, 0.75, 1.0]
    # in between by proportion, beyond as the last
    assert column(draws, [5.5, 0, 10**9, -math.inf]) == [0.125, 0.0, 1.0, 0.0]


def test_steps_that_are_drawn_often_have_room() -> None:
    draws = [{"x": 0.0}] * 10 + [{"x": value / 10} for value in range(1, 11)]
    found = column(draws, [0.0, 0.1, 1.0])
    assert found == pytest.approx([0.0, (10.5 - 5) / (19.5 - 5), 1.0])


def test_of_two_words_one_column_says_all() -> None:
    pairs: list[tuple[Value, Value]] = [(True, False), (8, "auto"), (None, 0.5), ("a", "b")]
    for pair in pairs:
        assert sorted(column([{"x": value} for value in pair * 10], pair)) == [0.0, 1.0]


def test_each_of_three_words_has_a_column() -> None:
    encoding = built([{"x": value} for value in ("a", "b", "c") * 10])
    x = encoding.encode([{"x": value} for value in ("a", "b", "c", "new")])
    assert encoding.groups.tolist() == [0, 0, 0]
    assert sorted(map(tuple, x[:3])) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert x[3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("pair", [(True, "True"), (None, "None"), (True, 1), (1.5, "1.5"), ("a", "A")])
def test_values_of_different_kinds_are_not_taken_for_each_other(pair: tuple[Value, Value]) -> None:
    encoding = built([{"x": value} for value in pair * 10])
    one, other = encoding.encode([{"x": value} for value in pair])
    assert not np.array_equal(one, other)


def test_a_number_that_may_be_missing_has_a_column_and_its_absence_another() -> None:
    draws: list[Flat] = [{"y": value} for value in range(10)]
    draws += [{"y": value, "x": value / 10} for value in range(10)]
    encoding = built(draws)
    assert encoding.names == ("y", "x")
    assert encoding.groups.tolist() == [0, 1, 1]
    x = encoding.encode([{"y": 0}, {"y": 0, "x": 0.0}, {"y": 0, "x": 0.9}])
    assert x.tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_conditions_that_hang_together_are_said_once() -> None:
    draws: list[Flat] = [{"opt": "adam"}] * 10
    draws += [{"opt": "sgd", "momentum": value / 10, "nesterov": value % 2 == 0} for value in range(10)]
    encoding = built(draws)
    assert encoding.names == ("opt", "momentum", "nesterov")
    # one for the optimiser, one for the momentum; that both are missing with adam is known from the first
    assert encoding.groups.tolist() == [0, 1, 2, 2]


def test_what_says_the_same_as_another_is_left_out() -> None:
    rng = np.random.default_rng(0)
    draws = [{"lr": float(value), "log_lr": math.log(value)} for value in rng.uniform(0.1, 1, 50)]
    assert built(draws).names == ("lr",)
    assert built([{**draw, "decay": 1 - draw["lr"]} for draw in draws]).names == ("lr",)


def test_what_does_not_vary_and_what_names_one_id_alone_are_left_out() -> None:
    rng = np.random.default_rng(0)
    draws: list[Flat] = [
        {"lr": float(rng.uniform()), "epochs": 9, "tag": f"{rng.integers(1 << 60):x}", "data": "mnist"}
        for _ in range(100)
    ]
    assert built(draws).names == ("lr",)


def test_a_name_that_hardly_any_draw_has_is_left_out() -> None:
    draws: list[Flat] = [{"lr": value / 300, f"only{value}": value} for value in range(300)]
    assert built(draws).names == ("lr",)


def test_a_large_space_has_its_commonest_names() -> None:
    rng = np.random.default_rng(0)
    draws: list[Flat] = [
        {f"h{name}": float(rng.uniform()) for name in range(200) if name % 2 == 0 or rng.uniform() < 0.5}
        for _ in range(100)
    ]
    encoding = built(draws)
    assert len(encoding.groups) == MAX_COLUMNS
    assert {int(name[1:]) % 2 for name in encoding.names} == {0}


@pytest.mark.parametrize(
    "draws",
    [
        [],
        [None] * 10,
        [{}] * 10,
        [{"x": 1}] * 10,
        [{"x": "only"}] * 10,
        [{"x": math.nan}] * 10,
        [{"x": f"{n:x}f"} for n in range(100)],
        [None] * 11 + [{"x": n} for n in range(10)],
    ],
)
def test_a_space_without_structure_has_no_encoding(draws: list[Flat | None]) -> None:
    assert Encoding.build(draws) is None


def test_some_ids_may_be_unreadable() -> None:
    assert built([None] * 10 + [{"x": n} for n in range(10)]).names == ("x",)


@pytest.mark.parametrize(
    "ids",
    [
        [f"lr:{10.0**-n:g}.bs:{2**n}.opt:{'ab'[n % 2]}" for n in range(1, 9)],
        [f"lr={10.0**-n:g},bs={2**n},opt={'ab'[n % 2]}" for n in range(1, 9)],
        [f'{{"lr": {10.0**-n:g}, "bs": {2**n}, "opt": "{"ab"[n % 2]}"}}' for n in range(1, 9)],
        [f"lr{10.0**-n:.8f}_bs{2**n}_{'ab'[n % 2]}" for n in range(1, 9)],
    ],
)
def test_ids_of_any_spelling_are_read(ids: list[str]) -> None:
    encoding = built([decode(config_id) for config_id in ids])
    x = encoding.encode([config for config in map(decode, ids) if config is not None])
    # the learning rate falls as the batch grows: one column says both
    assert encoding.names[0] == "lr"
    assert x[:, 0].tolist() == pytest.approx([1 - n / 7 for n in range(8)])
    assert len(encoding.groups) == 2
