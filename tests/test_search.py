"""Whole searches on one machine: resumed, adopted, interrupted, stopped, grown, refused."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from search_fixture import HYPERBAND, LOSS, Searches, one_job, script, searches, until
from study_fixture import settings, small_plan

from hyperband.folder import holder
from hyperband.journal import read_events
from hyperband.machine import proc
from hyperband.search.events import JobEnded, JobStarted, SearchStarted
from hyperband.search.trial import Outcome
from hyperband.study.warnings import cost_of_not_resuming
from hyperband.verdicts import Resuming, write_resuming

__all__ = ["searches"]

ONE = ("--algorithm", "random", "--max-trials", "1", "--max-epochs", "1")
#: a job that says that it runs and ends when it is told to
HELD = """
import os, time
open(f"on-{config_id}-{os.environ['HYPERBAND_ATTEMPT']}", "w").close()
while not os.path.exists("off"):
    time.sleep(0.01)
print(float(config_id[2:]) + 1 / epochs)
"""


def is_on(searches: Searches, n: int = 1) -> bool:
    """Whether n attempts have begun."""
    return len(list(searches.folder.glob("on-*"))) >= n


def keepers(searches: Searches) -> list[dict[str, Any]]:
    """What the keepers of a study wrote down."""
    return [json.loads(path.read_text()) for path in sorted(searches.study.glob("jobs/*/keeper.json"))]


def outcome_of(document: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on timing, slots or kills."""
    return {key: document[key] for key in ("identity", "state", "best", "plan", "trials")}


def test_the_same_on_one_slot_and_on_four(searches: Searches) -> None:
    searches.write(script(f"import time\ntime.sleep(float(config_id[2:]) / 20)\n{LOSS}"))
    one = searches.run("--max-epochs", "9", "--slots", "1")
    four = searches.run("--max-epochs", "9", "--slots", "4", "--logs", "other")
    assert one.exit_code == four.exit_code == 0
    assert outcome_of(one.document) == outcome_of(four.document)


def test_each_job_gets_exactly_its_command_line(searches: Searches) -> None:
    main = """
    import json, os
    json.dump([sys.argv, dict(os.environ), os.getcwd()], open(f"{config_id}.json", "w"))
    print(1)
    """
    searches.write(script(main))
    searches.environment["CUDA_VISIBLE_DEVICES"] = "7"
    searches.run(*ONE, after=("--model", "a b", "--", "--seed", "7"))
    (path,) = searches.folder.glob("x:*.json")
    argv, environ, cwd = json.loads(path.read_text())
    assert argv[1:] == [path.stem, "--epochs", "1", "--gpu", "0", "--model", "a b", "--seed", "7"]
    assert cwd == str(searches.folder)
    assert environ["HYPERBAND_TRIAL"] == environ["HYPERBAND_ATTEMPT"] == "0"
    assert environ["PYTHONUNBUFFERED"] == "1"
    assert environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environ["CUDA_VISIBLE_DEVICES"] == ""


def test_jobs_see_end_of_file_on_their_input_and_no_foreign_descriptors(searches: Searches) -> None:
    searches.write(
        script("import os\nassert sys.stdin.read() == ''\nprint(len(os.listdir('/proc/self/fd')))")
    )
    assert one_job(searches.run(*ONE))["loss"] == 4  # 0, 1, 2 and that of the listing


def test_finished_stays_finished(searches: Searches) -> None:
    searches.write(script())
    first = searches.run("--max-epochs", "3", "--slots", "2")
    again = searches.run("--max-epochs", "3", "--slots", "2")
    assert again.exit_code == 0
    assert again.document == first.document


def test_a_living_job_is_adopted(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    searches.kill(search)
    again = searches.start(*ONE)
    until(lambda: "1 running job" in (searches.study / "hyperband.log").read_text(), "the adoption")
    (searches.folder / "off").touch()
    ran = searches.wait(again)
    assert ran.exit_code == 0
    assert one_job(ran)["outcome"] == "Loss"
    assert one_job(ran)["attempt"] == 0


def test_a_job_that_ended_while_the_search_was_dead_is_read_from_its_files(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    searches.kill(search)
    (searches.folder / "off").touch()
    until(lambda: any(searches.study.glob("jobs/*/result.json")), "the keeper to write how it ended")
    ran = searches.run(*ONE)
    assert one_job(ran)["outcome"] == "Loss"
    assert len(list(searches.folder.glob("on-*"))) == 1


def test_whoever_kills_search_and_job_together_again_and_again_fails_no_trial(searches: Searches) -> None:
    searches.write(script(HELD))
    for n in range(1, 4):
        search = searches.start(*ONE)
        until(lambda n=n: is_on(searches, n), "the job to run")  # type: ignore[misc]
        about = max(keepers(searches), key=lambda about: about["started_at"])
        searches.kill(search)
        os.kill(about["job_pid"], signal.SIGKILL)
        until(lambda n=n: len(list(searches.study.glob("jobs/*/result.json"))) == n, "its keeper to end")  # type: ignore[misc]
    (searches.folder / "off").touch()
    ran = searches.run(*ONE)
    assert ran.exit_code == 0, ran.err
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Lost"] * 3 + ["Loss"]
    assert "ended by SIGKILL when its search was gone" in (searches.study / "hyperband.log").read_text()


def test_a_killed_keeper_takes_its_job_along_and_the_job_is_repeated(searches: Searches) -> None:
    searches.write(script("import subprocess\nsubprocess.Popen(['sleep', '1000'])\n" + HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    (about,) = keepers(searches)
    os.kill(about["pid"], signal.SIGKILL)
    until(lambda: is_on(searches, 2), "the second attempt")
    (searches.folder / "off").touch()
    jobs = searches.wait(search).document["jobs"]
    assert [(job["outcome"], job["attempt"], job["loss"] is None) for job in jobs] == [
        ("Lost", 0, True),
        ("Loss", 1, False),
    ]


def test_the_third_lost_with_the_search_alive_is_a_crash(searches: Searches) -> None:
    searches.write(
        script("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(100)")
    )
    ran = searches.run(*ONE)
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Lost", "Lost", "Crashed"]
    assert ran.exit_code == 1


def test_a_keeper_killed_while_the_search_is_dead(searches: Searches) -> None:
    searches.write(script("import subprocess\nsubprocess.Popen(['sleep', '1000'])\n" + HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    searches.kill(search)
    (about,) = keepers(searches)
    os.kill(about["pid"], signal.SIGKILL)
    until(lambda: proc.start_ticks(about["job_pid"]) is None, "the job to die with its keeper")
    (searches.folder / "off").touch()
    ran = searches.run(*ONE)
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Lost", "Loss"]


def test_a_killed_fork_server_is_replaced(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start("--algorithm", "random", "--max-trials", "2", "--max-epochs", "1")
    until(lambda: is_on(searches), "the first job to run")
    (about,) = keepers(searches)
    server = proc.parent(about["pid"])
    assert server is not None
    os.kill(server, signal.SIGKILL)
    (searches.folder / "off").touch()
    ran = searches.wait(search)
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Loss", "Loss"]


def test_one_interrupt_lets_jobs_finish(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start("--max-epochs", "3", "--slots", "2")
    until(lambda: is_on(searches, 2), "two jobs to run")
    search.send_signal(signal.SIGINT)
    until(
        lambda: "to finish first" in (searches.study / "hyperband.log").read_text(),
        "the interrupt to be heeded",
    )
    (searches.folder / "off").touch()
    ran = searches.wait(search)
    assert ran.exit_code == 130
    assert ran.document["state"] == "stopped"
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Loss", "Loss"]
    assert searches.run("--max-epochs", "3", "--slots", "2").exit_code == 0


@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["two interrupts", "SIGTERM"]
)
def test_jobs_are_stopped_and_repeated_later(searches: Searches, numbers: tuple[int, ...]) -> None:
    searches.write(script(HELD))
    search = searches.start("--max-epochs", "3", "--slots", "2")
    until(lambda: is_on(searches, 2), "two jobs to run")
    for number in numbers:
        search.send_signal(number)
        if len(numbers) == 2:
            until(
                lambda: "to finish first" in (searches.study / "hyperband.log").read_text(), "the interrupt"
            )
    ran = searches.wait(search)
    assert ran.exit_code == 130
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Stopped", "Stopped"]
    (searches.folder / "off").touch()
    again = searches.run("--max-epochs", "3", "--slots", "2")
    assert again.exit_code == 0
    assert [job["attempt"] for job in again.document["jobs"]].count(1) == 2


def test_a_hang_up_does_not_end_a_search(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE, as_json=False)
    until(lambda: is_on(searches), "the job to run")
    search.send_signal(signal.SIGHUP)
    until(lambda: "SIGHUP" in (searches.study / "hyperband.log").read_text(), "the signal to be heeded")
    (searches.folder / "off").touch()
    assert searches.wait(search).exit_code == 0


def test_a_closed_pipe_does_not_end_a_search(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE, as_json=False)
    until(lambda: is_on(searches), "the job to run")
    assert search.stdout is not None
    assert search.stderr is not None
    search.stdout.close()
    (searches.folder / "off").touch()
    search.wait(timeout=60)
    search.stderr.close()
    assert search.returncode == 0


def test_a_second_start_says_who_is_first(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    second = searches.run(*ONE)
    assert second.exit_code == 1
    assert f"pid {search.pid} on" in second.err
    (searches.folder / "off").touch()
    assert searches.wait(search).exit_code == 0


def test_stop_ends_a_search_and_its_jobs(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    assert holder(searches.study) is not None
    done = searches.command("stop", str(searches.study))
    assert done.exit_code == 0
    assert f"pid {search.pid}" in done.out
    assert searches.wait(search).exit_code == 130
    assert holder(searches.study) is None


def test_stop_ends_the_jobs_of_a_killed_search(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    searches.kill(search)
    done = searches.command("stop", str(searches.study))
    assert done.exit_code == 0
    assert "ended 1 job" in done.out
    reported = json.loads(searches.command("report", str(searches.study), "--json").out)
    assert [job["outcome"] for job in reported["jobs"]] == ["Stopped"]
    assert reported["state"] == "stopped"
    (searches.folder / "off").touch()
    assert [job["outcome"] for job in searches.run(*ONE).document["jobs"]] == ["Stopped", "Loss"]


def test_report_on_a_killed_search(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    running = json.loads(searches.command("report", str(searches.study), "--json").out)
    assert running["state"] == "running"
    assert running["jobs"][0]["outcome"] is None
    searches.kill(search)
    assert json.loads(searches.command("report", str(searches.study), "--json").out)["state"] == "stopped"
    searches.command("stop", str(searches.study))


def test_timeout_by_job(searches: Searches) -> None:
    # the limit is for a machine with little time for us, too: the other job is to end within it
    searches.write(
        script("import os, time\nif os.environ['HYPERBAND_TRIAL'] == '0':\n    time.sleep(600)\n" + LOSS)
    )
    ran = searches.run(
        "--algorithm", "random", "--max-trials", "2", "--max-epochs", "1", "--slots", "2", "--timeout", "4"
    )
    assert {job["trial"]: job["outcome"] for job in ran.document["jobs"]} == {0: "TimedOut", 1: "Loss"}
    assert ran.exit_code == 0


def test_max_time_starts_nothing_more(searches: Searches) -> None:
    searches.write(script("import time\ntime.sleep(0.3)\n" + LOSS))
    ran = searches.run("--max-epochs", "3", "--slots", "1", "--max-time", "1")
    assert ran.exit_code == 130
    assert ran.document["state"] == "stopped"
    jobs = ran.document["jobs"]
    assert jobs
    assert all(job["outcome"] == "Loss" for job in jobs)
    assert searches.run("--max-epochs", "3", "--slots", "2").exit_code == 0


def test_changed_settings_are_refused(searches: Searches) -> None:
    searches.write(script())
    searches.run("--max-epochs", "3", "--slots", "2")
    for options, found in (
        (("--max-epochs", "9"), "--max-epochs was 3 and is now 9"),
        (("--eta", "2"), "--eta was 3 and is now 2"),
        (("--seed", "1"), "--seed was 42 and is now 1"),
        (("--seed", "7", "--dry-run"), "--seed was 42 and is now 7"),
        (("--min-epochs", "3"), "--min-epochs was 1 and is now 3"),
        (("--brackets", "1"), "--brackets was not given and is now 1; leave it out"),
        (("--algorithm", "halving"), "--algorithm was hyperband and is now halving"),
    ):
        ran = searches.run("--max-epochs", "3", *options)
        assert ran.exit_code == 2
        assert found in ran.err
        assert "--clean" in ran.err
    before = sorted(searches.folder.rglob("*"))
    larger = searches.run("--max-epochs", "3", "--repeat", "2", "--dry-run")
    assert (larger.exit_code, len(larger.document["plan"])) == (0, 4)
    assert sorted(searches.folder.rglob("*")) == before
    searches.path = searches.path.rename(searches.folder / "other.py")
    other = searches.run("--max-epochs", "3", "--dry-run")
    assert other.exit_code == 2
    assert "belongs to the script" in other.err


def test_repeat_may_grow_and_not_shrink(searches: Searches) -> None:
    searches.write(script())
    first = searches.run("--max-epochs", "3", "--slots", "2").document
    grown = searches.run("--max-epochs", "3", "--slots", "2", "--repeat", "2")
    assert grown.exit_code == 0
    assert len(grown.document["plan"]) == 4
    assert grown.document["trials"][: len(first["trials"])] == first["trials"]
    assert grown.document["jobs"][: len(first["jobs"])] == first["jobs"]
    refused = searches.run("--max-epochs", "3", "--slots", "2", "--repeat", "1")
    assert refused.exit_code == 2
    assert "--repeat was 2 and is now 1" in refused.err


def test_another_script_of_the_same_identity_is_refused(searches: Searches) -> None:
    searches.write(script())
    searches.run(*ONE)
    before = searches.path
    searches.path = searches.folder / "other.py"
    searches.write(script())
    ran = searches.run(*ONE)
    assert ran.exit_code == 2
    assert str(before) in ran.err
    assert str(searches.path) in ran.err


def test_a_changed_script_is_warned_of(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start("--max-epochs", "3")
    until(lambda: is_on(searches), "a job to run")
    search.send_signal(signal.SIGTERM)
    searches.wait(search)
    searches.write(script())
    ran = searches.run("--max-epochs", "3")
    assert ran.exit_code == 0
    assert "script has changed" in ran.err
    shas = {event.script_sha256 for event in read_events(searches.study) if isinstance(event, JobStarted)}
    assert len(shas) == 2


def test_start_with_takes_the_first_trial_numbers(searches: Searches) -> None:
    searches.write(script())
    (searches.folder / "ids").write_text("x:0.25\nx:0.75\n")
    ran = searches.run("--max-epochs", "3", "--start-with", "ids", "--slots", "2")
    assert [trial["config_id"] for trial in ran.document["trials"][:2]] == ["x:0.25", "x:0.75"]
    (searches.folder / "ids").write_text("x:0.5\n")
    refused = searches.run("--max-epochs", "3", "--start-with", "ids")
    assert refused.exit_code == 2
    assert "--start-with" in refused.err


def test_dry_run_writes_nothing(searches: Searches) -> None:
    searches.write(script("raise AssertionError"))
    before = sorted(searches.folder.rglob("*"))
    ran = searches.run("--dry-run", gpus=None)
    assert ran.exit_code == 0
    assert ran.document["state"] == "planned"
    assert [len(bracket["rungs"]) for bracket in ran.document["plan"]] == [5, 4, 3, 2, 1]
    assert sorted(searches.folder.rglob("*")) == before


def test_clean_begins_anew(searches: Searches) -> None:
    searches.write(script())
    searches.run(*ONE)
    refused = searches.run(*ONE, "--clean")
    assert refused.exit_code == 2
    assert "--yes" in refused.err
    ran = searches.run(*ONE, "--clean", "--yes", "--seed", "7")
    assert ran.exit_code == 0
    assert "checkpoints" in ran.err
    assert len(ran.document["jobs"]) == 1
    starts = [event for event in read_events(searches.study) if isinstance(event, SearchStarted)]
    assert [start.settings["seed"] for start in starts] == [7]


def test_clean_ends_the_jobs_of_a_killed_search_first(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    (about,) = keepers(searches)
    searches.kill(search)
    (searches.folder / "off").touch()
    assert searches.run(*ONE, "--clean", "--yes").exit_code == 0
    assert proc.start_ticks(about["job_pid"]) is None


def test_the_log_repeats_a_job_by_hand(searches: Searches) -> None:
    searches.write(script("import os\nprint(os.environ['HYPERBAND_TRIAL'])\n" + LOSS))
    job = one_job(searches.run(*ONE))
    (line,) = [
        line for line in (searches.study / "hyperband.log").read_text().splitlines() if " start " in line
    ]
    command = line[line.index("cd ") :]
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == Path(job["stdout"]).read_text()
    assert shlex.split(command)[1] == str(searches.folder)


def test_the_clock_of_a_job(searches: Searches) -> None:
    searches.write(script("import time\ntime.sleep(0.5)\nprint(1)"))
    before = time.time()
    job = one_job(searches.run(*ONE))
    assert before <= job["started_at"] <= job["ended_at"] - 0.5 <= time.time() - 0.5


def test_a_sampler_that_breaks_late_stops_the_search_with_what_ran_kept(searches: Searches) -> None:
    sampler = """
    import os, time
    N = [0]
    def get_random_config_id(rng):
        N[0] += 1
        if N[0] == 30:
            time.sleep(0.2)
        if N[0] > 40:
            while not any(name.startswith("ran-") for name in os.listdir(".")):
                time.sleep(0.01)
            raise ValueError("the table of architectures is empty")
        return f"x:{rng.uniform(0, 1):.9f}"
    """
    searches.write(script("open(f'ran-{config_id}', 'w').close()\n" + LOSS, sampler=sampler))
    ran = searches.run("--max-epochs", "27", "--slots", "2")
    assert ran.exit_code == 2
    assert "the table of architectures is empty" in ran.err
    ended = [event for event in read_events(searches.study) if isinstance(event, JobEnded)]
    assert ended
    assert all(event.outcome is Outcome.LOSS for event in ended)


def test_a_killed_script_host_is_replaced(searches: Searches) -> None:
    sampler = """
    import os, signal, time
    N = [0]
    def get_random_config_id(rng):
        N[0] += 1
        if N[0] == 2 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return f"x:{rng.uniform(0, 1):.9f}"
    """
    searches.write(script(sampler=sampler))
    assert searches.run("--max-epochs", "3", "--slots", "2").exit_code == 0
    assert (searches.folder / "killed").exists()


def test_resuming_from_another_folder_runs_where_the_study_began(searches: Searches) -> None:
    searches.write(
        script("import os, time\nopen(f'here-{config_id}', 'w').close()\ntime.sleep(0.2)\n" + LOSS)
    )
    logs = str(searches.folder / "logs")
    search = searches.start("--max-epochs", "3", "--logs", logs)
    until(lambda: any(searches.folder.glob("here-*")), "a job to run")
    search.send_signal(signal.SIGINT)
    searches.wait(search)
    elsewhere = searches.folder / "elsewhere"
    elsewhere.mkdir()
    ran = searches.run("--max-epochs", "3", "--slots", "2", "--logs", logs, cwd=elsewhere)
    assert ran.exit_code == 0
    assert not list(elsewhere.iterdir())
    assert len(list(searches.folder.glob("here-*"))) == 5


def test_clean_removes_nothing_that_is_not_the_study(searches: Searches) -> None:
    searches.write(script())
    mine = searches.folder / "study" / "model.py"
    mine.parent.mkdir()
    mine.write_text("precious")
    refused = searches.run(*ONE, "--logs", ".", "--clean", "--yes")
    assert refused.exit_code == 1
    assert "is no study" in refused.err
    assert mine.read_text() == "precious"
    searches.run(*ONE)
    (searches.study / "notes.txt").write_text("mine")
    assert searches.run(*ONE, "--clean", "--yes", "--seed", "1").exit_code == 0
    assert (searches.study / "notes.txt").read_text() == "mine"


def test_a_smaller_number_of_random_trials_is_refused(searches: Searches) -> None:
    searches.write(script())
    options = ("--algorithm", "random", "--max-epochs", "3")
    searches.run(*options, "--slots", "2")
    refused = searches.run(*options, "--max-trials", "2")
    assert refused.exit_code == 2
    assert "--max-trials was 4 (its default) and is now 2" in refused.err
    grown = searches.run(*options, "--max-trials", "6")
    assert grown.exit_code == 0
    assert len(grown.document["trials"]) == 6


def test_stop_while_a_search_opens_ends_the_jobs_too(searches: Searches) -> None:
    searches.write(script(HELD))
    first = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    searches.kill(first)
    second = searches.start(*ONE)
    until(lambda: holder(searches.study) is not None, "the second search to have the study")
    done = searches.command("stop", str(searches.study))
    assert done.exit_code == 0
    searches.wait(second)
    (about,) = keepers(searches)
    assert proc.start_ticks(about["job_pid"]) is None


def test_stop_reaches_a_suspended_search(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(*ONE)
    until(lambda: is_on(searches), "the job to run")
    search.send_signal(signal.SIGSTOP)
    assert searches.command("stop", str(searches.study)).exit_code == 0
    assert searches.wait(search).exit_code == 130


def test_a_script_that_is_away_for_a_moment(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start("--algorithm", "random", "--max-trials", "2", "--max-epochs", "1", "--slots", "1")
    until(lambda: is_on(searches), "the first job to run")
    away = searches.path.rename(searches.folder / "away")
    (searches.folder / "off").touch()
    log = searches.study / "hyperband.log"
    until(lambda: "is not there" in log.read_text(), "the search to notice")
    away.rename(searches.path)
    ran = searches.wait(search)
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Loss", "Loss"]


def test_a_script_that_changes_meanwhile_is_warned_of(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start("--algorithm", "random", "--max-trials", "2", "--max-epochs", "1", "--slots", "1")
    until(lambda: is_on(searches), "the first job to run")
    searches.write(script())
    (searches.folder / "off").touch()
    ran = searches.wait(search)
    assert ran.err.count("the script has changed") == 1


def test_nohup_keeps_the_output(searches: Searches) -> None:
    searches.write(script(HELD))
    out = searches.folder / "nohup.out"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with out.open("w") as stream:
            argv = [sys.executable, str(HYPERBAND), *ONE, "--gpus", "none", str(searches.path)]
            search = subprocess.Popen(
                argv, cwd=searches.folder, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: is_on(searches), "the job to run")
    search.send_signal(signal.SIGHUP)
    (searches.folder / "off").touch()
    assert search.wait(timeout=60) == 0
    assert "train the best" in out.read_text()


def test_an_id_with_a_tab_can_be_repeated_by_hand(searches: Searches) -> None:
    searches.write(
        script(
            "print(repr(config_id))\nprint(1)", sampler="def get_random_config_id(rng):\n    return 'a\\tb'\n"
        )
    )
    job = one_job(searches.run(*ONE))
    (line,) = [
        line for line in (searches.study / "hyperband.log").read_text().splitlines() if " start " in line
    ]
    done = subprocess.run(
        ["bash", "-c", line[line.index("cd ") :]], capture_output=True, text=True, check=True
    )
    assert done.stdout == Path(job["stdout"]).read_text() == "'a\\tb'\n1\n"


def test_a_finished_study_tells_its_result_without_its_gpus(searches: Searches) -> None:
    searches.write(script())
    searches.run(*ONE)
    again = searches.run(*ONE, "--gpus", "5", gpus=None)
    assert again.exit_code == 0
    assert again.document["best"] is not None


def test_a_repeat_that_cannot_be_meant(searches: Searches) -> None:
    searches.write(script())
    ran = searches.run("--repeat", "1000000000")
    assert ran.exit_code == 2
    assert "--repeat is 1,000,000,000" in ran.err


def test_other_options_for_the_script_are_warned_of(searches: Searches) -> None:
    searches.write(script())
    searches.run(*ONE, after=("--lr", "5"))
    again = searches.run(*ONE, "--max-trials", "2", after=("--lr", "2"))
    assert again.exit_code == 0
    assert "was handed --lr 5 before, and is now handed --lr 2" in again.err


def test_going_on_after_a_failed_search_is_warned_of(searches: Searches) -> None:
    searches.write(script("raise RuntimeError('no such dataset')"))
    searches.run("--max-epochs", "9", "--slots", "2")
    searches.write(script())
    again = searches.run("--max-epochs", "9", "--slots", "2")
    assert again.exit_code == 0
    assert "failed jobs stay failed" in again.err


def test_an_option_that_the_script_does_not_know(searches: Searches) -> None:
    identity = """
def run_identity(argv):
    import argparse
    parser = argparse.ArgumentParser(prog="script.py")
    parser.add_argument("--model")
    return parser.parse_args(argv).model
"""
    searches.write(script(identity=identity))
    ran = searches.run(*ONE, after=("--modle", "large"))
    assert ran.exit_code == 2
    assert "unrecognized arguments: --modle large" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_a_slow_import_is_told_of(searches: Searches) -> None:
    waits = "print('epoch 1', flush=True)\n    while not os.path.exists('go'): time.sleep(0.01)"
    searches.write(script(top=f"import os, time\nif __name__ != '__main__':\n    {waits}\n"))
    search = searches.start(*ONE)
    assert search.stderr is not None
    said = next(line for line in search.stderr if "importing" in line)
    assert re.search(r"importing .*script\.py \(\d+ s so far\); it last printed: epoch 1\n", said)
    (searches.folder / "go").touch()
    ran = searches.wait(search)
    assert ran.exit_code == 0
    assert "If it trains there" not in said + ran.err


def test_a_crash_is_told_with_its_last_line(searches: Searches) -> None:
    searches.write(script("x = float(config_id[2:])\nif x < 0.4:\n    1 / 0\nprint(x)"))
    ran = searches.run("--max-epochs", "3", "--slots", "2")
    assert "exit code 1: ZeroDivisionError: division by zero" in ran.err


def test_a_python_without_our_packages(searches: Searches) -> None:
    searches.write(script())
    argv = [sys.executable, "-S", str(HYPERBAND), *ONE, str(searches.path)]
    done = subprocess.run(argv, cwd=searches.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install ." in done.stderr
    assert "Traceback" not in done.stderr


def test_limits_of_a_month(searches: Searches) -> None:
    searches.write(script("import time\ntime.sleep(0.3)\nprint(1)"))
    ran = searches.run(*ONE, "--max-time", "2592000", "--timeout", "2592000")
    assert ran.exit_code == 0


def test_a_free_setting_of_a_finished_study(searches: Searches) -> None:
    searches.write(script("x = float(config_id[2:])\nif x < 0.4:\n    1 / 0\nprint(x)"))
    searches.run("--max-epochs", "3", "--slots", "2")
    again = searches.run("--max-epochs", "3", "--slots", "2", "--penalty", "3")
    assert again.document["settings"]["penalty"] == 3
    crashed = [job for job in again.document["jobs"] if job["outcome"] == "Crashed"]
    assert {job["loss"] for job in crashed if not job["retry"]} == {3}
    assert {job["loss"] for job in crashed if job["retry"]} == {None}
    assert again.document["state"] == "finished"


def test_more_slots_than_are_filled_at_once(searches: Searches) -> None:
    searches.write(script(HELD))
    search = searches.start(
        "--algorithm", "random", "--max-trials", "40", "--max-epochs", "1", "--slots", "40"
    )
    until(lambda: is_on(searches, 40), "forty jobs to run")
    (searches.folder / "off").touch()
    assert searches.wait(search).exit_code == 0


SIGNAL_BEFORE_WORDS = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from hyperband.study.wake import Wake
real, sent = Wake.sleep, []
def sleep(self, timeout_s):
    if timeout_s == 0.0 and not sent:
        sent.append(os.kill(os.getpid(), signal.SIGTERM))
    return real(self, timeout_s)
Wake.sleep = sleep
from hyperband.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_signal_while_words_wait_is_heeded_at_once(searches: Searches) -> None:
    searches.write(script(HELD))
    argv = [sys.executable, "-c", SIGNAL_BEFORE_WORDS, str(HYPERBAND.parent), *ONE, "--gpus", "none"]
    search = subprocess.Popen([*argv, str(searches.path)], cwd=searches.folder, stdout=subprocess.DEVNULL)
    try:
        assert search.wait(timeout=60) == 130
    finally:
        (searches.folder / "off").touch()
        search.wait(timeout=60)


def test_a_sampler_that_does_not_work_leaves_nothing_behind(searches: Searches) -> None:
    searches.write(script(LOSS, sampler="def get_random_config_id(rng):\n    raise ValueError('no space')\n"))
    for options in ((), ("--dry-run",)):
        ran = searches.run(*ONE, *options)
        assert ran.exit_code == 2
        assert "no space" in ran.err
        assert not (searches.folder / "logs").exists()


def test_what_a_check_found_about_resuming_is_said(searches: Searches) -> None:
    searches.write(script(LOSS))
    sha256 = hashlib.sha256(searches.path.read_bytes()).hexdigest()
    logs = searches.folder / "logs"
    used = settings(searches.folder, logs=logs, script_args=())

    def found(verdict: Resuming) -> list[str]:
        write_resuming(logs, "study", script_sha256=sha256, script_args=(), verdict=verdict)
        return cost_of_not_resuming(used, identity="study", script_sha256=sha256, plan=small_plan())

    assert found(Resuming.RESUMES) == []
    (disagrees,) = found(Resuming.DISAGREES)
    assert "gives another loss than training straight through" in disagrees
    (from_scratch,) = found(Resuming.FROM_SCRATCH)
    assert "costs 9 epochs more (78 instead of 69)" in from_scratch
    ran = searches.run("--max-epochs", "3")
    assert ran.exit_code == 0
    assert "a check found that the script" in ran.err


def stop_the_fork_server(searches: Searches) -> int:
    """Suspend the process that starts the jobs; return its pid."""
    server = proc.parent(keepers(searches)[0]["pid"])
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    return server


def n_not_begun(searches: Searches) -> int:
    """How many attempts were ordered that nobody has started."""
    return sum(not (folder / "keeper.json").exists() for folder in searches.study.glob("jobs/*"))


def test_a_fork_server_killed_with_many_requests_under_way_is_no_reason_to_give_up(
    searches: Searches,
) -> None:
    searches.write(script(HELD))
    search = searches.start(
        "--algorithm", "random", "--max-trials", "12", "--max-epochs", "1", "--slots", "6"
    )
    until(lambda: is_on(searches, 6), "six jobs to run")
    server = stop_the_fork_server(searches)
    (searches.folder / "off").touch()
    until(lambda: n_not_begun(searches) >= 4, "requests to be under way")
    os.kill(server, signal.SIGKILL)
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert all(trial["loss"] is not None for trial in ran.document["trials"])
    assert len(ran.document["trials"]) == 12


@pytest.mark.slow
def test_a_fork_server_that_hangs_is_killed_and_what_it_had_not_started_is_repeated(
    searches: Searches,
) -> None:
    searches.write(script(HELD))
    search = searches.start("--algorithm", "random", "--max-trials", "6", "--max-epochs", "1", "--slots", "3")
    until(lambda: is_on(searches, 3), "three jobs to run")
    server = stop_the_fork_server(searches)
    (searches.folder / "off").touch()
    ran = searches.wait(search)
    assert proc.start_ticks(server) is None
    assert ran.exit_code == 0, ran.err
    assert "the process that starts jobs hangs" in ran.err
    assert [trial["loss"] is None for trial in ran.document["trials"]] == [False] * 6
