"""`hyperband SCRIPT`: a dry run, or a search from its start to what it leaves behind.

Owns what stands around a search: the question of `--clean`, and the output at the end.
"""

import sys
from pathlib import Path

from hyperband.cli.output import print_out, width_of
from hyperband.errors import HyperbandError, StudyBusyError, UsageError
from hyperband.journal import JOURNAL_FILE, holder, read_events
from hyperband.report.document import document_of, planned_document, study_document
from hyperband.report.export import json_text
from hyperband.report.screen import Console
from hyperband.report.tables import plan_text, result_text
from hyperband.report.view import study_view
from hyperband.settings import Settings
from hyperband.study import SearchResult, dry_run, open_script, remove_study, run_search
from hyperband.study.opening import plan_of

_NOT_GONE_ON = 130


def run(settings: Settings, *, cwd: Path) -> int:
    """Search, or show the plan; the exit code.

    Raises:
        HyperbandError: the search could not begin or could not go on.
    """
    with Console(sys.stderr if settings.json else sys.stdout) as console:
        if settings.dry_run:
            return _show_plan(settings, console)
        if settings.clean and not _clean(settings, console):
            console.drain()
            return _NOT_GONE_ON
        try:
            result = run_search(settings, console=console)
        except Exception as error:
            # One object also with exit 1: programs that started us read standard output alone.
            if settings.json and getattr(error, "exit_code", 1) == 1:
                print_out(json_text(_document_without_result(settings)))
            raise
        _show_result(result, settings, console, cwd)
        return result.exit_code


def _show_plan(settings: Settings, console: Console) -> int:
    identity, plan = dry_run(settings)
    console.line(plan_text(plan, settings, identity=identity))
    console.drain()
    if settings.json:
        print_out(json_text(planned_document(settings, identity, plan)))
    return 0


def _show_result(result: SearchResult, settings: Settings, console: Console, cwd: Path) -> None:
    study = study_view(read_events(result.folder), folder=result.folder, running=False)
    stream = sys.stderr if settings.json else sys.stdout
    console.close()
    console.line()
    console.line(result_text(study, result.folder, cwd=cwd, width=width_of(stream)))
    console.drain()
    if settings.json:
        print_out(json_text(document_of(study)))


def _document_without_result(settings: Settings) -> dict[str, object]:
    """What is known of a search that could not go on: its journal if it has one, else its plan."""
    try:
        with open_script(settings) as opened:
            identity, folder = opened.identity, opened.folder
        if (folder / JOURNAL_FILE).is_file():
            running = holder(folder) is not None
            return study_document(read_events(folder), folder=folder, running=running)
    except HyperbandError:
        # The error that ended the search is the one to tell; this one would only hide it.
        identity = ""
    return planned_document(settings, identity, plan_of(settings), state="failed")


def _clean(settings: Settings, console: Console) -> bool:
    """Remove the study after asking. False when the answer was no.

    Raises:
        UsageError: nobody can be asked and `--yes` is not there.
        StudyBusyError: a search is writing it.
    """
    if not settings.yes and not (sys.stdin is not None and sys.stdin.isatty()):
        raise UsageError(
            "--clean removes the study and standard input is no terminal to ask on; expected --yes with it,"
            " or a terminal."
        )
    with open_script(settings) as opened:
        folder = opened.folder
    if not folder.exists():
        console.line(f"--clean: there is no study in {folder} yet")
        return True
    busy = holder(folder)
    if busy is not None:
        raise StudyBusyError(
            f"--clean: the study in {folder} is being written by {busy.describe()}; expected no search there."
            f" End that search with `hyperband stop {folder}` first."
        )
    console.line(f"--clean removes {folder}; the script's own checkpoints stay")
    if not settings.yes:
        console.line("remove it? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            console.line("nothing was removed, nothing was started")
            return False
    remove_study(folder)
    return True
