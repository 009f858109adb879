"""What a script imports, in which order, and which of that must be left to every job.

Runs the script's top level once, in a forked process that ends afterwards, as multiprocessing imports a main
module: its guard is not true. Runs under the user's interpreter: standard library only, Python >= 3.9.
Must not know jobs, keepers or the search.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from hyperband.launch.warm.watch import Watch
from hyperband.machine.keeper import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

#: as hyperband/script/child.py names it
_MODULE_NAME = "__hyperband_main__"


def in_fork(function: Callable[[], Any], *, closed: Sequence[int]) -> Any:  # noqa: ANN401
    """Return what a function answers in a forked process; None if that does not live to tell.

    Args:
        function: its answer must be JSON-able.
        closed: descriptors that are none of the process's business.
    """
    listen, answer = os.pipe()
    us = os.getpid()
    pid = os.fork()
    if pid == 0:
        _answer(function, answer, [listen, *closed], us)
    os.close(answer)
    data = b""
    # not to the end of the pipe: a process that the script forks may hold it open
    while not data.endswith(b"\n") and (part := os.read(listen, 1 << 16)):
        data += part
    os.close(listen)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return json.loads(data) if data else None


def _answer(function: Callable[[], Any], answer: int, closed: Sequence[int], parent: int) -> NoReturn:
    try:
        os.setsid()
        die_with_parent(parent)
        for descriptor in closed:
            os.close(descriptor)
        say_nothing()
        data = json.dumps(function()).encode() + b"\n"
        while data:
            data = data[os.write(answer, data) :]
    finally:
        os._exit(0)


def say_nothing() -> tuple[int, int]:
    """Send output to nowhere; return where it went before."""
    before = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return before


def speak_again(before: tuple[int, int]) -> None:
    """Send output where it went before; what an import printed and still holds back goes nowhere."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed or replaced by an import: it holds nothing back then
            stream.flush()
    for target, descriptor in enumerate(before, start=1):
        os.dup2(descriptor, target)
        os.close(descriptor)


def scout(script: str, script_args: Sequence[str]) -> dict[str, Any]:
    """Run the script's top level here, and return what it needs and does; nothing else may follow here."""
    sys.argv[:] = [script, *script_args]
    known = set(sys.modules)
    loader = SourceFileLoader(_MODULE_NAME, script)
    module = ModuleType(_MODULE_NAME)
    module.__dict__.update(__file__=script, __loader__=loader)
    sys.modules["__main__"] = sys.modules[_MODULE_NAME] = module
    n_before = len(sys.modules)
    watch = Watch(script)
    error = None
    try:
        code = compile(loader.get_data(script), script, "exec", dont_inherit=True)
        watch.install()
        exec(code, module.__dict__)
    except BaseException as err:  # noqa: BLE001 (the script's own, exits included: whoever asked is told)
        error = f"{type(err).__name__}: {err}"
    names = [name for name in sys.modules if name not in known and name != _MODULE_NAME]
    return {
        "error": error,
        "modules": [[name, _file_of(sys.modules[name])] for name in names if _is_importable(name)],
        "path": [str(entry) for entry in sys.path],
        "cwd": os.getcwd(),  # noqa: PTH109
        "environment": [
            [sum(map(_is_importable, names[: n - n_before])), name, value]
            for n, name, value in watch.set_by_script
        ],
        "set_by_modules": watch.set_by_modules,
        "unfit": watch.unfit,
    }


def judge(names: Sequence[str]) -> dict[str, str]:
    """Import modules here, and return which of them must be left to every job, and why."""
    watch = Watch(None)
    watch.install()
    for name in names:
        try:
            __import__(name)
        except BaseException as err:  # noqa: BLE001 (whatever an import raises: it is not for us)
            watch.unfit.setdefault(name, f"{type(err).__name__}: {err}")
    return watch.unfit


def _file_of(module: ModuleType | None) -> str | None:
    """Return the file that a module was loaded from; None for built-in ones and the like."""
    spec = getattr(module, "__spec__", None)
    return str(spec.origin) if spec is not None and spec.has_location else None


def _is_importable(name: str) -> bool:
    """Return whether a name means a module that an import made, and no alias or object put there by hand."""
    spec = getattr(sys.modules[name], "__spec__", None)
    return spec is not None and spec.name == name and spec.loader is not None


def late_modules(before: frozenset[str]) -> list[list[str | None]]:
    """Return names and files of the modules that are here and were not before, in order."""
    found: list[list[str | None]] = []
    for name in [name for name in sys.modules if name not in before]:
        try:
            if _is_importable(name):
                found.append([name, _file_of(sys.modules[name])])
        except Exception:  # noqa: BLE001 (modules may be objects of any kind)
            continue
    return found
