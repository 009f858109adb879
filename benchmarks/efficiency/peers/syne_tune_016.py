"""Syne Tune 0.16: its ASHA with each searcher for several fidelities, driven as its Tuner drives it."""

import datetime
import logging
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import lograndint, loguniform, randint, uniform
from syne_tune.optimizer import baselines
from syne_tune.optimizer.scheduler import SchedulerDecision

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape, Parameter

logging.getLogger("syne_tune").setLevel(logging.ERROR)
_LONG_AGO = datetime.datetime(2026, 1, 1)
_MADE = {"asha": "ASHA", "ashabore": "ASHABORE", "ashacqr": "ASHACQR", "bohb": "BOHB"}


def domain(parameter: Parameter) -> Any:  # noqa: ANN401  # the library has no types
    """The parameter in Syne Tune's words."""
    if parameter.is_int:
        made = lograndint if parameter.is_log else randint
        return made(int(parameter.low), int(parameter.high))
    return (loguniform if parameter.is_log else uniform)(parameter.low, parameter.high)


class SyneTune(Method):
    """A scheduler with the calls of `Tuner`. Its ASHA is of the stopping type alone."""

    def __init__(self, landscape: Landscape, *, seed: int, name: str) -> None:
        """`name`: asha, ashabore, ashacqr or bohb."""
        self._names = [parameter.name for parameter in landscape.space]
        self._max_epochs = landscape.max_epochs
        self._scheduler = getattr(baselines, _MADE[name])(
            {parameter.name: domain(parameter) for parameter in landscape.space},
            metric="error",
            time_attr="epoch",
            max_t=landscape.max_epochs,
            grace_period=1,
            reduction_factor=3,
            random_seed=seed,
        )
        self._n_trials = 0

    def next_job(self, now_s: float) -> Job | None:
        """As `Tuner._schedule_new_task`."""
        del now_s
        suggestion = self._scheduler.suggest()
        if suggestion is None:
            return None
        trial = Trial(self._n_trials, suggestion.config, _LONG_AGO)
        self._n_trials += 1
        self._scheduler.on_trial_add(trial=trial)
        values = tuple(float(trial.config[name]) for name in self._names)
        return Job(trial.trial_id, values, self._max_epochs, trial)

    def on_epoch(self, job: Job, epoch: int, error: float) -> bool:
        """As `Tuner._update_running_trials`."""
        decision = self._scheduler.on_trial_result(trial=job.token, result={"error": error, "epoch": epoch})
        if decision == SchedulerDecision.CONTINUE:
            return True
        self._scheduler.on_trial_remove(trial=job.token)
        return False

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """The last epoch is a result like the others, and stops the trial."""
        del now_s
        if epoch == job.epochs and self.on_epoch(job, epoch, error):
            self._scheduler.on_trial_complete(job.token, {"error": error, "epoch": epoch})


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search."""
    del n_workers
    return SyneTune(landscape, seed=seed, name=name)
