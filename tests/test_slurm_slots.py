"""What a slot in an allocation is, and where nothing is started for a while; no Slurm is needed."""

import os
from pathlib import Path

import pytest

from hyperband.errors import MachineError
from hyperband.launch.remote.place import Place
from hyperband.launch.remote.starts import FailedStarts
from hyperband.launch.slurm.end import end_allocations
from hyperband.launch.slurm.files import SlurmFiles, last_said
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.slots import TrialJobSlots
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.room import gpus_of, rules_of
from hyperband.launch.slurm.search import submit_search
from hyperband.launch.slurm.words import (
    means_cancelled,
    means_cancelled_by_hand,
    means_ending,
    means_out_of_memory,
    said_by_srun,
)

HERE, BESIDE, ELSEWHERE = Place("7", "n1", 0), Place("7", "n1", 1), Place("8", "n2", 0)


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (Profile(), [None]),
        (Profile(gpus="2"), [(0,), (1,)]),
        (Profile(gpus="4", slots_per_allocation=2), [(0, 1), (2, 3)]),
        (Profile(gpus="2", slots_per_allocation=4), [(0,), (0,), (1,), (1,)]),
        (Profile(gpus="2", nodes=2), [(0,), (1,)]),
    ],
)
def test_each_slot_of_a_node_has_its_part_of_the_gpus(
    profile: Profile, expected: list[tuple[int, ...] | None]
) -> None:
    assert [gpus_of(profile, index) for index in range(profile.n_slots_per_node)] == expected


def test_a_margin_is_a_part_of_a_short_allocation() -> None:
    assert rules_of(Profile(time="5"), None).margin_s == 30.0
    assert rules_of(Profile(time="8:00:00"), None).margin_s == 60.0
    assert rules_of(Profile(), None).margin_s == 60.0


def test_slots_that_are_not_open_say_what_there_could_be() -> None:
    slots = SlurmSlots(Profile(gpus="2", partition="gpu"), max_slots=5)
    assert slots.n_slots() == 5
    assert slots.describe() == "Slurm: up to 3 allocations with 2 slots each (partition gpu, gpus 2)"
    assert SlurmSlots(Profile(), max_slots=None).n_slots() == 4


def test_a_job_that_is_cut_off_again_and_again_ends_the_search() -> None:
    slots = SlurmSlots(Profile(time="10"), max_slots=None)
    for _ in range(2):
        slots.note_cut_off(HERE, "12", 540.0)
        assert slots.failure is None
    slots.note_cut_off(HERE, "12", 540.0)
    assert slots.failure is not None
    assert "job 12 was cut off by the time limit of its allocation 3 times" in str(slots.failure)


def test_a_start_that_failed_holds_its_allocation_back_and_ever_longer() -> None:
    starts = FailedStarts()
    starts.note(HERE, "no python", 0.0, is_ending=False)
    assert starts.are_held_back(BESIDE, 0.9)
    assert not starts.are_held_back(ELSEWHERE, 0.9)
    assert starts.wait_s(0.5) == 0.5
    assert not starts.are_held_back(HERE, 1.0)
    starts.note(HERE, "no python", 1.0, is_ending=False)
    assert starts.are_held_back(HERE, 2.9)
    assert not starts.are_held_back(HERE, 3.0)


def test_what_fails_again_and_again_where_an_allocation_runs_is_told() -> None:
    starts = FailedStarts()
    now_s = 0.0
    for n in range(4):
        assert starts.judge(lambda _: True) is None, n
        starts.note(HERE, "no python", now_s, is_ending=False)
        starts.note(BESIDE, "one round is one failure", now_s, is_ending=False)
        now_s += starts.wait_s(now_s) or 0.0
    assert starts.judge(lambda _: False) is None, "it does not run any more"
    assert starts.judge(lambda _: True) is None, "and starts anew"


def test_four_failures_in_an_allocation_that_runs() -> None:
    starts = FailedStarts()
    for now_s in (0.0, 10.0, 20.0, 30.0):
        starts.note(HERE, "no python", now_s, is_ending=False)
    assert starts.judge(lambda place: place.job_id == "7") == "no python"


def test_a_node_where_nothing_can_be_started_is_avoided_if_jobs_run_on_others() -> None:
    starts = FailedStarts()
    starts.forget(ELSEWHERE)
    for n, now_s in enumerate((0.0, 10.0, 20.0, 30.0)):
        starts.note(Place(str(n), "n1", 0), "no python", now_s, is_ending=False)
        assert starts.judge(lambda _: True) is None
    assert starts.bad_nodes == {"n1"}
    [said] = starts.take_news()
    assert "jobs cannot be started on n1" in said
    assert "no python" in said
    assert starts.are_held_back(Place("99", "n1", 0), 1000.0), "in every allocation"
    assert not starts.are_held_back(ELSEWHERE, 1000.0)
    for now_s in (100.0, 200.0, 300.0, 400.0):
        starts.note(ELSEWHERE, "no python", now_s, is_ending=False)
    assert starts.judge(lambda _: True) == "no python", "no other is left"


def test_what_an_allocation_excludes_is_what_the_profile_says_and_the_nodes_that_are_avoided(
    tmp_path: Path,
) -> None:
    files = SlurmFiles(tmp_path, Profile(exclude="gpu[1-3]"), tmp_path)
    assert "--exclude=gpu[1-3],n2,n4" in files.allocation_argv(("n2", "n4"))
    assert "--exclude=gpu[1-3]" in files.allocation_argv()
    assert not [
        word
        for word in SlurmFiles(tmp_path, Profile(), tmp_path).allocation_argv()
        if word.startswith("--exclude")
    ]


def test_an_allocation_that_ends_for_a_while_is_nobodys_fault() -> None:
    starts = FailedStarts()
    for now_s in (0.0, 100.0, 200.0, 300.0, 400.0):
        starts.note(HERE, "told to end", now_s, is_ending=True)
    assert starts.judge(lambda _: True) is None
    starts.note(BESIDE, "told to end", 401.0, is_ending=True)
    assert starts.are_held_back(HERE, 405.9)


def test_an_allocation_that_goes_on_after_a_job_was_ended_there_has_a_short_pause() -> None:
    starts = FailedStarts()
    for now_s, pause_s in ((0.0, 1.0), (10.0, 2.0), (20.0, 4.0), (30.0, 8.0), (40.0, 16.0)):
        starts.note(HERE, "cancelled", now_s, is_ending=True, does_run=True)
        assert starts.wait_s(now_s) == pause_s
    assert starts.judge(lambda _: True) is None, "whoever ends steps is no fault of the nodes"


def test_what_ran_clears_its_allocation() -> None:
    starts = FailedStarts()
    starts.note(HERE, "no python", 0.0, is_ending=False)
    starts.forget(BESIDE)
    assert not starts.are_held_back(HERE, 0.1)
    assert starts.words(0.1) == ""


@pytest.mark.parametrize(
    ("words", "is_ending"),
    [
        ("Unable to create step for job 7: Job/step already completing or completed", True),
        ("Unable to confirm allocation for job 12: Unable to contact slurm controller", True),
        ("Node failure on n2", True),
        ("Unable to create step for job 7: Requested node configuration is not available", False),
        ("n1: task 0: Exited with exit code 2", False),
        ("execve(): /no/such/python: No such file or directory", False),
    ],
)
def test_what_srun_says_of_an_allocation_that_ends(words: str, is_ending: bool) -> None:
    assert means_ending(words) == is_ending


@pytest.mark.parametrize(
    ("words", "is_cancelled", "by_hand"),
    [
        (
            "slurmstepd-n2: error: *** STEP 2.1 ON n2 CANCELLED AT 2026-11-21T16:04:07 ***; task 0: Killed",
            True,
            True,
        ),
        (
            "slurmstepd: error: *** STEP 2.1 ON n2 CANCELLED AT 2026-11-21T16:04:07 DUE TO TIME LIMIT ***",
            True,
            False,
        ),
        (
            "slurmstepd: error: *** JOB 15 ON gpu04 CANCELLED AT 2026-11-21T16:04:07 DUE TO PREEMPTION ***",
            True,
            False,
        ),
        ("srun: error: n2: task 0: Killed", False, False),
    ],
)
def test_what_srun_says_of_a_step_that_was_cancelled(words: str, is_cancelled: bool, by_hand: bool) -> None:
    assert means_cancelled(words) == is_cancelled
    assert means_cancelled_by_hand(words) == by_hand


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "slurmstepd-n1: error: StepId=1.4 exceeded memory limit (450215936 > 209715200), being killed",
            True,
        ),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=5.0. Some of the step tasks", True),
        ("srun: error: n1: task 0: Out Of Memory", True),
        ("slurmstepd-n1: error: *** STEP 1.5 ON n1 CANCELLED AT 2026-11-21T16:13:27 ***", False),
        ("srun: error: n1: task 0: Killed", False),
    ],
)
def test_what_srun_says_of_a_step_that_took_too_much_memory(words: str, expected: bool) -> None:
    assert means_out_of_memory(words) == expected


def test_what_srun_says_is_told_without_its_name() -> None:
    said = (
        "it ended; srun: cluster configuration lacks support for cpu binding; srun: error: Node failure on n2"
    )
    assert said_by_srun(said) == "it ended; Node failure on n2"


def test_what_slurm_says_of_an_end_is_told_in_plain_words_once() -> None:
    aborted = "Job step aborted: Waiting up to 4 seconds for job step to finish."
    ended = "*** STEP 15.0 ON n1 CANCELLED AT 2026-11-21T16:04:07 {}***"
    said = f"srun: {aborted}; slurmstepd: error: {ended.format('')}; slurmstepd-n1: error: {ended.format('')}"
    assert said_by_srun(said) == "Slurm's step 15.0 on n1 was ended"
    late = f"slurmstepd: error: {ended.format('DUE TO TIME LIMIT ')}"
    assert said_by_srun(f"its lease ran out; {late}") == (
        "its lease ran out; Slurm's step 15.0 on n1 was ended (time limit)"
    )
    gone = ended.format("DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ").replace("STEP 15.0", "JOB 15")
    assert said_by_srun(f"slurmstepd: error: {gone}") == "Slurm's job 15 on n1 was ended (node failure)"


def test_a_shared_folder_in_trouble_is_told_of_and_ends_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm there
    slots = SlurmSlots(Profile(), max_slots=None)
    files = SlurmFiles(tmp_path, Profile(), tmp_path)
    slots.open(files, os.environ)
    try:
        holders = files.folder / "holders"
        holders.rename(files.folder / "away")
        slots.heed()
        slots.heed()
        assert slots.news() == (f"cannot use {files.folder} (No such file or directory): it is tried again",)
        assert 0 < (slots.wait_s() or 0) <= 5
    finally:
        slots.close()


def test_of_a_log_its_last_words_tell(tmp_path: Path) -> None:
    log = tmp_path / "allocations.log"
    assert last_said(log) == ""
    log.write_text(
        "Loading\n/var/spool/job00015/slurm_script: line 6: module: command not found\n"
        "hyperband: a setup line of the Slurm profile failed: module load cuda\n\n"
    )
    said = "module: command not found; a setup line of the Slurm profile failed: module load cuda"
    assert last_said(log) == said
    log.write_text(
        "hyperband: a setup line of the Slurm profile failed: [ -e go ]\n"
        "hyperband: a setup line of the Slurm profile failed: false\n"
    )
    assert last_said(log) == "a setup line of the Slurm profile failed: false"
    log.write_text("one\nslurmstepd: error: execve(): python3: No such file or directory\n")
    assert last_said(log) == "execve(): python3: No such file or directory"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("error: invalid partition specified: nope", "Change the Slurm profile (or --slurm-set KEY=VALUE)"),
        ("fatal: Could not establish a configuration source", "or with SLURM_CONF set as there"),
    ],
)
def test_a_search_that_slurm_does_not_take_says_what_to_do(tmp_path: Path, said: str, advice: str) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\necho 'sbatch: {said}' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    with pytest.raises(MachineError) as refused:
        submit_search(
            tmp_path,
            Profile(),
            log=tmp_path / "log",
            cwd=tmp_path,
            environ={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"},
            command=("true",),
            signal_s=90,
        )
    assert said.partition(": ")[2] in str(refused.value)
    assert advice in str(refused.value)


def test_jobs_that_nobody_wants_any_more_are_told_in_one_line() -> None:
    slots = TrialJobSlots(Profile(), max_slots=None)
    for number in range(5):
        slots.note_cancelled((f"83_{number}",), "nobody wants it")
    slots.note_cancelled(("84",), "it can never start")
    assert slots.news() == (
        "Slurm's jobs 83_0, 83_1, 83_2 and 2 more are cancelled: nobody wants them",
        "Slurm's job 84 is cancelled: it can never start",
    )
    assert slots.news() == ()


def test_where_nothing_was_asked_for_nobody_is_asked_to_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm there: nobody would answer
    held, jobs = SlurmSlots(Profile(), max_slots=None), TrialJobSlots(Profile(), max_slots=None)
    try:
        files = SlurmFiles(tmp_path, Profile(), tmp_path)
        held.open(files, os.environ)
        assert (held.end(), end_allocations(tmp_path)) == ([], 0)
        files.note_asked()
        assert SlurmFiles(tmp_path, Profile(), tmp_path).may_have_jobs
        (tmp_path / "jobs").mkdir()
        jobs.open(TrialJobFiles(tmp_path / "jobs", Profile(), tmp_path), os.environ)
        assert (jobs.end(), end_allocations(tmp_path / "jobs")) == ([], 0)
    finally:
        held.close()
        jobs.close()
