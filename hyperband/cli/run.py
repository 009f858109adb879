"""`hyperband SCRIPT`: a dry run, or a search from its start to what it leaves behind.

Owns what stands around a search: the question of `--clean`, and the output at the end.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hyperband.cli.output import is_terminal, print_out, width_of
from hyperband.errors import HyperbandError, UsageError
from hyperband.folder import has_study
from hyperband.journal import read_study, writer_of
from hyperband.report.document import document_of, planned_document, study_document
from hyperband.report.export import json_text
from hyperband.report.now import Now
from hyperband.report.results import result_text
from hyperband.report.screen import Console
from hyperband.report.tables import plan_text
from hyperband.report.view import study_view
from hyperband.settings import Settings
from hyperband.study import Detached, SearchResult, detach, dry_run, open_script, run_search
from hyperband.study.opening import plan_of


class DeclinedError(HyperbandError):
    """The user said no when asked."""

    exit_code: ClassVar[int] = 130


def run(settings: Settings, *, cwd: Path) -> int:
    """Search, or show the plan; the exit code.

    Raises:
        HyperbandError: the search could not begin, or could not go on.
    """
    with Console(sys.stderr if settings.json else sys.stdout) as console:
        if settings.dry_run:
            return _show_plan(settings, console)
        if settings.clean and not settings.yes and not _can_ask():
            raise UsageError(
                "--clean removes the study and standard input is no terminal to ask on; expected --yes with"
                " it, or a terminal."
            )
        if settings.detach is not None:
            return _detach(settings, settings.detach, console)
        detached = Detached.take(os.environ)
        try:
            result = run_search(
                settings,
                console=console,
                confirm=lambda folder: _confirm(folder, settings, console),
                detached=detached,
            )
        except Exception as error:
            # One object also with exit 1: programs that started us read standard output alone.
            if settings.json and getattr(error, "exit_code", 1) == 1:
                _print_json(_document_without_result(settings))
            raise
        _show_result(result, settings, console, cwd)
    if detached is not None:
        detached.end(
            result.folder,
            os.environ,
            is_handed_over=result.is_handed_over,
            was_stopped=result.state == "stopped",
        )
    if result.error is not None:
        raise result.error
    return result.exit_code


def _detach(settings: Settings, words: Sequence[str], console: Console) -> int:
    begun = detach(
        settings, words, console=console, confirm=lambda folder: _confirm(folder, settings, console)
    )
    if begun.exit_code is not None:
        console.line(begun.last_words)
        if begun.exit_code != 0:
            console.line(f"The search could not begin; all it said is in {begun.log}")
        return begun.exit_code
    folder = shlex.quote(str(begun.folder))
    console.line(
        f"The search runs on its own: {begun.who}\n\nfolder  {begun.folder}\noutput  {begun.log}\n"
        f"watch   hyperband report {folder}\nstop    hyperband stop {folder}"
    )
    return 0


def _show_plan(settings: Settings, console: Console) -> int:
    found = dry_run(settings, console=console)
    guide = () if found.guidance is None else found.guidance.describe()
    console.line(plan_text(found.plan, settings, identity=found.identity, guide=guide))
    warnings = () if found.guidance is None else found.guidance.warnings
    if lines := (*warnings, *found.notes):
        console.line("\n".join(("", *lines)))
    console.drain()
    if settings.json:
        _print_json(planned_document(settings, found.identity, found.plan))
    return 0


def _show_result(result: SearchResult, settings: Settings, console: Console, cwd: Path) -> None:
    """The output at the end: for people, and after it the one object for programs."""
    found = read_study(result.folder)
    study = study_view(found.events, folder=result.folder, running=False, beginnings=found.beginnings)
    console.close()
    if result.error is None:
        console.line(f"\n{result.state}: {result.reason}")
    width = width_of(sys.stderr if settings.json else sys.stdout)
    console.line(f"\n{result_text(study, result.folder, cwd=cwd, width=width)}")
    if result.is_handed_over:
        console.line("Slurm is asked to queue it again, and it goes on from here by itself")
    elif result.state == "stopped":
        console.line("the same command goes on from here")
    console.drain()
    if settings.json:
        _print_json(document_of(study))


def _print_json(document: Mapping[str, object]) -> None:
    print_out(json_text(document, is_for_people=is_terminal(sys.stdout)))


def _document_without_result(settings: Settings) -> dict[str, object]:
    """What is known of a search that could not go on: its journal if it has one, else its plan."""
    try:
        with open_script(settings) as opened:
            identity, folder = opened.identity, opened.folder
        if has_study(folder):
            running = writer_of(folder) is not None
            found = read_study(folder)
            now = Now.read(folder)
            return study_document(
                found.events, folder=folder, running=running, beginnings=found.beginnings, now=now
            )
    except HyperbandError:
        # The error that ended the search is the one to tell; this one would only hide it.
        identity = ""
    return planned_document(settings, identity, plan_of(settings), state="failed")


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _confirm(folder: Path, settings: Settings, console: Console) -> None:
    """Let `--clean` remove a folder, after asking.

    Raises:
        DeclinedError: the answer was no.
    """
    console.line(f"--clean removes {folder}; the script's own checkpoints stay")
    if settings.yes:
        return
    console.line("remove it? [y/N]")
    console.drain()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DeclinedError("nothing was removed and nothing was started: the answer was not yes.")
