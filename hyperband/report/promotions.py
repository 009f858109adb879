"""Words on single trials that go on, where no rung is waited for; on a live screen only now and then.

Owns how often that is said. Who goes on, and why, are the engine's decisions.
"""

import time
from collections.abc import Callable

from hyperband.report.text import counted
from hyperband.search.decisions import WentOn

#: jobs may take a fraction of a second: a live screen gets no more than one line in so many
QUIET_S = 10.0
_TO_EPOCH = " goes on to epoch "
_RULE = ", and the best of them that had not gone on"


class Promotions:
    """Says which trials went on."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nobody has gone on yet; `monotonic` gives seconds."""
        self._monotonic = monotonic
        self._said_at = float("-inf")
        self._n_unsaid = 0
        #: the highest rung that was said to be entered
        self._highest = 0

    def words(self, decision: WentOn, *, is_live: bool) -> str | None:
        """One short line on a trial that goes on, with the reason; None: it is only counted.

        On a live screen the first trial in each rung is told of, and of others one in a while.
        """
        now = self._monotonic()
        is_first = decision.rung > self._highest
        if is_live and not is_first and now < self._said_at + QUIET_S:
            self._n_unsaid += 1
            return None
        self._highest = max(self._highest, decision.rung)
        self._said_at = now
        n_others, self._n_unsaid = self._n_unsaid, 0
        others = f" ({counted(n_others, 'more promotion')} since the last such line)" if n_others else ""
        return f"{promotion_words(decision)}{others}"


def promotion_words(decision: WentOn) -> str:
    """`trial 4 goes on to epoch 9: among the best 2 of 6 losses in rung 1 so far`."""
    why, to, epochs = decision.reason.rpartition(_TO_EPOCH)
    if not to:
        return f"trial {decision.trial}: {decision.reason}"
    return f"trial {decision.trial}{to}{epochs}: {why.removesuffix(':').removesuffix(_RULE)}"
