"""Giving a slot back by hand: `hyperband slots --release` asks, and the search that writes the study does it.

Owns the request file in the study's folder, and the way without a search.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from hyperband.errors import MachineError, UsageError
from hyperband.folder import RELEASE_FILE
from hyperband.journal import Journal, read_events, writer_of
from hyperband.search.events import SlotReleased
from hyperband.search.health import Health, place_of

#: what stands for every slot in quarantine
ALL_SLOTS = "all"
#: wakes the loop of a search
RELEASE_SIGNAL = signal.SIGUSR1


def release(folder: Path, wanted: str) -> str:
    """Give back a slot of a study, or all of them; return what was done, in words.

    Raises:
        JournalError: there is no study.
        UsageError: no such slot is in quarantine.
        MachineError: the search runs on another machine or belongs to somebody else.
    """
    wanted = place_of(wanted)
    quarantined = Health(read_events(folder)).quarantined
    names = [name for name in quarantined if wanted in (name, ALL_SLOTS)]
    if not names:
        there = ", ".join(quarantined) or "none is"
        raise UsageError(
            f"--release {wanted}: found no such slot of the study in {folder} in quarantine ({there}); "
            "`hyperband slots` with the study's folder alone lists them."
        )
    search = writer_of(folder)
    if search is None:
        with contextlib.closing(Journal.open(folder)) as journal:
            journal.append(*(SlotReleased(time.time(), name, "by hand") for name in names), durable=True)
        return f"Given back: {', '.join(names)}."
    if not search.is_here:
        raise MachineError(
            f"the study in {folder} is being written by {search.describe()}; "
            "give the slot back on that machine"
        )
    beside = folder / f"{RELEASE_FILE}.{os.getpid()}"
    try:
        beside.write_text(wanted, encoding="utf-8")
        beside.replace(folder / RELEASE_FILE)
        asked = search.process.signal(RELEASE_SIGNAL)
    except PermissionError as err:
        raise MachineError(
            f"the search ({search.describe()}) belongs to another user and cannot be asked by "
            "you; ask its owner"
        ) from err
    if not asked:  # it ended meanwhile
        take_release_request(folder)
        return release(folder, wanted)
    return f"The search ({search.describe()}) was asked to give back {', '.join(names)}."


def take_release_request(folder: Path) -> str:
    """Return the name of the slot that is to be given back, and remove the request; empty: there is none."""
    path = folder / RELEASE_FILE
    try:
        wanted = path.read_text(encoding="utf-8")
        path.unlink()
    except FileNotFoundError:
        return ""
    return wanted
