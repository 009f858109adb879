"""The holder of an allocation, without a batch system; with one, it is in test_slurm_clerk.py."""

import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hyperband.machine import holder

ARGV = (sys.executable, "-I", "-S", holder.__file__)


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environ}
    return subprocess.run([*ARGV, *words], env=environment, capture_output=True, text=True, check=False)


def test_vermin_finds_nothing_newer_than_39() -> None:
    vermin = Path(sysconfig.get_path("scripts")) / "vermin"
    command = [sys.executable, str(vermin), "--target=3.9-", "--no-tips", "--no-eval-annotations"]
    done = subprocess.run([*command, holder.__file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_writes_down_where_it_is_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    environ = {**os.environ, "SLURM_JOB_ID": "15", "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "gpu4"}
    with subprocess.Popen([*ARGV, "hold", str(tmp_path), "600"], env=environ) as process:
        path = tmp_path / holder.file_name("15", 2)
        while not path.exists():
            assert process.poll() is None
        about = json.loads(path.read_bytes())
        assert (about["job_id"], about["restart"], about["node"]) == ("15", 2, "gpu4")
        assert about["environment"] == environ
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == [], "of the next start of the allocation it would say what is not so"


def test_a_batch_system_that_does_not_answer_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho asked >>{tmp_path}/asked\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    environ = {**os.environ, "SLURM_JOB_ID": "15", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    with subprocess.Popen([*ARGV, "hold", str(tmp_path), "0.1"], env=environ) as process:
        while not (tmp_path / "asked").exists() or len((tmp_path / "asked").read_text().split()) < 3:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_task_of_an_array_becomes_its_command(tmp_path: Path) -> None:
    path = tmp_path / "tasks"
    path.write_text(json.dumps([["/bin/echo", "a"], ["/bin/echo", "b c", "$(d)"]]))
    done = run("task", str(path), SLURM_ARRAY_TASK_ID="1")
    assert (done.returncode, done.stdout) == (0, "b c $(d)\n")
    done = run("task", str(path), SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 3
    assert "has no command for the task 2" in done.stderr


def test_words_that_are_wrong_are_refused(tmp_path: Path) -> None:
    assert run("hold").returncode == 2
    done = run("hold", str(tmp_path), "600")
    assert done.returncode == 3
    assert "only sbatch starts this" in done.stderr


def test_a_write_that_failed_leaves_nothing_and_the_next_succeeds(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            holder.write_wanted(str(tmp_path), "first")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    holder.write_wanted(str(tmp_path), "second")
    assert [path.name for path in tmp_path.iterdir()] == [holder.WANTED_FILE]
