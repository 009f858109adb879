"""The thread that sees the ends of jobs on other machines, so that the search's loop sleeps on descriptors.

Owns when a folder is looked at, and fencing: the way from "nobody answers" to "it cannot run any more". Must
not know engines; they say that something is gone, or nothing.
"""

import contextlib
import os
import queue
import selectors
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hyperband.launch.base import Ending
from hyperband.launch.remote.carrier import Carrier
from hyperband.launch.remote.files import (
    LeaseWatch,
    Sight,
    claim_for_search,
    ending_of,
    lost,
    never_ran,
    write_fenced,
    write_stop,
)
from hyperband.machine.claim import FENCE
from hyperband.machine.process import wait_for_end

#: between looks where no process tells of the end: at first, and in the end
_FIRST_LOOK_S, _LAST_LOOK_S = 0.2, 1.0
_SLOWER = 1.5
#: the same where one does: only for a lease that is not renewed although it lives
_LOOKS_PER_LEASE = 3
#: patience with a look that should show an end
_MOMENT_S = 0.05
#: a carrier whose job is over may take so long to go
_LEAVE_S = 10.0
#: patience with the thread's end: it may hang in a shared file system
_JOIN_S = 2.0


class Watched(Protocol):
    """A job, as the patrol needs to know it."""

    @property
    def folder(self) -> Path:
        """Of the attempt."""
        ...

    @property
    def attempt(self) -> str:
        """Its name."""
        ...

    @property
    def lease_s(self) -> float:
        """For how long a renewal lasts."""
        ...

    @property
    def carrier(self) -> Carrier | None:
        """What carries its keeper, if anything is known of that."""
        ...

    def saw(self, sight: Sight, at_s: float) -> None:
        """Hear what a look showed, at a moment of the monotonic clock."""
        ...

    def is_excused(self, silent_since_s: float, at_s: float) -> bool:
        """Return, in the patrol's thread, whether a lease that is not renewed says nothing (yet).

        Args:
            silent_since_s: since when, on the monotonic clock.
            at_s: of the look.
        """
        ...

    def lose_carrier(self) -> None:
        """Hear, in the patrol's thread, that what carried it has ended, and left no result behind."""
        ...

    def end(self, ending: Ending) -> None:
        """Hear that it is over, and how it ended."""
        ...

    def fail(self, error: Exception) -> None:
        """Hear that nobody watches it any more: the patrol has a bug."""
        ...


@dataclass(slots=True, eq=False)
class _Round:
    """What the patrol knows of one job."""

    job: Watched
    lease: LeaseWatch
    look_at_s: float
    interval_s: float = _FIRST_LOOK_S
    #: why it is not wanted any more; empty: it is
    given_up: str = ""
    #: and nothing of it can run any more
    is_proven: bool = False
    #: the node was told so
    is_told: bool = False
    #: its carrier has ended, and the next look tells whether it left a result
    has_lost_carrier: bool = False
    #: until when output that is not all here yet is waited for
    whole_by_s: float | None = None
    #: until when the end of what carries a job that ended badly is waited for
    said_by_s: float | None = None
    pidfd: int | None = None


@dataclass(slots=True)
class _Leaving:
    """A carrier whose job is over."""

    carrier: Carrier
    kill_at_s: float = field(default_factory=lambda: time.monotonic() + _LEAVE_S)


class Patrol:
    """Watches jobs until they are over. All but the public methods runs in its own thread."""

    def __init__(self, *, margin_s: float) -> None:
        """Begin; margin_s: how much longer than the node we believe in a lease that is not renewed."""
        self._margin_s = margin_s
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rounds: dict[Watched, _Round] = {}
        self._leaving: dict[int, _Leaving] = {}
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain)
        self._thread: threading.Thread | None = None
        #: the last look that was waited for is over
        self._looked = threading.Event()
        self._looked.set()
        self._is_closing = False
        self._failure: Exception | None = None

    def watch(self, job: Watched) -> None:
        """Watch a job until it is over."""
        if self._failure is not None:
            job.fail(self._failure)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="patrol", daemon=True)
            self._thread.start()
        self._call(lambda: self._begin(job))

    def look(self, job: Watched) -> None:
        """Look at a job at once: something has changed."""
        self._call(lambda: self._hurry(job, ""))

    def look_now(self, job: Watched, why: str, *, is_proven: bool) -> None:
        """Give a job up as `give_up` does, and wait a moment for a look at it: mostly it is over then.

        The look itself is the thread's, so that whoever calls hangs in no file system.
        """
        before, looked = self._looked, threading.Event()
        self._looked = looked

        def look() -> None:
            self._hurry(job, why, is_proven=is_proven)
            if (found := self._rounds.get(job)) is not None:
                self._look(found)
            looked.set()

        self._call(look)
        if before.is_set():  # else it hangs still
            looked.wait(_MOMENT_S)

    def give_up(self, job: Watched, why: str, *, is_proven: bool) -> None:
        """Fence a job: its engine says that what ran it is gone; is_proven: and nothing is left of it."""
        self._call(lambda: self._hurry(job, why, is_proven=is_proven))

    def see_off(self, carrier: Carrier) -> None:
        """Close a carrier once it has ended; it is killed if it takes too long."""
        self._call(lambda: self._see_off(carrier))

    def close(self) -> bool:
        """End the thread; the jobs go on. False: it hangs in the file system, with all that it uses."""
        self._is_closing = True
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                return False
        self._take_calls()
        kill_at_s = time.monotonic() + _JOIN_S
        for pidfd, leaving in self._leaving.items():
            # what it carried is over: one that hangs must not outlive the search
            if not wait_for_end(pidfd, max(0.0, kill_at_s - time.monotonic())):
                leaving.carrier.kill()
                wait_for_end(pidfd, _JOIN_S)
            leaving.carrier.close()
        self._selector.close()
        os.close(self._wake)
        return True

    # The thread.

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        os.eventfd_write(self._wake, 1)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _take_calls(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            call()

    def _run(self) -> None:
        try:
            self._walk()
        except Exception as err:  # noqa: BLE001 (whoever waits for a job is told)
            self._fail(err)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        for job in self._rounds:
            job.fail(error)

    def _walk(self) -> None:
        while not self._is_closing:
            due_s = [watched.look_at_s for watched in self._rounds.values()]
            due_s += [leaving.kill_at_s for leaving in self._leaving.values()]
            wait_s = max(0.0, min(due_s) - time.monotonic()) if due_s else None
            ready = self._selector.select(wait_s)
            for key, _ in ready:
                key.data()
            self._take_calls()
            now_s = time.monotonic()
            for watched in [each for each in self._rounds.values() if each.look_at_s <= now_s]:
                self._look(watched)
            for leaving in self._leaving.values():
                if leaving.kill_at_s <= now_s:
                    leaving.carrier.kill()
                    leaving.kill_at_s = float("inf")

    def _begin(self, job: Watched) -> None:
        found = _Round(job, LeaseWatch(job.lease_s + self._margin_s), time.monotonic() + _FIRST_LOOK_S)
        self._rounds[job] = found
        if job.carrier is not None and job.carrier.pidfd is not None:
            found.pidfd = job.carrier.pidfd
            self._selector.register(found.pidfd, selectors.EVENT_READ, lambda: self._carrier_ended(found))
        else:
            found.look_at_s = 0.0

    def _carrier_ended(self, found: _Round) -> None:
        """Look once more: what carried it has ended, and with that it should have left its result."""
        self._forget_pidfd(found)
        found.given_up = found.given_up or "what carried it to its node ended without a result"
        found.look_at_s, found.interval_s = 0.0, _FIRST_LOOK_S
        found.has_lost_carrier = True

    def _forget_pidfd(self, found: _Round) -> None:
        if found.pidfd is not None:
            self._selector.unregister(found.pidfd)
            found.pidfd = None

    def _hurry(self, job: Watched, why: str, *, is_proven: bool = False) -> None:
        if (found := self._rounds.get(job)) is not None:
            found.given_up = found.given_up or why
            found.is_proven |= is_proven
            found.look_at_s, found.interval_s = 0.0, _FIRST_LOOK_S

    def _see_off(self, carrier: Carrier) -> None:
        if carrier.pidfd is None:
            carrier.close()
            return
        pidfd = carrier.pidfd
        self._leaving[pidfd] = _Leaving(carrier)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._left(pidfd))

    def _left(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        self._leaving.pop(pidfd).carrier.close()

    def _look(self, found: _Round) -> None:
        """Look at one job, and end what is over."""
        before_s = time.monotonic()
        try:
            is_over = self._is_over(found, before_s)
        except OSError:
            is_over = False  # the file system is in trouble, which says nothing of the job
        if is_over:
            return
        if found.has_lost_carrier:
            found.has_lost_carrier = False
            found.job.lose_carrier()
        found.interval_s = min(found.interval_s * _SLOWER, self._longest_s(found))
        found.look_at_s = time.monotonic() + found.interval_s

    def _longest_s(self, found: _Round) -> float:
        # a job that is being given up holds its slot: no time is lost
        if found.given_up:
            return _FIRST_LOOK_S
        return (
            _LAST_LOOK_S if found.pidfd is None else max(_LAST_LOOK_S, found.job.lease_s / _LOOKS_PER_LEASE)
        )

    def _is_over(self, found: _Round, before_s: float) -> bool:
        job = found.job
        sight = Sight.of(job.folder, job.attempt)
        after_s = time.monotonic()
        job.saw(sight, after_s)
        if not sight.is_gone and (ending := ending_of(sight)) is not None:
            if self._has_more_to_say(found, sight, ending, before_s):
                return False
            if sight.result is None or sight.is_whole or sight.fenced is not None:
                return self._end(found, ending)
            # it was written on the node before the result was, and may take a moment to be seen here
            found.whole_by_s = found.whole_by_s or after_s + self._margin_s
            return before_s > found.whole_by_s and self._end(found, ending)
        if sight.claimed is None and not sight.is_gone:
            if found.given_up and claim_for_search(job.folder, job.attempt, found.given_up):
                return self._end(found, never_ran(found.given_up))
            return False
        is_stale = found.lease.saw(sight.lease, before_s=before_s, after_s=after_s) or found.is_proven
        silent_s = before_s - found.lease.changed_s
        if not found.given_up and silent_s > job.lease_s and job.is_excused(found.lease.changed_s, before_s):
            return False
        if is_stale and not found.given_up:
            found.given_up = f"{sight.host} has not renewed its lease"
        if found.given_up and not found.is_told and not sight.is_gone:
            write_stop(job.folder, FENCE)  # a node that comes back ends it, without grace
            found.is_told = True
            # one that was only stopped may renew its lease at this very moment: the next look tells
            is_stale = found.is_proven
        if not is_stale:
            return False
        why = found.given_up
        if not found.is_proven:
            why += f"; given up after {job.lease_s + self._margin_s:g} s without a sign of it"
        # where it cannot be written the next search comes to the same end by itself
        with contextlib.suppress(OSError):
            write_fenced(job.folder, job.attempt, why)
        return self._end(found, lost(why))

    def _has_more_to_say(self, found: _Round, sight: Sight, ending: Ending, before_s: float) -> bool:
        """Return whether what carries it is about to end as well: it tells whose doing a bad end was."""
        if found.pidfd is None or sight.result is None or sight.fenced is not None or ending.exit_status == 0:
            return False
        found.said_by_s = found.said_by_s or before_s + self._margin_s
        return before_s < found.said_by_s

    def _end(self, found: _Round, ending: Ending) -> bool:
        self._forget_pidfd(found)
        del self._rounds[found.job]
        found.job.end(ending)
        return True
