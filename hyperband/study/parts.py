"""The parts of a search, made from its settings and its journal. Puts nothing in motion but the warm host."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.folder import GUIDE_FILE, KEEPERS_FILE
from hyperband.guide.client import Guide
from hyperband.journal import Journal
from hyperband.launch.base import Slots
from hyperband.launch.environment import job_environment
from hyperband.launch.local import LocalLauncher
from hyperband.launch.warm import WarmHost
from hyperband.report.failures import Failures
from hyperband.script.host import ScriptHost
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted, StudyCreated
from hyperband.settings import Settings
from hyperband.study.guidance import Guidance
from hyperband.study.guiding import Guiding
from hyperband.study.opening import Opened
from hyperband.study.sampling import Ids, Sampling


def n_at_once(settings: Settings, slots: Slots) -> Callable[[], int]:
    """Return what says how many jobs share the cores, at each start."""
    n_slots = slots.n_slots()
    # a warm host has loaded the libraries with the first number for good
    is_fixed = settings.warm or settings.jobs_per_gpu is not None
    return (lambda: n_slots) if is_fixed else slots.n_slots


def launcher_of(settings: Settings, journal: Journal, created: StudyCreated, slots: Slots) -> LocalLauncher:
    """Return what starts jobs; with `--warm` its host begins to import at once.

    Raises:
        MachineError: the folder in which the jobs of this study run is gone.
    """
    cwd = Path(created.cwd)
    if not cwd.is_dir():
        raise MachineError(
            f"the study was first started in {cwd}, which is gone, and its jobs run there; make the folder "
            "again, or begin "
            "a new study with --clean or another folder for --logs"
        )
    errors = journal.folder / KEEPERS_FILE
    warm = None
    # a warm host sees as many GPUs as its jobs: none, or some
    sees_gpus = not any(name.startswith("cpu:") for name in slots.names())
    if settings.warm:
        warm = WarmHost(
            python=settings.python,
            script=settings.script,
            script_args=settings.script_args,
            cwd=cwd,
            lock=journal.lock,
            errors=errors,
            environment={
                **job_environment(slots.n_slots()),
                "CUDA_VISIBLE_DEVICES": None if sees_gpus else "",
            },
        )
    return LocalLauncher(cwd=cwd, lock=journal.lock, errors=errors, grace_s=settings.grace_s, warm=warm)


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
