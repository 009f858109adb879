"""Syne Tune 0.13: ASHA, MOBSTER and Hyper-Tune, driven as its Tuner drives its schedulers."""

import datetime
import logging
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import lograndint, loguniform, randint, uniform
from syne_tune.optimizer.baselines import ASHA, MOBSTER, HyperTune
from syne_tune.optimizer.scheduler import SchedulerDecision

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape, Parameter

logging.getLogger("syne_tune").setLevel(logging.ERROR)
_MADE = {"asha": ASHA, "mobster": MOBSTER, "hypertune": HyperTune, "hypertune1": HyperTune}
_LONG_AGO = datetime.datetime(2026, 1, 1)


def domain(parameter: Parameter) -> Any:  # noqa: ANN401  # the library has no types
    """The parameter in Syne Tune's words."""
    if parameter.is_int:
        made = lograndint if parameter.is_log else randint
        return made(int(parameter.low), int(parameter.high))
    return (loguniform if parameter.is_log else uniform)(parameter.low, parameter.high)


class SyneTune(Method):
    """A scheduler with the calls of `Tuner._schedule_new_task` and `Tuner._update_running_trials`."""

    def __init__(self, landscape: Landscape, *, seed: int, n_workers: int, name: str) -> None:
        """`name`: asha, mobster or hypertune, then `-promotion` or `-stopping`."""
        del n_workers
        searcher, kind = name.split("-")
        self._names = [parameter.name for parameter in landscape.space]
        space = {parameter.name: domain(parameter) for parameter in landscape.space}
        kwargs: dict[str, Any] = {"search_options": {"debug_log": False}}
        if searcher == "hypertune":
            kwargs["brackets"] = 4
        self._scheduler = _MADE[searcher](
            {**space, "epochs": landscape.max_epochs},
            metric="error",
            mode="min",
            resource_attr="epoch",
            max_resource_attr="epochs",
            grace_period=1,
            reduction_factor=3,
            type=kind,
            random_seed=seed,
            **kwargs,
        )
        self._max_epochs = landscape.max_epochs
        self._trials: dict[int, Trial] = {}

    def next_job(self, now_s: float) -> Job | None:
        """As `Tuner._schedule_new_task`."""
        del now_s
        suggestion = self._scheduler.suggest(trial_id=len(self._trials))
        if suggestion is None:
            return None
        if suggestion.spawn_new_trial_id:
            number = len(self._trials)
            trial = Trial(number, suggestion.config.copy(), _LONG_AGO)
            self._trials[number] = trial
            self._scheduler.on_trial_add(trial=trial)
        else:
            number = suggestion.checkpoint_trial_id
            trial = self._trials[number]
            if suggestion.config is not None:
                trial = Trial(number, suggestion.config, _LONG_AGO)
                self._trials[number] = trial
        values = tuple(float(trial.config[name]) for name in self._names)
        return Job(number, values, int(trial.config["epochs"]), trial)

    def on_epoch(self, job: Job, epoch: int, error: float) -> bool:
        """As `Tuner._update_running_trials`: the job goes on unless it is paused or stopped."""
        trial = job.token
        result = {"error": error, "epoch": epoch}
        decision = self._scheduler.on_trial_result(trial=trial, result=result)
        if decision == SchedulerDecision.CONTINUE:
            return True
        self._scheduler.on_trial_remove(trial=trial)
        return False

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """The last epoch is a result like the others; then the trial is complete unless it was paused."""
        del now_s
        if epoch == job.epochs and self.on_epoch(job, epoch, error):
            self._scheduler.on_trial_complete(job.token, {"error": error, "epoch": epoch})


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search."""
    return SyneTune(landscape, seed=seed, n_workers=n_workers, name=name)
