"""Text that is safe and short enough to show. Owns wording of numbers; knows no study and no terminal."""

import shlex
import time
import unicodedata
from collections.abc import Sequence
from typing import TypeGuard

#: Unicode categories that move the cursor, reverse the reading direction, break lines or cannot be encoded.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def shown(text: str) -> str:
    r"""The text with every character that could act on a terminal written as an escape (`\x1b`).

    Config ids and error lines come from outside: an escape sequence in them must stay a picture of itself.
    Tabs become escapes as well, so that widths stay what they seem; newlines too: one text, one line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def shortened(text: str, width: int) -> str:
    """`shown(text)`, cut in its middle to at most `width` characters (at least 9 are kept)."""
    line = shown(text)
    width = max(width, 9)
    if len(line) <= width:
        return line
    tail = (width - 1) // 3
    return f"{line[: width - 1 - tail]}…{line[-tail:]}"


def command_line(argv: Sequence[str]) -> str:
    r"""The words as one line to be pasted into a shell, showing no character that acts on a terminal.

    Words that hold such characters are quoted the way bash, zsh and ksh read back: `$'a\033b'`.
    """
    return " ".join(shlex.quote(word) if shown(word) == word else _ansi_c_quoted(word) for word in argv)


def number(value: float) -> str:
    """A loss for people: six significant digits."""
    return f"{value:.6g}"


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether the value of a hyperparameter is a number; True and False are words."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short_number(value: float, n_digits: int = 3) -> str:
    """The value of a hyperparameter for people: a whole number as it is, others to so many digits."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.{n_digits}g}" if abs(value) < 10**n_digits else f"{value:.6g}"


def span_words(values: Sequence[float]) -> str:
    """`0.9 to 0.99`, or the only value there is."""
    # with a digit more than an example: 0.9999 is not 1
    low, high = short_number(min(values), 4), short_number(max(values), 4)
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """A span of time in its two largest units: `2 d 3 h`, `1 h 5 min`, `12 s`, `0.4 s`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count))
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def time_left(seconds: float) -> str:
    """An estimate of what is left, at least `1 s`: no fractions of a second, which nobody knows."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 60 else duration(whole)


def moment(at: float) -> str:
    """A point in time, given in Unix seconds, by the clock on the wall here: `2026-11-21 15:15:41`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def size(n_bytes: float) -> str:
    """An amount of memory or disk: `3.2 GiB`, `340 MiB`, `12 B`."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1023.5:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def counted(count: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _ansi_c_quoted(word: str) -> str:
    parts: list[str] = []
    for character in word:
        if character in "\\'":
            parts.append(f"\\{character}")
        elif shown(character) == character:
            parts.append(character)
        else:
            # Octal takes three digits at most: a digit that follows is never part of it.
            parts.extend(f"\\{byte:03o}" for byte in character.encode("utf-8", errors="surrogateescape"))
    return f"$'{''.join(parts)}'"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
