"""Whole searches with `--on slurm`, on a real Slurm of three nodes."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from search_fixture import Ran, Searches, script, searches, until
from slurm_fixture import SlurmCluster

from hyperband.journal import read_events

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

    def start(self, *options: str, profile: tuple[str, ...] = PROFILE) -> "subprocess.Popen[str]":
        return self.searches.start("--on", "slurm", *profile, *options, gpus=None)

    def run(self, *options: str, profile: tuple[str, ...] = PROFILE) -> Ran:
        return self.searches.wait(self.start(*options, profile=profile))

    def queue(self) -> list[str]:
        """Jobs that Slurm has, with their states."""
        return self.cluster.run("squeue", "-h", "-o", "%i %T").splitlines()

    def living(self) -> list[str]:
        """Jobs that Slurm has, but for those on their way out: their nodes are cleaned up a while longer."""
        return [line for line in self.queue() if not line.endswith("COMPLETING")]

    def allocations_log(self) -> str:
        return (self.searches.study / "slurm" / "allocations.log").read_text()

    def n_jobs_begun(self) -> int:
        return len(list((self.searches.study / "jobs").glob("*/keeper.json")))

    def log(self) -> str:
        path = self.searches.study / "hyperband.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def on_slurm(searches: Searches, slurm: SlurmCluster) -> Iterator[OnSlurm]:
    found = OnSlurm(searches, slurm)
    yield found
    until(lambda: found.living() == [], "no allocation left behind")
    slurm.forget_steps()
    until(lambda: found.queue() == [], "nodes that are free")


def lost(jobs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attempts that were lost once they had begun; a start in an allocation that just ends does not."""
    return [job for job in jobs if job["outcome"] == "Lost" and job["started_at"] is not None]


def allocations_of(jobs: Iterable[dict[str, Any]]) -> set[str]:
    """The allocations in which they were; one that ends may get a job before anybody knows that it does."""
    return {job["slot"].split("/")[1] for job in jobs}


def decided(ran: Ran) -> object:
    """What a search came to, wherever it ran and in whichever order its jobs ended."""
    document = ran.document
    keys = ("number", "config_id", "bracket", "rung", "state", "loss")
    return [tuple(trial[key] for key in keys) for trial in document["trials"]], document["best"]


@pytest.mark.slow
def test_a_search_on_three_nodes_comes_to_what_it_comes_to_here(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(0.05))
    there = on_slurm.run("--max-epochs", "9", "--logs", "there")
    assert there.exit_code == 0, there.err
    assert on_slurm.living() == []
    here = on_slurm.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
    assert decided(there) == decided(here)
    jobs = sorted((on_slurm.searches.folder / "there" / "study" / "jobs").glob("*/stderr"))
    said = [json.loads(path.read_text()) for path in jobs]
    assert {about["SLURMD_NODENAME"] for about in said} == {"n1", "n2", "n3"}
    assert {about["CUDA_VISIBLE_DEVICES"] for about in said} == {"0", "1"}
    assert {about["gpu"] for about in said} == {"0"}
    assert not (on_slurm.searches.folder / "there" / "study" / "slurm" / "name").exists()


@pytest.mark.slow
def test_a_search_that_is_killed_leaves_its_jobs_and_the_next_one_has_them(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(script(ALONE))
    first = on_slurm.start("--max-epochs", "3")
    until(lambda: on_slurm.n_jobs_begun() == 5, "all jobs that need no other's end to begin")
    on_slurm.searches.kill(first)
    allocations = on_slurm.queue()
    assert len(allocations) >= 2
    search = on_slurm.start("--max-epochs", "3")
    until(lambda: "Taken over" in on_slurm.log(), "its jobs to be taken over")
    (on_slurm.searches.folder / "go").touch()
    again = on_slurm.searches.wait(search)
    assert again.exit_code == 0, again.err
    assert {job["attempt"] for job in again.document["jobs"]} == {0}, "nothing was run twice"
    assert f"took over the allocation {allocations[0].split()[0]} of an earlier start" in on_slurm.log()
    here = on_slurm.searches.run("--max-epochs", "3", "--slots", "6", "--logs", "here")
    assert decided(again) == decided(here)


@pytest.mark.slow
def test_stop_ends_what_a_killed_search_left_and_a_search_here_refuses_before(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(600.0))
    first = on_slurm.start("--max-epochs", "3", "--max-slots", "2")
    until(lambda: on_slurm.n_jobs_begun() == 2, "jobs to begin")
    on_slurm.searches.kill(first)
    assert on_slurm.queue()
    refused = on_slurm.searches.run("--max-epochs", "3")
    assert refused.exit_code == 1
    assert "with another --on (slurm, and now it is local)" in refused.err
    begun = {path: json.loads(path.read_text()) for path in on_slurm.searches.study.glob("jobs/*/order.json")}
    for path, order in begun.items():  # as if another engine of other machines had them
        path.write_text(json.dumps({**order, "engine": "ray"}))
    n_events = len(read_events(on_slurm.searches.study))
    refused = on_slurm.run("--max-epochs", "3", "--max-slots", "2")
    assert refused.exit_code == 1
    assert "with another --on (ray, and now it is slurm)" in refused.err
    assert len(read_events(on_slurm.searches.study)) == n_events, "nothing has begun"
    stopped = on_slurm.searches.command("stop", str(on_slurm.searches.study))
    assert "ended 2 jobs and 1 allocation that" in stopped.out, stopped
    assert on_slurm.living() == []
    on_slurm.searches.write(training(0.05))
    assert on_slurm.searches.run("--max-epochs", "3").exit_code == 0


@pytest.mark.slow
def test_clean_ends_what_a_killed_search_left(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(600.0))
    first = on_slurm.start("--max-epochs", "3", "--max-slots", "2")
    until(lambda: on_slurm.n_jobs_begun() == 2, "jobs to begin")
    on_slurm.searches.kill(first)
    [before] = on_slurm.queue()
    on_slurm.searches.write(training(0.05))
    ran = on_slurm.run("--max-epochs", "3", "--clean", "--yes", "--max-slots", "2")
    assert ran.exit_code == 0, ran.err
    assert before.split()[0] not in {job["slot"].split("/")[1] for job in ran.document["jobs"]}


@pytest.mark.slow
def test_an_interrupt_ends_jobs_and_allocations(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(600.0))
    search = on_slurm.start("--max-epochs", "3")
    until(lambda: on_slurm.n_jobs_begun() >= 2, "jobs to begin")
    search.send_signal(signal.SIGINT)
    search.send_signal(signal.SIGTERM)
    ran = on_slurm.searches.wait(search)
    assert ran.exit_code == 130, ran.err
    # an allocation that Slurm is ending is not ours to wait for: a node may take a minute for it
    assert on_slurm.living() == []
    assert ran.document["state"] == "stopped"


#: no two copies of a trial at once; each waits for the word to go on
ALONE = """
    import fcntl, os, signal, time
    saved = "saved-" + os.environ["HYPERBAND_TRIAL"]
    signal.signal(signal.SIGUSR1, lambda *_: open(saved, "w").close())
    os.makedirs("alone", exist_ok=True)
    lock = open(f"alone/{config_id[2:]}", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open("twice", "w").close()
    with open("began", "a") as began:
        began.write(f"{config_id}\\n")
    while not os.path.exists("go"):
        time.sleep(0.05)
    print(float(config_id[2:]) + 1 / epochs)
"""


class Waiting(OnSlurm):
    """A search of which the first six jobs wait for the word to go on."""

    #: what it comes to on this machine: each of these is the same
    here: object = None
    #: jobs that the cluster began
    n_ran = 0

    def __init__(self, searches: Searches, cluster: SlurmCluster, profile: tuple[str, ...] = PROFILE) -> None:
        super().__init__(searches, cluster)
        searches.write(script(ALONE))
        self.search = self.start("--max-epochs", "9", profile=profile)
        until(lambda: self.n_begun() == 6, "six jobs")

    def n_begun(self) -> int:
        path = self.searches.folder / "began"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def n_steps(self) -> int:
        """Steps of all allocations, but for their scripts."""
        steps = self.cluster.run("squeue", "-h", "-s", "-o", "%i").split()
        return sum(step.rpartition(".")[2].isdigit() for step in steps)

    def n_lost(self) -> int:
        return self.log().count(": Lost after ")

    def until_lost(self, n_lost: int) -> None:
        until(lambda: self.n_lost() >= n_lost, f"{n_lost} lost jobs, found {self.log()}", 90.0)

    def finish(self) -> list[dict[str, Any]]:
        """Let it go on to its end; it must come to what it comes to here. Return its jobs."""
        (self.searches.folder / "go").touch()
        ran = self.searches.wait(self.search)
        assert ran.exit_code == 0, ran.err
        assert not (self.searches.folder / "twice").exists()
        self.n_ran = self.n_begun()
        if Waiting.here is None:
            here = self.searches.run("--max-epochs", "9", "--slots", "2", "--logs", "here")
            Waiting.here = decided(here)
        assert decided(ran) == Waiting.here
        found: list[dict[str, Any]] = ran.document["jobs"]
        return found


@pytest.fixture
def waiting(on_slurm: OnSlurm) -> Waiting:
    return Waiting(on_slurm.searches, on_slurm.cluster)


#: one job at once in each of six allocations, of which each node has two
EACH_ALONE = ("gpus=1", "time=10", "max_allocations=6", "signal=USR1@300")


@pytest.mark.slow
def test_nodes_that_die_or_hang_and_a_time_limit_cost_nothing_but_time(on_slurm: OnSlurm) -> None:
    profile = tuple(word for key in EACH_ALONE for word in ("--slurm-set", key))
    waiting = Waiting(on_slurm.searches, on_slurm.cluster, profile)
    there = [line.split() for line in waiting.cluster.run("squeue", "-h", "-o", "%N %i").splitlines()]
    first, second = sorted(job_id for node, job_id in there if node == "n1")
    # the controller looks every 30 s for what is over, or should be warned
    waiting.cluster.run("scontrol", "update", f"jobid={first}", "EndTime=now+1")
    waiting.cluster.run("scontrol", "update", f"jobid={second}", "EndTime=now+320")
    waiting.cluster.kill_node("n2")
    waiting.cluster.stop_node("n3")
    waiting.until_lost(5)
    found = waiting.searches.folder.glob("saved-*")
    saved = {int(path.name.partition("-")[2]) for path in found}
    jobs = waiting.finish()
    began = {job["slot"].rpartition("/")[0]: job["trial"] for job in reversed(jobs) if job["attempt"] == 0}
    assert began[f"n1/{second}"] in saved, "it has some time left, and can save what it has"
    elsewhere = {began[f"{node}/{job_id}"] for node, job_id in there if node != "n1"}
    assert len(elsewhere) == 4
    assert not elsewhere & saved, "they have all of theirs"
    assert sorted(job["slot"].split("/")[0] for job in lost(jobs)) == ["n1", "n2", "n2", "n3", "n3"]
    ends = [line for line in waiting.log().splitlines() if ": Lost after " in line]
    hung = [line for line in ends if "Node failure on n3" in line]
    assert hung
    assert all("the search had given it up" in line for line in hung), "fenced before they run elsewhere"
    assert len([line for line in ends if "without a sign of it" in line]) == 2, "of the dead nothing is heard"
    # whoever sees it first
    assert (
        f"allocation {first} given up: too little of its time is left" in waiting.log()
        or f"the allocation {first} ended: time limit" in waiting.log()
    )


@pytest.mark.slow
def test_jobs_that_are_preempted_are_tried_again(waiting: Waiting) -> None:
    waiting.cluster.run(
        "sbatch", "--partition=high", "--gres=gpu:2", "--nodes=2", "--ntasks-per-node=1", "--wrap", "sleep 1"
    )
    waiting.until_lost(4)
    jobs = waiting.finish()
    assert len(allocations_of(lost(jobs))) == 2
    assert "preempted" in waiting.log()


@pytest.mark.slow
def test_a_controller_that_is_away_costs_no_job(waiting: Waiting) -> None:
    until(lambda: waiting.n_steps() == 12, "a step that waits beside each that has a job")
    waiting.cluster.stop_controller()
    until(lambda: "Slurm does not answer" in waiting.log(), "that to be seen", 90.0)
    (waiting.searches.folder / "go").touch()
    # the steps that waited take one job each
    until(lambda: waiting.log().count(": Loss ") == 12, "the end of twelve jobs")
    assert waiting.n_begun() == 12
    assert waiting.search.poll() is None
    waiting.cluster.start_controller()
    jobs = waiting.finish()
    assert waiting.n_ran == [job["outcome"] for job in jobs].count("Loss"), "nothing ran twice"
    assert "Slurm answers again" in waiting.log()


@pytest.mark.slow
def test_an_allocation_that_is_cancelled_by_hand_is_told_and_its_jobs_are_tried_again(
    waiting: Waiting,
) -> None:
    first = waiting.queue()[0].split()[0]
    waiting.cluster.run("scancel", first)
    waiting.until_lost(2)
    jobs = waiting.finish()
    assert allocations_of(lost(jobs)) == {first}
    assert f"the allocation {first} was cancelled by somebody, and none is asked for" in waiting.log()


@pytest.mark.slow
def test_a_step_that_is_cancelled_by_hand_is_the_end_of_its_trial_and_one_that_is_killed_is_not(
    waiting: Waiting,
) -> None:
    one, other = [
        json.loads(path.read_bytes())
        for path in sorted((waiting.searches.study / "jobs").glob("*/carrier.json"))[:2]
    ]
    steps = waiting.cluster.run("squeue", "-h", "-s", "-o", "%i %j").splitlines()
    names = {name: step for step, name in map(str.split, steps)}
    waiting.cluster.run("scancel", names[Path(one["errors"]).name])
    until(lambda: ": Cancelled after" in waiting.log(), "the end of a job")
    os.kill(other["process"]["pid"], signal.SIGKILL)
    waiting.until_lost(1)
    (waiting.searches.folder / "go").touch()
    ran = waiting.searches.wait(waiting.search)
    assert ran.exit_code == 0, ran.err
    outcomes = {
        trial: [job["outcome"] for job in ran.document["jobs"] if job["trial"] == trial and job["started_at"]]
        for trial in (0, 1)
    }
    assert outcomes[0] == ["Cancelled"]
    assert outcomes[1][:2] == ["Lost", "Loss"]
    assert "its step was cancelled by somebody" in waiting.log()
    assert "given up after" not in waiting.log(), "no lease had to run out"


@pytest.mark.slow
def test_a_search_with_accounting(searches: Searches, slurm_accounting: SlurmCluster) -> None:
    waiting = Waiting(searches, slurm_accounting)
    waiting.cluster.run("scancel", waiting.queue()[0].split()[0])
    waiting.until_lost(2)
    waiting.finish()
    assert ", with accounting" in waiting.log()
    until(lambda: waiting.queue() == [], "nodes that are free")


@pytest.mark.slow
def test_what_slurm_refuses_ends_the_search_with_its_words(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(0.05))
    ran = on_slurm.run("--max-epochs", "3", profile=("--slurm-set", "partition=nowhere"))
    assert ran.exit_code == 1
    assert "Slurm refused the allocation" in ran.err
    assert "invalid partition specified" in ran.err


@pytest.mark.slow
def test_an_allocation_of_two_nodes_has_the_slots_of_both(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(0.3))
    profile = ("--slurm-set", "nodes=2", "--slurm-set", "cpus=4", "--slurm-set", "setup=export COLOUR=blue")
    ran = on_slurm.run("--max-epochs", "3", profile=(*profile, "--slurm-set", "max_allocations=1"))
    assert ran.exit_code == 0, ran.err
    assert {job["slot"].split("/")[0] for job in ran.document["jobs"]} == {"n1", "n2"}


@pytest.mark.slow
def test_a_setup_line_that_fails_ends_the_search_with_where_to_look(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(0.05))
    ran = on_slurm.run("--max-epochs", "3", profile=("--slurm-set", "setup=module load no-such"))
    assert ran.exit_code == 1
    assert "allocations in a row ended by themselves" in ran.err
    assert "a setup line of the Slurm profile failed: module load no-such" in ran.err
    assert "module load no-such" in on_slurm.allocations_log()


@pytest.mark.slow
def test_jobs_find_what_the_setup_lines_made(on_slurm: OnSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)  # what the user says has precedence
    on_slurm.searches.write(
        script("""
            import os
            found = [os.environ.get(name) for name in ("COLOUR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
            assert found == ["blue", "2", ""], found
            print(float(config_id[2:]))
        """)
    )
    profile = ("cpus=4", "slots_per_allocation=2", "setup=export COLOUR=blue")
    words = [word for key in profile for word in ("--slurm-set", key)]
    ran = on_slurm.run(
        "--max-epochs", "1", "--algorithm", "random", "--max-trials", "4", profile=tuple(words)
    )
    assert ran.exit_code == 0, ran.err
    assert {job["outcome"] for job in ran.document["jobs"]} == {"Loss"}, ran.document["jobs"]


@pytest.mark.slow
def test_jobs_that_kill_who_keeps_them_are_not_tried_for_ever(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(
        script("""
            import os, signal, time
            keeper = os.getppid()
            warden = int(open(f"/proc/{keeper}/stat").read().rpartition(")")[2].split()[1])
            killed = {"0": [keeper], "1": [warden], "2": [warden, keeper]}
            for pid in killed.get(os.environ["HYPERBAND_TRIAL"], []):
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.001)
            if os.environ["HYPERBAND_TRIAL"] in killed:
                time.sleep(60)
            print(float(config_id[2:]))
        """)
    )
    ran = on_slurm.run("--max-epochs", "1", "--algorithm", "random", "--max-trials", "4", "--max-slots", "3")
    for trial in range(3):
        outcomes = [job["outcome"] for job in ran.document["jobs"] if job["trial"] == trial]
        assert outcomes == ["Lost", "Lost", "Crashed"], on_slurm.log()


SRUN_OF_A_SITE = """\
#!/bin/sh
/usr/bin/srun "$@"
code=$?
[ -e ended ] && echo "slurmstepd-n1: error: StepId=1.4 exceeded memory limit (45 > 20), being killed" >&2
exit $code
"""


@pytest.mark.slow
def test_a_job_whose_whole_step_was_ended_for_its_memory_is_out_of_memory(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(
        script("""
            import os, signal, time
            if os.environ["HYPERBAND_TRIAL"] == "0":
                open("ended", "w").close()
                warden = int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1])
                os.kill(warden, signal.SIGKILL)
                time.sleep(60)
            elif os.path.exists("ended"):
                os.unlink("ended")
            print(float(config_id[2:]))
        """)
    )
    tools = on_slurm.searches.folder / "tools"
    tools.mkdir()
    (tools / "srun").write_text(SRUN_OF_A_SITE)
    (tools / "srun").chmod(0o755)
    on_slurm.searches.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    ran = on_slurm.run("--max-epochs", "1", "--algorithm", "random", "--max-trials", "2", "--max-slots", "1")
    outcomes = {job["outcome"] for job in ran.document["jobs"] if job["trial"] == 0}
    assert outcomes == {"OutOfMemory"}, on_slurm.log()


@pytest.mark.slow
def test_a_start_elsewhere_that_a_power_cut_ate_is_repeated_here(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(training(600.0))
    first = on_slurm.searches.start("--max-epochs", "3", "--slots", "2")
    until(lambda: on_slurm.n_jobs_begun() == 2, "jobs to begin")
    on_slurm.searches.kill(first)
    for path in (on_slurm.searches.study / "jobs").iterdir():
        os.kill(json.loads((path / "keeper.json").read_text())["pid"], signal.SIGKILL)
        shutil.rmtree(path)
    on_slurm.searches.write(training(0.05))
    ran = on_slurm.run("--max-epochs", "3", "--max-slots", "2")
    assert ran.exit_code == 0, ran.err


def put_first(on_slurm: OnSlurm, **commands: str) -> None:
    """Have searches find these scripts instead of Slurm's commands; `$FOLDER` is where they can be told."""
    tools = on_slurm.searches.folder / "tools"
    tools.mkdir()
    for name, words in commands.items():
        (tools / name).write_text(f'#!/bin/sh\n{words}\nexec /usr/bin/{name} "$@"\n')
        (tools / name).chmod(0o755)
    on_slurm.searches.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    on_slurm.searches.environment["FOLDER"] = str(on_slurm.searches.folder)


@pytest.mark.slow
def test_a_node_on_which_jobs_fail_is_avoided_in_every_allocation(on_slurm: OnSlurm) -> None:
    go_on = on_slurm.searches.folder / "go_on"
    # the good nodes show that the script is not at fault, and are then kept until another one was asked for
    on_slurm.searches.write(
        script(f"""
            import os, time
            from pathlib import Path
            assert os.environ["SLURMD_NODENAME"] != "n2", "a bad GPU"
            while epochs > 1 and not Path({str(go_on)!r}).exists():
                time.sleep(0.05)
            print(float(config_id[2:]) + 1 / epochs)
        """)
    )
    search = on_slurm.start("--max-epochs", "9")
    until(
        lambda: "n2" in on_slurm.cluster.run("squeue", "-h", "-t", "all", "-o", "%x").split(),
        "an allocation to be asked for without the node",
    )
    go_on.touch()
    ran = on_slurm.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    jobs = ran.document["jobs"]
    assert {job["slot"].split("/")[0] for job in jobs if job["outcome"] == "Crashed"} == {"n2"}
    assert not [trial for trial in ran.document["trials"] if trial["state"] == "failed"]
    log = on_slurm.log()
    assert "given up: jobs fail on n2" in log, log


@pytest.mark.slow
def test_an_interrupt_while_slurm_hangs_is_prompt_and_says_what_is_left(on_slurm: OnSlurm) -> None:
    hangs = '[ -e "$FOLDER/hang" ] && touch "$FOLDER/hung" && exec sleep 600'
    put_first(on_slurm, squeue=hangs, scancel=hangs)
    on_slurm.searches.write(training(600.0))
    search = on_slurm.start("--max-epochs", "3", "--max-slots", "2")
    until(lambda: on_slurm.n_jobs_begun() == 2, "jobs to begin")
    (on_slurm.searches.folder / "hang").touch()
    until((on_slurm.searches.folder / "hung").exists, "squeue to hang", 90.0)
    began_s = time.monotonic()
    search.send_signal(signal.SIGINT)
    search.send_signal(signal.SIGTERM)
    ran = on_slurm.searches.wait(search)
    # each command may take 30 s, and the end of what is held 60
    assert time.monotonic() - began_s < 45
    assert ran.exit_code == 130, ran.err
    name = (on_slurm.searches.study / "slurm" / "name").read_text().strip()
    assert f"`scancel --name={name}` or `hyperband stop" in on_slurm.log()
    (on_slurm.searches.folder / "hang").unlink()
    assert len(on_slurm.queue()) == 1
    stopped = on_slurm.searches.command("stop", str(on_slurm.searches.study))
    assert "1 allocation" in stopped.out, stopped


@pytest.mark.slow
def test_what_slurm_takes_after_a_stop_ends_by_itself(on_slurm: OnSlurm) -> None:
    waits = 'touch "$FOLDER/asked"; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done'
    put_first(on_slurm, sbatch=waits)
    on_slurm.searches.write(training(600.0))
    search = on_slurm.start("--max-epochs", "3", "--max-slots", "2")
    until((on_slurm.searches.folder / "asked").exists, "a request")
    on_slurm.searches.kill(search)
    assert on_slurm.searches.command("stop", str(on_slurm.searches.study)).exit_code == 0
    assert on_slurm.queue() == []
    (on_slurm.searches.folder / "go").touch()
    log = on_slurm.searches.study / "slurm" / "allocations.log"
    until(lambda: log.exists() and "is over: it ends" in log.read_text(), "the late allocation")


#: says that of the first allocation's time 62 s are left, of which a minute is kept free, once it is told to
SHORT_SQUEUE = """\
echo >> "$FOLDER/looks"
if [ -e "$FOLDER/short" ] && /usr/bin/squeue "$@" > "$FOLDER/listed"; then
    first=$(cut -d'|' -f1 "$FOLDER/listed" | sort -n | head -n 1)
    sed "/^$first|/s/|[0-9:]*|\\([^|]*\\)$/|1:02|\\1/" "$FOLDER/listed"
    exit 0
fi"""


@pytest.mark.slow
def test_a_job_starts_only_where_the_seconds_per_epoch_say_that_it_will_end(on_slurm: OnSlurm) -> None:
    put_first(on_slurm, squeue=SHORT_SQUEUE)
    on_slurm.searches.write(
        script("""
            import os, time
            while not os.path.exists("go"):
                time.sleep(0.05)
            print(float(config_id[2:]) + 1 / epochs)
        """)
    )
    profile = (*PROFILE[:4], "--slurm-set", "max_allocations=1")
    search = on_slurm.start("--max-epochs", "3", profile=profile)
    until(lambda: on_slurm.n_jobs_begun() == 2, "two jobs")
    first = on_slurm.queue()[0].split()[0]
    # Slurm counts in minutes: what 2 s are is said in its place, when an epoch is seen to take 3 s
    (on_slurm.searches.folder / "short").touch()
    until_s = time.monotonic() + 3
    looks = on_slurm.searches.folder / "looks"
    n_looks = len(looks.read_text())
    until(lambda: len(looks.read_text()) > n_looks + 1, "the search to see that")
    until(lambda: time.monotonic() >= until_s, "an epoch")
    (on_slurm.searches.folder / "go").touch()
    ran = on_slurm.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    jobs = ran.document["jobs"]
    assert {job["outcome"] for job in jobs} == {"Loss"}, "none was cut off"
    assert [job["slot"].split("/")[1] == first for job in jobs] == [True, True, *[False] * (len(jobs) - 2)]
    assert f"allocation {first} given up: too little of its time is left" in on_slurm.log()


@pytest.mark.slow
def test_a_minimum_of_allocations_is_kept_while_nothing_waits(on_slurm: OnSlurm) -> None:
    on_slurm.searches.write(
        script("""
            import os, time
            while not os.path.exists("go" if os.environ["HYPERBAND_TRIAL"] == "0" else "others go"):
                time.sleep(0.05)
            print(float(config_id[2:]))
        """)
    )
    kept = ("--slurm-set", "min_allocations=2", "--slurm-set", "idle_s=0.2")
    random = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "6")
    search = on_slurm.start(*random, profile=(*PROFILE, *kept))
    until(lambda: on_slurm.n_jobs_begun() == 6, "jobs in three allocations")
    (on_slurm.searches.folder / "others go").touch()
    until(lambda: "given up: it is not needed" in on_slurm.log(), "the third to be given up")
    until(lambda: len(on_slurm.queue()) == 2, "its end")
    assert on_slurm.log().count("given up") == 1
    assert [line.split()[1] for line in on_slurm.queue()] == ["RUNNING"] * 2
    (on_slurm.searches.folder / "go").touch()
    assert on_slurm.searches.wait(search).exit_code == 0
