"""The fork server and its keepers: tiny processes that start jobs and outlive the search.

Run as `python -I -S keeper.py SOCKET LOCK` by machine/process.py: a bare interpreter that forks in
well under a millisecond. Per request it forks a keeper. A keeper leads a session of its own, is its
job's parent and the subreaper of all that descends from it, holds the job's leases, writes down how
the job ended, ends every descendant, and only then goes. It owns the files `keeper.json` and
`result.json` of one job folder; it knows nothing of studies, trials or losses.

Standard library only, and nothing of this package: it must start fast and live long. `ctypes` is
there because Python has no prctl.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is imported is copied at every fork
    from collections.abc import Mapping
    from typing import Any, NoReturn

KEEPER_FILE = "keeper.json"
RESULT_FILE = "result.json"
#: a search that wants a job's end before it knows its keeper leaves the reason in this file
STOP_FILE = "stop"
#: what every request begins with: request, folder, standard output, standard error
_N_FIRST_DESCRIPTORS = 4
MAX_DESCRIPTORS = 250

#: what the search asks of a keeper: end the job, and remember why
STOP_SIGNAL = signal.SIGTERM
TIMEOUT_SIGNAL = signal.SIGUSR1
ASKED = {STOP_SIGNAL: "stop", TIMEOUT_SIGNAL: "timeout"}

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: a machine that goes down sends SIGTERM to everybody, in any order: how long a keeper whose job died of
#: one waits for its own, before it calls that death the job's fault
_SHUTDOWN_WINDOW_S = 0.5
#: how often the descendants are listed again while they are being killed: a fork can outrun a listing
_KILL_AGAIN_S = 0.05
_WORD = b"go"
#: what a waiting keeper tells the server: it has a request, or the search is gone
_TAKEN, _OVER = b"t", b"o"
_SIGNALS = {signal.SIGCHLD, *ASKED}


def boot_id() -> str:
    """Return the kernel's id of this boot: with pid and start time it names a process for ever."""
    return (_read("/proc/sys/kernel/random/boot_id") or b"").decode("ascii").strip()


def _read(path: str) -> bytes | None:
    """Return what a small file of /proc says; None if its process is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)


def _stat(pid: int | str) -> list[bytes] | None:
    """Return the fields of /proc/PID/stat from the state on; None if it is gone or a zombie."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    # the name, in brackets, may hold anything: fields are counted after its last bracket
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def parent(pid: int) -> int | None:
    """Return the pid of a process's parent; None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def descendants(root: int) -> list[int]:
    """Return the pids of every living descendant of a process, parents before children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 (pathlib is more than a keeper should carry)
        fields = _stat(name) if name.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def write_file(folder: int, name: str, content: "Mapping[str, object]") -> None:
    """Write a JSON file so that it is there whole or not at all: write beside it, then rename."""
    data = json.dumps(content).encode()
    beside = f"{name}.{os.getpid()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=folder)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
    os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)


_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


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
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # it ends with the search, by end of file, and only so
    while True:
        listen, tell = os.pipe()
        try:
            pid = os.fork()
        except OSError as err:
            os.close(listen)
            os.close(tell)
            if not _refuse(channel, err):
                return
            continue
        if pid == 0:
            os.close(listen)
            _wait_and_keep(channel, lock, boot, host, tell)
        os.close(tell)
        answer = os.read(listen, 1)  # nothing: it was killed, and is replaced
        os.close(listen)
        if answer == _OVER:
            return


def _refuse(channel: socket.socket, reason: OSError) -> bool:
    """Answer one request with an error; return False once the search is gone."""
    message, descriptors, _, _ = socket.recv_fds(channel, 1, MAX_DESCRIPTORS)
    if message:
        os.write(descriptors[-1], f"cannot fork: {reason}".encode())
    for descriptor in descriptors:
        os.close(descriptor)
    return bool(message)


def _wait_and_keep(channel: socket.socket, lock: int, boot: str, host: str, tell: int) -> "NoReturn":
    """Wait for a request, and be its keeper; tell the server when it is time for another one."""
    code = 1
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # blocked: they wait until they are fetched
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        message, descriptors, _, _ = socket.recv_fds(channel, 1, MAX_DESCRIPTORS)
        with contextlib.suppress(BrokenPipeError):  # the server was killed: this job runs all the same
            os.write(tell, _TAKEN if message else _OVER)
        os.close(tell)
        channel.close()
        if message:
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            try:
                code = _Keeper(descriptors, lock, boot, host).keep()
            except BaseException as err:  # noqa: BLE001 (it is reported; a keeper has nobody above it)
                os.write(descriptors[-1], f"{type(err).__name__}: {err}"[:4000].encode(errors="replace"))
    finally:
        os._exit(code)


class _Keeper:
    """One job, from its fork to the end of its last descendant."""

    def __init__(self, descriptors: list[int], lock: int, boot: str, host: str) -> None:
        self._request, self._folder, self._stdout, self._stderr = descriptors[:_N_FIRST_DESCRIPTORS]
        self._leases = descriptors[_N_FIRST_DESCRIPTORS:-1]
        self._pipe = descriptors[-1]
        self._lock = lock
        self._boot = boot
        self._host = host
        #: exit status of the job: an exit code, or minus a signal; None while it runs
        self._status: int | None = None
        self._ended_at = 0.0
        #: why the search asked for the end, if it did so before the job ended by itself
        self._asked: str | None = None
        #: when, on the monotonic clock, patience ends
        self._kill_at_s = float("inf")

    def keep(self) -> int:
        """Start the job, see it to its end, write down how it ended; return the keeper's exit code."""
        with os.fdopen(self._request, "rb") as stream:
            request = json.load(stream)
        self._grace_s = float(request["grace_s"])
        started_at = self._start(request)
        self._watch()
        leftovers = self._end_descendants()
        result = {
            "exit_status": self._status,
            "asked": self._asked,
            "started_at": started_at,
            "ended_at": self._ended_at,
            "leftovers": leftovers,
        }
        write_file(self._folder, RESULT_FILE, result)
        # before the pipe's end tells the search that the slot is free; at a process's end the kernel
        # lets go of descriptors in an order of its own
        for lease in self._leases:
            os.close(lease)
        return 0

    def _start(self, request: "dict[str, Any]") -> float:
        listen, tell = os.pipe()
        keeper = os.getpid()
        self._job = os.fork()
        if self._job == 0:
            try:
                os.close(tell)
                self._become_job(request, keeper, listen)
            finally:
                os._exit(127)
        for descriptor in (listen, self._stdout, self._stderr):
            os.close(descriptor)
        started_at = time.time()
        about = {
            "pid": keeper,
            "start_ticks": start_ticks(keeper),
            "job_pid": self._job,
            "job_start_ticks": start_ticks(self._job),
            "boot_id": self._boot,
            "host": self._host,
            "started_at": started_at,
            "started_monotonic_s": time.monotonic(),
            "environment": request["environment"],
        }
        write_file(self._folder, KEEPER_FILE, about)
        # from here on whoever opens the study finds this job by its file
        os.close(self._lock)
        if self._read_stop():
            self._signal([self._job], signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):  # killed while it waited: its exit status says so
            os.write(tell, _WORD)
        os.close(tell)
        return started_at

    def _read_stop(self) -> bool:
        """Return whether the end was asked for before we could be reached by a signal."""
        try:
            descriptor = os.open(STOP_FILE, os.O_RDONLY, dir_fd=self._folder)
        except FileNotFoundError:
            return False
        with os.fdopen(descriptor, encoding="ascii") as stream:
            self._asked = stream.read()
        return True

    def _become_job(self, request: "dict[str, Any]", keeper: int, listen: int) -> None:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, descriptor in enumerate((nothing, self._stdout, self._stderr)):
            os.dup2(descriptor, target)
        for lease in self._leases:
            os.set_inheritable(lease, True)
        environment = dict(os.environ)
        for name, value in request["environment"].items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        argv = request["argv"]
        # all is ready, and meanwhile the keeper has been writing us down
        if os.getppid() != keeper or os.read(listen, len(_WORD)) != _WORD:
            return  # the keeper died before it had: this job never runs
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            os.execve(argv[0], argv, environment)
        except OSError as err:
            os.write(2, f"hyperband: cannot run {argv[0]}: {err.strerror}\n".encode(errors="replace"))

    def _watch(self) -> None:
        """Wait for the job's own process; end it when asked to: SIGTERM to its group, grace, SIGKILL."""
        while self._status is None:
            self._wait(self._kill_at_s)
            self._has_children()
            if self._status is None and self._asked is not None and time.monotonic() >= self._kill_at_s:
                self._signal([self._job, *descendants(os.getpid())], signal.SIGKILL)
                self._kill_at_s = float("inf")
        if self._status == -signal.SIGTERM and self._asked is None:
            self._wait(time.monotonic() + _SHUTDOWN_WINDOW_S)

    def _wait(self, until_s: float) -> None:
        """Sleep until a child ends, the end is asked for, or a moment of the monotonic clock."""
        if until_s == float("inf"):
            number = signal.sigwaitinfo(_SIGNALS).si_signo
        else:
            found = signal.sigtimedwait(_SIGNALS, max(0.0, until_s - time.monotonic()))
            number = 0 if found is None else found.si_signo
        if number in ASKED and self._asked is None:
            self._asked = ASKED[signal.Signals(number)]
            self._kill_at_s = time.monotonic() + self._grace_s
            try:
                os.killpg(self._job, signal.SIGTERM)
            except ProcessLookupError:
                # it has not made its group yet: the signal stays pending until just before its exec
                self._signal([self._job], signal.SIGTERM)

    def _has_children(self) -> bool:
        """Reap what has ended; return whether anything of ours still lives."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._job:
                self._status = os.waitstatus_to_exitcode(status)
                self._ended_at = time.time()

    def _end_descendants(self) -> list[str]:
        """End whatever the job left behind, in whatever session; return names and pids for the log."""
        if not self._has_children():
            return []
        pids = descendants(os.getpid())
        leftovers = [f"{_name(pid)} (pid {pid})" for pid in pids]
        self._signal(pids, signal.SIGTERM)
        kill_at_s = min(self._kill_at_s, time.monotonic() + self._grace_s)
        again_s = _KILL_AGAIN_S
        while self._has_children():
            if time.monotonic() >= kill_at_s:
                self._signal(descendants(os.getpid()), signal.SIGKILL)
                kill_at_s = time.monotonic() + again_s
                again_s = min(1.0, 2 * again_s)
            signal.sigtimedwait([signal.SIGCHLD], max(0.0, kill_at_s - time.monotonic()))
        return leftovers

    def _signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # gone already, which is what was wanted
            except PermissionError:
                os.write(self._pipe, f"not allowed to end pid {pid}\n".encode())


def _name(pid: int) -> str:
    return (_read(f"/proc/{pid}/comm") or b"a process").decode(errors="replace").strip()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        serve(_channel, int(sys.argv[2]))
