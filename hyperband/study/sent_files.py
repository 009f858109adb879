"""What travels from here to nodes that share no files with us: which folder, packed, and what stays here.

Owns what must hold of the script, its folder and its checkpoints. Must not know: slots, or how it gets there.
"""

import hashlib
import json
from pathlib import Path

from hyperband.launch.ray.code import pack
from hyperband.launch.ray.environment import SLOW_KEYS, read_runtime_env, require_fsspec
from hyperband.launch.ray.sent import Baggage, Layout, python_on_nodes
from hyperband.launch.ray.travel import what_travels
from hyperband.settings import Settings

#: of what stays here, so much is named when a search begins
_N_NAMED = 5


class SentFiles:
    """What travels to nodes that share no files with us."""

    def __init__(self, settings: Settings) -> None:
        """Check what can be checked here.

        Raises:
            UsageError: the folder is too large, or something said of the nodes is wrong.
            MachineError: something is not installed, or cannot be read.
        """
        self._settings = settings
        #: what travels if jobs run where we are
        self._travelling = what_travels(settings, Path.cwd())
        self._folder = self._travelling.folder
        env = settings.ray_runtime_env
        self._runtime_env = {} if env is None else read_runtime_env(env)
        if settings.storage is not None:
            require_fsspec(settings.storage)

    @property
    def stays_on_nodes(self) -> bool:
        """Whether checkpoints are known, and are where they were written."""
        return self._settings.checkpoints is not None and self._settings.storage is None

    @property
    def packages(self) -> tuple[str, ...]:
        """What of Ray's runtime environment takes long to be made on a node, by its keys."""
        return tuple(key for key in SLOW_KEYS if key in self._runtime_env)

    def notes(self) -> list[str]:
        """Return what the user should know before it takes long."""
        travels = [f"{self._travelling.words(_N_NAMED)}."]
        if self._settings.checkpoints is not None:
            return travels
        return [
            *travels,
            "Warning: without --checkpoints nothing of a trial is carried from job to job where nodes share "
            "no files: each promotion trains from the beginning.",
        ]

    def baggage(self, archive: Path, cwd: Path) -> Baggage:
        """Pack it; cwd: where jobs would run here.

        Raises:
            MachineError: that fails.
        """
        self._travelling = what_travels(self._settings, cwd)
        pack(self._folder, self._travelling.files, archive)
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
