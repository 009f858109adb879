"""`hyperband report STUDY_DIR`: what a study says of itself, whether it runs or not. Writes nothing."""

import sys
from pathlib import Path

from hyperband.cli.options import ReportOptions
from hyperband.cli.output import complain, print_out, width_of
from hyperband.folder import holder
from hyperband.journal import read_events
from hyperband.report.document import document_of
from hyperband.report.export import jobs_csv, json_text
from hyperband.report.tables import report_text
from hyperband.report.view import study_view


def report(options: ReportOptions, *, cwd: Path) -> int:
    """Print the report; the exit code.

    Raises:
        JournalError: the folder holds no study that can be read.
    """
    # Asked before the events are read: a search that ends in between has told its events how it ended.
    running = holder(options.folder) is not None
    study = study_view(read_events(options.folder, say=complain), folder=options.folder, running=running)
    match options.form:
        case "json":
            text = json_text(document_of(study))
        case "csv":
            text = jobs_csv(document_of(study))
        case _:
            text = (
                report_text(study, options.folder, cwd=cwd, top=options.top, width=width_of(sys.stdout))
                + "\n"
            )
    print_out(text)
    return 0
