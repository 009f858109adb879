"""What a slot of a Ray cluster takes, how many there is room for, and Ray's words in a line."""

import pytest

from hyperband.errors import UsageError
from hyperband.launch.ray.words import (
    check_address,
    end_of,
    n_slots_of,
    read_resources,
    room_by_name,
    said_by_ray,
    slot_resources,
    with_gpus,
)


def test_a_slot_is_a_gpu_where_there_are_any_and_else_a_core() -> None:
    assert slot_resources((), 1) == {}
    assert with_gpus({}, has_gpus=True) == {"GPU": 1.0}
    assert with_gpus({}, has_gpus=False) == {"GPU": 0.0, "CPU": 1.0}
    assert with_gpus({"CPU": 2.0}, has_gpus=True) == {"GPU": 1.0, "CPU": 2.0}
    assert with_gpus({"GPU": 0.0}, has_gpus=True) == {"GPU": 0.0, "CPU": 1.0}


def test_said_of_gpus_nothing_is_asked_of_the_cluster() -> None:
    assert slot_resources(("GPU=0", "CPU=2"), 1) == {"GPU": 0.0, "CPU": 2.0}
    assert slot_resources((), 3) == {"GPU": 0.3333}
    assert slot_resources(("accelerator_type:A100=0.001",), 1) == {"accelerator_type:A100": 0.001}


@pytest.mark.parametrize("word", ["GPU", "GPU=", "=1", "GPU=x", "GPU=-1", "GPU=inf", "GPU=nan", "a b=1"])
def test_what_is_no_resource_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=AMOUNT"):
        read_resources((word,))


@pytest.mark.parametrize(("word", "why"), [("x=0.0001", "at the least"), ("GPU=1.5", "whole numbers")])
def test_amounts_that_ray_does_not_give_are_refused(word: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_resources((word,))


def test_two_words_on_the_same_gpu_are_refused() -> None:
    with pytest.raises(UsageError, match="leave one of the two out"):
        slot_resources(("GPU=2",), 2)
    with pytest.raises(UsageError, match="memory is not measured"):
        slot_resources((), None)


@pytest.mark.parametrize("n_jobs", range(1, 33))
def test_as_many_slots_as_jobs_fit_on_a_gpu(n_jobs: int) -> None:
    takes = with_gpus(slot_resources((f"GPU={1:g}",), n_jobs), has_gpus=True)
    assert n_slots_of({"GPU": 2.0, "CPU": 8.0}, takes) == 2 * n_jobs


def test_room_is_what_is_scarcest() -> None:
    assert n_slots_of({"GPU": 4.0, "CPU": 6.0}, {"GPU": 1.0, "CPU": 2.0}) == 3
    assert n_slots_of({"CPU": 6.0}, {"GPU": 1.0}) == 0
    assert n_slots_of({"GPU": 2.0}, {"GPU": 0.4}) == 4, "two on each: a part is of one GPU"
    assert n_slots_of({"GPU": 2.0, "CPU": 4.0}, {"GPU": 0.0, "CPU": 1.0}) == 4
    # machines made from one image may have one name
    nodes = [(name, {"GPU": n_gpus}) for name, n_gpus in (("a", 2.0), ("ubuntu", 4.0), ("ubuntu", 3.0))]
    assert room_by_name(nodes, {"GPU": 1.0}) == {"a": 2, "ubuntu": 7}


@pytest.mark.parametrize("address", ["auto", "local", "10.0.0.1:6379", "head:26379", "[::1]:6379"])
def test_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address", ["", "here", "head", "ray://head:10001", "head:0", "head:70000", ":6379", "a/b:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        check_address(address)


def test_words_of_ray_are_one_line_without_colours() -> None:
    assert said_by_ray(RuntimeError("\x1b[36mray::f()\x1b[39m\n  it broke\n")) == "ray::f() it broke"
    assert said_by_ray(TimeoutError()) == "TimeoutError"
    assert len(said_by_ray(ValueError("x" * 5000))) <= 400


def test_of_long_words_the_end_is_told_from_the_beginning_of_one() -> None:
    assert end_of("it broke\n here.\n", 40) == "it broke here"
    assert end_of("a" * 50 + " the reason", 20) == "... the reason"
