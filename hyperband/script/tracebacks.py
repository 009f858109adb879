"""Python's tracebacks in a text: which exception ended the process, and what it came from.

Owns the shapes that interpreters, multiprocessing, DataLoader workers and exception groups print. Pure;
knows no files, no exit codes' meaning, and not what an exception is about.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: what launchers put before each line of a process: `[rank0]: `, `(worker pid=12) `
_PREFIX = re.compile(r"^(?:\[(?:rank|default)?\d+\]:\s?|\([^()]* pid=\d+[^()]*\)\s)")
_HEADER = re.compile(r"(?P<kind>Exception Group )?Traceback \(most recent call last\)")
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
#: frames of rich's tracebacks are drawn in boxes
_BOX = tuple("╭│╰┌└┃")
_FRAME = re.compile(r'^\s*File "[^"]*", line \d+')
_EXCEPTION = re.compile(r"^(?P<name>[^\W\d][\w.<>]*)(?::(?:\s(?P<message>.*))?)?$")
#: without a header, as for a syntax error: only what is called an error
_BARE_EXCEPTION = re.compile(
    r"^(?P<name>(?:[^\W\d]\w*\.)*[^\W\d]\w*(?:Error|Exception|Interrupt))(?::(?:\s(?P<message>.*))?)?$"
)
#: `| ` before the lines of a group, and `+-+---- 1 ----` between them
_GROUP_LINE = re.compile(r"^\s*[|+](?: ?|(?=-))")
_GROUP_RULE = re.compile(r"^\s*\+[-+]*-{4,}(?: [\d.]+ -{4,})?\s*$")

#: said before a traceback that did not end the process: the more so, the higher
_LESSER = (
    (re.compile(r"^Process \S+:$|^\S*Process-\d+:$"), 1),
    (re.compile(r"^Exception in thread |^Exception in callback "), 2),
    (
        re.compile(
            r"^Exception ignored |^--- Logging error ---|^Error in atexit\.|^Error in sys\.excepthook"
            r"|exception was never retrieved$"
        ),
        3,
    ),
)
#: exceptions that only say that another process failed, which told why itself
_SAYS_ONLY_THAT = frozenset({"ChildFailedError", "CalledProcessError"})
#: what may follow the error that ended a process: lines of its message, of exit handlers, of threads
_N_LINES_AFTER_UNCAUGHT = 20
#: ... and what may stand between an error that was printed and the exit that somebody chose
_N_LINES_AFTER_PRINTED = 5
_N_MESSAGE_LINES = 60


@dataclass(frozen=True, slots=True)
class PythonError:
    """One exception as it was printed."""

    #: with its module
    name: str
    #: first line of its message; empty if it has none
    message: str
    #: its whole message, and what directly followed it
    text: str
    #: the source line that raised it, if the traceback shows it
    source: str = ""
    #: what it was raised `from`
    cause: "PythonError | None" = None
    #: what was being handled when it was raised
    context: "PythonError | None" = None
    #: of a group: its exceptions
    members: "tuple[PythonError, ...]" = ()

    @property
    def short_name(self) -> str:
        """Its class alone."""
        return self.name.rpartition(".")[2]

    def all_parts(self) -> "Iterator[PythonError]":
        """The exception, its members, and all that it came from."""
        yield self
        for part in (*self.members, self.cause, self.context):
            if part is not None:
                yield from part.all_parts()


@dataclass(slots=True)
class _Found:
    """An error and where it stands."""

    error: PythonError
    rank: int
    #: lines that are not indented and follow it
    n_after: int


def last_error(lines: list[str], *, is_uncaught: bool) -> PythonError | None:
    """The exception that ended a process; None if none can be told from what it printed.

    Args:
        lines: the end of its standard error, without anything that moves the cursor.
        is_uncaught: whether it ended as one does whose exception nobody caught (exit code 1). Else somebody
            printed the exception and then chose an exit code, which leaves less room between the two.
    """
    lines = [_PREFIX.sub("", line) for line in lines]
    most = _N_LINES_AFTER_UNCAUGHT if is_uncaught else _N_LINES_AFTER_PRINTED
    found = [item for item in _errors(lines) if item.n_after <= most]
    if not found:
        return _bare_error(lines, most)
    rank = min(item.rank for item in found)
    chosen = [item.error for item in found if item.rank == rank]
    if len(chosen) > 1 and chosen[-1].short_name in _SAYS_ONLY_THAT:
        return next((e for e in reversed(chosen) if e.short_name not in _SAYS_ONLY_THAT), chosen[-1])
    return chosen[-1]


def _errors(lines: list[str]) -> list[_Found]:
    """Every exception that a traceback ends with, in order, linked to what it came from."""
    after = _n_unindented_after(lines)
    found: list[_Found] = []
    place = 0
    while place < len(lines):
        header = _HEADER.search(lines[place])
        if header is None:
            place += 1
            continue
        before = _before(lines, place)
        if header["kind"]:
            error, place = _group(lines, place)
        else:
            error, place = _plain(lines, place)
        if error is None:
            continue
        previous = found[-1].error if found else None
        rank = next((rank for pattern, rank in _LESSER if pattern.search(before)), 0)
        if before in (_CAUSE, _CONTEXT) and found:
            error = _linked(error, previous, is_cause=before == _CAUSE)
            rank = found.pop().rank
        found.append(_Found(error, rank, after[min(place, len(lines)) - 1]))
    return found


def _linked(error: PythonError, previous: PythonError | None, *, is_cause: bool) -> PythonError:
    cause, context = (previous, None) if is_cause else (None, previous)
    return PythonError(
        error.name, error.message, error.text, error.source, cause, context, members=error.members
    )


def _before(lines: list[str], place: int) -> str:
    """The line before a traceback, of those that are not empty."""
    return next(
        (
            line.strip().lstrip("| ")
            for line in reversed(lines[max(0, place - 3) : place])
            if line.strip(" |")
        ),
        "",
    )


def _plain(lines: list[str], place: int) -> tuple[PythonError | None, int]:
    """Read the traceback whose header stands at a place; return its exception and where to go on."""
    indent = _indent(lines[place])
    if lines[place].lstrip().startswith(_BOX):
        indent = 0
    place += 1
    source = ""
    is_below_frame = False
    while place < len(lines):
        line = lines[place]
        if not (line.strip().startswith(_BOX) or not line.strip() or _indent(line) > indent):
            break
        if is_below_frame and not _FRAME.match(line):
            source = line.strip()
        is_below_frame = bool(_FRAME.match(line))
        place += 1
    if place == len(lines):
        return None, place
    told = _EXCEPTION.match(lines[place].strip())
    if told is None:
        return None, place
    return _made(told, lines, place, source), place + 1


def _made(told: re.Match[str], lines: list[str], place: int, source: str = "") -> PythonError:
    """The exception that stands in a line, with the rest of its message below it."""
    rest = [told["message"] or ""]
    for line in lines[place + 1 : place + 1 + _N_MESSAGE_LINES]:
        if _HEADER.search(line) or line.strip() in (_CAUSE, _CONTEXT):
            break
        rest.append(line)
    message = (told["message"] or "").strip()
    if not message or message.endswith("error:"):  # `Graph execution error:` and then an empty line
        message = next((line.strip() for line in rest[1:3] if line.strip() and told["message"]), message)
    return PythonError(told["name"], message, "\n".join([f"{told['name']}: {rest[0]}", *rest[1:]]), source)


def _group(lines: list[str], place: int) -> tuple[PythonError | None, int]:
    """Read an exception group, whose lines begin with bars; return it and where to go on."""
    parts: list[list[str]] = [[]]
    place += 1
    while place < len(lines) and _GROUP_LINE.match(lines[place]):
        if _GROUP_RULE.match(lines[place]):
            parts.append([])
        else:
            line = lines[place]
            while (bare := _GROUP_LINE.sub("", line, count=1)) != line:
                line = bare
            parts[-1].append(line)
        place += 1
    told = [error for part in parts if (error := _of_part(part)) is not None]
    if not told:
        return None, place
    members = tuple(error for error in told if not error.short_name.endswith("ExceptionGroup"))
    head = told[0]
    return PythonError(head.name, head.message, head.text, members=members), place


def _of_part(lines: list[str]) -> PythonError | None:
    """The exception of one part of a group: below its traceback, or alone."""
    found = _errors(lines)
    if found:
        return found[-1].error
    for place, line in enumerate(lines):
        if line and not line[0].isspace() and (told := _EXCEPTION.match(line)):
            return _made(told, lines, place)
    return None


def _bare_error(lines: list[str], most: int) -> PythonError | None:
    """The last line that is an exception without a traceback above it: a syntax error, or a cut text."""
    n_after = 0
    for place in range(len(lines) - 1, -1, -1):
        line = lines[place]
        if told := _BARE_EXCEPTION.match(line):
            return _made(told, lines, place)
        n_after += bool(line.strip()) and not line[0].isspace()
        if n_after > most:
            break
    return None


def _n_unindented_after(lines: list[str]) -> list[int]:
    counts = [0] * len(lines)
    for place in range(len(lines) - 2, -1, -1):
        line = lines[place + 1]
        counts[place] = counts[place + 1] + bool(line.strip() and not line[0].isspace())
    return counts


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
