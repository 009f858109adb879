"""How slots of a search that is gone are ended where nodes share no files; Ray's side is played."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperband.errors import MachineError
from hyperband.launch.base import Ending
from hyperband.launch.ray import end as ray_end
from hyperband.launch.ray.end import UnfetchedError, end_slots
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.words import Join
from hyperband.launch.remote.carrier import Carrier
from hyperband.study import rest
from hyperband.study.rest import end_held


class Side:
    """Ray's side of a study, which answers what is said to it; takes the place of a line to it."""

    def __init__(self, answers: Mapping[str, list[dict[str, Any]]]) -> None:
        self.said: list[dict[str, Any]] = []
        self._answers = answers
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._to_hear: list[dict[str, Any]] = []
        self.is_open = True
        self.log = Path("/study/ray/bridge.log")

    def fileno(self) -> int:
        return self._ours.fileno()

    def open(self, join: Join, environment: Mapping[str, str]) -> None:  # noqa: ARG002
        self._play("open")

    def say(self, words: dict[str, Any]) -> bool:
        self.said.append(words)
        self._play(words["op"])
        return True

    def heard(self) -> list[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(1 << 10)
        heard, self._to_hear = self._to_hear, []
        return heard

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def _play(self, what: str) -> None:
        self._to_hear += self._answers.get(what, [])
        self._theirs.send(b".")


def a_study(folder: Path, *, with_attempt: bool) -> Path:
    RayFiles(folder, address="a:1", token=None, environ={}, files="sent")
    if with_attempt:
        job = folder / "jobs" / "000000-0"
        job.mkdir(parents=True)
        (job / "order.json").write_text(json.dumps({"attempt": "A", "lease_s": 60, "grace_s": 0.1}))
        Carrier(label="m2:gpu0/one").write(job)
    return folder


FOUND: list[dict[str, Any]] = [{"at": "joined"}, {"at": "found", "keys": ["one", "two"]}]
ONE = {"at": "slot", "key": "one", "attempt": "A", "folder": "/old/jobs/000000-0"}
ENDED = [{"at": "ended", "n": 2}]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_GREET_S", "_MEET_S", "_FETCH_S"):
        monkeypatch.setattr(ray_end, name, 0.1)


def ended(
    monkeypatch: pytest.MonkeyPatch,
    study: Path,
    side: Side,
    *,
    gives_up: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    with contextlib.closing(side):
        monkeypatch.setattr(ray_end, "RayLink", lambda _: side)
        return end_slots(study, gives_up=gives_up, say=say)


def test_what_ran_is_asked_to_stop_and_fetched_before_slots_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the other one is being made still, and has nothing
    side = Side({"open": [*FOUND, ONE], "tell": [{"at": "over", "attempt": "A", "said": ""}], "end": ENDED})
    assert ended(monkeypatch, a_study(tmp_path, with_attempt=True), side) == 2
    assert [words["op"] for words in side.said] == ["tell", "end"]
    assert side.said[0]["line"] == "stop"
    assert not (tmp_path / "ray" / "cluster.json").exists()


def test_what_cannot_be_fetched_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side({"open": [*FOUND, ONE], "end": ENDED})
    with pytest.raises(UnfetchedError, match=r"1 job left .* not handed over.* run the same command again"):
        ended(monkeypatch, a_study(tmp_path, with_attempt=True), side)
    assert [words["op"] for words in side.said] == ["tell", "end"]
    assert side.said[1]["but"] == ["one"]
    assert (tmp_path / "ray" / "cluster.json").exists()


def test_a_slot_that_says_nothing_and_may_have_something_is_left_unless_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, said = a_study(tmp_path, with_attempt=True), list[str]()
    other = {"at": "slot", "key": "two", "attempt": "", "folder": ""}
    side = Side({"open": [*FOUND, other], "end": ENDED})
    with pytest.raises(UnfetchedError, match=r"nothing is heard of m2:gpu0/one\. .* --give-up"):
        ended(monkeypatch, study, side, say=said.append)
    assert side.said == [{"op": "end", "but": ["one"]}]
    assert [words.partition(",")[0] for words in said] == ["Waiting for m2:gpu0/one"]
    assert (tmp_path / "ray" / "cluster.json").exists()
    side = Side({"open": [*FOUND, other], "end": ENDED})
    assert ended(monkeypatch, study, side, gives_up=True) == 2
    assert side.said == [{"op": "end", "but": []}]


def test_nothing_is_ended_while_ray_does_not_say_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_end, "_END_S", 0.1)
    side = Side({"open": [{"at": "joined"}], "end": ENDED})
    with pytest.raises(MachineError, match="did not answer"):
        ended(monkeypatch, a_study(tmp_path, with_attempt=True), side)
    assert side.said == []


def test_what_goes_with_its_slot_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_end, "_FETCH_S", 60.0)
    gone = {"at": "gone", "key": "one", "words": "it died"}
    side = Side({"open": [*FOUND, ONE], "tell": [gone], "end": ENDED})
    assert ended(monkeypatch, a_study(tmp_path, with_attempt=True), side) == 2


def test_a_job_whose_end_is_told_a_moment_early_counts_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = a_study(tmp_path, with_attempt=True)
    endings = [None, Ending(0, None, 1.0, 2.0, (), "")]
    with open_eventfd() as told:
        job = SimpleNamespace(fileno=lambda: told)
        launcher = SimpleNamespace(
            knows=lambda _: True,
            adopt=lambda *_: job,
            stop=lambda *_: None,
            finish=lambda _: endings.pop(0),
            close=lambda: None,
        )
        monkeypatch.setattr(rest, "launchers_of_rest", lambda *_: (launcher,))
        monkeypatch.setattr(rest, "_end_sent", lambda *_, **__: [])
        found = rest.end_living_jobs(study, 0)
    assert (found.n_ended, found.n_fetched) == (0, 1)


@contextlib.contextmanager
def open_eventfd() -> Iterator[int]:
    """A descriptor that is readable."""
    descriptor = os.eventfd(1)
    yield descriptor
    os.close(descriptor)


def test_a_cluster_that_is_gone_for_good_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_end, "_END_S", 0.1)
    study, refused = a_study(tmp_path, with_attempt=True), {"open": [{"at": "refused", "words": "no host a"}]}
    with pytest.raises(MachineError, match=r"a:1, .* end what is held .*stop --give-up"):
        RayFiles(study, address="b:1", token=None, environ={}, files="sent")
    for gives_up in (False, True):
        side = Side(refused)
        monkeypatch.setattr(ray_end, "RayLink", lambda _, side=side: side)
        said: list[str] = []
        with contextlib.closing(side), contextlib.ExitStack() as stack:
            if not gives_up:
                stack.enter_context(pytest.raises(MachineError, match=r"no host a.* stop --give-up"))
            assert end_held(study, gives_up=gives_up, say=said.append) == []
        assert (study / "ray" / "cluster.json").exists() != gives_up
        assert bool(said) == gives_up
    assert RayFiles(study, address="b:1", token=None, environ={}, files="sent").is_new


def test_slots_that_are_being_made_are_ended_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_end, "_MEET_S", 60.0)
    side = Side({"open": FOUND, "end": ENDED})
    assert ended(monkeypatch, a_study(tmp_path, with_attempt=False), side) == 2
