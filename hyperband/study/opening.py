"""Opening a study: the script's identity, the folder, the settings that must not change, the plan."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperband.errors import JournalError, UsageError
from hyperband.report.text import counted
from hyperband.script.contract import read_start_with, shortened, study_folder_name
from hyperband.script.host import ScriptHost
from hyperband.search.brackets import is_extension, make_plan, with_trials
from hyperband.search.events import Event, PlanMade, SearchStarted, StudyCreated
from hyperband.search.trial import Plan
from hyperband.settings import Settings, changed_words
from hyperband.study.learning import refuse_itself

#: a study is one search: these make it what it is
_FIXED = ("algorithm", "async", "max_epochs", "eta", "min_epochs", "brackets", "seed")
_MAY_GROW = ("repeat", "max_trials", "max_total_epochs")
#: what studies of earlier versions, which do not say so, were searched with
_BEFORE: Mapping[str, object] = {"async": False, "max_total_epochs": None}
_MAX_REPEAT = 100_000


@dataclass(frozen=True, slots=True)
class Opened:
    """A script that was imported, and what follows from it and the settings."""

    host: ScriptHost
    identity: str
    folder: Path
    plan: Plan
    start_with_ids: tuple[str, ...]


@contextlib.contextmanager
def open_script(settings: Settings, *, say: Callable[[str], None] | None = None) -> Iterator[Opened]:
    """Check the settings, import the script in a child process, and name the study.

    Args:
        settings: from the command line.
        say: told when the import takes long.

    Raises:
        UsageError, ContractError: something is wrong with the arguments or the script; nothing was written.
    """
    plan = plan_of(settings)
    start_with_ids = () if settings.start_with is None else read_start_with(settings.start_with)
    if len(start_with_ids) > plan.n_trials:
        larger = "--max-trials" if settings.max_total_epochs is None else "--max-total-epochs, --max-trials"
        larger = larger if settings.algorithm.has_one_ladder else "--repeat, --max-trials"
        raise UsageError(
            f"--start-with {settings.start_with} has {counted(len(start_with_ids), 'config id')}, but the "
            f"plan has only {counted(plan.n_trials, 'trial')}; remove some, or make the plan larger "
            f"({larger})"
        )
    with ScriptHost(
        settings.python,
        settings.script,
        settings.script_args,
        cwd=Path.cwd(),
        write_bytecode=not settings.dry_run,
    ) as host:
        host.load(say)
        identity = host.identity()
        folder = settings.logs / study_folder_name(identity)
        refuse_itself(settings.learn_from, folder)
        yield Opened(host, identity, folder, plan, start_with_ids)


def plan_of(settings: Settings) -> Plan:
    """Return the plan that the settings ask for.

    Raises:
        UsageError: it cannot be made, or is too large to be meant.
    """
    if settings.repeat > _MAX_REPEAT:
        raise UsageError(
            f"--repeat is {settings.repeat:,}, but at most {_MAX_REPEAT:,} are allowed: a plan is written "
            "out in full"
        )
    return make_plan(
        algorithm=settings.algorithm,
        max_epochs=settings.max_epochs,
        eta=settings.eta,
        min_epochs=settings.min_epochs,
        brackets=settings.brackets,
        repeat=settings.repeat,
        max_trials=settings.max_trials,
        asynchronous=settings.asynchronous,
        max_total_epochs=settings.max_total_epochs,
    )


def continued(events: Sequence[Event], settings: Settings, opened: Opened) -> Opened:
    """Return what was opened, with a plan that is no smaller than the study's where only defaults make it so.

    How many trials `asha` and `pasha` start by default follows from --max-total-epochs, which may be lifted.

    Raises:
        UsageError, JournalError: this would make another search of the study; see check_same_study.
    """
    old = next((event.plan for event in reversed(events) if isinstance(event, PlanMade)), None)
    are_default = settings.max_trials is None and last_settings(events).get("max_trials") is None
    is_open = opened.plan.promotion.is_open and old is not None and old.promotion is opened.plan.promotion
    if old is not None and is_open and are_default:
        n_trials = max(old.n_trials, opened.plan.n_trials)
        opened = replace(opened, plan=with_trials(opened.plan, n_trials))
    check_same_study(events, settings, opened)
    return opened


def check_same_study(events: Sequence[Event], settings: Settings, opened: Opened) -> None:
    """Refuse a restart that would make another search of an existing study.

    Raises:
        UsageError: something changed that must not; the message has the old and the new value.
        JournalError: the journal does not begin as one does.
    """
    created = created_of(events, opened.folder)
    ways_out = f"remove the study in {opened.folder} with --clean, or keep both by another folder with --logs"
    back = f"give the old value, {ways_out}"
    if created.identity != opened.identity:
        raise UsageError(
            f"the study's folder belongs to the identity {created.identity!r}, but run_identity now gives "
            f"{opened.identity!r}, "
            f"which has the same folder name; {ways_out}"
        )
    if created.script != str(settings.script):
        raise UsageError(
            f"the identity {opened.identity!r} belongs to the script {created.script}, but this is "
            f"{settings.script}; "
            f"let run_identity tell them apart, {ways_out}"
        )
    if created.start_with_ids != opened.start_with_ids:
        place, was, is_now = _first_difference(created.start_with_ids, opened.start_with_ids)
        raise UsageError(f"config id {place} of --start-with was {was} and is now {is_now}; {back}")
    before = {**_BEFORE, **last_settings(events)}
    now = settings.document()
    for name in _FIXED:
        if before[name] != now[name]:
            was_given = before[name] is not None and before[name] is not False
            what_now = back if was_given else f"leave it out, {ways_out}"
            raise UsageError(f"{changed_words(name, before[name], now[name])}; {what_now}")
    plans = [event.plan for event in events if isinstance(event, PlanMade)]
    if settings.lifts_max_total_epochs:
        before["max_total_epochs"] = None
    _refuse_less(before, now, plans[-1] if plans else None, opened.plan, back)


def _refuse_less(
    before: Mapping[str, object], now: Mapping[str, object], old: Plan | None, new: Plan, back: str
) -> None:
    """Refuse what would make a study smaller than it was."""
    for name in _MAY_GROW:
        was, is_now = before[name], now[name]
        is_less = isinstance(was, int) and isinstance(is_now, int) and is_now < was
        if is_less:
            raise UsageError(
                f"--{name.replace('_', '-')} was {was} and is now {is_now}, but it may only grow; {back}"
            )
    limit, is_now = before["max_total_epochs"], now["max_total_epochs"]
    if limit is None and is_now is not None:
        raise UsageError(
            f"--max-total-epochs is {is_now}, but this study has no such limit, and none can be set now; "
            "leave the option out, or begin a new study with --clean or another --logs"
        )
    if limit is not None and is_now is None:
        # forgotten, most likely: and what is trained without a limit cannot be taken back
        raise UsageError(
            f"--max-total-epochs was {limit} and is left out now, but a limit is not dropped by that; give "
            f"--max-total-epochs {limit} again, a larger number, or --max-total-epochs none for no limit"
        )
    if old is None:
        return
    if not is_extension(new, of=old):
        raise UsageError(
            f"--max-trials was {before['max_trials'] or f'{old.n_trials} (its default)'} and is now "
            f"{now['max_trials'] or f'{new.n_trials} (its default)'}, but it may only grow; {back}"
        )


def created_of(events: Sequence[Event], folder: Path) -> StudyCreated:
    """Return the first event of a journal.

    Raises:
        JournalError: it is not what a journal begins with.
    """
    if events and isinstance(events[0], StudyCreated):
        return events[0]
    raise JournalError(
        f"the journal in {folder} does not begin with a study; restore it from a copy, or use --clean"
    )


def last_settings(events: Sequence[Event]) -> dict[str, object]:
    """Return the settings of the latest start; empty if there was none."""
    return next((dict(event.settings) for event in reversed(events) if isinstance(event, SearchStarted)), {})


def _first_difference(old: Sequence[str], new: Sequence[str]) -> tuple[int, str, str]:
    """Return the place, from 1, where two lists of ids begin to differ, and what stands there in each."""
    place = next((n for n, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), None)
    if place is None:
        place = min(len(old), len(new))
    found = [shortened(ids[place]) if place < len(ids) else "none" for ids in (old, new)]
    return place + 1, found[0], found[1]
