"""Settings: everything the command line can say about one search; frozen, with the defaults."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hyperband.search.trial import Algorithm


class WhenShared(StrEnum):
    """What happens on a GPU of ours when a process of somebody else comes."""

    #: our job goes on; the next one waits until the other process is gone
    WAIT = "wait"
    #: our job goes on, and so do the next ones
    SHARE = "share"
    #: our job is stopped, and queued again for another GPU
    YIELD = "yield"


class On(StrEnum):
    """Where jobs run."""

    #: this machine
    LOCAL = "local"
    #: a cluster's machines, in allocations of its Slurm
    SLURM = "slurm"
    #: a cluster's machines, at slots of its Ray
    RAY = "ray"


class KeepCheckpoints(StrEnum):
    """Which trials keep their checkpoint files; the best trial's always stay."""

    ALL = "all"
    #: those that reached the last rung of their bracket
    BEST = "best"
    #: none but the best trial's
    NONE = "none"


class GuideKind(StrEnum):
    """Where the config ids of new trials come from."""

    #: all are random draws, by seed and trial number
    NONE = "none"
    #: a model of the losses so far chooses among random draws
    MODEL = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One search. Field names carry units; `document` gives the names of the command line."""

    #: absolute path of the user's script, symbolic links kept
    script: Path
    #: handed on to the script, in order
    script_args: tuple[str, ...] = ()
    algorithm: Algorithm = Algorithm.HYPERBAND
    max_epochs: int = 81
    eta: int = 3
    min_epochs: int = 1
    brackets: int | None = None
    repeat: int = 1
    max_trials: int | None = None
    #: of all jobs together when each goes on from a checkpoint; None: no limit
    max_total_epochs: int | None = None
    #: that there is no such limit was said, so that a study's own may be taken away
    lifts_max_total_epochs: bool = False
    #: trials of brackets go on without waiting for their rung
    asynchronous: bool = False
    seed: int = 42
    start_with: Path | None = None
    guide: GuideKind = GuideKind.MODEL
    #: folders of other studies that the model learns from as well, absolute
    learn_from: tuple[Path, ...] = ()
    penalty: float = 100.0
    on: On = On.LOCAL
    #: YAML file that says what is asked of Slurm, absolute
    slurm_profile: Path | None = None
    #: `KEY=VALUE` over it
    slurm_set: tuple[str, ...] = ()
    #: "held": each job is a step in an allocation that is held
    slurm_mode: str = "held"
    #: `auto` or HOST:PORT
    ray_address: str = "auto"
    #: `NAME=AMOUNT` that one slot takes
    ray_resources: tuple[str, ...] = ()
    #: file with the cluster's token, absolute
    ray_token: Path | None = None
    #: "shared": nodes see the study's folder; "sent": all that jobs need travels there, and back
    ray_files: str = "shared"
    #: folder that travels; None: the script's
    ray_working_dir: Path | None = None
    #: file with more of Ray's runtime environment, absolute
    ray_runtime_env: Path | None = None
    #: URI below which checkpoints are stored where nodes share no files
    storage: str | None = None
    #: jobs at once, where they run on other machines; None: as many as these have room for
    max_slots: int | None = None
    #: "all", "none", or a comma-separated list of PCI-order indices and UUIDs
    gpus: str = "all"
    #: CPU slots; None: half of the usable cores, at least 1
    slots: int | None = None
    #: None: as many as fit by their measured memory
    jobs_per_gpu: int | None = 1
    isolate: bool = False
    when_shared: WhenShared = WhenShared.WAIT
    #: so many idle GPUs are left to others
    leave_free: int = 0
    multi_gpu: bool = True
    timeout_s: float | None = None
    timeout_per_epoch_s: float | None = None
    stall_timeout_s: float | None = None
    retries: int = 1
    quarantine_s: float = 3600.0
    #: nothing starts while a file system that jobs write to has less free space
    min_free_disk_gib: float = 1.0
    keep_checkpoints: KeepCheckpoints = KeepCheckpoints.ALL
    #: pattern of a trial's checkpoint files, relative to where the jobs run
    checkpoints: str | None = None
    warm: bool = False
    max_time_s: float | None = None
    #: interpreter that runs the script, absolute, symbolic links kept (a virtual environment's is one)
    python: Path
    #: absolute
    logs: Path
    grace_s: float = 10.0
    keep_going: bool = False
    dry_run: bool = False
    clean: bool = False
    #: go on from the copy of the journal, where the journal is on a machine that is lost
    from_copy: bool = False
    yes: bool = False
    #: the words of the same command without --detach, if the search is to run on its own; says nothing of it
    detach: tuple[str, ...] | None = None
    json: bool = False
    debug: bool = False

    @property
    def has_time_limit(self) -> bool:
        """Whether a job may be ended because it takes too long."""
        limits_s = (self.timeout_s, self.timeout_per_epoch_s, self.stall_timeout_s)
        return any(limit_s is not None for limit_s in limits_s)

    def document(self) -> dict[str, object]:
        """The settings under their long option names with underscores, plus `script_args`."""
        return {
            "max_epochs": self.max_epochs,
            "eta": self.eta,
            "min_epochs": self.min_epochs,
            "brackets": self.brackets,
            "repeat": self.repeat,
            "algorithm": str(self.algorithm),
            "async": self.asynchronous,
            "max_trials": self.max_trials,
            "max_total_epochs": self.max_total_epochs,
            "seed": self.seed,
            "start_with": None if self.start_with is None else str(self.start_with),
            "guide": str(self.guide),
            "learn_from": [str(folder) for folder in self.learn_from],
            "penalty": self.penalty,
            "on": str(self.on),
            "slurm_profile": None if self.slurm_profile is None else str(self.slurm_profile),
            "slurm_set": list(self.slurm_set),
            "slurm_mode": self.slurm_mode,
            "ray_address": self.ray_address,
            "ray_resources": list(self.ray_resources),
            "ray_token": None if self.ray_token is None else str(self.ray_token),
            "ray_files": self.ray_files,
            "ray_working_dir": None if self.ray_working_dir is None else str(self.ray_working_dir),
            "ray_runtime_env": None if self.ray_runtime_env is None else str(self.ray_runtime_env),
            "storage": self.storage,
            "max_slots": self.max_slots,
            "gpus": self.gpus,
            "slots": self.slots,
            "jobs_per_gpu": "auto" if self.jobs_per_gpu is None else self.jobs_per_gpu,
            "isolate": self.isolate,
            "when_shared": str(self.when_shared),
            "leave_free": self.leave_free,
            "no_multi_gpu": not self.multi_gpu,
            "timeout": self.timeout_s,
            "timeout_per_epoch": self.timeout_per_epoch_s,
            "stall_timeout": self.stall_timeout_s,
            "retries": self.retries,
            "quarantine_s": self.quarantine_s,
            "min_free_disk": self.min_free_disk_gib,
            "keep_checkpoints": str(self.keep_checkpoints),
            "checkpoints": self.checkpoints,
            "warm": self.warm,
            "max_time": self.max_time_s,
            "python": str(self.python),
            "logs": str(self.logs),
            "grace": self.grace_s,
            "keep_going": self.keep_going,
            "dry_run": self.dry_run,
            "clean": self.clean,
            "from_copy": self.from_copy,
            "yes": self.yes,
            "detach": self.detach is not None,
            "json": self.json,
            "debug": self.debug,
            "script_args": list(self.script_args),
        }


def changed_words(name: str, was: object, is_now: object) -> str:
    """An option that had another value before, in the words of the command line.

    Args:
        name: as in `Settings.document`.
        was: the value before; None where the option was left out.
        is_now: the value now.
    """
    option = f"--{name.replace('_', '-')}"
    if isinstance(is_now, bool):
        return f"{option} was not given and now is" if is_now else f"{option} was given and now is not"
    if was is None:
        return f"{option} was not given and is now {is_now}"
    return f"{option} was {was} and is {'not given now' if is_now is None else f'now {is_now}'}"
