"""What a check has run on a node of a Ray cluster: one script, and a look at how Ray was started there.

It is sent to the node as it is, and finds nothing of hyperband there. Standard library only.
"""

import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Any


def look(script: str, arguments: Sequence[str], keepalive: Sequence[str]) -> dict[str, Any]:
    """Run a script for sh; return what it said, and what slots of this node would say of themselves.

    Args:
        script: its text.
        arguments: of it.
        keepalive: names of the settings that notice machines which are cut off.
    """
    done = subprocess.run(
        ["sh", "-c", script, "sh", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return {
        "host": socket.gethostname(),
        "output": done.stdout.decode(errors="replace"),
        "nice": os.nice(0),
        "has_keepalive": all(name in os.environ for name in keepalive),
        "has_token": os.environ.get("RAY_AUTH_MODE") == "token",
    }
