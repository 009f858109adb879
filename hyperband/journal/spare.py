"""Places of a study's journal that somebody left who was killed while it moved: found, and removed.

Owns the mark on a place in which nothing stands that is not in the study's folder as well, as long as the
journal is on its way out or back. Without the mark a place may hold the only journal, and is left alone. Must
not know: how a journal moves (home.py).
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

from hyperband.errors import StudyBusyError
from hyperband.folder import LOCK_FILE, holder, lock_study, unlock_study
from hyperband.journal.place import Place
from hyperband.machine.claim import write_whole

#: in a place: the study's folder, which has all that is here
_MARK_FILE = "spare"
#: what the name of a place ends with that is being removed
_OVER = ".over"
#: a place in which nothing is: somebody may be about to make one of it for so long
EMPTY_FOR_S = 600.0


def mark(place: Path, study: Path) -> None:
    """Note that the study's folder has all that is in this place; hold its lock.

    Raises:
        OSError: the place cannot be written to.
    """
    write_whole(str(place), _MARK_FILE, os.fsencode(study))


def unmark(place: Path) -> None:
    """Note that from now on something may be in this place alone; hold its lock.

    Raises:
        OSError: the place cannot be written to.
    """
    (place / _MARK_FILE).unlink(missing_ok=True)


def remove(place: Path) -> None:
    """Remove a place that is of no use any more; what is left of it when we are killed is removed later.

    Raises:
        OSError: it stays.
    """
    over = place.with_name(f"{place.name}{_OVER}")
    place.rename(over)
    # what cannot be removed is nobody's journal any more, and is tried again by whoever comes next
    shutil.rmtree(over, ignore_errors=True)


def sweep(base: Path, name: str, study: Path) -> None:
    """Remove the places of a study that were left and are certain to hold nothing of their own.

    Args:
        base: the folder of all places.
        name: what those of the study begin with.
        study: its folder.
    """
    for path in base.glob(f"{name}-*"):
        if path.name.endswith(_OVER):
            shutil.rmtree(path, ignore_errors=True)
        else:
            # another file system, or another user's: it is no journal that we go on with
            with contextlib.suppress(OSError, StudyBusyError):
                _remove_if_spare(path, study)


def _remove_if_spare(path: Path, study: Path) -> None:
    if not _is_marked(path, study):
        if set(os.listdir(path)) <= {LOCK_FILE} and time.time() - path.stat().st_mtime >= EMPTY_FOR_S:  # noqa: PTH208
            (path / LOCK_FILE).unlink(missing_ok=True)
            path.rmdir()
        return
    if holder(path) is not None:
        return
    lock = lock_study(path, study=study)
    try:
        now = Place.read(study)
        if _is_marked(path, study) and (now is None or now.path != path):
            remove(path)
    finally:
        unlock_study(lock)


def _is_marked(path: Path, study: Path) -> bool:
    try:
        return (path / _MARK_FILE).read_bytes() == os.fsencode(study)
    except FileNotFoundError:
        return False
