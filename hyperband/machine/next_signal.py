"""Waiting for one of some signals, for a limited time, also by who is stopped meanwhile and goes on again.

Python's own sigtimedwait() is not for that: whoever was stopped, or frozen, until its time was over gets what
nobody ever filled in (up to 3.12 at least), and with it the number of some signal that nobody sent.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node carries what it imports
    from collections.abc import Iterable

#: less than a timer knows would be for ever
_SHORTEST_S = 0.0001


def next_signal(wanted: Iterable[int], wait_s: float) -> int:
    """Wait for one of these signals, which are blocked, for so long; return its number, or 0.

    It may return 0 earlier, too. The timer of this process is ours (SIGALRM), and blocked from now on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, max(wait_s, _SHORTEST_S))
    number = signal.sigwaitinfo({*wanted, signal.SIGALRM}).si_signo
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return 0 if number == signal.SIGALRM else number
