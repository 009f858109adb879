"""What people see of searches in which no rung is waited for: promotions, rungs as they are, no brackets."""

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from engine_fixture import ended, plan
from search_fixture import Searches, script, searches, until
from test_cli import on_terminal

from hyperband.report.completions import Completions
from hyperband.report.promotions import QUIET_S, Promotions, promotion_words
from hyperband.search.decisions import WentOn
from hyperband.search.events import JobStarted
from hyperband.search.trial import Outcome

__all__ = ["searches"]

LADDER = ("--max-epochs", "9", "--slots", "2", "--algorithm")


def table_under(text: str, header: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if line.split()[: len(header.split())] == header.split())
    rule = next(i for i in range(rule, len(lines)) if lines[i].startswith("--"))
    end = next(i for i in range(rule, len(lines)) if not lines[i])
    return [line.split() for line in lines[rule + 1 : end]]


@pytest.mark.parametrize("algorithm", ["asha", "pasha"])
def test_nothing_is_said_of_brackets_where_there_are_none(searches: Searches, algorithm: str) -> None:
    searches.write(script())
    ran = searches.run(*LADDER, algorithm, "--max-trials", "12")
    assert ran.exit_code == 0, ran.err
    document = ran.document
    assert {row["bracket"] for key in ("plan", "trials", "jobs") for row in document[key]} == {None}
    log = (searches.study / "hyperband.log").read_text()
    reported = searches.command("report", str(searches.study))
    # the last decision of a search speaks of every bracket, whatever the algorithm
    decided = "\n".join(line for line in log.splitlines() if "SearchComplete" not in line)
    for text in (ran.err, decided, reported.out):
        assert "bracket" not in text.lower()


def test_each_promotion_is_told_with_its_reason(searches: Searches) -> None:
    searches.write(script())
    ran = searches.run(*LADDER, "asha", "--max-trials", "9")
    told = [line for line in ran.err.splitlines() if " goes on to epoch " in line]
    promoted = [job for job in ran.document["jobs"] if job["epochs"] > 1]
    assert len(told) == len(promoted) > 2
    for line, job in zip(told, sorted(promoted, key=lambda job: job["started_at"]), strict=True):
        words = (
            rf"trial {job['trial']} goes on to epoch {job['epochs']}: among the best \d of \d losses in rung"
        )
        assert re.fullmatch(rf"{words} \d so far", line)
        assert len(line) < 80
    assert re.search(r"^\[9/about \d+\] ", ran.err, re.MULTILINE)


def test_with_brackets_a_promotion_names_its_bracket(searches: Searches) -> None:
    searches.write(script())
    ran = searches.run("--max-epochs", "3", "--slots", "2", "--async")
    assert re.search(r"^bracket 0: trial \d goes on to epoch 3: ", ran.err, re.MULTILINE)
    assert {job["bracket"] for job in ran.document["jobs"]} == {0, 1}


def went_on(trial: int, rung: int) -> WentOn:
    """A decision as the engine words it."""
    why = f"among the best 2 of 6 losses in rung {rung - 1} so far, and the best of them that had not gone on"
    return WentOn(trial, 0, rung, f"{why}: goes on to epoch {3**rung}")


def test_a_live_screen_is_told_of_new_rungs_and_else_now_and_then() -> None:
    now = [100.0]
    promotions = Promotions(lambda: now[0])
    first = promotions.words(went_on(4, 1), is_live=True)
    assert first == "trial 4 goes on to epoch 3: among the best 2 of 6 losses in rung 0 so far"
    assert [promotions.words(went_on(trial, 1), is_live=True) for trial in (5, 6)] == [None, None]
    higher = promotions.words(went_on(4, 2), is_live=True)
    assert higher is not None
    assert higher.endswith("rung 1 so far (2 more promotions since the last such line)")
    assert promotions.words(went_on(7, 1), is_live=True) is None
    now[0] += QUIET_S
    later = promotions.words(went_on(8, 1), is_live=True)
    assert later is not None
    assert later.endswith("(1 more promotion since the last such line)")
    # where each job has its line a promotion has one too
    assert promotions.words(went_on(9, 1), is_live=False) is not None


def test_a_promotion_from_a_complete_rung_says_so() -> None:
    reason = "rung 0 is complete (9 to epoch 1, 0 failed): the best left goes on to epoch 3"
    told = promotion_words(WentOn(7, 0, 1, reason))
    assert told == "trial 7 goes on to epoch 3: rung 0 is complete (9 to epoch 1, 0 failed): the best left"


def test_a_complete_rung_is_told_of_also_where_nobody_goes_on_from_it_then() -> None:
    completions = Completions(lambda: plan([(3, 1), (1, 3)]), lambda _: 0)
    starts = [
        JobStarted(0.0, trial, 0, trial, 0, 1, "cpu:0", several_gpus=False, script_sha256="", host="")
        for trial in range(3)
    ]
    retried = replace(ended(starts[2], Outcome.CRASHED), retry=True)
    final = [ended(starts[0], 0.3), ended(starts[1], 0.1), ended(starts[2], Outcome.CRASHED)]
    for start, end in ((starts[0], final[0]), (starts[2], retried), (starts[1], final[1])):
        assert completions.see(start, end) is None
    complete = completions.see(starts[2], final[2])
    assert complete is not None
    assert complete.words == "rung 0 is complete (2 to epoch 1, 1 failed)"
    assert not complete.is_told_by([])
    assert complete.is_told_by([went_on(1, 1)])


def test_a_terminal_sees_promotions(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script())
    words = ["--guide", "none", "--gpus", "none", *LADDER, "asha", "--max-trials", "12", "train.py"]
    exit_code, seen = on_terminal(tmp_path, words)
    assert exit_code == 0
    told = re.findall(r"trial \d+ goes on to epoch (\d)", seen)
    # jobs of a moment: the first of each rung, and hardly any other
    assert {"3", "9"} <= set(told)
    assert len(told) < 5


def test_the_report_has_the_rungs_as_they_are(searches: Searches) -> None:
    fails = (
        "sys.exit(3 if epochs == 3 and float(config_id[2:]) < 0.2 else print(float(config_id[2:]) / epochs))"
    )
    searches.write(script(fails))
    ran = searches.run(*LADDER, "asha", "--max-trials", "20", "--max-total-epochs", "30", "--retries", "0")
    assert ran.exit_code == 0, ran.err
    jobs = ran.document["jobs"]
    reported = searches.command("report", str(searches.study)).out
    of = {epochs: [job for job in jobs if job["epochs"] == epochs] for epochs in (1, 3, 9)}
    failed = {epochs: sum(job["outcome"] == "Crashed" for job in of[epochs]) for epochs in of}
    assert failed[3] > 0
    n_epochs = len(of[1]) + 2 * len(of[3]) + 6 * len(of[9])
    assert table_under(reported, "rung epochs trials") == [
        [
            str(n)
            for n in (rung, epochs, len(of[epochs]), len(of[epochs]) - failed[epochs], failed[epochs], n_up)
        ]
        for rung, epochs, n_up in ((0, 1, len(of[3])), (1, 3, len(of[9])), (2, 9, 0))
    ]
    assert f"\ntrials  {len(of[1])} of at most 20 started\n" in reported
    assert f"\nepochs  {n_epochs} of at most 30 (--max-total-epochs) trained " in reported
    assert "about" not in reported


def test_jobs_that_end_together_are_counted_one_by_one(searches: Searches) -> None:
    wait = """
    import pathlib, time
    pathlib.Path(f"begun-{config_id}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    print(epochs)
    """
    searches.write(script(wait))
    search = searches.start("--max-epochs", "1", "--algorithm", "random", "--max-trials", "2", "--slots", "2")
    until(lambda: len(list(searches.folder.glob("begun-*"))) == 2, "both jobs run")
    search.send_signal(signal.SIGSTOP)
    (searches.folder / "go").touch()
    until(lambda: len(list(searches.study.glob("jobs/*/result.json"))) == 2, "both jobs ended")
    search.send_signal(signal.SIGCONT)
    ran = searches.wait(search)
    assert re.findall(r"^\[(\d)/2\] trial", ran.err, re.MULTILINE) == ["1", "2"]


def test_a_slot_is_put_into_quarantine_after_what_it_failed_was_told(searches: Searches) -> None:
    breaks = """
    import os, time
    if sys.argv[sys.argv.index("--gpu") + 1] == "0":
        raise RuntimeError("no device")
    while not os.path.exists("go"):
        time.sleep(0.01)
    print(float(config_id[2:]))
    """
    searches.write(script(breaks))
    search = searches.start("--max-epochs", "3", "--slots", "3")
    log = searches.study / "hyperband.log"
    until(lambda: log.exists() and "failed 3 jobs in a row" in log.read_text(), "the last of three failures")
    (searches.folder / "go").touch()
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    lines = ran.err.splitlines()
    crashed = [place for place, line in enumerate(lines) if " on cpu:0: Crashed" in line]
    (held,) = [place for place, line in enumerate(lines) if "failed 3 jobs in a row" in line]
    (quarantined,) = [place for place, line in enumerate(lines) if "cpu:0 is in quarantine until" in line]
    assert len(crashed) == 3
    assert crashed[-1] < held < quarantined
