"""The parts of a search, made from its settings and its journal. Puts nothing in motion.

What is of Slurm or Ray alone is imported where it is used: nobody else waits for it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

from hyperband.folder import GUIDE_FILE
from hyperband.guide.client import Guide
from hyperband.launch.base import Launcher
from hyperband.report.completions import Completions
from hyperband.report.failures import Failures
from hyperband.script.host import ScriptHost
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted, StudyCreated
from hyperband.settings import On, Settings
from hyperband.study.checkpoints import Checkpoints
from hyperband.study.grounds import Grounds, LocalGrounds
from hyperband.study.guidance import Guidance
from hyperband.study.guiding import Guiding
from hyperband.study.opening import Opened
from hyperband.study.rest import launchers_of_rest
from hyperband.study.sampling import Ids, Sampling
from hyperband.study.stored_checkpoints import StoredCheckpoints


def grounds_of(settings: Settings, study: Path, owns: Callable[[int], bool]) -> Grounds:
    """Return where the jobs of a search run; nothing is started or written yet.

    Args:
        settings: of the search.
        study: absolute path of the study's folder.
        owns: tells whether a process of this machine is ours that neither is a job's nor starts jobs.

    Raises:
        UsageError, MachineError: there is no such place.
    """
    match settings.on:
        case On.LOCAL:
            return LocalGrounds(settings, study=study, owns=owns)
        case On.SLURM:
            if settings.slurm_mode == "jobs":
                from hyperband.study.trial_job_grounds import TrialJobGrounds

                return TrialJobGrounds(settings)
            from hyperband.study.slurm_grounds import HeldGrounds

            return HeldGrounds(settings)
        case On.RAY:
            from hyperband.study.ray_grounds import RayGrounds

            return RayGrounds(settings)
        case _:
            assert_never(settings.on)


def checkpoints_of(
    settings: Settings, cwd: Path, engine: Engine, folder: Path
) -> Checkpoints | StoredCheckpoints:
    """Return what removes checkpoints that nobody wants any more, where they are.

    Args:
        settings: of the search.
        cwd: where its jobs run.
        engine: is only read.
        folder: of the study.
    """
    if settings.ray_files == "sent":
        return StoredCheckpoints(settings, engine=engine, study_folder=folder)
    return Checkpoints(settings, cwd=cwd, engine=engine, study_folder=folder)


def others_of(engine: str, folder: Path, lock: int) -> tuple[Launcher[Any], ...]:
    """Return launchers for what earlier searches started by other engines than this one; see Grounds."""
    local, remote = launchers_of_rest(folder, lock, but=engine)
    return (remote,) if engine == local.engine else (local, remote)


def ids_of(
    settings: Settings,
    opened: Opened,
    created: StudyCreated,
    engine: Engine,
    *,
    events: Sequence[Event],
    guidance: Guidance | None,
    folder: Path,
    n_slots: Callable[[], int],
) -> Ids:
    """Return what gives the config ids that are missing, by the process that imported the script already.

    Args:
        settings: of the search.
        opened: the script.
        created: the study.
        engine: all of its events were fed.
        events: those events.
        guidance: what a model could learn from; None: none is wanted.
        folder: of the study.
        n_slots: how many jobs may run at once.
    """
    cwd = Path(created.cwd)
    if cwd != Path.cwd():
        opened.host.change_folder(cwd)
    unused = [opened.host]

    def open_host() -> ScriptHost:
        if unused:
            return unused.pop()
        host = ScriptHost(
            settings.python, settings.script, settings.script_args, cwd=cwd, write_bytecode=True
        )
        try:
            host.load()
        except BaseException:
            host.close()
            raise
        return host

    def open_guide() -> Guide:
        return Guide(
            max_epochs=settings.max_epochs,
            seed=settings.seed,
            log=folder / GUIDE_FILE,
            n_ready=1,
        )

    if engine.n_ids_wanted() == 0:
        opened.host.close()  # nothing is left to ask it, and it may hold a GPU
    if guidance is None or not guidance.look.names or engine.n_ids_wanted() == 0:
        return Sampling(open_host, engine, settings.seed)
    return Guiding(
        open_host=open_host,
        open_guide=open_guide,
        engine=engine,
        events=events,
        lessons=[lesson.events for lesson in guidance.lessons],
        seed=settings.seed,
        look=guidance.look,
        n_slots=n_slots,
    )


def failures_of(events: Sequence[Event]) -> Failures:
    """Return the failures of a study so far, by kind."""
    failures = Failures()
    trials = {event.job: event.trial for event in events if isinstance(event, JobStarted)}
    for event in events:
        if isinstance(event, JobEnded):
            failures.see(trials[event.job], event)
    return failures


def completions_of(engine: Engine, events: Sequence[Event]) -> Completions:
    """Return what tells of complete rungs where no decision does; events: those so far."""
    return Completions(lambda: engine.plan, lambda trial: engine.trial(trial).bracket, events)
