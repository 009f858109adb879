"""Searches that run on their own: as a process without a terminal, and as a job of Slurm's."""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from search_fixture import Ran, Searches, script, searches, until
from slurm_fixture import NODES, SlurmCluster

from hyperband.journal import read_events, writer_of
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.search import SearchJob, end_search
from hyperband.launch.slurm.search_time import signal_s
from hyperband.launch.slurm.text import search_argv
from hyperband.search.events import JobEnded, JobStarted, SearchEnded, SearchStarted
from hyperband.search.trial import Outcome

__all__ = ["searches"]

#: no two copies of a trial at once; each waits for the word to go on
ALONE = """
    import fcntl, os, time
    os.makedirs("alone", exist_ok=True)
    lock = open(f"alone/{config_id[2:]}", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open("twice", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.05)
    print(float(config_id[2:]) + 1 / epochs)
"""
PROFILE = ("gpus=2", "max_allocations=2", "time=10", "search_mem=512M", "search_time=20")


def detach(searches: Searches, *options: str) -> Ran:
    return searches.run("--detach", *options, as_json=False)


def end_state(searches: Searches) -> str:
    """How the latest search ended; empty if it has not."""
    if not (searches.study / "journal.db").exists():
        return ""
    last = read_events(searches.study)[-1:]
    return last[0].state if last and isinstance(last[0], SearchEnded) else ""


def test_a_search_on_its_own_outlives_its_terminal_and_is_stopped(searches: Searches) -> None:
    searches.write(script(ALONE))
    words = ("--max-epochs", "3", "--slots", "2")
    began = detach(searches, *words)
    assert began.exit_code == 0, began.err
    pid = int(re.findall(r"on its own: pid (\d+)", began.out)[0])
    assert os.getsid(pid) == pid
    assert f"stop    hyperband stop '{searches.study}'" in began.out.replace("'\"'\"'", "'")
    os.kill(pid, signal.SIGHUP)
    for again in (searches.run(*words), detach(searches, *words)):
        assert again.exit_code == 1
        assert f"is being written by pid {pid}" in again.err
    stopped = searches.command("stop", str(searches.study))
    assert f"Stopped the search (pid {pid}" in stopped.out, stopped
    assert end_state(searches) == "stopped"
    assert "stopped: terminated" in (searches.study / "search.log").read_text()


def test_what_is_wrong_is_told_before_a_search_is_on_its_own(searches: Searches) -> None:
    searches.write("x = 1\n")
    ran = detach(searches, "--slots", "2")
    assert (ran.exit_code, "has no function" in ran.err) == (2, True)
    assert not (searches.folder / "logs").exists()
    searches.write(script())
    assert searches.run("--detach", "--slots", "2").exit_code == 2, "--json is of the end"
    assert searches.run("--max-epochs", "3", "--slots", "2").exit_code == 0
    ran = detach(searches, "--max-epochs", "9", "--slots", "2")
    assert (ran.exit_code, "--max-epochs was 3 and is now 9" in ran.err) == (2, True)
    ran = detach(searches, "--max-epochs", "3", "--slots", "2")
    assert (ran.exit_code, "the plan was complete before" in ran.out) == (0, True), ran


def test_what_goes_wrong_at_its_start_is_told_with_its_exit_code(searches: Searches) -> None:
    searches.write(script(top="import os; assert 'HYPERBAND_DETACHED' not in os.environ"))
    (searches.folder / "tools").mkdir()
    # the search of its own finds another script than the command did that checked it
    later = searches.folder / "later.py"
    later.write_text("raise SystemExit('late trouble')\n")
    searches.path.write_text(
        f"import os, shutil\nif os.path.exists('seen'):\n    raise SystemExit('late trouble')\n"
        f"open('seen', 'w').close()\n{script()}"
    )
    ran = detach(searches, "--max-epochs", "3", "--slots", "2")
    assert ran.exit_code == 2
    assert "late trouble" in ran.out


@pytest.fixture
def as_job(searches: Searches) -> Path:
    """Searches run as if they were jobs of Slurm's; the file that has what `scontrol` was told.

    Nobody answers it the first time.
    """
    asked, tried = searches.folder / "asked", searches.folder / "tried"
    (searches.folder / "bin").mkdir()
    scontrol = searches.folder / "bin" / "scontrol"
    silence = "slurm_requeue error: Unable to contact slurm controller (connect failure)"
    scontrol.write_text(
        f'#!/bin/sh\necho "$@" >>{shlex.quote(str(asked))}\n[ -e {shlex.quote(str(tried))} ] && exit\n'
        f"touch {shlex.quote(str(tried))}\necho '{silence}' >&2\nexit 1\n"
    )
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    searches.environment.update(PATH=path, HYPERBAND_DETACHED="slurm", SLURM_JOB_ID="77")
    return asked


STUBBORN = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(f"begun {config_id[2:]}", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


def until_logged(words: str, searches: Searches) -> None:
    log = searches.study / "hyperband.log"
    until(lambda: log.exists() and words in log.read_text(), f"{words!r} in the log")


def until_two_run(searches: Searches) -> None:
    until(lambda: len(list(searches.folder.glob("begun *"))) == 2, "jobs")


def test_a_search_that_is_to_be_started_again_is_not_if_it_is_ended_meanwhile(
    searches: Searches, as_job: Path
) -> None:
    searches.write(script(STUBBORN))
    search = searches.start("--max-epochs", "3", "--slots", "2", "--grace", "600")
    until_two_run(searches)
    search.send_signal(signal.SIGUSR2)
    until_logged("stop   job", searches)
    search.send_signal(signal.SIGTERM)
    (searches.folder / "go").touch()
    assert searches.wait(search).exit_code == 130
    assert not as_job.exists(), as_job.read_text()
    ended = read_events(searches.study)[-1]
    assert isinstance(ended, SearchEnded)
    assert ended.reason == "terminated"


def test_the_time_of_a_search_goes_on_where_it_is_started_again(searches: Searches, as_job: Path) -> None:
    searches.write(script(STUBBORN))
    words = ("--max-epochs", "3", "--slots", "2", "--grace", "3", "--max-time")
    search = searches.start(*words, "1000")
    until_two_run(searches)
    search.send_signal(signal.SIGUSR2)
    assert searches.wait(search).exit_code == 0
    assert as_job.read_text() == "requeue 77\n" * 2
    again = searches.run(*words, "3")
    assert again.exit_code == 130, again.err
    assert "--max-time 3 was over" in again.err
    began = [event for event in read_events(searches.study) if isinstance(event, JobStarted)]
    assert len(began) == 2, "nothing more"


def test_a_search_that_comes_to_its_end_is_over_before_its_time_limit(
    searches: Searches, as_job: Path
) -> None:
    searches.write(script(STUBBORN))
    search = searches.start("--max-epochs", "3", "--slots", "2", "--grace", "600", "--max-time", "3")
    until_logged("--max-time is over", searches)
    search.send_signal(signal.SIGUSR2)
    (searches.folder / "go").touch()
    assert searches.wait(search).exit_code == 130
    assert not as_job.exists(), as_job.read_text()
    assert end_state(searches) == "stopped"


def test_what_is_asked_of_slurm_for_a_search() -> None:
    profile = Profile(partition="gpu", account="us", qos="high", gpus="2", time="4:00:00", search_time="7-0")
    argv = search_argv(
        profile,
        name="hb-search-x",
        comment="hyperband /far/x",
        log=Path("/far/50%/search.log"),
        cwd=Path("/home/me"),
        script=Path("/far/x/slurm/search.sh"),
        command=("python", "hyperband.py", "--", "train.py"),
    )
    assert argv == (
        "sbatch", "--parsable", "--job-name=hb-search-x", "--comment=hyperband /far/x", "--nodes=1",
        "--ntasks=1", "--cpus-per-task=1", "--partition=gpu", "--account=us", "--qos=high", "--time=7-0",
        "--requeue",
        "--open-mode=append", "--input=/dev/null", "--output=/far/50%%/search.log", "--chdir=/home/me",
        "--export=ALL", "--signal=B:USR2@90", "/far/x/slurm/search.sh", "python", "hyperband.py", "--",
        "train.py",
    )  # fmt: skip
    other = Profile(partition="gpu", qos="high", search_partition="cpu", search_mem="4G")
    argv = search_argv(
        other, name="n", comment="c", log=Path("/l"), cwd=Path("/"), script=Path("/s"), command=()
    )
    assert {"--partition=cpu", "--mem=4G"} < set(argv)
    assert not [word for word in argv if word.startswith("--qos")]
    # its jobs have their --grace, and the journal is brought back, before the time limit
    assert [signal_s(grace_s) for grace_s in (0, 10, 120.5)] == [90, 90, 181]
    argv = search_argv(
        other,
        name="n",
        comment="c",
        log=Path("/l"),
        cwd=Path("/"),
        script=Path("/s"),
        command=(),
        signal_s=181,
    )
    assert "--signal=B:USR2@181" in argv


@pytest.mark.slow
def test_where_slurm_cannot_be_asked_of_a_search_it_is_said_what_is_known_and_what_to_do(
    searches: Searches,
) -> None:
    searches.write(script())
    words = ("--max-epochs", "3", "--slots", "2", "--max-time", "0.001")
    assert searches.run(*words).exit_code == 130
    about = searches.study / "slurm" / "search.json"
    about.parent.mkdir()
    about.write_text('{"job_id": "15", "name": "hb-search-x", "submitted_at": 1.0}')
    searches.environment["PATH"] = str(searches.folder)
    tried = (searches.run(*words), detach(searches, *words), searches.command("stop", str(searches.study)))
    for ran in tried:
        assert ran.exit_code == 1, ran
        assert "Slurm's job 15, on 1970-01-01" in ran.err
        assert "no squeue on this machine" in ran.err
        assert "Its journal says that it ended (stopped: --max-time 0.001 was over) at 2" in ran.err
        assert f"remove {about}" in ran.err
    # a Slurm that hangs is not waited for without a word
    squeue = searches.folder / "squeue"
    squeue.write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    squeue.chmod(0o755)
    stop = searches.start_words("stop", str(searches.study))
    assert stop.stderr is not None
    assert stop.stderr.readline() == "hyperband: Slurm is asked about its job 15; for at most 20 s.\n"
    stop.send_signal(signal.SIGINT)
    assert searches.wait(stop).exit_code == 130
    about.unlink()
    assert "Nothing of the study" in searches.command("stop", str(searches.study)).out


class OnSlurm:
    """A search that is a job of Slurm's, and waits for the word to train."""

    def __init__(self, searches: Searches, cluster: SlurmCluster, *keys: str, mode: str = "held") -> None:
        self.searches = searches
        self.cluster = cluster
        searches.write(script(ALONE))
        profile = [word for key in (*PROFILE, *keys) for word in ("--slurm-set", key)]
        self.words = ("--on", "slurm", "--slurm-mode", mode, *profile, "--max-epochs", "3")
        began = searches.run("--detach", *self.words, gpus=None, as_json=False)
        assert began.exit_code == 0, began.err
        self.job = re.findall(r"on its own: Slurm's job (\d+)", began.out)[0]

    def until_jobs_run(self, n: int = 2) -> None:
        until(lambda: len(list(self.searches.study.glob("jobs/*/keeper.json"))) >= n, "jobs", 90)

    def state(self) -> str:
        return self.cluster.run("squeue", "-h", "-j", self.job, "-o", "%T", check=False).strip()

    def queue(self) -> list[str]:
        lines = self.cluster.run("squeue", "-h", "-o", "%i %T").splitlines()
        return [line for line in lines if not line.endswith("COMPLETING")]

    def log(self) -> str:
        return (self.searches.study / "search.log").read_text()


@pytest.mark.slow
def test_a_search_as_a_job_of_slurms_starts_again_at_its_time_limit_and_is_stopped(
    searches: Searches, slurm: SlurmCluster
) -> None:
    search = OnSlurm(searches, slurm)
    search.until_jobs_run(4)
    again = searches.run(*search.words, gpus=None)
    assert again.exit_code == 1
    assert f"is Slurm's job {search.job}, which runs; " in again.err
    # as Slurm does it before the time limit
    slurm.run("scancel", "--signal=USR2", "--batch", search.job)
    until(lambda: end_state(searches) == "stopped", "the search to let go")
    until(lambda: search.state() == "PENDING", "it to be queued again")
    assert len(search.queue()) == 3, "its allocations are kept"
    search.until_jobs_run(8)
    assert search.log().count("stopped: its time is over: it is started again") == 1
    assert "took over the allocation" in search.log()
    stopped = searches.command("stop", str(searches.study))
    assert f"Ended the search, Slurm's job {search.job}" in stopped.out, stopped
    assert end_state(searches) == "stopped"
    assert writer_of(searches.study) is None
    until(lambda: search.queue() == [], "an empty queue")
    ended = [e.outcome for e in read_events(searches.study) if isinstance(e, JobEnded)]
    assert ended == [Outcome.STOPPED] * 8
    assert not (searches.folder / "twice").exists()


@pytest.mark.slow
def test_a_search_to_which_a_site_gives_no_time_is_refused_and_cancelled(
    searches: Searches, slurm: SlurmCluster
) -> None:
    searches.write(script(ALONE))
    slurm.run("scontrol", "update", "partitionname=short", "MaxTime=2")
    try:
        words = ("--on", "slurm", "--slurm-set", "search_partition=short", "--slurm-set", "search_mem=512M")
        ran = searches.run("--detach", *words, gpus=None, as_json=False)
    finally:
        slurm.run("scontrol", "update", "partitionname=short", "MaxTime=5")
    assert ran.exit_code == 2, ran
    assert re.search(r"the job of the search \d+ s, the default of its partition", ran.err), ran.err
    assert not (searches.study / "slurm" / "search.json").exists()
    until(lambda: slurm.run("squeue", "-h", "-o", "%i") == "", "an empty queue")


@pytest.mark.slow
def test_a_search_that_slurm_ends_and_queues_again_can_be_stopped_there(
    searches: Searches, slurm: SlurmCluster
) -> None:
    search = OnSlurm(searches, slurm, "max_allocations=1")
    search.until_jobs_run(2)
    # a site that gives a search the time to end in order
    slurm.run("scancel", "--signal=TERM", "--batch", search.job)
    until(lambda: search.state() == "", "the search to end")
    slurm.run("scontrol", "requeue", search.job)
    stopped = searches.command("stop", str(searches.study))
    assert f"Ended the search, Slurm's job {search.job}" in stopped.out, stopped
    assert search.queue() == []
    assert not (searches.study / "slurm" / "search.json").exists()


@pytest.mark.slow
def test_jobs_that_are_slurms_own_go_on_while_their_search_starts_again(
    searches: Searches, slurm: SlurmCluster
) -> None:
    search = OnSlurm(searches, slurm, "gpus=2", "max_allocations=4", mode="jobs")
    search.until_jobs_run(3)
    until(lambda: len(search.queue()) == 5, "one that waits besides three jobs and the search")
    slurm.run("scancel", "--signal=USR2", "--batch", search.job)
    until(lambda: end_state(searches) == "stopped", "the search to let go")
    (searches.folder / "go").touch()
    until(lambda: end_state(searches) == "finished", "the end", 90)
    ended = [e.outcome for e in read_events(searches.study) if isinstance(e, JobEnded)]
    assert ended == [Outcome.LOSS] * 6, "none was stopped, nor lost its place in the queue"
    until(lambda: search.queue() == [], "an empty queue")


@pytest.mark.slow
def test_a_search_whose_node_fails_is_started_again_elsewhere_with_the_copy_of_its_journal(
    searches: Searches, slurm: SlurmCluster
) -> None:
    for node in NODES:
        slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=x")
    waiting = OnSlurm(searches, slurm)
    assert waiting.state() == "PENDING"
    again = searches.run("--detach", *waiting.words, gpus=None, as_json=False)
    assert f"is Slurm's job {waiting.job}, which waits in Slurm's queue (" in again.err
    not_begun = searches.command("report", str(searches.study)).err
    assert f"was submitted as Slurm's job {waiting.job} and has not begun" in not_begun
    assert f"Ended the search, Slurm's job {waiting.job}" in searches.command("stop", str(searches.study)).out
    assert waiting.queue() == []
    slurm.run("scontrol", "update", "nodename=n1", "state=resume")
    disk_of_n1 = searches.folder / "disk"
    searches.environment["HYPERBAND_JOURNALS"] = str(disk_of_n1)
    # beside the search there is no room on its node
    search = OnSlurm(searches, slurm, "cpus=8", "max_allocations=1")
    until(lambda: len(search.queue()) > 1, "an allocation that waits")
    until(lambda: (searches.study / "journal.db").exists(), "a copy")
    slurm.kill_node("n1")
    disk_of_n1.rename(searches.folder / "with the node")
    # Slurm finds that out by itself, some seconds later
    slurm.run("scontrol", "update", "nodename=n1", "state=down", "reason=x")
    for node in NODES[1:]:
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")
    (searches.folder / "go").touch()
    until(lambda: end_state(searches) == "finished", "the end", 90)
    until(lambda: search.queue() == [], "an empty queue")
    assert len([e for e in read_events(searches.study) if isinstance(e, SearchStarted)]) == 2
    assert "is given up: the copy in the study's folder is of" in search.log()
    assert not (searches.folder / "twice").exists()
    assert not (searches.study / "slurm" / "search.json").exists()


@pytest.mark.parametrize(("told", "most_s"), [({}, 150), ({"signal_s": 360}, 420)])
def test_a_stop_waits_for_a_submitted_search_for_as_long_as_its_jobs_may_take(
    tmp_path: Path, told: dict[str, int], most_s: int
) -> None:
    """Also for one that an older version submitted, which did not write that down."""
    tools, folder = tmp_path / "tools", tmp_path / "slurm"
    for made in (tools, folder):
        made.mkdir()
    lists = f"[ -e {tmp_path}/ended ] || echo '15|hb|RUNNING|None|n1|t0|1:00:00|'"
    for name, words in {"squeue": lists, "scancel": f"touch {tmp_path}/ended"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{words}\n")
        (tools / name).chmod(0o755)
    (folder / "search.json").write_text(
        json.dumps({"job_id": "15", "name": "hb", "submitted_at": 1.0, **told})
    )
    job = SearchJob.read(tmp_path)
    assert job is not None
    said: list[str] = []
    assert end_search(job, {**os.environ, "PATH": f"{tools}:/usr/bin:/bin"}, said.append)
    assert said == [f"Slurm's job 15 was asked to end; it ends its jobs first, {most_s} s at most."]
