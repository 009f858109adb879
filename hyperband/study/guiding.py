"""Config ids of a guided search: each is chosen when its trial is about to start, by a model or at random.

Joins the script's sampler, whose draws are the candidates, the guide, which ranks them, and the rule of the
random share. No slot waits for the model. Owns what is done where a space turns out to be small: then all is
as without a guide. Must not know how the script's process is asked, and what becomes of it (asking.py).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

from hyperband.errors import InternalError
from hyperband.guide.client import FeaturesRead, Guide, NeedCandidates, NeedConfigs, Note, Proposal
from hyperband.script.host import ScriptHost
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdProposed,
    IdsDrawn,
    JobEnded,
    JobStarted,
    SpaceExhausted,
    StudyCreated,
)
from hyperband.search.guide import RANDOM_SHARE, is_random_turn, source_of
from hyperband.study.asking import Asking, Drawn, Read
from hyperband.study.drawing import MAX_UNUSED, Draws
from hyperband.study.looking import Look
from hyperband.study.prelude import Prelude
from hyperband.study.sampling import Sampling
from hyperband.study.wake import HasDescriptor, earliest

#: more proposals than this are not kept ready
_MOST_READY = 64
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
        self._open_guide = open_guide
        self._engine = engine
        self._lessons = [tuple(lesson) for lesson in lessons]
        self._seed = seed
        self._n_slots = n_slots
        self._guide: Guide | None = None
        #: takes over for good where a guide is of no use
        self._sampling: Sampling | None = None
        #: what the guide must hear when it starts; None afterwards
        self._untold: list[Event] | None = []
        self._early: list[Drawn] = []
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
        self._n_ready = -1
        self._can_learn = any(isinstance(event, JobEnded) for lesson in self._lessons for event in lesson)
        #: new trials wait for the first proposal, which is held for them; None: there are no lessons
        self._prelude = Prelude() if self._can_learn else None
        self._held: Proposal | None = None
        self._reads_anything = True
        self._news: list[str] = []
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
        return tuple(thing for thing in (self._asking.host, self._guide) if thing is not None)

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
        news, self._news = [*self._asking.take_news(), *self._news], []
        if self._sampling is not None:
            return [*news, *self._sampling.take_news()]
        if self._prelude is not None and self._asking.is_open:
            news += self._prelude.take_news()
        return news

    def wait_s(self) -> float | None:
        """Seconds until `can_propose` may change, or there is news, although nothing comes in."""
        if self._sampling is not None:
            return self._sampling.wait_s()
        prelude = self._prelude if self._asking.is_open else None
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
        proposal: Proposal | None = None
        if not is_random and self._guide is not None:
            proposal = self._take(self._guide)
        source = source_of(
            trial,
            n_start_with=self._n_start_with,
            seed=self._seed,
            share=RANDOM_SHARE,
            can_learn=self._can_learn and self._reads_anything,
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
        self._hear_guide()
        self._hear_script()
        events: list[Event] = []
        if self._draws.is_exhausted and not self._is_settled and not self._asking.is_busy:
            self._is_settled = True
            events = self._end_of_space()
        if self._owes_last and self._guide is not None and self._asking.n_to_read == 0:
            self._owes_last = False
            self._guide.offer((), () if self._asking.wants_configs else None, is_last=True)
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
            case JobEnded():
                self._can_learn = self._can_learn or (event.outcome.is_final and not event.retry)
            case _:
                pass
        if self._guide is not None:
            self._guide.tell(event)
            self._tune()
        elif self._untold is not None:
            self._untold.append(event)

    def rest(self) -> None:
        """Let the guide go: no new trial will start any more."""
        if self._sampling is None:
            self.close()

    def close(self) -> None:
        """Let all processes go; a second call does nothing."""
        if self._sampling is not None:
            self._sampling.close()
        self._untold = None
        if self._guide is not None:
            self._guide.close()
            self._guide = None
        self._asking.close()

    # Draws.

    def _use(self, first: int, ids: Sequence[str]) -> None:
        self._n_ids = max(self._n_ids, first + len(ids))
        self._draws.use(ids)

    def _hear_script(self) -> None:
        for heard in self._asking.receive():
            if isinstance(heard, Drawn):
                self._take_in(heard)
            else:
                self._take_read(heard)

    def _take_in(self, drawn: Drawn) -> None:
        self._draws.add(drawn.ids)
        if self._guide is None:
            self._early.append(drawn)
        elif not drawn.is_unread:
            self._guide.offer(drawn.ids, drawn.configs)
        self._open()

    def _take_read(self, read: Read) -> None:
        if self._guide is None:
            return
        if read.are_draws:
            self._guide.offer(read.ids, read.configs)
        else:
            self._guide.describe(read.ids, read.configs)

    def _ask(self) -> None:
        """Ask the script's process for what is wanted most, if it is idle."""
        self._asking.ask(
            self._draws.n_drawn + 1,
            n_short=self._n_slots() - self._draws.n_unused,
            n_for_guide=0 if self._guide is None else self._guide.n_candidates_wanted,
            is_open=self._is_open,
            is_exhausted=self._draws.is_exhausted,
        )

    def _open(self) -> None:
        """Let jobs start if the space is large enough for the plan, and the guide with them."""
        if not self._is_open:
            plan = self._engine.plan
            n_ids = self._draws.n_distinct
            has_sole_rung = len(plan.brackets) == 1 and len(plan.brackets[0].rungs) == 1
            limit = plan.max_total_epochs
            epochs = plan.epochs if limit is None else min(plan.epochs, limit)
            # see Engine: with fewer it might turn out that all ids can be trained to the full epochs; more
            # than are kept could never be counted
            n_enough = min(plan.n_trials, epochs // plan.max_epochs + 1, MAX_UNUSED)
            may_start = has_sole_rung or n_ids >= n_enough
            is_late = time.monotonic() - self._began_s > _PATIENCE_S
            self._is_open = may_start and (is_late or n_ids >= min(plan.n_trials, _N_LARGE))
        if self._is_open and self._guide is None:
            self._start_guide()

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

    # The guide.

    def _start_guide(self) -> None:
        self._guide = guide = self._open_guide()
        for event in self._untold or ():
            guide.tell(event)
        for lesson in self._lessons:
            guide.learn(lesson)
        for drawn in self._early:
            if not drawn.is_unread:
                guide.offer(drawn.ids, drawn.configs)
        self._untold = None
        self._lessons.clear()
        self._early.clear()
        self._asking.step_back()
        self._tune()

    @property
    def _waits(self) -> bool:
        """Whether new trials wait for what other studies teach."""
        return self._asking.is_open and self._prelude is not None and not self._prelude.is_over

    def _take(self, guide: Guide) -> Proposal | None:
        held, self._held = self._held, None
        is_new = held is not None and held.config_id not in self._draws.used
        return held if is_new else guide.take(self._draws.used)

    def _tune(self) -> None:
        """Say how many proposals are to be ready: for the next starts, and one more while those go on."""
        n_ready = min(self._engine.n_new_wanted(self._n_slots() + 1), _MOST_READY)
        if self._guide is not None and n_ready != self._n_ready:
            self._n_ready = n_ready
            self._guide.want(n_ready)

    def _hear_guide(self) -> None:
        if self._guide is None:
            return
        for news in self._guide.receive():
            match news:
                case NeedCandidates():
                    pass  # the guide is asked how many by now when the script's process is idle
                case NeedConfigs():
                    if not self._asking.wants_configs:
                        self._guide.describe(news.ids, None)
                    elif (read := self._asking.read(news.ids)) is not None:
                        self._take_read(read)
                case FeaturesRead():
                    self._reads_anything = len(news.names) > 0
                    if not news.names:
                        self._news.append(
                            "The guide recognises nothing in the config ids that differs: all trials are "
                            "random draws."
                        )
                case Note():
                    self._news.append(news.text)
                case _:
                    assert_never(news)
        if self._prelude is not None and self._waits:
            self._held = self._guide.take(self._draws.used)
            if self._held is not None or self._guide.pid is None or not self._reads_anything:
                self._prelude.end()
