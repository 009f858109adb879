"""A study that goes on with another --on than before: living jobs are refused, and none is run twice."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_fixture import RemoteBench

from hyperband.errors import MachineError
from hyperband.folder import job_folder, lock_study, unlock_study
from hyperband.launch.base import StopReason
from hyperband.launch.remote.carrier import Carrier
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.machine.claim import BY_NODE, CLAIM_FILE, ORDER_FILE
from hyperband.search.events import JobStarted
from hyperband.study.rest import end_living_jobs, refuse_living_elsewhere

WAITS = ("/bin/sh", "-c", "while [ ! -e off ]; do sleep 0.01; done")
STARTED = JobStarted(
    at=0.0,
    job=0,
    attempt=0,
    trial=0,
    rung=0,
    epochs=1,
    slot="n1/7/0",
    several_gpus=False,
    script_sha256="",
    host="h",
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteBench]:
    """What runs jobs of Ray's, and has a study's folder for one."""
    monkeypatch.setattr(RemoteLauncher, "engine", "ray")
    found = RemoteBench(tmp_path)
    job_folder(tmp_path, 0, 0).mkdir(parents=True)
    yield found
    found.close()


def refuse(folder: Path, engine: str) -> None:
    lock = lock_study(folder)
    try:
        refuse_living_elsewhere([STARTED], folder, lock, engine=engine)
    finally:
        unlock_study(lock)


def test_a_living_job_is_for_its_own_engine_alone(bench: RemoteBench) -> None:
    job = bench.start(*WAITS, folder=job_folder(bench.folder, 0, 0))
    bench.about(job.folder)
    for engine in ("slurm", "local"):
        with pytest.raises(MachineError, match=rf"still runs on n1/7/0.*\(ray, and now it is {engine}\)"):
            refuse(bench.folder, engine)
    refuse(bench.folder, "ray")
    bench.launcher.stop(job, StopReason.STOP)
    assert bench.wait(job).asked is StopReason.STOP
    refuse(bench.folder, "slurm")


def test_a_job_that_nobody_has_begun_never_begins_once_another_engine_goes_on(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.carriers, "carry", lambda *_: Carrier(label="77", is_told=True))
    job = bench.start(*WAITS, folder=job_folder(bench.folder, 0, 0))
    refuse(bench.folder, "slurm")
    assert bench.launcher.read(job.folder).never_ran


def test_stop_ends_the_jobs_of_every_engine(bench: RemoteBench) -> None:
    job = bench.start(*WAITS, folder=job_folder(bench.folder, 0, 0))
    bench.about(job.folder)
    lock = lock_study(bench.folder)
    try:
        assert end_living_jobs(bench.folder, lock).n_ended == 1
    finally:
        unlock_study(lock)
    assert bench.wait(job).asked is StopReason.STOP


def test_stop_ends_more_jobs_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = RemoteLauncher.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "margin_s", 0.1)
    n_jobs = 150
    for number in range(n_jobs):
        folder = job_folder(tmp_path, number, 0)
        folder.mkdir(parents=True)
        order = {"attempt": f"{number}", "engine": "slurm", "lease_s": 0.1}
        (folder / ORDER_FILE).write_text(json.dumps(order))
        (folder / CLAIM_FILE).write_text(json.dumps({"attempt": f"{number}", "by": BY_NODE, "host": "n1"}))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_jobs, limits[1]))
    lock = lock_study(tmp_path)
    try:
        assert end_living_jobs(tmp_path, lock).n_ended == n_jobs
    finally:
        unlock_study(lock)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
