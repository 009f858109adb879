"""What holds one slot of a Ray cluster: it stays there, and starts keepers of jobs on its node.

Owns the processes of one actor: the keeper that waits for a job, the one that has one, and the actor's end
when nobody wants it any more. Must not know Ray, nor what a job is: it is sent to the nodes as it is, and has
nothing of hyperband there but what lies in the study's folder. Standard library only.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

#: so often it is looked whether anybody wants us still
_LOOK_S = 1.0
#: so long after a job began its start is over, mostly
_QUIET_S = 0.1
#: what a keeper says when its job is over and all is written down: machine/claim.py
_OVER = b"hyperband: the job is over\n"
#: of what a keeper said, so much is worth telling
_SAID_BYTES = 500
#: settings of Ray without which a machine that is cut off is noticed after minutes
KEEPALIVE = ("RAY_grpc_client_keepalive_time_ms", "RAY_grpc_client_keepalive_timeout_ms")


@dataclass(slots=True)
class _Keeper:
    """A process that waits for a job, or has one."""

    process: "subprocess.Popen[bytes]"
    said: IO[bytes]
    #: of what it says on its way
    read: bytes = b""
    #: its job is over and all is written down; or it has ended
    is_over: bool = False

    def wait(self, patience_s: "float | None" = None) -> bool:
        """Wait until its job is over, or for so long; return which it was. From one thread at a time."""
        assert self.process.stdout is not None
        ready = select.poll()
        ready.register(self.process.stdout, select.POLLIN)
        until_s = float("inf") if patience_s is None else time.monotonic() + patience_s
        while not self.is_over:
            left_s = until_s - time.monotonic()
            if not ready.poll(None if patience_s is None else max(0.0, left_s) * 1000):
                return False
            part = os.read(self.process.stdout.fileno(), 1 << 10)
            self.read += part
            self.is_over = not part or _OVER in self.read
        return True

    def words(self) -> str:
        """What it said, the end of it, in one line."""
        said = os.pread(self.said.fileno(), 1 << 20, 0)[-_SAID_BYTES:].decode(errors="replace")
        return "; ".join(line.strip() for line in said.splitlines() if line.strip())

    def close(self) -> None:
        """Let go of it; one that waits ends."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.said.close()


def _wait_for_end(pid: int, patience_s: float) -> None:
    """Wait until a child of ours has ended, or for so long."""
    pidfd = os.pidfd_open(pid)
    try:
        select.select([pidfd], [], [], patience_s)
    finally:
        os.close(pidfd)


class SlotActor:
    """One slot. Its methods are called from several threads of Ray's, one job at a time."""

    def __init__(self, script: str, give_up_s: float, mark: str = "") -> None:
        """Have a keeper wait for a job.

        Args:
            script: what is run on a node, with this interpreter.
            give_up_s: without a word from a search and without a job it ends after so long.
            mark: tells it from slots of other starts.
        """
        self._mark = mark
        self._script = script
        self._give_up_s = give_up_s
        self._lock = threading.Lock()
        self._heard_s = time.monotonic()
        self._attempt = ""
        self._job: _Keeper | None = None
        self._has_ended = threading.Condition()
        self._is_over = threading.Event()
        #: keepers that are about to end, or have ended
        self._leaving: list[_Keeper] = []
        self._waiting: _Keeper | None = self._spawn()
        threading.Thread(target=self._watch, name="give-up", daemon=True).start()

    def about(self) -> dict[str, Any]:
        """Return where it is, what it has there, and which attempt it runs (empty: none)."""
        self._heard_s = time.monotonic()
        return {
            "host": socket.gethostname(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "attempt": self._attempt,
            "mark": self._mark,
            "nice": os.nice(0),
            "n_cpus": len(os.sched_getaffinity(0)),
            "has_keepalive": all(name in os.environ for name in KEEPALIVE),
            "has_token": os.environ.get("RAY_AUTH_MODE") == "token",
        }

    def heed(self) -> None:
        """Hear that a search wants this slot."""
        self._heard_s = time.monotonic()

    def run(self, folder: str, attempt: str) -> str:
        """Run an attempt to its end; return what its keeper said."""
        with self._lock:
            self._heard_s = time.monotonic()
            if self._attempt:
                raise RuntimeError(f"the attempt {self._attempt} runs here already")
            keeper = self._waiting
            if keeper is None or keeper.process.poll() is not None:
                if keeper is not None:
                    keeper.close()
                keeper = self._spawn()
            self._waiting = None
            self._job, self._attempt = keeper, attempt
            self._order(keeper, folder, attempt)  # before any other word
        # the next one starts when this job's own start is over, which it would slow down
        keeper.wait(_QUIET_S)
        with self._lock:
            self._sweep()
            self._have_another_wait()
        keeper.wait()
        with self._lock:
            self._job, self._attempt = None, ""
            self._heard_s = time.monotonic()
            # there is time for it later: a search waits for our answer
            self._leaving.append(keeper)
            words = keeper.words()
        with self._has_ended:
            self._has_ended.notify_all()
        return words

    def wait(self, attempt: str, wait_s: float) -> bool:
        """Return when an attempt is over that an earlier search began, or after so long; which it was."""
        with self._has_ended:
            return self._has_ended.wait_for(lambda: self._attempt != attempt, wait_s)

    def tell(self, attempt: str, line: str) -> None:
        """Hand a word of the search on to the keeper of an attempt."""
        with self._lock:
            if self._job is not None and self._attempt == attempt:
                self._tell(self._job, line)

    def linger(self, wait_s: float) -> None:
        """Return after so long: whoever waits for it hears of our death."""
        self._is_over.wait(wait_s)

    def _order(self, keeper: _Keeper, folder: str, attempt: str, *, says_over: bool = True) -> None:
        """Have a keeper run an attempt; says_over: it tells of the end, and ends by itself a moment later."""
        self._tell(keeper, json.dumps({"folder": folder, "attempt": attempt, "says_over": says_over}))

    def _sweep(self) -> None:
        """Let go of keepers whose jobs are over, and have those reaped that have ended."""
        for keeper in self._leaving:
            keeper.close()
        self._leaving = [keeper for keeper in self._leaving if keeper.process.poll() is None]

    def _tell(self, keeper: _Keeper, line: str) -> None:
        assert keeper.process.stdin is not None
        # one that has ended is waited for by whoever needs to know
        with contextlib.suppress(BrokenPipeError):
            keeper.process.stdin.write(line.encode() + b"\n")
            keeper.process.stdin.flush()

    def _spawn(self) -> _Keeper:
        """Start a keeper that waits. It ends with us, by its standard input; and its job then, too."""
        said = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the keeper)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", self._script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        except OSError:
            said.close()
            raise
        return _Keeper(process, said)

    def _have_another_wait(self) -> None:
        """Start the keeper of the next job; if there is no room for it now, that job finds out."""
        self._waiting = None
        with contextlib.suppress(OSError):
            self._waiting = self._spawn()

    def _watch(self) -> None:
        """End when nobody wants us."""
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                self._sweep()
                if not self._attempt and time.monotonic() >= self._heard_s + self._give_up_s:
                    os._exit(0)
