"""Jobs that take more memory than Slurm lets them: a real Slurm ends them, in both ways that there are."""

from collections.abc import Iterator

import pytest
from search_fixture import Searches, script, searches
from slurm_cluster import SlurmCluster, running_cluster, why_no_cgroups, why_no_slurm
from test_slurm_search import OnSlurm

__all__ = ["searches"]

#: of two trials the first one takes too much
GREEDY = script("""
    import os, time
    if os.environ["HYPERBAND_TRIAL"] == "0":
        taken = b"x" * (400 << 20)
        time.sleep(600)
    print(float(config_id[2:]))
""")
PROFILE = ("--slurm-set", "mem=200M", "--slurm-set", "time=10", "--slurm-set", "max_allocations=1")


@pytest.fixture(scope="module")
def limiting(request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    """A Slurm that ends what takes too much memory."""
    reason = why_no_cgroups() if request.param == "cgroups" else why_no_slurm()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster(ends_for_memory_by=request.param) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limiting", "mode"),
    # the other one of four waits 20 s for a lease: its parts are in test_trial_job_endings.py
    [("cgroups", "held"), ("cgroups", "jobs"), ("looking", "held")],
    indirect=["limiting"],
)
def test_a_job_that_takes_too_much_memory_is_out_of_memory(
    searches: Searches, limiting: SlurmCluster, mode: str
) -> None:
    searches.environment.update(limiting.environment)
    searches.write(GREEDY)
    on_slurm = OnSlurm(searches, limiting)
    plan = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "2", "--retries", "0")
    ran = on_slurm.run("--slurm-mode", mode, *plan, profile=PROFILE)
    jobs = {job["trial"]: job for job in ran.document["jobs"]}
    assert [jobs[trial]["outcome"] for trial in (0, 1)] == ["OutOfMemory", "Loss"], on_slurm.log()
    assert len(ran.document["jobs"]) == 2, "it was not tried again"
    assert on_slurm.living() == []
