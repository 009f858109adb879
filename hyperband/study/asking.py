"""The script's process of a guided search: what it is asked for, and what is done when it ends.

Owns that process and the order of its work: draws that slots may wait for come first, what `get_config`
makes of ids after them. A `get_config` that is slow, or that ends the process, costs draws for the model and
no slot's time. Must not know the guide, the plan or the rule of the random share.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from hyperband.errors import MachineError
from hyperband.guide.messages import Config
from hyperband.script.candidates import Candidates
from hyperband.script.failures import ProcessEndedError
from hyperband.script.host import ScriptHost
from hyperband.study.looking import MOST_S, Look, TooSlowError
from hyperband.study.sampling import N_STARTS, is_of_session

#: so many draws that no trial has are to be there for random turns
_N_AT_HAND = 64
#: one request: the process must be free for others soon
_N_DRAWS = 512
_DRAWS_S = 0.5
#: once jobs run
_NICENESS = 10
#: so many ids that get_config reads well make up for one that it ended the process at
_N_MAKE_UP = 1000
#: ids that are to be read; of more the oldest go unread
_MOST_UNREAD = 4000

#: why a process is there no more
_End: TypeAlias = MachineError | ProcessEndedError | TooSlowError


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next draws of the stream, repeats included."""

    ids: tuple[str, ...]
    #: what they say, by `get_config`; None for one that it refused, None instead of all: their text is read.
    configs: Sequence[Config] | None
    #: the guide hears of them later, when they are read
    is_unread: bool


@dataclass(frozen=True, slots=True)
class Read:
    """What `get_config` makes of ids that were drawn before, or that trials have."""

    ids: tuple[str, ...]
    configs: Sequence[Config]
    are_draws: bool


class Asking:
    """The process, one request at a time. Nothing here waits but for the import when it is started again."""

    def __init__(self, open_host: Callable[[], ScriptHost], *, seed: int, look: Look) -> None:
        """Take the process.

        Args:
            open_host: starts a process that has imported the script; called again if that ends.
            seed: of the search.
            look: at the script's ids.
        """
        self._open_host = open_host
        self._seed = seed
        self._has_get_config = look.by_get_config
        #: draws come without configurations, which are read one by one when there is time
        self._is_careful = self._is_slow = look.is_slow
        #: get_config is asked no more
        self._is_given_up = False
        self._n_starts = 1
        self._n_ends = 0
        self._n_read = 0
        #: ids to be read: of trials, and of draws
        self._of_trials: deque[str] = deque()
        self._of_draws: deque[str] = deque(maxlen=_MOST_UNREAD)
        #: which of them is asked for; None: draws
        self._reading: deque[str] | None = None
        self._asks_get_config = False
        #: when it was asked, or was last heard of
        self._heard_at_s = 0.0
        self._has_stepped_back = False
        self._was_refused = False
        self._news: list[str] = []
        self.host: ScriptHost | None = open_host()

    @property
    def is_open(self) -> bool:
        """Whether there is a process."""
        return self.host is not None

    @property
    def is_busy(self) -> bool:
        """Whether it has something to answer."""
        return self.host is not None and self.host.is_sampling

    @property
    def wants_configs(self) -> bool:
        """Whether ids are read by `get_config`, and not by their text."""
        return self._has_get_config

    @property
    def n_to_read(self) -> int:
        """How many draws are still to be read."""
        return len(self._of_draws)

    def owns(self, pid: int) -> bool:
        """Whether a process of this machine is the script's, imported to draw, or of its session."""
        return is_of_session(pid, self.host)

    def wait_s(self) -> float | None:
        """Seconds until one id has taken get_config too long, which `receive` sees; None: it reads none."""
        if not (self.is_busy and self._asks_get_config):
            return None
        return max(0.0, self._heard_at_s + MOST_S - time.monotonic())

    def take_news(self) -> list[str]:
        """Lines for people, since the last call."""
        news, self._news = self._news, []
        return news

    def read(self, ids: Iterable[str]) -> Read | None:
        """Have ids of trials read; what is known of them at once."""
        asked = tuple(ids)
        if self._is_given_up:
            return Read(asked, [None] * len(asked), are_draws=False)
        self._of_trials.extend(asked)
        return None

    def ask(self, first: int, *, n_short: int, n_for_guide: int, is_open: bool, is_exhausted: bool) -> None:
        """Ask for what is wanted most, if the process is idle.

        Args:
            first: number of the next draw.
            n_short: draws that slots could take at once, less those that are there.
            n_for_guide: draws that the guide wants.
            is_open: jobs may start; before, draws are all that counts.
            is_exhausted: there are no further draws.
        """
        if self.host is None or self.host.is_sampling:
            return
        n_at_hand = n_short + _N_AT_HAND
        n_urgent = n_at_hand if self._is_careful else n_short
        self._reading = None
        self._heard_at_s = time.monotonic()
        if is_open and (n_urgent <= 0 or is_exhausted):
            self._reading = self._of_trials or self._of_draws or None
        if self._is_given_up or (self._is_careful and self._of_draws):
            n_for_guide = 0
        n_wanted = max(n_at_hand, n_for_guide) if is_open else _N_DRAWS
        if self._reading is not None:
            self._asks_get_config = True
            n_ids = 1 if self._is_careful else _N_DRAWS
            self.host.start_reading(list(islice(self._reading, n_ids)), limit_s=_DRAWS_S)
        elif n_wanted > 0 and not is_exhausted:
            self._asks_get_config = self._has_get_config and not self._is_careful and not self._is_given_up
            self.host.start_candidates(
                self._seed,
                first,
                min(n_wanted, _N_DRAWS),
                limit_s=_DRAWS_S,
                with_configs=self._asks_get_config,
            )

    def receive(self) -> list[Drawn | Read]:
        """What has come in.

        Raises:
            ContractError: the sampler raises, ends its process, or gives something that is no config id.
            MachineError: the process was killed again and again.
        """
        if self.host is None:
            return []
        try:
            found = self.host.receive()
        except (MachineError, ProcessEndedError) as err:
            return self._heed_end(err)
        if found:
            self._heard_at_s = time.monotonic()
        elif self.wait_s() == 0.0:
            return self._heed_end(TooSlowError())
        heard: list[Drawn | Read] = []
        for part in found:
            if isinstance(part, Candidates):
                if part.is_last:
                    self._n_starts = 1  # it lives for days: only kills in one request count
                heard.append(self._taken_in(part))
        return heard

    def _taken_in(self, part: Candidates) -> Drawn | Read:
        if part.refusal and self._has_get_config and not self._was_refused:
            self._was_refused = True
            self._news.append(f"Warning: some config ids are tried at random only. {part.refusal}")
        if self._asks_get_config:
            self._n_read += len(part.ids)
            if self._n_read >= _N_MAKE_UP:
                self._n_ends = 0
                self._is_careful = self._is_slow
        configs = part.configs or [None] * len(part.ids)
        if self._reading is not None:
            for _ in part.ids:
                self._reading.popleft()
            return Read(part.ids, configs, are_draws=self._reading is self._of_draws)
        if not self._has_get_config:
            return Drawn(part.ids, None, is_unread=False)
        is_unread = not self._asks_get_config and not self._is_given_up
        if is_unread:
            self._of_draws.extend(part.ids)
        return Drawn(part.ids, configs, is_unread=is_unread)

    def _heed_end(self, err: _End) -> list[Drawn | Read]:
        """The process ended, or hangs: another one goes on, and is not asked again what ended this one."""
        heard: list[Drawn | Read] = []
        if not self._asks_get_config:
            if isinstance(err, ProcessEndedError):
                raise err  # the sampler did that, and will again
            self._restart(err)
            return heard
        if self._reading is not None and self._is_careful:
            heard.append(Read((self._reading.popleft(),), [None], are_draws=self._reading is self._of_draws))
        self._n_ends += 1
        self._n_read, self._n_starts = 0, 1
        self._restart(err)
        if self._n_ends < N_STARTS:
            if not self._is_careful:
                self._news.append(f"Warning: config ids are read one by one for a while. {err}")
            self._is_careful = True
            return heard
        self._is_given_up = True
        self._news.append(
            f"Warning: get_config ended its process, or took too long, {N_STARTS} times and is asked no "
            f"more: the model proposes what was read so far, and other trials are random draws. {err}"
        )
        heard.append(Read(tuple(self._of_trials), [None] * len(self._of_trials), are_draws=False))
        self._of_trials.clear()
        self._of_draws.clear()
        return heard

    def _restart(self, err: _End) -> None:
        """Start another process: its draws are those of the one before."""
        if self.host is not None:
            self.host.close()
            self.host = None
        while self.host is None:
            if self._n_starts >= N_STARTS:
                raise err
            self._n_starts += 1
            try:
                self.host = self._open_host()
            except MachineError as again:
                err = again
        if self._has_stepped_back:
            self.step_back()

    def step_back(self) -> None:
        """Let the jobs have the processors first: from now on draws are no longer what slots wait for."""
        self._has_stepped_back = True
        if self.host is not None:
            with contextlib.suppress(ProcessLookupError):  # killed: it is started again
                os.setpriority(os.PRIO_PROCESS, self.host.pid, _NICENESS)

    def let_go(self) -> ScriptHost | None:
        """Give the process to another owner."""
        host, self.host = self.host, None
        return host

    def close(self) -> None:
        """End the process; a second call does nothing."""
        if self.host is not None:
            self.host.close()
            self.host = None
