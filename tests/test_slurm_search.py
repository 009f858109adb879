"""Whole searches with `--on slurm`, on a real Slurm of three nodes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from search_fixture import Ran, Searches, script, searches, until
from slurm_fixture import SlurmCluster

__all__ = ["searches"]

#: two jobs at once on each of up to three nodes
PROFILE = ("--slurm-set", "gpus=2", "--slurm-set", "time=10", "--slurm-set", "max_allocations=3")
#: waits for as long as its configuration says, and says where it ran
TRAIN = """
    import json, os, time
    about = {name: os.environ.get(name) for name in ("SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")}
    about["gpu"] = sys.argv[sys.argv.index("--gpu") + 1]
    print(json.dumps(about), file=sys.stderr)
    time.sleep(SECONDS)
    print(float(config_id[2:]) + 1 / epochs)
"""


def training(seconds: float) -> str:
    return script(TRAIN.replace("SECONDS", repr(seconds)))


class OnSlurm:
    """Searches of one folder, on a cluster or on this machine."""

    def __init__(self, searches: Searches, cluster: SlurmCluster) -> None:
        self.searches = searches
        self.cluster = cluster

    def start(self, *options: str, profile: tuple[str, ...] = PROFILE, **more: Any) -> Any:
        return self.searches.start("--on", "slurm", *profile, *options, gpus=None, **more)

    def run(self, *options: str, profile: tuple[str, ...] = PROFILE, **more: Any) -> Ran:
        return self.searches.wait(self.start(*options, profile=profile, **more))

    def queue(self) -> list[str]:
        """Jobs that Slurm has, with their states."""
        return self.cluster.run("squeue", "-h", "-o", "%i %T").splitlines()

    def n_jobs_begun(self) -> int:
        return len(list((self.searches.study / "jobs").glob("*/keeper.json")))

    def log(self) -> str:
        return (self.searches.study / "hyperband.log").read_text()


@pytest.fixture
def on_slurm(searches: Searches, slurm: SlurmCluster) -> Iterator[OnSlurm]:
    yield OnSlurm(searches, slurm)
    assert slurm.run("squeue", "-h", "-o", "%i %T") == "", "allocations were left behind"


def decided(ran: Ran) -> object:
    """What a search came to, wherever it ran and in whichever order its jobs ended."""
    document = ran.document
    trials = [(trial["trial"], trial["config_id"], trial["epochs"], trial["loss"]) for trial in document["trials"]]
    return sorted(trials), document["best"]


@pytest.mark.slow
def test_a_search_on_three_nodes_comes_to_what_it_comes_to_here(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(0.05))
    there = on_slurm.run("--max-epochs", "9", "--logs", "there")
    assert there.exit_code == 0, there.err
    assert on_slurm.queue() == []
    here = on_slurm.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
    assert decided(there) == decided(here)
    jobs = sorted((on_slurm.searches.folder / "there" / "study" / "jobs").glob("*/stderr"))
    said = [json.loads(path.read_text()) for path in jobs]
    assert {about["SLURMD_NODENAME"] for about in said} == {"n1", "n2", "n3"}
    assert {about["CUDA_VISIBLE_DEVICES"] for about in said} == {"0", "1"}
    assert {about["gpu"] for about in said} == {"0"}
    assert not (on_slurm.searches.folder / "there" / "study" / "slurm" / "name").exists()
