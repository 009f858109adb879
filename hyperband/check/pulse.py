"""A sign of life during long silences: what runs, said at most every few seconds.

Owns when it is said. Must not know jobs or verdicts.
"""

import time
from collections.abc import Callable

#: so long nothing is said before the first sign of life, and at most between two
_FIRST_S, _LONGEST_S = 5.0, 60.0


class Pulse:
    """Hands lines on, and knows for how long there were none."""

    def __init__(self, say: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin with silence.

        Args:
            say: told each line.
            monotonic: a clock in seconds.
        """
        self._say = say
        self._monotonic = monotonic
        self._last_s = monotonic()
        self._pause_s = _FIRST_S
        #: the experiment that goes on, in a word or two
        self.doing = ""

    def say(self, text: str) -> None:
        """Hand a line on."""
        self._last_s = self._monotonic()
        self._pause_s = _FIRST_S
        self._say(text)

    def left_s(self) -> float:
        """Seconds until a sign of life is due."""
        return max(0.0, self._last_s + self._pause_s - self._monotonic())

    def beat(self, words: str) -> None:
        """Say what runs if it is time to; the longer nothing else is said, the more seldom."""
        if self.left_s() > 0:
            return
        self._last_s = self._monotonic()
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        self._say(f"         {self.doing}: {words}")
