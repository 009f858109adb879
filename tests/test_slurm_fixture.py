"""The Slurm of the tests leaves nothing behind, also where the test process is killed."""

import subprocess
import sys
from pathlib import Path

import pytest
from cluster_fixture import wait_for
from slurm_fixture import SlurmCluster, why_no_slurm

_RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from slurm_fixture import running_cluster
with running_cluster() as cluster:
    job = cluster.run("sbatch", "--parsable", "--wrap", "setsid sleep 600").strip()
    while "RUNNING" not in cluster.run("squeue", "-h", "-o", "%T"):
        time.sleep(0.05)
    print(cluster.conf, flush=True)
    time.sleep(600)
"""


def alive(conf: str) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and conf.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended meanwhile
    return found


def test_a_test_process_that_is_killed_leaves_no_cluster_behind() -> None:
    reason = why_no_slurm()
    if reason is not None:
        pytest.skip(reason)
    argv = [sys.executable, "-c", _RUN, str(Path(__file__).parent)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        conf = process.stdout.readline().strip()
        # what Slurm says that it runs begins a moment later
        wait_for(lambda: any("slurmstepd" in line for line in alive(conf)), words="a step")
        process.kill()
    wait_for(lambda: not alive(conf), words="their end")
    wait_for(lambda: not Path(conf).parent.exists(), words="the end of its folder")


def test_a_node_can_be_killed_and_started_again(slurm: SlurmCluster) -> None:
    slurm.run("sbatch", "--parsable", "--gres=gpu:2", "--nodelist=n2", "--wrap", "sleep 600")
    wait_for(lambda: "RUNNING" in slurm.run("squeue", "-h", "-o", "%T"))
    slurm.kill_node("n2")
    assert not [words for words in alive(str(slurm.conf)) if "slurmd -D -N n2" in words]
    # one that is about to start something is there twice for a moment
    assert len({words for words in alive(str(slurm.conf)) if "slurmd -D" in words}) == 2
