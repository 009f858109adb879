"""What gives a guided search its ids, with a real script and a guide that says nothing."""

import select
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from hyperband.guide.client import Guide, News, Proposal
from hyperband.script.host import ScriptHost
from hyperband.search.brackets import make_plan
from hyperband.search.engine import Engine
from hyperband.search.events import Event, IdSource, PlanMade, StudyCreated
from hyperband.search.trial import Algorithm, Plan
from hyperband.study.guiding import Guiding
from hyperband.study.looking import Look

SCRIPT = """
def get_random_config_id(rng):
    return f"x:{rng.uniform():.9f}"

def run_identity(argv):
    return ""
"""
PATIENCE_MS = 30_000


class Silent:
    """A guide that is there and never has anything to say, as one that was stopped by SIGSTOP."""

    n_candidates_wanted = 0

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor

    def tell(self, event: Event) -> None:
        pass

    def offer(self, ids: Sequence[str], configs: object, *, is_last: bool = False) -> None:
        pass

    def want(self, n_ready: int) -> None:
        pass

    def take(self, used: Container[str]) -> Proposal | None:  # noqa: ARG002 - the guide's
        return None

    def receive(self) -> list[News]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def quiet() -> Iterator[int]:
    """A descriptor that is never readable."""
    with select.epoll() as epoll:
        yield epoll.fileno()


def guided(script: Path, plan: Plan, quiet: int) -> tuple[Guiding, Engine]:
    """The ids of a new study with this plan, whose guide never says a word, and its engine."""
    engine = Engine()
    events: list[Event] = [StudyCreated("", str(script), (), str(script.parent), ()), PlanMade(plan)]
    for event in events:
        engine.handle(event)

    def open_host() -> ScriptHost:
        host = ScriptHost(Path(sys.executable), script, (), cwd=script.parent, write_bytecode=False)
        host.load()
        return host

    ids = Guiding(
        open_host=open_host,
        open_guide=lambda: cast(Guide, Silent(quiet)),
        engine=engine,
        events=events,
        lessons=(),
        seed=1,
        look=Look(("x",), frozenset({"x"}), by_get_config=False, example="x:1", refusal=""),
        n_slots=lambda: 1,
    )
    return ids, engine


def many_trials(
    algorithm: Algorithm, n_trials: int, *, max_epochs: int, max_total_epochs: int | None = None
) -> Plan:
    """A plan of so many trials, in which they are not spread over brackets."""
    return make_plan(
        algorithm=algorithm,
        max_epochs=max_epochs,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=n_trials,
        max_total_epochs=max_total_epochs,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script whose sampler never repeats itself."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_draws_do_not_run_out_because_the_guide_asks_for_none(script: Path, quiet: int) -> None:
    n_trials = 3000
    ids, engine = guided(script, many_trials(Algorithm.RANDOM, n_trials, max_epochs=1), quiet)
    try:
        poll = select.poll()
        (host,) = ids.watched
        poll.register(host, select.POLLIN)
        while engine.n_ids_wanted():
            if not ids.can_propose:
                assert poll.poll(PATIENCE_MS), f"nothing is drawn after {len(engine.ids())} trials"
                for event in ids.receive():
                    engine.handle(event)
                continue
            proposed = ids.propose()
            engine.handle(proposed)
            ids.see(proposed)
            assert proposed.source is IdSource.RANDOM  # no job has ended
    finally:
        ids.close()
    assert len(set(engine.ids())) == n_trials
