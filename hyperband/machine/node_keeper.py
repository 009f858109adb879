"""The keeper of a job on a node: as on the search's own machine, but its right to the job can run out.

Owns the moment at which a lease that could not be renewed ends the job, and the signals that a node's
keeper knows. While the job runs it touches no file system: those hang. Who renews is machine/warden.py.

An engine may stop all of a job's processes for a while, keeper and warden included, and its lease runs out
meanwhile. So a keeper that finds its lease run out and itself not to have been awake keeps the job stopped
and gives the warden as long as a lease lasts to renew it; which it does only if nobody has given the job up.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time

from hyperband.machine.becoming import PR_SET_PDEATHSIG, prctl, tell
from hyperband.machine.claim import FENCE, OVER
from hyperband.machine.keeper import ASKED, STOP_SIGNAL, TIMEOUT_SIGNAL, Keeper, now_s
from hyperband.machine.proc import descendants, is_stopped

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is imported is copied at every fork
    import mmap
    import socket
    from collections.abc import Mapping
    from typing import Any

# What the warden says to the keeper: signals of our own, since batch systems warn with SIGUSR1 and SIGUSR2.
_STOP, _TIMEOUT, _FENCE, _PASSED_WARNING = (signal.SIGRTMIN + number for number in (1, 2, 3, 4))
#: which signal hands on which word of the search
SIGNAL_OF = {ASKED[STOP_SIGNAL]: _STOP, ASKED[TIMEOUT_SIGNAL]: _TIMEOUT, FENCE: _FENCE}
#: what asks for the end, and why; by SIGTERM a batch system does
_ASKS: dict[int, str] = {
    signal.SIGTERM: ASKED[STOP_SIGNAL],
    _STOP: ASKED[STOP_SIGNAL],
    _TIMEOUT: ASKED[TIMEOUT_SIGNAL],
}
#: what a batch system warns with: for the script
_WARNING = signal.SIGUSR1
#: what a batch system sends
BATCH_SIGNALS: set[int] = {signal.SIGTERM, _WARNING}
#: and what the warden makes of it, for which it may be the only one to get it
PASSED_ON: dict[int, int] = {signal.SIGTERM: signal.SIGTERM, _WARNING: _PASSED_WARNING}
#: what a node's keeper waits for, blocked from its first moment on
NODE_SIGNALS: set[int] = {signal.SIGCHLD, *_ASKS, _FENCE, _WARNING, _PASSED_WARNING}

#: a warning that comes to the keeper itself, and so to the job, and one that is passed on soon after, are one
_ONE_WARNING_S = 5.0

#: how long we stay when our word has gone out that the job is over
_LINGER_S = 0.1
#: a warden that was suspended with us goes on within this part of a lease, and how often that is looked at
_GOES_ON, _LOOK_AGAIN_S = 0.02, 0.01
_STAMP = struct.Struct("d")
_REVIVE_BY_AT = _STAMP.size
_HAS_WORD_AT = 2 * _STAMP.size
_IS_OVER_AT = _HAS_WORD_AT + 1
SHARED_BYTES = _IS_OVER_AT + 1
#: a keeper wakes at least so often: one that has not was stopped
_WAKES_S = 1.0
#: wakes within the time of a lease, at least
_N_WAKES = 5
#: how often a job is stopped again that is kept so: the word to go on may reach it after ours
_HOLD_AGAIN_S = 0.01


class Shared:
    """A few bytes that warden and keeper share: the last renewal, and whether the job was told to run."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @property
    def renewed_s(self) -> float:
        """When the renewal began that succeeded last."""
        found: float = _STAMP.unpack_from(self._memory)[0]
        return found

    @renewed_s.setter
    def renewed_s(self, moment_s: float) -> None:
        _STAMP.pack_into(self._memory, 0, moment_s)

    @property
    def revive_by_s(self) -> float:
        """Until when a lease that has run out may be renewed, since its keeper was stopped; 0: it may not."""
        found: float = _STAMP.unpack_from(self._memory, _REVIVE_BY_AT)[0]
        return found

    @revive_by_s.setter
    def revive_by_s(self, moment_s: float) -> None:
        _STAMP.pack_into(self._memory, _REVIVE_BY_AT, moment_s)

    @property
    def has_word(self) -> bool:
        """Whether the job was told to run, or may have been."""
        return self._memory[_HAS_WORD_AT] != 0

    @property
    def is_over(self) -> bool:
        """Whether the job is over, and all of it is written down."""
        return self._memory[_IS_OVER_AT] != 0

    def end(self) -> None:
        """Note that it is."""
        self._memory[_IS_OVER_AT] = 1

    def give_word(self) -> None:
        """Note that the job is about to be told to run."""
        self._memory[_HAS_WORD_AT] = 1


class NodeKeeper(Keeper):
    """One job on a node, until its end or that of its lease."""

    asks = _ASKS
    is_shared = True

    def __init__(
        self,
        job: int,
        line: socket.socket,
        boot: str,
        host: str,
        shared: Shared,
    ) -> None:
        """See Keeper; shared: with the warden."""
        super().__init__(job, line, boot, host)
        self._shared = shared
        #: why the job was ended without being asked to; empty: it was not
        self._fenced = ""
        self._warden = os.getppid()
        #: when it was awake last; None: it has not waited for anything
        self._awake_s: float | None = None
        #: the job is kept stopped
        self._is_held = False
        self._met_stopped_warden = False
        #: when a warning came that the job got as well
        self._warned_s = float("-inf")

    def take(self, descriptors: list[int], lock: int | None = None) -> Mapping[str, Any]:
        """Take a request as every keeper does.

        It says also how long a renewal of the lease lasts (`lease_s`), what tells this attempt from any other
        (`marks`), whether standard output hears of its end (`says_over`), and in which folder it runs
        (`cwd`).

        Raises:
            OSError: that folder is not there.
        """
        request = super().take(descriptors, lock)
        self._lease_s = float(request["lease_s"])
        self._wakes_s = min(_WAKES_S, self._lease_s / _N_WAKES)
        self._marks: dict[str, object] = request["marks"]
        self._says_over = bool(request["says_over"])
        # before it is the job's turn: it can still be told
        os.chdir(request["cwd"])
        return request

    def _more_about(self) -> dict[str, object]:
        return {**self._marks, "environment": {}, "lease_s": self._lease_s}

    def _more_of_result(self) -> dict[str, object]:
        return {
            **self._marks,
            "fenced": self._fenced,
            "lost_warden": self._has_lost_warden or self._was_warden_stopped(),
            "never_ran": not self._shared.has_word,
        }

    def _say_over(self) -> None:
        self._shared.end()
        super()._say_over()
        if self._says_over:
            tell(1, OVER.encode() + b"\n")
            # those who hear it are about to start the next job, and need the processor more than our end does
            time.sleep(_LINGER_S)

    def _may_run(self) -> bool:
        may_run = super()._may_run()
        if self._asked == FENCE:
            self._asked = None
            self._fence("the search had given it up")
        # what came before may have taken longer than the lease: file systems hang
        elif now_s() >= self._fence_at_s():
            self._fence("its lease ran out before it began")
        if self._fenced:
            return False
        if may_run:
            self._shared.give_word()
        return may_run

    @property
    def _has_lost_warden(self) -> bool:
        return os.getppid() != self._warden

    def _was_warden_stopped(self) -> bool:
        """Return whether somebody stopped the warden alone, so that the lease ran out: most likely the job.

        Where all of a node stood still, or all of a job was suspended, the warden soon goes on as we did.
        """
        until_s = time.monotonic() + _GOES_ON * self._lease_s
        while self._met_stopped_warden and is_stopped(self._warden):
            if time.monotonic() >= until_s:
                return True
            time.sleep(_LOOK_AGAIN_S)  # that a process goes on is no event for its child
        return False

    def _fence_at_s(self) -> float:
        return self._shared.renewed_s + self._lease_s

    def _next_signal(self, wanted: set[int], until_s: float) -> int:
        """Wait as every keeper does, but end the job when its lease runs out, and hand warnings on."""
        wanted = {*wanted, _FENCE, _WARNING, _PASSED_WARNING}
        while True:
            lasts_s = self._calm_s()
            if lasts_s <= 0:
                self._met_stopped_warden = not self._has_lost_warden and is_stopped(self._warden)
                stopped = ": the process that renews it was stopped" if self._met_stopped_warden else ""
                self._fence(f"its lease could not be renewed for {self._lease_s:g} s{stopped}")
                return 0
            wakes_s = min(until_s, time.monotonic() + lasts_s)
            number = super()._next_signal(wanted, wakes_s)
            if number == _FENCE:
                is_lost = self._has_lost_warden
                self._fence(
                    "the process that renews its lease was killed"
                    if is_lost
                    else "the search had given it up"
                )
                return 0
            if number == _WARNING:
                # by who sends it to all processes of the step, or of the job, and so to the script
                self._warned_s = now_s()
            elif number == _PASSED_WARNING:
                if now_s() - self._warned_s > _ONE_WARNING_S:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._job, _WARNING)
            elif number != 0 or time.monotonic() >= until_s:
                return number

    def _calm_s(self) -> float:
        """Return for how long nothing needs a look, at most; 0 or less: the lease has run out for good."""
        now = now_s()
        was_stopped = self._awake_s is not None and now - self._awake_s > 2 * self._wakes_s
        self._awake_s = now
        if self._fenced:
            return float("inf")
        left_s = self._fence_at_s() - now
        if left_s > 0:
            self._hold(False)
            return min(left_s, self._wakes_s)
        if was_stopped:
            self._shared.revive_by_s = now + self._lease_s
        left_s = self._shared.revive_by_s - now
        if left_s > 0:
            self._hold(True)
        return min(left_s, _HOLD_AGAIN_S)

    def _hold(self, is_held: bool) -> None:
        """Keep the job stopped, or let it go on."""
        if is_held or self._is_held:
            self._signal(descendants(os.getpid()), signal.SIGSTOP if is_held else signal.SIGCONT)
        self._is_held = is_held

    def _fence(self, why: str) -> None:
        """Let everything be killed at once; a job that has ended by itself before stays so."""
        self._has_children()
        if self._status is None:
            self._fenced = self._fenced or why
        self._grace_s = 0.0
        self._kill_at_s = 0.0
        self._signal(descendants(os.getpid()), signal.SIGKILL)


def begin_keeper(warden: int) -> None:
    """Make this process, forked from the warden with that pid, one that a job can have as its keeper."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, NODE_SIGNALS)
    for number in NODE_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    prctl(PR_SET_PDEATHSIG, _FENCE)
    if os.getppid() != warden:
        os._exit(1)
