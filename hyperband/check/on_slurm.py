"""What a node of a Slurm cluster finds of what a search takes for granted there: files, interpreters, GPUs.

One short job of Slurm's own, asked for as the search would ask, tries it out; what it says comes back through
srun, so that nothing need be shared for that. Nothing is trained. How Slurm is asked is launch/'s.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperband.check.findings import Report, Status
from hyperband.check.interrupts import Interrupts
from hyperband.check.on_nodes import (
    PROBE,
    add_files,
    add_interpreters,
    arguments,
    folder_of_check,
    n_visible,
    names_of_gpus,
    said_of,
)
from hyperband.check.pulse import Pulse
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.clerk import Clerk
from hyperband.launch.slurm.files import described
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.profile_file import read_profile
from hyperband.launch.slurm.reports import FoundSite, Unreachable
from hyperband.launch.slurm.words import WHERE_IT_ANSWERS, said_by_srun
from hyperband.report.text import counted, duration
from hyperband.settings import Settings

_LINES = ("node", "files", "interpreter", "node_gpus")
#: patience with Slurm's first word; with a job's end
_ANSWER_S, _END_S = 60.0, 10.0


@dataclass(frozen=True, slots=True)
class _Probed:
    """What a job that is over said."""

    said: Mapping[str, str]
    #: why it did not run; empty if it did
    words: str
    took_s: float


def check_slurm(settings: Settings, report: Report, interrupts: Interrupts, pulse: Pulse) -> None:
    """Try out what jobs find on a node.

    Args:
        settings: what is asked of Slurm, script, interpreter and folder of studies count here.
        report: gets the lines.
        interrupts: entered.
        pulse: told that a node is waited for.

    Raises:
        UsageError: the profile is wrong.
        MachineError: nothing can be written here.
        CheckStoppedError: a signal ended it; no job is left.
    """
    profile = read_profile(settings.slurm_profile, settings.slurm_set)
    if not _site(report, interrupts):
        report.add_rest(_LINES, "Slurm does not answer")
        return
    with folder_of_check(settings.logs) as folder:
        _nodes(settings, profile, folder, report, interrupts, pulse)


def _site(report: Report, interrupts: Interrupts) -> bool:
    """Whether Slurm answers, and how it counts."""
    ends_s = time.monotonic() + _ANSWER_S
    words = f"no answer within {_ANSWER_S:g} s"
    with contextlib.closing(Clerk(f"hb-check-{uuid.uuid4().hex}", os.environ)) as clerk:
        clerk.look()
        while (left_s := ends_s - time.monotonic()) > 0 and not interrupts.came:
            select.select([clerk], [], [], min(left_s, 0.5))
            for found in clerk.reports():
                if isinstance(found, FoundSite):
                    counts = "sacct is asked as well of jobs that squeue has forgotten"
                    if not found.site.has_accounting:
                        counts = "without accounting; squeue alone is asked, and that is enough"
                    report.add("slurm", Status.OK, f"version {found.site.version}; {counts}")
                    return True
                if isinstance(found, Unreachable):
                    words, ends_s = found.words, 0.0
    interrupts.heed()
    report.add("slurm", Status.FAILS, words, f"make the check {WHERE_IT_ANSWERS}")
    return False


def _nodes(
    settings: Settings, profile: Profile, folder: Path, report: Report, interrupts: Interrupts, pulse: Pulse
) -> None:
    word = uuid.uuid4().hex
    asked = ", ".join(described(profile)) or "the site's defaults"
    found = _probe(settings, profile, folder, word, interrupts, pulse)
    if "node" not in found.said:
        fix = "change the Slurm profile (or --slurm-set KEY=VALUE); `sinfo` shows what there is"
        report.add("node", Status.FAILS, f"no job runs ({asked}): {found.words}", fix)
        report.add_rest(_LINES[1:], "no job runs")
        return
    node = found.said["node"]
    report.add(
        "node", Status.OK, f"{node} ran a job, done {duration(found.took_s)} after it was asked for ({asked})"
    )
    add_files(settings, folder, word, [found.said], report)
    add_interpreters(settings, sys.executable, [found.said], report)
    _gpus(profile, node, found.said, report)


def _probe(
    settings: Settings, profile: Profile, folder: Path, word: str, interrupts: Interrupts, pulse: Pulse
) -> _Probed:
    name = f"hb-check-{word}"
    told = arguments(settings, folder, word, sys.executable)
    argv = slurm_text.probe_argv(profile, name=name, cwd=Path.cwd(), script=PROBE, arguments=told)
    environment = slurm_text.engine_environment(os.environ)
    began_s = time.monotonic()
    ends_s = began_s + (settings.timeout_s or float("inf"))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment, start_new_session=True
        )
        pidfd = os.pidfd_open(process.pid)
        try:
            pulse.doing = "a node"
            while process.poll() is None and not interrupts.came and time.monotonic() < ends_s:
                interrupts.sleep([pidfd], min(pulse.left_s(), ends_s - time.monotonic()))
                pulse.beat("its job waits in Slurm's queue, or runs")
            is_late = process.poll() is None
        finally:
            os.close(pidfd)
            _end(process, name, environment)
        interrupts.heed()
        took_s = time.monotonic() - began_s
        out.seek(0)
        errors.seek(0)
        said = said_of(out.read().decode(errors="replace"))
        words = said_by_srun(errors.read().decode(errors="replace"))
    if is_late:
        words = f"it did not end within {settings.timeout_s:g} s (--timeout); {words}"
    return _Probed(said, words or f"exit code {process.returncode}", took_s)


def _end(process: "subprocess.Popen[bytes]", name: str, environment: Mapping[str, str]) -> None:
    """Leave nothing of it, here or in the queue."""
    if process.poll() is not None:
        return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["scancel", "--quiet", f"--name={name}"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_END_S,
            check=False,
        )
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _gpus(profile: Profile, node: str, said: Mapping[str, str], report: Report) -> None:
    n_seen = n_visible(said)
    names = names_of_gpus([said])
    if profile.n_gpus == 0:
        report.add("node_gpus", Status.NONE, "none are asked for; gpus=1 in the Slurm profile asks for one")
    elif n_seen == profile.n_gpus:
        words = (
            f"Slurm gives {counted(n_seen, 'GPU')} on {node} (CUDA_VISIBLE_DEVICES {said['visible']}){names}"
        )
        report.add("node_gpus", Status.OK, words)
    else:
        fix = "`scontrol show node` says what it has; setup lines must not set CUDA_VISIBLE_DEVICES"
        words = (
            f"{profile.n_gpus} are asked for on a node, but CUDA_VISIBLE_DEVICES is {said.get('visible')!r}"
        )
        report.add("node_gpus", Status.FAILS, words, fix)
