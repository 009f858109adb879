"""A cluster that is not where it was said to be: told at once, within a bounded time, and left at once."""

import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_fixture import HYPERBAND, Searches, script, searches, until

from hyperband.launch.ray import reach as ray_reach
from hyperband.launch.ray.joining import Joining
from hyperband.launch.ray.reach import UnreachableError, has_hung_up, reach

__all__ = ["searches"]

#: a search with more patience than this test with Ray's side, when that is to end
PATIENT = f"""
import sys
sys.path.insert(0, {str(HYPERBAND.parent)!r})
from hyperband.launch.ray import link
link._END_S = 600.0
from hyperband.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def listening(*, is_deaf: bool = False) -> Iterator[str]:
    """The address of somebody who takes connections and says nothing, or does not even take them."""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if is_deaf else 16))
        if is_deaf:
            # one waits to be taken, and those after it get no answer
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(one.getsockname())
        yield f"127.0.0.1:{one.getsockname()[1]}"


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens, nor begins to."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def test_who_does_not_answer_is_told_of_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_reach, "_TRY_S", 0.2)
    monkeypatch.setattr(ray_reach, "_MOST_S", 0.5)
    said: list[str] = []
    with listening(is_deaf=True) as address, pytest.raises(UnreachableError, match="firewall"):
        reach(address, said.append)
    assert said == ["127.0.0.1 does not answer yet (no answer); trying for 0.5 s"]


def test_who_is_not_there_is_told_at_once() -> None:
    with pytest.raises(UnreachableError, match="is not known here"):
        reach("nowhere.invalid:6379", print)
    with listening() as address:
        reach(address, print)
    with nobody() as address, pytest.raises(UnreachableError, match=r"listens there .* `ray start --head"):
        reach(address, print)


def test_a_line_whose_other_end_is_closed_is_known_also_with_words_unread() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(b"words")
            assert not has_hung_up(theirs)
        assert has_hung_up(theirs)


def test_an_answer_that_takes_long_is_told_of_and_ends_the_search_in_the_end() -> None:
    joining = Joining("a:1")
    assert joining.begin(0.0) == ["joining the Ray cluster at a:1 ..."]
    assert joining.begin(1.0) == []
    assert joining.look(9.9) == []
    assert joining.look_at_s() == 10.0
    assert "has not answered for 10 s" in joining.look(10.0)[0]
    assert joining.look(11.0) == []
    assert joining.look_at_s() == 90.0
    assert joining.look(90.0) == []
    assert "did not answer within 90 s" in str(joining.failure)
    assert joining.look_at_s() is None


def test_a_machine_that_is_part_of_no_cluster_is_told_what_to_do() -> None:
    joining = Joining("auto")
    assert joining.begin(0.0) == ["joining the Ray cluster of this machine ..."]
    assert joining.why_none() == "joining the Ray of this machine"
    joining.hear({"at": "refused", "words": "Could not find any running Ray instance. Please specify"}, 0.0)
    assert "--ray-address local. Then start" in str(joining.failure)


def report_of(searches: Searches) -> str:
    waits = json.loads(searches.command("report", "--json", str(searches.study)).out)["waiting"]
    return "" if waits is None else str(waits["why"])


def test_a_search_says_what_it_joins_and_is_ended_at_once_meanwhile(searches: Searches) -> None:
    pytest.importorskip("ray", reason="no Ray in this environment: pip install '.[ray]'")
    searches.write(script())
    words = [sys.executable, "-c", PATIENT, "--on", "ray", "--guide", "none", str(searches.path)]
    with listening() as address:
        search = searches.start_argv([*words, "--ray-address", address])
        assert search.stdout is not None
        line = next(line for line in search.stdout if "joining" in line)
        assert line == f"joining the Ray cluster at {address} ...\n"
        until(lambda: f"joining Ray at {address}" in report_of(searches), "the report to say so")
        search.send_signal(signal.SIGTERM)
        assert searches.wait(search).exit_code == 130
    with nobody() as address:
        refused = searches.wait(searches.start_argv([*words, "--ray-address", address]))
    assert refused.exit_code == 1
    assert f"cannot join Ray at {address}: nothing listens there" in refused.err
    assert not (Path(searches.study) / "ray" / "cluster.json").exists()
