"""What a node needs of hyperband, put where it finds it: in the study's folder, which alone must be shared.

Owns that folder and its names. Knows nothing of what is run from it.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import hyperband
from hyperband.errors import MachineError
from hyperband.folder import NODE_FOLDER
from hyperband.machine.claim import CANNOT_LINK

_MACHINE = Path(hyperband.__file__).parent / "machine"
#: modules of hyperband.machine that run there: standard library only, Python 3.9 or newer
NODE_MODULES = (
    "becoming", "claim", "keeper", "next_signal", "node", "node_environment", "node_keeper", "node_lines",
    "node_pair", "proc", "warden",
)  # fmt: skip
#: what is run there: the interpreter is isolated (-I), so that it has to be told where the rest is
START_FILE = "start.py"
_START = """import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hyperband.machine.{main} import main

sys.exit(main())
"""


def node_files(modules: Sequence[str] = NODE_MODULES, main: str = "node") -> dict[str, bytes]:
    """Return what a node needs, by its path there.

    Args:
        modules: of hyperband.machine.
        main: the one whose `main()` the script START_FILE calls; what that returns is the exit code.
    """
    return {
        START_FILE: _START.format(main=main).encode(),
        "hyperband/__init__.py": b"",
        "hyperband/machine/__init__.py": b"",
        **{f"hyperband/machine/{name}.py": (_MACHINE / f"{name}.py").read_bytes() for name in modules},
    }


def ship(study_folder: Path, *, modules: Sequence[str] = NODE_MODULES, main: str = "node") -> Path:
    """Put what a node needs into a study's folder, unless it is there; return the script to run.

    It is run as `PYTHON -I -S SCRIPT ...`. What other versions of hyperband put there stays: it may run.

    Args:
        study_folder: shared with the nodes.
        modules: see node_files.
        main: see node_files.

    Raises:
        MachineError: the folder cannot be written to, or its file system has no hard links.
    """
    files = node_files(modules, main)
    digest = hashlib.sha256(b"\0".join(name.encode() + b"\0" + files[name] for name in sorted(files)))
    target = study_folder / NODE_FOLDER / digest.hexdigest()[:16]
    beside = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        if not _is_there(target, files):
            _write(beside, files)
            _swap(beside, target, files)
        _try_link(target / START_FILE, beside.with_name(f"{beside.name}.link"))
    except OSError as err:
        raise MachineError(
            f"cannot write what the nodes need into {target}: {err.strerror or err}; make room, or make the "
            "study's folder writable, and start the same command again"
        ) from err
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target / START_FILE


def _try_link(existing: Path, name: Path) -> None:
    """Make sure of what alone decides between two machines who has an attempt."""
    try:
        os.link(existing, name)
    except OSError as err:
        if err.errno not in CANNOT_LINK:
            raise
        raise MachineError(
            f"the file system of {name.parent} has no hard links ({err.strerror}), by which a search and its "
            "nodes agree who has a job; put the study elsewhere with --logs"
        ) from err
    name.unlink()


def _is_there(target: Path, files: dict[str, bytes]) -> bool:
    try:
        return all((target / name).read_bytes() == content for name, content in files.items())
    except FileNotFoundError:
        return False


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def _swap(beside: Path, target: Path, files: dict[str, bytes]) -> None:
    """Give a folder its name; whoever was there before is moved away if he is not the same."""
    try:
        beside.rename(target)
    except OSError:
        if _is_there(target, files):
            return  # another was faster
        damaged = target.with_name(f".{target.name}.damaged.{os.urandom(4).hex()}")
        target.rename(damaged)
        beside.rename(target)
