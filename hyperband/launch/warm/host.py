"""The warm host: a process under the user's interpreter that imports ahead what the script imports.

Started by hosting.py as `python host.py CONFIGURATION STATUS CHANNEL PARENT`: three descriptors and a pid. A
job is a fork of it. It comes back to the end of this file and runs the script there, at the top level of
the process, so that all that follows (exceptions, exit codes, threads, atexit) is the interpreter's own
work.

What runs here is standard library only, for Python >= 3.9, and leaves no name of ours behind: neither in
`sys.modules` nor in `sys.path`. Must not know studies, trials or losses.
"""

from __future__ import annotations

import sys

#: what `python script.py` has loaded too before the script's first line
AT_START = frozenset(sys.modules)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

#: socket.send_fds, os.waitstatus_to_exitcode
OLDEST = (3, 9)


def _load_server() -> ModuleType:
    """Load our modules by the place of this file; their names are the user's own again afterwards."""
    from types import ModuleType

    root = __file__.rpartition("/")[0].rpartition("/")[0].rpartition("/")[0]
    for name in ("", ".machine", ".launch", ".launch.warm"):
        package = ModuleType(f"hyperband{name}")
        package.__path__ = [root + name.replace(".", "/")]
        sys.modules[package.__name__] = package
    import hyperband.launch.warm.serve as server

    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "hyperband"]:
        del sys.modules[loaded]
    return server


def _begin() -> object:
    """Serve; return only in a process that is to be a job: what it has to run."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # the folder of this file
    if sys.version_info < OLDEST:
        from json import dumps
        from os import write

        found, wanted = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST))
        why = f"it needs Python {wanted} or newer for the script, and {sys.executable} is {found}"
        write(int(sys.argv[2]), (dumps({"kind": "refused", "why": why}) + "\n").encode())
        return None
    return _load_server().main(sys.argv[1:], AT_START)


if __name__ == "__main__":
    _job = _begin()
    if _job is not None:
        try:
            _code = _job.compiled()  # type: ignore[attr-defined]
        except BaseException as _error:
            _error.__traceback__ = None  # as the interpreter tells of a script that it cannot compile
            raise
        try:
            exec(_code, _job.namespace)  # type: ignore[attr-defined]
        except BaseException as _error:
            # our own frame is none of the script's; a bare `raise` adds it no second time
            _error.__traceback__ = _error.__traceback__ and _error.__traceback__.tb_next
            raise
        finally:
            _job.report()  # type: ignore[attr-defined]
