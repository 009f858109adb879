"""What a study has come to, for people: the end of a search, and the report. Owns layout; decides nothing."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hyperband.report.again import trained_twice_text
from hyperband.report.failures import failures_of
from hyperband.report.ladder import ladder_table, ladder_words
from hyperband.report.left import checkpoint_text
from hyperband.report.progress import brackets_table, progress_words
from hyperband.report.tables import PLAN_WORDS, columns, plan_table
from hyperband.report.text import command_line, counted, moment, number, shortened, shown, size
from hyperband.report.usage import rungs_table, slots_table
from hyperband.report.view import JobView, StudyView, handed_on
from hyperband.script.contract import job_argv
from hyperband.search.events import IdSource
from hyperband.search.trial import Outcome

#: columns of the ten best besides the config id take about this much
_BEST_COLUMNS_WIDTH = 48
#: where the output is no terminal
DEFAULT_WIDTH = 120


def best_table(study: StudyView, *, top: int, width: int = DEFAULT_WIDTH) -> str:
    """The best trials: those trained for the most epochs first, then by loss, then by number.

    Args:
        study: where they are from.
        top: how many at most.
        width: columns of the screen; config ids are cut to fit.
    """
    ranked = sorted(
        _last_losses(study),
        key=lambda job: (-job.epochs, job.loss if job.loss is not None else 0.0, job.trial),
    )
    rows = [
        [
            str(place),
            "" if job.loss is None else number(job.loss),
            str(job.epochs),
            str(job.trial),
            *([str(job.bracket)] if study.has_brackets else []),
            shortened(job.config_id, max(20, width - _BEST_COLUMNS_WIDTH)),
        ]
        for place, job in enumerate(ranked[:top], start=1)
    ]
    bracket = ["bracket"] if study.has_brackets else []
    return columns(rows, ["best", "loss", "epochs", "trial", *bracket, "config id"])


def outcomes_table(study: StudyView, *, failures_only: bool = False) -> str:
    """How attempts ended: outcome, how many, and the folder with the logs of the latest of each kind."""
    latest: dict[str, JobView] = {}
    counts: dict[str, int] = {}
    for job in study.jobs:
        if failures_only and not job.has_failed:
            continue
        kind = job.state if job.outcome is None else str(job.outcome)
        latest[kind] = job
        counts[kind] = counts.get(kind, 0) + 1
    order = [*(str(outcome) for outcome in Outcome), "running", "suspended", "queued"]
    rows = [
        [kind, str(counts[kind]), shown(latest[kind].folder), shortened(latest[kind].note, 100)]
        for kind in order
        if kind in counts
    ]
    return columns(rows, ["outcome", "attempts", "logs of the latest", "what was found"])


def sources_text(study: StudyView) -> str:
    """Where the config ids of the trials are from; empty unless a guide chose some of them."""
    counts = Counter(study.sources)
    if not counts[IdSource.MODEL] and not counts[IdSource.UNREADY]:
        return ""
    n_unready = counts[IdSource.UNREADY]
    n_random = counts[IdSource.RANDOM] + n_unready
    unready = f" ({n_unready:,} of them since no proposal of the model was ready)" if n_unready else ""
    given = f", {counts[IdSource.START_WITH]:,} from --start-with" if counts[IdSource.START_WITH] else ""
    trials = counted(counts[IdSource.MODEL], "trial")
    return f"guide   {trials} chosen by the model, {n_random:,} at random{unready}{given}"


def retrain_command(study: StudyView, *, cwd: Path) -> str | None:
    """The command that trains the best to the full number of epochs again, to be pasted into a shell.

    It changes the folder first where the jobs' working directory is another than `cwd`: checkpoints with
    relative paths are there. A best that saw one GPU alone sees that one again. The interpreter and the
    script's own options are those with which its last job ran. None while there is no best.
    """
    if study.best is None:
        return None
    job = _job_of_best(study)
    environment, gpu = _device_of(job)
    argv = job_argv(
        python=str(job.settings["python"]),
        script=study.script,
        config_id=study.best.config_id,
        epochs=study.plan.max_epochs,
        slot_arguments=("--gpu", gpu),
        script_args=handed_on(job.settings),
    )
    command = command_line([*environment, *argv])
    return command if Path(study.cwd) == cwd else f"{command_line(('cd', study.cwd))} && {command}"


def result_text(
    study: StudyView, folder: Path, *, cwd: Path, width: int = DEFAULT_WIDTH, top: int = 10
) -> str:
    """What a search leaves behind: the best, the command for the best, where logs of failures are."""
    parts: list[str] = []
    command = retrain_command(study, cwd=cwd)
    if command is None:
        parts.append("no trial has a loss")
    else:
        parts.append(best_table(study, top=top, width=width))
        epochs = counted(study.plan.max_epochs, "epoch")
        parts.append(f"train the best to {epochs}{_again(study)}:\n{command}")
        parts += filter(None, [checkpoint_text(_job_of_best(study))])
    failures = failures_of(study).text()
    if failures:
        parts.append(f"{failures}\n\n{outcomes_table(study, failures_only=True)}")
    if again := trained_twice_text(study):
        parts.append(again)
    if study.checkpoints_freed_bytes:
        parts.append(_freed(study))
    parts.append(f"logs: {shown(str(folder))}")
    return "\n\n".join(parts)


def report_text(
    study: StudyView,
    folder: Path,
    *,
    cwd: Path,
    top: int,
    width: int = DEFAULT_WIDTH,
    now: float | None = None,
    n_losses: Mapping[str, int] | None = None,
) -> str:
    """Everything `report` says of a study.

    Args:
        study: of which.
        folder: of the study.
        cwd: where the reader is.
        top: how many of the best at most.
        width: columns of the screen.
        now: Unix seconds; None: the clock's.
        n_losses: of each study of --learn-from that can be read, by its folder.
    """
    parts = [_head(study, time.time() if now is None else now, n_losses or {})]
    if study.plan.promotion.is_open:
        parts[0] += f"\n{ladder_words(study)}"
        parts.append(ladder_table(study))
    else:
        parts[0] += f"\nplan    {PLAN_WORDS}"
        parts.append(plan_table(study.plan, has_brackets=study.has_brackets))
        parts.append(brackets_table(study))
    if study.jobs:
        parts.append(outcomes_table(study))
    parts += (sources_text(study), failures_of(study).text(), rungs_table(study), slots_table(study))
    if again := trained_twice_text(study):
        parts.append(again)
    if study.checkpoints_freed_bytes:
        parts.append(_freed(study))
    command = retrain_command(study, cwd=cwd)
    if command is not None:
        table = best_table(study, top=top, width=width)
        parts.append("\n".join(filter(None, (table, worse_later_text(study)))))
        epochs = counted(study.plan.max_epochs, "epoch")
        parts.append(f"train the best to {epochs}{_again(study)}:\n{command}")
        parts += filter(None, [checkpoint_text(_job_of_best(study))])
    parts.append(f"logs: {shown(str(folder))}")
    return "\n\n".join(filter(None, parts))


def worse_later_text(study: StudyView) -> str:
    """A note on trials that had a lower loss with fewer epochs than their last; empty if none had."""
    losses: dict[int, list[JobView]] = {}
    for job in study.jobs:
        if job.outcome is Outcome.LOSS:
            losses.setdefault(job.trial, []).append(job)
    went_on = [sorted(jobs, key=lambda job: job.rung) for jobs in losses.values() if len(jobs) > 1]
    lower = [
        (earlier, jobs[-1])
        for jobs in went_on
        if _loss(earlier := min(jobs, key=lambda job: (_loss(job), -job.rung))) < _loss(jobs[-1])
    ]
    if not lower:
        return ""
    # the one that would have been the best
    earlier, last = min(lower, key=lambda pair: (_loss(pair[0]), pair[0].trial))
    return (
        f"\n{len(lower):,} of {counted(len(went_on), 'trial')} that went on had a lower loss before: trial "
        f"{last.trial} {number(_loss(earlier))} at {counted(earlier.epochs, 'epoch')}, then "
        f"{number(_loss(last))} at {last.epochs:,}.\nThe best is the lowest loss at the most epochs: a script"
        " whose model can overfit should print its best validation loss so far."
    )


def _head(study: StudyView, now: float, n_losses: Mapping[str, int]) -> str:
    # A reason may end with a script's last lines; here its first line is enough.
    reason = shown(study.reason.partition("\n")[0])
    if study.state == "stopped" and not reason and study.spans:
        reason = "killed, or its machine went down"
    state = f"{study.state}: {reason}" if reason else study.state
    if study.waits_for and study.waits_since is not None:
        state += f"\nwaiting since {moment(study.waits_since)}: {shown(study.waits_for)}"
    script = command_line((study.script, *study.script_args))
    head = f"study   {shown(study.identity) or '(no name)'}\nscript  {script}\nstate   {state}"
    lessons = [("learns ", folder, "") for folder in study.learns_from]
    lessons += [("learned", folder, ", in an earlier start only") for folder in study.learned_from]
    learned = []
    for word, folder, when in lessons:
        found = n_losses.get(folder)
        losses = (
            "cannot be read now"
            if found is None
            else f"{found:,} {'loss' if found == 1 else 'losses'} by now"
        )
        learned.append(f"{word} from {shown(folder)} ({losses}){when}")
    return "\n".join(filter(None, (head, progress_words(study, now=now), *learned)))


def _loss(job: JobView) -> float:
    assert job.loss is not None
    return job.loss


def _freed(study: StudyView) -> str:
    return f"checkpoints deleted: {size(study.checkpoints_freed_bytes)}"


def _last_losses(study: StudyView) -> list[JobView]:
    """For each trial the job of its highest rung with a loss."""
    last: dict[int, JobView] = {}
    for job in study.jobs:
        before = last.get(job.trial)
        if job.outcome is Outcome.LOSS and (before is None or job.rung > before.rung):
            last[job.trial] = job
    return list(last.values())


def _job_of_best(study: StudyView) -> JobView:
    assert study.best is not None
    trial = study.best.trial
    return next(job for job in _last_losses(study) if job.trial == trial)


def _again(study: StudyView) -> str:
    """The word for a best that was trained so far already; a search that was stopped has less."""
    return " again" if study.best is not None and study.best.epochs == study.plan.max_epochs else ""


def _device_of(job: JobView) -> tuple[tuple[str, ...], str]:
    """What a command must begin with to see the device that a job ran on, and its K for `--gpu`."""
    found = re.search(r"[0-9]+", job.slot)
    number = found.group() if found else "0"
    if job.slot.startswith("cpu:"):
        # where there are no GPUs, nothing has to be hidden from the script
        return ("env", "CUDA_VISIBLE_DEVICES=") if job.settings.get("gpus") == "none" else (), number
    if not job.slot.startswith("gpu:"):
        return (), "0"  # on a cluster each job sees its own alone
    # of several GPUs the first; journals of earlier versions do not have their UUIDs
    first = next(iter(job.start.gpu_uuids), "")
    if first and (job.settings.get("isolate") or first.startswith("MIG-")):
        return ("env", f"CUDA_VISIBLE_DEVICES={first}"), "0"
    return (), number
