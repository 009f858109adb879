"""How many jobs may share a GPU, by the memory that earlier jobs were seen to take on theirs.

Owns: what a job is expected to need, and the backing off when that was too little.
Must not know: how much memory a GPU has, what runs where now; the slots weigh one against the other.

Pure, and fed with the events of a study, so that a search that goes on knows what the one before had
measured. Memory depends on the configuration (width, batch) and hardly on the number of epochs, so that
all jobs tell about all others. What is expected is the most that any job was seen to take: of n jobs the
next one takes more than all before with a chance of 1 / (n + 1) only, where a quantile below would fail
one job in ten or twenty, and a job that runs out of memory costs more than a place that stays empty.
"""

from dataclasses import dataclass

from hyperband.search.events import Event, JobEnded, JobStarted, PlanMade
from hyperband.search.trial import Outcome

#: so many jobs must have been measured, each of another configuration: one alone tells little
_N_MEASURED = 3
#: on top of the most that was seen: looks are seconds apart, and what a library allocates for a moment
#: (cuDNN's workspaces) is easily missed by them
_ALLOWANCE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """What a job is given on its GPU."""

    #: nothing else of ours beside it
    whole: bool
    #: memory that it is expected to take at most; None: not known
    gpu_memory_bytes: int | None
    #: jobs of ours on its GPU at most, itself included; None: as many as fit
    most_jobs: int | None


@dataclass(slots=True)
class _Running:
    """A job that runs."""

    trial: int
    gpus: frozenset[str]
    #: most jobs that ran on one of its GPUs at a time, itself included
    n_together: int = 1


class Packing:
    """What the events of one study tell about sharing GPUs. `see` each of them in order."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._max_epochs: int | None = None
        self._running: dict[int, _Running] = {}
        self._measured: set[int] = set()
        self._peak_bytes = 0
        self._most_jobs: int | None = None

    def see(self, event: Event) -> None:
        """Take in one event that has happened; most of them tell nothing here."""
        if isinstance(event, PlanMade):
            self._max_epochs = event.plan.max_epochs
        elif isinstance(event, JobStarted):
            self._start(event)
        elif isinstance(event, JobEnded):
            self._end(event)

    def room(self, epochs: int) -> Room:
        """What a job gets that trains to this many epochs.

        It is alone in the last rung, whose jobs are few, long and the ones that count; until enough is
        measured; and when even two at a time ran out of memory.
        """
        is_known = len(self._measured) >= _N_MEASURED
        is_last = self._max_epochs is None or epochs >= self._max_epochs
        return Room(
            whole=is_last or not is_known or self._most_jobs == 1,
            gpu_memory_bytes=self._peak_bytes + _ALLOWANCE_BYTES if is_known else None,
            most_jobs=self._most_jobs,
        )

    def _start(self, event: JobStarted) -> None:
        # before UUIDs were written down, or on CPUs: the slot without its share
        gpus = frozenset(event.gpu_uuids or (f"{event.host} {event.slot.partition('/')[0]}",))
        new = _Running(event.trial, gpus)
        self._running[event.job] = new
        for gpu in gpus:
            together = [job for job in self._running.values() if gpu in job.gpus]
            for job in together:
                job.n_together = max(job.n_together, len(together))

    def _end(self, event: JobEnded) -> None:
        ended = self._running.pop(event.job, None)
        if ended is None:
            return
        if event.gpu_memory_peak_bytes:
            self._measured.add(ended.trial)
            self._peak_bytes = max(self._peak_bytes, event.gpu_memory_peak_bytes)
        if event.outcome is Outcome.OUT_OF_MEMORY and ended.n_together > 1:
            fewer = ended.n_together - 1
            self._most_jobs = fewer if self._most_jobs is None else min(self._most_jobs, fewer)
