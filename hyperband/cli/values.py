"""What the values of options may be. Owns their checks and messages; knows no option by name."""

import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import UsageError
from hyperband.folder import has_study
from hyperband.report.text import shown

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_GPU = re.compile(r"[0-9]{1,6}|(GPU|MIG)-[0-9A-Za-z/-]+")


def whole_number(option: str, *, at_least: int) -> Callable[[str], int]:
    """A reader of whole numbers: digits only, so that `1e2`, `3.0`, `1_000` and ` 3` are no accidents."""

    def read(found: str) -> int:
        if not _WHOLE.fullmatch(found) or int(found) < at_least:
            raise refused(option, found, f"a whole number of at least {at_least}, at most 18 digits")
        return int(found)

    return read


def number_or_auto(option: str, *, at_least: int) -> Callable[[str], int | None]:
    """A reader of whole numbers, or None for the word `auto`."""
    number = whole_number(option, at_least=at_least)

    def read(found: str) -> int | None:
        if found == "auto":
            return None
        if not _WHOLE.fullmatch(found):
            raise refused(option, found, f"auto, or a whole number of at least {at_least}")
        return number(found)

    return read


def finite_number(
    option: str, *, unit: str = "", above: float = -math.inf, at_least: float = -math.inf
) -> Callable[[str], float]:
    """A reader of finite decimal numbers, within bounds where they are given."""
    bound = f" above {above:g}" if above > -math.inf else ""
    bound = f" of at least {at_least:g}" if at_least > -math.inf else bound
    expected = f"a finite number{unit and ' of ' + unit}{bound}"

    def read(found: str) -> float:
        if not _NUMBER.fullmatch(found):
            raise refused(option, found, expected)
        value = float(found)
        if not math.isfinite(value) or value <= above or value < at_least:
            raise refused(option, found, expected)
        return value

    return read


def or_none(read: Callable[[str], object]) -> Callable[[str], object]:
    """A reader of limits: `none` for no limit, or what `read` takes."""
    return lambda found: None if found == "none" else read(found)


def one_of(option: str, choices: tuple[str, ...]) -> Callable[[str], str]:
    """A reader of one word out of a few."""

    def read(found: str) -> str:
        if found not in choices:
            raise refused(option, found, f"one of {', '.join(choices)}")
        return found

    return read


def gpu_choice(option: str) -> Callable[[str], str]:
    """A reader of `all`, `none`, or a comma-separated list of indices and UUIDs, each once."""
    expected = "all, none, or a list like 0,2 or GPU-1b2c..,GPU-3d4e.. (PCI order indices, UUIDs; no spaces)"

    def read(found: str) -> str:
        if found in ("all", "none"):
            return found
        parts = found.split(",")
        if not all(_GPU.fullmatch(part) for part in parts):
            raise refused(option, found, expected)
        if len(set(parts)) < len(parts):
            raise refused(option, found, f"each GPU once; {expected}")
        return found

    return read


def absolute(path: str, cwd: Path) -> Path:
    """The path made absolute with its symbolic links kept, `..` taken out where that changes nothing."""
    joined = cwd / path
    if ".." not in joined.parts:
        return joined
    # a/link/.. is not a when link leads elsewhere: only the file system can say.
    plain = Path(os.path.normpath(joined))
    try:
        return plain if plain.samefile(joined) else joined
    except OSError:
        return joined


def script_path(found: str, cwd: Path) -> Path:
    """The script, which must be there: everything else about it is checked by importing it."""
    path = absolute(found, cwd)
    if not found or not path.exists():
        raise UsageError(
            f"Found no file {shown(found)!r} in {cwd}; expected the path of your script as the first word"
            " that is no option. See --help for the form of the command."
        )
    if not path.is_file():
        raise UsageError(f"{shown(str(path))} is no regular file; expected the path of your Python script.")
    return path


def ids_file(option: str, found: str, cwd: Path) -> Path:
    """A file of config ids, which must be there."""
    path = absolute(found, cwd)
    if not found or not path.is_file():
        raise refused(option, found, f"a file with one config id a line (looked for {shown(str(path))})")
    return path


def study_folder(option: str, found: str, cwd: Path) -> Path:
    """The folder of a study, which must be there and hold one."""
    path = absolute(found, cwd)
    if not found or not path.is_dir() or not has_study(path):
        expected = f"the folder of a study, such as logs/default (looked for a journal in {shown(str(path))})"
        raise refused(option, found, expected)
    return path


def interpreter(option: str, found: str, cwd: Path, search_path: str | None) -> Path:
    """An executable file: through PATH when it has no slash; links kept, a virtual environment's is one."""
    place = found if "/" in found else (shutil.which(found, path=search_path) if found else None)
    path = absolute(place, cwd) if place else None
    if path is None or not path.is_file() or not os.access(path, os.X_OK):
        where = "a path that leads to one" if "/" in found else "one that PATH leads to"
        raise refused(option, found, f"a Python interpreter, {where}")
    return path


def refused(option: str, found: str, expected: str) -> UsageError:
    """The error for a value that an option does not take."""
    return UsageError(f"{option}: found {shown(found)!r}, expected {expected}.")
