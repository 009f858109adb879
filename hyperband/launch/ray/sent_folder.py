"""The folders of a slot on a node that shares no files with the search: one for each attempt.

Owns what lies in `hyperband-UID` among the node's temporary files, and which of it may go: a slot holds a
lock on its own folder for as long as it lives, whatever container it is in. Must not know Ray, nor what a
job is. It is sent to the nodes as it is. Standard library only.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

#: in the folder of a slot: it holds a lock on it
_ALIVE_FILE = "alive"
#: in the folder of an attempt: the name of the slot's
_OWNER_FILE = "owner"
#: whoever makes or removes folders of any slot holds a lock on it meanwhile
_GATE_FILE = "gate"
#: a folder in which somebody writes still is removed again, so often and after such pauses
_N_TRIES, _AGAIN_S = 5, 0.05
#: of ours in the folder of an attempt: where its job runs
WORK = "work"


class SlotFolder:
    """What one slot has on its node."""

    def __init__(self, study: str, package: Path, files: Mapping[str, str]) -> None:
        """Make it, and remove what slots left here that are gone, of any study: nobody can fetch it any more.

        Args:
            study: part of its name.
            package: the code, copied for each attempt.
            files: what is run here, by path.

        Raises:
            PermissionError: somebody else may have put it there.
        """
        self._package = package
        self._top = _top()
        #: of all slots of the study on this node, with its checkpoints
        self.root = self._top / study
        #: what is run here
        self.node = self.root / "node" / uuid.uuid4().hex
        self._attempts = self.root / "attempts"
        with self._gate():
            self.node.mkdir(parents=True)
            # for as long as this process lives, and no child of it
            self._alive = os.open(self.node / _ALIVE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._alive, fcntl.LOCK_EX)
            self._sweep()
        for name, text in files.items():
            path = self.node / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def of(self, attempt: str) -> Path:
        """Return the folder of an attempt."""
        return self._attempts / attempt

    def prepare(self) -> Path:
        """Make the folder of an attempt to come, with the code in it: before anybody waits for it.

        Raises:
            OSError: there is no room for it, for example; nothing of it is left.
        """
        folder = self._attempts / f"next.{uuid.uuid4().hex}"
        with self._gate():
            folder.mkdir(parents=True)
            (folder / _OWNER_FILE).write_text(self.node.name)
        try:
            shutil.copytree(self._package, folder / WORK, symlinks=True)
        except BaseException:
            _remove_whole(folder)  # each next try would leave another, until nobody has room
            raise
        return folder

    def remove(self) -> None:
        """Remove all that is this slot's; what other slots have, and checkpoints, stay."""
        with self._gate():
            for folder in self._of_attempts(self.root):
                if _owner_of(folder) == self.node.name:
                    _remove_whole(folder)
            _remove_whole(self.node)
            _remove_empty(self.root)

    @contextlib.contextmanager
    def _gate(self) -> Iterator[None]:
        gate = os.open(self._top / _GATE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield
        finally:
            os.close(gate)

    def _sweep(self) -> None:
        for study in self._top.iterdir():
            if study.is_dir():
                alive = {self.node.name, *filter(None, map(_name_if_alive, study.glob("node/*")))}
                for folder in (*study.glob("node/*"), *self._of_attempts(study)):
                    owner = folder.name if folder.parent.name == "node" else _owner_of(folder)
                    if owner not in alive:
                        _remove_whole(folder)
                _remove_empty(study)

    @staticmethod
    def _of_attempts(study: Path) -> list[Path]:
        return list(study.glob("attempts/*"))


def _top() -> Path:
    top = Path(tempfile.gettempdir()) / f"hyperband-{os.getuid()}"
    top.mkdir(mode=0o700, exist_ok=True)
    found = top.lstat()
    if top.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{top} is not ours alone")
    return top


def _owner_of(folder: Path) -> str:
    """Return whose the folder of an attempt is; empty: of one that was killed before it could say so."""
    try:
        return (folder / _OWNER_FILE).read_text()
    except OSError:
        return ""


def _name_if_alive(node: Path) -> str:
    """Return the name of a slot's folder if its process lives, else an empty one."""
    try:
        alive = os.open(node / _ALIVE_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return node.name  # also where nothing can be said of it
    finally:
        os.close(alive)
    return ""


def _remove_whole(folder: Path) -> None:
    """Remove a folder, also where what is about to end writes there still."""
    for _ in range(_N_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_AGAIN_S)


def _remove_empty(study: Path) -> None:
    for folder in (study / "attempts", study / "node", study):
        with contextlib.suppress(OSError):  # it has something in it
            folder.rmdir()
