"""What a node hears from whoever carries it, and what it says to them: lines over standard streams.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import os
import select

READ_BYTES = 64 * 1024


class Lines:
    """What comes by standard input, line by line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = b""
        self.has_ended = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def take(self) -> list[str]:
        """Read what is there, waiting for it if nothing is; return the lines that are whole."""
        try:
            select.select([self._descriptor], [], [])
            part = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return []  # it is shared, and another took what was there
        except OSError:
            part = b""  # closed from the beginning, or a terminal that is gone
        self.has_ended = not part
        *lines, self._read = (self._read + part).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


def complain(words: str) -> None:
    """Say something to whoever keeps what this process says, if anybody does."""
    with contextlib.suppress(OSError):
        os.write(2, f"hyperband: {words}\n".encode(errors="replace"))
