"""A check from its arguments to its report: look at the script, put the parts together, train, clean up."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from hyperband.check.bench import Bench, open_lock
from hyperband.check.findings import Report
from hyperband.check.inspecting import inspect
from hyperband.check.interrupts import Interrupts
from hyperband.check.on_ray import check_ray
from hyperband.check.on_slurm import check_slurm
from hyperband.check.parts import Parts
from hyperband.check.pulse import Pulse
from hyperband.check.traces import Places
from hyperband.check.training import Training
from hyperband.launch.cpu_slots import default_n_slots
from hyperband.launch.local import LocalLauncher
from hyperband.launch.ray.link import require_ray
from hyperband.launch.slots import make_slots
from hyperband.launch.slurm.commands import require_commands
from hyperband.machine.checkpoint_files import check_pattern
from hyperband.machine.process import require_pidfd
from hyperband.script.host import check_readable
from hyperband.settings import On, Settings
from hyperband.verdicts import Resuming, write_resuming

_TRAININGS = ("one_epoch", "gpu_memory", "again", "beyond", "resuming", "together", "warm", "configurations")


def check_script(settings: Settings, *, say: Callable[[str], None]) -> Report:
    """Run a script through its contract.

    Args:
        settings: what a search has no use for here (the plan, the journal) is not looked at.
        say: told each line as soon as it is known.

    Raises:
        UsageError: the script, the interpreter, the GPUs or the pattern that are named cannot be used.
        MachineError: jobs cannot be run here.
        CheckStoppedError: a signal ended it; no job is left.
    """
    require_pidfd()
    check_readable(settings.script)
    if settings.checkpoints is not None:
        check_pattern(settings.checkpoints, cwd=Path.cwd())
    pulse = Pulse(say)
    places = Places(settings, Path.cwd(), pulse.say)
    report = Report(settings, pulse.say)
    sha256 = hashlib.sha256(settings.script.read_bytes()).hexdigest()
    if settings.on is On.SLURM:
        require_commands()
    elif settings.on is On.RAY:
        require_ray()
    config_ids = inspect(settings, report)
    if settings.on is not On.LOCAL:
        check_engine = check_slurm if settings.on is On.SLURM else check_ray
        with Interrupts() as interrupts:
            check_engine(settings, report, interrupts, pulse)
        report.say(
            f"         nothing was trained: for that, make the check on a node, without --on {settings.on}"
        )
        return report
    if not config_ids:
        report.add_rest(_TRAININGS, "nothing was trained")
        return report
    with (
        tempfile.TemporaryDirectory(prefix="hyperband-check-") as folder,
        Interrupts() as interrupts,
        _bench(settings, Path(folder), interrupts, pulse) as bench,
    ):
        Training(Parts(report, bench, places, list(config_ids))).run()
    if report.identity is not None and report.resuming is not Resuming.UNKNOWN:
        write_resuming(
            settings.logs,
            report.identity,
            script_sha256=sha256,
            script_args=settings.script_args,
            verdict=report.resuming,
        )
    return report


@contextlib.contextmanager
def _bench(settings: Settings, folder: Path, interrupts: Interrupts, pulse: Pulse) -> Iterator[Bench]:
    if settings.slots is None:
        # Two at once is what shows whether they disturb each other, also where a search would run one.
        settings = replace(settings, slots=max(2, default_n_slots()))
    launchers: list[LocalLauncher] = []
    slots = make_slots(
        settings,
        environ=os.environ,
        study=str(folder),
        owns=lambda pid: any(launcher.owns(pid) for launcher in launchers),
    )
    lock = open_lock(folder)
    try:
        bench = Bench(settings, slots, launchers, Path(folder), lock, interrupts, pulse)
        with bench.launching():
            yield bench
    finally:
        os.close(lock)
