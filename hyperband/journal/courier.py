"""Brings copies of a journal that is on a local disk into its study's folder, beside the search's work."""

import threading
import time
from collections import deque
from collections.abc import Callable

from hyperband.errors import JournalError
from hyperband.journal.carrying import carry_copy
from hyperband.journal.database import DamagedError, snapshot
from hyperband.journal.home import Home

#: the first copy, and how long there is none after one: at least this, and this many times what one took
_FIRST_S = 0.5
_EVERY_S = 5.0
_TIMES = 20.0
#: how often it is looked whether somebody asks us to end
_LOOK_S = 1.0
_OUT_FILE = "journal.out"


class Courier:
    """A thread that copies what is new, now and then. It reads the database as anybody else may."""

    def __init__(self, home: Home, n_events: Callable[[], int], on_stop: Callable[[], None] | None) -> None:
        """Begin.

        Args:
            home: of the journal, which is not in its study's folder.
            n_events: how many there are, asked in the thread.
            on_stop: called in the thread when somebody on another machine asks us to end; None: nobody can.
        """
        self._home = home
        self._on_stop = on_stop
        self._n_events = n_events
        self._n_carried = -1
        self._fails = False
        #: lines for the user, in order
        self.news: deque[str] = deque()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, after what is under way."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        next_s, sign_s = time.monotonic() + _FIRST_S, 0.0
        while not self._ending.wait(min(_LOOK_S, max(0.0, next_s - time.monotonic()))):
            began_s = time.monotonic()
            is_due = began_s >= next_s
            try:
                if self._on_stop is not None and self._home.take_stop_request():
                    self._on_stop()
                if not is_due and began_s < sign_s:
                    continue
                if not self._home.is_ours():
                    return  # whoever writes the journal next meets it
                # also where the next copy is long in coming, since the last one took long
                self._home.show_life()
                if is_due:
                    self._carry()
                    self._fails = False
            except (OSError, JournalError, DamagedError) as err:
                if not self._fails:
                    why = getattr(err, "strerror", None) or err
                    self.news.append(
                        f"The journal cannot be copied into {self._home.study} ({why}): it is whole at "
                        f"{self._home.path}, and is copied as soon as it can be."
                    )
                self._fails = True
            now_s = time.monotonic()
            sign_s = now_s + _EVERY_S
            if is_due:
                next_s = now_s + max(_EVERY_S, _TIMES * (now_s - began_s))

    def _carry(self) -> None:
        n_events = self._n_events()
        if n_events != self._n_carried:
            out = self._home.path / _OUT_FILE
            snapshot(self._home.path, out)
            carry_copy(out, self._home.study)
            self._n_carried = n_events
