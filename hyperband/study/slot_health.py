"""Slots that fail jobs which succeed elsewhere: put into quarantine, given back in time or by hand.

Owns when that is looked at. Whose fault a failure is follows from the events (search/health.py).
"""

import time
from pathlib import Path

from hyperband.launch.base import Slots
from hyperband.search.events import Event, SlotQuarantined, SlotReleased
from hyperband.search.health import Health
from hyperband.study.quarantine import ALL_SLOTS, take_release_request
from hyperband.study.unsaid import Unsaid
from hyperband.study.wake import Wake


class SlotHealth:
    """The quarantine of one search. One owner: its loop."""

    def __init__(
        self, health: Health, *, folder: Path, slots: Slots, wake: Wake, unsaid: Unsaid, quarantine_s: float
    ) -> None:
        """Put the parts together.

        Args:
            health: the fold that decides; is fed here with what follows.
            folder: of the study, where requests by hand are.
            slots: all of them.
            wake: knows that there is a request.
            unsaid: gets what is to be said.
            quarantine_s: for how long a slot is not used.
        """
        self._health = health
        self._folder = folder
        self._slots = slots
        self._wake = wake
        self._unsaid = unsaid
        self._quarantine_s = quarantine_s
        #: places of which it was said that their next job waits
        self._held: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether there may be something to do although no job ended."""
        return self._wake.release_asked or bool(self._health.quarantined)

    def heed(self, events: list[Event]) -> None:
        """Put slots into quarantine, or give them back; events: gets what is to be journalled."""
        if self._wake.release_asked:
            self._wake.release_asked = False
            wanted = take_release_request(self._folder)
            released = [name for name in self._health.quarantined if wanted in (name, ALL_SLOTS)]
            for name in released:
                self._note(SlotReleased(time.time(), name, "by hand"), events)
        while changes := self._health.changes(
            self._slots.names(), now=time.time(), quarantine_s=self._quarantine_s
        ):
            for change in changes:
                self._note(change, events)
        held = set(self._health.held_back(time.time()))
        self._unsaid.add_held(sorted(held - self._held))
        self._held = held

    def next_look_s(self) -> float | None:
        """Return seconds until a quarantine is over; None: there is none."""
        waits_s = [slot.until_at - time.time() for slot in self._health.quarantined.values()]
        return min(waits_s, default=None)

    def _note(self, change: SlotQuarantined | SlotReleased, events: list[Event]) -> None:
        self._health.see(change)
        events.append(change)
        self._unsaid.add_slot(change)
