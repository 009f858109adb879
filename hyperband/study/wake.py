"""What wakes the loop: signals as plain flags, and descriptors through one selector."""

import os
import selectors
import signal
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Protocol

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
        self._hands_over = hands_over
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._before: dict[int, object] = {}
        self._wakeup_before = -1

    def __enter__(self) -> "Wake":
        """Take the signals over."""
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
        for number in (*numbers, signal.SIGUSR2) if self._hands_over else numbers:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: nobody wants to hear of it, and what we print goes to a file
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup_before)
        self._selector.close()
        os.close(self._reader)
        os.close(self._writer)

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
            if key.fileobj == self._reader:
                os.read(self._reader, 4096)
            else:
                found.add(key.fileobj)
        return found

    def peek(self) -> set[object]:
        """Return what is readable now; signals wait for the next sleep."""
        ready = (key.fileobj for key, _ in self._selector.select(0.0))
        return {thing for thing in ready if thing != self._reader}

    def _note(self, number: int, _: FrameType | None) -> None:
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
