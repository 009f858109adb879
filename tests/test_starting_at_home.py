"""A trial whose checkpoint is on one machine waits for a slot there, but not for ever."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from hyperband.launch.base import Lease, Slot, Wish
from hyperband.search.trial import Start
from hyperband.study import starting
from hyperband.study.starting import Starting


class Engine:
    """Some jobs that may start, in order."""

    n_running = 0

    def __init__(self, *trials: int) -> None:
        self.left = [
            Start(job, 0, trial, f"x:{trial}", 0, 0, 3, False, False, (), False)
            for job, trial in enumerate(trials)
        ]

    def starts(self) -> list[Start]:
        return list(self.left)

    def next_start(self) -> Start | None:
        return self.left[0] if self.left else None

    def wants_id(self, *, past_retries: bool = False) -> bool:  # noqa: ARG002
        return False

    def running(self) -> list[Any]:
        return []

    def handle(self, event: Any) -> list[Any]:  # noqa: ANN401 (whatever happened)
        self.left = [start for start in self.left if start.job != event.job]
        return []


class Slots:
    """Some slots, by name, and which of them are free."""

    def __init__(self, *free: str) -> None:
        self.all = ("m1:cpu/a", "m1:cpu/b", "m2:cpu/c")
        self.free = set(free)

    def names(self) -> tuple[str, ...]:
        return self.all

    def n_slots(self) -> int:
        return len(self.all)

    def take(self, wish: Wish) -> Lease | None:
        for name in sorted(self.free - wish.avoid):
            self.free.remove(name)
            return Lease(Slot(name, (), {}), ())
        return None

    def release(self, lease: Lease) -> None:
        self.free.add(lease.slot.name)

    def next_look_s(self) -> float | None:
        return None


class Anything:
    """Whatever else a start asks, it says nothing."""

    jobs_per_gpu = 1
    multi_gpu = False
    can_propose = False
    quarantined: dict[str, float] = {}  # noqa: RUF012 (never changed)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found: dict[str, Any] = {"held_back": {}, "why_full": None, "script_sha256": "0" * 64}
        return lambda *_: found.get(name)


def a_start(engine: Engine, slots: Slots, homes: dict[int, frozenset[str]]) -> Starting:
    anything = cast(Any, Anything())
    return Starting(
        settings=anything,
        engine=cast(Any, engine),
        slots=cast(Any, slots),
        ids=anything,
        files=anything,
        health=anything,
        packing=anything,
        disk=anything,
        expected_s=None,
        near=homes.get,
    )


def started(one: Starting) -> dict[int, str]:
    return {chosen.start.trial: chosen.lease.slot.name for chosen in one.choose()}


M1 = frozenset({"m1:cpu/a", "m1:cpu/b"})


def test_a_trial_starts_at_home_and_others_wherever_there_is_room() -> None:
    slots = Slots("m1:cpu/b", "m2:cpu/c")
    assert started(a_start(Engine(7, 8), slots, {8: M1})) == {7: "m1:cpu/b"}
    assert started(a_start(Engine(7, 8), Slots("m1:cpu/b", "m2:cpu/c"), {7: M1})) == {
        7: "m1:cpu/b",
        8: "m2:cpu/c",
    }


def test_a_trial_waits_for_its_home_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    slots = Slots()
    one = a_start(Engine(7), slots, {7: M1})
    assert started(one) == {}
    look_at_s = one.look_at_s
    assert look_at_s is None, "nothing is free anywhere: it does not wait for home yet"
    now_s += 1000
    slots.free.add("m2:cpu/c")
    assert started(one) == {}
    assert slots.free == {"m2:cpu/c"}
    assert one.look_at_s == now_s + starting.HOME_S
    now_s += starting.HOME_S
    assert started(one) == {7: "m2:cpu/c"}


def test_a_home_whose_slots_are_being_made_is_waited_for_and_others_start_meanwhile() -> None:
    homes = {7: frozenset[str]()}
    slots = Slots("m2:cpu/c")
    one = a_start(Engine(7, 8), slots, homes)
    assert started(one) == {8: "m2:cpu/c"}
    slots.free.add("m2:cpu/c")
    assert started(one) == {}
    del homes[7]
    assert started(one) == {7: "m2:cpu/c"}, "they will not come any more"


def test_a_home_without_slots_is_not_waited_for() -> None:
    assert started(a_start(Engine(7), Slots("m2:cpu/c"), {})) == {7: "m2:cpu/c"}
