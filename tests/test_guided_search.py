"""Whole searches that a model guides: real scripts, the real guide in its process, kills and small spaces."""

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from search_fixture import HYPERBAND, Ran, Searches, script, searches, until
from study_fixture import loss_by_number, play, settings, small_plan, write_study

from hyperband.errors import JournalError
from hyperband.folder import GUIDE_FILE, LOG_FILE
from hyperband.journal import Journal, read_events
from hyperband.journal.rows import row_of
from hyperband.search.events import (
    Event,
    IdProposed,
    IdsDrawn,
    IdSource,
    JobStarted,
    SearchStarted,
    SpaceExhausted,
    StudyCreated,
)
from hyperband.search.guide import RANDOM_SHARE, is_random_turn
from hyperband.search.trial import Outcome
from hyperband.study.learning import read_lessons

__all__ = ["searches"]

PLANE = """
def get_random_config_id(rng):
    return f"x:{rng.uniform():.6f},y:{rng.uniform():.6f}"
"""
#: the best is at (0.3, 0.7)
VALLEY = """
x, y = (float(part[2:]) for part in config_id.split(","))
print((x - 0.3) ** 2 + (y - 0.7) ** 2 + 0.1 / epochs)
"""
#: ids of one name each, a few of them
FEW = """
def get_random_config_id(rng):
    return f"x:{rng.randint(%d)}"
"""
X_ALONE = "print(float(config_id[2:]) + 1 / epochs)"
ONE_RUNG = ("--algorithm", "random", "--max-epochs", "1")
SMALL = ("--max-epochs", "9")
TINY = ("--max-epochs", "3")
MODEL = ("--guide", "model")
NONE = ("--guide", "none")


def write(searches: Searches, sampler: str = PLANE, main: str = VALLEY, top: str = "") -> None:
    searches.write(script(main, sampler=sampler, top=top))


#: a search that waits for what its guide has to learn, and looks for the end of a space, as long as it takes
PATIENT = f"""
import sys
sys.path.insert(0, {str(HYPERBAND.parent)!r})
from hyperband.cli.main import main
from hyperband.study import guiding, prelude
prelude.MOST_S = guiding._PATIENCE_S = 600.0
sys.exit(main())
"""
#: jobs from the trial on whose number stands in a file wait until another one stands there
HELD = """
import os, time
def last():
    try:
        return int(open("last").read())
    except ValueError:  # it is just being written
        return 0
while int(os.environ["HYPERBAND_TRIAL"]) >= last():
    time.sleep(0.01)
"""


def let_end(searches: Searches, n_trials: int) -> None:
    """Let the jobs of so many trials end, and hold those after them."""
    (searches.folder / "last").write_text(f"{n_trials}")


def write_old(
    searches: Searches,
    id_of: Callable[[int], str] = lambda trial: f"x:0.{trial:02},y:0.5",
    *,
    fails: bool = False,
) -> Path:
    """A finished study of 17 trials to learn from, of events alone."""
    old = searches.folder / "old" / "study"

    def failure(*_: object) -> tuple[Outcome, None]:
        return Outcome.CRASHED, None

    outcome_of = failure if fails else loss_by_number
    write_study(old, play(small_plan(9), settings(searches.folder), outcome_of=outcome_of, id_of=id_of))
    return old


def proposals(searches: Searches) -> list[IdProposed]:
    return [event for event in events_of(searches) if isinstance(event, IdProposed)]


def sources(ran: Ran) -> list[str]:
    return [trial["source"] for trial in ran.document["trials"]]


def ids(ran: Ran) -> list[str]:
    return [trial["config_id"] for trial in ran.document["trials"]]


def children_of(pid: int, word: str) -> list[psutil.Process]:
    """The processes that a search started whose command line has this in it; none that has ended."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends at this moment, or is not reaped yet
            if any(word in part for part in child.cmdline()):
                found.append(child)
    return found


def guides_of(pid: int) -> list[psutil.Process]:
    """The processes of the guide that a search has."""
    return children_of(pid, "hyperband.guide.server")


def guide_of(pid: int) -> psutil.Process:
    """The guide's process, once it is there."""
    until(lambda: len(guides_of(pid)) == 1, "the guide's process")
    return guides_of(pid)[0]


def until_it_rests(process: psutil.Process) -> None:
    """Wait until a process has nothing to do: for a while, whenever it is looked at, it sleeps."""
    n_seen = 0

    def rests() -> bool:
        nonlocal n_seen
        n_seen = n_seen + 1 if process.status() == psutil.STATUS_SLEEPING else 0
        return n_seen > 20

    until(rests, "the guide to rest")


def events_of(searches: Searches) -> list[Event]:
    """Of a search that may just be making its journal."""
    try:
        return read_events(searches.study)
    except JournalError:
        return []


def until_there_are(n: int, kind: type[Event], searches: Searches) -> None:
    """Wait until a running search has so many events of a kind."""
    until(lambda: sum(isinstance(event, kind) for event in events_of(searches)) >= n, f"{n} {kind.__name__}")


def rows(searches: Searches) -> list[tuple[str, str]]:
    """The journal to the letter."""
    return [row_of(event) for event in read_events(searches.study)]


# What is chosen.


@pytest.mark.slow
def test_the_model_finds_the_good_region_and_random_turns_stay_random(searches: Searches) -> None:
    write(searches, main=VALLEY + "import time; time.sleep(0.15)")
    ran = searches.run(*ONE_RUNG, "--max-trials", "45", "--slots", "2", *MODEL)
    assert ran.exit_code == 0, ran.err
    found = {trial["number"]: trial for trial in ran.document["trials"]}
    losses: dict[str, list[float]] = {"model": [], "random": [], "unready": []}
    for number, trial in found.items():
        if number >= 15:
            losses[trial["source"]].append(trial["loss"] - 0.1)
    # a random draw is as near as this in 1 of 6 cases
    near = [loss < 0.05 for loss in losses["model"]]
    assert len(near) >= 5
    assert sum(near) >= 0.4 * len(near), losses
    assert sources(ran).count("random") >= 4
    assert len(set(ids(ran))) == 45
    plan = (
        "guide     a model of the losses chooses among the sampler's draws; 10 % of the trials stay random\n"
        "          the config ids say the numbers x (such as 0."
    )
    assert plan in ran.err
    told = [event for event in proposals(searches) if event.source is IdSource.MODEL]
    assert all(event.n_observations >= 1 for event in told)
    log = (searches.study / LOG_FILE).read_text()
    assert f"id     trial {told[0].trial}: the model's choice after " in log
    report = searches.command("report", str(searches.study)).out
    assert f"guide   {len(told)} trials chosen by the model, " in report
    assert (searches.study / GUIDE_FILE).read_text() == ""


def test_jobs_that_run_at_the_same_time_are_not_all_at_one_point(searches: Searches) -> None:
    write(searches, main=HELD + VALLEY)
    let_end(searches, 0)
    search = searches.start(*ONE_RUNG, "--max-trials", "28", "--slots", "4", *MODEL)
    guide = guide_of(search.pid)
    for n_trials in range(4, 24, 4):
        let_end(searches, n_trials)
        until_there_are(n_trials + 4, JobStarted, searches)
        until_it_rests(guide)
    let_end(searches, 28)
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    points = {
        trial["number"]: tuple(float(part[2:]) for part in trial["config_id"].split(","))
        for trial in ran.document["trials"]
        if trial["source"] == "model"
    }
    jobs = [job for job in ran.document["jobs"] if job["trial"] in points]
    distances = []
    for job in jobs:
        beside = [other for other in jobs if other["started_at"] < job["started_at"] < other["ended_at"]]
        distances += [math.dist(points[job["trial"]], points[other["trial"]]) for other in beside]
    assert len(distances) >= 5
    # of the 30,000 draws that are looked at in all, the nearest to a given one is at about 0.003
    assert statistics.median(distances) > 0.01, distances


def test_start_with_comes_first(searches: Searches) -> None:
    write(searches)
    (searches.folder / "known.txt").write_text("x:0.9,y:0.9\nx:0.8,y:0.8\n")
    ran = searches.run(*TINY, *MODEL, "--slots", "2", "--start-with", "known.txt")
    assert ids(ran)[:2] == ["x:0.9,y:0.9", "x:0.8,y:0.8"]
    assert sources(ran)[:2] == ["start_with", "start_with"]
    assert "start_with" not in sources(ran)[2:]
    assert len(ran.document["trials"]) == 5


def test_a_scripts_own_get_config_says_what_ids_mean(searches: Searches) -> None:
    sampler = """
    import base64

    def get_random_config_id(rng):
        return base64.b16encode(f"{rng.uniform():.4f}".encode()).decode()

    def get_config(config_id):
        return {"opt": {"lr": float(base64.b16decode(config_id)), "name": "sgd"}}
    """
    write(searches, sampler, "print(get_config(config_id)['opt']['lr']); import time; time.sleep(0.1)")
    (searches.folder / "known.txt").write_text("302E35303030\nnot hexadecimal\n")
    ran = searches.run(*SMALL, *MODEL, "--slots", "2", "--start-with", "known.txt")
    assert ran.exit_code == 0, ran.err
    assert "get_config gives the number opt.lr (such as 0." in ran.err
    assert "model" in sources(ran)
    refused = "Warning: some config ids are tried at random only. get_config in "
    assert ran.err.count(refused) == 1, ran.err


def test_a_get_config_that_refuses_all_is_told(searches: Searches) -> None:
    write(searches, PLANE + "\ndef get_config(config_id): return {'x': 1}[config_id]\n")
    ran = searches.run(*TINY, *MODEL, "--slots", "2")
    assert ran.exit_code == 0, ran.err
    refused = "Warning: get_config refuses the config ids, and the text of the ids is read instead."
    assert refused in ran.err
    assert "the config ids say the numbers x (such as 0." in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "10 % of the trials stay random\n          the config ids say the numbers x (such as 0."),
        (NONE, ""),
    ],
)
def test_a_dry_run_says_the_guide(searches: Searches, options: Sequence[str], words: str) -> None:
    write(searches)
    ran = searches.run(*SMALL, *options, "--dry-run", guide=None)
    assert ("guide     " in ran.err) == bool(words)
    assert words in ran.err
    assert not (searches.folder / "logs").exists()


# Where a guide is of no use, all is as without one.


@pytest.mark.parametrize("n_ids", [4, 12])
def test_a_small_space_is_searched_as_without_a_guide(searches: Searches, n_ids: int) -> None:
    write(searches, FEW % n_ids, X_ALONE)
    words = (*SMALL, *MODEL, "--slots", "2", "--logs", "guided")
    argv = [sys.executable, "-c", PATIENT, "--json", "--gpus", "none", *words, str(searches.path)]
    guided = searches.wait(searches.start_argv(argv))
    plain = searches.run(*SMALL, *NONE, "--slots", "2", "--logs", "plain")
    assert guided.exit_code == plain.exit_code == 0
    for key in ("plan", "trials", "best"):
        assert guided.document[key] == plain.document[key]
    assert len(guided.document["trials"]) == n_ids


def test_a_space_that_turns_out_to_be_small_is_tried_to_its_end(searches: Searches) -> None:
    # enough ids for the first start come slowly, and all others at once
    sampler = """
    import time
    n_calls = 0

    def get_random_config_id(rng):
        global n_calls
        n_calls += 1
        if n_calls < 40:
            time.sleep(0.05)
        return f"x:{rng.randint(14)}"
    """
    write(searches, sampler, X_ALONE)
    ran = searches.run(*SMALL, *MODEL, "--slots", "2")
    assert ran.exit_code == 0, ran.err
    assert sorted(ids(ran)) == sorted(f"x:{number}" for number in range(14))
    events = read_events(searches.study)
    assert SpaceExhausted(14, train_all=False) in events
    assert any(isinstance(event, IdProposed) for event in events)


def test_ids_without_structure_are_drawn_as_without_a_guide(searches: Searches) -> None:
    sampler = "import hashlib\ndef get_random_config_id(rng): return hashlib.md5(rng.bytes(8)).hexdigest()"
    write(searches, sampler, "print(len(config_id) + 1 / epochs)")
    guided = searches.run(*TINY, *MODEL, "--slots", "2", "--logs", "guided")
    assert "guide     none: no hyperparameters are recognised in ids like " in guided.err
    plain = searches.run(*TINY, *NONE, "--slots", "2", "--logs", "plain")
    assert guided.document["trials"] == plain.document["trials"]
    assert not list(searches.folder.glob("guided/*/guide.err"))


def test_without_a_guide_ids_depend_on_seed_and_trial_alone(searches: Searches) -> None:
    from numpy.random import MT19937, RandomState, SeedSequence

    write(searches)
    ran = searches.run(*TINY, *NONE, "--seed", "5", "--slots", "2")
    rngs = [RandomState(MT19937(SeedSequence([5, trial]))) for trial in range(5)]
    assert ids(ran) == [f"x:{rng.uniform():.6f},y:{rng.uniform():.6f}" for rng in rngs]
    assert set(sources(ran)) == {"random"}
    assert proposals(searches) == []


# Nothing waits for the guide, and nothing depends on it.


def test_a_guide_that_stands_still_holds_nobody_up(searches: Searches) -> None:
    write(searches, main=HELD + VALLEY)
    let_end(searches, 2)
    search = searches.start(*ONE_RUNG, "--max-trials", "40", "--slots", "2", *MODEL)
    guide = guide_of(search.pid)
    guide.suspend()
    n_before = len(proposals(searches))
    let_end(searches, 40)
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert not guide.is_running()
    later = sources(ran)[n_before + 10 :]
    assert len(later) >= 20
    assert "model" not in later
    assert "unready" in later
    assert "since no proposal of the model was ready" in searches.command("report", str(searches.study)).out


def test_a_guide_that_is_killed_comes_back(searches: Searches) -> None:
    write(searches, main=HELD + VALLEY)
    let_end(searches, 4)
    search = searches.start(*ONE_RUNG, "--max-trials", "24", "--slots", "2", *MODEL)
    guide = guide_of(search.pid)
    until_there_are(5, IdProposed, searches)
    guide.kill()
    told = "The guide's process has ended (signal 9, Killed); it starts again"
    until(lambda: told in (searches.study / LOG_FILE).read_text(), "that to be told")
    let_end(searches, 24)
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert told in ran.err
    assert len(ran.document["trials"]) == 24


@pytest.mark.slow
def test_a_script_host_that_is_killed_again_and_again_is_replaced(searches: Searches) -> None:
    write(searches, main=HELD + VALLEY + "import time; time.sleep(0.1)")
    let_end(searches, 0)
    search = searches.start(*ONE_RUNG, "--max-trials", "36", "--slots", "2", *MODEL)

    # a third time is too often if none could draw in between
    for n_trials in (3, 19):
        let_end(searches, n_trials - 1)
        until_there_are(n_trials, IdProposed, searches)
        for host in children_of(search.pid, "/child.py"):
            host.kill()
    let_end(searches, 36)
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert len(set(ids(ran))) == 36


def test_a_slow_sampler_gives_what_it_can(searches: Searches) -> None:
    write(searches, PLANE.replace("    return", "    import time; time.sleep(0.2)\n    return"))
    ran = searches.run("--max-epochs", "3", *MODEL, "--slots", "2")
    assert ran.exit_code == 0, ran.err
    assert len(ran.document["trials"]) == 5


def test_a_sampler_that_breaks_later_stops_the_search_with_what_ran_kept(searches: Searches) -> None:
    # some draws go into the look before the first start
    sampler = """
    import time
    n_calls = 0

    def get_random_config_id(rng):
        global n_calls
        n_calls += 1
        if n_calls > 110:
            raise ValueError("no more of them")
        if n_calls > 70:
            time.sleep(0.05)
        return f"x:{rng.uniform():.6f}"
    """
    write(searches, sampler, X_ALONE + "; import time; time.sleep(0.2)")
    ran = searches.run(*SMALL, *MODEL, "--slots", "2")
    assert ran.exit_code == 2, ran.err
    assert "no more of them" in ran.err
    assert ran.document["state"] == "failed"
    assert any(job["outcome"] == "Loss" for job in ran.document["jobs"])


# Stopping and going on.


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_with_the_same_journal(searches: Searches) -> None:
    write(searches)
    options = ("--max-epochs", "9", "--slots", "2", *MODEL)
    before: list[tuple[str, str]] = []
    for n_trials in (1, 5, 12):
        search = searches.start(*options)
        until_there_are(n_trials, IdProposed, searches)
        guides = guides_of(search.pid)
        searches.kill(search)
        psutil.wait_procs(guides, timeout=30)
        assert not any(guide.is_running() for guide in guides)
        after = rows(searches)
        assert after[: len(before)] == before
        before = after
    ran = searches.run(*options)
    assert ran.exit_code == 0, ran.err
    after = rows(searches)
    assert after[: len(before)] == before
    trials = [event.trial for event in proposals(searches)]
    assert trials == list(range(17))
    assert len(set(ids(ran))) == 17
    # every job has the id that the journal has for its trial
    known = {event.trial: event.config_id for event in proposals(searches)}
    assert all(job["config_id"] == known[job["trial"]] for job in ran.document["jobs"])
    # and each id stands just before the first start of its trial
    written = read_events(searches.study)
    for place, event in enumerate(written):
        if isinstance(event, IdProposed):
            started = written[place + 1]
            assert isinstance(started, JobStarted)
            assert started.trial == event.trial


@pytest.mark.slow
def test_the_guide_may_change_between_starts(searches: Searches) -> None:
    write(searches)
    n_seen = 0
    for options, n_trials in ((MODEL, 4), (NONE, 8), (MODEL, 12)):
        search = searches.start(*SMALL, *options, "--slots", "2")
        until_there_are(n_trials, JobStarted, searches)
        searches.kill(search)
        assert len(events_of(searches)) > n_seen
        n_seen = len(events_of(searches))
    ran = searches.run(*SMALL, *MODEL, "--slots", "2")
    assert ran.exit_code == 0, ran.err
    assert len(set(ids(ran))) == 17
    kinds = Counter(type(event) for event in events_of(searches))
    assert kinds[IdProposed] >= 4
    assert kinds[IdsDrawn] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("way", ["interrupt", "stop"])
def test_it_stops_and_takes_the_guide_along(searches: Searches, way: str) -> None:
    write(searches, main=HELD + VALLEY)
    let_end(searches, 0)
    options = (*TINY, "--slots", "2", *MODEL)
    search = searches.start(*options)
    until_there_are(2, IdProposed, searches)
    guides = guides_of(search.pid)
    assert len(guides) == 1
    if way == "interrupt":
        search.send_signal(signal.SIGINT)
        until(lambda: "to finish first" in (searches.study / LOG_FILE).read_text(), "it to be heeded")
    else:
        assert searches.command("stop", str(searches.study)).exit_code == 0
    let_end(searches, 5)
    ran = searches.wait(search)
    assert ran.exit_code == 130, ran.err
    assert not guides[0].is_running()
    n_before = len(proposals(searches))
    ran = searches.run(*options)
    assert ran.exit_code == 0
    assert len(proposals(searches)) == 5 > n_before
    assert ran.err.count("Traceback") == 0


def test_the_guide_has_no_gpu_and_steps_back_for_the_jobs(searches: Searches) -> None:
    write(searches, main=HELD + VALLEY)
    let_end(searches, 0)
    search = searches.start(*SMALL, "--slots", "1", *MODEL)
    guide = guide_of(search.pid)
    until(lambda: guide.nice() > 0, "a lower priority")
    assert guide.environ()["CUDA_VISIBLE_DEVICES"] == ""
    assert os.getsid(guide.pid) == guide.pid
    search.send_signal(signal.SIGTERM)
    assert searches.wait(search).exit_code == 130


# Other studies.


def test_another_study_teaches_the_model_and_gives_no_results(searches: Searches) -> None:
    write(searches)
    old = write_old(searches)
    words = (*SMALL, "--slots", "2", *MODEL, "--logs", "new", "--learn-from", "old/study", "--seed", "7")
    argv = [sys.executable, "-c", PATIENT, "--json", "--gpus", "none", *words, str(searches.path)]
    search = searches.wait(searches.start_argv(argv))
    assert search.exit_code == 0, search.err
    assert f"it learns from {old} (22 losses)" in search.err
    assert "Warning" not in search.err
    assert search.document["settings"]["learn_from"] == [str(old)]
    assert len(search.document["trials"]) == 17
    assert len(search.document["jobs"]) == 22
    told = [event for event in read_events(searches.folder / "new/study") if isinstance(event, IdProposed)]
    assert all(event.n_observations >= 22 for event in told if event.source is IdSource.MODEL)
    # the first trials wait for what was learned
    first = told[:4]
    assert {event.source for event in first if not is_random_turn(7, event.trial, RANDOM_SHARE)} == {
        IdSource.MODEL
    }


#: a search whose guide never says a word, and which waits for it a second only
MUTE = f"""
import sys
sys.path.insert(0, {str(HYPERBAND.parent)!r})
from hyperband.cli.main import main
from hyperband.guide import service
from hyperband.study import prelude
service._SERVE = "import time; time.sleep(1000)"
prelude.MOST_S, prelude._WORTH_TELLING_S = 1.0, 0.2
sys.exit(main())
"""


def test_what_is_to_be_learned_holds_the_first_trials_up_for_a_while_only(searches: Searches) -> None:
    write(searches, main="import time; time.sleep(0.2); print(epochs)")
    write_old(searches)
    options = ("--gpus", "none", *ONE_RUNG, "--max-trials", "2", "--learn-from", "old/study")
    ran = subprocess.run(
        [sys.executable, "-c", MUTE, *options, str(searches.path)],
        cwd=searches.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "New trials wait for what the model learns from other studies, for at most 1 s." in ran.stdout
    assert "The model has not yet learned from other studies: trials start at random until" in ran.stdout
    events = read_events(searches.study)
    started = min(event.at for event in events if isinstance(event, JobStarted))
    begun = next(event.at for event in events if isinstance(event, SearchStarted))
    assert started - begun > 0.8
    assert {event.source for event in proposals(searches)} <= {IdSource.UNREADY, IdSource.RANDOM}


def test_a_study_that_is_to_teach_is_not_removed_first(searches: Searches) -> None:
    write(searches)
    searches.run("--max-epochs", "1", *NONE)
    before = read_events(searches.study)
    ran = searches.run("--max-epochs", "1", "--clean", "--yes", *MODEL, "--learn-from", str(searches.study))
    assert ran.exit_code == 2
    assert "is the study of this search" in ran.err
    assert list(read_events(searches.study)) == list(before)


def test_names_in_the_plan_are_safe_to_show(searches: Searches) -> None:
    named = "def get_config(config_id): return {'x\\n\\x1b[31m' + 99 * 'y': float(config_id[2:8])}"
    write(searches, top=named)
    ran = searches.run("--max-epochs", "1", *MODEL, "--dry-run")
    assert (ran.exit_code, "\x1b[31m" in ran.err) == (0, False)
    assert r"x\n\x1b[31myyy" in ran.err
    assert 99 * "y" not in ran.err


def test_a_study_does_not_learn_from_itself(searches: Searches) -> None:
    write(searches)
    assert searches.run("--max-epochs", "1", *NONE).exit_code == 0
    (searches.folder / "link").symlink_to("logs/study")
    ran = searches.run("--max-epochs", "1", *MODEL, "--repeat", "2", "--learn-from", "link")
    assert ran.exit_code == 2
    assert "link is the study of this search, which learns from itself anyway" in ran.err
    assert len(json.loads(searches.command("report", "--json", "logs/study").out)["trials"]) == 1
    # one that is finished, and one that is being written
    finished = searches.run("--max-epochs", "1", *MODEL, "--learn-from", "link")
    assert (finished.exit_code, "learns from itself anyway" in finished.err) == (2, True), finished.err
    with contextlib.closing(Journal.open(searches.study)):
        second = searches.run("--max-epochs", "1", *MODEL, "--repeat", "2", "--learn-from", "link")
    assert (second.exit_code, "learns from itself anyway" in second.err) == (2, True), second.err


def test_studies_that_teach_nothing_are_warned_of_and_left_out(searches: Searches) -> None:
    write_old(searches, lambda trial: f"a:0.{trial:02}").rename(searches.folder / "other")
    write_old(searches, fails=True).rename(searches.folder / "failed")
    write(searches)
    options: tuple[Any, ...] = (*MODEL, "--learn-from", "other", "--learn-from", "failed", "--dry-run")
    ran = searches.run(*SMALL, *options)
    assert ran.exit_code == 0
    left_out = "teaches the model nothing, and is left out"
    found = "of 17 config ids looked at, 0 have what this script's have (x, y); they say a."
    assert f"/other {left_out}: {found}\n" in ran.err
    assert f"/failed {left_out}: it has no losses yet.\n" in ran.err
    assert "it learns from" not in ran.err


def test_a_journal_that_contradicts_itself_is_left_out(searches: Searches) -> None:
    write(searches)
    created = StudyCreated("other", "/train.py", (), "/", ())
    write_study(searches.folder / "odd", [created, IdProposed(3, "x:0,y:0", IdSource.RANDOM, 0)])
    write_study(searches.folder / "empty", [])
    with pytest.raises(JournalError, match=r"/empty: its journal holds no study yet"):
        read_lessons([searches.folder / "empty"])
    ran = searches.run(*SMALL, *MODEL, "--learn-from", "odd")
    assert ran.exit_code == 1
    assert "odd: its journal contradicts itself" in ran.err
    assert not (searches.folder / "logs").exists()


def test_a_slow_get_config_holds_no_slot_up(searches: Searches) -> None:
    slow = """
def get_config(config_id):
    import time
    time.sleep(0.1)
    return {"x": float(config_id[2:10])}
"""
    write(searches, PLANE + slow)
    (searches.folder / "known.txt").write_text("".join(f"x:0.{n:06d},y:0.5\n" for n in range(100, 110)))
    ran = searches.run(*SMALL, *MODEL, "--slots", "2", "--start-with", "known.txt")
    assert ran.exit_code == 0, ran.err
    assert len(ran.document["trials"]) == 17
    ends = sorted(job["ended_at"] for job in ran.document["jobs"])
    starts = sorted(job["started_at"] for job in ran.document["jobs"])
    # two slots: the third job starts when the first one ends
    waits = [start - end for start, end in zip(starts[2:], ends, strict=False)]
    # 64 that are read one after the other take 6 s
    assert statistics.median(waits) < 4.0
