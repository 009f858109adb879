"""One way out for text that never blocks and never raises. Owns a descriptor; knows nothing of searches.

A search must not wait for a pager that nobody scrolls, for a terminal stopped with Ctrl-S, or die of a pipe
that was closed: what cannot be written now is kept, up to a limit, and what can never be written is dropped.
"""

import os
import select
import stat
from typing import TextIO

#: text kept for a reader that does not read; beyond it lines are counted instead
_BACKLOG_LIMIT_BYTES = 1 << 20
#: a pipe that polls as writable takes this much without blocking (POSIX: PIPE_BUF)
_CHUNK_BYTES = 4096


class Outlet:
    """Text to a stream. `lost` becomes True, for good, once the other side is gone."""

    def __init__(self, stream: TextIO | None) -> None:
        """Take over the stream's descriptor; a stream without one (in memory) is written directly.

        Args:
            stream: where to write; None (standard output was closed before we started) is lost at once.
        """
        self.lost = stream is None
        self._stream = stream
        self._encoding = (stream.encoding if stream is not None else None) or "utf-8"
        #: encoded text not written yet
        self._pending = bytearray()
        self._n_lines_left_out = 0
        self._fd = -1
        self._owns_fd = False
        if stream is not None:
            self._open(stream)

    @property
    def is_behind(self) -> bool:
        """True while text waits for its reader."""
        return bool(self._pending)

    def write(self, text: str) -> None:
        """Write now what can be written without waiting; keep the rest."""
        if self.lost:
            return
        if len(self._pending) > _BACKLOG_LIMIT_BYTES:
            self._n_lines_left_out += text.count("\n")
        else:
            self._pending += text.encode(self._encoding, errors="backslashreplace")
        self.flush()

    def flush(self) -> None:
        """Write what can be written without waiting."""
        while self._pending and not self.lost:
            if not self._write_some():
                return
            if not self._pending and self._n_lines_left_out:
                note = f"[{self._n_lines_left_out} lines left out: nobody read them in time]\n"
                self._n_lines_left_out = 0
                self._pending += note.encode(self._encoding, errors="backslashreplace")

    def drain(self) -> None:
        """Wait until everything is written or the other side is gone."""
        self.flush()
        while self._pending and not self.lost:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll()
            self.flush()

    def give_up(self) -> None:
        """Never write again."""
        self.lost = True
        self._pending.clear()
        self._close()

    def close(self) -> None:
        """Give the descriptor back; what is still kept is dropped."""
        self.give_up()

    def _open(self, stream: TextIO) -> None:
        try:
            stream.flush()
            fd = stream.fileno()
        except (OSError, ValueError):  # io.UnsupportedOperation is both: a stream in memory, or a closed one
            self.lost = stream.closed
            return
        self._fd = fd
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            return
        # O_NONBLOCK belongs to the open file, which the shell and others share: so open it once more for us.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._fd = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            # Another user's terminal, or /proc is missing: small writes after a poll, the next best thing.
            return
        self._owns_fd = True

    def _write_some(self) -> bool:
        """Write one chunk. False when nothing can be written now."""
        try:
            if self._fd < 0:
                assert self._stream is not None
                self._stream.write(self._pending.decode(self._encoding))
                self._pending.clear()
                return True
            if not self._owns_fd and not self._polls_writable():
                return False
            n_written = os.write(self._fd, self._pending[:_CHUNK_BYTES])
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            # Closed pipe, vanished terminal, full disk under a redirection: a search outlives its screen.
            self.give_up()
            return False
        del self._pending[:n_written]
        return True

    def _polls_writable(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _close(self) -> None:
        if self._owns_fd:
            os.close(self._fd)
            self._owns_fd = False
            self._fd = -1
