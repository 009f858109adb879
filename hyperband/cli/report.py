"""`hyperband report STUDY_DIR`: what a study says of itself, whether it runs or not. Writes nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hyperband.cli.commands import ReportOptions
from hyperband.cli.output import complain, is_terminal, print_out, width_of
from hyperband.errors import HyperbandError, JournalError, UsageError
from hyperband.folder import has_study
from hyperband.journal import read_events, read_study, where, writer_of
from hyperband.report.document import document_of
from hyperband.report.export import jobs_csv, json_text
from hyperband.report.results import report_text
from hyperband.report.studies import studies_table
from hyperband.report.text import shown
from hyperband.report.view import StudyView, study_view
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome
from hyperband.study.submitted import submitted_job


def report(options: ReportOptions, *, cwd: Path) -> int:
    """Print the report; the exit code.

    Raises:
        JournalError: the folder holds no study that can be read.
        UsageError: the folder holds several studies, which have no one document.
    """
    folder = options.folder
    within = [] if has_study(folder) else _studies_in(folder)
    if not has_study(folder) and (job := submitted_job(folder)) is not None:
        raise JournalError(
            f"the search of {folder} was submitted as Slurm's job {job.job_id} and has not begun: "
            f"`squeue --jobs={job.job_id}` says why"
        )
    if within:
        print_out(_list(within, options))
        return 0
    study = _read(folder)
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
    print_out(text)
    return 0


def _read(folder: Path) -> StudyView:
    # Asked before the events are read: a search that ends in between has told its events how it ended.
    running = writer_of(folder) is not None
    found = read_study(folder, say=complain)
    return study_view(found.events, folder=folder, running=running, beginnings=found.beginnings)


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
    """The studies right below a folder, by name."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and has_study(path))
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
        try:
            found.append((path, _read(path)))
        except HyperbandError as err:  # also of a journal that contradicts itself: others are to be listed
            complain(str(err) if str(path) in str(err) else f"{path}: {err}")
            found.append((path, "cannot be read"))
    example = next((shown(str(path)) for path, study in found if isinstance(study, StudyView)), example)
    return f"{studies_table(found)}\n\nmore on one of them: report {example}\n"
