"""Whether a search that is a job of Slurm's has the time to get anything done before its time limit.

Owns what is too short, and the words for it. Must not know: how the search is submitted, or what it does.
"""

import math

from hyperband.errors import UsageError
from hyperband.launch.slurm.profile import Profile, seconds_of
from hyperband.launch.slurm.text import SEARCH_SIGNAL_S
from hyperband.launch.slurm.words import JobLine

#: Slurm may send a signal so much before the moment that was asked for (`man sbatch`, --signal)
_SOONER_S = 60
#: to be started, import the script, and have at least a few jobs end
_WORK_S = 150
#: it may have begun so long before Slurm was asked
_SINCE_S = 30
#: besides the grace of jobs that are stopped: to hear of that, bring the journal back, and ask Slurm
_CLOSE_S = 60


def signal_s(grace_s: float) -> int:
    """Return how long before its time limit a search is told; grace_s: until its jobs are killed then."""
    return max(SEARCH_SIGNAL_S, math.ceil(grace_s) + _CLOSE_S)


def _least_s(grace_s: float) -> int:
    return signal_s(grace_s) + _SOONER_S + _WORK_S


def _why(grace_s: float) -> str:
    return (
        f"a search stops its jobs {signal_s(grace_s)} s before its time limit (Slurm may have it do so a "
        f"minute sooner) and is queued again, so in less than {_minutes(grace_s)} minutes it gets nothing "
        "done"
    )


def _minutes(grace_s: float) -> int:
    return math.ceil(_least_s(grace_s) / 60)


def refuse_short(profile: Profile, grace_s: float) -> None:
    """Refuse a time limit of the search itself that leaves no time for anything.

    Args:
        profile: says it.
        grace_s: between SIGTERM and SIGKILL of jobs.

    Raises:
        UsageError: it is that short.
    """
    limit_s = None if profile.search_time is None else seconds_of(profile.search_time)
    if limit_s is not None and limit_s < _least_s(grace_s):
        raise UsageError(
            f"search_time of the Slurm profile is {profile.search_time}, which is {limit_s:g} s: "
            f"{_why(grace_s)}. "
            f"Expected at least {_minutes(grace_s)} (minutes), better days: search_time=7-00:00:00."
        )


def refuse_short_job(line: JobLine, grace_s: float) -> None:
    """Refuse the job of a search that has, by its site's default, no time for anything.

    Args:
        line: what Slurm says of it a moment after it was submitted.
        grace_s: between SIGTERM and SIGKILL of jobs.

    Raises:
        UsageError: it is that short.
    """
    left_s = line.time_left_s
    if left_s is not None and left_s < _least_s(grace_s) - _SINCE_S:
        raise UsageError(
            f"Slurm gives the job of the search {left_s:g} s, the default of its partition: "
            f"{_why(grace_s)}. It was cancelled; ask for more, such as --slurm-set "
            "search_time=7-00:00:00, or name another search_partition."
        )
