"""The guide's own process: reads what the search says, computes, answers; ends with the search.

Started by service.py as `python -P -c ... DESCRIPTOR PARENT`. It owns no file: what goes wrong goes to
standard error, which is the guide's log. Everything that came in is read before each computation.
"""

import faulthandler
import math
import os
import select
import socket
import sys
import time
import traceback

from hyperband.guide.advisor import Advisor
from hyperband.guide.messages import Answer, Broken, Lines, Told, pack, unpack_told
from hyperband.guide.model import Model
from hyperband.machine.keeper import die_with_parent

#: it must not take processor time from the jobs
_NICENESS = 10
#: after a list of proposals it rests for so many times as long as it took to make, unless too few are left
_REST = 2.0
_READ_BYTES = 1 << 20


class Line:
    """The talk with the search."""

    def __init__(self, connected: socket.socket) -> None:
        """Talk on this socket."""
        self._socket = connected
        self._lines = Lines()
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        #: the search is gone, or has let us go
        self.is_over = False

    def hear(self, *, wait_s: float | None) -> list[Told]:
        """What has come in, at the latest after so many seconds (None: however long it takes); or the end."""
        told: list[Told] = []
        wait_ms = None if wait_s is None else math.ceil(1000 * wait_s)
        while not told and not self.is_over and self._poll.poll(wait_ms):
            try:
                part = self._socket.recv(_READ_BYTES)
            except ConnectionResetError:  # it is gone, and has not read all that was said
                part = b""
            self.is_over = not part
            told = [unpack_told(line) for line in self._lines.cut(part)]
        return told

    def say(self, answer: Answer) -> None:
        """Send one message; waits while the search does not read."""
        try:
            self._socket.sendall(pack(answer))
        except (BrokenPipeError, ConnectionResetError):
            self.is_over = True


def serve(line: Line, advisor: Advisor) -> None:
    """Hear, compute and answer until the search is gone."""
    rests_until_s = 0.0
    while not line.is_over:
        rest_s = 0.0 if advisor.is_short else max(0.0, rests_until_s - time.monotonic())
        told = line.hear(wait_s=rest_s if advisor.is_due else None)
        for message in told:
            advisor.hear(message)
        if not told and not line.is_over and advisor.is_due:
            began_s = time.monotonic()
            line.say(advisor.compute())
            ended_s = time.monotonic()
            rests_until_s = ended_s + _REST * (ended_s - began_s)
        for answer in advisor.answers():
            line.say(answer)


def main() -> None:
    """Serve on the descriptor that the command line names."""
    descriptor, parent = map(int, sys.argv[-2:])
    die_with_parent(parent)
    os.nice(_NICENESS)
    faulthandler.enable()
    with socket.socket(fileno=descriptor) as connected:
        line = Line(connected)
        try:
            serve(line, Advisor(Model))
        except Exception as err:  # noqa: BLE001 (whatever it is, the search hears of it and goes on without us)
            traceback.print_exc()
            line.say(Broken("".join(traceback.format_exception_only(err)).strip()))
            sys.exit(1)
