"""The guide as the search sees it: tell it what happens, give it draws of the sampler, take its proposals.

Owns the process that computes (server.py), the talk with it, and what it must be told again if it was killed.
Never waits for it. Must not know the script, the journal or the loop.
"""

import signal
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never

from hyperband.guide.messages import (
    Answer,
    Begin,
    Broken,
    Config,
    Descriptions,
    Draws,
    Features,
    Proposals,
    Teller,
    Told,
    Unknown,
    Want,
    WantDraws,
)
from hyperband.guide.service import Service
from hyperband.search.events import Event
from hyperband.search.guide import History

#: a process that was killed is started anew so often
_N_STARTS = 4
#: so many of the newest draws are kept for it
_N_KEPT = 2048


@dataclass(frozen=True, slots=True)
class Proposal:
    """A config id that the model ranks best for the next new trial."""

    config_id: str
    #: how many losses and failures the model had seen, those of other studies included
    n_observations: int


@dataclass(frozen=True, slots=True)
class NeedCandidates:
    """So many more draws of the sampler are wanted, those included that are under way already."""

    n: int


@dataclass(frozen=True, slots=True)
class NeedConfigs:
    """The guide wants `describe` for these ids of trials, which were not among the draws."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeaturesRead:
    """What the guide reads from the draws; said when it is known, and again when it changes."""

    #: none where nothing that varies is recognised: then every trial is a random draw
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A line for people: the guide's process was started again, or is gone for good, or its model failed."""

    text: str


News: TypeAlias = NeedCandidates | NeedConfigs | FeaturesRead | Note


class Guide:
    """Proposals of a model that learns in a process of its own. Nothing here waits.

    The search says what it knows (`tell`, `learn`, `offer`, `describe`), calls `receive` whenever `fileno` is
    readable, and takes a proposal if one is there. Whatever becomes of the process, no error comes from here:
    it is told as a Note, and there are no new proposals then.
    """

    def __init__(self, *, max_epochs: int, seed: int, log: Path, n_ready: int) -> None:
        """Start the process.

        Args:
            max_epochs: of a full training.
            seed: of the search.
            log: file to which the process appends what it says when something goes wrong.
            n_ready: how many proposals are to be ready: about as many as new trials may start at once.
        """
        self._begin = Begin(max_epochs, seed)
        self._want = Want(n_ready)
        self._log = log
        #: this study's, and those of the studies that it learns from
        self._histories = [History()]
        self._tellers: list[Teller] = []
        self._queue: deque[Told] = deque()
        #: the newest draws, for a process that must hear everything again
        self._draws: deque[Draws] = deque()
        self._is_exhausted = False
        #: how many draws went out, and how many the process wants in all
        self._n_offered = 0
        self._n_wanted = 0
        self._features: tuple[str, ...] | None = None
        self._ready: deque[Proposal] = deque()
        self._news: list[News] = []
        self._error = ""
        self._n_starts = 0
        self._service = Service(log)
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the process that computes; None: there is none (any more)."""
        return self._service.pid

    @property
    def n_candidates_wanted(self) -> int:
        """How many draws of the sampler are wanted beyond those that were offered."""
        is_heard = self._service.is_open and not self._is_exhausted
        return max(0, self._n_wanted - self._n_offered) if is_heard else 0

    @property
    def n_observations(self) -> int:
        """How many jobs the model may learn from by now, those of other studies included."""
        return sum(map(len, self._histories))

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do; the same until `close`."""
        return self._service.fileno()

    def tell(self, event: Event) -> None:
        """Take in an event of this study: all of them, in order, those of the journal at the start first.

        Raises:
            InternalError: the event cannot follow on those before.
        """
        self._histories[0].see(event)
        self._look_for_more()

    def learn(self, events: Iterable[Event]) -> None:
        """Take in another study's events: what became of its trials feeds the model.

        Raises:
            InternalError: an event cannot follow on those before.
        """
        history = History()
        for event in events:
            history.see(event)
        self._tellers.append(Teller(history, len(self._histories)))
        self._histories.append(history)
        self._look_for_more()

    def offer(self, ids: Sequence[str], configs: Sequence[Config] | None, *, is_last: bool = False) -> None:
        """Give draws of the sampler, in order and repeats included: the candidates for proposals.

        Args:
            ids: the draws.
            configs: what `get_config` makes of each, flat; None: the script has none, and the ids are read.
            is_last: the sampler gives no further distinct id; the guide asks for no more.
        """
        draws = Draws(ids, configs, is_last)
        self._is_exhausted |= is_last
        self._n_offered += len(ids)
        self._draws.append(draws)
        n_kept = sum(len(kept.ids) for kept in self._draws)
        while n_kept - len(self._draws[0].ids) >= _N_KEPT:
            n_kept -= len(self._draws.popleft().ids)
        self._send(draws)

    def describe(self, ids: Sequence[str], configs: Sequence[Config] | None) -> None:
        """Say what ids of trials mean that are no candidates; `configs` as in `offer`."""
        self._send(Descriptions(ids, configs))

    def want(self, n_ready: int) -> None:
        """Change how many proposals are to be ready."""
        if n_ready != self._want.n_ready:
            self._want = Want(n_ready)
            self._send(self._want)

    def take(self, used: Container[str]) -> Proposal | None:
        """The best proposal that is ready, and no longer ready then; None: there is none.

        Args:
            used: ids that trials have; they are passed over.
        """
        while self._ready:
            proposal = self._ready.popleft()
            if proposal.config_id not in used:
                return proposal
        return None

    def receive(self) -> list[News]:
        """Send and take in what is possible without waiting; what the search must know or do."""
        for answer in self._service.exchange(self._next):
            self._take_in(answer)
        status = self._service.take_exit_status()
        if status is not None:
            self._heed_end(status)
        self._look_for_more()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._queue.clear()
        self._service.close()

    def _send(self, told: Told) -> None:
        if self._service.is_open:
            self._queue.append(told)
            self._service.has_more()

    def _look_for_more(self) -> None:
        if any(teller.has_more for teller in self._tellers):
            self._service.has_more()

    def _next(self) -> Told | None:
        """What is to be said next: made when the process has read what was said before."""
        if self._queue:
            return self._queue.popleft()
        return next((teller.next_part() for teller in self._tellers if teller.has_more), None)

    def _take_in(self, answer: Answer) -> None:
        match answer:
            case Proposals():
                self._ready = deque(Proposal(one, answer.n_observations) for one in answer.ids)
            case WantDraws():
                self._n_wanted = answer.n_in_all
                if self.n_candidates_wanted > 0:
                    self._news.append(NeedCandidates(self.n_candidates_wanted))
            case Unknown():
                self._news.append(NeedConfigs(tuple(answer.ids)))
            case Features():
                if tuple(answer.names) != self._features:
                    self._features = tuple(answer.names)
                    self._news.append(FeaturesRead(self._features))
            case Broken():
                self._error = answer.error
            case _:
                assert_never(answer)

    def _start(self) -> None:
        """Start the process, and tell it everything from the beginning."""
        self._n_starts += 1
        self._n_offered = sum(len(draws.ids) for draws in self._draws)
        self._n_wanted = 0
        unsent = [told for told in self._queue if isinstance(told, Descriptions)]
        self._queue = deque([self._begin, self._want, *self._draws, *unsent])
        self._tellers = [Teller(history, study) for study, history in enumerate(self._histories)]
        try:
            self._service.open()
        except OSError as err:
            self._give_up(f"its process cannot be started: {err}")

    def _heed_end(self, status: int) -> None:
        """The process has ended, and nobody but us should end it."""
        how = f"exit code {status}" if status >= 0 else f"signal {-status}, {signal.strsignal(-status)}"
        if self._error:
            self._give_up(f"its model failed: {self._error}")
        elif self._n_starts < _N_STARTS:
            self._news.append(
                Note(f"The guide's process has ended ({how}); it starts again, and hears everything anew.")
            )
            self._start()
        else:
            self._give_up(f"its process has ended {self._n_starts} times, the last time with {how}")

    def _give_up(self, why: str) -> None:
        self._queue.clear()
        self._tellers.clear()
        self._news.append(
            Note(
                f"Warning: the guide is given up, since {why}. The search goes on with random draws; "
                f"{self._log} has what is known. Please report this."
            )
        )
