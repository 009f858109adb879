"""A keeper on a node and the process that is to become its job, forked ahead and waiting for an attempt.

A start is then a message to processes that are there. Owns the forks and that message. Must not know whose
attempt it is (machine/node.py), nor what is written down of it (machine/warden.py).

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import socket

from hyperband.machine.becoming import MAX_DESCRIPTORS, become_job, prctl, rehearse, request_of, tell
from hyperband.machine.node_keeper import (
    BATCH_SIGNALS,
    NODE_SIGNALS,
    SHARED_BYTES,
    NodeKeeper,
    Shared,
    begin_keeper,
)
from hyperband.machine.proc import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node carries what it imports
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

PR_SET_CHILD_SUBREAPER = 36
#: what the warden says when the attempt is ours, and the keeper then: from there on signals are meant for it
_BEGIN, _BEGUN = b"b", b"b"


class Pair:
    """One keeper that waits, and its job to be; both end with the process that made them."""

    def __init__(self) -> None:
        """Fork them.

        Raises:
            OSError: no process can be made.
        """
        self.shared = Shared(mmap.mmap(-1, SHARED_BYTES))
        warden = os.getpid()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # a fork copies what is touched after it: collecting garbage would touch everything
        gc.freeze()
        # what comes in between would end the keeper, or be the warden's
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NODE_SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                self._line.close()
                _be_keeper(warden, theirs, self.shared)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, words: Mapping[str, object], descriptors: Sequence[int]) -> bool:
        """Have them get ready for an attempt; return False if they are not there any more.

        Args:
            words: of the request: see `NodeKeeper.take` and `become_job`.
            descriptors: of the attempt's folder, standard output and error, and of the pipe in which the
                keeper complains.
        """
        memory = request_of(words)
        try:
            socket.send_fds(self._line, [b"r"], [memory, *descriptors])
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            os.close(memory)
        return True

    def begin(self) -> None:
        """Let them begin: the attempt is ours. Returns when the keeper knows, or has ended."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._line.send(_BEGIN)
            self._line.recv(len(_BEGUN))
        self._line.close()


def _be_keeper(warden: int, line: socket.socket, shared: Shared) -> NoReturn:
    """Wait for an attempt, and keep its job."""
    code = 1
    try:
        gc.disable()
        begin_keeper(warden)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        job, job_line = _fork_job(line)
        keeper = NodeKeeper(job, job_line, boot_id(), socket.gethostname(), shared)
        keeper.rehearse(line)
        message, descriptors, _, _ = socket.recv_fds(line, 1, MAX_DESCRIPTORS)
        if not message:
            os._exit(0)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        try:
            keeper.take(descriptors)
            if line.recv(len(_BEGIN)) != _BEGIN:
                os._exit(0)
            # what came to one that only waited was not meant for the job to come
            while signal.sigtimedwait(BATCH_SIGNALS, 0) is not None:
                pass
            line.send(_BEGUN)
            line.close()
            code = keeper.keep()
        except BaseException as err:  # noqa: BLE001 (it is reported; a keeper has nobody above it)
            tell(descriptors[-1], f"{type(err).__name__}: {err}"[:4000].encode(errors="replace"))
    finally:
        os._exit(code)


def _fork_job(line: socket.socket) -> tuple[int, socket.socket]:
    """Fork the process that will become the job, when it gets the word; return its pid and the line to it."""
    keeper = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            line.close()
            # it may wait for long, and nothing that comes meanwhile is meant for the job to come
            signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
            rehearse(theirs)
            become_job(theirs, keeper)
        finally:
            os._exit(127)
    theirs.close()
    return pid, ours
