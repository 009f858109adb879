"""The one thread that talks to Slurm: what it is asked comes by a queue, what it found goes by another.

Owns when sbatch, squeue, sacct, scancel and scontrol are started, and how often squeue is asked. A controller
that does not answer is a finding of its own, and says nothing about any job. Must not know: what the jobs are
for, or what follows from what it found.
"""

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hyperband.errors import InternalError
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.commands import Answer, Commands
from hyperband.launch.slurm.reports import (
    CancelRefused,
    Changed,
    FoundSite,
    NotSubmitted,
    Report,
    Status,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm.tasks import CancelJobs, Close, ExcludeNodes, Look, SubmitJob, Task, WatchJobs
from hyperband.launch.slurm.watch import AwaitedStep, WatchList
from hyperband.launch.slurm.words import (
    JobLine,
    JobState,
    Refusal,
    Site,
    job_id_of,
    jobs_in_sacct,
    jobs_in_squeue,
    means_no_configuration,
    site_in_config,
)

#: patience with commands that run when the clerk is closed
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, and for how long; all in seconds."""

    #: after something happened, squeue is asked after so long, and then ever later
    soonest_s: float = 0.25
    #: at the latest while a job waits to start
    latest_s: float = 5.0
    #: at the latest while all jobs run: their ends are seen by others
    latest_running_s: float = 30.0
    #: for one command; scheduler daemons that are busy answer late
    command_s: float = 30.0
    #: a job that squeue does not list is looked for in the accounts, which are behind, for so long
    missing_s: float = 15.0
    #: the end of a step is looked for so long; by then leases have run out
    step_s: float = 60.0


@dataclass(slots=True)
class _Memory:
    """What the thread remembers between two looks."""

    #: asked to be cancelled, and nobody answered
    to_cancel: list[str] = field(default_factory=list)
    wait_s: float = 0.0
    before: tuple[JobLine, ...] = ()
    is_reachable: bool = True
    site: Site | None = None


class Clerk:
    """Talks to Slurm for one study. Nothing here blocks, except `close`, for a moment."""

    def __init__(self, name: str, environ: Mapping[str, str], pace: Pace | None = None) -> None:
        """Start the thread; it asks nothing until it is told of a job or asked to look.

        Args:
            name: Of all jobs of the study.
            environ: Ours; see `slurm_text.engine_environment`.
            pace: How often, where the defaults do not fit.
        """
        self._name = name
        self._pace = Pace() if pace is None else pace
        self._commands = Commands(slurm_text.engine_environment(environ), self._pace.command_s)
        self._watch = WatchList(name)
        self._asked: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._memory = _Memory(wait_s=self._pace.soonest_s)
        #: what ended the thread, if something did
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run_thread, name="slurm-clerk", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor that is readable while reports wait."""
        return self._wake

    def reports(self) -> list[Report]:
        """Take the reports that are there, oldest first.

        Raises:
            InternalError: The thread has come to an end that was not asked for.
        """
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return []
        if self._error is not None:
            raise InternalError(
                f"The thread that talks to Slurm ended with {type(self._error).__name__}: {self._error}. "
                "Allocations and jobs go on; start the search again, and please report this."
            ) from self._error
        found = []
        while not self._found.empty():
            found.append(self._found.get())
        return found

    def submit(self, ticket: int, argv: Sequence[str], n_tasks: int = 1) -> None:
        """Have a job, or an array, submitted; a Submitted or a NotSubmitted with this ticket follows."""
        self._asked.put(SubmitJob(ticket, tuple(argv), n_tasks))

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Have jobs cancelled, by id; again until Slurm hears it. That one is over already is no error."""
        if job_ids:
            self._asked.put(CancelJobs(tuple(job_ids)))

    def exclude(self, job_id: str, nodes: str) -> None:
        """Have a job in the queue get any node but these, as sbatch takes them; a Changed follows."""
        self._asked.put(ExcludeNodes(job_id, nodes))

    def watch(self, job_ids: Sequence[str]) -> None:
        """Report on jobs of an earlier search until their end, also when squeue does not list them."""
        self._asked.put(WatchJobs(tuple(job_ids)))

    def see_over(self, name: str, job_id: str, started: str) -> None:
        """Have a StepOver reported when a step has ended; nothing follows if that cannot be told.

        A step that is not listed any more was reported by its node, unless its allocation was taken from it
        (a node that does not answer takes all of a job with it): so that must run, and be the same.

        Args:
            name: of the step, unlike any other's.
            job_id: of the allocation in which it was started.
            started: when that had started, in Slurm's own words.
        """
        self._asked.put(AwaitedStep(name, job_id, started, time.monotonic() + self._pace.step_s))

    def look(self) -> None:
        """Ask Slurm now, and often in the next seconds: something happened."""
        self._asked.put(Look())

    def hasten(self, limit_s: float) -> None:
        """Give no command more than so many seconds any more, that which runs included: the search ends."""
        self._commands.hasten(limit_s)

    def close(self) -> None:
        """End the thread, after what it was asked before, as far as that is soon; wait for it."""
        self._commands.hasten(_CLOSE_S, all_within_s=_CLOSE_S)
        self._asked.put(Close())
        self._thread.join()
        self._commands.close()
        os.close(self._wake)

    # All from here on happens in the thread.

    def _run_thread(self) -> None:
        try:
            self._work()
        except Exception as err:  # noqa: BLE001 - told to whoever reads the reports, who raises it
            self._error = err
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        memory = self._memory
        look_at_s: float | None = None
        while True:
            timeout_s = None if look_at_s is None else max(0.0, look_at_s - time.monotonic())
            try:
                task = self._asked.get(timeout=timeout_s)
            except queue.Empty:
                self._look()
                look_at_s = self._next_look_s()
                continue
            match task:
                case Close():
                    return
                case SubmitJob():
                    self._submit(task)
                case CancelJobs():
                    memory.to_cancel += task.job_ids
                    self._cancel()
                case ExcludeNodes(job_id, nodes):
                    answer = self._commands.run(slurm_text.exclude_argv(job_id, nodes))
                    self._tell(
                        Changed(job_id, answer.refusal, "" if answer.refusal is None else answer.words)
                    )
                case WatchJobs():
                    self._watch.add(*task.job_ids)
                case AwaitedStep():
                    self._watch.add_step(task)
                case Look():
                    pass
            memory.wait_s = self._pace.soonest_s
            # a first look, and one that is asked for, at once; after an order Slurm needs a moment
            look_at_s = time.monotonic() + (
                memory.wait_s if isinstance(task, SubmitJob | CancelJobs | ExcludeNodes) else 0.0
            )

    def _next_look_s(self) -> float | None:
        """When to look again, on the monotonic clock; None: nothing of ours is there."""
        memory = self._memory
        lives = [line for line in memory.before if not line.state.is_over]
        if memory.is_reachable and not lives and not self._watch.has_jobs and not memory.to_cancel:
            return None
        all_run = bool(lives) and all(line.state == JobState.RUNNING for line in lives)
        is_calm = all_run and memory.is_reachable and not memory.to_cancel and not self._watch.has_steps
        latest_s = self._pace.latest_running_s if is_calm else self._pace.latest_s
        memory.wait_s = min(latest_s, memory.wait_s)
        look_at_s = time.monotonic() + memory.wait_s
        memory.wait_s = min(latest_s, 2 * memory.wait_s)
        return look_at_s

    def _submit(self, task: SubmitJob) -> None:
        answer = self._commands.run(task.argv)
        job_id = job_id_of(answer.out) if answer.code == 0 else None
        if job_id is not None:
            # each task, since of one that is cancelled before it was ever listed Slurm knows nothing
            tasks = [f"{job_id}_{number}" for number in range(task.n_tasks)] if task.n_tasks > 1 else []
            self._watch.add(*tasks or [job_id])
            self._tell(Submitted(task.ticket, job_id))
        elif answer.code == 0:
            words = f"sbatch printed no job id but {answer.out.strip()!r}"
            self._tell(NotSubmitted(task.ticket, Refusal.WRONG, words, is_unsure=True))
        else:
            refusal = answer.refusal
            assert refusal is not None
            # one that lost its connection on the way may have been heard
            is_unsure = refusal == Refusal.UNREACHABLE and not means_no_configuration(answer.words)
            self._tell(NotSubmitted(task.ticket, refusal, answer.words, is_unsure))

    def _cancel(self) -> None:
        memory = self._memory
        job_ids = tuple(dict.fromkeys(memory.to_cancel))
        if not job_ids:
            return
        answer = self._commands.run(slurm_text.scancel_argv(job_ids))
        if answer.refusal == Refusal.UNREACHABLE:
            return  # again at the next look
        memory.to_cancel.clear()
        # jobs that are over, or that nobody knows any more, are what was wanted
        if answer.refusal is not None and not _all_over(answer.error):
            self._tell(CancelRefused(job_ids, answer.words))

    def _look(self) -> None:
        memory = self._memory
        if memory.to_cancel:
            self._cancel()
        if memory.site is None and not self._find_site():
            return
        unlisted = self._steps_unlisted()
        asked_s = time.monotonic()
        answer = self._commands.run(slurm_text.squeue_argv(self._name))
        if answer.refusal is not None:
            self._say_unreachable(answer)
            return
        listed = jobs_in_squeue(answer.out)
        lines = (*listed, *self._missing(listed))
        memory.is_reachable = True
        if _moods(lines) != _moods(memory.before):
            memory.wait_s = self._pace.soonest_s
        memory.before = lines
        self._watch.note(lines, listed)
        self._tell(Status(lines, asked_s))
        for step in self._watch.over(unlisted, listed):
            self._tell(StepOver(step.name))

    def _steps_unlisted(self) -> list[AwaitedStep]:
        """Steps whose end is looked for, and that are over, or went with their allocation."""
        job_ids = self._watch.allocations_of_steps(time.monotonic())
        if not job_ids:
            return []
        answer = self._commands.run(slurm_text.steps_argv(job_ids))
        if answer.code != 0:
            return []  # what is asked of jobs next finds out why
        return self._watch.unlisted([line.strip() for line in answer.out.splitlines()])

    def _missing(self, listed: Sequence[JobLine]) -> list[JobLine]:
        """What is known of jobs that squeue does not list: from the accounts, or that they are gone."""
        now_s = time.monotonic()
        missing = self._watch.missing(listed)
        in_accounts: dict[str, JobLine] = {}
        patience_s = 0.0
        site = self._memory.site
        if missing and site is not None and site.has_accounting:
            patience_s = self._pace.missing_s
            answer = self._commands.run(slurm_text.sacct_argv(missing))
            if answer.code == 0:
                # numbers come again (a Slurm that was set up anew, or has counted to its end): names do not
                ours = [line for line in jobs_in_sacct(answer.out) if line.name in ("", self._name)]
                in_accounts = {line.job_id: line for line in ours}
        return self._watch.known_of_missing(missing, in_accounts, now_s=now_s, patience_s=patience_s)

    def _find_site(self) -> bool:
        answer = self._commands.run(slurm_text.config_argv())
        if answer.refusal is not None:
            self._say_unreachable(answer)
            return False
        self._memory.site = site_in_config(answer.out)
        self._tell(FoundSite(self._memory.site))
        return True

    def _say_unreachable(self, answer: Answer) -> None:
        """A look that failed tells nothing about any job, whatever made it fail."""
        if self._memory.is_reachable:
            self._memory.is_reachable = False
            self._memory.wait_s = self._pace.soonest_s
            self._tell(Unreachable(answer.words))

    def _tell(self, report: Report) -> None:
        self._found.put(report)
        os.eventfd_write(self._wake, 1)


def _all_over(error: str) -> bool:
    """Whether scancel complained of nothing but jobs that are over."""
    lines = [line for line in error.splitlines() if line.strip()]
    known = ("Invalid job id", "already completing or completed", "Job has already finished")
    return bool(lines) and all(any(words in line for words in known) for line in lines)


def _moods(lines: Sequence[JobLine]) -> set[tuple[str, JobState, str]]:
    """What must change before squeue is worth asking often again."""
    return {
        (line.job_id, line.state, line.started if line.state == JobState.RUNNING else "") for line in lines
    }
