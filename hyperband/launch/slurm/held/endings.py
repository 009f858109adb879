"""How an attempt ended in a step of Slurm's, judged by all that was heard of it. Pure.

Owns whose doing an end was: the job's own, Slurm's, a person's, or that of what it ran in. Must not know: how
any of it was heard.
"""

import signal
from dataclasses import dataclass, replace

from hyperband.launch.base import Ending, StopReason
from hyperband.launch.slurm.words import (
    means_cancelled,
    means_cancelled_by_hand,
    means_ending,
    means_out_of_memory,
    said_by_srun,
)

_TOLD_TO_END = "Slurm told it to end: preempted, at its time limit, or cancelled by somebody"
_CANCELLED = "its step was cancelled by somebody"
#: how a job ends whose step is ended, by the signal or by an exit code that a shell would give for it
_ENDED_FROM_OUTSIDE = frozenset(
    status for number in (signal.SIGKILL, signal.SIGTERM) for status in (-number, 128 + number)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is known of the end of one attempt besides what is in its folder."""

    #: by srun
    said: str = ""
    #: of srun; None: it is not known
    srun_status: int | None = None
    #: a search asked for the job's end
    was_asked: bool = False
    #: the job was told to end since what carried it was gone; it may not have heard that
    was_fenced: bool = False
    #: how its allocation was lost under it, in words; empty: it was not, as far as is known
    taken: str = ""
    #: Slurm says that its step is over, and that its allocation goes on
    does_run: bool = False

    @property
    def srun_was_killed(self) -> bool:
        """Whether somebody killed srun itself: Slurm then cancels its step, and nobody says so."""
        # a site's script around srun tells it as a shell does; of a task that was killed srun has words
        is_of_shell = self.srun_status in _ENDED_FROM_OUTSIDE and not self.said
        return self.srun_status is not None and (self.srun_status < 0 or is_of_shell)


@dataclass(frozen=True, slots=True)
class Judged:
    """The ending of an attempt, and what it says of the place where it was."""

    ending: Ending
    #: why nothing should be started there for a moment; None: something ran there
    trouble: str | None = None
    #: it seems that what it ran in comes to its end
    is_ending: bool = False
    #: no, that goes on
    does_run: bool = False


def judged(ending: Ending, heard: Heard) -> Judged:
    """Tell whose doing the end of an attempt was; of one that never ran only the words are made shorter."""
    ending = replace(ending, note=said_by_srun(ending.note))
    if ending.never_ran:
        is_failed = ending.asked is None and not heard.taken
        return Judged(ending, ending.note if is_failed else None)
    is_ended_by_slurm = ending.asked is StopReason.STOP and not heard.was_asked
    if (ending.exit_status is None or is_ended_by_slurm) and means_out_of_memory(heard.said):
        # with a job that takes too much some sites end its whole step, our keeper included
        note = said_by_srun(heard.said)
        return Judged(replace(ending, exit_status=-signal.SIGKILL, asked=None, note=note, oom_killed=True))
    if may_be_cancelled_by_hand(ending, heard.said) and heard.does_run:
        # its allocation runs, so that nobody but a person can have meant this step alone
        return Judged(replace(ending, exit_status=None, note=_CANCELLED, was_cancelled=True))
    if is_ended_by_slurm:
        return _taken_away(replace(ending, asked=None, note=heard.taken or _TOLD_TO_END), heard)
    if _met_the_job_first(ending, heard):
        note = heard.taken or said_by_srun(heard.said) or _TOLD_TO_END
        return _taken_away(replace(ending, note=note), heard)
    if ending.exit_status is not None or _is_its_own_doing(ending, heard):
        return Judged(ending)
    return _taken_away(ending, heard)


def may_be_cancelled_by_hand(ending: Ending, said: str) -> bool:
    """Whether somebody may have cancelled a step alone; Slurm knows whether its allocation goes on.

    A step is killed at once, then. Who ends an allocation sends SIGTERM first: it goes on for a moment.
    """
    is_killed = ending.exit_status in (None, -signal.SIGKILL, 128 + signal.SIGKILL) and ending.asked is None
    is_killed = is_killed and "Terminated" not in said
    return is_killed and not ending.never_ran and not ending.oom_killed and means_cancelled_by_hand(said)


def _taken_away(ending: Ending, heard: Heard) -> Judged:
    lost = replace(ending, exit_status=None, was_taken_away=True)
    return Judged(lost, lost.note, is_ending=True, does_run=heard.does_run)


def _met_the_job_first(ending: Ending, heard: Heard) -> bool:
    """Whether who ended the step met the job before its keeper, which wrote down how that ended.

    A result may also be seen late, when its job was taken for one that left none: that is its own end.
    """
    if not ending.exit_status or ending.asked is not None or ending.oom_killed:
        return False
    if means_cancelled(heard.said):
        return True
    is_gone = heard.taken or heard.srun_was_killed or (heard.was_fenced and heard.srun_status is None)
    return bool(is_gone) and ending.exit_status in _ENDED_FROM_OUTSIDE


def _is_its_own_doing(ending: Ending, heard: Heard) -> bool:
    """Whether a job without an exit status took down what kept it: it must not be tried for ever.

    What it ran in goes on, then, and nobody ended its step.
    """
    # keeper and warden are gone, and the step with them; of an srun that is no child of ours nobody knows
    # whether it was killed
    are_gone = heard.does_run and heard.srun_status is not None
    is_ended = heard.taken or means_cancelled(heard.said) or means_ending(heard.said)
    return (ending.lost_keeper or are_gone) and not is_ended and not heard.srun_was_killed
