"""The life of the warm host: scout, import ahead, then one keeper after the other with a job to be.

As machine/fork_server.py, but its jobs are forks. What a job imports late is imported ahead by a successor:
a fork of the host that serves in its place if it is still sound afterwards. Runs under the user's
interpreter: standard library only, Python >= 3.9. Must not know studies or trials.

Processes end together: the host with the search, a successor with the host, who only waits with either.
Keepers that have a job, and the job, live on.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys

from hyperband.launch.warm.ahead import SpoiltError
from hyperband.launch.warm.prepare import Ahead, forget_shadowed
from hyperband.launch.warm.watch import is_local
from hyperband.machine.becoming import MAX_DESCRIPTORS, forget_signals, prctl, tell
from hyperband.machine.keeper import SIGNALS, Keeper, die_with_parent
from hyperband.machine.proc import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from hyperband.launch.warm.job import Job

_PR_SET_CHILD_SUBREAPER = 36
#: what a waiting keeper tells the host: it has a request; the search is gone; it cannot have a process
_TAKEN, _OVER, _FAILED = b"t", b"o", b"f"
#: what a successor tells: it is ready
_READY = b"r"
#: the job that just began gets the processor first; but warm jobs can be short, and the next keeper, whose
#: forks take milliseconds, must be there when the job ends
_QUIET_MS = 2
#: late imports are learned so often, and no oftener: each time makes the chain of processes longer
_N_LESSONS = 12
_REPORT_BYTES = 1 << 17


def main(arguments: Sequence[str], at_start: frozenset[str]) -> Job | None:
    """Serve until the search is gone; return only in a process that is to be a job."""
    configuration, status, channel, parent = (int(word) for word in arguments[:4])
    die_with_parent(parent)
    with open(configuration, "rb") as file:  # noqa: PTH123
        wanted = json.load(file)
    host = _Host(socket.socket(fileno=status), socket.socket(fileno=channel), wanted)
    forget_shadowed(at_start, wanted["folder"])
    if not host.prepare():
        os._exit(0)
    job = host.serve()
    if job is None:
        os._exit(0)
    return job


#: words in a script that may decide what a later import finds or reads
_PREPARATIONS = (b"sys.path", b"environ", b"putenv", b"chdir")


class _Waiting:
    """A keeper that waits for a request, as the host sees it."""

    def __init__(self, listen: int, cancel: int) -> None:
        #: what it tells
        self.listen = listen
        #: closed: it goes, unless it has a request
        self.cancel = cancel


class _Host:
    """The process that imported ahead; a successor is one, too."""

    def __init__(self, status: socket.socket, channel: socket.socket, wanted: dict[str, Any]) -> None:
        self._channel = channel
        for opened in (status, channel):
            opened.set_inheritable(False)
        channel.setblocking(False)  # (recv_fds takes flags and forgets them)
        self._listen, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        reports.setblocking(False)
        #: no object: it would say in a job that nobody closed it
        self._reports = reports.detach()
        #: what no keeper and no job may hold open
        self._private: list[int] = []
        self._ahead = Ahead(status, wanted)
        self._n_lessons = 0
        #: environment variables that the job had changed whose report was read last
        self._changes: dict[str, str | None] = {}
        self._boot, self._name = boot_id(), socket.gethostname()
        self._waiting: _Waiting | None = None

    def prepare(self) -> bool:
        """Import ahead; return whether this process can serve."""
        return self._ahead.prepare(self._ours())

    def _ours(self) -> list[int]:
        return [
            *(opened.fileno() for opened in (self._ahead.status, self._channel, self._listen)),
            self._reports,
        ]

    # Serving.

    def serve(self) -> Job | None:
        """Keep one keeper waiting, and learn; return a job in the process that is to be one, else None."""
        while True:
            if self._waiting is None:
                job = self._fork_keeper()
                if job is not None:
                    return job
            assert self._waiting is not None
            ready = _wait([self._waiting.listen, self._listen.fileno()])
            if self._waiting.listen in ready:
                if self._heed_keeper() == _OVER:
                    return None
            elif (names := self._late()) and self._n_lessons < _N_LESSONS:
                self._n_lessons += 1
                answered, job = self._have_successor(names)
                if job is not None or answered == _OVER:
                    return job

    def _heed_keeper(self) -> bytes:
        """Take what the waiting keeper told, if it told anything before its end."""
        assert self._waiting is not None
        answered = os.read(self._waiting.listen, 1)  # nothing: it was killed, or let go, and is replaced
        os.close(self._waiting.listen)
        os.close(self._waiting.cancel)
        self._waiting = None
        if answered == _FAILED:
            _wait([self._channel.fileno()])
            return _OVER  # a machine without room for processes: the search goes on with cold jobs
        if answered == _TAKEN:
            _wait([self._channel.fileno()], _QUIET_MS)
        return answered

    def _fork_keeper(self) -> Job | None:
        """Have a keeper wait for a request; return a job in the process that is to be one."""
        listen, answer = os.pipe()
        cancelled, cancel = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.write(answer, _FAILED)
            pid = -1
        if pid == 0:
            self._listen.close()
            self._ahead.status.close()
            for number in (listen, cancel, *self._private):
                os.close(number)
            return self._wait_and_keep(answer, cancelled)
        os.close(answer)
        os.close(cancelled)
        self._waiting = _Waiting(listen, cancel)
        return None

    def _wait_and_keep(self, answer: int, cancelled: int) -> Job:
        """Be a keeper. Returns in the job's process alone."""
        code, job = 1, None
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)  # blocked: they wait until they are fetched
            prctl(_PR_SET_CHILD_SUBREAPER, 1)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            keeper = os.getpid()
            try:
                pid = os.fork()
            except OSError:
                os.write(answer, _FAILED)
                raise
            if pid == 0:
                ours.close()
                self._channel.close()
                os.close(answer)
                os.close(cancelled)
                code = 127
                job = self._ahead.beginning.await_job(theirs, keeper, self._reports)
            else:
                theirs.close()
                os.close(self._reports)
                code = self._keep(pid, ours, answer, cancelled)
        except BaseException as err:  # noqa: BLE001 (it is reported; nobody is above)
            os.write(2, f"{type(err).__name__}: {err}\n".encode(errors="replace"))
        finally:
            if job is None:
                os._exit(code)
        return job

    def _keep(self, job: int, line: socket.socket, answer: int, cancelled: int) -> int:
        """Wait for a request, and see its job to the end."""
        message, descriptors = None, []  # type: tuple[bytes | None, list[int]]
        is_cancelled = False
        while message is None and not is_cancelled:
            is_cancelled = cancelled in _wait([self._channel.fileno(), cancelled])
            # a request that is there is served, whatever else is there
            with contextlib.suppress(BlockingIOError):
                message, descriptors, _, _ = socket.recv_fds(self._channel, 1, MAX_DESCRIPTORS)
        with contextlib.suppress(BrokenPipeError):  # the host was killed: this job runs all the same
            os.write(answer, _TAKEN if message else b"" if is_cancelled else _OVER)
        os.close(answer)
        os.close(cancelled)
        self._channel.close()
        if not message:
            return 0
        forget_signals()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        lock = descriptors.pop(4)
        try:
            keeper = Keeper(job, line, self._boot, self._name)
            keeper.take(descriptors, lock)
            return keeper.keep()
        except BaseException as err:  # noqa: BLE001 (it is reported; a keeper has nobody above it)
            tell(descriptors[-1], f"{type(err).__name__}: {err}"[:4000].encode(errors="replace"))
        return 1

    # Learning.

    def _late(self) -> list[list[str | None]]:
        """Read what a job imported late; return what of it is new."""
        late, self._changes, finds_elsewhere = json.loads(self._listen.recv(_REPORT_BYTES))
        return [
            found
            for found in late
            if found[0] not in sys.modules
            and not self._is_left(found[0])
            # where the script looks elsewhere, each job must find out which file a name of the user's means
            and not (is_local(found[1]) and (finds_elsewhere or self._script_prepares_imports()))
        ]

    def _script_prepares_imports(self) -> bool:
        """Whether the script may change, for some configurations, what an import finds or reads."""
        try:
            with open(self._ahead.beginning.script, "rb") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            return True  # it is being saved: nothing is learned of it now
        return any(word in text for word in _PREPARATIONS)

    def _is_left(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:n]) in self._ahead.left for n in range(1, len(parts) + 1))

    def _have_successor(self, names: list[list[str | None]]) -> tuple[bytes, Job | None]:
        """Have a fork import these, and serve in our place until the end if it still can be forked.

        Returns:
            `_OVER` if the search is gone; and a job, in the process that is to be one.
        """
        listen, answer = os.pipe()
        given, go = os.pipe()
        us = os.getpid()
        pid = os.fork()
        if pid == 0:
            assert self._waiting is not None
            for number in (listen, go, self._waiting.listen, self._waiting.cancel):
                os.close(number)
            self._waiting = None
            self._private.append(answer)
            return _OVER, self._succeed(names, answer, given, us)
        os.close(answer)
        os.close(given)
        self._private += [listen, go]
        while listen not in (ready := _wait([listen, *self._waiting_listens()])):
            if self._waiting is not None and self._waiting.listen in ready:
                if self._heed_keeper() == _OVER:
                    return _OVER, None  # and the successor ends with us
                if (job := self._fork_keeper()) is not None:
                    return b"", job
        answered = os.read(listen, 1)
        if answered == _READY and self._let_waiting_go() == _OVER:
            return _OVER, None
        os.close(go)
        self._private = [number for number in self._private if number not in (listen, go)]
        if answered == _READY:
            answered = os.read(listen, 1)  # it serves now; what it says is its end
        else:
            with open(listen, "rb", closefd=False) as rest:
                told = rest.read()
            self._ahead.left.update(json.loads(told) if told else [str(name) for name, _ in names])
        os.close(listen)
        return answered, None

    def _waiting_listens(self) -> list[int]:
        return [] if self._waiting is None else [self._waiting.listen]

    def _let_waiting_go(self) -> bytes:
        """Let the waiting keeper go; it serves a request that it has."""
        assert self._waiting is not None
        os.close(self._waiting.cancel)
        told = os.read(self._waiting.listen, 1)
        os.close(self._waiting.listen)
        self._waiting = None
        return told

    def _succeed(self, names: list[list[str | None]], answer: int, given: int, host: int) -> Job | None:
        """Import late modules, and if that went well serve in the host's place. For its fork."""
        left: dict[str, str] | None = None
        try:
            die_with_parent(host)
            self._ahead.beginning.restore_signals()
            left = self._ahead.import_late(names, self._ours())
            # what a script sets before an import may decide what is imported
            unmet = [name for name, value in self._changes.items() if os.environ.get(name) != value]
            if unmet and not left:
                left = {str(name): f"the script sets {unmet[0]} first" for name, _ in names}
        except SpoiltError as err:
            left = {err.module: str(err)}
        except BaseException as err:  # noqa: BLE001 (it is reported, and the host goes on)
            os.write(2, f"{type(err).__name__}: {err}\n".encode(errors="replace"))
        learned = [found for found in names if found[0] in sys.modules]
        if left or left is None or not learned:
            # what has been imported in vain may be pulled in again by the rest: the next lesson tells
            if left is not None:
                os.write(answer, _FAILED + json.dumps(list(left)).encode())
                self._ahead.say("unlearned", left=left)
            os._exit(0)
        self._ahead.settle()
        os.write(answer, _READY)
        os.read(given, 1)  # nothing, once the host has let its waiting keeper go
        os.close(given)
        self._ahead.say("learned", modules=learned, files=self._ahead.files)
        job = self.serve()
        if job is None:
            os.write(answer, _OVER)
            os._exit(0)
        return job


def _wait(descriptors: Sequence[int], timeout_ms: int | None = None) -> set[int]:
    """Wait until some of the descriptors are readable or at their end; return which."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(timeout_ms)}
