"""What travels from here to nodes that share no files with us: which folder, packed, and what stays here.

Owns what must hold of the script, its folder and its checkpoints. Must not know: slots, or how it gets there.
"""

import hashlib
import json
import re
from pathlib import Path

from hyperband.errors import UsageError
from hyperband.launch.ray.code import code_folder, pack, travelling
from hyperband.launch.ray.environment import read_runtime_env, require_fsspec
from hyperband.launch.ray.sent import Baggage, Layout, paths_of_all, python_on_nodes
from hyperband.machine.checkpoint_pattern import parse
from hyperband.settings import Settings


class SentFiles:
    """What travels to nodes that share no files with us."""

    def __init__(self, settings: Settings) -> None:
        """Check what can be checked here.

        Raises:
            UsageError: the folder is too large, or something said of the nodes is wrong.
            MachineError: something is not installed, or cannot be read.
        """
        self._settings = settings
        self._folder = code_folder(settings.script, settings.ray_working_dir)
        pattern = None if settings.checkpoints is None else parse(settings.checkpoints)
        if pattern is not None and pattern.is_absolute:
            raise UsageError(
                f"--checkpoints {settings.checkpoints!r} is absolute; with --ray-files sent each job runs "
                "in a folder of its own on its node, so that the pattern has to be relative to the folder "
                "in which jobs run"
            )
        self._checkpoints = None if pattern is None else paths_of_all(pattern)
        self._files = self._travelling(Path.cwd())
        name = str(settings.script.relative_to(self._folder))
        if name not in self._files:
            raise UsageError(
                f"the script {settings.script} would not travel to the nodes: a line of the ignore file in "
                f"{self._folder} leaves it out; change that line, or add !{name} after it"
            )
        env = settings.ray_runtime_env
        self._runtime_env = {} if env is None else read_runtime_env(env)
        if settings.storage is not None:
            require_fsspec(settings.storage)

    @property
    def stays_on_nodes(self) -> bool:
        """Whether checkpoints are known, and are where they were written."""
        return self._settings.checkpoints is not None and self._settings.storage is None

    def warnings(self) -> list[str]:
        """Return what the user should know before it takes long."""
        if self._settings.checkpoints is not None:
            return []
        return [
            "Warning: without --checkpoints nothing of a trial is carried from job to job where nodes share "
            "no files: each promotion trains from the beginning."
        ]

    def _travelling(self, cwd: Path) -> list[str]:
        """Return what travels; cwd: where jobs would run here."""
        where = self._checkpoints
        if where is not None and cwd.is_relative_to(self._folder) and cwd != self._folder:
            where = f"{re.escape(str(cwd.relative_to(self._folder)))}/{where}"
        return travelling(self._folder, but=[self._settings.logs], checkpoints=where)

    def baggage(self, archive: Path, cwd: Path) -> Baggage:
        """Pack it; cwd: where jobs would run here.

        Raises:
            MachineError: that fails.
        """
        pack(self._folder, self._travelling(cwd), archive)
        words = json.dumps(self._runtime_env, sort_keys=True).encode()
        mark = hashlib.sha256(archive.read_bytes() + words).hexdigest()
        return Baggage({**self._runtime_env, "working_dir": str(archive)}, mark)

    def layout(self, cwd: Path) -> Layout:
        """Return where things are in it; cwd: where jobs would run here."""
        is_inside = cwd.is_relative_to(self._folder)
        return Layout(
            script=str(self._settings.script.relative_to(self._folder)),
            cwd=str(cwd.relative_to(self._folder)) if is_inside else ".",
            python=python_on_nodes(self._settings.python),
            pattern=self._settings.checkpoints,
            storage=self._settings.storage,
        )
