"""The guide as the search sees it: tell it what happens, give it draws of the sampler, take its proposals.

Owns the process that computes (server.py) and the talk with it; never waits for it. Must not know the script,
the journal or the loop.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hyperband.search.events import Event

#: what `get_config` makes of an id, nested or flat; None: it refused this id, and nothing is known of it
Config: TypeAlias = Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A config id that the model ranks best for the next new trial."""

    config_id: str
    #: how many losses and failures the model had seen, those of other studies included
    n_observations: int


@dataclass(frozen=True, slots=True)
class NeedCandidates:
    """The guide could use so many more draws of the sampler than it was offered, whatever it said before."""

    n: int


@dataclass(frozen=True, slots=True)
class NeedConfigs:
    """The guide wants `describe` for these ids of trials, which were not among the draws."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeaturesRead:
    """What the guide reads from the draws; said when it is known, and again when it changes."""

    #: none where nothing that varies is recognised: then every trial is a random draw
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A line for people: the guide's process was started again, or is gone for good, or its model failed."""

    text: str


News: TypeAlias = NeedCandidates | NeedConfigs | FeaturesRead | Note


class Guide:
    """Proposals of a model that learns in a process of its own. Nothing here waits.

    The search says what it knows (`tell`, `learn`, `offer`, `describe`), calls `receive` whenever `fileno` is
    readable, and takes a proposal if one is there. Whatever becomes of the process, no error comes from here:
    it is told as a Note, and there are no proposals then.
    """

    def __init__(self, *, max_epochs: int, seed: int, log: Path, n_ready: int) -> None:
        """Start the process.

        Args:
            max_epochs: of a full training.
            seed: of the search.
            log: file for what the process says when something goes wrong; appended to, made at need.
            n_ready: how many proposals are to be ready: about as many as new trials may start at once.
        """
        raise NotImplementedError

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do; the same until `close`."""
        raise NotImplementedError

    def tell(self, event: Event) -> None:
        """Take in an event of this study: all of them, in order, those of the journal at the start first."""
        raise NotImplementedError

    def learn(self, events: Iterable[Event]) -> None:
        """Take in another study's events: what became of its trials feeds the model."""
        raise NotImplementedError

    def offer(self, ids: Sequence[str], configs: Sequence[Config] | None, *, is_last: bool = False) -> None:
        """Give draws of the sampler, in order and repeats included: the candidates for proposals.

        Args:
            ids: the draws.
            configs: what `get_config` makes of each; None: the script has none, and the ids are read.
            is_last: the sampler gives no further distinct id; the guide asks for no more.
        """
        raise NotImplementedError

    def describe(self, ids: Sequence[str], configs: Sequence[Config] | None) -> None:
        """Say what ids of trials mean that are no candidates; `configs` as in `offer`."""
        raise NotImplementedError

    def want(self, n_ready: int) -> None:
        """Change how many proposals are to be ready."""
        raise NotImplementedError

    def receive(self) -> list[News]:
        """Send and take in what is possible without waiting; what the search must know or do."""
        raise NotImplementedError

    def take(self, used: Container[str]) -> Proposal | None:
        """The best proposal that is ready, and no longer ready then; None: there is none.

        Args:
            used: ids that trials have; they are passed over.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the process; a second call does nothing."""
        raise NotImplementedError
