"""What holds a slot on a node that shares no files: without Ray, in a process as Ray would start it."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_fixture import RemoteBench
from search_fixture import until

from hyperband.launch.ray.actor import SlotActor
from hyperband.launch.ray.sent import Baggage
from hyperband.launch.ray.sent_checkpoints import SentCheckpoints
from hyperband.launch.ray.sent_folder import SlotFolder
from hyperband.launch.remote.carrier import Carrier
from hyperband.report.again import not_stored

ROOT = Path(__file__).resolve().parents[1]
DRIVER = """
import base64, json, sys
sys.path.insert(0, sys.argv[1])
from hyperband.launch.ray.sent_actor import SentSlotActor
actor = SentSlotActor("study", json.loads(sys.stdin.readline()), 60.0, float(sys.argv[2]))
for line in sys.stdin:
    name, *words = json.loads(line)
    try:
        found = getattr(actor, name)(*words)
    except RuntimeError as err:
        found = f"{err}"
    print(json.dumps(found, default=lambda data: data.decode()), flush=True)
"""
TRAIN = """
import os, sys, time
sys.stderr.write(os.getcwd() + "\\n")
seconds = float(sys.argv[1])
os.makedirs("runs", exist_ok=True)
before = open("runs/x").read() if os.path.exists("runs/x") else ""
print(before + "|", flush=True)
time.sleep(seconds)
open("runs/x", "w").write(before + "trained ")
"""


class Slot:
    """One slot, and what a search says to it."""

    def __init__(self, tmp_path: Path, lease_s: float = 600.0, name: str = "slot") -> None:
        self.storage: str | None = None
        package = tmp_path / f"package-{name}"
        package.mkdir()
        (package / "train.py").write_text(TRAIN)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", DRIVER, str(ROOT), str(lease_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=package,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            text=True,
        )
        self._say(Baggage({}).words()["files"])

    def _say(self, words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def call(self, name: str, *words: object) -> Any:  # noqa: ANN401 (as the methods are)
        self._say([name, *words])
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def begin(self, attempt: str, seconds: float, after: object = None, cwd: str = ".") -> None:
        order = {
            "attempt": attempt,
            "argv": [None, "train.py", str(seconds)],
            "cwd": cwd,
            "environment": {},
            "grace_s": 1.0,
            "lease_s": 30.0,
            "gpus": None,
            "environment_file": None,
            "keeps": [],
            "ends_with_carrier": True,
            "last_word": "fence",
        }
        checkpoint = {"pattern": "runs/[^/]+", "key": "KEY", "storage": self.storage, "after": after}
        self.call("begin", {"attempt": attempt, "at_search": "/x", "order": order, "checkpoint": checkpoint})

    def sync(self, attempt: str, wait_s: float = 60.0) -> Any:  # noqa: ANN401
        return self.call("sync", attempt, {"stdout": 0, "stderr": 0}, False, wait_s)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    found = Slot(tmp_path)
    yield found
    found.close()


def test_what_a_job_leaves_is_kept_until_it_is_taken_and_gone_then(slot: Slot, tmp_path: Path) -> None:
    slot.begin("A", 0.0)
    assert "is here already" in slot.call("begin", {"attempt": "A", "at_search": "/y", "order": {}})
    first = slot.sync("A")
    assert first["result"]["exit_status"] == 0, first
    assert first["parts"]["stdout"] == "|\n"
    assert json.loads(first["keeper"])["attempt"] == "A"
    # a search that died asks again; another finds out what there is
    assert slot.sync("A")["result"] == first["result"]
    about = slot.call("about")
    assert (about["attempt"], about["folder"]) == ("A", "/x")
    slot.call("forget", "A")
    assert slot.sync("A") is None
    assert slot.call("about")["attempt"] == ""
    assert not (tmp_path / f"hyperband-{os.getuid()}" / "study" / "attempts" / "A").exists()


def test_a_job_goes_on_from_the_attempt_that_counts_or_says_that_it_does_not(slot: Slot) -> None:
    slot.begin("A", 0.0)
    found = slot.sync("A")["result"]["checkpoint"]
    slot.begin("B", 0.0, found)
    second = slot.sync("B")
    assert second["parts"]["stdout"] == "trained |\n"
    assert second["result"]["checkpoint"]["went_on_from"] == "A"
    # the next one is told of an attempt that has been superseded, and then of one that was damaged
    (Path(found["disk"]) / "B" / "files" / "runs" / "x").write_text("spoilt")
    slot.begin("C", 0.0, second["result"]["checkpoint"])
    third = slot.sync("C")
    assert third["parts"]["stdout"] == "|\n"
    assert "is damaged" in third["result"]["checkpoint"]["started_over"]


def test_a_checkpoint_that_came_with_the_code_is_none(tmp_path: Path) -> None:
    other = Slot(tmp_path, name="other")
    for name in ("x", "y"):
        (tmp_path / "package-other" / "runs").mkdir(exist_ok=True)
        (tmp_path / "package-other" / "runs" / name).write_text("stale ")
    other.begin("A", 0.0)  # in a folder that was made before
    other.sync("A")
    other.begin("B", 0.0)
    assert other.sync("B")["parts"]["stdout"] == "|\n"
    # a folder of which nothing travelled, since nothing but checkpoints or a study lies in it
    other.begin("C", 0.0, cwd="not/there")
    assert other.sync("C")["result"]["exit_status"] == 0
    other.close()


def test_what_a_slot_left_that_is_gone_goes_and_what_one_has_that_lives_stays(tmp_path: Path) -> None:
    top = tmp_path / f"hyperband-{os.getuid()}"
    # of one in another container, say: its pid tells nothing here
    alive, dead = top / "theirs" / "node" / "alive", top / "theirs" / "node" / "dead"
    (top / "theirs" / "checkpoints" / "key").mkdir(parents=True)
    for node in (alive, dead):
        node.mkdir(parents=True)
        attempt = top / "theirs" / "attempts" / f"of-{node.name}"
        attempt.mkdir(parents=True)
        (attempt / "owner").write_text(node.name)
        (node / "alive").touch()
    # of slots that were killed in the middle of their start, and of a study of which nothing is left
    (top / "killed" / "node" / "x").mkdir(parents=True)
    (top / "killed" / "attempts" / "next.x" / "work").mkdir(parents=True)
    (top / "empty" / "attempts").mkdir(parents=True)
    with (alive / "alive").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = Slot(tmp_path)
        found.call("about")
        assert sorted(path.name for path in top.iterdir() if path.is_dir()) == ["study", "theirs"]
        left = sorted(str(path.relative_to(top / "theirs")) for path in (top / "theirs").glob("*/*"))
        assert left == ["attempts/of-alive", "checkpoints/key", "node/alive"]
        found.close()
    other = Slot(tmp_path, name="other")
    other.call("about")
    left = sorted(str(path.relative_to(top / "theirs")) for path in (top / "theirs").glob("*/*"))
    assert left == ["checkpoints/key"]
    other.close()


def test_a_slot_that_leaves_ends_its_job_and_leaves_nothing_but_checkpoints(
    slot: Slot, tmp_path: Path
) -> None:
    slot.begin("A", 0.0)
    slot.sync("A")
    slot.begin("B", 60.0)
    until(lambda: slot.sync("B", 0.0)["keeper"] != "", "a keeper")
    keeper = json.loads(slot.sync("B", 0.0)["keeper"])
    slot._say(["leave"])
    slot.process.wait(60)
    assert not Path(f"/proc/{keeper['job_pid']}").exists()
    root = tmp_path / f"hyperband-{os.getuid()}" / "study"
    assert [path.name for path in root.iterdir()] == ["checkpoints"]


def test_a_storage_that_hangs_holds_no_job_against_its_end(slot: Slot, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    for name in ("A", "B"):
        (tmp_path / "storage" / name).mkdir(parents=True)
        os.mkfifo(tmp_path / "storage" / name / "manifest.json")  # whoever opens it waits for the other end
    slot.storage = f"file://{tmp_path}/storage"
    slot.begin("A", 0.0)
    attempt = tmp_path / f"hyperband-{os.getuid()}" / "study" / "attempts" / "A"
    until(lambda: (attempt / "result.json").exists(), "a job that ran")
    slot.call("tell", "A", "timeout")
    result = slot.sync("A")["result"]
    assert (result["exit_status"], result["asked"]) == (0, None)
    assert slot.storage in result["checkpoint"]["why"]
    sealed = {"sealed": {"attempt": "B", "manifest_sha256": ""}, "disk": "/x", "storage": slot.storage}
    slot.begin("C", 0.0, sealed)
    assert slot.sync("C", 0.2)["result"] is None
    slot.call("tell", "C", "stop")
    result = slot.sync("C")["result"]
    assert (result["never_ran"], result["asked"]) == (True, "stop")
    # a time limit says nothing of a configuration that was not trained
    slot.begin("D", 0.0, sealed)
    assert slot.sync("D", 0.2)["result"] is None
    slot.call("tell", "D", "timeout")
    result = slot.sync("D")["result"]
    assert (result["never_ran"], result["exit_status"]) == (True, None)
    assert "time limit" in result["note"]


def test_what_carries_checkpoints_and_cannot_be_started_costs_no_result(tmp_path: Path) -> None:
    checkpoints = SentCheckpoints(tmp_path / "cleaned away", tmp_path / "disk")
    words = {"pattern": "runs/[^/]+", "key": "KEY", "storage": None, "after": None}
    order = {"attempt": "A", "order": {"cwd": "."}, "checkpoint": words}
    checkpoints.get_ready(order)
    found = checkpoints.seal(order, tmp_path, {"exit_status": 0, "asked": None, "fenced": ""})
    assert found["sealed"] is None
    assert "No such file" in found["why"]
    assert not_stored(found["why"])


def test_a_copy_of_the_code_that_a_full_disk_cuts_short_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "package").mkdir()
    folder = SlotFolder("study", tmp_path / "package", {})

    def copy(_: Path, target: Path, **__: object) -> None:
        target.mkdir()
        (target / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", copy)
    with pytest.raises(OSError, match="No space left"):
        folder.prepare()
    assert list(folder.root.glob("attempts/*")) == []
    folder.remove()
    os.close(folder._alive)


def test_a_word_that_overtakes_its_job_ends_it_before_its_first_moment(slot: Slot) -> None:
    slot.call("tell", "A", "stop")
    slot.begin("A", 60.0)
    result = slot.sync("A")["result"]
    assert (result["never_ran"], result["asked"]) == (True, "stop")
    slot.begin("B", 60.0)
    until(lambda: slot.sync("B", 0.0)["parts"]["stdout"] != "", "a job that runs")
    slot.call("tell", "B", "timeout")
    assert slot.sync("B")["result"]["asked"] == "timeout"


def test_a_job_ends_when_nobody_has_been_heard_of(tmp_path: Path) -> None:
    slot = Slot(tmp_path, lease_s=4.0)
    slot.begin("A", 60.0)
    until(lambda: slot.sync("A", 0.0)["keeper"] != "", "a keeper")
    keeper = json.loads(slot.sync("A", 0.0)["keeper"])
    slot.process.wait(60)
    until(lambda: not Path(f"/proc/{keeper['job_pid']}").exists(), "the end of the job")
    slot.close()


def test_a_job_is_killed_at_once_with_its_slot(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.begin("A", 60.0)
    until(lambda: slot.sync("A", 0.0)["keeper"] != "", "a keeper")
    keeper = json.loads(slot.sync("A", 0.0)["keeper"])
    root = tmp_path / f"hyperband-{os.getuid()}" / "study"
    until(lambda: len(list(root.glob("attempts/*/owner"))) == 2, "the folder of the next job")
    slot.close()
    until(lambda: not Path(f"/proc/{keeper['job_pid']}").exists(), "the end of the job")
    # what it had made ready is swept away by the next one
    assert sorted(path.name[:4] for path in (root / "attempts").iterdir()) == ["A", "next"]
    other = Slot(tmp_path, name="other")
    other.call("about")
    assert [path.name[:4] for path in (root / "attempts").iterdir()] == ["next"]
    assert len(list((root / "node").iterdir())) == 1
    # one that leaves needs nobody for that
    other._say(["leave"])
    other.process.wait(60)
    assert not root.exists()
    other.close()


def test_a_job_runs_to_its_end_also_where_no_process_can_be_made_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = RemoteBench(tmp_path)
    monkeypatch.setattr(bench.carriers, "carry", lambda *_: Carrier(label="77", is_told=True))
    monkeypatch.setattr(SlotActor, "_watch", lambda _: None)
    slot = SlotActor(bench.carriers.argv[-1], 60.0)

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with contextlib.closing(bench):
        first = bench.start("/bin/sh", "-c", "exit 5")
        with monkeypatch.context() as full:
            full.setattr(subprocess, "Popen", refuse)
            assert slot.run(str(first.folder), first.attempt) == ""
        assert bench.wait(first).exit_status == 5
        assert slot.about()["attempt"] == ""
        (keeper,) = slot._leaving
        keeper.process.wait()
        slot._sweep()
        # and the next one begins when it can
        second = bench.start("/bin/sh", "-c", "exit 6")
        monkeypatch.setattr(SlotActor, "_have_another_wait", lambda _: None)
        assert slot.run(str(second.folder), second.attempt) == ""
        assert bench.wait(second).exit_status == 6
        (keeper,) = slot._leaving
        keeper.process.wait()
        slot._sweep()
