"""Attempts in Slurm jobs of their own, without a Slurm: whose doing an end was, and what reaches a script."""

import os
import signal
from pathlib import Path

import pytest
from launch_fixture import RemoteBench
from search_fixture import until
from test_remote import bench, queued, run_node

from hyperband.launch.base import Ending, StopReason
from hyperband.launch.slurm.jobs.endings import judged
from hyperband.launch.slurm.jobs.events import JobOver
from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.nodes import Fate
from hyperband.launch.slurm.jobs.slots import TrialJobSlots, profile_of_one
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.words import JobState
from hyperband.machine.claim import parse

__all__ = ["bench", "queued"]


def ending(exit_status: int | None, **more: object) -> Ending:
    return Ending(exit_status, None, 1.0, 2.0, (), "its keeper's note", **more)  # type: ignore[arg-type]


STOPPED = Ending(0, StopReason.STOP, 1.0, 2.0, (), "")
LOST, KILLED = ending(None), ending(-signal.SIGKILL)
NEVER_RAN = ending(None, never_ran=True)
LOST_KEEPER = ending(None, lost_keeper=True)


def word(state: JobState, *, by_somebody: bool = False) -> JobOver:
    return JobOver("a", "7_1", state, f"over: {state}", by_somebody)


@pytest.mark.parametrize("found", [STOPPED, LOST, KILLED, NEVER_RAN, LOST_KEEPER, ending(143)])
def test_what_somebody_cancelled_is_cancelled_however_its_keeper_saw_it(found: Ending) -> None:
    was = judged(found, word(JobState.CANCELLED, by_somebody=True), is_asked=False)
    assert was.ending.was_cancelled
    assert was.ending.note == "somebody cancelled its Slurm job 7_1, and so this trial is over"
    assert not was.failure


@pytest.mark.parametrize(
    "state", [JobState.PREEMPTED, JobState.TIME_LIMIT, JobState.NODE_FAILURE, JobState.CANCELLED]
)
@pytest.mark.parametrize("found", [STOPPED, LOST, KILLED, LOST_KEEPER])
def test_what_slurm_took_away_is_lost_and_not_the_jobs_fault(found: Ending, state: JobState) -> None:
    was = judged(found, word(state), is_asked=False).ending
    assert (was.exit_status, was.asked, was.was_taken_away) == (None, None, True)
    assert was.note == f"over: {state}"


def test_what_was_told_to_end_by_the_signal_of_the_profile_says_so() -> None:
    was = judged(STOPPED, word(JobState.COMPLETED), is_asked=False).ending
    assert was.was_taken_away
    assert was.note.startswith("Slurm told it to end")


def test_without_a_word_of_slurms_what_was_told_to_end_is_lost_all_the_same() -> None:
    was = judged(STOPPED, None, is_asked=False).ending
    assert (was.exit_status, was.was_taken_away) == (None, True)
    assert "Slurm told it to end" in was.note


@pytest.mark.parametrize("found", [STOPPED, LOST, KILLED, LOST_KEEPER])
def test_a_job_that_took_too_much_memory_is_told_from_slurms_state(found: Ending) -> None:
    was = judged(found, word(JobState.OUT_OF_MEMORY), is_asked=False)
    assert (was.ending.exit_status, was.ending.oom_killed) == (-signal.SIGKILL, True)
    assert was.has_run


#: what a Slurm prints that looks at the memory of jobs now and then; its state is FAILED then
EXCEEDED = "slurmstepd-n1: error: StepId={}.batch exceeded memory limit (428236800 > 209715200), being killed"


def test_a_job_that_took_too_much_memory_is_told_from_what_slurm_printed(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    files = TrialJobFiles(tmp_path / "study", Profile(), tmp_path)
    assert files.said_of("7_1") == ""
    lines = [EXCEEDED.format(job) for job in ("17_1", "7_11", "7_1", "7")]
    files.log.write_text("\n".join(["7_1 exceeded memory limit", *lines, lines[2], "slurmstepd: error: x"]))
    said = files.said_of("7_1")
    assert said == "StepId=7_1.batch exceeded memory limit (428236800 > 209715200), being killed"
    was = judged(LOST, word(JobState.FAILED), is_asked=False, said=said)
    assert (was.ending.exit_status, was.ending.oom_killed, was.ending.note) == (-signal.SIGKILL, True, said)
    assert was.has_run


def test_a_job_that_takes_its_whole_script_down_is_not_tried_for_ever() -> None:
    was = judged(LOST, word(JobState.FAILED), is_asked=False)
    assert (was.ending.exit_status, was.ending.was_taken_away, was.ending.lost_keeper) == (None, False, True)
    # its keeper ended it, and the script came to its end: a file system that hung
    assert judged(LOST, word(JobState.COMPLETED), is_asked=False).ending.was_taken_away


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.GONE])
def test_what_the_job_did_to_itself_is_its_own(state: JobState) -> None:
    for found in (KILLED, LOST_KEEPER):
        assert judged(found, word(state), is_asked=False).ending == found
    for found in (ending(0), ending(1)):
        was = judged(found, word(JobState.CANCELLED, by_somebody=True), is_asked=False)
        assert was.ending == found, "it had ended by itself"
        assert was.has_run


def test_what_we_asked_for_is_ours_whatever_slurm_says() -> None:
    for found in (STOPPED, Ending(-15, StopReason.TIMEOUT, 1.0, 2.0, (), "")):
        assert judged(found, word(JobState.CANCELLED), is_asked=True).ending == found
    taken_back = Ending(-15, StopReason.STOP, None, None, (), "", never_ran=True)
    assert judged(taken_back, None, is_asked=False).ending == taken_back


@pytest.mark.parametrize(
    ("state", "is_failure"),
    [
        (JobState.FAILED, True),
        (JobState.COMPLETED, True),
        (JobState.NODE_FAILURE, False),
        (JobState.PREEMPTED, False),
        (JobState.CANCELLED, False),
        (JobState.GONE, False),
    ],
)
def test_a_script_that_ends_before_it_ran_its_attempt_counts_against_the_nodes(
    state: JobState, is_failure: bool
) -> None:
    was = judged(NEVER_RAN, word(state), is_asked=False)
    assert was.ending == NEVER_RAN
    assert was.failure == (f"its keeper's note; over: {state}" if is_failure else "")


# what a batch script that became a keeper does


def test_a_warning_that_comes_to_the_batch_script_alone_reaches_the_job_once(queued: RemoteBench) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: print('warned', flush=True))\n"
        "open('on', 'w').close()\nsignal.pause(); time.sleep(0.2)"
    )
    job = queued.python(code)
    with run_node(queued, job.folder) as script:
        until((queued.folder / "on").exists, "the job to run")
        script.send_signal(signal.SIGUSR1)
        found = queued.wait(job)
    assert (found.exit_status, found.asked) == (0, None)
    assert (job.folder / "stdout").read_text() == "warned\n"


def test_an_end_that_is_asked_of_the_batch_script_alone_is_an_end_for_all(queued: RemoteBench) -> None:
    job = queued.python("open('on', 'w').close()\nimport time; time.sleep(1000)")
    with run_node(queued, job.folder) as script:
        until((queued.folder / "on").exists, "the job to run")
        script.send_signal(signal.SIGTERM)
        found = queued.wait(job)
    assert (found.exit_status, found.asked) == (-signal.SIGTERM, StopReason.STOP)
    assert script.returncode == 0


# the profile, and files


def test_a_job_has_all_that_the_profile_asks_for() -> None:
    slots = TrialJobSlots(profile_of_one(Profile(gpus="2", partition="gpu")), max_slots=3)
    assert slots.n_slots() == 3
    assert slots.names() == ("slurm/0", "slurm/1", "slurm/2")
    assert slots.adopt("slurm/7").slot.arguments == ("--multi_gpu",)
    words = "Slurm: each job of a trial is one of Slurm's (partition gpu, gpus 2); up to 3 jobs at once"
    assert slots.describe() == words
    throttled = TrialJobSlots(profile_of_one(Profile(array_throttle=2)), max_slots=3)
    assert throttled.describe().endswith("; up to 3 jobs at once, 2 of them running")


def test_tasks_are_written_down_before_they_are_asked_for_and_found_again(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    files = TrialJobFiles(tmp_path / "study", Profile(array_throttle=2), tmp_path)
    folders = {"a": tmp_path / "0-0", "b": tmp_path / "1-0"}
    argv = files.argv(files.write_tasks(folders), folders)
    assert "--array=0-1%2" in argv
    commands = (Path(argv[-1])).read_bytes()
    assert parse(b'{"tasks": ' + commands + b"}") is not None
    comment = next(word for word in argv if word.startswith("--comment=")).partition("=")[2]
    assert os.fspath(tmp_path / "study") in comment
    again = TrialJobFiles(tmp_path / "study", Profile(), tmp_path)
    assert again.name == files.name
    assert [again.attempt_of(f"7_{task}", comment) for task in range(3)] == ["a", "b", None]
    assert again.attempt_of("7", "somebody's own comment") is None
    one = files.argv(files.write_tasks({"c": tmp_path}), {"c": tmp_path})
    assert one[-2:] == (str(tmp_path), "c")
    assert not [word for word in one if word.startswith("--array")]
    word = files.write_tasks({"d": tmp_path}, ("n2",))
    argv = files.argv(word, {"d": tmp_path}, ("n2",))
    assert "--exclude=n2" in argv
    comment = next(word for word in argv if word.startswith("--comment=")).partition("=")[2]
    assert (again.attempt_of("9", comment), again.excluded_by(comment)) == ("d", ("n2",))
    others = TrialJobFiles(tmp_path / "study", Profile(exclude="n[5-6]"), tmp_path)
    assert others.excluding(["n2"]) == "n[5-6],n2"
    files.clear()
    assert again.attempt_of("8", "hyperband x 0123456789abcdef") is None


def test_how_jobs_ended_on_nodes_is_written_down_and_what_was_cut_off_spoils_nothing(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    files = TrialJobFiles(tmp_path / "study", Profile(), tmp_path)
    assert files.recall() == []
    files.remember("n1", "000004", Fate.FAILED)
    with (files.folder / "nodes.jsonl").open("a") as stream:
        stream.write('\n{"at": 12, "no')
    files.remember("n2", "000005", Fate.LOST)
    found = TrialJobFiles(tmp_path / "study", Profile(), tmp_path).recall()
    assert [(one.node, one.of, one.fate) for one in found] == [
        ("n1", "000004", Fate.FAILED),
        ("n2", "000005", Fate.LOST),
    ]
    assert all(0 <= one.ago_s < 60 for one in found)
