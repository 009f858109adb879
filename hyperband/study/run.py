"""A search from its arguments to its verdict: open the study, put the parts together, run, close."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hyperband
from hyperband.errors import HyperbandError, JournalError, MachineError, SearchFailedError
from hyperband.folder import LOG_FILE, has_study, job_folder
from hyperband.journal import Journal, StartsMayWait
from hyperband.machine import proc
from hyperband.machine.process import require_pidfd
from hyperband.report.completions import Completions
from hyperband.report.ladder import why_complete
from hyperband.report.log import StudyLog
from hyperband.report.screen import Console
from hyperband.report.tables import plan_text
from hyperband.report.view import study_view
from hyperband.script.contract import last_lines
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdsDrawn,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    StudyCreated,
)
from hyperband.search.health import Health
from hyperband.search.packing import Packing
from hyperband.search.trial import Plan
from hyperband.settings import On, Settings
from hyperband.study.attempts import Attempts
from hyperband.study.clearing import clear_folder
from hyperband.study.detaching import Detached
from hyperband.study.finish import Verdict, spent_s
from hyperband.study.grounds import Grounds
from hyperband.study.guidance import Guidance, guidance_of
from hyperband.study.jobs import JobFiles
from hyperband.study.opening import Opened, continued, created_of, last_settings, open_script
from hyperband.study.pace import Pace
from hyperband.study.parts import checkpoints_of, failures_of, grounds_of, ids_of, others_of
from hyperband.study.rest import end_held, end_living_jobs, refuse_living_elsewhere
from hyperband.study.search import Search
from hyperband.study.submitted import refuse_submitted
from hyperband.study.voice import Voice
from hyperband.study.wake import Wake
from hyperband.study.warnings import cost_of_not_resuming, warnings_of


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended."""

    folder: Path
    #: stopped, finished or failed
    state: str
    exit_code: int
    reason: str
    #: what the user must be told, if the search could not go on
    error: HyperbandError | None
    #: its next start is to follow at once, and finds what is held for it
    is_handed_over: bool = False


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a search would begin with."""

    identity: str
    plan: Plan
    guidance: Guidance | None


def dry_run(settings: Settings, *, console: Console) -> DryRun:
    """Return what a search would begin with; imports the script, writes nothing.

    Raises:
        UsageError, ContractError: the arguments or the script are wrong.
        JournalError: a study to learn from cannot be read.
    """
    with open_script(settings, say=console.line) as opened:
        opened.host.draw_one(settings.seed)
        guidance = guidance_of(settings, opened.host, console.line)
        return DryRun(opened.identity, opened.plan, guidance)


def run_search(
    settings: Settings,
    *,
    console: Console,
    confirm: Callable[[Path], None],
    detached: Detached | None = None,
) -> SearchResult:
    """Run, or go on with, the search that the settings describe.

    Args:
        settings: from the command line.
        console: the screen; stays open.
        confirm: with `--clean`, called with the folder of the study that is about to be removed; raises to
            keep it.
        detached: how it was started by one that detached it; None: it was not.

    Raises:
        HyperbandError: before anything ran, or when ours or the machine gave way; running jobs go on.
    """
    require_pidfd()
    owners: list[Callable[[int], bool]] = []
    with open_script(settings, say=console.line) as opened:
        refuse_submitted(opened.folder, console.line)
        clear_folder(settings, opened.folder, console=console, confirm=confirm)
        guidance = None
        if not has_study(opened.folder):
            # a sampler that does not work leaves nothing behind
            opened.host.draw_one(settings.seed)
            guidance = guidance_of(settings, opened.host, console.line)

        def find_grounds() -> Grounds:
            return grounds_of(settings, opened.folder, lambda pid: any(owns(pid) for owns in owners))

        # wrong GPUs leave no folder of a new study behind; an old one may have its result to tell
        grounds = None if has_study(opened.folder) else find_grounds()
        # from the moment the study is ours, whoever ends us must find its jobs ended as well
        with (
            Wake(hands_over=detached is not None and detached.is_in_slurm) as wake,
            contextlib.closing(
                Journal.open(opened.folder, from_copy=settings.from_copy, on_stop=_end_ourselves)
            ) as journal,
        ):
            return _run(
                settings, opened, journal, guidance, grounds or find_grounds, owners, console, wake, detached
            )


def _end_ourselves() -> None:
    """End this search as `hyperband stop` does, which cannot reach us from another machine."""
    os.kill(os.getpid(), signal.SIGTERM)


def _run(
    settings: Settings,
    opened: Opened,
    journal: Journal,
    guidance: Guidance | None,
    found: Grounds | Callable[[], Grounds],
    owners: list[Callable[[int], bool]],
    console: Console,
    wake: Wake,
    detached: Detached | None,
) -> SearchResult:
    events = journal.events()
    if events:
        opened = continued(events, settings, opened)
    engine = Engine()
    for event in events:
        engine.handle(event)
    created = created_of(events, journal.folder) if events else _created(settings, opened)
    plans = [event.plan for event in events if isinstance(event, PlanMade)]
    grows = not plans or plans[-1] != opened.plan
    if not grows and engine.is_complete:
        console.line(plan_text(engine.plan, settings, identity=opened.identity))
        for warning in warnings_of(events, settings):
            console.line(warning)
        if last_settings(events) != settings.document():
            again = SearchEnded(
                time.time(), "finished" if engine.best() else "failed", _why_complete_before(events)
            )
            journal.append(_search_started(settings), again, durable=True)
        _clear_away(settings, created, engine, events, journal)
        _give_back(journal.folder, console)
        return _finished_before(engine, events, journal.folder)
    if guidance is None and (grows or engine.n_ids_wanted() > 0):
        guidance = guidance_of(settings, opened.host, console.line)
    grounds = found() if callable(found) else found
    slots = grounds.slots
    if journal.was_restored:
        # a start may be missing, and its job run: all are ended, and those that were known are repeated
        end_living_jobs(journal.folder, journal.lock)
        journal.settle()
    refuse_living_elsewhere(engine.running(), journal.folder, journal.lock, engine=grounds.engine)
    with (
        StudyLog(journal.folder / LOG_FILE, has_brackets=not settings.algorithm.has_one_ladder) as log,
        contextlib.closing(grounds),
        contextlib.ExitStack() as stack,
    ):
        launcher = grounds.open(journal.folder, journal.lock, _cwd_of(created))
        others = others_of(grounds.engine, journal.folder, journal.lock)
        for other in others:
            stack.callback(other.close)
        begin: list[Event] = [] if events else [created]
        begin.append(_search_started(settings))
        begin += [PlanMade(opened.plan)] if grows else []
        begin += [IdsDrawn(0, created.start_with_ids)] if created.start_with_ids and not events else []
        for event in begin:
            engine.handle(event)
        # where starts are orders, whoever reads the journal must know
        orders = [] if launcher.bell is None else [StartsMayWait(time.time())]
        journal.append(*begin, *orders, durable=True)
        if detached is not None:
            detached.say_begun()
        before = next((e.script_sha256 for e in reversed(events) if isinstance(e, JobStarted)), None)
        files = JobFiles(
            settings,
            journal.folder,
            cwd=created.cwd,
            environment=grounds.environment,
            last_sha256=before,
        )
        files.recover(events)
        guide = () if guidance is None else guidance.describe()
        console.line(plan_text(engine.plan, settings, identity=opened.identity, guide=guide))
        where = "" if journal.place is None else f"journal   {journal.place}\n"
        console.line(f"\nslots     {slots.describe()}\nfolder    {journal.folder}\n{where}")
        voice = Voice(
            journal.folder,
            log,
            console,
            cwd=created.cwd,
            best=engine.best(),
            failures=failures_of(events),
            has_brackets=not settings.algorithm.has_one_ladder,
        )
        warnings = warnings_of(events, settings)
        warnings += _give_back_elsewhere(journal.folder, settings.on)
        warnings += [] if guidance is None else guidance.warnings
        warnings += cost_of_not_resuming(
            settings, identity=opened.identity, script_sha256=files.script_sha256(), plan=engine.plan
        )
        for warning in warnings:
            voice.says(warning)
        log.line(f"begin  pid {os.getpid()} on {socket.gethostname()}: {slots.describe()}")
        checkpoints = checkpoints_of(settings, Path(created.cwd), engine, journal.folder)
        checkpoints.recover([*events, *begin])
        packing = Packing()
        for event in (*events, *begin):
            packing.see(event)
        attempts = Attempts(
            folder=journal.folder,
            engine=engine,
            launcher=launcher,
            others=others,
            slots=slots,
            files=files,
            log=log,
            wake=wake,
            beginnings=journal.beginnings,
            is_timed=settings.has_time_limit,
        )
        ids = ids_of(
            settings,
            opened,
            created,
            engine,
            events=[*events, *begin],
            guidance=guidance,
            folder=journal.folder,
            n_slots=slots.n_slots,
        )
        guidance = None  # other studies may be large, and were told of
        with contextlib.closing(ids):
            owners.append(ids.owns)
            search = Search(
                settings=settings,
                journal=journal,
                engine=engine,
                grounds=grounds,
                attempts=attempts,
                ids=ids,
                files=files,
                health=Health([*events, *begin]),
                packing=packing,
                pace=Pace(engine, events),
                completions=_completions(engine, events) if settings.asynchronous else None,
                checkpoints=checkpoints,
                voice=voice,
                console=console,
                wake=wake,
                # one that Slurm starts again and again is one search
                spent_s=spent_s(events) if detached is not None and detached.is_in_slurm else 0.0,
            )
            verdict = _watched(search, attempts, grounds, journal, voice)
    return SearchResult(
        journal.folder,
        verdict.state,
        verdict.exit_code,
        verdict.reason,
        verdict.error,
        is_handed_over=verdict.is_handed_over,
    )


def _completions(engine: Engine, events: Sequence[Event]) -> Completions:
    return Completions(lambda: engine.plan, lambda trial: engine.trial(trial).bracket, events)


def _watched(search: Search, attempts: Attempts, grounds: Grounds, journal: Journal, voice: Voice) -> Verdict:
    """Run the loop, and journal how it ended, also when ours or the machine gave way."""
    try:
        verdict = search.run()
    except JournalError:
        if journal.was_deleted:
            attempts.end_all()  # nobody could find them again
            grounds.give_back()
        raise  # there is nothing left to write to
    except HyperbandError as err:
        going_on = f" {attempts.words()} go on by themselves." if len(attempts) else ""
        verdict = Verdict("failed", err.exit_code, f"{err}{going_on}", err)
    journal.append(SearchEnded(time.time(), verdict.state, verdict.reason), durable=True)
    if len(attempts) == 0 and not verdict.is_handed_over:
        for line in grounds.give_back():
            voice.says(line)
    voice.over(verdict.state, verdict.reason)
    return verdict


def _give_back_elsewhere(folder: Path, on: On) -> list[str]:
    """End what a start with another --on still holds, now that no job runs there; say what it was."""
    try:
        held = end_held(folder, but=on)
    except MachineError as err:
        return [f"Warning: what an earlier start with another --on holds is not given back: {err}"]
    return [f"Given back what an earlier start with another --on held: {' and '.join(held)}."] if held else []


def _give_back(folder: Path, console: Console) -> None:
    """End what is held of clusters, where the search that should have was killed at its very end."""
    try:
        end_held(folder)
    except MachineError as err:
        console.line(str(err))


def _clear_away(
    settings: Settings, created: StudyCreated, engine: Engine, events: Sequence[Event], journal: Journal
) -> None:
    """Remove checkpoints that are not kept, where the search that should have was killed at its very end."""
    cwd = Path(created.cwd)
    if not cwd.is_dir():
        return  # and with it what was to be removed
    checkpoints = checkpoints_of(settings, cwd, engine, journal.folder)
    checkpoints.recover(events)
    removed = checkpoints.finish()
    if removed is not None:
        journal.append(removed, durable=True)


def _cwd_of(created: StudyCreated) -> Path:
    """Return the folder in which the jobs of this study run.

    Raises:
        MachineError: it is gone.
    """
    cwd = Path(created.cwd)
    if not cwd.is_dir():
        raise MachineError(
            f"the study was first started in {cwd}, which is gone, and its jobs run there; make the folder "
            "again, or begin "
            "a new study with --clean or another folder for --logs"
        )
    return cwd


def _created(settings: Settings, opened: Opened) -> StudyCreated:
    return StudyCreated(
        identity=opened.identity,
        script=str(settings.script),
        script_args=settings.script_args,
        cwd=str(Path.cwd()),
        start_with_ids=opened.start_with_ids,
    )


def _search_started(settings: Settings) -> SearchStarted:
    return SearchStarted(
        at=time.time(),
        settings=settings.document(),
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=proc.boot_id(),
        version=hyperband.__version__,
    )


def _finished_before(engine: Engine, events: Sequence[Event], folder: Path) -> SearchResult:
    """Return the result of a study that has nothing left to do."""
    if engine.best() is not None:
        return SearchResult(folder, "finished", 0, _why_complete_before(events), None)
    starts = {(event.job, event.attempt): event for event in events if isinstance(event, JobStarted)}
    failed = [event for event in events if isinstance(event, JobEnded) and event.outcome.is_failure]
    words = "the search ended without a single loss: every job failed."
    if failed:
        last = failed[-1]
        lines = last_lines(job_folder(folder, last.job, last.attempt) / "stderr", 10) or last.note
        trial = starts[last.job, last.attempt].trial
        words += f" The last lines of job {last.job} (trial {trial}):\n{lines}"
    words += "\nMend the script and begin anew with --clean."
    return SearchResult(folder, "failed", 1, "no job gave a loss", SearchFailedError(words))


def _why_complete_before(events: Sequence[Event]) -> str:
    """Return why a study has nothing left to do."""
    study = study_view(events, folder=None, running=False)
    if not study.plan.promotion.is_open:
        return "the plan was complete before"
    return f"complete before: {why_complete(study)}"
