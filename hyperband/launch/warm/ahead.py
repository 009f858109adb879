"""Importing ahead, and whether the process can still be forked afterwards.

Runs under the user's interpreter: standard library only, Python >= 3.9. Must not know jobs, keepers or the
search.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from _thread import _count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: a process that has these open holds a GPU: forks of it cannot use it
_GPU_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd")
#: threads that were joined go from /proc a moment later
_JOINED_WITHIN_S = 0.2


class SpoiltError(Exception):
    """The process cannot be forked any more: what it has, and the module whose import brought it."""

    def __init__(self, has: str, module: str) -> None:
        super().__init__(f"it {has} once {module} is imported")
        self.module = module


class _NotAheadError(BaseException):
    """An import ahead wants a module that must be left to every job. No `except Exception` may hide it."""


class _Gate:
    """Keeps modules from being imported ahead as a consequence of others."""

    def __init__(self, closed: set[str]) -> None:
        self.closed = closed
        self.has_refused = False

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Find nothing, or end the import."""
        if name in self.closed:
            self.has_refused = True
            raise _NotAheadError(name)


def import_ahead(
    modules: Sequence[Sequence[str | None]],
    steps: Sequence[tuple[int, str, str | None]],
    left: set[str],
    soundness: Soundness,
) -> dict[str, str]:
    """Import modules by name, in order.

    Args:
        modules: name and file of each.
        steps: environment variables to set (None: to take out) before the module at that place.
        left: names that must not be imported.
        soundness: looks at this process after each.

    Returns:
        What could not be imported, and why; the process is not as it should be then.

    Raises:
        SpoiltError: the process cannot be forked any more.
    """
    failed: dict[str, str] = {}
    gate = _Gate(set(left))
    sys.meta_path.insert(0, gate)
    steps = list(steps)
    try:
        for place, (name, _) in enumerate(modules):
            while steps and steps[0][0] <= place:
                _, variable, value = steps.pop(0)
                set_variable(variable, value)
            if name is None or name in sys.modules or name in gate.closed:
                continue
            gate.has_refused = False
            try:
                __import__(name)
            except BaseException as err:  # noqa: BLE001 (whatever an import raises is told to the search)
                if not (isinstance(err, ModuleNotFoundError) and err.name == name):
                    failed[name] = f"{type(err).__name__.lstrip('_')}: {err}"
                    gate.closed.add(name)
            else:
                if gate.has_refused:
                    failed[name] = "it caught the refusal of a module that it imports"
                    gate.closed.add(name)
            soundness.check(name)
    finally:
        sys.meta_path.remove(gate)
    for _, variable, value in steps:
        set_variable(variable, value)
    return failed


def set_variable(variable: str, value: str | None) -> None:
    """Set an environment variable, or take it out, where it is not so already."""
    if value is None:
        os.environ.pop(variable, None)
    elif os.environ.get(variable) != value:
        os.environ[variable] = value


class Soundness:
    """Tells whether this process can be forked: no GPU, no threads that a fork would lose, no sockets."""

    def __init__(self) -> None:
        """Take what is open now for harmless."""
        self._seen = self._opened()

    def check(self, module: str) -> None:
        """Look again, after an import.

        Raises:
            SpoiltError: it cannot be forked.
        """
        opened = self._opened()
        for number, target in opened.items():
            if self._seen.get(number) == target:
                continue
            if target in _GPU_DEVICES:
                raise SpoiltError(f"holds a GPU ({target} is open)", module)
            if target.startswith("socket:") and _is_connected(int(number)):
                raise SpoiltError("has a connected socket", module)
        self._seen = opened
        if _count() > 0:
            names = [thread.name for thread in threading.enumerate()[1:]]
            raise SpoiltError(f"has Python threads ({', '.join(names) or 'unnamed'})", module)
        n_threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        if n_threads > 1 and (left := _threads_after_fork()):
            raise SpoiltError(f"has native threads that a fork would lose ({', '.join(left)})", module)

    def _opened(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                found[number] = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
        return found


def _is_connected(number: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(number)) as found:
            found.getpeername()
    except OSError:
        return False
    return True


def _threads_after_fork() -> list[str]:
    """Fork once: pools that survive it end their threads (OpenBLAS). Return what is left, by name."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    ends_s = time.monotonic() + _JOINED_WITHIN_S
    while (left := _other_threads()) and time.monotonic() < ends_s:
        time.sleep(0.005)
    return left


def _other_threads() -> list[str]:
    found: list[str] = []
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208
        if int(task) != os.getpid():
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/self/task/{task}/comm") as name,  # noqa: PTH123
            ):
                found.append(name.read().strip())
    return found
