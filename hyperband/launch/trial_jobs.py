"""Slurm jobs of their own for the jobs of trials, decided: events go in, orders come out; nothing in between.

Owns what is submitted when, and together with what; which job of Slurm's is whose; and which is given up. How
many attempts there are at once is for whoever leases slots. Times are seconds of one monotonic clock, given
with each event. Must not know: what the attempts are, files, how Slurm is asked.

Whether an attempt runs twice is not decided here: its claim does that. So an answer of sbatch's that was lost
costs at most a job that finds nothing to do. What Slurm does not say changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import assert_never

from hyperband.errors import InternalError
from hyperband.launch.allocation_events import Cancel, Fail, Place, Say, Stop, Tick
from hyperband.launch.slurm_reports import (
    CancelRefused,
    FoundSite,
    NotSubmitted,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm_starts import FailedStarts
from hyperband.launch.slurm_words import JobLine, JobState, Refusal, Waiting, meaning_of
from hyperband.launch.trial_job_events import (
    Action,
    Asked,
    Begun,
    Done,
    Event,
    Failed,
    Found,
    Given,
    JobOver,
    Seen,
    SeenJob,
    SubmitJobs,
    Worked,
)

#: tasks of one array; Slurm's own limit is 1000 unless a site says otherwise
_MOST_TASKS = 500
#: until a limit on the number of jobs is tried again, unless a job of ours is over before
_LIMIT_PAUSE_S = 60.0
#: a job that runs for nobody is cancelled after so long: mostly it is just ending
_LINGERS_S = 5.0
#: what was in the queue so long ago and is not any more may have run meanwhile, and be forgotten
_KNOWN_S = 60.0
#: of a job that has waited for less nothing is said: Slurm's scheduler takes turns
_WORTH_TELLING_S = 5.0
#: the same words about the queue stand for so long, unless the reasons change
_SAME_WORDS_S = 60.0
#: failures are counted over all nodes: which one a job gets is Slurm's to say
_ANYWHERE = Place("", "", 0)


def array_of(job_id: str) -> str:
    """Return the array that a job is a task of; empty: of none."""
    whole, task, _ = job_id.partition("_")
    return whole if task else ""


class Stage(StrEnum):
    """Where an attempt is on its way."""

    WAITING = "not submitted"
    ASKED = "being submitted"
    #: Slurm may or may not have a job for it: the next status tells
    UNSURE = "perhaps submitted"
    QUEUED = "queued"
    RUNNING = "running"


@dataclass(slots=True)
class _Attempt:
    name: str
    stage: Stage
    #: of its job; empty: it has none, or it is not known
    job_id: str = ""
    #: why that waits, as Slurm says
    reason: str = ""
    #: in the queue since then
    since_s: float = 0.0
    #: seen there then
    listed_s: float = 0.0
    has_begun: bool = False


@dataclass(slots=True)
class _Unwanted:
    """A job of Slurm's that has nothing to do any more."""

    since_s: float
    state: JobState
    #: it was there as long after that
    lingers: bool = False


class TrialJobs:
    """The Slurm jobs of one search. `handle` is the only door."""

    def __init__(self, *, n_at_once: int | None = None, log_of: str = "the log of the jobs") -> None:
        """Have nothing yet.

        Args:
            n_at_once: so many jobs run at once, at most; None: as many as there are.
            log_of: where the output of their scripts is, for messages.
        """
        self._n_at_once = n_at_once
        self._log_of = log_of
        self._attempts: dict[str, _Attempt] = {}
        #: what was submitted and not answered, by ticket
        self._asked: dict[int, tuple[str, ...]] = {}
        #: tasks of each array, in order
        self._arrays: dict[str, tuple[str, ...]] = {}
        self._unwanted: dict[str, _Unwanted] = {}
        #: jobs that we cancelled, and jobs whose end was told
        self._cancelled: set[str] = set()
        self._over: set[str] = set()
        self._n_tickets = 0
        self._most_tasks = _MOST_TASKS
        self._has_arrays = True
        self._starts = FailedStarts()
        self._not_before_s = 0.0
        self._has_looked = False
        #: jobs in the last status that were neither over nor about to be
        self._n_live = 0
        self._is_reachable = True
        self._is_stopping = False
        self._has_failed = False
        self._said: set[str] = set()
        #: what is said of the queue, why, and since when
        self._words = ""
        self._words_of: frozenset[str] = frozenset()
        self._words_at_s = 0.0

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take what happened; return what is to be done, in order."""
        actions: list[Action] = []
        match event:
            case Asked(attempts):
                for attempt in attempts:
                    self._attempts[attempt] = _Attempt(attempt, Stage.WAITING, since_s=now_s)
            case Found(attempt, job_id):
                self._attempts[attempt] = _Attempt(attempt, Stage.UNSURE, job_id, since_s=now_s)
            case Begun(attempt):
                if (one := self._attempts.get(attempt)) is not None:
                    one.has_begun = True
                    if one.stage != Stage.QUEUED:  # of which job it is that runs Slurm tells
                        one.stage = Stage.RUNNING
            case Done(attempt):
                self._note_done(attempt, now_s)
            case Failed(words):
                self._note_failed(words, now_s, actions)
            case Worked():
                self._starts.forget(_ANYWHERE)
            case Submitted(ticket, job_id):
                self._note_submitted(ticket, job_id, now_s, actions)
            case NotSubmitted():
                self._note_refusal(event, now_s, actions)
            case Seen(jobs):
                self._note_seen(jobs, now_s, actions)
            case Unreachable(words):
                self._is_reachable = False
                actions.append(Say(f"Slurm does not answer ({words}): jobs go on, and it is asked again"))
            case CancelRefused(job_ids, words):
                actions.append(Say(f"Slurm did not cancel {', '.join(job_ids)}: {words}"))
            case Stop():
                self._is_stopping = True
                self._has_looked = False  # there may be more than is known
                for attempt in list(self._attempts):
                    self._note_done(attempt, now_s)
            case FoundSite() | StepOver() | Tick():
                pass
            case _:
                assert_never(event)
        self._settle(now_s, actions)
        return actions

    # What can be read.

    @property
    def is_reachable(self) -> bool:
        """Whether Slurm answered when it was last asked."""
        return self._is_reachable

    def may_get_jobs(self, now_s: float) -> bool:
        """Whether it is worth choosing one more attempt now."""
        is_held = self._starts.are_held_back(_ANYWHERE, now_s) or now_s < self._not_before_s
        return self._has_looked and self._is_reachable and not self._has_failed and not is_held

    def job_of(self, attempt: str) -> str:
        """The job that an attempt has; empty: none, as far as is known."""
        one = self._attempts.get(attempt)
        return "" if one is None else one.job_id

    @property
    def is_given_up(self) -> bool:
        """Whether everything is over, or its end has begun, as far as is known."""
        return self._has_looked and not self._asked and self._n_live == 0

    def stage_of(self, attempt: str) -> Stage | None:
        """Where an attempt is on its way; None: it is done."""
        one = self._attempts.get(attempt)
        return None if one is None else one.stage

    def next_look_s(self, now_s: float) -> float | None:
        """Seconds until a Tick could change something; None: only events will."""
        times = []
        if any(one.stage == Stage.WAITING for one in self._attempts.values()):
            times.append(self._not_before_s)
        waits_s = [time_s - now_s for time_s in times if time_s > now_s]
        soon = [one.since_s + _WORTH_TELLING_S - now_s for one in self._queued()]
        waits_s += [wait_s for wait_s in soon if wait_s > 0]
        if (pause_s := self._starts.wait_s(now_s)) is not None:
            waits_s.append(pause_s)
        return min(waits_s, default=None)

    def why_waiting(self, now_s: float) -> str:
        """One line on attempts that wait in Slurm's queue; empty: none does, or not for long.

        The number in it is not told anew each time: that would be a line for each job.
        """
        queued = self._queued()
        late = [one for one in queued if now_s >= one.since_s + _WORTH_TELLING_S]
        if not late:
            self._words = ""
            return ""
        reasons = frozenset(
            "array_throttle" if one.stage == Stage.WAITING else one.reason for one in queued
        ) - {""}
        if not self._words or reasons != self._words_of or now_s >= self._words_at_s + _SAME_WORDS_S:
            n = len(queued)
            why = f" ({', '.join(sorted(reasons))})" if reasons else ""
            self._words = f"{n} job{'s' if n > 1 else ''} wait{'s' if n == 1 else ''} in Slurm's queue{why}"
            self._words_of, self._words_at_s = reasons, now_s
        return self._words

    def why_none(self, now_s: float) -> str:
        """One line on why no attempt is chosen."""
        if not self._has_looked:
            return "Slurm has not said yet which jobs are there"
        if not self._is_reachable:
            return "Slurm does not answer"
        if words := self._starts.words(now_s):
            return words
        if now_s < self._not_before_s:
            return "Slurm takes no more jobs now"
        return self.why_waiting(now_s) or "all jobs that there may be at once are there"

    def validate(self) -> None:
        """Check what always holds.

        Raises:
            InternalError: It does not.
        """
        asked = [name for names in self._asked.values() for name in names]
        for one in self._attempts.values():
            if (one.stage == Stage.QUEUED and not one.job_id) or asked.count(one.name) > 1:
                raise InternalError(f"The attempt {one.name} is {one.stage} without a job: report it.")
            if one.job_id and one.job_id in self._unwanted:
                raise InternalError(f"Slurm's job {one.job_id} is wanted and is not: please report it.")

    # What happened to attempts.

    def _note_done(self, attempt: str, now_s: float) -> None:
        one = self._attempts.pop(attempt, None)
        if one is not None and one.job_id and one.job_id not in self._over:
            is_queued = one.stage == Stage.QUEUED and not one.has_begun
            self._unwanted[one.job_id] = _Unwanted(now_s, JobState.WAITING if is_queued else JobState.RUNNING)

    def _note_failed(self, words: str, now_s: float, actions: list[Action]) -> None:
        self._starts.note(_ANYWHERE, words, now_s, is_ending=False)
        if (again := self._starts.judge(lambda _: True)) is not None:
            self._fail(
                f"jobs of Slurm's end again and again without running what they are for: {again}. What "
                f"their scripts said is in {self._log_of}; mend it (the setup lines of the Slurm profile are "
                "the most likely reason; hyperband's interpreter and the study's folder must be at the same "
                "path on the nodes), and start the same command again: the search goes on where it is",
                actions,
            )

    # What Slurm says.

    def _note_submitted(self, ticket: int, job_id: str, now_s: float, actions: list[Action]) -> None:
        names = self._asked.pop(ticket, ())
        self._most_tasks = _MOST_TASKS
        if len(names) > 1:
            self._arrays[job_id] = names
        for number, name in enumerate(names):
            own_id = f"{job_id}_{number}" if len(names) > 1 else job_id
            one = self._attempts.get(name)
            if one is None or one.has_begun:
                self._unwanted[own_id] = _Unwanted(now_s, JobState.WAITING)
                continue
            one.job_id, one.stage, one.since_s = own_id, Stage.QUEUED, now_s
            actions.append(Given(name, own_id))

    def _note_refusal(self, event: NotSubmitted, now_s: float, actions: list[Action]) -> None:
        names = self._asked.pop(event.ticket, ())
        there = [one for name in names if (one := self._attempts.get(name)) is not None]
        for one in there:
            if not one.has_begun:
                one.stage = Stage.UNSURE if event.is_unsure else Stage.WAITING
        if event.is_unsure:
            self._is_reachable = self._is_reachable and event.refusal != Refusal.UNREACHABLE
        elif event.refusal == Refusal.LIMIT and len(names) > 1:
            self._most_tasks = max(1, min(self._most_tasks, len(names)) // 2)
        elif event.refusal == Refusal.LIMIT:
            self._most_tasks = _MOST_TASKS
            self._not_before_s = now_s + _LIMIT_PAUSE_S
            again = f"it is asked again when one of ours is over, and every {_LIMIT_PAUSE_S:g} s"
            self._say_once(f"Slurm takes no more jobs now ({event.words}); {again}", actions)
        elif len(names) > 1:
            # arrays may be switched off, or what is asked for may be wrong in any form
            self._has_arrays = False
            actions.append(Say(f"Slurm refused an array of jobs ({event.words}): they go one by one"))
        else:
            self._fail(
                f"Slurm refused a job: {event.words}. Change the Slurm profile (or --slurm-set KEY=VALUE) so "
                "that sbatch takes it, and start the search again: it goes on where it is.",
                actions,
            )

    def _note_seen(self, jobs: tuple[SeenJob, ...], now_s: float, actions: list[Action]) -> None:
        if not self._is_reachable:
            self._is_reachable = True
            actions.append(Say("Slurm answers again"))
        self._has_looked = True
        seen = list(self._whole_arrays_as_tasks(jobs))
        live = [one for one in seen if not one.line.state.is_over]
        self._n_live = sum(one.line.state != JobState.ENDING for one in live)
        # where an attempt has two jobs, that which runs may be the one that has it
        live.sort(key=lambda one: one.line.state == JobState.WAITING)
        for job in live:
            self._note_live(job, now_s, actions)
        others = {job.attempt: job.line.job_id for job in reversed(live)}
        arrays = {array_of(job.line.job_id) for job in seen if job.line.state != JobState.GONE} - {""}
        for job in seen:
            if job.line.state.is_over and self._unwanted.pop(job.line.job_id, None) is not None:
                self._not_before_s = min(self._not_before_s, now_s)
                self._over.add(job.line.job_id)
            elif job.line.state.is_over and job.line.job_id not in self._over:
                self._note_over(job, others.get(job.attempt, ""), arrays, now_s, actions)
        for attempt in self._attempts.values():
            if attempt.stage == Stage.UNSURE:
                # Slurm has no job for it
                attempt.stage, attempt.job_id = Stage.WAITING, ""

    def _whole_arrays_as_tasks(self, jobs: Iterable[SeenJob]) -> Iterator[SeenJob]:
        """Slurm may have forgotten an array before it was ever listed by its tasks."""
        for job in jobs:
            names = self._arrays.get(job.line.job_id)
            if names is None:
                yield job
                continue
            for number, name in enumerate(names):
                own_id = f"{job.line.job_id}_{number}"
                line = job.line
                yield SeenJob(
                    JobLine(own_id, line.name, line.state, line.said, line.reason, line.nodes), name
                )

    def _note_live(self, job: SeenJob, now_s: float, actions: list[Action]) -> None:
        line = job.line
        if line.state == JobState.UNKNOWN:
            self._say_once(f"Slurm says {line.said!r} of {line.job_id}, a word not known here", actions)
            return
        one = self._attempts.get(job.attempt or "")
        waits = line.state == JobState.WAITING
        is_second = one is not None and one.job_id not in ("", line.job_id) and one.stage == Stage.RUNNING
        if is_second and not waits:
            return  # it ends at once, or it is the one that has the attempt
        if one is None or is_second or (waits and one.has_begun and one.job_id != line.job_id):
            unwanted = self._unwanted.setdefault(line.job_id, _Unwanted(now_s, line.state))
            unwanted.state = line.state
            unwanted.lingers = now_s >= unwanted.since_s + _LINGERS_S
            return
        if one.job_id != line.job_id:
            if one.job_id and one.stage == Stage.QUEUED:
                self._unwanted[one.job_id] = _Unwanted(now_s, JobState.WAITING)
            self._unwanted.pop(line.job_id, None)
            one.job_id = line.job_id
            actions.append(Given(one.name, line.job_id))
        if not waits:
            one.stage, one.reason = Stage.RUNNING, ""
            return
        if one.stage != Stage.QUEUED:
            one.stage, one.since_s = Stage.QUEUED, now_s
        one.reason, one.listed_s = line.reason, now_s
        self._heed_reason(one, actions)

    def _heed_reason(self, one: _Attempt, actions: list[Action]) -> None:
        meaning = meaning_of(one.reason)
        if meaning == Waiting.NEVER and one.job_id not in self._cancelled:
            self._cancel([one.job_id], "it can never start", actions)
            self._fail(
                f"Slurm has the job {one.job_id} in its queue but can never start it as it was asked for "
                f"({one.reason}). Change the Slurm profile (or --slurm-set KEY=VALUE) and start again.",
                actions,
            )
        elif meaning == Waiting.BROKEN and one.job_id not in self._cancelled:
            self._cancel([one.job_id], f"Slurm could not start it ({one.reason})", actions)
        elif meaning == Waiting.HELD:
            words = f"the job {one.job_id} is on hold ({one.reason}); scontrol release {one.job_id} lets it"
            self._say_once(f"{words} start, scancel {one.job_id} gives its trial up", actions)

    def _note_over(
        self, job: SeenJob, other: str, arrays: Set[str], now_s: float, actions: list[Action]
    ) -> None:
        """Hear that a job is over.

        other: another job of the same attempt that is not over; empty: there is none.
        arrays: those of which Slurm knows tasks.
        """
        line = job.line
        self._over.add(line.job_id)
        one = self._attempts.get(job.attempt or "")
        if one is None or (one.job_id and one.job_id != line.job_id):
            return
        if one.stage in (Stage.WAITING, Stage.ASKED):
            return  # of before: it was forgotten, and another one is on its way
        self._not_before_s = min(self._not_before_s, now_s)
        if other:
            one.job_id = other
            actions.append(Given(one.name, other))
            return
        # of a task that is cancelled before it starts Slurm keeps nothing, nor do its accounts
        was_taken_out = (
            line.state == JobState.GONE
            and one.stage == Stage.QUEUED
            and not one.has_begun
            and array_of(line.job_id) in arrays
            and now_s <= one.listed_s + _KNOWN_S
        )
        by_somebody = (line.state == JobState.CANCELLED or was_taken_out) and (
            line.job_id not in self._cancelled
        )
        one.job_id, one.stage = "", Stage.RUNNING  # until it is done
        said = f"{line.state}{f' ({line.reason})' if line.reason else ''}"
        words = f"its Slurm job {line.job_id} is over: {said}"
        if line.state == JobState.TIME_LIMIT:
            self._say_once(
                f"Slurm's job {line.job_id} was at its time limit, and what it ran is tried again, from its "
                "checkpoint if it has one. `time` in the Slurm profile says how long a job may take",
                actions,
            )
        actions.append(JobOver(one.name, line.job_id, line.state, words, by_somebody))

    # What follows.

    def _settle(self, now_s: float, actions: list[Action]) -> None:
        """Submit what waits, give up what nobody wants."""
        if self._is_stopping:
            rest = [job_id for job_id, one in self._unwanted.items() if one.state != JobState.ENDING]
            self._cancel([one for one in rest if one not in self._cancelled], "the search is over", actions)
            return
        useless = [
            job_id
            for job_id, one in self._unwanted.items()
            if one.state == JobState.WAITING or (one.lingers and one.state != JobState.ENDING)
        ]
        self._cancel([one for one in useless if one not in self._cancelled], "nobody wants it", actions)
        if not self._has_looked or not self._is_reachable or self._has_failed:
            return
        if now_s < self._not_before_s or self._starts.are_held_back(_ANYWHERE, now_s):
            return
        n_free = self._n_free()
        waiting = iter([one for one in self._attempts.values() if one.stage == Stage.WAITING][:n_free])
        # while it is found out how many Slurm takes, or so many may run, one order at a time
        is_open = self._most_tasks == _MOST_TASKS and self._n_at_once is None
        while (is_open or not self._asked) and (
            batch := list(islice(waiting, self._most_tasks if self._has_arrays else 1))
        ):
            self._n_tickets += 1
            names = tuple(one.name for one in batch)
            self._asked[self._n_tickets] = names
            for one in batch:
                one.stage = Stage.ASKED
            actions.append(SubmitJobs(self._n_tickets, names))

    def _n_free(self) -> int | None:
        """How many jobs may be submitted now; None: all that there are.

        While there are none that is all, since of one array Slurm starts no more at once. Else so many that
        even if all of those in the queue ran they would not be too many.
        """
        if self._n_at_once is None:
            return None
        there = [one.job_id for one in self._attempts.values() if one.job_id]
        there += [job_id for job_id, one in self._unwanted.items() if one.state != JobState.ENDING]
        together = Counter(array_of(job_id) or job_id for job_id in there)
        sizes = [*together.values(), *map(len, self._asked.values())]
        n_running = sum(min(size, self._n_at_once) for size in sizes)
        return max(0, self._n_at_once - n_running) if n_running or not self._has_arrays else None

    def _cancel(self, job_ids: list[str], why: str, actions: list[Action]) -> None:
        if not job_ids:
            return
        self._cancelled |= set(job_ids)
        actions.append(Cancel(tuple(job_ids), why))

    def _queued(self) -> list[_Attempt]:
        """Attempts that wait in Slurm's queue, or for others of ours to be over."""
        waits = [Stage.QUEUED] if self._n_at_once is None else [Stage.QUEUED, Stage.WAITING]
        return [one for one in self._attempts.values() if one.stage in waits and not one.has_begun]

    def _fail(self, words: str, actions: list[Action]) -> None:
        if not self._has_failed:
            self._has_failed = True
            actions.append(Fail(words))

    def _say_once(self, words: str, actions: list[Action]) -> None:
        if words not in self._said:
            self._said.add(words)
            actions.append(Say(words))
