"""Tables and paragraphs about plans and studies, for people. Owns their layout; reads, never decides."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from hyperband.report.failures import failures_of
from hyperband.report.ladder import ladder_table, ladder_words
from hyperband.report.text import command_line, counted, number, shortened, shown, size
from hyperband.report.usage import rungs_table, slots_table
from hyperband.report.view import JobView, StudyView
from hyperband.script.contract import job_argv
from hyperband.search.events import IdSource
from hyperband.search.trial import Bracket, Outcome, Plan, Promotion, Rung
from hyperband.settings import Settings

#: columns of the ten best besides the config id take about this much
_BEST_COLUMNS_WIDTH = 48
#: where the output is no terminal
DEFAULT_WIDTH = 120
#: what a cell of the plan says
_PLAN_WORDS = "number of trials @ epochs each is trained to, in total"


def plan_table(plan: Plan, *, has_brackets: bool | None = None) -> str:
    """The plan: n@epochs for each rung of each bracket, jobs, and epochs with and without resuming.

    Repeats are shown once, with all their places; the totals count them all.

    Args:
        plan: to be shown.
        has_brackets: whether its search has any; None: as the plan looks.
    """
    if has_brackets is None:
        has_brackets = not plan.promotion.is_open
    made, plan = plan, _within_budget(plan)
    block = _repeated_block(plan.brackets)
    n_repeats = len(plan.brackets) // len(block) if block else 0
    n_rungs = max((len(bracket.rungs) for bracket in block), default=0)
    rows: list[list[str]] = []
    for place, bracket in enumerate(block):
        cells = [f"{rung.n:,} @ {rung.epochs:,}" for rung in bracket.rungs]
        if _is_estimate(plan):
            n_exact = int(plan == made)
            cells = [*cells[:n_exact], *(f"about {cell}" for cell in cells[n_exact:])]
        alone = replace(plan, brackets=(bracket,))
        places = [_places(place, len(block), n_repeats)] if has_brackets else []
        rows.append([*places, *cells, *[""] * (n_rungs - len(cells)), *_sums(alone)])
    headers = [f"rung {rung}" for rung in range(n_rungs)]
    if has_brackets:
        rows.append(["total", *[""] * n_rungs, *_sums(plan)])
        headers.insert(0, "bracket")
    table = _table(rows, [*headers, "jobs", "epochs\nresuming", "epochs\nfrom scratch"], right=True)
    notes = _plan_notes(made, plan)
    return f"{table}\n\n{notes}" if notes else table


def _plan_notes(made: Plan, shown_plan: Plan) -> str:
    """What the numbers of a plan without barriers mean, one line for each thing to know.

    Args:
        made: the plan.
        shown_plan: what the table shows of it.
    """
    notes = []
    limit = made.max_total_epochs
    if any(len(bracket.rungs) > 1 for bracket in made.brackets) and made.eta:
        share = f"among the best 1/{made.eta} of its rung so far"
        notes.append(f"A trial goes on as soon as it is {share}: no rung waits for its last job.")
    if _is_estimate(made):
        epochs = [rung.epochs for rung in made.brackets[0].rungs]
        if shown_plan == made or limit is None:
            notes.append("The numbers above rung 0 are estimates.")
        else:
            is_pasha = made.promotion is Promotion.PASHA and len(epochs) > 2
            used = " if all rungs are used" if is_pasha else ""
            notes.append(
                f"The numbers are estimates: what {counted(limit, 'epoch')} (--max-total-epochs) pay for"
                f"{used}."
            )
        if made.promotion is Promotion.PASHA and len(epochs) > 2:
            notes.append(
                f"Rungs above {counted(epochs[1], 'epoch')} are used only while they change who is ahead by"
                " more than the noise of the losses;"
            )
            notes.append(
                "that is known once two trials have overtaken each other and back, in three rungs; before,"
                " any change counts."
            )
        if shown_plan.brackets[0].rungs[-1].n == 0:
            n_needed = made.eta ** (len(epochs) - 1)
            notes.append(f"About {n_needed:,} trials in rung 0 are needed for one at {epochs[-1]:,} epochs.")
    if limit is not None:
        notes.append(
            f"The search ends before it has trained more than {counted(limit, 'epoch')} in all, resuming, and"
            f" after {counted(made.n_trials, 'trial')} at the latest."
        )
    return "\n".join(notes)


def _within_budget(plan: Plan) -> Plan:
    """The plan that its limit of epochs is expected to pay for: the plan itself where that is enough."""
    limit = plan.max_total_epochs
    if limit is None or not plan.promotion.is_open or plan.epochs_resumed <= limit:
        return plan
    low, high = 1, plan.n_trials
    while low < high:  # the largest number of trials whose ladder costs no more
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if _with_trials(plan, middle).epochs_resumed <= limit else (low, middle - 1)
        )
    return _with_trials(plan, low)


def _with_trials(plan: Plan, n: int) -> Plan:
    """A plan of one ladder with n trials to begin with."""
    rungs = (Rung(n // plan.eta**place, rung.epochs) for place, rung in enumerate(plan.brackets[0].rungs))
    return replace(plan, brackets=(Bracket(tuple(rungs)),))


def plan_text(plan: Plan, settings: Settings, *, identity: str, guide: Sequence[str] = ()) -> str:
    """What will be done, before anything is: the study, what the script gets, and the plan.

    Args:
        plan: to be shown.
        settings: of the search.
        identity: of the study.
        guide: lines on the guide; none where no guide is wanted.
    """
    argv = job_argv(
        python=str(settings.python),
        script=str(settings.script),
        config_id="CONFIG_ID",
        epochs=0,
        slot_arguments=("--gpu", "K"),
        script_args=settings.script_args,
    )
    argv[argv.index("--epochs") + 1] = "N"
    return "\n".join(
        (
            f"study     {shown(identity) or '(no name)'}",
            f"each job  {command_line(argv)}",
            *(f"{'guide     ' if place == 0 else ' ' * 10}{line}" for place, line in enumerate(guide)),
            f"plan      {_PLAN_WORDS}",
            "",
            plan_table(plan, has_brackets=not settings.algorithm.has_one_ladder),
        )
    )


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
    return _table(rows, ["best", "loss", "epochs", "trial", *bracket, "config id"])


def outcomes_table(study: StudyView, *, failures_only: bool = False) -> str:
    """How attempts ended: outcome, how many, and the folder with the logs of the latest of each kind."""
    latest: dict[str, JobView] = {}
    counts: dict[str, int] = {}
    for job in study.jobs:
        if failures_only and not job.has_failed:
            continue
        kind = "running" if job.outcome is None else str(job.outcome)
        latest[kind] = job
        counts[kind] = counts.get(kind, 0) + 1
    order = [*(str(outcome) for outcome in Outcome), "running"]
    rows = [
        [kind, str(counts[kind]), shown(latest[kind].folder), shortened(latest[kind].note, 100)]
        for kind in order
        if kind in counts
    ]
    return _table(rows, ["outcome", "attempts", "logs of the latest", "what was found"])


def retrain_command(study: StudyView, *, cwd: Path) -> str | None:
    """The command that trains the best to the full number of epochs again, to be pasted into a shell.

    It changes the folder first where the jobs' working directory is another than `cwd`: checkpoints with
    relative paths are there. A best that saw one GPU alone sees that one again. None while there is no best.
    """
    if study.best is None:
        return None
    environment, gpu = _device_of_best(study)
    argv = job_argv(
        python=str(study.settings["python"]),
        script=study.script,
        config_id=study.best.config_id,
        epochs=study.plan.max_epochs,
        slot_arguments=("--gpu", gpu),
        script_args=study.script_args,
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
        parts.append("no trial has a loss yet")
    else:
        parts.append(best_table(study, top=top, width=width))
        epochs = counted(study.plan.max_epochs, "epoch")
        parts.append(f"train the best to {epochs}{_again(study)}:\n{command}")
    failures = failures_of(study).text()
    if failures:
        parts.append(f"{failures}\n\n{outcomes_table(study, failures_only=True)}")
    if study.checkpoints_freed_bytes:
        parts.append(_freed(study))
    parts.append(f"logs: {shown(str(folder))}")
    return "\n\n".join(parts)


def report_text(study: StudyView, folder: Path, *, cwd: Path, top: int, width: int = DEFAULT_WIDTH) -> str:
    """Everything `report` says of a study."""
    # A reason may end with a script's last lines; here its first line is enough.
    reason = shown(study.reason.partition("\n")[0])
    state = f"{study.state}: {reason}" if reason else study.state
    script = command_line((study.script, *study.script_args))
    head = f"study   {shown(study.identity) or '(no name)'}\nscript  {script}\nstate   {state}"
    parts = [
        f"{head}\n{ladder_words(study)}\n\n{ladder_table(study)}"
        if study.plan.promotion.is_open
        else f"{head}\nplan    {_PLAN_WORDS}\n\n{plan_table(study.plan, has_brackets=study.has_brackets)}"
    ]
    if study.jobs:
        parts.append(outcomes_table(study))
    parts += filter(
        None, (sources_text(study), failures_of(study).text(), rungs_table(study), slots_table(study))
    )
    if study.checkpoints_freed_bytes:
        parts.append(_freed(study))
    command = retrain_command(study, cwd=cwd)
    if command is not None:
        parts.append(best_table(study, top=top, width=width))
        epochs = counted(study.plan.max_epochs, "epoch")
        parts.append(f"train the best to {epochs}{_again(study)}:\n{command}")
    parts.append(f"logs: {shown(str(folder))}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, right: bool = False) -> str:
    """Plain columns; tabulate must not take an id like `1e5` for a number and rewrite it."""
    first = "left" if headers[0] == "bracket" else "right"
    align = (first, *["right"] * (len(headers) - 1)) if right else None
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=align if rows else None)


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


def _freed(study: StudyView) -> str:
    return f"checkpoints deleted: {size(study.checkpoints_freed_bytes)}"


def _sums(plan: Plan) -> list[str]:
    about = "about " if _is_estimate(plan) else ""
    sums = [f"{about}{n:,}" for n in (plan.n_jobs, plan.epochs_resumed, plan.epochs)]
    if plan.max_total_epochs is not None and plan.max_total_epochs < plan.epochs_resumed:
        sums[1] = f"at most {plan.max_total_epochs:,}"
    return sums


def _is_estimate(plan: Plan) -> bool:
    """Whether the losses decide how many jobs there are: in the only rung of a ladder all trials run."""
    return plan.promotion.is_open and len(plan.brackets[0].rungs) > 1


def _repeated_block(brackets: tuple[Bracket, ...]) -> tuple[Bracket, ...]:
    """The shortest block of brackets that, repeated, gives them all."""
    for length in range(1, len(brackets) + 1):
        if len(brackets) % length == 0 and brackets == brackets[:length] * (len(brackets) // length):
            return brackets[:length]
    return brackets


def _places(place: int, length: int, n_repeats: int) -> str:
    places = [str(place + repeat * length) for repeat in range(n_repeats)]
    return ", ".join(places if n_repeats < 4 else [places[0], places[1], "..", places[-1]])


def _last_losses(study: StudyView) -> list[JobView]:
    """For each trial the job of its highest rung with a loss."""
    last: dict[int, JobView] = {}
    for job in study.jobs:
        before = last.get(job.trial)
        if job.outcome is Outcome.LOSS and (before is None or job.rung > before.rung):
            last[job.trial] = job
    return list(last.values())


def _again(study: StudyView) -> str:
    """The word for a best that was trained so far already; a search that was stopped has less."""
    return " again" if study.best is not None and study.best.epochs == study.plan.max_epochs else ""


def _device_of_best(study: StudyView) -> tuple[tuple[str, ...], str]:
    """What a command must begin with to see the device that the best ran on, and its K for `--gpu`."""
    job = next((job for job in _last_losses(study) if study.best and job.trial == study.best.trial), None)
    if job is None:
        return (), "0"
    found = re.search(r"[0-9]+", job.slot)
    number = found.group() if found else "0"
    if job.slot.startswith("cpu:"):
        # where there are no GPUs, nothing has to be hidden from the script
        return ("env", "CUDA_VISIBLE_DEVICES=") if study.settings.get("gpus") == "none" else (), number
    # of several GPUs the first; journals of earlier versions do not have their UUIDs
    first = next(iter(job.start.gpu_uuids), "")
    if first and (study.settings.get("isolate") or first.startswith("MIG-")):
        return ("env", f"CUDA_VISIBLE_DEVICES={first}"), "0"
    return (), number
