"""The fork server: a bare interpreter that keeps one keeper ready, so that a job starts in a millisecond.

Started by machine/process.py as `python -I -S -c ...`. It owns the waiting keeper and the process that will
become its job, and ends with the search; keepers that have a job live on. It knows nothing of what jobs are.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from hyperband.machine.becoming import MAX_DESCRIPTORS, become_job, forget_signals, prctl, rehearse, tell
from hyperband.machine.keeper import SIGNALS, Keeper
from hyperband.machine.proc import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is imported is copied at every fork
    from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36
#: what a waiting keeper tells the server: it has a request, or the search is gone
_TAKEN, _OVER = b"t", b"o"
#: ... or it cannot have a process for a job
_FAILED = b"f"
#: what an interpreter and its first imports take, about
_QUIET_MS = 50


def main() -> None:
    """Serve on the descriptors that the command line names."""
    channel, lock = sys.argv[-2:]
    with socket.socket(fileno=int(channel)) as opened:
        serve(opened, int(lock))


def serve(channel: socket.socket, lock: int) -> None:
    """Keep one keeper waiting for the next request, until the search closes its end.

    A keeper that got a request forks its job at once: the fork that made it was done ahead.

    Args:
        channel: sequenced packets, each one byte with the descriptors of one request: the request
            (JSON), the job folder, standard output, standard error, leases, the pipe to the search.
        lock: descriptor of the study's lock. It stays open here and in a keeper until `keeper.json` is
            written: whoever gets the lock later knows of every job that lives.
    """
    boot, host = boot_id(), socket.gethostname()
    # a fork copies what is touched after it: collecting garbage would touch everything
    gc.disable()
    # a job that took them along would look like a search that still lives
    for inherited in (channel.fileno(), lock):
        os.set_inheritable(inherited, False)
    # orphans of a keeper that was killed come here and are not lost from sight
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # it ends with the search, by end of file, and only so
    request = select.poll()
    request.register(channel, select.POLLIN)
    has_failed = False
    while True:
        listen, answer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            pid = -1
        if pid == 0:
            os.close(listen)
            _wait_and_keep(channel, lock, boot, host, answer)
        os.close(answer)
        answered = os.read(listen, 1)  # nothing: it was killed, and is replaced
        os.close(listen)
        if answered == _OVER:
            return
        if pid == -1 or answered == _FAILED:
            # tried again when a request is there, which is then taken here, and refused, if that fails too
            if has_failed and not _refuse(channel):
                return
            has_failed = not has_failed
            request.poll()
            continue
        has_failed = False
        # the job that just began needs the processor more than we do: the next keeper is made in a quiet
        # moment, or at once if a request for it is there already
        request.poll(_QUIET_MS)


def _refuse(channel: socket.socket) -> bool:
    """Answer one request with an error; return False once the search is gone."""
    message, descriptors, _, _ = socket.recv_fds(channel, 1, MAX_DESCRIPTORS)
    if message:
        tell(descriptors[-1], b"no process could be made for it")
    for descriptor in descriptors:
        os.close(descriptor)
    return bool(message)


def _wait_and_keep(channel: socket.socket, lock: int, boot: str, host: str, answer: int) -> NoReturn:
    """Wait for a request, and be its keeper; tell the server when it is time for another one."""
    code = 1
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # blocked: they wait until they are fetched
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            job, line = _fork_job(channel, lock, answer)
        except OSError:
            os.write(answer, _FAILED)
            raise
        keeper = Keeper(job, line, boot, host)
        keeper.rehearse(channel)
        message, descriptors, _, _ = socket.recv_fds(channel, 1, MAX_DESCRIPTORS)
        with contextlib.suppress(BrokenPipeError):  # the server was killed: this job runs all the same
            os.write(answer, _TAKEN if message else _OVER)
        os.close(answer)
        channel.close()
        if message:
            forget_signals()
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            try:
                keeper.take(descriptors, lock)
                code = keeper.keep()
            except BaseException as err:  # noqa: BLE001 (it is reported; a keeper has nobody above it)
                tell(descriptors[-1], f"{type(err).__name__}: {err}"[:4000].encode(errors="replace"))
    finally:
        os._exit(code)


def _fork_job(channel: socket.socket, lock: int, answer: int) -> tuple[int, socket.socket]:
    """Fork the process that will become the job; return its pid and the line to it.

    It gets its part of the request, makes itself ready, and then waits for the word.
    """
    keeper = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            channel.close()
            os.close(lock)
            os.close(answer)
            rehearse(theirs)
            become_job(theirs, keeper)
        finally:
            os._exit(127)
    theirs.close()
    return pid, ours
