"""Whose fault a failure is: tables of ends and what follows from them, and laws under random ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband.search.events import JobEnded, JobStarted, SearchStarted, SlotQuarantined, SlotReleased
from hyperband.search.health import HOLD_S, N_EATEN, Health
from hyperband.search.trial import Outcome

SLOTS = ("gpu:0", "gpu:1")


class History:
    """Attempts that end one after the other, and what `Health` says of each."""

    def __init__(self, *, retries: int = 1, slots: tuple[str, ...] = SLOTS) -> None:
        self.health = Health()
        self.retries = retries
        self.slots = slots
        self.n_attempts: dict[int, int] = {}
        self.now = 0.0

    def end(self, job: int, slot: str, end: str, *, took_s: float = 1.0, several_gpus: bool = False) -> bool:
        """`ok`, or an outcome's letter and a fingerprint such as `C:KeyError`; whether it is retried."""
        attempt = self.n_attempts.get(job, 0)
        self.n_attempts[job] = attempt + 1
        start = JobStarted(
            self.now, job, attempt, job, 0, 1, slot, several_gpus=several_gpus, script_sha256="", host=""
        )
        self.health.see(start)
        letter, _, fingerprint = end.partition(":")
        outcome = {
            "ok": Outcome.LOSS,
            "C": Outcome.CRASHED,
            "O": Outcome.OUT_OF_MEMORY,
            "N": Outcome.NO_LOSS,
            "T": Outcome.TIMED_OUT,
            "F": Outcome.NOT_FINITE,
            "L": Outcome.LOST,
        }[letter]
        loss = 1.0 if outcome is Outcome.LOSS else None
        event = JobEnded(
            self.now,
            job,
            attempt,
            outcome,
            loss,
            None,
            self.now,
            self.now + took_s,
            True,
            "",
            fingerprint=fingerprint,
        )
        retry = self.health.is_retried(start, event, retries=self.retries)
        self.health.see(
            JobEnded(
                self.now,
                job,
                attempt,
                outcome,
                loss,
                None,
                self.now,
                self.now + took_s,
                True,
                "",
                retry=retry,
                fingerprint=fingerprint,
            )
        )
        self.now += took_s
        for change in self.health.changes(self.slots, now=self.now, quarantine_s=100.0):
            self.health.see(change)
        return retry

    def quarantined(self) -> set[str]:
        return set(self.health.quarantined)


@pytest.mark.parametrize("end", ["C:KeyError", "O:CUDA out of memory", "N:"])
def test_a_job_that_fails_twice_in_the_same_way_has_failed(end: str) -> None:
    history = History()
    assert history.end(1, "gpu:0", end)
    assert not history.end(1, "gpu:1", end)


@pytest.mark.parametrize("end", ["T:", "F:", "ok", "L:"])
def test_too_slow_and_not_finite_are_never_retried(end: str) -> None:
    assert not History().end(1, "gpu:0", end)


def test_without_retries_every_failure_is_final() -> None:
    assert not History(retries=0).end(1, "gpu:0", "C:KeyError")


def test_a_job_that_fails_in_another_way_gets_one_more_try() -> None:
    history = History()
    assert history.end(1, "gpu:0", "C:KeyError")
    assert history.end(1, "gpu:1", "C:driver error")
    assert not history.end(1, "gpu:0", "C:something else")


def test_a_slot_whose_failures_succeed_elsewhere_is_quarantined_at_the_second() -> None:
    history = History()
    for job in (1, 2):
        assert history.quarantined() == set()
        history.end(job, "gpu:0", "C:bus error", took_s=60.0)
        history.end(job, "gpu:1", "ok")
    assert history.quarantined() == {"gpu:0"}


def test_a_success_between_two_strikes_wipes_the_first() -> None:
    history = History()
    for job in (1, 2, 3):
        history.end(job, "gpu:0", "C:bus error", took_s=60.0)
        history.end(job, "gpu:1", "ok")
        history.end(10 + job, "gpu:0", "ok")
    assert history.quarantined() == set()


def test_a_slot_that_fails_in_seconds_is_quarantined_before_it_has_eaten_four() -> None:
    history = History()
    history.end(0, "gpu:1", "ok", took_s=3600.0)
    for job in (1, 2, 3):
        assert history.quarantined() == set()
        assert history.end(job, "gpu:0", "C:no device", took_s=0.5)
    assert history.quarantined() == {"gpu:0"}


def test_a_slot_that_ran_jobs_well_is_not_to_blame_for_failures_of_several_kinds() -> None:
    history = History()
    history.end(0, "gpu:1", "ok")
    history.end(10, "gpu:0", "ok")
    for job, end in enumerate(["C:KeyError", "C:ValueError", "C:KeyError", "N:", "C:KeyError"], start=1):
        history.end(job, "gpu:0", end, took_s=0.5)
        assert history.quarantined() == set()
    history.end(6, "gpu:0", "C:KeyError", took_s=0.5)
    history.end(7, "gpu:0", "C:KeyError", took_s=0.5)
    assert history.quarantined() == {"gpu:0"}


def test_bad_configurations_cost_no_slot() -> None:
    history = History()
    history.end(90, "gpu:0", "ok")
    history.end(91, "gpu:1", "ok")
    for job in range(12):  # every second one fails on both slots, first here, then there
        first, second = SLOTS if job % 4 == 0 else SLOTS[::-1]
        if job % 2:
            history.end(job, first, "ok")
        else:
            assert history.end(job, first, "C:ValueError: width 32")
            assert not history.end(job, second, "C:ValueError: width 32")
        assert history.quarantined() == set()
    for job in range(20, 25):  # this is how configurations fail here: no slot is to blame
        history.end(job, "gpu:0", "C:ValueError: width 32")
        assert history.quarantined() == set()


def test_failures_that_are_not_retried_cost_no_slot_that_ran_jobs_well() -> None:
    history = History(retries=0)
    history.end(90, "gpu:0", "ok")
    history.end(91, "gpu:1", "ok")
    for job in range(5):
        history.end(job, "gpu:0", "C:KeyError")
    assert history.quarantined() == set()


def test_the_shares_of_a_gpu_are_judged_together() -> None:
    history = History(slots=("gpu:0/0", "gpu:1/0", "gpu:0/1", "gpu:1/1"))
    history.end(0, "gpu:1/1", "ok")
    for job, share in enumerate([0, 1, 0], start=1):
        assert history.quarantined() == set()
        history.end(job, f"gpu:0/{share}", "C:no device", took_s=0.5)
    assert history.quarantined() == {"gpu:0"}


def test_running_out_of_memory_is_no_strike() -> None:
    history = History()
    for job in (1, 2, 3):
        history.end(job, "gpu:0", "O:CUDA out of memory")
        history.end(job, "gpu:1", "ok")
    assert history.quarantined() == set()


def test_a_slot_is_not_to_blame_while_nothing_succeeds_elsewhere() -> None:
    history = History()
    for job in (1, 2, 3, 4):
        history.end(job, "gpu:0", "C:no device", took_s=0.5)
    assert history.quarantined() == set()


def test_a_slot_that_fails_in_seconds_waits_for_what_runs_elsewhere_but_not_for_ever() -> None:
    history = History()
    history.health.see(JobStarted(0.0, 9, 0, 9, 0, 1, "gpu:1", several_gpus=False, script_sha256="", host=""))
    for job in (1, 2, 3):
        assert history.health.held_back(history.now) == {}
        history.end(job, "gpu:0", "C:no device", took_s=0.5)
    failed_at = history.now - 0.5
    assert history.health.held_back(history.now) == {"gpu:0": failed_at + HOLD_S}
    assert history.health.held_back(failed_at - 1.0) == {}  # the clock was set back
    history.now += HOLD_S
    assert history.health.held_back(history.now) == {}
    history.end(4, "gpu:0", "C:no device", took_s=0.5)
    assert history.health.held_back(history.now) == {"gpu:0": history.now - 0.5 + 2 * HOLD_S}
    history.health.see(JobEnded(9.0, 9, 0, Outcome.CRASHED, None, 1, 0.0, 9.0, True, "", retry=True))
    assert history.health.held_back(history.now) == {}  # nothing runs elsewhere: nothing can be learnt


def test_slow_failures_in_a_row_are_no_black_hole() -> None:
    history = History()
    history.end(0, "gpu:1", "ok")
    for job in (1, 2, 3, 4):
        history.end(job, "gpu:0", "C:diverged", took_s=600.0)
    assert history.quarantined() == set()


def test_a_slot_is_given_back_when_its_failures_fail_elsewhere_as_well() -> None:
    history = History()
    history.end(0, "gpu:1", "ok")
    for job in (1, 2, 3):
        history.end(job, "gpu:0", "C:KeyError")
    assert history.quarantined() == {"gpu:0"}
    history.end(1, "gpu:1", "C:KeyError")
    assert history.quarantined() == {"gpu:0"}
    history.end(2, "gpu:1", "C:KeyError")
    assert history.quarantined() == set()


def test_a_quarantine_ends() -> None:
    history = History()
    history.end(0, "gpu:1", "ok")
    for job in (1, 2, 3):
        history.end(job, "gpu:0", "C:no device")
    assert history.quarantined() == {"gpu:0"}
    history.end(9, "gpu:1", "ok", took_s=200.0)
    assert history.quarantined() == set()


def test_the_last_slot_is_never_quarantined() -> None:
    history = History(slots=("gpu:0",))
    history.end(0, "gpu:1", "ok")  # a slot of an earlier start
    for job in (1, 2, 3, 4, 5):
        history.end(job, "gpu:0", "C:no device")
    assert history.quarantined() == set()


def test_two_black_holes_fail_no_job_for_good() -> None:
    history = History(slots=("gpu:0", "gpu:1", "gpu:2"))
    history.end(0, "gpu:2", "ok")
    for job in (1, 2, 3):
        assert history.end(job, "gpu:0", "C:no device")
        assert history.end(job, "gpu:1", "C:no device")
    assert history.quarantined() == {"gpu:0", "gpu:1"}
    assert not history.end(1, "gpu:2", "C:no device")  # here others succeed: its own fault


def test_who_releases_a_slot_gives_it_a_new_start() -> None:
    history = History()
    history.end(0, "gpu:1", "ok")
    for job in (1, 2, 3):
        history.end(job, "gpu:0", "C:no device")
    history.health.see(SlotReleased(history.now, "gpu:0", "by hand"))
    assert history.health.changes(SLOTS, now=history.now, quarantine_s=1.0) == []
    for job in (4, 5):
        history.end(job, "gpu:0", "C:no device")
        assert history.quarantined() == set()
    history.end(6, "gpu:0", "C:no device")
    assert history.quarantined() == {"gpu:0"}


ends = st.tuples(
    st.integers(0, 6),
    st.sampled_from(["gpu:0", "gpu:1", "gpu:2"]),
    st.sampled_from(["ok", "C:a", "C:b", "O:c", "N:", "T:", "F:", "L:"]),
    st.sampled_from([0.5, 100.0]),
)


@given(st.lists(ends, max_size=60), st.integers(0, 3))
def test_some_slot_is_always_left_and_every_job_comes_to_an_end(
    made: list[tuple[int, str, str, float]], retries: int
) -> None:
    slots = ("gpu:0", "gpu:1", "gpu:2")
    history = History(retries=retries, slots=slots)
    n_retries: dict[int, int] = {}
    for job, slot, end, took_s in made:
        if history.end(job, slot, end, took_s=took_s):
            n_retries[job] = n_retries.get(job, 0) + 1
            assert n_retries[job] <= 2 * retries + N_EATEN
        elif not end.startswith("L"):
            n_retries[job] = 0
        assert history.quarantined() < set(slots)


@given(st.lists(ends, max_size=30))
def test_a_replay_knows_what_the_search_knew(made: list[tuple[int, str, str, float]]) -> None:
    history = History()
    events: list[JobStarted | JobEnded | SlotQuarantined | SlotReleased] = []
    see = history.health.see

    def record(event: JobStarted | JobEnded | SlotQuarantined | SlotReleased) -> None:
        events.append(event)
        see(event)

    history.health.see = record  # type: ignore[method-assign, assignment]
    for job, slot, end, took_s in made:
        history.end(job, slot, end, took_s=took_s)
    again = Health(events)
    assert dict(again.quarantined) == dict(history.health.quarantined)
    assert again.changes(SLOTS, now=1e9, quarantine_s=1.0) == history.health.changes(
        SLOTS, now=1e9, quarantine_s=1.0
    )


def test_failures_on_several_gpus_count_for_their_job_and_for_none_of_the_gpus() -> None:
    history = History()
    history.end(90, "gpu:1", "ok")
    for job in (1, 2, 3):
        assert history.end(job, "gpu:0,1", "C:KeyError", several_gpus=True)
        assert not history.end(job, "gpu:0,1", "C:KeyError", several_gpus=True)
    assert history.end(4, "gpu:0", "C:KeyError")
    assert not history.end(4, "gpu:0,1", "C:KeyError", several_gpus=True)
    assert history.quarantined() == set()


def in_quarantine(*, until_at: float) -> SlotQuarantined:
    return SlotQuarantined(0.0, "gpu:0", until_at, "the jobs 1, 2 failed here and succeeded elsewhere")


def test_the_last_slot_is_given_back_when_there_are_fewer_slots_than_before() -> None:
    history = History()
    history.health.see(in_quarantine(until_at=1000.0))
    assert history.health.changes(SLOTS, now=1.0, quarantine_s=100.0) == []
    (change,) = history.health.changes(("gpu:0",), now=1.0, quarantine_s=100.0)
    assert isinstance(change, SlotReleased)
    assert change.slot == "gpu:0"
    history.health.see(change)
    assert history.health.changes(("gpu:0",), now=1.0, quarantine_s=100.0) == []


def test_of_slots_that_are_all_in_quarantine_the_one_that_has_served_most_is_given_back() -> None:
    health = Health([in_quarantine(until_at=1000.0), SlotQuarantined(0.0, "gpu:1", 900.0, "")])
    (change,) = health.changes(SLOTS, now=1.0, quarantine_s=100.0)
    assert change.slot == "gpu:1"
    assert [change.slot for change in health.changes(SLOTS, now=950.0, quarantine_s=100.0)] == ["gpu:1"]


def test_a_job_that_fails_again_and_again_on_one_slot_is_one_job() -> None:
    history = History(retries=4)
    history.end(9, "gpu:1", "ok")
    for _ in range(4):
        assert history.end(0, "gpu:0", "C:KeyError")
        assert history.quarantined() == set()
    history.end(1, "gpu:0", "C:KeyError")
    assert history.quarantined() == set()
    history.end(2, "gpu:0", "C:KeyError")
    assert history.quarantined() == {"gpu:0"}, "three jobs are three"


def started_on(host: str) -> SearchStarted:
    return SearchStarted(0.0, {}, host, 1, "", "")


def test_another_machine_begins_with_a_clean_slate() -> None:
    history = History()
    history.health.see(started_on("a"))
    history.end(90, "gpu:1", "ok")
    for job in (1, 2):
        history.end(job, "gpu:0", "C:no device")
    history.health.see(started_on("a"))
    history.end(3, "gpu:0", "C:no device")
    assert history.quarantined() == {"gpu:0"}, "the same machine"
    history.health.see(started_on("b"))
    assert history.quarantined() == set()
    history.end(91, "gpu:1", "ok")
    for job in (4, 5):
        history.end(job, "gpu:0", "C:no device")
        assert history.quarantined() == set()
    history.end(6, "gpu:0", "C:no device")
    assert history.quarantined() == {"gpu:0"}


def test_running_out_of_memory_is_not_tried_again_and_again_where_nothing_succeeded_yet() -> None:
    history = History()
    history.end(9, "gpu:1", "ok")
    assert history.end(1, "gpu:0", "O:CUDA out of memory", took_s=2.0)
    assert not history.end(1, "gpu:0", "O:CUDA out of memory", took_s=2.0)
