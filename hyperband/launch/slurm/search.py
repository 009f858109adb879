"""A search as a job of Slurm's: submitted, looked at, ended and started again, by its id.

Owns `slurm/search.json` and `slurm/search.sh` in the study's folder. Must not know: what a search is, or the
allocations in which its jobs run.
"""

import contextlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.folder import SLURM_FOLDER
from hyperband.launch.slurm.commands import Answer, Commands
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.text import engine_environment, search_argv, squeue_argv
from hyperband.launch.slurm.words import (
    WHERE_IT_ANSWERS,
    JobLine,
    JobState,
    Refusal,
    job_id_of,
    jobs_in_squeue,
)
from hyperband.machine.claim import parse, write_whole

_ABOUT_FILE = "search.json"
_SCRIPT_FILE = "search.sh"
_SCRIPT = '#!/bin/bash\nexec "$@"\n'
_NAME_LENGTH = 40
#: patience with one command
COMMAND_S = 20.0
#: and with the end of a search that was asked for it, besides the time that it needs to end its jobs
_END_S = 60.0
_LOOK_S = 0.3
#: a Slurm that does not answer is asked for the next start again and again, for so long
_AGAIN_S = 300.0


@dataclass(frozen=True, slots=True)
class SearchJob:
    """A search that was submitted."""

    job_id: str
    #: of Slurm's job, unlike any other
    name: str
    submitted_at: float
    #: so long before its time limit it is told: time enough to end its jobs
    signal_s: int = 90

    @classmethod
    def read(cls, study: Path) -> "SearchJob | None":
        """Return the job that was submitted last and has not ended in order; None: there is none."""
        try:
            found = parse((study / SLURM_FOLDER / _ABOUT_FILE).read_bytes())
        except FileNotFoundError:
            return None
        names = [field.name for field in fields(cls)]
        return None if found is None else cls(**{name: found[name] for name in names if name in found})

    def forget(self, study: Path) -> None:
        """Note that it has ended, unless another one was submitted since."""
        if SearchJob.read(study) == self:
            (study / SLURM_FOLDER / _ABOUT_FILE).unlink(missing_ok=True)


def about_file(study: Path) -> Path:
    """Return the file that says which job was submitted."""
    return study / SLURM_FOLDER / _ABOUT_FILE


def submit_search(
    study: Path,
    profile: Profile,
    *,
    log: Path,
    cwd: Path,
    environ: Mapping[str, str],
    command: Sequence[str],
    signal_s: int,
) -> SearchJob:
    """Have Slurm run a search, and note it in the study's folder.

    Args:
        study: its folder, which is there.
        profile: says where the search runs.
        log: file for what it prints.
        cwd: where it runs.
        environ: its environment.
        command: runs the search.
        signal_s: so long before its time limit it is told.

    Raises:
        MachineError: Slurm does not take it, or does not answer; or the folder cannot be written to.
    """
    name = f"hb-search-{re.sub(r'[^A-Za-z0-9_.-]+', '-', study.name)[:_NAME_LENGTH]}-{uuid.uuid4().hex[:8]}"
    folder = study / SLURM_FOLDER
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        write_whole(str(folder), _SCRIPT_FILE, _SCRIPT.encode(), mode=0o700)
        argv = search_argv(
            profile,
            name=name,
            comment=f"hyperband {study}",
            log=log,
            cwd=cwd,
            script=folder / _SCRIPT_FILE,
            command=command,
            signal_s=signal_s,
        )
        answer = _ask(argv, environ)
        if answer.code != 0:
            raise MachineError(_why_not_taken(answer))
        job_id = job_id_of(answer.out)
        if job_id is None:
            raise MachineError(f"Slurm took the search, but did not say as which job: {answer.words}")
        job = SearchJob(job_id, name, time.time(), signal_s)
        write_whole(str(folder), _ABOUT_FILE, json.dumps(asdict(job)).encode())
    except OSError as err:
        raise MachineError(
            f"cannot write what Slurm needs into {folder}: {err.strerror or err}; make room, or make the "
            "study's folder writable, and start the same command again"
        ) from err
    return job


def _why_not_taken(answer: Answer) -> str:
    words = answer.words.rstrip(".")
    if answer.refusal is Refusal.UNREACHABLE:
        return f"Slurm does not answer ({words}); start the search {WHERE_IT_ANSWERS}"
    if answer.refusal is Refusal.LIMIT:
        return f"Slurm takes no more jobs now ({words}); start the same command again when there are fewer"
    return (
        f"Slurm did not take the search as a job of its own: {words}. Change the Slurm profile (or "
        "--slurm-set KEY=VALUE) so that sbatch takes it, and start the same command again"
    )


def look_at(job: SearchJob, environ: Mapping[str, str]) -> JobLine | None:
    """Return what Slurm says of the job of a search while it is waiting or runs; None: it is over.

    Raises:
        MachineError: Slurm does not answer: nothing is known.
    """
    answer = _ask(squeue_argv(job.name), environ)
    if answer.code != 0:
        absent = shutil.which("squeue") is None
        why = "there is no squeue on this machine (through PATH)" if absent else answer.words
        raise MachineError(f"Slurm does not say whether that is over: {why}")
    # one that is ending may be queued again in a moment
    lines = [line for line in jobs_in_squeue(answer.out) if line.job_id == job.job_id]
    return next((line for line in lines if not line.state.is_over), None)


def end_search(
    job: SearchJob, environ: Mapping[str, str], say: Callable[[str], None] = lambda _: None
) -> bool:
    """End the job of a search in order, and wait for that; return whether there was anything to end.

    Args:
        job: of the search.
        environ: ours.
        say: told that one that runs was asked to end, and is waited for.

    Raises:
        MachineError: Slurm does not answer, or the search does not end.
    """
    is_asked = False
    it, patience_s = f"Slurm's job {job.job_id}", _END_S + job.signal_s
    until_s = time.monotonic() + patience_s
    while (line := look_at(job, environ)) is not None:
        if line.state is JobState.WAITING:
            _cancel(job, ("scancel", "--quiet", job.job_id), environ)
            is_asked = True
        elif not is_asked:
            # to the search itself, which ends its jobs and allocations; scancel alone would leave it no time
            _cancel(job, ("scancel", "--quiet", "--signal=TERM", "--batch", job.job_id), environ)
            is_asked = True
            say(f"{it} was asked to end; it ends its jobs first, {patience_s:g} s at most.")
        if time.monotonic() > until_s:
            raise MachineError(
                f"the search in {it} was asked to end, and has not within {patience_s:g} s; "
                f"`scancel {job.job_id}` ends it the hard way, and after that `hyperband stop` what it leaves"
            )
        # a job that ends is no event for anybody else
        time.sleep(_LOOK_S)
    return is_asked


def start_again(environ: Mapping[str, str]) -> None:
    """Have Slurm queue the job again in which we run, and end us.

    Raises:
        MachineError: it does not.
    """
    job_id = environ.get("SLURM_JOB_ID", "")
    until_s = time.monotonic() + _AGAIN_S
    while True:
        answer = _ask(("scontrol", "requeue", job_id), environ)
        if answer.refusal is not Refusal.UNREACHABLE or time.monotonic() > until_s:
            break
        # a controller that is back is no event for us; our own end at the time limit is
        time.sleep(_LOOK_S)
    if answer.code != 0:
        raise MachineError(
            f"Slurm does not start its job {job_id} again ({answer.words}): the search is over for now, its "
            "jobs and allocations go on. Start the same command again, which takes them over"
        )


def _cancel(job: SearchJob, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    answer = _ask(argv, environ)
    if answer.refusal is Refusal.UNREACHABLE:
        raise MachineError(f"Slurm's job {job.job_id} cannot be ended: {answer.words}. Try again later")


def _ask(argv: Sequence[str], environ: Mapping[str, str]) -> Answer:
    with contextlib.closing(Commands(engine_environment(environ), COMMAND_S)) as commands:
        return commands.run(argv)
