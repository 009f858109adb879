"""Launchers of real engines for what all launchers have in common: a slot of Slurm's, one of Ray's.

An engine is opened once for a module; each test has a launcher of its own over its slot.
"""

import contextlib
import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from launch_fixture import Bench
from ray_fixture import RayCluster
from slurm_cluster import SlurmCluster

from hyperband.launch.base import NO_WISH, Ending, Launcher, Lease
from hyperband.launch.ray import link as ray_link
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.launcher import RayCarriers, RayLauncher
from hyperband.launch.ray.slots import RaySlots
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.launch.slurm.files import SlurmFiles
from hyperband.launch.slurm.held.launcher import SlurmLauncher
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.held.steps import SlurmCarriers
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.room import place_of

_PATIENCE_S = 120.0


class Engine(Protocol):
    """What a bench asks of an engine that is open."""

    @property
    def watched(self) -> "SlurmSlots | RaySlots": ...

    def launcher(self, cwd: Path, grace_s: float) -> RemoteLauncher: ...

    def heed(self, launchers: list[RemoteLauncher]) -> None: ...

    def fileno(self) -> int: ...

    def environment(self, lease: Lease) -> Path: ...

    def forget(self, lease: Lease) -> None: ...


class OnRay:
    """One slot of a Ray cluster."""

    def __init__(self, cluster: RayCluster, study: Path) -> None:
        self.files = RayFiles(study, address=cluster.address, token=cluster.token, environ=os.environ)
        resources = {"GPU": 0.0, "CPU": 1.0}
        self.watched = RaySlots(cluster.address, resources, token=cluster.token, max_slots=1)
        self.watched.open(self.files)

    def launcher(self, cwd: Path, grace_s: float) -> RayLauncher:
        carriers = RayCarriers(self.watched, self.files.environment)
        return RayLauncher(self.watched, carriers, cwd=cwd, grace_s=grace_s)

    def heed(self, launchers: list[RemoteLauncher]) -> None:
        self.watched.want(1)
        self.watched.heed()
        assert self.watched.failure is None, self.watched.failure
        for launcher in launchers:
            assert isinstance(launcher, RayLauncher)
            launcher.heed()

    def fileno(self) -> int:
        return self.watched.link.fileno()

    def environment(self, lease: Lease) -> Path:  # noqa: ARG002
        return self.files.environment

    def forget(self, lease: Lease) -> None:
        self.watched.note_run(lease.slot.name)


class OnSlurm:
    """One slot in an allocation of a Slurm cluster."""

    def __init__(self, study: Path) -> None:
        self.files = SlurmFiles(study, Profile(), study)
        self.watched = SlurmSlots(Profile(), max_slots=1)
        self.watched.open(self.files, os.environ)
        self.carriers: dict[RemoteLauncher, SlurmCarriers] = {}

    def launcher(self, cwd: Path, grace_s: float) -> SlurmLauncher:
        carriers = SlurmCarriers(self.watched, self.files, Profile(), cwd=cwd, environ=os.environ)
        found = SlurmLauncher(self.watched, carriers, cwd=cwd, grace_s=grace_s)
        self.carriers[found] = carriers
        return found

    def heed(self, launchers: list[RemoteLauncher]) -> None:
        self.watched.want(1, None)
        self.watched.heed()
        assert self.watched.failure is None, self.watched.failure
        lost, over = self.watched.take_lost(), self.watched.take_steps_over()
        for launcher in launchers:
            assert isinstance(launcher, SlurmLauncher)
            for one in lost:
                launcher.lose(one)
            for step in over:
                launcher.prove(step)
            launcher.give_up_late()
            self.carriers[launcher].prepare()

    def fileno(self) -> int:
        return self.watched.clerk.fileno()

    def environment(self, lease: Lease) -> Path:
        found = self.watched.environment_of(place_of(lease))
        assert found is not None
        return found

    def forget(self, lease: Lease) -> None:
        self.watched.note_run(place_of(lease))


class EngineBench(Bench[RemoteJob]):
    """A launcher over the slot of an engine."""

    launcher: RemoteLauncher

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.launchers: list[RemoteLauncher] = []
        self.taken = self._take()
        self.slot = self.taken.slot
        super().__init__(folder, self.another())

    def another(self, *, grace_s: float = 5.0) -> RemoteLauncher:
        self.launchers.append(self.engine.launcher(self.folder, grace_s))
        return self.launchers[-1]

    def lease(self, *descriptors: int) -> Lease:
        # what jobs begin with is written where they start, and not where the engine was opened
        about = {"environment": dict(os.environ)}
        self.engine.environment(self.taken).write_text(json.dumps(about))
        return super().lease(*descriptors)

    def wait(self, job: RemoteJob, launcher: Launcher[RemoteJob] | None = None) -> Ending:
        until_s = time.monotonic() + _PATIENCE_S
        while (ending := (launcher or self.launcher).finish(job)) is None:
            left_s = until_s - time.monotonic()
            assert left_s > 0, "the job did not end"
            # some of what an engine heeds is only due
            select.select([job.fileno(), self.engine.fileno()], [], [], min(left_s, 0.5))
            self.engine.heed(self.launchers)
        return ending

    def close(self) -> None:
        super().close()
        # what failed on purpose holds no other test up
        self.engine.forget(self.taken)
        self.engine.watched.release(self.taken)

    def _take(self) -> Lease:
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            self.engine.heed([])
            if (lease := self.engine.watched.take(NO_WISH)) is not None:
                return lease
            assert time.monotonic() < until_s, self.engine.watched.why_none()
            select.select([self.engine], [], [], 0.1)


@pytest.fixture(scope="module")
def engine_on_ray(ray_session: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    """Ray, with one slot."""
    ray_session.mend()
    study = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_link, "COMMAND", tuple(ray_session.on_head(ray_link.COMMAND, study)))
        for name, value in ray_session.ray_environment.items():
            patch.setenv(name, value)
        engine = OnRay(ray_session, study)
        with contextlib.closing(engine.watched):
            yield engine
            assert engine.watched.end() == []


@pytest.fixture(scope="module")
def engine_on_slurm(
    slurm_session: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnSlurm]:
    """Slurm, with one slot."""
    study = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_session.environment.items():
            patch.setenv(name, value)
        slurm_session.set_accounting(False)
        engine = OnSlurm(study)
        with contextlib.closing(engine.watched):
            yield engine
            assert engine.watched.end() == []
        slurm_session.clear()
