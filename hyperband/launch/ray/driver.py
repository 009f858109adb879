"""The process that is a driver of Ray for a search: its beginning, and what becomes of its errors.

It talks over a socket, one JSON object a line; the first one says what to join. What goes wrong here is told
as what it is: that Ray is away ends nothing, an error of ours ends the search. Ray is imported only when it
can be said that this failed. Must not know: what is asked of Ray.
"""

import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hyperband.launch.ray.local import LocalRay, LocalRayError, enter
from hyperband.launch.ray.reach import UnreachableError, has_hung_up, reach
from hyperband.launch.ray.words import AUTO, LOCAL, Join, Probe, said_by_ray

_READ_BYTES = 64 * 1024
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
#: raised in our own code, these are no word of Ray's
_OURS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    SyntaxError,
    TypeError,
    ValueError,
)


def main() -> None:
    """Serve the search that holds the other end of the socket whose descriptor is the first argument."""
    line = socket.socket(fileno=int(sys.argv[1]))
    first = b""
    while b"\n" not in first:
        part = line.recv(_READ_BYTES)
        if not part:
            return
        first += part
    words, _, said = first.partition(b"\n")
    try:
        _serve(line, json.loads(words), said)
    except Exception as err:  # noqa: BLE001 (all are told)
        traceback.print_exc()
        _say(line, failure_of(err))
        sys.stderr.flush()
        # at once: with its head away Ray would not let go
        os._exit(1)


def failure_of(error: Exception) -> dict[str, Any]:
    """Return what the search is told of an error: whether it is ours, and where its traceback is."""
    is_ours = isinstance(error, ImportError) or (
        isinstance(error, _OURS) and is_below(error.__traceback__, _HERE)
    )
    words = said_by_ray(error)
    if is_ours:
        words = f"{type(error).__name__}: {words}"
    return {"at": "failed", "words": words, "is_ours": is_ours}


def is_below(trace: TracebackType | None, folder: str) -> bool:
    """Whether an error was raised by code in a folder, and not by what that calls."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(folder + os.sep)


def _serve(line: socket.socket, words: Mapping[str, Any], said: bytes) -> None:
    join = Join(**words["join"])
    local: LocalRay | None = None
    if join.address == LOCAL:
        try:
            local = enter(
                Path(join.folder),
                may_start=join.may_start,
                starts=lambda: _say(line, {"at": "starts"}),
                is_unwanted=lambda: has_hung_up(line),
            )
        except LocalRayError as err:
            _say(line, {"at": "refused", "words": str(err)})
            return
        if local is None:
            _say(line, {"at": "ended", "n": 0})
            return
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it has a token of its own
        os.environ.update(local.environment)
        join = replace(join, address=local.address)
    elif join.address != AUTO:
        try:
            reach(join.address, lambda said: _say(line, {"at": "waits", "words": said}))
        except UnreachableError as err:
            _say(line, {"at": "refused", "words": str(err), "is_all": True})
            return
    # only now: they import Ray, which reads what the environment says of tokens
    from hyperband.launch.ray import bridge as ray_bridge
    from hyperband.launch.ray import probe as ray_probe

    if words["probe"] is None:
        is_over = ray_bridge.serve(line, join, said)
    else:
        ray_probe.serve(line, join, Probe(**words["probe"]))
        is_over = True
    if is_over and local is not None:
        # first of all: we are killed when this takes long, and then it must have been told
        local.end()
        os._exit(0)
    ray_bridge.leave()


def _say(line: socket.socket, words: Mapping[str, Any]) -> None:
    # the search may have ended meanwhile
    with contextlib.suppress(OSError):
        line.sendall(json.dumps(words).encode() + b"\n")
