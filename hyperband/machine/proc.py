"""What /proc and the cgroups say of processes. Owns the reading; knows none of our own files or processes.

Standard library only, and little of that: keepers carry it.
"""

from __future__ import annotations

import os

_READ_BYTES = 16 * 1024
_CGROUPS = "/sys/fs/cgroup"


def boot_id() -> str:
    """Return the kernel's id of this boot: with pid and start time it names a process for ever."""
    return (_read("/proc/sys/kernel/random/boot_id") or b"").decode("ascii").strip()


def _read(path: str) -> bytes | None:
    """Return what a file of the kernel's says; None if its process is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        said = b""
        while part := os.read(descriptor, _READ_BYTES):
            said += part
        return said
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)


def _stat(pid: int | str) -> list[bytes] | None:
    """Return the fields of /proc/PID/stat from the state on; None if it is gone or a zombie."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    # the name, in brackets, may hold anything: fields are counted after its last bracket
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def parent(pid: int) -> int | None:
    """Return the pid of a process's parent; None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal and has not been told to go on."""
    fields = _stat(pid)
    return fields is not None and fields[0] == b"T"


def children(root: int) -> list[int]:
    """Return the pids of every living child of a process."""
    return [pid for pid in descendants(root) if parent(pid) == root]


def descendants(root: int) -> list[int]:
    """Return the pids of every living descendant of a process, parents before children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 (pathlib is more than a keeper should carry)
        fields = _stat(name) if name.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def pid_namespace() -> int:
    """Return the number of the namespace in which our pids count: containers of one machine differ in it."""
    return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 (pathlib is more than a keeper should carry)


def name(pid: int) -> str:
    """Return what a process is called, for messages."""
    return (_read(f"/proc/{pid}/comm") or b"a process").decode(errors="replace").strip()


def n_oom_kills() -> int:
    """Return how many processes of our own cgroup the kernel has killed for want of memory.

    Counted is what memory.events (cgroup v2) or memory.oom_control (v1) calls oom_kill; where neither can be
    read, what /proc/vmstat does, for the whole machine; 0 where nothing counts.
    """
    for path in (*_memory_events(_read("/proc/self/cgroup") or b""), "/proc/vmstat"):
        try:
            lines = (_read(path) or b"").splitlines()
        except OSError:  # not for us to read, or no directory: the next one tells
            continue
        for line in lines:
            key, _, value = line.partition(b" ")
            if key == b"oom_kill":
                return int(value)
    return 0


def _memory_events(cgroups: bytes) -> list[str]:
    """Return the files that may count, by what /proc/PID/cgroup says: lines of `number:controllers:path`."""
    found = []
    for line in cgroups.splitlines():
        number, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        below = os.fsdecode(path)
        if b"memory" in controllers.split(b","):
            # in a container without a namespace of its own the path is the host's, and the mount is our group
            found += [f"{_CGROUPS}/memory{below}/memory.oom_control", f"{_CGROUPS}/memory/memory.oom_control"]
        elif number == b"0":
            found.append(f"{_CGROUPS}{below}/memory.events")
    return found
