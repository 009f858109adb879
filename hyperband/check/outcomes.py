"""What became of a check's jobs, under the names that a search has for it.

Owns the outcome and fingerprint of a job that is over. Must not know which jobs run, or
what they are to show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.launch.base import Ending, StopReason
from hyperband.report.text import duration
from hyperband.script.contract import Reading, read_outcome
from hyperband.script.crash import read_crash
from hyperband.script.fingerprint import fingerprint
from hyperband.search.trial import Outcome

_N_KINDS = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """The first job of a configuration that gave no loss."""

    epochs: int
    outcome: Outcome
    #: what it has in common with others of its kind
    fingerprint: str


def read_ending(ending: Ending, *, folder: Path, config_id: str, timeout_s: float | None) -> Reading:
    """Return what a job amounts to; a failure has the outcome and the fingerprint that a search gives it.

    Args:
        ending: what its launcher wrote down.
        folder: where its standard output and error are.
        config_id: of its configuration.
        timeout_s: the limit that it may have exceeded.
    """
    if ending.exit_status is None:
        reading = Reading(Outcome.LOST, None, ending.note)
    elif ending.asked is StopReason.TIMEOUT:
        limit_s = timeout_s or 0
        words = f"it was ended after {duration(limit_s)} (--timeout {limit_s:g})"
        reading = Reading(Outcome.TIMED_OUT, None, words, "timed out")
    else:
        reading = read_outcome(folder / "stdout", ending.exit_status)
        if reading.outcome is Outcome.CRASHED:
            crash = read_crash(
                folder / "stderr", ending.exit_status, config_id=config_id, oom_killed=ending.oom_killed
            )
            outcome = Outcome.OUT_OF_MEMORY if crash.is_out_of_memory else Outcome.CRASHED
            reading = Reading(outcome, None, crash.note, crash.fingerprint)
    if reading.loss is None and not reading.kind:
        kind = fingerprint(reading.note.partition(";")[0], config_id)
        reading = Reading(reading.outcome, None, reading.note, kind)
    return reading


def reason(reading: Reading) -> str:
    """Why there is no loss, in words: `OutOfMemory: MemoryError (exit code 1)`."""
    has_crashed = reading.outcome in (Outcome.CRASHED, Outcome.OUT_OF_MEMORY)
    if has_crashed and reading.kind != reading.note:
        return f"{reading.outcome}: {reading.kind} ({reading.note})"
    return f"{reading.outcome}: {reading.note}"


def kinds_in_words(failures: Mapping[str, Failure]) -> str:
    """What they failed of, to follow a colon: one kind, or a line for each, the most frequent first."""
    counts: dict[str, int] = {}
    for failure in failures.values():
        counts[failure.fingerprint] = counts.get(failure.fingerprint, 0) + 1
    kinds: Sequence[str] = sorted(counts, key=lambda kind: -counts[kind])
    if len(kinds) == 1:
        return f" {kinds[0]}"
    shown = "".join(f"\n{counts[kind]}: {kind}" for kind in kinds[:_N_KINDS])
    return shown + (f"\nand {len(kinds) - _N_KINDS} other kinds" if len(kinds) > _N_KINDS else "")
