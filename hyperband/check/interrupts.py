"""Ctrl-C and SIGTERM as something to be noticed between two steps, and what a check sleeps on."""

import select
import signal
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

from hyperband.errors import HyperbandError
from hyperband.machine.signals import Signals


class CheckStoppedError(HyperbandError):
    """Somebody ended the check."""

    exit_code: ClassVar[int] = 130


class Interrupts:
    """While entered, signals that mean an end only set a flag, and end a sleep."""

    def __init__(self) -> None:
        """Nothing is taken over before entering."""
        self._name = ""
        self._signals = Signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._note)

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._signals.__exit__(kind, error, trace)

    @property
    def came(self) -> bool:
        """True once a signal came."""
        return bool(self._name)

    def heed(self) -> None:
        """Go on unless a signal came.

        Raises:
            CheckStoppedError: one did.
        """
        if self._name:
            raise CheckStoppedError(f"the check was ended by {self._name}; none of its jobs is left.")

    def sleep(self, descriptors: Sequence[int], timeout_s: float | None) -> set[int]:
        """Sleep until one is readable, a signal comes or the time is up; those that are readable."""
        poll = select.poll()
        for descriptor in (*descriptors, self._signals.fileno()):
            poll.register(descriptor, select.POLLIN)
        found = {fd for fd, _ in poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000) + 1))}
        if self._signals.fileno() in found:
            self._signals.drain()
            found.discard(self._signals.fileno())
        return found

    def _note(self, number: signal.Signals) -> None:
        self._name = number.name
