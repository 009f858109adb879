"""`hyperband stop STUDY_DIR`: end the search that writes a study, and wait until it is gone."""

from hyperband.cli.options import StopOptions
from hyperband.cli.output import print_out
from hyperband.report.text import shown
from hyperband.study import stop_study


def stop(options: StopOptions) -> int:
    """Stop the study and say what was done; the exit code.

    Raises:
        JournalError: the folder holds no study.
        MachineError: the search cannot be reached from here.
    """
    print_out(f"{shown(stop_study(options.folder))}\n")
    return 0
