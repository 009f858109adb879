"""The search's end of the line to the process that is a driver of Ray (driver.py).

Owns that process and the messages on their way. Waits for it at its end only. Must not know what is said.
"""

import contextlib
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyperband.errors import MachineError
from hyperband.launch.ray.actor import KEEPALIVE
from hyperband.launch.ray.words import KEEPALIVE_MS, Join, Probe

_ROOT = Path(__file__).resolve().parents[3]
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hyperband.launch.ray.driver import main; main()"
#: what runs it
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-c")
_READ_BYTES = 64 * 1024
#: patience with the process when it is to end: Ray takes its time; and when it has hung up by itself
_END_S, _HUNG_UP_S = 15.0, 1.0
#: tries to reach Ray's head, a second each; Ray would try 20 times, and it is we who try again
_N_TRIES = {"RAY_gcs_server_port_wait_time_s": "4"}


def bridge_environment(environ: Mapping[str, str], token: Path | None) -> dict[str, str]:
    """Return the environment of the process: with what notices machines that are cut off, and the token."""
    found = {**dict.fromkeys(KEEPALIVE, KEEPALIVE_MS), **_N_TRIES, **environ}
    if token is not None:
        found.pop("RAY_AUTH_TOKEN", None)  # Ray would prefer it
        found |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    return found


class RayLink:
    """At most one process at a time; `fileno` is the same for all."""

    def __init__(self, log: Path) -> None:
        """Start nothing yet; log: file to which the process appends what it says."""
        self.log = log
        self._epoll = select.epoll()
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._read = b""
        #: it is in the cluster, of which it takes leave
        self._has_joined = False
        #: heard, and not asked for yet
        self._ahead: list[dict[str, Any]] = []

    def fileno(self) -> int:
        """Readable when `heard` has something to do."""
        return self._epoll.fileno()

    @property
    def is_open(self) -> bool:
        """Whether there is a process to talk with."""
        return self._line is not None

    def open(self, join: Join, environment: Mapping[str, str], probe: Probe | None = None) -> None:
        """Start the process, and tell it what to join.

        Args:
            join: the cluster, and what a slot is.
            environment: of the process.
            probe: instead of holding slots have it try out the nodes.

        Raises:
            MachineError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*COMMAND, RUN, str(_ROOT), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except OSError as err:
            ours.close()
            raise MachineError(
                f"cannot start {sys.executable}, which talks to Ray: {err.strerror or err}; free what is "
                "missing and start the same command again"
            ) from err
        ours.setblocking(False)
        self._line = ours
        self._unsent = self._read = b""
        self._has_joined = False
        self._ahead = []
        self._epoll.register(ours, select.EPOLLIN)
        self.say({"join": asdict(join), "probe": None if probe is None else asdict(probe)})

    def say(self, words: Mapping[str, Any]) -> bool:
        """Say something; return False if there is nobody to hear it."""
        if self._line is None:
            return False
        self._unsent += json.dumps(words).encode() + b"\n"
        self._send()
        return True

    def heard(self) -> list[dict[str, Any]]:
        """Return what was said since, oldest first; `{"at": "closed"}` last if the process has ended."""
        self._send()
        found: list[dict[str, Any]] = []
        while self._line is not None:
            try:
                part = self._line.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                part = b""
            if not part:
                self._end(_HUNG_UP_S)
                found.append({"at": "closed"})
                break
            *lines, self._read = (self._read + part).split(b"\n")
            found += [json.loads(line) for line in lines]
            self._has_joined |= any(words["at"] == "joined" for words in found)
        return found

    def heard_one(self) -> dict[str, Any] | None:
        """Return the oldest that was said since, as `heard` does; None: nothing was."""
        if not self._ahead:
            self._ahead = self.heard()
        return self._ahead.pop(0) if self._ahead else None

    def close(self) -> None:
        """End the process; slots and jobs go on. A second call does nothing."""
        if not self._epoll.closed:
            # one that joins still may be deaf for minutes, and has nothing to give back
            self._end(_END_S if self._has_joined else _HUNG_UP_S)
            self._epoll.close()

    def _send(self) -> None:
        if self._line is None or not self._unsent:
            return
        # one that has ended is read to its end
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._unsent = self._unsent[self._line.send(self._unsent) :]
        events = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        self._epoll.modify(self._line, events)

    def _end(self, patience_s: float) -> None:
        if self._line is not None:
            self._epoll.unregister(self._line)
            self._line.close()
            self._line = None
        if self._process is not None:
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def default_environment(token: Path | None) -> dict[str, str]:
    """Return the environment of the process as it follows from ours."""
    return bridge_environment(os.environ, token)


def require_ray() -> None:
    """Raise for what can be seen without a word to Ray.

    Raises:
        MachineError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MachineError(
            "--on ray needs Ray in the environment of hyperband, in the cluster's version; install its "
            "extra [ray] (`pip install '.[ray]'` in hyperband's folder), or leave --on out"
        )
