"""What happened in a study, in order: the journal stores these, the engine and the reports read them.

A study's state is a pure function of its events. Every field is JSON-able; times are Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hyperband.search.trial import Outcome, Plan


@dataclass(frozen=True, slots=True)
class StudyCreated:
    """First event of every journal: what never changes."""

    identity: str
    #: absolute path of the script
    script: str
    script_args: tuple[str, ...]
    #: working directory of the first start; every job runs there
    cwd: str
    #: config ids of --start-with, in order
    start_with_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchStarted:
    """A process began to write this study."""

    at: float
    #: long option names with underscores -> values, and "script_args"
    settings: Mapping[str, object]
    host: str
    pid: int
    boot_id: str
    version: str


@dataclass(frozen=True, slots=True)
class PlanMade:
    """The plan as the settings give it; a later one may only add brackets, or trials to a sole rung."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class IdsDrawn:
    """Config ids of the trials first, first + 1, ...: journalled before they are used."""

    first: int
    ids: tuple[str, ...]


class IdSource(StrEnum):
    """Where the config id of one new trial is from."""

    #: the model ranked it best
    MODEL = "model"
    #: a draw of the sampler that was meant to be one: the random share, or nothing is known yet
    RANDOM = "random"
    #: a draw of the sampler since the model had no proposal ready
    UNREADY = "unready"
    #: from the user's list of ids to begin with
    START_WITH = "start_with"


@dataclass(frozen=True, slots=True)
class IdProposed:
    """The config id of the next trial, chosen when it was about to start: journalled before it is used.

    It says as well that the sampler was seen to give more distinct ids than the plan could train to the full
    number of epochs, or thousands, so that jobs may start: whoever proposes answers for that.
    """

    #: the lowest trial number without an id
    trial: int
    config_id: str
    source: IdSource
    #: how many losses and failures the model had seen; 0 where none was asked
    n_observations: int


@dataclass(frozen=True, slots=True)
class SpaceExhausted:
    """The sampler gives no further distinct id: only n_ids trials exist, for good."""

    n_ids: int
    #: the plan becomes one bracket: all ids trained to the full number of epochs
    train_all: bool


@dataclass(frozen=True, slots=True)
class JobStarted:
    """An attempt at a job got its slot; written before its process exists."""

    at: float
    job: int
    attempt: int
    trial: int
    rung: int
    epochs: int
    #: `gpu:K`, `gpu:K/j`, `gpu:0,1` or `cpu:K`
    slot: str
    several_gpus: bool
    script_sha256: str
    host: str
    #: UUIDs of its GPUs (or MIG instances); empty on CPU slots
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobEnded:
    """An attempt ended and every process of it is gone."""

    at: float
    job: int
    attempt: int
    outcome: Outcome
    #: the number for Loss, else None
    loss: float | None
    #: exit status of the script: >= 0 exit code, < 0 minus the signal; None when unknown (Lost)
    exit_status: int | None
    #: when the script's process started and ended, as its keeper saw it
    started_at: float
    ended_at: float
    #: the search lived from this attempt's start to its end
    search_alive: bool
    #: a few words on what was found: why no loss, leftover processes, ...
    note: str
    #: this failure is not the last word: the same job is tried again
    retry: bool = False
    #: what a failure has in common with others of its kind, such as `KeyError 'bn'`; empty if unknown
    fingerprint: str = ""
    #: most resident memory of any one process of the job; None when nobody measured it
    memory_peak_bytes: int | None = None
    #: processor time of the job and its descendants
    cpu_s: float | None = None
    #: most memory seen in use by the job on any one of its GPUs
    gpu_memory_peak_bytes: int | None = None
    #: mean of what the GPU was seen to be busy, 0 to 100
    gpu_utilisation_percent: float | None = None


@dataclass(frozen=True, slots=True)
class SlotQuarantined:
    """A slot failed jobs that are not to blame: nothing starts there for a while."""

    at: float
    #: as in JobStarted
    slot: str
    #: Unix seconds; it is given back then
    until_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class SlotReleased:
    """A slot is used again: its quarantine is over, or somebody ended it."""

    at: float
    slot: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointsRemoved:
    """Checkpoint files of trials that can no longer be promoted are deleted."""

    at: float
    trials: tuple[int, ...]
    n_files: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """A process stopped writing this study in good order."""

    at: float
    #: stopped, finished or failed
    state: str
    reason: str


Event = (
    StudyCreated
    | SearchStarted
    | PlanMade
    | IdsDrawn
    | IdProposed
    | SpaceExhausted
    | JobStarted
    | JobEnded
    | SlotQuarantined
    | SlotReleased
    | CheckpointsRemoved
    | SearchEnded
)
