"""Reading config ids: the spellings that scripts use, and laws for any names and values."""

import json
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband.script.config import Value, decode, flatten, same_names

UUID = "3f2a9c1e-4512-4e4a-9bcd-112233445566"


@pytest.mark.parametrize(
    ("config_id", "expected"),
    [
        ("lr:0.03.momentum:0.9.batch_size:64", {"lr": 0.03, "momentum": 0.9, "batch_size": 64}),
        ("lr=0.03_momentum=.9_batch_size=64", {"lr": 0.03, "momentum": 0.9, "batch_size": 64}),
        ("lr=1e-3-wd=1e-05-opt=adam", {"lr": 0.001, "wd": 1e-05, "opt": "adam"}),
        ("x:-0.5.y:-1e-3", {"x": -0.5, "y": -0.001}),
        ("opt:adamw.bn:True.sched:None", {"opt": "adamw", "bn": True, "sched": None}),
        ("model.depth=3,opt.lr=0.1, weight-decay=.5", {"model.depth": 3, "opt.lr": 0.1, "weight-decay": 0.5}),
        ("a=1&b=2;c=three", {"a": 1, "b": 2, "c": "three"}),
        ("t=12:30,lr=0.1", {"t": "12:30", "lr": 0.1}),
        ("hidden:[64,32].lr:0.1", {"hidden.0": 64, "hidden.1": 32, "lr": 0.1}),
        ('{"lr":0.1,"opt":{"name":"sgd"}}', {"lr": 0.1, "opt.name": "sgd"}),
        ("{'lr': 0.1, 'bn': False}", {"lr": 0.1, "bn": False}),
        ("lr0.1_bs64_relu", {"lr": 0.1, "bs": 64, "#3": "relu"}),
        ("0.1_64_relu", {"#1": 0.1, "#2": 64, "#3": "relu"}),
        ("0.001-0.9-128", {"#1": 0.001, "#2": 0.9, "#3": 128}),
        ("1e-3,-0.5,7", {"#1": 0.001, "#2": -0.5, "#3": 7}),
        ("0.0312", {"#1": 0.0312}),
        ("lr:1e999", {"lr": "1e999"}),
    ],
)
def test_the_spellings_that_scripts_use(config_id: str, expected: dict[str, Value]) -> None:
    found = decode(config_id)
    assert found == expected
    assert found is not None
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    "config_id",
    ["a3f9c2d4", UUID, "17", "config_17", "trial17", "resnet", "x", "{", "=", "{[1]: 2}", "{{1: 2}, 3}"],
)
def test_an_id_without_structure_is_recognised(config_id: str) -> None:
    assert decode(config_id) is None


def test_a_number_that_has_no_decimal_digits_is_text() -> None:
    digits = "f" * 5000
    assert decode("{'a': 0x" + digits + ", 'b': 1}") == {"a": "0x" + digits, "b": 1}


@pytest.mark.parametrize("config_id", ["a=%sx", "a%sx_1", "%sx_1"])
def test_an_id_of_very_many_digits_is_read_at_once(config_id: str) -> None:
    began_s = time.process_time()
    decode(config_id % ("9" * 100_000))
    assert time.process_time() - began_s < 2.0


def test_a_nested_configuration_becomes_flat() -> None:
    nested = {"opt": {"lr": 1, "betas": [0.9, 0.99]}, "bn": True, "sched": None}
    assert flatten(nested) == {
        "opt.lr": 1,
        "opt.betas.0": 0.9,
        "opt.betas.1": 0.99,
        "bn": True,
        "sched": None,
    }


def test_numbers_that_are_text_are_numbers() -> None:
    config_id = "lr:0.001,opt:sgd,bn:True,n:3,seed:none"
    split = dict(part.split(":") for part in config_id.split(","))
    wanted = {"lr": 0.001, "opt": "sgd", "bn": True, "n": 3, "seed": None}
    assert flatten(split) == decode(config_id) == wanted


def test_configurations_with_other_names_are_told() -> None:
    assert same_names([{"a": 1, "b": 2}, {"b": 3, "a": None}])
    assert not same_names([{"a": 1}, {"a": 1, "b": 2}])


names = st.from_regex(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)?", fullmatch=True).filter(
    lambda name: name not in ("true", "false", "none", "null")
)
numbers = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
)
words = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter(
    lambda word: word not in ("true", "false", "none", "null")
)
values = st.one_of(numbers, words, st.booleans(), st.none())
configs = st.dictionaries(names, values, min_size=1, max_size=6)


@given(configs, st.sampled_from(":="), st.sampled_from([".", ",", ";", "&", "|", " ", ", ", "/"]))
def test_names_and_values_come_back(config: dict[str, Value], sign: str, separator: str) -> None:
    config_id = separator.join(f"{name}{sign}{value}" for name, value in config.items())
    assert decode(config_id) == config


@given(
    st.dictionaries(st.text(string.ascii_lowercase, min_size=1), numbers, min_size=1), st.sampled_from("_-")
)
def test_separators_that_names_or_numbers_may_hold_come_back_too(
    config: dict[str, Value], separator: str
) -> None:
    assert decode(separator.join(f"{name}={value}" for name, value in config.items())) == config


@given(configs)
def test_json_comes_back(config: dict[str, Value]) -> None:
    assert decode(json.dumps(config)) == config


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = decode(text)
    assert found is None or all(isinstance(name, str) for name in found)


@given(st.binary(min_size=16, max_size=32))
def test_a_digest_is_no_configuration(digest: bytes) -> None:
    text = digest.hex()
    if any(character.isalpha() for character in text[:-4]):
        found = decode(text)
        # letters and digits by turns; by chance one run of letters before one of digits, or an exponent
        assert found is None or len(found) == 1
