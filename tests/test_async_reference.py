"""Every start of searches without barriers against the rule spelt out, in any order, with any failures."""

import random

from async_reference import Reference, Where
from engine_fixture import Simulation
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hyperband.search.brackets import exhausted_plan, make_plan
from hyperband.search.events import JobStarted, PlanMade, SpaceExhausted
from hyperband.search.retention import Retention
from hyperband.search.trial import Algorithm, Outcome, Plan, Start, TrialState

SHAPES = [(9, 3, 1), (8, 2, 1), (13, 3, 1), (4, 4, 1), (3, 2, 1), (1, 2, 1), (16, 2, 4), (16, 2, 1)]


class Life:
    """One search that goes on as chance wants it."""

    def __init__(self, algorithm: Algorithm, chance: random.Random) -> None:
        self.algorithm = algorithm
        self.chance = chance
        self.max_epochs, self.eta, self.min_epochs = chance.choice(SHAPES)
        self.repeat = chance.randint(1, 2)
        self.n_trials = chance.randint(1, 40)
        self.limit = chance.choice([None, chance.randint(self.min_epochs, 150)])
        self.plan = self.made()
        self.search = Simulation(PlanMade(self.plan))
        self.rule = Reference(self.plan)
        self.space = chance.choice([None, None, chance.randint(1, self.plan.n_trials + 1)])
        self.is_exhausted = self.is_trained_whole = False
        self.n_slots = chance.randint(1, 6)
        self.failing = chance.choice([0.0, 0.0, 0.2, 0.6])
        self.few_losses = chance.choice([None, None, [0.0, 1.0, 2.0], [0.0]])
        self.keep_done = chance.random() < 0.5
        self.n_growths_left = 2
        self.begin()

    def made(self) -> Plan:
        is_ladder = self.algorithm.has_one_ladder
        return make_plan(
            algorithm=self.algorithm,
            max_epochs=self.max_epochs,
            eta=self.eta,
            min_epochs=self.min_epochs,
            brackets=None,
            repeat=self.repeat,
            max_trials=self.n_trials if is_ladder else None,
            asynchronous=not is_ladder,
            max_total_epochs=self.limit if is_ladder else None,
        )

    def begin(self) -> None:
        """A start of the search, at which it is found out whose checkpoints may go."""
        self.retention = Retention(keep_done=self.keep_done)
        self.gone = set(self.retention.all_over(self.search.engine))
        self.n_told = len(self.search.decisions)

    def see(self, ended: list[int]) -> None:
        """What was decided lets go of checkpoints: of each once, and as a look at all would have it."""
        engine = self.search.engine
        new = self.retention.over(engine, ended, self.search.decisions[self.n_told :])
        self.n_told = len(self.search.decisions)
        assert self.gone.isdisjoint(new)
        self.gone.update(new)
        assert self.gone == set(Retention(keep_done=self.keep_done).all_over(engine))

    def draw(self) -> None:
        self.search.draw(self.chance.randint(1, self.plan.n_trials), self.space)
        last = self.search.events[-1]
        self.rule.n_ids = len(self.search.engine.ids())
        if isinstance(last, SpaceExhausted):
            self.is_exhausted, self.is_trained_whole = True, last.train_all
            self.rule.shrink(exhausted_plan(self.plan, n_ids=last.n_ids, train_all=False))
        self.see([])

    def grow(self) -> None:
        self.n_growths_left -= 1
        self.repeat += not self.algorithm.has_one_ladder
        self.n_trials += self.chance.randint(0, 20)
        if self.limit is not None:
            self.limit = self.chance.choice([None, self.limit + self.chance.randint(0, 60)])
        self.plan = self.made()
        self.search.handle(PlanMade(self.plan))
        self.rule.take(self.plan)
        self.begin()

    def start(self, start: Start) -> None:
        assert start.trial not in self.gone, "a job needs the checkpoint of the one before"
        self.search.start()
        self.rule.start((start.trial, start.bracket, start.rung))
        self.see([])

    def end(self, one: JobStarted) -> None:
        where: Where = (one.trial, self.search.engine.trial(one.trial).bracket, one.rung)
        came: float | Outcome = self.chance.random()
        if self.few_losses is not None:
            came = self.chance.choice(self.few_losses)
        if self.chance.random() < 0.08:
            came = Outcome.STOPPED
            self.rule.retries.add(where)
        elif self.chance.random() < self.failing:
            came = Outcome.CRASHED
        self.search.end(one, came)
        if came is not Outcome.STOPPED:
            self.rule.end(where, came if isinstance(came, float) else None)
        self.see([one.trial])

    def step(self) -> bool:
        """Let something happen; False: all is over."""
        engine, chance = self.search.engine, self.chance
        if engine.n_ids_wanted() and (chance.random() < 0.3 or not (engine.n_running or engine.next_start())):
            self.draw()
        if self.is_trained_whole:
            return False  # one rung with barriers now
        if self.n_growths_left and not self.is_exhausted and chance.random() < 0.03:
            self.grow()
        start = engine.next_start()
        if engine._may_start():
            found = None if start is None else (start.trial, start.bracket, start.rung)
            assert found == self.rule.next()
            assert (engine.n_startable > 0) == (start is not None)
        if engine.is_complete:
            assert start is None
            assert not engine.n_running
            assert all(view.state is not TrialState.WAITING for view in engine.trials())
            return False
        assert start is not None or engine.n_running or engine.n_ids_wanted(), "nothing can happen"
        if start is not None and engine.n_running < self.n_slots and chance.random() < 0.7:
            self.start(start)
        elif engine.running():
            self.end(chance.choice(engine.running()))
        return True


@settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60, phases=[Phase.generate]
)
@given(
    st.sampled_from([Algorithm.ASHA, Algorithm.PASHA, Algorithm.HYPERBAND, Algorithm.HALVING]),
    st.integers(0, 2**32),
)
def test_what_starts_next_is_what_the_rule_says(algorithm: Algorithm, seed: int) -> None:
    life = Life(algorithm, random.Random(seed))
    n_steps = 0
    while life.step():
        n_steps += 1
        assert n_steps < 5000, "it ends"
    losses = [
        (-numbers.epochs, loss, trial)
        for rungs, seen in zip(life.rule.sizes, life.rule.seen, strict=False)
        for numbers, here in zip(rungs, seen, strict=True)
        for trial, loss in here.losses.items()
    ]
    best = life.search.engine.best()
    found = None if best is None else (-best.epochs, best.loss, best.trial)
    assert found == min(losses, default=None)
