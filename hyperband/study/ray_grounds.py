"""A Ray cluster as the place where jobs run: its slots and its launcher, put together."""

import os
from collections.abc import Callable
from pathlib import Path

from hyperband.launch.base import Slot
from hyperband.launch.environment import THREAD_VARIABLES
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.launcher import RayCarriers, RayLauncher
from hyperband.launch.ray.link import require_ray
from hyperband.launch.ray.sent import SentCarriers, SentLauncher, host_of
from hyperband.launch.ray.slots import RaySlots
from hyperband.launch.ray.token import refuse_token, warnings_of_token
from hyperband.launch.ray.words import slot_resources
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.remote_grounds import RemoteGrounds
from hyperband.study.sent_files import SentFiles
from hyperband.study.wake import HasDescriptor


class RayWords:
    """What was said of a cluster and its nodes, as far as that can be seen to be right without Ray."""

    def __init__(self, settings: Settings) -> None:
        """Check it.

        Raises:
            UsageError: the resources, or something said of nodes that share no files, are wrong, or the
                token is not to be had.
            MachineError: something is not installed.
        """
        self.resources = slot_resources(settings.ray_resources, settings.jobs_per_gpu)
        refuse_token(settings.ray_token)
        #: None: the nodes share the study's folder
        self.sent = SentFiles(settings) if settings.ray_files == "sent" else None
        self._warnings = warnings_of_token(settings.ray_token)

    def notes(self) -> list[str]:
        """Return what the user should know before anything begins."""
        return [*self._warnings, *([] if self.sent is None else self.sent.notes())]


class RayGrounds(RemoteGrounds[RaySlots, RayLauncher]):
    """Actors that hold a slot each, and jobs at them."""

    engine = RayLauncher.engine

    def __init__(self, settings: Settings) -> None:
        """Check what can be checked without a word to Ray.

        Raises:
            UsageError: see RayWords.
            MachineError: Ray is not installed; see RayWords.
        """
        self._settings = settings
        require_ray()
        self._words = RayWords(settings)
        slots = RaySlots(
            settings.ray_address,
            self._words.resources,
            token=settings.ray_token,
            max_slots=settings.max_slots,
        )
        super().__init__(slots, grace_s=settings.grace_s)
        self._sent = self._words.sent
        #: where attempts ran, by their folders
        self._hosts: dict[Path, str] = {}
        self._has_told = False

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
            self._launcher = RayLauncher(self._slots, carriers, cwd=cwd, grace_s=self._grace_s)
            return self._launcher
        self._slots.open(files, sent.baggage(files.code, cwd).words(), makes=sent.packages)
        of_sent = SentCarriers(self._slots, sent.layout(cwd), study=files.name)
        self._launcher = SentLauncher(self._slots, of_sent, cwd=cwd, grace_s=self._grace_s)
        return self._launcher

    def environment(self, slot: Slot) -> dict[str, str]:  # noqa: ARG002
        """Return what every job's environment has besides what its slot adds."""
        found = {"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if self._sent is not None:
            # all else that was said here stays here: a node has its own paths, and maybe secrets
            found |= {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
        return found

    def near(self, after: Path | None) -> frozenset[str] | None:
        """Slots of the node that an attempt ran on, where checkpoints stay on their nodes."""
        if after is None or self._sent is None or not self._sent.stays_on_nodes:
            return None
        if after not in self._hosts:
            self._hosts[after] = host_of(after)
        if not (host := self._hosts[after]):
            return None
        near = frozenset(name for name in self._slots.names() if name.partition(":")[0] == host)
        return near if near or self._slots.may_come(host) else None

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """What Ray's side of the search says."""
        return (self._slots.link,)

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Ask for as many slots as can be used."""
        self._slots.want(waiting().n_jobs)

    def news(self) -> list[str]:
        """Return what happened to the cluster."""
        notes = [] if self._has_told else self._words.notes()
        self._has_told = True
        return [*notes, *super().news()]
