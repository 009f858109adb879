"""The end of what a search holds of Slurm: it was cancelled, and is seen to end, as long as that is worth it.

Owns the patience with a Slurm that answers, and with one that does not. Must not know: what is held.
"""

import time
from collections.abc import Callable

from hyperband.launch.slurm.clerk import Clerk
from hyperband.launch.slurm.reports import Report, Status, Unreachable
from hyperband.machine.process import wait_for_end

#: patience at the end with a Slurm that answers, with one that does not, and with each command
_END_S, _SILENT_END_S, _COMMAND_END_S = 60.0, 6.0, 3.0


def see_the_end(
    clerk: Clerk, tell: Callable[[Report], object], is_given_up: Callable[[], bool]
) -> float | None:
    """Wait until everything is given up; return for how many seconds that was waited for in vain.

    Args:
        clerk: was told what to cancel.
        tell: whoever knows what is held, of each report.
        is_given_up: whether nothing is, by what was told.

    Raises:
        InternalError: the clerk's thread has ended.
    """
    # one that was asked something before and hangs must not keep us
    clerk.hasten(_COMMAND_END_S)
    clerk.look()
    began_s = time.monotonic()
    patience_s = _SILENT_END_S
    while not is_given_up():
        left_s = began_s + patience_s - time.monotonic()
        if left_s <= 0:
            return patience_s
        wait_for_end(clerk.fileno(), left_s)
        for report in clerk.reports():
            tell(report)
            if isinstance(report, Status | Unreachable):
                patience_s = _END_S if isinstance(report, Status) else _SILENT_END_S
    return None
