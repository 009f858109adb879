"""The user's script, imported by a process of its own: what it answers, and how it fails.

Owns that process (`child.py` under the interpreter of `--python`), its life and the talk with it. Must not
know studies, plans or journals. Importing a script may be slow, crash or take a GPU: never in ours.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hyperband.errors import ContractError, InternalError, MachineError, UsageError
from hyperband.script.contract import check_config_id, last_lines, shortened
from hyperband.script.failures import OLDEST_PYTHON, Scene, ended, failure, too_old

_CHILD = Path(__file__).with_name("child.py")
#: read at most this much at a time, so that a fast sampler does not hold up the search's loop
_READ_BYTES = 1 << 18
#: how long the script's process may take to end by SIGTERM before it is killed
_TERM_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Config ids of the trials first, first + 1, ..."""

    first: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The script gives no further distinct config id: n_ids is all there are, earlier trials' included."""

    n_ids: int


class ScriptHost:
    """A process that imports the user's script and answers for it.

    Call `load` first. Sampling does not block: `start_sampling`, then `receive` whenever `fileno` is
    readable, until `is_sampling` is false. Close it in the end; the kernel ends the process when
    the thread that made this object ends without closing it.
    """

    def __init__(
        self,
        python: Path,
        script: Path,
        script_args: Sequence[str],
        *,
        cwd: Path | None,
        write_bytecode: bool,
    ) -> None:
        """Start the process; nothing of the script runs before `load`.

        Args:
            python: the interpreter; Python >= 3.8 with numpy >= 1.17.
            script: the user's script, absolute.
            script_args: `sys.argv[1:]` while it is imported.
            cwd: its working directory; None: ours.
            write_bytecode: False keeps the imports from writing `__pycache__` folders.

        Raises:
            UsageError: the script cannot be read, or the interpreter cannot be started.
        """
        _check_readable(script)
        self._python = python
        self._script = script
        self._script_args = list(script_args)
        #: what the process is asked for, for messages; None: nothing
        self._doing: str | None = None
        self._is_sampling = False
        self._to_send = memoryview(b"")
        self._received = bytearray()
        self._has_line_ended = False
        with contextlib.ExitStack() as stack:
            self._output = os.memfd_create("script-output", os.MFD_CLOEXEC)
            stack.callback(os.close, self._output)
            self._epoll = stack.enter_context(select.epoll())
            self._line, theirs = socket.socketpair()
            stack.enter_context(self._line)
            with theirs:
                self._process = self._start(theirs, cwd, write_bytecode)
            stack.callback(self._end_process)
            self._pidfd = os.pidfd_open(self._process.pid)
            stack.callback(os.close, self._pidfd)
            self._line.setblocking(False)
            self._resources = stack.pop_all()

    def _start(self, line: socket.socket, cwd: Path | None, write_bytecode: bool) -> subprocess.Popen[bytes]:
        if cwd is not None and not cwd.is_dir():
            raise MachineError(
                f"the study's working directory {cwd} is gone; its jobs run where the study was first started. "
                "Make the folder again, or give --logs another folder for a new study."
            )
        environment = dict(os.environ)
        if not write_bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        folder = self._script.resolve().parent
        try:
            return subprocess.Popen(
                [self._python, _CHILD, str(line.fileno()), folder, self._script, *self._script_args],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[line.fileno()],
                start_new_session=True,
                cwd=cwd,
                env=environment,
            )
        except OSError as err:
            raise UsageError(
                f"--python {self._python} cannot be run: {err.strerror}. Give the path of the Python interpreter "
                "(3.8 or newer, with numpy) that runs your script, such as a virtual environment's bin/python."
            ) from err

    def __enter__(self) -> Self:
        """The host itself; closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def pid(self) -> int:
        """Process id; also that of its process group and session."""
        return self._process.pid

    @property
    def is_sampling(self) -> bool:
        """True from `start_sampling` until the last id, Exhausted or an error was received."""
        return self._is_sampling

    def load(self) -> None:
        """Import the script and check that it has its functions; waits for as long as the import takes.

        Raises:
            ContractError: the import fails or exits, or a function is missing or no function.
            UsageError: the interpreter is too old or has no usable numpy.
            MachineError: a signal ended the process.
        """
        hello = self._ask("start", None, "hello")
        if tuple(hello["version"]) < OLDEST_PYTHON:
            raise too_old(hello["version"], self._scene())
        self._ask("import", {"do": "load"}, "loaded")

    def identity(self) -> str:
        """What `run_identity` answers for the arguments that are handed on to the script.

        Raises:
            ContractError: it raises, or its answer is no text.
            MachineError: a signal ended the process.
        """
        reply = self._ask("run_identity", {"do": "identity", "argv": self._script_args}, "identity")
        identity = str(reply["value"])
        try:
            identity.encode()
        except UnicodeEncodeError as err:
            raise ContractError(
                f"run_identity in {self._script} gave {shortened(identity)}, which no UTF-8 text can hold "
                "(a lone surrogate). Return plain text that names the search."
            ) from err
        return identity

    def start_sampling(self, seed: int, first: int, count: int, seen: Sequence[str]) -> None:
        """Ask for the config ids of `count` trials from number `first` on.

        Args:
            seed: of the search; trial t draws from SeedSequence([seed, t]).
            first: number of the first trial without an id.
            count: how many ids.
            seen: ids of all earlier trials, which no later one may have.
        """
        if self._doing is not None:
            raise InternalError("ids were asked for while another answer is awaited; please report this")
        if count == 0:
            return
        self._expected = first
        self._end = first + count
        self._is_sampling = True
        request = {"do": "sample", "seed": seed, "first": first, "count": count, "seen": list(seen)}
        self._begin("get_random_config_id", request)

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do; never without a question asked."""
        return self._epoll.fileno()

    def receive(self) -> list[Sampled | Exhausted]:
        """What has come in; never waits. Each id is checked.

        Raises:
            ContractError: an id breaks a rule, or `get_random_config_id` raises or ends the process.
            UsageError: the interpreter has no usable numpy.
            MachineError: a signal ended the process.
        """
        if not self._is_sampling:
            return []
        results: list[Sampled | Exhausted] = []
        try:
            for message in self._exchange():
                results += self._read_sample(message)
        except BaseException:
            self._is_sampling = False
            raise
        finally:
            if not self._is_sampling:
                self._finish()
        return results

    def _read_sample(self, message: dict[str, Any]) -> Iterator[Sampled | Exhausted]:
        if message["kind"] == "exhausted":
            self._is_sampling = False
            yield Exhausted(message["n_ids"])
            return
        if message["kind"] != "ids":
            raise failure(message, self._scene())
        source = f"get_random_config_id in {self._script}"
        ids = tuple(check_config_id(config_id, source) for config_id in message["ids"])
        if message["first"] != self._expected:
            raise InternalError(
                f"ids of trial {message['first']} came, those of {self._expected} were awaited; please report this"
            )
        self._expected += len(ids)
        self._is_sampling = self._expected < self._end
        if ids:
            yield Sampled(message["first"], ids)

    def _ask(self, doing: str, request: dict[str, Any] | None, kind: str) -> dict[str, Any]:
        """Ask and wait for the one answer, of this kind."""
        self._begin(doing, request)
        try:
            while not (messages := self._exchange()):
                self._epoll.poll()
        finally:
            self._finish()
        (message,) = messages
        if message["kind"] != kind:
            raise failure(message, self._scene())
        return message

    def _begin(self, doing: str, request: dict[str, Any] | None) -> None:
        self._doing = doing
        if request is not None:
            self._to_send = memoryview((json.dumps(request) + "\n").encode("ascii"))
        self._epoll.register(self._pidfd, select.EPOLLIN)
        if not self._has_line_ended:
            self._epoll.register(self._line, select.EPOLLIN | (select.EPOLLOUT if self._to_send else 0))

    def _finish(self) -> None:
        """Nothing is awaited: be quiet, also when the idle process ends."""
        self._doing = None
        self._epoll.unregister(self._pidfd)
        if not self._has_line_ended:
            self._epoll.unregister(self._line)

    def _exchange(self) -> list[dict[str, Any]]:
        """Send and receive what is possible without waiting; the messages that are complete.

        Raises the error for the end of the process once everything it said has been taken.
        """
        # Looked at before reading: what it said before it ended is then all there.
        exit_status = self._peek_exit_status()
        n_read = 0
        if not self._has_line_ended:
            self._send_some()
            n_read = self._read_some()
        *lines, rest = self._received.split(b"\n") if n_read else [self._received]
        self._received = rest
        if n_read == 0 and exit_status is not None:
            raise ended(str(self._doing), exit_status, self._scene())
        return [json.loads(line) for line in lines]

    def _send_some(self) -> None:
        try:
            while self._to_send:
                self._to_send = self._to_send[self._line.send(self._to_send) :]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._to_send = memoryview(b"")  # the process ends; its exit status says how
        self._epoll.modify(self._line, select.EPOLLIN)

    def _read_some(self) -> int:
        """Take what has come in, up to a limit; the number of bytes."""
        n_read = 0
        while n_read < _READ_BYTES:
            try:
                part = self._line.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:  # it ended with requests unread
                part = b""
            if not part:
                # Its end closed before it is over, or the script closed it: the exit status will tell.
                self._epoll.unregister(self._line)
                self._has_line_ended = True
                break
            self._received += part
            n_read += len(part)
        return n_read

    def _scene(self) -> Scene:
        return Scene(self._python, self._script, last_lines(self._output))

    def _peek_exit_status(self) -> int | None:
        """Exit code, or minus the signal; None while it lives. Does not reap: its id stays ours."""
        info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if info is None:
            return None
        return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status

    def close(self) -> None:
        """End the process and all others of its group; a second call does nothing."""
        self._is_sampling = False
        self._resources.close()

    def _end_process(self) -> None:
        """SIGTERM to the group, a moment to end, SIGKILL, then reap: the group's id is ours until then."""
        os.killpg(self._process.pid, signal.SIGTERM)
        pidfd = os.pidfd_open(self._process.pid)
        try:
            ended_poll = select.poll()
            ended_poll.register(pidfd, select.POLLIN)
            ended_poll.poll(_TERM_WAIT_S * 1000)
        finally:
            os.close(pidfd)
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _check_readable(script: Path) -> None:
    try:
        with script.open("rb") as file:
            file.read(1)
    except IsADirectoryError as err:
        raise UsageError(
            f"{script} is a folder; SCRIPT must be the Python file of your experiment. Give the file's path."
        ) from err
    except OSError as err:
        raise UsageError(
            f"the script {script} cannot be read: {err.strerror}. SCRIPT must be the path of your experiment's "
            "Python file; check the spelling, the working directory and the permissions."
        ) from err
