"""On which nodes slots may come yet, and to which slots a checkpoint on a node is near; without Ray."""

from pathlib import Path
from typing import Any, cast

import pytest

from hyperband.launch.base import Slot
from hyperband.launch.ray.coming import COMING_S, Coming
from hyperband.launch.ray.slots import RaySlots
from hyperband.study import ray_grounds
from hyperband.study.ray_grounds import RayGrounds

NODES = {"m1": 2, "m2": 2, "m3": 0}


def asked(n_wanted: int, n_there: int = 0) -> Coming:
    """A cluster that was joined a moment ago, and asked for slots."""
    coming = Coming()
    coming.note_joined(0.0)
    coming.note_nodes(NODES)
    coming.look(n_wanted, n_there, 0.0)
    return coming


def test_slots_may_come_until_as_many_are_there_as_were_asked_for() -> None:
    coming = asked(9)
    assert coming.may_come("m2", 3)
    assert not coming.may_come("m2", 4), "there is no room for more"
    assert not asked(2).may_come("m2", 2)
    assert not Coming().may_come("m2", 0), "nothing was asked for"


def test_they_do_not_come_from_a_node_that_is_gone_or_has_no_room() -> None:
    coming = asked(9, 1)
    assert not coming.may_come("m3", 1)
    coming.note_nodes({"m1": 2})
    assert not coming.may_come("m2", 1)


def test_before_it_is_known_which_nodes_there_are_all_may_come() -> None:
    coming = Coming()
    coming.note_joined(0.0)
    assert coming.may_come("m2", 1)
    coming.look(1, 0, 0.0)
    assert coming.may_come("m2", 1), "more will be asked for"
    coming.note_nodes(NODES)
    assert coming.may_come("m2", 1)
    assert not coming.may_come("m3", 1)


def test_they_are_counted_on_for_a_while_after_the_last_one_came() -> None:
    coming = asked(9)
    coming.look(9, 2, COMING_S - 1)
    for now_s, expected in ((COMING_S, True), (2 * COMING_S - 2, True), (2 * COMING_S - 1, False)):
        coming.settle(now_s)
        coming.look(9, 2, now_s)
        assert coming.may_come("m2", 2) is expected
    assert coming.over_in_s(0.0) is None
    # others gave back what they had
    coming.look(9, 3, 1000.0)
    assert coming.may_come("m2", 3)
    # and later one is missed that was there
    coming.look(9, 4, 1000.0)
    coming.settle(1000.0)
    coming.look(9, 4, 1000.0)
    coming.look(9, 3, 2000.0)
    assert coming.may_come("m2", 3)


def test_when_no_more_are_wanted_there_is_one_more_turn_for_what_waited() -> None:
    coming = asked(4)
    assert coming.over_in_s(10.0) == COMING_S - 10.0
    coming.look(3, 3, 20.0)
    assert coming.over_in_s(20.0) == 0.0
    coming.settle(20.0)
    coming.look(3, 3, 20.0)
    assert coming.over_in_s(20.0) is None


def test_right_after_joining_a_checkpoint_is_near_to_slots_that_come_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_grounds, "host_of", lambda folder: folder.name)
    slots = RaySlots("a:1", {}, token=None, max_slots=None)
    grounds = cast(Any, RayGrounds.__new__(RayGrounds))
    grounds._slots, grounds._hosts = slots, {}
    grounds._sent = type("Sent", (), {"stays_on_nodes": True})()
    assert grounds.near(None) is None
    assert grounds.near(tmp_path / "m2") is None, "it was not joined yet: nothing is known"
    joined = {"version": "2", "address": "a:1", "resources": {"CPU": 1.0}, "has_token": True}
    slots._hear({"at": "joined", **joined})
    assert grounds.near(Path()) is None, "it has no checkpoint"
    assert grounds.near(tmp_path / "m2") == frozenset()
    slots._hear({"at": "capacity", "n_slots": 4, "n_nodes": 3, "n_on": NODES})
    slots._coming.look(9, 0, 0.0)
    slots._holdings.note_slot("a", Slot("m1:cpu/a", (), {}), "", 0.0)
    assert grounds.near(tmp_path / "m2") == frozenset()
    assert grounds.near(tmp_path / "m3") is None
    slots._holdings.note_slot("b", Slot("m2:cpu/b", (), {}), "", 0.0)
    assert grounds.near(tmp_path / "m2") == {"m2:cpu/b"}
