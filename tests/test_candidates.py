"""Candidates of real scripts in real processes: the stream of draws, and what the script says of its ids."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from numpy.random import MT19937, RandomState, SeedSequence
from test_host import Start, collect, folder, start

from hyperband.errors import ContractError
from hyperband.script.candidates import Candidates
from hyperband.script.host import ScriptHost

__all__ = ["folder", "start"]

SAMPLER = """
def get_random_config_id(rng):
    return f"lr:{rng.uniform():.6f}"

def run_identity(argv):
    return ""
"""


def drawn(host: ScriptHost, seed: int, first: int, count: int, limit_s: float = 60.0) -> list[Candidates]:
    host.start_candidates(seed, first, count, limit_s=limit_s)
    return parts(host)


def parts(host: ScriptHost) -> list[Candidates]:
    found = []
    for part in collect(host):
        assert isinstance(part, Candidates)
        found.append(part)
    return found


def ids_of(found: Sequence[Candidates]) -> list[str]:
    return [config_id for part in found for config_id in part.ids]


def expected(seed: int, draw: int) -> str:
    return f"lr:{RandomState(MT19937(SeedSequence([seed, 1, draw]))).uniform():.6f}"


def test_a_draw_depends_on_seed_and_number_alone(start: Start) -> None:
    host = start(SAMPLER)
    host.load()
    whole = drawn(host, 7, 1, 1200)
    assert ids_of(whole) == [expected(7, draw) for draw in range(1, 1201)]
    assert [part.first for part in whole][:1] == [1]
    assert [part.is_last for part in whole] == [False] * (len(whole) - 1) + [True]
    assert ids_of(drawn(host, 7, 800, 400)) == ids_of(whole)[799:1199]
    assert ids_of(list(host.draw_candidates(7, 5, limit_s=60))) == ids_of(whole)[:5]


def test_the_stream_is_none_of_the_trials(start: Start) -> None:
    host = start(SAMPLER)
    host.load()
    trials = host.draw(42, range(300), limit_s=60)
    assert not set(trials) & set(ids_of(drawn(host, 42, 1, 300)))


def test_draws_end_when_their_time_is_up(start: Start) -> None:
    host = start(SAMPLER.replace("return f", "import time; time.sleep(0.05); return f"))
    host.load()
    found = ids_of(drawn(host, 3, 1, 100_000, limit_s=1.0))
    assert 1 < len(found) < 21
    assert ids_of(drawn(host, 3, len(found) + 1, 100_000, limit_s=0)) == [expected(3, len(found) + 1)]


def test_the_first_draws_of_a_slow_sampler_come_soon(start: Start) -> None:
    host = start(SAMPLER.replace("return f", "import time; time.sleep(0.1); return f"))
    host.load()
    began_s = time.monotonic()
    host.start_candidates(3, 1, 600, limit_s=60.0)
    while not (found := host.receive()):
        assert time.monotonic() - began_s < 30
        time.sleep(0.01)
    assert isinstance(found[0], Candidates)
    assert found[0].ids == (expected(3, 1),)
    assert not found[0].is_last


def test_repeats_stay_for_whoever_counts_them(start: Start) -> None:
    host = start("""
        def get_random_config_id(rng): return "only"
        def run_identity(argv): return ""
    """)
    host.load()
    assert ids_of(drawn(host, 1, 1, 2000)) == ["only"] * 2000


def test_without_get_config_nothing_is_said_of_the_ids(start: Start) -> None:
    host = start(SAMPLER)
    host.load()
    (found,) = drawn(host, 1, 1, 2)
    assert (found.configs, found.refusal) == (None, "")
    host.start_reading(["a", "b"], limit_s=60.0)
    assert parts(host) == [Candidates(0, ("a", "b"), None, "", is_last=True)]


def test_configurations_come_flat_with_their_ids(start: Start) -> None:
    host = start(f"""{SAMPLER}
def get_config(config_id):
    return {{"opt": {{"lr": float(config_id[3:]), "on": True, "no": None}}, "n": (1, 2)}}
""")
    host.load()
    (found,) = drawn(host, 1, 1, 3)
    assert found.configs == tuple(
        {"opt.lr": float(config_id[3:]), "opt.on": True, "opt.no": None, "n.0": 1, "n.1": 2}
        for config_id in found.ids
    )
    host.start_reading(["lr:0.5"] * 1025, limit_s=60.0)
    read = parts(host)
    assert [(part.first, part.is_last) for part in read] == [(0, False), (512, False), (1024, True)]
    assert read[-1].configs == ({"opt.lr": 0.5, "opt.on": True, "opt.no": None, "n.0": 1, "n.1": 2},)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def get_config(config_id): return [1, 2]", ["[1, 2]", "dict"]),
        ("def get_config(config_id): return {'a': 1}[config_id]", ["KeyError"]),
        ("def get_config(config_id): raise SystemExit(3)", ["get_config", "SystemExit"]),
        ("get_config = {'a': 1}", ["has dict as get_config"]),
        ("def get_config(config_id): return {'a': 10**5000}", ["get_config", "a whole number of 16610 bits"]),
        (
            "import sys; sys.setrecursionlimit(100_000)\ndeep = []\nfor _ in range(3000): deep = [deep]\n"
            "def get_config(config_id): return {'a': deep}",
            ["get_config", "nested more than 100 deep"],
        ),
    ],
)
def test_a_get_config_that_fails_takes_no_id_away(start: Start, source: str, words: list[str]) -> None:
    host = start(SAMPLER + source)
    host.load()
    (found,) = drawn(host, 1, 1, 3)
    assert (len(found.ids), found.configs) == (3, (None, None, None))
    assert [word for word in words if word not in found.refusal] == []


def test_a_get_config_that_ends_the_process_is_named(start: Start) -> None:
    host = start(SAMPLER + "def get_config(config_id): import os; os._exit(3)")
    host.load()
    with pytest.raises(ContractError, match=r"or get_config in .* ended the whole process"):
        drawn(host, 1, 1, 3)


def test_a_slow_get_config_counts_as_the_sampler_does(start: Start) -> None:
    host = start(SAMPLER + "def get_config(config_id): import time; time.sleep(0.02); return {'a': 1}")
    host.load()
    found = drawn(host, 1, 1, 100_000, limit_s=1.0)
    assert len(found) > 1
    assert 1 < len(ids_of(found)) < 51
    assert max(len(part.ids) for part in found) <= 4
    host.start_reading(["a"] * 9, limit_s=60.0)
    assert max(len(part.ids) for part in parts(host)) <= 4
    assert 1 <= len(ids_of(host.read(["a"] * 999, limit_s=0.1))) < 6
    assert ids_of(host.read(["a", "b"], limit_s=0.0)) == ["a"]


def test_a_get_config_that_refuses_one_id_says_so_of_that_one(start: Start) -> None:
    host = start(SAMPLER + "def get_config(config_id): return {'lr': float(config_id)}")
    host.load()
    host.start_reading(["1", "x", "2"], limit_s=60.0)
    (found,) = parts(host)
    assert found.configs == ({"lr": 1.0}, None, {"lr": 2.0})
    assert "could not convert string to float: 'x'" in found.refusal


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("return 7", "type int"),
        ("return '-x'", "begins with '-'"),
        ("return rng.no_such()", "no_such"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_sampler_that_breaks_the_contract_is_named(start: Start, sampler: str, words: str) -> None:
    host = start(f"def get_random_config_id(rng): {sampler}\ndef run_identity(argv): return ''")
    host.load()
    with pytest.raises(ContractError, match=words):
        drawn(host, 1, 1, 3)


def test_what_a_sampler_prints_for_days_takes_no_memory(start: Start) -> None:
    host = start("""
def get_random_config_id(rng):
    print("drew" + 5000 * ".")
    return "a"

def run_identity(argv):
    return ""
""")
    host.load()
    output = Path(f"/proc/{host.pid}/fd/1")
    for first in range(1, 1001, 100):
        drawn(host, 1, first, 100)
        assert output.stat().st_size < 2 << 20


def test_the_last_words_of_a_process_that_printed_much_are_whole(start: Start) -> None:
    host = start("""
import os

def get_random_config_id(rng):
    print(3000 * "drew", flush=True)
    return "a"

def get_config(config_id):
    if config_id == "b":
        print("farewell", flush=True)
        os._exit(3)
    return {}

def run_identity(argv):
    return ""
""")
    host.load()
    drawn(host, 1, 1, 100)
    with pytest.raises(ContractError) as caught:
        host.read(["b"], limit_s=1.0)
    assert "get_config" in str(caught.value)
    assert str(caught.value).endswith("farewell")
    assert "x00" not in str(caught.value)
