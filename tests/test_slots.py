"""Slots: which GPU or CPU slot a job gets, when, and what it is told; on the stub of NVML."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nvml_stub import UNKNOWN, VERSIONS_DIFFER, NvmlState, mig_uuid, uuid
from nvml_stub.cases import built_stub, child_environment, on_old_driver, on_stub, without_library

from hyperband.errors import InternalError, MachineError, UsageError
from hyperband.launch.base import NO_WISH, Lease, Slots
from hyperband.launch.cpu_slots import CpuSlots, default_n_slots
from hyperband.launch.gpu.sharing import Sharing
from hyperband.launch.gpu.slots import GpuSlots
from hyperband.launch.slots import make_slots
from hyperband.machine.leases import Leases, lease_folder
from hyperband.machine.nvml import Nvml, open_nvml
from hyperband.machine.visible import choose_gpus, wanted_entries
from hyperband.settings import Settings

SETTINGS = Settings(script=Path("/s.py"), python=Path(sys.executable), logs=Path("/logs"))


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def nothing(_pid: int) -> bool:
    return False


def gpu_slots(
    *,
    study: str = "/study",
    gpus: str = "all",
    visible: str | None = None,
    n_shares: int = 1,
    owns: Callable[[int], bool] = nothing,
    clock: Clock | None = None,
    sharing: Sharing | None = None,
) -> GpuSlots:
    nvml = open_nvml()
    assert isinstance(nvml, Nvml)
    found = nvml.gpus()
    return GpuSlots(
        nvml,
        Leases(lease_folder(os.environ), study),
        gpus=found,
        choice=choose_gpus(found, wanted=wanted_entries(gpus), preset=visible),
        sharing=sharing or Sharing(n_shares=n_shares),
        owns=owns,
        clock=clock or Clock(),
    )


def made(study: str = "/study", *, visible: str | None = None, **changes: object) -> Slots:
    environ = dict(os.environ) if visible is None else {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return make_slots(settings, environ=environ, study=study, owns=nothing)


def taken(slots: Slots) -> list[Lease]:
    """Everything that can be had."""
    leases = []
    while (lease := slots.take(NO_WISH)) is not None:
        leases.append(lease)
    return leases


def names(slots: Slots) -> list[str]:
    return [lease.slot.name for lease in taken(slots)]


def given_back(slots: Slots, lease: Lease) -> None:
    """The job has ended, its keeper has gone."""
    for descriptor in lease.descriptors:
        os.close(descriptor)
    slots.release(lease)


@contextmanager
def process() -> Iterator[int]:
    """A real process that does nothing, until the end of the block."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        cat.stdin.write(b"?\n")
        cat.stdin.flush()
        assert cat.stdout.readline() == b"?\n"  # it has its own name by now
        yield cat.pid


# ---- GPUs ---------------------------------------------------------------------------------------


@on_stub
def test_gpus_are_given_in_pci_order_with_all_that_a_job_must_know(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots()
    assert slots.describe() == "4 GPUs: 0, 1, 2, 3 (NVIDIA H100 80GB HBM3)"
    assert slots.n_slots() == 4
    leases = taken(slots)
    assert [lease.slot.name for lease in leases] == ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]
    slot = leases[1].slot
    assert slot.arguments == ("--gpu", "1")
    assert slot.environment == {"CUDA_VISIBLE_DEVICES": None}
    assert slot.gpu_uuids == (uuid(1),)
    assert all(len(lease.descriptors) == 1 for lease in leases)
    assert not any(os.get_inheritable(lease.descriptors[0]) for lease in leases)
    slots.validate()
    assert slots.next_look_s() is None
    assert slots.why_none() == "4 of 4 GPU slots run jobs"
    given_back(slots, leases[2])
    assert names(slots) == ["gpu:2"]
    slots.validate()


@on_stub
def test_two_searches_never_hold_one_gpu(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    mine, theirs = gpu_slots(study="/mine", clock=clock), gpu_slots(study="/theirs", n_shares=2, clock=clock)
    mine_first, mine_second = mine.take(NO_WISH), mine.take(NO_WISH)
    assert mine_first is not None
    assert mine_second is not None
    # What is held elsewhere is not asked for again at once, and the free ones are still found.
    assert names(theirs) == ["gpu:2/0", "gpu:3/0", "gpu:2/1", "gpu:3/1"]
    assert theirs.why_none().startswith(f"GPU 0 is leased by study /mine (pid {os.getpid()} on ")
    assert theirs.next_look_s() == 2.0
    given_back(mine, mine_first)
    assert theirs.take(NO_WISH) is None
    clock.now_s += 2.0
    assert names(theirs) == ["gpu:0/0", "gpu:0/1"]
    assert mine.take(NO_WISH) is None


@on_stub
def test_a_foreign_process_keeps_a_gpu_until_it_ends(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0,1", clock=clock)
    with process() as pid:
        machine.claim(pid, 0)
        assert names(slots) == ["gpu:1"]
        assert slots.why_none() == f"GPU 0 is used by pid {pid} (cat)"
        assert slots.next_look_s() == 2.0
        clock.now_s += 2.0
        assert slots.take(NO_WISH) is None
    clock.now_s += 1.5
    assert slots.take(NO_WISH) is None  # not looked at before its time
    assert slots.next_look_s() == 0.5
    clock.now_s += 0.5
    assert names(slots) == ["gpu:0"]


@on_stub
def test_with_no_gpu_free_all_waits_for_one(machine: NvmlState) -> None:
    machine.four_gpus()
    with process() as first, process() as second, process() as third, process() as fourth:
        for number, pid in enumerate((first, second, third, fourth)):
            machine.claim(pid, number)
        slots = made()
        assert isinstance(slots, GpuSlots)
        assert slots.take(NO_WISH) is None
        wait_s = slots.next_look_s()
        assert wait_s is not None
        assert 0 <= wait_s <= 2
        assert slots.why_none().count("is used by pid") == 4


@on_stub
def test_graphics_our_own_jobs_and_a_little_memory_do_not_count(machine: NvmlState) -> None:
    machine.four_gpus()
    machine.claim(os.getpid(), 0, mib=30000, kind="G")
    machine.change(1, used_mib=8155)
    with process() as pid:
        machine.claim(pid, 2, mib=30000)
        machine.change(3, used_mib=8156)
        slots = gpu_slots(owns=lambda other: other == pid)
        assert names(slots) == ["gpu:0", "gpu:1", "gpu:2"]
        assert slots.why_none() == "GPU 3 has 8156 MiB in use by no process that can be seen"


@on_stub
def test_shares_are_spread_over_gpus_first(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="0,1", n_shares=2)
    assert slots.describe() == "2 GPUs: 0, 1 (NVIDIA H100 80GB HBM3), 2 jobs on a GPU, 4 slots"
    leases = taken(slots)
    assert [lease.slot.name for lease in leases] == ["gpu:0/0", "gpu:1/0", "gpu:0/1", "gpu:1/1"]
    assert leases[2].slot.arguments == ("--gpu", "0")
    slots.validate()
    given_back(slots, leases[1])
    assert names(slots) == ["gpu:1/0"]


@on_stub
def test_a_share_is_not_hidden_by_our_own_job_beside_it(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", n_shares=3, owns=lambda pid: pid == os.getpid(), clock=clock)
    assert slots.take(NO_WISH) is not None
    machine.claim(os.getpid(), 0, mib=40000)
    assert slots.take(NO_WISH) is not None
    # Memory that no visible pid explains is that of our jobs, as in containers.
    (machine.procdir / str(os.getpid())).unlink()
    machine.change(0, used_mib=60000)
    with process() as pid:
        machine.claim(pid, 0)
        assert slots.take(NO_WISH) is None
        assert "is used by pid" in slots.why_none()
    clock.now_s += 2
    assert slots.take(NO_WISH) is not None


@on_stub
def test_a_gpu_whose_memory_comes_back_late_is_looked_at_soon_again(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    [lease] = taken(slots)
    machine.change(0, used_mib=70000)
    given_back(slots, lease)
    assert slots.next_look_s() == 0.0
    waits = []
    for _ in range(10):
        assert slots.take(NO_WISH) is None
        wait_s = slots.next_look_s()
        assert wait_s is not None
        waits.append(round(wait_s, 3))
        clock.now_s += wait_s
    assert slots.why_none() == "GPU 0 has 70000 MiB in use by no process that can be seen"
    assert waits == [0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    machine.change(0, used_mib=4)
    [lease] = taken(slots)
    given_back(slots, lease)
    assert names(slots) == ["gpu:0"]  # at once, when nothing stays behind


@on_stub
def test_a_lease_that_the_keeper_has_not_let_go_yet_is_asked_for_soon_again(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0,1", clock=clock)
    machine.claim(os.getpid(), 1)
    [lease] = taken(slots)
    slots.release(lease)  # the descriptor is still open, as in a keeper that is just ending
    assert slots.take(NO_WISH) is None
    assert slots.why_none().startswith(f"GPU 1 is used by pid {os.getpid()} ")
    (machine.procdir / str(os.getpid())).unlink()
    clock.now_s += 2
    assert names(slots) == ["gpu:1"]
    assert slots.why_none() == "GPU 0 is being given back by a job that ended"
    assert slots.next_look_s() == pytest.approx(0.02)
    os.close(lease.descriptors[0])
    clock.now_s += 0.03
    assert names(slots) == ["gpu:0"]


@on_stub
def test_a_lost_gpu_leaves_and_its_job_knows(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0,1", clock=clock)
    first, second = taken(slots)
    machine.lose(1)
    assert not slots.is_lost(first)
    assert slots.is_lost(second)
    given_back(slots, second)
    assert slots.take(NO_WISH) is None
    assert slots.why_none() == "GPU 1 is lost (GPU is lost)"
    given_back(slots, first)
    assert names(slots) == ["gpu:0"]
    slots.validate()


@on_stub
def test_a_search_whose_gpus_are_all_lost_cannot_go_on(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="1")
    [lease] = taken(slots)
    machine.lose(1)
    given_back(slots, lease)
    with pytest.raises(MachineError, match=r"Every GPU of this search is lost: GPU 1 is lost.*dmesg"):
        slots.take(NO_WISH)


@on_stub
def test_an_error_of_one_look_does_not_take_a_gpu_away_for_ever(machine: NvmlState) -> None:
    machine.four_gpus()
    clock = Clock()
    slots = gpu_slots(gpus="0", clock=clock)
    machine.change(0, error=UNKNOWN)
    assert slots.take(NO_WISH) is None
    assert slots.why_none() == "GPU 0 could not be looked at (Unknown Error)"
    machine.change(0, error=0)
    clock.now_s += 2
    [lease] = taken(slots)
    machine.change(0, error=UNKNOWN)
    assert not slots.is_lost(lease)


@on_old_driver
def test_an_old_driver_serves_as_well(machine: NvmlState) -> None:
    machine.four_gpus()
    with process() as pid:
        machine.claim(pid, 2)
        assert names(gpu_slots()) == ["gpu:0", "gpu:1", "gpu:3"]


# ---- several GPUs for one job -------------------------------------------------------------------


@on_stub
def test_all_free_gpus_go_to_one_job(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(n_shares=2)
    with process() as pid:
        machine.claim(pid, 1)
        lease = slots.take_all()
    assert lease is not None
    assert lease.slot.name == "gpu:0,2,3"
    assert lease.slot.arguments == ("--multi_gpu",)
    assert lease.slot.environment == {"CUDA_VISIBLE_DEVICES": f"{uuid(0)},{uuid(2)},{uuid(3)}"}
    assert lease.slot.gpu_uuids == (uuid(0), uuid(2), uuid(3))
    assert len(lease.descriptors) == 3
    slots.validate()
    assert slots.take(NO_WISH) is None
    assert gpu_slots(study="/theirs", gpus="0,2,3").take(NO_WISH) is None
    machine.lose(2)
    assert slots.is_lost(lease)
    machine.change(2, error=0)
    given_back(slots, lease)
    slots.validate()
    assert len(taken(gpu_slots(study="/theirs"))) == 4


@on_stub
def test_one_free_gpu_is_not_enough_and_is_let_go_again(machine: NvmlState) -> None:
    machine.four_gpus()
    mine, theirs = gpu_slots(study="/mine", gpus="0,1"), gpu_slots(study="/theirs")
    first = theirs.take(NO_WISH)
    assert first is not None
    assert mine.take_all() is None
    assert names(mine) == ["gpu:1"]
    assert gpu_slots(study="/third", gpus="3").take_all() is None
    assert gpu_slots(study="/third", gpus="3").take(NO_WISH) is not None


@on_stub
def test_gpus_that_run_our_own_jobs_are_not_taken_twice(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(n_shares=2)
    assert slots.take(NO_WISH) is not None
    lease = slots.take_all()
    assert lease is not None
    assert lease.slot.name == "gpu:1,2,3"
    assert names(slots) == ["gpu:0/1"]


# ---- jobs of an earlier search ------------------------------------------------------------------


@on_stub
def test_a_slot_of_a_living_job_is_taken_until_it_is_released(machine: NvmlState) -> None:
    machine.four_gpus()
    before = gpu_slots()
    kept = before.take(NO_WISH)
    assert kept is not None
    slots = gpu_slots(owns=lambda pid: pid == os.getpid())
    machine.claim(os.getpid(), 0)
    adopted = slots.adopt("gpu:0")
    assert adopted.descriptors == ()
    assert adopted.slot == kept.slot
    assert names(slots) == ["gpu:1", "gpu:2", "gpu:3"]
    slots.validate()
    os.close(kept.descriptors[0])
    slots.release(adopted)
    assert names(slots) == ["gpu:0"]
    with pytest.raises(InternalError, match="gpu:0 was adopted twice"):
        slots.adopt("gpu:0")
    with pytest.raises(InternalError, match="released but not taken"):
        slots.release(replace(adopted, slot=replace(adopted.slot, name="gpu:9")))


@on_stub
def test_other_shares_of_a_gpu_are_ours_although_our_keeper_holds_one(machine: NvmlState) -> None:
    machine.four_gpus()
    kept = gpu_slots(gpus="0", n_shares=2).take(NO_WISH)
    assert kept is not None
    slots = gpu_slots(gpus="0", n_shares=2)
    slots.adopt("gpu:0/0")
    assert names(slots) == ["gpu:0/1"]
    assert gpu_slots(study="/theirs", gpus="0", n_shares=3).take(NO_WISH) is None
    # With fewer jobs on a GPU than before, the old ones count.
    fewer = gpu_slots(gpus="0", n_shares=1)
    fewer.adopt("gpu:0/1")
    fewer.validate()
    assert fewer.take(NO_WISH) is None


@on_stub
def test_slots_of_gpus_that_are_not_ours_any_more_block_nothing(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = gpu_slots(gpus="2,3")
    leases = [slots.adopt(name) for name in ("gpu:0", "gpu:7/1", "cpu:3", "gpu:1,2")]
    slots.validate()
    assert leases[0].slot.gpu_uuids == (uuid(0),)
    assert leases[1].slot.gpu_uuids == ()
    machine.lose(0)
    assert [slots.is_lost(lease) for lease in leases] == [True, False, False, False]
    assert names(slots) == ["gpu:3"]
    for lease in leases:
        slots.release(lease)
    assert names(slots) == ["gpu:2"]
    slots.validate()


# ---- MIG ----------------------------------------------------------------------------------------


@on_stub
def test_mig_instances_are_slots_when_named_and_never_for_several_gpus(machine: NvmlState) -> None:
    machine.mig_machine()
    slots = gpu_slots(visible=f"{mig_uuid(1)},{mig_uuid(0)}", n_shares=2)
    assert slots.describe().startswith("2 MIG instances: 1/0, 1/2 (NVIDIA H100 80GB HBM3); ")
    assert slots.take_all() is None
    first, second = taken(slots)
    assert (first.slot.name, second.slot.name) == ("gpu:1/0", "gpu:1/2")
    assert second.slot.arguments == ("--gpu", "0")
    assert second.slot.environment == {"CUDA_VISIBLE_DEVICES": mig_uuid(1)}
    assert second.slot.gpu_uuids == (mig_uuid(1),)
    machine.instances = machine.instances[:1]
    machine.write()
    assert not slots.is_lost(first)
    assert slots.is_lost(second)
    given_back(slots, first)
    assert slots.adopt("gpu:1/0").slot == first.slot
    slots.validate()


@on_stub
def test_a_whole_gpu_beside_one_in_mig_mode_is_named_by_its_uuid(machine: NvmlState) -> None:
    machine.mig_machine()
    slots = gpu_slots()
    assert slots.describe().startswith("1 GPU: 0 (NVIDIA H100 80GB HBM3); GPU 1 is in MIG mode")
    [lease] = taken(slots)
    assert lease.slot.name == "gpu:0"
    assert lease.slot.arguments == ("--gpu", "0")
    assert lease.slot.environment == {"CUDA_VISIBLE_DEVICES": uuid(0)}


# ---- which slots a machine has ------------------------------------------------------------------


@on_stub
def test_cuda_visible_devices_narrows_and_is_taken_out(machine: NvmlState) -> None:
    machine.four_gpus()
    slots = made(visible="3,GPU-00000001", slots=5)
    assert slots.describe() == (
        "2 GPUs: 0, 3 (NVIDIA H100 80GB HBM3); CUDA_VISIBLE_DEVICES=3,GPU-00000001; "
        "--slots 5 is not used: it counts CPU slots"
    )
    leases = taken(slots)
    assert [lease.slot.arguments for lease in leases] == [("--gpu", "0"), ("--gpu", "3")]
    assert all(lease.slot.environment == {"CUDA_VISIBLE_DEVICES": None} for lease in leases)
    for visible, option, message in [
        ("0,1", "2", "hides it"),
        ("", "0", "hides every GPU"),
        ("0,0", "all", "twice"),
        ("5", "all", "names no GPU"),
        ("0", "GPU-ff", "is not on this machine"),
    ]:
        with pytest.raises(UsageError, match=message):
            made(visible=visible, gpus=option)


@on_stub
def test_cpu_slots_when_gpus_are_hidden_or_not_wanted(machine: NvmlState) -> None:
    machine.four_gpus()
    for slots, reason in [
        (made(gpus="none"), "no GPU is used (--gpus none)"),
        (made(visible=""), "CUDA_VISIBLE_DEVICES is '', which hides every GPU"),
        (made(visible="-1"), "CUDA_VISIBLE_DEVICES is '-1', which hides every GPU"),
    ]:
        assert isinstance(slots, CpuSlots)
        assert slots.describe().endswith(reason)
        assert slots.n_slots() == default_n_slots()


@without_library
def test_cpu_slots_on_a_machine_without_gpus(machine: NvmlState) -> None:
    assert machine.lines == []
    if list(Path("/proc/driver/nvidia/gpus").glob("*")) or list(Path("/dev").glob("nvidia[0-9]*")):
        with pytest.raises(MachineError, match="--gpus none"):
            made()
        return
    slots = made(slots=3)
    assert isinstance(slots, CpuSlots)
    assert slots.describe() == (
        "3 CPU slots: no NVIDIA GPU (the driver's library libnvidia-ml.so.1 was not found)"
    )
    with pytest.raises(UsageError, match=r"--gpus names 0,1, but this machine has no NVIDIA GPU"):
        made(gpus="0,1")


@on_stub
def test_a_driver_that_cannot_be_used_is_an_error_and_no_reason_for_cpus(machine: NvmlState) -> None:
    machine.init_error = VERSIONS_DIFFER
    machine.four_gpus()
    with pytest.raises(MachineError, match="version mismatch"):
        made()
    assert isinstance(made(gpus="none"), CpuSlots)


def test_cpu_slots_are_given_from_the_lowest() -> None:
    slots = CpuSlots(2, "a test")
    assert slots.describe() == "2 CPU slots: a test"
    assert CpuSlots(1, "a test").describe() == "1 CPU slot: a test"
    first, second = taken(slots)
    assert (first.slot.name, second.slot.name) == ("cpu:0", "cpu:1")
    assert second.slot.arguments == ("--gpu", "1")
    assert second.slot.environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert (second.descriptors, second.slot.gpu_uuids) == ((), ())
    assert slots.next_look_s() is None
    assert slots.why_none() == "2 of 2 CPU slots run jobs"
    assert not slots.is_lost(first)
    assert slots.take_all() is None
    slots.release(first)
    assert names(slots) == ["cpu:0"]
    slots.validate()


def test_cpu_slots_adopt_what_an_earlier_search_left() -> None:
    slots = CpuSlots(2, "a test")
    leases = [slots.adopt(name) for name in ("cpu:1", "cpu:7", "gpu:0/1")]
    slots.validate()
    assert slots.take(NO_WISH) is None
    slots.release(leases[1])
    assert names(slots) == ["cpu:0"]
    with pytest.raises(InternalError, match="adopted twice"):
        slots.adopt("gpu:0/1")
    for lease in (leases[0], leases[2]):
        slots.release(lease)
    with pytest.raises(InternalError, match="released but not taken"):
        slots.release(leases[2])
    assert names(slots) == ["cpu:1"]
    slots.validate()


# ---- two searches at once -----------------------------------------------------------------------


SEARCH = """
import json, os, sys
from pathlib import Path
from hyperband.launch.base import NO_WISH
from hyperband.launch.slots import make_slots
from hyperband.settings import Settings
shared, study, n_jobs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = Settings(script=Path("/s.py"), python=Path(sys.executable), logs=Path("/l"), jobs_per_gpu=2)
slots = make_slots(settings, environ=os.environ, study=study, owns=lambda pid: False)
sys.stdin.readline()
running, n_done, clashes = [], 0, 0

def end(lease):
    (shared / f"{lease.slot.gpu_uuids[0]}.{study}.{lease.slot.name.partition('/')[2]}").unlink()
    for descriptor in lease.descriptors:
        os.close(descriptor)
    slots.release(lease)

while n_done < n_jobs:
    lease = slots.take(NO_WISH)
    slots.validate()
    if lease is not None:
        uuid, n_done = lease.slot.gpu_uuids[0], n_done + 1
        (shared / f"{uuid}.{study}.{lease.slot.name.partition('/')[2]}").touch()
        clashes += any(f".{study}." not in path.name for path in shared.glob(uuid + "*"))
        running.append(lease)
    if running and (lease is None or len(running) > 3):
        end(running.pop(0))
for lease in running:
    end(lease)
print(json.dumps([n_done, clashes]))
"""


def test_two_searches_at_once_never_share_a_gpu(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = NvmlState(tmp_path / "machine", built_stub(tmp_path_factory)).four_gpus()
    marks = tmp_path / "marks"
    marks.mkdir()
    searches = [
        subprocess.Popen(
            [sys.executable, "-c", SEARCH, str(marks), study, "300"],
            env=child_environment(machine),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for study in ("one", "two")
    ]
    for search in searches:
        assert search.stdin is not None
        search.stdin.write(b"go\n")
        search.stdin.flush()
    answers = [json.loads(search.communicate(timeout=100)[0]) for search in searches]
    assert answers == [[300, 0], [300, 0]]
