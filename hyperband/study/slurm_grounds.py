"""A cluster's machines as the place where jobs run: Slurm's slots and launcher, put together.

Owns what follows for jobs from what happens to allocations. Which allocations there are is decided elsewhere.
"""

import os
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.base import Slot, Slots
from hyperband.launch.slurm.commands import require_commands
from hyperband.launch.slurm.end import end_other_mode
from hyperband.launch.slurm.files import SlurmFiles
from hyperband.launch.slurm.held.launcher import SlurmLauncher
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.held.steps import SlurmCarriers
from hyperband.launch.slurm.profile_file import read_profile
from hyperband.launch.slurm.room import environ_for_jobs
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.wake import HasDescriptor, earliest


class SlurmGrounds:
    """Allocations that are held, and steps in them."""

    engine = SlurmLauncher.engine
    outlive_us = True
    know_time = True

    def __init__(self, settings: Settings, *, study: Path) -> None:
        """Check what can be checked without a word to Slurm; study: its folder.

        Raises:
            UsageError: the profile is wrong.
            MachineError: Slurm's commands are not here.
        """
        self._study = study
        self._grace_s = settings.grace_s
        self._profile = read_profile(settings.slurm_profile, settings.slurm_set, mode=settings.slurm_mode)
        require_commands()
        self._slots = SlurmSlots(self._profile, max_slots=settings.max_slots)
        self._launcher: SlurmLauncher | None = None
        self._carriers: SlurmCarriers | None = None
        self._given_back: list[str] = []

    @property
    def slots(self) -> Slots:
        """Those of the allocations that run."""
        return self._slots

    def open(self, folder: Path, lock: int, cwd: Path) -> SlurmLauncher:  # noqa: ARG002
        """Begin to ask Slurm, and return what starts steps.

        Raises:
            MachineError: the study's folder cannot be written to, or has no hard links; jobs of the other
                mode cannot be given back.
        """
        self._given_back = end_other_mode(folder, "held")
        files = SlurmFiles(folder, self._profile, cwd)
        self._slots.open(files, os.environ)
        self._carriers = SlurmCarriers(self._slots, files, self._profile, cwd=cwd, environ=os.environ)
        self._slots.heed_prepared(self._carriers.is_prepared)
        self._launcher = SlurmLauncher(self._slots, self._carriers, cwd=cwd, grace_s=self._grace_s)
        return self._launcher

    def environment(self, slot: Slot) -> dict[str, str]:  # noqa: ARG002
        """Return what every job's environment has besides what its slot adds."""
        return environ_for_jobs(self._profile)

    def near(self, after: Path | None) -> frozenset[str]:  # noqa: ARG002
        """Nothing: checkpoints are on a file system that all nodes share."""
        return frozenset()

    def owns(self, pid: int) -> bool:  # noqa: ARG002
        """Return False: jobs run elsewhere."""
        return False

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """What Slurm was heard to say."""
        return (self._slots.clerk,)

    def heed(self) -> None:
        """Take in what happened to allocations; jobs that were lost with one are given up.

        Raises:
            InternalError, MachineError: the clerk has ended; the folder of a job cannot be written to.
        """
        self._slots.heed()
        if self._launcher is not None:
            for lost in self._slots.take_lost():
                self._launcher.lose(lost)
            for step in self._slots.take_steps_over():
                self._launcher.prove(step)
            self._launcher.give_up_late()
        if self._carriers is not None:
            self._carriers.prepare()

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Let the allocations know what waits."""
        found = waiting()
        self._slots.want(found.n_jobs, found.shortest_s, found.quarantined)

    def why_waiting(self) -> str:
        """Return what allocations wait for, as long as there is none."""
        return self._slots.why_waiting()

    def why_over(self) -> MachineError | None:
        """Return why there will be no slots any more."""
        return self._slots.failure

    def news(self) -> list[str]:
        """Return what happened to allocations."""
        given_back, self._given_back = self._given_back, []
        return [*given_back, *self._slots.news()]

    def next_look_s(self) -> float | None:
        """Return seconds until allocations are worth a look although Slurm says nothing."""
        if self._carriers is not None and self._carriers.are_missing:
            return 0.0  # the jobs that take them have been started meanwhile
        late_s = None if self._launcher is None else self._launcher.next_look_s()
        return earliest([self._slots.wait_s(), late_s])

    def give_back(self) -> list[str]:
        """Cancel every allocation, by id, and see it gone."""
        if self._carriers is not None:
            self._carriers.close()
        return self._slots.end()

    def close(self) -> None:
        """Let go of everything; jobs and their allocations go on."""
        if self._launcher is not None:
            self._launcher.close()
        self._slots.close()
