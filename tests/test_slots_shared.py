"""GPUs that are shared: by our own jobs, by others, by what an ended job left; on the stub of NVML."""

import os
import pwd
import random
import subprocess
from dataclasses import replace

import pytest
from nvml_stub import NvmlState, StubGpu, mig_uuid, uuid
from nvml_stub.cases import on_old_driver, on_stub
from test_slots import Clock, given_back, gpu_slots, made, names, process, taken

from hyperband.errors import UsageError
from hyperband.launch.base import NO_WISH, Lease, Observation, Slots, Wish
from hyperband.launch.gpu.processes import in_words
from hyperband.launch.gpu.sharing import Sharing
from hyperband.launch.gpu.slots import GpuSlots
from hyperband.machine.gpu import GpuProcess
from hyperband.settings import WhenShared

MIB = 1 << 20
GIB = 1 << 30
#: larger than any pid: as of a process that has just ended, or of the host of a container
NOBODY = (1 << 22) + 7
PACKED = Sharing(n_shares=16, is_packed=True)


def need(mib: int, **more: object) -> Wish:
    return Wish(gpu_memory_bytes=mib * MIB, **more)  # type: ignore[arg-type]


def take(slots: Slots, wish: Wish = NO_WISH) -> Lease:
    lease = slots.take(wish)
    assert lease is not None, slots.why_none()
    return lease


def mine(_pid: int) -> bool:
    return True


def two_gpus(machine: NvmlState, first_mib: int = 40000, second_mib: int = 80000) -> NvmlState:
    """GPUs of two sizes."""
    return machine.set_gpus(
        StubGpu("0000:1A:00.0", uuid(0), total_mib=first_mib),
        StubGpu("0000:3A:00.0", uuid(1), total_mib=second_mib),
    )


# ---- what a job would like of its slot -----------------------------------------------------------


@on_stub
def test_slots_to_avoid_are_never_given_and_other_gpus_come_first(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="0,1", n_shares=2)
    assert slots.names() == ("gpu:0/0", "gpu:1/0", "gpu:0/1", "gpu:1/1")
    wish = Wish(avoid=frozenset({"gpu:0/0"}))
    found = [slots.take(wish) for _ in range(4)]
    assert [lease and lease.slot.name for lease in found] == ["gpu:1/0", "gpu:1/1", "gpu:0/1", None]
    assert slots.why_none() == "gpu:0/0 must not be used for this job"
    assert slots.next_look_s() is None, "only the end of a job of ours, or of the quarantine, can help"
    assert names(slots) == ["gpu:0/0"]
    slots.validate()


@on_stub
def test_avoided_gpus_take_no_part_in_a_job_on_several(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(n_shares=2)
    lease = slots.take_all(frozenset({"gpu:2/1"}))
    assert lease is not None
    assert lease.slot.name == "gpu:0,1,3"


@on_stub
def test_a_job_that_is_to_be_alone_is(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0,1", n_shares=3, clock=clock)
    first = take(slots)
    alone = take(slots, Wish(whole=True))
    assert (first.slot.name, alone.slot.name) == ("gpu:0/0", "gpu:1/0")
    assert slots.take(Wish(whole=True)) is None
    assert slots.why_none() == (
        "GPU 0 runs 1 job, and the next one is to be alone; GPU 1 runs a job that is to be alone"
    )
    assert slots.next_look_s() is None
    assert slots.take(NO_WISH) is None, "in the same turn: others would keep it waiting for ever"
    clock.now_s += 1
    assert names(slots) == ["gpu:0/1", "gpu:0/2"], "nobody asks for a GPU of its own any more"
    slots.validate()
    given_back(slots, alone)
    assert take(slots).slot.name == "gpu:1/0"


@on_stub
def test_one_gpu_is_kept_for_a_job_that_is_to_be_alone(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0,1", n_shares=2, clock=clock)
    leases = taken(slots)
    given_back(slots, leases[0])
    given_back(slots, leases[1])
    for _ in range(5):  # turns of a search, in each of which short jobs are asked for as well
        assert slots.take(Wish(whole=True)) is None
        found = slots.take(NO_WISH)
        assert slots.take(NO_WISH) is None
        assert found is not None
        assert found.slot.name == "gpu:1/0"
        slots.validate()
        given_back(slots, found)
        clock.now_s += 1
    given_back(slots, leases[2])
    assert take(slots, Wish(whole=True)).slot.name == "gpu:0/0"
    assert names(slots) == ["gpu:1/0"]


@on_stub
def test_after_out_of_memory_the_free_gpu_with_the_most_memory(machine: NvmlState) -> None:
    two_gpus(machine)
    slots = gpu_slots(n_shares=2)
    wish = Wish(whole=True, most_memory=True)
    big = take(slots, wish)
    assert big.slot.name == "gpu:1/0"
    assert slots.take(wish) is None, "GPU 0 would not be enough again, and GPU 1 comes back"
    assert slots.next_look_s() is None
    given_back(slots, big)
    big = take(slots, wish)
    given_back(slots, big)
    with process() as pid:
        machine.claim(pid, 1)
        assert take(slots, wish).slot.name == "gpu:0/0", "others may stay for days"
        assert slots.take(wish) is None
        assert slots.why_none().startswith(f"GPU 1 is used by pid {pid} (cat)")
        assert slots.next_look_s() == pytest.approx(2.0, abs=2)


@on_stub
def test_an_isolated_job_sees_its_gpu_alone(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = made(isolate=True, gpus="1,2")
    lease = take(slots)
    assert lease.slot.name == "gpu:1"
    assert lease.slot.arguments == ("--gpu", "0")
    assert lease.slot.environment == {"CUDA_VISIBLE_DEVICES": uuid(1)}
    given_back(slots, lease)
    several = slots.take_all()
    assert several is not None
    assert several.slot.arguments == ("--multi_gpu",)
    assert several.slot.environment == {"CUDA_VISIBLE_DEVICES": f"{uuid(1)},{uuid(2)}"}


# ---- as many as fit ------------------------------------------------------------------------------


@on_stub
def test_without_a_known_need_a_job_is_alone(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = made(gpus="0,1", jobs_per_gpu=None)
    assert slots.describe() == (
        "2 GPUs: 0, 1 (NVIDIA H100 80GB HBM3), as many jobs on a GPU as fit by their memory"
    )
    assert slots.n_slots() == 2
    assert slots.names()[:3] == ("gpu:0/0", "gpu:1/0", "gpu:0/1")
    assert names(slots) == ["gpu:0/0", "gpu:1/0"]
    assert slots.take(need(1000)) is None
    assert slots.why_none().startswith("GPU 0 runs 1 job, and not all memory that is needed is known")
    assert slots.next_look_s() is None


@on_stub
def test_as_many_jobs_as_fit_into_nine_tenths_of_a_gpu(machine: NvmlState) -> None:
    two_gpus(machine)  # 36,000 and 72,000 MiB may be used
    slots = gpu_slots(sharing=PACKED)
    wish = need(17_000)
    found = []
    while (lease := slots.take(wish)) is not None:
        found.append(lease)
        slots.validate()
    assert [lease.slot.name for lease in found] == [
        "gpu:0/0", "gpu:1/0", "gpu:0/1", "gpu:1/1", "gpu:1/2", "gpu:1/3",
    ]  # fmt: skip
    assert slots.n_slots() == 6
    assert slots.next_look_s() is None
    assert slots.why_none() == (
        "GPU 0 has 34000 MiB taken, and 17000 MiB more do not fit; "
        "GPU 1 has 68000 MiB taken, and 17000 MiB more do not fit"
    )
    assert take(slots, need(2_000)).slot.name == "gpu:0/2"
    given_back(slots, found[3])
    assert take(slots, wish).slot.name == "gpu:1/1"
    slots.validate()


@on_stub
def test_a_job_that_needs_more_than_a_gpu_has_is_tried_alone(machine: NvmlState) -> None:
    two_gpus(machine)
    slots = gpu_slots(sharing=PACKED, gpus="0")
    assert take(slots, need(50_000)).slot.name == "gpu:0/0"
    assert slots.take(need(50_000)) is None
    assert slots.n_slots() == 1


@on_stub
def test_no_more_jobs_than_memory_was_enough_for(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(sharing=PACKED, gpus="0")
    wish = need(1_000, most_jobs=2)
    assert slots.take(wish) is not None
    assert slots.take(wish) is not None
    assert slots.n_slots() == 2
    assert slots.take(wish) is None
    assert slots.why_none() == "GPU 0 runs 2 jobs: with more of them memory ran out"


@on_stub
def test_what_is_really_in_use_counts_if_it_is_more(machine: NvmlState) -> None:
    two_gpus(machine)
    clock = Clock()
    with process() as pid:
        slots = gpu_slots(sharing=PACKED, gpus="0", owns=lambda other: other == pid, clock=clock)
        assert take(slots, need(5_000)).slot.name == "gpu:0/0"
        machine.claim(pid, 0, mib="0:30000,50:9000").touch()
        machine.at(1)
        assert slots.take(need(7_000)) is None
        assert slots.why_none() == "GPU 0 has 30004 MiB taken, and 7000 MiB more do not fit"
        assert slots.next_look_s() == 2.0
        machine.at(51)
        clock.now_s += 2
        assert take(slots, need(7_000)).slot.name == "gpu:0/1"


@on_stub
def test_jobs_of_an_earlier_search_are_joined_only_if_their_need_is_known(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(sharing=PACKED, gpus="0,1")
    unknown = slots.adopt("gpu:0/3")
    slots.adopt("gpu:1/0", need(30_000))
    slots.adopt("gpu:1/5", need(30_000, whole=True))
    slots.validate()
    assert slots.take(need(1_000)) is None
    slots.release(slots._given["gpu:1/5"])
    assert [take(slots, need(1_000)).slot.name for _ in range(2)] == ["gpu:1/1", "gpu:1/2"]
    slots.release(unknown)
    assert take(slots, need(60_000)).slot.name == "gpu:0/0"
    slots.validate()


@on_stub
def test_mig_instances_run_one_job_however_much_memory_they_have(machine: NvmlState) -> None:
    machine.mig_machine()
    slots = made(visible=f"{mig_uuid(1)},{mig_uuid(0)}", jobs_per_gpu=None)
    assert slots.n_slots() == 2
    assert [take(slots, need(10)).slot.name for _ in range(2)] == ["gpu:1/0", "gpu:1/2"]
    assert slots.take(need(10)) is None


@on_stub
def test_several_gpus_for_one_job_are_as_many_leases(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(sharing=PACKED)
    lease = slots.take_all()
    assert lease is not None
    assert len(lease.descriptors) == 4
    assert slots.take(need(10)) is None
    assert gpu_slots(study="/theirs").take(NO_WISH) is None


@on_stub
def test_whatever_is_asked_for_the_books_are_right(machine: NvmlState) -> None:
    """A random walk: needs fit, who is to be alone is, what is to be avoided is never given."""
    two_gpus(machine)
    draw = random.Random(7)
    clock = Clock()
    slots = gpu_slots(sharing=PACKED, clock=clock)
    running: dict[str, tuple[Lease, Wish]] = {}
    n_given = 0
    for _ in range(600):
        clock.now_s += draw.choice([0.01, 1.0])
        if running and draw.random() < 0.45:
            given_back(slots, running.pop(draw.choice(sorted(running)))[0])
            continue
        wish = Wish(
            avoid=frozenset(draw.sample(slots.names(), 3)),
            whole=draw.random() < 0.1,
            most_memory=draw.random() < 0.1,
            gpu_memory_bytes=draw.choice([None, 3_000 * MIB, 9_000 * MIB, 90_000 * MIB]),
            most_jobs=draw.choice([None, 2]),
        )
        lease = slots.take(wish)
        slots.validate()
        if lease is None:
            assert slots.why_none()
            continue
        n_given += 1
        assert lease.slot.name not in wish.avoid
        running[lease.slot.name] = (lease, wish)
        for index, total_mib in enumerate((40_000, 80_000)):
            here = [one for name, (_, one) in running.items() if name.startswith(f"gpu:{index}/")]
            if len(here) > 1:
                assert not any(one.whole or one.gpu_memory_bytes is None for one in here)
                assert sum(one.gpu_memory_bytes or 0 for one in here) <= 0.9 * total_mib * MIB
    assert n_given > 150


# ---- GPUs that are left to others ----------------------------------------------------------------


@on_stub
def test_idle_gpus_are_left_to_others(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(sharing=Sharing(n_shares=2, leave_free=2), clock=clock)
    assert slots.describe().endswith(", 2 jobs on a GPU, 8 slots, 2 idle left to others")
    leases = taken(slots)
    assert [lease.slot.name for lease in leases] == ["gpu:0/0", "gpu:1/0", "gpu:0/1", "gpu:1/1"]
    assert slots.why_none() == "2 idle GPUs are left to others (--leave-free 2)"
    assert slots.next_look_s() == 2.0
    # One of ours ends: it may be taken again at once, although the others were not looked at since.
    given_back(slots, leases[0])
    given_back(slots, leases[2])
    assert take(slots).slot.name == "gpu:0/0"
    # Somebody takes one of those left: only one would stay idle.
    with process() as pid:
        machine.claim(pid, 3)
        clock.now_s += 2
        given_back(slots, leases[1])
        given_back(slots, leases[3])
        assert names(slots) == ["gpu:0/1"], "a share of a GPU in use leaves no idle one out"
        assert slots.why_none() == (
            f"GPU 3 is used by pid {pid} (cat); 2 idle GPUs are left to others (--leave-free 2)"
        )
    clock.now_s += 2
    assert names(slots) == ["gpu:1/0", "gpu:1/1"]
    slots.validate()


@on_stub
def test_a_gpu_that_another_study_holds_is_not_idle(machine: NvmlState) -> None:
    machine.four_gpus()
    assert gpu_slots(study="/theirs", gpus="3").take(NO_WISH) is not None
    slots = gpu_slots(sharing=Sharing(leave_free=2))
    assert names(slots) == ["gpu:0"]
    assert "GPU 3 is leased by study /theirs" in slots.why_none()


@on_stub
def test_a_job_on_several_gpus_leaves_some_too(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(sharing=Sharing(leave_free=1))
    lease = slots.take_all()
    assert lease is not None
    assert lease.slot.name == "gpu:0,1,2"
    assert len(taken(gpu_slots(study="/theirs"))) == 1
    assert gpu_slots(sharing=Sharing(leave_free=3), study="/third").take_all() is None


@on_stub
def test_a_search_that_leaves_every_gpu_is_refused(machine: NvmlState) -> None:
    machine.four_gpus()
    with pytest.raises(UsageError, match=r"--leave-free 4 leaves all 4 GPUs of this search to others"):
        made(leave_free=4)
    with pytest.raises(UsageError, match=r"--leave-free 1 leaves the only GPU of this search"):
        made(leave_free=1, gpus="2")
    assert made(leave_free=3).n_slots() == 4


# ---- others on a GPU of ours ---------------------------------------------------------------------


@on_stub
def test_with_others_a_gpu_is_shared_only_if_it_was_ours_before(machine: NvmlState) -> None:
    machine.four_gpus()
    for how, found in [(WhenShared.WAIT, []), (WhenShared.YIELD, []), (WhenShared.SHARE, ["gpu:0"])]:
        slots = gpu_slots(study=f"/{how}", gpus="0,1", sharing=Sharing(when_shared=how))
        with process() as before, process() as after:
            machine.claim(before, 1)
            lease = take(slots)
            machine.claim(after, 0, mib=30_000)
            given_back(slots, lease)
            again = taken(slots)
            assert [one.slot.name for one in again] == found
            assert f"GPU 1 is used by pid {before} (cat)" in slots.why_none()
            for one in again:
                given_back(slots, one)


@on_stub
def test_memory_of_others_is_counted_where_memory_decides(machine: NvmlState) -> None:
    two_gpus(machine)
    clock = Clock()
    sharing = replace(PACKED, when_shared=WhenShared.SHARE)
    slots = gpu_slots(gpus="0", sharing=sharing, clock=clock)
    first = take(slots, need(10_000))
    with process() as pid:
        machine.claim(pid, 0, mib=20_000)
        assert slots.take(need(10_000)) is None
        assert slots.why_none() == "GPU 0 has 30000 MiB taken, and 10000 MiB more do not fit"
        given_back(slots, first)
        assert slots.take(need(20_000)) is None
        clock.now_s += 2
        assert take(slots, need(10_000)).slot.name == "gpu:0/0"


# ---- memory that comes back late -----------------------------------------------------------------


def ended(machine: NvmlState, slots: GpuSlots, lease: Lease) -> None:
    """A job ends of which one process was seen; the driver goes on showing that."""
    machine.show(NOBODY, 0, mib="0:20000,20:5000,25:-")
    machine.at(1)
    seen = slots.observe(lease, lambda pid: pid == NOBODY)
    assert seen.gpu_memory_bytes == 20000 * MIB
    given_back(slots, lease)


@on_stub
def test_a_slot_is_free_when_the_memory_of_its_job_is_released(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    ended(machine, slots, take(slots))
    waited_s = 0.0
    while slots.take(NO_WISH) is None:
        expected_mib = 20000 if waited_s < 20 else 5000
        assert slots.why_none() == (f"GPU 0 has {expected_mib} MiB in use by pid {NOBODY}, which has ended")
        wait_s = slots.next_look_s()
        assert wait_s is not None
        assert 0 < wait_s <= 2
        clock.now_s += wait_s
        waited_s += wait_s
        machine.at(waited_s)
    assert 25 <= waited_s <= 27
    assert slots.news() == ()


@on_stub
def test_the_wait_for_memory_ends_after_30_s_with_a_line(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    ended(machine, slots, take(slots))
    began_s = clock.now_s
    while (lease := slots.take(NO_WISH)) is None:
        assert slots.news() == ()
        clock.now_s += 1
    assert 30 <= clock.now_s - began_s <= 32
    [line] = slots.news()
    assert line == (
        f"GPU 0 has 20000 MiB in use by pid {NOBODY}, which has ended: a job that ended there 30 s ago has "
        "not given it back; it counts as free from now on"
    )
    assert slots.news() == ()
    seen = slots.observe(lease, nobodys)
    assert seen == Observation(None, 0.0, ()), "what is left of a job is no stranger"
    given_back(slots, lease)
    assert slots.take(NO_WISH) is not None, "it is waited for once"


def nobodys(_pid: int) -> bool:
    return False


@on_stub
def test_memory_without_a_process_is_waited_for_too(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    lease = take(slots)
    with process() as pid:
        machine.claim(pid, 0)
        slots.observe(lease, mine)
    machine.change(0, used_mib=2_000)  # far from a tenth, but nothing was there when the job came
    given_back(slots, lease)
    while (again := slots.take(NO_WISH)) is None:
        assert slots.why_none() == "GPU 0 has 2000 MiB in use by no process that can be seen"
        clock.now_s += 1
    assert [line.split(":")[0] for line in slots.news()] == [
        "GPU 0 has 2000 MiB in use by no process that can be seen"
    ]
    given_back(slots, again)
    machine.change(0, used_mib="0:50000,10:2000")
    machine.at(0)
    assert slots.take(NO_WISH) is None
    machine.at(10)
    clock.now_s += 1
    assert slots.take(NO_WISH) is not None


@on_stub
def test_what_is_written_off_stays_so_and_no_more_than_that(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    lease = take(slots)
    with process() as pid:
        machine.claim(pid, 0, mib=20_000)
        assert slots.observe(lease, mine).gpu_memory_bytes == 20_000 * MIB
    machine.change(0, used_mib=20_000)
    given_back(slots, lease)
    while (again := slots.take(NO_WISH)) is None:
        clock.now_s += 1
    machine.change(0, used_mib=25_000)
    assert slots.observe(again, nobodys).gpu_memory_bytes == 5_000 * MIB
    machine.change(0, used_mib=20_000)
    given_back(slots, again)
    given_back(slots, take(slots))
    assert len(slots.news()) == 1
    # It does come back, and long after that somebody comes who cannot be seen.
    machine.change(0, used_mib=4)
    given_back(slots, take(slots))
    given_back(slots, take(slots))
    clock.now_s += 100
    machine.change(0, used_mib=20_000)
    assert slots.take(NO_WISH) is None
    assert slots.news() == ()


@on_stub
def test_where_no_processes_are_shown_memory_may_be_somebody_elses(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    lease = take(slots)
    machine.change(0, used_mib=20_000)
    assert slots.observe(lease, nobodys).gpu_memory_bytes == 19_996 * MIB
    given_back(slots, lease)
    for _ in range(60):
        assert slots.take(NO_WISH) is None
        assert slots.why_none() == "GPU 0 has 20000 MiB in use by no process that can be seen"
        clock.now_s += 1
    assert slots.news() == ()


@on_stub
def test_memory_that_appears_long_after_our_job_is_somebody_elses(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    given_back(slots, take(slots))
    clock.now_s += 100
    machine.change(0, used_mib=50_000)
    for _ in range(100):
        assert slots.take(NO_WISH) is None
        clock.now_s += 2
    assert slots.news() == ()


@on_stub
def test_a_share_too_waits_for_its_own_processes_alone(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    with process() as pid:
        slots = gpu_slots(gpus="0", n_shares=2, owns=lambda other: other == pid, clock=clock)
        first, second = take(slots), take(slots)
        machine.claim(pid, 0, mib=10_000)
        assert slots.observe(second, lambda other: other == pid).gpu_memory_bytes == 10_000 * MIB
        ended(machine, slots, first)
        machine.at(10)
        assert slots.take(NO_WISH) is None
        assert slots.why_none() == f"GPU 0 has 20000 MiB in use by pid {NOBODY}, which has ended"
        machine.at(25)
        clock.now_s += 2
        assert take(slots).slot.name == "gpu:0/0"


# ---- what one look shows -------------------------------------------------------------------------


@on_stub
def test_memory_and_use_of_a_job_that_is_alone(machine: NvmlState) -> None:
    machine.four_gpus()
    machine.change(1, busy="0:0,5:90")
    slots = gpu_slots(gpus="1")
    lease = take(slots)
    with process() as one, process() as two:
        machine.at(0)
        assert slots.observe(lease, mine) == Observation(None, 0.0, ())
        machine.claim(one, 1, mib="0:-,5:3000,6:100")
        machine.claim(two, 1, mib="0:500")
        machine.at(5)
        assert slots.observe(lease, mine) == Observation(3500 * MIB, 90.0, ())
        machine.at(6)
        assert slots.observe(lease, mine) == Observation(600 * MIB, 90.0, ())
    machine.lose(1)
    assert slots.observe(lease, mine) == Observation()


@on_stub
def test_memory_and_use_of_jobs_beside_each_other(machine: NvmlState) -> None:
    machine.four_gpus()
    machine.change(0, busy=97)
    with process() as one, process() as other:
        slots = gpu_slots(gpus="0", n_shares=2, owns=lambda pid: pid in (one, other))
        first, second = taken(slots)
        machine.claim(one, 0, mib=3_000, busy=70)
        machine.claim(other, 0, mib=1_000, busy=0)
        assert slots.observe(first, lambda pid: pid == one) == Observation(3000 * MIB, 70.0, ())
        assert slots.observe(second, lambda pid: pid == other) == Observation(1000 * MIB, 0.0, ())


@on_old_driver
def test_an_old_driver_tells_how_busy_the_gpu_is_as_a_whole(machine: NvmlState) -> None:
    machine.four_gpus()
    machine.change(0, busy=97)
    with process() as one:
        slots = gpu_slots(gpus="0", n_shares=2, owns=mine)
        first, _second = taken(slots)
        machine.claim(one, 0, mib=3_000, busy=70)
        assert slots.observe(first, mine) == Observation(3000 * MIB, 97.0, ())


@on_stub
def test_several_gpus_are_seen_at_the_one_with_the_most_memory(machine: NvmlState) -> None:
    machine.four_gpus()
    machine.change(0, busy=80)
    machine.change(1, busy=20)
    slots = gpu_slots(gpus="0,1")
    lease = slots.take_all()
    assert lease is not None
    with process() as pid:
        lines = [number for number, gpu in enumerate(machine.lines) if gpu.uuid in (uuid(0), uuid(1))]
        (machine.procdir / str(pid)).write_text(f"{lines[0]} 700\n{lines[1]} 900\n")
        assert slots.observe(lease, mine) == Observation(900 * MIB, 50.0, ())


@on_stub
def test_strangers_are_told_and_our_own_are_none(machine: NvmlState) -> None:
    machine.four_gpus()
    with process() as job, process() as host, process() as stranger:
        slots = gpu_slots(gpus="0", owns=lambda pid: pid in (job, host))
        lease = take(slots)
        for pid in (job, host, stranger):
            machine.claim(pid, 0)
        machine.show(NOBODY, 0)  # of the host of a container: taken for ours
        seen = slots.observe(lease, lambda pid: pid == job)
        assert seen.strangers == (f"pid {stranger} (cat)",)
        assert seen.gpu_memory_bytes == 2000 * MIB


@on_stub
def test_in_a_container_that_shows_pids_of_its_host_a_job_alone_is_measured(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="0", n_shares=2)
    first = take(slots)
    machine.show(NOBODY, 0, mib=5_000)
    assert slots.observe(first, nobodys) == Observation(5000 * MIB, 0.0, ())
    second = take(slots)
    machine.show(NOBODY + 1, 0, mib=6_000)
    # Beside each other nobody can tell which is whose, but none of them is a stranger.
    assert slots.observe(second, nobodys) == Observation(None, 0.0, ())
    given_back(slots, first)
    given_back(slots, second)
    # With nobody of ours there they are somebody's: a container beside this one may have come.
    assert slots.take(NO_WISH) is None
    assert f"pid {NOBODY} (name unknown)" in slots.why_none()


@on_stub
def test_in_a_container_that_shows_no_processes_all_that_came_is_the_jobs(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="0")
    lease = take(slots)
    machine.change(0, used_mib="0:104,5:9004")
    machine.at(0)
    assert slots.observe(lease, nobodys).gpu_memory_bytes is None, "less than a CUDA context takes"
    machine.at(5)
    assert slots.observe(lease, nobodys).gpu_memory_bytes == 9000 * MIB


@on_stub
def test_a_job_on_a_gpu_that_is_not_chosen_any_more_is_not_looked_at(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="2,3")
    assert slots.observe(slots.adopt("gpu:0"), mine) == Observation()
    assert slots.observe(slots.adopt("cpu:1"), mine) == Observation()


def test_somebody_else_is_told_by_name() -> None:
    assert in_words(GpuProcess(os.getpid(), "python", None)) == f"pid {os.getpid()} (python)"
    assert in_words(GpuProcess(NOBODY, "python", None)) == f"pid {NOBODY} (python)"
    if os.geteuid() != 0:
        assert in_words(GpuProcess(1, "init", None)) == f"pid 1 (init) of {pwd.getpwuid(0).pw_name}"
        return
    name = pwd.getpwuid(65534).pw_name
    for uid, words in [(65534, f" of {name}"), (54321, " of user 54321")]:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=uid) as cat:
            assert in_words(GpuProcess(cat.pid, "cat", None)) == f"pid {cat.pid} (cat){words}"
            assert cat.stdin is not None
            cat.stdin.close()


# ---- a driver that fails ------------------------------------------------------------------------


@on_stub
def test_a_driver_that_fails_every_other_call_is_asked_again(machine: NvmlState) -> None:
    machine.fail_every = 2
    machine.four_gpus()
    slots = gpu_slots(n_shares=2)
    assert slots.describe() == "4 GPUs: 0, 1, 2, 3 (NVIDIA H100 80GB HBM3), 2 jobs on a GPU, 8 slots"
    leases = taken(slots)
    assert len(leases) == 8
    assert not any(slots.is_lost(lease) for lease in leases)
    with process() as pid:
        machine.claim(pid, 0)
        # What takes two calls in a row cannot be had from such a driver: nothing is concluded.
        assert slots.observe(leases[0], mine) == Observation()
        given_back(slots, leases[0])
        assert slots.take(NO_WISH) is None
        assert slots.why_none() == "GPU 0 could not be looked at (Unknown Error)"
    machine.fail_every = 3
    machine.write()
    for lease in leases[1:]:
        given_back(slots, lease)
    assert len(taken(slots)) >= 6
    machine.lose(3)
    assert slots.is_lost(leases[3])


# ---- two that wait for different GPUs --------------------------------------------------------------


@on_stub
def test_jobs_that_are_to_be_alone_and_wait_for_different_gpus_do_not_keep_the_search_busy(
    machine: NvmlState,
) -> None:
    two_gpus(machine, 80 * 1024, 24 * 1024)
    clock = Clock()
    slots = gpu_slots(sharing=PACKED, clock=clock)
    small, last = need(20 * 1024), need(20 * 1024, whole=True)
    retry = need(20 * 1024, whole=True, most_memory=True)
    running = [take(slots, small) for _ in range(3)]
    assert [lease.slot.name for lease in running] == ["gpu:0/0", "gpu:1/0", "gpu:0/1"]
    for _ in range(20):  # turns of a search, each in the engine's order
        clock.now_s += 0.0005
        assert [slots.take(wish) for wish in (retry, small, last)] == [None] * 3
        wait_s = slots.next_look_s()
        assert wait_s is None or wait_s > 0, "nothing has changed"
        slots.validate()
    for lease in running:
        given_back(slots, lease)
    assert take(slots, retry).slot.name == "gpu:0/0"


@on_stub
def test_a_retry_after_out_of_memory_does_not_wait_for_all_the_jobs_behind_it(machine: NvmlState) -> None:
    two_gpus(machine)
    clock = Clock()
    slots = gpu_slots(sharing=Sharing(leave_free=1), clock=clock)
    retry = Wish(whole=True, most_memory=True)
    running = take(slots)
    assert running.slot.name == "gpu:0"
    for n_overtook in range(10):
        ends_s = clock.now_s + 30 + n_overtook * 0.37
        while slots.take(retry) is None and (wait_s := slots.next_look_s()) is not None:
            if clock.now_s + wait_s >= ends_s:
                break
            clock.now_s += wait_s + 0.0001
        clock.now_s = ends_s
        given_back(slots, running)
        found, asked = None, retry
        while found is None:  # the turns after that end, in the engine's order
            for asked in (retry, NO_WISH):
                if (found := slots.take(asked)) is not None:
                    break
            else:
                clock.now_s += (slots.next_look_s() or 0.001) + 0.0001
        if asked is retry:
            assert found.slot.name == "gpu:1"
            return
        running = found
    pytest.fail("10 ordinary jobs went first")
