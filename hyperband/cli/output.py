"""What a command prints on its standard streams. Owns closed and missing ones; knows no command."""

import os
import shutil
import sys
from typing import TextIO

from hyperband.errors import MachineError
from hyperband.report.text import shown

#: where the output is no terminal
_WIDTH = 120


def prepare_streams() -> None:
    """Make the standard streams safe: each is there, and prints any text in some spelling.

    Without this, a command started with `>&-` would write its prints into the next file it opens.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        # None where the stream was closed when Python began; another class where someone captures it.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def print_out(text: str) -> None:
    """Write to standard output. A reader that closed its end (`| head`) has seen enough: no error.

    Raises:
        MachineError: it cannot be written, for example because the disk under it is full.
    """
    problem = _write(sys.stdout, text)
    if problem is not None and not isinstance(problem, BrokenPipeError):
        raise MachineError(
            f"Standard output cannot be written: {problem.strerror}. Nothing of the study is lost; send the"
            " output elsewhere, or read it later with `report`."
        ) from problem


def complain(text: str) -> None:
    """Write a paragraph to standard error, control characters shown as escapes, with a full stop."""
    if "\n" not in text and text[-1:] not in ".!?:":
        text += "."
    lines = "\n".join(shown(line) for line in text.split("\n"))
    # Where this fails too, nobody is left to be told: the exit code still says it.
    _write(sys.stderr, f"hyperband: {lines}\n")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads the stream as it is written."""
    return stream is not None and stream.isatty()


def width_of(stream: TextIO | None) -> int:
    """Columns of the terminal that the stream is, or a readable width where it is none."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else _WIDTH


def _write(stream: TextIO | None, text: str) -> OSError | None:
    """Write and flush; what went wrong."""
    if stream is None:
        return None
    try:
        stream.write(text)
        stream.flush()
    except OSError as problem:
        # Python flushes once more at its end and would complain there: what is kept goes nowhere instead.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return problem
    return None
