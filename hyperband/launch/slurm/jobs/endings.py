"""How an attempt in a Slurm job of its own ended: what its keeper saw, read with what Slurm says. Pure.

Owns whose doing an end was: the job's, ours, Slurm's or somebody's. Must not know: when Slurm is asked.
"""

import signal
from dataclasses import dataclass, replace

from hyperband.launch.base import Ending, StopReason
from hyperband.launch.slurm.jobs.events import JobOver
from hyperband.launch.slurm.jobs.nodes import Fate
from hyperband.launch.slurm.words import JobState, means_out_of_memory

#: how a job ends that is ended from outside, also as a shell says it
_ENDED_FROM_OUTSIDE = frozenset(
    {-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
)
#: what Slurm says of a job that it took away
_TAKEN = frozenset({JobState.CANCELLED, JobState.TIME_LIMIT, JobState.NODE_FAILURE, JobState.PREEMPTED})
#: what it says where its script came to an end by itself
_BY_ITSELF = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.OUT_OF_MEMORY})
_TOLD_TO_END = "Slurm told it to end: preempted, at its time limit, or cancelled"


@dataclass(frozen=True, slots=True)
class Judged:
    """How an attempt ended, and what that says of jobs of Slurm's."""

    ending: Ending
    #: they run what they are for
    has_run: bool = False
    #: why this one could not; empty: it could, or something took it away
    failure: str = ""


def may_be_slurms(ending: Ending, *, is_asked: bool) -> bool:
    """Return whether Slurm, and not the job or we, may have brought an end about.

    Args:
        ending: as the keeper saw it, or as far as the search knows.
        is_asked: a search asked for it.
    """
    if ending.asked is not None:
        # only a search ends what has not begun
        return ending.asked is StopReason.STOP and not is_asked and not ending.never_ran
    return ending.exit_status is None or ending.exit_status in _ENDED_FROM_OUTSIDE


def fate_of(seen: Ending, ending: Ending, word: JobOver | None) -> Fate | None:
    """Return what the end of an attempt says of its node; None: nothing.

    Args:
        seen: as the keeper saw it, or as far as the search knows.
        ending: as it was judged.
        word: Slurm's on its job; None: it says nothing.
    """
    if ending.never_ran or ending.asked is not None or ending.was_cancelled:
        return None
    if ending.exit_status is not None:
        return Fate.WELL if ending.exit_status == 0 else Fate.FAILED
    if word is not None and word.state == JobState.NODE_FAILURE:
        return Fate.LOST
    # without a word of Slurm's it was its lease
    is_silent = word is None and seen.exit_status is None and seen.asked is None
    return Fate.LOST if is_silent and ending.was_taken_away else None


def judged(ending: Ending, word: JobOver | None, *, is_asked: bool, said: str = "") -> Judged:
    """Return how an attempt ended.

    Args:
        ending: as the keeper saw it, or as far as the search knows.
        word: Slurm's on the job that ran it, or should have; None: it says nothing.
        is_asked: a search asked for its end.
        said: what Slurm printed of it.
    """
    if not may_be_slurms(ending, is_asked=is_asked):
        return Judged(ending, has_run=not ending.never_ran)
    state = None if word is None else word.state
    words = "" if word is None else word.words
    if word is not None and word.by_somebody:
        note = f"somebody cancelled its Slurm job {word.job_id}, and so this trial is over"
        return Judged(replace(ending, exit_status=None, asked=None, note=note, was_cancelled=True))
    if ending.never_ran:
        is_failure = state is None or state in _BY_ITSELF
        why = [ending.note] if word is None else [ending.note, words]
        return Judged(ending, failure="; ".join(dict.fromkeys(why)) if is_failure else "")
    if state == JobState.FAILED and ending.exit_status is None:
        # its script, the keeper's warden, was killed where nothing was taken away: by the job, or with it
        ending = replace(ending, lost_keeper=True)
        if means_out_of_memory(said):
            # where Slurm looks at the memory of jobs now and then, and not by cgroups, its state does not say
            state, words = JobState.OUT_OF_MEMORY, said
    if state == JobState.OUT_OF_MEMORY:
        # with a job that takes too much some sites end all of it, our keeper included
        killed = replace(ending, exit_status=-signal.SIGKILL, asked=None, note=words)
        return Judged(replace(killed, oom_killed=True, lost_keeper=False), has_run=True)
    if ending.asked is None and state not in _TAKEN and (ending.lost_keeper or ending.exit_status):
        # it is no fault of what it ran in: a job that does so each time must not be tried for ever
        return Judged(ending, has_run=True)
    if word is None:
        words = ending.note or _TOLD_TO_END
    elif ending.asked is not None and state not in _TAKEN:
        words = f"{_TOLD_TO_END}; {words}"  # such as by the profile's `signal`
    return Judged(replace(ending, exit_status=None, asked=None, note=words, was_taken_away=True))
