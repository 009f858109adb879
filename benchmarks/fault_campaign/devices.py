"""Kinds of fault that happen to slots: GPUs lost, a driver that fails, slots that fail jobs, no memory."""

import atexit
import functools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fault_campaign.kind import Kind, no_compiler
from fault_campaign.processes import as_it_is, search_killed
from fault_campaign.scene import Scene
from fault_campaign.scripts import (
    BLACK_HOLE,
    CRASH_ONCE,
    CUDA_MEMORY,
    FLAKY_SLOT,
    PYTHON_MEMORY,
    SCRIPT,
)
from hyperband.journal import read_events
from hyperband.search.events import JobEnded, JobStarted

_ON_GPUS = ("--no-multi-gpu",)
_SLOTS = ("--gpus", "none", "--slots", "3")
_N_GPUS = 4
#: so many jobs a black hole may have eaten
_MOST_EATEN = 3


@functools.cache
def _stub() -> tuple[Any, Path]:
    """The module of the stand-in for the driver's library, and the folder of that library."""
    tests = str(Path(__file__).resolve().parents[2] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    import nvml_stub  # type: ignore[import-not-found,unused-ignore]

    folder = Path(tempfile.mkdtemp(prefix="faults-nvml-"))
    atexit.register(shutil.rmtree, folder)
    return nvml_stub, nvml_stub.build_stub(folder)


def four_gpus(scene: Scene) -> None:
    """Four GPUs that do not exist."""
    module, library = _stub()
    machine = module.NvmlState(scene.folder / "machine", library).four_gpus()
    order = sorted(range(_N_GPUS), key=lambda line: str(machine.lines[line].bus))
    scene.environment.update(machine.environment())
    scene.environment.pop("CUDA_VISIBLE_DEVICES", None)
    scene.environment["FAULTS_GPUS"] = json.dumps(order)
    scene.environment["FAULTS_CLAIMS"] = str(machine.procdir)
    scene.machine = machine


def gpu_lost(scene: Scene) -> None:
    """One or two GPUs fall off the bus; a job there hangs, or crashes."""
    for number in scene.rng.sample(range(_N_GPUS), scene.rng.randint(1, 2)):
        scene.moment()
        if scene.a_job() is None:
            return  # only a search that runs can lose one: the next would number the others anew
        scene.harmed.update(range(1000))
        (scene.folder / f"lost-{number}").touch()
        scene.machine.lose(number)
        scene.n_faults += 1


def gpu_search_killed(scene: Scene) -> None:
    """Kill -9 of the search while its jobs hold GPUs."""
    search_killed(scene)


def driver_fails(scene: Scene) -> None:
    """Every second or third call to the driver's library fails, from the start or from some moment on."""
    if scene.rng.random() < 0.5:
        scene.moment()
    scene.machine.fail_every = scene.rng.choice([2, 3])
    scene.machine.write()
    scene.n_faults += 1
    scene.start()
    if scene.rng.random() < 0.3:
        search_killed(scene)


def gpu_errors(scene: Scene) -> None:
    """Whatever is asked of some GPUs fails for moments."""
    scene.start()
    ends_s = time.monotonic() + 2 * scene.length_s
    while not scene.is_over() and time.monotonic() < ends_s:
        failing = scene.rng.sample(range(_N_GPUS), scene.rng.randint(1, _N_GPUS))
        code = scene.rng.choice([999, 12, 17])  # unknown, corrupted library, in use
        for number in failing:
            scene.machine.change(number, error=code)
        scene.n_faults += 1
        scene.pause(0.005, 0.1)
        for number in failing:
            scene.machine.change(number, error=0)
        scene.pause(0.005, 0.1)


def black_hole(scene: Scene) -> None:
    """One slot fails every job in milliseconds."""
    scene.n_faults += 1
    scene.settle()
    starts = {}
    eaten = 0
    for event in read_events(scene.study):
        if isinstance(event, JobStarted):
            starts[event.job, event.attempt] = event
        elif isinstance(event, JobEnded) and event.outcome.is_failure:
            eaten += starts[event.job, event.attempt].slot == "cpu:1"
    scene.expect(eaten <= _MOST_EATEN, f"the black hole ate {eaten} jobs")


KINDS = (
    Kind(
        name="gpu-lost",
        about="GPUs fall off the bus",
        story=gpu_lost,
        options=_ON_GPUS,
        prepare=four_gpus,
        missing=no_compiler,
    ),
    Kind(
        name="gpu-search-killed",
        about="kill -9 of a search on GPUs",
        story=gpu_search_killed,
        options=_ON_GPUS,
        prepare=four_gpus,
        missing=no_compiler,
    ),
    Kind(
        name="driver-fails",
        about="NVML fails every other call",
        story=driver_fails,
        options=_ON_GPUS,
        prepare=four_gpus,
        missing=no_compiler,
    ),
    Kind(
        name="gpu-errors",
        about="GPUs answer with errors for moments",
        story=gpu_errors,
        options=_ON_GPUS,
        prepare=four_gpus,
        missing=no_compiler,
    ),
    Kind(
        name="black-hole",
        about="a slot that fails every job at once",
        story=black_hole,
        script=BLACK_HOLE,
        undisturbed=SCRIPT,
        options=_SLOTS,
    ),
    Kind(
        name="flaky-slot",
        about="a slot that fails sometimes",
        story=as_it_is,
        script=FLAKY_SLOT,
        undisturbed=SCRIPT,
        options=_SLOTS,
    ),
    Kind(
        name="cuda-memory",
        about="CUDA out of memory",
        story=as_it_is,
        script=CUDA_MEMORY,
        undisturbed=SCRIPT,
        options=_SLOTS,
    ),
    Kind(
        name="python-memory",
        about="MemoryError",
        story=as_it_is,
        script=PYTHON_MEMORY,
        undisturbed=SCRIPT,
        options=_SLOTS,
    ),
    Kind(
        name="crash-once",
        about="jobs that crash once",
        story=as_it_is,
        script=CRASH_ONCE,
        undisturbed=SCRIPT,
        options=_SLOTS,
    ),
)
