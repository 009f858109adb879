"""What a config id says: flat names and values, from the script's own `get_config` or read out of the string.

Pure. An id is opaque to the search; what is read here serves people and samplers that learn, never decisions
about which trial goes on.
"""

import ast
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

#: a hyperparameter's value
Value: TypeAlias = bool | int | float | str | None

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: longer ones are no numbers that anybody searches, and take the time of their square to be looked at
_LONGEST_NUMBER = 400
#: a whole number of more bits has no decimal digits in Python (4,300 are the most)
_MOST_BITS = 14_000
_WORDS: dict[str, bool | None] = {
    "True": True,
    "true": True,
    "False": False,
    "false": False,
    "None": None,
    "none": None,
    "null": None,
}
#: end a value for certain: no name has them in it
_STRONG = ",;&|/ \t"
#: end a value when a name follows; a dot, for one, is part of 0.03 as well
_WEAK = "._-+"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*|_[A-Za-z0-9_]+")
#: beside separators that no name has in it, names may be dotted or hyphenated: model.depth, weight-decay
_LONG_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LABELLED = re.compile(r"([A-Za-z_]*[A-Za-z])([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_WORD = re.compile(r"[A-Za-z]+")
#: a dot between digits, and a sign in front of a number or in its exponent, are no separators
_BETWEEN_TOKENS = re.compile(
    rf"[{re.escape(_STRONG)}_]+|(?<![0-9])\.|\.(?![0-9])"
    rf"|(?<=[^{re.escape(_STRONG + _WEAK)}eE])[-+]|(?<=[A-Za-z][eE])[-+]"
)


def decode(config_id: str) -> dict[str, Value] | None:
    """Read names and values out of a config id.

    Understood are JSON and Python dicts; `name:value` and `name=value`, joined by any of `. , ; _ - + / & |`
    and blanks; and, without names, numbers, words and labelled numbers (`lr0.1_bs64_relu`), which are named
    by their label, or `#1`, `#2`... by their place.

    Returns:
        Values by name in the order of the id; None when no structure is recognised, as in a hash or a name.
    """
    text = config_id.strip()
    found = _read_mapping(text)
    if found is None:
        found = _read_pairs(text)
    if found is None:
        found = _read_tokens(text)
    return found or None


def flatten(config: Mapping[str, object]) -> dict[str, Value]:
    """A nested configuration as flat names and values: `{"opt": {"lr": "1"}}` becomes `{"opt.lr": 1}`.

    Args:
        config: numbers, strings, booleans and None; dicts and lists of them. Others are taken by their text.
            A string that says a number is that number: who splits an id has strings alone.
    """
    return dict(_flat("", config))


def _flat(name: str, value: object) -> Iterator[tuple[str, Value]]:
    parts: Iterator[tuple[object, object]] | None = None
    if isinstance(value, Mapping):
        parts = iter(value.items())
    elif isinstance(value, (list, tuple)):
        parts = iter(enumerate(value))
    if parts is not None:
        for key, part in parts:
            yield from _flat(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        yield name, hex(value)
    elif isinstance(value, str):
        yield name, read_value(value)
    elif value is None or isinstance(value, (bool, int, float)):
        yield name, value
    else:
        yield name, str(value)


def read_value(text: str) -> Value:
    """A value as its text says: a whole number, a finite number, a boolean, None, else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _is_number(text) and math.isfinite(number := float(text)):
        return number
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _read_mapping(text: str) -> dict[str, Value] | None:
    """The text of a dict, in the spelling of JSON or of Python."""
    if not (text.startswith("{") and text.endswith("}")):
        return None
    found = _literal(text)
    return flatten(found) if isinstance(found, dict) else None


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # Python's spelling, maybe
    try:
        with warnings.catch_warnings():  # of a spelling that Python takes and does not like
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None  # TypeError: {[1]: 2} has no hash


def _read_pairs(text: str) -> dict[str, Value] | None:
    """`name:value` or `name=value`, whatever joins them."""
    marks = [at for at, character in enumerate(text) if character in ":="]
    if not marks:
        return None
    prefix, name = _split_first(text[: marks[0]])
    if name is None:
        return None
    sign = text[marks[0]]
    raw: dict[str, str] = {"#1": prefix} if prefix else {}
    begin = marks[0] + 1
    for mark in marks[1:]:
        if text[mark] != sign:
            continue
        split = _split(text[begin:mark])
        if split is None:
            continue  # no name before it: it is part of a value, such as 12:30
        raw[name], name = split
        begin = mark + 1
    raw[name] = text[begin:]
    found: dict[str, Value] = {}
    for key, value in raw.items():
        found.update(_read_part(key, value.strip(_STRONG)))
    return found


def _read_part(name: str, text: str) -> dict[str, Value]:
    if text[:1] in ("[", "(", "{") and isinstance(parts := _literal(text), (list, tuple, dict)) and parts:
        return dict(_flat(name, parts))
    return {name: read_value(text)}


def _split_first(text: str) -> tuple[str, str | None]:
    """What stands before the first name (a prefix such as a model's name, mostly empty), and that name."""
    name = text.strip(_STRONG)
    if _LONG_NAME.fullmatch(name):
        return "", name
    split = _split(text)
    return split if split is not None else ("", None)


def _split(text: str) -> tuple[str, str] | None:
    """A value and the name after it, at the first separator that leaves both whole."""
    for at in range(1, len(text)):
        if text[at] not in _STRONG + _WEAK or (text[at - 1] in "eE" and text[at] in "+-" and at > 1):
            continue
        rest = text[at + 1 :].lstrip(_STRONG) if text[at] in _STRONG else text[at + 1 :]
        name = _LONG_NAME if text[at] in _STRONG else _NAME
        if name.fullmatch(rest):
            return text[:at], rest
    return None


def _read_tokens(text: str) -> dict[str, Value] | None:
    """Numbers, words and labelled numbers without names of their own."""
    tokens = [token for token in _BETWEEN_TOKENS.split(text) if token]
    found: dict[str, Value] = {}
    n_numbers = 0
    for place, token in enumerate(tokens, start=1):
        labelled = _LABELLED.fullmatch(token) if len(token) <= _LONGEST_NUMBER else None
        if labelled is not None and not _is_number(token):
            name, value = labelled[1], read_value(labelled[2])
        elif _is_number(token) or token in _WORDS or _WORD.fullmatch(token):
            name, value = f"#{place}", read_value(token)
        else:
            return None  # a hash, most likely
        if name in found:
            name = f"#{place}"
        found[name] = value
        n_numbers += isinstance(value, (int, float)) and not isinstance(value, bool)
    return found if n_numbers and not _is_index(found) else None


def _is_number(token: str) -> bool:
    return len(token) <= _LONGEST_NUMBER and _NUMBER.fullmatch(token) is not None


def _is_index(found: Mapping[str, Value]) -> bool:
    """True for one whole number, labelled or not: `17`, `config17`, `run_3` say nothing by themselves."""
    numbers = [value for value in found.values() if isinstance(value, (int, float))]
    return len(numbers) == 1 and isinstance(numbers[0], int)


def same_names(configs: Sequence[Mapping[str, Value]]) -> bool:
    """True when all configurations have the same names."""
    return len({frozenset(config) for config in configs}) <= 1
