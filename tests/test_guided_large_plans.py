"""When jobs may start in a guided search whose plan is larger than any number of draws that are kept."""

import select
from pathlib import Path

from test_guiding import PATIENCE_MS, guided, many_trials, quiet, script

from hyperband.search.trial import Algorithm
from hyperband.study.drawing import MAX_UNUSED

__all__ = ["quiet", "script"]


def n_drawn_before_the_first_proposal(script: Path, quiet: int, *, max_total_epochs: int | None) -> int:
    """Draw for asha with a million trials until one of them may have its id."""
    plan = many_trials(Algorithm.ASHA, 1_000_000, max_epochs=81, max_total_epochs=max_total_epochs)
    ids, _ = guided(script, plan, quiet)
    try:
        poll = select.poll()
        (host,) = ids.watched
        poll.register(host, select.POLLIN)
        while not ids.can_propose:
            assert ids._draws.n_drawn < 3 * MAX_UNUSED, "draws go on, and nothing starts"
            assert poll.poll(PATIENCE_MS), "nothing is drawn"
            assert not ids.receive()
        return ids._draws.n_drawn
    finally:
        ids.close()


def test_a_plan_that_could_train_more_ids_than_are_kept_begins(script: Path, quiet: int) -> None:
    assert n_drawn_before_the_first_proposal(script, quiet, max_total_epochs=None) < 2 * MAX_UNUSED


def test_a_limit_of_epochs_says_how_many_ids_could_be_trained(script: Path, quiet: int) -> None:
    assert n_drawn_before_the_first_proposal(script, quiet, max_total_epochs=500) < MAX_UNUSED
