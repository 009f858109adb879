"""A cluster's machines as the place where jobs run: what both modes have alike; allocations that are held.

Owns what follows for jobs from what happens to allocations. Which allocations there are is decided elsewhere.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hyperband.launch.base import Slot
from hyperband.launch.slurm.commands import require_commands
from hyperband.launch.slurm.end import end_other_mode
from hyperband.launch.slurm.files import SlurmFiles
from hyperband.launch.slurm.held.launcher import SlurmLauncher
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.held.steps import SlurmCarriers
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.profile_file import read_profile
from hyperband.launch.slurm.room import environ_for_jobs
from hyperband.launch.slurm.slots import SlotsOfSlurm
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.remote_grounds import L, RemoteGrounds
from hyperband.study.wake import HasDescriptor

S = TypeVar("S", bound=SlotsOfSlurm[Any])


class SlurmGrounds(RemoteGrounds[S, L]):
    """Slots of Slurm, in either mode."""

    def __init__(self, settings: Settings, profile: Profile, slots: S) -> None:
        """Check what can be checked without a word to Slurm.

        Raises:
            MachineError: Slurm's commands are not here.
        """
        require_commands()
        super().__init__(slots, grace_s=settings.grace_s)
        self._profile = profile
        self._given_back: list[str] = []

    def environment(self, slot: Slot) -> dict[str, str]:  # noqa: ARG002
        """Return what every job's environment has there besides what its slot adds."""
        return environ_for_jobs(self._profile)

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """What Slurm was heard to say."""
        return (self._slots.clerk,)

    def news(self) -> list[str]:
        """Return what happened to slots, and to what the study had of the other mode."""
        given_back, self._given_back = self._given_back, []
        return [*given_back, *super().news()]

    def _end_other_mode(self, folder: Path, mode: str) -> None:
        """Give back what the study has of the other mode than this.

        Raises:
            MachineError: that fails.
        """
        self._given_back = end_other_mode(folder, mode)


class HeldGrounds(SlurmGrounds[SlurmSlots, SlurmLauncher]):
    """Allocations that are held, and steps in them."""

    engine = SlurmLauncher.engine
    know_time = True

    def __init__(self, settings: Settings) -> None:
        """Check what can be checked without a word to Slurm.

        Raises:
            UsageError: the profile is wrong.
            MachineError: Slurm's commands are not here.
        """
        profile = read_profile(settings.slurm_profile, settings.slurm_set, mode=settings.slurm_mode)
        super().__init__(settings, profile, SlurmSlots(profile, max_slots=settings.max_slots))
        self._carriers: SlurmCarriers | None = None

    def open(self, folder: Path, lock: int, cwd: Path) -> SlurmLauncher:  # noqa: ARG002
        """Begin to ask Slurm, and return what starts steps.

        Raises:
            MachineError: the study's folder cannot be written to, or has no hard links; jobs of the other
                mode cannot be given back.
        """
        self._end_other_mode(folder, "held")
        files = SlurmFiles(folder, self._profile, cwd)
        self._slots.open(files, os.environ)
        self._carriers = SlurmCarriers(self._slots, files, self._profile, cwd=cwd, environ=os.environ)
        self._slots.heed_prepared(self._carriers.is_prepared)
        self._launcher = SlurmLauncher(self._slots, self._carriers, cwd=cwd, grace_s=self._grace_s)
        return self._launcher

    def heed(self) -> None:
        """Take in what happened to allocations, and have steps wait in those that are held."""
        super().heed()
        if self._carriers is not None:
            self._carriers.prepare()

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Let the allocations know what waits."""
        found = waiting()
        self._slots.want(found.n_jobs, found.shortest_s, found.quarantined)

    def next_look_s(self) -> float | None:
        """Return seconds until allocations are worth a look although Slurm says nothing."""
        if self._carriers is not None and self._carriers.are_missing:
            return 0.0  # the jobs that take them have been started meanwhile
        return super().next_look_s()

    def give_back(self) -> list[str]:
        """Cancel every allocation, by id, and see it gone."""
        if self._carriers is not None:
            self._carriers.close()
        return super().give_back()
