"""The process of the guide as a thing with a line to it: start, send, receive, end; nothing here waits.

Owns the process and the bytes on the way. Must not know what the messages mean, and what is to be done when
the process has ended.
"""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hyperband
from hyperband.guide.messages import Answer, Lines, Told, pack, unpack_answer

_ROOT = Path(hyperband.__file__).parents[1]
#: our own package and no other of its name, wherever that stands; of its folder, nothing else is meant
_SERVE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import hyperband; del sys.path[0]; "
    "from hyperband.guide.server import main; main()"
)
#: the jobs have the processors and the GPUs; one thread is enough for matrices of some hundreds
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
#: send and take about so much at a time, so that the search's loop is not held up
_PART_BYTES = 1 << 18


class Service:
    """At most one process at a time; `open` it, and again after it has ended."""

    def __init__(self, log: Path) -> None:
        """There is no process yet; what one says on standard error is appended to `log`."""
        self._log = log
        self._epoll = select.epoll()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._line: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._lines = Lines()
        self._has_more = False
        self._exit_status: int | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None: there is none."""
        return None if self._process is None else self._process.pid

    @property
    def is_open(self) -> bool:
        """Whether there is a process that is not known to have ended."""
        return self._process is not None

    def fileno(self) -> int:
        """Readable when `exchange` has something to do; the same for every process."""
        return self._epoll.fileno()

    def open(self) -> None:
        """Start the process.

        Raises:
            OSError: it cannot be started, or the log cannot be written to.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._log.open("ab") as log:
                argv = [
                    sys.executable,
                    "-P",
                    "-c",
                    _SERVE,
                    str(_ROOT),
                    str(theirs.fileno()),
                    str(os.getpid()),
                ]
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **_ENVIRONMENT},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            self._pidfd = os.pidfd_open(self._process.pid)
            self._epoll.register(self._pidfd, select.EPOLLIN)
        except OSError:
            ours.close()
            self._end()
            raise
        ours.setblocking(False)
        self._line = ours
        self._lines = Lines()
        self._epoll.register(ours, select.EPOLLIN | select.EPOLLOUT)
        self._has_more = True

    def has_more(self) -> None:
        """Note that there is something to send: `fileno` is readable once the process takes it."""
        if self._line is not None and not self._has_more:
            self._has_more = True
            self._epoll.modify(self._line, select.EPOLLIN | select.EPOLLOUT)

    def exchange(self, next_told: Callable[[], Told | None]) -> list[Answer]:
        """Send and receive what is possible without waiting, up to a limit; the messages that are complete.

        Args:
            next_told: what to say next; None: nothing. Asked only when all before it was sent.
        """
        if self._process is None:
            return []
        # looked at before reading: what it said before it ended is then all there to be read
        end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        self._send(next_told)
        parts = list(self._read())
        if not parts and end is not None:
            self._exit_status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            self._end()
        return [unpack_answer(line) for part in parts for line in self._lines.cut(part)]

    def take_exit_status(self) -> int | None:
        """How the process ended, exit code or minus the signal, when asked first after `exchange` saw it."""
        status, self._exit_status = self._exit_status, None
        return status

    def _send(self, next_told: Callable[[], Told | None]) -> None:
        n_sent = 0
        while self._line is not None and n_sent < _PART_BYTES:
            if not self._unsent:
                told = next_told()
                if told is None:
                    self._has_more = False
                    self._epoll.modify(self._line, select.EPOLLIN)
                    return
                self._unsent = memoryview(pack(told))
            try:
                n = self._line.send(self._unsent)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                # it ends: what it said before is still to be read, and its exit status will say how
                self._unsent = memoryview(b"")
                self._epoll.modify(self._line, select.EPOLLIN)
                return
            self._unsent = self._unsent[n:]
            n_sent += n

    def _read(self) -> Iterator[bytes]:
        """Take what has come in, up to a limit."""
        n_read = 0
        while self._line is not None and n_read < _PART_BYTES:
            try:
                part = self._line.recv(_PART_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it ended with something unread
                part = b""
            if not part:
                self._close_line()
                return
            n_read += len(part)
            yield part

    def _close_line(self) -> None:
        if self._line is not None:
            self._epoll.unregister(self._line)
            self._line.close()
            self._line = None
        self._unsent = memoryview(b"")

    def _end(self) -> None:
        """End the process, which has nothing to save, and forget it."""
        self._close_line()
        if self._pidfd >= 0:
            self._epoll.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process if there is one; a second call does nothing."""
        if not self._epoll.closed:
            self._end()
            self._epoll.close()
