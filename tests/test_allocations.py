"""Which allocations are asked for and given up: tables of events and orders; laws over random histories."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.held.allocations import Allocations
from hyperband.launch.slurm.held.cuts import CutOffs
from hyperband.launch.slurm.held.events import (
    Action,
    Avoid,
    Began,
    Ended,
    Event,
    Lost,
    Ready,
    Rules,
    Submit,
    Wanted,
)
from hyperband.launch.slurm.orders import Cancel, Fail, Say, Stop, Tick
from hyperband.launch.slurm.reports import CancelRefused, NotSubmitted, Status, Submitted, Unreachable
from hyperband.launch.slurm.words import JobLine, JobState, Refusal

RULES = Rules(max_allocations=3, n_slots_per_node=2, idle_s=100.0, margin_s=10.0)
NODE = "n1"


def waits(job_id: str = "1", reason: str = "Priority") -> JobLine:
    return JobLine(job_id, "hb", JobState.WAITING, "PENDING", reason)


def runs(job_id: str = "1", *, left_s: float | None = None, started: str = "t0", node: str = NODE) -> JobLine:
    return JobLine(
        job_id, "hb", JobState.RUNNING, "RUNNING", nodes=(node,), started=started, time_left_s=left_s
    )


def over(state: JobState, job_id: str = "1") -> JobLine:
    return JobLine(job_id, "hb", state, state.upper())


class Story:
    """Allocations with a clock; keeps what was ordered."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.allocations = Allocations(rules)
        self.now_s = 1000.0

    def tell(self, *events: Event) -> list[Action]:
        """The orders, without what is only said."""
        return [action for action in self.all_of(*events) if not isinstance(action, Say)]

    def all_of(self, *events: Event) -> list[Action]:
        found: list[Action] = []
        for event in events:
            found += self.allocations.handle(event, self.now_s)
            self.allocations.validate()
        return found

    def after(self, seconds: float) -> list[Action]:
        self.now_s += seconds
        return self.tell(Tick())

    def free(self, expected_s: float | None = None) -> list[str]:
        return [place.name for place in self.allocations.free(expected_s, self.now_s)]

    def hold(self, job_id: str = "1", *, left_s: float | None = None, node: str = NODE) -> None:
        """Be granted what was asked for first."""
        self.tell(Submitted(int(job_id), job_id), Status((runs(job_id, left_s=left_s, node=node),)))
        self.tell(Ready(job_id, "a", (node,)))


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def held(story: Story) -> Story:
    """One allocation is held for two jobs, one of which runs."""
    assert story.tell(Status(()), Wanted(2)) == [Submit(1)]
    story.hold()
    assert story.tell(Began(Place("1", NODE, 0)), Wanted(0)) == []
    return story


# how many


def test_nothing_is_asked_for_before_slurm_said_what_is_there(story: Story) -> None:
    assert story.tell(Wanted(9)) == []
    assert story.tell(Status(())) == [Submit(1), Submit(2), Submit(3)]


@pytest.mark.parametrize(("n_jobs", "n_asked"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 3), (100, 3)])
def test_as_many_as_the_waiting_jobs_need_and_no_more_than_allowed(
    story: Story, n_jobs: int, n_asked: int
) -> None:
    assert len(story.tell(Status(()), Wanted(n_jobs))) == n_asked
    assert story.tell(Wanted(n_jobs), Tick()) == [], "asked once"


def test_max_slots_bounds_allocations_and_jobs() -> None:
    story = Story(replace(RULES, max_slots=3))
    assert len(story.tell(Status(()), Wanted(9))) == 2
    story.hold("1")
    story.hold("2", node="n2")
    assert story.free() == ["n1/1/0", "n1/1/1", "n2/2/0"]
    story.tell(Began(Place("1", "n1", 0)), Began(Place("1", "n1", 1)), Began(Place("2", "n2", 0)))
    assert story.free() == []


def test_a_minimum_is_kept_without_work_and_never_given_up() -> None:
    story = Story(replace(RULES, min_allocations=1))
    assert story.tell(Status(())) == [Submit(1)]
    story.hold()
    assert story.after(1e6) == []
    [cancel] = story.tell(Stop())
    assert isinstance(cancel, Cancel)
    assert story.tell(Status((over(JobState.CANCELLED),))) == [], "and not asked for again"


def test_one_that_is_not_needed_is_given_up_after_a_time(held: Story) -> None:
    assert held.after(1000) == [], "a job runs"
    held.tell(Ended(Place("1", NODE, 0)))
    assert held.after(99) == []
    assert held.allocations.next_look_s(held.now_s) == pytest.approx(1)
    assert held.after(1) == [Cancel(("1",), "it is not needed")]
    assert held.free() == []
    assert held.tell(Status((over(JobState.CANCELLED),))) == []
    assert held.allocations.job_ids == []


def test_work_that_comes_in_time_keeps_it(held: Story) -> None:
    held.tell(Ended(Place("1", NODE, 0)))
    assert held.after(90) == []
    held.tell(Wanted(1))
    assert held.after(50) == []
    held.tell(Wanted(0))
    assert held.after(99) == []
    assert len(held.after(1)) == 1


def test_those_that_wait_are_given_up_first_the_newest_first(held: Story) -> None:
    assert held.tell(Wanted(5)) == [Submit(2), Submit(3)]
    held.tell(Submitted(2, "2"), Submitted(3, "3"), Status((runs(), waits("2"), waits("3"))), Wanted(0))
    assert held.after(100) == [Cancel(("3", "2"), "it is not needed")]


def test_jobs_go_where_most_of_them_are(held: Story) -> None:
    held.tell(Wanted(3))
    held.hold("2", node="n2")
    assert held.free() == ["n1/1/1", "n2/2/0", "n2/2/1"]
    held.tell(Began(Place("2", "n2", 0)), Began(Place("2", "n2", 1)), Ended(Place("2", "n2", 0)))
    held.tell(Ended(Place("1", NODE, 0)))
    assert held.free() == ["n2/2/0", "n1/1/0", "n1/1/1"]


# time limits


def test_a_job_starts_only_where_it_would_come_to_its_end(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    story.hold(left_s=1000)
    assert story.free(990) != []
    assert story.free(991) == story.free(995) != [], "longer than any allocation: where one has just begun"
    story.now_s += 500
    assert story.free(490) != []
    assert story.free(491) == []
    assert story.free(5000) == []
    assert story.free(None) != []
    story.now_s += 491
    assert story.free(None) == [], "nothing starts within the margin"


def test_what_setup_lines_take_of_an_allocation_is_not_there_for_jobs(story: Story) -> None:
    story.tell(Status(()), Wanted(1), Submitted(1, "1"), Status((runs(left_s=1000),)))
    story.now_s += 300
    story.tell(Ready("1", "a", (NODE,)))
    assert story.free(690) != []
    assert story.tell(Wanted(1, 900.0)) == [], "no other would have more"
    assert story.free(900) != [], "longer than any: where one has just begun"
    story.now_s += 100
    assert story.free(900) == []


def test_one_that_was_taken_over_is_not_taken_for_one_that_has_just_begun() -> None:
    story = Story(replace(RULES, time_limit_s=1000))
    story.tell(Wanted(1), Status((runs("7", left_s=400),)), Ready("7", "a", (NODE,)))
    assert story.free(380) != []
    assert story.free(500) == []
    assert story.free(2000) == []


def test_jobs_that_take_longer_than_an_allocation_are_told_of_once(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    story.hold(left_s=1000)
    assert story.all_of(Wanted(1, 990.0)) == []
    [said] = story.all_of(Wanted(1, 2000.0))
    assert isinstance(said, Say)
    assert "expected to take 2000 s, and an allocation has 990 s" in said.words
    assert "--slurm-set time=" in said.words
    assert story.all_of(Wanted(1, 2100.0)) == []


def test_a_job_is_cut_off_as_often_as_it_must_be_and_a_little_more() -> None:
    cuts = CutOffs()
    assert cuts.note("7", ran_s=100.0, expected_s=None) is None
    assert cuts.note("8", ran_s=100.0, expected_s=None) is None
    assert cuts.note("7", ran_s=100.0, expected_s=None) is None
    words = cuts.note("7", ran_s=100.0, expected_s=None)
    assert words is not None
    assert "job 7 was cut off by the time limit of its allocation 3 times, the last time after 100 s" in words
    assert [cuts.note("9", ran_s=100.0, expected_s=450.0) is None for _ in range(7)] == [True] * 6 + [False]


def test_one_with_too_little_time_is_given_up_and_followed_by_another(held: Story) -> None:
    held.tell(Status((runs(left_s=1000),)), Wanted(1, 600.0))
    assert held.tell(Tick()) == [], "its free place will do"
    assert held.after(500) == [Submit(2)], "its free place is none any more"
    assert held.tell(Ended(Place("1", NODE, 0))) == [Cancel(("1",), "too little of its time is left")]
    assert held.tell(Status((over(JobState.CANCELLED),))) == []


def test_at_most_so_many_also_when_one_follows_another() -> None:
    story = Story(replace(RULES, max_allocations=1))
    story.tell(Status(()), Wanted(1, 600.0))
    story.hold(left_s=1000)
    assert story.after(500) == [Cancel(("1",), "too little of its time is left")]
    assert story.tell(Wanted(2, 600.0)) == [], "the first is still there"
    assert story.tell(Status((over(JobState.CANCELLED),))) == [Submit(2)]


def test_the_end_of_its_time_takes_the_jobs_with_it_and_another_follows(held: Story) -> None:
    held.tell(Wanted(1))
    actions = held.tell(Status((over(JobState.TIME_LIMIT),)))
    assert actions[0] == Lost(
        (Place("1", NODE, 0),), JobState.TIME_LIMIT, "the allocation 1 ended: time limit"
    )
    assert [type(action) for action in actions[1:]] == [Submit]


# what becomes of them


def test_one_that_is_queued_again_loses_its_jobs_and_comes_back(held: Story) -> None:
    [lost] = held.tell(Status((waits(reason="BeginTime"),)))
    assert lost == Lost(
        (Place("1", NODE, 0),), JobState.WAITING, "the allocation 1 was queued again by Slurm (BeginTime)"
    )
    assert held.free() == []
    held.tell(Ready("1", "a", (NODE,)))
    held.tell(Status((runs(started="t1"),)))
    assert held.free() == [], "the word of the first start's holder does not count"
    held.tell(Ready("1", "b", (NODE,)))
    assert held.free() == ["n1/1/1"], "the job of before may still run at its place"
    held.tell(Ready("1", "a", (NODE,)), Status((runs(started="t1"),)))
    assert held.free() == ["n1/1/1"], "the first holder's file is still there"
    held.tell(Ended(Place("1", NODE, 0)))
    assert held.free() == ["n1/1/0", "n1/1/1"]


def test_one_that_was_queued_again_and_started_between_two_looks(held: Story) -> None:
    held.tell(Ready("1", "b", ("n2",)))
    [lost] = held.tell(Status((runs(started="t1", node="n2"),)))
    assert isinstance(lost, Lost)
    assert held.free() == ["n2/1/0", "n2/1/1"]


def test_a_holder_that_is_there_before_squeue_says_so(story: Story) -> None:
    story.tell(Status(()), Wanted(1), Submitted(1, "1"), Ready("1", "a", (NODE,)), Status((waits(),)))
    assert story.free() == []
    story.tell(Status((runs(),)))
    assert story.free() == ["n1/1/0", "n1/1/1"]


@pytest.mark.parametrize("state", [JobState.NODE_FAILURE, JobState.PREEMPTED, JobState.GONE])
def test_jobs_are_lost_with_their_allocation(held: Story, state: JobState) -> None:
    [lost] = held.tell(Status((over(state),)))
    assert isinstance(lost, Lost)
    assert (lost.places, lost.state) == ((Place("1", NODE, 0),), state)
    assert held.tell(Ended(Place("1", NODE, 0)), Wanted(1)) == [Submit(2)]


def test_slurms_silence_is_no_news(held: Story) -> None:
    held.tell(Ended(Place("1", NODE, 0)))
    assert held.tell(Unreachable("connect failure"), Wanted(50)) == []
    assert held.after(1e6) == []
    assert held.free() == ["n1/1/0", "n1/1/1"]
    assert not held.allocations.is_reachable
    assert held.tell(Status((runs(),))) == [Submit(2), Submit(3)]


def test_a_job_that_squeue_does_not_list_is_not_over(held: Story) -> None:
    assert held.tell(Status(())) == []
    assert held.free() == ["n1/1/1"]


def test_a_word_that_is_not_known_changes_nothing(held: Story) -> None:
    line = JobLine("1", "hb", JobState.UNKNOWN, "DANCING")
    said = held.all_of(Status((line,)))
    assert [action for action in said if isinstance(action, Say) and "DANCING" in action.words]
    assert held.all_of(Status((line,))) == [], "said once"
    assert held.free() == ["n1/1/1"]


def test_a_suspended_one_gets_no_jobs_and_keeps_its_own(held: Story) -> None:
    line = replace(runs(), state=JobState.SUSPENDED)
    assert held.tell(Status((line,))) == []
    assert held.free() == []
    held.tell(Status((runs(),)))
    assert held.free() == ["n1/1/1"]


def test_one_that_is_queued_again_while_it_is_suspended_is_as_good_as_any_that_waits(held: Story) -> None:
    held.tell(Status((replace(runs(), state=JobState.SUSPENDED),)))
    assert held.tell(Status((waits(),)), Wanted(1), Tick())[1:] == [], "it is coming: no other is needed"
    assert "suspended" not in held.allocations.why_none()


def test_one_that_somebody_cancelled_is_not_replaced(held: Story) -> None:
    held.tell(Wanted(5))
    held.hold("2", node="n2")
    actions = held.all_of(Status((over(JobState.CANCELLED), runs("2", node="n2"))))
    assert [type(action) for action in actions] == [Lost, Say]
    assert isinstance(actions[1], Say)
    assert "cancelled by somebody" in actions[1].words
    assert "at most 2" in actions[1].words, "the other one and the one that is asked for"
    assert held.tell(Wanted(50)) == []


def test_when_somebody_cancelled_the_last_one_the_search_ends_and_says_so(held: Story) -> None:
    actions = held.tell(Status((over(JobState.CANCELLED),)), Wanted(5))
    assert [type(action) for action in actions] == [Lost, Fail]
    assert isinstance(actions[1], Fail)
    assert "Start the search again" in actions[1].words


def test_one_that_ends_by_itself_is_asked_for_again_later_and_not_for_ever(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    for ticket, pause_s in ((1, 2), (2, 4)):
        assert story.tell(Submitted(ticket, str(ticket)), Status((over(JobState.FAILED, str(ticket)),))) == []
        assert story.after(pause_s - 0.5) == []
        assert story.after(0.5) == [Submit(ticket + 1)]
    [fail] = story.tell(Submitted(3, "3"), Status((over(JobState.FAILED, "3"),)))
    assert isinstance(fail, Fail)
    assert "3 allocations in a row" in fail.words
    assert "setup lines" in fail.words
    assert story.after(1000) == []


@pytest.mark.parametrize("held_s", [10, 1000])
def test_those_that_end_together_after_a_search_that_slept_are_no_setup_that_fails(
    story: Story, held_s: float
) -> None:
    story.tell(Status(()), Wanted(6))
    for job_id in ("1", "2", "3"):
        story.hold(job_id, node=f"n{job_id}")
    story.now_s += held_s
    ended = Status(tuple(over(JobState.COMPLETED, job_id) for job_id in ("1", "2", "3")))
    said = story.all_of(ended)
    assert not [action for action in said if isinstance(action, Fail)], said
    assert len([action for action in said if isinstance(action, Say)]) == 3
    assert [type(action) for action in story.after(2)] == [Submit, Submit, Submit]


def test_holders_that_end_again_and_again_are_told_of(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    for ticket in (1, 2, 3):
        story.hold(str(ticket))
        found = story.tell(Status((over(JobState.FAILED, str(ticket)),)))
        story.after(100)
    assert isinstance(found[-1], Fail)


def test_a_job_that_came_to_its_end_shows_that_allocations_can_work(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    for ticket in range(1, 9):
        story.hold(str(ticket))
        place = Place(str(ticket), NODE, 0)
        story.tell(Began(place), Ended(place), Wanted(1), Status((over(JobState.FAILED, str(ticket)),)))
        assert story.after(60) == [Submit(ticket + 1)]


# nodes on which jobs fail


def test_nothing_starts_on_a_node_that_is_avoided_and_another_is_asked_for_without_it(held: Story) -> None:
    held.tell(Wanted(3))
    held.hold("2", node="n2")
    found = held.tell(Avoid(frozenset({"n2"})))
    assert found == [Cancel(("2",), "jobs fail on n2"), Submit(3, ("n2",))]
    assert held.free() == ["n1/1/1"]
    held.tell(Submitted(3, "3"), Status((runs(), over(JobState.CANCELLED, "2"))))
    assert held.tell(Avoid(frozenset()), Wanted(5)) == [Submit(4)], "it was given back"


def test_one_whose_job_still_runs_on_such_a_node_is_given_up_after_it(held: Story) -> None:
    assert held.tell(Avoid(frozenset({NODE}))) == []
    assert held.tell(Wanted(1)) == [Submit(2, (NODE,))], "its free place is none"
    assert held.tell(Ended(Place("1", NODE, 0))) == [Cancel(("1",), f"jobs fail on {NODE}")]


def test_where_slurm_has_no_other_node_it_is_asked_for_that_one_again(held: Story) -> None:
    held.tell(Avoid(frozenset({NODE})))
    assert held.tell(Wanted(1)) == [Submit(2, (NODE,))]
    refused = NotSubmitted(2, Refusal.WRONG, "Requested node configuration is not available")
    said = held.all_of(refused)
    assert isinstance(said[0], Say)
    assert "without n1" in said[0].words
    assert said[1:] == [Submit(3)]
    assert held.tell(Ended(Place("1", NODE, 0))) == [], "it would be given up and asked for again, for ever"


# what Slurm does not take


def test_what_can_never_be_submitted_ends_the_search_with_slurms_own_words(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    [fail] = story.tell(NotSubmitted(1, Refusal.WRONG, "invalid partition specified: nix"))
    assert isinstance(fail, Fail)
    assert "invalid partition specified: nix" in fail.words
    assert "--slurm-set" in fail.words
    assert story.tell(Wanted(2)) == []


def test_with_some_held_the_search_goes_on_with_those(held: Story) -> None:
    held.tell(Wanted(5))
    assert held.tell(NotSubmitted(2, Refusal.WRONG, "account expired")) == []
    held.tell(NotSubmitted(3, Refusal.WRONG, "account expired"))
    assert held.tell(Wanted(9)) == []


def test_what_can_never_start_ends_the_search(story: Story) -> None:
    story.tell(Status(()), Wanted(1), Submitted(1, "1"))
    cancel, fail = story.tell(Status((waits(reason="PartitionNodeLimit"),)))
    assert cancel == Cancel(("1",), "it can never start")
    assert isinstance(fail, Fail)
    assert "PartitionNodeLimit" in fail.words


def test_a_limit_on_the_number_of_jobs_is_tried_again_later(story: Story) -> None:
    story.tell(Status(()), Wanted(1))
    assert story.tell(NotSubmitted(1, Refusal.LIMIT, "QOSMaxSubmitJobPerUserLimit")) == []
    assert story.allocations.next_look_s(story.now_s) == pytest.approx(60)
    assert story.after(60) == [Submit(2)]


def test_an_answer_that_was_lost_counts_until_slurm_says_what_is_there(story: Story) -> None:
    story.tell(Status(()), Wanted(6))
    for ticket in (1, 2, 3):
        story.tell(NotSubmitted(ticket, Refusal.UNREACHABLE, "timed out", is_unsure=True))
    assert story.after(100) == []
    assert story.tell(Status((waits("7"),))) == [Submit(4), Submit(5)], "one of them had been taken"


def test_one_on_hold_is_told_of_once(story: Story) -> None:
    story.tell(Status(()), Wanted(1), Submitted(1, "1"))
    [said] = story.all_of(Status((waits(reason="JobHeldUser"),)))
    assert isinstance(said, Say)
    assert "scontrol release 1" in said.words
    assert story.all_of(Status((waits(reason="JobHeldUser"),))) == []


def test_one_that_slurm_could_not_start_is_cancelled_and_asked_for_again(story: Story) -> None:
    story.tell(Status(()), Wanted(1), Submitted(1, "1"))
    [cancel] = story.tell(Status((waits(reason="launch_failed_requeued_held"),)))
    assert isinstance(cancel, Cancel)
    assert story.after(2) == [Submit(2)]


# starts and ends of the search


def test_those_of_an_earlier_start_are_taken_over_with_their_jobs(story: Story) -> None:
    place, gone = Place("7", NODE, 1), Place("5", "n9", 0)
    assert story.tell(Began(place), Began(gone), Wanted(1)) == []
    [lost] = story.tell(Status((runs("7"), over(JobState.COMPLETED, "3"))))
    assert lost == Lost((gone,), JobState.GONE, "their allocations are over")
    story.tell(Ready("7", "c", (NODE,)))
    assert story.free() == ["n1/7/0"]
    assert story.tell(Wanted(0)) == []


def test_the_end_of_one_that_had_begun_before_this_start_ends_no_search() -> None:
    story = Story(replace(RULES, max_allocations=1))
    story.tell(Wanted(1), Status((JobLine("1", "hb", JobState.ENDING, "COMPLETING"),)))
    assert story.tell(Status((over(JobState.CANCELLED),))) == [Submit(1)], "another is asked for"
    story = Story(replace(RULES, max_allocations=1))
    story.tell(Wanted(1), Status((JobLine("1", "hb", JobState.ENDING, "COMPLETING"),)))
    story.tell(Status((waits(),)))  # it was queued again
    [fail] = story.tell(Status((over(JobState.CANCELLED),)))
    assert isinstance(fail, Fail)


def test_too_many_of_an_earlier_start_are_not_ended_under_their_jobs(story: Story) -> None:
    lines = tuple(runs(str(k), node=f"n{k}") for k in range(1, 6))
    story.tell(Status(lines))
    for k in range(1, 6):
        story.tell(Ready(str(k), "a", (f"n{k}",)), Began(Place(str(k), f"n{k}", 0)))
    assert story.after(1000) == []
    assert story.tell(Wanted(50)) == []


def test_the_end_of_the_search_cancels_all_that_is_ours_and_what_still_comes(held: Story) -> None:
    held.tell(Wanted(3))
    assert held.tell(Stop()) == [Cancel(("1",), "the search is over")]
    assert held.tell(Submitted(2, "2")) == [Cancel(("2",), "the search is over")]
    held.tell(Status((over(JobState.CANCELLED), over(JobState.CANCELLED, "2"))))
    assert held.allocations.is_given_up
    assert held.allocations.job_ids == []


def test_as_long_as_there_is_none_they_are_waited_for(story: Story) -> None:
    found = [story.allocations.are_awaited]
    story.tell(Status(()), Wanted(2), Submitted(1, "1"), Status((waits(),)))
    found.append(story.allocations.are_awaited)
    assert story.allocations.why_none() == "allocations: 1 waits in Slurm's queue (Priority)"
    story.hold()
    found.append(story.allocations.are_awaited)
    story.tell(Wanted(0), Status((over(JobState.NODE_FAILURE),)))
    found.append(story.allocations.are_awaited)
    assert found == [False, True, False, False], "only while jobs wait"


def test_a_slurm_that_never_answered_is_what_is_waited_for(story: Story) -> None:
    story.tell(Wanted(1), Unreachable("slurm_load_jobs error: Unable to contact slurm controller"))
    said = "Slurm does not answer (slurm_load_jobs error: Unable to contact slurm controller)"
    assert story.allocations.why_none() == said
    story.tell(Status(()))
    assert story.allocations.why_none() == "allocations: 1 asked for"


NO_CONFIGURATION = "Could not establish a configuration source"


@pytest.mark.parametrize(
    ("words", "patience_s"), [(NO_CONFIGURATION, 0.0), ("Unable to contact slurm controller", 60.0)]
)
def test_a_first_start_without_a_slurm_ends_and_says_where_there_is_one(
    words: str, patience_s: float
) -> None:
    first = Story()
    first.allocations = Allocations(RULES, has_earlier=False)
    found = first.tell(Wanted(1), Unreachable(words))
    if patience_s:
        assert found == [], "its controller may be starting"
        assert first.allocations.next_look_s(first.now_s) == patience_s
        found = first.after(patience_s)
    [failed] = found
    assert isinstance(failed, Fail)
    assert words in failed.words
    assert "with SLURM_CONF set as there" in failed.words
    assert "jobs go on" not in failed.words


def test_a_slurm_that_answered_once_or_may_have_something_is_waited_for(story: Story) -> None:
    assert story.tell(Unreachable(NO_CONFIGURATION)) == []
    first = Story()
    first.allocations = Allocations(RULES, has_earlier=False)
    first.tell(Wanted(0), Unreachable("Unable to contact slurm controller"), Status(()))
    assert first.tell(Unreachable(NO_CONFIGURATION)) == first.after(1000.0) == []


def test_a_request_that_found_no_slurm_is_not_there_and_no_fault_of_the_profile(story: Story) -> None:
    [order] = story.tell(Status(()), Wanted(1))
    assert isinstance(order, Submit)
    assert story.tell(NotSubmitted(order.ticket, Refusal.UNREACHABLE, NO_CONFIGURATION)) == []
    assert story.tell(Status(())) == [Submit(order.ticket + 1)]


def test_a_pause_after_an_end_is_what_is_waited_for(story: Story) -> None:
    story.tell(Status(()), Wanted(1), Submitted(1, "1"), Status((over(JobState.FAILED),)))
    assert story.allocations.why_none() == (
        "allocations: none; the next is asked for 2 s after the last ended by itself (failed)"
    )
    assert story.after(2.0) == [Submit(2)]
    assert story.allocations.why_none() == "allocations: 1 asked for"
    story.tell(NotSubmitted(2, Refusal.LIMIT, "QOSMaxSubmitJobPerUserLimit"))
    assert "asked again after 60 s, since Slurm takes no more jobs now" in story.allocations.why_none()
    story.now_s += 60.0
    story.tell(Tick(), Submitted(3, "3"), Status((over(JobState.FAILED, "3"),)))
    story.now_s += 60.0
    [*_, failed] = story.tell(Tick(), Submitted(4, "4"), Status((over(JobState.FAILED, "4"),)))
    assert isinstance(failed, Fail)
    assert failed.is_in_log, "what it said there is the reason"


def test_what_jobs_wait_for_is_said_in_one_line(held: Story) -> None:
    held.tell(Wanted(5), Submitted(2, "2"), Status((runs(), waits("2", "Resources"))))
    assert held.allocations.why_none() == (
        "allocations: 1 asked for; 1 waits in Slurm's queue (Resources); 1 held, with 1 job"
    )
    said = held.all_of(CancelRefused(("2",), "Access denied"))
    assert said == [Say("Slurm did not cancel 2: Access denied")]


def test_names_of_places_lead_back_to_them() -> None:
    place = Place("15", "gpu-04", 3)
    assert place.name == "gpu-04/15/3", "its node is what may be at fault"
    assert Place.named(place.name) == place
    for name in ("gpu:0/1", "cpu:0", "n1/7", "n1/7/x", "n1/7/0/1", "/7/0", "m1:gpu0/a"):
        assert Place.named(name) is None, name


# laws


class Histories(RuleBasedStateMachine):
    """Slurm, the search and the clock in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = Rules(
            max_allocations=3, min_allocations=1, n_slots_per_node=2, idle_s=20, margin_s=5, max_slots=5
        )
        self.allocations = Allocations(self.bounds)
        self.now_s = 0.0
        self.n_ids = 0
        #: tickets that wait for an answer, jobs that Slurm has, and how often each was queued again
        self.asked: list[int] = []
        self.jobs: dict[str, JobLine] = {}
        self.restarts: dict[str, int] = {}
        self.busy: set[Place] = set()
        self.has_failed = False

    def tell(self, event: Event) -> None:
        for action in self.allocations.handle(event, self.now_s):
            match action:
                case Submit(ticket):
                    assert not self.has_failed
                    self.asked.append(ticket)
                case Cancel(job_ids):
                    for job_id in job_ids:
                        assert not any(place.job_id == job_id for place in self.busy), "a job runs in it"
                        if job_id in self.jobs:
                            self.jobs[job_id] = over(JobState.CANCELLED, job_id)
                case Lost(places):
                    assert set(places) <= self.busy, "lost twice, or never there"
                    self.busy -= set(places)
                case Fail():
                    self.has_failed = True
                case Say():
                    pass
        self.allocations.validate()

    def look(self) -> None:
        self.tell(Status(tuple(self.jobs.values())))
        self.jobs = {job_id: line for job_id, line in self.jobs.items() if not line.state.is_over}

    @rule(n_jobs=st.integers(0, 9), shortest_s=st.none() | st.floats(0, 200))
    def want(self, n_jobs: int, shortest_s: float | None) -> None:
        self.tell(Wanted(n_jobs, shortest_s))

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(Tick())

    @rule()
    def say_what_is_there(self) -> None:
        self.look()

    @rule()
    def do_not_answer(self) -> None:
        self.tell(Unreachable("no answer"))

    @rule(is_taken=st.booleans(), is_heard=st.booleans())
    def answer(self, is_taken: bool, is_heard: bool) -> None:
        if not self.asked:
            return
        ticket = self.asked.pop(0)
        if is_taken:
            self.n_ids += 1
            self.jobs[str(self.n_ids)] = waits(str(self.n_ids))
            self.restarts[str(self.n_ids)] = 0
        if not is_heard:
            self.tell(NotSubmitted(ticket, Refusal.UNREACHABLE, "no answer", is_unsure=True))
        elif is_taken:
            self.tell(Submitted(ticket, str(self.n_ids)))
        else:
            self.tell(NotSubmitted(ticket, Refusal.LIMIT, "too many"))

    @rule(number=st.integers(0, 9), left_s=st.none() | st.floats(0, 300))
    def start(self, number: int, left_s: float | None) -> None:
        waiting = [line for line in self.jobs.values() if line.state == JobState.WAITING]
        if waiting:
            job_id = waiting[number % len(waiting)].job_id
            restart = self.restarts[job_id]
            self.jobs[job_id] = runs(job_id, left_s=left_s, started=f"t{restart}", node=f"n{job_id}")
            self.tell(Ready(job_id, str(restart), (f"n{job_id}",)))

    @rule(number=st.integers(0, 9), end=st.sampled_from([*JobState]))
    def change(self, number: int, end: JobState) -> None:
        if self.jobs:
            line = list(self.jobs.values())[number % len(self.jobs)]
            if line.state.is_over:
                return
            if end == JobState.WAITING and line.state == JobState.RUNNING:
                self.restarts[line.job_id] += 1
                self.jobs[line.job_id] = waits(line.job_id)
            elif end.is_over:
                self.jobs[line.job_id] = over(end, line.job_id)

    @rule(expected_s=st.none() | st.floats(0, 400))
    def begin(self, expected_s: float | None) -> None:
        for place in self.allocations.free(expected_s, self.now_s)[:1]:
            assert place not in self.busy
            self.busy.add(place)
            self.tell(Began(place))

    @rule(number=st.integers(0, 9))
    def end(self, number: int) -> None:
        if self.busy:
            place = sorted(self.busy)[number % len(self.busy)]
            self.busy.discard(place)
            self.tell(Ended(place))

    @invariant()
    def never_more_than_allowed(self) -> None:
        living = [line for line in self.jobs.values() if not line.state.is_over]
        assert len(living) + len(self.asked) <= self.bounds.max_allocations
        assert len(self.busy) <= 5

    @invariant()
    def time_alone_never_spins(self) -> None:
        next_s = self.allocations.next_look_s(self.now_s)
        assert next_s is None or next_s > 0


TestLaws = Histories.TestCase
TestLaws.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
