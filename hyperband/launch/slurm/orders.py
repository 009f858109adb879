"""What both ways on Slurm are told and want done alike: frozen values; no clock, no command."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stop:
    """The search is over: every allocation is to end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """End Slurm jobs of ours, by id."""

    job_ids: tuple[str, ...]
    #: in words
    why: str


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log."""

    words: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The search cannot go on: what was found, and what to do."""

    words: str
    #: what the scripts of Slurm's jobs said last, in their log, belongs to it
    is_in_log: bool = False
