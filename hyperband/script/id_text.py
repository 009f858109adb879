"""The pieces of a config id's text: what stands there, by name or by place.

Owns the grammar. Pure. No piece is ever left out: what has no name is named `#1`, `#2`.. by its place, and a
second `lr` is `lr#2`. Must not know what a text means as a value.

    id      := mapping | call | flags | pairs | tokens: the first that fits; brackets and quotes round it go
    mapping := a dict, or tuples of a name and a value, in the spelling of JSON or Python
    call    := word ( id ), such as Namespace(lr=0.1); the word is a piece without a name
    flags   := [id] (-name | --name) value* ...; a flag without a value is True
    pairs   := [value] (name sign value) ...; a sign is : or =, and a mark (id_marks.py), or the sign, joins
               pairs
    tokens  := words, numbers and labelled numbers (lr0.1) between marks; a word before a number is its name
    value   := literal | bracketed id | call | texts; several texts are a list if all are numbers
"""

import re
from collections.abc import Mapping, Sequence

from hyperband.script.id_marks import (
    BETWEEN_TOKENS,
    CLAUSE,
    EDGES,
    LONG_NAME,
    LONGEST_NUMBER,
    STRONG,
    WEAK,
    Token,
    alternating,
    call_of,
    cut,
    inside_of,
    is_number,
    literal_of,
    outside_of,
    split_name,
)

#: brackets in brackets beyond this are text
_DEEPEST = 20
#: an option of a command line
_FLAG = re.compile(r"--?([A-Za-z_][A-Za-z0-9_.-]*)(?:([:=])(.*))?", re.DOTALL)
#: a number of numpy's says its type: np.float64(0.1)
_NUMPY = re.compile(r"(?:np|numpy)\.[a-z0-9_]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


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
        literal = literal_of(text) if text[:1] in ("(", "[", "{", '"', "'") else None
        if isinstance(literal, str):
            return self.read(prefix, literal.strip(), depth + 1, is_whole=is_whole)
        if literal is not None:
            return self._read_literal(prefix, literal)
        inside = inside_of(text)
        if inside is not None:
            return self.read(prefix, inside, depth + 1, is_whole=is_whole)
        call = call_of(text)
        if call is not None:
            self._add(prefix, "", call[0])
            if not self.read(prefix, call[1], depth + 1):
                self._read_value(prefix, "", call[1], depth + 1)
            return True
        outside = outside_of(text)
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
        words = list(cut(text, outside, re.compile(r"\s+")))
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
        if (found := alternating(text)) is not None:
            for key, value in found:
                self._add(prefix, key, value)
            return True
        pairs: list[tuple[str, str]] = []
        begin, sign = 0, ""
        name: str | None = None
        for mark in marks:
            part = text[begin:mark]
            split = split_name(part, is_first=not sign) if part else None
            if sign == ":" and not pairs and text[mark] == "=" and LONG_NAME.fullmatch(part.strip()):
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
        text = re.sub(rf"(?<=[{re.escape(STRONG)}])[{re.escape(WEAK)}]+$", "", text).strip(STRONG)
        text = text.lstrip(":=>").lstrip() or text
        literal = literal_of(text) if text[:1] in ("(", "[", "{", '"', "'") else None
        if literal is not None:
            self._add(prefix, name, literal)
            return
        inside = inside_of(text)
        if inside is None and (call := call_of(text)) is not None:
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
            if inner._read_pairs("", text, outside_of(text), depth + 1):
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
        texts = [part for part in cut(text, outside_of(text), CLAUSE) if part]
        if len(texts) > 1 and not all(map(is_number, texts)):
            for place, part in enumerate(texts):
                self._read_value(prefix, "" if place else name, part, depth)
            return
        if len(texts) <= 1:
            tokens = [token for token in BETWEEN_TOKENS.split(text) if token]
            # 0.1-adam is a number and something; resnet-50 and 12:30 are texts
            is_cut = len(tokens) > 1 and is_number(tokens[0]) and not set(text) & set(EDGES)
            if not is_cut or len(text) > LONGEST_NUMBER:
                bare = text.strip(EDGES).rstrip(WEAK)  # of a bracket that does not close, or of 0.1--bs
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
        parts = list(Token.all(text))
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
        names: list[Token] = []
        are_one_name = _one_names(parts)
        for place, part in enumerate(parts):
            follows = parts[place + 1] if place + 1 < len(parts) else None
            is_before = are_names and part.is_word and follows is not None
            if is_before and (parts[place + 1].is_bare_number or are_one_name[place]):
                names.append(part)
            elif names:
                name = "".join(f"{word.before if at else ''}{word.text}" for at, word in enumerate(names))
                self._add(prefix, name, part.text)
                names = []
            else:
                self._add(prefix, part.label, part.text if part.number is None else part.number)
        return bool(parts)


def _one_names(parts: Sequence[Token]) -> list[bool]:
    """For each place whether the words from it on are one name: `batch_size-64`, but not `adam_lr_0.1`."""
    found = [False] * len(parts)
    end, joint = len(parts), ""  # of the words after a place; no joint: there are none, or several
    for place in reversed(range(len(parts) - 1)):
        word = parts[place + 1]
        if not word.is_word:
            end, joint = place + 1, ""
        elif end == place + 2:
            joint = word.before
        elif joint != word.before:
            joint = ""
        if joint and end < len(parts) and parts[end].is_bare_number:
            last = parts[end].before
            found[place] = (joint == "_" and last != "_") or (joint in ("-", ".") and last[0] in STRONG)
    return found


def _is_index(numbers: Sequence[str]) -> bool:
    """True for one whole number, labelled or not: `17`, `config17`, `run_3` say nothing by themselves."""
    return len(numbers) == 1 and numbers[0].lstrip("+-").isdigit()
