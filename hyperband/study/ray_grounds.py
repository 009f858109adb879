"""A Ray cluster as the place where jobs run: its slots and its launcher, put together."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import HyperbandError, MachineError
from hyperband.launch.base import Slot, Slots
from hyperband.launch.ray_files import RayFiles
from hyperband.launch.ray_jobs import RayCarriers, RayLauncher
from hyperband.launch.ray_slots import RaySlots
from hyperband.launch.ray_words import slot_resources
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.wake import HasDescriptor


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
        if importlib.util.find_spec("ray") is None:
            raise MachineError(
                "--on ray needs Ray in the environment of hyperband, in the cluster's version; install it "
                "(`pip install 'hyperband[ray]'`), or leave --on out"
            )
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

    @property
    def slots(self) -> Slots:
        """Those that Ray gave."""
        return self._slots

    def open(self, folder: Path, lock: int, cwd: Path) -> RayLauncher:  # noqa: ARG002
        """Begin to join the cluster, and return what runs jobs there.

        Raises:
            MachineError: the study's folder cannot be written to, or has no hard links.
        """
        files = RayFiles(
            folder,
            address=self._settings.ray_address,
            token=self._settings.ray_token,
            environ=os.environ,
        )
        self._slots.open(files)
        carriers = RayCarriers(self._slots, files.environment)
        self._launcher = RayLauncher(self._slots, carriers, cwd=cwd, grace_s=self._settings.grace_s)
        return self._launcher

    def environment(self, slot: Slot) -> dict[str, str]:  # noqa: ARG002
        """Return what every job's environment has besides what its slot adds."""
        return {"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

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

    def why_over(self) -> HyperbandError | None:
        """Return why there will be no slots any more."""
        return self._slots.failure

    def news(self) -> list[str]:
        """Return what happened to the cluster."""
        return list(self._slots.news())

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
