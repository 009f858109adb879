"""Config ids of a guided search: each is chosen when its trial is about to start, by a model or at random.

Joins the script's sampler, whose draws are the candidates, the guide, which ranks them, and the rule of the
random share. No slot waits for the model. Owns what is done where a space turns out to be small: then all is
as without a guide. Must not know how the script's process is asked, and what becomes of it (asking.py),
or when the guide has what ready (proposals.py).
"""

import time
from collections.abc import Callable, Iterable, Sequence

from hyperband.errors import InternalError
from hyperband.guide.client import Guide
from hyperband.script.host import ScriptHost
from hyperband.search.engine import Engine
from hyperband.search.events import Event, IdProposed, IdsDrawn, JobStarted, SpaceExhausted, StudyCreated
from hyperband.search.guide import RANDOM_SHARE, is_random_turn, source_of
from hyperband.study.asking import Asking, Drawn
from hyperband.study.drawing import MAX_UNUSED, Draws
from hyperband.study.looking import Look
from hyperband.study.prelude import Prelude
from hyperband.study.proposals import Proposals
from hyperband.study.sampling import Sampling, n_trainable
from hyperband.study.wake import HasDescriptor, earliest

#: a space that has so many ids is not small, whatever the plan
_N_LARGE = 2000
#: for so long the first start waits to know whether there are ids for the whole plan
_PATIENCE_S = 0.5


class Guiding:
    """The ids of one search, one at a time."""

    def __init__(
        self,
        *,
        open_host: Callable[[], ScriptHost],
        open_guide: Callable[[], Guide],
        engine: Engine,
        events: Sequence[Event],
        lessons: Iterable[Sequence[Event]],
        seed: int,
        look: Look,
        n_slots: Callable[[], int],
    ) -> None:
        """Begin to draw candidates.

        Args:
            open_host: starts a process that has imported the script; called again if that is killed.
            open_guide: starts the guide; called once, when the first trial may start.
            engine: of the search, with ids wanted; not changed here.
            events: of the study so far.
            lessons: events of other studies that the model learns from.
            seed: of the search.
            look: at the script's ids, some names recognised.
            n_slots: how many jobs may run at once.
        """
        self._open_host = open_host
        self._engine = engine
        self._seed = seed
        self._n_slots = n_slots
        self._proposals = Proposals(open_guide, engine=engine, lessons=lessons, n_slots=n_slots)
        #: takes over for good where a guide is of no use
        self._sampling: Sampling | None = None
        self._n_start_with = 0
        self._n_ids = 0
        self._draws = Draws()
        #: what follows from an exhausted space was done
        self._is_settled = False
        self._has_proposed = False
        #: jobs may start: the space is not small, or that is known to make no difference
        self._is_open = False
        #: the guide is to hear that there are no more draws
        self._owes_last = False
        for event in events:
            self.see(event)
        self._began_s = time.monotonic()
        self._asking = Asking(open_host, seed=seed, look=look)
        self._ask()

    # What the loop reads.

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """The script's process, and the guide."""
        if self._sampling is not None:
            return self._sampling.watched
        return tuple(thing for thing in (self._asking.host, self._proposals.guide) if thing is not None)

    @property
    def is_awaited(self) -> bool:
        """Whether there is an id, or one is being drawn."""
        if self._sampling is not None:
            return self._sampling.is_awaited
        return self.can_propose or self._asking.is_busy or self._waits

    @property
    def can_propose(self) -> bool:
        """Whether there is a draw that no trial has, and jobs may start."""
        is_there = self._asking.is_open and self._is_open and self._draws.n_unused > 0
        return is_there and not self._waits

    def owns(self, pid: int) -> bool:
        """Whether a process of this machine is the script's, imported to draw, or of its session."""
        if self._sampling is not None:
            return self._sampling.owns(pid)
        return self._asking.owns(pid)

    def take_news(self) -> list[str]:
        """Lines for people, since the last call."""
        news = [*self._asking.take_news(), *self._proposals.take_news()]
        if self._sampling is not None:
            return [*news, *self._sampling.take_news()]
        if (prelude := self._prelude) is not None:
            news += prelude.take_news()
        return news

    def wait_s(self) -> float | None:
        """Seconds until `can_propose` may change, or there is news, although nothing comes in."""
        if self._sampling is not None:
            return self._sampling.wait_s()
        prelude = self._prelude
        return earliest([self._asking.wait_s(), None if prelude is None else prelude.wait_s()])

    # What the loop does.

    def propose(self) -> IdProposed:
        """The id of the next new trial: at random in its turn, else the model's if it has one ready.

        Raises:
            InternalError: `can_propose` is false.
        """
        if not self.can_propose:
            raise InternalError("an id was asked for although none is there; please report this")
        trial = self._n_ids
        is_random = trial >= self._n_start_with and is_random_turn(
            self._seed, trial - self._n_start_with, RANDOM_SHARE
        )
        proposal = None if is_random else self._proposals.take(self._draws.used)
        source = source_of(
            trial,
            n_start_with=self._n_start_with,
            seed=self._seed,
            share=RANDOM_SHARE,
            can_learn=self._proposals.can_learn,
            has_proposal=proposal is not None,
        )
        config_id = self._draws.next_unused() if proposal is None else proposal.config_id
        self._use(trial, (config_id,))
        self._has_proposed = True
        self._ask()  # the guide may have nothing to say for long
        return IdProposed(trial, config_id, source, 0 if proposal is None else proposal.n_observations)

    def receive(self) -> list[Event]:
        """Take in draws, and what the guide has to say.

        Raises:
            ContractError: the sampler raises or gives something that is no config id.
            MachineError: its process was killed again and again.
        """
        if self._sampling is not None:
            return self._sampling.receive()
        if self._engine.n_ids_wanted() == 0:
            self.close()
            return []
        read = self._asking.read if self._asking.wants_configs else None
        self._proposals.hear(self._draws.used, read=read, waits=self._waits)
        self._hear_script()
        events: list[Event] = []
        if self._draws.is_exhausted and not self._is_settled and not self._asking.is_busy:
            self._is_settled = True
            events = self._end_of_space()
        if self._owes_last and self._asking.n_to_read == 0:
            self._owes_last = not self._proposals.offer_last(are_configs=self._asking.wants_configs)
        self._ask()
        return events

    def see(self, event: Event) -> None:
        """Take in an event of the study."""
        match event:
            case StudyCreated():
                self._n_start_with = len(event.start_with_ids)
            case IdsDrawn():
                self._use(event.first, event.ids)
            case IdProposed():
                self._use(event.trial, (event.config_id,))
                self._is_open = self._has_proposed = True
            case JobStarted():
                self._is_open = True
            case _:
                pass
        self._proposals.see(event)

    def rest(self) -> None:
        """Let the guide go: no new trial will start any more."""
        if self._sampling is None:
            self.close()

    def close(self) -> None:
        """Let all processes go; a second call does nothing."""
        if self._sampling is not None:
            self._sampling.close()
        self._proposals.close()
        self._asking.close()

    # Draws.

    def _use(self, first: int, ids: Sequence[str]) -> None:
        self._n_ids = max(self._n_ids, first + len(ids))
        self._draws.use(ids)

    def _hear_script(self) -> None:
        for heard in self._asking.receive():
            if isinstance(heard, Drawn):
                self._draws.add(heard.ids)
                self._proposals.offer(heard)
                self._open()
            else:
                self._proposals.offer_read(heard)

    def _ask(self) -> None:
        """Ask the script's process for what is wanted most, if it is idle."""
        self._asking.ask(
            self._draws.n_drawn + 1,
            n_short=self._n_slots() - self._draws.n_unused,
            n_for_guide=self._proposals.n_candidates_wanted,
            is_open=self._is_open,
            is_exhausted=self._draws.is_exhausted,
        )

    def _open(self) -> None:
        """Let jobs start if the space is large enough for the plan, and the guide with them."""
        if not self._is_open:
            plan = self._engine.plan
            n_ids = self._draws.n_distinct
            has_sole_rung = len(plan.brackets) == 1 and len(plan.brackets[0].rungs) == 1
            # see Engine: with fewer it might turn out that all ids can be trained to the full epochs; more
            # than are kept could never be counted
            n_enough = min(plan.n_trials, n_trainable(plan) + 1, MAX_UNUSED)
            may_start = has_sole_rung or n_ids >= n_enough
            is_late = time.monotonic() - self._began_s > _PATIENCE_S
            self._is_open = may_start and (is_late or n_ids >= min(plan.n_trials, _N_LARGE))
        if self._is_open and self._proposals.guide is None:
            self._proposals.start()
            self._asking.step_back()

    def _end_of_space(self) -> list[Event]:
        """The sampler gives no further distinct id: what follows from that."""
        n_wanted = self._engine.n_ids_wanted()
        if self._draws.n_unused > n_wanted:
            self._owes_last = True
            return []
        if not self._has_proposed:
            self._hand_over()
            return []
        # all that is left will be tried: there is nothing to choose
        left = self._draws.unused()
        n_ids = self._n_ids + len(left)
        events: list[Event] = [IdsDrawn(self._n_ids, left)] if left else []
        if len(left) < n_wanted:
            events.append(SpaceExhausted(n_ids, train_all=False))
        self.close()
        return events

    def _hand_over(self) -> None:
        """Go on as without a guide, with the script's process that is there."""
        host = self._asking.let_go()
        self.close()
        hosts = [] if host is None else [host]
        self._sampling = Sampling(
            lambda: hosts.pop() if hosts else self._open_host(), self._engine, self._seed
        )

    # The wait for the guide.

    @property
    def _prelude(self) -> Prelude | None:
        """The wait for what other studies teach, as long as there are draws."""
        return self._proposals.prelude if self._asking.is_open else None

    @property
    def _waits(self) -> bool:
        """Whether new trials wait for what other studies teach."""
        return self._asking.is_open and self._proposals.are_awaited
