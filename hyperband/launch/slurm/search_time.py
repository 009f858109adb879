"""Whether a search that is a job of Slurm's has the time to get anything done before its time limit.

Owns what is too short, and the words for it. Must not know: how the search is submitted, or what it does.
"""

from collections.abc import Mapping

from hyperband.errors import MachineError, UsageError
from hyperband.launch.slurm.profile import Profile, seconds_of
from hyperband.launch.slurm.text import SEARCH_SIGNAL_S

#: Slurm may send a signal so much before the moment that was asked for (`man sbatch`, --signal)
_SOONER_S = 60
#: to be started, import the script, and have at least a few jobs end
_WORK_S = 150
LEAST_S = SEARCH_SIGNAL_S + _SOONER_S + _WORK_S
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


def refuse_short_job(environ: Mapping[str, str]) -> None:
    """Refuse to begin in a job of Slurm's that has, by its site's default, no time for anything.

    Args:
        environ: of the job; versions before 22.05 do not say there when it ends, and then nothing is known.

    Raises:
        MachineError: it is that short.
    """
    began, ends = (environ.get(f"SLURM_JOB_{name}_TIME", "") for name in ("START", "END"))
    if not (began.isdecimal() and ends.isdecimal()):
        return
    limit_s = int(ends) - int(began)
    if limit_s < LEAST_S:
        raise MachineError(
            f"Slurm gives the job of this search {limit_s} s, the default of its partition: {_WHY}. It was "
            "not begun; start it again with more time, such as --slurm-set search_time=7-00:00:00"
        )
