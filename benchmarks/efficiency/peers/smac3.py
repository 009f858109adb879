"""SMAC3's MultiFidelityFacade (random forest and Hyperband, its successor of BOHB): ask and tell."""

import logging
import tempfile
from pathlib import Path

from smac import MultiFidelityFacade, Scenario
from smac.runhistory.dataclasses import TrialInfo, TrialValue

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape
from efficiency.peers.space import configuration_space

logging.getLogger("smac").setLevel(logging.ERROR)
#: more than any search of ours asks for; the facade's random start is 10 a parameter at most
_N_TRIALS = 1_000_000


class Smac(Method):
    """One facade with its defaults, budgets from 1 to all epochs, eta 3."""

    def __init__(self, landscape: Landscape, *, seed: int, n_workers: int) -> None:
        """Nothing is written after each result; all else as it comes."""
        self._names = [parameter.name for parameter in landscape.space]
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        scenario = Scenario(
            configuration_space(landscape, seed),
            output_directory=Path(self._folder.name),
            deterministic=True,
            n_trials=_N_TRIALS,
            min_budget=1,
            max_budget=landscape.max_epochs,
            seed=seed,
        )
        del n_workers  # of its own runner, which has no part here
        self._smac = MultiFidelityFacade(scenario, _never_called, overwrite=True, logging_level=logging.ERROR)

    def next_job(self, now_s: float) -> Job:
        """`ask`; the budget is rounded to whole epochs."""
        del now_s
        info = self._smac.ask()
        values = tuple(float(info.config[name]) for name in self._names)
        return Job(values, values, max(1, round(info.budget)), info)

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """`tell`."""
        del epoch, now_s
        assert isinstance(job.token, TrialInfo)
        self._smac.tell(job.token, TrialValue(cost=error), save=False)


def _never_called(config: object, seed: int = 0, budget: float = 0) -> float:
    raise RuntimeError(f"SMAC itself wants {config} trained (seed {seed}, budget {budget})")


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search."""
    del name
    return Smac(landscape, seed=seed, n_workers=n_workers)
