"""The protocols between the search and the places where jobs run, drawn from this machine's."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Slot:
    """What one job occupies, and how the job is told."""

    #: `gpu:K`, `gpu:K/j` (share j of GPU K), `gpu:0,1` (several GPUs for one job) or `cpu:K`
    name: str
    #: `("--gpu", "1")` or `("--multi_gpu",)`: what the script gets after `--epochs N`
    arguments: tuple[str, ...]
    #: environment variables to set, or to take out where the value is None
    environment: Mapping[str, str | None]
    #: UUIDs of the GPUs (or MIG instances); empty for CPU slots
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a slot, until it is given back to the Slots that gave it."""

    slot: Slot
    #: locked descriptors that the keeper and the job inherit; the search closes its own copies once
    #: the keeper has them. Empty for CPU slots and for adopted jobs (their keepers hold the locks).
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job would like of its slot."""

    #: names of slots that it must not get: they failed it, or are in quarantine
    avoid: frozenset[str] = frozenset()
    #: nothing else of ours beside it on its GPU
    whole: bool = False
    #: on a GPU with as much memory as any that is free or that only jobs of ours use
    most_memory: bool = False
    #: memory that it will take on its GPU at most; None: not known
    gpu_memory_bytes: int | None = None
    #: jobs of ours on its GPU at most, itself included; None: as many as fit
    most_jobs: int | None = None
    #: how long it is expected to run; None: not known, or it does not matter
    expected_s: float | None = None


#: any slot will do
NO_WISH = Wish()


class StopReason(StrEnum):
    """Why the search ends a job before it ends by itself."""

    STOP = "stop"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at the slot of a running job showed."""

    #: memory that the job's processes use, on the GPU where that is most; None: not known
    gpu_memory_bytes: int | None = None
    #: how busy its GPUs are, their mean, 0 to 100; None: not known
    gpu_utilisation_percent: float | None = None
    #: processes of others on its GPUs, each in words (`pid 123 (python)`)
    strangers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What a launcher must start for one attempt at a job."""

    #: existing, empty folder for everything the attempt writes
    folder: Path
    argv: tuple[str, ...]
    #: added to, or with None taken out of, the environment that the job inherits
    environment: Mapping[str, str | None]
    #: folder of the attempt whose checkpoint the job goes on from, as the journal has it; None: it begins
    after: Path | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, by what its launcher wrote down."""

    #: exit code, or minus the signal; None when nobody saw the end: the attempt is lost
    exit_status: int | None
    #: why the search asked for the end, if it did so in time
    asked: StopReason | None
    #: Unix seconds; None when nobody saw it
    started_at: float | None
    ended_at: float | None
    #: processes that the job left behind and that were ended, as `name (pid N)`
    leftovers: tuple[str, ...]
    #: what went wrong around the job, in words; empty if nothing did
    note: str
    #: nothing of the script was ever run
    never_ran: bool = False
    #: what it ran in was taken away, such as its machine: says nothing of the job
    was_taken_away: bool = False
    #: its keeper, or who watched over that, was killed: by the job itself, if what it ran in went on
    lost_keeper: bool = False
    #: somebody cancelled it by hand, by a command of its engine's, and cancelled nothing else
    was_cancelled: bool = False
    #: the kernel killed a process of the job's cgroup for want of memory while it ran
    oom_killed: bool = False
    #: most resident memory of any one process of the job; None: not measured
    memory_peak_bytes: int | None = None
    #: processor time of the job and its descendants
    cpu_s: float | None = None
    #: for how long it ran at least, where nobody saw it end and that is known
    ran_s: float | None = None


class RunningJob(Protocol):
    """An attempt that has been started or adopted, and has not been seen to end."""

    @property
    def lease(self) -> Lease:
        """The slot it holds."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when every process of the job is gone."""
        ...

    @property
    def has_begun(self) -> bool:
        """Whether it has: it may wait for a while where it is to run."""
        ...

    @property
    def is_suspended(self) -> bool:
        """Whether its engine was seen to have it stopped, to let it go on later."""
        ...

    def running_s(self) -> float:
        """Return for how many seconds of the monotonic clock it has been running."""
        ...


class Bell:
    """A descriptor that becomes readable when somebody rings, from any thread."""

    def __init__(self) -> None:
        """Be silent."""
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def ring(self) -> None:
        """Wake whoever listens."""
        os.eventfd_write(self._descriptor, 1)

    def hush(self) -> None:
        """Be silent again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Let go of the descriptor; nobody may ring any more."""
        os.close(self._descriptor)


#: the kind of running job that a launcher knows
R = TypeVar("R", bound=RunningJob)


class Launcher(Protocol[R]):
    """Starts, adopts, stops and ends attempts. Nothing here waits for a job, but for `end_all`."""

    @property
    def begin_within_s(self) -> float | None:
        """A job that was started so long ago and has not begun waits for servers that hang.

        None: it may wait; whether jobs can be started at all is then the launcher's to say, not the search's.
        """
        ...

    @property
    def bell(self) -> Bell | None:
        """Rings when a job has begun: a start is an order, and may wait. None: jobs begin at once."""
        ...

    def knows(self, folder: Path) -> bool:
        """Return whether a launcher of this kind started the attempt in this folder, or nobody did."""
        ...

    def start(self, order: Order, lease: Lease) -> R:
        """Start a job that was journalled; the launcher holds the lease from now on."""
        ...

    def adopt(self, folder: Path, lease: Lease) -> R | None:
        """Return the job of an earlier search that lives in this folder; None if it does not live."""
        ...

    def stop(self, job: R, reason: StopReason) -> None:
        """Ask for a job's end: SIGTERM, grace, SIGKILL. Its descriptor tells when it is over."""
        ...

    def finish(self, job: R) -> Ending | None:
        """Give back what a job that is over still takes here, and read how it ended; None: not over yet."""
        ...

    def read(self, folder: Path) -> Ending:
        """Read how an attempt ended that no longer lives, and end what is left of a lost one."""
        ...

    def owns(self, pid: int) -> bool:
        """Return whether a process of this machine is the launcher's or descends from a running job."""
        ...

    def belongs(self, pid: int, job: R) -> bool:
        """Return whether a process of this machine descends from this running job."""
        ...

    def kill_servers(self) -> None:
        """Kill the processes that start jobs: they hang. They are started anew when they are needed."""
        ...

    def end_all(self) -> None:
        """End every job and wait for that, although their folders may be gone."""
        ...

    def close(self) -> None:
        """Let go of everything but the jobs: those go on."""
        ...


class Slots(Protocol):
    """The slots of one machine. One owner: the search's loop. Nothing here blocks."""

    def describe(self) -> str:
        """One line for people: which slots there are and why these (`4 GPUs: ...`, `2 CPU slots: no ...`)."""
        ...

    def n_slots(self) -> int:
        """How many jobs could run at once if nothing else used the machine."""
        ...

    def take(self, wish: Wish) -> Lease | None:
        """Lease the first free slot in order that grants the wish, or None."""
        ...

    def names(self) -> tuple[str, ...]:
        """Names of the slots that jobs may get, in order, whether they are free now or not."""
        ...

    def take_all(self, avoid: frozenset[str] = frozenset()) -> Lease | None:
        """Lease every free GPU at once for one `--multi_gpu` job; None unless at least two are free.

        GPUs of which a slot is to be avoided are left out.
        """
        ...

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:
        """Count a slot as used by a job that was started by an earlier search and still lives.

        `wish` is what it had, as far as that is known again.
        """
        ...

    def release(self, lease: Lease) -> None:
        """Count the slot as free again: all processes of its job are gone."""
        ...

    def observe(self, lease: Lease, belongs: Callable[[int], bool]) -> Observation:
        """Look at the GPUs of a lease once; `belongs` tells whether a pid is of the job that has it."""
        ...

    def news(self) -> tuple[str, ...]:
        """Lines worth saying that came up since the last call, such as memory that did not come back."""
        ...

    def is_lost(self, lease: Lease) -> bool:
        """True when a GPU of this lease has been lost (fell off the bus)."""
        ...

    def next_look_s(self) -> float | None:
        """Seconds after which `take` is worth another try although nothing ended; None: never."""
        ...

    def why_none(self) -> str:
        """One line: what the slots that are not free wait for (`GPU 0 is used by pid 123 (python)`)."""
        ...
