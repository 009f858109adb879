"""Optuna's TPE with HyperbandPruner: ask and tell, as `Study.optimize` calls its objective."""

import optuna

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape

optuna.logging.set_verbosity(optuna.logging.ERROR)


class OptunaTpe(Method):
    """One study in memory. A pruned trial is over for good: Optuna has no resuming."""

    def __init__(self, landscape: Landscape, *, seed: int) -> None:
        """TPESampler and HyperbandPruner with their defaults, resources from 1 to all epochs, factor 3."""
        self._space = landscape.space
        self._max_epochs = landscape.max_epochs
        self._study = optuna.create_study(
            study_name=f"seed {seed}",  # the pruner chooses brackets by it
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=landscape.max_epochs, reduction_factor=3
            ),
        )

    def next_job(self, now_s: float) -> Job:
        """A new trial."""
        del now_s
        trial = self._study.ask()
        values = tuple(
            float(
                trial.suggest_int(p.name, int(p.low), int(p.high), log=p.is_log)
                if p.is_int
                else trial.suggest_float(p.name, p.low, p.high, log=p.is_log)
            )
            for p in self._space
        )
        return Job(trial.number, values, self._max_epochs, trial)

    def on_epoch(self, job: Job, epoch: int, error: float) -> bool:
        """`report`, then `should_prune`."""
        trial = job.token
        assert isinstance(trial, optuna.Trial)
        trial.report(error, epoch)
        return not trial.should_prune()

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """A pruned trial is told as such; one with all its epochs has a value."""
        del now_s
        trial = job.token
        assert isinstance(trial, optuna.Trial)
        if epoch < job.epochs:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.report(error, epoch)
            self._study.tell(trial, error)


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search."""
    del n_workers, name
    return OptunaTpe(landscape, seed=seed)
