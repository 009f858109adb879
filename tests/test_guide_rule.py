"""Where a new trial's config id comes from, and what of a study's events a model may learn from."""

import math
from fractions import Fraction

import pytest
from guide_fixture import ended, proposed, started
from hypothesis import given
from hypothesis import strategies as st

from hyperband.errors import InternalError
from hyperband.search.events import Event, IdProposed, IdsDrawn, IdSource, StudyCreated
from hyperband.search.guide import History, Observation, is_random_turn, source_of
from hyperband.search.trial import Outcome

shares = st.floats(0.0, 1.0)
seeds = st.integers(-(2**70), 2**70)
trials = st.integers(0, 10**9)


@given(seeds, trials, shares, st.integers(1, 300))
def test_of_any_trials_in_a_row_the_share_is_random_rounded_up_or_down(
    seed: int, first: int, share: float, n: int
) -> None:
    n_random = sum(is_random_turn(seed, trial, share) for trial in range(first, first + n))
    exact = Fraction(share) * n
    assert math.floor(exact) <= n_random <= math.ceil(exact)


@given(seeds, trials)
def test_a_share_of_nothing_gives_no_random_turn_and_a_full_one_gives_all(seed: int, trial: int) -> None:
    assert not is_random_turn(seed, trial, 0.0)
    assert is_random_turn(seed, trial, 1.0)


def test_the_seed_says_which_turns_are_random() -> None:
    turns = {tuple(is_random_turn(seed, trial, 0.1) for trial in range(100)) for seed in range(50)}
    assert len(turns) > 5
    # every bit of it counts, also beyond a machine word
    far = {tuple(is_random_turn(seed << 64, trial, 0.1) for trial in range(100)) for seed in range(50)}
    assert len(far) > 5


def test_which_turns_are_random_never_changes() -> None:
    found = [[trial for trial in range(40) if is_random_turn(seed, trial, 0.1)] for seed in (0, 1, 2)]
    assert found == [[5, 15, 25, 35], [4, 14, 24, 34], [8, 18, 28, 38]]


@pytest.mark.parametrize(
    ("trial", "share", "can_learn", "has_proposal", "source"),
    [
        (0, 0.0, True, True, IdSource.START_WITH),
        (1, 1.0, True, True, IdSource.START_WITH),
        (2, 0.0, True, True, IdSource.MODEL),
        (2, 1.0, True, True, IdSource.RANDOM),
        (2, 0.0, True, False, IdSource.UNREADY),
        (2, 1.0, True, False, IdSource.RANDOM),
        (2, 0.0, False, False, IdSource.RANDOM),
    ],
)
def test_where_the_next_id_comes_from(
    trial: int, share: float, can_learn: bool, has_proposal: bool, source: IdSource
) -> None:
    found = source_of(
        trial, n_start_with=2, seed=7, share=share, can_learn=can_learn, has_proposal=has_proposal
    )
    assert found is source


def history(*events: Event) -> History:
    found = History()
    for event in events:
        found.see(event)
    return found


@pytest.mark.parametrize(
    ("events", "observations"),
    [
        ([], []),
        ([started(0, 0)], []),
        ([started(0, 0), ended(0, 0.5, took_s=2.0)], [Observation(0, 1, 0.5, 1, 2.0)]),
        ([started(0, 0, epochs=4), ended(0, 0.5, took_s=2.0)], [Observation(0, 4, 0.5, 4, 0.5)]),
        # a failure says nothing about the time
        ([started(0, 1), ended(0, None)], [Observation(1, 1, None, 1, None)]),
        (
            [started(0, 1), ended(0, None, outcome=Outcome.NOT_FINITE)],
            [Observation(1, 1, None, 1, None)],
        ),
        # what is repeated is none
        ([started(0, 1), ended(0, None, outcome=Outcome.LOST)], []),
        ([started(0, 1), ended(0, None, outcome=Outcome.STOPPED)], []),
        ([started(0, 1), ended(0, None, retry=True)], []),
        # a repeated attempt may go on from a checkpoint: nobody knows how many epochs its time was for
        (
            [
                started(0, 1),
                ended(0, None, outcome=Outcome.LOST),
                started(0, 1, attempt=1),
                ended(0, 0.25, attempt=1),
            ],
            [Observation(1, 1, 0.25, 1, None)],
        ),
        # a promoted trial trains the rest of its epochs
        (
            [started(0, 0, epochs=3), ended(0, 0.5), started(1, 0, epochs=9), ended(1, 0.25, took_s=3.0)],
            [Observation(0, 3, 0.5, 3, 1 / 3), Observation(0, 9, 0.25, 6, 0.5)],
        ),
        # a clock that was set back
        ([started(0, 0), ended(0, 0.5, took_s=-1.0)], [Observation(0, 1, 0.5, 1, None)]),
        ([started(0, 0), ended(0, 0.5, took_s=0.0)], [Observation(0, 1, 0.5, 1, None)]),
        # losses as large as floats are
        (
            [started(0, 0), ended(0, 1e300), started(1, 1), ended(1, -1e300)],
            [Observation(0, 1, 1e300, 1, 1.0), Observation(1, 1, -1e300, 1, 1.0)],
        ),
    ],
)
def test_what_a_model_learns_from(events: list[Event], observations: list[Observation]) -> None:
    found = history(IdsDrawn(0, ("a", "b")), *events)
    assert [found.observation(index) for index in range(len(found))] == observations


@given(
    seeds,
    shares,
    st.integers(0, 3),
    st.lists(st.tuples(st.booleans(), st.none() | st.floats(allow_nan=False, allow_infinity=False))),
)
def test_a_replayed_journal_gives_the_same_sources_and_keeps_the_random_share(
    seed: int, share: float, n_start_with: int, found: list[tuple[bool, float | None]]
) -> None:
    def source(trial: int, seen: History, *, has_proposal: bool) -> IdSource:
        return source_of(
            trial,
            n_start_with=n_start_with,
            seed=seed,
            share=share,
            can_learn=len(seen) > 0,
            has_proposal=has_proposal,
        )

    journal: list[Event] = []
    live = History()
    for trial, (has_proposal, loss) in enumerate(found):
        where_from = source(trial, live, has_proposal=has_proposal and len(live) > 0)
        chosen = IdProposed(trial, f"c{trial}", where_from, len(live))
        new: list[Event] = [chosen, started(trial, trial), ended(trial, loss)]
        for event in new:
            live.see(event)
        journal += new
    replayed = History()
    n_random = 0
    for event in journal:
        if isinstance(event, IdProposed):
            was_ready = event.source is IdSource.MODEL
            assert source(event.trial, replayed, has_proposal=was_ready) is event.source
            assert event.n_observations == len(replayed)
            n_random += event.source is IdSource.RANDOM
        replayed.see(event)
    assert n_random >= math.floor(Fraction(share) * max(0, len(found) - n_start_with))
    assert replayed.ids == live.ids == [f"c{trial}" for trial in range(len(found))]
    assert [replayed.observation(n).loss for n in range(len(replayed))] == [loss for _, loss in found]


def test_ids_come_by_the_plan_and_one_at_a_time() -> None:
    created = StudyCreated("x", "/s.py", (), "/", ("a",))
    found = history(created, IdsDrawn(0, ("a",)), proposed(1, "b"), proposed(2, "c"))
    assert found.ids == ["a", "b", "c"]


def test_jobs_run_until_they_end() -> None:
    found = history(proposed(0, "a"), proposed(1, "b"), started(0, 0), started(1, 1, epochs=3))
    assert [(job.trial, job.epochs) for job in found.running.values()] == [(0, 1), (1, 3)]
    found.see(ended(0, 0.5))
    assert list(found.running) == [1]


@pytest.mark.parametrize(
    "event", [proposed(1, "b"), IdsDrawn(1, ("b",)), started(0, 0), started(0, -1), ended(0, 0.5)]
)
def test_an_event_that_cannot_be_is_refused(event: Event) -> None:
    with pytest.raises(InternalError, match="report"):
        history(event)


def test_an_end_of_another_attempt_is_refused() -> None:
    with pytest.raises(InternalError, match="not running"):
        history(proposed(0, "a"), started(0, 0, attempt=1), ended(0, 0.5, attempt=0))
