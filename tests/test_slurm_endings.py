"""Whose doing the end of an attempt in a step of Slurm's was: tables of what was heard, and what follows."""

import signal

import pytest

from hyperband.launch.base import Ending, StopReason
from hyperband.launch.slurm.held.endings import Heard, Judged, judged

KILLED, TERMINATED = -signal.SIGKILL, -signal.SIGTERM
CANCELLED = "slurmstepd-n2: error: *** STEP 2.1 ON n2 CANCELLED AT 2026-11-21T16:04:07 DUE TO PREEMPTION ***"
TASK_KILLED = "srun: error: n1: task 0: Killed"
NODE_FAILED = "srun: error: Node failure on n2"
GONE = "the allocation 7 ended: node failure"


def ended(status: int | None, *, asked: StopReason | None = None, oom_killed: bool = False) -> Ending:
    return Ending(status, asked, None, None, (), "", oom_killed=oom_killed)


def lost(note: str = "its keeper was killed", *, by_itself: bool = True) -> Ending:
    return Ending(None, None, None, None, (), note, lost_keeper=by_itself)


def is_taken_away(found: Judged) -> bool:
    assert (found.trouble is not None) == found.ending.was_taken_away
    return found.ending.was_taken_away


@pytest.mark.parametrize("status", [1, KILLED, 137])
@pytest.mark.parametrize("was_fenced", [False, True])
def test_a_crash_whose_result_is_seen_late_is_a_crash(status: int, was_fenced: bool) -> None:
    found = judged(ended(status), Heard(srun_status=0, was_fenced=was_fenced))
    assert found == Judged(ended(status))


@pytest.mark.parametrize(
    "heard",
    [
        Heard(said=CANCELLED, srun_status=137),
        Heard(srun_status=KILLED, was_fenced=True),
        Heard(srun_status=137, was_fenced=True),
        Heard(was_fenced=True),
        Heard(said=NODE_FAILED, srun_status=1, taken=GONE, was_fenced=True),
    ],
)
@pytest.mark.parametrize("status", [KILLED, TERMINATED, 143])
def test_a_job_that_was_killed_before_its_keeper_is_lost_with_its_step(status: int, heard: Heard) -> None:
    found = judged(ended(status), heard)
    assert is_taken_away(found)
    assert found.ending.exit_status is None


@pytest.mark.parametrize("heard", [Heard(srun_status=KILLED), Heard(was_fenced=True), Heard(taken=GONE)])
def test_a_job_that_failed_by_itself_failed_whatever_became_of_its_step(heard: Heard) -> None:
    assert judged(ended(1), heard) == Judged(ended(1))
    out_of_memory = ended(KILLED, oom_killed=True)
    assert judged(out_of_memory, heard) == Judged(out_of_memory)


@pytest.mark.parametrize("was_fenced", [False, True])
def test_a_job_that_slurm_told_to_end_is_lost_also_if_it_was_fenced_meanwhile(was_fenced: bool) -> None:
    told = ended(TERMINATED, asked=StopReason.STOP)
    found = judged(told, Heard(was_fenced=was_fenced))
    assert is_taken_away(found)
    assert found.ending.asked is None
    asked = judged(told, Heard(was_asked=True, was_fenced=was_fenced))
    assert asked == Judged(told)


@pytest.mark.parametrize(
    "heard",
    [
        Heard(said=CANCELLED),
        Heard(said=NODE_FAILED, srun_status=1),
        Heard(srun_status=KILLED, was_fenced=True),
        Heard(srun_status=0, taken=GONE),
    ],
)
def test_a_keeper_that_was_killed_with_its_step_is_none_of_the_jobs_doing(heard: Heard) -> None:
    assert is_taken_away(judged(lost(), heard))


@pytest.mark.parametrize(
    "heard",
    [Heard(srun_status=0), Heard(said=TASK_KILLED, srun_status=137, was_fenced=True), Heard()],
)
def test_a_job_that_kills_who_keeps_it_is_not_excused(heard: Heard) -> None:
    assert judged(lost(), heard) == Judged(lost())


def test_a_job_that_kills_all_who_keep_it_is_not_excused_where_slurm_says_that_its_place_goes_on() -> None:
    ending = lost("its step has ended", by_itself=False)
    heard = Heard(said=TASK_KILLED, srun_status=137, was_fenced=True, does_run=True)
    assert judged(ending, heard) == Judged(ending)
    assert is_taken_away(judged(ending, Heard(said=TASK_KILLED, srun_status=137, was_fenced=True)))
    assert is_taken_away(judged(ending, Heard(srun_status=KILLED, does_run=True))), "somebody killed its srun"
    assert is_taken_away(judged(ending, Heard(does_run=True))), "of an earlier search: nobody knows"


@pytest.mark.parametrize("ending", [lost(), ended(KILLED)])
def test_a_step_that_alone_was_cancelled_is_cancelled_whoever_saw_it_first(ending: Ending) -> None:
    said = "slurmstepd-n1: error: *** STEP 81.1 ON n1 CANCELLED AT 2026-11-21T17:55:18 ***"
    found = judged(ending, Heard(said=said, srun_status=137, does_run=True))
    assert (found.ending.was_cancelled, found.trouble) == (True, None)
    with_all = judged(ending, Heard(said=said, srun_status=137, taken=GONE))
    assert is_taken_away(with_all)
    assert not with_all.ending.was_cancelled


@pytest.mark.parametrize("ending", [lost(), ended(TERMINATED), ended(TERMINATED, asked=StopReason.STOP)])
def test_an_allocation_that_is_preempted_runs_on_for_a_moment_and_nobody_cancelled_its_steps(
    ending: Ending,
) -> None:
    said = "slurmstepd-n1: error: *** STEP 81.1 ON n1 CANCELLED AT 2026-11-21T17:55:18 ***"
    said += "; srun: error: n1: task 0: Terminated"
    found = judged(ending, Heard(said=said, srun_status=143, does_run=True))
    assert is_taken_away(found)
    assert not found.ending.was_cancelled


def test_a_lease_that_ran_out_is_nobodys_fault() -> None:
    assert is_taken_away(judged(lost("could not be renewed", by_itself=False), Heard(srun_status=0)))
