"""What becomes of steps where there are many, or where they hang; on a stub of Slurm."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_stub import HANGING_SRUN, StubSlurm

from hyperband.errors import MachineError
from hyperband.launch.remote import starts
from hyperband.launch.slurm.held import launcher as slurm
from hyperband.launch.slurm.profile import Profile
from hyperband.machine.limits import allow_open_files

MANY = """
import os, sys
from pathlib import Path
from slurm_stub import WAITING_SRUN, StubSlurm
from hyperband.launch.slurm.profile import Profile
folder = Path(sys.argv[1])
profile = Profile(max_allocations=50, slots_per_allocation=8)
srun = f"ulimit -S -n >> {folder}/limits; {WAITING_SRUN}"
stub = StubSlurm(folder, profile, n=50, srun=srun)
jobs = []
def fill():
    while (job := stub.start()) is not None:
        jobs.append(job)
    return len(jobs) == 400
stub.until(fill, 60)
stub.carriers.prepare()
print(len(jobs), len(os.listdir("/proc/self/fd")))
stub.close()
"""


@pytest.mark.slow
def test_400_slots_under_a_limit_of_1024_open_files_which_jobs_have_again(tmp_path: Path) -> None:
    under = 'ulimit -S -n 1024 && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", under, "sh", sys.executable, "-c", MANY, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_jobs, n_files = map(int, done.stdout.split())
    assert n_jobs == 400
    assert n_files > 1024
    limits = (tmp_path / "limits").read_text().split()
    assert len(limits) >= 400
    assert set(limits) == {"1024"}


def test_more_slots_than_there_may_be_open_files_are_refused_with_the_numbers() -> None:
    with pytest.raises(MachineError, match=r"9 slots need 1000\d+ open files at once.*--max-slots"):
        allow_open_files(10**9, "9 slots")


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[StubSlurm]:
    """Ten slots whose steps never get to their node, and do not hear that nobody wants them."""
    found = StubSlurm(tmp_path, Profile(slots_per_allocation=10), srun=HANGING_SRUN)
    yield found
    found.close()


def test_steps_that_hang_at_the_end_are_waited_for_together(hanging: StubSlurm) -> None:
    hanging.until(lambda: hanging.slots.names())
    jobs = [job for _ in range(10) if (job := hanging.start()) is not None]
    assert len(jobs) == 10
    hanging.carriers.prepare()
    assert not hanging.carriers.are_missing
    began_s = time.monotonic()
    hanging.carriers.close()
    # one after the other would take 1.5 s each
    assert time.monotonic() - began_s < 12
    for job in jobs:  # their steps would go on
        assert job.carrier is not None
        job.carrier.kill()


def test_a_step_that_never_begins_is_taken_back(hanging: StubSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_BEGIN_WITHIN_S", 0.3)
    monkeypatch.setattr(starts, "_PAUSE_S", 600.0)
    hanging.until(lambda: hanging.slots.names())
    job = hanging.start()
    assert job is not None

    def is_over() -> bool:
        hanging.launcher.give_up_late()
        return job.is_over

    hanging.until(is_over)
    assert job.carrier is not None
    job.carrier.kill()
    ending = hanging.launcher.finish(job)
    assert ending is not None
    assert ending.never_ran
    assert "its step did not begin within 0.3 s" in ending.note
    assert job.lease.slot.name == "n1/1/0"
    hanging.slots.release(job.lease)
    assert hanging.start() is None, "its allocation is held back for a moment"
