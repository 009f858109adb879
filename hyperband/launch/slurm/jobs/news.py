"""What becomes of trials' own Slurm jobs by what Slurm says: whose they are, which are over, what it refuses.

One part of TrialJobs. Must not know: when more are submitted, or which are given up since nobody wants them.
"""

from collections.abc import Iterator, Sequence, Set

from hyperband.launch.slurm.jobs.events import Action, Given, JobOver, Remember, SeenJob
from hyperband.launch.slurm.jobs.nodes import AVOID_S, Fate
from hyperband.launch.slurm.jobs.state import (
    ANYWHERE,
    MOST_TASKS,
    Stage,
    TrialAttempt,
    TrialJobState,
    Unwanted,
    array_of,
)
from hyperband.launch.slurm.orders import Say
from hyperband.launch.slurm.reports import Changed, NotSubmitted
from hyperband.launch.slurm.words import JobLine, JobState, Refusal, Waiting, meaning_of

#: until a limit on the number of jobs is tried again, unless a job of ours is over before
_LIMIT_PAUSE_S = 60.0
#: a job that runs for nobody is cancelled after so long: mostly it is just ending
_LINGERS_S = 5.0
#: what was in the queue so long ago and is not any more may have run meanwhile, and be forgotten
_KNOWN_S = 60.0


class TrialJobNews:
    """Takes in what the clerk reports."""

    def __init__(self, state: TrialJobState) -> None:
        """Change this state, from now on."""
        self._all = state

    def note_failed(self, words: str, now_s: float, actions: list[Action]) -> None:
        """Take in that a job of Slurm's could not run what it is for."""
        self._all.starts.note(ANYWHERE, words, now_s, is_ending=False)
        if (again := self._all.starts.judge(lambda _: True)) is not None:
            self._all.fail(
                f"jobs of Slurm's end again and again without running what they are for: {again}. What "
                f"their scripts said is in {self._all.log_of}; mend it (the setup lines of the Slurm profile "
                "are the most likely reason; hyperband's interpreter and the study's folder must be at the "
                "same path on the nodes), and start the same command again: the search goes on where it is",
                actions,
                is_in_log=True,
            )

    def note_fate(self, attempt: str, fate: Fate, now_s: float, actions: list[Action]) -> None:
        """Take in what the end of an attempt says of its node."""
        one = self._all.attempts.get(attempt)
        if one is None or not one.node:
            return
        if self._all.nodes.is_news(one.node, one.of, fate):
            actions.append(Remember(one.node, one.of, fate))
        if self._all.nodes.note(one.node, one.of, fate, now_s):
            words = f"a job was lost with the node {one.node}: while others run jobs, none is submitted to it"
            actions.append(Say(f"{words} for {AVOID_S / 60:g} min"))

    def note_submitted(self, ticket: int, job_id: str, now_s: float, actions: list[Action]) -> None:
        """Take in that Slurm has a job, or an array, for what was asked for."""
        names = self._all.asked.pop(ticket, ())
        excluded = self._all.excluding.pop(ticket, ())
        self._all.most_tasks = MOST_TASKS
        self._all.arrays.pop(job_id, None)
        if len(names) > 1:
            self._all.arrays[job_id] = names
        for number, name in enumerate(names):
            own_id = f"{job_id}_{number}" if len(names) > 1 else job_id
            # a Slurm that was set up anew begins to count again
            self._all.over.discard(own_id)
            self._all.cancelled.discard(own_id)
            one = self._all.attempts.get(name)
            if one is None or one.has_begun:
                self._all.unwanted[own_id] = Unwanted(now_s, JobState.WAITING)
                continue
            one.job_id, one.stage, one.since_s = own_id, Stage.QUEUED, now_s
            one.excluded = excluded
            actions.append(Given(name, own_id))

    def note_refusal(self, event: NotSubmitted, now_s: float, actions: list[Action]) -> None:
        """Take in that sbatch did not take an order."""
        names = self._all.asked.pop(event.ticket, ())
        excluded = self._all.excluding.pop(event.ticket, ())
        there = [one for name in names if (one := self._all.attempts.get(name)) is not None]
        for one in there:
            if not one.has_begun:
                one.stage = Stage.UNSURE if event.is_unsure else Stage.WAITING
        if event.refusal == Refusal.UNREACHABLE:
            self._all.is_reachable = False
        elif event.is_unsure:
            pass  # the next status tells
        elif event.refusal == Refusal.LIMIT and len(names) > 1:
            self._all.most_tasks = max(1, min(self._all.most_tasks, len(names)) // 2)
        elif event.refusal == Refusal.LIMIT:
            self._all.most_tasks = MOST_TASKS
            self._all.not_before_s = now_s + _LIMIT_PAUSE_S
            again = f"it is asked again when one of ours is over, and every {_LIMIT_PAUSE_S:g} s"
            self._all.say_once(f"Slurm takes no more jobs now ({event.words}); {again}", actions)
        elif excluded:
            self._all.nodes.may_exclude = False
            words = f"Slurm takes no job without {', '.join(excluded)} ({event.words})"
            actions.append(Say(f"{words}, where others were lost or failed: it is asked for one with them"))
        elif len(names) > 1:
            # arrays may be switched off, or what is asked for may be wrong in any form
            self._all.has_arrays = False
            actions.append(Say(f"Slurm refused an array of jobs ({event.words}): they go one by one"))
        else:
            self._all.fail(
                f"Slurm refused a job: {event.words}. Change the Slurm profile (or --slurm-set KEY=VALUE) so "
                "that sbatch takes it, and start the search again: it goes on where it is.",
                actions,
            )

    def note_changed(self, event: Changed, actions: list[Action]) -> None:
        """Take in whether a job in the queue may have nodes again that it was not to get."""
        nodes = self._all.changing.pop(event.job_id, ())
        those = [one for one in self._all.attempts.values() if one.job_id == event.job_id]
        if event.refusal == Refusal.UNREACHABLE:
            self._all.is_reachable = False  # and again when it answers
            return
        # one that Slurm refused is not asked for again: most likely the job has just begun
        self._all.changed[event.job_id] = nodes if event.refusal is None else ()
        for one in those:
            opened, one.excluded = [node for node in one.excluded if node not in nodes], nodes
            if event.refusal is None:
                words = f"Slurm's job {event.job_id} still waits, and may run on {', '.join(opened)} again"
                actions.append(Say(words))
            else:
                one.excluded, one.unchanged = (), event.words

    def note_seen(self, jobs: tuple[SeenJob, ...], now_s: float, actions: list[Action]) -> None:
        """Take in all that Slurm knows of our jobs."""
        self._all.note_answer(actions)
        self._all.has_looked = True
        seen = list(self._whole_arrays_as_tasks(jobs))
        live = [one for one in seen if not one.line.state.is_over]
        self._all.n_live = sum(one.line.state != JobState.ENDING for one in live)
        # where an attempt has two jobs, that which runs may be the one that has it
        live.sort(key=lambda one: one.line.state == JobState.WAITING)
        for job in live:
            self._note_live(job, now_s, actions)
        others = {job.attempt: job.line.job_id for job in reversed(live)}
        arrays = {array_of(job.line.job_id) for job in seen if job.line.state != JobState.GONE} - {""}
        for job in seen:
            if job.line.state.is_over and self._all.unwanted.pop(job.line.job_id, None) is not None:
                self._all.not_before_s = min(self._all.not_before_s, now_s)
                self._all.over.add(job.line.job_id)
            elif job.line.state.is_over and job.line.job_id not in self._all.over:
                self._note_over(job, others.get(job.attempt, ""), arrays, now_s, actions)
        for attempt in self._all.attempts.values():
            if attempt.stage == Stage.UNSURE:
                # Slurm has no job for it
                attempt.stage, attempt.job_id = Stage.WAITING, ""

    def _whole_arrays_as_tasks(self, jobs: Sequence[SeenJob]) -> Iterator[SeenJob]:
        """Slurm may have forgotten an array before it was ever listed by its tasks, or list only some so."""
        listed = {job.line.job_id for job in jobs if job.line.state != JobState.GONE}
        for job in jobs:
            names = self._all.arrays.get(job.line.job_id)
            if names is None:
                yield job
                continue
            for number, name in enumerate(names):
                own_id = f"{job.line.job_id}_{number}"
                if own_id in listed:
                    continue  # what waited of the array was cancelled, and this one did not
                line = job.line
                yield SeenJob(
                    JobLine(own_id, line.name, line.state, line.said, line.reason, line.nodes), name
                )

    def _note_live(self, job: SeenJob, now_s: float, actions: list[Action]) -> None:
        line = job.line
        if line.state == JobState.UNKNOWN:
            self._all.note_unknown_word(line, actions)
            return
        one = self._all.attempts.get(job.attempt or "")
        waits = line.state == JobState.WAITING
        is_second = one is not None and one.job_id not in ("", line.job_id) and one.stage == Stage.RUNNING
        if is_second and not waits:
            return  # it ends at once, or it is the one that has the attempt
        if one is None or is_second or (waits and one.has_begun and one.job_id != line.job_id):
            unwanted = self._all.unwanted.setdefault(line.job_id, Unwanted(now_s, line.state))
            unwanted.state = line.state
            unwanted.lingers = now_s >= unwanted.since_s + _LINGERS_S
            return
        if one.job_id != line.job_id:
            if one.job_id and one.stage == Stage.QUEUED:
                self._all.unwanted[one.job_id] = Unwanted(now_s, JobState.WAITING)
            self._all.unwanted.pop(line.job_id, None)
            one.job_id = line.job_id
            actions.append(Given(one.name, line.job_id))
        one.is_suspended = line.state == JobState.SUSPENDED
        one.node = next(iter(line.nodes), one.node)
        if not waits:
            one.stage, one.reason = Stage.RUNNING, ""
            return
        if one.stage != Stage.QUEUED:
            one.stage, one.since_s = Stage.QUEUED, now_s
        one.reason, one.listed_s = line.reason, now_s
        if line.job_id not in self._all.changing:
            one.excluded = self._all.changed.get(line.job_id, job.exclude)
        if one.unchanged:
            words = f"Slurm did not let its job {line.job_id}, which still waits, run on all nodes again"
            actions.append(Say(f"{words} ({one.unchanged})"))
            one.unchanged = ""
        self._heed_reason(one, actions)

    def _heed_reason(self, one: TrialAttempt, actions: list[Action]) -> None:
        meaning = meaning_of(one.reason)
        if meaning == Waiting.NEVER and one.job_id not in self._all.cancelled:
            self._all.cancel([one.job_id], "it can never start", actions)
            self._all.fail(
                f"Slurm has the job {one.job_id} in its queue but can never start it as it was asked for "
                f"({one.reason}). Change the Slurm profile (or --slurm-set KEY=VALUE) and start again.",
                actions,
            )
        elif meaning == Waiting.BROKEN and one.job_id not in self._all.cancelled:
            self._all.cancel([one.job_id], f"Slurm could not start it ({one.reason})", actions)
        elif meaning == Waiting.HELD:
            words = f"the job {one.job_id} is on hold ({one.reason}); scontrol release {one.job_id} lets it"
            self._all.say_once(f"{words} start, scancel {one.job_id} gives its trial up", actions)

    def _note_over(
        self, job: SeenJob, other: str, arrays: Set[str], now_s: float, actions: list[Action]
    ) -> None:
        """Hear that a job is over.

        other: another job of the same attempt that is not over; empty: there is none.
        arrays: those of which Slurm knows tasks.
        """
        line = job.line
        self._all.over.add(line.job_id)
        one = self._all.attempts.get(job.attempt or "")
        if one is None or (one.job_id and one.job_id != line.job_id):
            return
        if one.stage in (Stage.WAITING, Stage.ASKED):
            return  # of before: it was forgotten, and another one is on its way
        self._all.not_before_s = min(self._all.not_before_s, now_s)
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
            line.job_id not in self._all.cancelled
        )
        one.job_id, one.stage = "", Stage.RUNNING  # until it is done
        one.node = next(iter(line.nodes), one.node)
        where = f" of {one.node}" if line.state == JobState.NODE_FAILURE and one.node else ""
        said = f"{line.state}{where}{f' ({line.reason})' if line.reason else ''}"
        words = f"its Slurm job {line.job_id} is over: {said}"
        if line.state == JobState.TIME_LIMIT:
            self._all.say_once(
                f"Slurm's job {line.job_id} was at its time limit, and what it ran is tried again, from its "
                "checkpoint if it has one. `time` in the Slurm profile says how long a job may take",
                actions,
            )
        actions.append(JobOver(one.name, line.job_id, line.state, words, by_somebody))
