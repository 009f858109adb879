"""A Slurm of four shell scripts: as many allocations as a test wants, with steps that run nothing.

For what must be shown with more slots, or worse luck, than a real one on this machine has.
"""

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from hyperband.launch.base import NO_WISH, Lease, Order
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.slurm.clerk import Pace
from hyperband.launch.slurm.files import SlurmFiles
from hyperband.launch.slurm.held.launcher import SlurmLauncher
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.held.steps import SlurmCarriers
from hyperband.launch.slurm.profile import Profile
from hyperband.machine.claim import WAITS

#: a step that waits for its job and never gets to it
WAITING_SRUN = f"echo '{WAITS}'; exec cat > /dev/null"
HANGING_SRUN = "exec sleep 600"


class StubSlurm:
    """Slots, carriers and a launcher on it. PATH must lead to `tools` first."""

    def __init__(self, folder: Path, profile: Profile, *, srun: str = WAITING_SRUN, n: int = 1) -> None:
        """Have n allocations; srun: what that does, in words for sh."""
        self.folder = folder
        self.tools = folder / "tools"
        self.tools.mkdir()
        self.n_started = 0
        self.write("srun", srun)
        self.write("scontrol", "echo 'SLURM_VERSION = 23.11'")
        self.write("scancel", "")
        self.write("squeue", f"[ $3 = --states=all ] && cat {folder}/listed || true")
        self.files = SlurmFiles(folder, profile, folder)
        self.slots = SlurmSlots(profile, max_slots=None)
        lines = [f"{k}|{self.files.name}|RUNNING|None|n{k}|t0|1:00:00|" for k in range(1, n + 1)]
        (folder / "listed").write_text("".join(f"{line}\n" for line in lines))
        for k in range(1, n + 1):
            about = {"job_id": k, "token": f"t{k}", "nodes": f"n{k}"}
            (self.files.folder / "holders" / f"{k}-0.json").write_text(json.dumps(about))
        self.slots.open(self.files, self.environ, Pace(soonest_s=0.05, latest_s=0.2))
        self.carriers = SlurmCarriers(self.slots, self.files, profile, cwd=folder, environ=self.environ)
        self.launcher = SlurmLauncher(self.slots, self.carriers, cwd=folder, grace_s=1.0)

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.tools}:/usr/bin:/bin"}

    def write(self, name: str, words: str) -> None:
        """Make one of Slurm's commands."""
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{words}\n")
        path.chmod(0o755)

    def start(self) -> RemoteJob | None:
        """Start a job at the next free slot, if there is one."""
        lease = self.slots.take(NO_WISH)
        return None if lease is None else self.start_at(lease)

    def start_at(self, lease: Lease) -> RemoteJob:
        folder = self.folder / f"job-{self.n_started}"
        folder.mkdir()
        self.n_started += 1
        return self.launcher.start(Order(folder, ("/bin/true",), {}), lease)

    def until(self, what: Callable[[], object], patience_s: float = 60.0) -> None:
        until_s = time.monotonic() + patience_s
        while not what():
            assert time.monotonic() < until_s, self.slots.why_none()
            poll = select.poll()
            poll.register(self.slots.clerk, select.POLLIN)
            poll.poll(50)
            self.slots.heed()

    def close(self) -> None:
        self.launcher.close()
        self.slots.close()
