"""Leases: which study uses which GPU of this machine, agreed by file locks that all users honour.

Owns: the folder of lock files, their modes, the locking. One lock file per GPU UUID and share.
Must not know: NVML, jobs, slots.

A lease is an flock. It lives in the open file description, so that whoever inherits the descriptor
(the keeper, the job) goes on holding it after the search has closed its own copy or died; it ends
when the last copy is closed, and never by an explicit unlock.

Studies must not share a GPU even when both use shares, and their numbers of shares may differ. So a
share is taken under a gate, a second lock per GPU held for a moment only: inside it all share files
of the GPU are looked at, and one that another study holds makes the whole GPU taken.
"""

import fcntl
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import MachineError

_FOLDERS = (Path("/run/lock/hyperband"), Path("/tmp/hyperband-leases"))
#: long enough for any study's folder, short enough to be read at once
_MAX_CONTENT_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, as it wrote down itself when it took it."""

    #: folder of the study; empty when the file does not tell
    study: str
    host: str
    #: the search that took the lease; it may have ended since, its job not
    pid: int

    def __str__(self) -> str:
        """In words, fit to follow "leased by "."""
        if not self.study:
            return "an unknown study"
        return f"study {self.study} (pid {self.pid} on {self.host})"


def lease_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the lock files, made for all users if it is not there.

    Raises:
        MachineError: No folder can be used.
    """
    override = environ.get("HYPERBAND_LEASES")
    if override:
        folder = Path(override).absolute()
        problem = _open_to_all(folder, named=True)
        if problem:
            raise MachineError(
                f"HYPERBAND_LEASES names {folder} for the lock files of GPUs, but {problem}. "
                "Name a folder that every user of the GPUs can write to, or unset it."
            )
        return folder
    problems = []
    for folder in _FOLDERS:
        problem = _open_to_all(folder)
        if not problem:
            return folder
        problems.append(f"{folder}: {problem}")
    raise MachineError(
        f"No folder for the lock files of GPUs can be used ({'; '.join(problems)}). "
        "Make one of them with mode 1777, or name another in HYPERBAND_LEASES."
    )


def _open_to_all(folder: Path, *, named: bool = False) -> str:
    """Make sure that everyone can use the folder; what is in the way, in words, or an empty string."""
    try:
        if not os.path.lexists(folder):
            if named:
                folder.parent.mkdir(parents=True, exist_ok=True)
            elif not folder.parent.stat().st_mode & stat.S_IWOTH:
                # Where only some users can make it, others that came first went elsewhere.
                return "it is not there, and not every user could make it"
            _make_folder(folder)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return "it is not a folder (symbolic links are not followed)"
        if not named and stat.S_IMODE(status.st_mode) != 0o1777 and status.st_uid == os.geteuid():
            # Ours by its name. A folder that the user named keeps its mode: it may be anything.
            folder.chmod(0o1777)
    except OSError as err:
        return f"it cannot be made ({err.strerror})"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return "it is not writable for this user"
    return ""


def _make_folder(folder: Path) -> None:
    """Make the folder in one step with its mode: nobody ever sees it with a mode cut by the umask."""
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    fresh.mkdir(mode=0o700)
    fresh.chmod(0o1777)
    try:
        fresh.rename(folder)
    except OSError:
        fresh.rmdir()
        if not os.path.lexists(folder):
            raise


class Leases:
    """The leases of one study on this machine. The descriptors are the caller's to hand on and close."""

    def __init__(self, folder: Path, study: str) -> None:
        """Use the lock files in `folder` (see `lease_folder`) for the study with this folder."""
        self._folder = folder
        self._study = study
        self._host = socket.gethostname()

    def take(self, gpu_uuid: str, share: int) -> int | None:
        """Lease one share of a GPU without waiting.

        Args:
            gpu_uuid: UUID of a GPU or MIG instance.
            share: Number of the share, from 0.

        Returns:
            A locked descriptor (not inheritable; closing all its copies gives the lease back), or
            None: the share is held, another study holds a share of this GPU, or another search is
            looking at this GPU at this moment (`holder` is None then).

        Raises:
            MachineError: The lock files cannot be used.
        """
        with self._gate(gpu_uuid) as entered:
            if not entered or self._foreign_holder(gpu_uuid) is not None:
                return None
            descriptor = self._lock(self._folder / f"{_file_name(gpu_uuid)}.{share}.lock")
            if descriptor is None:
                return None
            try:
                self._sign(descriptor)
            except OSError as err:
                os.close(descriptor)
                raise self._unusable(err) from err
            return descriptor

    def holder(self, gpu_uuid: str) -> Holder | None:
        """Another study that holds a share of this GPU, for messages; None when there is none."""
        with self._gate(gpu_uuid) as entered:
            return self._foreign_holder(gpu_uuid) if entered else None

    @contextmanager
    def _gate(self, gpu_uuid: str) -> Iterator[bool]:
        """Enter the gate of a GPU; False when another search is inside, which takes microseconds.

        Not waited for: a search that is stopped inside (SIGSTOP) must not stop the others.
        """
        descriptor = self._lock(self._folder / f"{_file_name(gpu_uuid)}.gate")
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _foreign_holder(self, gpu_uuid: str) -> Holder | None:
        """The first other study with a share of this GPU. Only inside the gate: it tries the locks."""
        for path in sorted(self._folder.glob(f"{_file_name(gpu_uuid)}.*.lock")):
            descriptor = self._open(path)
            if descriptor is None:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                if (holder.study, holder.host) != (self._study, self._host):
                    return holder
            except OSError as err:
                raise self._unusable(err) from err
            finally:
                os.close(descriptor)
        return None

    def _lock(self, path: Path) -> int | None:
        """Lock a file, made if it is not there; None when someone else has it locked."""
        while True:
            descriptor = self._open(path)
            if descriptor is None:
                self._make_file(path)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError as err:
                os.close(descriptor)
                raise self._unusable(err) from err
            if _is_still(descriptor, path):
                return descriptor
            os.close(descriptor)

    def _open(self, path: Path) -> int | None:
        """Open a file that is there; None when it is not.

        Never with O_CREAT: in folders like ours the kernel forbids that for files of other users
        (sysctl fs.protected_regular).
        """
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise self._unusable(err) from err

    def _make_file(self, path: Path) -> None:
        """Make a lock file that appears with its mode at once, whatever the umask; or let it be there."""
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(descriptor, 0o666)
                os.link(fresh, path)
            except FileExistsError:
                return
            finally:
                os.close(descriptor)
                fresh.unlink()
        except OSError as err:
            raise self._unusable(err) from err

    def _sign(self, descriptor: int) -> None:
        """Write into a locked file who we are."""
        holder = {"study": self._study, "host": self._host, "pid": os.getpid(), "since": time.time()}
        line = json.dumps(holder).encode() + b"\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, line, 0)

    def _unusable(self, err: OSError) -> MachineError:
        return MachineError(
            f"The lock files of GPUs in {self._folder} cannot be used ({err}). "
            "Make the folder writable for every user of the GPUs, or name another in HYPERBAND_LEASES."
        )


def _file_name(gpu_uuid: str) -> str:
    """The UUID as part of a file name: the old names of MIG instances hold slashes."""
    return gpu_uuid.replace("/", "_")


def _is_still(descriptor: int, path: Path) -> bool:
    """False when the file was removed or replaced while it was being locked."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _read_holder(descriptor: int) -> Holder:
    """What the holder wrote; a file that does not tell belongs to an unknown study, not to nobody."""
    text = os.pread(descriptor, _MAX_CONTENT_BYTES, 0).decode(errors="replace")
    try:
        content = json.loads(text)
        return Holder(str(content["study"]), str(content["host"]), int(content["pid"]))
    except (ValueError, KeyError, TypeError):
        return Holder("", "", 0)
