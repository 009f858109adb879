"""A cluster as the place where jobs run, each a Slurm job of its own: its slots and its launcher together.

Owns nothing else: what is submitted when is decided in launch/slurm/jobs/trial_jobs.py.
"""

import os
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.base import Slot, Slots
from hyperband.launch.slurm.commands import require_commands
from hyperband.launch.slurm.end import end_other_mode
from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.launcher import TrialJobLauncher
from hyperband.launch.slurm.jobs.slots import TrialJobSlots, profile_of_one
from hyperband.launch.slurm.profile_file import read_profile
from hyperband.launch.slurm.room import environ_for_jobs
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.wake import HasDescriptor, earliest


class TrialJobGrounds:
    """Slurm jobs, or tasks of arrays, for one attempt each."""

    engine = TrialJobLauncher.engine
    outlive_us = True
    know_time = False

    def __init__(self, settings: Settings, *, study: Path) -> None:  # noqa: ARG002
        """Check what can be checked without a word to Slurm; study: its folder.

        Raises:
            UsageError: the profile is wrong, or says something of allocations.
            MachineError: Slurm's commands are not here.
        """
        self._grace_s = settings.grace_s
        self._profile = profile_of_one(
            read_profile(settings.slurm_profile, settings.slurm_set, mode=settings.slurm_mode)
        )
        require_commands()
        self._slots = TrialJobSlots(self._profile, max_slots=settings.max_slots)
        self._launcher: TrialJobLauncher | None = None
        self._given_back: list[str] = []

    @property
    def slots(self) -> Slots:
        """As many as there may be jobs at once."""
        return self._slots

    def open(self, folder: Path, lock: int, cwd: Path) -> TrialJobLauncher:  # noqa: ARG002
        """Begin to ask Slurm, and return what has jobs submitted.

        Raises:
            MachineError: the study's folder cannot be written to, or has no hard links; allocations of the
                other mode cannot be given back.
        """
        self._given_back = end_other_mode(folder, "jobs")
        self._slots.open(TrialJobFiles(folder, self._profile, cwd), os.environ)
        self._launcher = TrialJobLauncher(self._slots, cwd=cwd, grace_s=self._grace_s)
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
        """Take in what happened to Slurm's jobs, and have submitted what is new.

        Raises:
            InternalError, MachineError: the clerk has ended; the folder of a job cannot be written to.
        """
        self._slots.heed()
        if self._launcher is not None:
            self._launcher.heed()

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Take back what is in the queue when the search comes to its end."""
        if self._launcher is not None and waiting().is_last:
            self._launcher.take_back()

    def why_waiting(self) -> str:
        """Return how many jobs wait in Slurm's queue, and why."""
        return self._slots.why_waiting()

    def why_over(self) -> MachineError | None:
        """Return why there will be no jobs any more."""
        return self._slots.failure

    def news(self) -> list[str]:
        """Return what happened to Slurm's jobs."""
        given_back, self._given_back = self._given_back, []
        return [*given_back, *self._slots.news()]

    def next_look_s(self) -> float | None:
        """Return seconds until jobs are worth a look although Slurm says nothing."""
        silent_s = None if self._launcher is None else self._launcher.next_look_s()
        return earliest([self._slots.wait_s(), silent_s])

    def give_back(self) -> list[str]:
        """Cancel every job that is left, by id, and see it gone."""
        return self._slots.end()

    def close(self) -> None:
        """Let go of everything; jobs go on, or wait in the queue."""
        if self._launcher is not None:
            self._launcher.close()
        self._slots.close()
