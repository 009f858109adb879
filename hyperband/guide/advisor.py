"""The guide without its process: messages in, proposals and questions out.

Owns what is known of the space and of the trials, and when it is time for a new list of proposals. Must not
know processes, clocks or files; the process around it is server.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, assert_never

from hyperband.guide.data import FloatArray, IntArray, Observed, Pending, Ranking
from hyperband.guide.encoding import Encoding, Flat
from hyperband.guide.ledger import Ledger
from hyperband.guide.messages import (
    Answer,
    Begin,
    Config,
    Descriptions,
    Draws,
    Features,
    Ids,
    Observations,
    Proposals,
    Running,
    Told,
    Unknown,
    Want,
    WantDraws,
)
from hyperband.guide.pool import Pool
from hyperband.script.config import decode

#: the space is read again when so many draws are there; with the last, for good
_READ_AT = (32, 128, 512, 2048)
#: fresh draws for each list of proposals; of those before it, so many stay because they were the best
_N_FRESH = 1000
_N_PROMISING = 400
#: so many ids are asked for at once
_N_ASKED = 512


class Ranks(Protocol):
    """What ranks candidates; made anew when the columns change."""

    def propose(self, *, observed: Observed, pending: Pending, candidates: FloatArray, n: int) -> Ranking:
        """Choose at most n candidates, and rank them all."""
        ...


class MakesModel(Protocol):
    """How a model is made; see model.py."""

    def __call__(self, *, max_epochs: int, groups: IntArray, seed: int) -> Ranks:
        """A model for rows with these columns."""
        ...


class Advisor:
    """Hears all that the search says; has proposals once the space is read and a job has ended."""

    def __init__(self, make_model: MakesModel) -> None:
        """Nothing is known before `Begin`."""
        self._make_model = make_model
        self._begin: Begin | None = None
        self._model: Ranks | None = None
        self._encoding: Encoding | None = None
        #: what was said of it
        self._names: tuple[str, ...] | None = None
        self._ledger = Ledger()
        self._pool = Pool()
        #: ids that trials of this study have
        self._used: set[str] = set()
        #: draws from which the space is read; given up when it is read for good
        self._draws: list[Flat | None] | None = []
        self._n_draws = 0
        self._n_draws_wanted = 0
        self._is_exhausted = False
        #: None: not known before the first draws
        self._has_get_config: bool | None = None
        #: ids of trials of which nothing is known, and those of them to be asked for
        self._unknown: set[str] = set()
        self._to_ask: list[str] = []
        #: how many proposals are to be ready, and those that are, best first
        self._n_wanted = 1
        self._ready: list[str] = []
        #: what was best when the last list was made
        self._promising: list[str] = []
        #: something came in since the last list was made; a job ended
        self._has_changed = False
        self._has_observations = False
        self._answers: list[Answer] = []

    def hear(self, told: Told) -> None:
        """Take in what the search says.

        Raises:
            Exception: of any kind, where a configuration is as no configuration should be.
        """
        self._has_changed = True
        match told:
            case Begin():
                self._begin = told
                self._want_draws(_READ_AT[-1])
            case Ids():
                self._hear_ids(told)
            case Observations():
                self._ledger.add_observations(told)
                self._has_observations = True
            case Running():
                self._ledger.set_running(told)
            case Draws():
                self._hear_draws(told)
            case Descriptions():
                self._learn_if_readable(told.configs is not None)
                self._describe(dict(_read(told.ids, told.configs)))
            case Want():
                self._n_wanted = told.n_ready
            case _:
                assert_never(told)

    def answers(self) -> list[Answer]:
        """What there is to say, in order; each once. Proposals come from `compute` alone."""
        if self._has_get_config:
            asked = [one for one in self._to_ask if one in self._unknown]
            self._to_ask.clear()
            for first in range(0, len(asked), _N_ASKED):
                self._answers.append(Unknown(asked[first : first + _N_ASKED]))
        answers, self._answers = self._answers, []
        return answers

    @property
    def is_due(self) -> bool:
        """Whether a new list of proposals should be made: a job ended, or too few are left."""
        if self._model is None or len(self._pool) == 0 or self._n_wanted == 0 or len(self._ledger) == 0:
            return False
        return self._has_observations or (self._has_changed and self.is_short)

    @property
    def is_short(self) -> bool:
        """Whether fewer proposals are left than wanted."""
        return len(self._ready) < self._n_wanted

    def compute(self) -> Proposals:
        """Make a new list of proposals: about twice as many as wanted, since they are used up meanwhile.

        Raises:
            Exception: the model failed.
        """
        assert self._model is not None
        assert self._encoding is not None
        self._has_changed = self._has_observations = False
        observed = self._ledger.observed()
        ids = self._pool.ids()
        self._ready = []
        if len(observed.loss):
            ranking = self._model.propose(
                observed=observed,
                pending=self._ledger.pending(),
                candidates=self._pool.rows(self._encoding),
                n=min(2 * self._n_wanted, len(ids)),
            )
            self._ready = [ids[index] for index in ranking.chosen]
            self._promising = [ids[index] for index in ranking.order[:_N_PROMISING]]
            self._trim()
            self._want_draws(_N_FRESH)
        return Proposals(self._ready, len(observed.loss))

    def _trim(self) -> None:
        """Let the oldest draws go, but for those that were best: so the pool gets better with each list."""
        self._pool.trim(keep={*self._ready, *self._promising})

    # Ids of trials.

    def _hear_ids(self, told: Ids) -> None:
        new = self._ledger.add_ids(told)
        found = {config_id: self._pool.config(config_id) for config_id in new}
        self._describe({config_id: config for config_id, config in found.items() if config is not None})
        missing = [config_id for config_id, config in found.items() if config is None]
        if self._has_get_config is False:
            self._describe(dict(_read(missing, None)))
        else:
            self._unknown.update(missing)
            self._to_ask += missing
        if told.study == 0:
            self._used.update(told.ids)
            self._ready = [one for one in self._ready if one not in self._used]
            for config_id in told.ids:
                self._pool.take(config_id)

    def _describe(self, found: Mapping[str, Flat | None]) -> None:
        self._ledger.describe(found)
        self._unknown.difference_update(found)

    def _learn_if_readable(self, has_get_config: bool) -> None:
        """Find out who says what ids mean: the script's `get_config`, or they themselves."""
        self._has_get_config = has_get_config
        if not has_get_config and self._unknown:
            self._to_ask.clear()
            self._describe(dict(_read(list(self._unknown), None)))

    # Draws.

    def _hear_draws(self, told: Draws) -> None:
        if told.ids:
            self._learn_if_readable(told.configs is not None)
        self._n_draws += len(told.ids)
        self._is_exhausted |= told.is_last
        known: dict[str, Flat] = {}
        for config_id, config in _read(told.ids, told.configs):
            if self._draws is not None and len(self._draws) < _READ_AT[-1]:
                self._draws.append(config)
            if config is None:
                continue
            if config_id in self._unknown:
                known[config_id] = config
            if config_id not in self._used:
                self._pool.add(config_id, config)
        self._describe(known)
        self._read_space(len(told.ids))
        self._trim()

    def _read_space(self, n_new: int) -> None:
        """Read the space from the draws, at the first time and whenever there are many more of them."""
        if self._draws is None:
            return
        is_final = self._is_exhausted or len(self._draws) == _READ_AT[-1]
        n_before = self._n_draws - n_new
        if not is_final and not any(n_before < at <= self._n_draws for at in _READ_AT):
            return
        encoding = Encoding.build(self._draws)
        names = () if encoding is None else encoding.names
        if names != self._names:
            self._names = names
            self._answers.append(Features(names))
        if is_final:
            self._draws = None
        self._encoding, self._model, self._ready = encoding, None, []
        if encoding is not None:
            assert self._begin is not None
            self._ledger.use(encoding, is_final=is_final)
            self._model = self._make_model(
                max_epochs=self._begin.max_epochs, groups=encoding.groups, seed=self._begin.seed
            )
            self._has_observations = True

    def _want_draws(self, n: int) -> None:
        """Ask for n draws more than came in, unless as many are under way or there are no more."""
        n_in_all = self._n_draws + n
        if n_in_all > self._n_draws_wanted and not self._is_exhausted:
            self._n_draws_wanted = n_in_all
            self._answers.append(WantDraws(n_in_all))


def _read(ids: Sequence[str], configs: Sequence[Config] | None) -> Iterator[tuple[str, Flat | None]]:
    """Each id with its configuration: as `get_config` has it, or else read from the id itself."""
    if configs is None:
        yield from ((config_id, decode(config_id)) for config_id in ids)
    else:
        yield from zip(ids, configs, strict=True)
