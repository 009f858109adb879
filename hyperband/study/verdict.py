"""From the way an attempt ended to its outcome: pure but for the clock and the last lines of its output."""

import signal
import time
from pathlib import Path

from hyperband.folder import job_folder
from hyperband.launch.base import Ending, StopReason
from hyperband.script.contract import Reading, last_lines, read_outcome
from hyperband.script.crash import read_crash
from hyperband.script.fingerprint import fingerprint
from hyperband.search.engine import Engine
from hyperband.search.events import JobEnded, JobStarted
from hyperband.search.trial import Outcome

#: how a job ends that somebody or the machine ends from outside; a crash has other signals
_ENDED_FROM_OUTSIDE = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM}


def judge(ending: Ending, *, folder: Path, config_id: str, gpu_is_lost: bool, search_alive: bool) -> Reading:
    """Return the outcome of one attempt; for a failure with what it has in common with others of its kind.

    Args:
        ending: what its launcher wrote down.
        folder: where its standard output and error are.
        config_id: of its trial.
        gpu_is_lost: a GPU of its slot fell off the bus: a failure is not the configuration's.
        search_alive: the search that started it was there all the time. If not, who killed a job has most
            likely killed the search as well.
    """
    if ending.was_cancelled:
        return Reading(Outcome.CANCELLED, None, ending.note, "cancelled by hand")
    if ending.exit_status is None:
        return Reading(Outcome.LOST, None, ending.note)
    if gpu_is_lost and (ending.asked is not None or ending.exit_status != 0):
        return Reading(Outcome.LOST, None, "its GPU was lost")
    # A job that ends well after its end was asked for may have stopped its training early:
    # its number is no loss at the epochs wanted.
    if ending.asked is StopReason.TIMEOUT:
        return Reading(Outcome.TIMED_OUT, None, "ended after --timeout", "timed out")
    if ending.asked is StopReason.STOP:
        return Reading(Outcome.STOPPED, None, "ended with the search")
    if not search_alive and ending.exit_status in _ENDED_FROM_OUTSIDE and not ending.oom_killed:
        name = signal.Signals(-ending.exit_status).name
        return Reading(Outcome.LOST, None, f"ended by {name} when its search was gone")
    reading = read_outcome(folder / "stdout", ending.exit_status)
    if reading.outcome is Outcome.CRASHED:
        crash = read_crash(
            folder / "stderr", ending.exit_status, config_id=config_id, oom_killed=ending.oom_killed
        )
        outcome = Outcome.OUT_OF_MEMORY if crash.is_out_of_memory else Outcome.CRASHED
        return Reading(outcome, None, crash.note, crash.fingerprint)
    return reading


def remark(ending: Ending, reading: Reading, *, stderr: Path) -> str:
    """Return the words on one attempt's end that the journal keeps: of a crash with its last error line."""
    has_crashed = reading.outcome in (Outcome.CRASHED, Outcome.OUT_OF_MEMORY)
    error = last_lines(stderr, 1) if has_crashed else ""
    words = [
        f"{reading.note}: {error}" if error else reading.note,
        ending.note if ending.note != reading.note else "",
    ]
    if ending.leftovers:
        words.append(f"ended what it left behind: {', '.join(ending.leftovers)}")
    return "; ".join(word for word in words if word)


def ended_event(
    engine: Engine,
    study_folder: Path,
    started: JobStarted,
    ending: Ending,
    *,
    began_at: float | None,
    gpu_is_lost: bool,
    search_alive: bool,
) -> JobEnded:
    """Return the event that says how an attempt ended; the engine is only read.

    began_at: when it began, as far as the search knows; its launcher may know better. None: no search saw it
    begin, and unless its launcher knows for how long it ran, it has taken no time.
    """
    folder = job_folder(study_folder, started.job, started.attempt)
    config_id = engine.trial(started.trial).config_id
    reading = judge(
        ending, folder=folder, config_id=config_id, gpu_is_lost=gpu_is_lost, search_alive=search_alive
    )
    now = time.time()
    # what never ran, or lost its machine, says nothing of the job: it does not count towards what makes a
    # Lost job Crashed
    alive = search_alive and not (ending.never_ran or ending.was_taken_away)
    outcome = engine.final_outcome(started.job, reading.outcome, search_alive=alive)
    kind = reading.kind
    if outcome.is_failure and not kind:
        kind = fingerprint(reading.note.partition(";")[0], config_id)
    ended_at = now if ending.ended_at is None else ending.ended_at
    known_at = began_at if ending.started_at is None else ending.started_at
    is_known = known_at is not None and known_at <= ended_at  # the clock may have been set back since
    if not is_known and ending.ran_s is not None:
        known_at = ended_at - ending.ran_s
    return JobEnded(
        at=now,
        job=started.job,
        attempt=started.attempt,
        outcome=outcome,
        loss=reading.loss,
        exit_status=ending.exit_status,
        started_at=ended_at if known_at is None else min(known_at, ended_at),
        ended_at=ended_at,
        search_alive=alive,
        note=remark(ending, reading, stderr=folder / "stderr"),
        fingerprint=kind,
        memory_peak_bytes=ending.memory_peak_bytes,
        cpu_s=ending.cpu_s,
    )
