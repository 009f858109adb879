"""Slurm jobs of their own for the jobs of trials, decided: events go in, orders come out; nothing in between.

Owns what is submitted when, and together with what; which job of Slurm's is whose; and which is given up. How
many attempts there are at once is for whoever leases slots. Times are seconds of one monotonic clock, given
with each event. Must not know: what the attempts are, files, how Slurm is asked.

Whether an attempt runs twice is not decided here: its claim does that. So an answer of sbatch's that was lost
costs at most a job that finds nothing to do. What Slurm does not say changes nothing.
"""

from collections import Counter
from itertools import islice, zip_longest
from typing import assert_never

from hyperband.errors import InternalError
from hyperband.launch.slurm.jobs.events import (
    Action,
    Asked,
    Begun,
    Done,
    Event,
    Exclude,
    Failed,
    Fared,
    Found,
    Recalled,
    Seen,
    SubmitJobs,
    Worked,
)
from hyperband.launch.slurm.jobs.news import TrialJobNews
from hyperband.launch.slurm.jobs.nodes import AVOID_S
from hyperband.launch.slurm.jobs.state import (
    ANYWHERE,
    MOST_TASKS,
    Stage,
    TrialAttempt,
    TrialJobState,
    array_of,
)
from hyperband.launch.slurm.orders import Stop, Tick
from hyperband.launch.slurm.reports import (
    CancelRefused,
    Changed,
    FoundSite,
    NotSubmitted,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm.words import JobState

#: of a job that has waited for less nothing is said: Slurm's scheduler takes turns
_WORTH_TELLING_S = 5.0


class TrialJobs:
    """The Slurm jobs of one search. `handle` is the only door."""

    def __init__(
        self, *, n_at_once: int | None = None, log_of: str = "the log of the jobs", has_earlier: bool = True
    ) -> None:
        """Have nothing yet.

        Args:
            n_at_once: so many jobs run at once, at most; None: as many as there are.
            log_of: where the output of their scripts is, for messages.
            has_earlier: an earlier start of the search may have some.
        """
        self._all = TrialJobState(n_at_once=n_at_once, log_of=log_of, is_unheard=not has_earlier)
        self._news = TrialJobNews(self._all)

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take what happened; return what is to be done, in order."""
        actions: list[Action] = []
        match event:
            case Asked(attempts, of):
                for attempt, job in zip_longest(attempts, of, fillvalue=""):
                    self._all.attempts[attempt] = TrialAttempt(attempt, Stage.WAITING, since_s=now_s, of=job)
            case Found(attempt, job_id, of):
                self._all.attempts[attempt] = TrialAttempt(
                    attempt, Stage.UNSURE, job_id, since_s=now_s, of=of
                )
            case Begun(attempt):
                if (one := self._all.attempts.get(attempt)) is not None:
                    one.has_begun = True
                    if one.stage != Stage.QUEUED:  # of which job it is that runs Slurm tells
                        one.stage = Stage.RUNNING
            case Fared(attempt, fate):
                self._news.note_fate(attempt, fate, now_s, actions)
            case Recalled(node, of, fate, ago_s):
                self._all.nodes.note(node, of, fate, now_s - ago_s)
            case Done(attempt):
                self._all.note_done(attempt, now_s)
            case Failed(words):
                self._news.note_failed(words, now_s, actions)
            case Worked():
                self._all.starts.forget(ANYWHERE)
            case Submitted(ticket, job_id):
                self._news.note_submitted(ticket, job_id, now_s, actions)
            case NotSubmitted():
                self._news.note_refusal(event, now_s, actions)
            case Changed():
                self._news.note_changed(event, actions)
            case Seen(jobs):
                self._news.note_seen(jobs, now_s, actions)
            case Unreachable() | CancelRefused():
                self._all.note_trouble(event, now_s, actions)
            case Stop():
                self._all.is_stopping = True
                self._all.has_looked = False  # there may be more than is known
                for attempt in list(self._all.attempts):
                    self._all.note_done(attempt, now_s)
            case FoundSite() | StepOver() | Tick():
                pass
            case _:
                assert_never(event)
        self._all.heed_silence(now_s, actions)
        self._settle(now_s, actions)
        return actions

    # What can be read.

    @property
    def is_reachable(self) -> bool:
        """Whether Slurm answered when it was last asked."""
        return self._all.is_reachable

    def may_get_jobs(self, now_s: float) -> bool:
        """Whether it is worth choosing one more attempt now."""
        is_held = self._all.starts.are_held_back(ANYWHERE, now_s) or now_s < self._all.not_before_s
        return self._all.has_looked and self._all.is_reachable and not self._all.has_failed and not is_held

    @property
    def is_given_up(self) -> bool:
        """Whether everything is over, or its end has begun, as far as is known."""
        return self._all.has_looked and not self._all.asked and self._all.n_live == 0

    def stage_of(self, attempt: str) -> Stage | None:
        """Where an attempt is on its way; None: it is done."""
        one = self._all.attempts.get(attempt)
        return None if one is None else one.stage

    def next_look_s(self, now_s: float) -> float | None:
        """Seconds until a Tick could change something; None: only events will."""
        times = []
        if any(one.stage == Stage.WAITING for one in self._all.attempts.values()):
            times.append(self._all.not_before_s)
        waits_s = [time_s - now_s for time_s in times if time_s > now_s]
        waits_s.append(self._all.silence_left_s(now_s) or 0.0)
        waits_s += [one.since_s + _WORTH_TELLING_S - now_s for one in self._all.queued()]
        if any(one.excluded for one in self._all.queued()):
            waits_s += [one.since_s + AVOID_S - now_s for one in self._all.queued() if one.excluded]
            waits_s.append(self._all.nodes.next_change_s(now_s) or 0.0)
        if (pause_s := self._all.starts.wait_s(now_s)) is not None:
            waits_s.append(pause_s)
        return min((wait_s for wait_s in waits_s if wait_s > 0), default=None)

    def why_waiting(self, now_s: float) -> str:
        """One line on attempts that wait in Slurm's queue, or are suspended; empty: none, or not for long."""
        words = []
        queued = self._all.queued()
        if any(now_s >= one.since_s + _WORTH_TELLING_S for one in queued):
            n = len(queued)
            reasons = {"array_throttle" if one.stage == Stage.WAITING else one.reason for one in queued}
            why = f" ({', '.join(sorted(reasons - {''}))})" if reasons - {""} else ""
            words.append(f"{n} job{'s' if n > 1 else ''} wait{'s' if n == 1 else ''} in Slurm's queue{why}")
        if n := sum(one.is_suspended for one in self._all.attempts.values()):
            words.append(f"{n} job{'s' if n > 1 else ''} suspended by Slurm")
        return "; ".join(words)

    def why_none(self, now_s: float) -> str:
        """One line on why no attempt is chosen."""
        if silence := self._all.why_silent():
            return silence
        if not self._all.has_looked:
            return "Slurm has not said yet which jobs are there"
        if words := self._all.starts.words(now_s):
            return words
        if now_s < self._all.not_before_s:
            return "Slurm takes no more jobs now"
        return self.why_waiting(now_s) or "all jobs that there may be at once are there"

    def validate(self) -> None:
        """Check what always holds.

        Raises:
            InternalError: It does not.
        """
        asked = [name for names in self._all.asked.values() for name in names]
        for one in self._all.attempts.values():
            if (one.stage == Stage.QUEUED and not one.job_id) or asked.count(one.name) > 1:
                raise InternalError(f"The attempt {one.name} is {one.stage} without a job: report it.")
            if one.job_id and one.job_id in self._all.unwanted:
                raise InternalError(f"Slurm's job {one.job_id} is wanted and is not: please report it.")

    # What follows.

    def _settle(self, now_s: float, actions: list[Action]) -> None:
        """Submit what waits, give up what nobody wants."""
        if self._all.is_stopping:
            rest = [job_id for job_id, one in self._all.unwanted.items() if one.state != JobState.ENDING]
            self._all.cancel(rest, "the search is over", actions)
            return
        useless = [
            job_id
            for job_id, one in self._all.unwanted.items()
            if one.state == JobState.WAITING or (one.lingers and one.state != JobState.ENDING)
        ]
        self._all.cancel(useless, "nobody wants it", actions)
        if not self._all.has_looked or not self._all.is_reachable or self._all.has_failed:
            return
        self._open_nodes(now_s, actions)
        if now_s < self._all.not_before_s or self._all.starts.are_held_back(ANYWHERE, now_s):
            return
        n_free = self._n_free()
        waiting = [one for one in self._all.attempts.values() if one.stage == Stage.WAITING][:n_free]
        for exclude, those in self._all.alike(waiting, now_s).items() if waiting else ():
            self._submit(those, exclude, actions)

    def _open_nodes(self, now_s: float, actions: list[Action]) -> None:
        """Have jobs in the queue get nodes again that need not be avoided any more, or were for long.

        All nodes but those may have gone away meanwhile, and a job could wait for ever.
        """
        for one in self._all.queued():
            if not one.excluded or one.stage != Stage.QUEUED or one.job_id in self._all.changing:
                continue
            is_long = now_s >= one.since_s + AVOID_S
            bad = () if is_long else self._all.nodes.excluded(one.of, now_s, in_use=self._all.in_use)
            nodes = tuple(node for node in one.excluded if node in bad)
            if nodes != one.excluded:
                self._all.changing[one.job_id] = nodes
                actions.append(Exclude(one.job_id, nodes))

    def _submit(self, those: list[TrialAttempt], exclude: tuple[str, ...], actions: list[Action]) -> None:
        """Submit attempts that exclude the same nodes, together as far as Slurm takes that."""
        waiting = iter(those)
        # while it is found out how many Slurm takes, or so many may run, one order at a time
        is_open = self._all.most_tasks == MOST_TASKS and self._all.n_at_once is None
        while (is_open or not self._all.asked) and (
            batch := list(islice(waiting, self._all.most_tasks if self._all.has_arrays else 1))
        ):
            self._all.n_tickets += 1
            names = tuple(one.name for one in batch)
            self._all.asked[self._all.n_tickets] = names
            for one in batch:
                one.stage = Stage.ASKED
            self._all.excluding[self._all.n_tickets] = exclude
            actions.append(SubmitJobs(self._all.n_tickets, names, exclude))

    def _n_free(self) -> int | None:
        """How many jobs may be submitted now; None: all that there are.

        While there are none that is all, since of one array Slurm starts no more at once. Else so many that
        even if all of those in the queue ran they would not be too many.
        """
        if self._all.n_at_once is None:
            return None
        there = [one.job_id for one in self._all.attempts.values() if one.job_id]
        there += [job_id for job_id, one in self._all.unwanted.items() if one.state != JobState.ENDING]
        together = Counter(array_of(job_id) or job_id for job_id in there)
        sizes = [*together.values(), *map(len, self._all.asked.values())]
        n_running = sum(min(size, self._all.n_at_once) for size in sizes)
        return max(0, self._all.n_at_once - n_running) if n_running or not self._all.has_arrays else None
