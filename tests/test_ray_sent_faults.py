"""What troubles slots that share no files with the search, on a real Ray: each test is of one fault."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_fixture import MACHINES, RayCluster
from search_fixture import until
from test_ray_sent import BESIDE, Sent

#: one cluster, and not one for each worker; two for all tests of Ray, which together would be the last to end
pytestmark = [pytest.mark.xdist_group("ray-sent"), pytest.mark.slow]

#: what our folder is called on a node
OURS = f"hyperband-{os.getuid()}"
FEW = ("--max-epochs", "1", "--algorithm", "random")


def test_a_slot_that_is_out_of_reach_for_a_moment_costs_nothing(ray_cluster: RayCluster) -> None:
    sent = Sent(ray_cluster)
    search = sent.start(*FEW, "--max-trials", "2", "--max-slots", "1")
    until(lambda: sent.n_jobs_begun() == 1, "a job to begin")
    (actor,) = ray_cluster.actors()
    # longer than Ray's keepalive: it takes the connection for broken, and the slot for alive
    os.kill(actor, signal.SIGSTOP)
    time.sleep(6.0)
    os.kill(actor, signal.SIGCONT)
    sent.go()
    ran = sent.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Loss", "Loss"]
    assert len({job["slot"] for job in ran.document["jobs"]}) == 1
    assert sent.is_all_given_back()


@contextlib.contextmanager
def taken(cluster: RayCluster) -> Iterator[None]:
    """Within, somebody else has the name of our folder on each node."""
    tops = [Path(f"/proc/{cluster.raylet(machine)}/root{cluster.folder}/tmp") for machine in MACHINES]
    for top in tops:
        if (top / OURS).exists():
            (top / OURS).rename(top / "kept")
        (top / OURS).write_text("somebody else's")
    try:
        yield
    finally:
        for top in tops:
            (top / OURS).unlink()
            if (top / "kept").exists():
                (top / "kept").rename(top / OURS)


def test_slots_that_cannot_begin_on_any_node_end_the_search_and_say_why(ray_cluster: RayCluster) -> None:
    sent = Sent(ray_cluster)
    sent.go()
    with taken(ray_cluster):
        ran = sent.run(*FEW, "--max-trials", "1")
    assert ran.exit_code == 1
    assert "FileExistsError" in ran.err, ran.err


def test_a_search_that_is_started_again_with_other_code_runs_that(ray_cluster: RayCluster) -> None:
    sent = Sent(ray_cluster)
    words = (*FEW, "--max-trials", "2", "--max-slots", "1")
    first = sent.start(*words)
    until(lambda: sent.n_jobs_begun() == 1, "a job to begin")
    sent.searches.kill(first)
    (sent.searches.folder / "beside.py").write_text(BESIDE.replace("1 / epochs", "100.0"))
    sent.go()
    ran = sent.run(*words)
    assert ran.exit_code == 0, ran.err
    old, new = (trial["loss"] for trial in ran.document["trials"])
    assert old < 100 < new


def test_epochs_that_a_job_trained_twice_are_counted_by_a_later_search(ray_cluster: RayCluster) -> None:
    sent = Sent(ray_cluster)
    waits = f"os.path.exists({sent.word()})"
    text = sent.searches.path.read_text()
    sent.searches.path.write_text(text.replace(waits, f"(epochs == 1 or {waits})"))
    plan = ("--max-epochs", "3", "--max-slots", "1")
    search = sent.without_checkpoints(*plan)
    jobs = sent.searches.study / "jobs"
    until(lambda: any('"to": 3' in path.read_text() for path in jobs.glob("*/stderr")), "a promoted job")
    sent.searches.kill(search)
    sent.go()
    ran = sent.searches.wait(sent.without_checkpoints(*plan))
    assert ran.exit_code == 0, ran.err
    promoted = [job for job in ran.document["jobs"] if job["rung"] > 0]
    assert sent.log().count("trained from the beginning") == len(promoted) > 0
