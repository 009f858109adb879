"""Settings: everything the command line can say about one search; frozen, with the defaults."""

from dataclasses import dataclass
from pathlib import Path

from hyperband.search.trial import Algorithm


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
    seed: int = 42
    start_with: Path | None = None
    penalty: float = 100.0
    #: "all", "none", or a comma-separated list of PCI-order indices and UUIDs
    gpus: str = "all"
    #: CPU slots; None: half of the usable cores, at least 1
    slots: int | None = None
    jobs_per_gpu: int = 1
    multi_gpu: bool = True
    timeout_s: float | None = None
    max_time_s: float | None = None
    #: interpreter that runs the script, absolute, symbolic links kept (a virtual environment's is one)
    python: Path
    #: absolute
    logs: Path
    grace_s: float = 10.0
    keep_going: bool = False
    dry_run: bool = False
    clean: bool = False
    yes: bool = False
    json: bool = False
    debug: bool = False

    def document(self) -> dict[str, object]:
        """The settings under their long option names with underscores, plus `script_args`."""
        return {
            "max_epochs": self.max_epochs,
            "eta": self.eta,
            "min_epochs": self.min_epochs,
            "brackets": self.brackets,
            "repeat": self.repeat,
            "algorithm": str(self.algorithm),
            "max_trials": self.max_trials,
            "seed": self.seed,
            "start_with": None if self.start_with is None else str(self.start_with),
            "penalty": self.penalty,
            "gpus": self.gpus,
            "slots": self.slots,
            "jobs_per_gpu": self.jobs_per_gpu,
            "no_multi_gpu": not self.multi_gpu,
            "timeout": self.timeout_s,
            "max_time": self.max_time_s,
            "python": str(self.python),
            "logs": str(self.logs),
            "grace": self.grace_s,
            "keep_going": self.keep_going,
            "dry_run": self.dry_run,
            "clean": self.clean,
            "yes": self.yes,
            "json": self.json,
            "debug": self.debug,
            "script_args": list(self.script_args),
        }
