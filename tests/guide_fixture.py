"""A simple model in place of the real one, and searches that a guide's process believes in."""

import select
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hyperband.guide import service
from hyperband.guide.client import Guide, News
from hyperband.guide.data import FloatArray, IntArray, Observed, Pending, Ranking
from hyperband.search.events import IdProposed, IdSource, JobEnded, JobStarted
from hyperband.search.trial import Outcome

PATIENCE_S = 30.0


class NearestToBest:
    """Ranks candidates by their distance to the best observation at most epochs; easy to foresee."""

    def __init__(self, *, max_epochs: int, groups: IntArray, seed: int) -> None:
        self.max_epochs = max_epochs
        self.groups = groups
        self.seed = seed
        self.last_call: tuple[Observed, Pending, FloatArray, int] | None = None

    def propose(self, *, observed: Observed, pending: Pending, candidates: FloatArray, n: int) -> Ranking:
        self.begin(observed)
        self.last_call = (observed, pending, candidates, n)
        assert observed.x.shape == (len(observed.loss), len(self.groups))
        assert candidates.shape[1] == len(self.groups)
        losses = np.where(np.isnan(observed.loss), np.inf, observed.loss)
        best = observed.x[np.argmin(losses)]
        distances = np.sum((candidates - best) ** 2, axis=1)
        order = np.argsort(distances, kind="stable")
        return Ranking([int(index) for index in order[:n]], order)

    def begin(self, observed: Observed) -> None:
        """For those that come to no end."""


class Failing(NearestToBest):
    """A model with an error in it."""

    def begin(self, observed: Observed) -> None:
        raise ValueError(f"{len(observed.loss)} observations are too many for me")


class Endless(NearestToBest):
    """A model that never comes to an end."""

    def begin(self, observed: Observed) -> None:
        assert len(observed.loss)
        signal.pause()


def serve(model: str) -> None:
    """What the guide's process runs in tests of its life: the real server with a model of this file."""
    module = types.ModuleType("hyperband.guide.model")
    module.Model = globals()[model]  # type: ignore[attr-defined]
    sys.modules["hyperband.guide.model"] = module
    from hyperband.guide.server import main

    main()


def serving(model: type[NearestToBest]) -> str:
    """What takes the place of service._SERVE to have this model."""
    assert service._SERVE.endswith("main()")
    return (
        f"import sys; sys.path[:0] = [sys.argv[1], {str(Path(__file__).parent)!r}]; "
        f"from guide_fixture import serve; serve({model.__name__!r})"
    )


def proposed(trial: int, config_id: str) -> IdProposed:
    return IdProposed(trial, config_id, IdSource.RANDOM, 0)


def started(job: int, trial: int, *, epochs: int = 1, attempt: int = 0) -> JobStarted:
    return JobStarted(
        at=0.0,
        job=job,
        attempt=attempt,
        trial=trial,
        rung=0,
        epochs=epochs,
        slot="cpu:0",
        several_gpus=False,
        script_sha256="",
        host="here",
    )


def ended(
    job: int,
    loss: float | None,
    *,
    attempt: int = 0,
    took_s: float = 1.0,
    outcome: Outcome | None = None,
    retry: bool = False,
) -> JobEnded:
    if outcome is None:
        outcome = Outcome.CRASHED if loss is None else Outcome.LOSS
    return JobEnded(
        at=100.0,
        job=job,
        attempt=attempt,
        outcome=outcome,
        loss=loss,
        exit_status=0,
        started_at=100.0 - took_s,
        ended_at=100.0,
        search_alive=True,
        note="",
        retry=retry,
    )


def receive_until(guide: Guide, is_enough: Callable[[list[News]], bool]) -> list[News]:
    """All the news until there is enough; waits as the search's loop does."""
    poll = select.poll()
    poll.register(guide, select.POLLIN)
    news = guide.receive()
    while not is_enough(news):
        assert poll.poll(PATIENCE_S * 1000), f"nothing came after {news}"
        news += guide.receive()
    return news
