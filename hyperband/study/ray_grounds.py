"""A Ray cluster as the place where jobs run: its slots and its launcher, put together."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import HyperbandError, MachineError, UsageError
from hyperband.launch.base import Slot, Slots
from hyperband.launch.environment import THREAD_VARIABLES
from hyperband.launch.ray.code import code_folder, pack, travelling
from hyperband.launch.ray.environment import read_runtime_env, require_fsspec
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.launcher import RayCarriers, RayLauncher
from hyperband.launch.ray.link import require_ray
from hyperband.launch.ray.sent import (
    Baggage,
    Layout,
    SentCarriers,
    SentLauncher,
    host_of,
    paths_of_all,
    python_on_nodes,
)
from hyperband.launch.ray.slots import RaySlots
from hyperband.launch.ray.words import slot_resources
from hyperband.machine.checkpoint_pattern import parse
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.wake import HasDescriptor


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


class RayGrounds:
    """Actors that hold a slot each, and jobs at them."""

    engine = RayLauncher.engine
    outlive_us = True
    know_time = False

    def __init__(self, settings: Settings, *, study: Path) -> None:  # noqa: ARG002
        """Check what can be checked without a word to Ray; study: its folder.

        Raises:
            UsageError: the resources are wrong.
            MachineError: Ray is not installed, or the token is not to be had.
        """
        self._settings = settings
        require_ray()
        token = settings.ray_token
        if token is not None and not (token.is_file() and os.access(token, os.R_OK)):
            raise MachineError(
                f"the token of --ray-token cannot be read: {token}; give the file that the cluster was "
                "started with (RAY_AUTH_TOKEN_PATH)"
            )
        self._slots = RaySlots(
            settings.ray_address,
            slot_resources(settings.ray_resources, settings.jobs_per_gpu),
            token=token,
            max_slots=settings.max_slots,
        )
        self._launcher: RayLauncher | None = None
        self._sent = SentFiles(settings) if settings.ray_files == "sent" else None
        #: where attempts ran, by their folders
        self._hosts: dict[Path, str] = {}
        self._is_warned = False

    @property
    def slots(self) -> Slots:
        """Those that Ray gave."""
        return self._slots

    def open(self, folder: Path, lock: int, cwd: Path) -> RayLauncher:  # noqa: ARG002
        """Begin to join the cluster, and return what runs jobs there.

        Raises:
            MachineError: the study's folder cannot be written to, or has no hard links.
        """
        sent = self._sent
        files = RayFiles(
            folder,
            address=self._settings.ray_address,
            token=self._settings.ray_token,
            environ=os.environ if sent is None else {},
            files=self._settings.ray_files,
        )
        if sent is None:
            self._slots.open(files)
            carriers = RayCarriers(self._slots, files.environment)
            self._launcher = RayLauncher(self._slots, carriers, cwd=cwd, grace_s=self._settings.grace_s)
            return self._launcher
        self._slots.open(files, sent.baggage(files.code, cwd).words())
        of_sent = SentCarriers(self._slots, sent.layout(cwd), study=files.name)
        self._launcher = SentLauncher(self._slots, of_sent, cwd=cwd, grace_s=self._settings.grace_s)
        return self._launcher

    def environment(self, slot: Slot) -> dict[str, str]:  # noqa: ARG002
        """Return what every job's environment has besides what its slot adds."""
        found = {"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if self._sent is not None:
            # all else that was said here stays here: a node has its own paths, and maybe secrets
            found |= {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
        return found

    def near(self, after: Path | None) -> frozenset[str]:
        """Slots of the node that an attempt ran on, where checkpoints stay on their nodes."""
        if after is None or self._sent is None or not self._sent.stays_on_nodes:
            return frozenset()
        if after not in self._hosts:
            self._hosts[after] = host_of(after)
        host = self._hosts[after]
        return frozenset(name for name in self._slots.names() if name.partition(":")[0] == host)

    def owns(self, pid: int) -> bool:  # noqa: ARG002
        """Return False: jobs run elsewhere."""
        return False

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """What Ray's side of the search says."""
        return (self._slots.link,)

    def heed(self) -> None:
        """Take in what happened to slots; jobs that were lost with one are given up.

        Raises:
            MachineError: Ray's side cannot be started again.
        """
        self._slots.heed()
        if self._launcher is not None:
            self._launcher.heed()

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Ask for as many slots as can be used."""
        self._slots.want(waiting().n_jobs)

    def why_waiting(self) -> str:
        """Nothing: a slot is there before its job starts."""
        return ""

    def why_over(self) -> HyperbandError | None:
        """Return why there will be no slots any more."""
        return self._slots.failure

    def news(self) -> list[str]:
        """Return what happened to the cluster."""
        news = [] if self._sent is None or self._is_warned else self._sent.warnings()
        self._is_warned = True
        return [*news, *self._slots.news()]

    def next_look_s(self) -> float | None:
        """Return seconds until slots are worth a look although Ray says nothing."""
        return self._slots.wait_s()

    def give_back(self) -> list[str]:
        """End every slot, and see it gone."""
        return self._slots.end()

    def close(self) -> None:
        """Let go of everything; jobs and their slots go on."""
        if self._launcher is not None:
            self._launcher.close()
        self._slots.close()
