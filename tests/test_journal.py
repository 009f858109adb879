"""The journal: what is stored comes back, by one writer, and refusals that lose nothing."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperband.errors import JournalError, StudyBusyError
from hyperband.folder import COPY_FILE, JOURNAL_FILE, LOCK_FILE, holder, job_folder
from hyperband.journal import Journal, read_events
from hyperband.machine.mounts import file_system
from hyperband.search.events import (
    Event,
    IdProposed,
    IdsDrawn,
    IdSource,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    SpaceExhausted,
    StudyCreated,
)
from hyperband.search.trial import Bracket, Outcome, Plan, Promotion, Rung

TEXT = st.text(max_size=20)
NUMBER = st.integers(0, 2**40)
TIME = st.floats(0, 1e12)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        StudyCreated,
        identity=TEXT,
        script=TEXT,
        script_args=st.lists(TEXT, max_size=3).map(tuple),
        cwd=TEXT,
        start_with_ids=st.lists(TEXT, max_size=3).map(tuple),
    ),
    st.builds(
        SearchStarted,
        at=TIME,
        settings=st.dictionaries(TEXT, st.one_of(st.none(), st.booleans(), NUMBER, TEXT), max_size=3),
        host=TEXT,
        pid=NUMBER,
        boot_id=TEXT,
        version=TEXT,
    ),
    st.builds(
        PlanMade,
        st.builds(
            Plan,
            st.lists(
                st.lists(st.builds(Rung, NUMBER, NUMBER), min_size=1, max_size=3).map(
                    lambda rungs: Bracket(tuple(rungs))
                ),
                max_size=3,
            ).map(tuple),
            NUMBER,
            promotion=st.sampled_from(Promotion),
            eta=NUMBER,
            max_total_epochs=st.none() | NUMBER,
        ),
    ),
    st.builds(IdsDrawn, first=NUMBER, ids=st.lists(TEXT, max_size=4).map(tuple)),
    st.builds(
        IdProposed, trial=NUMBER, config_id=TEXT, source=st.sampled_from(IdSource), n_observations=NUMBER
    ),
    st.builds(SpaceExhausted, n_ids=NUMBER, train_all=st.booleans()),
    st.builds(
        JobStarted,
        at=TIME,
        job=NUMBER,
        attempt=NUMBER,
        trial=NUMBER,
        rung=NUMBER,
        epochs=NUMBER,
        slot=TEXT,
        several_gpus=st.booleans(),
        script_sha256=TEXT,
        host=TEXT,
    ),
    st.builds(
        JobEnded,
        at=TIME,
        job=NUMBER,
        attempt=NUMBER,
        outcome=st.sampled_from(Outcome),
        loss=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        exit_status=st.one_of(st.none(), st.integers(-64, 255)),
        started_at=TIME,
        ended_at=TIME,
        search_alive=st.booleans(),
        note=TEXT,
    ),
    st.builds(SearchEnded, at=TIME, state=TEXT, reason=TEXT),
)
A_FEW: tuple[Event, ...] = (
    StudyCreated("name", "/s.py", ("--model", "a"), "/", ()),
    PlanMade(Plan((Bracket((Rung(3, 1), Rung(1, 3))),), 3)),
    IdsDrawn(0, ("a", "b", "c")),
)


@given(st.lists(EVENTS, max_size=6), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_stored_comes_back(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], durable: bool
) -> None:
    folder = tmp_path_factory.mktemp("study")
    journal = Journal.open(folder)
    journal.append(*events, durable=durable)
    assert journal.events() == events
    assert read_events(folder) == events
    journal.close()
    assert read_events(folder) == events


def test_losses_come_back_to_the_last_bit(tmp_path: Path) -> None:
    losses = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0]
    journal = Journal.open(tmp_path)
    ended = [JobEnded(0, n, 0, Outcome.LOSS, loss, 0, 0, 0, True, "") for n, loss in enumerate(losses)]
    journal.append(*ended, durable=True)
    journal.close()
    found = [
        event.loss.hex()
        for event in read_events(tmp_path)
        if isinstance(event, JobEnded) and event.loss is not None
    ]
    assert found == [loss.hex() for loss in losses]


def test_a_transaction_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.append(*A_FEW, durable=True)
    with pytest.raises(TypeError):
        journal.append(IdsDrawn(3, ("d",)), SearchEnded(0.0, "stopped", object()), durable=True)  # type: ignore[arg-type]
    assert journal.events() == list(A_FEW)
    journal.close()


WRITER = """
import sys
from pathlib import Path
from hyperband.journal import Journal
from hyperband.search.events import IdsDrawn
journal = Journal.open(Path(sys.argv[1]))
n = 0
while True:
    journal.append(IdsDrawn(n, (f"id {n}",) * 3), durable=False)
    n += 1
    print(n, flush=True)
"""


def test_events_survive_the_death_of_their_writer(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(200):
        last = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    last = max([last, *map(int, writer.communicate()[0].split())])
    events = read_events(tmp_path)
    assert [event.first for event in events if isinstance(event, IdsDrawn)][:last] == list(range(last))
    assert len(events) <= last + 1
    again = Journal.open(tmp_path)
    again.append(SearchEnded(0.0, "stopped", ""), durable=True)
    assert len(again.events()) == len(events) + 1
    again.close()


def test_one_writer(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    found = holder(tmp_path)
    assert found is not None
    assert found.process.pid == writer.pid
    with pytest.raises(StudyBusyError, match=f"pid {writer.pid} on"):
        Journal.open(tmp_path)
    assert read_events(tmp_path)
    writer.kill()
    writer.communicate()
    assert holder(tmp_path) is None
    Journal.open(tmp_path).close()


def test_nobody_holds_a_closed_study(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    assert holder(tmp_path) is None
    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_a_lock_that_another_machine_holds_is_told_of(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    about = {
        "host": "elsewhere",
        "since": 0.0,
        "pid": 1,
        "start_ticks": 1,
        "boot_id": "another",
        "pid_namespace": 1,
    }
    (tmp_path / LOCK_FILE).write_text(json.dumps(about))
    found = holder(tmp_path)
    assert found is not None
    assert found.host == "elsewhere"
    with pytest.raises(StudyBusyError, match="on elsewhere since"):
        Journal.open(tmp_path)
    journal.close()


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no study"):
        read_events(tmp_path)


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(b"not a database, but long enough to look like one" * 20)
    with pytest.raises(JournalError, match="cannot read"):
        read_events(tmp_path)
    with pytest.raises(JournalError, match="cannot open"):
        Journal.open(tmp_path)
    assert holder(tmp_path) is None


def test_a_journal_of_a_newer_version(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    connection = sqlite3.connect(tmp_path / JOURNAL_FILE)
    connection.execute("INSERT INTO migration VALUES (99, 'from the future', 0)")
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match="newer"):
        Journal.open(tmp_path)
    with pytest.raises(JournalError, match="newer"):
        read_events(tmp_path)


def test_an_event_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    connection = sqlite3.connect(tmp_path / JOURNAL_FILE)
    connection.execute("INSERT INTO event (kind, body) VALUES ('Surprise', '{}')")
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match=r"event 1 \(Surprise"):
        read_events(tmp_path)


def test_reading_a_study_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    journal = Journal.open(folder)
    journal.append(*A_FEW, durable=True)
    journal.close()
    for path in (tmp_path, *tmp_path.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    folder.chmod(0o555)
    code = (
        "import os, sys; sys.path[:0] = eval(sys.argv[2]); from pathlib import Path; "
        "from hyperband.journal import read_events; os.setuid(65534); "
        "print(len(read_events(Path(sys.argv[1]))))"
    )
    argv = [sys.executable, "-c", code, str(folder), repr(sys.path)]
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(A_FEW)), done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [COPY_FILE, JOURNAL_FILE, LOCK_FILE]


def test_the_file_system_is_known(tmp_path: Path) -> None:
    assert file_system(Path("/proc")) == "proc"
    assert file_system(tmp_path) != "unknown"


def test_write_ahead_only_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "local")
    assert journal.write_ahead
    journal.close()
    monkeypatch.setattr("hyperband.journal.database.file_system", lambda _: "nfs4")
    journal = Journal.open(tmp_path / "far")
    journal.append(*A_FEW, durable=False)
    assert not journal.write_ahead
    assert not list((tmp_path / "far").glob("*-wal"))
    journal.close()
    assert read_events(tmp_path / "far") == list(A_FEW)


def test_folders_of_attempts() -> None:
    assert job_folder(Path("/s"), 17, 2) == Path("/s/jobs/000017-2")


def test_a_study_that_is_just_being_made(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / JOURNAL_FILE).close()
    (tmp_path / JOURNAL_FILE).touch()
    assert read_events(tmp_path) == []
