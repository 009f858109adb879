"""DEHB: ask and tell.

It is made for one worker whatever the number, since for more it starts a Dask cluster; `ask` and `tell` do
not look at that number. A job of a configuration that was trained before resumes, as everywhere. Its
fidelities are fractions of 52 (1.9, 5.8, 17.3, 52): rounded to whole epochs.
"""

import logging
import tempfile
from typing import Any

from dehb import DEHB
from loguru import logger as loguru_logger

from efficiency.clock import Job, Method
from efficiency.landscape import Landscape
from efficiency.peers.space import configuration_space

loguru_logger.remove()
logging.getLogger("dehb").setLevel(logging.ERROR)


class Dehb(Method):
    """One optimiser with its defaults, fidelities from 1 to all epochs, eta 3."""

    def __init__(self, landscape: Landscape, *, seed: int) -> None:
        """All defaults, but for what it writes to disk: at the end, which never comes."""
        self._names = [parameter.name for parameter in landscape.space]
        space = configuration_space(landscape, seed)
        self._folder = tempfile.TemporaryDirectory(prefix="dehb-")
        self._dehb = DEHB(
            cs=space,
            f=None,
            dimensions=len(self._names),
            min_fidelity=1,
            max_fidelity=landscape.max_epochs,
            eta=3,
            seed=seed,
            n_workers=1,
            save_freq="end",
            output_path=self._folder.name,
            log_level="ERROR",
        )
        loguru_logger.remove()

    def next_job(self, now_s: float) -> Job:
        """`ask`."""
        del now_s
        found: Any = self._dehb.ask()
        values = tuple(float(found["config"][name]) for name in self._names)
        return Job(values, values, max(1, round(found["fidelity"])), found)

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """`tell`."""
        self._dehb.tell(job.token, {"fitness": error, "cost": now_s})
        del epoch


def make(landscape: Landscape, *, seed: int, n_workers: int, name: str) -> Method:
    """A fresh search."""
    del n_workers, name
    return Dehb(landscape, seed=seed)
