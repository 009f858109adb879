"""Processes on a GPU, by their pids: whether they are here, and what they are called.

Owns: what /proc says of a pid that NVML gave.
Must not know: GPUs, slots, whose job a process is.
"""

import os
import pwd
from pathlib import Path

from hyperband.machine.gpu import GpuProcess


def exists(pid: int) -> bool:
    """True when there is such a process in our pid namespace."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def in_words(process: GpuProcess) -> str:
    """The process for people, with its user's name where that is somebody else: `pid 12 (python) of eve`."""
    try:
        uid = Path(f"/proc/{process.pid}").stat().st_uid
    except OSError:  # of a host outside of our container, or gone: nobody can tell whose it is
        uid = os.geteuid()
    of_whom = "" if uid == os.geteuid() else f" of {_user_name(uid)}"
    return f"pid {process.pid} ({process.name}){of_whom}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
