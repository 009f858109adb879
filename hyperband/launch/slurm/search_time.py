"""Whether a search that is a job of Slurm's has the time to get anything done before its time limit.

Owns what is too short, and the words for it. Must not know: how the search is submitted, or what it does.
"""

from hyperband.errors import UsageError
from hyperband.launch.slurm.profile import Profile, seconds_of
from hyperband.launch.slurm.text import SEARCH_SIGNAL_S
from hyperband.launch.slurm.words import JobLine

#: Slurm may send a signal so much before the moment that was asked for (`man sbatch`, --signal)
_SOONER_S = 60
#: to be started, import the script, and have at least a few jobs end
_WORK_S = 150
LEAST_S = SEARCH_SIGNAL_S + _SOONER_S + _WORK_S
#: it may have begun so long before Slurm was asked
_SINCE_S = 30
_WHY = (
    f"a search stops its jobs {SEARCH_SIGNAL_S} s before its time limit (Slurm may have it do so a minute "
    f"sooner) and is queued again, so in less than {LEAST_S // 60} minutes it gets nothing done"
)


def refuse_short(profile: Profile) -> None:
    """Refuse a time limit of the search itself that leaves no time for anything.

    Raises:
        UsageError: it is that short.
    """
    limit_s = None if profile.search_time is None else seconds_of(profile.search_time)
    if limit_s is not None and limit_s < LEAST_S:
        raise UsageError(
            f"search_time of the Slurm profile is {profile.search_time}, which is {limit_s:g} s: {_WHY}. "
            f"Expected at least {LEAST_S // 60} (minutes), better days: search_time=7-00:00:00."
        )


def refuse_short_job(line: JobLine) -> None:
    """Refuse the job of a search that has, by its site's default, no time for anything.

    Args:
        line: what Slurm says of it a moment after it was submitted.

    Raises:
        UsageError: it is that short.
    """
    left_s = line.time_left_s
    if left_s is not None and left_s < LEAST_S - _SINCE_S:
        raise UsageError(
            f"Slurm gives the job of the search {left_s:g} s, the default of its partition: {_WHY}. It was "
            "cancelled; ask for more, such as --slurm-set search_time=7-00:00:00, or name another "
            "search_partition."
        )
