"""Where the jobs of a search run: slots and a launcher that belong together, and what keeps them there.

Owns the protocol between the loop and the places where jobs run, and this machine's side of it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperband.errors import HyperbandError
from hyperband.folder import KEEPERS_FILE
from hyperband.launch.base import Launcher, Slot, Slots
from hyperband.launch.environment import job_environment
from hyperband.launch.local import LocalLauncher
from hyperband.launch.slots import make_slots
from hyperband.launch.warm.hosting import WarmHost
from hyperband.settings import Settings
from hyperband.study.wake import HasDescriptor


@dataclass(frozen=True, slots=True)
class Waiting:
    """The jobs that wait for a slot."""

    #: as many as could be used at once, at most
    n_jobs: int
    #: how long the shortest of them is expected to run; None: not known
    shortest_s: float | None = None
    #: places that get no job: they failed those that succeed elsewhere
    quarantined: frozenset[str] = frozenset()
    #: the search comes to its end: nothing is started any more, nor is there to begin what was
    is_last: bool = False


class Grounds(Protocol):
    """Where jobs run. One owner: the search's loop. Nothing here waits, but for `give_back` and `close`."""

    @property
    def engine(self) -> str:
        """What starts the jobs here, as said with --on: only its own jobs can be gone on with."""
        ...

    @property
    def slots(self) -> Slots:
        """The slots, from the beginning."""
        ...

    @property
    def outlive_us(self) -> bool:
        """Whether jobs go on where this machine loses its power: then their starts must be on disk first."""
        ...

    @property
    def know_time(self) -> bool:
        """Whether it matters how long a job is expected to run."""
        ...

    def open(self, folder: Path, lock: int, cwd: Path) -> Launcher[Any]:
        """Make ready to start jobs, now that the study is ours.

        Args:
            folder: of the study.
            lock: descriptor of its lock.
            cwd: working directory of the jobs.

        Raises:
            MachineError: something of the machine or the engine is missing.
        """
        ...

    def environment(self, slot: Slot) -> dict[str, str]:
        """Return what every job's environment has there besides what its slot adds."""
        ...

    def near(self, after: Path | None) -> frozenset[str] | None:
        """Return the slots of which alone an attempt's checkpoint is in reach.

        Empty: only of such that may come yet. None: it is of all, or of none that is there or may come.

        after: folder of the attempt; None: there is none.
        """
        ...

    def owns(self, pid: int) -> bool:
        """Return whether a process of this machine is of ours: a job's, or one that starts jobs."""
        ...

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """What `heed` has something to do for when it becomes readable; always the same once open."""
        ...

    def heed(self) -> None:
        """Take in what happened there, before slots are looked for; each turn.

        Raises:
            InternalError, MachineError: something of ours or of the machine gave way.
        """
        ...

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Hear what waits for a slot now that all were filled that could be; each turn."""
        ...

    def why_waiting(self) -> str:
        """Return why jobs that were started have not begun, where that takes long; empty: none waits."""
        ...

    def why_over(self) -> HyperbandError | None:
        """Return why nothing can be started there any more, if that is so."""
        ...

    def news(self) -> list[str]:
        """Return lines worth saying that came up since the last call, those of the slots included."""
        ...

    def next_look_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing becomes readable; None: never."""
        ...

    def give_back(self) -> list[str]:
        """Give back what is held, since no job runs and none will; return what must be said of it."""
        ...

    def close(self) -> None:
        """Let go of everything but the jobs and what they need: those go on."""
        ...


class LocalGrounds:
    """This machine."""

    engine = LocalLauncher.engine
    outlive_us = False
    know_time = False

    def __init__(self, settings: Settings, *, study: Path, owns: Callable[[int], bool]) -> None:
        """Look for slots.

        Args:
            settings: of the search.
            study: absolute path of the study's folder: the name under which GPUs are leased.
            owns: tells whether a process is ours that is neither a job's nor the launcher's.

        Raises:
            UsageError, MachineError: see make_slots.
        """
        self._settings = settings
        self._launcher: LocalLauncher | None = None
        self.slots: Slots = make_slots(
            settings, environ=os.environ, study=str(study), owns=lambda pid: self.owns(pid) or owns(pid)
        )
        n_slots = self.slots.n_slots()
        # a warm host has loaded the libraries with the first number for good
        is_fixed = settings.warm or settings.jobs_per_gpu is not None
        self._n_at_once: Callable[[], int] = (lambda: n_slots) if is_fixed else self.slots.n_slots

    def open(self, folder: Path, lock: int, cwd: Path) -> LocalLauncher:
        """Return what starts jobs; with `--warm` its host begins to import at once."""
        errors = folder / KEEPERS_FILE
        warm = None
        # a warm host sees as many GPUs as its jobs: none, or some
        sees_gpus = not any(name.startswith("cpu:") for name in self.slots.names())
        if self._settings.warm:
            warm = WarmHost(
                python=self._settings.python,
                script=self._settings.script,
                script_args=self._settings.script_args,
                cwd=cwd,
                lock=lock,
                errors=errors,
                environment={
                    **job_environment(self.slots.n_slots()),
                    "CUDA_VISIBLE_DEVICES": None if sees_gpus else "",
                },
            )
        self._launcher = LocalLauncher(
            cwd=cwd, lock=lock, errors=errors, grace_s=self._settings.grace_s, warm=warm
        )
        return self._launcher

    def environment(self, slot: Slot) -> dict[str, str]:
        """Return what every job's environment has besides what its slot adds: its share of the cores."""
        return job_environment(1 if len(slot.gpu_uuids) > 1 else self._n_at_once())

    def near(self, after: Path | None) -> frozenset[str] | None:  # noqa: ARG002
        """None: all slots are of one machine."""
        return None

    def owns(self, pid: int) -> bool:
        """Return whether a process is a job's, or one that starts jobs."""
        return self._launcher is not None and self._launcher.owns(pid)

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """The warm host, if there is one."""
        warm = self._warm
        return () if warm is None else (warm,)

    def heed(self) -> None:
        """Take in what the warm host says."""
        if (warm := self._warm) is not None:
            warm.heed()

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Do nothing: slots of this machine are there or not."""

    def why_waiting(self) -> str:
        """Nothing: jobs begin at once."""
        return ""

    def why_over(self) -> None:
        """None: this machine says so when a job is started."""
        return

    def news(self) -> list[str]:
        """Return what slots and warm host have to tell."""
        warm = self._warm
        return [*self.slots.news(), *([] if warm is None else warm.take_news())]

    def next_look_s(self) -> None:
        """None: everything here gives an event."""
        return

    def give_back(self) -> list[str]:
        """Nothing is held: leases end with their jobs."""
        return []

    def close(self) -> None:
        """Let the servers go; keepers and jobs live on."""
        if self._launcher is not None:
            self._launcher.close()

    @property
    def _warm(self) -> WarmHost | None:
        return None if self._launcher is None else self._launcher.warm
