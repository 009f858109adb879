"""The commands on a study that is there, `report`, `stop`, `slots`: how their words are read."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.cli import values
from hyperband.cli.groups import Parser
from hyperband.errors import UsageError
from hyperband.report.text import shown


@dataclass(frozen=True, slots=True)
class Help:
    """A text to print instead of doing anything."""

    text: str


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """`report STUDY_DIR`."""

    folder: Path
    #: `text`, `json` or `csv`
    form: str
    #: how many of the best trials the text shows
    top: int
    debug: bool


@dataclass(frozen=True, slots=True)
class StopOptions:
    """`stop STUDY_DIR`."""

    folder: Path
    #: also if its journal is on a machine that is lost
    from_copy: bool
    #: what jobs left on other machines is lost where it cannot be fetched
    gives_up: bool
    debug: bool


@dataclass(frozen=True, slots=True)
class SlotsOptions:
    """`slots STUDY_DIR`."""

    folder: Path
    #: name of the slot to give back from quarantine, or `all`
    release: str | None
    debug: bool


@dataclass(frozen=True, slots=True)
class SlurmInitOptions:
    """`slurm init [FILE]`."""

    path: Path
    debug: bool


def parse_report(argv: Sequence[str], cwd: Path, prog: str) -> ReportOptions | Help:
    """Read the words after `report`."""
    parser = Parser(
        "report",
        usage=f"{prog} report STUDY_DIR [--json|--csv] [--top N]",
        description="Show a study that runs, was stopped, was killed or is finished, or list the studies in a"
        " folder. Writes nothing.",
        epilog=f"example:\n  {prog} report logs/default --top 3\n",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as one JSON object")
    form.add_argument("--csv", action="store_true", help="the jobs, one a line")
    parser.add_argument(
        "--top",
        metavar="N",
        type=values.whole_number("--top", at_least=1),
        default=10,
        help="how many of the best trials the text shows (default: 10)",
    )
    found = _parse_study_command(parser, argv)
    if isinstance(found, Help):
        return found
    chosen = "json" if found.json else "csv" if found.csv else "text"
    return ReportOptions(_folder(found.folder, cwd), chosen, found.top, found.debug)


def parse_stop(argv: Sequence[str], cwd: Path, prog: str) -> StopOptions | Help:
    """Read the words after `stop`."""
    parser = Parser(
        "stop",
        usage=f"{prog} stop STUDY_DIR [--from-copy] [--give-up]",
        description="Stop the search that writes a study, its jobs included, and wait until they are gone.",
        epilog=f"example:\n  {prog} stop logs/default\n",
    )
    parser.add_argument(
        "--from-copy",
        action="store_true",
        help="from the copy of the journal in STUDY_DIR, where the journal is on a machine that is lost",
    )
    parser.add_argument(
        "--give-up",
        action="store_true",
        help="end also slots of --ray-files sent that keep what jobs left, and cannot be asked for it: it is "
        "lost; and ask no more for a Ray cluster that is gone for good",
    )
    found = _parse_study_command(parser, argv)
    if isinstance(found, Help):
        return found
    return StopOptions(_folder(found.folder, cwd), found.from_copy, found.give_up, found.debug)


def parse_slots(argv: Sequence[str], cwd: Path, prog: str) -> SlotsOptions | Help:
    """Read the words after `slots`."""
    parser = Parser(
        "slots",
        usage=f"{prog} slots STUDY_DIR [--release SLOT]",
        description="Show what each slot of a study did, and which are in quarantine; or give one back.",
        epilog=f"example:\n  {prog} slots logs/default --release gpu:1\n",
    )
    parser.add_argument(
        "--release",
        metavar="SLOT",
        help="give a slot back from quarantine, for example gpu:1; all: every one (default: show only)",
    )
    found = _parse_study_command(parser, argv)
    return (
        found
        if isinstance(found, Help)
        else SlotsOptions(_folder(found.folder, cwd), found.release, found.debug)
    )


def parse_slurm(argv: Sequence[str], cwd: Path, prog: str) -> SlurmInitOptions | Help:
    """Read the words after `slurm`."""
    parser = Parser(
        "slurm",
        usage=f"{prog} slurm init [FILE]",
        description="Write a commented profile that says what a search with --on slurm asks of Slurm.",
        epilog=f"example:\n  {prog} slurm init slurm.yaml\n",
    )
    parser.add_argument("init", metavar="init", choices=("init",), help="the only command so far")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="slurm.yaml", help="a new file (default: slurm.yaml)"
    )
    parser.add_argument("--debug", action="store_true", help="a traceback with every error")
    parser.add_argument("-h", "--help", action="store_true", help="this text")
    if "-h" in argv or "--help" in argv:
        return Help(parser.format_help())
    found = parser.parse_args(argv)
    return SlurmInitOptions(values.absolute(found.file, cwd), found.debug)


def _parse_study_command(parser: Parser, argv: Sequence[str]) -> argparse.Namespace | Help:
    parser.add_argument("folder", metavar="STUDY_DIR", help="the study's folder, for example logs/default")
    parser.add_argument("--debug", action="store_true", help="a traceback with every error")
    parser.add_argument("-h", "--help", action="store_true", help="this text")
    own = argv[: argv.index("--")] if "--" in argv else argv
    if "-h" in own or "--help" in own:
        return Help(parser.format_help())
    return parser.parse_args(argv)


def _folder(found: str, cwd: Path) -> Path:
    folder = values.absolute(found, cwd)
    if not found or not folder.is_dir():
        raise UsageError(
            f"Found no folder {shown(str(folder))}, expected that of a study: the one that the search named"
            " when it began, for example logs/default."
        )
    return folder
