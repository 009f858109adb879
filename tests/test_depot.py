"""Checkpoints between the jobs of a trial: sealed, and laid out whole or not at all."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from search_fixture import until

from hyperband.launch.remote.shipping import node_files
from hyperband.machine import depot

PATTERN = r"runs/x/(?:[^/]+/)*[^/]+"


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 server."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "s3fs", "flask")):
        pytest.skip("no S3 server here: pip install 'moto[server]' s3fs")
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as said:
        # it chooses its port itself
        argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=said)
    make = [sys.executable, "-c", "import boto3; boto3.client('s3').create_bucket(Bucket='bucket')"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            until(lambda: "Running on http://" in log.read_text(), "an S3 server")
            address = re.findall(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())[0]
            patch.setenv("AWS_ENDPOINT_URL", address)
            subprocess.run(make, check=True)
            yield "s3://bucket/checkpoints"
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(params=["disk", "file", "s3"])
def words(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where checkpoints of one trial go, as a slot says it."""
    if request.param == "disk":
        return {"disk": str(tmp_path / "disk"), "storage": None}
    if importlib.util.find_spec("fsspec") is None:
        pytest.skip("no fsspec: pip install '.[storage]'")
    if request.param == "file":
        return {"disk": "/nowhere", "storage": f"file://{tmp_path}/storage with a space"}
    return {"disk": "/nowhere", "storage": f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"}


class Node:
    """The process that carries a node's checkpoints, from its first task on."""

    def __init__(self, folder: Path, silent_s: float = 120.0) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        limit = b"_SILENT_S = "
        for name, data in node_files(("depot",), "depot").items():
            (folder / "node" / name).parent.mkdir(parents=True, exist_ok=True)
            patient = data.replace(limit + b"120.0", limit + str(silent_s).encode())
            (folder / "node" / name).write_bytes(patient)

    def say(self, **words: object) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(self._folder / "node" / "start.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._folder,
                text=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def ask(self, **words: object) -> dict[str, Any]:
        self.say(**words)
        assert self._process is not None
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self, patience_s: float | None = None) -> None:
        if self._process is not None:
            self._process.communicate(timeout=patience_s)
            self._process = None


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path)
    yield found
    found.close()


def a_job(folder: Path) -> Path:
    (folder / "runs/x").mkdir(parents=True)
    (folder / "runs/x/last.pt").symlink_to(folder / "runs/x/model.pt")
    (folder / "runs/x/latest").symlink_to("a")
    for name in ("runs/x/model.pt", "runs/x/a/b", "runs/y/model.pt", "other"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of {folder.name}")
    (folder / "runs/x/link").symlink_to("/etc/passwd")
    return folder


def stored(words: dict[str, Any], attempt: str) -> Path:
    return Path(words["storage"].removeprefix("file://")) / attempt


def test_what_was_sealed_is_laid_out_again(node: Node, words: dict[str, Any], tmp_path: Path) -> None:
    job = a_job(tmp_path / "one")
    answer = node.ask(op="seal", attempt="A", folder=str(job), pattern=PATTERN, **words)
    assert answer["ok"], answer
    assert answer["sealed"]["n_files"] == 2
    second = a_job(tmp_path / "two")
    assert node.ask(op="seal", attempt="B", folder=str(second), pattern=PATTERN, **words)["ok"]
    target = tmp_path / "next"
    target.mkdir()
    sha256 = answer["sealed"]["manifest_sha256"]
    asked = {"op": "lay_out", "folder": str(target), **words}
    assert node.ask(attempt="A", manifest_sha256=sha256, **asked) == {"ok": True}
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    # links stay what they are, where they lead to what is here
    model, deep = "runs/x/model.pt of one", "runs/x/a/b of one"
    assert found == {"runs/x/model.pt": model, "runs/x/last.pt": model, "runs/x/a/b": deep}
    assert (target / "runs/x/last.pt").readlink() == Path("model.pt")
    assert (target / "runs/x/latest/b").read_text() == deep
    absent = node.ask(attempt="C", manifest_sha256=sha256, **asked)
    assert (absent["ok"], absent["is_absent"]) == (False, True), absent
    # an older one goes, and then all
    assert node.ask(op="remove", attempt="A", **words) == {"ok": True}
    assert node.ask(attempt="A", manifest_sha256=sha256, **asked)["is_absent"]
    other = node.ask(attempt="B", manifest_sha256=sha256, **asked)
    assert other["is_absent"], "another attempt's"
    assert "manifest is not the one" in other["why"]
    assert node.ask(op="remove_all", attempt="", **words) == node.ask(op="remove_all", attempt="", **words)
    assert "it is not" in node.ask(attempt="B", manifest_sha256=sha256, **asked)["why"]


@pytest.mark.parametrize("harm", ["flipped", "shorter", "gone", "manifest"])
def test_a_damaged_checkpoint_is_not_laid_out(node: Node, tmp_path: Path, harm: str) -> None:
    pytest.importorskip("fsspec")
    words = {"disk": "/nowhere", "storage": f"file://{tmp_path}/storage"}
    sealed = node.ask(op="seal", attempt="A", folder=str(a_job(tmp_path / "one")), pattern=PATTERN, **words)
    model = stored(words, "A") / "files" / "runs/x/model.pt"
    match harm:
        case "flipped":
            model.write_text(model.read_text().replace("one", "two"))
        case "shorter":
            os.truncate(model, 3)
        case "gone":
            model.unlink()
        case "manifest":
            os.truncate(stored(words, "A") / "manifest.json", 20)
    target = tmp_path / "next"
    target.mkdir()
    answer = node.ask(
        op="lay_out",
        attempt="A",
        manifest_sha256=sealed["sealed"]["manifest_sha256"],
        folder=str(target),
        **words,
    )
    assert (answer["ok"], answer["is_absent"]) == (False, True), answer
    assert not [path for path in target.rglob("*") if path.is_file()], "nothing of it is left to train on"


def test_a_storage_that_hangs_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    node = Node(tmp_path, silent_s=0.5)
    storage = tmp_path / "storage"
    (storage / "A").mkdir(parents=True)
    os.mkfifo(storage / "A" / depot.MANIFEST_FILE)  # whoever opens it waits for the other end
    words = {"disk": "/nowhere", "storage": f"file://{storage}", "attempt": "A"}
    for op in (
        {"op": "lay_out", "manifest_sha256": "", "folder": str(tmp_path)},
        {"op": "seal", "folder": str(a_job(tmp_path / "one")), "pattern": PATTERN},
    ):
        answer = node.ask(**op, **words)
        assert (answer["ok"], answer["is_absent"]) == (False, False)
        assert answer["why"].startswith(f"in file://{storage}: no answer within")
        node.close()
    node = Node(tmp_path)
    answer = node.ask(op="warm", disk="", storage=words["storage"])
    assert answer["ok"], "another process begins anew"
    node.close()


def test_who_asked_and_is_gone_leaves_nobody_behind(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    node = Node(tmp_path)
    (tmp_path / "storage" / "A").mkdir(parents=True)
    os.mkfifo(tmp_path / "storage" / "A" / depot.MANIFEST_FILE)
    node.ask(op="warm", disk="", storage=f"file://{tmp_path}/storage")
    asked = {"op": "lay_out", "manifest_sha256": "", "folder": str(tmp_path), "attempt": "A"}
    node.say(**asked, disk="", storage=f"file://{tmp_path}/storage")
    node.close(patience_s=60.0)


def test_a_storage_that_cannot_be_reached_says_nothing_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr(depot, "_PAUSES_S", (0.0,))
    (tmp_path / "file").touch()
    words = {"disk": "/nowhere", "storage": f"file://{tmp_path}/file/below"}
    a_job(tmp_path / "one")
    asked = {"op": "seal", "attempt": "A", "folder": str(tmp_path / "one"), "pattern": PATTERN}
    answer = depot.answer({**asked, **words})
    assert (answer["ok"], answer["is_absent"]) == (False, False), answer
    # in plain words: no kind of error, and no number
    assert answer["why"].startswith(f"in {words['storage']}: Not a directory: {tmp_path}/file/below"), answer


def test_a_connection_that_was_lost_between_two_jobs_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    local = importlib.import_module("fsspec.implementations.local")
    monkeypatch.setattr(depot, "_PAUSES_S", (0.0,))
    opened: list[Any] = []

    class Lost(local.LocalFileSystem):  # type: ignore[misc, name-defined]
        """Like a connection: once it is lost, so is this object."""

        is_lost: OSError | None = None

        def __init__(self, **words: object) -> None:
            super().__init__(**words)
            opened.append(self)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("lost:/")

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            if self.is_lost:
                raise self.is_lost
            super().makedirs(path, exist_ok=exist_ok)

        def cat_file(self, path: str, **words: object) -> bytes:
            if self.is_lost:
                raise self.is_lost
            found: bytes = super().cat_file(path, **words)
            return found

    fsspec.register_implementation("lost", Lost, clobber=True)
    words = {"disk": "/nowhere", "storage": f"lost:/{tmp_path}/storage", "attempt": "A"}
    job = {"folder": str(a_job(tmp_path / "one")), "pattern": PATTERN}
    sealed = depot.answer({"op": "seal", **job, **words})
    assert sealed["ok"], sealed
    opened[-1].is_lost = OSError("Socket is closed")
    (tmp_path / "next").mkdir()
    asked = {"op": "lay_out", "folder": str(tmp_path / "next"), **words}
    asked["manifest_sha256"] = sealed["sealed"]["manifest_sha256"]
    assert depot.answer(asked) == {"ok": True}
    opened[-1].is_lost = OSError("Socket is closed")
    assert depot.answer({"op": "seal", **job, **words})["ok"]
    # what is to be written to and is not there, such as a bucket, is no checkpoint that is gone
    opened[-1].is_lost = FileNotFoundError("no such bucket")
    assert depot.answer({"op": "seal", **job, **words})["ok"]
    monkeypatch.setattr(Lost, "is_lost", FileNotFoundError("no such bucket"))
    opened[-1].is_lost = FileNotFoundError("no such bucket")
    answer = depot.answer({"op": "seal", **job, **words})
    assert (answer["ok"], answer["is_absent"]) == (False, False)
    assert "no such bucket" in answer["why"]
