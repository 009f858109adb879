"""Runs jobs of a script as a search would, and waits for them.

Owns the temporary folder with the jobs' output. Which jobs, and what their losses mean, is decided elsewhere.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.check.interrupts import Interrupts
from hyperband.check.outcomes import Failure, read_ending, reason
from hyperband.check.pulse import Pulse
from hyperband.errors import MachineError
from hyperband.launch.base import NO_WISH, Ending, Lease, Order, Slot, Slots, StopReason
from hyperband.launch.environment import job_environment
from hyperband.launch.local import LocalJob, LocalLauncher
from hyperband.launch.warm.hosting import WarmHost
from hyperband.report.text import duration
from hyperband.script.contract import Reading, job_argv, last_lines, shortened
from hyperband.settings import Settings

#: jobs of a check that was ended get so long between SIGTERM and SIGKILL
_GRACE_S = 5.0
_N_LINES = 8
#: jobs of a check where no configuration fails
N_JOBS = 12
#: how long a second slot may take to be free once the first one is: memory of the job before comes back late
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One job that is over."""

    config_id: str
    epochs: int
    slot: Slot
    reading: Reading
    #: from its start until every process of it was gone; None: nobody saw that
    duration_s: float | None
    #: its whole command line
    argv: tuple[str, ...]
    #: the last lines of its standard error
    complaint: str
    #: the last line of its standard output, as a number; the line itself
    last_line: str

    @property
    def loss(self) -> float | None:
        """What it printed, if it ended well."""
        return self.reading.loss

    def describe(self) -> str:
        """Why there is no loss, in words; more lines when the job complained."""
        complaint = "".join(f"\n  {line}" for line in self.complaint.split("\n") if line)
        said = f"\nits standard error ends with:{complaint}" if complaint else ""
        return f"{reason(self.reading)}{said}"


class Bench:
    """Slots, launchers and folder of one check."""

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        launchers: list[LocalLauncher],
        folder: Path,
        lock: int,
        interrupts: Interrupts,
        pulse: Pulse,
    ) -> None:
        """Put the parts together; jobs are started within `launching`.

        Args:
            settings: script, script_args, python and timeout_s count here.
            slots: where jobs run.
            launchers: empty; the one that starts jobs stands last.
            folder: for their output.
            lock: descriptor that all processes of this check hold.
            interrupts: entered.
            pulse: told when nothing starts, and what runs.
        """
        self._settings = settings
        self.slots = slots
        self._launchers = launchers
        self._folder = folder
        self._lock = lock
        self.interrupts = interrupts
        self.pulse = pulse
        self._n_jobs = 0
        #: numbers of the configurations by their ids, as a search gives them to its trials
        self._numbers: dict[str, int] = {}
        #: how far each was trained; those that never gave a loss are not there
        self.trained: dict[str, int] = {}
        #: those of which a job failed
        self.failures: dict[str, Failure] = {}

    @property
    def config_ids(self) -> Collection[str]:
        """Every configuration of which a job was started: files may be named after it."""
        return self._numbers.keys()

    @contextlib.contextmanager
    def launching(self, warm: Callable[[int, Path], WarmHost] | None = None) -> Iterator[None]:
        """Start jobs within this block by a launcher of its own.

        Args:
            warm: makes the host that forks jobs, of the lock and the file for its errors.
        """
        errors = self._folder / "keepers.err"
        host = None if warm is None else warm(self._lock, errors)
        launcher = LocalLauncher(cwd=Path.cwd(), lock=self._lock, errors=errors, grace_s=_GRACE_S, warm=host)
        self._launchers.append(launcher)
        try:
            yield
        finally:
            self._launchers.remove(launcher)
            launcher.close()

    def run(self, config_id: str, epochs: int) -> Ran:
        """Run one job and wait for its end.

        Raises:
            CheckStoppedError: a signal came; the job is gone.
            MachineError: it cannot be started.
        """
        (ran,) = self._run([config_id], epochs, [self._lease()])
        return ran

    def run_together(self, config_ids: Sequence[str], epochs: int) -> list[Ran] | None:
        """Run jobs at the same time, and wait for the end of all; None if there are fewer slots free.

        Raises:
            CheckStoppedError: a signal came; the jobs are gone.
            MachineError: one cannot be started.
        """
        if self.slots.n_slots() < len(config_ids):
            return None
        leases = [self._lease()]
        ends_s = time.monotonic() + _PATIENCE_S
        while len(leases) < len(config_ids):
            if (lease := self.slots.take(NO_WISH)) is not None:
                leases.append(lease)
            elif self.interrupts.came or time.monotonic() > ends_s:
                self._give_back(leases)
                self.interrupts.heed()
                return None
            else:
                self.interrupts.sleep([], self.slots.next_look_s() or 1.0)
        return self._run(config_ids, epochs, leases)

    def _run(self, config_ids: Sequence[str], epochs: int, leases: list[Lease]) -> list[Ran]:
        jobs: list[LocalJob] = []
        try:
            for config_id in config_ids:
                jobs.append(self._start(config_id, epochs, leases.pop(0)))
        finally:
            self._give_back(leases)
            endings = self._wait(jobs, stop=len(jobs) < len(config_ids))
        self.interrupts.heed()
        return [
            self._ran(config_id, epochs, job, ending)
            for config_id, job, ending in zip(config_ids, jobs, endings, strict=True)
        ]

    def _give_back(self, leases: list[Lease]) -> None:
        """Let go of slots on which nothing was started."""
        for lease in leases:
            for descriptor in lease.descriptors:
                os.close(descriptor)
            self.slots.release(lease)
        leases.clear()

    def _start(self, config_id: str, epochs: int, lease: Lease) -> LocalJob:
        folder = self._folder / f"{self._n_jobs:03d}"
        self._n_jobs += 1
        folder.mkdir()
        return self._launchers[-1].start(self._order(folder, config_id, epochs, lease.slot), lease)

    def _argv(self, config_id: str, epochs: int, slot: Slot) -> list[str]:
        return job_argv(
            python=str(self._settings.python),
            script=str(self._settings.script),
            config_id=config_id,
            epochs=epochs,
            slot_arguments=slot.arguments,
            script_args=self._settings.script_args,
        )

    def _order(self, folder: Path, config_id: str, epochs: int, slot: Slot) -> Order:
        """The same command line and environment as in a search."""
        argv = self._argv(config_id, epochs, slot)
        environment = {
            **job_environment(self.slots.n_slots()),
            **slot.environment,
            "HYPERBAND_TRIAL": str(self._numbers.setdefault(config_id, len(self._numbers))),
            "HYPERBAND_ATTEMPT": "0",
        }
        return Order(folder, tuple(argv), environment)

    def _lease(self) -> Lease:
        """A slot, waiting for one if others have them all."""
        self.interrupts.heed()
        ends_s = time.monotonic() + (self._settings.timeout_s or 0)
        said = False
        while (lease := self.slots.take(NO_WISH)) is None:
            if not said:
                self.pulse.say(f"         waiting: {self.slots.why_none()}")
                said = True
            if time.monotonic() > ends_s:
                raise MachineError(
                    f"no slot became free within {duration(self._settings.timeout_s or 0)}: "
                    f"{self.slots.why_none()}. Check again when one is free, or with --gpus none."
                )
            # A GPU that others use gives no event when they go.
            self.interrupts.sleep([], self.slots.next_look_s() or 1.0)
            self.interrupts.heed()
        return lease

    def _wait(self, jobs: Sequence[LocalJob], *, stop: bool) -> list[Ending]:
        """Wait for all; end those that take too long, and all when a signal came or `stop` says so."""
        ends_s = time.monotonic() + (self._settings.timeout_s or float("inf"))
        endings: dict[LocalJob, Ending] = {}
        asked = False
        while len(endings) < len(jobs):
            running = {job.fileno(): job for job in jobs if job not in endings}
            wants_end = stop or self.interrupts.came
            is_late = time.monotonic() >= ends_s
            if (wants_end or is_late) and not asked:
                asked = True
                for job in running.values():
                    self._launchers[-1].stop(job, StopReason.STOP if wants_end else StopReason.TIMEOUT)
            left_s = self.pulse.left_s()
            if not asked:
                left_s = min(left_s, max(0.0, ends_s - time.monotonic()))
            for descriptor in self.interrupts.sleep(list(running), left_s):
                ending = self._launchers[-1].finish(running[descriptor])
                if ending is not None:
                    endings[running[descriptor]] = ending
                    self.slots.release(running[descriptor].lease)
            if len(endings) < len(jobs):
                self.pulse.beat(self._running(jobs))
        return [endings[job] for job in jobs]

    def _running(self, jobs: Sequence[LocalJob]) -> str:
        """What goes on, for people who wait."""
        numbers = " and ".join(str(self._n_jobs - len(jobs) + 1 + n) for n in range(len(jobs)))
        took_s = max(job.running_s() for job in jobs)
        about = f" of about {N_JOBS}" if self._n_jobs <= N_JOBS else ""
        return f"training {numbers}{about}, for {duration(took_s)} now"

    def _ran(self, config_id: str, epochs: int, job: LocalJob, ending: Ending) -> Ran:
        took_s = None
        if ending.started_at is not None and ending.ended_at is not None:
            took_s = ending.ended_at - ending.started_at
        reading = read_ending(
            ending, folder=job.folder, config_id=config_id, timeout_s=self._settings.timeout_s
        )
        if reading.loss is None:
            self.failures.setdefault(config_id, Failure(epochs, reading.outcome, reading.kind))
        else:
            self.trained[config_id] = max(epochs, self.trained.get(config_id, 0))
        return Ran(
            config_id=config_id,
            epochs=epochs,
            slot=job.lease.slot,
            reading=reading,
            duration_s=took_s,
            argv=tuple(self._argv(config_id, epochs, job.lease.slot)),
            complaint=last_lines(job.folder / "stderr", _N_LINES),
            last_line=last_lines(job.folder / "stdout", 1),
        )


def open_lock(folder: Path) -> int:
    """A descriptor that all processes of this check hold, closed by whoever asked for it."""
    return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def losses(*jobs: Ran) -> str:
    """Losses in words: `0.51, 0.49`, with what a job said instead of one."""
    return ", ".join(repr(job.loss) if job.loss is not None else shortened(job.last_line) for job in jobs)
