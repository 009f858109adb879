"""One job on another machine, between the search's loop and the patrol's thread.

Owns what both know of it: whether it has begun, for how long it runs, how it ended, and the descriptor that
tells. Must not know: what is done about it (launch/remote/launcher.py), or when its folder is looked at
(launch/remote/patrol.py).
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from hyperband.launch.base import Bell, Ending, Lease, StopReason
from hyperband.launch.remote.carrier import Carrier
from hyperband.launch.remote.files import Ordered, Sight
from hyperband.machine.claim import lease_age_s


class RemoteJob:
    """One job on another machine that has not been seen to end. Made by a RemoteLauncher."""

    def __init__(
        self,
        folder: Path,
        lease: Lease,
        ordered: Ordered,
        carrier: Carrier | None,
        on_lost_carrier: Callable[["RemoteJob"], None],
        bell: Bell,
        is_excused: Callable[["RemoteJob", float, float], bool],
    ) -> None:
        """Begin; see Ordered and Carrier.

        Args:
            folder: of the attempt.
            lease: the slot it holds.
            ordered: what was ordered.
            carrier: what brings its keeper onto a node, if anything is known of that.
            on_lost_carrier: called in another thread, see Patrol.
            bell: rung when it has begun.
            is_excused: called in another thread, see Patrol.
        """
        self.folder = folder
        self.attempt = ordered.attempt
        self.lease_s = ordered.lease_s
        self.carrier = carrier
        #: a node has claimed it: it runs there, or is about to
        self.has_begun = False
        #: that node's own name; empty before
        self.host = ""
        #: why the search asked for its end
        self.asked: StopReason | None = None
        self.is_over = False
        #: how it ended, or why nobody knows; None: it is not over
        self.ending: Ending | None = None
        self.failure: Exception | None = None
        self._lease = lease
        self._on_lost_carrier = on_lost_carrier
        self._bell = bell
        self._is_excused = is_excused
        self._began_s: float | None = None
        #: since when its engine has it stopped, and for how long it had before
        self._stopped_since_s: float | None = None
        self._stopped_s = 0.0
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def lease(self) -> Lease:
        """The slot it holds."""
        return self._lease

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when every process of the job is gone."""
        return self._descriptor

    @property
    def is_suspended(self) -> bool:
        """Whether its engine was seen to have it stopped, to let it go on later."""
        return self._stopped_since_s is not None

    def running_s(self) -> float:
        """Return for how many seconds of the monotonic clock it has been running; 0 before it has begun.

        Time for which its engine was seen to have it stopped does not count.
        """
        if self._began_s is None:
            return 0.0
        until_s = time.monotonic() if self._stopped_since_s is None else self._stopped_since_s
        return max(0.0, until_s - self._began_s - self._stopped_s)

    def note_stopped(self, is_stopped: bool) -> None:
        """Hear from the launcher whether its engine has it stopped, to let it go on later."""
        if is_stopped == (self._stopped_since_s is not None):
            return
        now_s = time.monotonic()
        if self._stopped_since_s is not None:
            self._stopped_s += now_s - self._stopped_since_s
        self._stopped_since_s = now_s if is_stopped else None

    def saw(self, sight: Sight, at_s: float) -> None:
        """Hear from the patrol what a look showed."""
        if sight.claimed is None or sight.is_ours:
            return
        # its age is by the node's clock, and from a moment ago: of all guesses the earliest is the best
        began_s = at_s - (lease_age_s(sight.lease) or 0.0)
        self._began_s = began_s if self._began_s is None else min(began_s, self._began_s)
        self.host = sight.host
        if not self.has_begun:
            self.has_begun = True
            self._bell.ring()

    def is_excused(self, silent_since_s: float, at_s: float) -> bool:
        """Return whether a lease that is not renewed says nothing (yet); see Patrol."""
        return self._is_excused(self, silent_since_s, at_s)

    def lose_carrier(self) -> None:
        """Hear from the patrol that its carrier has ended, and left no result behind."""
        self._on_lost_carrier(self)

    def end(self, ending: Ending) -> None:
        """Hear from the patrol that it is over."""
        self.ending = ending
        os.eventfd_write(self._descriptor, 1)
        self.is_over = True  # last: whoever sees it may close the descriptor

    def fail(self, error: Exception) -> None:
        """Hear from the patrol that it watches nothing any more."""
        self.failure = error
        os.eventfd_write(self._descriptor, 1)

    def hush(self) -> None:
        """Wake nobody for now, although it is over: how it ended is not known yet."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def ring(self) -> None:
        """Wake whoever waits for its end again."""
        os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._descriptor)
