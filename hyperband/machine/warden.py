"""The process on a node that touches the shared file system while a job runs: it renews the job's lease.

Owns the renewal, the words of the search (the `stop` file, lines by standard input) on their way to the
keeper, and what is written down of a keeper that could not do so itself. It may hang or be killed: its child,
the keeper (machine/node_keeper.py), then ends the job. If the keeper is killed, the kernel kills the job, and
all that is left falls to the warden, which ends it.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

from hyperband.machine.claim import CLAIM_FILE, FENCE, FENCED_FILE, parse, read_fresh, write_lease
from hyperband.machine.keeper import (
    ASKED,
    RESULT_FILE,
    STOP_FILE,
    STOP_SIGNAL,
    begin_file,
    finish_file,
    now_s,
)
from hyperband.machine.node_environment import RefusedError, environment_of
from hyperband.machine.node_keeper import BATCH_SIGNALS, PASSED_ON, SIGNAL_OF, Shared
from hyperband.machine.node_lines import READ_BYTES, Lines, complain
from hyperband.machine.node_pair import Pair
from hyperband.machine.proc import descendants, is_stopped

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node carries what it imports
    from collections.abc import Mapping
    from typing import Any

#: renewals within the time that one lasts
_N_RENEWALS = 5
#: the `stop` file is looked for at least so often
_LOOK_S = 1.0
#: the first time only when the job's start is over, mostly, which it would slow down
_QUIET_S = 0.1
#: what a batch system sends to all processes has come to all of them after so long
_TO_ALL_S = 0.2
#: how often the descendants of a keeper that was killed are listed again: a fork can outrun a listing
_KILL_AGAIN_S = 0.02


class Warden:
    """Renews the lease of one attempt, hands on what the search says, and sees the keeper to its end."""

    def __init__(
        self,
        folder: str,
        order: Mapping[str, Any],
        marks: dict[str, object],
        lines: Lines,
        pair: Pair,
        *,
        says_over: bool = False,
    ) -> None:
        """Begin.

        Args:
            folder: of the attempt.
            order: what is to run.
            marks: what tells this attempt from any other.
            lines: words of the search.
            pair: waits for it.
            says_over: standard output is to hear of the end.
        """
        self._folder = folder
        self._pair = pair
        self._says_over = says_over
        self._order = order
        self._marks = marks
        self._lines = lines
        self._lease_s = float(order["lease_s"])
        self._began_s = now_s()
        self._counter = 0
        self._renew_at_s = 0.0
        self._look_at_s = self._began_s + min(_QUIET_S, self._lease_s / _N_RENEWALS)
        self._heard = ""
        #: why it cannot run; empty: it can
        self._why_not = ""
        #: a renewal failed, and it was told of
        self._is_in_trouble = False
        #: since when it was seen to be stopped, each time; None: it is not. And when we last looked
        self._stopped_since_s: float | None = None
        self._looked_s = 0.0
        self._why_killed = ""
        #: when a warning of the batch system is passed on
        self._warn_at_s = float("inf")

    def get_ready(self) -> None:
        """Have those who wait get ready for the attempt, while nobody knows whose it will be.

        Why it cannot run is told by `keep`, if it becomes ours.

        Raises:
            OSError: its folder cannot be opened.
        """
        # results go to this very folder, also if another has got its name
        self._directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._give()
        except (RefusedError, OSError) as err:
            self._why_not = str(err)

    def keep(self, claimed_s: float, words: list[str]) -> int:
        """See one attempt through that is ours; return the exit code.

        Args:
            claimed_s: when the claim was made: the first renewal of the lease.
            words: lines that came already.
        """
        self._shared.renewed_s = claimed_s
        if self._why_not:
            self._write_end(f"{socket.gethostname()} cannot run it: {self._why_not}")
            return 0
        self._hear_children()
        self._pair.begin()
        self._hear_batch_system()
        for word in words:
            self._hand_on(word)
        status = self._watch()
        if status != 0:
            self._end_descendants()
        said = _read_all(self._listen).rstrip(b"\0").decode(errors="replace").strip()
        if self._shared.is_over:
            return 0  # whatever became of the keeper then: its result is there, and may have been read
        if status != 0:
            how = f"ended with {status}" if status > 0 else f"was killed by signal {-status}"
            self._write_end(said or self._why_killed or f"its keeper {how}", was_killed=status < 0)
        elif said:
            complain(said)
        return 0

    # The keeper.

    def _give(self) -> None:
        """Give the attempt to those who wait."""
        environment = environment_of(self._order)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        opened = [os.open(f"{self._folder}/{name}", flags, 0o666) for name in ("stdout", "stderr")]
        self._listen, writes = os.pipe()
        os.set_blocking(self._listen, False)
        opened.append(writes)
        words = {
            "argv": self._order["argv"],
            "grace_s": self._order["grace_s"],
            # what is ours is theirs, as long as nobody changed it
            "environment": {**dict.fromkeys(os.environ), **environment},
            "cwd": self._order["cwd"],
            "lease_s": self._lease_s,
            "marks": self._marks,
            "says_over": self._says_over,
        }
        if not self._pair.give(words, [self._directory, *opened]):
            # killed while they waited
            os.waitpid(self._pair.pid, 0)
            self._pair = Pair()
            self._pair.give(words, [self._directory, *opened])
        for descriptor in opened:
            os.close(descriptor)

    @property
    def _keeper(self) -> int:
        return self._pair.pid

    @property
    def _shared(self) -> Shared:
        return self._pair.shared

    def _hear_children(self) -> None:
        """Have the end of a child wake whoever sleeps in select."""
        self._wake, writer = os.pipe()
        for descriptor in (self._wake, writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _hear_batch_system(self) -> None:
        """Pass on what a batch system sends, since we have the attempt: it may come to us alone.

        So it is for who becomes a batch script, and where Slurm follows processes by cgroups, which signals
        those that it has started itself (proctrack/cgroup). Other ways reach keeper and job as well.
        """
        for number in BATCH_SIGNALS:
            signal.signal(number, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BATCH_SIGNALS)

    def _hear(self, number: int, _: object) -> None:
        if number == signal.SIGTERM:
            self._pass_on(number)
        else:
            # a moment later: the keeper is to know by then whether it came to all
            self._warn_at_s = min(self._warn_at_s, now_s() + _TO_ALL_S)

    def _pass_on(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._keeper, PASSED_ON[number])

    def _watch(self) -> int:
        """Renew, look and listen until the keeper has ended; return its exit status."""
        while True:
            pid, status = os.waitpid(self._keeper, os.WNOHANG)
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, BATCH_SIGNALS)
                return os.waitstatus_to_exitcode(status)
            now = now_s()
            if self._shared.is_over:
                self._look_at_s = now + _LOOK_S  # it is about to end, and the folder may go any moment
            elif now >= self._look_at_s:
                self._look_at_keeper(now)
                self._look()
            if now >= self._warn_at_s:
                self._warn_at_s = float("inf")
                self._pass_on(signal.SIGUSR1)
            awaited: list[Any] = [self._wake] if self._lines.has_ended else [self._wake, self._lines]
            next_s = min(self._look_at_s, self._warn_at_s)
            ready, _, _ = select.select(awaited, [], [], max(0.0, next_s - now_s()))
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 1 << 10)
            if self._lines in ready:
                for word in self._lines.take():
                    self._hand_on(word)
                if self._lines.has_ended and self._order.get("ends_with_carrier"):
                    # whoever carried us held the GPU for us: it may be another's in a moment
                    self._hand_on(self._order.get("last_word", ASKED[STOP_SIGNAL]))

    def _look_at_keeper(self, now: float) -> None:
        """Kill a keeper that stands still alone, most likely since its job stopped it: it would for ever."""
        if not is_stopped(self._keeper):
            self._stopped_since_s = None
        elif self._stopped_since_s is None or now - self._looked_s > self._lease_s / 2:
            self._stopped_since_s = now  # we may have stood still with it
        elif now - self._stopped_since_s >= self._lease_s:
            self._why_killed = f"its keeper was stopped for {self._lease_s:g} s, and was killed"
            os.kill(self._keeper, signal.SIGKILL)
        self._looked_s = now

    def _hand_on(self, word: str) -> None:
        """Tell the keeper what the search wants, each word once."""
        if word != self._heard and word in SIGNAL_OF:
            self._heard = word
            os.kill(self._keeper, SIGNAL_OF[word])
            os.kill(self._keeper, signal.SIGCONT)  # one that its job has stopped would not hear it

    def _end_descendants(self) -> None:
        """End what a keeper left that was killed: it has come to us."""
        while True:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0] != 0:
                    pass
            left = descendants(os.getpid())
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            select.select([self._wake], [], [], _KILL_AGAIN_S)

    # The folder.

    def _look(self) -> None:
        """Renew the lease if that is due, and read what the search may have left for us."""
        # the moment before: whoever sees a renewal must not be the first for whom it runs out
        before_s = now_s()
        try:
            word = self._word()
            if word != FENCE and self._may_renew(before_s):
                is_revived = before_s >= self._shared.renewed_s + self._lease_s
                write_lease(self._folder, self._counter + 1, before_s - self._began_s)
                self._counter += 1
                if is_revived:
                    # who gives it up writes that before its last look at the lease: one of us sees the other
                    word = self._word()
                if word != FENCE:
                    self._shared.renewed_s = before_s
                    self._renew_at_s = before_s + self._lease_s / _N_RENEWALS
            if word:
                self._hand_on(word)
        except OSError as err:
            if not self._is_in_trouble:
                complain(f"cannot renew the lease in {self._folder}: {err.strerror}; trying on")
            self._is_in_trouble = True
        self._look_at_s = before_s + min(_LOOK_S, self._lease_s / _N_RENEWALS)

    def _word(self) -> str:
        """Return what the search wants of this attempt; empty: nothing but that it goes on."""
        found, stop, fenced = read_fresh(self._folder, CLAIM_FILE, STOP_FILE, FENCED_FILE)
        claimed = parse(found)
        if claimed is None or claimed.get("token") != self._marks["token"]:
            return FENCE  # the folder was emptied: it is another attempt's now
        if fenced is not None:
            return FENCE
        return "" if stop is None else stop.decode(errors="replace") or ASKED[STOP_SIGNAL]

    def _may_renew(self, before_s: float) -> bool:
        """Return whether a renewal is due; a lease that ran out only comes back for who was stopped."""
        if before_s < self._renew_at_s:
            return False
        return before_s < max(self._shared.renewed_s + self._lease_s, self._shared.revive_by_s)

    def _write_end(self, note: str, *, was_killed: bool = False) -> None:
        """Write down what the keeper did not; that this may fail changes nothing: the lease runs out.

        was_killed: the keeper was.
        """
        result = {
            **self._marks,
            "exit_status": None,
            "note": note,
            "never_ran": not self._shared.has_word,
            "lost_keeper": was_killed,
        }
        try:
            begun = begin_file(self._directory, RESULT_FILE, is_locked=False)
            finish_file(self._directory, RESULT_FILE, begun, result, is_shared=True)
        except OSError as err:
            complain(f"{note}; {self._folder}: {err.strerror}")


def _read_all(pipe: int) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, READ_BYTES):
            data += part
    return data
