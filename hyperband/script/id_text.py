"""The pieces of a config id's text: what stands there, by name or by place.

Owns the grammar. Pure. No piece is ever left out: what has no name is named `#1`, `#2`.. by its place, and a
second `lr` is `lr#2`. Must not know what a text means as a value.

    id      := mapping | call | flags | pairs | tokens: the first that fits; brackets and quotes round it go
    mapping := a dict, or tuples of a name and a value, in the spelling of JSON or Python
    call    := word ( id ), such as Namespace(lr=0.1); the word is a piece without a name
    flags   := [id] (-name | --name) value* ...; a flag without a value is True
    pairs   := [value] (name sign value) ...; a sign is : or =, and any of STRONG and WEAK joins pairs
    tokens  := words, numbers and labelled numbers (lr0.1) between marks; a word before a number is its name
    value   := literal | bracketed id | call | texts; several texts are a list if all are numbers
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence

#: longer ones are no numbers that anybody searches, and take the time of their square to be looked at
_LONGEST_NUMBER = 400
#: brackets in brackets beyond this are text
_DEEPEST = 20
_NUMBER_PATTERN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBER = re.compile(_NUMBER_PATTERN)
#: these end a value for certain: no name has them in it
_STRONG = ",;&|/? \t\n"
#: these end a value when a name follows; a dot, for one, is part of 0.03 as well
_WEAK = "._-+"
#: of the strong ones, those that are seldom part of a text
_CLAUSE = re.compile(r"[,;&|\s]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*|_[A-Za-z0-9_]+")
#: beside separators that no name has in it, names may be dotted or hyphenated: model.depth, weight-decay
_LONG_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_IN_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_LABELLED = re.compile(rf"([A-Za-z_]*[A-Za-z])({_NUMBER_PATTERN})")
#: lr0.1 or lr1e-3 is a number with its label and no name; conv1 may be one
_LABELLED_FRACTION = re.compile(r"[A-Za-z_]*[A-Za-z][+-]?(?:[0-9]*\.[0-9]+|[0-9]+\.?[eE][+-]?[0-9]+)")
_WORD = re.compile(r"[^\W\d_]+")
_FLAG = re.compile(r"--?([A-Za-z_][A-Za-z0-9_.-]*)(?:([:=])(.*))?", re.DOTALL)
_CALL = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)\s*([(\[{<])")
#: a number of numpy's says its type: np.float64(0.1)
_NUMPY = re.compile(r"(?:np|numpy)\.[a-z0-9_]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_CLOSING = frozenset(_BRACKETS.values())
_EDGES = _STRONG + "()[]{}<>:='\""
#: a dot between digits, and a sign in front of a number or in its exponent, are no separators
_BETWEEN_TOKENS = re.compile(
    rf"[{re.escape(_EDGES)}_]+|(?<![0-9])\.(?![0-9])|(?<=[^\W\d_])\.|\.(?=[^\W\d_]|$)"
    rf"|(?<=[^{re.escape(_EDGES + _WEAK)}eE])[-+]|(?<=[A-Za-z][eE])[-+]"
)


def pieces_of(config_id: str) -> dict[str, object] | None:
    """Take the text of a config id apart.

    Returns:
        By name, in the order of the id: text, or a value that stands there as a literal of JSON or Python;
        None when no structure is recognised, as in a hash or a name.
    """
    text = config_id.strip()
    if _UUID.fullmatch(text):
        return None
    found = _Pieces()
    if not found.read("", text, 0, is_whole=True):
        return None
    has_any = any(not isinstance(piece, str) or _has_text(piece) for piece in found.pieces.values())
    return found.pieces if has_any else None


def is_number(text: str) -> bool:
    """Whether a text is a decimal number of a length that somebody may mean."""
    return len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text) is not None


def _has_text(piece: str) -> bool:
    return any(character.isalnum() for character in piece)


class _Pieces:
    """The pieces so far."""

    def __init__(self) -> None:
        """There are none."""
        self.pieces: dict[str, object] = {}
        self._n = 0

    def read(self, prefix: str, text: str, depth: int, *, is_whole: bool = False) -> bool:
        """Take in a text that may be an id of its own; False: no structure is recognised.

        Args:
            prefix: of all names in it: a name and a dot, or nothing.
            text: to take in.
            depth: of brackets around it.
            is_whole: it is the whole id; then words that no number is with say nothing.
        """
        if depth > _DEEPEST:
            return False
        literal = _literal(text) if text[:1] in ("(", "[", "{", '"', "'") else None
        if isinstance(literal, str):
            return self.read(prefix, literal.strip(), depth + 1, is_whole=is_whole)
        if literal is not None:
            return self._read_literal(prefix, literal)
        inside = _inside(text)
        if inside is not None:
            return self.read(prefix, inside, depth + 1, is_whole=is_whole)
        call = _call(text)
        if call is not None:
            self._add(prefix, "", call[0])
            if not self.read(prefix, call[1], depth + 1):
                self._read_value(prefix, "", call[1], depth + 1)
            return True
        outside = _outside(text)
        if self._read_flags(prefix, text, outside, depth):
            return True
        return self._read_pairs(prefix, text, outside, depth) or self._read_tokens(prefix, text, is_whole)

    def _add(self, prefix: str, name: str, piece: object) -> str:
        """Take in one piece; the name that it has now, which no other has."""
        self._n += 1
        key = prefix + (name or f"#{self._n}")
        place = self._n
        while key in self.pieces:
            key = f"{prefix}{name}#{place}"
            place += 1
        self.pieces[key] = piece
        return key

    def _read_literal(self, prefix: str, literal: object) -> bool:
        parts: Sequence[tuple[str, object]]
        if isinstance(literal, Mapping):
            parts = [(str(name), part) for name, part in literal.items()]
        elif isinstance(literal, (list, tuple)):
            are_pairs = all(
                isinstance(part, (list, tuple)) and len(part) == 2 and isinstance(part[0], str)
                for part in literal
            )
            parts = list(literal) if are_pairs else [("", part) for part in literal]
        else:
            return False
        for name, part in parts:
            self._add(prefix, name, part)
        return bool(parts)

    # Flags.

    def _read_flags(self, prefix: str, text: str, outside: Sequence[bool], depth: int) -> bool:
        """`--lr 0.1 --bs=32 --bn`, and what stands before."""
        if "-" not in text:
            return False
        words = list(_cut(text, outside, re.compile(r"\s+")))
        flags = [_FLAG.fullmatch(word) for word in words]
        if not any(flags):
            return False
        first = next(place for place, flag in enumerate(flags) if flag)
        if first:
            self._read_rest(prefix, " ".join(words[:first]), depth)
        ends = [*(place for place, flag in enumerate(flags) if flag and place > first), len(words)]
        for begin, end in zip([first, *ends[:-1]], ends, strict=True):
            flag = flags[begin]
            assert flag is not None
            rest = " ".join(words[begin + 1 : end])
            if flag[2] is not None:
                self._read_rest(prefix, f"{words[begin].lstrip('-')} {rest}".strip(), depth)
            elif rest:
                self._read_value(prefix, flag[1], rest, depth)
            else:
                self._add(prefix, flag[1], True)
        return True

    def _read_rest(self, prefix: str, text: str, depth: int) -> None:
        if not self.read(prefix, text, depth + 1):
            self._read_value(prefix, "", text, depth)

    # Names and values.

    def _read_pairs(self, prefix: str, text: str, outside: Sequence[bool], depth: int) -> bool:
        """`name:value` or `name=value`, whatever joins them."""
        marks = [at for at, character in enumerate(text) if character in ":=" and outside[at]]
        pairs: list[tuple[str, str]] = []
        begin, sign = 0, ""
        name: str | None = None
        for mark in marks:
            part = text[begin:mark]
            split = _split(part, is_first=not sign) if part else None
            if sign == ":" and not pairs and text[mark] == "=" and _LONG_NAME.fullmatch(part.strip()):
                # adam: lr=0.1, wd=0.01
                assert name is not None
                split = (name, part.strip(), True)
                sign = name = ""
            if split is None or (sign and text[mark] != sign and not split[2]):
                continue  # no name before it: it is part of a value, such as 12:30
            if sign or split[0]:
                pairs.append((name or "", split[0]))
            sign = sign or text[mark]
            name, begin = split[1], mark + 1
        if name is None:
            return False
        pairs.append((name, text[begin:]))
        for key, value in pairs:
            self._read_value(prefix, key, value, depth, may_nest=sign == ":")
        return True

    def _read_value(self, prefix: str, name: str, text: str, depth: int, *, may_nest: bool = False) -> None:
        """A text that belongs to a name."""
        text = re.sub(rf"(?<=[{re.escape(_STRONG)}])[{re.escape(_WEAK)}]+$", "", text).strip(_STRONG)
        text = text.lstrip(":=>").lstrip() or text
        literal = _literal(text) if text[:1] in ("(", "[", "{", '"', "'") else None
        if literal is not None:
            self._add(prefix, name, literal)
            return
        inside = _inside(text)
        if inside is None and (call := _call(text)) is not None:
            if not _NUMPY.fullmatch(call[0]):
                key = self._add(prefix, name, call[0])
                self._read_inner(f"{key}.", call[1], depth)
                return
            inside = call[1]
            if is_number(inside):
                self._add(prefix, name, inside)
                return
        if inside is not None:
            self._read_inner(f"{prefix}{name or f'#{self._n + 1}'}.", inside, depth)
            return
        if may_nest and "=" in text:
            inner = _Pieces()
            if inner._read_pairs("", text, _outside(text), depth + 1):
                for key, piece in inner.pieces.items():
                    self._add(f"{prefix}{name}." if name else prefix, key, piece)
                return
        self._read_texts(prefix, name, text, depth)

    def _read_inner(self, prefix: str, text: str, depth: int) -> None:
        """What stands in brackets; its places are counted anew."""
        inner = _Pieces()
        if not inner.read("", text, depth + 1):
            inner._add("", "", text)
        for key, piece in inner.pieces.items():
            self._add(prefix, key, piece)

    def _read_texts(self, prefix: str, name: str, text: str, depth: int) -> None:
        """One text, or several side by side."""
        texts = [part for part in _cut(text, _outside(text), _CLAUSE) if part]
        if len(texts) > 1 and not all(map(is_number, texts)):
            for place, part in enumerate(texts):
                self._read_value(prefix, "" if place else name, part, depth)
            return
        if len(texts) <= 1:
            tokens = [token for token in _BETWEEN_TOKENS.split(text) if token]
            # 0.1-adam is a number and something; resnet-50 and 12:30 are texts
            is_cut = len(tokens) > 1 and is_number(tokens[0]) and not set(text) & set(_EDGES)
            if not is_cut or len(text) > _LONGEST_NUMBER:
                bare = text.strip(_EDGES).rstrip(_WEAK)  # of a bracket that does not close, or of 0.1--bs
                self._add(prefix, name, bare if is_number(bare) else text)
                return
            texts = tokens
        if all(map(is_number, texts)):
            key = f"{prefix}{name or f'#{self._n + 1}'}."
            for place, part in enumerate(texts):
                self._add(key, str(place), part)
            return
        for place, part in enumerate(texts):
            self._add(prefix, "" if place else name, part)

    # Without signs.

    def _read_tokens(self, prefix: str, text: str, is_whole: bool) -> bool:
        """Numbers, words and labelled numbers between marks."""
        parts = list(_Token.all(text))
        n_odd = sum(part.is_odd for part in parts)
        numbers = [part.number for part in parts if part.number is not None]
        if is_whole and (not numbers or 2 * n_odd > len(parts) or _is_index(numbers)):
            return False
        # a word names the number after it; if one number has none before it, words are values
        are_names = all(
            place > 0 and parts[place - 1].is_word
            for place, part in enumerate(parts)
            if part.number is not None and not part.label
        )
        names: list[_Token] = []
        for place, part in enumerate(parts):
            follows = parts[place + 1] if place + 1 < len(parts) else None
            is_before = are_names and part.is_word and follows is not None
            if is_before and (parts[place + 1].is_bare_number or _is_one_name(parts, place)):
                names.append(part)
            elif names:
                name = "".join(f"{word.before if at else ''}{word.text}" for at, word in enumerate(names))
                self._add(prefix, name, part.text)
                names = []
            else:
                self._add(prefix, part.label, part.text if part.number is None else part.number)
        return bool(parts)


class _Token:
    """What stands between two marks."""

    def __init__(self, before: str, text: str) -> None:
        """Begin with what stands before it."""
        self.before = before
        self.text = text
        labelled = _LABELLED.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
        is_bare = is_number(text)
        self.label = labelled[1] if labelled is not None and not is_bare else ""
        #: as text; None: it is no number
        self.number = text if is_bare else labelled[2] if labelled is not None else None
        self.is_bare_number = is_bare
        self.is_word = _WORD.fullmatch(text) is not None
        #: letters and digits, as in a hash or in 3x3
        self.is_odd = self.number is None and not self.is_word

    @classmethod
    def all(cls, text: str) -> Iterator["_Token"]:
        """The tokens of a text, in order."""
        begin, before = 0, ""
        for mark in _BETWEEN_TOKENS.finditer(text):
            if mark.start() > begin:
                yield cls(before, text[begin : mark.start()])
                before = ""
            before += mark[0]
            begin = mark.end()
        if begin < len(text):
            yield cls(before, text[begin:])


def _is_one_name(parts: Sequence[_Token], place: int) -> bool:
    """Whether the words from this place on are one name: `batch_size-64`, but not `adam_lr_0.1`."""
    at = place + 1
    while at < len(parts) and parts[at].is_word:
        at += 1
    if at == len(parts) or not parts[at].is_bare_number:
        return False
    joints, last = {part.before for part in parts[place + 1 : at]}, parts[at].before
    return (joints == {"_"} and last != "_") or (joints in ({"-"}, {"."}) and last[0] in _STRONG)


def _is_index(numbers: Sequence[str]) -> bool:
    """True for one whole number, labelled or not: `17`, `config17`, `run_3` say nothing by themselves."""
    return len(numbers) == 1 and numbers[0].lstrip("+-").isdigit()


def _split(text: str, *, is_first: bool) -> tuple[str, str, bool] | None:
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
    is_name = _LONG_NAME.fullmatch(tail) is not None and _LABELLED_FRACTION.fullmatch(tail) is None
    joint = text[:at].rstrip("-+")
    if is_name and not joint.strip(_EDGES) and (is_first or joint):
        return "", tail, True
    if is_name and joint and joint[-1] in _STRONG:
        return joint, tail, _CLAUSE.fullmatch(joint[-1]) is not None
    begin = max(tail.rfind("."), tail.rfind("-"))
    places = [begin, *(place for place in range(begin + 1, len(tail)) if tail[place] == "_")]
    for place in places:
        cut = at + place
        if cut < 1 or text[cut] not in _WEAK + _STRONG:
            continue
        is_exponent = text[cut - 1] in "eE" and text[cut] in "+-" and cut > 1
        if not is_exponent and _NAME.fullmatch(tail, place + 1):
            return text[:cut], tail[place + 1 :], False
    return None


def _literal(text: str) -> object:
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


def _inside(text: str) -> str | None:
    """What stands in the brackets that are round all of a text; None: there are none."""
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    return None if any(_outside(text)[1:-1]) else text[1:-1].strip()


def _call(text: str) -> tuple[str, str] | None:
    """A word and what stands in the brackets after it, up to the end; None: that is not what it is."""
    match = _CALL.match(text)
    if match is None or (inside := _inside(text[match.end() - 1 :])) is None:
        return None
    return match[1], inside


def _outside(text: str) -> list[bool]:
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


def _cut(text: str, outside: Sequence[bool], between: re.Pattern[str]) -> Iterator[str]:
    """The parts between separators that stand in no brackets."""
    begin = 0
    for mark in between.finditer(text):
        if outside[mark.start()]:
            yield text[begin : mark.start()]
            begin = mark.end()
    yield text[begin:]
