"""The simulated clock: W workers that train what a method asks for, in the seconds of the learning curves.

The rules, the same for every method: a worker trains one job at a time, epoch by epoch; an epoch of a
configuration takes its `epoch_s`; deciding takes no time; nothing costs to start or to stop; a trial that
goes on resumes from its checkpoint and pays only the new epochs, also where the method's own runner would
train it again. Standard library only: this runs in the environments of the peers.
"""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from efficiency.landscape import Curve


@dataclass(frozen=True, slots=True)
class Job:
    """What a method wants trained: a trial up to a total of `epochs` epochs."""

    #: whose checkpoint it resumes from
    trial: Hashable
    #: native values of the configuration
    values: tuple[float, ...]
    epochs: int
    #: the method's own, handed back to it
    token: object = None


class Method(ABC):
    """One search, as the clock drives it. Made anew for each cell."""

    #: every epoch's error is seen, and counts when the epoch ends; else only that of a job's last
    sees_epochs = True

    @abstractmethod
    def next_job(self, now_s: float) -> Job | None:
        """What the free worker does now; None: nothing before something else has ended."""

    def on_epoch(self, job: Job, epoch: int, error: float) -> bool:
        """Hear of an epoch before the last of a job; False ends the job here."""
        del job, epoch, error
        return True

    @abstractmethod
    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:
        """Hear that a job is over, at its last epoch or where `on_epoch` ended it."""


@dataclass
class Trajectory:
    """What was found, and when."""

    #: (seconds, error) whenever the best error seen fell
    improvements: list[tuple[float, float]] = field(default_factory=list)
    #: until when the search was followed
    end_s: float = 0.0
    n_jobs: int = 0
    n_epochs: int = 0

    def see(self, now_s: float, error: float) -> None:
        """Take an observation in."""
        if not self.improvements or error < self.improvements[-1][1]:
            self.improvements.append((now_s, error))


class Deadlock(Exception):
    """A method wants nothing trained although nothing runs."""


@dataclass(order=True)
class _Running:
    """A worker in the middle of an epoch; ordered by its end, then by who began first."""

    end_s: float
    order: int
    epoch: int = field(compare=False)
    job: Job = field(compare=False)
    curve: Curve = field(compare=False)


def simulate(
    method: Method, curve: Callable[[tuple[float, ...]], Curve], *, n_workers: int, horizon_s: float
) -> Trajectory:
    """Follow a method until `horizon_s`.

    Raises:
        Deadlock: nothing runs, and the method wants nothing.
    """
    found = Trajectory(end_s=horizon_s)
    reached: dict[Hashable, int] = {}
    running: list[_Running] = []
    now_s = 0.0
    order = 0
    while now_s <= horizon_s:
        while len(running) < n_workers and (job := method.next_job(now_s)) is not None:
            found.n_jobs += 1
            done = reached.get(job.trial, 0)
            work = curve(job.values)
            if job.epochs <= done:  # asked for again: its error is known, and costs nothing
                method.on_end(job, job.epochs, work.errors[job.epochs - 1], now_s)
                continue
            order += 1
            heapq.heappush(running, _Running(now_s + work.epoch_s, order, done + 1, job, work))
        if not running:
            raise Deadlock(f"nothing runs after {now_s:.1f} s, and the method wants nothing trained")
        ended = heapq.heappop(running)
        now_s = ended.end_s
        if now_s > horizon_s:
            break
        job, epoch = ended.job, ended.epoch
        error = ended.curve.errors[epoch - 1]
        reached[job.trial] = epoch
        found.n_epochs += 1
        is_last = epoch >= job.epochs
        if method.sees_epochs:
            found.see(now_s, error)
            is_last = is_last or not method.on_epoch(job, epoch, error)
        if is_last:
            if not method.sees_epochs:
                found.see(now_s, error)
            method.on_end(job, epoch, error, now_s)
        else:
            order += 1
            next_end_s = now_s + ended.curve.epoch_s
            heapq.heappush(running, _Running(next_end_s, order, epoch + 1, job, ended.curve))
    return found
