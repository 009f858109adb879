"""A Ray of one machine that a search starts for itself: `--ray-address local`.

Owns the way to it: what is written of it, how it is found again, started and ended. What keeps it, and ends
it when nobody searches any more, is a process of its own (local_keeper.py). Must not know: slots, jobs.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperband.launch.ray.actor import KEEPALIVE
from hyperband.launch.ray.words import KEEPALIVE_MS
from hyperband.machine.claim import parse, write_whole
from hyperband.machine.process import ProcessId, wait_for_end

#: in the folder `ray/` of a study
RECORD_FILE, LOG_FILE = "local.json", "local.log"
#: in its own folder: whoever searches holds a lock on it
IN_USE_FILE, TOKEN_FILE = "in-use", "token"
#: likewise; its keeper holds a lock on it
KEPT_FILE = "kept"
#: what the names of such folders begin with
_PREFIX = "hb-ray-"
#: patience with its start; with its end, of which a job's own grace is a part
_START_S, _END_S = 60.0, 60.0
#: the path of a socket has 107 bytes at most, and Ray's are so much longer than that of its folder:
#: /session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store
_SOCKET_PATH_BYTES, _SOCKET_BYTES = 107, 64
#: a keeper hears it once its Ray is written down, and starts it then
BEGIN = b"begin"
_UNWANTED = "nobody waits for it any more"
#: between looks whether a Ray that starts is wanted
_LOOK_S = 0.2
#: of the environment: what says which cluster, and Ray prefers the token to the file with one
_NOT_FOR_OURS = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
_ROOT = Path(__file__).resolve().parents[3]
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from hyperband.launch.ray.local_keeper import main; "
    "main()"
)


class LocalRayError(Exception):
    """It could not be started."""


@dataclass(frozen=True, slots=True)
class LocalRay:
    """One that runs or starts, as its record says."""

    #: empty while it starts
    address: str
    #: its own, on this machine's disk
    folder: Path
    keeper: ProcessId

    @classmethod
    def find(cls, study_ray: Path) -> "LocalRay | None":
        """Return the one that an earlier search started on this machine, if it runs, or starts still."""
        try:
            found = parse((study_ray / RECORD_FILE).read_bytes())
        except FileNotFoundError:
            return None
        if found is None:
            return None
        keeper = ProcessId(**found["keeper"])
        return cls(found["address"], Path(found["folder"]), keeper) if keeper.is_alive() else None

    @property
    def environment(self) -> dict[str, str]:
        """What whoever joins it needs."""
        return {
            **dict.fromkeys(KEEPALIVE, KEEPALIVE_MS),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / TOKEN_FILE),
        }

    def end(self) -> None:
        """End it, and see it gone; jobs that still run there are asked to stop."""
        pidfd = self.keeper.open()
        if pidfd is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            wait_for_end(pidfd, _END_S)
        finally:
            os.close(pidfd)


def enter(
    study_ray: Path, *, may_start: bool, starts: Callable[[], None], is_unwanted: Callable[[], bool]
) -> LocalRay | None:
    """Return the Ray of a study, held for as long as this process lives; started if it has to be.

    Args:
        study_ray: the folder `ray/` of the study.
        may_start: without it None is returned where none runs.
        starts: told that one is started.
        is_unwanted: asked while it starts whether it can as well be ended.

    Raises:
        LocalRayError: it cannot be started.
    """
    found = LocalRay.find(study_ray)
    if found is not None and not found.address:
        found.end()  # whoever started it is gone: nothing is there yet, and nobody waits for it
    elif found is not None:
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            _hold(found.folder)
            if LocalRay.find(study_ray) == found:
                return found
    _sweep()
    if not may_start:
        return None
    if is_unwanted():
        raise LocalRayError(_UNWANTED)
    starts()
    return _start(study_ray, is_unwanted)


def _hold(folder: Path) -> None:
    """Lock it, for good; waits for one that is about to end."""
    fcntl.flock(os.open(folder / IN_USE_FILE, os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_SH)


def _start(study_ray: Path, is_unwanted: Callable[[], bool]) -> LocalRay:
    # a short path on a local disk: sockets lie there
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        _refuse_long(folder)
        (folder / IN_USE_FILE).touch()
        _hold(folder)
        (folder / KEPT_FILE).touch()  # only now may anybody ask whether it is kept
        token = os.open(folder / TOKEN_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(token, os.urandom(32).hex().encode())
        os.close(token)
        return _await(study_ray, folder, is_unwanted)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _refuse_long(folder: Path) -> None:
    most_bytes = _SOCKET_PATH_BYTES - _SOCKET_BYTES
    if len(os.fsencode(folder)) > most_bytes:
        n_bytes = most_bytes - len(os.fsencode(folder.name)) - 1
        raise LocalRayError(
            f"the folder for temporary files is {folder.parent}, and Ray can only use one whose path has "
            f"{n_bytes} bytes at most, since its sockets lie there: name a shorter one, on a local disk, "
            "with TMPDIR"
        )


def _sweep() -> None:
    """Remove what a keeper left that was killed; what of its Ray still ends may need another start."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # one of another user, one that lives, one that its keeper is just removing: each is no trouble
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for name in (IN_USE_FILE, KEPT_FILE):
                lock = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _await(study_ray: Path, folder: Path, is_unwanted: Callable[[], bool]) -> LocalRay:
    """Start the keeper; return when Ray is there."""
    reader, writer = os.pipe()
    with (study_ray / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _RUN, str(_ROOT), str(study_ray), str(folder), str(writer)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=keeper_environment(os.environ, folder),
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(writer)
    try:
        _let_begin(process, study_ray, folder)
        until_s = time.monotonic() + _START_S
        said, ready = f"it took more than {_START_S:g} s", False
        while not ready and time.monotonic() < until_s:
            ready = bool(select.select([reader], [], [], _LOOK_S)[0])
            if ready:
                said = os.read(reader, 4096).decode()
            elif is_unwanted():
                said = _UNWANTED
                break
    finally:
        os.close(reader)
    found = LocalRay.find(study_ray)
    if said != "up" or found is None or not found.address:
        process.send_signal(signal.SIGTERM)
        log_file = study_ray / LOG_FILE
        raise LocalRayError(
            f"Ray could not be started on this machine: {said or 'it ended'}; {log_file} says more"
        )
    return found


def _let_begin(keeper: "subprocess.Popen[bytes]", study_ray: Path, folder: Path) -> None:
    """Write down that a Ray starts, for a `stop` that comes meanwhile; only then let it."""
    assert keeper.stdin is not None
    about = ProcessId.of(keeper.pid)
    # without the word it ends; one that has ended by itself says no word of its own
    with contextlib.suppress(BrokenPipeError), keeper.stdin as line:
        if about is not None:
            write_whole(str(study_ray), RECORD_FILE, record_of("", folder, about))
            line.write(BEGIN)


def keeper_environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment of the keeper, and so of Ray: what docs/ray.md asks of every cluster."""
    return {
        **{name: value for name, value in environ.items() if not name.startswith(_NOT_FOR_OURS)},
        **dict.fromkeys(KEEPALIVE, KEEPALIVE_MS),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN_FILE),
        "RAY_worker_niceness": "0",
        # what still runs in the end has its own grace, by its keeper
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "3",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def record_of(address: str, folder: Path, keeper: ProcessId) -> bytes:
    """Return what is written of one that runs, or starts: without an address."""
    about = {
        "pid": keeper.pid,
        "start_ticks": keeper.start_ticks,
        "boot_id": keeper.boot_id,
        "pid_namespace": keeper.pid_namespace,
    }
    return json.dumps({"address": address, "folder": str(folder), "keeper": about}).encode()
