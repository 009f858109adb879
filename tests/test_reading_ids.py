"""What a search does with a get_config that crashes, hangs or refuses; real scripts, the real guide."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence

import pytest
from search_fixture import Ran, Searches, script, searches

__all__ = ["searches"]

SAMPLER = """
def get_random_config_id(rng):
    return f"x:{rng.uniform():.4f}"
"""
LOSS = "print(abs(float(config_id[2:]) - 0.3)); import time; time.sleep(0.05)"
ONE_RUNG = ("--algorithm", "random", "--max-epochs", "1", "--guide", "model", "--slots", "2")
ENDED = "ended the whole process (exit code 3)"


def run(searches: Searches, get_config: str, *options: str, sampler: str = SAMPLER) -> Ran:
    head = "import os, signal, time\nn = 0\ndef get_config(config_id):\n    global n\n    n += 1\n"
    top = f"{head}{get_config}\n"
    searches.write(script(LOSS, sampler=sampler, top=top))
    ran = searches.run(*ONE_RUNG, *options, guide=None)
    assert ran.exit_code == 0, ran.err
    return ran


def sources(ran: Ran) -> Counter[str]:
    return Counter(job["source"] for job in ran.document["jobs"])


def waits_s(ran: Ran, n_slots: int) -> Sequence[float]:
    """From the end of each job to the start of the one that has its place."""
    ends = sorted(job["ended_at"] for job in ran.document["jobs"])
    starts = sorted(job["started_at"] for job in ran.document["jobs"])
    return [start - end for start, end in zip(starts[n_slots:], ends, strict=False)]


def test_a_get_config_that_always_ends_its_process_gives_way_to_the_text(searches: Searches) -> None:
    ran = run(searches, "    os._exit(3)", "--max-trials", "40")
    assert "Warning: get_config ends its process, and the text of the ids is read instead." in ran.err
    assert ENDED in ran.err
    assert "the config ids say the number x (such as 0." in ran.err
    assert sources(ran)["model"] > 0


def test_without_text_to_read_either_all_is_random(searches: Searches) -> None:
    sampler = "\ndef get_random_config_id(rng): return f'{rng.randint(10**9)}'\n"
    searches.write(script("print(1)", sampler=sampler, top="import os\ndef get_config(c): os._exit(3)"))
    ran = searches.run(*ONE_RUNG, "--max-trials", "6", guide=None)
    assert ran.exit_code == 0, ran.err
    assert "nothing can be read from the text of the ids either" in ran.err
    assert sources(ran) == {"random": 6}


def test_a_sampler_that_ends_its_process_is_to_blame_itself(searches: Searches) -> None:
    sampler = """
import os
def get_random_config_id(rng):
    config_id = f"x:{rng.uniform():.4f}"
    return os._exit(3) if config_id.endswith("7") else config_id
"""
    searches.write(script(LOSS, sampler=sampler, top="def get_config(c): return {'x': float(c[2:])}"))
    ran = searches.run(*ONE_RUNG, "--max-trials", "6", guide=None)
    assert ran.exit_code != 0
    assert "get_random_config_id in" in ran.err
    assert ENDED in ran.err


def test_a_get_config_that_ends_its_process_now_and_then_is_given_up(searches: Searches) -> None:
    # not within the first look, and often enough among the ids that are read before any job runs
    ran = run(
        searches,
        "    if n > 64 and config_id[-2:] in ('77', '78', '79'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return {'x': float(config_id[2:])}",
        "--max-trials",
        "40",
    )
    assert "Warning: get_config ended its process, or took too long, 3 times and is asked no more" in ran.err
    assert len({trial["config_id"] for trial in ran.document["trials"]}) == 40
    assert statistics.median(waits_s(ran, 2)) < 4.0


def test_a_get_config_that_refuses_one_id_in_ten_serves_for_the_others(searches: Searches) -> None:
    ran = run(
        searches,
        "    if config_id.endswith('7'): raise ValueError('a seven')\n    return {'x': float(config_id[2:])}",
        "--max-trials",
        "16",
    )
    assert "get_config gives the number x (such as 0." in ran.err
    assert "not read: " in ran.err
    assert ran.err.count("some config ids are tried at random only") == 1
    assert "a seven" in ran.err
    assert sources(ran)["model"] > 0


def test_a_get_config_that_hangs_at_one_id_holds_no_slot_up(searches: Searches) -> None:
    """At the 700th that is drawn, long after the first look."""
    ran = run(
        searches,
        "    time.sleep(1000 if n == 700 else 0)\n    return {'x': float(config_id[2:])}",
        "--max-trials",
        "20",
    )
    # who waited for it would wait until it is given up
    assert max(waits_s(ran, 2)) < 8.0


@pytest.mark.slow
def test_a_get_config_that_never_comes_back_holds_slots_up_for_some_seconds(searches: Searches) -> None:
    """At an id of the first 512, before any job runs."""
    ran = run(
        searches,
        "    time.sleep(10**6 if n == 100 else 0)\n    return {'x': float(config_id[2:])}",
        "--max-trials",
        "20",
    )
    assert (
        ran.err.count("config ids are read one by one for a while. get_config takes longer than 10 s") == 1
    ), ran.err
    assert len(ran.document["jobs"]) == 20
    assert sources(ran)["model"] > 0


def test_another_study_whose_ids_end_the_process_is_left_out(searches: Searches) -> None:
    searches.write(script(LOSS, sampler=SAMPLER.replace("x:", "y:")))
    assert searches.run(*ONE_RUNG[:-4], "--max-trials", "3").exit_code == 0
    (searches.folder / "logs").rename(searches.folder / "others")
    ran = run(
        searches,
        "    if config_id[0] == 'y': os._exit(3)\n    return {'x': float(config_id[2:])}",
        "--max-trials",
        "6",
        "--learn-from",
        "others/study",
    )
    words = (
        "others/study teaches the model nothing, and is left out: its config ids cannot be read. get_config"
    )
    assert words in ran.err
    assert ENDED in ran.err
    assert "it learns from" not in ran.err


@pytest.mark.slow
def test_a_get_config_that_hangs_at_once_is_said_and_given_up(searches: Searches) -> None:
    ran = run(searches, "    time.sleep(60)", "--max-trials", "6")
    assert "waiting for get_random_config_id or get_config in" in ran.err
    assert "get_config takes longer than 10 s for one config id, and the text of the ids is read" in ran.err


def test_the_plan_says_what_is_read_and_what_is_not(searches: Searches) -> None:
    sampler = """
def get_random_config_id(rng):
    opt = ["adam", "sgd"][rng.randint(2)]
    return f"run{rng.randint(10**9):x}z_0.{rng.randint(1, 999)} --lr {rng.uniform():.4f} --opt {opt}"
"""
    searches.write(script("print(1)", sampler=sampler))
    ran = searches.run(*ONE_RUNG, "--dry-run", guide=None)
    assert ran.exit_code == 0, ran.err
    assert "the config ids say the numbers #2 (such as 0." in ran.err
    assert " and the word opt (" in ran.err
    assert "#k is the k-th piece of an id, which has no name there; not read: #1 (another text" in ran.err


def test_a_number_that_may_be_missing_is_told_with_both(searches: Searches) -> None:
    sampler = """
def get_random_config_id(rng):
    beta = None if rng.randint(2) else round(0.9 + 0.01 * rng.randint(10), 2)
    return f"lr:{rng.uniform(0.1, 0.2)!r}.beta:{beta}"
"""
    searches.write(script("print(1)", sampler=sampler))
    ran = searches.run(*ONE_RUNG, "--dry-run", guide=None)
    assert ran.exit_code == 0, ran.err
    assert re.search(r"the numbers lr \(such as 0\.1\d?\d?\), beta \(None or 0\.9 to 0\.99\)", ran.err), (
        ran.err
    )
