"""Leases: real locks between real processes, studies and users."""

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperband.errors import MachineError
from hyperband.machine import leases as module
from hyperband.machine.leases import Leases, lease_folder

GPU = "GPU-00000001-0000-4000-8000-000000000000"
OTHER_GPU = "GPU-00000002-0000-4000-8000-000000000000"
#: only root can act as someone else; without it both sides of that test are the same user
OTHER_USER = 65534 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lease_folder({"HYPERBAND_LEASES": str(tmp_path / "leases")})


@contextmanager
def held(descriptor: int | None) -> Iterator[int]:
    """A lease that must have been given, until the end of the block."""
    assert descriptor is not None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_free(leases: Leases, share: int = 0) -> bool:
    descriptor = leases.take(GPU, share)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def test_another_study_waits_until_the_lease_is_closed(folder: Path) -> None:
    mine, theirs = Leases(folder, "/studies/mine"), Leases(folder, "/studies/theirs")
    with held(mine.take(GPU, 0)):
        assert not is_free(theirs)
        holder = theirs.holder(GPU)
        assert holder is not None
        assert (holder.study, holder.pid) == ("/studies/mine", os.getpid())
        assert str(holder).startswith(f"study /studies/mine (pid {os.getpid()} on ")
        assert mine.holder(GPU) is None
        assert theirs.holder(OTHER_GPU) is None
    assert theirs.holder(GPU) is None
    assert is_free(theirs)


def test_shares_are_for_one_study_whatever_the_others_number(folder: Path) -> None:
    mine, theirs = Leases(folder, "mine"), Leases(folder, "theirs")
    with held(mine.take(GPU, 5)):
        assert not is_free(theirs, 0)
        assert not is_free(theirs, 5)
        assert not is_free(mine, 5)
        with held(mine.take(GPU, 0)):
            assert not is_free(theirs, 1)
        assert is_free(mine, 0)


def test_the_same_study_folder_on_another_host_is_another_study(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Leases(folder, "/studies/mine")
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    theirs = Leases(folder, "/studies/mine")
    with held(mine.take(GPU, 0)):
        assert not is_free(theirs, 1)


def test_a_lease_lives_as_long_as_a_process_that_inherited_it(folder: Path) -> None:
    mine, theirs = Leases(folder, "mine"), Leases(folder, "theirs")
    descriptor = mine.take(GPU, 0)
    assert descriptor is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]):
        os.close(descriptor)
        assert not is_free(theirs)
        # After a restart the share is held by our own keeper: the other shares are ours to take.
        restarted = Leases(folder, "mine")
        assert not is_free(restarted, 0)
        assert is_free(restarted, 1)
    assert is_free(theirs)


def test_a_lease_is_not_inherited_by_chance(folder: Path) -> None:
    mine = Leases(folder, "mine")
    descriptor = mine.take(GPU, 0)
    assert descriptor is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False):
        os.close(descriptor)
        assert is_free(Leases(folder, "theirs"))


def test_a_gate_that_is_held_makes_nobody_wait(folder: Path) -> None:
    mine = Leases(folder, "mine")
    assert is_free(mine)
    [gate] = folder.glob("*.gate")
    with gate.open() as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        assert not is_free(mine)
        assert mine.holder(GPU) is None
    assert is_free(mine)


def test_a_file_that_does_not_tell_its_holder_is_held_by_an_unknown_study(folder: Path) -> None:
    mine, theirs = Leases(folder, "mine"), Leases(folder, "theirs")
    with held(mine.take(GPU, 0)) as descriptor:
        for content in (b"", b"\xff\xfe", b"[]", b'{"study": "theirs"}', b'{"study": 1, "pid": "x"}'):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            assert not is_free(theirs)
            assert str(theirs.holder(GPU)) == "an unknown study"


def test_lock_files_that_were_removed_are_made_anew(folder: Path) -> None:
    mine = Leases(folder, "mine")
    assert is_free(mine)
    for path in folder.iterdir():
        path.unlink()
    with held(mine.take(GPU, 0)):
        assert not is_free(Leases(folder, "theirs"))


def test_files_are_for_everyone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = lease_folder({"HYPERBAND_LEASES": str(tmp_path / "deep" / "leases")})
        assert is_free(Leases(folder, "mine"))
        old_mig_name = Leases(folder, "mine").take("MIG-GPU-1a2b/3/0", 1)
    finally:
        os.umask(before)
    with held(old_mig_name):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
        names = sorted(path.name for path in folder.iterdir())
        assert names == [
            f"{GPU}.0.lock",
            f"{GPU}.gate",
            "MIG-GPU-1a2b_3_0.1.lock",
            "MIG-GPU-1a2b_3_0.gate",
        ]
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666}


def test_a_symbolic_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / f"{GPU}.0.lock").symlink_to(victim)
    with pytest.raises(MachineError, match=r"cannot be used.*HYPERBAND_LEASES"):
        Leases(folder, "mine").take(GPU, 0)
    assert victim.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(MachineError, match="symbolic links are not followed"):
        lease_folder({"HYPERBAND_LEASES": str(link)})


def test_a_named_folder_keeps_its_mode_and_must_be_a_folder(tmp_path: Path) -> None:
    mode = stat.S_IMODE(tmp_path.stat().st_mode)
    assert lease_folder({"HYPERBAND_LEASES": str(tmp_path)}) == tmp_path
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
    (tmp_path / "file").touch()
    for wrong in ("file", "file/leases"):
        with pytest.raises(MachineError, match="HYPERBAND_LEASES names"):
            lease_folder({"HYPERBAND_LEASES": str(tmp_path / wrong)})


def test_the_folder_is_made_where_everyone_could_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, open_to_all = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(mode=0o755)
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)
    monkeypatch.setattr(module, "_FOLDERS", (closed / "hyperband", open_to_all / "leases"))
    assert lease_folder({}) == open_to_all / "leases"
    assert stat.S_IMODE((open_to_all / "leases").stat().st_mode) == 0o1777
    assert [path.name for path in open_to_all.iterdir()] == ["leases"]
    # Made by the administrator, it is everyone's first choice; a mode cut short is mended.
    (closed / "hyperband").mkdir(mode=0o755)
    assert lease_folder({}) == closed / "hyperband"
    assert stat.S_IMODE((closed / "hyperband").stat().st_mode) == 0o1777


def test_no_folder_at_all_is_an_error_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "_FOLDERS", (tmp_path / "file", tmp_path / "none" / "leases"))
    with pytest.raises(MachineError, match=r"file: it is not a folder.*none/leases: it cannot be made"):
        lease_folder({})


AS_ANOTHER_USER = """
import json, os, sys
folder, gpu, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from hyperband.machine.leases import Leases, lease_folder
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
leases = Leases(lease_folder({"HYPERBAND_LEASES": folder}), "theirs")
descriptor = leases.take(gpu, 0)
holder = leases.holder(gpu)
print(json.dumps([descriptor is not None, None if holder is None else holder.study]))
"""


def test_another_user_can_lease_what_the_first_one_made_and_not_what_it_holds() -> None:
    # Not below pytest's own folder, which other users cannot enter.
    root = Path(tempfile.mkdtemp(prefix="leases-of-two-users-", dir="/tmp"))
    try:
        root.chmod(0o755)
        folder = lease_folder({"HYPERBAND_LEASES": str(root / "leases")})
        mine = Leases(folder, "mine")

        def as_other_user(gpu: str) -> object:
            place = str(Path(__file__).parent.parent)
            words = [sys.executable, "-c", AS_ANOTHER_USER, str(folder), gpu, str(OTHER_USER), place]
            return json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True, cwd="/").stdout)

        with held(mine.take(GPU, 0)):
            assert as_other_user(GPU) == [False, "mine"]
        assert as_other_user(GPU) == [True, None]
        # and the other way round: files of the other user in a sticky folder
        assert as_other_user(OTHER_GPU) == [True, None]
        assert (folder / f"{OTHER_GPU}.0.lock").stat().st_uid == OTHER_USER
        with held(mine.take(OTHER_GPU, 0)):
            assert as_other_user(OTHER_GPU) == [False, "mine"]
    finally:
        shutil.rmtree(root)


HAMMER = """
import os, sys
folder, share, n_wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from hyperband.machine.leases import Leases
leases = Leases(Path(folder) / "leases", f"study {share}")
held = {}  # GPU -> (descriptor, whether the mark was ours to make)

def give_back(gpu):
    descriptor, is_ours = held.pop(gpu)
    if is_ours:
        os.unlink(f"{folder}/{gpu}")
    os.close(descriptor)

sys.stdin.readline()
n_taken = n_clashes = turn = 0
while n_taken < n_wanted:
    turn += 1
    gpu = f"GPU-{(turn * (1, 3, 1)[share] + share) % 4}"
    descriptor = None if gpu in held else leases.take(gpu, share)
    if descriptor is None:
        os.sched_yield()
        continue
    n_taken += 1
    try:  # who leases the GPU makes this file: it must not be there
        os.close(os.open(f"{folder}/{gpu}", os.O_CREAT | os.O_EXCL))
        held[gpu] = descriptor, True
    except FileExistsError:
        n_clashes += 1
        held[gpu] = descriptor, False
    if len(held) == 2:  # the other one goes: a GPU is always held while the next is sought
        give_back(next(iter(held)))
for gpu in list(held):
    give_back(gpu)
print(n_taken, n_clashes)
"""


def test_searches_that_hammer_four_gpus_never_share_one(tmp_path: Path) -> None:
    """Each study takes another share: only the gate and what the files say keeps them apart."""
    lease_folder({"HYPERBAND_LEASES": str(tmp_path / "leases")})
    place = str(Path(__file__).parent.parent)
    searches = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path), str(share), "400", place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for share in range(3)
    ]
    for search in searches:
        assert search.stdin is not None
        search.stdin.write(b"go\n")
        search.stdin.flush()
    answers = [search.communicate(timeout=100)[0].decode().split() for search in searches]
    assert answers == [["400", "0"]] * 3
