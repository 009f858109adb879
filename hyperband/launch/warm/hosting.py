"""Warm starts: a process that has imported the script's modules already, and forks a job in milliseconds.

Owns the life of the warm host (launch/warm/host.py) as the search sees it: when it is ready, when it is out
of date, what it has learned, how often it is started anew. Nothing here waits but `close`. Must not know
studies or trials.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperband.launch.environment import THREAD_VARIABLES
from hyperband.machine.process import JobRequest, send_request

_HOST = Path(__file__).with_name("host.py")
#: for imports ahead alone: PyTorch then tells whether there is a GPU without taking it
_FOR_IMPORTS = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
#: variable, and argument, that leave room in memory for what a job's process shows of itself
_ROOM = "HYPERBAND_WARM_ROOM"
_ROOM_BYTES = 2048
#: a host that dies so often without having been told to is not started again
_N_DEATHS = 3
#: and one that finds so often that it must leave out modules is given up
_N_REVISIONS = 8
_READ_BYTES = 1 << 16
#: how long a host that serves may take to see that the search has no more requests
_CLOSE_WITHIN_S = 5.0
_MOST_NAMED = 3


class WarmHost:
    """The client side of the warm host. `fileno` is readable when `heed` has something to do."""

    def __init__(
        self,
        *,
        python: Path,
        script: Path,
        script_args: Sequence[str],
        cwd: Path,
        lock: int,
        errors: Path,
        environment: Mapping[str, str | None],
    ) -> None:
        """Start the host in the background.

        Args:
            python: interpreter of the script; Python >= 3.9.
            script: the user's script, absolute.
            script_args: `sys.argv[1:]` while it is looked at what the script imports.
            cwd: working directory of the jobs.
            lock: descriptor of the study's lock. The host does not hold it: each request carries it along.
            errors: file for what goes wrong in the host and its keepers.
            environment: what is added to (None: taken out of) the environment of every job: thread caps above
                all, which the host must have before it imports anything.
        """
        self._python = python
        self._script = script
        self._script_args = list(script_args)
        self._cwd = cwd
        self._lock = lock
        self._errors = errors
        self._environment = dict(environment)
        self._epoll = select.epoll()
        self._process: subprocess.Popen[bytes] | None = None
        self._status: socket.socket | None = None
        self._channel: socket.socket | None = None
        self._received = b""
        #: hosts that were told to go, and have not gone yet
        self._leaving: list[subprocess.Popen[bytes]] = []
        self._news: list[str] = []
        self._is_ready = False
        #: what the scout found; None: it has to look (again)
        self._scouted: object = None
        #: modules to be left to every job -> why
        self._left: dict[str, str] = {}
        #: modules that jobs imported late: name and file
        self._late: list[list[str | None]] = []
        #: files -> what they looked like when the host was started or learned of them
        self._files: dict[str, tuple[int, ...] | None] = {}
        self._n_deaths = 0
        self._n_revisions = 0
        self._begin()

    @property
    def pid(self) -> int | None:
        """Pid of the host, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether jobs can be forked now."""
        return self._is_ready

    def fileno(self) -> int:
        """Return a descriptor, always the same, that is readable when `heed` has something to do."""
        return self._epoll.fileno()

    def take_news(self) -> tuple[str, ...]:
        """Return what is worth telling the user since the last call, a line each."""
        news, self._news = tuple(self._news), []
        return news

    def start(self, request: JobRequest) -> int | None:
        """Have a job forked, if that can be done now; return a descriptor as ForkServer.start does.

        None if the job must be started otherwise: the host is not ready or gone, what it imported has
        changed, or the job's environment wants other thread caps than the host has.

        Raises:
            MachineError: the folder cannot be written to, or descriptors are short.
        """
        self.heed()
        self._look_at_files()
        if not self._is_ready or not self._fits(request):
            return None
        try:
            return send_request(self._send, request, lock=self._lock)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return None  # too many requests are waiting, or it has just died: `heed` will hear of that

    def heed(self) -> None:
        """Take in what the host has said; start it anew where that is needed."""
        while self._status is not None:
            try:
                part = self._status.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                part = b""
            if not part:
                self._heed_death()
                return
            *lines, self._received = (self._received + part).split(b"\n")
            for line in lines:
                self._heed_message(json.loads(line))

    def close(self) -> None:
        """Let the host go; its keepers and their jobs live on."""
        self._end()
        for process in self._leaving:
            try:
                process.wait(_CLOSE_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._leaving.clear()
        self._epoll.close()

    # The host's life.

    def _begin(self) -> None:
        added: dict[str, str | None] = {**_FOR_IMPORTS, _ROOM: "." * _ROOM_BYTES}
        environment = dict(os.environ)
        for name, value in {**self._environment, **added}.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        configuration = {
            "script": str(self._script),
            "script_args": self._script_args,
            # `python script.py` takes the folder that the script really is in, symbolic links followed
            "folder": str(self._script.resolve().parent),
            "added": {name: os.environ.get(name) for name in {**self._environment, **added}},
            "room": _ROOM,
            "left": self._left,
            "late": self._late,
            "scouted": self._scouted,
        }
        self._files = {str(self._script): _look(str(self._script))}
        ours, theirs = socket.socketpair()
        channel, its_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            stack.enter_context(theirs)
            stack.enter_context(its_channel)
            memory = os.memfd_create("hyperband-warm")
            stack.callback(os.close, memory)
            with open(memory, "wb", closefd=False) as stream:
                stream.write(json.dumps(configuration).encode())
            os.lseek(memory, 0, os.SEEK_SET)
            inherited = [memory, theirs.fileno(), its_channel.fileno()]
            errors = stack.enter_context(self._errors.open("ab"))
            try:
                self._process = subprocess.Popen(
                    [self._python, _HOST, *map(str, inherited), str(os.getpid()), "." * _ROOM_BYTES],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    cwd=self._cwd,
                    env=environment,
                    pass_fds=inherited,
                    start_new_session=True,
                )
            except OSError as err:
                ours.close()
                channel.close()
                self._news.append(f"no warm starts: {self._python} cannot be run: {err.strerror or err}")
                return
        ours.setblocking(False)
        channel.setblocking(False)
        self._received = b""
        self._status, self._channel = ours, channel
        self._epoll.register(ours, select.EPOLLIN)

    def _end(self) -> None:
        """Let the host go: one that serves sees the end of its requests, one that imports is ended."""
        if self._status is not None and self._channel is not None:
            self._epoll.unregister(self._status)
            self._status.close()
            self._channel.close()
        self._status = self._channel = None
        if self._process is not None:
            if not self._is_ready:
                self._process.send_signal(signal.SIGKILL)
            self._leaving.append(self._process)
        self._process = None
        self._is_ready = False
        self._leaving = [process for process in self._leaving if process.poll() is None]

    def _again(self) -> None:
        self._end()
        self._begin()

    def _heed_death(self) -> None:
        self._n_deaths += 1
        self._end()
        if self._n_deaths < _N_DEATHS:
            self._news.append("the warm host died; it is started anew, and jobs start cold meanwhile")
            self._begin()
        else:
            self._news.append(
                f"no warm starts any more: the warm host died {self._n_deaths} times; see {self._errors}"
            )

    def _heed_message(self, message: Mapping[str, Any]) -> None:
        match message["kind"]:
            case "ready":
                self._is_ready = True
                self._see(message["files"])
                words = f"warm starts: ready after {message['took_s']:.1f} s, "
                words += f"{message['n_modules']} modules imported ahead"
                if message["left"]:
                    words += f"; left to each job: {_reasons(message['left'])}"
                self._news.append(words)
            case "refused":
                self._news.append(f"no warm starts: {message['why']}")
                self._end()
            case "anew":
                self._revise(message["left"], message["scouted"])
            case "learned":
                self._late += message["modules"]
                self._see(message["files"])
                self._news.append(f"warm starts: imported ahead from now on: {_names(message['modules'])}")
            case "unlearned":
                self._left |= message["left"]
                self._news.append(f"warm starts: left to each job: {_reasons(message['left'])}")
            case kind:
                raise AssertionError(f"the warm host said {kind}")

    def _revise(self, left: Mapping[str, str], scouted: object) -> None:
        """Start the host anew without some modules."""
        self._left |= left
        self._scouted = scouted
        self._n_revisions += 1
        if self._n_revisions > _N_REVISIONS:
            self._news.append(
                f"no warm starts: too many modules cannot be imported ahead: {_reasons(self._left)}"
            )
            self._end()
        else:
            self._again()

    # Whether the host is what a job needs.

    def _see(self, files: Mapping[str, Sequence[int]]) -> None:
        self._files |= {file: tuple(seen) for file, seen in files.items()}

    def _look_at_files(self) -> None:
        """Start the host anew if the script or a module of its folder has changed since it was imported."""
        if self._status is None or all(_look(file) == seen for file, seen in self._files.items()):
            return
        changed = sorted(Path(file).name for file, seen in self._files.items() if _look(file) != seen)
        self._news.append(f"warm starts: imported anew, since {', '.join(changed[:_MOST_NAMED])} changed")
        self._left, self._scouted = {}, None
        self._again()

    def _fits(self, request: JobRequest) -> bool:
        """Return whether the job wants the environment that was there when libraries were loaded."""
        # libraries read these when they are loaded: a job with other values cannot be a fork
        for name in THREAD_VARIABLES:
            if self._effective(name, request.environment) != self._effective(name, self._environment):
                return False
        # what an import learned of GPUs depends on whether there are any to be seen
        hidden = [
            self._effective("CUDA_VISIBLE_DEVICES", where) == ""
            for where in (request.environment, self._environment)
        ]
        is_same_script = list(request.argv[:2]) == [str(self._python), str(self._script)]
        return hidden[0] == hidden[1] and is_same_script

    @staticmethod
    def _effective(name: str, changes: Mapping[str, str | None]) -> str | None:
        return changes[name] if name in changes else os.environ.get(name)

    def _send(self, descriptors: list[int]) -> None:
        if self._channel is None:
            raise BrokenPipeError
        socket.send_fds(self._channel, [b"j"], descriptors)


def _look(file: str) -> tuple[int, ...] | None:
    """Return what tells one version of a file from another; None while it is not there."""
    try:
        stat = os.stat(file)  # noqa: PTH116 (before every start, for each file)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _reasons(left: Mapping[str, str]) -> str:
    shown = [f"{name} ({why})" for name, why in list(left.items())[:_MOST_NAMED]]
    return ", ".join([*shown, *([f"and {len(left) - len(shown)} more"] if len(left) > len(shown) else [])])


def _names(modules: Sequence[Sequence[str | None]]) -> str:
    """Name the packages with most of what was imported: the rest came with them."""
    names = {str(name) for name, _ in modules}
    tops = [name for name in names if name.rpartition(".")[0] not in names]
    n_below = {top: sum(name == top or name.startswith(top + ".") for name in names) for top in tops}
    shown = sorted(tops, key=lambda top: (-n_below[top], top))[:_MOST_NAMED]
    n_more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {n_more} more" if n_more else "")
