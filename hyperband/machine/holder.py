"""What runs in the script of an allocation: it writes down where it is, and waits for the allocation's end.

`PYTHON -I -S holder.py hold FOLDER GIVE_UP_S` writes `FOLDER/JOB-RESTART.json` once the setup lines have run:
from then on, and until it goes, steps may come. Only its owner may read it, since the environment in it may
hold secrets; steps get theirs from there, with what the setup lines did to it. A search that lives writes
`FOLDER/wanted` again and again. Where that has not changed for GIVE_UP_S seconds and no step runs, the
allocation ends: a search that died and is not started again must not keep GPUs from everybody else until the
time limit. It ends at once where that file names other allocations, or none: Slurm may have started it when
the search was over.

`PYTHON -I -S holder.py task FILE` becomes the command of this task of an array; FILE is a JSON list of those.

Owns these files. It knows nothing of searches, jobs or leases. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: exit codes: the words are wrong; the batch system did not say what it should
_BAD_WORDS, _NO_BATCH_SYSTEM = 2, 3
#: what a search that lives writes again and again
WANTED_FILE = "wanted"
#: between looks at it, at most
LOOKS_S = 15.0
_UNWANTED = "the search that asked for this allocation is over: it ends"
#: looks at it within the time after which nobody wants the allocation
_N_LOOKS = 5
_COMMAND_S = 60.0
#: less than a timer knows would be for ever
_SHORTEST_S = 0.0001
_ENDS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def main() -> int:
    """Do what the command line says; return the exit code."""
    if sys.argv[1:2] == ["hold"] and len(sys.argv) == 4:
        return hold(sys.argv[2], float(sys.argv[3]))
    if sys.argv[1:2] == ["task"] and len(sys.argv) == 3:
        return run_task(sys.argv[2])
    return _complain(_BAD_WORDS, f"expected hold FOLDER GIVE_UP_S or task FILE, found {sys.argv[1:]}")


def file_name(job_id: str, restart: int) -> str:
    """The name of an allocation's file; each restart has its own."""
    return f"{job_id}-{restart}.json"


def write_wanted(folder: str, word: str, *, name: str | None = None) -> None:
    """Say that a search wants the allocations of this folder: a new word each time, well within GIVE_UP_S.

    name: of those that it wants; empty: none. Others end, also if they begin only later.
    """
    _write_whole(f"{folder}/{WANTED_FILE}", {"word": word, **({} if name is None else {"name": name})})


def hold(folder: str, give_up_s: float) -> int:
    """Write down where the allocation is, and wait until it is told to end or nobody wants it any more."""
    # told before we wait: it stays pending
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    # warnings are for the script: a holder of which somebody else makes one goes on
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    about = describe(os.environ)
    if about is None:
        return _complain(_NO_BATCH_SYSTEM, "there is no SLURM_JOB_ID here: only sbatch starts this")
    job_id = str(about["job_id"])
    if not Path(folder).is_dir():
        return _complain(0, f"{folder} is gone, and with it whoever wanted this allocation: it ends")
    if _is_unwanted(_read(f"{folder}/{WANTED_FILE}")):
        return _complain(0, _UNWANTED)
    path = Path(folder) / file_name(job_id, int(str(about["restart"])))
    _write_whole(str(path), about)
    try:
        return _wait(folder, job_id, give_up_s)
    finally:
        # should the allocation be started again, a search must wait for its setup lines once more
        with contextlib.suppress(OSError):
            path.unlink()


def _wait(folder: str, job_id: str, give_up_s: float) -> int:
    """Wait until we are told to end or nobody wants the allocation any more; return the exit code."""
    last, since_s = _read(f"{folder}/{WANTED_FILE}"), time.monotonic()
    while not _is_ended_within(min(LOOKS_S, give_up_s / _N_LOOKS)):
        word = _read(f"{folder}/{WANTED_FILE}")
        if word != last:
            last, since_s = word, time.monotonic()
        if _is_unwanted(word) and not _may_have_steps(job_id):
            return _complain(0, _UNWANTED)
        if time.monotonic() - since_s >= give_up_s:
            if not _may_have_steps(job_id):
                said = f"no search has wanted this allocation for {give_up_s:g} s, and no job runs in it"
                return _complain(0, f"{said}: it ends")
            since_s = time.monotonic()
    return 0


def _is_ended_within(wait_s: float) -> bool:
    """Wait for so long, or less; return whether we were told to end (as machine/next_signal.py, and why)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, max(wait_s, _SHORTEST_S))
    number = signal.sigwaitinfo({*_ENDS, signal.SIGALRM}).si_signo
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return number != signal.SIGALRM


def _is_unwanted(wanted: bytes) -> bool:
    """Whether a search wants other allocations than this one, or none; what says nothing of that does not."""
    try:
        found = json.loads(wanted)
    except ValueError:
        return False
    name = found.get("name") if isinstance(found, dict) else None
    return name is not None and name != os.environ.get("SLURM_JOB_NAME", name)


def _read(path: str) -> bytes:
    """The content of a file that others replace; what cannot be read counts as unchanged nothing."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _may_have_steps(job_id: str) -> bool:
    """Whether a step runs in the allocation; True as well if the batch system does not say."""
    argv = ["squeue", "--noheader", "--all", "--steps", f"--job={job_id}", "--format=%i"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    steps = [step.rpartition(b".")[2] for step in done.stdout.split()]
    # besides those with a number there are those of the script itself, `batch` and `extern`
    return done.returncode != 0 or any(step.isdigit() for step in steps)


def describe(environ: Mapping[str, str]) -> dict[str, object] | None:
    """What others must know of this allocation; None outside of one."""
    job_id = environ.get("SLURM_JOB_ID")
    if job_id is None:
        return None
    return {
        "job_id": job_id,
        "restart": int(environ.get("SLURM_RESTART_COUNT", "0")),
        # a controller that was killed may have forgotten a start, and count it again
        "token": os.urandom(8).hex(),
        # as the batch system names them, which need not be what the machine calls itself
        "node": environ.get("SLURMD_NODENAME", os.uname().nodename),
        "nodes": environ.get("SLURM_JOB_NODELIST", ""),
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "environment": dict(environ),
    }


def run_task(path: str) -> int:
    """Become the command of this task of an array."""
    commands = json.loads(Path(path).read_bytes())
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "-1"))
    if not 0 <= index < len(commands):
        return _complain(_NO_BATCH_SYSTEM, f"{path} has no command for the task {index}")
    os.execv(commands[index][0], commands[index])


def _write_whole(path: str, content: Mapping[str, object]) -> None:
    """Write a file that is there whole or not at all, also where the file system is shared."""
    beside = Path(f"{path}.{os.urandom(8).hex()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
            stream.flush()
            # on a network file system the data may reach the server later than the name
            os.fsync(stream.fileno())
        beside.rename(path)
    except OSError:
        with contextlib.suppress(OSError):  # of the first trouble whoever asked is told
            beside.unlink()
        raise


def _complain(code: int, words: str) -> int:
    os.write(2, f"hyperband: {words}\n".encode(errors="replace"))
    return code


if __name__ == "__main__":
    sys.exit(main())
