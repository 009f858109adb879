"""The one thread that talks to Slurm: what it is asked comes by a queue, what it found goes by another.

Owns every start of sbatch, squeue, sacct, scancel and scontrol, how often squeue is asked, and for how long a
job that Slurm does not list may still turn up. A controller that does not answer is a finding of its own, and
says nothing about any job. Must not know: what the jobs are for, or what follows from what it found.
"""

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hyperband.errors import InternalError, MachineError
from hyperband.launch import slurm_text
from hyperband.launch.slurm_reports import (
    CancelRefused,
    FoundSite,
    NotSubmitted,
    Report,
    Status,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm_words import (
    JobLine,
    JobState,
    Refusal,
    Site,
    job_id_of,
    jobs_in_sacct,
    jobs_in_squeue,
    refusal_of,
    said_by,
    site_in_config,
)

_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


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


@dataclass(frozen=True, slots=True)
class _Submit:
    ticket: int
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Cancel:
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Watch:
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _SeeOver:
    name: str
    job_id: str
    started: str
    until_s: float


class _Look:
    pass


class _Close:
    pass


_Task = _Submit | _Cancel | _Watch | _SeeOver | _Look | _Close


@dataclass(slots=True)
class _Watched:
    """A job that we asked for and whose end was not reported."""

    last: JobLine | None = None
    #: since when squeue does not list it, on the monotonic clock
    missing_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a command said; `code` None: it was ended because it took too long."""

    code: int | None
    out: str
    error: str

    @property
    def refusal(self) -> Refusal | None:
        if self.code == 0:
            return None
        return Refusal.UNREACHABLE if self.code is None else refusal_of(self.error)

    @property
    def words(self) -> str:
        return said_by(self.error) or said_by(self.out) or f"exit code {self.code} without a word"


@dataclass(slots=True)
class _Memory:
    """What the thread remembers between two looks."""

    watched: dict[str, _Watched] = field(default_factory=dict)
    #: asked to be cancelled, and nobody answered
    to_cancel: list[str] = field(default_factory=list)
    #: steps whose end is looked for, by name
    steps: dict[str, _SeeOver] = field(default_factory=dict)
    wait_s: float = 0.0
    before: tuple[JobLine, ...] = ()
    is_reachable: bool = True
    site: Site | None = None
    #: nothing is asked of Slurm before it is told of jobs
    has_interest: bool = False


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


class Clerk:
    """Talks to Slurm for one study. Nothing here blocks, except `close` for a command that runs."""

    def __init__(self, name: str, environ: Mapping[str, str], pace: Pace | None = None) -> None:
        """Start the thread; it asks nothing until it is told of a job or asked to look.

        Args:
            name: Of all jobs of the study.
            environ: Ours; see `slurm_text.engine_environment`.
            pace: How often, where the defaults do not fit.
        """
        self._name = name
        self._environment = slurm_text.engine_environment(environ)
        self._pace = Pace() if pace is None else pace
        self._asked: queue.SimpleQueue[_Task] = queue.SimpleQueue()
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

    def submit(self, ticket: int, argv: Sequence[str]) -> None:
        """Have a job submitted; a Submitted or a NotSubmitted with this ticket follows."""
        self._asked.put(_Submit(ticket, tuple(argv)))

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Have jobs cancelled, by id; again until Slurm hears it. That one is over already is no error."""
        if job_ids:
            self._asked.put(_Cancel(tuple(job_ids)))

    def watch(self, job_ids: Sequence[str]) -> None:
        """Report on jobs of an earlier search until their end, also when squeue does not list them."""
        self._asked.put(_Watch(tuple(job_ids)))

    def see_over(self, name: str, job_id: str, started: str) -> None:
        """Have a StepOver reported when a step has ended; nothing follows if that cannot be told.

        A step that is not listed any more was reported by its node, unless its allocation was taken from it
        (a node that does not answer takes all of a job with it): so that must run, and be the same.

        Args:
            name: of the step, unlike any other's.
            job_id: of the allocation in which it was started.
            started: when that had started, in Slurm's own words.
        """
        self._asked.put(_SeeOver(name, job_id, started, time.monotonic() + self._pace.step_s))

    def look(self) -> None:
        """Ask Slurm now, and often in the next seconds: something happened."""
        self._asked.put(_Look())

    def close(self) -> None:
        """End the thread, after what it was asked before; wait for that."""
        self._asked.put(_Close())
        self._thread.join()
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
                case _Close():
                    return
                case _Submit():
                    self._submit(task)
                case _Cancel():
                    memory.to_cancel += task.job_ids
                    self._cancel()
                case _Watch():
                    for job_id in task.job_ids:
                        memory.watched.setdefault(job_id, _Watched())
                case _SeeOver():
                    memory.steps[task.name] = task
                case _Look():
                    pass
            memory.has_interest = True
            memory.wait_s = self._pace.soonest_s
            # a first look, and one that is asked for, at once; after an order Slurm needs a moment
            look_at_s = time.monotonic() + (memory.wait_s if isinstance(task, _Submit | _Cancel) else 0.0)

    def _next_look_s(self) -> float | None:
        """When to look again, on the monotonic clock; None: nothing of ours is there."""
        memory = self._memory
        lives = [line for line in memory.before if not line.state.is_over]
        if memory.is_reachable and not lives and not memory.watched and not memory.to_cancel:
            return None
        all_run = bool(lives) and all(line.state == JobState.RUNNING for line in lives)
        is_calm = all_run and memory.is_reachable and not memory.to_cancel and not memory.steps
        latest_s = self._pace.latest_running_s if is_calm else self._pace.latest_s
        memory.wait_s = min(latest_s, memory.wait_s)
        look_at_s = time.monotonic() + memory.wait_s
        memory.wait_s = min(latest_s, 2 * memory.wait_s)
        return look_at_s

    def _submit(self, task: _Submit) -> None:
        answer = self._run(task.argv)
        job_id = job_id_of(answer.out) if answer.code == 0 else None
        if job_id is not None:
            self._memory.watched[job_id] = _Watched()
            self._tell(Submitted(task.ticket, job_id))
        elif answer.code == 0:
            words = f"sbatch printed no job id but {answer.out.strip()!r}"
            self._tell(NotSubmitted(task.ticket, Refusal.WRONG, words, is_unsure=True))
        else:
            refusal = answer.refusal
            assert refusal is not None
            # one that lost its connection on the way may have been heard
            is_unsure = refusal == Refusal.UNREACHABLE
            self._tell(NotSubmitted(task.ticket, refusal, answer.words, is_unsure))

    def _cancel(self) -> None:
        memory = self._memory
        job_ids = tuple(dict.fromkeys(memory.to_cancel))
        if not job_ids:
            return
        answer = self._run(slurm_text.scancel_argv(job_ids))
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
        answer = self._run(slurm_text.squeue_argv(self._name))
        if answer.refusal is not None:
            self._say_unreachable(answer)
            return
        listed = jobs_in_squeue(answer.out)
        lines = (*listed, *self._missing(listed))
        memory.is_reachable = True
        if _moods(lines) != _moods(memory.before):
            memory.wait_s = self._pace.soonest_s
        memory.before = lines
        for line in lines:
            if line.state.is_over:
                memory.watched.pop(line.job_id, None)
            else:
                memory.watched[line.job_id] = self._kept(line, listed)
            whole, task, _ = line.job_id.partition("_")
            if task:  # an array is listed by its tasks
                memory.watched.pop(whole, None)
        self._tell(Status(lines))
        for step in unlisted:
            del memory.steps[step.name]
            if any(
                (line.job_id, line.state, line.started) == (step.job_id, JobState.RUNNING, step.started)
                for line in listed
            ):
                self._tell(StepOver(step.name))

    def _steps_unlisted(self) -> list[_SeeOver]:
        """Steps whose end is looked for, and that are over, or went with their allocation."""
        memory = self._memory
        now_s = time.monotonic()
        memory.steps = {name: step for name, step in memory.steps.items() if now_s < step.until_s}
        if not memory.steps:
            return []
        job_ids = tuple(dict.fromkeys(step.job_id for step in memory.steps.values()))
        answer = self._run(slurm_text.steps_argv(job_ids))
        if answer.code != 0:
            return []  # what is asked of jobs next finds out why
        there = {line.strip() for line in answer.out.splitlines()}
        return [step for step in memory.steps.values() if step.name not in there]

    def _kept(self, line: JobLine, listed: Sequence[JobLine]) -> _Watched:
        """What to remember of a job that lives, or is missing and was seen alive."""
        before = self._memory.watched.get(line.job_id)
        since_s = None if line in listed or before is None else before.missing_since_s
        return _Watched(line, since_s)

    def _missing(self, listed: Sequence[JobLine]) -> list[JobLine]:
        """What is known of jobs that squeue does not list: from the accounts, or that they are gone."""
        memory = self._memory
        now_s = time.monotonic()
        there = {line.job_id for line in listed} | {line.job_id.split("_")[0] for line in listed}
        missing = {job_id: watched for job_id, watched in memory.watched.items() if job_id not in there}
        if not missing:
            return []
        in_accounts: dict[str, JobLine] = {}
        patience_s = 0.0
        if memory.site is not None and memory.site.has_accounting:
            patience_s = self._pace.missing_s
            answer = self._run(slurm_text.sacct_argv(tuple(missing)))
            if answer.code == 0:
                in_accounts = {line.job_id: line for line in jobs_in_sacct(answer.out)}
        found = []
        for job_id, watched in missing.items():
            line = in_accounts.get(job_id)
            if line is not None and line.state.is_over:
                found.append(line)
                continue
            if watched.missing_since_s is None:
                # the first time proves nothing: it may have been between two places
                watched.missing_since_s = now_s
            elif now_s - watched.missing_since_s >= patience_s:
                last = watched.last or JobLine(job_id, self._name, JobState.GONE, "")
                found.append(replace(last, state=JobState.GONE, said="", reason="", time_left_s=None))
                continue
            if watched.last is not None:
                found.append(watched.last)
        return found

    def _find_site(self) -> bool:
        answer = self._run(slurm_text.config_argv())
        if answer.refusal is not None:
            self._say_unreachable(answer)
            return False
        self._memory.site = site_in_config(answer.out)
        self._tell(FoundSite(self._memory.site))
        return True

    def _say_unreachable(self, answer: _Answer) -> None:
        """A look that failed tells nothing about any job, whatever made it fail."""
        if self._memory.is_reachable:
            self._memory.is_reachable = False
            self._memory.wait_s = self._pace.soonest_s
            self._tell(Unreachable(answer.words))

    def _run(self, argv: Sequence[str]) -> _Answer:
        try:
            process = subprocess.Popen(
                argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # an interrupt from the terminal is for us alone
                start_new_session=True,
            )
        except OSError as err:
            words = f"{argv[0]} cannot be started: {err.strerror}"
            return _Answer(127, "", words)
        with process:
            try:
                out, error = process.communicate(timeout=self._pace.command_s)
            except subprocess.TimeoutExpired:
                # with what it started: at many sites these commands are scripts around the real ones
                os.killpg(process.pid, signal.SIGKILL)
                return _Answer(None, "", f"{argv[0]} gave no answer within {self._pace.command_s:g} s")
        return _Answer(process.returncode, out.decode(errors="replace"), error.decode(errors="replace"))

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
