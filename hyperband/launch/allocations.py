"""The allocations of a search, decided: events go in, orders come out; no clock, command or file in between.

Owns how many allocations there are, which of them are given up and when, and which places may get a job.
Times are seconds of one monotonic clock, given with each event. Must not know: what the jobs are, or how
Slurm is asked.

An allocation that Slurm queued again keeps its id; as far as jobs are concerned, it is a new one. What Slurm
does not say changes nothing: while it cannot be asked, allocations are neither asked for nor given up.
"""

from dataclasses import replace
from typing import assert_never

from hyperband.errors import InternalError
from hyperband.launch.allocation import Allocation, Phase
from hyperband.launch.allocation_events import (
    Action,
    Began,
    Cancel,
    Ended,
    Event,
    Fail,
    Lost,
    Place,
    Ready,
    Rules,
    Say,
    Stop,
    Submit,
    Tick,
    Wanted,
)
from hyperband.launch.slurm_reports import (
    CancelRefused,
    FoundSite,
    NotSubmitted,
    Status,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm_words import JobLine, JobState, Refusal, Waiting, meaning_of

#: allocations in a row that ended by themselves without one job having ended in any: they cannot work
_N_FAILURES = 3
#: the longest time between such an end and the next try; the first is 2 s
_LONGEST_PAUSE_S = 60.0
#: until a limit on the number of jobs is tried again
_LIMIT_PAUSE_S = 60.0


class Allocations:
    """All allocations of one search. `handle` is the only door."""

    def __init__(self, rules: Rules, *, log_of: str = "the allocation's log") -> None:
        """Hold nothing yet; nothing is asked for before Slurm has said what of ours is there already.

        Args:
            rules: How many, and what one is.
            log_of: Where the output of allocations is, for messages.
        """
        self._rules = rules
        self._log_of = log_of
        self._allocations: dict[str, Allocation] = {}
        #: tickets of requests that have not been answered; True: Slurm may or may not have taken it
        self._asked: dict[int, bool] = {}
        self._n_tickets = 0
        #: how many there may be: fewer when a user cancels some, or Slurm takes no more
        self._n_most = rules.n_most
        self._wanted = Wanted(0)
        #: jobs of an earlier search, before Slurm said where their allocations are
        self._early: set[Place] = set()
        self._has_looked = False
        self._is_reachable = True
        self._is_stopping = False
        self._has_failed = False
        self._n_failures = 0
        self._not_before_s = 0.0
        #: since when there are more than are needed
        self._surplus_since_s: float | None = None
        #: said already
        self._said: set[str] = set()

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take what happened; return what is to be done, in order."""
        actions: list[Action] = []
        match event:
            case Wanted():
                self._wanted = event
            case Ready():
                self._note_ready(event, now_s)
            case Began(place):
                self._note_began(place)
            case Ended(place):
                self._note_ended(place, now_s)
            case Submitted(ticket, job_id):
                self._asked.pop(ticket, None)
                self._allocations.setdefault(job_id, Allocation(job_id, idle_since_s=now_s))
            case NotSubmitted():
                self._note_refusal(event, now_s, actions)
            case Status(jobs):
                self._note_status(jobs, now_s, actions)
            case Unreachable(words):
                self._is_reachable = False
                actions.append(Say(f"Slurm does not answer ({words}): jobs go on, and it is asked again"))
            case CancelRefused(job_ids, words):
                actions.append(Say(f"Slurm did not cancel {', '.join(job_ids)}: {words}"))
            case Stop():
                self._is_stopping = True
            case FoundSite() | StepOver() | Tick():
                pass
            case _:
                assert_never(event)
        self._settle(now_s, actions)
        return actions

    # What can be read.

    def free(self, expected_s: float | None, now_s: float) -> tuple[Place, ...]:
        """The places that may get a job that is expected to run for so long (None: not known), best first.

        Allocations with most jobs come first, so that others become idle and can be given up.
        """
        n_left = self._n_slots_left()
        found = []
        for allocation in sorted(self._allocations.values(), key=lambda one: (-len(one.busy), one.number)):
            if allocation.may_get_jobs and self._fits(allocation, expected_s, now_s):
                found += allocation.free_places(self._rules)
        return tuple(found[:n_left])

    def places(self) -> tuple[Place, ...]:
        """Every place of allocations that run, free or not, in order."""
        found = [place for one in self._allocations.values() for place in one.places(self._rules)]
        return tuple(sorted(found, key=lambda place: (len(place.job_id), place)))

    @property
    def phases(self) -> dict[str, Phase]:
        """Where each allocation is on its way."""
        return {one.job_id: one.phase for one in self._allocations.values()}

    @property
    def held(self) -> set[str]:
        """Allocations in which jobs can be started."""
        return {one.job_id for one in self._allocations.values() if one.may_get_jobs}

    def started(self, job_id: str) -> str:
        """When an allocation started, in Slurm's words; empty: it is not known."""
        one = self._allocations.get(job_id)
        return "" if one is None else one.started

    @property
    def job_ids(self) -> list[str]:
        """All of them, in order."""
        return list(self._allocations)

    @property
    def n_coming(self) -> int:
        """How many may become held at any moment: their holders may have written."""
        return sum(one.phase in (Phase.QUEUED, Phase.STARTING) for one in self._allocations.values())

    @property
    def is_reachable(self) -> bool:
        """Whether Slurm answered when it was last asked: new steps need it."""
        return self._is_reachable

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours is held, queued or asked for, as far as is known."""
        return self._has_looked and not self._allocations and not self._asked

    @property
    def is_given_up(self) -> bool:
        """Whether everything is over, or its end has begun, as far as is known."""
        phases = {one.phase for one in self._allocations.values()}
        return self._has_looked and not self._asked and phases <= {Phase.ENDING}

    def next_look_s(self, now_s: float) -> float | None:
        """Seconds until a Tick could change something; None: only events will."""
        times = []
        if self._not_before_s > now_s:
            times.append(self._not_before_s)
        if self._surplus_since_s is not None:
            idle = [one.idle_since_s for one in self._allocations.values() if not one.busy]
            times += [max(self._surplus_since_s, since_s) + self._rules.idle_s for since_s in idle]
        shortest_s = self._wanted.shortest_s or 0.0
        for one in self._allocations.values():
            if one.ends_at_s is not None and not one.is_cancelled:
                times.append(one.ends_at_s - self._rules.margin_s - shortest_s)
        return min((time_s - now_s for time_s in times if time_s > now_s), default=None)

    def why_none(self) -> str:
        """One line on what jobs that wait for a slot wait for."""
        if not self._has_looked:
            return "Slurm has not said yet which allocations are there"
        counts = {phase: [one for one in self._allocations.values() if one.phase == phase] for phase in Phase}
        words = []
        if n_queued := len(counts[Phase.QUEUED]) + len(self._asked):
            reasons = sorted({one.reason for one in counts[Phase.QUEUED] if one.reason})
            words.append(f"{n_queued} wait{'s' if n_queued == 1 else ''} in Slurm's queue")
            words[-1] += f" ({', '.join(reasons)})" if reasons else ""
        for phase in (Phase.STARTING, Phase.ENDING):
            if counts[phase]:
                words.append(f"{len(counts[phase])} {phase}")
        if n_suspended := sum(one.is_suspended for one in self._allocations.values()):
            words.append(f"{n_suspended} suspended by Slurm")
        if counts[Phase.HELD]:
            n_busy = sum(len(one.busy) for one in counts[Phase.HELD])
            words.append(f"{len(counts[Phase.HELD])} held, with {n_busy} jobs")
        if not self._is_reachable:
            words.append("Slurm does not answer")
        return f"allocations: {'; '.join(words) or 'none'}"

    def validate(self) -> None:
        """Check what always holds.

        Raises:
            InternalError: It does not.
        """
        for one in self._allocations.values():
            if one.busy & one.lost:
                raise InternalError(f"Allocation {one.job_id} has {one.busy & one.lost} twice: report it.")
            if one.phase == Phase.HELD and len(one.nodes) != self._rules.n_nodes:
                raise InternalError(f"Allocation {one.job_id} is held on {one.nodes}: please report it.")
            if one.phase == Phase.QUEUED and one.nodes:
                raise InternalError(f"Allocation {one.job_id} waits and has {one.nodes}: please report it.")

    # What happened to jobs.

    def _note_ready(self, event: Ready, now_s: float) -> None:
        one = self._allocations.get(event.job_id)
        if one is not None and event.token not in one.tokens:
            one.told = event
            one.note_ready(now_s)

    def _note_began(self, place: Place) -> None:
        one = self._allocations.get(place.job_id)
        if one is None:
            self._early.add(place)
            return
        one.busy.add(place)
        # it waits no more, whether or not the search has said so yet
        self._wanted = replace(self._wanted, n_jobs=max(0, self._wanted.n_jobs - 1))

    def _note_ended(self, place: Place, now_s: float) -> None:
        self._early.discard(place)
        one = self._allocations.get(place.job_id)
        if one is None:
            return
        if place in one.busy:
            # an allocation in which a job comes to its end is none that cannot work
            self._n_failures = 0
            one.busy.discard(place)
            one.idle_since_s = now_s
        one.lost.discard(place)

    # What Slurm says.

    def _note_refusal(self, event: NotSubmitted, now_s: float, actions: list[Action]) -> None:
        if event.is_unsure:
            # it may be in the queue: the next status tells, and until then it counts
            self._asked[event.ticket] = True
            self._is_reachable = self._is_reachable and event.refusal != Refusal.UNREACHABLE
            return
        self._asked.pop(event.ticket, None)
        if event.refusal == Refusal.LIMIT:
            self._not_before_s = now_s + _LIMIT_PAUSE_S
            words = (
                f"Slurm takes no more jobs now ({event.words}); it is asked again every {_LIMIT_PAUSE_S:g} s"
            )
            self._say_once(words, actions)
        elif n_there := len(self._allocations):
            self._n_most = n_there
            words = f"Slurm refused one more allocation ({event.words}); the search goes on with {n_there}"
            self._say_once(words, actions)
        else:
            self._fail(
                f"Slurm refused the allocation: {event.words}. Change the Slurm profile (or --slurm-set "
                "KEY=VALUE) so that sbatch takes it, and start the search again: it goes on where it is.",
                actions,
            )

    def _note_status(self, jobs: tuple[JobLine, ...], now_s: float, actions: list[Action]) -> None:
        if not self._is_reachable:
            self._is_reachable = True
            actions.append(Say("Slurm answers again"))
        for line in jobs:
            one = self._allocations.get(line.job_id)
            if one is None and not line.state.is_over:
                one = self._adopt(line.job_id, now_s, actions)
            if one is not None:
                self._note_line(one, line, now_s, actions)
        # what Slurm took is among the jobs by now
        self._asked = {ticket: unsure for ticket, unsure in self._asked.items() if not unsure}
        self._has_looked = True
        if self._early:
            lost = tuple(sorted(self._early))
            self._early.clear()
            actions.append(Lost(lost, JobState.GONE, "their allocations are over"))

    def _adopt(self, job_id: str, now_s: float, actions: list[Action]) -> Allocation:
        one = Allocation(job_id, idle_since_s=now_s)
        one.busy = {place for place in self._early if place.job_id == job_id}
        self._early -= one.busy
        self._allocations[job_id] = one
        if not any(self._asked.values()):  # else it is most likely what we asked for ourselves
            actions.append(Say(f"took over the allocation {job_id} of an earlier start"))
        return one

    def _note_line(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        if line.state == JobState.UNKNOWN:
            self._say_once(f"Slurm says {line.said!r} of {one.job_id}, a word not known here", actions)
        elif line.state.is_over:
            self._end(one, line, now_s, actions)
        elif line.state == JobState.WAITING:
            if one.phase != Phase.QUEUED:
                self._queue_again(one, f"({line.reason or line.said})", actions)
            self._note_reason(one, line, now_s, actions)
        elif line.state == JobState.ENDING:
            one.phase = Phase.ENDING
        else:
            self._note_running(one, line, now_s, actions)

    def _note_running(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        if one.started and line.started and line.started != one.started:
            self._queue_again(one, "and has started again", actions)
        if one.phase == Phase.QUEUED:
            one.phase = Phase.STARTING
            one.nodes = line.nodes
            one.reason = ""
        one.started = line.started or one.started
        one.ends_at_s = None if line.time_left_s is None else now_s + line.time_left_s
        # one that was taken over has been running for a while
        one.whole_s = max(one.whole_s, line.time_left_s or 0.0, self._rules.time_limit_s or 0.0)
        one.is_suspended = line.state == JobState.SUSPENDED
        one.note_ready(now_s)

    def _queue_again(self, one: Allocation, words: str, actions: list[Action]) -> None:
        self._lose(one, JobState.WAITING, f"was queued again by Slurm {words}", actions)
        one.note_queued_again()

    def _note_reason(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        one.reason = line.reason
        meaning = meaning_of(line.reason)
        if meaning == Waiting.NEVER and not one.is_cancelled:
            self._cancel([one], "it can never start", actions)
            self._fail(
                f"Slurm has the allocation {one.job_id} in its queue but can never start it as it was asked "
                f"for ({line.reason}). Change the Slurm profile (or --slurm-set KEY=VALUE) and start again.",
                actions,
            )
        elif meaning == Waiting.BROKEN and not one.is_cancelled:
            self._cancel([one], f"Slurm could not start it ({line.reason})", actions)
            self._count_failure(one, line.reason, now_s, actions)
        elif meaning == Waiting.HELD:
            words = f"the allocation {one.job_id} is on hold ({line.reason}); scontrol release {one.job_id}"
            self._say_once(f"{words} lets it start, scancel {one.job_id} gives it up", actions)

    def _end(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        del self._allocations[one.job_id]
        words = f"{line.state}{f' ({line.reason})' if line.reason else ''}"
        self._lose(one, line.state, f"ended: {words}", actions)
        if one.is_cancelled:
            return
        if line.state == JobState.CANCELLED:
            self._note_cancelled_by_hand(one, actions)
        elif line.state in (JobState.FAILED, JobState.COMPLETED, JobState.OUT_OF_MEMORY):
            self._count_failure(one, words, now_s, actions)
        else:
            actions.append(Say(f"the allocation {one.job_id} ended: {words}"))

    def _note_cancelled_by_hand(self, one: Allocation, actions: list[Action]) -> None:
        """Whoever cancels an allocation wants fewer of them: so many as are left, until the next start."""
        self._n_most = min(self._n_most, len(self._allocations) + len(self._asked))
        words = f"the allocation {one.job_id} was cancelled by somebody, and none is asked for in its place"
        actions.append(Say(f"{words}: there are at most {self._n_most} until the search is started again"))
        if self._n_most == 0 and not self._is_stopping:
            self._fail(
                f"The last allocation ({one.job_id}) was cancelled by somebody, so nothing can run any more. "
                "Start the search again to ask for new ones: it goes on where it is.",
                actions,
            )

    def _count_failure(self, one: Allocation, words: str, now_s: float, actions: list[Action]) -> None:
        self._n_failures += 1
        self._not_before_s = now_s + min(_LONGEST_PAUSE_S, 2.0**self._n_failures)
        if self._n_failures < _N_FAILURES:
            actions.append(Say(f"the allocation {one.job_id} ended by itself: {words}; see {self._log_of}"))
            return
        self._fail(
            f"{self._n_failures} allocations in a row ended by themselves without one job coming to its end; "
            f"the last was {one.job_id}: {words}. What it said is in {self._log_of}. The setup lines of the "
            "Slurm profile are the most likely reason; mend them and start the search again.",
            actions,
        )

    def _lose(self, one: Allocation, state: JobState, words: str, actions: list[Action]) -> None:
        """What ran in it cannot come to a good end there any more."""
        if one.busy:
            actions.append(Lost(tuple(sorted(one.busy)), state, f"the allocation {one.job_id} {words}"))

    # What follows.

    def _settle(self, now_s: float, actions: list[Action]) -> None:
        """Ask for what is missing, give up what is not needed."""
        if self._is_stopping:
            rest = [one for one in self._allocations.values() if not one.is_cancelled]
            self._cancel(rest, "the search is over", actions)
            return
        if not self._has_looked or not self._is_reachable or self._has_failed:
            return
        self._give_up_spent(now_s, actions)
        n_needed = self._wanted.n_jobs - self._n_slots_coming(now_s)
        self._grow(n_needed, now_s, actions)
        self._shrink(n_needed, now_s, actions)

    def _give_up_spent(self, now_s: float, actions: list[Action]) -> None:
        """End those without a job in which none of the waiting ones would come to its end."""
        shortest_s = self._wanted.shortest_s if self._wanted.n_jobs else None
        spent = [
            one
            for one in self._allocations.values()
            if one.may_get_jobs and not one.busy and not self._fits(one, shortest_s, now_s)
        ]
        self._cancel(spent, "too little of its time is left", actions)

    def _n_slots_coming(self, now_s: float) -> int:
        """Slots that are free, or will be without being asked for again."""
        n_slots = 0
        for one in self._allocations.values():
            if one.is_cancelled or one.is_suspended or one.phase == Phase.ENDING:
                continue
            if one.phase == Phase.QUEUED:
                n_slots += self._rules.n_slots
            elif self._fits(one, self._wanted.shortest_s, now_s):
                n_slots += len(one.free_places(self._rules))
        return n_slots + len(self._asked) * self._rules.n_slots

    def _grow(self, n_needed: int, now_s: float, actions: list[Action]) -> None:
        n_there = len(self._allocations) + len(self._asked)
        n_kept = n_there - sum(one.is_cancelled for one in self._allocations.values())
        n_more = max(-(-n_needed // self._rules.n_slots), self._rules.min_allocations - n_kept)
        if now_s < self._not_before_s:
            return
        for _ in range(min(n_more, self._n_most - n_there)):
            self._n_tickets += 1
            self._asked[self._n_tickets] = False
            actions.append(Submit(self._n_tickets))

    def _shrink(self, n_needed: int, now_s: float, actions: list[Action]) -> None:
        n_kept = sum(not one.is_cancelled for one in self._allocations.values()) + len(self._asked)
        n_surplus = min(-n_needed // self._rules.n_slots, n_kept - self._rules.min_allocations)
        if n_surplus <= 0:
            self._surplus_since_s = None
            return
        if self._surplus_since_s is None:
            self._surplus_since_s = now_s
        if now_s - self._surplus_since_s < self._rules.idle_s:
            return
        idle = [
            one
            for one in self._allocations.values()
            if not one.is_cancelled
            and not one.busy
            and one.phase in (Phase.QUEUED, Phase.STARTING, Phase.HELD)
            and now_s - one.idle_since_s >= self._rules.idle_s
        ]
        # the newest of those that wait first, then those that would end soonest
        idle.sort(key=lambda one: (one.phase != Phase.QUEUED, one.ends_at_s or float("inf"), -one.number))
        self._cancel(idle[:n_surplus], "it is not needed", actions)

    def _cancel(self, those: list[Allocation], why: str, actions: list[Action]) -> None:
        for one in those:
            one.is_cancelled = True
        if those:
            actions.append(Cancel(tuple(one.job_id for one in those), why))

    def _fail(self, words: str, actions: list[Action]) -> None:
        if not self._has_failed:
            self._has_failed = True
            actions.append(Fail(words))

    def _say_once(self, words: str, actions: list[Action]) -> None:
        if words not in self._said:
            self._said.add(words)
            actions.append(Say(words))

    def _fits(self, one: Allocation, expected_s: float | None, now_s: float) -> bool:
        return one.fits(expected_s, self._rules.margin_s, now_s)

    def _n_slots_left(self) -> int:
        n_busy = sum(len(one.busy) for one in self._allocations.values())
        if self._rules.max_slots is None:
            return len(self._allocations) * self._rules.n_slots
        return max(0, self._rules.max_slots - n_busy)
