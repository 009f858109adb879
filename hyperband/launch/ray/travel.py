"""What of the user's folder travels to nodes that share no files with us, by what was said of it.

Owns what --ray-working-dir, --checkpoints and --logs mean for that. Must not know: how it travels.
"""

import re
from pathlib import Path

from hyperband.errors import UsageError
from hyperband.launch.ray.code import Travelling, code_folder, travelling
from hyperband.launch.ray.sent import paths_of_all
from hyperband.machine.checkpoint_pattern import parse
from hyperband.settings import Settings


def what_travels(settings: Settings, cwd: Path) -> Travelling:
    """Return what travels.

    Args:
        settings: of the search.
        cwd: where jobs would run here.

    Raises:
        UsageError: it is too much, the script is not part of it, or the pattern of checkpoints is absolute.
        MachineError: something cannot be read.
    """
    folder = code_folder(settings.script, settings.ray_working_dir)
    where = _checkpoints(settings.checkpoints)
    if where is not None and cwd.is_relative_to(folder) and cwd != folder:
        where = f"{re.escape(str(cwd.relative_to(folder)))}/{where}"
    token = settings.ray_token
    found = travelling(folder, but=[settings.logs, *([] if token is None else [token])], checkpoints=where)
    name = str(settings.script.relative_to(folder))
    if name not in found.files:
        raise UsageError(
            f"the script {settings.script} would not travel to the nodes: a line of the ignore file in "
            f"{folder} leaves it out; change that line, or add !{name} after it"
        )
    return found


def _checkpoints(text: str | None) -> str | None:
    """Return the regular expression of paths that are checkpoints; None: any may be."""
    if text is None:
        return None
    pattern = parse(text)
    if pattern.is_absolute:
        raise UsageError(
            f"--checkpoints {text!r} is absolute; with --ray-files sent each job runs in a folder of its own "
            "on its node, so that the pattern has to be relative to the folder in which jobs run"
        )
    return paths_of_all(pattern)
