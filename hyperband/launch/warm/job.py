"""How a fork of the warm host becomes a job: all that `python script.py` would have, but for the imports.

Runs under the user's interpreter: standard library only, Python >= 3.9. Must not know studies or trials.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import random
import signal
import socket
import stat
import sys
import threading
from importlib.machinery import SourceFileLoader
from types import ModuleType

from hyperband.launch.warm.scout import late_modules
from hyperband.machine.becoming import changed, has_word, lead_session, take_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import CodeType
    from typing import Any

#: signals that waiting processes of ours treat otherwise than a script would
_OUR_SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
#: longest report of a job on its late imports
_REPORT_BYTES = 1 << 16
#: fields of /proc/PID/stat behind the name: where argument list and environment lie
_ARGUMENTS_FIELD = 45


class Beginning:
    """What a fresh interpreter has before the first line of the script: each job gets it again."""

    def __init__(self, script: str, folder: str, added: Mapping[str, str | None], room: str) -> None:
        """Note it, and make this process as alike as it can be.

        Args:
            script: path as in the command line of every job.
            folder: what `sys.path` begins with.
            added: what was added to this process's environment alone, with the values from before.
            room: name of an environment variable whose place in memory is for the environment of a job.
        """
        self.script = script
        self._memory = _Memory(room)
        for name in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            # a search under nohup has handed some down; Python itself ignores two
            if signal.getsignal(name) == signal.SIG_IGN and name not in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(name, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.environment = changed(os.environ, {**added, room: None})
        os.environ.pop(room, None)
        if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
            sys.path.insert(0, folder)
        self.path = list(sys.path)
        sys.argv[:] = [script]
        self._hidden = sys.modules["__main__"]  # its dictionary is that of the code that called us
        self.main = _make_main(script, self._hidden)
        sys.modules["__main__"] = self.main
        #: environment variables that imports ahead set (None: took out)
        self.set_ahead: dict[str, str | None] = {}
        self.known: frozenset[str] = frozenset()
        self._source, self._code = b"", None  # type: tuple[bytes, CodeType | None]
        self._collects = gc.isenabled()
        self._handlers: list[tuple[int, Any]] = []

    def settle(self) -> None:
        """Note what is there now that everything is imported: called before the first fork."""
        self.known = frozenset(sys.modules)
        self._handlers = [(number, signal.getsignal(number)) for number in _OUR_SIGNALS]
        self._source = SourceFileLoader("__main__", self.script).get_data(self.script)
        self._code = compile(self._source, self.script, "exec", dont_inherit=True)
        gc.disable()  # a fork copies what is touched after it
        gc.collect()
        gc.freeze()

    def restore_signals(self) -> None:
        """Treat signals as the imports left them."""
        for number, handler in self._handlers:
            signal.signal(number, handler)

    def await_job(self, line: socket.socket, keeper: int, reports: int) -> Job | None:
        """Be ready, take a request from the keeper, wait for the word; None: there is no job."""
        lead_session()
        self.restore_signals()
        _own_offsets()
        _reseed()
        if hasattr(threading.main_thread(), "_set_native_id"):
            threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
        job = Job(self, reports)
        if self._collects:
            gc.enable()
        request = take_request(line)
        if request is None:
            return None
        argv, environment = request["argv"], request["environment"]
        self._memory.show(argv, environment)
        self._set_environment(changed(changed(self.environment, environment), self.set_ahead))
        sys.argv[:] = argv[1:]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[:] = argv
        sys.path[:] = self.path
        if not has_word(line, keeper):
            return None
        line.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        job.environment = dict(os.environ)
        job.path = list(sys.path)
        return job

    def compiled(self) -> CodeType:
        """Return the script as it is now, compiled; exits as the interpreter does if it cannot be read."""
        try:
            source = SourceFileLoader("__main__", self.script).get_data(self.script)
        except OSError as err:
            words = f"{sys.executable}: can't open file {self.script!r}: [Errno {err.errno}] {err.strerror}\n"
            os.write(2, words.encode(errors="replace"))
            raise SystemExit(2) from None
        if source == self._source and self._code is not None:
            return self._code
        return compile(source, self.script, "exec", dont_inherit=True)

    @staticmethod
    def _set_environment(wanted: Mapping[str, str]) -> None:
        for variable in [variable for variable in os.environ if variable not in wanted]:
            del os.environ[variable]
        for variable, value in wanted.items():
            if os.environ.get(variable) != value:
                os.environ[variable] = value


class Job:
    """A process that is about to run the script, at the top level."""

    def __init__(self, beginning: Beginning, reports: int) -> None:
        self.compiled = beginning.compiled
        self.namespace = beginning.main.__dict__
        #: as the script finds it
        self.environment: dict[str, str] = {}
        self.path: list[str] = []
        self._known = beginning.known
        self._pid = os.getpid()
        self._reports = reports
        self._inode = os.fstat(reports).st_ino

    def report(self) -> None:
        """Tell the host what was imported late: the next job is to find it there. Never waits or fails."""
        if os.getpid() != self._pid:
            return  # a process that the script forked, and let return
        found = late_modules(self._known)
        now = dict(os.environ)
        changes = {
            name: now.get(name)
            for name in now.keys() | self.environment.keys()
            if now.get(name) != self.environment.get(name)
        }
        finds_elsewhere = sys.path != self.path
        while len(data := json.dumps([found, changes, finds_elsewhere]).encode()) > _REPORT_BYTES and found:
            found = found[: len(found) // 2]
        with contextlib.suppress(OSError):  # closed by the script, or nobody listens, or not soon enough
            if found and os.fstat(self._reports).st_ino == self._inode:
                os.write(self._reports, data)


class _Memory:
    """Where the kernel finds our command line and environment, to show them to others.

    A job must look like one: to `ps`, and to whoever looks for what is left of it by its environment.
    """

    def __init__(self, room: str) -> None:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        starts = [int(field) for field in fields[_ARGUMENTS_FIELD : _ARGUMENTS_FIELD + 4]]
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
            environment = file.read()
        offset = environment.find(room.encode() + b"=")
        length = 0 if offset == -1 else environment.index(b"\0", offset) + 1 - offset
        self._arguments = (starts[0], starts[1] - starts[0])
        self._variables = (starts[2] + offset, length)

    def show(self, argv: Sequence[str], environment: Mapping[str, str | None]) -> None:
        """Show these as ours; what has no room is left out."""
        _fill(self._arguments, [os.fsencode(word) for word in argv])
        # the interpreter has let go of this variable: nothing else points to its place
        _fill(
            self._variables, [os.fsencode(f"{name}={value}") for name, value in environment.items() if value]
        )


def _fill(place: tuple[int, int], words: Sequence[bytes]) -> None:
    start, length = place
    data = b""
    for word in words:
        if len(data) + len(word) < length:
            data += word + b"\0"
    if length:
        ctypes.memmove(start, data.ljust(length, b"\0"), length)


def _make_main(script: str, like: ModuleType) -> ModuleType:
    """Make the module that `python script.py` has as `__main__`."""
    main = ModuleType("__main__")
    main.__dict__.update({name: {} for name in ("__annotations__",) if name in like.__dict__})
    main.__dict__["__builtins__"] = builtins
    main.__file__ = script
    main.__dict__.update({name: None for name in ("__cached__",) if name in like.__dict__})
    main.__loader__ = SourceFileLoader("__main__", script)
    return main


def _own_offsets() -> None:
    """Open regular files again that imports left open: their offsets are shared with every other job."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        number = int(name)
        try:
            if number > 2 and stat.S_ISREG(os.fstat(number).st_mode):
                flags = fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND)
                again = os.open(f"/proc/self/fd/{number}", flags | os.O_CLOEXEC)
                os.lseek(again, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(again, number, inheritable=os.get_inheritable(number))
                os.close(again)
        except OSError:
            continue  # that of the listing itself, or closed to us since: then it stays as it is


def _reseed() -> None:
    """Put the global generators of random numbers where a fresh interpreter has them: anywhere."""
    random.seed()
    numpys: Any = getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)
    if numpys is not None:
        numpys.seed()
    torchs: Any = getattr(sys.modules.get("torch"), "default_generator", None)
    if torchs is not None:
        torchs.seed()
