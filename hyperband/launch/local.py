"""Jobs on this machine: each under a keeper of its own, started through the fork server.

Owns the reading of `keeper.json` and `result.json`. Which job runs where and what its end means is
decided elsewhere.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hyperband.errors import MachineError
from hyperband.launch.base import Ending, Lease, Order, StopReason
from hyperband.launch.warm.hosting import WarmHost
from hyperband.machine import keeper, proc
from hyperband.machine.claim import ORDER_FILE
from hyperband.machine.process import ForkServer, JobRequest, ProcessId, end_strays, wait_for_end

_SIGNALS = {StopReason.STOP: keeper.STOP_SIGNAL, StopReason.TIMEOUT: keeper.TIMEOUT_SIGNAL}
_PIPE_BYTES = 4096
#: a job that was ordered so long ago and has not begun waits for a server that hangs
_BEGIN_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class _About:
    """What a keeper wrote down before its job ran."""

    keeper: ProcessId
    job_pid: int
    host: str
    started_at: float
    started_monotonic_s: float
    #: environment variables that only this job and what descends from it have
    marks: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "_About | None":
        about = _read_json(folder / keeper.KEEPER_FILE)
        if about is None:
            return None
        return cls(
            ProcessId(about["pid"], about["start_ticks"], about["boot_id"], about["pid_namespace"]),
            about["job_pid"],
            about["host"],
            about["started_at"],
            about["started_monotonic_s"],
            {name: value for name, value in about["environment"].items() if value},
        )


class LocalJob:
    """One job on this machine that has not been seen to end."""

    def __init__(
        self,
        folder: Path,
        lease: Lease,
        descriptor: int,
        *,
        is_ours: bool,
        about: _About | None = None,
    ) -> None:
        """Take over the descriptor: the pipe of a keeper that we started, or the pidfd of an adopted one."""
        self.folder = folder
        self._lease = lease
        self.descriptor = descriptor
        self.is_ours = is_ours
        #: what its keeper said through the pipe
        self.said = b""
        self._asked_at_s = time.monotonic()
        self._about = about

    @property
    def lease(self) -> Lease:
        """The slot it holds."""
        return self._lease

    @property
    def about(self) -> _About | None:
        """What its keeper wrote down; None in the first moments of a job."""
        if self._about is None:
            self._about = _About.read(self.folder)
        return self._about

    @property
    def has_begun(self) -> bool:
        """Whether its keeper is there."""
        return self.about is not None

    @property
    def is_suspended(self) -> bool:
        """False: nobody stops jobs here but people, by hand."""
        return False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when every process of the job is gone."""
        return self.descriptor

    def running_s(self) -> float:
        """Return for how many seconds of the monotonic clock it has been running."""
        started_s = self._asked_at_s if self.about is None else self.about.started_monotonic_s
        return time.monotonic() - started_s


class LocalLauncher:
    """The launcher of this machine."""

    #: see RemoteLauncher.engine
    engine: ClassVar[str] = "local"
    #: jobs begin at once
    bell: ClassVar[None] = None

    def __init__(
        self, *, cwd: Path, lock: int, errors: Path, grace_s: float, warm: WarmHost | None = None
    ) -> None:
        """Remember where and how jobs run; nothing is started yet (see ForkServer for the arguments).

        Args:
            cwd: working directory of the jobs.
            lock: descriptor of the study's lock.
            errors: file for what goes wrong in the servers and the keepers.
            grace_s: between SIGTERM and SIGKILL.
            warm: forks jobs when it can; closed with the launcher.
        """
        self.warm = warm
        self._server = ForkServer(cwd=cwd, lock=lock, errors=errors)
        self._grace_s = grace_s
        self._jobs: set[LocalJob] = set()

    @property
    def begin_within_s(self) -> float:
        """A job that was started so long ago and has not begun waits for a server that hangs."""
        return _BEGIN_WITHIN_S

    def knows(self, folder: Path) -> bool:
        """Return whether an attempt was started on this machine, or not at all."""
        return not (folder / ORDER_FILE).exists()

    def start(self, order: Order, lease: Lease) -> LocalJob:
        """Start a job that was journalled; its keeper holds the lease from now on.

        Raises:
            MachineError: the folder, a process or a descriptor cannot be had.
        """
        try:
            request = JobRequest(
                order.argv, order.environment, order.folder, lease.descriptors, self._grace_s
            )
            pipe = None if self.warm is None else self.warm.start(request)
            if pipe is None:
                pipe = self._server.start(request)
        finally:
            for descriptor in lease.descriptors:
                os.close(descriptor)
        job = LocalJob(order.folder, Lease(lease.slot, ()), pipe, is_ours=True)
        self._jobs.add(job)
        return job

    def adopt(self, folder: Path, lease: Lease) -> LocalJob | None:
        """Return the job of an earlier search that lives in this folder; None if it does not live.

        Raises:
            MachineError: it was started on another machine, where it may live still.
        """
        about = _About.read(folder)
        if about is None:
            return None
        if not about.keeper.is_in_sight and _may_live(folder, about):
            self._refuse_foreign(folder, about)
        pidfd = about.keeper.open()
        if pidfd is None:
            return None
        job = LocalJob(folder, lease, pidfd, is_ours=False, about=about)
        self._jobs.add(job)
        return job

    def stop(self, job: LocalJob, reason: StopReason) -> None:
        """Ask for a job's end: SIGTERM, grace, SIGKILL. Its descriptor tells when it is over.

        Raises:
            MachineError: the reason cannot be written into the job's folder.
        """
        if job.about is not None:
            _tell(job.about.keeper, _SIGNALS[reason])
            return
        # a keeper that has not written itself down yet looks for this file after it has
        beside = job.folder / f"{keeper.STOP_FILE}.new"
        try:
            beside.write_text(reason, encoding="ascii")
            beside.replace(job.folder / keeper.STOP_FILE)
        except OSError as err:
            raise MachineError(
                f"cannot ask for the end of the job in {job.folder}: {err.strerror or err}; make the "
                "folder writable and start the search again, or end the job by hand"
            ) from err
        about = _About.read(job.folder)
        if about is not None:  # it did so just before the file was there
            _tell(about.keeper, _SIGNALS[reason])

    def finish(self, job: LocalJob) -> Ending | None:
        """Give back what a job that is over still takes here, and read how it ended; None: not over yet."""
        if job.is_ours:
            os.set_blocking(job.descriptor, False)
            try:
                while said := os.read(job.descriptor, _PIPE_BYTES):
                    job.said += said
                    if said.endswith(keeper.DONE):
                        break
            except BlockingIOError:
                return None  # it complained, and goes on
        self._jobs.discard(job)
        os.close(job.descriptor)
        ending = self.read(job.folder)
        complaint = job.said.rstrip(keeper.DONE).decode(errors="replace").strip()
        note = "; ".join(words for words in (complaint, ending.note) if words)
        return replace(ending, note=note)

    def end_all(self) -> None:
        """End every job that we started or adopted and wait for that, although their folders are gone."""
        keepers = [child for pid in self._server_pids() for child in proc.children(pid)]
        for pid in keepers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, keeper.STOP_SIGNAL)
                os.kill(pid, signal.SIGCONT)
        for job in self._jobs:
            if not job.is_ours and job.about is not None:
                _tell(job.about.keeper, keeper.STOP_SIGNAL)
        for job in self._jobs:
            wait_for_end(job.descriptor)
            os.close(job.descriptor)
        self._jobs.clear()

    def kill_servers(self) -> None:
        """Kill the fork server and the warm host, which hang; they are started anew when they are needed."""
        for pid in self._server_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _server_pids(self) -> list[int]:
        """Pids of the processes that are the parents of keepers."""
        pids = [self._server.pid, None if self.warm is None else self.warm.pid]
        return [pid for pid in pids if pid is not None]

    def read(self, folder: Path) -> Ending:
        """Read how an attempt ended that no longer lives, and end what is left of a lost one."""
        result = _read_json(folder / keeper.RESULT_FILE)
        about = _About.read(folder)
        if result is not None and not _is_whole(folder, result, about):
            return Ending(
                None, None, None, None, (), "its output did not reach the disk before the power went"
            )
        if result is not None:
            return Ending(
                exit_status=result["exit_status"],
                asked=None if result["asked"] is None else StopReason(result["asked"]),
                started_at=result["started_at"],
                ended_at=result["ended_at"],
                leftovers=tuple(result["leftovers"]),
                note="",
                oom_killed=result.get("n_oom_kills", 0) > 0,
                memory_peak_bytes=result.get("memory_peak_bytes"),
                cpu_s=result.get("cpu_s"),
            )
        if about is None:
            return Ending(None, None, None, None, (), "it was never started", never_ran=True)
        note = "its keeper ended without a word"
        if about.keeper.is_in_sight:
            strays = end_strays(session=about.job_pid, marks=about.marks, folder=folder)
            if strays:
                note += f"; ended what was left: pids {', '.join(map(str, strays))}"
        elif about.keeper.is_of_this_boot:
            note = f"its container on {about.host} is gone"
        else:
            note = f"{about.host} was started anew since"
        return Ending(None, None, about.started_at, None, (), note)

    def owns(self, pid: int) -> bool:
        """Return whether a process of this machine is the warm host or descends from a running job."""
        is_warm = self.warm is not None and pid == self.warm.pid
        return is_warm or any(self.belongs(pid, job) for job in self._jobs)

    def belongs(self, pid: int, job: LocalJob) -> bool:
        """Return whether a process of this machine descends from this running job."""
        if job.about is None:
            return False
        above: int | None = pid
        while above is not None and above > 1:
            if above == job.about.keeper.pid:
                return True
            above = proc.parent(above)
        return False

    def close(self) -> None:
        """Let the fork server and the warm host go; keepers and jobs live on."""
        self._server.close()
        if self.warm is not None:
            self.warm.close()

    def _refuse_foreign(self, folder: Path, about: _About) -> None:
        raise MachineError(
            f"the job in {folder} was started on {about.host}, another machine or container, and may still "
            "be running there; go on with the search there, end it there with `hyperband stop`, or, once "
            f"it is known to be down, delete {folder / keeper.KEEPER_FILE} and start again"
        )


def _is_whole(folder: Path, result: Mapping[str, Any], about: _About | None) -> bool:
    """Return whether the output is what the keeper saw: a restart of the machine may have cut it short."""
    if about is not None and about.keeper.is_of_this_boot:
        return True
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return keeper.checksum_of(descriptor, "stdout") == (result["stdout_bytes"], result["stdout_crc32"])
    finally:
        os.close(descriptor)


def _tell(process: ProcessId, number: int) -> None:
    """Signal a keeper, also one that somebody has stopped, its job perhaps: it would not hear it."""
    process.signal(number)
    process.signal(signal.SIGCONT)


def _may_live(folder: Path, about: _About) -> bool:
    """Return whether a keeper may live whose pid means nothing here."""
    if not about.keeper.is_of_this_boot:
        # a reboot of the same machine ended it; of another machine nothing is known
        return about.host != socket.gethostname()
    # another container of this machine: there the keeper holds the lock of its file while it lives
    with (folder / keeper.KEEPER_FILE).open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None  # not written, or cut short by a power failure: as if it had never been
    return found if isinstance(found, dict) else None
