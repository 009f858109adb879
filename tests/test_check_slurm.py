"""`hyperband check --on slurm`: what a node finds of what a search takes for granted there."""

import json
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from search_fixture import Searches, script, searches, until
from slurm_fixture import SlurmCluster

__all__ = ["searches"]

ON_SLURM = ("check", "--json", "--on", "slurm", "--slurm-set", "gpus=2")


@pytest.fixture(autouse=True)
def _script(searches: Searches) -> None:
    searches.write(script("open('trained', 'w').close()\nprint(1)"))


def findings(ran_out: str) -> dict[str, tuple[str, str, str]]:
    found = json.loads(ran_out)["findings"]
    return {one["check"]: (one["status"], one["words"], one["fix"]) for one in found}


def queue(cluster: SlurmCluster) -> str:
    return cluster.run("squeue", "-h", "-o", "%j")


def test_a_cluster_that_has_all(searches: Searches, slurm: SlurmCluster) -> None:
    ran = searches.command(*ON_SLURM, str(searches.path))
    assert ran.exit_code == 0, ran
    found = findings(ran.out)
    assert {status for status, _, _ in found.values()} <= {"ok", "-"}
    assert "without accounting" in found["slurm"][1]
    assert found["node"][1].startswith("n1 ran a job, done ")
    assert "read on n1, and the other way round" in found["files"][1]
    assert f"the script's is Python {sys.version.split()[0]}" in found["interpreter"][1]
    assert found["node_gpus"][1] == "Slurm gives 2 GPUs on n1 (CUDA_VISIBLE_DEVICES 0,1)"
    assert "one_epoch" not in found
    assert "nothing was trained" in ran.err
    assert not (searches.folder / "trained").exists()
    assert not (searches.folder / "logs").exists()
    until(lambda: queue(slurm) == "", "its job's end")


@pytest.mark.usefixtures("slurm")
def test_a_node_that_does_not_see_the_studies_and_lacks_the_interpreter(searches: Searches) -> None:
    hidden = searches.folder / "here only"
    hidden.mkdir()
    (hidden / "python").symlink_to(sys.executable)
    hide = f'mount -t tmpfs none {shlex.quote(str(hidden))} && exec "$@"'
    setup = f'setup=exec unshare --mount sh -c {shlex.quote(hide)} sh "$@"'
    python = ("--python", str(hidden / "python"), "--logs", str(hidden / "logs"))
    ran = searches.command(*ON_SLURM, "--slurm-set", setup, *python, str(searches.path))
    assert ran.exit_code == 1, ran
    found = findings(ran.out)
    assert found["files"][0] == found["interpreter"][0] == "FAILS"
    assert "a file that was written here is not read on n1" in found["files"][1]
    assert "--logs" in found["files"][2]
    assert f"{hidden}/python (the script's) does not run on n1" in found["interpreter"][1]
    assert found["node_gpus"][0] == "ok"


@pytest.mark.usefixtures("slurm")
def test_what_slurm_refuses_is_told_in_its_words(searches: Searches) -> None:
    ran = searches.command(*ON_SLURM, "--slurm-set", "partition=nowhere", str(searches.path))
    assert ran.exit_code == 1
    found = findings(ran.out)
    assert found["node"][0] == "FAILS"
    assert "invalid partition specified: nowhere" in found["node"][1]
    assert found["files"][:2] == ("unknown", "no job runs")


def test_a_check_that_is_ended_while_its_job_waits_leaves_no_job(
    searches: Searches, slurm: SlurmCluster
) -> None:
    slurm.run("sbatch", "--nodes=3", "--gres=gpu:2", "--job-name=other", "--wrap", "sleep 100")
    until(lambda: "other" in queue(slurm), "all nodes to be taken")
    process = searches.start_words(*ON_SLURM, str(searches.path))
    until(lambda: "hb-check-" in queue(slurm), "its job to wait")
    process.send_signal(signal.SIGINT)
    ran = searches.wait(process)
    assert ran.exit_code == 130, ran
    assert "ended by SIGINT" in ran.err
    assert queue(slurm).split() == ["other"]


def test_nobody_answers(searches: Searches, tmp_path: Path) -> None:
    if shutil.which("squeue") is None:
        pytest.skip("no Slurm (Debian: apt install slurm-wlm)")
    searches.environment["SLURM_CONF"] = str(tmp_path / "slurm.conf")
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=x\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nAuthType=auth/munge\n"
        "MessageTimeout=1\nPlugStackConfig=/dev/null\nNodeName=n1\nPartitionName=p Nodes=n1\n"
    )
    ran = searches.command(*ON_SLURM, str(searches.path))
    assert ran.exit_code == 1, ran
    found = findings(ran.out)
    assert found["slurm"][0] == "FAILS"
    assert "squeue" in found["slurm"][2]
    assert found["node"][:2] == ("unknown", "Slurm does not answer")


def test_options_of_this_machines_slots_are_refused(searches: Searches) -> None:
    ran = searches.command("check", "--on", "slurm", "--slots", "2", str(searches.path))
    assert ran.exit_code == 2
    assert "--slots does not go with --on slurm" in ran.err
    ran = searches.command("check", "--on", "slurm", "--slurm-set", "gpu=2", str(searches.path))
    assert ran.exit_code == 2
    assert "did you mean gpus?" in ran.err
