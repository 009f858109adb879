"""What follows when somebody cancels a job by hand: its trial is over, and nothing else is to blame."""

from dataclasses import replace
from pathlib import Path

from hyperband.launch.base import Ending
from hyperband.search.events import JobEnded, JobStarted
from hyperband.search.health import Health
from hyperband.search.trial import Outcome
from hyperband.study.failures import N_SAME_FAILURES, FirstFailures
from hyperband.study.judging import judged_end
from hyperband.study.verdict import judge

CANCELLED = Ending(
    exit_status=None,
    asked=None,
    started_at=None,
    ended_at=None,
    leftovers=(),
    note="its step 12.3 was cancelled by somebody",
    was_cancelled=True,
)


def started(job: int) -> JobStarted:
    return JobStarted(
        float(job), job, 0, job, 0, 1, "cpu:0", several_gpus=False, script_sha256="", host="one"
    )


def ended(job: int, outcome: Outcome) -> JobEnded:
    loss = 1.0 if outcome is Outcome.LOSS else None
    return JobEnded(
        job + 0.5, job, 0, outcome, loss, None, float(job), job + 0.5, True, "", fingerprint="a kind"
    )


def test_it_is_cancelled_whatever_its_exit_was(tmp_path: Path) -> None:
    for ending in (CANCELLED, replace(CANCELLED, exit_status=-15), replace(CANCELLED, exit_status=0)):
        reading = judge(ending, folder=tmp_path, config_id="a1", gpu_is_lost=False, search_alive=True)
        assert (reading.outcome, reading.loss) == (Outcome.CANCELLED, None)
        assert "12.3" in reading.note


def test_it_is_a_failure_that_is_not_tried_again_however_many_retries_there_are() -> None:
    assert Outcome.CANCELLED.is_final
    assert Outcome.CANCELLED.is_failure
    end = ended(0, Outcome.CANCELLED)
    assert judged_end(Health(), started(0), end, retries=5).retry is False
    assert judged_end(Health(), started(0), replace(end, exit_status=-15), retries=5).retry is False


def test_it_says_nothing_of_the_slot_either_way() -> None:
    for outcome, is_bad in ((Outcome.CANCELLED, True), (Outcome.NOT_FINITE, False)):
        health = Health()
        for job in range(8):
            health.see(replace(started(job), slot="cpu:1"))
            health.see(ended(job, Outcome.LOSS))
        for job, end in ((10, Outcome.CRASHED), (11, Outcome.CRASHED), (12, outcome), (13, Outcome.CRASHED)):
            health.see(started(job))
            health.see(ended(job, end))
        changes = health.changes(["cpu:0", "cpu:1"], now=20.0, quarantine_s=60.0)
        assert [change.slot for change in changes] == ["cpu:0"] * is_bad


def test_many_of_them_do_not_end_the_search_as_the_scripts_failures_do() -> None:
    for outcome, ends in ((Outcome.CANCELLED, False), (Outcome.NO_LOSS, True)):
        failures = FirstFailures()
        seen = [failures.see(ended(job, outcome)) for job in range(N_SAME_FAILURES)]
        assert any(seen) is ends
