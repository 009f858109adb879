"""Files that a user names for a cluster, as text and as YAML: how it is said that they cannot be read.

Owns these words. Must not know what a file means.
"""

from pathlib import Path

from hyperband.errors import UsageError


def read_text(path: Path, name: str, hint: str = "") -> str:
    """Return what a file says.

    Args:
        path: where it is.
        name: how it was named, its path included, to begin a message.
        hint: what to do where it cannot be read.

    Raises:
        UsageError: it cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        also = f"; {hint}" if hint else ""
        raise UsageError(f"{name} cannot be read ({err.strerror or err}){also}.") from err
    except UnicodeDecodeError as err:
        raise UsageError(f"{name} is no text in UTF-8 ({err.reason}).") from err


def no_yaml(err: Exception, name: str) -> UsageError:
    """Return what is said of a file that is no YAML: the line, and what is wrong there.

    Args:
        err: of the YAML library.
        name: see read_text.
    """
    if (reason := getattr(err, "reason", None)) is not None:
        return UsageError(f"{name} is no text in UTF-8 ({reason}).")
    mark, problem = getattr(err, "problem_mark", None), getattr(err, "problem", None)
    line = "" if mark is None else f", line {mark.line + 1}"
    return UsageError(
        f"{name}{line}: this is no YAML: {problem or err}. A value with : # \" or such goes into 'single "
        "quotes'."
    )
