"""What is fetched of one attempt, call by call, from the slot that runs it or ran it.

Owns the order of the calls. Its functions are called in the thread that talks with the search. Must not know
what Ray's handles are, nor what is laid down.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from hyperband.launch.ray.laying import Laying
from hyperband.machine.claim import FENCE

#: for so long a call waits for the attempt's end
_WAIT_S = 2.0
#: pause when what came cannot be laid down here
_TROUBLE_S = 1.0
_Handle: TypeAlias = Any
_After: TypeAlias = Callable[[float, Callable[[], None]], None]
_When: TypeAlias = Callable[[Any, Callable[[Any, BaseException | None], None]], None]


class Sync:
    """One attempt, until its result is here."""

    def __init__(
        self,
        handle: _Handle,
        laying: Laying,
        when: _When,
        after: _After,
        over: Callable[[str], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Fetch nothing yet.

        Args:
            handle: of the slot.
            laying: where it goes.
            when: has something done when Ray has an answer.
            after: has something done after so many seconds.
            over: told that nothing more will come, and what was said of it.
            is_wanted: asked whether the slot is there, as far as is known, and nobody has taken this over.
        """
        self._handle = handle
        self._laying = laying
        self._when = when
        self._after = after
        self._over = over
        self._is_wanted = is_wanted
        self._is_in_trouble = False
        self._is_told = False

    def begin(self) -> None:
        """Fetch what is there, and what comes."""
        self._ask(0.0)

    def _ask(self, wait_s: float) -> None:
        if not self._is_wanted():
            return
        laying = self._laying
        asked = self._handle.sync.remote(laying.attempt, dict(laying.offsets), laying.has_keeper, wait_s)
        self._when(asked, self._came)

    def _came(self, part: dict[str, Any] | None, error: BaseException | None) -> None:
        if error is not None:
            # a slot that is gone is told of; one that is there could not answer, or its answer was lost
            self._note_trouble(error)
            return
        if part is None:
            self._over("nothing of it is at its slot any more")
            return
        try:
            if not self._laying.is_wanted():
                self._send_away()
                return
            is_all = self._laying.lay(part)
            if is_all and not self._is_told:
                # a disk takes its time, and the slot is free
                self._is_told = True
                self._over("")
            if is_all:
                self._laying.make_sure()
        except OSError as err:
            self._note_trouble(err)
            return
        self._is_in_trouble = False
        if is_all:
            self._handle.forget.remote(self._laying.attempt)
        else:
            self._ask(0.0 if part["has_more"] else _WAIT_S)

    def _send_away(self) -> None:
        """Have it ended: its folder is gone, or another attempt's."""
        self._handle.tell.remote(self._laying.attempt, FENCE)
        self._handle.forget.remote(self._laying.attempt)
        self._over("its folder is not there any more")

    def _note_trouble(self, error: BaseException) -> None:
        """Try on, after a while."""
        if not self._is_in_trouble:
            print(f"{self._laying.attempt}: {error}; trying on", file=sys.stderr, flush=True)  # noqa: T201
        self._is_in_trouble = True
        self._after(_TROUBLE_S, lambda: self._ask(0.0))
