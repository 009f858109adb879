"""A cluster as the place where jobs run, each a Slurm job of its own: its slots and its launcher together.

Owns nothing else: what is submitted when is decided in launch/slurm/jobs/trial_jobs.py.
"""

import os
from collections.abc import Callable
from pathlib import Path

from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.launcher import TrialJobLauncher
from hyperband.launch.slurm.jobs.slots import TrialJobSlots, profile_of_one
from hyperband.launch.slurm.profile_file import read_profile
from hyperband.settings import Settings
from hyperband.study.grounds import Waiting
from hyperband.study.slurm_grounds import SlurmGrounds


class TrialJobGrounds(SlurmGrounds[TrialJobSlots, TrialJobLauncher]):
    """Slurm jobs, or tasks of arrays, for one attempt each."""

    engine = TrialJobLauncher.engine

    def __init__(self, settings: Settings) -> None:
        """Check what can be checked without a word to Slurm.

        Raises:
            UsageError: the profile is wrong, or says something of allocations.
            MachineError: Slurm's commands are not here.
        """
        profile = profile_of_one(
            read_profile(settings.slurm_profile, settings.slurm_set, mode=settings.slurm_mode)
        )
        super().__init__(settings, profile, TrialJobSlots(profile, max_slots=settings.max_slots))

    def open(self, folder: Path, lock: int, cwd: Path) -> TrialJobLauncher:  # noqa: ARG002
        """Begin to ask Slurm, and return what has jobs submitted.

        Raises:
            MachineError: the study's folder cannot be written to, or has no hard links; allocations of the
                other mode cannot be given back.
        """
        self._end_other_mode(folder, "jobs")
        self._slots.open(TrialJobFiles(folder, self._profile, cwd), os.environ)
        self._launcher = TrialJobLauncher(self._slots, cwd=cwd, grace_s=self._grace_s)
        return self._launcher

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Take back what is in the queue when the search comes to its end."""
        if self._launcher is not None and waiting().is_last:
            self._launcher.take_back()
