"""Reading a journal: rows become events, checked on the way; and a look at it by those who do not write."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hyperband.errors import JournalError
from hyperband.folder import COPY_FILE, JOURNAL_FILE, has_study
from hyperband.journal.beginnings import Beginnings, StudyRead
from hyperband.journal.copy import Copy, merge
from hyperband.journal.database import DamagedError, Database
from hyperband.journal.place import Place, words_from_elsewhere
from hyperband.journal.rows import Row, checksum, events_of, no_garbage_collection, unreadable
from hyperband.search.events import Event


@dataclass(slots=True)
class Found:
    """What a journal holds."""

    events: list[Event] = field(default_factory=list)
    beginnings: Beginnings = field(default_factory=Beginnings)
    n: int = 0
    #: checksum over all rows
    total: int = 0
    #: checksum over as many rows as were asked for; None if there are fewer
    total_at_mark: int | None = None
    #: words on the first row that is no event that we know; `events` ends before it
    unreadable: str = ""

    def refuse_unreadable(self, folder: Path) -> None:
        """Raise for an event that cannot be read.

        Raises:
            JournalError: there is one.
        """
        if self.unreadable:
            raise JournalError(
                f"{folder / JOURNAL_FILE} cannot be read: {self.unreadable}; restore the folder from a copy, "
                "or move it away and start anew"
            )


def read(batches: Iterable[list[Row]], *, mark: int) -> Found:
    """Read rows, with a checksum after `mark` of them and after all.

    Raises:
        DamagedError, JournalError: from the batches.
    """
    found = Found(total_at_mark=0 if mark == 0 else None)
    with no_garbage_collection():
        for batch in batches:
            n_until_mark = mark - found.n
            if 0 < n_until_mark <= len(batch):
                found.total_at_mark = checksum(batch[:n_until_mark], found.total)
            if not found.unreadable:
                try:
                    found.events += found.beginnings.hear(events_of(batch))
                except (KeyError, TypeError, ValueError):
                    found.unreadable = unreadable(batch, found.n + 1)
            found.total = checksum(batch, found.total)
            found.n += len(batch)
    return found


def read_events(folder: Path, *, say: Callable[[str], None] | None = None) -> list[Event]:
    """Return the events of a study; see read_study."""
    return read_study(folder, say=say).events


def read_study(folder: Path, *, say: Callable[[str], None] | None = None) -> StudyRead:
    """Read the journal of a study that may be being written at this moment, without writing anything.

    Where the database is missing, damaged or shorter than the plain copy, the copy is read instead.

    Args:
        folder: of the study.
        say: told when that happens, in one line.

    Raises:
        JournalError: there is no study, or it cannot be read.
    """
    if not has_study(folder):
        raise JournalError(
            f"{folder} holds no study ({JOURNAL_FILE} is not there); give the folder of one, such as "
            "logs/IDENTITY"
        )
    say = say or (lambda _: None)
    place = Place.read(folder)
    try:
        return _read_at(folder, place, say)
    except JournalError:
        if Place.read(folder) == place:
            raise
    # it was just taken out, or brought back
    return _read_at(folder, Place.read(folder), say)


def _read_at(folder: Path, place: Place | None, say: Callable[[str], None]) -> StudyRead:
    is_copy = place is not None and not place.is_here
    if place is not None:
        if is_copy:
            say(f"{words_from_elsewhere(folder, place)}, from which this is read.")
            if not any((folder / name).is_file() for name in (JOURNAL_FILE, COPY_FILE)):
                raise JournalError(f"{words_from_elsewhere(folder, place)}; look there, or wait for it")
        else:
            folder = place.path
    copy = Copy(folder)
    with contextlib.suppress(OSError):  # studies of old have none, and the database alone is enough
        # before the database, which is written first: so it never has less, unless something is wrong
        copy.open(to_write=False)
    try:
        return _read(folder, copy, say, is_still=is_copy)
    finally:
        copy.close()


def _read(folder: Path, copy: Copy, say: Callable[[str], None], *, is_still: bool) -> StudyRead:
    path = folder / JOURNAL_FILE
    found = Found(total_at_mark=0)  # of a study that its first start is just making
    database = None
    try:
        if not path.exists():
            raise DamagedError("is not there")
        database = Database.open_to_read(folder, is_still=is_still)
        if database is not None:
            found = read(database.rows(), mark=copy.n)
        n_copied = max(copy.lines(), default=copy.n) if copy.is_damaged else copy.n
        if found.n < n_copied:
            raise DamagedError(f"has only {found.n} events")
        if found.n == copy.n and found.total_at_mark != copy.total:
            raise DamagedError(f"differs from {COPY_FILE}, whose checksums hold")
    except DamagedError as err:
        if copy.n == 0:
            raise JournalError(
                f"cannot read {path}: it {err}; check that you may read it, and that it is a journal"
            ) from err
        rows = [] if database is None else database.readable()
        found = read([merge(copy.lines(), rows)], mark=0)
        say(f"{path} {err}: this is read from {COPY_FILE}, which has {found.n} events.")
    finally:
        if database is not None:
            database.close()
    found.refuse_unreadable(folder)
    return StudyRead(found.events, found.beginnings)
