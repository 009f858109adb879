"""`hyperband stop STUDY_DIR`: end the search that writes a study, and wait until it is gone."""

import signal

from hyperband.cli.commands import StopOptions
from hyperband.cli.output import complain, print_out
from hyperband.report.text import shown
from hyperband.study import stop_study
from hyperband.study.quarantine import RELEASE_SIGNAL


def stop(options: StopOptions) -> int:
    """Stop the study and say what was done; the exit code.

    Raises:
        JournalError: the folder holds no study.
        MachineError: the search cannot be reached from here.
    """
    # we hold the study's lock for moments: a request for a search that comes then is not for us
    signal.signal(RELEASE_SIGNAL, signal.SIG_IGN)
    words = stop_study(options.folder, from_copy=options.from_copy, gives_up=options.gives_up, say=complain)
    print_out(f"{shown(words)}\n")
    return 0
