"""What comes before a warm host serves, and before a successor does: the imports, and whether they did harm.

Runs under the user's interpreter: standard library only, Python >= 3.9. Must not know keepers or studies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from importlib.machinery import PathFinder

from hyperband.launch.warm.ahead import Soundness, SpoiltError, import_ahead
from hyperband.launch.warm.job import Beginning
from hyperband.launch.warm.scout import in_fork, judge, say_nothing, scout, speak_again
from hyperband.launch.warm.watch import is_local
from hyperband.machine.becoming import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_PR_SET_CHILD_SUBREAPER = 36


class Ahead:
    """What was imported ahead in this process, and what was not."""

    def __init__(self, status: socket.socket, wanted: dict[str, Any]) -> None:
        """Begin with nothing; `status` is the line to the search, `wanted` what it asks for."""
        self.status = status
        self._wanted = wanted
        self._began_s = time.monotonic()
        #: files of local modules, and what they looked like before they were imported
        self.files: dict[str, list[int]] = {}
        self._soundness = Soundness()
        self.beginning = Beginning(wanted["script"], wanted["folder"], wanted["added"], wanted["room"])
        #: modules that must be left to every job, or were tried already
        self.left = set(wanted["left"])

    def prepare(self, closed: Sequence[int]) -> bool:
        """Import ahead; return whether this process can serve. The search is told in any case.

        Args:
            closed: descriptors that are none of the scout's business.
        """
        found = self._wanted["scouted"] or in_fork(
            lambda: scout(self._wanted["script"], self._wanted["script_args"]), closed=closed
        )
        if found is None or found["error"] is not None:
            why = "the process ended" if found is None else found["error"]
            self.say("refused", why=f"the script could not be imported once more: {why}")
            return False
        self.left.update(found["unfit"])
        before = say_nothing()
        try:
            failed = self._import_as_scouted(found)
        except SpoiltError as err:
            speak_again(before)
            self.say("refused", why=f"{err}, and no fork of such a process is safe")
            return False
        speak_again(before)
        if failed:
            self.say("anew", left={**found["unfit"], **failed}, scouted=found)
            return False
        self.settle()
        left = {name: why for name, why in self._wanted["left"].items() if name not in found["unfit"]}
        self.say(
            "ready",
            n_modules=sum(name in sys.modules for name, _ in found["modules"]),
            took_s=time.monotonic() - self._began_s,
            left={**found["unfit"], **left},
            files=self.files,
        )
        return True

    def _import_as_scouted(self, found: dict[str, Any]) -> dict[str, str]:
        before, folder = dict(os.environ), os.getcwd()  # noqa: PTH109
        self._look_at([*found["modules"], *self._wanted["late"]])
        os.chdir(found["cwd"])
        sys.path[:] = found["path"]
        try:
            failed = import_ahead(found["modules"], found["environment"], self.left, self._soundness)
            failed.update(import_ahead(self._wanted["late"], [], self.left, self._soundness))
        finally:
            sys.path[:] = self.beginning.path
            os.chdir(folder)
        scripts = {name: value for _, name, value in found["environment"]}
        now = dict(os.environ)
        for name in now.keys() | before.keys():
            value = now.get(name)
            expected = scripts[name] if name in scripts else before.get(name)
            if value != expected or (
                name in found["set_by_modules"] and found["set_by_modules"][name] == value
            ):
                self.beginning.set_ahead[name] = value
        return failed

    def settle(self) -> None:
        """Be ready to fork: called once everything is imported."""
        self.beginning.settle()
        # orphans of a keeper that was killed come here and are not lost from sight
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)

    def _look_at(self, modules: Sequence[Sequence[str | None]]) -> None:
        """Note what the files of local modules look like: once one changes, this host is out of date."""
        for _, file in modules:
            if file is not None and is_local(file) and file not in self.files:
                stat = os.stat(file)  # noqa: PTH116
                self.files[file] = [stat.st_ino, stat.st_mtime_ns, stat.st_size]

    def say(self, kind: str, **words: object) -> None:
        """Tell the search."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the search is gone: we shall see
            self.status.sendall(json.dumps({"kind": kind, **words}).encode() + b"\n")

    def import_late(self, names: Sequence[Sequence[str | None]], closed: Sequence[int]) -> dict[str, str]:
        """Import late modules; return which must be left to every job: if any, this process is no good."""
        local = [str(name) for name, file in names if is_local(file)]
        unfit = in_fork(lambda: judge(local), closed=closed) if local else {}
        if unfit is None:
            return dict.fromkeys(local, "the process that tried its import ended")
        self.left.update(unfit)
        self._look_at(names)
        before = say_nothing()
        try:
            failed = import_ahead(names, [], self.left, self._soundness)
        finally:
            speak_again(before)
        return {**unfit, **failed} if failed or unfit.keys() & {name for name, _ in names} else {}


def forget_shadowed(at_start: frozenset[str], folder: str) -> None:
    """Let the script import a neighbour by a name that we have taken for a module of Python's own."""
    for name in sorted(set(sys.modules) - at_start):
        found = PathFinder.find_spec(name.partition(".")[0], [folder])
        if found is not None and found.has_location:
            del sys.modules[name]
