"""Groups of options, and how one is defined: its name once, its reader, default and help. Names none."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NoReturn

from hyperband.cli import values
from hyperband.errors import UsageError
from hyperband.report.text import shown


class Parser(argparse.ArgumentParser):
    """argparse for definitions and help; its errors are ours, its abbreviations are off."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str = "") -> None:
        """A parser whose help keeps the line breaks of its texts."""
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the process."""
        raise UsageError(f"{self.prog}: {shown(message)}; see --help.")


class Group:
    """One group of a parser's options; each method adds one."""

    def __init__(self, parser: Parser, title: str) -> None:
        """An empty group under this title of the help."""
        self._group = parser.add_argument_group(title)

    def whole(
        self,
        name: str,
        metavar: str,
        *,
        at_least: int,
        default: int | None = None,
        also: Sequence[str] = (),
        is_limit: bool = False,
        help: str,
    ) -> None:
        """A whole number; with `is_limit` also `none`."""
        self._add(name, metavar, values.whole_number(name, at_least=at_least), default, help, also, is_limit)

    def number(
        self,
        name: str,
        metavar: str,
        *,
        unit: str = "",
        above: float = -math.inf,
        at_least: float = -math.inf,
        default: float | None = None,
        is_limit: bool = False,
        help: str,
    ) -> None:
        """A finite number; with `is_limit` also `none`."""
        read = values.finite_number(name, unit=unit, above=above, at_least=at_least)
        self._add(name, metavar, read, default, help, (), is_limit)

    def one_of(
        self,
        name: str,
        metavar: str,
        choices: Sequence[str],
        *,
        default: str,
        help: str,
    ) -> None:
        """One word out of a few."""
        self._add(name, metavar, values.one_of(name, tuple(choices)), default, help)

    def text(
        self,
        name: str,
        metavar: str,
        *,
        read: Callable[[str], object] = str,
        default: object = None,
        help: str,
    ) -> None:
        """Any text, or what `read` makes of it; a list as default: it may be given several times."""
        self._add(name, metavar, read, default, help)

    def flag(self, name: str, *also: str, dest: str | None = None, help: str) -> None:
        """An option without a value; `dest` where its name is a word of Python."""
        names = (name, *also)
        dest = dest or next(one for one in names if one.startswith("--")).removeprefix("--").replace("-", "_")
        self._group.add_argument(*names, action="store_true", dest=dest, help=help)

    def _add(
        self,
        name: str,
        metavar: str,
        read: Callable[[str], object],
        default: object,
        help: str,
        also: Sequence[str] = (),
        is_limit: bool = False,
    ) -> None:
        is_list = isinstance(default, list)
        self._group.add_argument(
            name,
            *also,
            metavar=metavar,
            type=values.or_none(read) if is_limit else read,
            default=default,
            action="append" if is_list else "store",
            help=help,
        )
