"""Whether a search is in its Ray cluster, which slots it has, and whose fault an error is; without Ray."""

import contextlib
import fcntl
import importlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperband.errors import InternalError, MachineError
from hyperband.launch.base import NO_WISH, Lease, Order, Slot
from hyperband.launch.ray import driver as ray_driver
from hyperband.launch.ray import slots as ray_slots
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.holdings import IDLE_S, Holdings
from hyperband.launch.ray.joining import Joining
from hyperband.launch.ray.laying import Laying
from hyperband.launch.ray.link import RayLink, bridge_environment
from hyperband.launch.ray.sent import Layout, SentCarriers, SentLauncher
from hyperband.launch.ray.slots import RaySlots
from hyperband.launch.ray.sync import Sync
from hyperband.launch.ray.words import (
    KEEPALIVE_MS,
    Join,
    means_other_version,
    said_by_ray,
    slot_of,
    slot_resources,
    warnings_of,
)
from hyperband.launch.remote.files import Sight, read_ending
from hyperband.machine.claim import write_lease
from hyperband.machine.process import wait_for_end
from hyperband.settings import On, Settings
from hyperband.study.ray_grounds import RayGrounds

#: how Ray begins to say it
LOW_MEMORY = "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1"
JOINED = {"at": "joined", "version": "2.60.0", "address": "a:1", "resources": {"GPU": 1.0}, "has_token": True}


def joined() -> Joining:
    joining = Joining("a:1")
    joining.hear(JOINED, 0.0)
    return joining


def test_the_first_time_a_cluster_that_cannot_be_joined_ends_the_search() -> None:
    joining = Joining("a:1")
    joining.hear({"at": "refused", "words": "Failed to connect"}, 0.0)
    assert isinstance(joining.failure, MachineError)
    assert "cannot join Ray at a:1: Failed to connect" in str(joining.failure)
    assert joining.close(0.0) == []
    assert not joining.is_due(100.0)


def test_later_it_is_tried_again_with_growing_pauses() -> None:
    joining = joined()
    now_s = 0.0
    for pause_s in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        joining.hear({"at": "refused", "words": "nobody is there"}, now_s)
        (news,) = joining.close(now_s)
        assert f"joins again in {pause_s:g} s" in news
        assert not joining.is_due(now_s + pause_s - 0.01)
        now_s += pause_s
        assert joining.is_due(now_s)
        assert not joining.is_due(now_s), "once"
    assert joining.failure is None
    assert "nobody is there" in joining.why_none()
    assert "again" in joining.hear(JOINED, now_s)[0]
    assert "in 1 s" in joining.close(now_s)[0]


def test_another_version_ends_the_search_also_later() -> None:
    words = "Version mismatch: The cluster was started with: Ray: 2.59.0 Python: 3.11.7"
    assert means_other_version(words)
    joining = joined()
    joining.hear({"at": "refused", "words": words}, 0.0)
    assert "of another version than ours: Version mismatch" in str(joining.failure)


def test_an_error_of_ours_ends_the_search_and_asks_for_a_report() -> None:
    joining = joined()
    joining.log = "the-log"
    joining.hear({"at": "failed", "is_ours": True, "words": "KeyError: 'key'"}, 0.0)
    assert isinstance(joining.failure, InternalError)
    assert "the-log: please report it" in str(joining.failure)


def test_what_is_no_error_of_ours_may_fail_often_but_not_in_the_same_way_soon_after_each_joining() -> None:
    failed = {"at": "failed", "is_ours": False, "words": "no such method"}
    joining = joined()
    for n in range(20):
        joining.hear(JOINED, 1000.0 * n)
        joining.hear(failed, 1000.0 * n + 100)
        joining.hear({**failed, "words": f"another {n}"}, 1000.0 * n + 100)
    assert joining.failure is None
    for n in range(5):
        assert joining.failure is None, n
        joining.hear(JOINED, 100_000.0 + n)
        joining.hear(failed, 100_000.5 + n)
    assert "5 times in the same way" in str(joining.failure)


def test_without_a_token_it_is_warned_once() -> None:
    joining = Joining("a:1")
    assert "asks for no token" in joining.hear({**JOINED, "has_token": False}, 0.0)[1]
    assert len(joining.hear({**JOINED, "has_token": False}, 1.0)) == 1


def test_whose_fault_an_error_is_its_innermost_frame_says() -> None:
    def failure(what: str) -> dict[str, object]:
        try:
            if what == "in our folder":
                slot_of({}, {}, ())
            elif what == "elsewhere":
                json.loads("{")
            else:
                raise ConnectionError("no head")
        except Exception as err:  # noqa: BLE001 (all kinds)
            return ray_driver.failure_of(err)
        raise AssertionError

    assert failure("in our folder")["is_ours"]
    assert not failure("elsewhere")["is_ours"]
    assert not failure("Ray's")["is_ours"]
    assert ray_driver.failure_of(ImportError("no module named ray"))["is_ours"]


def test_a_token_that_was_given_is_the_one_that_counts() -> None:
    environment = bridge_environment({"RAY_AUTH_TOKEN": "another"}, Path("/a"))
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment["RAY_AUTH_TOKEN_PATH"] == "/a"
    assert bridge_environment({"RAY_AUTH_TOKEN": "mine"}, None)["RAY_AUTH_TOKEN"] == "mine"


def test_what_ray_says_of_tokens_is_told() -> None:
    error = ConnectionError("Failed to connect to a:1")
    error.__cause__ = RuntimeError(
        "x\nray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing "
        "or incorrect. Ensure that"
    )
    said = said_by_ray(error)
    assert said == "Failed to connect to a:1 (InvalidAuthToken: Authentication token is missing or incorrect)"
    # it answered, so it runs; its own words for where it is are not the user's
    for token, told in (
        (None, "it runs, and asks for a token; give the file that .*, with --ray-token FILE"),
        (Path("/my.token"), "it runs, but the token of --ray-token is not the one it has: /my.token; give "),
    ):
        joining = Joining("b:1", token)
        joining.hear({"at": "refused", "words": said}, 0.0)
        assert re.match(f"cannot join Ray at b:1: {told}", str(joining.failure))
        assert "a:1" not in str(joining.failure)


# Slots.


def holding(*names: str, max_slots: int | None = None) -> Holdings:
    holdings = Holdings(max_slots)
    for name in names:
        holdings.note_slot(f"key-{name}", Slot(name, (), {}), "", 0.0)
    return holdings


def test_a_slot_is_leased_once_and_not_beyond_the_most() -> None:
    holdings = holding("a", "b", "c", max_slots=2)
    leases = [holdings.take(NO_WISH, 0.0) for _ in range(3)]
    assert [lease and lease.slot.name for lease in leases] == ["a", "b", None]
    assert holdings.n_wanted(5) == 2


def test_a_slot_that_is_gone_loses_its_job_and_one_without_a_job_loses_nothing() -> None:
    holdings = holding("a", "b")
    holdings.take(NO_WISH, 0.0)
    assert holdings.note_gone("key-b", "it ended") == "b"
    assert holdings.take_lost() == []
    assert holdings.note_gone("key-a", "it ended") == "a"
    assert holdings.take_lost() == [("a", "its slot is gone from Ray: it ended")]


def test_slots_of_an_earlier_search_that_are_not_found_again_lose_their_jobs() -> None:
    holdings = Holdings(None)
    for name in "abc":
        holdings.adopt(name)
    holdings.note_found(["key-a", "key-b"])
    holdings.note_slot("key-a", Slot("a", (), {}), "attempt of a", 0.0)
    assert holdings.take_lost() == [], "b may be met yet"
    holdings.note_slot("key-b", Slot("b", (), {}), "", 0.0)
    assert [name for name, _ in holdings.take_lost()] == ["b", "c"]


def test_slots_that_were_met_before_all_were_found_are_not_waited_for() -> None:
    holdings = Holdings(None)
    for name in "abc":
        holdings.adopt(name)
    # one answers while others are still being looked for
    holdings.note_slot("key-a", Slot("a", (), {}), "attempt of a", 0.0)
    holdings.note_found(["key-a", "key-b"])
    assert holdings.take_lost() == [], "b may be met yet"
    holdings.note_slot("key-b", Slot("b", (), {}), "attempt of b", 0.0)
    assert [name for name, _ in holdings.take_lost()] == ["c"]


def test_a_slot_whose_job_was_ended_with_it_takes_no_other() -> None:
    holdings = holding("a")
    assert holdings.drop("a") == "key-a"
    assert holdings.take(NO_WISH, 0.0) is None
    assert holdings.note_gone("key-a", "it ended") is None
    assert holdings.drop("a") is None


def test_an_idle_slot_is_given_back_after_a_while() -> None:
    holdings = holding("a", "b")
    holdings.take(NO_WISH, 0.0)
    assert holdings.surplus_in_s(10.0) == IDLE_S - 10.0
    assert holdings.give_up_surplus(IDLE_S - 0.1) == []
    assert [held.slot.name for held in holdings.give_up_surplus(IDLE_S)] == ["b"]
    assert holdings.surplus_in_s(100.0) is None


def test_what_an_earlier_start_held_beyond_the_most_is_given_back_when_it_is_idle() -> None:
    holdings = Holdings(2)
    holdings.adopt("b")
    holdings.note_found(["key-a", "key-b", "key-c"])
    for name, attempt in (("a", "of before"), ("b", "of b")):
        holdings.note_slot(f"key-{name}", Slot(name, (), {}), attempt, 0.0)
    holdings.note_slot("key-c", Slot("c", (), {}), "", 0.0)
    assert [held.slot.name for held in holdings.give_up_beyond()] == ["c"]
    assert holdings.names() == ("a", "b")
    assert holdings.give_up_beyond() == []
    beyond = holding("a", "b", max_slots=1)
    beyond.take(NO_WISH, 0.0)
    assert [held.slot.name for held in beyond.give_up_beyond()] == ["b"]
    assert holding("a", "b").give_up_beyond() == []


def test_starts_that_fail_in_a_slot_that_stays_hold_it_back_and_are_told_in_the_end() -> None:
    holdings = holding("a")
    now_s = 0.0
    for n in range(4):
        fault = holdings.note_failed_start("a", "no python", now_s)
        assert (fault is None) == (n < 3)
        assert holdings.take(NO_WISH, now_s) is None
        now_s += holdings.held_back_s(now_s) or 0.0
    assert fault == "no python"
    assert holdings.take(NO_WISH, now_s) is not None


ABOUT = {"name": "m1:gpu0/k", "host": "m1", "gpus": "0", "n_cpus": 8, "n_on_node": 2}


@pytest.mark.parametrize(
    ("about", "takes", "expected"),
    [
        ({}, {"GPU": 1.0}, (("--gpu", "0"), {"T": "4"})),
        ({}, {"GPU": 1.0, "CPU": 3.0}, (("--gpu", "0"), {"T": "3"})),
        ({"gpus": "0,1"}, {"GPU": 2.0}, (("--multi_gpu",), {"T": "4"})),
        ({"gpus": ""}, {"GPU": 0.0, "CPU": 1.0}, (("--gpu", "0"), {"CUDA_VISIBLE_DEVICES": "", "T": "4"})),
        ({"n_on_node": 99}, {"GPU": 0.1}, (("--gpu", "0"), {"T": "1"})),
    ],
)
def test_what_a_job_gets_at_a_slot(
    about: dict[str, object], takes: dict[str, float], expected: tuple[tuple[str, ...], dict[str, str]]
) -> None:
    slot = slot_of({**ABOUT, **about}, takes, ("T",))
    assert (slot.arguments, slot.environment) == expected


def test_a_node_that_was_started_without_care_is_warned_of() -> None:
    assert warnings_of({"host": "m1", "has_keepalive": True, "nice": 0, "has_token": True}) == []
    token, without, nice = warnings_of({"host": "m1", "has_keepalive": False, "nice": 15, "has_token": False})
    assert "RAY_AUTH_MODE=token" in token
    assert f"RAY_grpc_client_keepalive_time_ms={KEEPALIVE_MS}" in without
    assert "RAY_worker_niceness=0" in nice
    # the niceness of a Ray that the search started is the user's own
    ours = {"host": "m1", "has_keepalive": True, "nice": 10, "has_token": True}
    assert warnings_of(ours, is_ours=True) == []


class Job:
    """A slot as what fetches from it sees it: a job that has ended, and whose result is kept there."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.sync = self.forget = self

    def remote(self, *_: object) -> dict[str, object] | Exception:
        self.n_asked += 1
        if self.n_asked == 1:
            return RuntimeError("Ray's object store is full")
        parts = {"stdout": b"1\n", "stderr": b""}
        return {"parts": parts, "keeper": b"", "n_answers": 1, "age_s": 0.0, "result": {}, "has_more": False}


def test_what_cannot_be_laid_down_here_is_asked_for_again_after_a_pause(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"attempt": "A", "lease_s": 60}')
    (tmp_path / "stdout").mkdir()
    job = Job()
    said: list[str] = []
    later: list[tuple[float, Callable[[], None]]] = []
    is_wanted = [True, True, True]
    Sync(
        job,
        Laying(tmp_path, "A"),
        lambda answer, call: call(None, answer) if isinstance(answer, Exception) else call(answer, None),
        lambda wait_s, call: later.append((wait_s, call)),
        said.append,
        lambda: bool(is_wanted) and is_wanted.pop(),
    ).begin()
    assert job.n_asked == 1
    # also where the slot is there and could not answer, or its answer was lost on its way
    later.pop()[1]()
    assert job.n_asked == 2
    ((wait_s, again),) = later
    assert wait_s > 0
    (tmp_path / "stdout").rmdir()
    again()
    assert said == [""]
    # but not of a slot that is gone, or was met again
    n_asked = job.n_asked
    again()
    assert job.n_asked == n_asked
    assert (tmp_path / "stdout").read_text() == "1\n"


def test_what_a_slot_knows_nothing_of_is_lost_at_once_where_no_files_are_shared(tmp_path: Path) -> None:
    slots = RaySlots("a:1", {}, token=None, max_slots=None)
    carriers = SentCarriers(slots, Layout("train.py", ".", None, None, None), study="study")
    launcher = SentLauncher(slots, carriers, cwd=tmp_path, grace_s=1.0)
    (tmp_path / "job").mkdir()
    order = Order(tmp_path / "job", ("/bin/python", "/train.py", "x"), {})
    with contextlib.closing(launcher):
        job = launcher.start(order, Lease(Slot("m1:cpu/k", (), {}), ()))
        slots._hear({"at": "over", "attempt": job.attempt, "said": "nothing of it is at its slot any more"})
        launcher.heed()
        while (ending := launcher.finish(job)) is None:  # it is told of a moment before it is over
            assert wait_for_end(job.fileno(), 60.0)
    assert ending.exit_status is None


def test_the_time_of_a_job_begins_when_its_checkpoint_is_there(tmp_path: Path) -> None:
    slots = RaySlots("a:1", {}, token=None, max_slots=None)
    carriers = SentCarriers(slots, Layout("train.py", ".", None, None, None), study="study")
    launcher = SentLauncher(slots, carriers, cwd=tmp_path, grace_s=1.0)
    (tmp_path / "job").mkdir()
    order = Order(tmp_path / "job", ("/bin/python", "/train.py", "x"), {})
    with contextlib.closing(launcher):
        job = launcher.start(order, Lease(Slot("m1:cpu/k", (), {}), ()))
        for age_s in (0.0, 7.0):
            write_lease(str(job.folder), 1, age_s)
            job.saw(Sight.of(job.folder, job.attempt), time.monotonic())
            assert job.has_begun == (age_s > 0)
            assert job.running_s() >= age_s
            assert age_s > 0 or job.running_s() == 0.0


@pytest.mark.parametrize(("why", "is_accident"), [("The actor died", True), (LOW_MEMORY, False)])
def test_a_slot_that_ray_ended_for_want_of_memory_was_no_accident(
    tmp_path: Path, why: str, is_accident: bool
) -> None:
    slots = RaySlots("a:1", {}, token=None, max_slots=None)
    carriers = SentCarriers(slots, Layout("train.py", ".", None, None, None), study="study")
    launcher = SentLauncher(slots, carriers, cwd=tmp_path, grace_s=1.0)
    (tmp_path / "job").mkdir()
    order = Order(tmp_path / "job", ("/bin/python", "/train.py", "x"), {})
    with contextlib.closing(launcher):
        job = launcher.start(order, Lease(Slot("m1:cpu/k", (), {}), ()))
        slots._holdings._lost.append(("m1:cpu/k", f"its slot is gone from Ray: {why}"))
        launcher.heed()
        while (ending := launcher.finish(job)) is None:  # it is told of a moment before it is over
            assert wait_for_end(job.fileno(), 60.0)
    assert (ending.exit_status, ending.was_taken_away) == (None, is_accident)


def test_a_slot_that_has_another_attempt_is_asked_which_and_the_refused_one_never_ran(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray", reason="no Ray in this environment: pip install '.[ray]'")
    ray_bridge = importlib.import_module("hyperband.launch.ray.bridge")
    task_error = importlib.import_module("ray.exceptions").RayTaskError
    folder = tmp_path / "jobs" / "000001-0"
    folder.mkdir(parents=True)
    (folder / "order.json").write_text('{"attempt": "B", "lease_s": 60}')
    (folder / "claim").write_text('{"attempt": "B", "token": "t", "by": "node", "host": "m1"}')
    about = {"host": "m1", "gpus": "", "n_cpus": 8, "has_token": False}
    asked: list[str] = []

    class Handle:
        """A slot at which an attempt began late, of which the search knows nothing."""

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (as Ray's are)
            def remote(*_: object) -> Any:  # noqa: ANN401
                asked.append(name)
                future: Future[Any] = Future()
                if name == "begin":
                    why = "Traceback:\nRuntimeError: the attempt A is here already"
                    future.set_exception(task_error("begin", why, RuntimeError("here already")))
                elif name == "about":
                    future.set_result({**about, "attempt": "A", "folder": "/x", "mark": ""})
                return SimpleNamespace(future=lambda: future)

            return SimpleNamespace(remote=remote)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        join = Join("a:1", "study", {"CPU": 1.0}, "", str(tmp_path / "ray"), {"mark": ""})
        bridge = ray_bridge.Bridge(theirs, join, b"")
        bridge._survey = SimpleNamespace(note_fit=lambda: None, n_on=lambda _: 1)
        slot = bridge._slots["k"] = ray_bridge._Slot("k", Handle())
        bridge._stay_with(slot)
        bridge._begin(slot, {"order": {}, "folder": str(folder), "attempt": "B"})
        while not bridge._calls.empty():
            bridge._calls.get()()
        os.close(bridge._wake)
        said = [json.loads(line) for line in ours.recv(1 << 16).splitlines()]
    assert read_ending(folder).never_ran
    assert [(words["at"], words["attempt"]) for words in said] == [("over", "B"), ("slot", "A")]
    assert asked.count("linger") == 1, "it was waited for already"


def test_slots_of_an_earlier_start_with_other_options_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="no Ray in this environment: pip install '.[ray]'")
    ray_bridge = importlib.import_module("hyperband.launch.ray.bridge")
    joins: list[Join] = []
    monkeypatch.setattr(RayLink, "open", lambda _, join, *__: joins.append(join))
    for jobs_per_gpu in (2, 1):
        slots = RaySlots("a:1", slot_resources((), jobs_per_gpu), token=None, max_slots=None)
        tmp_path.joinpath("study").mkdir(exist_ok=True)
        slots.open(RayFiles(tmp_path / "study", address="a:1", token=None, environ={}))
        slots.close()
    killed: list[object] = []
    monkeypatch.setattr(ray_bridge, "ray", SimpleNamespace(kill=killed.append))
    marks = {"old": joins[0].mark, "new": joins[1].mark, "of an earlier version": None}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bridge = ray_bridge.Bridge(theirs, joins[1], b"")
        bridge._survey = SimpleNamespace(note_fit=lambda: None, n_on=lambda _: 1, hurry=lambda: None)
        for key, mark in marks.items():
            about: Future[Any] = Future()
            found = {"host": "m1", "gpus": "", "n_cpus": 8, "has_token": False, "attempt": ""}
            about.set_result(found if mark is None else {**found, "mark": mark})
            waits = SimpleNamespace(remote=lambda *_: SimpleNamespace(future=Future))
            asked = SimpleNamespace(remote=lambda about=about: SimpleNamespace(future=lambda: about))
            bridge.add(key, SimpleNamespace(about=asked, linger=waits))
        while not bridge._calls.empty():
            bridge._calls.get()()
        os.close(bridge._wake)
        said = [json.loads(line) for line in ours.recv(1 << 16).splitlines()]
    assert [(words["at"], words["key"]) for words in said] == [
        ("gone", "old"),
        ("slot", "new"),
        ("gone", "of an earlier version"),
    ]
    assert len(killed) == 2


def test_two_studies_of_one_name_share_no_folder_in_a_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="no Ray in this environment: pip install '.[ray]'")
    monkeypatch.setattr(RaySlots, "open", lambda *_, **__: None)
    where: list[str] = []
    monkeypatch.setattr(SentCarriers, "__init__", lambda *_, study: where.append(study))
    for name in ("one", "two"):
        folder = tmp_path / name / "study"
        folder.mkdir(parents=True)
        (tmp_path / "train.py").touch()
        settings = Settings(
            script=tmp_path / "train.py",
            python=Path(sys.executable),
            logs=folder.parent,
            on=On.RAY,
            ray_files="sent",
        )
        with contextlib.closing(RayGrounds(settings)) as grounds:
            grounds.open(folder, 0, tmp_path)
    # the same ids are drawn by the same seed, and what one removes must not be the other's
    assert len(set(where)) == 2


class OverheardLink:
    """A line to Ray's side of which the descriptor has a high number, as in a search with many jobs."""

    is_open = True

    def __init__(self, _: Path) -> None:
        low = os.eventfd(1)
        self.descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
        os.close(low)
        self.said: list[Mapping[str, Any]] = [JOINED]

    def open(self, join: object, environment: object) -> None:
        """Be there already."""

    def fileno(self) -> int:
        return self.descriptor

    def heard(self) -> list[Mapping[str, Any]]:
        said, self.said = self.said, []
        return said

    def say(self, words: Mapping[str, Any]) -> bool:
        if words["op"] == "end":
            self.said.append({"at": "ended", "n": 0})
        return True

    def close(self) -> None:
        os.close(self.descriptor)


def test_slots_are_given_back_also_where_very_many_files_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_slots, "RayLink", OverheardLink)
    slots = RaySlots("a:1", {}, token=None, max_slots=None)
    with contextlib.closing(slots):
        slots.open(RayFiles(tmp_path, address="a:1", token=None, environ={}))
        slots.heed()
        assert slots.end() == []
