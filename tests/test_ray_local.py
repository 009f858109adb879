"""How a Ray of this machine begins and ends with its keeper, and what a killed one leaves; without Ray."""

import fcntl
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import pytest
from search_fixture import until

from hyperband.launch.ray import local_keeper
from hyperband.launch.ray.end import has_own_ray
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.local import IN_USE_FILE, KEPT_FILE, LocalRay, LocalRayError, enter
from hyperband.machine.process import ProcessId

ROOT = Path(__file__).resolve().parents[1]
#: in the place of Ray: it never comes up, hears nothing, and has a child in a session of its own
NEVER_UP = """
import os, signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open("pids", "w").write(f"{os.getpid()} {child.pid} .")
time.sleep(600)
"""
STARTER = """
import sys
from pathlib import Path
from hyperband.launch.ray import local
from hyperband.launch.ray.local import enter
local._SOCKET_PATH_BYTES = 1000  # those of tests are long, and what stands in for Ray has none
enter(Path(sys.argv[1]), may_start=True, starts=lambda: None, is_unwanted=lambda: False)
"""


def test_what_a_killed_keeper_left_goes_with_the_next_look_and_what_is_used_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("dead", "kept", "searched"):
        (tmp_path / f"hb-ray-{name}" / "session").mkdir(parents=True)
        for file in (IN_USE_FILE, KEPT_FILE):
            (tmp_path / f"hb-ray-{name}" / file).touch()
    # of one that has just been made, and of somebody else's
    (tmp_path / "hb-ray-new").mkdir()
    (tmp_path / "hb-ray-new" / IN_USE_FILE).touch()
    (tmp_path / "hb-ray-other").mkdir()
    held = [
        os.open(tmp_path / "hb-ray-kept" / KEPT_FILE, os.O_RDWR),
        os.open(tmp_path / "hb-ray-searched" / IN_USE_FILE, os.O_RDWR),
    ]
    fcntl.flock(held[0], fcntl.LOCK_EX)
    fcntl.flock(held[1], fcntl.LOCK_SH)
    assert enter(tmp_path, may_start=False, starts=lambda: None, is_unwanted=lambda: False) is None
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["hb-ray-kept", "hb-ray-new", "hb-ray-other", "hb-ray-searched"]
    for descriptor in held:
        os.close(descriptor)


def test_a_ray_whose_sockets_would_have_too_long_a_path_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "temporary-files-of-a-job-of-this-cluster"
    below.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(below))
    with pytest.raises(LocalRayError, match=r"whose path has 27 bytes at most.* with TMPDIR"):
        enter(tmp_path, may_start=True, starts=lambda: None, is_unwanted=lambda: False)
    assert not list(below.iterdir())


def test_a_keeper_whose_search_was_killed_meanwhile_ends_its_ray_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hb-ray-one"
    folder.mkdir()
    for name in (IN_USE_FILE, KEPT_FILE):
        (folder / name).touch()
    (folder / "ray_current_cluster").write_text("127.0.0.1:1")
    reader, writer = os.pipe()
    os.close(reader)
    keeper = local_keeper.LocalKeeper(tmp_path, folder, writer)
    # it is in this process, which has other children, too
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(local_keeper, "prctl", lambda *_: None)
    monkeypatch.setattr(keeper, "_keep", lambda _: pytest.fail("nobody is there"))
    monkeypatch.setattr(keeper, "_end", lambda ray, has_served: has_served or ray.kill())
    with subprocess.Popen(["sleep", "600"]) as ray:
        monkeypatch.setattr(keeper, "_start", lambda: ray)
        keeper.run()
        assert ray.wait(60) != 0
    assert capfd.readouterr().err == "nobody waits for this Ray any more: it is ended\n"
    os.close(keeper._in_use)
    os.close(keeper._kept)


def comes_in(search: IO[str]) -> bool:
    """Whether a search gets hold of a Ray at once."""
    try:
        fcntl.flock(search, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_who_looks_for_a_ray_that_nobody_uses_for_a_moment_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_keeper, "_SEARCH_LOOK_S", 0.0)
    monkeypatch.setattr(local_keeper, "_GIVE_UP_S", 600.0)
    for name in (IN_USE_FILE, KEPT_FILE):
        (tmp_path / name).touch()
    keeper = local_keeper.LocalKeeper(tmp_path, tmp_path, -1)
    looks: queue.SimpleQueue[bool] = queue.SimpleQueue()
    is_wanted = keeper._is_wanted

    def look() -> bool:
        found = is_wanted()
        looks.put(found)
        return found

    monkeypatch.setattr(keeper, "_is_wanted", look)
    with subprocess.Popen(["sleep", "600"]) as ray, (tmp_path / IN_USE_FILE).open() as search:
        keeping = threading.Thread(target=keeper._keep, args=(ray,), daemon=True)
        keeping.start()
        assert not looks.get(timeout=60), "nobody is there"
        until(lambda: comes_in(search), "the search to come in")
        monkeypatch.setattr(local_keeper, "_GIVE_UP_S", 0.0)
        while not looks.get(timeout=60):
            pass
        assert looks.get(timeout=60), "it goes on while a search is there"
        fcntl.flock(search, fcntl.LOCK_UN)
        keeping.join(60)
        assert not keeping.is_alive()
        assert not comes_in(search), "until it has ended nobody does"
        ray.kill()
    os.close(keeper._in_use)
    os.close(keeper._kept)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose search begins to start a Ray that never comes up."""
    package = tmp_path / "never-up" / "ray" / "scripts"
    package.mkdir(parents=True)
    for made in (package, package.parent):  # else a Ray that is installed comes first
        (made / "__init__.py").touch()
    (package / "scripts.py").write_text(NEVER_UP)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = tmp_path / "study"
    found.mkdir()
    RayFiles(found, address="local", token=None, environ={})
    return found


def starting(study: Path) -> "tuple[subprocess.Popen[bytes], LocalRay, list[ProcessId]]":
    """Begin to start a Ray; return who does, what is known of it, and its processes."""
    environment = {**os.environ, "TMPDIR": str(study.parent)}
    environment["PYTHONPATH"] = f"{study.parent / 'never-up'}:{ROOT}"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(study / "ray")], env=environment)

    def said() -> str:
        return "".join(path.read_text() for path in study.parent.glob("hb-ray-*/pids"))

    until(lambda: said().endswith("."), "a Ray that starts", 30.0)
    found = LocalRay.find(study / "ray")
    assert found is not None
    pids = [ProcessId.of(int(pid)) for pid in said().split()[:2]]
    return starter, found, [pid for pid in (*pids, found.keeper) if pid is not None]


def test_a_ray_that_starts_still_is_found_and_ended_at_once(study: Path) -> None:
    starter, found, processes = starting(study)
    starter.send_signal(signal.SIGSTOP)  # of a search that was killed just now: it has not noticed
    assert len(processes) == 3
    assert not found.address
    assert has_own_ray(study)
    assert enter(study / "ray", may_start=False, starts=lambda: None, is_unwanted=lambda: False) is None
    assert not any(process.is_alive() for process in processes)
    assert not found.folder.exists()
    assert not has_own_ray(study)
    starter.kill()
    starter.wait()


def test_a_ray_that_starts_ends_when_whoever_starts_it_is_killed(study: Path) -> None:
    starter, found, processes = starting(study)
    starter.kill()
    starter.wait()
    until(lambda: not any(process.is_alive() for process in processes), "its end", 30.0)
    until(lambda: not found.folder.exists(), "its folder to go", 30.0)
