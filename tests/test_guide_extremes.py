"""The real model in its process: proposals come where losses, ids or numbers are as bad as they may be."""

import contextlib
import itertools
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from guide_fixture import PATIENCE_S, ended, proposed, started

from hyperband.guide.client import Guide, Note, Proposal
from hyperband.search.events import IdsDrawn
from hyperband.search.trial import Outcome

RNG = np.random.default_rng(0)
SPACE = [
    f"lr:{10 ** RNG.uniform(-5, 0):.4g}.units:{2 ** RNG.integers(4, 10)}.opt:{word}" for word in "abcd" * 150
]


@pytest.fixture
def guide(tmp_path: Path) -> Iterator[Guide]:
    with contextlib.closing(Guide(max_epochs=27, seed=0, log=tmp_path / "log", n_ready=4)) as opened:
        yield opened


def take(guide: Guide, used: set[str], *, n_observations: int) -> Proposal:
    """The first proposal that knows so many observations."""
    poll = select.poll()
    poll.register(guide, select.POLLIN)
    while True:
        while (proposal := guide.take(used)) is not None:
            if proposal.n_observations >= n_observations:
                return proposal
        assert poll.poll(PATIENCE_S * 1000), "no proposal came"
        notes = [news.text for news in guide.receive() if isinstance(news, Note)]
        assert notes == []


def search(guide: Guide, losses: list[float | None], *, n_guided: int = 6) -> list[str]:
    """Trials with these losses; then guided ones, whose losses are the same again. The guided ones' ids."""
    used: set[str] = set()
    found = []
    guide.offer(SPACE[len(losses) :], None)
    for trial, loss in zip(range(len(losses) + n_guided), itertools.cycle(losses)):
        config_id = SPACE[trial]
        if trial >= len(losses):
            config_id = take(guide, used, n_observations=trial).config_id
            found.append(config_id)
        used.add(config_id)
        guide.tell(proposed(trial, config_id))
        guide.tell(started(trial, trial, epochs=1 + trial % 27))
        guide.tell(ended(trial, loss, took_s=1e-9 if trial % 2 else 1e9))
    assert len(set(found)) == n_guided
    return found


@pytest.mark.parametrize(
    "losses",
    [
        [0.5],
        [None],
        [0.5] * 20,
        [None] * 20,
        [1e300, -1e300],
        [1e300, -1e300, 1.0, None, 0.0] * 4,
        [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, -0.0] * 5,
        [1e300 + n * 1e284 for n in range(20)],
        [1.0 + n * 1e-16 for n in range(20)],
        [-1.0 / (n + 1) for n in range(20)],
    ],
    ids=lambda losses: f"{losses[:3]}",
)
def test_proposals_come_whatever_the_losses_are(guide: Guide, losses: list[float | None]) -> None:
    assert set(search(guide, losses)) <= set(SPACE)


@pytest.mark.parametrize(
    "name",
    [
        lambda n: f'{{"ü": {n / 7:.3f}, "größe": "{"äöü"[n % 3]}"}}',
        lambda n: f"a={10**400 if n % 2 else -(10**400)},b={n}",
        lambda n: f"a={n * 1e300},b={-n * 1e300}",
        lambda n: f"only{n % 3}={n}" if n % 4 else "nothing to read!",
        lambda n: f'{{"opt": {{"name": "sgd", "lr": {n}}}}}' if n % 2 else '{"opt": {"name": "adam"}}',
    ],
)
def test_proposals_come_whatever_the_ids_are(guide: Guide, name: Callable[[int], str]) -> None:
    ids = list(dict.fromkeys(name(n) for n in range(300)))
    guide.offer(ids[20:], None)
    guide.tell(IdsDrawn(0, tuple(ids[:20])))
    for trial in range(20):
        guide.tell(started(trial, trial))
        guide.tell(
            ended(trial, trial / 3 if trial % 5 else None, outcome=None if trial % 5 else Outcome.NOT_FINITE)
        )
    assert take(guide, set(ids[:20]), n_observations=5).config_id in ids


@pytest.mark.slow
def test_a_hundred_thousand_observations_are_bounded_in_memory_and_time(guide: Guide) -> None:
    n = 100_000
    ids = [
        f"lr:{lr:.6g}.depth:{n % 9}" for n, lr in enumerate(10 ** np.random.default_rng(0).uniform(-6, 0, n))
    ]
    ids = [f"{config_id}.n:{n % 1000}" for n, config_id in enumerate(ids)]
    guide.offer([f"lr:{n / 2048:.6g}.depth:{n % 9}.n:{n % 1000}" for n in range(2048)], None)
    guide.tell(IdsDrawn(0, tuple(ids)))
    for trial in range(n):
        guide.tell(started(trial, trial))
        guide.tell(ended(trial, (trial * 7919 % n) / n if trial % 10 else None))
    used = set(ids)
    assert guide.pid is not None
    process = psutil.Process(guide.pid)
    first = take(guide, used, n_observations=n)
    before = process.memory_info().rss
    assert before < 400e6
    cpu_s = sum(process.cpu_times()[:2])
    for trial in range(n, n + 10):
        proposal = first if trial == n else take(guide, used, n_observations=trial)
        used.add(proposal.config_id)
        guide.tell(proposed(trial, proposal.config_id))
        guide.tell(started(trial, trial))
        guide.tell(ended(trial, 0.1))
    # ten lists: the model takes about 0.3 s for each, whatever there is; the bound is for a busy machine
    assert sum(process.cpu_times()[:2]) - cpu_s < 20.0
    assert process.memory_info().rss < before + 100e6
