"""How a keeper gets onto a node: by a process of ours that carries it, or by somebody whom we only asked.

Owns the carrier: its standard input, the descriptor that tells its end, and `carrier.json`, by which a later
search finds it. Knows nothing of jobs and of how an engine is asked; that is an engine's `Carriers`.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from hyperband.errors import MachineError
from hyperband.launch.base import Lease
from hyperband.machine import claim
from hyperband.machine.limits import under_first_limit
from hyperband.machine.process import ProcessId, wait_for_end

CARRIER_FILE = "carrier.json"
#: of what a carrier said, so much is worth telling
_SAID_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Room:
    """What a job is to find at its slot on a node."""

    #: which of the GPUs in CUDA_VISIBLE_DEVICES, as the node was given them, counted from 0; None: all
    gpus: tuple[int, ...] | None = None
    #: a JSON object whose `environment` is the one to begin with; None: that which the carrier brings along
    environment_file: Path | None = None
    #: variables in which that of the carrier overrules the file's; `SLURM_*` stands for all that begin so
    keeps: tuple[str, ...] = ()
    #: the job is asked to stop when its carrier is gone: what it runs on is then given to others
    ends_with_carrier: bool = False


class Carrier:
    """What brings one keeper onto a node. One owner at a time: its Carriers, and from then on a launcher."""

    #: a later search does not take an attempt away from it that nobody has claimed yet
    is_waited_for: ClassVar[bool] = True

    def __init__(
        self,
        *,
        label: str = "",
        process: ProcessId | None = None,
        pidfd: int | None = None,
        stdin: int | None = None,
        is_told: bool = False,
        child: int | None = None,
        errors: Path | None = None,
    ) -> None:
        """Remember it; see spawn() for one of ours.

        Args:
            label: the engine's own name for it, such as the number of a batch job.
            process: that carries; None: none of this machine does.
            pidfd: of that process, ours to close.
            stdin: the end of its standard input that we write to, ours to close.
            is_told: it knows its attempt already: by its arguments, or from an earlier search.
            child: pid of the process if it is our child, for us to reap.
            errors: file with what it said.
        """
        self.label = label
        self.process = process
        self.pidfd = pidfd
        self.is_told = is_told
        self.errors = errors
        self._stdin = stdin
        self._child = child

    def tell(self, line: str) -> bool:
        """Write a line to its standard input; return False if there is nobody to read it."""
        if self._stdin is None:
            return False
        try:
            os.write(self._stdin, line.encode() + b"\n")
        except BrokenPipeError:
            return False
        return True

    def has_ended(self) -> bool:
        """Return whether its process has ended; False where there is none of this machine."""
        return self.pidfd is not None and wait_for_end(self.pidfd, 0.0)

    def exit_status(self) -> int | None:
        """Return how its process ended: an exit code, or minus the signal; None: not yet, or not known."""
        if self._child is None:
            return None
        try:
            found = os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        if found is None or found.si_pid == 0:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def is_there(self) -> bool:
        """Return whether a keeper waits on the node already: it needs nothing but its line."""
        return not self.has_ended() and claim.WAITS in self._lines()

    def said(self) -> str:
        """Return the end of what it said, in one line."""
        return "; ".join(line for line in self._lines() if line and line != claim.WAITS)

    def _lines(self) -> list[str]:
        if self.errors is None:
            return []
        with contextlib.suppress(OSError):
            said = self.errors.read_bytes()[-_SAID_BYTES:].decode(errors="replace")
            return [line.strip() for line in said.splitlines()]
        return []

    def kill(self) -> None:
        """Kill its process, which has nothing to carry any more; what it still carries is its engine's."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def dismiss(self) -> None:
        """Close its standard input: one that waits for an attempt ends, and one that has it goes on."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def close(self) -> None:
        """Let go of it: one that waits ends, and one that carries goes on."""
        self.dismiss()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        if self._child is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._child, os.WNOHANG)
            self._child = None

    def write(self, folder: Path) -> None:
        """Write it down in an attempt's folder, so that a later search finds it.

        Raises:
            OSError: that cannot be written.
        """
        about = {
            "label": self.label,
            "process": None if self.process is None else asdict(self.process),
            "errors": None if self.errors is None else str(self.errors),
        }
        claim.write_whole(str(folder), CARRIER_FILE, json.dumps(about).encode())

    @classmethod
    def find(cls, folder: Path) -> "Carrier | None":
        """Return the carrier that an earlier search wrote down, without its process if that is gone."""
        try:
            about = claim.parse(claim.read_fresh(str(folder), CARRIER_FILE)[0])
        except FileNotFoundError:
            return None
        if about is None:
            return None
        process = None if about["process"] is None else ProcessId(**about["process"])
        pidfd = None if process is None else process.open()
        return cls(
            label=about["label"],
            process=None if pidfd is None else process,
            pidfd=pidfd,
            is_told=True,
            errors=None if about["errors"] is None else Path(about["errors"]),
        )


def spawn(
    argv: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    errors: Path,
    label: str = "",
    is_told: bool,
) -> Carrier:
    """Start a process that carries a keeper onto a node, in a session of its own: it outlives us.

    Args:
        argv: its command line.
        cwd: its working directory.
        environment: all of its environment.
        errors: file to which what it says is added: its standard output and error.
        label: the engine's own name for it.
        is_told: its arguments name the attempt; otherwise it waits for a line that does.

    Raises:
        MachineError: it cannot be started.
    """
    try:
        with errors.open("ab") as said:
            process = subprocess.Popen(
                under_first_limit(argv),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
        pidfd = os.pidfd_open(process.pid)
    except OSError as err:
        raise MachineError(
            f"cannot start {argv[0]}: {err.strerror or err}; free what is missing there and start the search "
            "again: it goes on where it is"
        ) from err
    assert process.stdin is not None
    stdin = os.dup(process.stdin.fileno())
    process.stdin.close()
    process.returncode = 0  # it is reaped by its carrier, whenever it ends, and not by Popen
    return Carrier(
        label=label,
        process=ProcessId.of(process.pid),
        pidfd=pidfd,
        stdin=stdin,
        is_told=is_told,
        child=process.pid,
        errors=errors,
    )


class Carriers(Protocol):
    """How an engine brings keepers onto its nodes. Called by the search's loop; nothing here waits."""

    def room(self, lease: Lease) -> Room:
        """Return what a job finds at this slot."""
        ...

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:
        """Return a carrier to this slot: one that waits, or a new one that may be told by its arguments.

        The launcher tells one that is not: a line on its standard input. A carrier that cannot do it may
        simply end: then nothing ran, and the launcher says so with what it said.

        Raises:
            MachineError: the engine cannot be used any more, for good.
        """
        ...

    def is_coming(self, label: str) -> bool:
        """Return whether what an earlier search labelled so may still begin; True if that is not known.

        Asked only of carriers without a process on this machine, for an attempt that nobody has claimed.
        """
        ...

    def let_go(self, carrier: Carrier) -> None:
        """Hear that the job of a carrier is over, or will never begin: what waits for it is not wanted."""
        ...

    def close(self) -> None:
        """Let those go that wait for a job; those that have one go on."""
        ...
