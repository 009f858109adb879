"""Real searches that tell a bad configuration from a bad slot: retries, strikes, quarantine, time limits."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from search_fixture import Ran, Searches, script, searches, until

from hyperband.journal import read_events
from hyperband.search.events import JobEnded, SlotQuarantined, SlotReleased
from hyperband.search.trial import Outcome
from hyperband.settings import Settings

__all__ = ["searches"]

#: the slot that a job got, as its script sees it
SLOT = "slot = int(sys.argv[sys.argv.index('--gpu') + 1])\n"


def random_search(n: int, *options: str) -> tuple[str, ...]:
    return ("--algorithm", "random", "--max-trials", str(n), "--max-epochs", "1", *options)


def attempts(ran: Ran) -> list[tuple[int, str, str]]:
    """(trial, slot, outcome) of every attempt."""
    return [(job["trial"], job["slot"], job["outcome"]) for job in ran.document["jobs"]]


def once(then: str) -> str:
    """A main block that fails the first time that a configuration runs, and prints a loss after that."""
    return (
        "import os, hashlib\nmark = hashlib.sha256(config_id.encode()).hexdigest()\n"
        f"if not os.path.exists(mark):\n    open(mark, 'w').close()\n    {then}\nprint(0.5)"
    )


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [("raise KeyError('bn')", "Crashed"), ("print('no number'); sys.exit()", "NoLoss")],
)
def test_a_failure_that_passes_is_no_failure(searches: Searches, failure: str, outcome: str) -> None:
    searches.write(script(once(failure)))
    ran = searches.run(*random_search(2, "--slots", "1"))
    assert ran.exit_code == 0
    assert attempts(ran) == [
        (0, "cpu:0", outcome),
        (0, "cpu:0", "Loss"),
        (1, "cpu:0", outcome),
        (1, "cpu:0", "Loss"),
    ]
    assert [trial["loss"] for trial in ran.document["trials"]] == [0.5, 0.5]
    assert "tried again" in ran.err


def test_a_job_that_fails_is_tried_on_another_slot(searches: Searches) -> None:
    searches.write(script("raise KeyError('bn')"))
    ran = searches.run(*random_search(1, "--slots", "3"))
    assert attempts(ran) == [(0, "cpu:0", "Crashed"), (0, "cpu:1", "Crashed")]
    assert ran.exit_code == 1


def test_a_retry_that_must_wait_lets_others_pass(searches: Searches) -> None:
    """Slot 1 is held by a long job; trial 0 fails on slot 0 and must not keep slot 0 from the others."""
    searches.write(
        script(
            f"import os, time\n{SLOT}"
            "if slot == 1:\n"
            "    while not os.path.exists('go'): time.sleep(0.01)\n"
            "    print(0.5)\n"
            "elif not os.path.exists('failed'):\n"
            "    while not os.path.exists('on'): time.sleep(0.01)\n"
            "    open('failed', 'w').close()\n    raise KeyError('first')\n"
            "else:\n    print(0.25)"
        )
    )
    search = searches.start(*random_search(4, "--slots", "2"))
    until(lambda: len(list(searches.study.glob("jobs/*"))) == 2, "two jobs to run")
    (searches.folder / "on").touch()
    until(lambda: len(list(searches.study.glob("jobs/*/result.json"))) == 3, "slot 0 to do the rest")
    (searches.folder / "go").touch()
    ran = searches.wait(search)
    assert ran.exit_code == 0
    assert (0, "cpu:1", "Loss") in attempts(ran)
    assert sum(slot == "cpu:0" and outcome == "Loss" for _, slot, outcome in attempts(ran)) == 2


def test_a_black_hole_is_quarantined_and_what_it_failed_is_not_penalised(searches: Searches) -> None:
    searches.write(
        script(
            f"import glob, time\n{SLOT}"
            "if slot == 0:\n    open(f'failed-{config_id}', 'w').close()\n"
            "    raise RuntimeError('no CUDA-capable device')\n"
            "while len(glob.glob('failed-*')) < 3: time.sleep(0.01)\nprint(0.5)"
        )
    )
    ran = searches.run(*random_search(12, "--slots", "3"))
    assert ran.exit_code == 0
    assert sum(outcome == "Crashed" for _, _, outcome in attempts(ran)) <= 3 + 1
    assert all(trial["loss"] == 0.5 for trial in ran.document["trials"])
    (quarantine,) = [e for e in read_events(searches.study) if isinstance(e, SlotQuarantined)]
    assert quarantine.slot == "cpu:0"
    assert "cpu:0 is in quarantine until" in ran.err


def test_a_quarantine_outlives_the_search_and_ends_by_hand(searches: Searches) -> None:
    searches.write(
        script(
            f"import os, time\n{SLOT}"
            "if slot == 0 and not os.path.exists('mended'): raise RuntimeError('no CUDA-capable device')\n"
            "if os.path.exists('held'): time.sleep(0.05)\n"
            "while os.path.exists('held') and slot != 0: time.sleep(0.01)\nprint(0.5)"
        )
    )
    options = random_search(30, "--slots", "2")
    search = searches.start(*options)
    until(lambda: "is in quarantine until" in log(searches), "the quarantine")
    searches.kill(search)
    wrong = searches.command("slots", str(searches.study), "--release", "cpu:7")
    assert wrong.exit_code == 2
    assert "cpu:0" in wrong.err
    (searches.folder / "mended").touch()
    (searches.folder / "held").touch()
    search = searches.start(*options)
    until(lambda: "Taken over" in log(searches) or log(searches).count("begin ") == 2, "the second start")
    shown = searches.command("slots", str(searches.study))
    assert shown.exit_code == 0
    assert "until" in shown.out
    assert "in quarantine" in shown.out
    done = searches.command("slots", str(searches.study), "--release", "cpu:0")
    assert done.exit_code == 0
    until(lambda: "cpu:0 is used again: by hand" in log(searches), "the slot to be given back")
    (searches.folder / "held").unlink()
    ran = searches.wait(search)
    assert ran.exit_code == 0
    released = [e for e in read_events(searches.study) if isinstance(e, SlotReleased)]
    assert [(event.slot, event.reason) for event in released] == [("cpu:0", "by hand")]
    assert (ran.document["best"]["loss"], sum(o == "Loss" for _, _, o in attempts(ran))) == (0.5, 30)


def test_release_without_a_search(searches: Searches) -> None:
    searches.write(
        script(
            f"import glob, time\n{SLOT}"
            "if slot == 0:\n    open(f'failed-{config_id}', 'w').close()\n    raise RuntimeError('x')\n"
            "while len(glob.glob('failed-*')) < 3: time.sleep(0.01)\nprint(0.5)"
        )
    )
    assert searches.run(*random_search(8, "--slots", "2")).exit_code == 0
    done = searches.command("slots", str(searches.study), "--release", "all")
    assert done.exit_code == 0
    assert "cpu:0" in done.out
    again = searches.command("slots", str(searches.study), "--release", "all")
    assert again.exit_code == 2


def test_without_retries_a_failure_is_final(searches: Searches) -> None:
    searches.write(script(once("raise KeyError('bn')")))
    ran = searches.run(*random_search(1, "--retries", "0"))
    assert attempts(ran) == [(0, "cpu:0", "Crashed")]


def test_a_crash_that_nobody_saw_is_retried_too(searches: Searches) -> None:
    searches.write(
        script(once("import time\n    while not os.path.exists('off'): time.sleep(0.01)\n    os.abort()"))
    )
    search = searches.start(*random_search(1))
    until(lambda: any(searches.study.glob("jobs/*/keeper.json")), "the job to run")
    searches.kill(search)
    (searches.folder / "off").touch()
    until(lambda: any(searches.study.glob("jobs/*/result.json")), "its end")
    ran = searches.run(*random_search(1))
    assert attempts(ran) == [(0, "cpu:0", "Crashed"), (0, "cpu:0", "Loss")]


# ---- time limits --------------------------------------------------------------------------------


def test_seconds_per_epoch(searches: Searches) -> None:
    searches.write(script("import time\ntime.sleep(0 if epochs == 1 else 600)\nprint(0.5)"))
    # the limit is for a machine with little time for us, too: jobs of one epoch are to end within it
    limits = ("--timeout-per-epoch", "2.5", "--grace", "0")
    ran = searches.run("--algorithm", "halving", "--eta", "2", "--max-epochs", "2", "--slots", "2", *limits)
    outcomes = {(job["epochs"], job["outcome"]) for job in ran.document["jobs"]}
    assert outcomes == {(1, "Loss"), (2, "TimedOut")}
    assert "--timeout-per-epoch 2.5, 2 epochs" in ran.err


def test_a_job_without_output_is_ended_and_one_with_output_is_not(searches: Searches) -> None:
    searches.write(
        script(
            f"{SLOT}import time\nfor n in range(10 if slot else 1):\n"
            "    print('epoch', n, file=sys.stderr if n % 2 else sys.stdout, flush=True)\n"
            "    time.sleep(0.3)\n"
            "if not slot: time.sleep(600)\nprint(0.5)"
        )
    )
    ran = searches.run(*random_search(2, "--slots", "2", "--stall-timeout", "2.5", "--grace", "0"))
    found = {job["slot"]: job["outcome"] for job in ran.document["jobs"]}
    assert found == {"cpu:0": "TimedOut", "cpu:1": "Loss"}
    assert "no output for 2.5 s" in ran.err


def test_a_search_that_was_suspended_reads_ends_before_it_judges_time(searches: Searches) -> None:
    searches.write(
        script(
            "import os, time\nopen('on', 'w').close()\n"
            "while not os.path.exists('off'): time.sleep(0.01)\nprint(0.5)"
        )
    )
    search = searches.start(*random_search(1, "--timeout", "3", "--stall-timeout", "3"))
    until((searches.folder / "on").exists, "the job to run")
    search.send_signal(signal.SIGSTOP)
    (searches.folder / "off").touch()
    until(lambda: any(searches.study.glob("jobs/*/result.json")), "its end")
    time.sleep(3.1)  # what is tried is that this time passes
    search.send_signal(signal.SIGCONT)
    ran = searches.wait(search)
    assert attempts(ran) == [(0, "cpu:0", "Loss")]


# ---- threads ------------------------------------------------------------------------------------

THREADS = [
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ({}, ["{share}"] * 5),
        ({"MKL_NUM_THREADS": "7"}, ["{share}", "7", "{share}", "{share}", "{share}"]),
        ({"OMP_NUM_THREADS": "3"}, ["3", "-", "-", "-", "-"]),
    ],
)
def test_each_job_gets_its_share_of_the_cores(
    searches: Searches, preset: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    for name, value in preset.items():
        monkeypatch.setenv(name, value)
    searches.write(
        script(f"import os\nprint(*[os.environ.get(name, '-') for name in {THREADS}])\nprint(0.5)")
    )
    ran = searches.run(*random_search(1, "--slots", "2"))
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    stdout = Path(ran.document["jobs"][0]["stdout"]).read_text().split("\n")[0]
    assert stdout.split() == [word.format(share=share) for word in expected]


def log(searches: Searches) -> str:
    path = searches.study / "hyperband.log"
    return path.read_text() if path.exists() else ""


def settings_of(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = ran.document["settings"]
    return found


def test_the_settings_are_told(searches: Searches) -> None:
    searches.write(script("print(0.5)"))
    found = settings_of(searches.run(*random_search(1, "--retries", "3", "--quarantine-s", "7.5")))
    assert (found["retries"], found["quarantine_s"]) == (3, 7.5)
    assert Settings(script=Path("/s"), python=Path("/p"), logs=Path("/l")).document().keys() == found.keys()


# ---- what reviews showed ------------------------------------------------------------------------


def test_the_only_slot_that_is_left_is_used_although_it_is_in_quarantine(searches: Searches) -> None:
    searches.write(
        script(
            f"import os, time\n{SLOT}"
            "def wait_for(name):\n    while not os.path.exists(name): time.sleep(0.01)\n"
            "if slot == 0 and not os.path.exists('mended'):\n"
            "    wait_for('one')\n    sys.exit('no CUDA-capable device')\n"
            "if slot == 1 and os.path.exists('one'): wait_for('mended')\n"
            "open('one', 'w').close()\nprint(0.5)"
        )
    )
    search = searches.start(*random_search(8, "--slots", "2"))
    until(lambda: "is in quarantine until" in log(searches), "the quarantine")
    searches.kill(search)
    (searches.folder / "mended").touch()
    ran = searches.run(*random_search(8, "--slots", "1"))
    assert ran.exit_code == 0
    assert "cpu:0 is used again: no other slot is left" in ran.err
    assert [trial["loss"] for trial in ran.document["trials"]] == [0.5] * 8
    assert sum(slot == "cpu:0" and outcome == "Loss" for _, slot, outcome in attempts(ran)) >= 5


#: the first attempt stays until it is ended
STAYS = (
    "import os, time\nif os.environ['HYPERBAND_ATTEMPT'] == '0':\n    open('on', 'w').close()\n"
    "    time.sleep(1000)\nprint(0.5)"
)


def warn_the_keeper(searches: Searches) -> None:
    """Send what a batch system sends before the end of its own time, as SLURM's `--signal=USR1@60`."""
    (about,) = [json.loads(path.read_text()) for path in searches.study.glob("jobs/*/keeper.json")]
    os.kill(about["pid"], signal.SIGUSR1)


@pytest.mark.parametrize("limits", [(), ("--timeout", "3600", "--stall-timeout", "3600")])
def test_the_signal_of_a_batch_system_is_no_time_limit(searches: Searches, limits: tuple[str, ...]) -> None:
    searches.write(script(STAYS))
    search = searches.start(*random_search(1, *limits))
    until((searches.folder / "on").exists, "the job to run")
    warn_the_keeper(searches)
    ran = searches.wait(search)
    assert attempts(ran) == [(0, "cpu:0", "Stopped"), (0, "cpu:0", "Loss")]


@pytest.mark.parametrize("by", ["the next search", "hyperband stop"])
def test_the_signal_of_a_batch_system_while_the_search_is_dead(searches: Searches, by: str) -> None:
    searches.write(script(STAYS))
    search = searches.start(*random_search(1))
    until((searches.folder / "on").exists, "the job to run")
    searches.kill(search)
    warn_the_keeper(searches)
    until(lambda: any(searches.study.glob("jobs/*/result.json")), "its end")
    if by == "hyperband stop":
        assert searches.command("stop", str(searches.study)).exit_code == 0
        ends = [e.outcome for e in read_events(searches.study) if isinstance(e, JobEnded)]
        assert ends == [Outcome.STOPPED]
    ran = searches.run(*random_search(1))
    assert attempts(ran) == [(0, "cpu:0", "Stopped"), (0, "cpu:0", "Loss")]


def test_the_words_of_the_time_limit_that_ended_a_job_stay(searches: Searches) -> None:
    searches.write(
        script("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)")
    )
    ran = searches.run(*random_search(1, "--timeout", "1", "--stall-timeout", "1.3", "--grace", "1"))
    assert attempts(ran) == [(0, "cpu:0", "TimedOut")]
    (end,) = [event for event in read_events(searches.study) if isinstance(event, JobEnded)]
    assert end.note == "ended after 1 s (--timeout)"
    assert "no output" not in ran.err
