"""The slots of a Ray cluster that a search has, decided: what Ray's side says, and what jobs do, go in.

Pure: no clock, no process, no Ray. Times are seconds of one monotonic clock, given with each call. Must not
know: whether the cluster can be reached, or how a job is run at a slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hyperband.launch.base import Lease, Slot, Wish
from hyperband.launch.remote.place import Place
from hyperband.launch.remote.slots import Booked
from hyperband.launch.remote.starts import FailedStarts

#: a slot that nothing waits for is given back after so long
IDLE_S = 60.0


@dataclass(slots=True)
class Held:
    """A slot that is there."""

    key: str
    slot: Slot
    #: what runs there; empty: nothing does
    attempt: str
    #: since when nothing does
    free_since_s: float


@dataclass(frozen=True, slots=True)
class Over:
    """An attempt whose keeper has ended, or whose slot has."""

    attempt: str
    #: what was said of it
    said: str


class Holdings:
    """Slots that are there, who has them, and what was lost with one."""

    def __init__(self, max_slots: int | None) -> None:
        """Hold nothing; max_slots: jobs at once, None: as many as there is room for."""
        self._max_slots = max_slots
        self._held: dict[str, Held] = {}
        self._booked = Booked()
        #: which attempt a slot was given, by its name
        self._attempts: dict[str, str] = {}
        self._starts = FailedStarts()
        #: found slots that have not said where they are
        self._unmet: set[str] | None = None
        self._over: list[Over] = []
        self._lost: list[tuple[str, str]] = []
        self._met: list[tuple[str, str]] = []

    # Who has a slot.

    def take(self, wish: Wish, now_s: float) -> Lease | None:
        """Lease a free slot that the wish does not avoid."""
        if self._max_slots is not None and len(self._booked) >= self._max_slots:
            return None
        for held in self._held.values():
            name = held.slot.name
            is_free = not held.attempt and name not in self._booked and name not in wish.avoid
            if is_free and not self._starts.are_held_back(_place(held.key), now_s):
                return self._booked.book(Lease(held.slot, ()))
        return None

    def adopt(self, name: str) -> Lease:
        """Count a slot as used by a job of an earlier search, also before it was found again.

        Raises:
            InternalError: it is taken.
        """
        return self._booked.book(Lease(Slot(name, (), {}), ()))

    def release(self, name: str, now_s: float) -> None:
        """Count a slot as free.

        Raises:
            InternalError: it was not taken.
        """
        self._booked.free(name)
        self._attempts.pop(name, None)
        for held in self._held.values():
            if held.slot.name == name:
                held.free_since_s = now_s

    def begin(self, name: str, attempt: str) -> None:
        """Hear that a slot that is there was given an attempt."""
        for held in self._held.values():
            if held.slot.name == name:
                held.attempt = attempt
        self._attempts[name] = attempt

    def note_failed_start(self, name: str, words: str, now_s: float) -> str | None:
        """Hear that a job could not be started at a slot; return what fails too often, if anything does."""
        key = self.key_of(name)
        if key is None:
            return None
        self._starts.note(_place(key), words, now_s, is_ending=False)
        return self._starts.judge(lambda place: place.job_id in self._held)

    def note_run(self, name: str) -> None:
        """Hear that a job ran at a slot to its end."""
        if (key := self.key_of(name)) is not None:
            self._starts.forget(_place(key))

    # What Ray's side said.

    def note_found(self, keys: Sequence[str]) -> None:
        """Hear which slots an earlier search left; each is met yet, or is gone."""
        # some have been met already, while others were looked for
        self._unmet = set(keys) - self._held.keys()
        self._settle("")

    def note_slot(self, key: str, slot: Slot, attempt: str, now_s: float) -> None:
        """Hear of a slot that is there, and what runs at it (empty: nothing)."""
        name = slot.name
        self._held[key] = Held(key, slot, attempt, now_s)
        if attempt:
            self._met.append((name, attempt))
        if name in self._booked and name not in self._attempts and not attempt:
            self._lost.append((name, "nothing runs at its slot any more"))
        elif name in self._attempts and self._attempts[name] != attempt:
            self._lost.append((name, "nothing of it runs at its slot any more"))
        self._settle(key)

    def note_gone(self, key: str, words: str) -> str | None:
        """Hear that a slot has ended; return its name, None if it was not there."""
        held = self._held.pop(key, None)
        if held is not None and held.slot.name in self._booked:
            self._lost.append((held.slot.name, f"its slot is gone from Ray: {words}"))
        self._settle(key)
        return None if held is None else held.slot.name

    def note_over(self, attempt: str, said: str, now_s: float) -> None:
        """Hear that the keeper of an attempt has ended."""
        for held in self._held.values():
            if held.attempt == attempt:
                held.attempt = ""
                held.free_since_s = now_s
        self._over.append(Over(attempt, said))

    def note_away(self) -> None:
        """Hear that Ray's side has ended: jobs go on as long as their slots do, of which nothing is known."""
        self._held.clear()
        self._unmet = None
        self._lost.append(("", "Ray's side of the search ended before it was begun"))

    # What can be read.

    def names(self) -> tuple[str, ...]:
        """Every slot that is there."""
        return tuple(held.slot.name for held in self._held.values())

    def key_of(self, name: str) -> str | None:
        """Return what Ray's side calls a slot; None: it is not there."""
        return next((held.key for held in self._held.values() if held.slot.name == name), None)

    def n_wanted(self, n_waiting: int) -> int:
        """How many slots can be used, while so many jobs wait for one."""
        n_wanted = len(self._booked) + n_waiting
        return n_wanted if self._max_slots is None else min(n_wanted, self._max_slots)

    def surplus_in_s(self, now_s: float) -> float | None:
        """Seconds until a slot is to be given back if no job waits; None: none is idle."""
        waits_s = [held.free_since_s + IDLE_S - now_s for held in self._idle()]
        return max(0.0, min(waits_s)) if waits_s else None

    def held_back_s(self, now_s: float) -> float | None:
        """Seconds until a slot may be free at which a start failed; None: there is none."""
        return self._starts.wait_s(now_s)

    def why_held_back(self, now_s: float) -> str:
        """Why nothing is started, if that is a pause after a start that failed; else empty."""
        return self._starts.words(now_s)

    # What is taken from here.

    def drop(self, name: str) -> str | None:
        """Take a slot out that is not to be used any more; return what Ray's side calls it."""
        if (key := self.key_of(name)) is not None:
            del self._held[key]
        return key

    def give_up_surplus(self, now_s: float) -> list[Held]:
        """Take out the slots that have been idle for long, while no job waits."""
        found = [held for held in self._idle() if now_s >= held.free_since_s + IDLE_S]
        for held in found:
            del self._held[held.key]
        return found

    def give_up_beyond(self) -> list[Held]:
        """Take out idle slots of an earlier start that are more than there may be now."""
        n_beyond = 0 if self._max_slots is None else len(self._held) - self._max_slots
        found = self._idle()[: max(0, n_beyond)]
        for held in found:
            del self._held[held.key]
        return found

    def take_over(self) -> list[Over]:
        """Return the attempts whose keepers ended since the last call."""
        over, self._over = self._over, []
        return over

    def take_lost(self) -> list[tuple[str, str]]:
        """Return the names of taken slots that were lost since the last call, and how.

        With an empty name: what was on its way to any slot may have been lost.
        """
        lost, self._lost = self._lost, []
        return lost

    def take_met(self) -> list[tuple[str, str]]:
        """Return the names of slots that were found since the last call with an attempt there, and which."""
        met, self._met = self._met, []
        return met

    def _settle(self, key: str) -> None:
        """When all slots of an earlier time were met, those that are missing are lost."""
        if self._unmet is None:
            return
        self._unmet.discard(key)
        if not self._unmet:
            self._unmet = None
            there = set(self.names())
            self._lost += [(name, "its slot is gone from Ray") for name in self._booked if name not in there]

    def _idle(self) -> list[Held]:
        booked = self._booked
        return [held for held in self._held.values() if not held.attempt and held.slot.name not in booked]


def _place(key: str) -> Place:
    """Return what failed starts are counted by."""
    return Place(key, "", 0)
