"""Asking a search to end whose journal is on another machine: by a file in the study's folder."""

from pathlib import Path

from hyperband.folder import STOP_REQUEST_FILE
from hyperband.journal.place import Place
from hyperband.machine.claim import read_fresh, write_whole


def ask_to_stop(study: Path, place: Place) -> None:
    """Ask whoever has a journal now to end.

    Raises:
        OSError: the study's folder cannot be written to.
    """
    write_whole(str(study), STOP_REQUEST_FILE, _request(place))


def withdraw_stop(study: Path) -> None:
    """Ask nobody any more."""
    (study / STOP_REQUEST_FILE).unlink(missing_ok=True)


def take_stop(study: Path, place: Place) -> bool:
    """Return whether somebody asks us, who have the journal at this place, to end; once.

    Raises:
        OSError: the folder cannot be looked at.
    """
    (data,) = read_fresh(str(study), STOP_REQUEST_FILE)
    if data != _request(place):
        return False  # to a search that was there before us, by somebody who was killed
    (study / STOP_REQUEST_FILE).unlink(missing_ok=True)
    return True


def _request(place: Place) -> bytes:
    writer = place.writer
    return f"{place.token} {writer.pid} {writer.start_ticks} {writer.boot_id}".encode()
