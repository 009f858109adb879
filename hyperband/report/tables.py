"""The plan of a search, for people: a table, and what its numbers mean. Owns its layout; decides nothing."""

from collections.abc import Sequence
from dataclasses import replace

from tabulate import tabulate

from hyperband.report.text import command_line, counted, shown
from hyperband.script.contract import job_argv
from hyperband.search.brackets import with_trials
from hyperband.search.trial import Algorithm, Bracket, Plan, Promotion
from hyperband.settings import Settings

#: what a cell of the plan says
PLAN_WORDS = "number of trials @ epochs each is trained to, in total"


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
    table = columns(rows, [*headers, "jobs", "epochs\nresuming", "epochs\nfrom scratch"], right=True)
    notes = _plan_notes(made, plan)
    return f"{table}\n\n{notes}" if notes else table


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
    shortest = shortest_text(plan, settings)
    return "\n".join(
        (
            f"study     {shown(identity) or '(no name)'}",
            f"each job  {command_line(argv)}",
            *(f"{'guide     ' if place == 0 else ' ' * 10}{line}" for place, line in enumerate(guide)),
            f"plan      {PLAN_WORDS}",
            "",
            plan_table(plan, has_brackets=not settings.algorithm.has_one_ladder),
            *(("", shortest) if shortest else ()),
        )
    )


def shortest_text(plan: Plan, settings: Settings) -> str:
    """A note where the rungs of brackets make the shortest jobs longer than --min-epochs; empty if not.

    Args:
        plan: that the settings give.
        settings: of the search.
    """
    asked = settings.min_epochs
    if settings.algorithm not in (Algorithm.HYPERBAND, Algorithm.HALVING) or asked == 1:
        return ""
    shortest = min(rung.epochs for bracket in plan.brackets for rung in bracket.rungs)
    if shortest == asked:
        return ""
    return (
        f"The shortest jobs have {counted(shortest, 'epoch')}: rungs are {settings.max_epochs:,} divided by"
        f" {settings.eta} again and again, and this is the last that --min-epochs {asked:,} allows."
    )


def columns(rows: Sequence[Sequence[str]], headers: Sequence[str], *, right: bool = False) -> str:
    """Cells as plain columns; tabulate must not take an id like `1e5` for a number and rewrite it."""
    first = "left" if headers[0] == "bracket" else "right"
    align = (first, *["right"] * (len(headers) - 1)) if right else None
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=align if rows else None)


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
        is_pasha = made.promotion is Promotion.PASHA and len(epochs) > 2
        used = " if all rungs are used" if is_pasha else ""
        if shown_plan == made or limit is None:
            notes.append(
                f"The numbers above rung 0 are estimates{used}, and rather low: later trials that are better"
                " go on, too."
            )
        else:
            notes.append(
                f"The numbers are estimates: what {counted(limit, 'epoch')} (--max-total-epochs) pay for"
                f"{used}."
            )
        if is_pasha:
            notes.append(
                f"Rungs above {counted(epochs[1], 'epoch')} are used only while more epochs change which of"
                " two trials is the better one, by more than the noise:"
            )
            notes.append(
                "it is known once a trial was better, then worse, then better than another, in three rungs;"
                " before, any change counts."
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
        low, high = (middle, high) if with_trials(plan, middle).epochs_resumed <= limit else (low, middle - 1)
    return with_trials(plan, low)


def _sums(plan: Plan) -> list[str]:
    about = "about " if _is_estimate(plan) else ""
    return [f"{about}{n:,}" for n in (plan.n_jobs, plan.epochs_resumed, plan.epochs)]


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
