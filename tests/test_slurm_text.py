"""What Slurm's commands are started with: held against golden files, one argument a line."""

import subprocess
from pathlib import Path

import pytest

from hyperband.errors import UsageError
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.profile import Profile

DATA = Path(__file__).parent / "slurm"
PROFILE = Profile(
    partition="gpu",
    account="it's $(mine)",
    qos="normal",
    time="4:00:00",
    gpus="a100:2",
    cpus=16,
    mem="64G",
    exclude="gpu[03,07-09]",
    constraint="a100&nvlink",
    array_throttle=8,
    signal="USR1@120",
    setup=("module load cuda/12.4", 'source "$HOME/my env/bin/activate"'),
)
STUDY = Path("/data/my study")
COMMAND = (
    "/usr/bin/python3",
    "-I",
    "-S",
    "/data/my study/node/holder.py",
    "hold",
    "/data/my study/allocations",
    "900",
)


def golden(name: str, words: tuple[str, ...]) -> None:
    assert "\n".join(words) + "\n" == (DATA / f"{name}.golden").read_text(), f"tests/slurm/{name}.golden"


def test_an_allocation() -> None:
    words = slurm_text.allocation_argv(
        PROFILE, name="hb-1a2b", comment="allocation", log=STUDY / "100%.log", cwd=STUDY,
        script=STUDY / "batch.sh", command=COMMAND,
    )  # fmt: skip
    golden("allocation", words)


def test_an_allocation_of_which_nothing_is_said() -> None:
    words = slurm_text.allocation_argv(
        Profile(), name="hb-1a2b", comment="allocation", log=STUDY / "log", cwd=STUDY,
        script=STUDY / "batch.sh", command=COMMAND,
    )  # fmt: skip
    golden("allocation_plain", words)


def test_a_job_and_an_array_of_jobs() -> None:
    job = slurm_text.job_argv(
        PROFILE, name="hb-1a2b", comment="12-1", log=STUDY / "jobs/12-1/slurm.log", cwd=STUDY,
        script=STUDY / "batch.sh", command=COMMAND,
    )  # fmt: skip
    golden("job", job)
    array = slurm_text.array_argv(
        PROFILE, n_tasks=10, name="hb-1a2b", comment="array", log=STUDY / "slurm.log", cwd=STUDY,
        script=STUDY / "batch.sh", command=COMMAND,
    )  # fmt: skip
    golden("array", array)


def test_a_step() -> None:
    words = slurm_text.step_argv(
        PROFILE, job_id="15", node="gpu04", name="hb-1a2b", cwd=STUDY, command=("/usr/bin/python3", "node.py")
    )
    golden("step", words)


def test_the_steps_of_some_jobs_are_asked_for_at_once() -> None:
    words = ("squeue", "--noheader", "--steps", "--states=all", "--all", "--jobs=7,15", "--format=%j")
    assert slurm_text.steps_argv(("7", "15")) == words


def test_the_script_of_an_allocation_runs_the_setup_lines_and_then_its_arguments(tmp_path: Path) -> None:
    assert slurm_text.batch_script(PROFILE) == (DATA / "batch.sh").read_text()
    script = tmp_path / "batch.sh"
    script.write_text(slurm_text.batch_script(Profile(setup=("export A='a b'", "cd /"))))
    argv = ["bash", str(script), "sh", "-c", 'echo "$A" "$PWD" "$1"', "-", "$(x) 'y'"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "a b / $(x) 'y'\n"


def test_a_setup_line_that_fails_is_named_and_nothing_runs_after_it(tmp_path: Path) -> None:
    script = tmp_path / "batch.sh"
    script.write_text(slurm_text.batch_script(Profile(setup=("true", "false", "echo after"))))
    done = subprocess.run(["bash", str(script), "echo", "ran"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "hyperband: a setup line of the Slurm profile failed: false\n" in done.stderr


def test_a_setup_line_is_quoted_as_it_stands_in_the_profile(tmp_path: Path) -> None:
    (tmp_path / "activate").write_text("\n" * 40 + "false\n")
    lines = ("set -u", f"source '{tmp_path}/activate'  # it's \"mine\" $HOME")
    script = tmp_path / "batch.sh"
    script.write_text(slurm_text.batch_script(Profile(setup=lines)))
    said = f"hyperband: a setup line of the Slurm profile failed: {lines[1]}\n"
    for argv in (["bash", str(script)], ["bash", "-c", script.read_text(), "bash"]):
        assert subprocess.run(argv, capture_output=True, text=True, check=False).stderr == said


def test_a_log_that_sbatch_would_misread_is_refused() -> None:
    with pytest.raises(UsageError, match="backslash"):
        slurm_text.allocation_argv(
            Profile(), name="n", comment="c", log=Path("/a\\b/log"), cwd=STUDY, script=STUDY, command=COMMAND
        )


def test_commands_do_not_get_what_an_allocation_around_us_has_set() -> None:
    environ = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "a",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURM_JOB_ID": "3",
        "SLURM_NTASKS": "4",
        "SBATCH_WAIT": "1",
        # an allocation that loses a node is to end; and what Slurm says of a job is looked for in its output
        "SBATCH_NO_KILL": "set",
        "SBATCH_ERROR": "mine.err",
        "SQUEUE_FORMAT": "%i",
        "SLURM_TIME_FORMAT": "relative",
    }
    assert slurm_text.engine_environment(environ).keys() == {
        "PATH", "SLURM_CONF", "SBATCH_ACCOUNT", "CUDA_VISIBLE_DEVICES",
    }  # fmt: skip
