"""The JSON of a study: `--json` and `report --json` alike. Owns its keys, their order and types."""

from collections.abc import Iterable
from pathlib import Path

from hyperband.report.view import JobView, StudyView, study_view
from hyperband.search.events import Event
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
)


def study_document(events: Iterable[Event], *, folder: Path | None, running: bool) -> dict[str, object]:
    """A study as a JSON object.

    Args:
        events: all events of its journal, in order.
        folder: the study's folder, absolute; None makes the paths of logs null.
        running: whether a living search writes the study now.

    Raises:
        JournalError: the events do not say whose study it is.
    """
    return document_of(study_view(events, folder=folder, running=running))


def document_of(study: StudyView) -> dict[str, object]:
    """The JSON object of a study: plain dicts, lists, strings, finite numbers and None."""
    best = study.best
    return {
        "identity": study.identity,
        "script": study.script,
        "settings": dict(study.settings),
        "state": study.state,
        "best": None
        if best is None
        else {"config_id": best.config_id, "loss": best.loss, "epochs": best.epochs},
        "plan": _plan_rows(study.plan),
        "trials": [
            {
                "number": trial.number,
                "config_id": trial.config_id,
                "bracket": trial.bracket,
                "rung": trial.rung,
                "state": str(trial.state),
                "loss": study.shown_loss(trial),
            }
            for trial in study.trials
        ],
        "jobs": [_job_row(job, study.penalty) for job in study.jobs],
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
        "plan": _plan_rows(plan),
        "trials": [],
        "jobs": [],
    }


def _plan_rows(plan: Plan) -> list[dict[str, object]]:
    return [
        {"bracket": place, "rungs": [{"n": rung.n, "epochs": rung.epochs} for rung in bracket.rungs]}
        for place, bracket in enumerate(plan.brackets)
    ]


def _job_row(job: JobView, penalty: float | None) -> dict[str, object]:
    failed = job.outcome is not None and job.outcome.is_failure
    folder = job.folder
    row = (
        job.trial,
        job.config_id,
        job.bracket,
        job.rung,
        job.epochs,
        job.slot,
        None if job.outcome is None else str(job.outcome),
        job.loss if job.outcome is Outcome.LOSS else penalty if failed else None,
        job.attempt,
        job.started_at,
        job.ended_at,
        f"{folder}/stdout" if folder else None,
        f"{folder}/stderr" if folder else None,
    )
    return dict(zip(JOB_COLUMNS, row, strict=True))
