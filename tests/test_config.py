"""Reading config ids: the spellings that scripts use, and laws for any names and values."""

import json
import re
import string
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband.script.config import Value, decode, flatten, same_names
from hyperband.script.id_text import pieces_of
from hyperband.study.looking import unsure_signs

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
    ("config_id", "expected"),
    [
        # options of a command line
        ("lr=0.003 --bs=78", {"lr": 0.003, "bs": 78}),
        ("cfg --lr=0.01 --bs=32", {"#1": "cfg", "lr": 0.01, "bs": 32}),
        ("lr 0.003 --bs 78", {"lr": 0.003, "bs": 78}),
        ("--lr 0.003 --bs 78", {"lr": 0.003, "bs": 78}),
        ("-lr -0.5 --bn --opt adam", {"lr": -0.5, "bn": True, "opt": "adam"}),
        ("--hidden 64 32 --lr:1e-3", {"hidden.0": 64, "hidden.1": 32, "lr": 0.001}),
        ("lr=0.1--bs=3", {"lr": 0.1, "bs": 3}),
        # calls and dicts of Python
        ("(lr=0.00339, bs=78)", {"lr": 0.00339, "bs": 78}),
        ("optimizer:adam(lr=0.003),bs:78", {"optimizer": "adam", "optimizer.lr": 0.003, "bs": 78}),
        ("optimizer=sgd(0.1),bs=78", {"optimizer": "sgd", "optimizer.#1": 0.1, "bs": 78}),
        ("adam(lr=0.1, wd=0.01)", {"#1": "adam", "lr": 0.1, "wd": 0.01}),
        (
            "Namespace(lr=0.1, opt='adam', hidden=[64, 32])",
            {"#1": "Namespace", "lr": 0.1, "opt": "adam", "hidden.0": 64, "hidden.1": 32},
        ),
        ("{'lr': np.float64(0.003), 'opt': 'adam'}", {"lr": 0.003, "opt": "adam"}),
        ("(('bs', 64), ('lr', 0.003))", {"bs": 64, "lr": 0.003}),
        ("OrderedDict([('lr', 0.1), ('bs', 3)])", {"#1": "OrderedDict", "lr": 0.1, "bs": 3}),
        ("(0.1, 64, 'adam')", {"#1": 0.1, "#2": 64, "#3": "adam"}),
        ("[0.1, [64, 32]]", {"#1": 0.1, "#2.0": 64, "#2.1": 32}),
        ("{[1]: 2}", {"#1": 1, "#2": 2}),
        # others with signs
        ("{lr: 0.1, bs: 64}", {"lr": 0.1, "bs": 64}),
        ("lr: 0.1, bs: 64", {"lr": 0.1, "bs": 64}),
        ("lr = 0.1, bs = 64", {"lr": 0.1, "bs": 64}),
        ("lr->0.1;bs->3", {"lr": 0.1, "bs": 3}),
        ('"lr=0.1,bs=3"', {"lr": 0.1, "bs": 3}),
        ("?lr=0.1&bs=32", {"lr": 0.1, "bs": 32}),
        ("a.b=1,c=2", {"a.b": 1, "c": 2}),
        ("+a.b=1 ++c=2 opt=adam", {"a.b": 1, "c": 2, "opt": "adam"}),
        ("model/encoder=resnet,lr=0.1", {"#1": "model", "encoder": "resnet", "lr": 0.1}),
        ("lr=0.1,opt:adam", {"lr": 0.1, "opt": "adam"}),
        ("adam: lr=0.1, wd=0.2", {"#1": "adam", "lr": 0.1, "wd": 0.2}),
        ("url=http://a/b,lr=0.1", {"url": "http://a/b", "lr": 0.1}),
        ("lr=0.1,lr=0.2", {"lr": 0.1, "lr#2": 0.2}),
        # values beside each other
        ("lr=0.1,adam,bs=32", {"lr": 0.1, "#2": "adam", "bs": 32}),
        (
            "bn:True-lr:0.06-opt:None-act:cosine-x:1e-05-bs:3",
            {"bn": True, "lr": 0.06, "opt": None, "act": "cosine", "x": 1e-05, "bs": 3},
        ),
        ("lr=0.001-adam-bs=32", {"lr": 0.001, "#2": "adam", "bs": 32}),
        ("hidden=64,32,lr=0.1", {"hidden.0": 64, "hidden.1": 32, "lr": 0.1}),
        ("hidden:64-32,lr:0.1", {"hidden.0": 64, "hidden.1": 32, "lr": 0.1}),
        ("model=resnet-50,lr=0.1", {"model": "resnet-50", "lr": 0.1}),
        ("[lr=0.1][bs=32]", {"lr": 0.1, "bs": 32}),
        ("(lr,0.1)(bs,32)", {"lr": 0.1, "bs": 32}),
        ('{"a": {"b": 1}, "a.b": 2}', {"a.b": 1, "a.b#2": 2}),
        # the sign joins as well
        ("lr:0.1:bs:32", {"lr": 0.1, "bs": 32}),
        ("opt=adam=weight_decay=1e-05", {"opt": "adam", "weight_decay": 1e-05}),
        ("a:x_b:y_c:3", {"a": "x", "b": "y", "c": 3}),
        # names of files
        ("learning_rate-1e-3-batch_size-64", {"learning_rate": 0.001, "batch_size": 64}),
        ("learning-rate 0.1, batch-size 64", {"learning-rate": 0.1, "batch-size": 64}),
        ("lr_0.001_bs_32", {"lr": 0.001, "bs": 32}),
        ("lr_.9_x_-3", {"lr": 0.9, "x": -3}),
        ("opt_adam_lr_0.1_bs_32", {"#1": "opt", "#2": "adam", "lr": 0.1, "bs": 32}),
        ("opt_adam-lr_0.1-bs_32", {"#1": "opt", "#2": "adam", "lr": 0.1, "bs": 32}),
        ("resnet_18_0.1", {"#1": "resnet", "#2": 18, "#3": 0.1}),
        ("lr0.001-bs32", {"lr": 0.001, "bs": 32}),
        ("lr0.1:bs64", {"lr": 0.1, "bs": 64}),
        ("resnet50v2_lr0.1_bs64_3x3", {"#1": "resnet50v2", "lr": 0.1, "bs": 64, "#4": "3x3"}),
        ("adam(0.1)_64", {"#1": "adam", "#2": 0.1, "#3": 64}),
        ("0.1:64:adam", {"#1": 0.1, "#2": 64, "#3": "adam"}),
        ("seed=123", {"seed": 123}),
    ],
)
def test_no_piece_of_an_id_is_lost(config_id: str, expected: dict[str, Value]) -> None:
    found = decode(config_id)
    assert found == expected
    assert found is not None
    assert list(found) == list(expected)
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    "config_id",
    [
        "a3f9c2d4",
        UUID,
        "17",
        "config_17",
        "trial17",
        "resnet",
        "x",
        "{",
        "=",
        "brave-turing-12",
        "run_3f2a9c1e_5",
        "eyJsciI6IDAuMX0=",
        "ab==",
    ],
)
def test_an_id_without_structure_is_recognised(config_id: str) -> None:
    assert decode(config_id) is None


def test_a_number_that_has_no_decimal_digits_is_text() -> None:
    digits = "f" * 5000
    assert decode("{'a': 0x" + digits + ", 'b': 1}") == {"a": "0x" + digits, "b": 1}


@pytest.mark.parametrize("part", ["9", "9,", "1_", "_", "a=1,", "[", "a(", "-a ", "1-", "'", "a:", "a."])
@pytest.mark.parametrize("config_id", ["a=%sx", "a%sx_1", "%sx_1", "a=%s b=1", "a=[%s]"])
def test_a_very_long_id_is_read_soon(config_id: str, part: str) -> None:
    began_s = time.process_time()
    decode(config_id % (part * (100_000 // len(part))))
    assert time.process_time() - began_s < 4.0


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


# a3e2 may as well be the number 3e2 with its label
names = st.from_regex(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)?", fullmatch=True).filter(
    lambda name: name not in ("true", "false", "none", "null") and not re.search("[0-9]e[0-9]", name)
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


words_and_numbers = ["lr", "opt", "adam", "0.1", "1e-3", "-5", "64", "3x3", "é"]
marks = ["=", ":", ",", " ", "_", "-", ".", "/", "(", ")", "[", "]", "--", " --", ", "]
pieces = st.sampled_from(words_and_numbers + marks)


@given(st.lists(pieces, min_size=1, max_size=14).map("".join))
def test_each_letter_and_digit_is_in_a_name_or_a_piece(config_id: str) -> None:
    found = pieces_of(config_id)
    if found is None or not all(isinstance(piece, str) or piece is True for piece in found.values()):
        return  # what a literal means is told apart from how it is written
    kept = "".join(found) + "".join(str(piece) for piece in found.values())
    lost = Counter(filter(str.isalnum, config_id)) - Counter(filter(str.isalnum, kept))
    assert not lost, found


@given(st.binary(min_size=16, max_size=32))
def test_a_digest_is_no_configuration(digest: bytes) -> None:
    text = digest.hex()
    if any(character.isalpha() for character in text[:-4]):
        found = decode(text)
        # letters and digits by turns; by chance one run of letters before one of digits, or an exponent
        assert found is None or len(found) == 1


def test_a_dash_that_may_be_a_sign_is_told_of() -> None:
    ids = ["x-0.24_y0.48_lr-0.1", "x0.31_y-.2_lr-0.2"]
    assert decode(ids[0]) == {"x": 0.24, "y": 0.48, "lr": 0.1}, "which is right for lr alone"
    words = unsure_signs(ids, ("x", "y", "lr"))
    assert words.startswith("in ids like 'x-0.24_y0.48_lr-0.1' the dash after x, y is not read as the sign")
    assert "'x0.31_y-.2_lr-0.2', have none there" in words
    assert not unsure_signs(["lr-1e-3_bs-64", "lr-1e3_bs-32"], ("lr", "bs"))
    assert not unsure_signs(["x:-0.24.y:0.48", "x:0.31.y:-0.2"], ("x", "y"))
