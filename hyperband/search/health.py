"""Whose fault a failure is: the configuration's or the slot's. Pure; a fold over the events of a study.

Owns the rules for retries, strikes and quarantine. Knows no clock: whoever asks says what time it is.
What is judged is a place: a GPU with all its shares, or a CPU slot. Running out of memory is never a place's
fault.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hyperband.search.events import (
    Event,
    JobEnded,
    JobStarted,
    SearchStarted,
    SlotQuarantined,
    SlotReleased,
)
from hyperband.search.trial import Outcome

#: so many jobs that failed here and then succeeded elsewhere, without a success here between them
N_STRIKES = 2
#: so many jobs in a row that failed here within seconds, while other slots have succeeded
N_EATEN = 3
#: what "within seconds" means
FAST_S = 10.0
#: how long the next job waits then for what other slots say, at first; twice as long after each further one
HOLD_S = 60.0
_MOST_HOLDS = 20


def place_of(slot: str) -> str:
    """The place that a slot is at: `gpu:1` for its share `gpu:1/0`."""
    return slot.partition("/")[0]


@dataclass(frozen=True, slots=True)
class _Failure:
    """One failed attempt at a job."""

    place: str
    kind: tuple[Outcome, str]


@dataclass(slots=True)
class _Place:
    """What happened at one place since its last success (or since it was given back)."""

    has_succeeded: bool = False
    #: jobs that failed, in order, and which of them failed within seconds
    failed: list[int] = field(default_factory=list)
    n_fast: int = 0
    #: of the fast ones in a row so far, how many ended like the latest
    n_alike: int = 0
    latest_kind: tuple[Outcome, str] | None = None
    #: when the latest failure was, Unix seconds
    failed_at: float = 0.0
    #: of these the ones that succeeded on another slot, and those that failed there in the same way
    strikes: set[int] = field(default_factory=set)
    cleared_by: set[int] = field(default_factory=set)

    @property
    def looks_like_a_black_hole(self) -> bool:
        """It failed so many in a row within seconds, and no slot that runs jobs well failed them as well.

        One that has run jobs well must fail them all in the same way: some configurations are just bad.
        """
        n = self.n_alike if self.has_succeeded else self.n_fast
        return n >= N_EATEN and len(self.cleared_by) < N_STRIKES

    @property
    def held_until_at(self) -> float:
        """How long its next job waits at most, Unix seconds."""
        n_more = min(self.n_fast - N_EATEN, _MOST_HOLDS)
        return self.failed_at + HOLD_S * 2.0**n_more

    def note_failure(self, job: int, kind: tuple[Outcome, str], at: float, *, is_fast: bool) -> None:
        """Count a failure that may be the place's own."""
        self.failed_at = at
        is_again = job in self.failed  # one bad job is one, however often it is tried
        if not is_again:
            self.failed.append(job)
        if not is_fast:
            self.n_fast = 0
        elif not is_again or self.n_fast == 0:
            self.n_fast += 1
        if kind != self.latest_kind:
            self.n_alike = 1
        elif not is_again:
            self.n_alike += 1
        self.n_alike = min(self.n_alike, self.n_fast)
        self.latest_kind = kind

    def begin_anew(self) -> None:
        """Forget the failures: what comes next counts alone."""
        self.failed.clear()
        self.strikes.clear()
        self.cleared_by.clear()
        self.n_fast = self.n_alike = 0


class Health:
    """What is known of each slot, and of the failures of each job that is not final yet."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        """Replay the events of a study."""
        self._places: dict[str, _Place] = {}
        self._failures: dict[int, list[_Failure]] = {}
        self._running: dict[int, JobStarted] = {}
        self._quarantined: dict[str, SlotQuarantined] = {}
        #: how jobs failed at two places, one of which runs jobs well
        self._own_kinds: set[tuple[Outcome, str]] = set()
        #: the machine whose places these are
        self._host: str | None = None
        for event in events:
            self.see(event)

    @property
    def quarantined(self) -> Mapping[str, SlotQuarantined]:
        """The places in quarantine, by name."""
        return self._quarantined

    def held_back(self, now: float) -> dict[str, float]:
        """Places that failed so many jobs in a row within seconds that the next one waits for the others.

        What runs elsewhere will tell whose fault it was; while nothing runs there, nothing is waited for. And
        not for ever, since jobs elsewhere may be long: now and then such a place gets another job.

        Args:
            now: Unix seconds.

        Returns:
            Name of the place -> until when at most, Unix seconds.
        """
        where = {place_of(started.slot) for started in self._running.values()}
        return {
            name: place.held_until_at
            for name, place in self._places.items()
            if place.looks_like_a_black_hole
            and name not in self._quarantined
            and where - {name}
            # a clock that was set back must not hold anything
            and place.failed_at <= now < place.held_until_at
        }

    def is_retried(self, started: JobStarted, ended: JobEnded, *, retries: int) -> bool:
        """Whether a failure is not the last word on its job: the same job is tried again.

        A failure is final when the job failed in the same way before, as often as `retries` says. What fails
        in another way each time may have met two different bad slots: it gets as many tries more, and no
        further. Failures in seconds on slots that never ran a job well, while others do, prove nothing: the
        job is tried again until it has met a slot that does, or all those are in quarantine.

        Args:
            started: the attempt, not yet ended for `see`.
            ended: how it ended.
            retries: how often a job may be tried again; 0: every failure is final.
        """
        if not ended.outcome.may_be_retried or retries == 0:
            return False
        before = self._failures.get(started.job, [])
        n_same = sum(failure.kind == _kind(ended) for failure in before)
        if n_same < retries and len(before) < 2 * retries:
            return True
        return len(before) < 2 * retries + N_EATEN and self._is_unproven(started, ended, before)

    def see(self, event: Event) -> None:
        """Take in what happened."""
        match event:
            case SearchStarted():
                if self._host not in (None, event.host):
                    self._places.clear()  # a GPU of the same number, but another one
                    self._quarantined.clear()
                self._host = event.host
            case JobStarted():
                self._running[event.job] = event
            case JobEnded():
                started = self._running.pop(event.job, None)
                if started is not None and started.several_gpus:
                    self._see_end_on_several(started, event)
                elif started is not None:
                    self._see_end(started, event)
            case SlotQuarantined():
                self._quarantined[event.slot] = event
                self._place(event.slot).has_succeeded = False  # it has to prove itself anew
            case SlotReleased():
                self._quarantined.pop(event.slot, None)
                self._place(event.slot).begin_anew()
            case _:
                pass

    def changes(
        self, names: Sequence[str], *, now: float, quarantine_s: float
    ) -> list[SlotQuarantined | SlotReleased]:
        """What must change now: places that go into quarantine, or are given back. Not yet seen.

        Args:
            names: the slots that this search may use; the last of their places is never quarantined.
            now: Unix seconds.
            quarantine_s: how long a quarantine lasts.
        """
        changes: list[SlotQuarantined | SlotReleased] = []
        for name, quarantine in self._quarantined.items():
            place = self._place(name)
            if now >= quarantine.until_at:
                changes.append(SlotReleased(now, name, "its quarantine is over"))
            elif len(place.cleared_by) >= N_STRIKES:
                jobs = ", ".join(map(str, sorted(place.cleared_by)))
                changes.append(SlotReleased(now, name, f"the jobs {jobs} failed elsewhere in the same way"))
        places = dict.fromkeys(map(place_of, names))
        n_left = sum(name not in self._quarantined for name in places)
        if places and n_left == 0 and not any(change.slot in places for change in changes):
            # an earlier search had more slots, or a GPU was lost since
            first = min(places, key=lambda name: self._quarantined[name].until_at)
            changes.append(SlotReleased(now, first, "no other slot is left"))
        for name in places:
            if name in self._quarantined or n_left <= 1:
                continue
            reason = self._why_bad(name)
            if reason:
                changes.append(SlotQuarantined(now, name, now + quarantine_s, reason))
                n_left -= 1
        return changes

    def _see_end(self, started: JobStarted, ended: JobEnded) -> None:
        where = place_of(started.slot)
        place = self._place(where)
        elsewhere = [
            (failure, self._place(failure.place))
            for failure in self._failures.get(started.job, [])
            if failure.place != where
        ]
        if ended.outcome is Outcome.LOSS:
            place.begin_anew()
            place.has_succeeded = True
            for _, other in elsewhere:
                if started.job in other.failed:
                    other.strikes.add(started.job)
        elif ended.outcome.may_be_retried:
            for failure, other in elsewhere:
                # only a place that runs jobs well can say that the job is to blame
                if failure.kind == _kind(ended) and place.has_succeeded:
                    self._own_kinds.add(_kind(ended))
                    if started.job in other.failed:
                        other.cleared_by.add(started.job)
            # where jobs ran well before, a failure that is the last word on its job is the job's own
            is_own = place.has_succeeded and not ended.retry
            if ended.outcome is not Outcome.OUT_OF_MEMORY and not is_own:
                is_fast = self._looks_like_a_place(place, ended)
                place.note_failure(started.job, _kind(ended), ended.at, is_fast=is_fast)
            self._failures.setdefault(started.job, []).append(_Failure(where, _kind(ended)))
        elif ended.outcome.is_final and ended.outcome is not Outcome.CANCELLED:
            place.n_fast = place.n_alike = 0  # it trained for a while, or printed a number: jobs run here
        if ended.outcome.is_final and not ended.retry:
            self._failures.pop(started.job, None)

    def _looks_like_a_place(self, place: _Place, ended: JobEnded) -> bool:
        """Whether a failure in seconds speaks against a place: jobs do not fail in this way everywhere."""
        return _is_fast(ended) and not (place.has_succeeded and _kind(ended) in self._own_kinds)

    def _see_end_on_several(self, started: JobStarted, ended: JobEnded) -> None:
        """Count a failure for its job alone: which of the GPUs may be at fault cannot be told."""
        if ended.outcome.may_be_retried:
            self._failures.setdefault(started.job, []).append(_Failure(started.slot, _kind(ended)))
        if ended.outcome.is_final and not ended.retry:
            self._failures.pop(started.job, None)

    def _why_bad(self, name: str) -> str:
        place = self._place(name)
        if len(place.strikes) >= N_STRIKES:
            jobs = ", ".join(map(str, sorted(place.strikes)))
            return f"the jobs {jobs} failed here and succeeded elsewhere"
        if place.looks_like_a_black_hole and self._others_succeed(name):
            jobs = ", ".join(map(str, place.failed[-N_EATEN:]))
            return f"the jobs {jobs} failed here within {FAST_S:g} s each, while other slots succeed"
        return ""

    def _is_unproven(self, started: JobStarted, ended: JobEnded, before: Sequence[_Failure]) -> bool:
        """True if the job failed within seconds, and nothing ever succeeded where it did, but elsewhere."""
        where = {place_of(started.slot), *(failure.place for failure in before)}
        return (
            not started.several_gpus
            and ended.outcome is not Outcome.OUT_OF_MEMORY
            and _is_fast(ended)
            and not any(self._place(name).has_succeeded for name in where)
            and any(place.has_succeeded for place in self._places.values())
        )

    def _others_succeed(self, name: str) -> bool:
        return any(place.has_succeeded for other, place in self._places.items() if other != name)

    def _place(self, name: str) -> _Place:
        return self._places.setdefault(name, _Place())


def _kind(ended: JobEnded) -> tuple[Outcome, str]:
    return ended.outcome, ended.fingerprint


def _is_fast(ended: JobEnded) -> bool:
    return ended.ended_at - ended.started_at < FAST_S
