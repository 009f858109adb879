"""What jobs leave in the file system: found by looking before and after, and put aside for a while.

Owns the rule that only files are moved that came since the check began, that no living process has open, and
that lie where the script works. Must not know what the files mean.
"""

import contextlib
import filecmp
import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.folder import JOURNAL_FILE
from hyperband.machine.checkpoint_files import CheckpointFiles
from hyperband.machine.checkpoint_pattern import parse
from hyperband.settings import Settings
from hyperband.verdicts import CHECKS_FOLDER

#: more than this in one folder tree is not looked through
_MAX_ENTRIES = 100_000
_MAX_LOOK_S = 3.0
_MAX_PLACES = 20
_ASIDE = ".hyperband-check-"
#: what the name of a file that could not be put back ends with
_KEPT = ".before-check"
#: so many hexadecimal digits of a hash are no coincidence
_HASH_DIGITS = 8
_SKIPPED = {".git", "__pycache__", ".hg", ".svn", "node_modules", ".venv"}
_PATH_IN_SOURCE = re.compile(r"""["']((?:/|~/)[^"'\n{}]{2,200})["']""")

#: inode, size, time of the last change of content, of anything
_Mark = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """The files below some folders at one moment."""

    files: dict[Path, _Mark]
    folders: frozenset[Path]

    def changed_since(self, earlier: "Look") -> list[Path]:
        """Files that are new or not what they were, in order."""
        return sorted(path for path, mark in self.files.items() if earlier.files.get(path) != mark)


class Places:
    """Where a script may keep its checkpoints."""

    def __init__(self, settings: Settings, cwd: Path, say: Callable[[str], None]) -> None:
        """Choose the folders: where jobs run, where the script is, and those that it or its options name.

        Raises:
            UsageError: `--checkpoints` is no pattern.
        """
        self.cwd = cwd.resolve()
        self._say = say
        self._pattern = None if settings.checkpoints is None else parse(settings.checkpoints)
        self._logs = settings.logs
        found = [self.cwd, settings.script.resolve().parent]
        found += _folders_in(_words_with_paths(settings), self.cwd)
        self.roots: list[Path] = []
        for root in found:
            if not any(root.is_relative_to(other) for other in self.roots):
                self.roots.append(root)
        #: those that are too large to be looked through
        self.too_large: list[Path] = []
        self._checkpoints: CheckpointFiles | None = None
        if self._pattern is not None:
            self._checkpoints = CheckpointFiles(
                self._pattern, cwd=self.cwd, study_folder=settings.logs / CHECKS_FOLDER, say=say
            )
            self.roots = [self._checkpoints.place]

    @property
    def has_pattern(self) -> bool:
        """Whether checkpoints are known by a pattern."""
        return self._pattern is not None

    def look(self, config_id: str) -> Look:
        """All files there now; with `--checkpoints`, those of this configuration and no others."""
        if self._checkpoints is not None:
            return self._look_at_pattern(config_id)
        files: dict[Path, _Mark] = {}
        folders: set[Path] = set()
        for root in [root for root in self.roots if root not in self.too_large]:
            found = _walk(root, self._logs)
            if found is None:
                self.too_large.append(root)
            else:
                files |= found.files
                folders |= found.folders
        return Look(files, frozenset(folders))

    def _look_at_pattern(self, config_id: str) -> Look:
        assert self._pattern is not None
        assert self._checkpoints is not None
        meant = self._pattern.files(config_id)
        names, folders = ([], []) if meant is None else self._checkpoints.find(meant)
        files: dict[Path, _Mark] = {}
        for name in names:
            _note(self._checkpoints.place.joinpath(*name), files)
        return Look(files, frozenset(self._checkpoints.place.joinpath(*name) for name in folders))

    def _below(self, path: Path) -> Path:
        """The part of a path below the folder that is looked through."""
        return next((path.relative_to(root) for root in self.roots if path.is_relative_to(root)), path)

    def aside(self, look: Look, before: Look, changed: Sequence[Path], ids: Collection[str]) -> "Aside":
        """Prepare to put those changed files aside that were not there before the check.

        Somebody else may work in the same folders. Where files are named after configurations of the check,
        `ids`, no other is touched; and only those are removed when there are newer ones.
        """
        held = _held_open()
        movable = [
            path
            for path in changed
            if path in look.files and path not in before.files and look.files[path][0] not in held
        ]
        named = {path for path in movable if self.has_pattern or is_named_after(self._below(path), ids)}
        movable = [path for path in movable if path in named or not named]
        # a folder that is empty already may be one into which somebody else is about to write
        emptied = {folder for path in movable for folder in path.parents}
        new = [folder for folder in look.folders if folder in emptied and folder not in before.folders]
        return Aside(movable, new, self.roots, named, self._say)


def is_named_after(path: Path, ids: Iterable[str]) -> bool:
    """Whether a path holds one of the config ids, whatever it has for odd characters, or a hash of one.

    A short id must be a whole name: it stands in others by chance.
    """
    text = str(path)
    names = {_plain(name) for part in path.parts for name in (part, Path(part).stem)}
    for config_id in ids:
        data = config_id.encode()
        hashes = [hashlib.new(name, data).hexdigest()[:_HASH_DIGITS] for name in ("md5", "sha1", "sha256")]
        plain = _plain(config_id)
        is_within = len(plain) >= _HASH_DIGITS and plain in _plain(text)
        if is_within or plain in names or any(digits in text for digits in hashes):
            return True
    return False


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _note(path: Path, files: dict[Path, _Mark]) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            files[path] = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _walk(root: Path, logs: Path) -> Look | None:
    """The files and folders below a folder; None when that takes too long."""
    ends_s = time.monotonic() + _MAX_LOOK_S
    files: dict[Path, _Mark] = {}
    folders: set[Path] = set()
    stack = [root]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue  # gone meanwhile, or closed to us: then to the job as well
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if not _is_left_alone(path, logs):
                    folders.add(path)
                    stack.append(path)
            else:
                _note(path, files)
        if len(files) + len(folders) > _MAX_ENTRIES or time.monotonic() > ends_s:
            return None
    return Look(files, frozenset(folders))


def _is_left_alone(folder: Path, logs: Path) -> bool:
    """True for folders that hold no checkpoints of the script: our own, and those of tools."""
    if folder.parent == logs:
        return folder.name == CHECKS_FOLDER or (folder / JOURNAL_FILE).exists()
    return folder.name in _SKIPPED or folder.name.startswith(_ASIDE)


def _words_with_paths(settings: Settings) -> list[str]:
    """What may be paths among the script's options, and in its text."""
    words = [part for word in settings.script_args for part in word.split("=")]
    text = settings.script.read_text(encoding="utf-8", errors="replace")
    return words + _PATH_IN_SOURCE.findall(text)


def _folders_in(words: Sequence[str], cwd: Path) -> list[Path]:
    """Folders among the words that are there, or that a job could make; never one near the root."""
    found: list[Path] = []
    for word in words:
        if "/" not in word or "\0" in word or len(found) >= _MAX_PLACES:
            continue
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            path = (cwd / Path(word).expanduser()).resolve()
            folder = path if path.is_dir() else path.parent
            system = any(folder.is_relative_to(top) for top in ("/proc", "/sys", "/dev", "/usr", "/etc"))
            if folder.is_dir() and len(folder.parts) > 2 and not system:
                found.append(folder)
    return found


def _held_open() -> set[int]:
    """Inodes of files that any process has open, as far as we may see: the check's own jobs are gone."""
    found: set[int] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for link in os.listdir(process / "fd"):  # noqa: PTH208 - names alone
                with contextlib.suppress(OSError):
                    found.add(os.stat(f"/proc/{process.name}/fd/{link}").st_ino)  # noqa: PTH116
    return found


@dataclass(slots=True)
class Aside:
    """Files that are away while it is entered; afterwards they are back where nothing took their place."""

    files: list[Path]
    #: that came since the check began; empty ones go as well
    folders: list[Path]
    roots: list[Path]
    #: those of the files that are the script's for sure
    named: set[Path]
    say: Callable[[str], None]
    _moved: dict[Path, Path] = field(default_factory=dict)
    _removed: list[Path] = field(default_factory=list)
    _stores: list[Path] = field(default_factory=list)

    def __enter__(self) -> "Aside":
        """Put them aside.

        Raises:
            MachineError: the folder cannot be written to; nothing was moved then.
        """
        try:
            for path in self.files:
                root = max((r for r in self.roots if path.is_relative_to(r)), key=lambda r: len(r.parts))
                store = self._store(root)
                beside = store / f"{len(self._moved):06d}"
                path.rename(beside)
                self._moved[path] = beside
            for folder in sorted(self.folders, key=lambda f: -len(f.parts)):
                with contextlib.suppress(OSError):  # not empty, or gone
                    folder.rmdir()
                    self._removed.append(folder)
        except OSError as err:
            self.restore()
            raise MachineError(
                f"a file that the script made cannot be put aside for a moment: {err}. Let this user write "
                "where the script does, or name its checkpoints with --checkpoints."
            ) from err
        return self

    def __exit__(self, *_: object) -> None:
        """Put them back."""
        self.restore()

    def _store(self, root: Path) -> Path:
        """The folder for what was below this root: on its file system, so that files need not be copied."""
        for store in self._stores:
            if store.parent == root:
                return store
        store = root / f"{_ASIDE}{uuid.uuid4().hex[:8]}"
        store.mkdir()
        self._stores.append(store)
        return store

    def restore(self) -> None:
        """Put back what has no successor, and remove the rest; a second call does nothing."""
        for path, beside in self._moved.items():
            if path.exists() and (path in self.named or filecmp.cmp(path, beside, shallow=False)):
                beside.unlink()  # the same configuration's, trained in one go since
            elif path.exists():
                kept = path.with_name(f"{path.name}{_KEPT}")
                beside.rename(kept)
                self.say(f"{path} was written again meanwhile; as it was before, it is kept in {kept.name}")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.rename(path)
        for folder in self._removed:
            folder.mkdir(parents=True, exist_ok=True)
        for store in self._stores:
            store.rmdir()
        self._moved, self._removed, self._stores = {}, [], []
