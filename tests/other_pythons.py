"""Other Python versions that this machine happens to have."""

import os
import shutil
import subprocess
from pathlib import Path


def find_python(version: str) -> Path | None:
    """A working interpreter of this version (`3.8`): on PATH, or one of pyenv's; None if there is none."""
    candidates = [Path(found)] if (found := shutil.which(f"python{version}")) else []
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        candidates += sorted(Path(root).glob(f"versions/{version}.*/bin/python"))
    return next((path for path in candidates if _is(path, version)), None)


def _is(python: Path, version: str) -> bool:
    """True if it runs and says so: the name alone may be that of a shim for a version that is not there."""
    if not os.access(python, os.X_OK):
        return False
    code = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return run.stdout == version
