"""Whole searches with `--on slurm --slurm-mode jobs`, on a real Slurm of three nodes with two GPUs each."""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_fixture import Ran, Searches, script, searches, until
from slurm_fixture import SlurmCluster
from test_slurm_search import ALONE, OnSlurm, decided, lost, training

__all__ = ["searches"]

#: ten jobs, of which none waits for another
PLAN = ("--algorithm", "random", "--max-trials", "10", "--max-epochs", "1")
#: six run at once, and two more may wait
PROFILE = ("--slurm-set", "gpus=1", "--slurm-set", "time=10", "--slurm-set", "max_allocations=8")


class InJobs(OnSlurm):
    """Searches whose jobs are Slurm jobs of their own."""

    def start(self, *options: str, profile: tuple[str, ...] = PROFILE) -> "subprocess.Popen[str]":
        return super().start("--slurm-mode", "jobs", *options, profile=profile)

    def run(self, *options: str, profile: tuple[str, ...] = PROFILE) -> Ran:
        return super().run(*options, profile=profile)

    def queue(self) -> list[str]:
        return self.cluster.run("squeue", "-h", "-r", "-o", "%i %T").splitlines()

    def states(self) -> list[str]:
        return sorted(line.split()[1] for line in self.living())

    def in_queue(self, state: str) -> list[str]:
        return [line.split()[0] for line in self.queue() if line.endswith(state)]

    def n_begun(self) -> int:
        path = self.searches.folder / "began"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def n_fenced(self) -> int:
        """How many jobs, of those that ended by themselves or by their node, had been given up."""
        results = self.searches.study.glob("jobs/*/result.json")
        said = [json.loads(path.read_bytes())["fenced"] for path in results]
        assert set(said) <= {"the search had given it up"}, said
        return len(said)

    def report(self, *options: str) -> str:
        return self.searches.command("report", str(self.searches.study), *options).out

    def go(self) -> None:
        (self.searches.folder / "go").touch()

    def wrap(self, command: str, text: str) -> None:
        """Put a script of this text before one of Slurm's commands."""
        tools = self.searches.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / command).write_text(text)
        (tools / command).chmod(0o755)
        self.searches.environment["PATH"] = f"{tools}:{os.environ['PATH']}"

    def full(self) -> "subprocess.Popen[str]":
        """A search with six jobs that run, until the word to go on, and two in the queue."""
        self.searches.write(script(ALONE))
        search = self.start(*PLAN)
        until(lambda: self.n_begun() == 6 and len(self.in_queue("PENDING")) == 2, "six jobs and two more")
        return search

    def job_of(self, attempt: Path) -> str:
        found: str = json.loads((attempt / "carrier.json").read_bytes())["label"]
        return found

    def attempts(self) -> list[Path]:
        return sorted((self.searches.study / "jobs").iterdir())


@pytest.fixture
def in_jobs(searches: Searches, slurm: SlurmCluster) -> Iterator[InJobs]:
    found = InJobs(searches, slurm)
    yield found
    until(lambda: found.living() == [], "no job left behind")
    until(lambda: found.queue() == [], "nodes that are free")


def outcomes(ran: Ran) -> list[str]:
    return [job["outcome"] for job in ran.document["jobs"]]


@pytest.mark.slow
def test_a_search_of_slurm_jobs_comes_to_what_it_comes_to_here(in_jobs: InJobs) -> None:
    in_jobs.searches.write(training(0.05))
    there = in_jobs.run("--max-epochs", "3", "--logs", "there")
    assert there.exit_code == 0, there.err
    assert in_jobs.living() == []
    study = in_jobs.searches.folder / "there" / "study"
    assert not (study / "slurm" / "name").exists()
    here = in_jobs.searches.run("--max-epochs", "3", "--slots", "2", "--logs", "here")
    assert decided(there) == decided(here)
    said = [json.loads(path.read_text()) for path in sorted((study / "jobs").glob("*/stderr"))]
    assert {about["CUDA_VISIBLE_DEVICES"] for about in said} == {"0", "1"}
    assert {about["gpu"] for about in said} == {"0"}
    labels = [in_jobs.job_of(path) for path in sorted((study / "jobs").iterdir())]
    # which ids are there at the first turn is for the sampler
    together = Counter(label.split("_")[0] for label in labels)
    assert max(together.values()) > 1, "what is ready is an array"
    assert any("_" not in label for label in labels), "and one alone is a job"
    assert in_jobs.searches.command("report", str(study)).out.count("--epochs 3 --gpu 0") == 1


@pytest.mark.slow
def test_a_search_that_is_killed_leaves_jobs_and_queue_and_the_next_one_has_both(in_jobs: InJobs) -> None:
    in_jobs.searches.kill(in_jobs.full())
    before = in_jobs.states()
    assert before == ["PENDING"] * 2 + ["RUNNING"] * 6
    refused = in_jobs.searches.start("--on", "slurm", *PLAN, gpus=None)
    assert (
        "start the same command with --on slurm --slurm-mode jobs again" in in_jobs.searches.wait(refused).err
    )
    in_jobs.cluster.stop_controller()
    search = in_jobs.start(*PLAN)
    until(lambda: "Slurm does not answer" in in_jobs.log(), "that to be seen", 90.0)
    in_jobs.go()
    until(lambda: in_jobs.log().count(": Loss ") == 6, "the results of those that run")
    in_jobs.cluster.start_controller()
    ran = in_jobs.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert in_jobs.n_begun() == 10, "nothing was run twice"
    assert "Slurm answers again" in in_jobs.log()
    here = in_jobs.searches.run(*PLAN, "--slots", "2", "--logs", "here")
    assert decided(ran) == decided(here)


#: Slurm has the job, and whoever asked for it never hears of that
SLOW_SBATCH = """\
#!/bin/sh
echo "$@" >>"$0.asked"
/usr/bin/sbatch "$@" >"$0.said"
[ -e "$0.quick" ] && exec cat "$0.said"
echo $$ >"$0.new" && mv "$0.new" "$0.pid"
exec sleep 600
"""


@pytest.mark.slow
def test_a_search_killed_before_sbatch_answered_finds_its_jobs(in_jobs: InJobs) -> None:
    in_jobs.searches.write(script(ALONE))
    in_jobs.go()
    in_jobs.wrap("sbatch", SLOW_SBATCH)
    sbatch = in_jobs.searches.folder / "tools" / "sbatch"
    first = in_jobs.start("--max-epochs", "3")
    until(Path(f"{sbatch}.pid").exists, "Slurm to have the jobs")
    in_jobs.searches.kill(first)
    os.kill(int(Path(f"{sbatch}.pid").read_text()), signal.SIGKILL)
    found = re.search(r"--array=0-(\d+)", Path(f"{sbatch}.asked").read_text())
    n_asked = 1 if found is None else 1 + int(found[1])
    until(lambda: in_jobs.n_begun() == n_asked, "jobs that run without a search")
    Path(f"{sbatch}.quick").touch()
    ran = in_jobs.run("--max-epochs", "3")
    assert ran.exit_code == 0, ran.err
    assert {job["attempt"] for job in ran.document["jobs"]} == {0}
    assert in_jobs.n_begun() == len(ran.document["jobs"])


@pytest.mark.slow
def test_nodes_die_or_hang_and_jobs_are_preempted_and_all_are_tried_again(in_jobs: InJobs) -> None:
    search = in_jobs.full()
    in_jobs.cluster.kill_node("n2")
    in_jobs.cluster.stop_node("n3")  # which Slurm gives up, and whose jobs go on
    until(lambda: in_jobs.log().count("is over: node failure of n3") == 2, "the failure of n3 to be told")
    until(lambda: in_jobs.n_fenced() == 2, "its jobs to be ended")
    until(lambda: in_jobs.log().count(": Lost after ") >= 2, "them to be lost")
    assert "a job was lost with the node n3: while others run jobs" in in_jobs.log()
    until(lambda: "ExcNodeList=n3" in in_jobs.cluster.run("scontrol", "show", "job"), "jobs that avoid it")
    in_jobs.cluster.run("sbatch", "--partition=high", "--gres=gpu:2", "--nodelist=n1", "--wrap", "sleep 1")
    until(lambda: in_jobs.log().count(": Lost after ") >= 6, f"six lost jobs, found {in_jobs.log()}", 90.0)
    in_jobs.cluster.start_node("n2")
    in_jobs.cluster.continue_node("n3")
    in_jobs.go()
    ran = in_jobs.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert len(lost(ran.document["jobs"])) == 6, in_jobs.log()
    assert "is over: preempted" in in_jobs.log()
    assert "is over: node failure" in in_jobs.log()
    assert "2 jobs wait in Slurm's queue (Resources" in in_jobs.log()
    assert not (in_jobs.searches.folder / "twice").exists()
    here = in_jobs.searches.run(*PLAN, "--slots", "2", "--logs", "here")
    assert decided(ran) == decided(here)


@pytest.mark.slow
@pytest.mark.parametrize("accounting", [False, True])
def test_what_somebody_cancels_is_over_and_says_so(
    searches: Searches,
    slurm_session: SlurmCluster,  # noqa: ARG001 (it is to outlive the test)
    request: pytest.FixtureRequest,
    accounting: bool,
) -> None:
    cluster = request.getfixturevalue("slurm_accounting" if accounting else "slurm")
    in_jobs = InJobs(searches, cluster)
    search = in_jobs.full()
    # of a task that waits and is cancelled Slurm keeps nothing: with accounting, that takes longer to tell
    those = [in_jobs.in_queue("RUNNING")[0], *([] if accounting else in_jobs.in_queue("PENDING")[:1])]
    trials = {in_jobs.job_of(path): int(path.name.split("-")[0]) for path in in_jobs.attempts()}
    in_jobs.cluster.run("scancel", *those)
    until(lambda: ": Cancelled after " in in_jobs.log(), "the end of what ran")
    if not accounting:
        until(lambda: ": Cancelled before it began" in in_jobs.log(), "the end of what waited")
    assert f"somebody cancelled its Slurm job {those[0]}" in in_jobs.log()
    in_jobs.go()
    ran = in_jobs.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    cancelled = {job["trial"] for job in ran.document["jobs"] if job["outcome"] == "Cancelled"}
    assert cancelled == {trials[job_id] for job_id in those}
    began = [job["started_at"] for job in ran.document["jobs"] if job["outcome"] == "Cancelled"]
    assert sorted(at is None for at in began) == ([False] if accounting else [False, True])
    assert outcomes(ran).count("Lost") == 0
    until(lambda: in_jobs.queue() == [], "nodes that are free")


@pytest.mark.slow
def test_stop_ends_what_runs_and_what_waits(in_jobs: InJobs) -> None:
    in_jobs.searches.kill(in_jobs.full())
    stopped = in_jobs.searches.command("stop", str(in_jobs.searches.study))
    assert "ended 6 jobs" in stopped.out, stopped
    assert in_jobs.living() == []
    assert in_jobs.n_begun() == 6


@pytest.mark.slow
def test_an_interrupt_takes_back_the_queue_and_lets_running_jobs_finish(in_jobs: InJobs) -> None:
    search = in_jobs.full()
    until(lambda: "6 running, 2 queued" in in_jobs.report(), "a report that tells them apart")
    jobs = json.loads(in_jobs.report("--json"))["jobs"]
    assert sorted(job["state"] for job in jobs) == ["queued"] * 2 + ["running"] * 6
    assert all((job["started_at"] is None) == (job["state"] == "queued") for job in jobs)
    search.send_signal(signal.SIGINT)
    until(lambda: in_jobs.in_queue("PENDING") == [], "an empty queue")
    assert in_jobs.states() == ["RUNNING"] * 6
    in_jobs.go()
    ran = in_jobs.searches.wait(search)
    assert ran.exit_code == 130, ran.err
    assert in_jobs.living() == []
    assert sorted(set(outcomes(ran))) == ["Loss", "Stopped"]
    assert in_jobs.n_begun() == 6
    assert "Interrupted: 6 running jobs to finish first, and 2 queued taken back" in ran.err
    stopped = [job for job in ran.document["jobs"] if job["outcome"] == "Stopped"]
    assert {job["started_at"] for job in stopped} == {None}, "the queue's time is nobody's"
    assert in_jobs.log().count(": Stopped before it began") == 2


#: a site that lets nobody have more than one job in an order
LIMITED_SBATCH = """\
#!/bin/sh
case "$*" in *--array=*) echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1;; esac
exec /usr/bin/sbatch "$@"
"""


@pytest.mark.slow
def test_a_limit_is_met_and_a_refusal_ends_the_search_with_slurms_words(in_jobs: InJobs) -> None:
    in_jobs.searches.write(training(0.05))
    ran = in_jobs.run("--max-epochs", "3", profile=("--slurm-set", "partition=nowhere"))
    assert ran.exit_code == 1
    assert "Slurm refused a job" in ran.err
    assert "invalid partition specified" in ran.err
    in_jobs.wrap("sbatch", LIMITED_SBATCH)
    ran = in_jobs.run("--max-epochs", "3", profile=("--slurm-set", "max_allocations=2"))
    assert ran.exit_code == 0, ran.err
    assert {job["attempt"] for job in ran.document["jobs"] if job["outcome"] == "Loss"} <= {0, 1}
