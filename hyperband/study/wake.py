"""What wakes the loop: signals as plain flags, and descriptors through one selector."""

import selectors
import signal
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

from hyperband.machine.signals import Signals

#: the kernel takes no more than some weeks at once; waking for nothing does no harm
_LONGEST_SLEEP_S = 86400.0


class HasDescriptor(Protocol):
    """Anything that becomes readable."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


class Wake:
    """The loop's sleep. Signal handlers only set flags; all work happens in the loop."""

    def __init__(self, *, hands_over: bool = False) -> None:
        """Prepare the selector; signals are taken over on entering.

        Args:
            hands_over: take SIGUSR2 for the word that the machine is about to be taken away.
        """
        self.n_interrupts = 0
        self.terminated = False
        self.hung_up = False
        self.release_asked = False
        #: all is to be stopped, for a start that follows at once
        self.hand_over_asked = False
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
        self._signals = Signals([*numbers, signal.SIGUSR2] if hands_over else numbers, self._note)
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> "Wake":
        """Take the signals over."""
        self._signals.__enter__()
        self._selector.register(self._signals, selectors.EVENT_READ)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._selector.close()
        self._signals.__exit__(kind, error, trace)

    def watch(self, thing: HasDescriptor) -> None:
        """Wake when this becomes readable."""
        self._selector.register(thing, selectors.EVENT_READ)

    def forget(self, thing: HasDescriptor) -> None:
        """Stop watching it; call before its descriptor is closed."""
        self._selector.unregister(thing)

    def sleep(self, timeout_s: float | None) -> set[object]:
        """Sleep until something is readable, a signal came, or the time is up; return what is readable."""
        found: set[object] = set()
        for key, _ in self._selector.select(None if timeout_s is None else min(timeout_s, _LONGEST_SLEEP_S)):
            if key.fileobj is self._signals:
                self._signals.drain()
            else:
                found.add(key.fileobj)
        return found

    def peek(self) -> set[object]:
        """Return what is readable now; signals wait for the next sleep."""
        ready = (key.fileobj for key, _ in self._selector.select(0.0))
        return {thing for thing in ready if thing is not self._signals}

    def _note(self, number: signal.Signals) -> None:
        if number == signal.SIGINT:
            self.n_interrupts += 1
        elif number == signal.SIGTERM:
            self.terminated = True
        elif number == signal.SIGUSR1:
            self.release_asked = True
        elif number == signal.SIGUSR2:
            self.hand_over_asked = True
        else:
            self.hung_up = True


def earliest(times_s: Iterable[float | None]) -> float | None:
    """Return the smallest of some waiting times, None if none of them is one."""
    return min((max(0.0, time_s) for time_s in times_s if time_s is not None), default=None)
