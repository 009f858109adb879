"""The wait of new trials for the first proposal, where other studies teach the model: short, and told of.

Owns how long that may take, and the words about it. Without other studies nothing waits for the model.
"""

import time

from hyperband.study.wake import earliest

#: so long new trials wait at most
MOST_S = 10.0
#: a wait is told of when it has lasted so long
_WORTH_TELLING_S = 1.0


class Prelude:
    """From the start of a search to the first proposal, or until it has taken too long."""

    def __init__(self) -> None:
        """It begins now."""
        self._began_s = time.monotonic()
        self._has_ended = False
        self._unsaid = [
            (
                _WORTH_TELLING_S,
                f"New trials wait for what the model learns from other studies, for at most {MOST_S:g} s.",
            ),
            (
                MOST_S,
                "The model has not yet learned from other studies: trials start at random until it has.",
            ),
        ]

    @property
    def is_over(self) -> bool:
        """Whether new trials may start."""
        return self._has_ended or self._passed_s() >= MOST_S

    def end(self) -> None:
        """There is a proposal, or it is known that there will be none."""
        if not self.is_over:
            self._has_ended = True
            self._unsaid.clear()

    def wait_s(self) -> float | None:
        """Seconds until something is to be said, or trials may start; None: that is past."""
        return earliest([max(0.0, at_s - self._passed_s()) for at_s, _ in self._unsaid])

    def take_news(self) -> list[str]:
        """Lines for people, since the last call."""
        passed_s = self._passed_s()
        news = [words for at_s, words in self._unsaid if at_s <= passed_s]
        self._unsaid = self._unsaid[len(news) :]
        return news

    def _passed_s(self) -> float:
        return time.monotonic() - self._began_s
