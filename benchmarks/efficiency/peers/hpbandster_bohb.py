"""HpBandSter's BOHB: its own model and brackets, called as its `Master` calls them, without Pyro.

`Master.run` takes the next run of the first open iteration that has one, and opens another iteration when
none has: so does `next_job`. `Master.job_callback` registers a result with the iteration and then with the
model: so does `on_end`. Budgets are fractions of 52 (1.9, 5.8, 17.3, 52): rounded to whole epochs.
"""

import logging
from typing import Any

from hpbandster.core.dispatcher import Job as Run
from hpbandster.optimizers.bohb import BOHB
from hpbandster.optimizers.config_generators.bohb import BOHB as Model

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape
from efficiency.peers.space import configuration_space


class _Refusal(logging.Handler):
    """HpBandSter falls back to random draws with a warning: such a cell would not be BOHB's."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"HpBandSter warns: {record.getMessage()}")


logging.getLogger("hpbandster").setLevel(logging.WARNING)
logging.getLogger("hpbandster").addHandler(_Refusal())


class HpBandSter(Method):
    """BOHB's iterations and model; both in the words of its master."""

    def __init__(self, landscape: Landscape, *, seed: int) -> None:
        """All defaults: eta 3, budgets from 1 to all epochs, a third at random."""
        self._names = [parameter.name for parameter in landscape.space]
        space = configuration_space(landscape, seed)
        # a master without its dispatcher, which would want Pyro's name server: only its plan is used
        self._master: Any = BOHB.__new__(BOHB)
        self._master.config_generator = Model(configspace=space)
        self._master.config = {}
        self._master.iterations = []
        _plan(self._master, eta=3, min_budget=1, max_budget=landscape.max_epochs)

    def next_job(self, now_s: float) -> Job:
        """As `Master.run`."""
        del now_s
        master = self._master
        found = None
        while found is None:
            for iteration in master.iterations:
                if not iteration.is_finished:
                    found = iteration.get_next_run()
                    if found is not None:
                        break
            else:
                master.iterations.append(master.get_next_iteration(len(master.iterations), {}))
        config_id, config, budget = found
        values = tuple(float(config[name]) for name in self._names)
        return Job(config_id, values, max(1, round(budget)), Run(config_id, config=config, budget=budget))

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """As `Master.job_callback`."""
        del epoch, now_s
        run = job.token
        assert isinstance(run, Run)
        run.result = {"loss": error, "info": {}}
        self._master.iterations[run.id[0]].register_result(run)
        self._master.config_generator.new_result(run)


def _plan(master: Any, *, eta: float, min_budget: float, max_budget: float) -> None:  # noqa: ANN401
    """What `BOHB.__init__` computes after its base class's, in the same words."""
    import numpy as np

    master.eta, master.min_budget, master.max_budget = eta, min_budget, max_budget
    master.max_SH_iter = -int(np.log(min_budget / max_budget) / np.log(eta)) + 1
    exponents = -np.linspace(master.max_SH_iter - 1, 0, master.max_SH_iter)
    master.budgets = max_budget * np.power(eta, exponents)


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search."""
    del n_workers, name
    return HpBandSter(landscape, seed=seed)
