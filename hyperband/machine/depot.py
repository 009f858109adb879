"""A trial's checkpoint between its jobs: sealed after one that ended well, laid out before the next one.

What is sealed lies under the name of the attempt that left it, on the node's own disk or in a storage
(fsspec).

Owns what is written there, and for how long a storage may be silent. Which attempt's checkpoint counts is
decided by the search. It runs in a process of its own beside a slot and reads one JSON object a line.
Standard library, Python 3.9 or newer, and fsspec where a storage is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import select
import shutil
import stat
import sys
import threading
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MANIFEST_FILE = "manifest.json"
FILES_FOLDER = "files"
#: pauses between tries to store
_PAUSES_S = (1.0, 4.0)
_PART_BYTES = 1 << 20
#: a storage that is silent for so long hangs; with a file, for as much longer as a slow one takes for it
_SILENT_S = 120.0
_SLOW_BYTES_PER_S = 1 << 20
#: of files whose size was not written down
_LARGE_BYTES = 10 << 30


class AbsentError(Exception):
    """The checkpoint that was asked for is not there as it was sealed."""


class UnreachableError(Exception):
    """The storage cannot be used now, which says nothing of what is in it."""


class Patience:
    """For how long something outside may take that is being waited for."""

    def __init__(self) -> None:
        """Wait for nothing."""
        self._until_s = float("inf")
        self._what = ""

    def begin(self, what: str, n_bytes: int = 0) -> None:
        """Begin to wait for something, in words, that carries so much."""
        limit_s = _SILENT_S + n_bytes / _SLOW_BYTES_PER_S
        self._what = f"{what}: no answer within {limit_s:.0f} s"
        self._until_s = time.monotonic() + limit_s

    def end(self) -> None:
        """Wait for nothing more."""
        self._until_s = float("inf")

    def left_s(self) -> float:
        """Return for how long it is waited still."""
        return max(0.0, self._until_s - time.monotonic())

    def words(self) -> str:
        """Return what did not answer."""
        return self._what


def _in_words(err: Exception) -> str:
    """Return an error as the machine says it; one that is no OSError with its kind."""
    if not isinstance(err, OSError):
        return f"{type(err).__name__}: {err}"
    if err.strerror is None:
        return str(err) or type(err).__name__
    return err.strerror if err.filename is None else f"{err.strerror}: {err.filename}"


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while part := stream.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def found_files(folder: str, pattern: str) -> list[str]:
    """Return the regular files below a folder whose relative path matches, sorted; links are not followed."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    found = []
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(here, name)
            relative = str(path.relative_to(folder))
            if matches(relative) and stat.S_ISREG(path.lstat().st_mode):
                found.append(relative)
    return sorted(found)


def found_links(folder: str, pattern: str) -> list[dict[str, str]]:
    """Return the links that match and lead to what is below the folder, such as `last.pt`, and where to."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    top = os.path.realpath(folder)
    found = []
    for here, folders, names in os.walk(folder):
        for path in (Path(here, name) for name in (*names, *folders)):
            name = str(path.relative_to(folder))
            leads_to = os.path.realpath(path)
            if path.is_symlink() and matches(name) and leads_to.startswith(f"{top}/") and path.exists():
                target = os.path.relpath(leads_to, os.path.realpath(here))
                found.append({"name": name, "target": target})
    return sorted(found, key=lambda link: link["name"])


def seal(place: Disk | Storage, attempt: str, folder: str, pattern: str) -> dict[str, Any]:
    """Seal what a job left; return what must be known to lay it out again.

    Args:
        place: where it goes.
        attempt: whose it is; nobody else ever writes under that name.
        folder: of the job.
        pattern: regular expression of its files' paths in there.

    Raises:
        UnreachableError: it cannot be written.
    """
    files: list[dict[str, Any]] = []
    n_bytes = 0
    for name in found_files(folder, pattern):
        path = f"{folder}/{name}"
        size = Path(path).lstat().st_size
        files.append({"name": name, "sha256": sha256_of(path), "n_bytes": size})
        n_bytes += size
    links = found_links(folder, pattern)
    manifest = json.dumps({"attempt": attempt, "files": files, "links": links}).encode()
    with place.reached(writes=True):
        for file in files:
            place.put(f"{folder}/{file['name']}", attempt, file["name"])
        place.put_manifest(attempt, manifest)
    return {
        "attempt": attempt,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "n_files": len(files),
        "n_bytes": n_bytes,
    }


def lay_out(place: Disk | Storage, attempt: str, manifest_sha256: str, folder: str) -> None:
    """Lay an attempt's checkpoint into the folder of a job, whole or not at all.

    Raises:
        AbsentError: it is not there as it was sealed.
        UnreachableError: the storage cannot be used now.
    """
    laid: list[str] = []
    try:
        with place.reached():
            manifest = place.manifest(attempt)
            if hashlib.sha256(manifest).hexdigest() != manifest_sha256:
                raise AbsentError(f"its manifest is not the one that was written ({place.words})")
            content = json.loads(manifest)
            for file in content["files"]:
                name = str(file["name"])
                path = f"{folder}/{name}"
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                laid.append(path)
                place.get(attempt, name, path, file.get("n_bytes", _LARGE_BYTES))
                if sha256_of(path) != file["sha256"]:
                    raise AbsentError(f"{name} is damaged: its SHA-256 is another one ({place.words})")
            # last: nothing is written through one
            for link in content.get("links", ()):
                path = f"{folder}/{link['name']}"
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).symlink_to(link["target"])
                laid.append(path)
    except BaseException:
        for path in laid:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
        raise


class Disk:
    """Checkpoints of one trial on this node's disk."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.words = "on this node"

    @contextlib.contextmanager
    def reached(self, *, writes: bool = False) -> Iterator[None]:
        """Turn errors into those of a place; what is only written to is never absent."""
        try:
            yield
        except OSError as err:
            if isinstance(err, FileNotFoundError) and not writes:
                raise AbsentError(f"it is not {self.words}") from err
            raise UnreachableError(f"{self._folder}: {_in_words(err)}") from err

    def put(self, source: str, attempt: str, name: str) -> None:
        """Move a file in."""
        target = Path(self._folder, attempt, FILES_FOLDER, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(source).rename(target)

    def put_manifest(self, attempt: str, data: bytes) -> None:
        """Write the manifest."""
        Path(self._folder, attempt).mkdir(parents=True, exist_ok=True)
        Path(self._folder, attempt, MANIFEST_FILE).write_bytes(data)

    def manifest(self, attempt: str) -> bytes:
        """Read the manifest."""
        return Path(self._folder, attempt, MANIFEST_FILE).read_bytes()

    def get(self, attempt: str, name: str, path: str, n_bytes: int) -> None:  # noqa: ARG002
        """Copy a file out."""
        shutil.copyfile(f"{self._folder}/{attempt}/{FILES_FOLDER}/{name}", path)

    def remove(self, below: str) -> None:
        """Remove what is below a path; nothing there is no trouble."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(f"{self._folder}{below}")


class Storage:
    """Checkpoints of one trial below an URI."""

    def __init__(self, uri: str, patience: Patience) -> None:
        """Open nothing yet but what speaks the protocol.

        Args:
            uri: of the trial's folder there.
            patience: hears of all that is waited for.

        Raises:
            UnreachableError: nothing here does, or it refuses.
        """
        self.words = f"in {uri}"
        self._patience = patience
        patience.begin(self.words)
        try:
            from fsspec.core import url_to_fs
        except ImportError as err:
            raise UnreachableError(
                f"--storage needs fsspec in {sys.executable}, which does not have it: pip install "
                "fsspec there, or name it under pip in --ray-runtime-env"
            ) from err
        try:
            self._fs, self._root = url_to_fs(uri)
        except Exception as err:
            raise UnreachableError(f"{uri}: {_in_words(err)}") from err
        finally:
            patience.end()

    @contextlib.contextmanager
    def reached(self, *, writes: bool = False) -> Iterator[None]:
        """Turn errors into those of a place; what is only written to is never absent."""
        # what was listed before is of no interest: others write there
        self._fs.invalidate_cache()
        try:
            yield
        except (AbsentError, UnreachableError):
            raise
        except Exception as err:  # each protocol has its own
            if isinstance(err, FileNotFoundError) and not writes:
                raise AbsentError(f"it is not {self.words}") from err
            # a connection that was lost stays so: whoever comes next makes another one
            self._fs.clear_instance_cache()
            raise UnreachableError(f"{self.words}: {_in_words(err)}") from err
        finally:
            self._patience.end()

    def put(self, source: str, attempt: str, name: str) -> None:
        """Copy a file in."""
        target = f"{self._root}/{attempt}/{FILES_FOLDER}/{name}"
        self._patience.begin(self.words, Path(source).stat().st_size)
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(source, target)

    def put_manifest(self, attempt: str, data: bytes) -> None:
        """Write the manifest."""
        self._patience.begin(self.words)
        self._fs.makedirs(f"{self._root}/{attempt}", exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{attempt}/{MANIFEST_FILE}", data)

    def manifest(self, attempt: str) -> bytes:
        """Read the manifest."""
        self._patience.begin(self.words)
        found: bytes = self._fs.cat_file(f"{self._root}/{attempt}/{MANIFEST_FILE}")
        return found

    def get(self, attempt: str, name: str, path: str, n_bytes: int) -> None:
        """Copy a file out."""
        self._patience.begin(self.words, n_bytes)
        self._fs.get_file(f"{self._root}/{attempt}/{FILES_FOLDER}/{name}", path)

    def remove(self, below: str) -> None:
        """Remove what is below a path; nothing there is no trouble."""
        self._patience.begin(self.words)
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}{below}", recursive=True)


def answer(words: dict[str, Any], patience: Patience | None = None) -> dict[str, Any]:
    """Do what one line asks for; what cannot be done is in the answer, in words."""
    patience = patience or Patience()
    found = _answer(words, patience)
    if not found["ok"] and not found["is_absent"] and words["storage"] is not None and words["op"] != "seal":
        found = _answer(words, patience)  # between two jobs its connection may have been closed
    return found


def _place(words: dict[str, Any], patience: Patience) -> Disk | Storage:
    return Disk(words["disk"]) if words["storage"] is None else Storage(words["storage"], patience)


def _answer(words: dict[str, Any], patience: Patience) -> dict[str, Any]:
    try:
        place = _place(words, patience)
        if words["op"] == "warm":
            return {"ok": True}
        if words["op"] == "lay_out":
            lay_out(place, words["attempt"], words["manifest_sha256"], words["folder"])
            return {"ok": True}
        if words["op"] in ("remove", "remove_all"):
            with place.reached():
                place.remove("" if words["op"] == "remove_all" else f"/{words['attempt']}")
            return {"ok": True}
        return {"ok": True, "sealed": _sealed(words, patience)}
    except AbsentError as err:
        return {"ok": False, "is_absent": True, "why": str(err)}
    except UnreachableError as err:
        return {"ok": False, "is_absent": False, "why": str(err)}


def _sealed(words: dict[str, Any], patience: Patience) -> dict[str, Any]:
    # a disk that fails will fail again, and some of the files are there already
    for pause_s in _PAUSES_S if words["storage"] is not None else ():
        with contextlib.suppress(UnreachableError):
            return seal(_place(words, patience), words["attempt"], words["folder"], words["pattern"])
        time.sleep(pause_s)
    return seal(_place(words, patience), words["attempt"], words["folder"], words["pattern"])


class _Desk:
    """Has lines answered in a thread beside, so that one who hangs there is told of, and holds nobody up."""

    def __init__(self) -> None:
        # libraries print what they like
        self._answers = os.dup(1)
        os.dup2(2, 1)
        self._patience = Patience()
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done, self._say_done = os.pipe()
        threading.Thread(target=self._work, daemon=True).start()

    def answer(self, line: str) -> None:
        """Have a line answered; ends the process where that hangs, or whoever asked is gone."""
        self._asked.put(line)
        poll = select.poll()
        poll.register(self._done, select.POLLIN)
        poll.register(0, 0)  # its end is told all the same
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(1000 * min(1.0, self._patience.left_s()))]
            if self._done in ready:
                os.read(self._done, 1)
                return
            if ready:
                os._exit(1)
            if self._patience.left_s() == 0.0:
                self._say({"ok": False, "is_absent": False, "why": self._patience.words()})
                os._exit(1)

    def _work(self) -> None:
        while True:
            try:
                found = answer(json.loads(self._asked.get()), self._patience)
            except Exception as err:  # noqa: BLE001 (an error of ours is no storage that hangs)
                found = {"ok": False, "is_absent": False, "why": f"{type(err).__name__}: {err}"}
            self._say(found)
            os.write(self._say_done, b".")

    def _say(self, words: dict[str, Any]) -> None:
        os.write(self._answers, json.dumps(words).encode() + b"\n")


def main() -> None:
    """Answer lines until there are no more."""
    desk = _Desk()
    for line in sys.stdin:
        desk.answer(line)
    sys.stderr.flush()
    os._exit(0)  # threads of libraries need not agree
