"""A study's folder: the names in it, who may write it, and its removal.

Owns the lock of a study's one writer. What the journal in the folder says is the journal's business.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperband.errors import JournalError, StudyBusyError
from hyperband.machine.process import ProcessId

JOURNAL_FILE = "journal.db"
COPY_FILE = "journal.copy"
#: where the journal is while a search writes it, if not in the folder itself
PLACE_FILE = "journal.place"
#: the journal was restored, and what lives of its jobs has not been ended yet
RESTORED_FILE = "journal.restored"
LOCK_FILE = "lock"
LOG_FILE = "hyperband.log"
#: what a living search waits for; and the next of it, until it is whole
NOW_FILE = "now.json"
NEW_NOW_FILE = "now.json.new"
#: what a search prints that has no terminal
SEARCH_LOG_FILE = "search.log"
KEEPERS_FILE = "keepers.err"
GUIDE_FILE = "guide.err"
JOBS_FOLDER = "jobs"
#: what nodes run of ours, where jobs run on other machines
NODE_FOLDER = "node"
#: what Slurm runs and writes, where jobs run in allocations of it
SLURM_FOLDER = "slurm"
#: what Ray needs, where jobs run on a cluster of it
RAY_FOLDER = "ray"
#: somebody on another machine asks the search to end
STOP_REQUEST_FILE = "stop.request"
#: the name of a slot that is to be given back from quarantine
RELEASE_FILE = "release"

#: what the names of the journal's files begin with: the two, their logs, and what was put aside
_OF_JOURNAL = (JOURNAL_FILE, COPY_FILE, PLACE_FILE, RESTORED_FILE)

#: how long the last processes of a killed search may take to let go of its lock
_LOCK_PATIENCE_S = 10.0
_LOCK_LOOK_S = 0.01


def job_folder(study_folder: Path, job: int, attempt: int) -> Path:
    """Return the folder of one attempt's files."""
    return study_folder / job_folder_name(job, attempt)


def job_folder_name(job: int, attempt: int) -> str:
    """Return the path of one attempt's files within the study's folder: `jobs/NNNNNN-A`."""
    return f"{JOBS_FOLDER}/{job:06d}-{attempt}"


def has_study(folder: Path) -> bool:
    """Whether there is a study in `folder`: its journal, at least the copy of it, or word of where it is."""
    return any((folder / name).is_file() for name in (JOURNAL_FILE, COPY_FILE, PLACE_FILE))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who writes, or last wrote, a study."""

    host: str
    process: ProcessId
    since: float

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process that we can see: of this machine's last boot and our container."""
        return self.process.is_in_sight

    def describe(self) -> str:
        """Return words for messages: pid, host and since when."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"pid {self.process.pid} on {self.host} since {since}"


def holder(folder: Path) -> Holder | None:
    """Return who writes the study in `folder` at this moment, None if nobody does."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = _read_holder(descriptor)
        if found is None:
            return None
        if found.is_here:
            return found if found.process.is_alive() else None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return found
        return None
    finally:
        os.close(descriptor)


def lock_study(folder: Path, *, study: Path | None = None) -> int:
    """Return a descriptor that holds the lock of the study in `folder`, with our name in it.

    Args:
        folder: where its journal is.
        study: its folder, if that is another one.

    Raises:
        StudyBusyError: another process has it.
    """
    path = folder / LOCK_FILE
    while True:
        descriptor = _lock(path, study or folder)
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)  # the study was removed while we waited: this lock is nobody's any more


def unlock_study(lock: int) -> None:
    """Take our name out of a study's lock and let go of it."""
    try:
        # where the file system has become read-only the name stays: who is dead is known by his process
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def _lock(path: Path, folder: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        patience_ends_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as err:
                found = _read_holder(descriptor)
                lives = found is not None and (not found.is_here or found.process.is_alive())
                if lives or time.monotonic() > patience_ends_s:
                    who = "another process" if found is None else found.describe()
                    raise StudyBusyError(
                        f"the study in {folder} is being written by {who}; wait for it, end it with "
                        f"`hyperband stop {folder}`, or use another folder with --logs"
                    ) from err
                # the search that wrote its name there is dead, and its last helpers are letting go:
                # a foreign lock gives no event, so it is looked at
                time.sleep(_LOCK_LOOK_S)
        here = ProcessId.of(os.getpid())
        assert here is not None
        about = {"host": socket.gethostname(), "since": time.time(), **asdict(here)}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(about).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_holder(descriptor: int) -> Holder | None:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        process = ProcessId(
            int(about["pid"]), int(about["start_ticks"]), str(about["boot_id"]), int(about["pid_namespace"])
        )
        return Holder(str(about["host"]), process, float(about["since"]))
    except (ValueError, KeyError, TypeError):
        return None  # it has just been locked and its name is not in yet


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse to make a study of a folder that is somebody's already.

    Raises:
        JournalError: it holds what no study has.
    """
    if not folder.is_dir() or has_study(folder):
        return
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in (LOCK_FILE, LOG_FILE, SEARCH_LOG_FILE, KEEPERS_FILE, GUIDE_FILE, SLURM_FOLDER)
    )
    others = [name for name in others if not name.startswith(_OF_JOURNAL)]
    if others:
        raise JournalError(
            f"{folder} is there and is no study (it holds {', '.join(others[:3])}); choose another folder "
            "with --logs, or let run_identity give another name"
        )


def remove_study_files(folder: Path) -> None:
    """Remove what a study has in its folder, and the folder if nothing else is there. Hold its lock."""
    for below in (JOBS_FOLDER, NODE_FOLDER, SLURM_FOLDER, RAY_FOLDER):
        if (folder / below).exists():
            shutil.rmtree(folder / below)
    # with what was put aside when it was damaged; the copy first, since a study would come back from it
    of_journal = [path.name for path in folder.glob("journal.*") if path.name.startswith(_OF_JOURNAL)]
    of_journal.sort(key=lambda name: (name == PLACE_FILE, name.startswith(JOURNAL_FILE), -len(name)))
    for name in (
        *of_journal,
        LOG_FILE,
        NOW_FILE,
        NEW_NOW_FILE,
        SEARCH_LOG_FILE,
        KEEPERS_FILE,
        GUIDE_FILE,
        RELEASE_FILE,
        STOP_REQUEST_FILE,
        LOCK_FILE,
    ):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
