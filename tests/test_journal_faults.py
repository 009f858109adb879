"""A journal that survives its files: deleted, truncated, damaged, locked, without room; nothing is lost."""

import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyperband.errors import JournalError, StudyBusyError
from hyperband.folder import (
    COPY_FILE,
    JOURNAL_FILE,
    LOCK_FILE,
    has_study,
    refuse_foreign_folder,
    remove_study_files,
)
from hyperband.journal import Journal, read_events
from hyperband.journal.copy import Copy, Line, merge
from hyperband.journal.rows import Row, checksum
from hyperband.search.events import Event, IdsDrawn, SearchEnded

WAL = f"{JOURNAL_FILE}-wal"
N_EVENTS = 300


def event(n: int) -> Event:
    return IdsDrawn(n, (f"id {n}", "x" * 200))


EVENTS = [event(n) for n in range(N_EVENTS)]

#: stores events one by one, says so, and waits to be killed
WRITER = """
import sys
from pathlib import Path
from hyperband.journal import Journal
from hyperband.search.events import IdsDrawn
journal = Journal.open(Path(sys.argv[1]))
n = len(journal.events())
while n < int(sys.argv[2]):
    journal.append(IdsDrawn(n, (f"id {n}", "x" * 200)), durable=False)
    n += 1
    print(n, flush=True)
sys.stdin.read()
"""


def write(folder: Path, n: int = N_EVENTS) -> None:
    """A study that was closed in good order."""
    with contextlib.closing(Journal.open(folder)) as journal:
        for number in range(n):
            journal.append(event(number), durable=False)


def write_at_once(folder: Path, n: int) -> None:
    with contextlib.closing(Journal.open(folder)) as journal:
        journal.append(*[event(number) for number in range(n)], durable=False)


def write_and_die(folder: Path, n: int = N_EVENTS) -> None:
    """A study whose writer was killed, with a log beside the database."""
    writer = start_writer(folder, n)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < n:
        pass
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert (folder / WAL).stat().st_size > 0


def start_writer(folder: Path, n: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncate(name: str, part: float) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        os.truncate(path, int(path.stat().st_size * part))

    return act


def overwrite(name: str, part: float, n_bytes: int = 5000) -> Callable[[Path], None]:
    """Put rubbish somewhere into a file, at its old length."""

    def act(folder: Path) -> None:
        path = folder / name
        size = path.stat().st_size
        begin = int(size * part)
        with path.open("r+b") as stream:
            stream.seek(begin)
            stream.write(random.Random(0).randbytes(min(n_bytes, size - begin)))

    return act


def another_database(folder: Path) -> None:
    (folder / "other.db").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "other.db")) as connection:
        connection.execute("CREATE TABLE surprise (x)")
        connection.commit()
    (folder / "other.db").replace(folder / JOURNAL_FILE)


def events_now(folder: Path) -> tuple[list[Event], list[str]]:
    """What a next start finds, and what it says."""
    with contextlib.closing(Journal.open(folder)) as journal:
        return journal.events(), journal.news


DAMAGE: dict[str, Callable[[Path], None]] = {
    "deleted": delete(JOURNAL_FILE),
    "emptied": truncate(JOURNAL_FILE, 0.0),
    "cut in half": truncate(JOURNAL_FILE, 0.5),
    "cut a little": truncate(JOURNAL_FILE, 0.97),
    "rubbish at its begin": overwrite(JOURNAL_FILE, 0.0),
    "rubbish in the middle": overwrite(JOURNAL_FILE, 0.5),
    "rubbish at its end": overwrite(JOURNAL_FILE, 0.95),
    "another database": another_database,
    "no copy": delete(COPY_FILE),
    "copy emptied": truncate(COPY_FILE, 0.0),
    "copy cut": truncate(COPY_FILE, 0.503),
    "rubbish in the copy": overwrite(COPY_FILE, 0.5),
    "rubbish at the copy's end": overwrite(COPY_FILE, 0.99),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_nothing_is_lost_when_one_file_is_damaged_between_two_starts(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    write(tmp_path)
    damage(tmp_path)
    said: list[str] = []
    before = sorted(path.name for path in tmp_path.iterdir())
    assert read_events(tmp_path, say=said.append) == EVENTS
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "reading writes nothing"
    found, news = events_now(tmp_path)
    assert found == EVENTS
    assert len(news) == len(said) <= 1
    assert events_now(tmp_path) == (EVENTS, []), "it is whole again"
    # and the other file alone is enough again
    (tmp_path / JOURNAL_FILE).unlink()
    assert events_now(tmp_path)[0] == EVENTS


AFTER_KILL: dict[str, Callable[[Path], None]] = {
    **DAMAGE,
    "no log": delete(WAL),
    "log emptied": truncate(WAL, 0.0),
    "log cut": truncate(WAL, 0.6),
    "rubbish in the log": overwrite(WAL, 0.4),
}


@pytest.mark.parametrize("damage", AFTER_KILL.values(), ids=AFTER_KILL.keys())
def test_nothing_is_lost_when_one_file_is_damaged_after_a_kill(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    write_and_die(tmp_path, 60)
    damage(tmp_path)
    assert events_now(tmp_path)[0] == EVENTS[:60]
    assert events_now(tmp_path) == (EVENTS[:60], [])


def test_what_was_damaged_is_kept_and_told_of(tmp_path: Path) -> None:
    write(tmp_path)
    truncate(JOURNAL_FILE, 0.5)(tmp_path)
    bad = (tmp_path / JOURNAL_FILE).read_bytes()
    _, (line,) = events_now(tmp_path)
    (aside,) = tmp_path.glob("journal.db.damaged-*")
    assert aside.read_bytes() == bad
    assert "is damaged" in line
    assert f"all {N_EVENTS} events" in line
    assert aside.name in line


WHILE_OPEN: dict[str, Callable[[Path], None]] = {
    "deleted": delete(JOURNAL_FILE),
    "emptied": truncate(JOURNAL_FILE, 0.0),
    "cut": truncate(JOURNAL_FILE, 0.5),
    "another database": another_database,
    "no log": delete(WAL),
    "log emptied": truncate(WAL, 0.0),
    "log cut": truncate(WAL, 0.6),
    "no copy": delete(COPY_FILE),
    "copy cut": truncate(COPY_FILE, 0.503),
    "deleted, and no copy": lambda folder: (delete(JOURNAL_FILE)(folder), delete(COPY_FILE)(folder))[0],
    "log cut, and no copy": lambda folder: (truncate(WAL, 0.5)(folder), delete(COPY_FILE)(folder))[0],
}


@pytest.mark.parametrize("damage", WHILE_OPEN.values(), ids=WHILE_OPEN.keys())
def test_an_open_journal_heals_itself(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        journal.append(*EVENTS[:100], durable=True)
        journal._database._connection.execute("PRAGMA wal_checkpoint").fetchone()
        for number in range(100, 200):
            journal.append(event(number), durable=False)
        damage(tmp_path)
        journal.append(event(200), durable=True)
        told = len(journal.news)
        assert 1 <= told <= 2, "a line for each file"
        journal.append(event(201), durable=True)
        assert len(journal.news) == told, "and once"
        assert read_events(tmp_path) == EVENTS[:202]
        assert journal.events() == EVENTS[:202]
    assert events_now(tmp_path) == (EVENTS[:202], [])
    (tmp_path / JOURNAL_FILE).unlink()
    assert events_now(tmp_path)[0] == EVENTS[:202]


def test_rubbish_under_an_open_journal_is_found_at_the_latest_at_the_next_start(tmp_path: Path) -> None:
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        journal.append(*EVENTS[:100], durable=True)
        journal._database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        overwrite(JOURNAL_FILE, 0.3)(tmp_path)
        for number in range(100, 110):
            journal.append(event(number), durable=True)
    assert events_now(tmp_path)[0] == EVENTS[:110]


def test_a_study_folder_that_is_deleted_is_made_again_with_the_whole_journal(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "study"
    journal = Journal.open(folder)
    journal.append(*EVENTS[:100], durable=True)
    shutil.rmtree(tmp_path / "logs")
    with pytest.raises(JournalError, match=r"was deleted while the search ran.*start the same command again"):
        journal.append(*EVENTS[100:110], durable=True)
    assert journal.was_deleted
    assert read_events(folder) == EVENTS[:110], "what was to be stored is stored"
    with pytest.raises(StudyBusyError):
        Journal.open(folder)
    journal.append(event(110), durable=True)
    journal.close()
    assert events_now(folder) == (EVENTS[:111], [])


def test_a_folder_that_is_deleted_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "study")
    journal.append(*EVENTS, durable=False)
    shutil.rmtree(tmp_path / "study")
    with pytest.raises(JournalError, match="was deleted"):
        journal.close()
    assert events_now(tmp_path / "study") == (EVENTS, [])


def test_a_lock_file_that_is_deleted_ends_the_search_and_loses_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.append(*EVENTS[:10], durable=True)
    (tmp_path / LOCK_FILE).unlink()
    with pytest.raises(JournalError, match="lock file"):
        journal.append(event(10), durable=True)
    with pytest.raises(StudyBusyError):
        Journal.open(tmp_path)
    journal.close()
    assert events_now(tmp_path) == (EVENTS[:11], [])


def test_a_folder_that_another_search_has_taken_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    journal = Journal.open(folder)
    journal.append(*EVENTS[:10], durable=True)
    shutil.rmtree(folder)
    writer = start_writer(folder, 3)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 3:
        pass
    with pytest.raises(StudyBusyError, match=f"another search has begun.*pid {writer.pid}"):
        journal.append(event(10), durable=True)
    journal.close()
    writer.communicate("")
    assert writer.returncode == 0
    assert events_now(folder) == (EVENTS[:3], [])


def test_a_torn_last_line_of_the_copy_is_normal(tmp_path: Path) -> None:
    write(tmp_path, 20)
    copy = tmp_path / COPY_FILE
    os.truncate(copy, copy.stat().st_size - 7)
    assert events_now(tmp_path) == (EVENTS[:20], [])
    os.truncate(copy, copy.stat().st_size - 7)
    (tmp_path / JOURNAL_FILE).unlink()
    found, news = events_now(tmp_path)
    assert found == EVENTS[:19], "the last transaction is all that a copy may lack"
    assert "all 19 events" in news[0]


def test_both_damaged_at_different_places_give_everything(tmp_path: Path) -> None:
    write(tmp_path)
    overwrite(JOURNAL_FILE, 0.8)(tmp_path)
    overwrite(COPY_FILE, 0.2, n_bytes=300)(tmp_path)
    assert events_now(tmp_path)[0] == EVENTS


def test_both_damaged_at_the_same_place_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    write(tmp_path)
    overwrite(JOURNAL_FILE, 0.0)(tmp_path)
    overwrite(COPY_FILE, 0.5)(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(JournalError, match=r"damaged too: event \d+ of 300 .*backup"):
        Journal.open(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_copy_whose_end_is_overwritten_is_not_taken_for_all_there_was(tmp_path: Path) -> None:
    write(tmp_path, 20)
    overwrite(JOURNAL_FILE, 0.0)(tmp_path)
    lines = (tmp_path / COPY_FILE).read_bytes().split(b"\n")
    (tmp_path / COPY_FILE).write_bytes(b"\n".join(lines[:2]) + b"\n\xff\x00 rubbish\nand more")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(JournalError, match=r"damaged too: event 3 of 3 or more .*backup"):
        events_now(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def change(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / JOURNAL_FILE)) as connection:
        connection.execute(statement)
        connection.commit()


CHANGE_3 = 'UPDATE event SET body = \'{"first":2,"ids":["forged"]}\' WHERE seq = 3'


def test_a_database_that_was_changed_is_not_believed_against_a_copy_whose_checksums_hold(
    tmp_path: Path,
) -> None:
    write(tmp_path, 20)
    change(tmp_path, CHANGE_3)
    said: list[str] = []
    assert read_events(tmp_path, say=said.append) == EVENTS[:20]
    assert len(said) == 1
    found, news = events_now(tmp_path)
    assert found == EVENTS[:20]
    assert "differs from journal.copy" in news[0]


def test_a_whole_and_longer_database_wins_and_the_other_copy_is_put_aside(tmp_path: Path) -> None:
    write(tmp_path, 20)
    truncate(COPY_FILE, 0.5)(tmp_path)
    change(tmp_path, CHANGE_3)
    found, news = events_now(tmp_path)
    assert found[2] == IdsDrawn(2, ("forged",))
    assert len(found) == 20
    assert "put aside" in news[0]
    assert len(list(tmp_path.glob("journal.copy.differs-*"))) == 1
    assert events_now(tmp_path) == (found, [])


def test_an_older_database_put_back_by_hand_gets_what_it_lacks(tmp_path: Path) -> None:
    write(tmp_path, 10)
    old = (tmp_path / JOURNAL_FILE).read_bytes()
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        journal.append(*EVENTS[10:20], durable=True)
    (tmp_path / JOURNAL_FILE).write_bytes(old)
    found, news = events_now(tmp_path)
    assert found == EVENTS[:20]
    assert "last 10 events" in news[0]


def test_a_fault_in_the_middle_of_a_large_copy_is_no_loss(tmp_path: Path) -> None:
    write_at_once(tmp_path, 25_000)
    assert (tmp_path / COPY_FILE).stat().st_size > 1 << 22
    overwrite(COPY_FILE, 0.5)(tmp_path)
    events, news = events_now(tmp_path)
    assert (len(events), news) == (25_000, [])
    change(tmp_path, "DELETE FROM event WHERE seq > 24990")
    assert read_events(tmp_path) == events
    assert events_now(tmp_path)[0] == events


def test_a_study_of_old_gets_its_copy(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / COPY_FILE).unlink()
    assert events_now(tmp_path) == (EVENTS, [])
    (tmp_path / JOURNAL_FILE).unlink()
    assert events_now(tmp_path)[0] == EVENTS


def test_a_locked_journal_is_waited_for_and_then_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperband.journal.database._BUSY_S", 0.3)
    journal = Journal.open(tmp_path)
    journal.append(*EVENTS[:10], durable=True)
    other = sqlite3.connect(tmp_path / JOURNAL_FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match=r"locked it .* end it, and start the same command again"):
        journal.append(event(10), durable=True)
    other.execute("ROLLBACK")
    journal.append(event(10), durable=True)
    journal.close()
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match="locked it"):
        Journal.open(tmp_path)
    other.close()
    assert events_now(tmp_path) == (EVENTS[:11], [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 512 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path, *, leave_bytes: int = 0) -> Path:
    """Leave so much room and no more."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    os.truncate(ballast, ballast.stat().st_size - leave_bytes)
    return ballast


@pytest.mark.parametrize("leave_bytes", [0, 4096, 8192, 40960])
def test_a_full_disk_loses_nothing(small_disk: Path, leave_bytes: int) -> None:
    folder = small_disk / "study"
    journal = Journal.open(folder)
    journal.append(*EVENTS[:100], durable=True)
    ballast = fill(small_disk, leave_bytes=leave_bytes)
    n_stored = 100
    refused: JournalError | None = None
    while refused is None:
        try:
            journal.append(event(n_stored), durable=True)
            n_stored += 1
        except JournalError as err:
            refused = err
    assert re.search("the disk is full.*make room", str(refused))
    journal.close()
    assert read_events(folder) == EVENTS[:n_stored]
    ballast.unlink()
    with contextlib.closing(Journal.open(folder)) as again:
        assert again.events() == EVENTS[:n_stored]
        again.append(event(n_stored), durable=True)
    (folder / JOURNAL_FILE).unlink()
    assert events_now(folder)[0] == EVENTS[: n_stored + 1]


def test_a_copy_without_room_loses_no_transaction(tmp_path: Path, small_disk: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / COPY_FILE).symlink_to(small_disk / "copy")
    with contextlib.closing(Journal.open(folder)) as journal:
        journal.append(*EVENTS[:10], durable=True)
        ballast = fill(small_disk)
        n_stored = 10
        while not journal.news:
            journal.append(event(n_stored), durable=True)
            n_stored += 1
        for _ in range(5):
            journal.append(event(n_stored), durable=True)
            n_stored += 1
        assert "No space left" in journal.news[0]
        assert len(journal.news) == 1, "it is told once"
        assert journal.events() == EVENTS[:n_stored]
        ballast.unlink()
        journal.append(event(n_stored), durable=True)
        copy = Copy(folder)
        copy.open(to_write=False)
        assert copy.n == n_stored + 1, "it is brought up to date when there is room"
        copy.close()


def test_a_file_system_that_became_read_only_loses_nothing(small_disk: Path) -> None:
    folder = small_disk / "study"
    write(folder, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(JournalError, match=r"Read-only file system|readonly"):
        Journal.open(folder)
    assert read_events(folder) == EVENTS[:10]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert events_now(folder) == (EVENTS[:10], [])


@given(
    name=st.sampled_from([JOURNAL_FILE, COPY_FILE]),
    place=st.floats(0, 0.9999),
    flip=st.integers(1, 255),
    n_bytes=st.sampled_from([1, 40, 4096]),
)
@example(name=JOURNAL_FILE, place=0.16015625, flip=128, n_bytes=1)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_either_file_can_change_what_a_study_says(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, flip: int, n_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("study")
    write(folder, 40)
    path = folder / name
    content = bytearray(path.read_bytes())
    begin = int(len(content) * place)
    for position in range(begin, min(begin + n_bytes, len(content))):
        content[position] ^= flip
    path.write_bytes(content)
    assert read_events(folder) == EVENTS[:40]
    assert events_now(folder)[0] == EVENTS[:40]


@pytest.mark.slow
def test_kills_and_damage_in_turns_lose_nothing_that_was_stored(tmp_path: Path) -> None:
    dice = random.Random(7)
    n_stored = 0
    kinds: list[Callable[[Path], None]] = [*AFTER_KILL.values(), lambda _: None]
    for _ in range(12):
        # bounded, however slow this process is: of a copy above 4 MiB a start looks at the end alone
        writer = start_writer(tmp_path, n_stored + 1000)
        assert writer.stdout is not None
        for _ in range(dice.randrange(1, 60)):
            n_stored = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        n_stored = max([n_stored, *map(int, writer.communicate()[0].split())])
        with contextlib.suppress(FileNotFoundError):
            dice.choice(kinds)(tmp_path)
        # the last transaction may be in the database alone when its writer is killed between the two
        with contextlib.closing(Journal.open(tmp_path)) as journal:
            found = [n.first for n in journal.events() if isinstance(n, IdsDrawn)]
        assert found == list(range(len(found)))
        assert n_stored <= len(found)
        n_stored = len(found)


def test_a_damaged_study_is_still_a_study(tmp_path: Path) -> None:
    write(tmp_path, 10)
    (tmp_path / "jobs").mkdir()
    (tmp_path / JOURNAL_FILE).unlink()
    assert has_study(tmp_path)
    refuse_foreign_folder(tmp_path)
    truncate(COPY_FILE, 1.0)(tmp_path)
    (tmp_path / JOURNAL_FILE).write_bytes(b"rubbish" * 1000)
    assert events_now(tmp_path)[0] == EVENTS[:10]
    remove_study_files(tmp_path)
    assert not tmp_path.exists(), "with all that was put aside"


def chain(rows: list[Row]) -> dict[int, Line]:
    total, lines = 0, {}
    for seq, row in enumerate(rows, 1):
        total = checksum((row,), total)
        lines[seq] = Line(row, total)
    return lines


@given(st.integers(1, 12), st.integers(0, 12), st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)))
def test_what_two_damaged_files_have_together_is_found_and_nothing_is_made_up(
    n: int, n_readable: int, gone: set[int], forged: set[int]
) -> None:
    rows: list[Row] = [("Kind", f"{number}") for number in range(n)]
    lines = chain(rows)
    last = max((seq for seq in lines if seq not in gone), default=0)
    left = {seq: line for seq, line in lines.items() if seq not in gone}
    for seq in forged & left.keys() - {last}:
        left[seq] = Line(("Kind", "forged"), left[seq].total)
    merged = merge(left, rows[:n_readable])
    assert merged == rows[: len(merged)]
    if all(seq <= min(n_readable, n) for seq in (gone | forged) & set(range(1, last + 1))) and last:
        assert len(merged) >= last


def test_events_that_another_program_wrote_into_an_open_journal_are_never_overwritten(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.append(*EVENTS[:5], durable=True)
    change(
        tmp_path,
        'INSERT INTO event (kind, body) VALUES (\'SearchEnded\', \'{"at":0,"state":"x","reason":""}\')',
    )
    with pytest.raises(JournalError, match="cannot write"):
        journal.append(event(5), durable=True)
    journal.close()
    assert events_now(tmp_path)[0] == [*EVENTS[:5], SearchEnded(0, "x", "")]


def change_copy(folder: Path, old: bytes, new: bytes) -> None:
    """Damage one line of the copy where it lies; no length changes."""
    begin = (folder / COPY_FILE).read_bytes().index(old)
    with (folder / COPY_FILE).open("r+b") as stream:
        stream.seek(begin)
        stream.write(new)


def lose_the_log_and_a_line(folder: Path) -> None:
    """The database has 10 of 100 events, as without its log; of the copy the fifth is bad."""
    write(folder, 10)
    old = (folder / JOURNAL_FILE).read_bytes()
    with contextlib.closing(Journal.open(folder)) as journal:
        journal.append(*EVENTS[10:100], durable=True)
    (folder / JOURNAL_FILE).write_bytes(old)
    change_copy(folder, b"id 4", b"iD 4")


def test_a_database_without_its_log_and_a_bad_line_in_the_copy_lose_nothing(tmp_path: Path) -> None:
    lose_the_log_and_a_line(tmp_path)
    found, news = events_now(tmp_path)
    assert found == EVENTS[:100]
    assert "had lost its last 90 events" in news[0]
    assert events_now(tmp_path) == (EVENTS[:100], [])
    (tmp_path / JOURNAL_FILE).unlink()
    assert events_now(tmp_path)[0] == EVENTS[:100], "the copy has them all as well"


def test_a_reader_finds_what_the_next_start_will_find(tmp_path: Path) -> None:
    lose_the_log_and_a_line(tmp_path)
    said: list[str] = []
    assert read_events(tmp_path, say=said.append) == EVENTS[:100]
    assert len(said) == 1


def test_a_bad_line_in_the_copy_and_a_deleted_database_that_is_open_lose_nothing(tmp_path: Path) -> None:
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        journal.append(*EVENTS[:10], durable=True)
        change_copy(tmp_path, b"id 4", b"iD 4")
        (tmp_path / JOURNAL_FILE).unlink()
        journal.append(EVENTS[10], durable=True)
        assert journal.events() == EVENTS[:11]
    assert events_now(tmp_path)[0] == EVENTS[:11]
    (tmp_path / JOURNAL_FILE).unlink()
    assert events_now(tmp_path)[0] == EVENTS[:11], "the copy was mended"


def make_null(folder: Path, column: str) -> None:
    """What a changed byte of a row's header may do, although the table's columns are all NOT NULL."""
    master = "UPDATE sqlite_master SET sql = replace(sql, {!r}, {!r}) WHERE name = 'event'"
    for statement in (
        master.format("TEXT NOT NULL", "TEXT"),
        f"UPDATE event SET {column} = NULL WHERE seq = 3",
        master.format("TEXT", "TEXT NOT NULL"),
    ):
        with contextlib.closing(sqlite3.connect(folder / JOURNAL_FILE)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(statement)
            connection.commit()


@pytest.mark.parametrize("column", ["kind", "body"])
def test_a_row_that_is_no_event_is_damage(tmp_path: Path, column: str) -> None:
    write(tmp_path, 20)
    make_null(tmp_path, column)
    assert read_events(tmp_path) == EVENTS[:20]
    found, news = events_now(tmp_path)
    assert found == EVENTS[:20]
    assert "has a row that is no event among 1 to 20" in news[0]
    assert events_now(tmp_path) == (EVENTS[:20], [])
