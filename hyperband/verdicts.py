"""What a check of a script found out, kept for later searches: `<logs>/.checks/<study folder name>.json`.

Owns that file. A verdict counts for one text of the script and one list of options; for any other it is as if
there were none.
"""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.script.contract import study_folder_name

#: beside the studies; no study's folder begins with a dot
CHECKS_FOLDER = ".checks"


class Resuming(StrEnum):
    """What becomes of a checkpoint when its configuration is trained further."""

    RESUMES = "resumes"
    FROM_SCRATCH = "trains again from scratch"
    DISAGREES = "loads but disagrees"
    UNKNOWN = "unknown"


def verdict_path(logs: Path, identity: str) -> Path:
    """Return the file of the verdict on the search of this name."""
    return logs / CHECKS_FOLDER / f"{study_folder_name(identity)}.json"


def write_resuming(
    logs: Path, identity: str, *, script_sha256: str, script_args: Sequence[str], verdict: Resuming
) -> Path:
    """Keep a verdict on resuming; the file is whole at every moment. Returns its path.

    Args:
        logs: the folder of all studies; made if it is not there.
        identity: what `run_identity` answered.
        script_sha256: of the script's text, hexadecimal.
        script_args: what was handed on to the script.
        verdict: also UNKNOWN, which replaces an older one.

    Raises:
        MachineError: it cannot be written.
    """
    path = verdict_path(logs, identity)
    document = {
        "identity": identity,
        "script_sha256": script_sha256,
        "script_args": list(script_args),
        "resuming": str(verdict),
        "at": time.time(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                json.dump(document, stream, indent=1)
            os.replace(beside, path)  # noqa: PTH105 - mkstemp gives a string
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as err:
        raise MachineError(
            f"the verdict on resuming cannot be kept in {path}: {err.strerror or err}. Give another folder "
            "with --logs, or make room there."
        ) from err
    return path


def read_resuming(
    logs: Path, identity: str, *, script_sha256: str, script_args: Sequence[str]
) -> Resuming | None:
    """Return the verdict of an earlier check; None if there is none for just this script and these options.

    A file that cannot be read or understood counts as none: it is advice, not a part of any study.
    """
    try:
        found = json.loads(verdict_path(logs, identity).read_bytes())
        asked = {"identity": identity, "script_sha256": script_sha256, "script_args": list(script_args)}
        if any(found[key] != value for key, value in asked.items()):
            return None
        return Resuming(found["resuming"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
