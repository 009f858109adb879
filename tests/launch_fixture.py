"""Launchers with a folder for their jobs: what the tests of all launchers have in common.

`RemoteBench` is an engine without a batch system: its carrier is a plain process of this machine that runs
what was shipped. Kernel and file system are then the same on both sides; all else is as between machines.
"""

import fcntl
import json
import os
import select
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from search_fixture import until

from hyperband.launch.base import Ending, Launcher, Lease, Order, RunningJob, Slot
from hyperband.launch.local import LocalJob, LocalLauncher
from hyperband.launch.remote.carrier import Carrier, Room, spawn
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.launch.remote.shipping import ship
from hyperband.machine import keeper

SLOT = Slot("cpu:0", ("--gpu", "0"), {})
J = TypeVar("J", bound=RunningJob)


class Bench(Generic[J]):
    """A launcher and a folder for its jobs."""

    slot = SLOT

    def __init__(self, folder: Path, launcher: Launcher[J]) -> None:
        self.folder = folder
        self.launcher = launcher
        self.n = 0

    def another(self, *, grace_s: float = 5.0) -> Launcher[J]:
        """A launcher as that of a later search."""
        raise NotImplementedError

    def close(self) -> None:
        self.launcher.close()

    def make_folder(self) -> Path:
        folder = self.folder / f"job-{self.n}"
        folder.mkdir()
        self.n += 1
        return folder

    def start(
        self,
        *argv: str,
        environment: Mapping[str, str | None] | None = None,
        leases: tuple[int, ...] = (),
        folder: Path | None = None,
    ) -> J:
        folder = self.make_folder() if folder is None else folder
        return self.launcher.start(Order(folder, argv, environment or {}), self.lease(*leases))

    def lease(self, *descriptors: int) -> Lease:
        """The lease of a slot for a job."""
        return Lease(self.slot, descriptors)

    def python(self, code: str, *, environment: Mapping[str, str | None] | None = None) -> J:
        return self.start(sys.executable, "-c", code, environment=environment)

    def wait(self, job: J, launcher: Launcher[J] | None = None) -> Ending:
        while True:
            assert select.select([job], [], [], 100)[0], "the job did not end"
            if (ending := (launcher or self.launcher).finish(job)) is not None:
                return ending

    @property
    def latest(self) -> Path:
        """Folder of the attempt that was made last."""
        return self.folder / f"job-{self.n - 1}"

    def about(self, folder: Path | None = None) -> dict[str, Any]:
        """What the keeper wrote down; waits until it has."""
        path = (folder or self.latest) / keeper.KEEPER_FILE
        until(path.is_file, "the keeper to write itself down")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


class LocalBench(Bench[LocalJob]):
    """Of this machine."""

    launcher: LocalLauncher

    def __init__(self, folder: Path, *, grace_s: float = 5.0) -> None:
        self.folder = folder
        self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        super().__init__(folder, self.another(grace_s=grace_s))

    def another(self, *, grace_s: float = 5.0) -> LocalLauncher:
        return LocalLauncher(
            cwd=self.folder, lock=self.lock, errors=self.folder / "keepers.err", grace_s=grace_s
        )

    def close(self) -> None:
        super().close()
        os.close(self.lock)


class LocalCarriers:
    """Carries keepers to this machine, by a process that waits for its attempt or one that knows it."""

    def __init__(self, folder: Path, *, waits: bool = True, python: str = sys.executable) -> None:
        self.folder = folder
        self.waits = waits
        self.argv: tuple[str, ...] = (python, "-I", "-S", str(ship(folder)))
        self.room_is = Room()
        #: labels of what is said to be under way
        self.coming: set[str] = set()
        self.let_go_of: list[str] = []
        #: one that waits
        self.standby: Carrier | None = None

    def wait_ahead(self) -> Carrier:
        """Have one wait for its attempt."""
        self.standby = self._spawn(is_told=False)
        return self.standby

    def room(self, lease: Lease) -> Room:  # noqa: ARG002
        return self.room_is

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:  # noqa: ARG002
        if self.standby is not None:
            found, self.standby = self.standby, None
            return found
        return self._spawn(is_told=False) if self.waits else self._spawn(str(folder), attempt, is_told=True)

    def is_coming(self, label: str) -> bool:
        return label in self.coming

    def let_go(self, carrier: Carrier) -> None:
        self.let_go_of.append(carrier.label)

    def close(self) -> None:
        if self.standby is not None:
            self.standby.close()
            self.standby = None

    def _spawn(self, *arguments: str, is_told: bool) -> Carrier:
        return spawn(
            [*self.argv, *arguments],
            cwd=Path("/"),
            environment=dict(os.environ),
            errors=self.folder / "carriers.err",
            is_told=is_told,
        )


class RemoteBench(Bench[RemoteJob]):
    """Of an engine whose only node is this machine."""

    launcher: RemoteLauncher

    def __init__(
        self,
        folder: Path,
        *,
        grace_s: float = 5.0,
        lease_s: float = 15.0,
        margin_s: float = 5.0,
        waits: bool = True,
        python: str = sys.executable,
    ) -> None:
        self.folder = folder
        self.lease_s, self.margin_s = lease_s, margin_s
        self.carriers = LocalCarriers(folder, waits=waits, python=python)
        super().__init__(folder, self.another(grace_s=grace_s))

    def another(self, *, grace_s: float = 5.0) -> RemoteLauncher:
        return RemoteLauncher(
            self.carriers, cwd=self.folder, grace_s=grace_s, lease_s=self.lease_s, margin_s=self.margin_s
        )


#: of a launcher that the test need not know
AnyBench = Bench[Any]
