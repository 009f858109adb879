"""What a report says of failures, retries, memory, slots and checkpoints; journals of earlier versions."""

import json
import shlex
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from study_fixture import config_id, play, settings, small_plan

from hyperband.cli.main import main
from hyperband.folder import JOURNAL_FILE
from hyperband.report.document import study_document
from hyperband.report.export import jobs_csv
from hyperband.report.failures import failures_of
from hyperband.report.log import StudyLog
from hyperband.report.results import report_text, result_text, retrain_command
from hyperband.report.text import size
from hyperband.report.usage import rungs_table, slots_table
from hyperband.report.view import StudyView, study_view
from hyperband.search.events import (
    CheckpointsRemoved,
    Event,
    JobEnded,
    JobStarted,
    SearchEnded,
    SearchStarted,
    SlotQuarantined,
    SlotReleased,
)
from hyperband.search.trial import Outcome
from hyperband.study.failures import last_words
from hyperband.study.warnings import warnings_of

FOLDER = Path("/studies/vgg")
GIB = 1 << 30


def view_of(events: list[Event]) -> StudyView:
    return study_view(events, folder=FOLDER, running=False)


def events_with(
    tmp_path: Path, change: Callable[[JobEnded, int], JobEnded], **changes: object
) -> list[Event]:
    """A finished study whose ends are changed by (event, trial); failures stay failures."""
    trials: dict[int, int] = {}
    events: list[Event] = []
    for event in play(small_plan(), settings(tmp_path, **changes), outcome_of=outcomes):
        if isinstance(event, JobStarted):
            trials[event.job] = event.trial
        events.append(change(event, trials[event.job]) if isinstance(event, JobEnded) else event)
    return events


def outcomes(trial: int, epochs: int) -> tuple[Outcome, float | None]:
    if trial in (1, 2, 4):
        return Outcome.CRASHED, None
    if trial in (5, 6, 7, 9, 10, 11):
        return Outcome.OUT_OF_MEMORY, None
    return Outcome.LOSS, 100.0 / (1 + trial) / epochs


def named(event: JobEnded, trial: int) -> JobEnded:  # noqa: ARG001
    names = {Outcome.CRASHED: "KeyError 'bn'", Outcome.OUT_OF_MEMORY: "CUDA out of memory"}
    return replace(event, fingerprint=names.get(event.outcome, ""))


def retried(events: list[Event], *, fails_again: bool) -> list[Event]:
    """The events up to trial 2's end, which becomes a failure that is tried again, and then that try."""
    place = next(n for n, e in enumerate(events) if isinstance(e, JobEnded) and e.job == 2)
    start, end = events[place - 1], events[place]
    assert isinstance(start, JobStarted)
    assert isinstance(end, JobEnded)
    outcome, loss = (Outcome.CRASHED, None) if fails_again else (Outcome.LOSS, 7.5)
    return [
        *events[:place],
        replace(end, retry=True),
        replace(start, attempt=1, slot="gpu:2"),
        replace(end, attempt=1, outcome=outcome, loss=loss, fingerprint="exit code 3" if fails_again else ""),
    ]


def test_failures_of_a_kind_are_told_together_and_the_first_trials_are_named(tmp_path: Path) -> None:
    study = view_of(events_with(tmp_path, named))
    expected = (
        "9 jobs failed: 6 x CUDA out of memory (trials 5, 6, 7, 9, 10 and 1 more, see report --json), "
        "3 x KeyError 'bn' (trials 1, 2, 4)"
    )
    assert failures_of(study).text() == expected
    assert expected in report_text(study, FOLDER, cwd=Path("/"), top=3)
    assert expected in result_text(study, FOLDER, cwd=Path("/"))


def test_no_failures_no_words(tmp_path: Path) -> None:
    study = view_of(play(small_plan(), settings(tmp_path)))
    assert failures_of(study).text() == ""
    assert failures_of(study).groups() == ()
    assert "failed:" not in report_text(study, FOLDER, cwd=Path("/"), top=3)


def test_a_failure_that_was_tried_again_is_no_failed_job(tmp_path: Path) -> None:
    events = events_with(tmp_path, named)
    mended = view_of(retried(events, fails_again=False))
    assert failures_of(mended).text().splitlines() == [
        "1 job failed: 1 x KeyError 'bn' (trial 1)",
        "1 failed attempt was tried again, 1 with a loss in the end: 1 x KeyError 'bn' (trial 2)",
    ]
    again = view_of(retried(events, fails_again=True))
    assert failures_of(again).text().splitlines() == [
        "2 jobs failed: 1 x KeyError 'bn' (trial 1), 1 x exit code 3 (trial 2)",
        "1 failed attempt was tried again: 1 x KeyError 'bn' (trial 2)",
    ]
    *before, end = retried(events, fails_again=True)
    assert isinstance(end, JobEnded)
    events = [*before, replace(end, fingerprint="KeyError 'bn'")]
    assert failures_of(view_of(events)).text().splitlines() == [
        "2 jobs failed: 2 x KeyError 'bn' (trials 1, 2)",
        "1 failed attempt was tried again",
    ]
    # no trial is told of for both
    (group, _) = failures_of(again).groups()
    assert (group.n_final, group.final_trials, group.retried_trials, group.trials) == (1, (1,), (2,), (1, 2))


def test_jobs_that_stay_failed_are_counted_once_each(tmp_path: Path) -> None:
    events = retried(events_with(tmp_path, named), fails_again=True)
    used = settings(tmp_path)
    ended = SearchEnded(9.0, "failed", "many failed")
    (warning,) = warnings_of([*events, ended], used)
    assert warning.startswith(
        "Warning: the search before this one stopped (many failed). Its 2 failed jobs stay failed; "
    )
    (one,) = warnings_of([*retried(events_with(tmp_path, named), fails_again=False), ended], used)
    assert "Its 1 failed job stays failed; " in one


def test_last_words_of_a_job_are_its_own_or_are_told_as_what_was_found() -> None:
    note = "the last line of standard output is 'loss: 0.3'; a number alone was expected"
    end = JobEnded(9.0, 4, 0, Outcome.NO_LOSS, None, 0, 1.0, 2.5, True, note, False, "")
    assert last_words(end, trial=3, error_lines="ValueError: no") == (
        " The last lines of job 4 (trial 3):\nValueError: no"
    )
    assert last_words(end, trial=3, error_lines="") == (
        f" Job 4 (trial 3) printed nothing on standard error; found was: {note}"
    )
    assert last_words(replace(end, note=""), trial=3, error_lines="") == ""


def test_a_search_without_a_loss_is_not_told_to_wait_for_one(tmp_path: Path) -> None:
    study = view_of(play(small_plan(), settings(tmp_path), outcome_of=lambda *_: (Outcome.CRASHED, None)))
    assert result_text(study, FOLDER, cwd=Path("/")).startswith("no trial has a loss\n")


def test_many_kinds_are_cut_and_hostile_ones_harmless(tmp_path: Path) -> None:
    study = view_of(
        events_with(tmp_path, lambda event, trial: replace(event, fingerprint=f"\x1b[31m kind {trial}" * 20))
    )
    text = failures_of(study).text()
    assert text.isprintable()
    assert text.endswith("3 x 3 other kinds")
    assert len(text) < 1000


def test_a_retried_attempt_has_its_outcome_and_no_loss_in_the_json(tmp_path: Path) -> None:
    document = study_document(
        retried(events_with(tmp_path, named), fails_again=False), folder=FOLDER, running=False
    )
    jobs = document["jobs"]
    assert isinstance(jobs, list)
    keys = ("trial", "attempt", "outcome", "loss", "retry", "fingerprint", "slot")
    assert [tuple(job[key] for key in keys) for job in jobs[1:]] == [
        (1, 0, "Crashed", 100.0, False, "KeyError 'bn'", "gpu:1/0"),
        (2, 0, "Crashed", None, True, "KeyError 'bn'", "gpu:1/0"),
        (2, 1, "Loss", 7.5, False, None, "gpu:2"),
    ]
    assert document["failures"] == [
        {"fingerprint": "KeyError 'bn'", "outcome": "Crashed", "n_final": 1, "n_retried": 1, "trials": [1, 2]}
    ]
    lines = jobs_csv(document).splitlines()
    assert lines[0].endswith(
        ",stderr,retry,fingerprint,memory_peak_bytes,cpu_s,gpu_memory_peak_bytes,gpu_utilisation_percent"
        ",source,state,ordered_at"
    )
    assert ",True,KeyError 'bn',,,," in lines[3]


def measured(event: JobEnded, trial: int) -> JobEnded:
    return replace(
        event,
        memory_peak_bytes=(trial + 1) * GIB,
        cpu_s=2.0,
        gpu_memory_peak_bytes=40 * GIB if trial == 3 else None,
        gpu_utilisation_percent=60.0 if trial % 2 else 80.0,
    )


def test_memory_and_time_of_each_rung(tmp_path: Path) -> None:
    study = view_of(events_with(tmp_path, measured))
    table = rungs_table(study)
    head = [" ".join(line.split()) for line in table.splitlines()[:2]]
    assert head[0] == "epochs jobs median median median peak peak GPU mean GPU"
    assert head[1] == "time processor memory memory memory utilisation"
    # to epoch 1 ran trials 0 to 8: the median is that of trial 4, the peak that of 8
    assert " ".join(table.splitlines()[3].split()) == "1 9 0.7 s 2.0 s 5.0 GiB 9.0 GiB 40 GiB 71 %"
    assert table in report_text(study, FOLDER, cwd=Path("/"), top=3)


def test_columns_that_nobody_measured_are_left_out(tmp_path: Path) -> None:
    table = rungs_table(view_of(play(small_plan(), settings(tmp_path))))
    assert table.splitlines()[0].split() == ["epochs", "jobs", "median"]
    assert [line.split()[:2] for line in table.splitlines()[3:]] == [["1", "9"], ["3", "8"], ["9", "5"]]


def test_what_was_lost_or_stopped_is_no_measure(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), n_ends=1)[:-1]
    end = events[-1]
    assert isinstance(end, JobEnded)
    stopped = replace(end, outcome=Outcome.STOPPED, loss=None, memory_peak_bytes=GIB)
    assert rungs_table(view_of([*events[:-1], stopped])) == ""


def test_slots_with_what_ran_there_and_quarantine(tmp_path: Path) -> None:
    events = retried(events_with(tmp_path, named), fails_again=False)
    at = 1_700_000_100.0
    black_hole = SlotQuarantined(at, "gpu:10", at + 3600, "failed 3 jobs in 2 s while others succeeded")
    over = SlotQuarantined(at, "gpu:2", at + 3600, "2 strikes")
    study = view_of([*events, over, black_hole, SlotReleased(at + 1, "gpu:2", "released by hand")])
    table = slots_table(study)
    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert rows[0] == "slot attempts losses failures busy in quarantine"
    assert rows[2:4] == ["gpu:1/0 3 1 2 2.1 s", "gpu:2 1 1 0 0.7 s"]
    assert rows[4].startswith("gpu:10 0 0 0 0.0 s until 20")
    assert rows[4].endswith(": failed 3 jobs in 2 s while others succeeded")
    assert table in report_text(study, FOLDER, cwd=Path("/"), top=3)
    document = study_document(
        [*events, over, black_hole, SlotReleased(at + 1, "gpu:2", "")], folder=FOLDER, running=True
    )
    assert document["quarantined"] == [
        {"slot": "gpu:10", "since": at, "until": at + 3600, "reason": black_hole.reason}
    ]


@pytest.mark.parametrize("of", ["slurm/{}", "n{}/15/0", "n1/15/{}", "gpu:0/{}"])
def test_slots_are_in_the_order_of_their_numbers(tmp_path: Path, of: str) -> None:
    names = [of.format(number) for number in (10, 9, 2)]
    study = view_of(
        [
            *events_with(tmp_path, named),
            *(SlotQuarantined(1.0, name, 2.0, "it failed jobs") for name in names),
        ]
    )
    found = [line.split()[0] for line in slots_table(study).splitlines()[2:]]
    assert [name for name in found if name in names] == names[::-1]


def test_slots_without_quarantine_have_no_column_for_it(tmp_path: Path) -> None:
    table = slots_table(view_of(play(small_plan(), settings(tmp_path))))
    assert table.splitlines()[0].split() == ["slot", "attempts", "losses", "failures", "busy"]


def test_bytes_that_were_freed(tmp_path: Path) -> None:
    events = [
        *play(small_plan(), settings(tmp_path)),
        CheckpointsRemoved(0.0, (1, 2), 3, GIB),
        CheckpointsRemoved(1.0, (3,), 1, GIB // 2),
    ]
    document = study_document(events, folder=FOLDER, running=False)
    assert document["checkpoints_freed_bytes"] == 3 * GIB // 2
    for text in (
        report_text(view_of(events), FOLDER, cwd=Path("/"), top=1),
        result_text(view_of(events), FOLDER, cwd=Path("/")),
    ):
        assert "checkpoints deleted: 1.5 GiB" in text


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * 1024, "10 KiB"), (1023.7 * GIB, "1.0 TiB")],
)
def test_amounts_of_memory(n_bytes: float, words: str) -> None:
    assert size(n_bytes) == words


@pytest.mark.parametrize(
    ("slot", "uuids", "isolate", "begins", "gpu"),
    [
        ("gpu:3", ("GPU-a",), False, [], "3"),
        ("gpu:3", ("GPU-a",), True, ["env", "CUDA_VISIBLE_DEVICES=GPU-a"], "0"),
        ("gpu:1/0", ("MIG-b",), False, ["env", "CUDA_VISIBLE_DEVICES=MIG-b"], "0"),
        ("gpu:1/0", ("GPU-b",), False, [], "1"),
        ("gpu:0,1", ("GPU-a", "GPU-b"), True, ["env", "CUDA_VISIBLE_DEVICES=GPU-a"], "0"),
        ("gpu:3", (), True, [], "3"),
        ("cpu:2", (), True, [], "2"),
    ],
)
def test_the_command_for_the_best_shows_it_the_device_that_it_had(
    tmp_path: Path, slot: str, uuids: tuple[str, ...], isolate: bool, begins: list[str], gpu: str
) -> None:
    events = [
        replace(event, slot=slot, gpu_uuids=uuids) if isinstance(event, JobStarted) else event
        for event in play(small_plan(), settings(tmp_path, isolate=isolate))
    ]
    command = retrain_command(view_of(events), cwd=Path("/somewhere"))
    assert command is not None
    words = shlex.split(command)
    assert words[: len(begins)] == begins
    assert words[len(begins)] == "/usr/bin/python3"
    assert words[words.index("--gpu") + 1] == gpu
    assert config_id(16) in words


def test_the_command_for_the_best_is_that_of_the_start_in_which_its_last_job_ran(tmp_path: Path) -> None:
    first = settings(tmp_path, script_args=("--hiden", "3"))
    then = settings(tmp_path, script_args=("--lr", "1"), python=Path("/opt/python"))
    events = play(
        small_plan(), first, outcome_of=lambda trial, epochs: (Outcome.LOSS, (1.0 + trial) / epochs)
    )
    started = next(event for event in events if isinstance(event, SearchStarted))
    # the best's first jobs ran in the first start, and its last one in the second
    *_, place = (n for n, event in enumerate(events) if isinstance(event, JobStarted) and event.trial == 0)
    events.insert(place, replace(started, settings=then.document(), at=started.at + 50))
    # and nothing in the third
    last = replace(started, settings=settings(tmp_path, script_args=()).document(), at=started.at + 99)
    study = view_of([*events, last])
    assert study.best is not None
    assert study.best.trial == 0
    assert len([job for job in study.jobs if job.trial == 0]) == 3
    command = retrain_command(study, cwd=Path("/somewhere"))
    assert command is not None
    assert command.startswith("/opt/python ")
    assert command.endswith("--gpu 1 --lr 1")
    assert f"\nscript  {first.script}\n" in report_text(study, FOLDER, cwd=Path("/"), top=1)
    earlier = report_text(view_of(events), FOLDER, cwd=Path("/"), top=1)
    assert f"\nscript  {first.script} --lr 1\n" in earlier


def test_the_command_hides_gpus_that_the_search_was_told_not_to_use(tmp_path: Path) -> None:
    events = [
        replace(event, slot="cpu:0") if isinstance(event, JobStarted) else event
        for event in play(small_plan(), settings(tmp_path, gpus="none"))
    ]
    command = retrain_command(view_of(events), cwd=Path("/somewhere"))
    assert command is not None
    assert "env CUDA_VISIBLE_DEVICES= /usr/bin/python3" in command


def test_the_log_names_the_kind_and_the_retry(tmp_path: Path) -> None:
    event = JobEnded(
        9.0, 4, 0, Outcome.CRASHED, None, 1, 1.0, 2.5, True, "exit code 1", True, "KeyError 'bn'"
    )
    with StudyLog(tmp_path / "log") as log:
        log.end(event, 3, "")
    line = (tmp_path / "log").read_text().partition("end ")[2].strip()
    assert line == (
        "job 4 attempt 0: trial 3: Crashed after 1.50 s (exit code 1) [KeyError 'bn']; it is tried again"
    )


@pytest.mark.parametrize(
    "dump", sorted((Path(__file__).parent / "journals").glob("*.sql")), ids=lambda p: p.stem
)
def test_a_journal_of_an_earlier_version_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dump: Path
) -> None:
    connection = sqlite3.connect(tmp_path / JOURNAL_FILE)
    connection.executescript(dump.read_text())
    connection.close()
    assert main(["report", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["state"], len(document["jobs"])) == ("finished", 6)
    crashed = document["jobs"][2]
    assert (crashed["outcome"], crashed["loss"], crashed["retry"]) == ("Crashed", 100.0, False)
    assert (crashed["fingerprint"], crashed["memory_peak_bytes"]) == (None, None)
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 job failed: 1 x exit code 1: KeyError: 'bn' (trial 2)" in out
    assert "median" in out
