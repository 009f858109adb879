"""The small parts of a config id's text: marks, numbers, words, names, brackets and literals.

Pure. Must not know what an id is made of (id_text.py).
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence

#: longer ones are no numbers that anybody searches, and take the time of their square to be looked at
LONGEST_NUMBER = 400
_NUMBER_PATTERN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBER = re.compile(_NUMBER_PATTERN)
#: these end a value for certain: no name has them in it
STRONG = ",;&|/? \t\n"
#: these end a value when a name follows; a dot, for one, is part of 0.03 as well
WEAK = "._-+"
#: of the strong ones, those that are seldom part of a text
CLAUSE = re.compile(r"[,;&|\s]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*|_[A-Za-z0-9_]+")
#: beside separators that no name has in it, names may be dotted or hyphenated: model.depth, weight-decay
LONG_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_IN_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_LABELLED = re.compile(rf"([A-Za-z_]*[A-Za-z])({_NUMBER_PATTERN})")
#: lr0.1 or lr1e-3 is a number with its label and no name; conv1 may be one
_LABELLED_FRACTION = re.compile(r"[A-Za-z_]*[A-Za-z][+-]?(?:[0-9]*\.[0-9]+|[0-9]+\.?[eE][+-]?[0-9]+)")
_WORD = re.compile(r"[^\W\d_]+")
_CALL = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)\s*([(\[{<])")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
EDGES = STRONG + "()[]{}<>:='\""
#: a dot between digits, and a sign in front of a number or in its exponent, are no separators
BETWEEN_TOKENS = re.compile(
    rf"[{re.escape(EDGES)}_]+|(?<![0-9])\.(?![0-9])|(?<=[^\W\d_])\.|\.(?=[^\W\d_]|$)"
    rf"|(?<=[^{re.escape(EDGES + WEAK)}eE])[-+]|(?<=[A-Za-z][eE])[-+]"
)


def is_number(text: str) -> bool:
    """Whether a text is a decimal number of a length that somebody may mean."""
    return len(text) <= LONGEST_NUMBER and _NUMBER.fullmatch(text) is not None


class Token:
    """What stands between two marks."""

    def __init__(self, before: str, text: str) -> None:
        """Begin with what stands before it."""
        self.before = before
        self.text = text
        labelled = _LABELLED.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
        is_bare = is_number(text)
        self.label = labelled[1] if labelled is not None and not is_bare else ""
        #: as text; None: it is no number
        self.number = text if is_bare else labelled[2] if labelled is not None else None
        self.is_bare_number = is_bare
        self.is_word = _WORD.fullmatch(text) is not None
        #: letters and digits, as in a hash or in 3x3
        self.is_odd = self.number is None and not self.is_word

    @classmethod
    def all(cls, text: str) -> Iterator["Token"]:
        """The tokens of a text, in order."""
        begin, before = 0, ""
        for mark in BETWEEN_TOKENS.finditer(text):
            if mark.start() > begin:
                yield cls(before, text[begin : mark.start()])
                before = ""
            before += mark[0]
            begin = mark.end()
        if begin < len(text):
            yield cls(before, text[begin:])


def split_name(text: str, *, is_first: bool) -> tuple[str, str, bool] | None:
    """A value, empty only at the beginning, and the name after it, as much of the text as can be one.

    The third: whether what parts them is in no value.
    """
    text = text.rstrip()
    if text[-1:] in ("'", '"'):
        begin = text.rfind(text[-1], 0, -1)
        return (text[:begin], text[begin + 1 : -1], True) if 0 <= begin < len(text) - 2 else None
    at = len(text)
    while at and text[at - 1] in _IN_NAMES:
        at -= 1
    tail = text[at:].lstrip("-+")
    at = len(text) - len(tail)
    is_name = LONG_NAME.fullmatch(tail) is not None and _LABELLED_FRACTION.fullmatch(tail) is None
    joint = text[:at].rstrip("-+")
    if is_name and not joint.strip(EDGES) and (is_first or joint):
        return "", tail, True
    if is_name and joint and joint[-1] in STRONG:
        return joint, tail, CLAUSE.fullmatch(joint[-1]) is not None
    begin = max(tail.rfind("."), tail.rfind("-"))
    places = [begin, *(place for place in range(begin + 1, len(tail)) if tail[place] == "_")]
    for place in places:
        cut = at + place
        if cut < 1 or text[cut] not in WEAK + STRONG:
            continue
        if _NAME.fullmatch(tail, place + 1):  # begins with a letter: the dash is not that of 1e-5
            return text[:cut], tail[place + 1 :], False
    return None


def alternating(text: str) -> list[tuple[str, str]] | None:
    """Names and values where one sign stands between all of them: `lr:0.1:bs:32`; None: it is not so."""
    parts = re.split("[:=]", text)
    if len(parts) < 4 or len(parts) % 2 or (":" in text and "=" in text):
        return None
    names, values = parts[::2], parts[1::2]
    numbers = [value for value in values if is_number(value)]
    # a value that holds a mark may be one with the next name: a:x_b:y_c:3
    are_values = all(is_number(value) or (value.isascii() and value.isalnum()) for value in values)
    is_so = are_values and len(numbers) > 0 and all(LONG_NAME.fullmatch(name) for name in names)
    return list(zip(names, values, strict=True)) if is_so else None


def literal_of(text: str) -> object:
    """What a text means in JSON or Python; None: nothing."""
    try:
        found: object = json.loads(text)
        return found
    except (ValueError, RecursionError):
        pass  # Python's spelling, maybe
    try:
        with warnings.catch_warnings():  # of a spelling that Python takes and does not like
            warnings.simplefilter("ignore")
            found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None  # TypeError: {[1]: 2} has no hash
    return None if isinstance(found, (set, frozenset)) else found


def inside_of(text: str) -> str | None:
    """What stands in the brackets that are round all of a text; None: there are none."""
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    outside = outside_of(text)
    if any(outside[1:-1]) or _end_of_brackets(text) < len(text) - 1:
        return None
    return text[1:-1].strip()


def _end_of_brackets(text: str) -> int:
    """Where the brackets close that a text begins with, and that match: `(a)(b)` is not one pair of them."""
    waited_for: list[str] = []
    for place, character in enumerate(text):
        if waited_for and character == waited_for[-1]:
            waited_for.pop()
            if not waited_for:
                return place
        elif character in _BRACKETS:
            waited_for.append(_BRACKETS[character])
    return len(text)


def call_of(text: str) -> tuple[str, str] | None:
    """A word and what stands in the brackets after it, up to the end; None: that is not what it is."""
    match = _CALL.match(text)
    if match is None or (inside := inside_of(text[match.end() - 1 :])) is None:
        return None
    return match[1], inside


def outside_of(text: str) -> list[bool]:
    """Which characters stand in no brackets; all of them where brackets do not match."""
    outside = []
    waited_for: list[str] = []
    for character in text:
        if waited_for and character == waited_for[-1]:
            waited_for.pop()
            outside.append(False)
        elif character in _BRACKETS and (character != "<" or waited_for or not outside):
            waited_for.append(_BRACKETS[character])
            outside.append(False)
        else:
            outside.append(not waited_for)
    return [True] * len(text) if waited_for else outside


def cut(text: str, outside: Sequence[bool], between: re.Pattern[str]) -> Iterator[str]:
    """The parts between separators that stand in no brackets."""
    begin = 0
    for mark in between.finditer(text):
        if outside[mark.start()]:
            yield text[begin : mark.start()]
            begin = mark.end()
    yield text[begin:]
