"""Which events are believed when a journal's database and its plain copy differ, and making both whole again.

What is believed:

- the database, if it is whole and has all that the copy has; the copy is then brought up to date;
- the database and after it the rest of the copy, if the database is whole but ends sooner (its log was lost);
- the copy, if the database is missing, damaged or, with as many events, another one than the copy's checksums
  say; after the copy's end what can still be read of the database;
- the database, if it is whole and longer and differs: then the copy is put aside.

Nothing is removed: what is not believed gets a name of its own. Where both are damaged at the same place, the
study is refused rather than cut short; only what stands after the last whole line of a copy may be missing.
"""

from collections.abc import Sequence
from pathlib import Path

from hyperband.errors import JournalError
from hyperband.folder import COPY_FILE, JOURNAL_FILE
from hyperband.journal.copy import Copy, merge
from hyperband.journal.database import DamagedError, Database, aside_name, build, move_aside
from hyperband.journal.reading import Found, read
from hyperband.journal.rows import Row


def open_whole(folder: Path, copy: Copy, news: list[str]) -> tuple[Database, Found, bool]:
    """Open a study's database, made whole from the copy if it has to be.

    Args:
        folder: of the study; we hold its lock.
        copy: open, or empty if it cannot be.
        news: gets a line about what was done.

    Returns:
        The database, what it holds, and whether any of it had to be restored.

    Raises:
        JournalError: it cannot be used, or nothing can be restored.
    """
    path = folder / JOURNAL_FILE
    database = None
    rows: list[Row] = []
    try:
        if not path.exists() and _has_lines(copy):
            raise DamagedError("was deleted")
        database = Database.open(folder)
        found = read(database.rows(), mark=copy.n)
        is_cut = copy.is_damaged and max(copy.lines(), default=0) > found.n
        if found.n < copy.n or is_cut:
            # a bad line hides those after it from `copy.n`: the database may have that one event
            _add_missing(database, found, copy, news)
            return database, read(database.rows(), mark=copy.n), True
        if copy.n < found.n and found.total_at_mark != copy.total:
            _put_aside(copy, news)
        elif found.total_at_mark != copy.total:
            raise DamagedError(f"differs from {COPY_FILE}, whose checksums hold,")
    except DamagedError as err:
        if database is not None:
            rows = database.readable()
            database.close()
        if not _has_lines(copy):
            raise JournalError(
                f"cannot open {path}: it {err}; if the file is damaged, move the folder away and start anew, "
                "or restore it from a backup"
            ) from err
        replace(folder, salvage(folder, copy, rows, str(err)), str(err), news)
        database = Database.open(folder)
        return database, read(database.rows(), mark=copy.n), True
    except BaseException:
        if database is not None:
            database.close()
        raise
    return database, found, False


def salvage(folder: Path, copy: Copy, rows: Sequence[Row], why: str) -> list[Row]:
    """Return the events of a study whose database is bad.

    Args:
        folder: of the study.
        copy: open.
        rows: what can still be read of the database, in order, from the first on.
        why: what is wrong with it; follows on its name.

    Raises:
        JournalError: events in the middle are lost.
    """
    lines = copy.lines()
    merged = merge(lines, rows)
    n_known = max(lines, default=0)
    # what stood in a bad line at the end of the copy was an event as well
    n_lost = 1 if len(merged) == n_known > 0 and copy.ends_badly() else 0
    if len(merged) < max(n_known + n_lost, 1):
        of_all = f"{n_known + n_lost:,}{' or more' if n_lost else ''}" if n_known else "them"
        raise JournalError(
            f"{folder / JOURNAL_FILE} {why}, and {copy.path.name} is damaged too: event {len(merged) + 1} of "
            f"{of_all} can be read from neither; restore the folder from a backup, or move it "
            "away and "
            "start anew"
        )
    return merged


def replace(folder: Path, rows: Sequence[Row], why: str, news: list[str]) -> None:
    """Put a whole database in the place of a bad one, which gets a name of its own.

    Args:
        folder: of the study.
        rows: every event.
        why: what is wrong with the bad one; follows on its name.
        news: gets a line about what was done.

    Raises:
        JournalError: the new one cannot be written.
    """
    path = folder / JOURNAL_FILE
    try:
        aside = move_aside(folder)
    except OSError as err:
        raise JournalError(
            f"{path} {why} and cannot be moved aside ({err.strerror or err}); make the folder writable and "
            "start the same command again: its events are safe"
        ) from err
    build(folder, rows)
    kept = "" if aside is None else f"; what was there is now {aside.name}"
    news.append(f"{path} {why}: restored with all {len(rows)} events that were stored{kept}.")


def _has_lines(copy: Copy) -> bool:
    return copy.n > 0 or copy.is_damaged


def _add_missing(database: Database, found: Found, copy: Copy, news: list[str]) -> None:
    """Give a whole but shorter database the events that the copy has beyond it."""
    rows = database.readable()
    merged = salvage(database.path.parent, copy, rows, f"has only {found.n} events")
    if merged[: found.n] != rows:
        raise DamagedError(f"has {found.n} events that differ from those of {COPY_FILE}, which has more,")
    database.check()
    database.append(merged[found.n :], found.n + 1, durable=True)
    n_missing = len(merged) - found.n
    news.append(
        f"{database.path} had lost its last {n_missing} event{'' if n_missing == 1 else 's'} (a -wal file "
        "that was "
        f"removed, or a power cut): restored from {copy.path.name}."
    )


def _put_aside(copy: Copy, news: list[str]) -> None:
    """Keep a copy that tells of another history than the longer database."""
    name = aside_name(copy.path.parent, COPY_FILE, "differs")
    copy.is_damaged = True
    try:
        copy.path.rename(copy.path.with_name(name))
    except OSError:
        return  # then it is only not used; that it cannot be written will be told
    news.append(f"{copy.path} differs from {JOURNAL_FILE}, which has more events: put aside as {name}.")
