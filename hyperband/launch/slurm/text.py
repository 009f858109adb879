"""The words that Slurm's commands are started with, and the script of an allocation: pure functions.

Owns the argument lists of sbatch, srun, squeue, sacct, scancel and scontrol, and which environment they get.
Values of a profile are arguments of their own and never part of a shell line; the profile's `setup` lines are
shell by intention. Sources: the manual pages of Slurm 20.11 to 25.05. Must not know: what is asked when, and
what the answers mean.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperband.errors import UsageError
from hyperband.launch.slurm.profile import Profile

#: of squeue, one job a line; the comment last, since it alone may have a `|` in it
SQUEUE_FIELDS = ("%i", "%j", "%T", "%r", "%N", "%S", "%L", "%k")
#: of sacct: those that every version since 20.11 has
SACCT_FIELDS = ("JobID", "JobName", "State", "ExitCode", "NodeList", "Start")
#: so long before its time limit a search that is a job of its own is told, at least
SEARCH_SIGNAL_S = 90
#: variables that lead to the cluster; all others of Slurm's own would be taken for options by its commands
_KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
#: these change what is printed
_DROPPED_BEGINNINGS = ("SLURM_", "SLURMD_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SRUN_")
#: the user's own defaults for sbatch (SBATCH_ACCOUNT) count; these would change what sbatch does or says
_DROPPED = frozenset({
    "SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_EXPORT", "SBATCH_GET_USER_ENV", "SBATCH_JOB_NAME",
    "SBATCH_NO_KILL", "SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE", "SBATCH_REQUEUE", "SBATCH_SIGNAL",
    "SBATCH_TEST_ONLY", "SBATCH_WAIT", "SBATCH_WAIT_ALL_NODES", "SBATCH_CLUSTERS",
})  # fmt: skip
#: so begins what is said of a setup line, which follows
SETUP_FAILED = "a setup line of the Slurm profile failed"
#: what the script of a job does when one of its setup lines, which begin in its fifth line, fails
_TRAP = (
    """trap 'hyperband_at=$LINENO; for hyperband_n in "${BASH_LINENO[@]:-0}"; do """
    "((hyperband_n)) && hyperband_at=$hyperband_n; done; "
    f"""echo "hyperband: {SETUP_FAILED}: ${{hyperband_setup[hyperband_at-5]}}" >&2' ERR"""
)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for Slurm's commands: without what an allocation that we run in ourselves has set."""
    return {
        name: value
        for name, value in environ.items()
        if name in _KEPT or not (name in _DROPPED or name.startswith(_DROPPED_BEGINNINGS))
    }


def batch_script(profile: Profile) -> str:
    """The script of an allocation or a job: the setup lines, then what its arguments say, in its place."""
    lines = ["#!/bin/bash"]
    if profile.setup:
        setup = [line for entry in profile.setup for line in entry.split("\n")]
        # quoted as it stands, by its number; of a command in a file that it reads, by that of who reads it
        quoted = f"hyperband_setup=({' '.join(map(shlex.quote, setup))})"
        lines += [
            "set -e",
            quoted,
            _TRAP,
            *setup,
            "trap - ERR",
            "set +e",
            "unset hyperband_setup hyperband_at hyperband_n",
        ]
    return "\n".join([*lines, 'exec "$@"', ""])


def allocation_argv(
    profile: Profile, *, name: str, comment: str, log: Path, cwd: Path, script: Path, command: Sequence[str]
) -> tuple[str, ...]:
    """The arguments of sbatch for an allocation that is held.

    Args:
        profile: What to ask for.
        name: Of the job: all allocations of a study have the same, and are found by it.
        comment: What else squeue shows of it.
        log: File for what the script and the holder print.
        cwd: Where it runs.
        script: A file with `batch_script`.
        command: The holder's, for the end of the script.

    Raises:
        UsageError: A path that sbatch would not take as it is.
    """
    return (
        *_sbatch(profile, name, comment, log, cwd),
        *(() if profile.signal is None else (f"--signal={profile.signal}",)),
        str(script),
        *command,
    )


def job_argv(
    profile: Profile, *, name: str, comment: str, log: Path, cwd: Path, script: Path, command: Sequence[str]
) -> tuple[str, ...]:
    """The arguments of sbatch for one trial's job; see `allocation_argv`.

    Raises:
        UsageError: A path that sbatch would not take as it is.
    """
    return (
        # a requeued job would be a second attempt that nobody journalled
        *_sbatch(profile, name, comment, log, cwd, requeue=False),
        *_signal_to_script(profile),
        str(script),
        *command,
    )


def array_argv(
    profile: Profile,
    *,
    n_tasks: int,
    name: str,
    comment: str,
    log: Path,
    cwd: Path,
    script: Path,
    command: Sequence[str],
) -> tuple[str, ...]:
    """The arguments of sbatch for an array of trials' jobs, numbered from 0; see `allocation_argv`.

    Raises:
        UsageError: A path that sbatch would not take as it is.
    """
    throttle = "" if profile.array_throttle is None else f"%{profile.array_throttle}"
    return (
        *_sbatch(profile, name, comment, log, cwd, requeue=False),
        *_signal_to_script(profile),
        f"--array=0-{n_tasks - 1}{throttle}",
        str(script),
        *command,
    )


def step_argv(
    profile: Profile, *, job_id: str, node: str, name: str, cwd: Path, command: Sequence[str]
) -> tuple[str, ...]:
    """The arguments of srun for one process in an allocation, beside others that share its cores and GPUs."""
    gres = _gres(profile)
    return (
        "srun",
        f"--jobid={job_id}",
        f"--nodelist={node}",
        "--nodes=1",
        "--ntasks=1",
        # steps share what the allocation has: which GPU a job uses is said to its keeper
        "--overlap",
        *(() if gres is None else (f"--gres={gres}",)),
        *(() if profile.cpus is None else (f"--cpus-per-task={profile.cpus}",)),
        "--cpu-bind=none",
        "--mpi=none",
        "--export=ALL",
        "--unbuffered",
        f"--job-name={name}",
        f"--chdir={cwd}",
        *command,
    )


def probe_argv(
    profile: Profile, *, name: str, cwd: Path, script: str, arguments: Sequence[str]
) -> tuple[str, ...]:
    """The arguments of srun for a job of its own that runs a shell script on one node, after the setup lines.

    Args:
        profile: What to ask for.
        name: Of the job.
        cwd: Where it runs.
        script: For sh.
        arguments: Its own, from `$1` on.
    """
    return (
        "srun",
        f"--job-name={name}",
        "--nodes=1",
        "--ntasks=1",
        *_asked_for(profile),
        "--mpi=none",
        "--export=ALL",
        f"--chdir={cwd}",
        *("/bin/bash", "-c", batch_script(profile), "bash"),
        *("/bin/sh", "-c", script, "sh", *arguments),
    )


def squeue_argv(name: str) -> tuple[str, ...]:
    """The arguments of squeue for all jobs of a name, ended ones too, a line for each task of an array."""
    return (
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        # of partitions too that are hidden, or that are not for the user any more
        "--all",
        f"--name={name}",
        f"--format={'|'.join(SQUEUE_FIELDS)}",
    )


def steps_argv(job_ids: Sequence[str]) -> tuple[str, ...]:
    """The arguments of squeue for the names of all steps that live in some jobs, one a line."""
    jobs = f"--jobs={','.join(job_ids)}"
    return ("squeue", "--noheader", "--steps", "--states=all", "--all", jobs, "--format=%j")


def sacct_argv(job_ids: Sequence[str]) -> tuple[str, ...]:
    """The arguments of sacct for some jobs without their steps, all their runs included."""
    return (
        "sacct", "--allocations", "--duplicates", "--parsable2", f"--jobs={','.join(job_ids)}",
        f"--format={','.join(SACCT_FIELDS)}",
    )  # fmt: skip


def scancel_argv(job_ids: Sequence[str]) -> tuple[str, ...]:
    """The arguments of scancel for some jobs, by id."""
    return ("scancel", "--quiet", *job_ids)


def exclude_argv(job_id: str, nodes: str) -> tuple[str, ...]:
    """The arguments of scontrol to say which nodes a job in the queue is not to get; empty: none."""
    return ("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}")


def search_argv(
    profile: Profile,
    *,
    name: str,
    comment: str,
    log: Path,
    cwd: Path,
    script: Path,
    command: Sequence[str],
    signal_s: int = SEARCH_SIGNAL_S,
) -> tuple[str, ...]:
    """The arguments of sbatch for a search as a job of its own; see `allocation_argv`.

    signal_s: so long before its time limit it is told.

    Raises:
        UsageError: A path that sbatch would not take as it is.
    """
    given = {
        "partition": profile.search_partition or profile.partition,
        "account": profile.account,
        # it goes with the partition of the allocations
        "qos": None if profile.search_partition else profile.qos,
        "time": profile.search_time,
        "mem": profile.search_mem,
    }
    return (
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--comment={comment}",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
        *(f"--{option}={value}" for option, value in given.items() if value is not None),
        "--requeue",
        "--open-mode=append",
        "--input=/dev/null",
        f"--output={_file_name(log)}",
        f"--chdir={cwd}",
        "--export=ALL",
        # to the script alone, which is the search: it lets go of everything, and is started again
        f"--signal=B:USR2@{signal_s}",
        str(script),
        *command,
    )


def config_argv() -> tuple[str, ...]:
    """The arguments of scontrol for how the site is set up."""
    return ("scontrol", "--oneliner", "show", "config")


def _sbatch(
    profile: Profile, name: str, comment: str, log: Path, cwd: Path, *, requeue: bool = True
) -> list[str]:
    return [
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--comment={comment}",
        f"--nodes={profile.nodes}",
        "--ntasks-per-node=1",
        *_asked_for(profile),
        "--requeue" if requeue else "--no-requeue",
        "--open-mode=append",
        "--input=/dev/null",
        f"--output={_file_name(log)}",
        f"--chdir={cwd}",
        "--export=ALL",
    ]


def _asked_for(profile: Profile) -> list[str]:
    given = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "time": profile.time,
        "gres": _gres(profile),
        "cpus-per-task": profile.cpus,
        "mem": profile.mem,
        "exclude": profile.exclude,
        "constraint": profile.constraint,
    }
    return [f"--{option}={value}" for option, value in given.items() if value is not None]


def _signal_to_script(profile: Profile) -> tuple[str, ...]:
    # without B: only steps hear it, and such a job has none
    return () if profile.signal is None else (f"--signal=B:{profile.signal}",)


def _gres(profile: Profile) -> str | None:
    return profile.gres if profile.gpus is None else f"gpu:{profile.gpus}"


def _file_name(path: Path) -> str:
    """A path as sbatch's --output takes it, which has patterns such as %j in it.

    Raises:
        UsageError: It has a backslash in it: that has a meaning of its own there.
    """
    if "\\" in str(path):
        raise UsageError(
            f"{path} has a backslash in its name, which Slurm does not take as one; choose another --logs."
        )
    return str(path).replace("%", "%%")
