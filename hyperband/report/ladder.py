"""A search without brackets as it went: the trials of each rung, the epochs, why it ended.

Owns what a report says of asha and pasha, whose plans are estimates. Reads, never decides: who goes on, and
which rungs are in use, is the engine's.
"""

from dataclasses import dataclass

from tabulate import tabulate

from hyperband.report.text import counted
from hyperband.report.view import StudyView
from hyperband.search.trial import Outcome, Promotion


@dataclass(frozen=True, slots=True)
class RungView:
    """What became of the trials of one rung."""

    #: the total number of epochs that its trials are trained to
    epochs: int
    #: trials that started here, those of them with a loss, that failed for good, and that went on
    n_trials: int
    n_losses: int
    n_failed: int
    n_went_on: int
    #: how many of its best 1 / eta did not go on
    n_left_of_best: int


def rungs_of(study: StudyView) -> tuple[RungView, ...]:
    """Every rung of the only bracket of a study, from the lowest on."""
    rungs = study.plan.brackets[0].rungs
    started: list[set[int]] = [set() for _ in rungs]
    failed: list[set[int]] = [set() for _ in rungs]
    losses: list[dict[int, float]] = [{} for _ in rungs]
    for job in study.jobs:
        started[job.rung].add(job.trial)
        if job.outcome is Outcome.LOSS and job.loss is not None:
            losses[job.rung][job.trial] = job.loss
        elif job.has_failed and not job.retry:
            failed[job.rung].add(job.trial)
    views = []
    for place, rung in enumerate(rungs):
        above = started[place + 1] if place + 1 < len(rungs) else set()
        here = losses[place]
        n_best = len(here) // study.plan.eta if study.plan.eta else 0
        best = sorted((loss, trial) for trial, loss in here.items())[:n_best]
        views.append(
            RungView(
                epochs=rung.epochs,
                n_trials=len(started[place]),
                n_losses=len(here),
                n_failed=len(failed[place]),
                n_went_on=len(above),
                n_left_of_best=sum(trial not in above for _, trial in best),
            )
        )
    return tuple(views)


def epochs_of(study: StudyView, rungs: tuple[RungView, ...]) -> int:
    """Epochs of all jobs that started, each from its trial's checkpoint on, as --max-total-epochs counts."""
    increments = study.plan.brackets[0].increments
    return sum(rung.n_trials * n_epochs for rung, n_epochs in zip(rungs, increments, strict=True))


def ladder_words(study: StudyView) -> str:
    """How many trials and epochs there were, of how many at most; two lines."""
    rungs = rungs_of(study)
    limit = study.plan.max_total_epochs
    most = "" if limit is None else f" of at most {limit:,} (--max-total-epochs)"
    return (
        f"trials  {rungs[0].n_trials:,} of at most {study.plan.n_trials:,} started\n"
        f"epochs  {epochs_of(study, rungs):,}{most} trained by all jobs, each from its trial's checkpoint on"
    )


def ladder_table(study: StudyView) -> str:
    """What became of the trials of each rung."""
    rows = [
        [f"{n:,}" for n in (place, view.epochs, view.n_trials, view.n_losses, view.n_failed, view.n_went_on)]
        for place, view in enumerate(rungs_of(study))
    ]
    headers = ["rung", "epochs", "trials\nstarted", "trials\nfinished", "trials\nfailed", "trials\npromoted"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=["right"] * len(headers))


def why_complete(study: StudyView) -> str:
    """Why nothing is left to start, in words: where rungs have no size, the plan's numbers do not say it."""
    plan = study.plan
    if not plan.promotion.is_open:
        return "the plan is complete"
    rungs = rungs_of(study)
    words = _what_ended_it(study, rungs)
    if study.best is not None and study.best.epochs < plan.max_epochs:
        words += f"; no trial went on beyond {counted(study.best.epochs, 'epoch')}"
    return words


def _what_ended_it(study: StudyView, rungs: tuple[RungView, ...]) -> str:
    plan = study.plan
    top = len(rungs) - 1 if study.top_rung is None else study.top_rung
    is_all = rungs[0].n_trials >= plan.n_trials
    could_go_on = any(view.n_left_of_best for view in rungs[:top])
    if plan.max_total_epochs is not None:
        n_left = plan.max_total_epochs - epochs_of(study, rungs)
        # the number of trials may be what the epochs pay for: with all of both used, it is the epochs
        if could_go_on or not is_all or n_left < plan.brackets[0].increments[0]:
            left = f": no job fits into the {counted(n_left, 'epoch')} left" if n_left else ""
            of = f", after {rungs[0].n_trials:,} of at most {counted(plan.n_trials, 'trial')}"
            return f"--max-total-epochs {plan.max_total_epochs:,} is used up{'' if is_all else of}{left}"
    tried = "the only trial was tried" if plan.n_trials == 1 else f"all {plan.n_trials:,} trials were tried"
    if plan.promotion is Promotion.PASHA and top < len(rungs) - 1 and rungs[top].n_losses:
        low, high = rungs[top - 1].epochs, rungs[top].epochs
        return f"{tried}, and their rankings at epochs {low} and {high} agree, so no higher rung was needed"
    return f"{tried}, and nobody is left to go on"
