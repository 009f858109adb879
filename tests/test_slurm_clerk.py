"""The clerk against a real Slurm: what it reports when jobs come and go, nodes die and nobody answers."""

import contextlib
import json
import os
import select
import shlex
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from cluster_fixture import cmdline, wait_for
from slurm_fixture import NODES, SlurmCluster

from hyperband.errors import InternalError
from hyperband.launch.slurm import clerk as slurm_clerk
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.clerk import Clerk, Pace
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.reports import (
    CancelRefused,
    FoundSite,
    NotSubmitted,
    Report,
    Status,
    Submitted,
    Unreachable,
)
from hyperband.launch.slurm.words import JobLine, JobState, Refusal, Waiting, meaning_of
from hyperband.machine import holder

HOLDER = (sys.executable, "-I", "-S", holder.__file__)
#: the kind of a report
R = TypeVar("R", bound=Report)
PACE = Pace(soonest_s=0.1, latest_s=0.5, latest_running_s=0.5, command_s=15.0, missing_s=4.0)


class Talk:
    """A clerk, and all that it reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # jobs of earlier tests stay listed for minutes
        self.name = f"hb-{uuid.uuid4()}"
        self.clerk = Clerk(self.name, os.environ, PACE)
        self.reports: list[Report] = []
        self.n_asked = 0
        (folder / "batch.sh").write_text(slurm_text.batch_script(Profile()))

    def hear(self, timeout_s: float = 0.5) -> None:
        select.select([self.clerk], [], [], timeout_s)
        self.reports += self.clerk.reports()

    def until(self, what: Callable[[], object], patience_s: float = 60.0) -> None:
        until_s = time.monotonic() + patience_s
        while not what():
            assert time.monotonic() < until_s, f"in vain; reports: {self.reports[-6:]}"
            self.hear()

    def submit(self, profile: Profile, *, then: tuple[str, ...] = ()) -> str:
        """Have an allocation held; return its id."""
        self.n_asked += 1
        ticket = self.n_asked
        self.clerk.submit(ticket, self.argv(profile, then or (*HOLDER, "hold", str(self.folder), "600")))
        self.until(lambda: self.job_of(ticket))
        return str(self.job_of(ticket))

    def argv(self, profile: Profile, command: tuple[str, ...]) -> tuple[str, ...]:
        return slurm_text.allocation_argv(
            profile, name=self.name, comment="allocation", log=self.folder / "log", cwd=self.folder,
            script=self.folder / "batch.sh", command=command,
        )  # fmt: skip

    def job_of(self, ticket: int) -> str | None:
        found = [one.job_id for one in self.of(Submitted) if one.ticket == ticket]
        return found[0] if found else None

    def of(self, kind: type[R]) -> list[R]:
        return [report for report in self.reports if isinstance(report, kind)]

    def line(self, job_id: str) -> JobLine | None:
        """What was said of a job last."""
        jobs = [job for status in reversed(self.of(Status)) for job in status.jobs]
        return next((job for job in jobs if job.job_id == job_id), None)

    def states(self, job_id: str) -> list[JobState]:
        """What was said of a job, each state once in a row."""
        found: list[JobState] = []
        for status in self.of(Status):
            found += [job.state for job in status.jobs if job.job_id == job_id and found[-1:] != [job.state]]
        return found

    def until_state(self, job_id: str, state: JobState) -> JobLine:
        self.until(lambda: (line := self.line(job_id)) is not None and line.state == state)
        found = self.line(job_id)
        assert found is not None
        return found

    def until_held(self, job_id: str, restart: int = 0) -> dict[str, object]:
        """Wait for the holder's word; return it."""
        path = self.folder / holder.file_name(job_id, restart)
        wait_for(path.exists, words=path.name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found: dict[str, object] = json.loads(path.read_bytes())
        return found


@pytest.fixture
def talk(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Talk]:
    assert os.environ["SLURM_CONF"] == str(slurm.conf)
    talk = Talk(tmp_path)
    yield talk
    talk.clerk.close()


def step(profile: Profile, job_id: str, node: str, folder: Path, code: str) -> str:
    """What a step in an allocation prints."""
    argv = slurm_text.step_argv(
        profile, job_id=job_id, node=node, name="hb-test", cwd=folder, command=("sh", "-c", code)
    )
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_jobs_and_steps_in_a_hidden_partition_are_listed_for_everybody(slurm: SlurmCluster) -> None:
    slurm.run("scontrol", "update", "partitionname=short", "hidden=yes")
    try:
        name = f"hb-{uuid.uuid4()}"
        argv = ["sbatch", "--parsable", f"--job-name={name}", "--partition=short", "--output=/dev/null"]
        job = slurm.run(*argv, "--wrap=srun --job-name=one sleep 60").strip()
        # root sees all that there is
        as_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        listed = slurm.run(*as_user, *slurm_text.squeue_argv(name))
        assert listed.startswith(f"{job}|{name}|")
        wait_for(lambda: "one" in slurm.run(*as_user, *slurm_text.steps_argv([job])), words="the step")
    finally:
        slurm.run("scontrol", "update", "partitionname=short", "hidden=no")


def test_an_allocation_is_held_takes_steps_and_is_cancelled_by_id(talk: Talk, tmp_path: Path) -> None:
    profile = Profile(gpus="2", cpus=2, time="10", mem="1G")
    job_id = talk.submit(profile)
    line = talk.until_state(job_id, JobState.RUNNING)
    about = talk.until_held(job_id)
    assert (about["job_id"], about["restart"], about["node"]) == (job_id, 0, line.nodes[0])
    assert line.time_left_s is not None
    assert 500 <= line.time_left_s <= 600
    environment = about["environment"]
    assert isinstance(environment, dict)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    # steps share the GPUs, also while another runs
    argv = slurm_text.step_argv(
        profile, job_id=job_id, node=line.nodes[0], name="hb-test", cwd=tmp_path, command=("cat",)
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
        said = step(profile, job_id, line.nodes[0], tmp_path, "echo $CUDA_VISIBLE_DEVICES $SLURM_JOB_ID")
        assert said == f"0,1 {job_id}"
        assert waiting.communicate(b"a line")[0] == b"a line"
    talk.clerk.cancel([job_id])
    talk.until_state(job_id, JobState.CANCELLED)
    assert set(talk.states(job_id)) <= {
        JobState.WAITING,
        JobState.RUNNING,
        JobState.ENDING,
        JobState.CANCELLED,
    }
    [site] = talk.of(FoundSite)
    assert not site.site.has_accounting
    n_said = len(talk.of(Status))
    talk.clerk.cancel([job_id, "99999"])
    talk.until(lambda: len(talk.of(Status)) > n_said)
    assert talk.of(CancelRefused) == [], "that one is over already is what was wanted"


@contextlib.contextmanager
def wanting(folder: Path) -> Iterator[None]:
    """Within, a search says again and again that it wants what is held in this folder."""
    is_over = threading.Event()

    def say() -> None:
        n = 0
        while not is_over.wait(0.05):
            n += 1
            holder.write_wanted(str(folder), str(n))

    saying = threading.Thread(target=say)
    saying.start()
    try:
        yield
    finally:
        is_over.set()
        saying.join()


def test_an_allocation_that_no_search_wants_any_more_ends_with_its_last_step(
    talk: Talk, tmp_path: Path
) -> None:
    # its holder asks for steps when nobody has wanted it for so long
    asked = tmp_path / "asked"
    (tmp_path / "squeue").write_text(f'#!/bin/sh\necho >> {asked}\nexec /usr/bin/squeue "$@"\n')
    (tmp_path / "squeue").chmod(0o755)
    (tmp_path / "batch.sh").write_text(slurm_text.batch_script(Profile(setup=(f"PATH={tmp_path}:$PATH",))))
    with contextlib.ExitStack() as step_runs:
        with wanting(tmp_path):
            job_id = talk.submit(Profile(), then=(*HOLDER, "hold", str(tmp_path), "1.5"))
            line = talk.until_state(job_id, JobState.RUNNING)
            talk.until_held(job_id)
            argv = slurm_text.step_argv(
                Profile(), job_id=job_id, node=line.nodes[0], name="hb-test", cwd=tmp_path, command=("cat",)
            )
            running = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            step_runs.enter_context(running)
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write(b"x")
            running.stdin.flush()
            assert running.stdout.read(1) == b"x"
        assert not asked.exists(), "it was wanted all the time"
        talk.until(lambda: asked.exists() and len(asked.read_text()) == 2)
        assert running.communicate(b"y")[0] == b"y", "it went on"
    talk.until_state(job_id, JobState.COMPLETED)
    assert "no search has wanted this allocation for 1.5 s" in (tmp_path / "log").read_text()


def test_it_asks_nothing_while_nothing_of_ours_is_there(talk: Talk) -> None:
    talk.clerk.look()
    talk.until(lambda: talk.of(Status))
    talk.hear(1.5)
    assert talk.of(Status) == [Status(())]


def test_jobs_wait_with_the_reason_and_follow_one_another(talk: Talk, slurm: SlurmCluster) -> None:
    jobs = [talk.submit(Profile(gpus="2")) for _ in range(len(NODES) + 1)]
    talk.until(lambda: sum(talk.states(job)[-1:] == [JobState.RUNNING] for job in jobs) == len(NODES))
    [waiting] = [job for job in jobs if talk.states(job)[-1:] != [JobState.RUNNING]]
    talk.until(lambda: (line := talk.line(waiting)) is not None and line.reason in ("Resources", "Priority"))
    others = [job for job in jobs if job != waiting]
    slurm.run("scancel", others[0])  # by hand
    talk.until_state(others[0], JobState.CANCELLED)
    talk.until_state(waiting, JobState.RUNNING)
    talk.clerk.cancel(jobs)
    talk.until(lambda: all(talk.states(job)[-1] == JobState.CANCELLED for job in jobs))


def test_what_slurm_refuses_comes_back_in_its_own_words(talk: Talk) -> None:
    for ticket, profile in enumerate((Profile(partition="nix"), Profile(gpus="5"), Profile(account="a")), 1):
        talk.clerk.submit(ticket, talk.argv(profile, ("true",)))
    never = Profile(nodes=4)  # taken, and never started
    talk.clerk.submit(4, talk.argv(never, ("true",)))
    talk.until(lambda: talk.job_of(4))
    refused = {one.ticket: one for one in talk.of(NotSubmitted)}
    assert refused[1].refusal == refused[2].refusal == Refusal.WRONG
    assert "invalid partition specified: nix" in refused[1].words
    assert refused[2].words == "Batch job submission failed: Requested node configuration is not available"
    assert not refused[1].is_unsure
    # the reason comes with the scheduler's next round
    talk.until(lambda: (line := talk.line(str(talk.job_of(4)))) and meaning_of(line.reason) == Waiting.NEVER)


def test_how_scripts_end_is_told_apart(talk: Talk) -> None:
    good = talk.submit(Profile(), then=("true",))
    bad = talk.submit(Profile(), then=("sh", "-c", "exit 3"))
    talk.until_state(good, JobState.COMPLETED)
    talk.until_state(bad, JobState.FAILED)


@pytest.mark.slow
def test_nobody_answers_for_a_while_and_no_job_is_called_gone(talk: Talk, slurm: SlurmCluster) -> None:
    first, second = talk.submit(Profile()), talk.submit(Profile())
    for job in (first, second):
        talk.until_state(job, JobState.RUNNING)
    slurm.stop_controller()
    talk.until(lambda: talk.of(Unreachable))
    assert "Unable to contact slurm controller" in talk.of(Unreachable)[0].words
    n_said = len(talk.of(Status))
    talk.clerk.cancel([first])
    talk.clerk.submit(77, talk.argv(Profile(), ("true",)))
    talk.until(lambda: talk.of(NotSubmitted))
    [refused] = talk.of(NotSubmitted)
    assert (refused.refusal, refused.is_unsure) == (Refusal.UNREACHABLE, True)
    assert len(talk.of(Status)) == n_said, "silence says nothing of jobs"
    slurm.start_controller()
    talk.until_state(first, JobState.CANCELLED)
    assert talk.states(second)[-1] == JobState.RUNNING
    assert JobState.GONE not in talk.states(second)
    assert len(talk.of(Unreachable)) == 1, "said once"


@pytest.mark.slow
def test_a_node_that_loses_power_gives_its_job_back_to_the_queue(talk: Talk, slurm: SlurmCluster) -> None:
    job_id = talk.submit(Profile(gpus="2"))
    line = talk.until_state(job_id, JobState.RUNNING)
    talk.until_held(job_id)
    slurm.kill_node(line.nodes[0])
    talk.until_state(job_id, JobState.WAITING)
    assert JobState.FAILED not in talk.states(job_id)


@pytest.mark.slow
def test_a_better_job_takes_the_place_and_the_other_waits_again(talk: Talk, slurm: SlurmCluster) -> None:
    job = talk.submit(Profile(gpus="2"))
    node = talk.until_state(job, JobState.RUNNING).nodes[0]
    slurm.run("sbatch", "--partition=high", "--gres=gpu:2", f"--nodelist={node}", "--wrap", "sleep 600")
    talk.until_state(job, JobState.WAITING)


def test_a_job_that_slurm_does_not_know_is_gone_at_the_second_look(talk: Talk) -> None:
    talk.clerk.watch(["99999"])
    talk.until_state("99999", JobState.GONE)
    assert len(talk.of(Status)) == 2


def test_an_array_runs_as_many_tasks_at_once_as_it_may(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "spaced name").mkdir()
    commands = []
    for k in range(5):
        place = shlex.quote(str(tmp_path / "spaced name" / str(k)))
        said = f"echo $SLURM_ARRAY_TASK_ID > {place}"
        waits = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
        commands.append(["/bin/sh", "-c", f"{said}; {waits}; exit {k}"])
    (tmp_path / "tasks.json").write_text(json.dumps(commands))
    argv = slurm_text.array_argv(
        Profile(array_throttle=2), n_tasks=5, name=talk.name, comment="array", log=tmp_path / "log",
        cwd=tmp_path, script=tmp_path / "batch.sh", command=(*HOLDER, "task", str(tmp_path / "tasks.json")),
    )  # fmt: skip
    talk.clerk.submit(1, argv)
    talk.until(lambda: talk.job_of(1))
    tasks = [f"{talk.job_of(1)}_{k}" for k in range(5)]
    talk.until(lambda: [talk.states(task)[-1:] for task in tasks].count([JobState.RUNNING]) == 2)
    (tmp_path / "go").touch()
    talk.until(lambda: all(talk.states(task) and talk.states(task)[-1].is_over for task in tasks))
    assert [talk.states(task)[-1] for task in tasks] == [JobState.COMPLETED, *[JobState.FAILED] * 4]
    assert sorted(path.read_text().strip() for path in (tmp_path / "spaced name").iterdir()) == list("01234")
    at_once = [sum(job.state == JobState.RUNNING for job in status.jobs) for status in talk.of(Status)]
    assert max(at_once) == 2


@pytest.mark.slow
def test_the_accounts_tell_how_a_job_ended_that_squeue_does_not_list(
    slurm_accounting: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(tmp_path)
    # asked for another name, squeue has forgotten everything
    forgotten = slurm_text.squeue_argv("nobody's")
    monkeypatch.setattr(slurm_text, "squeue_argv", lambda _: forgotten)

    def submit(name: str, words: str) -> str:
        return slurm_accounting.run("sbatch", "--parsable", f"--job-name={name}", "--wrap", words).strip()

    done, killed = submit(talk.name, "exit 3"), submit(talk.name, "sleep 600")
    others = submit("of-another-study", "exit 4")  # its number was another's before, or will be
    wait_for(lambda: "RUNNING" in slurm_accounting.run("squeue", "-h", "-j", killed, "-o", "%T"))
    slurm_accounting.run("scancel", killed)
    try:
        talk.clerk.watch([done, killed, others, "99999"])
        assert talk.until_state(done, JobState.FAILED).exit_status == 3
        talk.until_state(killed, JobState.CANCELLED)
        talk.until_state(others, JobState.GONE)
        talk.until_state("99999", JobState.GONE)
        [site] = talk.of(FoundSite)
        assert site.site.has_accounting
    finally:
        talk.clerk.close()


def test_an_end_of_the_thread_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(printed: str) -> None:
        raise RuntimeError(f"over {printed}")

    (tmp_path / "scontrol").write_text("#!/bin/sh\necho a word\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_clerk, "site_in_config", stumble)
    talk = Talk(tmp_path)
    try:
        talk.clerk.look()
        with pytest.raises(InternalError, match="RuntimeError: over a word"):
            talk.until(lambda: talk.reports)
    finally:
        talk.clerk.close()


def test_a_command_that_is_not_there_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    talk = Talk(tmp_path)
    try:
        talk.clerk.look()
        talk.until(lambda: talk.of(Unreachable))
        assert talk.of(Unreachable) == [Unreachable("scontrol cannot be started: No such file or directory")]
    finally:
        talk.clerk.close()


def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scontrol", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    clerk = Clerk("n", os.environ, Pace(command_s=0.3))
    try:
        clerk.submit(1, ("sbatch", "x"))
        refused = next_report(clerk)
        assert isinstance(refused, NotSubmitted)
        assert (refused.refusal, refused.is_unsure) == (Refusal.UNREACHABLE, True)
        assert refused.words == "sbatch gave no answer within 0.3 s"
    finally:
        clerk.close()


def next_report(clerk: Clerk) -> Report:
    """Wait for what a clerk has to say; return the first of it."""
    assert select.select([clerk], [], [], 60)[0]
    return clerk.reports()[0]


def test_a_task_that_was_never_listed_is_told_of_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # cancelled before anybody asked: Slurm keeps nothing of it
    listed = "7_0|n|PENDING|Resources||N/A|UNLIMITED|"
    said = {"scontrol": "SLURM_VERSION = 23.11", "sbatch": "7", "squeue": listed}
    for name, words in said.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{words}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    talk = Talk(tmp_path)
    try:
        talk.clerk.submit(1, ("sbatch", "x"), n_tasks=2)
        talk.until_state("7_1", JobState.GONE)
        assert talk.states("7_0") == [JobState.WAITING]
    finally:
        talk.clerk.close()


def test_what_a_command_that_hangs_has_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, started = tmp_path / "new", tmp_path / "started"
    words = f"sleep 600 &\necho $! > {new} && mv {new} {started}\nwait"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{words}\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    # where there is little time for us it may be ended before it has started anything
    for command_s in (0.5, 3.0, 20.0):
        clerk = Clerk("n", os.environ, Pace(command_s=command_s))
        try:
            clerk.submit(1, ("sbatch", "x"))
            assert isinstance(next_report(clerk), NotSubmitted)
        finally:
            clerk.close()
        if started.exists():
            break
    pid = int(started.read_text())
    wait_for(lambda: not cmdline(pid).startswith(b"sleep"), words="its end")
