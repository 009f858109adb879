"""Running Slurm's commands, one at a time and each for a limited time.

Owns their processes and what counts as no answer. Must not know: what is asked, or what follows.
"""

import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperband.errors import MachineError
from hyperband.launch.slurm.words import Refusal, refusal_of, said_by
from hyperband.machine.limits import under_first_limit

_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
#: exit code of what cannot be started, as a shell has it
_NOT_STARTED = 127


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; `code` None: it was ended because it took too long."""

    code: int | None
    out: str
    error: str

    @property
    def refusal(self) -> Refusal | None:
        """Why it did not do what it was asked; None: it did."""
        if self.code == 0:
            return None
        return Refusal.UNREACHABLE if self.code is None else refusal_of(self.error)

    @property
    def words(self) -> str:
        """What it said of that."""
        return said_by(self.error) or said_by(self.out) or f"exit code {self.code} without a word"


def require_commands() -> None:
    """Make sure that Slurm's commands are here.

    Raises:
        MachineError: Some are not.
    """
    absent = [name for name in _COMMANDS if shutil.which(name) is None]
    if absent:
        raise MachineError(
            f"--on slurm needs Slurm's commands, but {', '.join(absent)} cannot be found through PATH; "
            "start on a login node of the cluster, or leave --on out"
        )


class Commands:
    """Runs commands, in one thread; how long one may take is said from any."""

    def __init__(self, environment: Mapping[str, str], limit_s: float) -> None:
        """Run nothing yet.

        Args:
            environment: all of theirs.
            limit_s: one that takes longer is killed, with what it started.
        """
        self._environment = environment
        self._limit_s = limit_s
        #: when the latest one ends, on the monotonic clock
        self._over_at_s = float("inf")
        self._lock = threading.Lock()
        self._hastened = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def hasten(self, limit_s: float, all_within_s: float = float("inf")) -> None:
        """Give commands, that which runs included, no more time than this, and none when all of it is over.

        Args:
            limit_s: for each, from its start.
            all_within_s: from now on; a command after that gives no answer.
        """
        with self._lock:
            self._limit_s = min(self._limit_s, limit_s)
            self._over_at_s = min(self._over_at_s, time.monotonic() + all_within_s)
        os.eventfd_write(self._hastened, 1)

    def close(self) -> None:
        """Let go of what is held between commands."""
        os.close(self._hastened)

    def run(self, argv: Sequence[str]) -> Answer:
        """Run a command to its end, or to the end of its time."""
        began_s = time.monotonic()
        if self._ends_at_s(began_s) <= began_s:
            return Answer(None, "", f"{argv[0]} was not asked: the time for it is over")
        # files in memory: whoever inherits them from a command that was killed keeps nobody waiting
        out, error = os.memfd_create("out"), os.memfd_create("error")
        try:
            process = subprocess.Popen(
                under_first_limit(argv),  # sbatch and srun hand limits on to what they start
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                # an interrupt from the terminal is for us alone
                start_new_session=True,
            )
            is_over = False
            with process:
                try:
                    is_over = self._waits_for(process, began_s)
                finally:
                    if not is_over:
                        # with what it started: at many sites these commands are scripts around the real ones
                        os.killpg(process.pid, signal.SIGKILL)
            if not is_over:
                took_s = round(time.monotonic() - began_s, 1)
                return Answer(None, "", f"{argv[0]} gave no answer within {took_s:g} s")
            return Answer(process.returncode, _read(out), _read(error))
        except OSError as err:
            return Answer(_NOT_STARTED, "", f"{argv[0]} cannot be started: {err.strerror}")
        finally:
            os.close(out)
            os.close(error)

    def _ends_at_s(self, began_s: float) -> float:
        with self._lock:
            return min(began_s + self._limit_s, self._over_at_s)

    def _waits_for(self, process: "subprocess.Popen[bytes]", began_s: float) -> bool:
        """Wait for the end of a command; False: its time is over."""
        pidfd = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(self._hastened, select.POLLIN)
            while (left_s := self._ends_at_s(began_s) - time.monotonic()) > 0:
                ready = {descriptor for descriptor, _ in poll.poll(1000 * left_s)}
                if pidfd in ready:
                    return True
                if self._hastened in ready:
                    os.eventfd_read(self._hastened)
            return False
        finally:
            os.close(pidfd)


def _read(memory: int) -> str:
    with open(memory, "rb", closefd=False) as stream:
        stream.seek(0)
        return stream.read().decode(errors="replace")
