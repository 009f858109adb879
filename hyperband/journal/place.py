"""Where a study's journal is: in its folder, or, while it is written, on a local disk of one machine.

Owns the file `journal.place` in the study's folder, which says who took the journal where, and the choice of
that place. Moves nothing itself (that is home.py), and knows nothing of what is in a journal. docs/design.md
says why.
"""

import contextlib
import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperband.errors import JournalError, StudyBusyError
from hyperband.folder import JOURNAL_FILE, PLACE_FILE, Holder, holder
from hyperband.machine.claim import parse, read_fresh
from hyperband.machine.mounts import MEMORY_FILE_SYSTEMS, file_system, is_network
from hyperband.machine.process import ProcessId

#: environment variable with the folder in which journals are kept while they are written, wherever a study is
VARIABLE = "HYPERBAND_JOURNALS"
#: in the place itself: whose journal it is
ABOUT_FILE = "study.json"
#: a search that lives says so more often than this
SIGN_OF_LIFE_S = 60.0
_HINT = " (or that was another machine or container of this name)"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a study's journal was taken, by whom, and why."""

    #: unlike that of any other taking
    token: str
    host: str
    path: Path
    #: type of the file system on which the study's folder is
    file_system: str
    writer: ProcessId
    since: float
    #: Slurm's job in which the writer ran, and how often it had been started again; empty: in none
    slurm_job: str
    slurm_restarts: int

    @classmethod
    def of_us(cls, token: str, path: Path, kind: str, environ: Mapping[str, str]) -> "Place":
        """Return what this process writes down."""
        process = ProcessId.of(os.getpid())
        assert process is not None
        job, restarts = slurm_run(environ)
        return cls(token, socket.gethostname(), path, kind, process, time.time(), job, restarts)

    @classmethod
    def read(cls, study: Path) -> "Place | None":
        """Return where the journal of a study was taken; None: nowhere, it is in the study's folder.

        Raises:
            JournalError: this cannot be read.
        """
        try:
            (data,) = read_fresh(str(study), PLACE_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            raise JournalError(
                f"cannot look into {study}: {err.strerror or err}; make it readable, or mend the file system"
            ) from err
        if data is None:
            return None
        try:
            found = parse(data) or {}
            return cls(
                found["token"],
                found["host"],
                Path(found["path"]),
                found["file_system"],
                ProcessId(**found["writer"]),
                found["since"],
                found["slurm_job"],
                found["slurm_restarts"],
            )
        except (KeyError, TypeError) as err:
            raise JournalError(
                f"{study / PLACE_FILE} is damaged: it should say on which machine the study's journal is; "
                f"remove it if that is known to be lost, and the copy in {study} is gone on with"
            ) from err

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        about = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**about, "path": str(self.path), "writer": asdict(self.writer)}).encode()

    @property
    def is_here(self) -> bool:
        """Whether the journal can be reached from this machine."""
        try:
            about = parse((self.path / ABOUT_FILE).read_bytes())
        except OSError:
            return False
        return about is not None and about.get("token") == self.token

    def describe(self, study: Path) -> str:
        """Return words on where the journal is, and why not in the study's folder."""
        why = f"{study} is on {self.file_system}, a network file system"
        if not is_network(self.file_system):
            why = f"{VARIABLE} says so"
        return f"{self.path} on {self.host} ({why})"


def slurm_run(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return Slurm's job that we run in, empty if in none, and how often it was started again."""
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    return environ.get("SLURM_JOB_ID", ""), int(restarts) if restarts.isdecimal() else 0


def where(study: Path) -> str | None:
    """Return words on where the journal of a study is, and why; None: in its folder."""
    place = Place.read(study)
    return None if place is None else place.describe(study)


def writer_of(study: Path) -> Holder | None:
    """Return who writes a study at this moment, None if nobody does, as far as can be told from here."""
    place = Place.read(study)
    if place is None:
        return holder(study)
    if place.is_here:
        return holder(place.path)
    found = Holder(place.host, place.writer, place.since)
    if found.is_here:
        return found if found.process.is_alive() else None
    silent_s = _silent_s(study)
    return found if silent_s is not None and silent_s < SIGN_OF_LIFE_S else None


def refuse_living(study: Path, option: str) -> None:
    """Refuse to go on without a journal whose writer shows that it lives.

    Args:
        study: its folder; its journal cannot be reached.
        option: what asks for it.

    Raises:
        StudyBusyError: it does.
    """
    writer = writer_of(study)
    if writer is None:
        return
    seen_s = _silent_s(study) or 0.0
    seen, wait = f", last sign of life {seen_s:,.0f} s ago", ""
    if writer.is_here:
        seen = ""
    else:
        wait = (
            f". If that machine has just been lost, wait {SIGN_OF_LIFE_S - seen_s + 1:,.0f} s and give the "
            f"command again: who gives no sign for {SIGN_OF_LIFE_S:g} s is given up"
        )
    raise StudyBusyError(
        f"the study in {study} is being written by {writer.describe()}{seen}: {option} is for a machine that "
        f"is lost, and would run jobs again that run there. Let it go on; or end it with `hyperband stop "
        f"{study}`, which brings the journal back, and needs no {option}{wait}"
    )


def words_on_copy(study: Path) -> str:
    """Return words on how old the copy in a study's folder is, by this machine's clock and the server's."""
    age_s = _age_s(study / JOURNAL_FILE)
    if age_s is None:
        return "there is no copy of it yet"
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - age_s))
    return f"the copy in the study's folder is of {at}, {age_s:,.0f} s ago"


def words_from_elsewhere(study: Path, place: Place) -> str:
    """Return what whoever cannot reach the journal is to know."""
    is_gone = place.host == socket.gethostname()
    where = f"but is not there any more{_HINT}" if is_gone else f"and can be reached on {place.host} alone"
    seen_s = _silent_s(study)
    seen = "" if seen_s is None else f", last sign of life {seen_s:,.0f} s ago"
    return (
        f"the journal of this study is at {place.describe(study)}, {where}. Pid {place.writer.pid} took it "
        f"there (since {_time(place.since)}{seen}); {words_on_copy(study)}"
    )


def _silent_s(study: Path) -> float | None:
    """Return for how long a writer elsewhere has given no sign of life; None: its file is not there."""
    path = study / PLACE_FILE
    silent_s = _age_s(path)
    if silent_s is None or silent_s < SIGN_OF_LIFE_S:
        return silent_s
    # our clock may be ahead of that which stamps files there: a new one tells what it says now
    beside = study / f"{PLACE_FILE}.{uuid.uuid4().hex}"
    try:
        beside.touch()
        return max(0.0, beside.stat().st_mtime - path.stat().st_mtime)
    except OSError:
        return silent_s  # who may only read goes by his own
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None


def base_for(study: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the folder in which a study's journal is kept while it is written; None: in the study's own.

    Args:
        study: its folder, which need not be there yet.
        environ: ours.

    Raises:
        JournalError: the study's folder is on a network file system, and no local disk can be had.
    """
    kind = file_system(study)
    given = environ.get(VARIABLE, "")
    if given:
        why = _why_not(Path(given), is_given=True)
        if why is not None:
            raise JournalError(
                f"{VARIABLE} is {given}, which {why}; give the path of a folder on a local disk"
            )
        return Path(given)
    if not is_network(kind):
        return None
    tried = []
    for base in _bases(environ):
        why = _why_not(base, is_given=False)
        if why is None:
            return base
        tried.append(f"{base} {why}")
    raise JournalError(
        f"{study} is on {kind}, a network file system, on which the journal's database is not safe, and no "
        f"local disk was found for it: {'; '.join(tried)}. Name a folder on a local disk of this machine "
        f"with the environment variable {VARIABLE}"
    )


def _bases(environ: Mapping[str, str]) -> Iterator[Path]:
    state = environ.get("XDG_STATE_HOME", "")
    if not state and (home := environ.get("HOME", "")):
        state = f"{home}/.local/state"
    if state:
        yield Path(state) / "hyperband" / "journals"
    yield Path(f"/var/tmp/hyperband-{os.getuid()}")


def _why_not(base: Path, *, is_given: bool) -> str | None:
    """Return why journals cannot be kept in a folder, in words that follow on its path; else it is made.

    What was given may be in memory: on a machine without a disk there is nothing else.
    """
    if not base.is_absolute():
        return "is no absolute path"
    try:
        kind = file_system(base)
        if is_network(kind):
            return f"is on {kind}, a network file system as well"
        if kind in MEMORY_FILE_SYSTEMS and not is_given:
            return f"is on {kind}, which is gone when the machine is switched off"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = os.stat(base) if is_given else os.lstat(base)  # noqa: PTH116
        if not stat.S_ISDIR(about.st_mode):
            return "is no folder"
        if about.st_uid != os.getuid() or about.st_mode & 0o022:
            return "may be written to by others"
        if not os.access(base, os.W_OK | os.X_OK):
            return "cannot be written to"
    except OSError as err:
        return f"cannot be used ({err.strerror or err})"
    return None
