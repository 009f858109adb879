"""The slots of a study, for people: what each did, and which are in quarantine. Reads, never decides."""

import time
from collections.abc import Mapping

from tabulate import tabulate

from hyperband.report.text import shown
from hyperband.report.view import StudyView
from hyperband.search.events import SlotQuarantined
from hyperband.search.health import place_of
from hyperband.search.trial import Outcome


def slots_text(study: StudyView, quarantined: Mapping[str, SlotQuarantined]) -> str:
    """A row a slot: attempts, losses, failures, what runs there, and its quarantine with the reason."""
    rows = []
    for name in sorted({job.slot for job in study.jobs}):
        jobs = [job for job in study.jobs if job.slot == name]
        running = (
            [f"trial {job.trial}" for job in jobs if job.outcome is None] if study.state == "running" else []
        )
        quarantine = quarantined.get(place_of(name))
        rows.append(
            [
                shown(name),
                len(jobs),
                sum(job.outcome is Outcome.LOSS for job in jobs),
                sum(job.outcome is not None and job.outcome.is_failure for job in jobs),
                ", ".join(running),
                ""
                if quarantine is None
                else f"quarantine until {_clock(quarantine.until_at)}: {shown(quarantine.reason)}",
            ]
        )
    if not rows:
        return "no job has started yet"
    return tabulate(rows, headers=["slot", "attempts", "losses", "failures", "runs now", "state"])


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
