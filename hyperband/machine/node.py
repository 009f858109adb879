"""What runs on a node: it claims an attempt and sees it through.

`PYTHON -I -S start.py FOLDER ATTEMPT` runs an attempt; without arguments it waits for one line of JSON that
names one, and ends if its standard input does before: nobody wants it any more. Once there is a job, the end
of the input means nothing: the search died, and the job goes on.

One that waits says so on its standard output: from then on it needs nobody but whoever tells it. The line may
ask that the job's end be said there, too (`says_over`).

Owns which attempt it is and whether it is ours; the rest is the warden's (machine/warden.py). It knows
nothing of batch systems, nor of what jobs are.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys

from hyperband.machine.becoming import prctl, rehearse
from hyperband.machine.claim import BY_NODE, ORDER_FILE, WAITS, CannotClaimError, claim, parse, read_fresh
from hyperband.machine.keeper import now_s
from hyperband.machine.node_keeper import NODE_SIGNALS
from hyperband.machine.node_lines import Lines, complain
from hyperband.machine.node_pair import PR_SET_CHILD_SUBREAPER, Pair
from hyperband.machine.warden import Warden

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node carries what it imports
    from typing import Any

#: batch systems and terminals send these to everybody; SIGTSTP tells the job that all is stopped soon
_IGNORED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGTSTP,
)  # fmt: skip
#: exit codes: there is no such order, the attempt cannot be claimed, no process can be made; nothing ran
_NO_ORDER, _NO_CLAIM, _NO_PROCESS = 3, 4, 5


def main() -> None:
    """Run the attempt that the command line names, or wait for the name of one."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    lines = Lines(0)
    words: list[str] = []
    try:
        pair = Pair()
    except OSError as err:
        complain(f"no process can be made: {err.strerror}")
        os._exit(_NO_PROCESS)
    says_over = False
    if len(sys.argv) > 2:
        folder, attempt = sys.argv[1:3]
    else:
        rehearse(lines)
        _order(os.path.dirname(__file__), "")  # noqa: PTH120 (there is none)
        with contextlib.suppress(OSError):  # nobody listens
            os.write(1, WAITS.encode() + b"\n")
        while not words:
            words = lines.take()
            if lines.has_ended:
                return
        about = json.loads(words.pop(0))
        folder, attempt = about["folder"], about["attempt"]
        says_over = about.get("says_over", False)
    # at once: the search waits for our end, and nothing is left to be tidied up
    os._exit(run(folder, attempt, lines, words, pair, says_over=says_over))


def run(
    folder: str,
    attempt: str,
    lines: Lines,
    words: list[str],
    pair: Pair,
    *,
    says_over: bool = False,
) -> int:
    """Claim an attempt and run it; return the exit code of this process.

    Args:
        folder: of the attempt.
        attempt: its name, unlike any other's.
        lines: standard input.
        words: what came by it already.
        pair: waits for the attempt, and ends with this process.
        says_over: standard output is to hear of the end.
    """
    # for the keeper, which decides about them: blocked here, and so in all that is forked, from now on
    signal.pthread_sigmask(signal.SIG_BLOCK, NODE_SIGNALS - {signal.SIGCHLD})
    for number in NODE_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    order = _order(folder, attempt)
    if order is None:
        complain(f"no order for the attempt {attempt} in {folder}")
        return _NO_ORDER
    marks: dict[str, object] = {"attempt": attempt, "token": os.urandom(16).hex()}
    warden = Warden(folder, order, marks, lines, pair, says_over=says_over)
    warden.get_ready()
    # the claim is the first renewal of the lease: the server hears of it
    claimed_s = now_s()
    try:
        if not claim(folder, {**marks, "by": BY_NODE, "host": socket.gethostname()}):
            return 0  # the search gave it up, or another node was first
    except CannotClaimError as err:
        complain(f"{folder}: {err.strerror}")
        return _NO_CLAIM
    # the folder may have been emptied and given to another attempt since
    if _order(folder, attempt) is None:
        complain(f"the order for the attempt {attempt} in {folder} is gone")
        return _NO_ORDER
    return warden.keep(claimed_s, words)


def _order(folder: str, attempt: str) -> dict[str, Any] | None:
    try:
        found = parse(read_fresh(folder, ORDER_FILE)[0])
    except FileNotFoundError:
        return None
    return found if found is not None and found.get("attempt") == attempt else None
