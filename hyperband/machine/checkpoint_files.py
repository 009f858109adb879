"""Checkpoint files: finding those of a trial, moving them aside and back, deleting them.

Every folder is opened by its name in the one above it, and never through a symbolic link, so that nothing
outside the pattern's static prefix can be reached, whoever changes the folders meanwhile. Knows patterns and
folders; whose files may go is decided elsewhere.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hyperband.errors import UsageError
from hyperband.machine.checkpoint_pattern import ASIDE, DEEP, Files, Part, Pattern, is_part, parse

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: what it means that something is not there, or not what it would have to be
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

_OWNER_DIGITS = 12

#: the path of a file or folder, below the static prefix
Names = tuple[str, ...]


def check_pattern(text: str, *, cwd: Path) -> None:
    """Refuse a pattern that cannot be used.

    Args:
        text: of `--checkpoints`.
        cwd: where the jobs run.

    Raises:
        UsageError: it is no pattern, or leads through a symbolic link.
    """
    pattern = parse(text)
    place = Path("/") if pattern.is_absolute else cwd
    names = text.removeprefix("/").removeprefix("./").split("/")
    for n_above, name in enumerate(pattern.prefix, 1):
        place /= name
        if place.is_symlink():
            there = "/".join([str(place.resolve()), *names[n_above:]])
            raise UsageError(
                f"--checkpoints {text!r} leads through {place}, a symbolic link, and files are never removed "
                f"through one; name its target instead: --checkpoints '{there}'"
            )


class CheckpointFiles:
    """The files that one pattern means, in the folder of its static prefix."""

    def __init__(
        self, pattern: Pattern, *, cwd: Path, study_folder: Path, say: Callable[[str], None]
    ) -> None:
        """Know where they are; nothing is opened yet.

        Args:
            pattern: of the files.
            cwd: where the jobs run.
            study_folder: is never entered; gives our own folder beside the checkpoints its name.
            say: told, once for each kind, of what could not be done.
        """
        self._pattern = pattern
        self._root = Path("/") if pattern.is_absolute else cwd
        #: the folder in which all of it happens
        self.place = self._root.joinpath(*pattern.prefix)
        self._spared = study_folder
        owner = hashlib.sha256(str(study_folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
        self._aside = f"{ASIDE}{owner[:_OWNER_DIGITS]}"
        self._say = say
        self._said: set[tuple[str, int | None]] = set()

    def find(self, files: Files) -> tuple[list[Names], list[Names]]:
        """Return the regular files that are there, and the folders from the config id on, deepest last."""
        found: list[Names] = []
        folders: list[Names] = []
        with self._open_place() as place:
            if place is not None:
                try:
                    self._walk(place, files.parts, (), files.n_before_id, found, folders)
                except OSError as err:
                    self._refused("looked for", (), err)
        return list(dict.fromkeys(found)), sorted(set(folders), key=len)

    def move_aside(self, key: str, names: Names) -> bool:
        """Move a file into our own folder, under a trial's key; whether it is gone from its place.

        Only a regular file is moved, and only within its file system.
        """
        with self._open_place() as place, contextlib.ExitStack() as stack:
            if place is None:
                return False
            try:
                source = stack.enter_context(_opened(place, names[:-1]))
                if not stat.S_ISREG(os.stat(names[-1], dir_fd=source, follow_symlinks=False).st_mode):
                    return False
                self._make_aside(place)
                target = stack.enter_context(_opened(place, (self._aside, key, *names[:-1]), make=True))
                os.rename(names[-1], names[-1], src_dir_fd=source, dst_dir_fd=target)
            except OSError as err:
                if err.errno not in _ABSENT:
                    self._refused("moved aside", names, err)
                return False
        return True

    def remove_empty(self, names: Names) -> None:
        """Remove a folder if nothing is in it."""
        with self._open_place() as place:
            if place is None:
                return
            try:
                with _opened(place, names[:-1]) as parent:
                    os.rmdir(names[-1], dir_fd=parent)
            except OSError:
                pass  # not empty, not ours, or gone: then it stays as it is

    def aside_keys(self) -> list[str]:
        """Return the key of every trial that has files aside."""
        with self._open_place() as place, contextlib.suppress(OSError):
            if place is not None:
                with _opened(place, (self._aside,)) as aside:
                    return sorted(os.listdir(aside))  # noqa: PTH208
        return []

    def files_aside(self, key: str) -> tuple[list[Names], list[Names]]:
        """Return the files of a trial that are aside, by their old names, and their folders."""
        found: list[Names] = []
        folders: list[Names] = []
        with self._open_place() as place, contextlib.suppress(OSError):
            if place is not None:
                with _opened(place, (self._aside, key)) as aside:
                    _list_all(aside, (), found, folders)
        return found, folders

    def delete_aside(self, key: str, names: Names) -> int | None:
        """Delete a file that is aside; return the bytes that the disk gets back, None if it is still there.

        Those are the blocks that it took, and 0 while another name of the file is left somewhere.
        """
        with self._open_place() as place:
            if place is None:
                return None
            try:
                with _opened(place, (self._aside, key, *names[:-1])) as parent:
                    found = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
                    os.unlink(names[-1], dir_fd=parent)
            except OSError as err:
                if err.errno not in _ABSENT:
                    self._refused("deleted", (self._aside, key, *names), err)
                return None
        return found.st_blocks * 512 if found.st_nlink == 1 else 0

    def put_back(self, key: str, names: Names) -> bool:
        """Move a file back to its place; False if it stays aside because another is there by now."""
        with self._open_place() as place, contextlib.ExitStack() as stack:
            if place is None:
                return False
            try:
                source = stack.enter_context(_opened(place, (self._aside, key, *names[:-1])))
                target = stack.enter_context(_opened(place, names[:-1], make=True))
                _move_to_free_place(names[-1], source, target)
            except OSError as err:
                self._refused("put back", names, err)
                return False
        return True

    def forget_aside(self, key: str, folders: Sequence[Names]) -> None:
        """Remove the empty folders that a trial's files were in, and our own folder if it was the last."""
        for names in sorted(folders, key=len, reverse=True):
            self.remove_empty((self._aside, key, *names))
        self.remove_empty((self._aside, key))
        self.remove_empty((self._aside,))

    def _walk(
        self,
        folder: int,
        parts: Sequence[Part],
        at: Names,
        n_before_id: int,
        found: list[Names],
        folders: list[Names],
    ) -> None:
        """Find what is in a folder: `n_before_id` of the parts still come before the config id's first."""
        part, rest = parts[0], parts[1:]
        if part is DEEP and rest:
            self._walk(folder, rest, at, n_before_id - 1, found, folders)
        # a plain name needs no listing: a folder may have a hundred thousand others
        for name in [part] if isinstance(part, str) else sorted(os.listdir(folder)):
            if name.startswith(ASIDE) or (part is not DEEP and not is_part(part, name)):
                continue
            try:
                there = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(there.st_mode) and not rest:
                    found.append((*at, name))
                elif stat.S_ISDIR(there.st_mode) and (rest or part is DEEP) and not self._is_spared(there):
                    below, n_before = (parts, n_before_id) if part is DEEP else (rest, n_before_id - 1)
                    if n_before_id <= 0:
                        folders.append((*at, name))
                    with _opened(folder, (name,)) as inner:
                        self._walk(inner, below, (*at, name), n_before, found, folders)
            except OSError as err:
                if err.errno not in _ABSENT:
                    self._refused("looked at", (*at, name), err)

    def _is_spared(self, found: os.stat_result) -> bool:
        """Whether a folder is the study's own."""
        with contextlib.suppress(OSError):
            return os.path.samestat(found, self._spared.stat())
        return False

    @contextlib.contextmanager
    def _open_place(self) -> Iterator[int | None]:
        """Open the folder of the static prefix; None where there is none, or not without a symbolic link."""
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                place = _open_chain(root, self._pattern.prefix)
            finally:
                os.close(root)
        except OSError as err:
            if err.errno != errno.ENOENT:
                self._refused("opened without a symbolic link on the way", (), err)
            yield None
            return
        try:
            yield place
        finally:
            os.close(place)

    def _make_aside(self, place: int) -> None:
        """Make our own folder; it must be a folder of ours, and not what somebody else put there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._aside, 0o700, dir_fd=place)
        found = os.stat(self._aside, dir_fd=place, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{self._aside} belongs to somebody else")

    def _refused(self, what: str, names: Names, err: OSError) -> None:
        """Tell of the first of each kind; the others would say the same."""
        if (what, err.errno) not in self._said:
            self._said.add((what, err.errno))
            path = self.place.joinpath(*names)
            self._say(f"The checkpoint {path} cannot be {what} ({err.strerror or err}): it stays as it is.")


def _open_chain(folder: int, names: Sequence[str], *, make: bool = False) -> int:
    """Open a folder below another, name by name, never through a symbolic link."""
    here = os.dup(folder)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=here)
            inner = os.open(name, _FOLDER, dir_fd=here)
            os.close(here)
            here = inner
    except BaseException:
        os.close(here)
        raise
    return here


@contextlib.contextmanager
def _opened(folder: int, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
    found = _open_chain(folder, names, make=make)
    try:
        yield found
    finally:
        os.close(found)


def _list_all(folder: int, at: Names, found: list[Names], folders: list[Names]) -> None:
    for name in sorted(os.listdir(folder)):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            folders.append((*at, name))
            with _opened(folder, (name,)) as inner:
                _list_all(inner, (*at, name), found, folders)
        else:
            found.append((*at, name))


def _move_to_free_place(name: str, source: int, target: int) -> None:
    """Move a file, never onto another one; a kill in between leaves it whole, under both names."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        ours = os.stat(name, dir_fd=source, follow_symlinks=False)
        there = os.stat(name, dir_fd=target, follow_symlinks=False)
        if not os.path.samestat(ours, there):
            raise
    except OSError as err:
        if err.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        # a file system without hard links; nobody else writes the checkpoints of a trial that does not run
        try:
            os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            return
        raise FileExistsError(errno.EEXIST, "another file is in its place") from err
    os.unlink(name, dir_fd=source)
