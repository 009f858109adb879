"""The journal on a local disk while it is written, where the study's folder is on a network file system."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_fixture import Searches, script, searches, until

from hyperband.errors import JournalError, StudyBusyError
from hyperband.folder import COPY_FILE, JOURNAL_FILE, LOCK_FILE, PLACE_FILE, Holder, has_study
from hyperband.journal import Journal, courier, read_events, removing, store, where, writer_of
from hyperband.journal.place import Place, base_for
from hyperband.journal.stop_request import ask_to_stop
from hyperband.machine.mounts import file_system, is_network, kind_of
from hyperband.search.events import Event, IdsDrawn, StudyCreated
from hyperband.study import stop_study
from hyperband.study.learning import read_lessons

__all__ = ["searches"]

EVENTS = [IdsDrawn(n, (f"id {n}",)) for n in range(40)]
MOUNTS = """\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
88 24 0:45 / /home rw,relatime shared:48 - autofs systemd-1 rw,fd=30,pgrp=1,timeout=0
91 88 0:52 / /home/us\\040er rw,relatime shared:50 - nfs4 nas:/export rw,vers=4.2,proto=tcp,addr=10.0.0.2
95 24 0:61 / /scratch rw,flock shared:61 - lustre 10.0.0.3@o2ib:/scratch rw,flock,lazystatfs
99 24 0:66 / /mnt/far rw,nosuid,nodev master:7 - fuse.sshfs me@there:/data rw,user_id=1000
101 24 0:70 /sub /data rw,relatime - btrfs /dev/sdb rw,subvol=/sub
103 24 0:71 / /var/tmp rw - tmpfs tmpfs rw,size=1g
104 24 0:72 / /box rw - fuse.fuse-overlayfs fuse-overlayfs rw
"""


@pytest.mark.parametrize(
    ("device", "kind", "network"),
    [
        ("8:1", "ext4", False),
        ("0:52", "nfs4", True),
        ("0:61", "lustre", True),
        ("0:66", "fuse.sshfs", True),
        ("0:70", "btrfs", False),
        ("0:72", "fuse.fuse-overlayfs", False),
        ("0:99", "unknown", False),
    ],
)
def test_network_file_systems_are_told_from_local_ones(device: str, kind: str, network: bool) -> None:
    assert kind_of(device, MOUNTS) == kind
    assert is_network(kind) is network


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Types of file systems by the beginning of a path, as if they were mounted there; else ext4."""
    found: dict[str, str] = {}

    def kind(path: Path) -> str:
        return next((found[begin] for begin in found if str(path).startswith(begin)), "ext4")

    monkeypatch.setattr("hyperband.journal.place.file_system", kind)
    monkeypatch.setattr("hyperband.journal.home.file_system", kind)
    return found


def test_the_place_is_on_a_local_disk_or_there_is_none(tmp_path: Path, kinds: dict[str, str]) -> None:
    study, home = tmp_path / "far" / "study", tmp_path / "home"
    environ = {"HOME": str(home)}
    assert base_for(study, environ) is None, "it is on a local disk itself"
    kinds[str(study)] = "nfs4"
    assert base_for(study, environ) == home / ".local/state/hyperband/journals"
    state = tmp_path / "state"
    assert base_for(study, {"XDG_STATE_HOME": str(state)}) == state / "hyperband/journals"
    kinds[str(home)] = "nfs"
    in_var = Path(f"/var/tmp/hyperband-{os.getuid()}")
    assert base_for(study, environ) == in_var
    assert in_var.stat().st_mode & 0o777 == 0o700
    with contextlib.suppress(OSError):
        in_var.rmdir()  # unless a study's journal is in it
    kinds["/var/tmp"] = "tmpfs"
    tried = r"on nfs4.*home.* is on nfs, a netw.*/var/tmp.* on tmpfs.*HYPERBAND_JOURNALS"
    with pytest.raises(JournalError, match=tried):
        base_for(study, environ)
    given = tmp_path / "given"
    assert base_for(study, {**environ, "HYPERBAND_JOURNALS": str(given)}) == given
    kinds[str(given)] = "lustre"
    with pytest.raises(JournalError, match=r"HYPERBAND_JOURNALS is .* which is on lustre"):
        base_for(study, {"HYPERBAND_JOURNALS": str(given)})
    open_to_all = tmp_path / "all"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(JournalError, match="may be written to by others"):
        base_for(study, {"HYPERBAND_JOURNALS": str(open_to_all)})


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder whose journal is taken to `local` beside it."""
    monkeypatch.setenv("HYPERBAND_JOURNALS", str(tmp_path / "local"))
    return tmp_path / "study"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def place_of(study: Path) -> Place:
    found = Place.read(study)
    assert found is not None
    return found


def write(study: Path, *events: Event) -> None:
    with contextlib.closing(Journal.open(study)) as journal:
        journal.append(*events, durable=True)


@contextlib.contextmanager
def lost(study: Path) -> Iterator[None]:
    """The machine with the journal is out of reach."""
    base = place_of(study).path.parent
    base.rename(base.with_name("away"))
    yield
    if not base.exists():
        base.with_name("away").rename(base)


def test_a_journal_is_taken_out_and_brought_back(study: Path, tmp_path: Path) -> None:
    with contextlib.closing(Journal.open(study)) as journal:
        assert journal.write_ahead
        journal.append(*EVENTS[:10], durable=True)
        place = place_of(study)
        assert {COPY_FILE, JOURNAL_FILE, LOCK_FILE} <= set(names(place.path))
        assert has_study(study)
        assert read_events(study) == EVENTS[:10]
        writer = writer_of(study)
        assert writer is not None
        assert writer.process.pid == os.getpid()
        assert journal.place == where(study)
        with pytest.raises(StudyBusyError, match=f"in {study} is being written by pid {os.getpid()}"):
            Journal.open(study)
    assert names(study) == [COPY_FILE, JOURNAL_FILE]
    assert names(tmp_path / "local") == []
    assert writer_of(study) is None
    write(study, *EVENTS[10:20])
    assert read_events(study) == EVENTS[:20]


def test_a_study_of_before_is_taken_along_and_one_that_is_written_in_its_folder_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.delenv("HYPERBAND_JOURNALS")
        journal = Journal.open(study)
        journal.append(*EVENTS[:10], durable=True)
    with pytest.raises(StudyBusyError):
        Journal.open(study)
    journal.close()
    with contextlib.closing(Journal.open(study)) as journal:
        assert journal.events() == EVENTS[:10]


WRITER = """
import os, sys
from pathlib import Path
from hyperband.journal import Journal
from hyperband.search.events import IdsDrawn
journal = Journal.open(Path(sys.argv[1]))
for n in range(int(sys.argv[2]), int(sys.argv[3])):
    journal.append(IdsDrawn(n, (f"id {n}",)), durable=True)
print("ready", flush=True)
sys.stdin.readline()
try:
    journal.append(IdsDrawn(99, ("late",)), durable=True)
except Exception as err:
    print(type(err).__name__, err, flush=True)
journal.close()
"""


def start_writer(study: Path, begin: int, end: int) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", WRITER, str(study), str(begin), str(end)]
    writer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def kill(writer: "subprocess.Popen[str]") -> None:
    writer.send_signal(signal.SIGKILL)
    writer.communicate()


def test_after_a_kill_the_journal_is_whole_here_and_its_copy_elsewhere(study: Path) -> None:
    write(study, *EVENTS[:10])
    kill(start_writer(study, 10, 20))
    assert read_events(study) == EVENTS[:20]
    with lost(study):
        said: list[str] = []
        assert read_events(study, say=said.append) == EVENTS[:10]
        assert "the copy in the study's folder is of" in said[0]
        for refused in (lambda: Journal.open(study), lambda: removing(study, from_copy=False).__enter__()):
            with pytest.raises(JournalError, match=r"but is not there any more.*--from-copy goes on"):
                refused()
        assert read_events(study) == EVENTS[:10], "nothing was begun"
    with contextlib.closing(Journal.open(study)) as journal:
        assert journal.events() == EVENTS[:20]
        assert not journal.was_restored
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


#: kills itself at the moment that is named, on the way out of the study's folder or back
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from hyperband.folder import PLACE_FILE
from hyperband.journal import Journal, home
from hyperband.search.events import IdsDrawn

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def both(*words, **named):
        function(*words, **named)
        die()
    return both

def unlink_place(path, **named):
    (dies if path.name == PLACE_FILE else unlink)(path, **named)

study, moment = Path(sys.argv[1]), sys.argv[2]
unlink, dies = Path.unlink, die
if moment == "made":
    home.lock_study = die
elif moment == "before it is said":
    home.Home.point = die
elif moment == "after it is said":
    home.Home.point = then_die(home.Home.point)
journal = Journal.open(study)
journal.append(IdsDrawn(10, ("id 10",)), durable=True)
if moment == "before it is back":
    Path.unlink = unlink_place
elif moment == "when it is back":
    dies = then_die(unlink)
    Path.unlink = unlink_place
elif moment == "while it is removed":
    shutil.rmtree = die
journal.close()
"""


@pytest.mark.parametrize(
    ("moment", "n_events"),
    [
        ("made", 10),
        ("before it is said", 10),
        ("after it is said", 10),
        ("before it is back", 11),
        ("when it is back", 11),
        ("while it is removed", 11),
    ],
)
def test_who_is_killed_while_a_journal_moves_leaves_nothing_for_ever(
    study: Path, tmp_path: Path, moment: str, n_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study, *EVENTS[:10])
    # of another study, and of one that somebody has gone on with from its copy: perhaps the only ones
    for name in ("other-0123456789ab", "study-0123456789ab"):
        (tmp_path / "local" / name).mkdir()
        (tmp_path / "local" / name / JOURNAL_FILE).touch()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(study), moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path / "local")) == 3
    monkeypatch.setattr("hyperband.journal.spare.EMPTY_FOR_S", 0.0)
    with contextlib.closing(Journal.open(study)) as journal:
        assert journal.events() == EVENTS[:n_events]
        assert not journal.was_restored
        journal.append(*EVENTS[n_events:20], durable=True)
    assert read_events(study) == EVENTS[:20]
    assert names(tmp_path / "local") == ["other-0123456789ab", "study-0123456789ab"]
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is on this machine, and whoever is elsewhere has given no sign of life for long."""
    monkeypatch.setattr(Holder, "is_here", property(lambda _: False))
    monkeypatch.setattr("hyperband.journal.place.SIGN_OF_LIFE_S", 0.0)


def test_the_copy_is_not_gone_on_with_while_the_search_elsewhere_shows_that_it_lives(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study, *EVENTS[:10])
    writer = start_writer(study, 10, 20)
    elsewhere, clock = r", last sign of life \d+ s ago", time.time
    with lost(study):
        for is_here, ahead_s, seen in ((True, 0, ""), (False, 0, elsewhere), (False, 300, elsewhere)):
            if not is_here:
                monkeypatch.setattr(Holder, "is_here", property(lambda _: False))
            # of several machines' clocks that of the file server counts
            monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: clock() + ahead_s)
            who = f"in {study} is being written by pid {writer.pid} on .*{seen}: --from-copy is for"
            for refused in (
                lambda: Journal.open(study, from_copy=True),
                lambda: removing(study, from_copy=True).__enter__(),
            ):
                with pytest.raises(StudyBusyError, match=who) as caught:
                    refused()
                assert f"`hyperband stop {study}`" in str(caught.value)
                assert (
                    bool(re.search(r"wait (6[01]|[1-5]\d) s and give the command", str(caught.value)))
                    != is_here
                )
    assert names(tmp_path / "local") == [place_of(study).path.name]
    kill(writer)


@pytest.mark.usefixtures("long_ago")
def test_who_goes_on_from_the_copy_ends_a_writer_that_comes_back(study: Path) -> None:
    write(study, *EVENTS[:10])
    writer = start_writer(study, 10, 20)
    with lost(study), contextlib.closing(Journal.open(study, from_copy=True)) as journal:
        assert journal.events() == EVENTS[:10]
        assert journal.was_restored, "jobs that it does not know are ended"
        journal.settle()
        assert "is given up" in journal.news[0]
        said, _ = writer.communicate("\n", timeout=60)
        assert "StudyBusyError another search has gone on with the study" in said
        journal.append(*EVENTS[10:15], durable=True)
    assert read_events(study) == EVENTS[:15]
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


@pytest.mark.usefixtures("long_ago")
def test_a_writer_that_comes_back_when_all_is_over_changes_nothing(study: Path) -> None:
    write(study, *EVENTS[:10])
    writer = start_writer(study, 10, 20)
    base = place_of(study).path.parent
    with lost(study), contextlib.closing(Journal.open(study, from_copy=True)) as journal:
        journal.append(*EVENTS[10:15], durable=True)
        journal.settle()
    base.rename(base.with_name("new"))
    base.with_name("away").rename(base)
    said, _ = writer.communicate("\n", timeout=60)
    assert "StudyBusyError another search has gone on with the study" in said
    assert read_events(study) == EVENTS[:15]
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


def test_a_search_on_another_machine_is_asked_to_end(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches.write(script("import time; time.sleep(600)"))
    searches.environment["HYPERBAND_JOURNALS"] = str(searches.folder / "local")
    search = searches.start("--max-epochs", "3", "--slots", "2")
    until(lambda: len(list(searches.study.glob("jobs/*/keeper.json"))) == 2, "jobs")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Holder, "is_here", property(lambda _: False))
        assert "Stopped the search (pid" in stop_study(searches.study)
    assert searches.wait(search).exit_code == 130
    assert JOURNAL_FILE in names(searches.study)
    assert PLACE_FILE not in names(searches.study)


def test_copies_come_while_it_is_written(study: Path) -> None:
    writer = start_writer(study, 0, 20)
    until(lambda: (study / JOURNAL_FILE).exists(), "a copy")
    kill(writer)
    with lost(study):
        assert read_events(study) == EVENTS[:20]
    with contextlib.closing(Journal.open(study)):
        pass


def test_a_sign_of_life_is_given_however_long_the_next_copy_is_in_coming(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_FIRST_S", 0.0), ("_EVERY_S", 0.02), ("_LOOK_S", 0.01), ("_TIMES", 1e9)):
        monkeypatch.setattr(courier, name, value)
    with contextlib.closing(Journal.open(study)) as journal:
        journal.append(*EVENTS[:10], durable=True)
        until(lambda: (study / JOURNAL_FILE).exists(), "a copy")  # the next one is due in days
        for _ in range(2):
            os.utime(study / PLACE_FILE, (0, 0))
            until(lambda: (study / PLACE_FILE).stat().st_mtime > 0, "a sign of life")


def test_a_study_to_learn_from_that_is_elsewhere_is_read_from_its_copy_and_that_is_said(
    study: Path,
) -> None:
    study.mkdir()
    write(study, StudyCreated("study", "/s.py", (), "/", ()), *EVENTS[:10])
    kill(start_writer(study, 10, 20))
    with lost(study):
        (lesson,) = read_lessons([study])
    (said,) = lesson.read_from
    assert re.search(r"the copy in the study's folder is of .* s ago, from which this is read\.$", said)
    (lesson,) = read_lessons([study])
    assert lesson.read_from == ()


def test_a_job_that_slurm_has_started_again_goes_on_from_the_copy(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study, *EVENTS[:10])
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    kill(start_writer(study, 10, 20))
    with lost(study):
        with pytest.raises(JournalError, match="--from-copy"):
            Journal.open(study)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with contextlib.closing(Journal.open(study)) as journal:
            assert journal.events() == EVENTS[:10]
    with contextlib.closing(Journal.open(study)) as journal:
        assert journal.was_restored, "nobody has ended what lives yet"


def test_a_study_that_is_deleted_while_it_is_written_is_made_again(study: Path) -> None:
    journal = Journal.open(study)
    journal.append(*EVENTS[:10], durable=True)
    for path in study.iterdir():
        path.unlink()
    study.rmdir()
    with pytest.raises(JournalError, match="deleted while the search ran"):
        journal.append(EVENTS[10], durable=True)
    assert journal.was_deleted
    journal.close()
    assert read_events(study) == EVENTS[:11]


def test_a_study_whose_file_system_is_away_is_not_taken_for_deleted(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Journal.open(study)) as journal:
        journal.append(*EVENTS[:10], durable=True)
        away = study.rename(study.with_name("unmounted"))
        with monkeypatch.context() as now:
            now.setattr(store, "file_system", lambda _: "what the folder is on in which it is mounted")
            with pytest.raises(JournalError, match=r"cannot look at .*mend the file system"):
                journal.append(*EVENTS[10:20], durable=True)
        assert not journal.was_deleted, "then its jobs would be ended"
        assert not study.exists()
        away.rename(study)
        journal.append(*EVENTS[10:20], durable=True)
    assert read_events(study) == EVENTS[:20]


def test_a_place_that_is_deleted_while_it_is_written_is_made_again(study: Path) -> None:
    journal = Journal.open(study)
    journal.append(*EVENTS[:10], durable=True)
    for path in place_of(study).path.iterdir():
        path.unlink()
    with pytest.raises(JournalError, match="deleted while the search ran"):
        journal.append(EVENTS[10], durable=True)
    journal.close()
    assert read_events(study) == EVENTS[:11]
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


def test_a_study_is_removed_with_its_place(study: Path, tmp_path: Path) -> None:
    kill(start_writer(study, 0, 10))
    with removing(study, from_copy=False):
        pass
    assert not study.exists()
    assert names(tmp_path / "local") == []


def test_a_log_that_a_killed_search_left_beside_its_journal_spoils_no_copy(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.delenv("HYPERBAND_JOURNALS")
        kill(start_writer(study, 0, 10))
    assert f"{JOURNAL_FILE}-wal" in names(study)
    old = (study / JOURNAL_FILE).stat().st_ino
    writer = start_writer(study, 10, 40)
    until(lambda: (study / JOURNAL_FILE).stat().st_ino != old, "a copy")
    kill(writer)
    with lost(study):
        copied = read_events(study)
        assert len(copied) > 10
        with contextlib.closing(Journal.open(study, from_copy=True)) as journal:
            assert journal.events() == copied
            journal.settle()
    assert read_events(study) == copied


def test_a_request_to_stop_is_for_the_search_that_was_there(study: Path) -> None:
    kill(start_writer(study, 0, 10))
    ask_to_stop(study, place_of(study))  # and whoever asked was killed as well
    told = threading.Event()
    with contextlib.closing(Journal.open(study, on_stop=told.set)):
        assert not told.wait(1.0)
        ask_to_stop(study, place_of(study))
        assert told.wait(60.0)
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


def test_what_a_lost_machine_left_is_ended_at_once_where_that_is_asked_for(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches.write(script("import time; time.sleep(600)"))
    local = searches.folder / "local"
    searches.environment["HYPERBAND_JOURNALS"] = str(local)
    search = searches.start("--max-epochs", "3", "--slots", "2")
    until(lambda: len(list(searches.study.glob("jobs/*/keeper.json"))) == 2, "jobs")
    until(lambda: (searches.study / JOURNAL_FILE).exists(), "a copy")
    searches.kill(search)
    local.rename(searches.folder / "away")
    monkeypatch.setattr("hyperband.journal.place.SIGN_OF_LIFE_S", 2.0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Holder, "is_here", property(lambda _: False))
        assert "ended 2 jobs" in stop_study(searches.study, from_copy=True)


OPENER = """
import sys, time
from pathlib import Path
from hyperband.errors import StudyBusyError
from hyperband.journal import Journal
from hyperband.search.events import IdsDrawn
for _ in range(4000):
    try:
        journal = Journal.open(Path(sys.argv[1]))
        break
    except StudyBusyError:
        time.sleep(0.02)
n = len(journal.events())
journal.append(IdsDrawn(n, (f"id {n}",)), durable=True)
journal.close()
"""


def test_of_many_who_open_at_once_each_has_it_in_turn(study: Path) -> None:
    argv = [sys.executable, "-c", OPENER, str(study)]
    openers = [subprocess.Popen(argv, stderr=subprocess.PIPE) for _ in range(5)]
    said = [opener.communicate(timeout=100)[1].decode() for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 5, said
    assert read_events(study) == EVENTS[:5]
    assert names(study) == [COPY_FILE, JOURNAL_FILE]


def test_a_journal_that_is_brought_back_at_this_moment_is_not_elsewhere(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Journal.open(study)
    before = Place.read(study)
    first.append(EVENTS[0], durable=True)
    first.close()
    assert before is not None
    read = Place.read
    assert read(study) is None
    for from_copy in (False, True):
        seen = [before]
        monkeypatch.setattr(Place, "read", lambda study, seen=seen: seen.pop() if seen else read(study))
        again = Journal.open(study, from_copy=from_copy)
        assert list(again.events()) == EVENTS[:1]
        again.close()


SFTP_SERVER = "/usr/lib/openssh/sftp-server"


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Path]:
    """A folder on a real network file system; its server is this machine."""
    sshfs = shutil.which("sshfs")
    if not Path("/dev/fuse").exists():
        pytest.skip("no file system can be mounted by FUSE here")
    if sshfs is None or not Path(SFTP_SERVER).exists():
        pytest.skip("no network file system to be had (Debian: apt install sshfs openssh-sftp-server)")
    served, mounted = tmp_path / "served", tmp_path / "far"
    served.mkdir()
    mounted.mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen([SFTP_SERVER], stdin=ours.fileno(), stdout=ours.fileno())
        argv = [sshfs, f":{served}", str(mounted), "-f", "-o", "passive"]
        end = theirs.fileno()
        client = subprocess.Popen(argv, stdin=end, stdout=end, stderr=subprocess.DEVNULL)
    try:
        until(lambda: mounted.is_mount() or client.poll() is not None, "the mount")
        if client.poll() is not None:
            pytest.skip("no file system can be mounted by FUSE here")
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=False)
        client.terminate()
        client.wait()
        server.kill()
        server.wait()


def test_on_a_network_file_system_the_journal_is_elsewhere_by_itself(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_system(far / "logs" / "study") == "fuse.sshfs"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    study = far / "logs" / "study"
    with contextlib.closing(Journal.open(study)) as journal:
        journal.append(*EVENTS[:10], durable=True)
        assert journal.write_ahead
        assert f"{study} is on fuse.sshfs, a network file system" in (journal.place or "")
        assert place_of(study).path.parent == tmp_path / "state" / "hyperband" / "journals"
    assert names(study) == [COPY_FILE, JOURNAL_FILE]
    assert read_events(study) == EVENTS[:10]


def test_a_search_whose_machine_is_lost_goes_on_elsewhere_and_comes_to_the_same(searches: Searches) -> None:
    searches.write(script("import time; time.sleep(0.05); print(float(config_id[2:]) + 1 / epochs)"))
    local = searches.folder / "local"
    searches.environment["HYPERBAND_JOURNALS"] = str(local)
    search = searches.start("--max-epochs", "9", "--slots", "2", as_json=False)
    until(lambda: (searches.study / JOURNAL_FILE).exists(), "a copy")
    searches.kill(search)
    here = searches.command("report", str(searches.study))
    assert f"journal: {local}" in here.out
    local.rename(searches.folder / "away")
    refused = searches.run("--max-epochs", "9", "--slots", "2")
    assert refused.exit_code == 1
    assert "the journal of this study is at" in refused.err
    assert "--from-copy goes on from the copy" in refused.err
    assert "from which this is read" in searches.command("report", str(searches.study)).err
    assert "--from-copy" in searches.command("stop", str(searches.study)).err
    again = searches.run("--max-epochs", "9", "--slots", "2", "--from-copy")
    assert again.exit_code == 0, again.err
    assert "is given up" in again.err
    assert not (searches.study / PLACE_FILE).exists()
    del searches.environment["HYPERBAND_JOURNALS"]
    plain = searches.run("--max-epochs", "9", "--slots", "2", "--logs", "plain")
    keys = ("config_id", "loss", "state")
    for other, one in zip(again.document["trials"], plain.document["trials"], strict=True):
        assert [other[key] for key in keys] == [one[key] for key in keys]
