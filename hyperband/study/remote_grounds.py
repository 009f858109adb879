"""Other machines as the place where jobs run: what is alike whichever engine gives them."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from hyperband.errors import HyperbandError
from hyperband.launch.base import Slots
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.launch.remote.slots import RemoteSlots
from hyperband.study.grounds import Waiting
from hyperband.study.wake import earliest

S = TypeVar("S", bound=RemoteSlots)
L = TypeVar("L", bound=RemoteLauncher)


class RemoteGrounds(Generic[S, L]):
    """An engine's slots and its launcher, put together."""

    outlive_us = True
    know_time = False

    def __init__(self, slots: S, *, grace_s: float) -> None:
        """Ask for nothing yet; grace_s: between SIGTERM and SIGKILL of a job."""
        self._slots = slots
        self._grace_s = grace_s
        self._launcher: L | None = None

    @property
    def slots(self) -> Slots:
        """Those that the engine gives."""
        return self._slots

    def near(self, after: Path | None) -> frozenset[str] | None:  # noqa: ARG002
        """None: checkpoints are on a file system that all nodes share."""
        return None

    def owns(self, pid: int) -> bool:  # noqa: ARG002
        """Return False: jobs run elsewhere."""
        return False

    def heed(self) -> None:
        """Take in what happened to slots; jobs that were lost with one are given up.

        Raises:
            InternalError, MachineError: whoever talks to the engine cannot go on; the folder of a job cannot
                be written to.
        """
        self._slots.heed()
        if self._launcher is not None:
            self._launcher.heed()

    def want(self, waiting: Callable[[], Waiting]) -> None:
        """Do nothing: what waits for a slot changes nothing about slots."""

    def why_waiting(self) -> str:
        """Return what jobs wait for at the engine."""
        return self._slots.why_waiting()

    def why_over(self) -> HyperbandError | None:
        """Return why there will be no slots any more."""
        return self._slots.failure

    def news(self) -> list[str]:
        """Return what happened to slots."""
        return list(self._slots.news())

    def next_look_s(self) -> float | None:
        """Return seconds until slots or jobs are worth a look although the engine says nothing."""
        late_s = None if self._launcher is None else self._launcher.next_look_s()
        return earliest([self._slots.wait_s(), late_s])

    def give_back(self) -> list[str]:
        """End all that is held, and see it gone."""
        return self._slots.end()

    def close(self) -> None:
        """Let go of everything; jobs and what they run in go on."""
        if self._launcher is not None:
            self._launcher.close()
        self._slots.close()
