"""The attempts that run now: started, adopted, stopped, and judged when they are over.

Owns the link between the journal's jobs, the launcher's processes and the leases on their slots.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperband.errors import InternalError, MachineError
from hyperband.folder import job_folder
from hyperband.journal import Beginnings, JobBegan
from hyperband.launch.base import (
    Ending,
    Launcher,
    Lease,
    Order,
    RunningJob,
    Slot,
    Slots,
    StopReason,
    Wish,
)
from hyperband.machine.limits import allow_one_more
from hyperband.report.log import StudyLog
from hyperband.report.text import counted
from hyperband.search.engine import Engine
from hyperband.search.events import JobEnded, JobStarted
from hyperband.search.trial import Outcome, Start
from hyperband.study.jobs import JobFiles
from hyperband.study.rest import N_FILES_EACH
from hyperband.study.verdict import ended_event
from hyperband.study.wake import Wake

#: a job that waited for so long before it began is told of
_WORTH_TELLING_S = 1.0


@dataclass(slots=True)
class Attempt:
    """A job that runs: what was journalled, and what the launcher gave."""

    started: JobStarted
    job: RunningJob
    #: started by an earlier search
    adopted: bool
    #: when on the monotonic clock it was ordered
    began_s: float = 0.0
    #: when it began, Unix seconds; None: it has not, as far as is known
    began_at: float | None = None
    gpu_is_lost: bool = False
    asked: StopReason | None = None
    #: why its end was asked for, in words, where that is a limit of time
    why: str = ""
    #: what the looks at its GPUs showed
    gpu_memory_peak_bytes: int | None = None
    n_utilisations: int = 0
    sum_of_utilisations_percent: float = 0.0
    #: size of its output, and for how long it had run when that was seen to have grown so far
    output_bytes: int = -1
    grown_at_s: float = 0.0

    @property
    def is_on_gpu(self) -> bool:
        """Whether its slot has a GPU that could be lost."""
        return bool(self.job.lease.slot.gpu_uuids)


class Attempts:
    """All attempts that run now, by job number."""

    def __init__(
        self,
        *,
        folder: Path,
        engine: Engine,
        launcher: Launcher[Any],
        others: Sequence[Launcher[Any]],
        slots: Slots,
        files: JobFiles,
        log: StudyLog,
        wake: Wake,
        beginnings: Beginnings,
        is_timed: bool,
    ) -> None:
        """Begin with none.

        Args:
            folder: of the study.
            engine: only read here.
            launcher: starts the jobs.
            others: launchers of other kinds, which may have started jobs in earlier searches.
            slots: where jobs run.
            files: makes orders of jobs.
            log: of the study.
            wake: wakes the loop.
            beginnings: of attempts that earlier searches started; only read here.
            is_timed: whether jobs have a time limit.
        """
        self._others = tuple(others)
        self._is_timed = is_timed
        #: of the study
        self.folder = folder
        self._engine = engine
        self._launcher = launcher
        self._slots = slots
        self._files = files
        self._log = log
        self._wake = wake
        self._beginnings = beginnings
        self._attempts: dict[int, Attempt] = {}
        self._bell = launcher.bell
        if self._bell is not None:
            wake.watch(self._bell)
        #: attempts in a row of which nothing ran, and what was said of the latest
        self.n_never_ran = 0
        self.why_never_ran = ""
        #: when on the monotonic clock the latest of them was seen
        self._never_ran_s = 0.0

    @property
    def begin_within_s(self) -> float | None:
        """A job that was started so long ago has begun, unless what starts jobs hangs; None: it may wait."""
        return self._launcher.begin_within_s

    def __len__(self) -> int:
        """Return how many run, or wait to begin."""
        return len(self._attempts)

    @property
    def n_queued(self) -> int:
        """How many of them have not begun, where a start is an order."""
        if self._bell is None:
            return 0
        return sum(not attempt.job.has_begun for attempt in self._attempts.values())

    def suspended(self) -> frozenset[tuple[int, int]]:
        """Return numbers of jobs and attempts that their engine has stopped, to let them go on later."""
        if self._bell is None:
            return frozenset()
        return frozenset(
            (attempt.started.job, attempt.started.attempt)
            for attempt in self._attempts.values()
            if attempt.job.is_suspended
        )

    def words(self) -> str:
        """`3 running jobs`, with those that have not begun: `3 running jobs and 2 queued`."""
        n_queued = self.n_queued
        running = counted(len(self) - n_queued, "running job")
        return f"{running} and {n_queued} queued" if n_queued else running

    def __iter__(self) -> Iterator[Attempt]:
        """Iterate over those that run; stopping them meanwhile is fine."""
        return iter(list(self._attempts.values()))

    def start(self, start: Start, lease: Lease, started: JobStarted) -> Order:
        """Start an attempt that is in the journal; return what was ordered.

        Raises:
            MachineError: it cannot be started.
        """
        order = self._files.order(start, lease.slot)
        self._files.make_folder(order.folder)
        job = self._launcher.start(order, lease)
        began_at = None if self._bell is not None else started.at
        self._add(Attempt(started, job, adopted=False, began_s=time.monotonic(), began_at=began_at))
        return order

    def adopt(self, wish_of: Callable[[JobStarted], Wish]) -> list[tuple[JobStarted, JobEnded]]:
        """Take over what an earlier search started; return those attempts that ended since.

        Args:
            wish_of: what a job was given of its GPU.

        Raises:
            MachineError: a job was started on another machine, or otherwise, where it may live still.
        """
        ended: list[tuple[JobStarted, JobEnded]] = []
        for started in self._engine.running():
            if self._bell is not None:  # elsewhere there may be more than this search has slots
                allow_one_more(len(self._attempts), N_FILES_EACH, "all jobs that run")
            folder = job_folder(self.folder, started.job, started.attempt)
            if not self._launcher.knows(folder):
                ending = self._read_of_others(folder, started)
                ended.append((started, self._ended_before(started, ending)))
                continue
            if any(other.knows(folder) for other in self._others):
                # nobody started it; its slot need not be one of ours
                ending = self._launcher.read(folder)
                ended.append((started, self._ended_before(started, ending)))
                continue
            lease = self._slots.adopt(started.slot, wish_of(started))
            job = self._launcher.adopt(folder, lease)
            if job is None:
                ending = as_timed(self._launcher.read(folder), is_timed=self._is_timed)
                lost = ending.exit_status != 0 and self._slots.is_lost(lease)
                self._slots.release(lease)
                ended.append((started, self._ended_before(started, ending, gpu_is_lost=lost)))
            else:
                self._add(Attempt(started, job, adopted=True, began_at=self._beginnings.when(started)))
        return ended

    def began(self) -> list[JobBegan]:
        """Return which attempts have begun since the last call, where a start is an order."""
        if self._bell is None:
            return []
        self._bell.hush()
        began = []
        for attempt in self._attempts.values():
            if (at := _just_begun_at(attempt)) is None:
                continue
            attempt.began_at, started = at, attempt.started
            began.append(JobBegan(at, started.job, started.attempt))
            if (waited_s := at - started.at) >= _WORTH_TELLING_S:
                words = f"{waited_s:.1f} s after it was ordered"
                self._log.line(f"began  job {started.job} attempt {started.attempt}: {words}")
        return began

    def ended(self, ready: set[object]) -> list[tuple[JobStarted, JobEnded]]:
        """Return the attempts that are over, by the descriptors that woke us; their slots are free."""
        ended: list[tuple[JobStarted, JobEnded]] = []
        for attempt in self:
            if attempt.job not in ready:
                continue
            self._wake.forget(attempt.job)
            ending = self._launcher.finish(attempt.job)
            if ending is not None and ending.asked is StopReason.TIMEOUT and attempt.asked is None:
                # if it was timed, then by the search that started it
                ending = as_timed(ending, is_timed=self._is_timed and attempt.adopted)
            if ending is None:
                self._wake.watch(attempt.job)
                continue
            self._count_never_ran(attempt, ending)
            self.why_never_ran = ending.note
            started, lease = attempt.started, attempt.job.lease
            lost = ending.exit_status != 0 and (attempt.gpu_is_lost or self._slots.is_lost(lease))
            # it may have been seen to begin only since we looked for that
            began_at = _just_begun_at(attempt) or attempt.began_at
            event = self._ended(started, ending, began_at=began_at, gpu_is_lost=lost, adopted=attempt.adopted)
            ended.append((started, _with_what_was_seen(event, attempt)))
            del self._attempts[started.job]
            self._slots.release(lease)
        return ended

    def observe(self, attempt: Attempt) -> tuple[str, ...]:
        """Look once at the GPUs of an attempt; return the strangers there, in words."""
        seen = self._slots.observe(attempt.job.lease, lambda pid: self._launcher.belongs(pid, attempt.job))
        if seen.gpu_memory_bytes is not None:
            attempt.gpu_memory_peak_bytes = max(seen.gpu_memory_bytes, attempt.gpu_memory_peak_bytes or 0)
        if seen.gpu_utilisation_percent is not None:
            attempt.n_utilisations += 1
            attempt.sum_of_utilisations_percent += seen.gpu_utilisation_percent
        return seen.strangers

    def stop(self, attempt: Attempt, reason: StopReason) -> None:
        """Ask for the end of one attempt, once.

        Raises:
            MachineError: it cannot be asked.
        """
        if attempt.asked is None:
            attempt.asked = reason
            self._log.line(f"stop   job {attempt.started.job} attempt {attempt.started.attempt}: {reason}")
            self._launcher.stop(attempt.job, reason)

    def kill_servers(self) -> None:
        """Kill the processes that start jobs: they hang. What they had not started never ran."""
        now_s = time.monotonic()
        for attempt in self:
            attempt.began_s = now_s  # a look at each now and then is enough
        self._launcher.kill_servers()

    def end_all(self) -> None:
        """End every job and wait for that, without the study's folder: it was deleted under us."""
        self._launcher.end_all()
        self._attempts.clear()

    def stop_those_on_lost_gpus(self) -> None:
        """Ask for the end of attempts whose GPU fell off the bus: they would hang, and are Lost."""
        for attempt in self:
            if attempt.is_on_gpu and self._slots.is_lost(attempt.job.lease):
                attempt.gpu_is_lost = True
                self.stop(attempt, StopReason.STOP)

    def _read_of_others(self, folder: Path, started: JobStarted) -> Ending:
        """Return how an attempt ended that was started otherwise than we start jobs.

        Raises:
            MachineError: it may live still.
        """
        for launcher in self._others:
            if launcher.knows(folder):
                if launcher.adopt(folder, Lease(Slot(started.slot, (), {}), ())) is None:
                    return as_timed(launcher.read(folder), is_timed=self._is_timed)
                raise MachineError(
                    f"job {started.job} still runs on {started.slot}, where the search was started with "
                    "another --on; start it with that one again, which goes on with the job, or end the job "
                    f"with `hyperband stop {self.folder}` first"
                )
        raise InternalError(f"Nobody knows the attempt in {folder}: please report it.")

    def _count_never_ran(self, attempt: Attempt, ending: Ending) -> None:
        if self._launcher.begin_within_s is None:
            return  # it judges by itself
        if not ending.never_ran:
            self.n_never_ran = 0
        elif attempt.began_s > self._never_ran_s:
            # what was under way to one process that was killed counts once
            self.n_never_ran += 1
            self._never_ran_s = time.monotonic()

    def _add(self, attempt: Attempt) -> None:
        self._attempts[attempt.started.job] = attempt
        self._wake.watch(attempt.job)

    def _ended_before(self, started: JobStarted, ending: Ending, *, gpu_is_lost: bool = False) -> JobEnded:
        """Judge the end of an attempt that no search saw."""
        began_at = self._beginnings.when(started)
        return self._ended(started, ending, began_at=began_at, gpu_is_lost=gpu_is_lost, adopted=True)

    def _ended(
        self,
        started: JobStarted,
        ending: Ending,
        *,
        began_at: float | None,
        gpu_is_lost: bool,
        adopted: bool,
    ) -> JobEnded:
        return ended_event(
            self._engine,
            self.folder,
            started,
            ending,
            began_at=began_at,
            gpu_is_lost=gpu_is_lost,
            search_alive=not adopted,
        )


def _just_begun_at(attempt: Attempt) -> float | None:
    """Return when an attempt began of which that was not known, Unix seconds; None: it has not, or was."""
    if attempt.began_at is not None or not attempt.job.has_begun:
        return None
    return time.time() - attempt.job.running_s()


def as_timed(ending: Ending, *, is_timed: bool) -> Ending:
    """Return how an attempt ended: a batch system may send the signal of a time limit that nobody set."""
    if ending.asked is StopReason.TIMEOUT and not is_timed:
        return replace(ending, asked=StopReason.STOP)
    return ending


def _with_what_was_seen(event: JobEnded, attempt: Attempt) -> JobEnded:
    """Return the event with what only the search saw while the job ran."""
    n_looks, total_percent = attempt.n_utilisations, attempt.sum_of_utilisations_percent
    return replace(
        event,
        note=attempt.why if attempt.why and event.outcome is Outcome.TIMED_OUT else event.note,
        gpu_memory_peak_bytes=attempt.gpu_memory_peak_bytes,
        gpu_utilisation_percent=round(total_percent / n_looks, 1) if n_looks else None,
    )
