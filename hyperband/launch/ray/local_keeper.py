"""The process that keeps a Ray of one machine for a search, and ends it when nobody searches any more.

It is the subreaper of all of Ray's processes, and of the jobs there: when it ends, none of them is left. It
goes on after the search that made it was killed, so that the next one finds its jobs; it ends when it is
told to (SIGTERM), when Ray's own processes end, or when no search has been there for a while and every slot
has ended (slots end by themselves, actor.py). A Ray that nobody waits for any more while it starts ends at
once: nothing is there yet. Must not know: slots and jobs but for that.
"""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hyperband.launch.ray.local import BEGIN, IN_USE_FILE, KEPT_FILE, RECORD_FILE, record_of
from hyperband.launch.ray.reach import has_hung_up
from hyperband.machine import proc
from hyperband.machine.becoming import prctl
from hyperband.machine.claim import parse, write_whole
from hyperband.machine.process import ProcessId

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: where Ray writes down where it is
_ADDRESS_FILE = "ray_current_cluster"
_LOOK_S = 0.1
#: without a search and without a slot it ends after so long
_GIVE_UP_S = 30.0
#: between looks for a search
_SEARCH_LOOK_S = 2.0
#: patience with Ray's end, and then with that of jobs: the lease of one lasts 15 s
_RAY_ENDS_S, _JOBS_END_S = 15.0, 25.0
_SLOTS = (b"ray::SlotActor", b"ray::SentSlotActor")


class LocalKeeper:
    """Keeps one Ray. `run` it once."""

    def __init__(self, study_ray: Path, folder: Path, writer: int) -> None:
        """Remember.

        Args:
            study_ray: the folder `ray/` of the study, for the record.
            folder: Ray's own; removed in the end.
            writer: pipe to whoever started us: `up`, or why it is not.
        """
        self._study_ray = study_ray
        self._folder = folder
        self._writer = writer
        self._is_told = False
        self._in_use = os.open(folder / IN_USE_FILE, os.O_RDWR | os.O_CLOEXEC)
        # for as long as this process lives: whoever gets it may remove the folder
        self._kept = os.open(folder / KEPT_FILE, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._kept, fcntl.LOCK_EX)

    def run(self) -> None:
        """Start Ray, keep it, end it."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        ray = self._start()
        has_served = False
        try:
            words = self._wait_until_up(ray)
            has_served = self._tell(words) and words == "up"
            if has_served:
                self._keep(ray)
        finally:
            self._end(ray, has_served=has_served)

    def _tell(self, words: str) -> bool:
        """Tell whoever started us whether it is up; return False if that has ended, or waits no more."""
        try:
            os.write(self._writer, words.encode())
        except BrokenPipeError:
            sys.stderr.write("nobody waits for this Ray any more: it is ended\n")
            return False
        finally:
            os.close(self._writer)
        return True

    def _note(self, *_: object) -> None:
        self._is_told = True

    def _start(self) -> "subprocess.Popen[bytes]":
        here = os.getpid()

        def die_with_us() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != here:
                os._exit(1)

        # Ray's client server has a fixed port, and is there where its package is
        has_client = importlib.util.find_spec("grpc") is not None
        client = [f"--ray-client-server-port={_free_port()}"] if has_client else []
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--port=0", *client, "--node-ip-address=127.0.0.1"),
                *(f"--temp-dir={self._folder}", "--include-dashboard=false", "--disable-usage-stats"),
            ],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_us,
        )

    def _wait_until_up(self, ray: "subprocess.Popen[bytes]") -> str:
        """Return `up` once it is, and is written down; else why it is not."""
        while not (self._folder / _ADDRESS_FILE).exists():
            if self._is_told or has_hung_up(self._writer):
                return "it was told to end"
            if (status := ray.poll()) is not None:
                return f"`ray start` ended with {status}"
            time.sleep(_LOOK_S)  # Ray tells nobody
        here = ProcessId.of(os.getpid())
        assert here is not None
        address = (self._folder / _ADDRESS_FILE).read_text().strip()
        write_whole(str(self._study_ray), RECORD_FILE, record_of(address, self._folder, here))
        return "up"

    def _keep(self, ray: "subprocess.Popen[bytes]") -> None:
        """Return when it is to end."""
        wanted_s = time.monotonic()
        look_s = wanted_s
        while not self._is_told and ray.poll() is None:
            _reap(ray.pid)
            now_s = time.monotonic()
            if now_s >= look_s:
                look_s = now_s + _SEARCH_LOOK_S
                if self._is_wanted():
                    wanted_s = now_s
                elif now_s > wanted_s + _GIVE_UP_S:
                    return
                else:
                    # a search may come, or `stop`, and must find what is being made here still
                    fcntl.flock(self._in_use, fcntl.LOCK_UN)
            time.sleep(_LOOK_S)

    def _is_wanted(self) -> bool:
        """Whether a search is there, or a slot; if not, no search comes in until we let go or have ended."""
        try:
            fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        if any(_cmdline(pid).startswith(_SLOTS) for pid in proc.descendants(os.getpid())):
            fcntl.flock(self._in_use, fcntl.LOCK_UN)
            return True
        return False

    def _end(self, ray: "subprocess.Popen[bytes]", *, has_served: bool) -> None:
        """End Ray; wait for jobs, whose keepers end them; then end what is left.

        has_served: somebody was told that it is up; else nobody has anything there.
        """
        here = os.getpid()

        def are_gone() -> bool:
            _reap(ray.pid)
            return ray.poll() is not None and not proc.descendants(here)

        if has_served:
            self._forget_record()
            if ray.poll() is None:
                ray.send_signal(signal.SIGTERM)
            _wait(lambda: ray.poll() is not None, _RAY_ENDS_S)
            if not _wait(lambda: are_gone() or not _has_jobs(here), _JOBS_END_S):
                sys.stderr.write("jobs did not end with Ray: they are killed\n")
        while not are_gone():
            for pid in proc.descendants(here):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_S)
        self._forget_record()  # one that starts is found until it has ended
        shutil.rmtree(self._folder, ignore_errors=True)

    def _forget_record(self) -> None:
        path = self._study_ray / RECORD_FILE
        with contextlib.suppress(OSError):  # a later one may have replaced it, or the study is gone
            found = parse(path.read_bytes())
            if found is not None and found["folder"] == str(self._folder):
                path.unlink()


def _has_jobs(root: int) -> bool:
    """Whether keepers of jobs are among the descendants: they run what lies in the study's folder."""
    return any(b"/node/" in _cmdline(pid) for pid in proc.descendants(root))


def _cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _reap(spared: int) -> None:
    """Take note of children that came to us and have ended; that pid is its own object's to wait for."""
    for pid in _zombies(os.getpid()):
        if pid != spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _zombies(parent: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    for child in children:
        if proc.start_ticks(int(child)) is None:
            found.append(int(child))
    return found


def _wait(condition: Callable[[], bool], patience_s: float) -> bool:
    """Wait for what gives no event; return whether it came."""
    until_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(_LOOK_S)
    return True


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def main() -> None:
    """Keep a Ray; arguments: folder `ray/` of the study, Ray's own folder, descriptor to say `up` by."""
    study_ray, folder, writer = sys.argv[1:4]
    if sys.stdin.buffer.read(len(BEGIN)) != BEGIN:
        return  # whoever started us has ended
    LocalKeeper(Path(study_ray), Path(folder), int(writer)).run()
