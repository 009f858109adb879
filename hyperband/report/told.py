"""What a study's events say that its engine has no use for: starts and ends by the clock, sources, slots.

Owns the reading of single events for reports. Decides nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from hyperband.search.decisions import Decision, RungAdded
from hyperband.search.events import (
    CheckpointsRemoved,
    Event,
    IdProposed,
    IdsDrawn,
    IdSource,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    SlotQuarantined,
    SlotReleased,
    SpaceExhausted,
    StudyCreated,
)


@dataclass(frozen=True, slots=True)
class Span:
    """The time for which one process wrote a study, Unix seconds."""

    began_at: float
    #: of a process that was killed when it was last seen to do anything; None while it runs
    ended_at: float | None


class Told:
    """What the events say that the engine has no use for."""

    def __init__(self, moments_at: Iterable[float] = ()) -> None:
        """Nothing was told yet; moments_at: when its searches did what is no event, Unix seconds."""
        self._moments_at = tuple(moments_at)
        self.created: StudyCreated | None = None
        self.has_plan = False
        #: by trial
        self.sources: list[IdSource] = []
        self.search_started: SearchStarted | None = None
        #: None again once another process began to write
        self.search_ended: SearchEnded | None = None
        #: both by (job, attempt), in order of starting
        self.job_starts: dict[tuple[int, int], JobStarted] = {}
        self.job_ends: dict[tuple[int, int], JobEnded] = {}
        #: of the start of the search under which each job began, by (job, attempt)
        self.job_settings: dict[tuple[int, int], Mapping[str, object]] = {}
        #: by slot
        self.quarantined: dict[str, SlotQuarantined] = {}
        self.checkpoints_freed_bytes = 0
        #: the highest rung that was added to those of the beginning
        self.rung_added: int | None = None
        #: what processes wrote that ended, or that another one followed
        self._spans: list[Span] = []
        #: when the latest one began
        self._began_at = 0.0
        #: and the last event that it wrote
        self._last_at = 0.0
        #: what came last is an end that no living search saw
        self._is_afterwards = False
        self.learns_from: tuple[str, ...] = ()
        #: of all starts, in order, each once
        self.lessons: dict[str, None] = {}

    def spans(self, *, running: bool) -> tuple[Span, ...]:
        """The times for which processes wrote the study; `running`: the latest one still does."""
        if self.search_started is None or self.search_ended is not None:
            return tuple(self._spans)
        return (*self._spans, Span(self._began_at, None if running else self.last_seen_at()))

    def last_seen_at(self, before: float = float("inf")) -> float:
        """When the latest process, which another one followed then, last did anything; Unix seconds."""
        return max([self._last_at, *(at for at in self._moments_at if self._last_at < at < before)])

    def _start(self, event: SearchStarted) -> None:
        if self.search_started is not None:
            if self.search_ended is None:
                self._spans.append(Span(self._began_at, self.last_seen_at(event.at)))
            if self.search_started.host != event.host:
                self.quarantined.clear()  # slots of another machine
        self.search_started, self.search_ended = event, None
        self._began_at = event.at
        folders = event.settings.get("learn_from")
        self.learns_from = tuple(map(str, folders)) if isinstance(folders, (list, tuple)) else ()
        self.lessons.update(dict.fromkeys(self.learns_from))

    def heed(self, decisions: Iterable[Decision]) -> None:
        """Take in what the engine made of an event."""
        for decision in decisions:
            if isinstance(decision, RungAdded):
                self.rung_added = decision.rung

    def hear(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case StudyCreated():
                self.created = event
            case PlanMade():
                self.has_plan = True
            case SearchStarted():
                self._start(event)
            case SearchEnded():
                self.search_ended = event
                # of a search that was killed `stop` writes the end, perhaps days later
                self._spans.append(
                    Span(self._began_at, self.last_seen_at(event.at) if self._is_afterwards else event.at)
                )
            case JobStarted():
                self.job_starts[event.job, event.attempt] = event
                if self.search_started is not None:
                    self.job_settings[event.job, event.attempt] = self.search_started.settings
            case JobEnded():
                self.job_ends[event.job, event.attempt] = event
            case IdsDrawn():
                n_given = 0 if self.created is None else len(self.created.start_with_ids)
                is_given = event.first + len(event.ids) <= n_given
                self.sources += [IdSource.START_WITH if is_given else IdSource.RANDOM] * len(event.ids)
            case IdProposed():
                self.sources.append(event.source)
            case SpaceExhausted():
                pass  # the engine's trials and plan have it
            case SlotQuarantined():
                self.quarantined[event.slot] = event
            case SlotReleased():
                self.quarantined.pop(event.slot, None)
            case CheckpointsRemoved():
                self.checkpoints_freed_bytes += event.n_bytes
            case _:
                assert_never(event)
        self._is_afterwards = isinstance(event, JobEnded) and not event.search_alive
        if not self._is_afterwards:
            self._last_at = getattr(event, "at", self._last_at)
