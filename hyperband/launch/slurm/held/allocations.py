"""The allocations of a search, decided: events go in, orders come out; no clock, command or file in between.

Owns which places may get a job; what Slurm says is taken in by launch/slurm/held/news.py, and how many there
are is for launch/slurm/held/sizing.py to decide. Times are seconds of one monotonic clock, given with each
event. Must not know: what the jobs are, or how Slurm is asked.

An allocation that Slurm queued again keeps its id; as far as jobs are concerned, it is a new one. What Slurm
does not say changes nothing: while it cannot be asked, allocations are neither asked for nor given up.
"""

from dataclasses import replace
from typing import assert_never

from hyperband.errors import InternalError
from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.held.allocation import Allocation, Phase
from hyperband.launch.slurm.held.events import Action, Avoid, Began, Ended, Event, Ready, Rules, Wanted
from hyperband.launch.slurm.held.news import AllocationNews
from hyperband.launch.slurm.held.sizing import AllocationSizing
from hyperband.launch.slurm.held.state import AllocationState
from hyperband.launch.slurm.orders import Stop, Tick
from hyperband.launch.slurm.reports import (
    CancelRefused,
    Changed,
    FoundSite,
    NotSubmitted,
    Status,
    StepOver,
    Submitted,
    Unreachable,
)
from hyperband.report.text import counted

#: Slurm tells times in whole seconds, and ends jobs some time after their limit
_AT_LIMIT_S = 2.0


class Allocations:
    """All allocations of one search. `handle` is the only door."""

    def __init__(
        self, rules: Rules, *, log_of: str = "the allocation's log", has_earlier: bool = True
    ) -> None:
        """Hold nothing yet; nothing is asked for before Slurm has said what of ours is there already.

        Args:
            rules: How many, and what one is.
            log_of: Where the output of allocations is, for messages.
            has_earlier: An earlier start of the search may have some.
        """
        self._all = AllocationState(
            rules=rules, log_of=log_of, n_most=rules.n_most, is_unheard=not has_earlier
        )
        self._news = AllocationNews(self._all)
        self._sizing = AllocationSizing(self._all)

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take what happened; return what is to be done, in order."""
        actions: list[Action] = []
        match event:
            case Wanted():
                self._all.wanted = event
            case Avoid(nodes):
                self._all.avoided = nodes
            case Ready():
                self._note_ready(event, now_s)
            case Began(place):
                self._note_began(place)
            case Ended(place):
                self._note_ended(place, now_s)
            case Submitted(ticket, job_id):
                self._all.asked.pop(ticket, None)
                self._all.allocations.setdefault(job_id, Allocation(job_id, idle_since_s=now_s))
            case NotSubmitted():
                self._news.note_refusal(event, now_s, actions)
            case Status(jobs):
                self._news.note_status(jobs, now_s, actions)
            case Unreachable() | CancelRefused():
                self._all.note_trouble(event, now_s, actions)
            case Stop():
                self._all.is_stopping = True
            case FoundSite() | StepOver() | Changed() | Tick():
                pass
            case _:
                assert_never(event)
        self._all.heed_silence(now_s, actions)
        self._sizing.settle(now_s, actions)
        return actions

    # What can be read.

    def free(self, expected_s: float | None, now_s: float) -> tuple[Place, ...]:
        """The places that may get a job that is expected to run for so long (None: not known), best first.

        Allocations with most jobs come first, so that others become idle and can be given up.
        """
        n_left = self._all.n_slots_left()
        found = []
        for allocation in sorted(
            self._all.allocations.values(), key=lambda one: (-len(one.busy), one.number)
        ):
            if allocation.may_get_jobs and self._all.fits(allocation, expected_s, now_s):
                found += self._all.usable_places(allocation)
        return tuple(found[:n_left])

    def places(self) -> tuple[Place, ...]:
        """Every place of allocations that run, free or not, in order."""
        found = [place for one in self._all.allocations.values() for place in one.places(self._all.rules)]
        return tuple(sorted(found, key=lambda place: (len(place.job_id), place)))

    @property
    def phases(self) -> dict[str, Phase]:
        """Where each allocation is on its way."""
        return {one.job_id: one.phase for one in self._all.allocations.values()}

    @property
    def held(self) -> set[str]:
        """Allocations in which jobs can be started."""
        return {one.job_id for one in self._all.allocations.values() if one.may_get_jobs}

    def started(self, job_id: str) -> str:
        """When an allocation started, in Slurm's words; empty: it is not known."""
        one = self._all.allocations.get(job_id)
        return "" if one is None else one.started

    @property
    def are_awaited(self) -> bool:
        """Whether jobs wait, and no allocation is there yet that could have one."""
        return self._all.wanted.n_jobs > 0 and not self.held

    def is_at_limit(self, job_id: str, now_s: float) -> bool:
        """Whether the time of an allocation is over, or about to be."""
        one = self._all.allocations.get(job_id)
        return one is not None and one.ends_at_s is not None and now_s > one.ends_at_s - _AT_LIMIT_S

    @property
    def job_ids(self) -> list[str]:
        """All of them, in order."""
        return list(self._all.allocations)

    @property
    def n_coming(self) -> int:
        """How many may become held at any moment: their holders may have written."""
        return sum(one.phase in (Phase.QUEUED, Phase.STARTING) for one in self._all.allocations.values())

    @property
    def is_reachable(self) -> bool:
        """Whether Slurm answered when it was last asked: new steps need it."""
        return self._all.is_reachable

    @property
    def is_given_up(self) -> bool:
        """Whether everything is over, or its end has begun, as far as is known."""
        phases = {one.phase for one in self._all.allocations.values()}
        return self._all.has_looked and not self._all.asked and phases <= {Phase.ENDING}

    def next_look_s(self, now_s: float) -> float | None:
        """Seconds until a Tick could change something; None: only events will."""
        times = []
        if self._all.not_before_s > now_s:
            times.append(self._all.not_before_s)
        if (left_s := self._all.silence_left_s(now_s)) is not None:
            times.append(now_s + left_s)
        if self._all.surplus_since_s is not None:
            idle = [one.idle_since_s for one in self._all.allocations.values() if not one.busy]
            times += [max(self._all.surplus_since_s, since_s) + self._all.rules.idle_s for since_s in idle]
        shortest_s = self._all.wanted.shortest_s or 0.0
        for one in self._all.allocations.values():
            if one.ends_at_s is not None and not one.is_cancelled:
                times.append(one.ends_at_s - self._all.rules.margin_s - shortest_s)
        return min((time_s - now_s for time_s in times if time_s > now_s), default=None)

    def why_none(self) -> str:
        """One line on what jobs that wait for a slot wait for."""
        silence = self._all.why_silent()
        if not self._all.has_looked:
            return silence or "Slurm has not said yet which allocations are there"
        counts = {
            phase: [one for one in self._all.allocations.values() if one.phase == phase] for phase in Phase
        }
        words = []
        if self._all.asked:
            words.append(f"{len(self._all.asked)} asked for")
        if n_queued := len(counts[Phase.QUEUED]):
            reasons = sorted({one.reason for one in counts[Phase.QUEUED] if one.reason})
            words.append(f"{n_queued} wait{'s' if n_queued == 1 else ''} in Slurm's queue")
            words[-1] += f" ({', '.join(reasons)})" if reasons else ""
        for phase in (Phase.STARTING, Phase.ENDING):
            if counts[phase]:
                words.append(f"{len(counts[phase])} {phase}")
        if n_suspended := sum(one.is_suspended for one in self._all.allocations.values()):
            words.append(f"{n_suspended} suspended by Slurm")
        if held := [one for one in counts[Phase.HELD] if not one.is_suspended]:
            words.append(f"{len(held)} held, with {counted(sum(len(one.busy) for one in held), 'job')}")
        words = words or ["none", *filter(None, [self._all.why_paused])]
        if silence:
            words.append(silence)
        return f"allocations: {'; '.join(words)}"

    def validate(self) -> None:
        """Check what always holds.

        Raises:
            InternalError: It does not.
        """
        for one in self._all.allocations.values():
            if one.busy & one.lost:
                raise InternalError(f"Allocation {one.job_id} has {one.busy & one.lost} twice: report it.")
            if one.phase == Phase.HELD and len(one.nodes) != self._all.rules.n_nodes:
                raise InternalError(f"Allocation {one.job_id} is held on {one.nodes}: please report it.")
            if one.phase == Phase.QUEUED and one.nodes:
                raise InternalError(f"Allocation {one.job_id} waits and has {one.nodes}: please report it.")

    # What happened to jobs.

    def _note_ready(self, event: Ready, now_s: float) -> None:
        one = self._all.allocations.get(event.job_id)
        if one is not None and event.token not in one.tokens:
            one.told = event
            one.note_ready(now_s)

    def _note_began(self, place: Place) -> None:
        one = self._all.allocations.get(place.job_id)
        if one is None:
            self._all.early.add(place)
            return
        one.busy.add(place)
        # it waits no more, whether or not the search has said so yet
        self._all.wanted = replace(self._all.wanted, n_jobs=max(0, self._all.wanted.n_jobs - 1))

    def _note_ended(self, place: Place, now_s: float) -> None:
        self._all.early.discard(place)
        one = self._all.allocations.get(place.job_id)
        if one is None:
            return
        if place in one.busy:
            # an allocation in which a job comes to its end is none that cannot work
            self._all.n_failures = 0
            one.busy.discard(place)
            one.idle_since_s = now_s
        one.lost.discard(place)
