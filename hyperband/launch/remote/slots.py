"""Slots on other machines: what is alike whichever engine gives them.

Owns who has which slot, by name, and what nobody can do with a GPU that is elsewhere. Must not know: which
slots there are, or how a job gets onto one.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator

from hyperband.errors import HyperbandError, InternalError, MachineError
from hyperband.launch.base import Lease, Observation, Slots


class Booked:
    """The slots that are taken, also those of which nothing was heard yet. Pure."""

    def __init__(self) -> None:
        """Nothing is taken."""
        self._leases: dict[str, Lease] = {}

    def __contains__(self, name: str) -> bool:
        """Return whether a slot of this name is taken."""
        return name in self._leases

    def __iter__(self) -> Iterator[str]:
        """Go through their names, in the order in which they were taken."""
        return iter(self._leases)

    def __len__(self) -> int:
        """Return how many are taken."""
        return len(self._leases)

    def book(self, lease: Lease) -> Lease:
        """Count a slot as taken; return its lease.

        Raises:
            InternalError: it is taken.
        """
        name = lease.slot.name
        if name in self._leases:
            raise InternalError(f"Slot {name} was given twice. This is a bug of ours: please report it.")
        self._leases[name] = lease
        return lease

    def free(self, name: str) -> None:
        """Count a slot as free.

        Raises:
            InternalError: it was not taken.
        """
        if self._leases.pop(name, None) is None:
            raise InternalError(f"Slot {name} was released but not taken: please report it.")


class RemoteSlots(Slots):
    """Slots of an engine. `open` first; of those that are not open only `describe` and `n_slots`."""

    def __init__(self) -> None:
        """Have nothing to tell yet."""
        self._news: list[str] = []
        self._failure: HyperbandError | None = None

    # What the search asks of slots.

    def take_all(self, avoid: frozenset[str] = frozenset()) -> Lease | None:  # noqa: ARG002
        """Never: what a job has of its node's GPUs is for what was asked of the engine to say."""
        return None

    def observe(self, lease: Lease, belongs: Callable[[int], bool]) -> Observation:  # noqa: ARG002
        """Nothing: its GPU is on another machine."""
        return Observation()

    def is_lost(self, lease: Lease) -> bool:  # noqa: ARG002 (of a GPU on another machine its job tells)
        """False."""
        return False

    def news(self) -> tuple[str, ...]:
        """What happened since the last call."""
        news, self._news = self._news, []
        return tuple(news)

    # What the grounds ask.

    @property
    def failure(self) -> HyperbandError | None:
        """Why there will be no slots any more."""
        return self._failure

    @abstractmethod
    def heed(self) -> None:
        """Take in what the engine said.

        Raises:
            InternalError, MachineError: whoever talks to it cannot go on.
        """

    @abstractmethod
    def wait_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing is said; None: never."""

    @abstractmethod
    def why_waiting(self) -> str:
        """Return why jobs that were started, or could be, wait for the engine; empty: none does."""

    @abstractmethod
    def end(self) -> list[str]:
        """Give everything back, and see its end begin; return what must be said if that fails."""

    @abstractmethod
    def close(self) -> None:
        """Ask nothing more; jobs go on."""

    def _fail(self, words: str) -> None:
        """Have the search end; what was found first is what is told."""
        self._failure = self._failure or MachineError(words)
