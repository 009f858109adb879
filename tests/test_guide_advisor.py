"""The guide without its process: what it is told, what it asks for, and what it proposes."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from guide_fixture import NearestToBest, ended, proposed, started

from hyperband.guide.advisor import Advisor
from hyperband.guide.data import FloatArray, IntArray, Observed, Pending
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
    Teller,
    Told,
    Unknown,
    Want,
    WantDraws,
    pack,
    unpack_answer,
    unpack_told,
)
from hyperband.guide.pool import CAPACITY, Pool
from hyperband.search.events import IdsDrawn
from hyperband.search.guide import History

N_SPACE = 2048


class Talk:
    """An advisor with the simple model, whose calls are kept."""

    def __init__(self) -> None:
        self.models: list[NearestToBest] = []
        self.advisor = Advisor(self._make)

    def _make(self, *, max_epochs: int, groups: IntArray, seed: int) -> NearestToBest:
        self.models.append(NearestToBest(max_epochs=max_epochs, groups=groups, seed=seed))
        return self.models[-1]

    def tell(self, *messages: Told) -> list[Answer]:
        for message in messages:
            self.advisor.hear(unpack_told(pack(message)))
        return [unpack_answer(pack(answer)) for answer in self.advisor.answers()]

    def proposals(self) -> list[str]:
        assert self.advisor.is_due
        return list(self.advisor.compute().ids)

    def is_due(self) -> bool:
        return self.advisor.is_due

    @property
    def last_call(self) -> tuple[Observed, Pending, FloatArray, int]:
        call = self.models[-1].last_call
        assert call is not None
        return call

    @property
    def last_call_x(self) -> FloatArray:
        return self.last_call[0].x


def ids(n: int, first: int = 0) -> list[str]:
    """Ids x:0, x:7, ...: draws in no order."""
    return [f"x:{(place * 7) % 100_003}" for place in range(first, first + n)]


def draws(found: Sequence[str], configs: Sequence[Config] | None = None, *, is_last: bool = False) -> Draws:
    return Draws(found, configs, is_last)


def losses(study: int, *found: tuple[int, float | None]) -> Observations:
    return Observations(
        study, [t for t, _ in found], [3] * len(found), [loss for _, loss in found], [None] * len(found)
    )


def test_it_asks_for_draws_at_once_and_for_fresh_ones_after_each_list() -> None:
    talk = Talk()
    assert talk.tell(Begin(27, 0)) == [WantDraws(2048)]
    assert talk.tell(draws(ids(1000))) == [Features(["x"])]
    assert talk.tell(draws(ids(1048, 1000))) == []
    assert not talk.advisor.is_due
    talk.tell(Ids(0, ["x:0"]), losses(0, (0, 0.5)))
    talk.proposals()
    # of 1,500 that are held most are new each time
    assert talk.tell() == [WantDraws(3048)]
    assert talk.tell(losses(0, (0, 0.25))) == []
    talk.proposals()
    assert talk.tell() == [], "what was asked for is still under way"


def test_it_asks_for_no_more_draws_where_there_are_none() -> None:
    talk = Talk()
    talk.tell(Begin(27, 0), draws(ids(100), is_last=True), Ids(0, ["x:0"]), losses(0, (0, 0.5)))
    assert len(talk.proposals()) == 2
    assert talk.tell() == []


def test_it_proposes_what_the_model_ranks_best_and_nothing_that_a_trial_has() -> None:
    talk = Talk()
    space = [f"x:{x}" for x in range(100)]
    talk.tell(Begin(27, 0), draws(space), Ids(0, ["x:0", "x:1"]), losses(0, (0, 0.1), (1, 0.2)), Want(2))
    assert talk.proposals() == ["x:2", "x:3", "x:4", "x:5"]
    talk.tell(Ids(0, ["x:4", "x:2", "x:3"]))
    assert talk.proposals() == ["x:5", "x:6", "x:7", "x:8"]
    assert talk.advisor.compute().n_observations == 2


def test_a_new_list_is_due_when_a_job_ended_or_too_few_proposals_are_left() -> None:
    talk = Talk()
    space = [f"x:{x}" for x in range(100)]
    talk.tell(Begin(27, 0), Want(2), draws(space))
    assert not talk.is_due()
    talk.tell(Ids(0, ["x:50"]), Running([0], [1]))
    assert not talk.is_due()
    talk.tell(losses(0, (0, 0.5)))
    first = talk.proposals()
    assert len(first) == 4
    assert not talk.is_due()
    talk.tell(Ids(0, [first[0]]), Running([1], [1]))
    assert not talk.is_due()
    talk.tell(Ids(0, first[1:3]))
    assert talk.is_due()
    talk.proposals()
    assert not talk.is_due()
    talk.tell(Want(0), losses(0, (0, 0.5)))
    assert not talk.is_due()


def test_the_model_is_given_observations_and_running_jobs() -> None:
    talk = Talk()
    space = [f"x:{x}" for x in range(101)]
    talk.tell(
        Begin(27, 5),
        draws(space),
        Ids(0, ["x:0", "x:100", "x:50"]),
        Observations(0, [0, 1, 0], [1, 1, 3], [0.5, None, -1e300], [2.0, None, 1.5]),
        Running([2, 0], [1, 9]),
    )
    talk.proposals()
    (model,) = talk.models
    assert (model.max_epochs, model.seed, model.groups.tolist()) == (27, 5, [0])
    observed, pending, candidates, n = talk.last_call
    assert observed.x[:, 0].tolist() == [0.0, 1.0, 0.0]
    assert observed.epochs.tolist() == [1, 1, 3]
    assert observed.loss.tolist()[::2] == [0.5, -1e300]
    assert math.isnan(observed.loss[1])
    assert observed.seconds_per_epoch.tolist()[::2] == [2.0, 1.5]
    assert math.isnan(observed.seconds_per_epoch[1])
    assert observed.study.tolist() == [0, 0, 0]
    assert pending.x[:, 0].tolist() == [0.5, 0.0]
    assert pending.epochs.tolist() == [1, 9]
    assert candidates.shape == (98, 1)
    assert n == 2


def test_other_studies_feed_the_model_and_their_ids_stay_candidates() -> None:
    talk = Talk()
    space = [f"x:{x}" for x in range(100)]
    talk.tell(Begin(27, 0), draws(space), Ids(1, ["x:10", "x:500"]), losses(1, (0, 0.1), (1, 0.2)))
    assert talk.proposals()[0] == "x:10"
    observed = talk.last_call[0]
    assert observed.study.tolist() == [1, 1]
    assert observed.x[1, 0] == 1.0, "beyond what the sampler draws is as far as it goes"


def test_an_id_of_two_studies_is_known_by_both() -> None:
    talk = Talk()
    space = [f"x:{x}" for x in range(100)]
    talk.tell(Begin(27, 0), Ids(1, ["x:10"]), Ids(2, ["x:20", "x:10"]), Ids(0, ["x:10"]), draws(space))
    talk.tell(losses(2, (1, 0.1)), losses(1, (0, 0.2)), losses(0, (0, 0.3)))
    assert set(talk.proposals()) == {"x:9", "x:11"}
    assert len(set(talk.last_call_x[:, 0])) == 1


def test_the_ids_themselves_are_read_where_the_script_says_nothing() -> None:
    talk = Talk()
    assert talk.tell(Begin(27, 0), Ids(0, ["x:5000", "unreadable"]), losses(0, (0, 0.5), (1, 0.5)))
    assert talk.tell(draws(ids(100))) == [Features(["x"])]
    assert talk.proposals()
    assert len(talk.last_call_x) == 1, "nothing can be learned from an id that says nothing"


def test_a_script_that_reads_its_ids_is_asked_for_those_that_were_not_drawn() -> None:
    talk = Talk()
    names = [f"{n:x}" for n in range(100)]
    configs: list[Config] = [{"x": n} for n in range(100)]
    talk.tell(Begin(27, 0), Ids(0, ["7", "start", "odd", "63"]), losses(0, (1, 0.1), (2, 0.2)))
    assert talk.tell(draws(names, configs)) == [Features(["x"]), Unknown(["start", "odd"])]
    assert talk.advisor.compute() == Proposals([], 0)
    assert talk.tell(Descriptions(["start"], [{"x": 0}]), Descriptions(["odd"], [None])) == []
    talk.tell(losses(0, (0, 0.3)))
    assert talk.proposals() == ["0", "1"]
    assert talk.last_call_x[:, 0].tolist() == pytest.approx([0, 7 / 99])


def test_many_ids_are_asked_for_in_parts() -> None:
    talk = Talk()
    talk.tell(Begin(27, 0), draws(["a", "b"], [{"x": 1}, {"x": 2}]))
    asked = talk.tell(Ids(1, [f"other{n}" for n in range(1200)]))
    assert [len(answer.ids) for answer in asked if isinstance(answer, Unknown)] == [512, 512, 176]
    assert talk.tell(Ids(1, ["other0"])) == []


def test_ids_that_the_script_refuses_are_no_candidates() -> None:
    talk = Talk()
    names = [f"{n}" for n in range(100)]
    configs: list[Config] = [{"x": n} if n % 10 != 7 else None for n in range(100)]
    talk.tell(Begin(27, 0), draws(names, configs), Ids(0, ["99"]), losses(0, (0, 0.5)), Want(2))
    assert talk.proposals() == ["98", "96", "95", "94"]


@pytest.mark.parametrize("name", ["the one", "lr:0.1", "17"])
def test_a_sampler_of_one_id_gives_nothing_to_propose(name: str) -> None:
    talk = Talk()
    answers = talk.tell(Begin(27, 0), Ids(0, [name]), losses(0, (0, 0.5)))
    for _ in range(20):
        answers += talk.tell(draws([name] * 1000))
    assert answers == [WantDraws(2048), Features([])]
    assert not talk.advisor.is_due


def test_ids_without_structure_give_nothing_to_propose() -> None:
    talk = Talk()
    rng = np.random.default_rng(0)
    names = [f"{n:016x}f" for n in rng.integers(1 << 60, size=3000)]
    assert talk.tell(Begin(27, 0), Ids(0, names[:1]), draws(names)) == [WantDraws(2048), Features([])]
    talk.tell(losses(0, (0, 0.5)))
    assert not talk.advisor.is_due


def test_the_space_is_read_again_when_there_are_many_more_draws() -> None:
    talk = Talk()
    early = [f"x:{n}" for n in range(40)]
    late = [f"x:{n}.y:{n * n % 97}" for n in range(40, 3000)]
    assert talk.tell(Begin(27, 0), draws(early)) == [WantDraws(2048), Features(["x"])]
    talk.tell(Ids(0, ["x:1", "x:1000.y:5"]), losses(0, (0, 0.5), (1, 0.4)))
    talk.proposals()
    assert talk.last_call_x.shape == (2, 1)
    assert talk.tell(draws(late[:500])) == [Features(["x", "y"])]
    talk.proposals()
    # that y may be missing is a column of its own
    assert talk.last_call_x.shape == (2, 3)
    assert talk.last_call_x[0].tolist()[1:] == [0.5, 1.0]
    n_models = len(talk.models)
    talk.tell(draws(late[500:]))
    talk.tell(*[draws([f"x:{n}.z:{n}" for n in range(part, part + 500)]) for part in range(0, 5000, 500)])
    assert len(talk.models) == n_models + 1, "then it is read for good"
    talk.proposals()


def test_conditions_and_unreadable_ids_are_no_trouble() -> None:
    talk = Talk()
    names = [f"opt=sgd,momentum={n / 100}" if n % 2 else f"opt=adam,lr={n}" for n in range(200)]
    names[::9] = [f"?{n}" for n in range(len(names[::9]))]
    (_, features) = talk.tell(Begin(27, 0), draws(names))
    assert isinstance(features, Features)
    assert set(features.names) == {"opt", "momentum", "lr"}
    talk.tell(Ids(0, ["opt=sgd,momentum=0.5", "opt=other,beta=3", "??"]))
    talk.tell(losses(0, (0, 0.5), (1, 0.4), (2, 0.3)))
    assert all(name.startswith("opt=") for name in talk.proposals())
    assert len(talk.last_call_x) == 2


@pytest.mark.parametrize("found", [None, 0.25, 1e300, -1e300])
def test_all_losses_equal_or_none_at_all_are_handed_on(found: float | None) -> None:
    talk = Talk()
    talk.tell(Begin(27, 0), draws(ids(100)), Ids(0, ids(10)), losses(0, *[(t, found) for t in range(10)]))
    assert len(talk.proposals()) == 2


def test_the_pool_is_bounded_and_keeps_what_is_proposed() -> None:
    pool = Pool()
    for n in range(3 * CAPACITY):
        pool.add(f"{n}", {"x": n})
        pool.trim(keep={"0", "17"})
    assert len(pool) == CAPACITY
    assert pool.ids()[:3] == ["0", "17", f"{2 * CAPACITY + 2}"]
    assert pool.take("17") == {"x": 17}
    assert pool.take("17") is None
    assert "17" not in pool


def test_candidates_that_were_promising_outlive_newer_draws() -> None:
    talk = Talk()
    # the nearest to the best trial are ranked high once, and are no longer among the newest then
    talk.tell(Begin(27, 0), draws([f"x:{n}" for n in range(CAPACITY)]), Ids(0, ["x:0"]), losses(0, (0, 0.5)))
    assert talk.proposals()[0] == "x:1"
    talk.tell(draws([f"x:{10_000 + n}" for n in range(2 * CAPACITY)]))
    talk.tell(Ids(0, ["x:1", "x:2"]), losses(0, (1, 0.25)))
    assert talk.proposals()[:2] == ["x:3", "x:4"]


def test_a_repeated_draw_is_one_candidate() -> None:
    talk = Talk()
    space = [f"x:{x}" for x in range(10)] * 100
    talk.tell(Begin(27, 0), Want(20), draws(space), Ids(0, ["x:0"]), draws(space), losses(0, (0, 0.5)))
    assert sorted(talk.proposals()) == [f"x:{x}" for x in range(1, 10)]


def test_a_history_is_told_in_parts_and_once() -> None:
    history = History()
    teller = Teller(history, 0)
    assert list(teller.tell()) == []
    history.see(IdsDrawn(0, tuple(ids(5000))))
    for trial in range(3000):
        history.see(started(trial, trial))
        history.see(ended(trial, trial / 7 if trial % 3 else None))
    history.see(started(3000, 3000, epochs=9))
    told = list(teller.tell())
    assert [type(message).__name__ for message in told] == ["Ids"] * 3 + ["Observations"] * 2 + ["Running"]
    assert [config_id for message in told if isinstance(message, Ids) for config_id in message.ids] == ids(
        5000
    )
    found = [loss for message in told if isinstance(message, Observations) for loss in message.losses]
    assert found == [trial / 7 if trial % 3 else None for trial in range(3000)]
    assert told[-1] == Running([3000], [9])
    assert not teller.has_more
    history.see(ended(3000, 0.5))
    history.see(proposed(5000, "last"))
    assert list(teller.tell()) == [
        Ids(0, ["last"]),
        Observations(0, [3000], [9], [0.5], [1 / 9]),
        Running([], []),
    ]


@pytest.mark.parametrize(
    "message",
    [
        Ids(0, ["ü", "\ud800", "a\nb", "", "x" * 100_000]),
        Draws(["a"], [{"ü.é": None, "b": True, "c": 10**30, "d": "\n", "e": 1e300}], is_last=True),
        Draws(["a", "b"], [None, {}], is_last=False),
        Observations(2, [1, 2], [1, 3], [1e300, None], [None, 5e-324]),
    ],
)
def test_messages_come_out_as_they_went_in(message: Told) -> None:
    line = pack(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert unpack_told(line) == message
