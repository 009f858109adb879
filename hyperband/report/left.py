"""Where the checkpoint of a study's best lies whose jobs ran on nodes that share no files with it.

Owns how that is read from what its job left, and the words. Must not know: how checkpoints get there.
"""

import contextlib
from typing import Any

from hyperband.machine.claim import CLAIM_FILE, parse, read_fresh
from hyperband.machine.depot import FILES_FOLDER
from hyperband.machine.keeper import RESULT_FILE
from hyperband.report.text import counted, shown
from hyperband.report.view import JobView


def checkpoint_text(job: JobView) -> str:
    """Return where the checkpoint of the best lies; empty where the nodes share files, or there is none.

    Args:
        job: the last one with a loss of the best, whose files --keep-checkpoints always keeps.
    """
    if job.settings.get("ray_files") != "sent" or not job.folder:
        return ""
    claim: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    # a folder that was removed says nothing any more
    with contextlib.suppress(OSError):
        claim, result = map(parse, read_fresh(job.folder, CLAIM_FILE, RESULT_FILE))
    left = (result or {}).get("checkpoint") or {}
    sealed = left.get("sealed")
    if not sealed or not sealed["n_files"]:
        return ""
    below = f"{sealed['attempt']}/{FILES_FOLDER}"
    where = f"{left['storage']}/{below}"
    if left.get("storage") is None:
        where = f"{left['disk']}/{below} on {(claim or {}).get('host', 'its node')}"
    return (
        f"its checkpoint after {counted(job.epochs, 'epoch')}, without which that begins at the first one:\n"
        f"{shown(where)}"
    )
