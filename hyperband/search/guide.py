"""The guide's part of deciding: where a new trial's config id comes from, and what a model may learn from.

Owns the rule of the random share and the fold from a study's events to observations. Must not know any model,
how proposals are made or when they are ready: that is told here, and its result stands in the journal.
"""

import math
from array import array
from dataclasses import dataclass

from hyperband.search.events import Event, IdProposed, IdsDrawn, IdSource, JobEnded, JobStarted
from hyperband.search.state import own_error
from hyperband.search.trial import Outcome

#: of the trials of a guided search, so many are random draws whatever the model says
RANDOM_SHARE = 0.1

_WORD = (1 << 64) - 1
#: the phase of the random turns is one of so many
_N_PHASES = 1 << 32


def is_random_turn(seed: int, trial: int, share: float) -> bool:
    """Whether this trial's config id is a random draw whatever a model has to say.

    The random turns are spread evenly, so that every bracket has its part: of any n trials in a row,
    n * share are random, rounded up or down. The seed says where they begin. A Beatty sequence, in whole
    numbers: trial t is random where floor((t + 1) * share + phase) is above floor(t * share + phase).

    Args:
        seed: of the search.
        trial: its number, from 0.
        share: from 0 (no trial is) to 1 (every one is).
    """
    above, below = share.as_integer_ratio()
    phase = _mixed(seed) % _N_PHASES * below
    whole = below * _N_PHASES
    step = above * _N_PHASES
    return ((trial + 1) * step + phase) // whole > (trial * step + phase) // whole


def _mixed(seed: int) -> int:
    """64 bits that depend on every bit of a seed of any size (splitmix64, Steele et al. 2014, by words)."""
    mixed = 0
    while True:
        mixed = (mixed + (seed & _WORD) + 0x9E3779B97F4A7C15) & _WORD
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
        mixed ^= mixed >> 31
        seed >>= 64
        if seed in (0, -1):
            return mixed


def source_of(
    trial: int, *, n_start_with: int, seed: int, share: float, can_learn: bool, has_proposal: bool
) -> IdSource:
    """Where the config id of the next new trial comes from.

    Args:
        trial: its number.
        n_start_with: how many ids the user gave to begin with.
        seed: of the search.
        share: of the random trials among those after `n_start_with`.
        can_learn: a job has ended with a loss or failed for good, and something is read from the ids.
        has_proposal: the model has a proposal ready that no trial has.
    """
    if trial < n_start_with:
        return IdSource.START_WITH
    if is_random_turn(seed, trial - n_start_with, share):
        return IdSource.RANDOM
    if has_proposal:
        return IdSource.MODEL
    return IdSource.UNREADY if can_learn else IdSource.RANDOM


@dataclass(frozen=True, slots=True)
class Observation:
    """What one job came to, as far as it says something about its configuration."""

    trial: int
    #: the total number of epochs that it trained to
    epochs: int
    #: None: it failed for good
    loss: float | None
    #: how many of the epochs were new, as if it went on from the trial's checkpoint
    n_new_epochs: int
    #: None where the time says nothing: a failure, or an attempt after one that may have left a checkpoint
    seconds_per_epoch: float | None


class History:
    """The observations of one study and its running jobs, folded from its events. Compact; only grows."""

    __slots__ = ("_epochs", "_losses", "_new_epochs", "_reached", "_seconds", "_trials", "ids", "running")

    def __init__(self) -> None:
        """Nothing is known."""
        #: config id by trial number
        self.ids: list[str] = []
        #: the attempt that runs, by job number
        self.running: dict[int, JobStarted] = {}
        #: by trial: the highest number of epochs that has a loss
        self._reached = array("q")
        #: by observation; a failure has no loss, an unknown time is none: nan stands for both here alone
        self._trials = array("q")
        self._epochs = array("q")
        self._new_epochs = array("q")
        self._losses = array("d")
        self._seconds = array("d")

    def __len__(self) -> int:
        """How many observations there are."""
        return len(self._trials)

    def observation(self, index: int) -> Observation:
        """The observation with this number; they count from 0 in the order in which jobs ended.

        Raises:
            IndexError: there is none.
        """
        loss, seconds = self._losses[index], self._seconds[index]
        return Observation(
            trial=self._trials[index],
            epochs=self._epochs[index],
            loss=None if math.isnan(loss) else loss,
            n_new_epochs=self._new_epochs[index],
            seconds_per_epoch=None if math.isnan(seconds) else seconds,
        )

    def see(self, event: Event) -> None:
        """Take one event in; all of a study's, in order.

        Raises:
            InternalError: the event cannot follow on those before.
        """
        match event:
            case IdsDrawn():
                self._add_ids(event.first, event.ids)
            case IdProposed():
                self._add_ids(event.trial, (event.config_id,))
            case JobStarted():
                if not 0 <= event.trial < len(self.ids):
                    raise own_error(f"{event} came, but only the trials below {len(self.ids)} have an id")
                self.running[event.job] = event
            case JobEnded():
                self._end(event)
            case _:
                pass  # plans, slots and files say nothing about configurations

    def _add_ids(self, first: int, ids: tuple[str, ...]) -> None:
        if first != len(self.ids):
            raise own_error(
                f"{len(ids)} config ids came for the trials from {first} on, but the next trial without an "
                f"id is {len(self.ids)}"
            )
        self.ids.extend(ids)
        self._reached.frombytes(bytes(self._reached.itemsize * len(ids)))

    def _end(self, event: JobEnded) -> None:
        started = self.running.pop(event.job, None)
        if started is None or started.attempt != event.attempt:
            raise own_error(f"{event} came, but this attempt was not running: {started}")
        if event.retry or not event.outcome.is_final:
            return  # the same job runs again: only that counts
        trial = started.trial
        n_new = max(1, started.epochs - self._reached[trial])
        took_s = event.ended_at - event.started_at
        is_timed = event.outcome is Outcome.LOSS and event.attempt == 0 and 0.0 < took_s < math.inf
        self._trials.append(trial)
        self._epochs.append(started.epochs)
        self._new_epochs.append(n_new)
        self._losses.append(math.nan if event.loss is None else event.loss)
        self._seconds.append(took_s / n_new if is_timed else math.nan)
        if event.loss is not None:
            self._reached[trial] = max(started.epochs, self._reached[trial])
