"""`hyperband slots STUDY_DIR`: what each slot of a study did, and giving back one that is in quarantine."""

import signal

from hyperband.cli.commands import SlotsOptions
from hyperband.cli.output import print_out
from hyperband.cli.reading import read_view
from hyperband.report.text import shown
from hyperband.report.usage import slots_table
from hyperband.study.quarantine import RELEASE_SIGNAL, release


def slots(options: SlotsOptions) -> int:
    """Show the slots, or give one back; the exit code.

    Raises:
        JournalError: the folder holds no study.
        UsageError: the slot is not in quarantine.
        MachineError: the search cannot be reached from here.
    """
    # we hold the study's lock for moments: a request for a search that comes then is not for us
    signal.signal(RELEASE_SIGNAL, signal.SIG_IGN)
    if options.release is not None:
        print_out(f"{shown(release(options.folder, options.release))}\n")
        return 0
    print_out(f"{slots_table(read_view(options.folder)) or 'no job has started yet'}\n")
    return 0
