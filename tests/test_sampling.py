"""What a search without a guide says while it draws so many config ids that nothing can start."""

import re
import select
import sys
from pathlib import Path

import pytest
from test_guiding import PATIENCE_MS, many_trials, script

from hyperband.script.host import ScriptHost
from hyperband.search.engine import Engine
from hyperband.search.events import PlanMade, StudyCreated
from hyperband.search.trial import Algorithm
from hyperband.study import sampling
from hyperband.study.sampling import Sampling

__all__ = ["script"]


def test_draws_that_hold_up_the_first_job_are_told_of_with_how_far_they_are(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_WORTH_TELLING_S", 0.0)
    monkeypatch.setattr(sampling, "_AGAIN_S", 0.0)
    engine = Engine()
    engine.handle(StudyCreated("", str(script), (), str(script.parent), ()))
    engine.handle(PlanMade(many_trials(Algorithm.ASHA, 100_000, max_epochs=81)))

    def open_host() -> ScriptHost:
        host = ScriptHost(Path(sys.executable), script, (), cwd=script.parent, write_bytecode=False)
        host.load()
        return host

    ids = Sampling(open_host, engine, 1)
    news: list[str] = []
    try:
        poll = select.poll()
        (host,) = ids.watched
        poll.register(host, select.POLLIN)
        while engine.next_start() is None:
            assert ids.wait_s() == 0.0
            news += ids.take_news()
            assert poll.poll(PATIENCE_MS), "nothing is drawn"
            for event in ids.receive():
                engine.handle(event)
        # from now on they are drawn beside the jobs
        assert ids.take_news() == []
        assert ids.wait_s() is None
    finally:
        ids.close()
    words = r"Config ids are drawn before the first job starts: ([\d,]+) of ([\d,]+) so far"
    found = [re.match(words, line) for line in news]
    numbers = [int(match[1].replace(",", "")) for match in found if match is not None]
    assert len(numbers) == len(news) > 2
    assert numbers == sorted(numbers)
    assert numbers[-1] < len(engine.ids()) <= numbers[-1] + 10_000
    (n_needed,) = {int(match[2].replace(",", "")) for match in found if match is not None}
    assert numbers[-1] < n_needed <= len(engine.ids())
    assert n_needed * 81 > engine.plan.epochs >= (n_needed - 1) * 81
