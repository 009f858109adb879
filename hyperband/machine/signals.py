"""Signals taken over for a while: each only sets a flag of somebody's, and makes a descriptor readable.

Must not know: what a signal means.
"""

import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Self


class Signals:
    """While entered, these signals do nothing but that."""

    def __init__(self, numbers: Iterable[signal.Signals], note: Callable[[signal.Signals], None]) -> None:
        """Take nothing over before entering.

        Args:
            numbers: of the signals. SIGHUP is left alone where it is ignored, as nohup has it.
            note: called in the handler: sets a flag, and nothing else.
        """
        self._numbers = tuple(numbers)
        self._note = note
        self._before: dict[int, object] = {}
        self._wakeup_before = -1
        self._reader = self._writer = -1

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._numbers:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nobody wants to hear of it, and what we print goes to a file
            self._before[number] = signal.signal(number, self._heed)
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

    def fileno(self) -> int:
        """Return the descriptor that is readable once a signal came, until `drain`."""
        return self._reader

    def drain(self) -> None:
        """Make the descriptor one that waits for the next signal; call when it is readable."""
        os.read(self._reader, 4096)

    def _heed(self, number: int, _: FrameType | None) -> None:
        self._note(signal.Signals(number))
