"""Whose word is whose on the command line: ours, the script, or handed on. Knows no option's meaning."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperband.errors import UsageError
from hyperband.report.text import shown

#: hyperband itself gives these to the script (its contract), so they cannot be handed on by accident
SET_BY_US = ("--epochs", "--gpu", "--multi_gpu")
_NEGATIVE_NUMBER = re.compile(r"-[0-9.]")


@dataclass(frozen=True, slots=True)
class Words:
    """A command line taken apart."""

    #: our options in order: the name as it was written, and its value; None for one that takes none
    ours: tuple[tuple[str, str | None], ...]
    #: None when there is none
    script: str | None
    #: handed on to the script, in order
    handed_on: tuple[str, ...]


def take_apart(argv: Sequence[str], takes_value: Mapping[str, bool]) -> Words:
    """Sort the words of a command line.

    Before the script only our options may stand. After it ours are ours wherever they stand and all other
    words are handed on; after `--` everything is. Where `--` stands before the script, the next word is the
    script and the rest is handed on.

    Args:
        argv: the words after the program's name.
        takes_value: our option names, dashes included, and whether a value follows.

    Raises:
        UsageError: an option before the script that is not ours, one that looks like ours misspelt, one that
            hyperband sets itself, or a value that is missing or too many.
    """
    ours: list[tuple[str, str | None]] = []
    handed_on: list[str] = []
    script: str | None = None
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        name, equals, value = word.partition("=")
        if word == "--":
            rest = list(argv[at:])
            if script is None and rest:
                script = rest.pop(0)
            return Words(tuple(ours), script, tuple(handed_on + rest))
        if name in takes_value:
            if not takes_value[name] and equals:
                raise UsageError(f"{shown(word)}: {name} takes no value; write {name} alone.")
            if takes_value[name] and not equals:
                value = _value_after(name, argv, at)
                at += 1
            ours.append((name, value if takes_value[name] else None))
        elif word.startswith("-") and word != "-":
            _refuse_mistakes(word, name, before_script=script is None, names=takes_value)
            handed_on.append(word)
        elif script is None:
            script = word
        else:
            handed_on.append(word)
    return Words(tuple(ours), script, tuple(handed_on))


def within_one_edit(word: str, other: str) -> bool:
    """True when at most one insertion, deletion, substitution or swap of neighbours tells them apart."""
    if abs(len(word) - len(other)) > 1:
        return False
    same = 0
    while same < min(len(word), len(other)) and word[same] == other[same]:
        same += 1
    a, b = word[same:], other[same:]
    swapped = a[1:2] + a[:1] + a[2:] == b
    return a[1:] == b[1:] or a == b[1:] or a[1:] == b or swapped


def _value_after(name: str, argv: Sequence[str], at: int) -> str:
    """The word after an option; a word with a dash counts as its value only when it is a number."""
    if at == len(argv):
        raise UsageError(f"{name}: found the end of the command, expected a value.")
    value = argv[at]
    if value.startswith("-") and value != "-" and not _NEGATIVE_NUMBER.match(value):
        raise UsageError(
            f"{name}: found {shown(value)!r}, expected a value; one that starts with a dash is written"
            f" {name}={shown(value)}."
        )
    return value


def _refuse_mistakes(word: str, name: str, *, before_script: bool, names: Mapping[str, bool]) -> None:
    """Raise for an option of nobody's, or one that is most likely a slip of the hand."""
    if name in SET_BY_US and not before_script:
        raise UsageError(
            f"{shown(word)}: hyperband itself gives {name} to the script for each job, so it cannot be set"
            " here. Epochs are chosen by --max-epochs and --min-epochs, GPUs by --gpus."
        )
    # One letter is one edit from any other letter: short options are compared with none of ours.
    near = [ours for ours in names if len(ours) > 2 and within_one_edit(name, ours)]
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    if before_script:
        raise UsageError(
            f"{shown(name)} is no option of hyperband.{meant} The script's own options come after SCRIPT;"
            " see --help for ours."
        )
    if near:
        raise UsageError(
            f"{shown(name)} is no option of hyperband.{meant} If it is meant for the script, write it as"
            f" SCRIPT -- {shown(word)} (after a -- of its own)."
        )
