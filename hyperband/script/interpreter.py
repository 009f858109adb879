"""The process that runs child.py under the interpreter of `--python`: its life, and the talk with it.

Owns the process group, its output and the line to it; nothing here waits unless it says so. Must not
know what the messages mean.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperband.errors import MachineError, UsageError
from hyperband.script.contract import last_lines
from hyperband.script.failures import Scene, ended

_CHILD = Path(__file__).with_name("child.py")
#: read about this much at a time, so that a fast sampler does not hold up the search's loop
_READ_BYTES = 1 << 18
#: what the script printed is let go of beyond this; only the last lines are ever shown
_MOST_OUTPUT_BYTES = 1 << 20
#: how long the processes may take to end by SIGTERM before they are killed
_TERM_WAIT_S = 1.0
#: so long it is waited for that; then the rest is waited for beside
_TERM_SHORT_S = 0.05
#: name of the thread that does
END_THREAD = "end of a script"


class Interpreter:
    """A running child.py: JSON messages to and from it, and an error that says how it ended."""

    def __init__(
        self,
        python: Path,
        script: Path,
        script_args: Sequence[str],
        *,
        cwd: Path | None,
        write_bytecode: bool,
    ) -> None:
        """Start the process; see ScriptHost for the arguments.

        Raises:
            UsageError: the interpreter cannot be started.
            MachineError: the working directory is gone.
        """
        self._python = python
        self._script = script
        #: what the process is asked for, for messages
        self.doing = "start"
        self._to_send = memoryview(b"")
        self._received = bytearray()
        self._is_line_closed = False
        with contextlib.ExitStack() as stack:
            self._output = os.memfd_create("script-output", os.MFD_CLOEXEC)
            stack.callback(os.close, self._output)
            # what is written after the file was emptied stands at its beginning
            fcntl.fcntl(self._output, fcntl.F_SETFL, fcntl.fcntl(self._output, fcntl.F_GETFL) | os.O_APPEND)
            self._epoll = stack.enter_context(select.epoll())
            self._line, theirs = socket.socketpair()
            stack.enter_context(self._line)
            with theirs:
                self._process = self._start(script_args, theirs.fileno(), cwd, write_bytecode)
            stack.callback(self._end_process)
            self._pidfd = os.pidfd_open(self._process.pid)
            stack.callback(os.close, self._pidfd)
            self._line.setblocking(False)
            self._resources = stack.pop_all()

    def _start(
        self, script_args: Sequence[str], line: int, cwd: Path | None, write_bytecode: bool
    ) -> subprocess.Popen[bytes]:
        if cwd is not None and not (cwd.is_dir() and os.access(cwd, os.X_OK)):
            raise MachineError(
                f"the working directory {cwd} is gone or closed to you; a study's jobs run where it was "
                "first started. Bring that folder back, or give a new study another folder with --logs."
            )
        environment = dict(os.environ)
        if not write_bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        # `python script.py` takes the folder that the script really is in, symbolic links followed.
        folder = self._script.resolve().parent
        try:
            return subprocess.Popen(
                [self._python, _CHILD, str(line), folder, self._script, *script_args],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[line],
                start_new_session=True,
                cwd=cwd,
                env=environment,
            )
        except OSError as err:
            raise UsageError(
                f"--python {self._python} cannot be run: {err.strerror}. Give the path of the interpreter "
                "that runs your script (Python 3.8 or newer, with numpy), such as a virtual environment's "
                "bin/python."
            ) from err

    @property
    def pid(self) -> int:
        """Process id; also that of its process group and session."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when `exchange` has something to do; quiet before `begin` and after `finish`."""
        return self._epoll.fileno()

    def begin(self, doing: str, request: Mapping[str, object] | None) -> None:
        """Expect answers, to a request if there is one; `doing` names it in messages."""
        self.doing = doing
        if os.fstat(self._output).st_size > _MOST_OUTPUT_BYTES:
            os.truncate(self._output, 0)  # it is memory, and a sampler that prints may draw for days
        if request is not None:
            self._to_send = memoryview((json.dumps(request) + "\n").encode("ascii"))
        self._epoll.register(self._pidfd, select.EPOLLIN)
        if not self._is_line_closed:
            self._epoll.register(self._line, select.EPOLLIN | (select.EPOLLOUT if self._to_send else 0))

    def finish(self) -> None:
        """Expect nothing: from here on `fileno` is quiet, even if the idle process ends."""
        self._epoll.unregister(self._pidfd)
        if not self._is_line_closed:
            self._epoll.unregister(self._line)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `exchange` has something to do; a signal handler that raises ends the wait.

        Returns:
            False when the time was up before.
        """
        return bool(self._epoll.poll(timeout_s))

    def exchange(self) -> list[dict[str, Any]]:
        """Send and receive what is possible without waiting; the messages that are complete.

        Raises:
            HyperbandError: the process has ended and everything that it said was taken.
        """
        # Looked at before reading: what it said before it ended is then all there to be read. The end of
        # the line alone says nothing: a process that the script forked may hold the line open or the
        # script may have closed it.
        exit_status = self._peek_exit_status()
        n_read = 0
        if not self._is_line_closed:
            self._send_some()
            n_read = self._read_some()
        if n_read == 0 and exit_status is not None:
            raise ended(self.doing, exit_status, self.scene())
        *lines, self._received = self._received.split(b"\n")
        return [json.loads(line) for line in lines]

    def _send_some(self) -> None:
        try:
            while self._to_send:
                self._to_send = self._to_send[self._line.send(self._to_send) :]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._to_send = memoryview(b"")  # it ends; its exit status will say how
        self._epoll.modify(self._line, select.EPOLLIN)

    def _read_some(self) -> int:
        """Take what has come in, up to a limit; the number of bytes."""
        n_read = 0
        while n_read < _READ_BYTES:
            try:
                part = self._line.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:  # it ended with a request unread
                part = b""
            if not part:
                self._epoll.unregister(self._line)
                self._is_line_closed = True
                break
            self._received += part
            n_read += len(part)
        return n_read

    def _peek_exit_status(self) -> int | None:
        """Exit code, or minus the signal; None while it lives. Does not reap: the process id stays ours."""
        end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if end is None:
            return None
        return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status

    def scene(self) -> Scene:
        """Which script under which interpreter, and what they last printed."""
        return Scene(self._python, self._script, last_lines(self._output))

    def close(self) -> None:
        """End the process and all others of its group; a second call does nothing.

        Waits for a moment only: a script that does not heed SIGTERM is killed a second later, by a thread.
        """
        self._resources.close()

    def _end_process(self) -> None:
        """SIGTERM to the group, a moment to end, SIGKILL, then reap: until then the group's id is ours."""
        os.killpg(self._process.pid, signal.SIGTERM)
        if _has_ended(self._process.pid, _TERM_SHORT_S):
            _kill(self._process)
        else:
            threading.Thread(target=_kill_later, args=(self._process,), name=END_THREAD).start()


def _kill_later(process: subprocess.Popen[bytes]) -> None:
    _has_ended(process.pid, _TERM_WAIT_S)
    _kill(process)


def _has_ended(pid: int, limit_s: float) -> bool:
    """Wait for the end of a process that nobody reaps meanwhile; False: the time was up before."""
    pidfd = os.pidfd_open(pid)
    try:
        end = select.poll()
        end.register(pidfd, select.POLLIN)
        return bool(end.poll(limit_s * 1000))
    finally:
        os.close(pidfd)


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
