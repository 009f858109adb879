"""What the search and the guide's process say to each other: JSON lines, one message each.

Owns the form alone. Every message that the search sends is a part of what it knows, so that a new process
which hears all of them again knows the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from hyperband.script.config import Value
from hyperband.search.guide import History

#: what `get_config` makes of an id, flat; None: it refused this id, and nothing is known of it
Config: TypeAlias = Mapping[str, Value] | None

#: a message holds so many ids or observations at most, so that none makes the other side wait for long
_PART = 2048


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message."""

    max_epochs: int
    seed: int


@dataclass(frozen=True, slots=True)
class Ids:
    """Config ids of a study's next trials; study 0 is this one, others are those that it learns from."""

    study: int
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Observations:
    """What jobs of a study came to, column by column; their trials have their ids already."""

    study: int
    trials: Sequence[int]
    epochs: Sequence[int]
    #: None: failed for good
    losses: Sequence[float | None]
    #: None: unknown
    seconds_per_epoch: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Running:
    """Every job of this study that runs now."""

    trials: Sequence[int]
    #: the total number of epochs that each trains to
    epochs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Draws:
    """Draws of the sampler, in order and repeats included."""

    ids: Sequence[str]
    #: None: the script has no `get_config`
    configs: Sequence[Config] | None
    #: there are no further distinct ids
    is_last: bool


@dataclass(frozen=True, slots=True)
class Descriptions:
    """What ids mean that are not among the draws."""

    ids: Sequence[str]
    configs: Sequence[Config] | None


@dataclass(frozen=True, slots=True)
class Want:
    """How many proposals are to be ready."""

    n_ready: int


#: what the search says
Told: TypeAlias = Begin | Ids | Observations | Running | Draws | Descriptions | Want


@dataclass(frozen=True, slots=True)
class Proposals:
    """Ids for the next new trials, best first, in place of those before."""

    ids: Sequence[str]
    n_observations: int


@dataclass(frozen=True, slots=True)
class WantDraws:
    """So many draws are wanted in all, from this process's begin on: a sum, so that none is asked twice."""

    n_in_all: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """Ids of trials whose configurations the process does not know."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Features:
    """Names of what is read from the draws; none: nothing that varies is recognised."""

    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Broken:
    """An error of ours ended the process; its log has the whole of it."""

    error: str


#: what the guide's process says
Answer: TypeAlias = Proposals | WantDraws | Unknown | Features | Broken

_TOLD = {kind.__name__: kind for kind in (Begin, Ids, Observations, Running, Draws, Descriptions, Want)}
_ANSWERS = {kind.__name__: kind for kind in (Proposals, WantDraws, Unknown, Features, Broken)}


def pack(message: Told | Answer) -> bytes:
    """The line that says this."""
    values = [getattr(message, field.name) for field in fields(message)]
    return (json.dumps([type(message).__name__, *values]) + "\n").encode("ascii")


def unpack_told(line: bytes) -> Told:
    """The message of the search that a line says."""
    name, *values = json.loads(line)
    return _TOLD[name](*values)


def unpack_answer(line: bytes) -> Answer:
    """The message of the guide's process that a line says."""
    name, *values = json.loads(line)
    return _ANSWERS[name](*values)


class Lines:
    """Cuts what comes in into lines; one that comes in many parts is put together once."""

    def __init__(self) -> None:
        """Nothing has come in."""
        self._parts: list[bytes] = []

    def cut(self, part: bytes) -> list[bytes]:
        """Take in the next part; the lines that are complete."""
        if b"\n" not in part:
            self._parts.append(part)
            return []
        *lines, rest = b"".join([*self._parts, part]).split(b"\n")
        self._parts = [rest]
        return lines


class Teller:
    """Tells what a history has more than was told before: made anew, it tells all of it."""

    def __init__(self, history: History, study: int) -> None:
        """Nothing is told; `study` is its number in the messages."""
        self._history = history
        self._study = study
        self._n_ids = 0
        self._n_observations = 0
        #: job numbers that were told to run
        self._running: tuple[int, ...] = ()

    @property
    def has_more(self) -> bool:
        """Whether there is something to tell."""
        history = self._history
        return (
            self._n_ids < len(history.ids)
            or self._n_observations < len(history)
            or (self._study == 0 and self._running != tuple(history.running))
        )

    def tell(self) -> Iterator[Ids | Observations | Running]:
        """Everything that is new."""
        while self.has_more:
            yield self.next_part()

    def next_part(self) -> Ids | Observations | Running:
        """The next of what is new; there must be more."""
        history = self._history
        if self._n_ids < len(history.ids):
            ids = history.ids[self._n_ids : self._n_ids + _PART]
            self._n_ids += len(ids)
            return Ids(self._study, ids)
        if self._n_observations < len(history):
            return self._observations()
        jobs = list(history.running.values())
        self._running = tuple(history.running)
        return Running([job.trial for job in jobs], [job.epochs for job in jobs])

    def _observations(self) -> Observations:
        end = min(self._n_observations + _PART, len(self._history))
        found = [self._history.observation(index) for index in range(self._n_observations, end)]
        self._n_observations = end
        return Observations(
            self._study,
            [one.trial for one in found],
            [one.epochs for one in found],
            [one.loss for one in found],
            [one.seconds_per_epoch for one in found],
        )
