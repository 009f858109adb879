"""The SQLite file of a journal: the only SQL. One table of events, numbered migrations.

Knows rows, not events, and nothing of the plain copy. Tells a damaged file (`DamagedError`) from one that
cannot be used just now (`JournalError`).
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperband.errors import JournalError
from hyperband.folder import JOURNAL_FILE
from hyperband.journal.rows import Row, events_of
from hyperband.machine.mounts import file_system, is_network

#: what goes wrong in SQLite; the second where its message holds what stands in a damaged file
_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_BUSY_S = 30.0
_READ_ROWS = 2000
_NEW_FILE = f"{JOURNAL_FILE}.new"

_MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("events", "CREATE TABLE event (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL)"),
)


class DamagedError(Exception):
    """The file is there and is no whole journal, or is not where it was; the words follow on its name."""


class Database:
    """An open database. Only its one writer has it open to write."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, write_ahead: bool) -> None:
        """Take over what `open` made."""
        self.path = path
        #: whether SQLite's write-ahead log is used (local file systems only)
        self.write_ahead = write_ahead
        self._connection = connection
        self._synchronous = ""
        #: (device, inode) and size of the file and of its log, as they were when we last wrote
        self._seen: dict[str, tuple[int, int, int]] = {}
        # each transaction looks at them: as plain text they cost little
        self._file, self._log = str(path), f"{path}-wal"

    @classmethod
    def open(cls, folder: Path) -> "Database":
        """Open the file to write, and make it if it is not there.

        Raises:
            DamagedError: it is no whole database.
            JournalError: it cannot be used: locked, written by a newer version, no room, no permission.
        """
        path = folder / JOURNAL_FILE
        network = is_network(file_system(folder))
        connection = None
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
            wanted = "delete" if network else "wal"
            (mode,) = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
            _migrate(connection, path)
        except (*_ERRORS, JournalError) as err:
            if connection is not None:
                connection.close()
            if isinstance(err, JournalError):
                raise
            raise told(err, path, "open") from err
        database = cls(path, connection, write_ahead=mode == "wal")
        database.look()
        return database

    @classmethod
    def open_to_read(cls, folder: Path, *, is_still: bool = False) -> "Database | None":
        """Open the file without writing anything; None while its first start is just making it.

        Args:
            folder: where it is.
            is_still: nobody writes to it, who may only put another one in its place.

        Raises:
            DamagedError: it is no whole database.
            JournalError: it cannot be read.
        """
        path = folder / JOURNAL_FILE
        # a study that nobody has open, in a folder that we may not write to, can only be read as it stands
        may_not = not os.access(folder, os.W_OK) and not path.with_name(f"{JOURNAL_FILE}-wal").exists()
        alone = is_still or may_not
        connection = None
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_S,
            )
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migration'").fetchone():
                _check_version(connection, path)
                return cls(path, connection, write_ahead=False)
        except (*_ERRORS, JournalError) as err:
            if connection is not None:
                connection.close()
            if isinstance(err, JournalError):
                raise
            raise told(err, path, "read") from err
        connection.close()
        return None

    def append(self, rows: Sequence[Row], first: int, *, durable: bool) -> None:
        """Store rows, numbered from `first` on, in one transaction: all of them or none.

        Args:
            rows: in order.
            first: number of the first, from 1.
            durable: return only when they would survive a power cut.

        Raises:
            DamagedError: the file is damaged.
            JournalError: they could not be stored.
        """
        wanted = "FULL" if durable or not self.write_ahead else "NORMAL"
        try:
            if wanted != self._synchronous:
                self._connection.execute(f"PRAGMA synchronous={wanted}")
                self._synchronous = wanted
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT INTO event (seq, kind, body) VALUES (?, ?, ?)",
                    [(seq, kind, body) for seq, (kind, body) in enumerate(rows, first)],
                )
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except _ERRORS as err:
            raise told(err, self.path, "write") from err

    def rows(self, after: int = 0, *, n_at_once: int = _READ_ROWS) -> Iterator[list[Row]]:
        """Yield every row after that number, in order, many at a time.

        Raises:
            DamagedError: the file cannot be read, or a row is missing; those before it were yielded.
        """
        try:
            found = self._connection.execute(
                "SELECT seq, kind, body FROM event WHERE seq > ? ORDER BY seq", (after,)
            )
            seq = after
            while batch := found.fetchmany(n_at_once):
                if batch[0][0] != seq + 1 or batch[-1][0] != seq + len(batch):
                    raise DamagedError(f"has no event {seq + 1} but later ones")
                if not all(type(kind) is str and type(body) is str for _, kind, body in batch):
                    raise DamagedError(f"has a row that is no event among {seq + 1} to {seq + len(batch)}")
                yield [(kind, body) for _, kind, body in batch]
                seq += len(batch)
        except _ERRORS as err:
            raise told(err, self.path, "read") from err

    def readable(self) -> list[Row]:
        """Return what the file still gives, from the first row up to one that is missing or no event."""
        found: list[Row] = []
        # with more at once, those before the fault would go with it
        with contextlib.suppress(DamagedError, JournalError, KeyError, TypeError, ValueError):
            for batch in self.rows(n_at_once=1):
                events_of(batch)
                found += batch
        return found

    def check(self) -> None:
        """Look at every page.

        Raises:
            DamagedError: the file is damaged.
        """
        try:
            (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        except _ERRORS as err:
            raise told(err, self.path, "read") from err
        if found != "ok":
            raise DamagedError(f"is damaged ({found})")

    def look(self) -> None:
        """Remember where the file is and how large.

        Raises:
            DamagedError: it is not there any more, is another one, or has shrunk since the last look.
        """
        # the log is there from the first transaction on, and goes with the last connection
        for path in (self._file, self._log):
            before = self._seen.get(path)
            try:
                found = os.stat(path)  # noqa: PTH116
            except FileNotFoundError:
                if before is not None:
                    raise DamagedError("was deleted" if path == self._file else "lost its -wal") from None
                continue
            except OSError as err:
                raise JournalError(
                    f"cannot look at {path}: {err.strerror or err}; nothing that was stored is lost: mend "
                    "the file system, and start the same command again"
                ) from err
            if before is not None:
                which = "" if path == self._file else "has a -wal that "
                if (found.st_dev, found.st_ino) != before[:2]:
                    raise DamagedError(f"{which}was replaced by another file")
                if found.st_size < before[2]:
                    raise DamagedError(f"{which}was truncated to {found.st_size} bytes")
            self._seen[path] = (found.st_dev, found.st_ino, found.st_size)

    def to_plain_file(self) -> None:
        """Make it one plain file, that anybody can copy and read without the log beside it."""
        if self.write_ahead:
            # somebody is reading, or the disk is full: then it stays as it is, which loses nothing
            with contextlib.suppress(*_ERRORS):
                self._connection.execute("PRAGMA journal_mode=delete").fetchone()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def build(folder: Path, rows: Sequence[Row]) -> None:
    """Put a new file with these rows in the place of the journal, whole at every moment.

    Raises:
        JournalError: it could not be written; what was in its place still is.
    """
    new = folder / _NEW_FILE
    try:
        for path in (new, new.with_name(f"{new.name}-journal")):
            path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
            _migrate(connection, new)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO event (seq, kind, body) VALUES (?, ?, ?)",
                [(seq, kind, body) for seq, (kind, body) in enumerate(rows, 1)],
            )
            connection.execute("COMMIT")
        new.replace(folder / JOURNAL_FILE)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except _ERRORS as err:
        raise JournalError(str(told(err, new, "write"))) from err
    except OSError as err:
        raise JournalError(
            f"cannot write {new}: {err.strerror or err}; make room or mend the file system, and start the "
            "same command again"
        ) from err


def snapshot(folder: Path, to: Path) -> None:
    """Write what a journal that may be being written holds at this moment into a plain file of its own.

    Args:
        folder: of the journal.
        to: the file; what is there goes.

    Raises:
        OSError: it cannot be written.
        DamagedError, JournalError: the journal cannot be read now.
    """
    path = folder / JOURNAL_FILE
    for name in (to, to.with_name(f"{to.name}-journal")):
        name.unlink(missing_ok=True)
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
            ) as source,
            contextlib.closing(sqlite3.connect(to, isolation_level=None)) as target,
        ):
            source.backup(target)
            # without this its reader would look for a log beside it
            target.execute("PRAGMA journal_mode=delete").fetchone()
    except _ERRORS as err:
        raise told(err, path, "read") from err


def move_aside(folder: Path) -> Path | None:
    """Give the file and its log names of their own, so that nobody takes them for the journal.

    Returns:
        The file's new path, None if there was none.
    """
    aside = None
    name = aside_name(folder, JOURNAL_FILE, "damaged")
    for suffix in ("", "-wal", "-journal"):
        path = folder / f"{JOURNAL_FILE}{suffix}"
        # with its log under the name that belongs to it, SQLite can still make the best of both
        if path.exists():
            path.rename(folder / f"{name}{suffix}")
            aside = folder / name if not suffix else aside
    (folder / f"{JOURNAL_FILE}-shm").unlink(missing_ok=True)
    return aside


def aside_name(folder: Path, name: str, why: str) -> str:
    """Return a name for a file that is put aside, with the time, that no other has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    found = f"{name}.{why}-{stamp}"
    number = 1
    while (folder / found).exists():
        number += 1
        found = f"{name}.{why}-{stamp}-{number}"
    return found


def told(err: sqlite3.Error | UnicodeDecodeError, path: Path, what: str) -> DamagedError | JournalError:
    """Return SQLite's error as what it means for a study."""
    code = getattr(err, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalError(
                f"cannot {what} {path}: another program has locked it for more than {_BUSY_S:g} s, such as "
                "an "
                f"sqlite3 shell in a transaction or a backup (`fuser {path}` names it). Nothing that was "
                "stored is lost: end it, and start the same command again"
            )
        case sqlite3.SQLITE_FULL:
            return JournalError(
                f"cannot {what} {path}: the disk is full. Nothing that was stored is lost: make room on "
                f"{path.parent}, and start the same command again"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return JournalError(
                f"cannot {what} {path}: {err}. Nothing that was stored is lost: make the folder and its "
                "files "
                f"{'readable' if what == 'read' else 'writable'} (permissions, or a file system that became "
                "read-only), and start the same command again"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR | None:
            return DamagedError(f"is damaged ({err})")
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_SHORT_READ:
            return DamagedError(f"is damaged ({err})")
    return JournalError(
        f"cannot {what} {path}: {err}. Nothing that was stored is lost: make room or mend the file system, "
        "and "
        "start the same command again"
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, "
            "applied_at_unix_s REAL NOT NULL)"
        )
        applied = _check_version(connection, path)
        for number, (name, statement) in enumerate(_MIGRATIONS):
            if number >= applied:
                connection.execute(statement)
                connection.execute("INSERT INTO migration VALUES (?, ?, ?)", (number, name, time.time()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    (applied,) = connection.execute("SELECT count(*) FROM migration").fetchone()
    if applied > len(_MIGRATIONS):
        raise JournalError(
            f"{path} has {applied} migrations, but this hyperband knows {len(_MIGRATIONS)}: it was written "
            "by a newer one; use that one, or a newer one still"
        )
    return int(applied)
