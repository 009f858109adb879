"""A search that runs on its own: everything is checked here, and the rest of the command runs elsewhere.

Owns how a detached search is started, and what it and its starter say to each other. With `--on slurm` it is
a job of Slurm's; otherwise it is a process of this machine without a terminal. What is of Slurm alone is
imported where it is used: nobody else waits for it.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperband.errors import MachineError, StudyBusyError, UsageError
from hyperband.folder import SEARCH_LOG_FILE, has_study
from hyperband.journal import Journal, writer_of
from hyperband.machine.process import require_pidfd
from hyperband.report.screen import Console
from hyperband.settings import On, Settings
from hyperband.study.clearing import clear_folder
from hyperband.study.opening import continued, open_script
from hyperband.study.parts import grounds_of
from hyperband.study.rest import end_living_jobs
from hyperband.study.submitted import refuse_submitted

if TYPE_CHECKING:
    from hyperband.launch.slurm.search import SearchJob

#: in the environment of a search that was detached: `slurm`, or the descriptor on which it says that it has
#: begun
VARIABLE = "HYPERBAND_DETACHED"
_IN_SLURM = "slurm"
_BEGUN = b"1"
_N_LAST_LINES = 20
_ROOT = Path(__file__).resolve().parents[2]


class Detached:
    """How this process was started by one that has detached it."""

    def __init__(self, descriptor: int | None) -> None:
        """Begin; descriptor: to say on that we have begun; None: we are a job of Slurm's."""
        self._descriptor = descriptor

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Detached | None":
        """Return it, and remove it from what our processes inherit; None: nobody detached us."""
        found = environ.pop(VARIABLE, None)
        if found is None:
            return None
        if found == _IN_SLURM:
            return cls(None)
        os.set_inheritable(int(found), False)
        return cls(int(found))

    @property
    def is_in_slurm(self) -> bool:
        """Whether we are a job of Slurm's."""
        return self._descriptor is None

    def say_begun(self) -> None:
        """Let who started us go."""
        if self._descriptor is not None:
            with contextlib.suppress(BrokenPipeError):  # he did not wait
                os.write(self._descriptor, _BEGUN)
            self.close()

    def close(self) -> None:
        """Say nothing more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = -1

    def end(
        self, study: Path, environ: Mapping[str, str], *, is_handed_over: bool, was_stopped: bool
    ) -> None:
        """Note that a search has ended that is a job of Slurm's; one that was handed over is queued again.

        One that was stopped may be as well, by Slurm: that has preempted it, or somebody requeued it. So who
        comes next asks for the job.

        Raises:
            MachineError: Slurm does not queue it again.
        """
        if not self.is_in_slurm:
            return
        from hyperband.launch.slurm.search import SearchJob, start_again

        if is_handed_over:
            start_again(environ)
            return
        job = SearchJob.read(study)
        if job is not None and job.job_id == environ.get("SLURM_JOB_ID") and not was_stopped:
            job.forget(study)


@dataclass(frozen=True, slots=True)
class Begun:
    """A search that runs on its own, or soon will."""

    folder: Path
    log: Path
    #: who runs it
    who: str
    #: its exit code, if it has ended already
    exit_code: int | None = None
    last_words: str = ""


def detach(
    settings: Settings, words: Sequence[str], *, console: Console, confirm: Callable[[Path], None]
) -> Begun:
    """Check what can be checked, and have the search run on its own; return when it has begun, or is queued.

    Args:
        settings: from the command line.
        words: the same command without what is done here.
        console: the screen.
        confirm: with `--clean`, called with the folder of the study that is about to be removed.

    Raises:
        HyperbandError: it cannot begin.
    """
    require_pidfd()
    study = _checked(settings, console, confirm)
    try:
        study.mkdir(parents=True, exist_ok=True)
        log = study / SEARCH_LOG_FILE
        log.touch()
    except OSError as err:
        raise MachineError(
            f"cannot write into {study}: {err.strerror or err}; make it writable, or choose another folder "
            "with --logs"
        ) from err
    argv = [*_ourselves(), *words]
    if settings.on is not On.SLURM:
        return _start(argv, study, log)
    from hyperband.launch.slurm.profile_file import read_profile
    from hyperband.launch.slurm.search import submit_search
    from hyperband.launch.slurm.search_time import signal_s

    job = submit_search(
        study,
        read_profile(settings.slurm_profile, settings.slurm_set),
        log=log,
        cwd=Path.cwd(),
        environ={**os.environ, VARIABLE: _IN_SLURM},
        command=argv,
        signal_s=signal_s(settings.grace_s),
    )
    _refuse_short(job, study, settings.grace_s)
    return Begun(study, log, f"Slurm's job {job.job_id}")


def _checked(settings: Settings, console: Console, confirm: Callable[[Path], None]) -> Path:
    """Refuse what the search would refuse, and bring its journal where it can reach it; return its folder.

    Raises:
        HyperbandError: it cannot begin.
    """
    with open_script(settings, say=console.line) as opened:
        study = opened.folder
        refuse_submitted(study, console.line)
        writer = writer_of(study)
        if writer is not None:
            raise StudyBusyError(
                f"the study in {study} is being written by {writer.describe()}; wait for it, or end it with "
                f"`hyperband stop {study}`"
            )
        clear_folder(settings, study, console=console, confirm=confirm)
        grounds_of(settings, study, lambda _: False)
        if not has_study(study):
            opened.host.draw_one(settings.seed)
            return study
        # on the machine of the search it may be out of reach
        with contextlib.closing(Journal.open(study, from_copy=settings.from_copy)) as journal:
            events = journal.events()
            if events:
                continued(events, settings, opened)
            if journal.was_restored:
                end_living_jobs(study, journal.lock)
                journal.settle()
        return study


def _refuse_short(job: "SearchJob", study: Path, grace_s: float) -> None:
    """Take a search back for which Slurm has too little time.

    Raises:
        UsageError: it has.
        MachineError: it has, and the job cannot be taken back.
    """
    from hyperband.launch.slurm.search import end_search, look_at
    from hyperband.launch.slurm.search_time import refuse_short_job

    try:
        line = look_at(job, os.environ)
    except MachineError:
        return  # what Slurm does not say is not known; the job is submitted
    if line is None:
        return
    try:
        refuse_short_job(line, grace_s)
    except UsageError:
        end_search(job, os.environ)
        job.forget(study)
        raise


def _ourselves() -> list[str]:
    """Return the words that start this program again."""
    script = _ROOT / "hyperband.py"
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-P", "-m", "hyperband"]


def _start(argv: Sequence[str], study: Path, log: Path) -> Begun:
    reader, writer = os.pipe()
    try:
        with log.open("ab") as stream:
            size_bytes = stream.tell()
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                # a session of its own: it has no terminal that could go away under it
                start_new_session=True,
                pass_fds=(writer,),
                env={**os.environ, VARIABLE: str(writer)},
            )
        os.close(writer)
        writer = -1
        who = f"pid {process.pid}"
        if os.read(reader, 1) == _BEGUN:
            process.returncode = 0  # it is nobody's child any more
            return Begun(study, log, who)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    exit_code = process.wait()
    with log.open("rb") as stream:
        stream.seek(size_bytes)
        lines = stream.read().decode(errors="replace").splitlines()
    return Begun(study, log, who, exit_code, "\n".join(lines[-_N_LAST_LINES:]))
