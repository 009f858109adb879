"""Our own searches: the real engine, fed with events as `hyperband.study` feeds it, on the simulated clock.

Config ids are what a script's sampler `from_unit(rng.uniform(size=d))` would return, with its values written
out: `batch_size:37,learning_rate:0.0123,...`; they are drawn as the product draws them. A guided search talks
to the guide's advisor as the guide's process does, without the process.

The product computes proposals while jobs run. When a job ends and its slot takes a new trial, the proposal
that is ready was made before that end: so what the model hears here of an end is held back until the clock
has moved on. The flag `fresh` lifts this, for comparison.
"""

from collections import deque

import numpy as np

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape
from hyperband.guide.advisor import Advisor
from hyperband.guide.messages import Begin, Draws, Teller, Unknown, Want, WantDraws
from hyperband.search.brackets import make_plan
from hyperband.search.engine import Engine
from hyperband.search.events import Event, IdProposed, JobEnded, JobStarted, PlanMade
from hyperband.search.guide import RANDOM_SHARE, History, is_random_turn, source_of
from hyperband.search.trial import Algorithm, Outcome, Plan

ETA = 3
#: the searches are cut off by the clock, long before their plans end
_N_PASSES = 400
_N_TRIALS = 50_000
_N_DRAWS = 256
#: as in the product
_MOST_READY = 64


class Sampler:
    """The draws of a script with this space, for one seed; each is made once."""

    def __init__(self, landscape: Landscape, seed: int) -> None:
        """Nothing is drawn yet."""
        self._landscape = landscape
        self._seed = seed
        #: id -> native values
        self.values: dict[str, tuple[float, ...]] = {}
        self._candidates: list[str] = []

    def trial_id(self, trial: int, used: set[str]) -> str:
        """The id of a trial without a guide: the first that no earlier one has, of the trial's own stream."""
        rng = _generator(self._seed, trial)
        while True:
            found = self._named(rng.uniform(size=(1, len(self._landscape.space))))[0]
            if found not in used:
                return found

    def candidates(self, first: int, end: int) -> list[str]:
        """Draws `first` to `end` - 1 of the stream of candidates, counted from 0."""
        while len(self._candidates) < end:
            numbers = range(len(self._candidates) + 1, len(self._candidates) + 1 + _N_DRAWS)
            size = len(self._landscape.space)
            rows = [_generator(self._seed, 1, number).uniform(size=size) for number in numbers]
            self._candidates += self._named(np.array(rows))
        return self._candidates[first:end]

    def _named(self, rows: np.ndarray) -> list[str]:
        found = []
        for row in self._landscape.from_unit(rows):
            parts = [
                f"{parameter.name}:{int(value) if parameter.is_int else value!r}"
                for parameter, value in zip(self._landscape.space, row, strict=True)
            ]
            found.append(",".join(parts))
            self.values[found[-1]] = row
        return found


def _generator(*entropy: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))


class RandomIds:
    """Ids of a search without a guide."""

    def __init__(self, sampler: Sampler) -> None:
        """No trial has one."""
        self._sampler = sampler
        self._used: set[str] = set()

    def propose(self, trial: int, now_s: float) -> IdProposed:
        """The id of the next new trial."""
        del now_s
        found = self._sampler.trial_id(trial, self._used)
        self._used.add(found)
        source = source_of(trial, n_start_with=0, seed=0, share=1.0, can_learn=False, has_proposal=False)
        return IdProposed(trial, found, source, 0)

    def see(self, event: Event) -> None:
        """Nothing: draws depend on nothing that happens."""


class GuidedIds:
    """Ids of a guided search: what `hyperband.study.guiding` and the guide's process do together."""

    def __init__(
        self, sampler: Sampler, engine: Engine, *, max_epochs: int, seed: int, n_slots: int, is_fresh: bool
    ) -> None:
        """The first draws are offered at once."""
        # here, so that searches without a guide need no model
        from hyperband.guide.model import Model

        self._sampler = sampler
        self._engine = engine
        self._seed = seed
        self._n_slots = n_slots
        self._is_fresh = is_fresh
        self._history = History()
        self._teller = Teller(self._history, 0)
        self._advisor = Advisor(Model)
        self._n_offered = 0
        self._n_ready = 0
        self._ready: deque[str] = deque()
        self._n_observations = 0
        self._used: set[str] = set()
        #: draws that no trial has, oldest first
        self._unused: deque[str] = deque()
        #: ends that the model hears of when the clock has moved on
        self._held: deque[JobEnded] = deque()
        self._can_learn = False
        self._advisor.hear(Begin(max_epochs, seed))
        self._offer()

    def propose(self, trial: int, now_s: float) -> IdProposed:
        """The id of the next new trial: at random in its turn, else the model's if it has one."""
        while self._held and (self._is_fresh or self._held[0].at < now_s):
            self._history.see(self._held.popleft())
        proposed = None
        if not is_random_turn(self._seed, trial, RANDOM_SHARE):
            proposed = self._proposed()
        source = source_of(
            trial,
            n_start_with=0,
            seed=self._seed,
            share=RANDOM_SHARE,
            can_learn=self._can_learn,
            has_proposal=proposed is not None,
        )
        found = self._drawn() if proposed is None else proposed
        self._used.add(found)
        return IdProposed(trial, found, source, 0 if proposed is None else self._n_observations)

    def see(self, event: Event) -> None:
        """Take in what happened."""
        if isinstance(event, JobEnded):
            self._can_learn = True
            self._held.append(event)
        else:
            self._history.see(event)

    def _proposed(self) -> str | None:
        """The model's best that no trial has."""
        n_ready = min(self._engine.n_new_wanted(self._n_slots + 1), _MOST_READY)
        if n_ready != self._n_ready:
            self._n_ready = n_ready
            self._advisor.hear(Want(n_ready))
        for told in self._teller.tell():
            self._advisor.hear(told)
        self._offer()
        if self._advisor.is_due:
            found = self._advisor.compute()
            self._ready = deque(found.ids)
            self._n_observations = found.n_observations
            self._offer()
        while self._ready:
            proposed = self._ready.popleft()
            if proposed not in self._used:
                return proposed
        return None

    def _drawn(self) -> str:
        """The oldest draw that no trial has."""
        while True:
            if not self._unused:
                self._draw(_N_DRAWS)
            drawn = self._unused.popleft()
            if drawn not in self._used:
                return drawn

    def _offer(self) -> None:
        """Give the advisor the draws that it asks for."""
        while answers := self._advisor.answers():
            for answer in answers:
                if isinstance(answer, WantDraws):
                    self._draw(answer.n_in_all - self._n_offered)
                elif isinstance(answer, Unknown):
                    raise RuntimeError(f"the guide cannot read {answer.ids[0]!r}")

    def _draw(self, n: int) -> None:
        if n > 0:
            ids = self._sampler.candidates(self._n_offered, self._n_offered + n)
            self._n_offered += n
            self._unused.extend(ids)
            self._advisor.hear(Draws(ids, None, False))


class Search(Method):
    """One search of ours."""

    #: only what a job prints at its end is seen
    sees_epochs = False

    def __init__(
        self, landscape: Landscape, plan: Plan, *, seed: int, n_workers: int, flags: set[str]
    ) -> None:
        """`flags`: `model` for a guide, `fresh` for one that knows of an end at once."""
        self._sampler = _sampler(landscape, seed)
        self._engine = Engine()
        self._engine.handle(PlanMade(plan))
        self._ids: RandomIds | GuidedIds
        if "model" in flags:
            self._ids = GuidedIds(
                self._sampler,
                self._engine,
                max_epochs=landscape.max_epochs,
                seed=seed,
                n_slots=n_workers,
                is_fresh="fresh" in flags,
            )
        else:
            self._ids = RandomIds(self._sampler)
        self._n_ids = 0
        self._began_s: dict[int, float] = {}

    def next_job(self, now_s: float) -> Job | None:
        """The engine's next start; a new trial gets its id only now."""
        if self._engine.wants_id():
            proposed = self._ids.propose(self._n_ids, now_s)
            self._n_ids += 1
            self._take_in(proposed)
        start = self._engine.next_start()
        if start is None:
            return None
        self._began_s[start.job] = now_s
        self._take_in(
            JobStarted(
                at=now_s,
                job=start.job,
                attempt=start.attempt,
                trial=start.trial,
                rung=start.rung,
                epochs=start.epochs,
                slot="cpu:0",
                several_gpus=False,
                script_sha256="",
                host="",
            )
        )
        return Job(start.trial, self._sampler.values[start.config_id], start.epochs, start.job)

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """The job printed its loss."""
        del epoch
        assert isinstance(job.token, int)
        self._take_in(
            JobEnded(
                at=now_s,
                job=job.token,
                attempt=0,
                outcome=Outcome.LOSS,
                loss=error,
                exit_status=0,
                started_at=self._began_s.pop(job.token),
                ended_at=now_s,
                search_alive=True,
                note="",
            )
        )

    def _take_in(self, event: IdProposed | JobStarted | JobEnded) -> None:
        self._engine.handle(event)
        self._ids.see(event)


_samplers: dict[int, Sampler] = {}


def _sampler(landscape: Landscape, seed: int) -> Sampler:
    """The draws of a seed, which are the same on every task: kept for the next cell."""
    if seed not in _samplers:
        _samplers.clear()
        _samplers[seed] = Sampler(landscape, seed)
    return _samplers[seed]


def plan_of(name: str, max_epochs: int) -> Plan:
    """The plan of a search, longer than any campaign follows it.

    Args:
        name: `asha`, `pasha`, `hyperband` or `hyperband-async`; then, if they are not the defaults, `-rN` for
            --min-epochs N and `-etaN` for --eta N.
        max_epochs: R.
    """
    first, *options = name.split("-")
    algorithm = Algorithm(first)
    numbers = {"r": 1, "eta": ETA}
    for option in options:
        if option != "async":
            letters = option.rstrip("0123456789")
            numbers[letters] = int(option.removeprefix(letters))
    return make_plan(
        algorithm=algorithm,
        max_epochs=max_epochs,
        eta=numbers["eta"],
        min_epochs=numbers["r"],
        brackets=None,
        repeat=1 if algorithm.has_one_ladder else _N_PASSES,
        max_trials=_N_TRIALS if algorithm.has_one_ladder else None,
        asynchronous="async" in options,
    )


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search; `name` is that of its plan, then flags with a plus sign."""
    plan, *flags = name.split("+")
    return Search(
        landscape, plan_of(plan, landscape.max_epochs), seed=seed, n_workers=n_workers, flags={*flags}
    )
