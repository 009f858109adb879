"""The JSON of a study: `--json` and `report --json` alike. Owns its keys, their order and types."""

from collections.abc import Iterable
from pathlib import Path

from hyperband.journal import Beginnings
from hyperband.report.again import trained_twice
from hyperband.report.failures import failures_of
from hyperband.report.now import Now
from hyperband.report.view import JobView, StudyView, study_view
from hyperband.search.events import Event, JobEnded
from hyperband.search.trial import Outcome, Plan
from hyperband.settings import Settings

#: the keys of a job, and the columns of the CSV
JOB_COLUMNS = (
    "trial",
    "config_id",
    "bracket",
    "rung",
    "epochs",
    "slot",
    "outcome",
    "loss",
    "attempt",
    "started_at",
    "ended_at",
    "stdout",
    "stderr",
    "retry",
    "fingerprint",
    "memory_peak_bytes",
    "cpu_s",
    "gpu_memory_peak_bytes",
    "gpu_utilisation_percent",
    "source",
    "state",
    "ordered_at",
)
#: jobs that could not go on from a checkpoint, and the epochs that were trained again for that
_TRAINED_TWICE = ("n_jobs", "n_epochs")
#: those from `retry` to the measurements, for a job that runs
_NOT_ENDED = (False, None, None, None, None, None)


def study_document(
    events: Iterable[Event],
    *,
    folder: Path | None,
    running: bool,
    beginnings: Beginnings | None = None,
    now: Now | None = None,
) -> dict[str, object]:
    """A study as a JSON object.

    Args:
        events: all events of its journal, in order.
        folder: the study's folder, absolute; None makes the paths of logs null.
        running: whether a living search writes the study now.
        beginnings: see study_view.
        now: see study_view.

    Raises:
        JournalError: the events do not say whose study it is.
    """
    return document_of(study_view(events, folder=folder, running=running, beginnings=beginnings, now=now))


def document_of(study: StudyView) -> dict[str, object]:
    """The JSON object of a study: plain dicts, lists, strings, finite numbers and None."""
    best = study.best
    has_brackets = study.has_brackets
    return {
        "identity": study.identity,
        "script": study.script,
        "settings": dict(study.settings),
        "state": study.state,
        "best": None
        if best is None
        else {"config_id": best.config_id, "loss": best.loss, "epochs": best.epochs},
        "plan": _plan_rows(study.plan, has_brackets=has_brackets),
        "trials": [
            {
                "number": trial.number,
                "config_id": trial.config_id,
                "bracket": trial.bracket if has_brackets else None,
                "rung": trial.rung,
                "state": str(trial.state),
                "loss": study.shown_loss(trial),
                "source": str(study.sources[trial.number]),
            }
            for trial in study.trials
        ],
        "jobs": [
            _job_row(
                job,
                study.penalty,
                str(study.sources[job.trial]),
                bracket=job.bracket if has_brackets else None,
            )
            for job in study.jobs
        ],
        "failures": [
            {
                "fingerprint": group.fingerprint,
                "outcome": str(group.outcome),
                "n_final": group.n_final,
                "n_retried": group.n_retried,
                "trials": list(group.trials),
            }
            for group in failures_of(study).groups()
        ],
        "quarantined": [
            {"slot": event.slot, "since": event.at, "until": event.until_at, "reason": event.reason}
            for event in study.quarantined
        ],
        "checkpoints_freed_bytes": study.checkpoints_freed_bytes,
        "trained_twice": dict(zip(_TRAINED_TWICE, trained_twice(study), strict=True)),
        "waiting": {"why": study.waits_for, "since": study.waits_since} if study.waits_for else None,
        "last_seen_at": study.last_seen_at,
    }


def planned_document(
    settings: Settings, identity: str, plan: Plan, *, state: str = "planned"
) -> dict[str, object]:
    """The JSON object of a search that has not started: the plan, no trials, no jobs."""
    return {
        "identity": identity,
        "script": str(settings.script),
        "settings": settings.document(),
        "state": state,
        "best": None,
        "plan": _plan_rows(plan, has_brackets=not settings.algorithm.has_one_ladder),
        "trials": [],
        "jobs": [],
        "failures": [],
        "quarantined": [],
        "checkpoints_freed_bytes": 0,
        "trained_twice": dict.fromkeys(_TRAINED_TWICE, 0),
        "waiting": None,
        "last_seen_at": None,
    }


def _plan_rows(plan: Plan, *, has_brackets: bool) -> list[dict[str, object]]:
    return [
        {
            "bracket": place if has_brackets else None,
            "rungs": [{"n": rung.n, "epochs": rung.epochs} for rung in bracket.rungs],
        }
        for place, bracket in enumerate(plan.brackets)
    ]


def _job_row(job: JobView, penalty: float | None, source: str, *, bracket: int | None) -> dict[str, object]:
    start, end = job.start, job.end
    folder = job.folder
    row = (
        start.trial,
        job.config_id,
        bracket,
        start.rung,
        start.epochs,
        start.slot,
        None if end is None else str(end.outcome),
        None if end is None else _shown_loss(end, penalty),
        start.attempt,
        job.started_at,
        job.ended_at,
        f"{folder}/stdout" if folder else None,
        f"{folder}/stderr" if folder else None,
        *(_NOT_ENDED if end is None else _measured(end)),
        source,
        job.state,
        job.ordered_at,
    )
    return dict(zip(JOB_COLUMNS, row, strict=True))


def _shown_loss(end: JobEnded, penalty: float | None) -> float | None:
    """The loss; for a failure that is final the penalty; None for what is tried again."""
    if end.outcome is Outcome.LOSS:
        return end.loss
    return penalty if end.outcome.is_failure and not end.retry else None


def _measured(end: JobEnded) -> tuple[object, ...]:
    return (
        end.retry,
        end.fingerprint or None,
        end.memory_peak_bytes,
        end.cpu_s,
        end.gpu_memory_peak_bytes,
        end.gpu_utilisation_percent,
    )
