"""Packing: what the events of a study tell about the memory that jobs need."""

from dataclasses import replace

import pytest
from engine_fixture import plan
from hypothesis import given
from hypothesis import strategies as st

from hyperband.search.events import Event, JobEnded, JobStarted, PlanMade, SearchStarted
from hyperband.search.packing import Packing, Room
from hyperband.search.trial import Outcome

GIB = 1 << 30
ALLOWANCE = 512 << 20
UNKNOWN = Room(whole=True, gpu_memory_bytes=None, most_jobs=None)
PLAN = PlanMade(plan([(9, 1), (3, 3), (1, 9)]))


def start(job: int, *, gpu: str = "A", epochs: int = 1, trial: int | None = None) -> JobStarted:
    return JobStarted(
        at=0.0,
        job=job,
        attempt=0,
        trial=job if trial is None else trial,
        rung=0,
        epochs=epochs,
        slot=f"gpu:0/{job}",
        several_gpus=False,
        script_sha256="",
        host="here",
        gpu_uuids=tuple(gpu.split("+")),
    )


def end(job: int, peak: float | None = 1, outcome: Outcome = Outcome.LOSS) -> JobEnded:
    return JobEnded(
        at=0.0,
        job=job,
        attempt=0,
        outcome=outcome,
        loss=1.0 if outcome is Outcome.LOSS else None,
        exit_status=0,
        started_at=0.0,
        ended_at=0.0,
        search_alive=True,
        note="",
        gpu_memory_peak_bytes=None if peak is None else int(peak * GIB),
    )


def packing(*events: Event) -> Packing:
    made = Packing()
    for event in (PLAN, *events):
        made.see(event)
    return made


def alone(*peaks: float | None) -> list[Event]:
    """Jobs one after the other."""
    return [event for job, peak in enumerate(peaks) for event in (start(job), end(job, peak))]


@pytest.mark.parametrize("peaks", [(), (5,), (5, 6), (5, 6, None), (5, 6, 0, None)])
def test_until_three_are_measured_each_job_is_alone(peaks: tuple[float | None, ...]) -> None:
    assert packing(*alone(*peaks)).room(1) == UNKNOWN


def test_one_trial_measured_three_times_is_one() -> None:
    rungs: list[Event] = [event for job in range(3) for event in (start(job, trial=0), end(job, 5))]
    assert packing(*rungs).room(1) == UNKNOWN


def test_the_most_that_was_seen_is_expected_of_all_but_the_last_rung() -> None:
    known = packing(*alone(5, 7.5, 6))
    expected = int(7.5 * GIB) + ALLOWANCE
    assert known.room(1) == known.room(3) == Room(False, expected, None)
    assert known.room(9) == Room(True, expected, None)


def test_failures_are_measured_too() -> None:
    events: list[Event] = [
        start(0),
        end(0, 20, Outcome.CRASHED),
        start(1),
        end(1, 2, Outcome.LOST),
        start(2),
        end(2, 3),
    ]
    assert packing(*events).room(1).gpu_memory_bytes == 20 * GIB + ALLOWANCE


def test_without_a_plan_nothing_is_cheap() -> None:
    made = Packing()
    for event in alone(1, 1, 1):
        made.see(event)
    assert made.room(1).whole


def test_what_ran_out_of_memory_together_is_not_tried_again() -> None:
    three = [start(0), start(1), start(2)]
    known = packing(*three, end(1, 9, Outcome.OUT_OF_MEMORY))
    assert known.room(1).most_jobs == 2
    for event in (end(0), end(2), start(3), start(4), end(4, 9, Outcome.OUT_OF_MEMORY)):
        known.see(event)
    assert known.room(1).most_jobs == 1
    assert known.room(1).whole
    for event in (end(3), *[one for job in range(5, 30) for one in (start(job), end(job))]):
        known.see(event)
    assert known.room(1).whole, "and never grows again"


def test_company_that_has_left_before_counts() -> None:
    events: list[Event] = [start(0), start(1), end(1), end(0, 9, Outcome.OUT_OF_MEMORY)]
    assert packing(*events).room(1).most_jobs == 1


def test_a_job_that_runs_out_of_memory_alone_is_its_own_business() -> None:
    events: list[Event] = [start(0, gpu="A"), start(1, gpu="B"), end(0, 9, Outcome.OUT_OF_MEMORY)]
    assert packing(*events).room(1).most_jobs is None


def test_a_job_on_several_gpus_has_the_company_of_each() -> None:
    events: list[Event] = [start(0, gpu="A+B"), start(1, gpu="B"), end(1, 9, Outcome.OUT_OF_MEMORY)]
    assert packing(*events).room(1).most_jobs == 1


def test_shares_are_told_apart_from_gpus_where_no_uuid_was_written_down() -> None:
    bare: list[JobStarted] = [replace(start(job), gpu_uuids=()) for job in (0, 1)]
    assert packing(*bare, end(0, 1, Outcome.OUT_OF_MEMORY)).room(1).most_jobs == 1
    elsewhere = replace(bare[1], slot="gpu:1/1")
    assert packing(bare[0], elsewhere, end(0, 1, Outcome.OUT_OF_MEMORY)).room(1).most_jobs is None


def test_other_events_tell_nothing() -> None:
    started = SearchStarted(0.0, {}, "here", 1, "boot", "0")
    assert packing(started, end(7)).room(1) == UNKNOWN


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.floats(0.1, 70), st.booleans()), max_size=60))
def test_the_most_jobs_never_grow_and_the_need_never_shrinks(
    steps: list[tuple[bool, int, float, bool]],
) -> None:
    made, running, next_job = packing(), list[int](), 0
    most, need = 99, 0
    for starts, gpu, peak, fails in steps:
        if starts or not running:
            made.see(start(next_job, gpu="AB"[gpu]))
            running.append(next_job)
            next_job += 1
        else:
            made.see(end(running.pop(0), peak, Outcome.OUT_OF_MEMORY if fails else Outcome.LOSS))
        room = made.room(1)
        assert 1 <= (room.most_jobs or 99) <= most
        assert (room.gpu_memory_bytes or 0) >= need
        assert room.whole or room.gpu_memory_bytes is not None
        most, need = room.most_jobs or 99, room.gpu_memory_bytes or 0
