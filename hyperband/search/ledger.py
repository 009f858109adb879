"""What is known of each trial and each job, packed into arrays: a million trials must fit.

Owns the facts and the story told of them in an error. Takes no decision and checks no order of events.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from hyperband.search.trial import Outcome, TrialState

#: a trial's state is kept as its place here, one byte each
_STATES = tuple(TrialState)
_CODES = {state: code for code, state in enumerate(_STATES)}
#: likewise the final outcome of a job; place 0 means that it has none yet
_FINALS: tuple[Outcome | None, ...] = (None, *(outcome for outcome in Outcome if outcome.is_final))
_FINAL_CODES = {outcome: code for code, outcome in enumerate(_FINALS)}


class Trials:
    """Every trial that has a config id, by trial number."""

    __slots__ = ("_known", "_states", "ids", "losses", "rungs")

    def __init__(self) -> None:
        """No trial has an id."""
        #: config id by trial number; all distinct
        self.ids: list[str] = []
        self._known: set[str] = set()
        self._states = bytearray()
        #: the highest rung each trial entered
        self.rungs = bytearray()
        #: loss of the highest rung that has one; without meaning while `has_loss` is False
        self.losses = array("d")

    def __len__(self) -> int:
        """How many trials have an id."""
        return len(self.ids)

    def first_repeated(self, ids: tuple[str, ...]) -> str | None:
        """The first of these ids that is not new, or None."""
        fresh = set(ids)
        if len(fresh) == len(ids) and fresh.isdisjoint(self._known):
            return None
        seen: set[str] = set()
        for config_id in ids:
            if config_id in self._known or config_id in seen:
                return config_id
            seen.add(config_id)
        return None

    def add(self, ids: tuple[str, ...]) -> None:
        """Give the next trial numbers these ids; the new trials are queued in rung 0."""
        self.ids.extend(ids)
        self._known.update(ids)
        self._states.extend(bytes([_CODES[TrialState.QUEUED]]) * len(ids))
        self.rungs.extend(bytes(len(ids)))
        self.losses.frombytes(bytes(self.losses.itemsize * len(ids)))

    def state(self, trial: int) -> TrialState:
        """Where the trial stands."""
        return _STATES[self._states[trial]]

    def set_state(self, trial: int, state: TrialState) -> None:
        """Move the trial to another state."""
        self._states[trial] = _CODES[state]

    def has_loss(self, trial: int) -> bool:
        """True if a rung gave this trial a loss: this one, or the one that it was promoted from."""
        return self.rungs[trial] > 0 or self.state(trial) in (
            TrialState.WAITING,
            TrialState.DROPPED,
            TrialState.DONE,
        )


@dataclass(slots=True)
class Repeats:
    """The attempts of one job that have to be repeated."""

    outcomes: list[Outcome] = field(default_factory=list)
    #: how many were Lost although the search lived all the time
    n_lost_alive: int = 0
    #: one of them ran on several GPUs and was Lost
    lost_on_several_gpus: bool = False
    #: the slot of each that failed, and whether one of those ran out of memory
    failed_on: tuple[str, ...] = ()
    out_of_memory: bool = False


class Jobs:
    """Every job that ever started, by job number."""

    __slots__ = ("_finals", "_repeats", "_trials")

    def __init__(self) -> None:
        """No job has started."""
        #: trial by job; the k-th job of a trial is that of its rung k
        self._trials = array("q")
        self._finals = bytearray()
        #: only the jobs that had to be repeated: few
        self._repeats: dict[int, Repeats] = {}

    def __len__(self) -> int:
        """How many jobs have started."""
        return len(self._trials)

    def add(self, trial: int) -> None:
        """The next job number goes to this trial."""
        self._trials.append(trial)
        self._finals.append(0)

    def repeats(self, job: int) -> Repeats | None:
        """What is known of the attempts to repeat; None when the job had none."""
        return self._repeats.get(job)

    def attempt(self, job: int) -> int:
        """Number of the attempt that is running, or that would start next."""
        repeats = self._repeats.get(job)
        return 0 if repeats is None else len(repeats.outcomes)

    def add_repeat(
        self, job: int, outcome: Outcome, *, slot: str, search_alive: bool, several_gpus: bool
    ) -> int:
        """Note an attempt that was Lost or Stopped, or a failure to be retried; the next attempt's number."""
        repeats = self._repeats.setdefault(job, Repeats())
        repeats.outcomes.append(outcome)
        if outcome.is_failure:
            repeats.failed_on += (slot,)
            repeats.out_of_memory |= outcome is Outcome.OUT_OF_MEMORY
        if outcome is Outcome.LOST:
            repeats.n_lost_alive += search_alive
            repeats.lost_on_several_gpus |= several_gpus
        return len(repeats.outcomes)

    def set_final(self, job: int, outcome: Outcome) -> None:
        """Note how the job ended for good."""
        self._finals[job] = _FINAL_CODES[outcome]

    def final(self, job: int) -> Outcome | None:
        """How the job ended for good, or None."""
        return _FINALS[self._finals[job]]

    def of_trial(self, trial: int) -> Iterator[int]:
        """The jobs of a trial, rung by rung; a scan of all jobs, for errors and checks."""
        return (job for job, owner in enumerate(self._trials) if owner == trial)

    def trial_of(self, job: int) -> int:
        """The trial that the job trains."""
        return self._trials[job]


def trial_story(trial: int, trials: Trials, jobs: Jobs) -> str:
    """Everything known of one trial, in words, for the message of an error of ours."""
    if not 0 <= trial < len(trials):
        return f"Trial {trial} has no config id; {len(trials)} trials have one"
    parts = [f"Trial {trial} ({trials.ids[trial]!r}) is {trials.state(trial)} in rung {trials.rungs[trial]}."]
    if trials.has_loss(trial):
        parts.append(f"Its last loss is {trials.losses[trial]!r}.")
    for rung, job in enumerate(jobs.of_trial(trial)):
        repeats = jobs.repeats(job)
        ends = [] if repeats is None else [str(outcome) for outcome in repeats.outcomes]
        final = jobs.final(job)
        ends.append("not ended" if final is None else str(final))
        parts.append(f"Job {job}, rung {rung}, attempts: {', '.join(ends)}.")
    return " ".join(parts).removesuffix(".")
