"""Which Slurm jobs of their own trials' jobs get: tables of events and orders; laws over random histories."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hyperband.launch.slurm.jobs.events import (
    Action,
    Asked,
    Begun,
    Done,
    Event,
    Exclude,
    Failed,
    Fared,
    Found,
    Given,
    JobOver,
    Recalled,
    Remember,
    Seen,
    SeenJob,
    SubmitJobs,
    Worked,
)
from hyperband.launch.slurm.jobs.nodes import Fate
from hyperband.launch.slurm.jobs.state import Stage
from hyperband.launch.slurm.jobs.trial_jobs import TrialJobs
from hyperband.launch.slurm.orders import Cancel, Fail, Say, Stop, Tick
from hyperband.launch.slurm.reports import CancelRefused, Changed, NotSubmitted, Submitted, Unreachable
from hyperband.launch.slurm.words import JobLine, JobState, Refusal

NOTHING = Seen(())


def line(state: JobState, job_id: str = "1", reason: str = "") -> JobLine:
    return JobLine(job_id, "hbj", state, state.upper(), reason)


def seen(*jobs: tuple[str, JobState, str | None], reason: str = "") -> Seen:
    return Seen(tuple(SeenJob(line(state, job_id, reason), attempt) for job_id, state, attempt in jobs))


class Story:
    """Jobs with a clock; keeps what was said."""

    def __init__(self) -> None:
        self.jobs = TrialJobs()
        self.now_s = 1000.0
        self.said: list[str] = []

    def tell(self, *events: Event) -> list[Action]:
        """The orders, without what is only said."""
        found: list[Action] = []
        for event in events:
            found += self.jobs.handle(event, self.now_s)
            self.jobs.validate()
        self.said += [action.words for action in found if isinstance(action, Say)]
        return [action for action in found if not isinstance(action, Say)]

    def after(self, seconds: float) -> list[Action]:
        self.now_s += seconds
        return self.tell(Tick())


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def queued(story: Story) -> Story:
    """Two attempts are tasks of an array, and a third one is a job."""
    story.tell(NOTHING, Asked(("a", "b")), Submitted(1, "7"), Asked(("c",)), Submitted(2, "8"))
    return story


# what is submitted


def test_nothing_is_submitted_before_slurm_said_what_is_there(story: Story) -> None:
    assert story.tell(Asked(("a", "b"))) == []
    assert not story.jobs.may_get_jobs(story.now_s)
    assert story.tell(NOTHING) == [SubmitJobs(1, ("a", "b"))]
    assert story.tell(Tick(), NOTHING) == [], "once"


def test_what_is_ready_at_the_same_moment_is_one_array_and_each_task_has_its_attempt(story: Story) -> None:
    story.tell(NOTHING)
    assert story.tell(Asked(("a", "b"))) == [SubmitJobs(1, ("a", "b"))]
    assert story.tell(Asked(("c",))) == [SubmitJobs(2, ("c",))]
    assert story.tell(Submitted(1, "7")) == [Given("a", "7_0"), Given("b", "7_1")]
    assert story.tell(Submitted(2, "8")) == [Given("c", "8")]


def test_an_array_whose_last_waiting_tasks_were_cancelled_says_nothing_of_those_that_are_listed(
    queued: Story,
) -> None:
    # Slurm then lists what is left of the array under its own number, beside its tasks
    left = ("7", JobState.CANCELLED, None)
    there = [left, ("7_0", JobState.RUNNING, "a"), ("8", JobState.RUNNING, "c")]
    # what is not listed any more may be so for a moment, or for good
    assert queued.tell(seen(*there, ("7_1", JobState.WAITING, "b"))) == []
    [over] = queued.tell(seen(*there, ("7_1", JobState.GONE, "b")))
    assert isinstance(over, JobOver)
    assert (over.attempt, over.by_somebody) == ("b", True)
    [over] = queued.tell(seen(("7_0", JobState.OUT_OF_MEMORY, "a"), left, ("8", JobState.RUNNING, "c")))
    assert isinstance(over, JobOver)
    assert (over.attempt, over.state) == ("a", JobState.OUT_OF_MEMORY)


def test_a_number_that_slurm_gives_again_is_that_of_its_new_job(story: Story) -> None:
    story.tell(NOTHING, Asked(("a", "b")), Submitted(1, "7"))
    story.tell(seen(("7_0", JobState.COMPLETED, "a"), ("7_1", JobState.COMPLETED, "b")), Done("a"), Done("b"))
    for ticket, name in ((2, "c"), (3, "d")):
        story.tell(Asked((name,)), Submitted(ticket, "7"))
        [over] = story.tell(seen(("7", JobState.NODE_FAILURE, name)))
        assert isinstance(over, JobOver)
        assert (over.attempt, over.job_id) == (name, "7")
        story.tell(Done(name))
    for ticket, name in ((4, "e"), (5, "f")):
        story.tell(Asked((name,)), Submitted(ticket, "7"))
        assert story.tell(Done(name)) == [Cancel(("7",), "nobody wants it")]
        story.tell(seen(("7", JobState.CANCELLED, name)))


def test_a_first_start_without_a_slurm_ends_and_says_where_there_is_one() -> None:
    first = Story()
    first.jobs = TrialJobs(has_earlier=False)
    assert first.tell(Unreachable("Unable to contact slurm controller")) == []
    assert first.jobs.next_look_s(first.now_s) == 60.0
    first.now_s += 60.0
    [failed] = first.tell(Tick())
    assert isinstance(failed, Fail)
    assert "with SLURM_CONF set as there" in failed.words


def test_an_order_that_found_no_slurm_is_given_again(story: Story) -> None:
    words = "Could not establish a configuration source"
    story.tell(NOTHING, Asked(("a",)))
    assert story.tell(NotSubmitted(1, Refusal.UNREACHABLE, words)) == []
    assert story.tell(NOTHING) == [SubmitJobs(2, ("a",))]


def test_an_array_has_a_size_that_slurm_takes(story: Story) -> None:
    names = tuple(f"a{n}" for n in range(501))
    assert [len(order.attempts) for order in story.tell(NOTHING, Asked(names))] == [500, 1]  # type: ignore[union-attr]


def test_while_nobody_answers_nothing_is_submitted_and_nothing_is_lost(queued: Story) -> None:
    assert queued.tell(Unreachable("no answer"), Asked(("d",))) == []
    assert not queued.jobs.may_get_jobs(queued.now_s)
    there = seen(("7_0", JobState.RUNNING, "a"), ("7_1", JobState.WAITING, "b"), ("8", JobState.RUNNING, "c"))
    assert queued.tell(there) == [SubmitJobs(3, ("d",))]
    assert queued.said[-1] == "Slurm answers again"


def test_no_more_run_at_once_than_is_said_whatever_arrays_they_are_in() -> None:
    story = Story()
    story.jobs = TrialJobs(n_at_once=2)
    story.tell(NOTHING)
    assert story.tell(Asked(tuple("abcd"))) == [SubmitJobs(1, tuple("abcd"))], "Slurm bounds one array"
    story.tell(Submitted(1, "7"))
    assert story.tell(Asked(("e", "f"))) == []
    assert "array_throttle" in (story.after(5), story.jobs.why_waiting(story.now_s))[1]
    runs = (("7_0", JobState.RUNNING, "a"), ("7_1", JobState.RUNNING, "b"))
    assert story.tell(seen(*runs, ("7_2", JobState.WAITING, "c"), ("7_3", JobState.WAITING, "d"))) == []
    rest = [("7_2", JobState.RUNNING, "c"), ("7_3", JobState.RUNNING, "d")]
    assert story.tell(Done("a"), Done("b"), seen(("7_0", JobState.COMPLETED, "a"), *rest)) == []
    assert story.tell(seen(("7_1", JobState.COMPLETED, "b"), *rest)) == []
    orders = story.tell(Done("c"), seen(("7_2", JobState.COMPLETED, "c"), rest[1]))
    assert orders == [SubmitJobs(2, ("e",))]
    assert story.tell(Submitted(2, "8"), Begun("e")) == [Given("e", "8")]
    orders = story.tell(
        Done("d"), Done("e"), seen(("7_3", JobState.COMPLETED, "d"), ("8", JobState.ENDING, "e"))
    )
    assert orders == [SubmitJobs(3, ("f",))]


# answers that are lost


def test_an_answer_that_was_lost_is_found_in_the_next_status(story: Story) -> None:
    story.tell(NOTHING, Asked(("a", "b")), NotSubmitted(1, Refusal.UNREACHABLE, "timed out", True))
    assert story.jobs.stage_of("a") == Stage.UNSURE
    there = seen(("7_0", JobState.WAITING, "a"), ("7_1", JobState.RUNNING, "b"))
    assert story.tell(there) == [Given("b", "7_1"), Given("a", "7_0")]


def test_what_slurm_never_heard_of_is_submitted_again(story: Story) -> None:
    story.tell(NOTHING, Asked(("a",)), NotSubmitted(1, Refusal.UNREACHABLE, "timed out", True))
    assert story.tell(NOTHING) == [SubmitJobs(2, ("a",))]


def test_the_next_search_finds_jobs_and_submits_only_what_was_not(story: Story) -> None:
    story.tell(Found("a"), Found("b"), Found("c", "9"), Found("d", "4"), Begun("d"))
    there = seen(("7_0", JobState.RUNNING, "a"), ("9", JobState.WAITING, "c"))
    assert story.tell(there) == [Given("a", "7_0"), SubmitJobs(1, ("b",))]
    assert story.jobs.stage_of("d") == Stage.RUNNING, "a node has it, whatever Slurm remembers"


def test_the_end_of_a_job_that_was_forgotten_ends_no_attempt_that_has_another(story: Story) -> None:
    assert story.tell(Found("a", "4"), NOTHING) == [SubmitJobs(1, ("a",))]
    assert story.tell(seen(("4", JobState.GONE, "a"))) == []
    assert story.tell(Submitted(1, "7")) == [Given("a", "7")]


@pytest.mark.parametrize("first", [JobState.WAITING, JobState.RUNNING])
def test_of_two_jobs_for_an_attempt_that_which_runs_is_kept(story: Story, first: JobState) -> None:
    story.tell(NOTHING, Asked(("a",)), Submitted(1, "7"))
    second = JobState.RUNNING if first == JobState.WAITING else JobState.WAITING
    orders = story.tell(seen(("7", first, "a"), ("8", second, "a")))
    runs, waits = ("8", "7") if first == JobState.WAITING else ("7", "8")
    assert orders == [*([Given("a", "8")] if runs == "8" else []), Cancel((waits,), "nobody wants it")]
    assert story.tell(seen((waits, JobState.CANCELLED, "a"), (runs, JobState.RUNNING, "a"))) == []


def test_the_end_of_one_of_two_jobs_ends_nothing(story: Story) -> None:
    story.tell(NOTHING, Asked(("a",)), Submitted(1, "7"))
    story.tell(seen(("7", JobState.RUNNING, "a"), ("8", JobState.RUNNING, "a")))
    there = seen(("7", JobState.COMPLETED, "a"), ("8", JobState.RUNNING, "a"))
    assert story.tell(there) == [Given("a", "8")]
    [over] = story.tell(seen(("8", JobState.COMPLETED, "a")))
    assert isinstance(over, JobOver)


# refusals


def test_a_limit_is_met_with_smaller_arrays_and_then_with_patience(story: Story) -> None:
    limit = "QOSMaxSubmitJobPerUserLimit"
    story.tell(NOTHING, Asked(tuple("abcde")))
    assert story.tell(NotSubmitted(1, Refusal.LIMIT, limit)) == [SubmitJobs(2, ("a", "b"))]
    assert story.tell(NotSubmitted(2, Refusal.LIMIT, limit)) == [SubmitJobs(3, ("a",))]
    assert story.tell(Submitted(3, "7")) == [Given("a", "7"), SubmitJobs(4, ("b", "c", "d", "e"))]
    assert story.tell(NotSubmitted(4, Refusal.LIMIT, limit)) == [SubmitJobs(5, ("b", "c"))]
    assert story.tell(NotSubmitted(5, Refusal.LIMIT, limit)) == [SubmitJobs(6, ("b",))]
    assert story.tell(NotSubmitted(6, Refusal.LIMIT, limit)) == []
    assert "Slurm takes no more jobs now (QOSMax" in story.said[-1]
    assert not story.jobs.may_get_jobs(story.now_s)
    assert story.after(59) == []
    assert story.jobs.next_look_s(story.now_s) == 1.0
    assert story.after(1) == [SubmitJobs(7, ("b", "c", "d", "e"))]


def test_the_end_of_a_job_makes_room_under_a_limit(story: Story) -> None:
    story.tell(NOTHING, Asked(("a",)), Submitted(1, "7"), Asked(("b",)))
    story.tell(NotSubmitted(2, Refusal.LIMIT, "AssocMaxSubmitJobLimit"), Done("a"))
    assert story.tell(seen(("7", JobState.COMPLETED, "a"))) == [SubmitJobs(3, ("b",))]


def test_a_site_without_arrays_gets_jobs_one_by_one(story: Story) -> None:
    story.tell(NOTHING, Asked(("a", "b")))
    orders = story.tell(NotSubmitted(1, Refusal.WRONG, "Invalid job array specification"))
    assert orders == [SubmitJobs(2, ("a",)), SubmitJobs(3, ("b",))]
    assert "one by one" in story.said[-1]


def test_a_refusal_of_one_job_ends_the_search_with_slurms_words(story: Story) -> None:
    story.tell(NOTHING, Asked(("a",)))
    [fail] = story.tell(NotSubmitted(1, Refusal.WRONG, "invalid partition specified: x"))
    assert isinstance(fail, Fail)
    assert "Slurm refused a job: invalid partition specified: x" in fail.words
    assert story.tell(Asked(("b",)), NOTHING) == [], "and nothing more is asked for"


def test_a_job_that_can_never_start_ends_the_search(queued: Story) -> None:
    cancel, fail = queued.tell(seen(("7_0", JobState.WAITING, "a"), reason="PartitionTimeLimit"))
    assert cancel == Cancel(("7_0",), "it can never start")
    assert isinstance(fail, Fail)


def test_one_that_slurm_could_not_start_is_given_up_and_was_cancelled_by_nobody(queued: Story) -> None:
    there = seen(("7_0", JobState.WAITING, "a"), reason="launch_failed_requeued_held")
    [cancel] = queued.tell(there)
    assert cancel == Cancel(("7_0",), "Slurm could not start it (launch_failed_requeued_held)")
    [over] = queued.tell(seen(("7_0", JobState.CANCELLED, "a")))
    assert isinstance(over, JobOver)
    assert not over.by_somebody


def test_what_fails_again_and_again_before_it_runs_ends_the_search(story: Story) -> None:
    story.tell(NOTHING)
    for pause_s in (1.0, 2.0, 4.0):
        assert story.tell(Failed("exit code 1"), Failed("those of one array are one")) == []
        assert not story.jobs.may_get_jobs(story.now_s)
        assert story.after(pause_s) == []
        assert story.jobs.may_get_jobs(story.now_s)
    [fail] = story.tell(Failed("exit code 1"))
    assert isinstance(fail, Fail)
    assert "exit code 1" in fail.words
    assert "setup lines" in fail.words


def test_one_that_was_run_to_its_end_clears_the_nodes(story: Story) -> None:
    story.tell(NOTHING)
    for _ in range(8):
        assert story.tell(Failed("exit code 1"), Worked()) == []


# ends


@pytest.mark.parametrize(
    ("state", "by_somebody"),
    [
        (JobState.CANCELLED, True),
        (JobState.PREEMPTED, False),
        (JobState.TIME_LIMIT, False),
        (JobState.NODE_FAILURE, False),
        (JobState.OUT_OF_MEMORY, False),
        (JobState.COMPLETED, False),
        (JobState.GONE, False),
    ],
)
def test_the_end_of_a_job_is_told_once(queued: Story, state: JobState, by_somebody: bool) -> None:
    words = f"its Slurm job 7_1 is over: {state}"
    assert queued.tell(seen(("7_1", state, "b"))) == [JobOver("b", "7_1", state, words, by_somebody)]
    assert queued.tell(seen(("7_1", state, "b"))) == []
    stages = [queued.jobs.stage_of(attempt) for attempt in "abc"]
    assert stages == [Stage.QUEUED, Stage.RUNNING, Stage.QUEUED], "until it is done"
    assert queued.tell(Done("b")) == [], "it has no job to be given up"


def test_a_task_that_left_the_queue_while_its_array_is_known_was_cancelled(queued: Story) -> None:
    waits = seen(("7_0", JobState.RUNNING, "a"), ("7_1", JobState.WAITING, "b"))
    queued.tell(waits)
    [over] = queued.tell(seen(("7_0", JobState.RUNNING, "a"), ("7_1", JobState.GONE, "b")))
    assert isinstance(over, JobOver)
    assert over.by_somebody


def test_a_task_that_nobody_looked_for_meanwhile_may_have_run_and_failed(queued: Story) -> None:
    queued.tell(seen(("7_0", JobState.RUNNING, "a"), ("7_1", JobState.WAITING, "b")))
    queued.now_s += 61
    [over] = queued.tell(seen(("7_0", JobState.RUNNING, "a"), ("7_1", JobState.GONE, "b")))
    assert isinstance(over, JobOver)
    assert not over.by_somebody


def test_an_array_that_is_forgotten_as_a_whole_is_over_task_by_task(queued: Story) -> None:
    orders = queued.tell(seen(("7", JobState.GONE, None)))
    assert [order.attempt for order in orders if isinstance(order, JobOver)] == ["a", "b"]


def test_a_queued_job_that_nobody_wants_is_cancelled_and_one_that_runs_may_end_by_itself(
    queued: Story,
) -> None:
    assert queued.tell(Done("a")) == [Cancel(("7_0",), "nobody wants it")]
    queued.tell(seen(("7_0", JobState.CANCELLED, "a"), ("8", JobState.RUNNING, "c")), Begun("c"))
    assert queued.tell(Done("c")) == []
    assert queued.after(1) == []
    assert queued.tell(seen(("8", JobState.COMPLETED, "c"))) == []


def test_one_that_lingers_is_cancelled(queued: Story) -> None:
    there = seen(("8", JobState.RUNNING, "c"))
    queued.tell(there, Done("c"))
    queued.after(6)
    assert queued.tell(there) == [Cancel(("8",), "nobody wants it")]
    assert queued.tell(there) == []


def test_an_attempt_that_was_taken_back_while_sbatch_ran_leaves_no_job(story: Story) -> None:
    story.tell(NOTHING, Asked(("a", "b")), Done("a"))
    assert story.tell(Submitted(1, "7")) == [Given("b", "7_1"), Cancel(("7_0",), "nobody wants it")]


def test_a_job_of_nobodys_is_cancelled(story: Story) -> None:
    assert story.tell(seen(("3", JobState.WAITING, None))) == [Cancel(("3",), "nobody wants it")]


def test_in_the_end_everything_is_cancelled_and_seen_to_end(queued: Story) -> None:
    assert queued.tell(Stop()) == [Cancel(("7_0", "7_1", "8"), "the search is over")]
    assert not queued.jobs.is_given_up, "there may be more than is known"
    there = seen(
        ("7_0", JobState.CANCELLED, "a"), ("7_1", JobState.RUNNING, "b"), ("9", JobState.WAITING, "x")
    )
    assert queued.tell(there) == [Cancel(("9",), "the search is over")]
    assert not queued.jobs.is_given_up
    queued.tell(
        seen(("7_1", JobState.ENDING, "b"), ("8", JobState.CANCELLED, "c"), ("9", JobState.CANCELLED, "x"))
    )
    assert queued.jobs.is_given_up


# nodes


def on(node: str, job_id: str, attempt: str, state: JobState = JobState.RUNNING) -> SeenJob:
    return SeenJob(replace(line(state, job_id), nodes=(node,)), attempt)


def test_a_node_that_took_a_job_with_it_is_avoided_while_others_are_good(queued: Story) -> None:
    there = [on("n1", "7_0", "a"), on("n2", "7_1", "b"), on("n3", "8", "c")]
    queued.tell(Seen(tuple(there)), Begun("a"), Begun("b"), Begun("c"))
    over = queued.tell(Seen((there[0], on("n2", "7_1", "b", JobState.NODE_FAILURE), there[2])))
    assert over == [
        JobOver(
            "b",
            "7_1",
            JobState.NODE_FAILURE,
            "its Slurm job 7_1 is over: node failure of n2",
            by_somebody=False,
        )
    ]
    assert queued.tell(Fared("b", Fate.LOST), Done("b")) == [Remember("n2", "", Fate.LOST)]
    assert queued.said == [
        "a job was lost with the node n2: while others run jobs, none is submitted to it for 10 min"
    ]
    assert queued.tell(Asked(("d",), ("1",))) == [SubmitJobs(3, ("d",), ("n2",))]
    queued.tell(Submitted(3, "9"))
    # with no node that runs anything it is no node's fault, and jobs may go anywhere
    queued.tell(Fared("a", Fate.LOST), Done("a"), Fared("c", Fate.LOST), Done("c"))
    assert queued.tell(Asked(("e",), ("0",))) == [SubmitJobs(4, ("e",))]
    queued.tell(Submitted(4, "10"), Seen((on("n3", "10", "e"),)))
    well = Fared("e", Fate.WELL)
    assert queued.tell(well, well, Done("e")) == [Remember("n3", "0", Fate.WELL)], "what is new of it"
    assert queued.tell(Asked(("f",), ("0",))) == [SubmitJobs(5, ("f",), ("n1", "n2"))]
    queued.tell(Submitted(5, "11"))
    queued.now_s += 600
    orders = queued.tell(Asked(("g",), ("0",)))
    assert orders == [Exclude("11", ()), SubmitJobs(6, ("g",))], "what waits may run there again, too"


def test_a_job_that_failed_on_a_node_is_tried_again_on_another_and_only_it_avoids_that(queued: Story) -> None:
    there = [on("n1", "7_0", "a"), on("n2", "7_1", "b"), on("n3", "8", "c")]
    queued.tell(Asked(("d", "e"), ("4", "5")), Submitted(3, "9"), Begun("a"), Begun("b"), Begun("c"))
    queued.tell(Seen((*there, on("n2", "9_0", "d"), on("n3", "9_1", "e"))))
    queued.tell(Fared("d", Fate.FAILED), Done("d"), Fared("e", Fate.FAILED), Done("e"))
    again = Asked(("d2", "e2", "f"), ("4", "5", "6"))
    assert queued.tell(again) == [
        SubmitJobs(4, ("d2",), ("n2",)),
        SubmitJobs(5, ("e2",), ("n3",)),
        SubmitJobs(6, ("f",)),
    ]
    refused = NotSubmitted(4, Refusal.WRONG, "Requested node configuration is not available")
    assert queued.tell(refused) == [SubmitJobs(7, ("d2",))], "better there than nowhere"
    assert "Slurm takes no job without n2" in queued.said[-1]


def test_a_job_that_an_earlier_search_began_is_tried_again_elsewhere_too(story: Story) -> None:
    story.tell(Found("a", "7", "4"), Found("b", "8", "5"), Begun("a"), Begun("b"))
    story.tell(Seen((on("n1", "7", "a"), on("n2", "8", "b"))), Fared("a", Fate.FAILED), Done("a"))
    assert story.tell(Asked(("a2",), ("4",))) == [SubmitJobs(1, ("a2",), ("n1",))]


def test_the_next_start_of_a_search_avoids_the_nodes_that_this_one_avoided(story: Story) -> None:
    fates = [("n1", "7", Fate.LOST), ("n2", "4", Fate.FAILED), ("n3", "5", Fate.WELL)]
    assert story.tell(*(Recalled(node, of, fate, 100.0) for node, of, fate in fates)) == []
    story.tell(NOTHING)
    orders = story.tell(Asked(("a", "b"), ("4", "5")))
    assert orders == [SubmitJobs(1, ("a",), ("n1", "n2")), SubmitJobs(2, ("b",), ("n1",))]
    story.now_s += 501
    story.tell(Submitted(1, "7"), Submitted(2, "8"))
    assert story.tell(Asked(("c",), ("6",))) == [SubmitJobs(3, ("c",))], "for ten minutes in all"


@pytest.fixture
def excluding(story: Story) -> Story:
    """A job waits that is not to get a node where one was lost, nor one where it has failed."""
    fates = [("n1", "7", Fate.LOST), ("n2", "4", Fate.FAILED), ("n3", "5", Fate.WELL)]
    story.tell(*(Recalled(node, of, fate, 100.0) for node, of, fate in fates), NOTHING)
    story.tell(Asked(("a",), ("4",)), Submitted(1, "7"))
    return story


def waits_without(*nodes: str, job_id: str = "7") -> Seen:
    return Seen((SeenJob(line(JobState.WAITING, job_id, "Resources"), "a", nodes),))


def test_a_job_that_waits_gets_nodes_again_that_need_not_be_avoided_any_more(excluding: Story) -> None:
    there = waits_without("n1", "n2")
    assert excluding.tell(there) == []
    excluding.after(400)
    assert excluding.jobs.next_look_s(excluding.now_s) == 100
    assert excluding.after(100) == [Exclude("7", ("n2",))]
    assert excluding.tell(Tick(), there) == [], "asked for once"
    assert excluding.tell(Changed("7"), there) == []
    assert excluding.said[-1] == "Slurm's job 7 still waits, and may run on n1 again"
    # all but this node may have gone: it is better there than nowhere
    assert excluding.jobs.next_look_s(excluding.now_s) == 100
    assert excluding.after(100) == [Exclude("7", ())]
    assert excluding.tell(Changed("7"), there, Tick()) == []
    assert excluding.jobs.next_look_s(excluding.now_s) is None


def test_what_a_job_excludes_is_known_to_the_next_start_and_asked_again_of_a_slurm_that_was_away(
    excluding: Story,
) -> None:
    excluding.jobs = TrialJobs()
    there = waits_without("n1", "n2")
    # nothing is known of these nodes any more, such as that others are good
    assert excluding.tell(Found("a", "7", "4"), there) == [Exclude("7", ())]
    assert excluding.tell(Changed("7", Refusal.UNREACHABLE, "timed out"), Tick()) == []
    assert excluding.tell(there) == [Exclude("7", ())]
    # most likely it has just begun; if not, it is said
    assert excluding.tell(Changed("7", Refusal.WRONG, "Access denied"), Tick()) == []
    n_said = len(excluding.said)
    assert excluding.tell(there, there) == []
    assert [words for words in excluding.said[n_said:] if "(Access denied)" in words] == excluding.said[-1:]


# words


def test_it_says_how_many_wait_and_why(queued: Story) -> None:
    waits = [("7_0", JobState.WAITING, "a"), ("7_1", JobState.WAITING, "b"), ("8", JobState.WAITING, "c")]
    queued.tell(seen(*waits, reason="Priority"))
    assert queued.jobs.why_waiting(queued.now_s) == "", "the scheduler takes turns"
    assert queued.jobs.next_look_s(queued.now_s) == 5.0
    queued.now_s += 5
    assert queued.jobs.why_waiting(queued.now_s) == "3 jobs wait in Slurm's queue (Priority)"
    queued.tell(seen(("7_0", JobState.SUSPENDED, "a"), *waits[1:], reason="Resources"))
    said = "2 jobs wait in Slurm's queue (Resources); 1 job suspended by Slurm"
    assert queued.jobs.why_waiting(queued.now_s) == said
    queued.tell(seen(*((job_id, JobState.RUNNING, attempt) for job_id, _, attempt in waits)))
    assert queued.jobs.why_waiting(queued.now_s) == ""


def test_a_job_on_hold_is_told_once(queued: Story) -> None:
    there = seen(("8", JobState.WAITING, "c"), reason="JobHeldUser")
    queued.tell(there, there)
    assert [words for words in queued.said if "scontrol release 8" in words] == queued.said[-1:]


def test_what_slurm_did_not_cancel_is_told(queued: Story) -> None:
    queued.tell(CancelRefused(("8",), "Access denied"))
    assert queued.said[-1] == "Slurm did not cancel 8: Access denied"


class Histories(RuleBasedStateMachine):
    """A Slurm that loses answers and jobs, under a search that dies; claims decide who runs, as they do."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.jobs = TrialJobs()
        self.n_names = self.n_job_ids = 0
        #: attempts that the search wants, and those that a node has claimed, once each
        self.wanted: list[str] = []
        self.claimed: set[str] = set()
        #: of the fake Slurm: job -> (attempt, state)
        self.queue: dict[str, tuple[str, JobState]] = {}
        self.in_flight: list[SubmitJobs] = []
        self.known: dict[str, str] = {}
        self.tell(Seen(()))

    def tell(self, event: Event) -> None:
        for action in self.jobs.handle(event, self.now_s):
            match action:
                case SubmitJobs():
                    self.in_flight.append(action)
                case Given(attempt, job_id):
                    self.known[attempt] = job_id
                case Cancel(job_ids, why):
                    for job_id in job_ids:
                        self.note_cancel(job_id, why)
                case JobOver(attempt):
                    # the launcher gives it up: nothing of it runs after that
                    assert not self.runs(attempt), "given up while it runs"
                    self.forget(attempt)
                case _:
                    pass
        self.jobs.validate()

    def note_cancel(self, job_id: str, why: str) -> None:
        if job_id in self.queue:
            attempt, state = self.queue[job_id]
            if why == "nobody wants it" and attempt in self.wanted:
                rest = [one for one, (other, _) in self.queue.items() if other == attempt and one != job_id]
                assert state == JobState.WAITING, "it runs"
                assert rest or attempt in self.claimed, "it was the only one"
            self.queue[job_id] = (attempt, JobState.CANCELLED)

    def runs(self, attempt: str) -> bool:
        return any(one == (attempt, JobState.RUNNING) for one in self.queue.values())

    def forget(self, attempt: str) -> None:
        if attempt in self.wanted:
            self.wanted.remove(attempt)
            self.claimed.discard(attempt)
            self.tell(Done(attempt))

    @rule(n=st.integers(1, 3))
    def ask(self, n: int) -> None:
        names = tuple(f"a{self.n_names + k}" for k in range(n))
        self.n_names += n
        self.wanted += names
        self.tell(Asked(names))

    @rule(is_heard=st.booleans(), is_answered=st.booleans(), data=st.data())
    def answer(self, is_heard: bool, is_answered: bool, data: st.DataObject) -> None:
        if not self.in_flight:
            return
        order = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        job_id = self.submit(order) if is_heard else ""
        if is_heard and is_answered:
            self.tell(Submitted(order.ticket, job_id))
        elif is_heard or not is_answered:
            self.tell(NotSubmitted(order.ticket, Refusal.UNREACHABLE, "timed out", is_unsure=True))
        else:
            self.tell(NotSubmitted(order.ticket, Refusal.LIMIT, "AssocMaxSubmitJobLimit"))

    def submit(self, order: SubmitJobs) -> str:
        self.n_job_ids += 1
        several = len(order.attempts) > 1
        for k, attempt in enumerate(order.attempts):
            own_id = f"{self.n_job_ids}_{k}" if several else str(self.n_job_ids)
            self.queue[own_id] = (attempt, JobState.WAITING)
        return str(self.n_job_ids)

    @rule()
    def status(self) -> None:
        self.tell(
            Seen(
                tuple(
                    SeenJob(line(state, job_id), attempt) for job_id, (attempt, state) in self.queue.items()
                )
            )
        )

    @rule(data=st.data(), state=st.sampled_from([JobState.COMPLETED, JobState.NODE_FAILURE]))
    def go_on(self, data: st.DataObject, state: JobState) -> None:
        """A job of Slurm's begins, or one that runs ends; who comes second to an attempt ends at once."""
        live = [one for one, (_, now) in self.queue.items() if not now.is_over]
        if not live:
            return
        job_id = data.draw(st.sampled_from(live))
        attempt, now = self.queue[job_id]
        if now == JobState.WAITING and attempt in self.wanted and attempt not in self.claimed:
            self.claimed.add(attempt)
            self.queue[job_id] = (attempt, JobState.RUNNING)
            if data.draw(st.booleans()):
                self.tell(Begun(attempt))
        else:
            self.queue[job_id] = (attempt, JobState.COMPLETED if now == JobState.WAITING else state)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """The search sees the result of an attempt, or takes it back."""
        if self.wanted:
            attempt = data.draw(st.sampled_from(self.wanted))
            for job_id, one in list(self.queue.items()):
                if one == (attempt, JobState.RUNNING):
                    self.queue[job_id] = (attempt, JobState.COMPLETED)
            self.forget(attempt)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(Tick())

    @rule(is_heard=st.booleans())
    def die(self, is_heard: bool) -> None:
        """The search is killed; what sbatch was doing then goes on, and the next one finds what there is."""
        for order in self.in_flight:
            if is_heard:
                self.submit(order)
        self.in_flight.clear()
        self.jobs = TrialJobs()
        for attempt in self.wanted:
            self.tell(Found(attempt, self.known.get(attempt, "")))
            if attempt in self.claimed:
                self.tell(Begun(attempt))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        for attempt in self.wanted:
            assert self.jobs.stage_of(attempt) is not None

    def teardown(self) -> None:
        """However it went: when answers come, each attempt that is wanted has a job or gets one."""
        self.now_s += 1000
        for _ in range(3):
            self.status()
            for order in self.in_flight:
                job_id = self.submit(order)
                self.tell(Submitted(order.ticket, job_id))
            self.in_flight.clear()
        for attempt in self.wanted:
            has_job = any(one == attempt and not state.is_over for one, state in self.queue.values())
            assert has_job or attempt in self.claimed, f"{attempt}: {self.jobs.stage_of(attempt)}"
        self.tell(Stop())
        self.status()
        self.status()
        assert all(state.is_over for _, state in self.queue.values()), self.queue


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
