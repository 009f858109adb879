"""Processes that outlive us: naming them for ever, starting them through the fork server, ending them.

Owns the fork server. Knows folders, argument lists and descriptors, and nothing of studies or trials.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hyperband
from hyperband.errors import MachineError
from hyperband.machine import proc

_ROOT = Path(hyperband.__file__).parents[1]
_SERVE = "import sys; sys.path.append(sys.argv[1]); from hyperband.machine.fork_server import main; main()"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, told apart from any later one that got its pid."""

    pid: int
    #: clock ticks from the boot to its start
    start_ticks: int
    boot_id: str
    #: number of the namespace in which the pid counts
    pid_namespace: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the identity of a living process, None if it is gone."""
        ticks = proc.start_ticks(pid)
        return None if ticks is None else cls(pid, ticks, proc.boot_id(), proc.pid_namespace())

    @property
    def is_of_this_boot(self) -> bool:
        """Whether it was started on this machine since it was last switched on."""
        return self.boot_id == proc.boot_id()

    @property
    def is_in_sight(self) -> bool:
        """Whether its pid means to us what it meant to whoever wrote it down."""
        return self.is_of_this_boot and self.pid_namespace == proc.pid_namespace()

    def is_alive(self) -> bool:
        """Return whether this very process lives, and in sight (a zombie does not live)."""
        return self.is_in_sight and proc.start_ticks(self.pid) == self.start_ticks

    def open(self) -> int | None:
        """Return a pidfd of this very process (readable once it has ended), None if it is gone."""
        if not self.is_alive():
            return None
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive():
            return descriptor
        os.close(descriptor)  # it ended in between, and the pid may be another's
        return None

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; return False if it is gone."""
        descriptor = self.open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


def wait_for_end(descriptor: int, timeout_s: float | None = None) -> bool:
    """Wait until the process behind a pidfd has ended; return whether it has."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))


def require_pidfd() -> None:
    """Raise MachineError on a kernel without pidfd: there ends of processes could only be polled for."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as err:
        found = os.uname()
        raise MachineError(
            f"this system is {found.sysname} {found.release}, but hyperband needs Linux 5.3 or newer "
            f"(pidfd_open: {err}); "
            "run it on a machine with a newer kernel"
        ) from err


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a keeper is asked to run."""

    argv: Sequence[str]
    #: added to, or with None taken out of, the environment that the job inherits
    environment: Mapping[str, str | None]
    #: for standard output and error, and for what the keeper writes
    folder: Path
    #: locked descriptors that the keeper and the job get copies of
    leases: Sequence[int]
    grace_s: float


def send_request(send: Callable[[list[int]], None], request: JobRequest, *, lock: int | None = None) -> int:
    """Send a request; return a descriptor that is at its end once the keeper is gone.

    Args:
        send: sends descriptors to whoever forks the keeper.
        request: what to run.
        lock: descriptor of the study's lock, for a keeper that does not inherit it.

    Raises:
        MachineError: the folder cannot be written to, or descriptors are short.
        BlockingIOError, BrokenPipeError, ConnectionResetError: `send` found nobody to take it.
    """
    words = {
        "argv": list(request.argv),
        "environment": dict(request.environment),
        "grace_s": request.grace_s,
    }
    opened: list[int] = []
    mine, theirs = os.pipe()
    try:
        opened.append(theirs)
        memory = os.memfd_create("hyperband-request")
        opened.append(memory)
        with open(memory, "wb", closefd=False) as stream:
            stream.write(json.dumps(words).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        directory = os.open(request.folder, os.O_RDONLY | os.O_DIRECTORY)
        opened.append(directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        for name in ("stdout", "stderr"):
            opened.append(os.open(name, flags, 0o666, dir_fd=directory))
        locks = [] if lock is None else [lock]
        send([memory, directory, *opened[3:5], *locks, *request.leases, theirs])
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        os.close(mine)
        raise
    except OSError as err:
        os.close(mine)
        raise MachineError(
            f"cannot start a job in {request.folder}: {err}; free what is missing there and start the "
            "search again: it goes on where it is"
        ) from err
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return mine


class ForkServer:
    """The client side of keeper.py's fork server; starts it when needed, and again if it was killed."""

    def __init__(self, *, cwd: Path, lock: int, errors: Path) -> None:
        """Remember how to start the server.

        Args:
            cwd: working directory of the server, its keepers and their jobs.
            lock: descriptor of the study's lock, inherited until each keeper has written itself down.
            errors: file for what the server and the keepers say when something goes wrong.
        """
        self._cwd = cwd
        self._lock = lock
        self._errors = errors
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Pid of the server, None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self, request: JobRequest) -> int:
        """Fork a keeper for a job; return a descriptor that is at its end once the keeper is gone.

        What can be read from it before its end is what went wrong. Standard output and error go to
        `stdout` and `stderr` in the request's folder.

        Raises:
            MachineError: the server cannot be started, or the folder cannot be written to.
        """
        return send_request(self._send, request)

    def close(self) -> None:
        """Let the server end; its keepers and their jobs live on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _send(self, descriptors: list[int]) -> None:
        if self._channel is not None:
            try:
                socket.send_fds(self._channel, [b"j"], descriptors)
            except (BrokenPipeError, ConnectionResetError):
                self.close()  # it was killed; its keepers go on without it
            else:
                return
        self._open()
        assert self._channel is not None
        socket.send_fds(self._channel, [b"j"], descriptors)

    def _open(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._errors.open("ab") as errors:
            # a bare interpreter (-I -S): seven milliseconds, no site packages, nothing of the user's
            argv = [
                sys.executable,
                "-I",
                "-S",
                "-c",
                _SERVE,
                str(_ROOT),
                str(theirs.fileno()),
                str(self._lock),
            ]
            try:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    cwd=self._cwd,
                    # as Python sees it: libraries, such as readline, may have set more behind its back
                    env=dict(os.environ),
                    pass_fds=(theirs.fileno(), self._lock),
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._channel = ours


def end_strays(*, session: int, marks: Mapping[str, str], folder: Path) -> list[int]:
    """Kill what a job left behind whose keeper was killed; return the pids.

    Without the keeper nobody is their parent for sure, so they are known by what they cannot easily lose:
    the job's session together with `marks` in their environment (a session number may be used again by
    somebody else), or a descriptor of the job's output in `folder`.
    """
    files = {str(folder / name) for name in ("stdout", "stderr")}
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    ended: list[int] = []
    again = True
    while again:
        again = False
        for pid in _pids():
            # looked up anew each time: zombies have no start, and must not be met for ever
            if pid == os.getpid() or proc.start_ticks(pid) is None:
                continue
            if (_session(pid) == session and wanted <= _environment(pid)) or _holds(pid, files):
                again |= _kill(pid, ended)
    return ended


def _kill(pid: int, ended: list[int]) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        wait_for_end(descriptor, timeout_s=10.0)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(descriptor)
    ended.append(pid)
    return True


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _environment(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return set()


def _holds(pid: int, files: set[str]) -> bool:
    try:
        links = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False
    for link in links:
        try:
            # a reader, such as the user's own `tail -f`, is none of the job's processes
            if os.readlink(f"/proc/{pid}/fd/{link}") in files and _is_writable(pid, link):  # noqa: PTH115
                return True
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return False


def _is_writable(pid: int, link: str) -> bool:
    for line in Path(f"/proc/{pid}/fdinfo/{link}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "flags":
            return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False
