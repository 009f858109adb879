"""The guide of one search, in a process of its own: told all that happens, asked for the ids of new trials.

Owns what it has to hear when it starts, how many proposals are to be ready, and the wait for the first one
where other studies teach it. Must not know where draws come from, or which trials are random.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import assert_never

from hyperband.guide.client import FeaturesRead, Guide, NeedCandidates, NeedConfigs, Note, Proposal
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded
from hyperband.study.asking import Drawn, Read
from hyperband.study.prelude import Prelude

#: more proposals than this are not kept ready
_MOST_READY = 64


class Proposals:
    """What a model proposes. One owner: Guiding."""

    def __init__(
        self,
        open_guide: Callable[[], Guide],
        *,
        engine: Engine,
        lessons: Iterable[Sequence[Event]],
        n_slots: Callable[[], int],
    ) -> None:
        """Start nothing yet.

        Args:
            open_guide: starts the guide; called once.
            engine: of the search; not changed here.
            lessons: events of other studies that the model learns from.
            n_slots: how many jobs may run at once.
        """
        self._open_guide = open_guide
        self._engine = engine
        self._lessons = [tuple(lesson) for lesson in lessons]
        self._n_slots = n_slots
        #: None: it has not started, or was let go
        self.guide: Guide | None = None
        #: what it must hear when it starts; None afterwards
        self._untold: list[Event] | None = []
        self._early: list[Drawn] = []
        self._n_ready = -1
        self._has_lessons = any(isinstance(event, JobEnded) for lesson in self._lessons for event in lesson)
        #: new trials wait for the first proposal, which is held for them; None: there are no lessons
        self.prelude = Prelude() if self._has_lessons else None
        self._held: Proposal | None = None
        self._reads_anything = True
        self._has_results = False
        self._news: list[str] = []

    @property
    def can_learn(self) -> bool:
        """Whether there is anything to learn from, and the guide can read ids."""
        return (self._has_lessons or self._has_results) and self._reads_anything

    @property
    def are_awaited(self) -> bool:
        """Whether new trials wait for what other studies teach."""
        return self.prelude is not None and not self.prelude.is_over

    @property
    def n_candidates_wanted(self) -> int:
        """How many draws the guide wants."""
        return 0 if self.guide is None else self.guide.n_candidates_wanted

    def start(self) -> None:
        """Start the guide: it hears all that happened before."""
        self.guide = guide = self._open_guide()
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
        self._tune()

    def see(self, event: Event) -> None:
        """Take in an event of the study."""
        if isinstance(event, JobEnded):
            self._has_results = self._has_results or (event.outcome.is_final and not event.retry)
        if self.guide is not None:
            self.guide.tell(event)
            self._tune()
        elif self._untold is not None:
            self._untold.append(event)

    def offer(self, drawn: Drawn) -> None:
        """Take in draws, also before the guide has started."""
        if self.guide is None:
            self._early.append(drawn)
        elif not drawn.is_unread:
            self.guide.offer(drawn.ids, drawn.configs)

    def offer_read(self, read: Read) -> None:
        """Take in what `get_config` makes of ids."""
        if self.guide is None:
            return
        if read.are_draws:
            self.guide.offer(read.ids, read.configs)
        else:
            self.guide.describe(read.ids, read.configs)

    def offer_last(self, *, are_configs: bool) -> bool:
        """Have the guide know that there are no more draws; return False if it has not started."""
        if self.guide is None:
            return False
        self.guide.offer((), () if are_configs else None, is_last=True)
        return True

    def take(self, used: Container[str]) -> Proposal | None:
        """Return a proposal that no trial has used; None: none is ready."""
        if self.guide is None:
            return None
        held, self._held = self._held, None
        is_new = held is not None and held.config_id not in used
        return held if is_new else self.guide.take(used)

    def hear(
        self, used: Container[str], *, read: Callable[[Sequence[str]], Read | None] | None, waits: bool
    ) -> None:
        """Take in what the guide has to say.

        Args:
            used: ids that trials have.
            read: has ids read by `get_config`, and returns what is known of them at once; None: their text is
                read.
            waits: new trials wait for the first proposal.
        """
        if self.guide is None:
            return
        for news in self.guide.receive():
            match news:
                case NeedCandidates():
                    pass  # the guide is asked how many by now when the script's process is idle
                case NeedConfigs():
                    if read is None:
                        self.guide.describe(news.ids, None)
                    elif (found := read(news.ids)) is not None:
                        self.offer_read(found)
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
        if waits and self.prelude is not None:
            self._held = self.guide.take(used)
            if self._held is not None or self.guide.pid is None or not self._reads_anything:
                self.prelude.end()

    def take_news(self) -> list[str]:
        """Lines for people, since the last call."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Let the guide go; a second call does nothing."""
        self._untold = None
        if self.guide is not None:
            self.guide.close()
            self.guide = None

    def _tune(self) -> None:
        """Say how many proposals are to be ready: for the next starts, and one more while those go on."""
        n_ready = min(self._engine.n_new_wanted(self._n_slots() + 1), _MOST_READY)
        if self.guide is not None and n_ready != self._n_ready:
            self._n_ready = n_ready
            self.guide.want(n_ready)
