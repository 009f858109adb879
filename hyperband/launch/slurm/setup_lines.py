"""Whether the setup lines of a Slurm profile are a script at all, found out before a node does.

Owns that question to bash, which reads them and runs nothing. Must not know: where they come from, or what
they are to do.
"""

import shutil
import subprocess
from collections.abc import Sequence

#: patience with a shell that only reads
_READ_S = 10.0


def why_no_script(lines: Sequence[str]) -> str | None:
    """Return what bash says of lines that it cannot read, with the line; None: it can, or is not here."""
    bash = shutil.which("bash")
    if bash is None:
        return None
    try:
        done = subprocess.run(
            [bash, "--norc", "-n"],
            input="\n".join([*lines, ""]).encode(errors="surrogateescape"),
            env={"LC_ALL": "C.UTF-8"},  # nothing of the user's that it would run before (BASH_ENV)
            capture_output=True,
            timeout=_READ_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # the nodes tell
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
    return said[0].removeprefix(f"{bash}: ").removeprefix("bash: ")
