"""What `report` says of a study on its way: how far, since when, what it learns from, losses that rose."""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from study_fixture import BEGAN_AT, play, settings, small_plan, write_study

from hyperband.cli.main import main
from hyperband.folder import NOW_FILE
from hyperband.journal import Beginnings, JobBegan, Journal, StartsMayWait, read_study
from hyperband.launch.base import Ending
from hyperband.report.document import document_of
from hyperband.report.now import Now, NowFile
from hyperband.report.progress import brackets_table, progress_words
from hyperband.report.results import outcomes_table, report_text, worse_later_text
from hyperband.report.text import moment
from hyperband.report.told import Span
from hyperband.report.usage import rungs_table, slots_table
from hyperband.report.view import StudyView, study_view
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted, SearchEnded, SearchStarted
from hyperband.search.trial import Outcome, Plan
from hyperband.study.verdict import ended_event

FOLDER = Path("/studies/vgg")


def view_of(events: list[Event], *, running: bool = False) -> StudyView:
    return study_view(events, folder=FOLDER, running=running)


def rows_of(table: str) -> list[list[str]]:
    """The cells of a table below its head, without what stands below it."""
    lines = table.splitlines()[2:]
    return [[cell for cell in line.split("  ") if cell.strip()] for line in lines]


def stripped(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in rows_of(table)]


def test_a_search_that_runs_says_how_far_each_rung_is(tmp_path: Path) -> None:
    study = view_of(play(small_plan(), settings(tmp_path), n_ends=11), running=True)
    assert progress_words(study, now=BEGAN_AT + 100).splitlines()[0] == "jobs    11 of 22 done, 1 running"
    assert progress_words(study, now=BEGAN_AT + 100).splitlines()[1].endswith(", has run for 1 min 40 s")
    assert stripped(brackets_table(study)) == [
        ["0", "rung 1", "9 of 9", "2 of 3", "-"],
        ["1", "not begun", "-", "-"],
        ["2", "not begun", "-"],
    ]
    assert brackets_table(study) in report_text(study, FOLDER, cwd=Path("/"), top=3)


def test_failures_and_brackets_that_are_over_are_told(tmp_path: Path) -> None:
    def outcome(trial: int, epochs: int) -> tuple[Outcome, float | None]:
        return (Outcome.NOT_FINITE, None) if trial == 0 or trial > 8 else (Outcome.LOSS, 1.0 / trial / epochs)

    # 13 of bracket 0, the five of bracket 1 that fail, and one of bracket 2
    study = view_of(play(small_plan(), settings(tmp_path), outcome_of=outcome, n_ends=19))
    assert stripped(brackets_table(study)) == [
        ["0", "complete", "9 of 9, 1 failed", "3 of 3", "1 of 1"],
        ["1", "failed", "5 of 5, 5 failed", "-"],
        ["2", "rung 0", "1 of 3, 1 failed"],
    ]
    assert progress_words(study, now=0.0).splitlines()[:2] == [
        "jobs    19 of 21 done, 7 of them failed, 1 running",
        f"seen    no search is running: jobs are shown as last seen at {moment(BEGAN_AT + 20)}",
    ]


def test_jobs_that_wait_in_a_queue_are_told_apart_from_those_that_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A journal of orders: one job began and ran, one was lost before, one runs, one waits still."""
    played = play(small_plan(), settings(tmp_path), n_ends=3)
    starts = [event for event in played if isinstance(event, JobStarted)]
    ends = {event.job: event for event in played if isinstance(event, JobEnded)}
    others = [event for event in played if not isinstance(event, JobStarted | JobEnded)]
    never = replace(
        ends[1], outcome=Outcome.CANCELLED, loss=None, exit_status=None, started_at=ends[1].ended_at
    )
    began = [JobBegan(BEGAN_AT + 50, 0, 0), JobBegan(BEGAN_AT + 60, 2, 0)]
    with contextlib.closing(Journal.open(tmp_path / "study")) as journal:
        journal.append(*others, StartsMayWait(BEGAN_AT), *starts, durable=False)
        journal.append(*began, ends[0], never, durable=False)
        assert journal.beginnings.when(starts[2]) == BEGAN_AT + 60
        assert journal.beginnings.when(starts[3]) is None
    found = read_study(tmp_path / "study")
    study = study_view(found.events, folder=FOLDER, running=True, beginnings=found.beginnings)
    counts = "jobs    2 of 22 done, 1 of them failed, 1 running, 1 queued\n"
    assert progress_words(study, now=BEGAN_AT).startswith(f"{counts}time ")
    # the same after the search was killed: as it saw them last, when it saw one begin
    killed = study_view(found.events, folder=FOLDER, running=False, beginnings=found.beginnings)
    assert killed.last_seen_at == killed.spans[-1].ended_at == BEGAN_AT + 60
    started = next(event for event in played if isinstance(event, SearchStarted))
    next_one = replace(started, at=BEGAN_AT + 55)
    followed = study_view([*found.events, next_one], folder=FOLDER, running=True, beginnings=found.beginnings)
    assert followed.spans[0].ended_at == BEGAN_AT + 50
    assert progress_words(killed, now=0.0).startswith(f"{counts}seen    no search is running: ")
    by_number = {job.job: (job.state, job.started_at) for job in study.jobs}
    assert by_number == {
        0: ("ended", ends[0].started_at),
        1: ("ended", None),
        2: ("running", BEGAN_AT + 60),
        3: ("queued", None),
    }
    assert [trial.state for trial in study.trials[:4]] == ["waiting", "failed", "running", "queued"]
    assert [row[:2] for row in stripped(outcomes_table(study))][-2:] == [["running", "1"], ["queued", "1"]]
    # what never began took nothing, and is no attempt of its slot
    assert stripped(slots_table(study)) == [["gpu:1/0", "2", "1", "0", "0.7 s"]]
    assert main(["slots", str(tmp_path / "study")]) == 0
    assert capsys.readouterr().out.rstrip("\n") == slots_table(study)
    assert rungs_table(study).splitlines()[-1].split()[:4] == ["1", "1", "0.7", "s"]
    document = document_of(study)
    jobs = document["jobs"]
    assert isinstance(jobs, list)
    assert [job["started_at"] is None for job in sorted(jobs, key=lambda job: job["trial"])] == [
        False,
        True,
        False,
        True,
    ]
    # one process later, starts are starts again
    again = Beginnings()
    again.hear([StartsMayWait(1.0), starts[0], others[1], starts[1]])
    assert again.ordered == {(0, 0)}


def test_what_a_living_search_waits_for_and_what_is_suspended_is_told(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), n_ends=3)
    now = Now(BEGAN_AT, BEGAN_AT + 90, "1 job suspended by Slurm", BEGAN_AT + 80, frozenset({(3, 0)}))

    def view(now: Now, *, running: bool) -> StudyView:
        return study_view(events, folder=FOLDER, running=running, now=now)

    lives = view(now, running=True)
    said = report_text(lives, FOLDER, cwd=Path("/"), top=3, now=BEGAN_AT + 100)
    assert (
        f"\nstate   running\nwaiting since {moment(BEGAN_AT + 80)}: 1 job suspended by Slurm\njobs " in said
    )
    assert "\njobs    3 of 22 done, 1 suspended\n" in said
    assert stripped(outcomes_table(lives))[-1][:2] == ["suspended", "1"]
    document = document_of(lives)
    assert document["waiting"] == {"why": "1 job suspended by Slurm", "since": BEGAN_AT + 80}
    assert document["last_seen_at"] is None
    # of a search that was killed the journal alone is left
    killed = view(now, running=False)
    assert (killed.waits_for, killed.jobs[-1].state) == ("", "running")
    assert killed.last_seen_at == killed.spans[-1].ended_at == BEGAN_AT + 4
    # what another search said is nothing of this one
    other = view(replace(now, began_at=BEGAN_AT - 1), running=True)
    assert (other.waits_for, other.jobs[-1].state) == ("", "running")


def test_what_a_search_waits_for_is_written_seldom_and_goes_with_it(tmp_path: Path) -> None:
    now_s = 100.0
    file = NowFile(tmp_path, BEGAN_AT, monotonic=lambda: now_s)
    none: frozenset[tuple[int, int]] = frozenset()
    file.see(None, none)
    assert (file.wait_s(), Now.read(tmp_path)) == (None, None)
    file.see("2 wait", none)
    found = Now.read(tmp_path)
    assert found is not None
    assert (found.began_at, found.waits_for, found.since, found.suspended) == (
        BEGAN_AT,
        "2 wait",
        found.at,
        none,
    )
    for words in ("1 waits", None, "1 waits"):
        file.see(words, frozenset({(3, 1)}))
    assert (Now.read(tmp_path), file.wait_s()) == (found, 1.0)
    now_s += 1.5
    assert file.wait_s() == 0.0
    file.see("1 waits", frozenset({(3, 1)}))
    again = Now.read(tmp_path)
    assert again is not None
    assert (again.waits_for, again.suspended) == ("1 waits", frozenset({(3, 1)}))
    assert file.wait_s() is None
    file.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / NOW_FILE).write_text('{"began_at": 1.0, "at"')
    assert Now.read(tmp_path) is None


def test_what_began_and_was_lost_while_no_search_was_there_has_run(tmp_path: Path) -> None:
    played = play(small_plan(), settings(tmp_path), n_ends=1)
    engine = Engine()
    for event in played:
        engine.handle(event)
    started = engine.running()[0]
    lost = Ending(None, None, None, None, (), "its node is gone", ran_s=50.0)
    judged = partial(
        ended_event, engine, tmp_path, started, began_at=None, gpu_is_lost=False, search_alive=False
    )
    ended = judged(lost)
    assert ended.started_at == pytest.approx(ended.ended_at - 50.0)
    beginnings = Beginnings(ordered={(started.job, started.attempt)})
    study = study_view([*played, ended], folder=FOLDER, running=True, beginnings=beginnings)
    (job,) = [job for job in study.jobs if job.job == started.job]
    assert (job.has_begun, job.started_at) == (True, ended.started_at)
    never = judged(replace(lost, ran_s=None))
    assert never.started_at == never.ended_at
    # the search's clock was set back since it saw it begin
    ended = judged(lost, began_at=ended.ended_at + 3600.0)
    assert ended.started_at == pytest.approx(ended.ended_at - 50.0)
    ended = judged(replace(lost, ran_s=None), began_at=ended.ended_at + 3600.0)
    assert ended.started_at == ended.ended_at
    # and a journal of before, when keepers told what a node's clock said
    failed = replace(ended, started_at=ended.ended_at + 3600.0)
    study = study_view([*played, failed], folder=FOLDER, running=True, beginnings=beginnings)
    assert next(job.has_begun for job in study.jobs if job.job == started.job)


def test_a_search_that_is_over_needs_no_table_of_its_rungs(tmp_path: Path) -> None:
    study = view_of(play(small_plan(), settings(tmp_path)))
    assert brackets_table(study) == ""
    assert "jobs    22 of 22 done\n" in report_text(study, FOLDER, cwd=Path("/"), top=3)


def test_of_many_brackets_those_under_way_are_shown(tmp_path: Path) -> None:
    plan = small_plan()
    many = Plan(plan.brackets * 10, plan.max_epochs)
    *rows, others = brackets_table(view_of(play(many, settings(tmp_path), n_ends=30))).splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["3"]
    assert others == "and 3 brackets complete, 26 brackets not begun"


def test_times_of_several_starts_are_added_up(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), n_ends=3)  # killed: the last event is at + 4 s
    started = next(event for event in events if isinstance(event, SearchStarted))
    again = replace(started, at=BEGAN_AT + 1000)
    ended = SearchEnded(BEGAN_AT + 1010, "stopped", "interrupted")
    study = view_of([*events, again, ended])
    assert study.spans == (Span(BEGAN_AT, BEGAN_AT + 4), Span(BEGAN_AT + 1000, BEGAN_AT + 1010))
    assert progress_words(study, now=0.0).endswith(", ran for 14 s in 2 starts")
    runs = view_of([*events, again], running=True)
    assert runs.spans[-1] == Span(BEGAN_AT + 1000, None)
    killed = view_of([*events, again])
    assert killed.spans[-1] == Span(BEGAN_AT + 1000, BEGAN_AT + 1000)
    said = report_text(killed, FOLDER, cwd=Path("/"), top=3)
    assert "state   stopped: killed, or its machine went down\n" in said


def test_a_killed_search_that_is_stopped_much_later_did_not_run_until_then(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), n_ends=3)
    start = events[-1]
    assert isinstance(start, JobStarted)
    later = BEGAN_AT + 90_000
    lost = JobEnded(later, start.job, start.attempt, Outcome.LOST, None, None, later, later, False, "gone")
    study = view_of([*events, lost, SearchEnded(later + 1, "stopped", "killed, and ended from outside")])
    assert study.spans == (Span(BEGAN_AT, BEGAN_AT + 4),)


def test_a_killed_search_of_which_nothing_was_left_is_told_as_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, play(small_plan(), settings(tmp_path), n_ends=3))
    assert main(["stop", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\nstate   stopped: killed\n" in said
    assert said.endswith("\nthe same command goes on from here\n")


def test_a_plan_that_is_complete_has_nothing_left_although_nobody_said_so(tmp_path: Path) -> None:
    study = view_of(play(small_plan(), settings(tmp_path), ends=False))
    assert study.state == "finished"
    assert progress_words(study, now=0.0).startswith("jobs    22 of 22 done\ntime    began ")


# What was learned from.


def test_studies_that_the_model_learns_from_are_named_with_their_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, gone = tmp_path / "logs" / "resnet", tmp_path / "logs" / "gone"
    write_study(other, play(small_plan(), settings(tmp_path)))
    events = play(small_plan(), settings(tmp_path, learn_from=(other, gone)), n_ends=3)
    write_study(tmp_path / "logs" / "vgg", events)
    assert main(["report", str(tmp_path / "logs" / "vgg")]) == 0
    said = capsys.readouterr().out
    assert f"\nlearns  from {other} (22 losses by now)\nlearns  from {gone} (cannot be read now)\n" in said


def test_studies_that_were_learned_from_are_named_when_the_search_goes_on_without(tmp_path: Path) -> None:
    other = tmp_path / "resnet"
    events = play(small_plan(), settings(tmp_path, learn_from=(other,)), n_ends=3)
    again = SearchStarted(BEGAN_AT + 9, settings(tmp_path).document(), "here", 2, "boot", "0.1.0")
    study = view_of([*events, again])
    assert (study.learns_from, study.learned_from) == ((), (str(other),))
    said = report_text(study, FOLDER, cwd=Path("/"), top=3, n_losses={str(other): 1})
    assert f"\nlearned from {other} (1 loss by now), in an earlier start only\n" in said


# Losses that rose.


def test_a_trial_that_was_better_with_fewer_epochs_is_told(tmp_path: Path) -> None:
    def overfits(trial: int, epochs: int) -> tuple[Outcome, float | None]:
        return Outcome.LOSS, 1.0 + trial + (epochs if trial == 0 else -0.01 * epochs)

    study = view_of(play(small_plan(), settings(tmp_path), outcome_of=overfits))
    words = worse_later_text(study)
    assert "1 of 4 trials that went on had a lower loss before: trial 0 2 at 1 epoch, then 4 at 3." in words
    assert "should print its best validation loss so far" in words
    assert words in report_text(study, FOLDER, cwd=Path("/"), top=3)


def test_losses_that_fall_need_no_note(tmp_path: Path) -> None:
    assert worse_later_text(view_of(play(small_plan(), settings(tmp_path)))) == ""
