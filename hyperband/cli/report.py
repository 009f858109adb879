"""`hyperband report STUDY_DIR`: what a study says of itself, whether it runs or not. Writes nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hyperband.cli.commands import ReportOptions
from hyperband.cli.output import complain, is_terminal, print_out, width_of
from hyperband.cli.reading import is_submitted, read_view, words_on_submitted
from hyperband.errors import HyperbandError, JournalError, UsageError
from hyperband.folder import has_study
from hyperband.journal import read_events, where
from hyperband.report.document import document_of
from hyperband.report.export import jobs_csv, json_text
from hyperband.report.results import report_text
from hyperband.report.studies import studies_table
from hyperband.report.text import shown
from hyperband.report.view import StudyView
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome


def report(options: ReportOptions, *, cwd: Path) -> int:
    """Print the report; the exit code.

    Raises:
        JournalError: the folder holds no study that can be read.
        UsageError: the folder holds several studies, which have no one document.
    """
    folder = options.folder
    within = [] if has_study(folder) or is_submitted(folder) else _studies_in(folder)
    if within:
        print_out(_list(within, options))
        return 0
    study = read_view(folder)
    match options.form:
        case "json":
            text = json_text(document_of(study), is_for_people=is_terminal(sys.stdout))
        case "csv":
            text = jobs_csv(document_of(study))
        case _:
            text = report_text(
                study,
                folder,
                cwd=cwd,
                top=options.top,
                width=width_of(sys.stdout),
                n_losses=_losses_of((*study.learns_from, *study.learned_from)),
            )
            place = where(folder)
            text += "\n" if place is None else f"\njournal: {shown(place)}\n"
            if study.state != "running" and (words := words_on_submitted(folder)):
                text += f"search: {words}\n"
            elif study.state == "stopped":
                text += "the same command goes on from here\n"
    print_out(text)
    return 0


def _losses_of(folders: Sequence[str]) -> dict[str, int]:
    """How many losses the studies of --learn-from have by now; those that are gone are left out."""
    found = {}
    for folder in folders:
        try:
            events = read_events(Path(folder))
        except HyperbandError:
            continue  # the report says that it cannot be read
        found[folder] = sum(isinstance(event, JobEnded) and event.outcome is Outcome.LOSS for event in events)
    return found


def _studies_in(folder: Path) -> list[Path]:
    """The studies right below a folder, by name; those that were submitted and have not begun among them."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        return [path for path in inside if has_study(path) or is_submitted(path)]
    except OSError as err:
        raise JournalError(f"cannot look into {folder}: {err.strerror or err}") from err


def _list(studies: list[Path], options: ReportOptions) -> str:
    """All studies of a folder, a line each."""
    example = shown(str(studies[0]))
    if options.form != "text":
        names = ", ".join(shown(path.name) for path in studies[:5]) + (", .." if len(studies) > 5 else "")
        raise UsageError(
            f"--{options.form} is of one study, found a folder of studies: {names}. Give the folder of one,"
            f" such as {example}."
        )
    found: list[tuple[Path, StudyView | str]] = []
    for path in studies:
        if is_submitted(path):
            found.append((path, "not begun"))
            continue
        try:
            found.append((path, read_view(path)))
        except HyperbandError as err:  # also of a journal that contradicts itself: others are to be listed
            complain(str(err) if str(path) in str(err) else f"{path}: {err}")
            found.append((path, "cannot be read"))
    example = next((shown(str(path)) for path, study in found if isinstance(study, StudyView)), example)
    return f"{studies_table(found)}\n\nmore on one of them: report {example}\n"
