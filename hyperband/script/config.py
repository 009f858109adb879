"""What a config id says: flat names and values, from the script's own `get_config` or read out of the string.

Pure. An id is opaque to the search; what is read here serves people and samplers that learn, never decisions
about which trial goes on.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from hyperband.script.id_marks import is_number
from hyperband.script.id_text import pieces_of

#: a hyperparameter's value
Value: TypeAlias = bool | int | float | str | None

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
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


#: words on names such as `#3`
PLACES = "#k is the k-th piece of an id, which has no name there"
#: text that differs in each of so many ids is a name of the id, such as a hash, and no hyperparameter
_N_TAGS = 8


def decode(config_id: str) -> dict[str, Value] | None:
    """Read names and values out of a config id.

    Understood are JSON and Python dicts; `name:value` and `name=value`, whatever joins them; options of a
    command line (`--lr 0.1 --bn`); and, without these, numbers, words and labelled numbers, which are named
    by their label (`lr0.1`), by the word before (`lr_0.1`), or `#1`, `#2`... by their place. No piece is
    left out (see id_text.py).

    Returns:
        Values by name in the order of the id; None when no structure is recognised, as in a hash or a name.
    """
    pieces = pieces_of(config_id)
    return None if pieces is None else flatten(pieces) or None


def flatten(config: Mapping[str, object]) -> dict[str, Value]:
    """A nested configuration as flat names and values: `{"opt": {"lr": "1"}}` becomes `{"opt.lr": 1}`.

    Args:
        config: numbers, strings, booleans and None; dicts and lists of them. Others are taken by their text.
            A string that says a number is that number: who splits an id has strings alone. A name that
            there is already gets a number: `a.b#2`.
    """
    found: dict[str, Value] = {}
    for name, value in _flat("", config):
        key, n_alike = name, 1
        while key in found:
            n_alike += 1
            key = f"{name}#{n_alike}"
        found[key] = value
    return found


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
    if is_number(text) and math.isfinite(number := float(text)):
        return number
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def same_names(configs: Sequence[Mapping[str, Value]]) -> bool:
    """True when all configurations have the same names."""
    return len({frozenset(config) for config in configs}) <= 1


def has_places(names: Iterable[str]) -> bool:
    """Whether any of these names is the place of a piece."""
    return any("#" in name for name in names)


def are_tags(values: Sequence[object]) -> bool:
    """Whether the values of one name among distinct ids are texts that only tell the ids apart."""
    are_distinct = len(set(map(repr, values))) == len(values) >= _N_TAGS
    return are_distinct and all(isinstance(value, str) for value in values)


def unread(configs: Sequence[Mapping[str, Value] | None]) -> list[str]:
    """What is not read from config ids, in words: whole ids, and pieces that only tell ids apart.

    Args:
        configs: of distinct ids; None for one that says nothing.
    """
    n_unread = sum(not config for config in configs)
    found = [f"{n_unread:,} of {len(configs):,} ids"] if n_unread else []
    read = [config for config in configs if config]
    for name in dict.fromkeys(name for config in read for name in config):
        values = [config[name] for config in read if name in config]
        if are_tags(values):
            found.append(f"{name} (another text in each id, such as {str(values[0])[:20]})")
    return found
