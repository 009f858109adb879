"""Whether a failed attempt is the last word on its job: the rule of `search/health.py` on one event."""

from dataclasses import replace

from hyperband.search.events import JobEnded, JobStarted
from hyperband.search.health import Health


def judged_end(health: Health, started: JobStarted, ended: JobEnded, *, retries: int) -> JobEnded:
    """Return the event with `retry` as it must be journalled; `health` is only read.

    A job that took its keeper down three times (Lost until then) is not tried a fourth time.
    """
    took_its_keeper_along = ended.exit_status is None
    retry = not took_its_keeper_along and health.is_retried(started, ended, retries=retries)
    return replace(ended, retry=retry)
