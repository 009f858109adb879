"""`hyperband stop STUDY_DIR`: end the search that writes a study, and wait until it is gone."""

import sys

from hyperband.cli.options import StopOptions
from hyperband.report.text import shown
from hyperband.study import stop_study


def stop(options: StopOptions) -> int:
    """Stop the study and say what was done; the exit code.

    Raises:
        JournalError: the folder holds no study.
        MachineError: the search cannot be reached from here.
    """
    sys.stdout.write(f"{shown(stop_study(options.folder))}\n")
    sys.stdout.flush()
    return 0
