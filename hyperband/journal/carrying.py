"""The files of a journal, carried from folder to folder, each whole at every moment.

Owns which files those are, and in which order they go. Must not know: whose they are, or when that is done.
"""

import contextlib
import os
import shutil
from pathlib import Path

from hyperband.folder import COPY_FILE, JOURNAL_FILE, RESTORED_FILE

#: what is taken along: the newest of it last
_LOGS = (f"{JOURNAL_FILE}-wal", f"{JOURNAL_FILE}-journal")
_FILES = (RESTORED_FILE, COPY_FILE, *_LOGS, JOURNAL_FILE)
_CHUNK_BYTES = 1 << 20


def carry_all(source: Path, target: Path) -> None:
    """Make the journal in a folder the same as that in another.

    Raises:
        OSError: a file cannot be read or written.
    """
    for name in _FILES:
        _carry(source / name, target / name)


def carry_copy(snapshot: Path, study: Path) -> None:
    """Put a whole copy of the journal into the place of the one in the study's folder."""
    for log in _LOGS:
        # what a killed search left there is of the one before: SQLite would play it over this one
        (study / log).unlink(missing_ok=True)
    _carry(snapshot, study / JOURNAL_FILE)


def signature(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return what tells whether the journal's files in a folder were replaced or written to."""
    found = []
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError):
            about = (folder / name).stat()
            found.append((name, about.st_ino, about.st_size, about.st_mtime_ns))
    return found


def _carry(source: Path, target: Path) -> None:
    """Make a file the same as another one, whole at every moment; where that is not there, remove it."""
    if not source.exists():
        target.unlink(missing_ok=True)
        return
    beside = target.with_name(f"{target.name}.new")
    with source.open("rb") as reader, beside.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
        writer.flush()
        os.fsync(writer.fileno())
    beside.replace(target)
