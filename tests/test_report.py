"""Reports: the JSON to the letter, CSV, tables, and `report` on real journals in every state."""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from study_fixture import BEGAN_AT, config_id, play, settings, small_plan, write_study

from hyperband.cli.main import main
from hyperband.errors import InternalError, JournalError
from hyperband.folder import JOURNAL_FILE
from hyperband.journal import Beginnings, Journal
from hyperband.report.again import STARTED_OVER, trained_twice, trained_twice_text
from hyperband.report.document import JOB_COLUMNS, document_of, planned_document, study_document
from hyperband.report.export import jobs_csv, json_text
from hyperband.report.results import (
    best_table,
    outcomes_table,
    report_text,
    result_text,
    retrain_command,
    sources_text,
)
from hyperband.report.tables import plan_table, plan_text
from hyperband.report.text import (
    command_line,
    duration,
    moment,
    short_number,
    shortened,
    shown,
    span_words,
)
from hyperband.report.view import study_view
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdProposed,
    IdsDrawn,
    IdSource,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    StudyCreated,
)
from hyperband.search.trial import Algorithm, Bracket, Outcome, Plan, Rung
from hyperband.study.opening import plan_of
from hyperband.study.pace import Pace

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("/studies/vgg")
DOCUMENT_KEYS = [
    "identity",
    "script",
    "settings",
    "state",
    "best",
    "plan",
    "trials",
    "jobs",
    "failures",
    "quarantined",
    "checkpoints_freed_bytes",
    "trained_twice",
    "waiting",
    "last_seen_at",
]


def _rows(document: dict[str, object], key: str) -> list[dict[str, object]]:
    rows = document[key]
    assert isinstance(rows, list)
    return rows


def test_a_finished_study_has_exactly_the_keys_of_the_specification_in_order(tmp_path: Path) -> None:
    used = settings(tmp_path)
    document = study_document(play(small_plan(), used), folder=FOLDER, running=False)
    assert list(document) == DOCUMENT_KEYS
    assert (document["failures"], document["quarantined"], document["checkpoints_freed_bytes"]) == ([], [], 0)
    assert document["identity"] == "vgg"
    assert document["script"] == str(used.script)
    assert document["state"] == "finished"
    assert document["settings"] == used.document()
    # 9/3: (9@1, 3@3, 1@9), (5@3, 1@9), (3@9)
    assert document["plan"] == [
        {"bracket": 0, "rungs": [{"n": 9, "epochs": 1}, {"n": 3, "epochs": 3}, {"n": 1, "epochs": 9}]},
        {"bracket": 1, "rungs": [{"n": 5, "epochs": 3}, {"n": 1, "epochs": 9}]},
        {"bracket": 2, "rungs": [{"n": 3, "epochs": 9}]},
    ]
    # 17 trials: the last has the lowest loss, 100 / 17 / 9
    assert document["best"] == {"config_id": config_id(16), "loss": 100 / 17 / 9, "epochs": 9}
    trials = _rows(document, "trials")
    assert [trial["number"] for trial in trials] == list(range(17))
    assert list(trials[0]) == ["number", "config_id", "bracket", "rung", "state", "loss", "source"]
    assert trials[8] | {"loss": None} == {
        "number": 8,
        "config_id": config_id(8),
        "bracket": 0,
        "rung": 2,
        "state": "done",
        "loss": None,
        "source": "random",
    }
    assert (trials[0]["state"], trials[0]["loss"]) == ("dropped", 100.0)
    jobs = _rows(document, "jobs")
    assert len(jobs) == 22
    assert tuple(jobs[0]) == JOB_COLUMNS
    assert jobs[0]["started_at"] == pytest.approx(BEGAN_AT + 1.1)
    assert jobs[0]["ended_at"] == pytest.approx(BEGAN_AT + 1.8)
    assert jobs[0]["stdout"] == "/studies/vgg/jobs/000000-0/stdout"
    assert jobs[21]["stderr"] == "/studies/vgg/jobs/000021-0/stderr"
    assert jobs[0]["slot"] == "gpu:1/0"
    assert jobs[0]["outcome"] == "Loss"


def test_states_of_a_study(tmp_path: Path) -> None:
    used = settings(tmp_path)
    partly = play(small_plan(), used, n_ends=4)
    whole = play(small_plan(), used)

    def state(events: list[Event], *, running: bool = False) -> object:
        return study_document(events, folder=FOLDER, running=running)["state"]

    assert state(partly, running=True) == "running"
    assert state(partly) == "stopped"
    assert state([*partly, SearchEnded(1.0, "stopped", "Ctrl-C")]) == "stopped"
    assert state([*partly, SearchEnded(1.0, "failed", "ten failed")]) == "failed"
    assert state(whole) == "finished"
    assert state(whole, running=True) == "running"
    # killed between its last outcome and its last word
    assert state(play(small_plan(), used, ends=False)) == "finished"
    # a restart takes the last word back
    restarted = SearchStarted(2.0, used.document(), "here", 2, "boot", "0.1.0")
    assert state([*partly, SearchEnded(1.0, "failed", "ten failed"), restarted]) == "stopped"
    assert (
        state(play(small_plan(), used, outcome_of=lambda *_: (Outcome.CRASHED, None), ends=False)) == "failed"
    )


def test_losses_of_jobs_and_trials_when_some_fail(tmp_path: Path) -> None:
    used = settings(tmp_path, penalty=7.5)

    def outcome_of(trial: int, epochs: int) -> tuple[Outcome, float | None]:
        if trial == 0:
            return Outcome.NOT_FINITE, None
        if trial == 8 and epochs == 3:
            return Outcome.OUT_OF_MEMORY, None
        return Outcome.LOSS, 1.0 / (1 + trial)

    document = study_document(play(small_plan(), used, outcome_of=outcome_of), folder=FOLDER, running=False)
    trials = _rows(document, "trials")
    assert (trials[0]["state"], trials[0]["rung"], trials[0]["loss"]) == ("failed", 0, 7.5)
    # failed higher up: it keeps the loss of its highest rung with one
    assert (trials[8]["state"], trials[8]["rung"], trials[8]["loss"]) == ("failed", 1, 1 / 9)
    by_key = {(job["trial"], job["epochs"]): job for job in _rows(document, "jobs")}
    assert (by_key[0, 1]["outcome"], by_key[0, 1]["loss"]) == ("NotFinite", 7.5)
    assert (by_key[8, 3]["outcome"], by_key[8, 3]["loss"]) == ("OutOfMemory", 7.5)


def test_lost_attempts_have_no_loss_and_are_followed_by_another_attempt(tmp_path: Path) -> None:
    seen: list[int] = []

    def outcome_of(trial: int, epochs: int) -> tuple[Outcome, float | None]:
        if trial == 2 and epochs == 1 and not seen:
            seen.append(trial)
            return Outcome.LOST, None
        return Outcome.LOSS, float(trial)

    events = play(small_plan(), settings(tmp_path), outcome_of=outcome_of)
    jobs = [
        job
        for job in _rows(study_document(events, folder=FOLDER, running=False), "jobs")
        if job["trial"] == 2
    ]
    assert [(job["attempt"], job["outcome"], job["loss"]) for job in jobs[:2]] == [
        (0, "Lost", None),
        (1, "Loss", 2.0),
    ]
    assert str(jobs[1]["stdout"]).endswith("jobs/000002-1/stdout")


def test_a_running_job_has_nulls(tmp_path: Path) -> None:
    document = study_document(play(small_plan(), settings(tmp_path), n_ends=3), folder=FOLDER, running=True)
    last = _rows(document, "jobs")[-1]
    assert (last["outcome"], last["loss"], last["ended_at"]) == (None, None, None)
    assert last["started_at"] == BEGAN_AT + 4
    trials = _rows(document, "trials")
    assert [trial["state"] for trial in trials[:5]] == ["waiting", "waiting", "waiting", "running", "queued"]
    assert trials[4]["loss"] is None
    assert document["best"] == {"config_id": config_id(2), "loss": 100 / 3, "epochs": 1}


def test_a_study_without_a_plan_yet_and_an_empty_journal(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path))[:2]
    document = study_document(events, folder=FOLDER, running=False)
    assert (document["state"], document["plan"], document["trials"], document["jobs"]) == (
        "stopped",
        [],
        [],
        [],
    )
    with pytest.raises(JournalError, match="is empty"):
        study_document([], folder=FOLDER, running=False)


def test_planned_document_has_the_same_keys(tmp_path: Path) -> None:
    used = settings(tmp_path)
    planned = planned_document(used, "vgg", small_plan())
    finished = study_document(play(small_plan(), used), folder=FOLDER, running=False)
    assert list(planned) == list(finished)
    assert planned["plan"] == finished["plan"]
    assert (planned["state"], planned["best"], planned["trials"], planned["jobs"]) == (
        "planned",
        None,
        [],
        [],
    )


def test_trials_and_jobs_stand_in_the_order_that_the_docs_promise(tmp_path: Path) -> None:
    """Job 1 began after all others; job 4 was ordered early, and has not begun."""
    changed: list[Event] = []
    for event in play(small_plan(), settings(tmp_path), n_ends=4):
        if isinstance(event, JobEnded) and event.job == 1:
            late = BEGAN_AT + 500
            changed.append(replace(event, started_at=late, ended_at=late + 1))
        elif isinstance(event, JobStarted) and event.job == 4:
            changed.append(replace(event, at=BEGAN_AT + 2.5))
        else:
            changed.append(event)
    ordered = Beginnings({(4, 0)})
    document = study_document(changed, folder=FOLDER, running=True, beginnings=ordered)
    assert [trial["number"] for trial in _rows(document, "trials")] == list(range(17))
    jobs = [(job["trial"], job["state"]) for job in _rows(document, "jobs")]
    assert jobs == [(0, "ended"), (4, "queued"), (2, "ended"), (3, "ended"), (1, "ended")]
    assert [row["trial"] for row in csv.DictReader(io.StringIO(jobs_csv(document)))] == list("04231")
    told = " ".join((ROOT / "docs" / "results.md").read_text().split())
    assert "Trials stand by number." in told
    assert "Jobs stand by when they began (those that have not by when they were ordered)" in told


def test_json_is_one_ascii_line_and_refuses_nan(tmp_path: Path) -> None:
    document = planned_document(settings(tmp_path), "ü\udcff", small_plan())
    text = json_text(document)
    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads(text)["identity"] == "ü\udcff"
    with pytest.raises(InternalError, match="not finite"):
        json_text({"loss": float("nan")})


def test_csv_has_the_jobs_with_the_columns_of_the_json(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), n_ends=3, id_of=lambda trial: f'a,"{trial}" ü')
    document = study_document(events, folder=FOLDER, running=True)
    rows = list(csv.DictReader(io.StringIO(jobs_csv(document))))
    assert tuple(rows[0]) == JOB_COLUMNS
    for row, job in zip(rows, _rows(document, "jobs"), strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in job.items()}


def test_plan_table_has_the_numbers_and_both_totals() -> None:
    table = plan_table(small_plan(81))
    lines = table.splitlines()
    assert " ".join(lines[3].split()) == "0 81 @ 1 27 @ 3 9 @ 9 3 @ 27 1 @ 81 121 297 405"
    assert lines[-1].split() == ["total", "206", "1,581", "1,902"]


def test_plan_table_shows_repeats_once_and_counts_them_all() -> None:
    once = small_plan()
    many = Plan(once.brackets * 5, once.max_epochs)
    lines = plan_table(many).splitlines()
    assert len(lines) == 3 + 3 + 1
    assert lines[3].startswith("0, 3, .., 12")
    assert lines[-1].split() == ["total", "110", f"{once.epochs_resumed * 5:,}", f"{once.epochs * 5:,}"]


def test_plan_table_of_an_empty_plan() -> None:
    assert plan_table(Plan((), 0)).splitlines()[-1].split() == ["total", "0", "0", "0"]


def test_plan_text_says_what_the_script_gets(tmp_path: Path) -> None:
    used = settings(tmp_path, script_args=("--note", "two words"))
    text = plan_text(small_plan(), used, identity="vgg")
    assert f"/usr/bin/python3 {used.script} CONFIG_ID --epochs N --gpu K --note 'two words'" in text
    assert plan_table(small_plan()) in text


@pytest.mark.parametrize(
    ("algorithm", "asked", "shortest"),
    [("hyperband", 10, 27), ("halving", 10, 27), ("hyperband", 9, 0), ("asha", 10, 0)],
)
def test_shortest_jobs_that_are_longer_than_asked_are_told(
    algorithm: str, asked: int, shortest: int, tmp_path: Path
) -> None:
    used = settings(tmp_path, algorithm=Algorithm(algorithm), min_epochs=asked, max_epochs=81)
    text = plan_text(plan_of(used), used, identity="vgg")
    assert (f"The shortest jobs have {shortest} epochs: rungs are 81 divided by 3" in text) is (shortest > 0)
    assert ("The shortest jobs" in text) is (shortest > 0)


def test_best_table_is_ranked_as_best_is(tmp_path: Path) -> None:
    study = study_view(play(small_plan(), settings(tmp_path)), folder=FOLDER, running=False)
    lines = best_table(study, top=4).splitlines()[2:]
    cells = [line.split()[:5] for line in lines]
    # those with 9 epochs first; among them by loss
    assert [row[3] for row in cells] == ["16", "15", "14", "13"]
    assert [row[2] for row in cells] == ["9", "9", "9", "9"]
    assert study.best is not None
    assert study.best.trial == 16


def test_tables_show_hostile_and_huge_ids_harmlessly(tmp_path: Path) -> None:
    events = play(
        small_plan(), settings(tmp_path), id_of=lambda trial: f"[red]\x1b[31m\u202e{trial} 1e5" + "x" * 5000
    )
    study = study_view(events, folder=FOLDER, running=False)
    text = report_text(study, FOLDER, cwd=Path("/"), top=3, width=100)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"[red]\x1b[31m" in text
    assert all(len(line) <= 100 for line in best_table(study, top=3, width=100).splitlines())


def test_ids_that_look_like_numbers_stay_as_they_are(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), id_of=lambda trial: f"1e{trial}")
    table = best_table(study_view(events, folder=FOLDER, running=False), top=1)
    assert table.splitlines()[-1].endswith(" 1e16")


def test_outcomes_table_counts_and_names_a_folder(tmp_path: Path) -> None:
    def outcome_of(trial: int, epochs: int) -> tuple[Outcome, float | None]:
        return (Outcome.CRASHED, None) if trial in (3, 5) else (Outcome.LOSS, epochs / (1 + trial))

    study = study_view(
        play(small_plan(), settings(tmp_path), outcome_of=outcome_of), folder=FOLDER, running=False
    )
    table = outcomes_table(study, failures_only=True)
    assert table.splitlines()[2:] == [next(line for line in table.splitlines() if line.startswith("Crashed"))]
    assert "2" in table
    crashed = [job.folder for job in study.jobs if job.outcome is Outcome.CRASHED]
    assert str(crashed[-1]) in table
    assert "Loss" in outcomes_table(study)


def test_the_command_for_the_best_has_the_shape_of_the_contract(tmp_path: Path) -> None:
    used = settings(tmp_path)
    study = study_view(play(small_plan(), used), folder=FOLDER, running=False)
    command = retrain_command(study, cwd=Path("/somewhere"))
    assert command is not None
    expected = [
        "/usr/bin/python3",
        str(used.script),
        config_id(16),
        "--epochs",
        "9",
        "--gpu",
        "1",
        "--model",
        "vgg",
    ]
    assert shlex.split(command) == expected
    elsewhere = retrain_command(study, cwd=Path("/"))
    assert elsewhere == f"cd /somewhere && {command}"


def test_no_best_no_command(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path), outcome_of=lambda *_: (Outcome.NO_LOSS, None))
    study = study_view(events, folder=FOLDER, running=False)
    assert retrain_command(study, cwd=Path("/")) is None
    assert "NoLoss" in report_text(study, FOLDER, cwd=Path("/"), top=10)


@pytest.mark.parametrize(
    "word", ["plain", "two words", "it's", "ü", "a\x1b[31mb", "\x07'\\1", "tab\t8", "\udcff7"]
)
def test_a_pasted_command_gives_bash_the_very_same_words(word: str) -> None:
    line = command_line(["printf", "%s", word])
    assert line == shown(line)
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert ran.stdout == os.fsencode(word)


def test_values_of_hyperparameters_are_short() -> None:
    values = (0.0033851234, 5.381234e-05, 64, 123456, 0.5, 1234.5)
    assert [short_number(value) for value in values] == [
        "0.00339",
        "5.38e-05",
        "64",
        "123456",
        "0.5",
        "1234.5",
    ]
    assert span_words([0.0017441, 0.9999]) == "0.001744 to 0.9999"
    assert span_words([0.99, 0.9]) == "0.9 to 0.99"
    assert span_words([3, 3]) == "3"


def test_words_for_numbers_and_long_texts() -> None:
    words = ["0.2 s", "0.0 s", "1 min", "59 s", "1 h 2 min", "1 d 1 h"]
    assert [duration(seconds) for seconds in (0.24, -1, 59.6, 59, 3725, 90061)] == words
    assert shortened("abc", 10) == "abc"
    cut = shortened("a" * 50 + "z" * 50, 30)
    assert (len(cut), cut[0], cut[-1], "…" in cut) == (30, "a", "z", True)


# The command, on real journals.


def test_report_command_on_a_killed_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs" / "vgg"
    write_study(folder, play(small_plan(), settings(tmp_path), n_ends=6))
    journal_before = (folder / JOURNAL_FILE).read_bytes()
    assert main(["report", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["state"], document["waiting"]) == ("stopped", None)
    # the last that it wrote: the start of the job that is left
    assert (document["last_seen_at"], document["jobs"][-1]["state"]) == (BEGAN_AT + 7, "running")
    assert document["jobs"][0]["stdout"] == str(folder / "jobs" / "000000-0" / "stdout")
    assert main(["report", str(folder), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 7
    assert main(["report", str(folder), "--top", "2"]) == 0
    text = capsys.readouterr().out
    assert (
        "\nstate   stopped: killed, or its machine went down\njobs    6 of 22 done, 1 running\n"
        f"seen    no search is running: jobs are shown as last seen at {moment(BEGAN_AT + 7)}\ntime    began "
    ) in text
    assert str(folder) in text
    assert (folder / JOURNAL_FILE).read_bytes() == journal_before


def test_again_is_said_only_of_a_best_that_was_trained_so_far(tmp_path: Path) -> None:
    def said(n_ends: int | None) -> list[tuple[int, str]]:
        study = study_view(
            play(small_plan(), settings(tmp_path), n_ends=n_ends), folder=FOLDER, running=False
        )
        assert study.best is not None
        texts = (result_text(study, FOLDER, cwd=FOLDER), report_text(study, FOLDER, cwd=FOLDER, top=3))
        lines = [line for text in texts for line in text.splitlines() if line.startswith("train the best")]
        return [(study.best.epochs, line) for line in lines]

    assert said(6) == [(1, "train the best to 9 epochs:")] * 2
    assert said(None) == [(9, "train the best to 9 epochs again:")] * 2


def test_where_the_checkpoint_of_the_best_lies_is_told_where_nodes_share_no_files(tmp_path: Path) -> None:
    used = settings(tmp_path, ray_files="sent")
    study = study_view(play(small_plan(), used), folder=tmp_path, running=False)
    last = max(
        (job for job in study.jobs if study.best and job.trial == study.best.trial),
        key=lambda job: job.epochs,
    )
    folder = Path(last.folder)

    def told(storage: str | None, **sealed: object) -> list[str]:
        left = {"sealed": {"attempt": "A7", "n_files": 1, **sealed}, "disk": "/tmp/d", "storage": storage}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"checkpoint": left}))
        (folder / "claim").write_text(json.dumps({"host": "m2"}))
        texts = (
            result_text(study, tmp_path, cwd=tmp_path),
            report_text(study, tmp_path, cwd=tmp_path, top=3),
        )
        found = [text.partition("its checkpoint after 9 epochs, ")[2].partition("\n")[2] for text in texts]
        return [text.partition("\n")[0] for text in found]

    assert told("s3://b/study/key") == ["s3://b/study/key/A7/files"] * 2
    assert told(None) == ["/tmp/d/A7/files on m2"] * 2
    assert told(None, n_files=0) == ["", ""]


def test_report_command_while_a_search_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vgg"
    events = play(small_plan(), settings(tmp_path), n_ends=6)
    journal = Journal.open(folder)
    try:
        journal.append(*events, durable=False)
        assert main(["report", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "running"
    finally:
        journal.close()


def test_report_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "plain").mkdir()
    assert main(["report", str(tmp_path / "plain")]) == 1
    assert "plain" in capsys.readouterr().err
    folder = tmp_path / "empty"
    write_study(folder, [])
    assert main(["report", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "is empty" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_report_on_a_folder_of_studies_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("vgg", "resnet"):
        write_study(tmp_path / name, play(small_plan(), settings(tmp_path)))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / JOURNAL_FILE).write_bytes(b"no journal" * 1000)
    contradiction: list[Event] = [
        StudyCreated("", "/train.py", (), "/", ()),
        IdProposed(3, "x:1", IdSource.RANDOM, 0),
    ]
    write_study(tmp_path / "contradicts", contradiction)
    (tmp_path / "other").mkdir()
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.split("\n\n")[0].splitlines()[2:]]
    assert [row[0] for row in rows] == ["contradicts", "damaged", "resnet", "vgg"]
    assert rows[0][1:] == rows[1][1:] == ["cannot", "be", "read"]
    assert rows[2][1:] == rows[3][1:]
    assert rows[2][1] == "finished"
    assert rows[2][-1] == "9"
    assert "damaged" in printed.err
    assert f"{tmp_path}/contradicts: " in printed.err
    assert printed.out.endswith(f"more on one of them: report {shown(str(tmp_path / 'resnet'))}\n")
    for form in ("--json", "--csv"):
        assert main(["report", str(tmp_path), form]) == 2
        assert "Give the folder of one, such as" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "other")]) == 1
    assert "holds no study" in capsys.readouterr().err


def test_a_search_that_waits_in_slurms_queue_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("new", "vgg"):
        (tmp_path / name / "slurm").mkdir(parents=True)
        about = {"job_id": "6", "name": "hb-search-x", "submitted_at": BEGAN_AT}
        (tmp_path / name / "slurm" / "search.json").write_text(json.dumps(about))
    write_study(tmp_path / "vgg", play(small_plan(), settings(tmp_path), n_ends=3))
    assert main(["report", str(tmp_path / "vgg")]) == 0
    words = f"last submitted as Slurm's job 6 on {moment(BEGAN_AT)}: `squeue --jobs=6` says whether it waits"
    assert capsys.readouterr().out.endswith(f"\nsearch: {words}\n")
    for command in ("report", "slots"):
        assert main([command, str(tmp_path / "new")]) == 1
        assert "was submitted as Slurm's job 6 and has not begun: " in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[2:]]
    assert [row[:3] for row in rows] == [["new", "not", "begun"], ["vgg", "stopped", "hyperband"]]


def test_report_into_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    folder = tmp_path / "vgg"
    write_study(folder, play(small_plan(81), settings(tmp_path)))
    read_end, write_end = os.pipe()
    os.close(read_end)
    ran = subprocess.run(
        [sys.executable, "-m", "hyperband", "report", str(folder), "--json"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.slow
def test_a_hundred_thousand_jobs_make_a_document(tmp_path: Path) -> None:
    plan = Plan((Bracket((Rung(100_000, 1),)),), 1)
    events = play(plan, settings(tmp_path), id_of=str)
    document = study_document(events, folder=FOLDER, running=False)
    assert len(_rows(document, "jobs")) == 100_000
    assert len(json.loads(json_text(document))["trials"]) == 100_000


def guided(tmp_path: Path, *sources: IdSource, start_with: tuple[str, ...] = ()) -> list[Event]:
    """A study of one rung whose trials have their ids from these sources."""
    plan = Plan((Bracket((Rung(len(start_with) + len(sources), 1),)),), 1)
    events: list[Event] = [
        StudyCreated("vgg", "/train.py", (), "/somewhere", start_with),
        SearchStarted(BEGAN_AT, settings(tmp_path).document(), "here", 1, "boot", "0.1.0"),
        PlanMade(plan),
    ]
    events += [IdsDrawn(0, start_with)] if start_with else []
    first = len(start_with)
    events += [IdProposed(first + n, f"x:{n}", source, n) for n, source in enumerate(sources)]
    return events


def test_the_source_of_each_config_id_is_told(tmp_path: Path) -> None:
    model, random, unready = IdSource.MODEL, IdSource.RANDOM, IdSource.UNREADY
    events = guided(tmp_path, random, model, unready, model, start_with=("a", "b"))
    document = study_document(events, folder=FOLDER, running=False)
    sources = ["start_with", "start_with", "random", "model", "unready", "model"]
    assert [trial["source"] for trial in _rows(document, "trials")] == sources
    events.append(JobStarted(1.0, 0, 0, 0, 0, 1, "cpu:0", False, "", "h"))
    document = study_document(events, folder=FOLDER, running=True)
    assert [job["source"] for job in _rows(document, "jobs")] == ["start_with"]
    assert ",start_with," in jobs_csv(document).splitlines()[1]
    study = study_view(events, folder=FOLDER, running=True)
    assert sources_text(study) == (
        "guide   2 trials chosen by the model, 2 at random (1 of them since no proposal of the model was "
        "ready), 2 from --start-with"
    )
    assert sources_text(study) in report_text(study, FOLDER, cwd=FOLDER, top=3)


def test_random_draws_alone_are_nothing_to_tell(tmp_path: Path) -> None:
    for events in (play(small_plan(), settings(tmp_path)), guided(tmp_path, IdSource.RANDOM)):
        assert sources_text(study_view(events, folder=FOLDER, running=False)) == ""


def test_the_pace_of_a_search_comes_back_from_its_journal(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path))
    engine = Engine()
    for event in events:
        engine.handle(event)
    measured, starts = Pace(engine), {event.job: event for event in events if isinstance(event, JobStarted)}
    assert measured.expected_s(1) is None
    for event in events:
        if isinstance(event, JobEnded):
            measured.see(starts[event.job], event)
    again = Pace(engine, events)
    seconds = sum(event.ended_at - event.started_at for event in events if isinstance(event, JobEnded))
    # 9 @ 1 and 3 @ 3 and 1 @ 9, 5 @ 3 and 1 @ 9, 3 @ 9, each from its checkpoint
    assert again.expected_s(1) == measured.expected_s(1) == seconds / (9 + 3 * 2 + 6 + 5 * 3 + 6 + 3 * 9)
    ended = next(event for event in events if isinstance(event, JobEnded) and starts[event.job].rung == 2)
    anew = Pace(engine, [starts[ended.job], replace(ended, note=f"{STARTED_OVER}: it was on m2")])
    assert anew.expected_s(9) == ended.ended_at - ended.started_at


def test_epochs_that_were_trained_twice_are_counted(tmp_path: Path) -> None:
    events = play(small_plan(), settings(tmp_path))
    assert trained_twice_text(study_view(events, folder=FOLDER, running=False)) == ""
    reached: dict[int, int] = {}
    trials = {event.job: (event.trial, event.epochs) for event in events if isinstance(event, JobStarted)}
    n_jobs = n_epochs = 0
    for place, event in enumerate(events):
        if isinstance(event, JobEnded):
            trial, epochs = trials[event.job]
            if trial in reached:
                n_jobs, n_epochs = n_jobs + 1, n_epochs + reached[trial]
                events[place] = replace(event, note=f"{STARTED_OVER}: it was on m2")
            reached[trial] = epochs
    study = study_view(events, folder=FOLDER, running=False)
    # 3 from 1 epoch and 1 from 3 in the first bracket, 1 from 3 in the second
    assert (n_jobs, n_epochs) == (5, 9) == trained_twice(study)
    assert document_of(study)["trained_twice"] == {"n_jobs": 5, "n_epochs": 9}
    words = "9 epochs trained twice: 5 jobs could not go on from a checkpoint"
    assert words in report_text(study, FOLDER, cwd=tmp_path, top=1)
    assert words in result_text(study, FOLDER, cwd=tmp_path)
