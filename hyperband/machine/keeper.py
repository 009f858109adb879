"""A keeper: the tiny process that each job has, and that outlives the search.

It leads a session of its own, is its job's parent and the subreaper of all that descends from it, holds the
job's leases, writes down how the job ended, ends every descendant, and only then goes. It owns the files
`keeper.json` and `result.json` of one job folder; it knows nothing of studies, trials or losses.

Standard library only, and little of that: it is forked from a bare interpreter and must live long.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import time

from hyperband.machine.becoming import PR_SET_PDEATHSIG, TAKEN, WORD, prctl, read_request, rehearse, tell
from hyperband.machine.next_signal import next_signal
from hyperband.machine.proc import descendants, n_oom_kills, name, pid_namespace, start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is imported is copied at every fork
    from collections.abc import Mapping
    from typing import Any

KEEPER_FILE = "keeper.json"
RESULT_FILE = "result.json"
#: a search that wants a job's end before it knows its keeper leaves the reason in this file
STOP_FILE = "stop"
#: what every request begins with: request, folder, standard output, standard error
_N_FIRST_DESCRIPTORS = 4

#: what the search asks of a keeper: end the job, and remember why
STOP_SIGNAL = signal.SIGTERM
TIMEOUT_SIGNAL = signal.SIGUSR1
ASKED: dict[int, str] = {STOP_SIGNAL: "stop", TIMEOUT_SIGNAL: "timeout"}

#: a machine that goes down sends SIGTERM to everybody, in any order: how long a keeper whose job died of
#: one waits for its own, before it calls that death the job's fault
_SHUTDOWN_WINDOW_S = 0.5
#: how a job ends that was told to: by the signal, or by an exit code that a shell would give for it
_ENDED_BY_TERM = (-signal.SIGTERM, 128 + signal.SIGTERM)
#: the kernel's clock takes no more than this at once
_LONGEST_WAIT_S = 86400.0
#: how often the descendants are listed again while they are being killed: a fork can outrun a listing
_KILL_AGAIN_S = 0.05
#: the unit of ru_maxrss on Linux
_MAXRSS_BYTES = 1024
_TAIL_BYTES = 64 * 1024
#: room for `result.json`, which is reserved before the job runs
_RESULT_BYTES = 4096
#: file systems that cannot reserve room say so with one of these
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
#: patience with that; a moment is enough
_TAKES_REQUEST_S = 1.0
#: the last that a keeper says to the search: the job is over, written down, and its slot is free
DONE = b"\0"
#: what a keeper waits for, blocked from its first moment on
SIGNALS: set[int] = {signal.SIGCHLD, *ASKED}


def begin_file(folder: int, file: str, *, n_reserved_bytes: int = 0, is_locked: bool = True) -> int:
    """Begin a file that is there whole or not at all: it is written beside, and renamed in the end.

    Args:
        folder: descriptor of its folder.
        file: the name that it gets in the end.
        n_reserved_bytes: room on the disk that it is sure of from now on.
        is_locked: with a lock on it (flock, exclusive), which not every shared file system has.

    Returns:
        A descriptor of it.

    Raises:
        OSError: there is no room for it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(f"{file}.{os.getpid()}", flags, 0o666, dir_fd=folder)
    if is_locked:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if n_reserved_bytes:
        try:
            os.posix_fallocate(descriptor, 0, n_reserved_bytes)
        except OSError as err:
            if err.errno not in _CANNOT_RESERVE:
                raise
    return descriptor


def finish_file(
    folder: int, file: str, descriptor: int, content: Mapping[str, object], *, is_shared: bool = False
) -> None:
    """Write a file that was begun, as JSON, and give it its name.

    is_shared: other machines read it, too. It is closed, and so on its server, before it is named.
    """
    data = json.dumps(content).encode()
    n_bytes = len(data)
    while data:
        data = data[os.write(descriptor, data) :]
    os.ftruncate(descriptor, n_bytes)
    if is_shared:
        os.close(descriptor)
    os.rename(f"{file}.{os.getpid()}", file, src_dir_fd=folder, dst_dir_fd=folder)


def checksum_of(folder: int, file: str) -> tuple[int, int]:
    """Return a file's size in bytes and the CRC-32 of its last 64 KiB: what a power cut may have eaten."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return 0, 0
    try:
        n_bytes = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, n_bytes - _TAIL_BYTES))
        return n_bytes, binascii.crc32(tail)
    finally:
        os.close(descriptor)


def now_s() -> float:
    """Return the time of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def die_with_parent(parent: int) -> None:
    """End when the process that made us, which had this pid, ends; at once if it has already."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _bounded(wait_s: float) -> float:
    return min(max(0.0, wait_s), _LONGEST_WAIT_S)


class Keeper:
    """One job, from its request to the end of its last descendant."""

    #: what each signal that asks for the end means
    asks: Mapping[int, str] = ASKED
    #: the job's folder is looked at from other machines, and locks are not for it
    is_shared = False

    def __init__(self, job: int, line: socket.socket, boot: str, host: str) -> None:
        """Wait for a request; job: pid of the process that waits with us, at the other end of the line."""
        self._job = job
        self._line = line
        #: what is known before there is a request: then a job waits for its start
        self._about = {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "job_pid": job,
            "job_start_ticks": start_ticks(job),
            "boot_id": boot,
            "pid_namespace": pid_namespace(),
            "host": host,
        }
        #: exit status of the job: an exit code, or minus a signal; None while it runs
        self._status: int | None = None
        #: when the job began, Unix seconds and on the clock that nobody sets; and when it ended
        self._started_at, self._started_s, self._ended_at = 0.0, 0.0, 0.0
        #: why the search asked for the end, if it did so before the job ended by itself
        self._asked: str | None = None
        #: of every process reaped so far, those included that its own parent waited for
        self._memory_peak_bytes = 0
        self._cpu_s = 0.0
        self._n_oom_kills_before = 0
        #: when, on the monotonic clock, patience ends
        self._kill_at_s = float("inf")

    def rehearse(self, awaited: socket.socket) -> None:
        """Go through the motions of a start, see there."""
        rehearse(awaited)
        n_oom_kills()
        json.dumps({**self._about, "started_at": time.time(), "started_monotonic_s": time.monotonic()})

    def take(self, descriptors: list[int], lock: int | None = None) -> Mapping[str, Any]:
        """Take a request, and hand the job its part of it; return the request.

        Args:
            descriptors: request, folder, standard output and error, leases, the pipe that hears of us.
            lock: of the study, held until this job can be found without it; None: it needs none.
        """
        request, self._folder, *outputs = descriptors[:_N_FIRST_DESCRIPTORS]
        #: locks that end with the job: its leases, and in the end that of `keeper.json`
        self._held = descriptors[_N_FIRST_DESCRIPTORS:-1]
        self._pipe = descriptors[-1]
        self._lock = lock
        socket.send_fds(self._line, [b"r"], [request, *outputs, *self._held])
        self._request = read_request(request)
        self._grace_s = float(self._request["grace_s"])
        for descriptor in (request, *outputs):
            os.close(descriptor)
        return self._request

    def keep(self) -> int:
        """Let the job run, see it to its end, write down how it ended; return the keeper's exit code."""
        self._start()
        self._watch()
        leftovers = self._end_descendants()
        n_bytes, checksum = checksum_of(self._folder, "stdout")
        result = {
            "exit_status": self._status,
            "stdout_bytes": n_bytes,
            "stdout_crc32": checksum,
            "asked": self._asked,
            "started_at": self._started_at,
            "ended_at": self._ended_at,
            "leftovers": leftovers,
            "memory_peak_bytes": self._memory_peak_bytes,
            "cpu_s": self._cpu_s,
            # a job that was moved to another cgroup meanwhile could seem to count backwards
            "n_oom_kills": max(0, n_oom_kills() - self._n_oom_kills_before),
            **self._more_of_result(),
        }
        finish_file(self._folder, RESULT_FILE, self._result, result, is_shared=self.is_shared)
        # before the search hears of the end: the slot must be free when it does
        for lock in self._held:
            os.close(lock)
        self._say_over()
        return 0

    def _say_over(self) -> None:
        tell(self._pipe, DONE)

    def _start(self) -> None:
        self._n_oom_kills_before = n_oom_kills()
        self._started_at, self._started_s = time.time(), now_s()
        about = {
            **self._about,
            "started_at": self._started_at,
            "started_monotonic_s": time.monotonic(),
            "environment": self._request["environment"],
            **self._more_about(),
        }
        # a disk that is full when the job ends must not cost its result
        is_locked = not self.is_shared
        self._result = begin_file(
            self._folder, RESULT_FILE, n_reserved_bytes=_RESULT_BYTES, is_locked=is_locked
        )
        # its lock stays with us to the end: where our pid means nothing, it tells that we live
        described = begin_file(self._folder, KEEPER_FILE, is_locked=is_locked)
        finish_file(self._folder, KEEPER_FILE, described, about)
        self._held.append(described)
        # from here on whoever opens the study finds this job by its file
        if self._lock is not None:
            os.close(self._lock)
        if not self._may_run():
            self._signal([self._job], signal.SIGKILL)
        # killed while it waited, maybe with the request unread: its exit status says so
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._line.send(WORD)

    def _more_about(self) -> dict[str, object]:
        """Return what else `keeper.json` is to say."""
        return {}

    def _more_of_result(self) -> dict[str, object]:
        """Return what else `result.json` is to say."""
        return {}

    def _may_run(self) -> bool:
        """Return whether the job may run: its end may have been asked for before a signal could reach us."""
        try:
            descriptor = os.open(STOP_FILE, os.O_RDONLY, dir_fd=self._folder)
        except FileNotFoundError:
            return True
        with os.fdopen(descriptor, encoding="ascii") as stream:
            self._asked = stream.read() or ASKED[STOP_SIGNAL]
        return False

    def _watch(self) -> None:
        """Wait for the job's own process; end it when asked to: SIGTERM to its group, grace, SIGKILL."""
        self._has_children()  # it may have been killed while it waited for the word
        while self._status is None:
            self._wait(self._kill_at_s)
            self._has_children()
            if self._status is None and time.monotonic() >= self._kill_at_s:
                self._signal([self._job, *descendants(os.getpid())], signal.SIGKILL)
                self._kill_at_s = float("inf")
        for number in signal.sigpending() & {STOP_SIGNAL}:
            self._note_shutdown(number)
        until_s = time.monotonic() + _SHUTDOWN_WINDOW_S
        while self._status in _ENDED_BY_TERM and self._asked is None and time.monotonic() < until_s:
            self._wait(until_s)

    def _note_shutdown(self, number: int) -> None:
        """Take a job that failed just when everything here was told to end for one that was told, too."""
        if number == STOP_SIGNAL and self._status != 0 and self._asked is None:
            self._asked = ASKED[STOP_SIGNAL]

    def _wait(self, until_s: float) -> None:
        """Sleep until a child ends, the end is asked for, or a moment of the monotonic clock."""
        number = self._next_signal({signal.SIGCHLD, *self.asks}, until_s)
        if number in self.asks and self._asked is None:
            # both may have come, and signals are fetched by number: a job that had ended was not asked
            self._has_children()
            if self._status is not None:
                self._note_shutdown(number)
                return
            self._asked = self.asks[number]
            self._kill_at_s = time.monotonic() + self._grace_s
            self._let_job_take_request()
            try:
                os.killpg(self._job, signal.SIGTERM)
            except ProcessLookupError:
                # it has not made its group yet: the signal stays pending until just before its exec
                self._signal([self._job], signal.SIGTERM)

    def _let_job_take_request(self) -> None:
        """Wait until the job has forgotten what came before its request: what we send now is meant for it."""
        self._line.settimeout(min(self._grace_s, _TAKES_REQUEST_S))
        with contextlib.suppress(OSError):  # it hangs, or was killed
            self._line.recv(len(TAKEN))

    def _next_signal(self, wanted: set[int], until_s: float) -> int:
        """Wait for one of these signals until a moment of the monotonic clock, or less; return it, or 0."""
        if until_s == float("inf"):
            return signal.sigwaitinfo(wanted).si_signo
        return next_signal(wanted, _bounded(until_s - time.monotonic()))

    def _has_children(self) -> bool:
        """Reap what has ended; return whether anything of ours still lives."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._memory_peak_bytes = max(self._memory_peak_bytes, usage.ru_maxrss * _MAXRSS_BYTES)
            self._cpu_s += usage.ru_utime + usage.ru_stime
            if pid == self._job:
                self._status = os.waitstatus_to_exitcode(status)
                # what a job took must not change with a clock that is set meanwhile
                self._ended_at = self._started_at + now_s() - self._started_s

    def _end_descendants(self) -> list[str]:
        """End whatever the job left behind, in whatever session; return names and pids for the log."""
        if not self._has_children():
            return []
        pids = descendants(os.getpid())
        leftovers = [f"{name(pid)} (pid {pid})" for pid in pids]
        self._signal(pids, signal.SIGTERM)
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + self._grace_s)
        again_s = _KILL_AGAIN_S
        while self._has_children():
            if time.monotonic() >= self._kill_at_s:
                self._signal(descendants(os.getpid()), signal.SIGKILL)
                self._kill_at_s = time.monotonic() + again_s
                again_s = min(1.0, 2 * again_s)
            self._next_signal({signal.SIGCHLD}, self._kill_at_s)
        return leftovers

    def _signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # gone already, which is what was wanted
            except PermissionError:
                tell(self._pipe, f"not allowed to end pid {pid}\n".encode())
