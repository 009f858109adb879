"""When attempts began that had to wait for it: what the journal knows and the engine has no use for.

On a cluster a start is an order: it may wait in a queue before it begins, or never begin. Owns the two kinds
of entries that say so, and what they come to. Must not know: who waits for what, or why.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hyperband.search.events import Event, JobStarted, SearchStarted

#: number of a job and of an attempt at it
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class StartsMayWait:
    """From here on, until the next SearchStarted, a JobStarted is an order; a JobBegan says when it began."""

    at: float


@dataclass(frozen=True, slots=True)
class JobBegan:
    """An attempt that may have waited has begun."""

    #: Unix seconds, by the search's clock
    at: float
    job: int
    attempt: int


#: all that a journal stores
Entry = Event | StartsMayWait | JobBegan


@dataclass(slots=True)
class Beginnings:
    """Which attempts were only ordered when they were journalled, and when they began."""

    ordered: set[Key] = field(default_factory=set)
    #: Unix seconds
    began_at: dict[Key, float] = field(default_factory=dict)
    _may_wait: bool = False

    def when(self, started: JobStarted) -> float | None:
        """Return when an attempt began, Unix seconds; None: it is not known to have begun."""
        key = started.job, started.attempt
        return self.began_at.get(key) if key in self.ordered else started.at

    def hear(self, entries: Iterable[Entry]) -> list[Event]:
        """Take in what a journal stores, in order; return what is an event of the search."""
        events: list[Event] = []
        for entry in entries:
            match entry:
                case StartsMayWait():
                    self._may_wait = True
                    continue
                case JobBegan():
                    self.began_at[entry.job, entry.attempt] = entry.at
                    continue
                case SearchStarted():
                    self._may_wait = False
                case JobStarted() if self._may_wait:
                    self.ordered.add((entry.job, entry.attempt))
                case _:
                    pass
            events.append(entry)
        return events


@dataclass(frozen=True, slots=True)
class StudyRead:
    """What a journal holds."""

    #: in order
    events: list[Event]
    beginnings: Beginnings
