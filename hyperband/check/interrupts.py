"""Ctrl-C and SIGTERM as something to be noticed between two steps, and what a check sleeps on."""

import os
import select
import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import ClassVar, Self

from hyperband.errors import HyperbandError


class CheckStoppedError(HyperbandError):
    """Somebody ended the check."""

    exit_code: ClassVar[int] = 130


class Interrupts:
    """While entered, signals that mean an end only set a flag, and end a sleep."""

    def __init__(self) -> None:
        """Nothing is taken over before entering."""
        self._name = ""
        self._before: dict[int, object] = {}
        self._wakeup_before = -1
        self._reader = self._writer = -1

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

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
        for descriptor in (*descriptors, self._reader):
            poll.register(descriptor, select.POLLIN)
        found = {fd for fd, _ in poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000) + 1))}
        if self._reader in found:
            os.read(self._reader, 4096)
            found.discard(self._reader)
        return found

    def _note(self, number: int, _: FrameType | None) -> None:
        self._name = signal.Signals(number).name
