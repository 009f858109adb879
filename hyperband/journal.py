"""The journal of a study: its events in order, in one SQLite file.

The only module with SQL. It stores events and gives them back; what they mean is the engine's business.
"""

import contextlib
import gc
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hyperband.errors import JournalError
from hyperband.folder import JOURNAL_FILE, file_system, lock_study, unlock_study
from hyperband.search import events as event_types
from hyperband.search.events import Event
from hyperband.search.trial import Bracket, Outcome, Plan, Rung

#: file systems on which the shared memory of SQLite's write-ahead log does not work between machines
_NETWORK_FILE_SYSTEMS = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "panfs",
        "pvfs2",
        "glusterfs",
        "orangefs",
        "virtiofs",
        "ncpfs",
        "coda",
        "wekafs",
        "cvfs",
        "gfs2",
        "ocfs2",
        "vboxsf",
        "prl_fs",
    ]
)
_BUSY_S = 30.0
_READ_ROWS = 2000

_MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("events", "CREATE TABLE event (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL)"),
)
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        event_types.StudyCreated,
        event_types.SearchStarted,
        event_types.PlanMade,
        event_types.IdsDrawn,
        event_types.SpaceExhausted,
        event_types.JobStarted,
        event_types.JobEnded,
        event_types.SlotQuarantined,
        event_types.SlotReleased,
        event_types.CheckpointsRemoved,
        event_types.SearchEnded,
    )
}


class Journal:
    """An open study, with the right to write it. Use `Journal.open`, and close it."""

    def __init__(self, folder: Path, lock: int, connection: sqlite3.Connection, *, write_ahead: bool) -> None:
        """Take over what `open` made."""
        self.folder = folder
        #: descriptor of the lock, for processes that must hold it together with us
        self.lock = lock
        #: whether SQLite's write-ahead log is used (local file systems only)
        self.write_ahead = write_ahead
        self._connection = connection
        self._synchronous = ""

    @classmethod
    def open(cls, folder: Path) -> "Journal":
        """Lock and open the study in `folder`, making both if they are not there.

        Raises:
            StudyBusyError: another process writes it.
            JournalError: the folder or the file cannot be used.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = lock_study(folder)
        except OSError as err:
            raise JournalError(
                f"cannot open the study in {folder}: {err.strerror or err}; "
                "make it writable, or choose another folder with --logs"
            ) from err
        try:
            connection, write_ahead = _connect(folder)
        except BaseException:
            unlock_study(lock)
            raise
        return cls(folder, lock, connection, write_ahead=write_ahead)

    def append(self, *events: Event, durable: bool) -> None:
        """Store events in one transaction.

        Args:
            events: in order.
            durable: return only when they would survive a power cut. Otherwise they survive the death of
                this process at once, and a power cut no later than the next durable ones.

        Raises:
            JournalError: they could not be stored; none of them was.
        """
        wanted = "FULL" if durable or not self.write_ahead else "NORMAL"
        rows = [(type(event).__name__, json.dumps(_body(event), separators=(",", ":"))) for event in events]
        try:
            if wanted != self._synchronous:
                self._connection.execute(f"PRAGMA synchronous={wanted}")
                self._synchronous = wanted
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT INTO event (kind, body) VALUES (?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as err:
            raise JournalError(
                f"cannot write {self.folder / JOURNAL_FILE}: {err}; nothing that was stored is lost: make "
                "room or mend the "
                "file system, and start the same command again"
            ) from err

    def events(self) -> list[Event]:
        """Return every event so far, in order."""
        return _read(self._connection, self.folder)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        if self.write_ahead:
            # one plain file, that anybody can copy and read without the log beside it
            with contextlib.suppress(sqlite3.OperationalError):  # somebody is reading: then it stays as it is
                self._connection.execute("PRAGMA journal_mode=delete").fetchone()
        self._connection.close()
        unlock_study(self.lock)


def read_events(folder: Path) -> list[Event]:
    """Return the events of a study that may be being written at this moment, without writing anything.

    Raises:
        JournalError: there is no study, or it cannot be read.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file():
        raise JournalError(
            f"{folder} holds no study ({JOURNAL_FILE} is not there); give the folder of one, such as "
            "logs/IDENTITY"
        )
    # a study that nobody has open, in a folder that we may not write to, can only be read as it stands
    alone = not os.access(folder, os.W_OK) and not path.with_name(f"{JOURNAL_FILE}-wal").exists()
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}",
            uri=True,
            isolation_level=None,
            timeout=_BUSY_S,
        )
    except sqlite3.Error as err:
        raise JournalError(f"cannot read {path}: {err}; check that you may read it") from err
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migration'").fetchone():
            return []  # its first start is just making it
        _check_version(connection, path)
        return _read(connection, folder)
    except sqlite3.Error as err:
        raise JournalError(
            f"cannot read {path}: {err}; check that you may read it, and that it is a journal"
        ) from err
    finally:
        connection.close()


def _connect(folder: Path) -> tuple[sqlite3.Connection, bool]:
    path = folder / JOURNAL_FILE
    kind = file_system(folder)
    network = kind in _NETWORK_FILE_SYSTEMS or kind.startswith("fuse")
    connection = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
        wanted = "delete" if network else "wal"
        (mode,) = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
        _migrate(connection, path)
    except (sqlite3.Error, JournalError) as err:
        if connection is not None:
            connection.close()
        if isinstance(err, JournalError):
            raise
        raise JournalError(
            f"cannot open {path}: {err}; if the file is damaged, move the folder away and start anew, or "
            "restore it from a copy"
        ) from err
    return connection, mode == "wal"


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
            "by a newer one; "
            "use that one, or a newer one still"
        )
    return int(applied)


def _read(connection: sqlite3.Connection, folder: Path) -> list[Event]:
    found: list[Event] = []
    rows = connection.execute("SELECT seq, kind, body FROM event ORDER BY seq")
    with _no_garbage_collection():
        while batch := rows.fetchmany(_READ_ROWS):
            try:
                # one text for many rows: three times as fast as a call for each
                bodies = json.loads(f"[{','.join(body for _, _, body in batch)}]")
                found += [_event(kind, body) for (_, kind, _), body in zip(batch, bodies, strict=True)]
            except (KeyError, TypeError, ValueError) as err:
                raise _unreadable(batch, folder) from err
    return found


def _unreadable(batch: Sequence[tuple[int, str, str]], folder: Path) -> JournalError:
    """Return the error that names the first event of a batch that cannot be read."""
    what = "no events at all"
    for seq, kind, body in batch:
        try:
            _event(kind, json.loads(body))
        except (KeyError, TypeError, ValueError) as err:
            what = f"event {seq} ({kind}: {err})"
            break
    return JournalError(
        f"{folder / JOURNAL_FILE} cannot be read: {what}; restore the folder from a copy, or move it away "
        "and start anew"
    )


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Make many objects that all stay: looking for garbage among them again and again finds none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _body(event: Event) -> dict[str, object]:
    body: dict[str, object] = {}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, Plan):
            value = {
                "brackets": [[[rung.n, rung.epochs] for rung in bracket.rungs] for bracket in value.brackets],
                "max_epochs": value.max_epochs,
            }
        elif isinstance(value, Mapping):
            value = dict(value)
        body[field.name] = value
    return body


def _event(kind: str, body: dict[str, Any]) -> Event:
    found = _KINDS[kind]
    match found:
        case event_types.JobStarted:
            if "gpu_uuids" in body:
                body["gpu_uuids"] = tuple(body["gpu_uuids"])
        case event_types.PlanMade:
            brackets = tuple(
                Bracket(tuple(Rung(n, epochs) for n, epochs in rungs)) for rungs in body["plan"]["brackets"]
            )
            body["plan"] = Plan(brackets, body["plan"]["max_epochs"])
        case event_types.JobEnded:
            body["outcome"] = Outcome(body["outcome"])
        case event_types.CheckpointsRemoved:
            body["trials"] = tuple(body["trials"])
        case event_types.IdsDrawn:
            body["ids"] = tuple(body["ids"])
        case event_types.StudyCreated:
            body["script_args"] = tuple(body["script_args"])
            body["start_with_ids"] = tuple(body["start_with_ids"])
    event: Event = found(**body)
    return event
