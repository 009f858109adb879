"""NVML through the real pynvml: the order of GPUs, who is on them, lost ones, and drivers that fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_stub import (
    NO_PERMISSION,
    UNKNOWN,
    VERSIONS_DIFFER,
    NvmlState,
    StubGpu,
    mig_uuid,
    uuid,
)
from nvml_stub.cases import on_old_driver, on_stub, without_library

from hyperband.errors import MachineError
from hyperband.machine.gpu import NoGpus
from hyperband.machine.nvml import Nvml, open_nvml

MIB = 1 << 20


def opened(root: Path) -> Nvml:
    nvml = open_nvml(root=root)
    assert isinstance(nvml, Nvml), nvml
    return nvml


def bare(machine: NvmlState) -> Path:
    """A root folder without any sign of a GPU, whatever the machine that runs the tests has."""
    root = machine.path.parent / "root"
    root.mkdir(exist_ok=True)
    return root


def with_card(machine: NvmlState) -> Path:
    """A root folder on which the kernel knows a GPU."""
    root = bare(machine)
    (root / "proc/driver/nvidia/gpus/0000:1a:00.0").mkdir(parents=True)
    return root


def wait_until_it_runs(cat: subprocess.Popen[bytes]) -> None:
    """Until then the kernel shows no command line, or that of what came before."""
    assert cat.stdin is not None
    assert cat.stdout is not None
    cat.stdin.write(b"?\n")
    cat.stdin.flush()
    assert cat.stdout.readline() == b"?\n"


@on_stub
def test_gpus_come_in_pci_order_not_in_that_of_nvml(machine: NvmlState) -> None:
    machine.four_gpus()
    gpus = opened(bare(machine)).gpus()
    assert [(gpu.index, gpu.uuid) for gpu in gpus] == [(k, uuid(k)) for k in range(4)]
    assert {gpu.name for gpu in gpus} == {"NVIDIA H100 80GB HBM3"}
    assert not any(gpu.lost or gpu.mig for gpu in gpus)


@on_stub
def test_bus_numbers_are_compared_as_numbers(machine: NvmlState) -> None:
    machine.set_gpus(StubGpu("00010000:01:00.0", uuid(2)), StubGpu("0000:C1:00.0", uuid(1)))
    assert [gpu.uuid for gpu in opened(bare(machine)).gpus()] == [uuid(1), uuid(2)]


@on_stub
def test_memory_is_counted_without_what_the_driver_keeps(machine: NvmlState) -> None:
    machine.set_gpus(StubGpu("0000:01:00.0", uuid(0), total_mib=2000, used_mib=10, reserved_mib=300))
    usage = opened(bare(machine)).usage(uuid(0))
    assert (usage.total_bytes, usage.used_bytes) == (2000 * MIB, 10 * MIB)


@on_stub
def test_compute_processes_are_listed_until_they_end(machine: NvmlState) -> None:
    machine.four_gpus()
    nvml = opened(bare(machine))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sleeper:
        wait_until_it_runs(sleeper)
        machine.claim(sleeper.pid, 1, mib=500)
        [process] = nvml.usage(uuid(1)).compute
        assert (process.pid, process.used_bytes) == (sleeper.pid, 500 * MIB)
        assert process.name == "cat"
        assert nvml.usage(uuid(1)).used_bytes == 504 * MIB
        assert nvml.usage(uuid(0)).compute == ()
        sleeper.kill()
    assert nvml.usage(uuid(1)).compute == ()
    assert nvml.usage(uuid(1)).used_bytes == 4 * MIB


@on_stub
def test_graphics_and_the_mps_server_are_no_compute_processes(machine: NvmlState) -> None:
    machine.four_gpus()
    nvml = opened(bare(machine))
    machine.claim(os.getpid(), 0, kind="G")
    assert nvml.usage(uuid(0)).compute == ()
    assert nvml.has_visible_processes(uuid(0))
    assert not nvml.has_visible_processes(uuid(1))
    server = ["bash", "-c", "exec -a /usr/bin/nvidia-cuda-mps-server cat"]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as mps:
        wait_until_it_runs(mps)
        machine.claim(mps.pid, 2)
        assert nvml.usage(uuid(2)).compute == ()
        assert nvml.has_visible_processes(uuid(2))
    machine.claim(os.getpid(), 3, kind="M")
    assert [process.pid for process in nvml.usage(uuid(3)).compute] == [os.getpid()]


@on_stub
def test_a_gpu_lost_in_the_middle_leaves_the_others_at_their_index(machine: NvmlState) -> None:
    machine.four_gpus()
    nvml = opened(bare(machine))
    assert nvml.lost(uuid(1)) == ""
    machine.lose(1)
    assert nvml.lost(uuid(1)) == "GPU is lost"
    assert nvml.usage(uuid(1)).lost == "GPU is lost"
    gpus = nvml.gpus()
    assert [(gpu.index, gpu.uuid, gpu.lost) for gpu in gpus] == [
        (k, uuid(k), "GPU is lost" if k == 1 else "") for k in range(4)
    ]
    for k in (0, 2, 3):
        assert not nvml.lost(uuid(k))
        assert nvml.usage(uuid(k)).total_bytes


@on_stub
def test_a_gpu_that_is_not_even_listed_any_more_is_lost_at_its_index(machine: NvmlState) -> None:
    machine.four_gpus()
    nvml = opened(bare(machine))
    machine.set_gpus(*[gpu for gpu in machine.lines if gpu.uuid != uuid(1)])
    assert nvml.lost(uuid(1))
    assert [(gpu.index, bool(gpu.lost)) for gpu in nvml.gpus()] == [
        (0, False),
        (1, True),
        (2, False),
        (3, False),
    ]


@on_stub
def test_a_gpu_lost_before_the_start_keeps_its_place_by_what_the_kernel_lists(machine: NvmlState) -> None:
    machine.four_gpus().lose(1)
    root = bare(machine)
    for gpu in machine.lines:
        (root / "proc/driver/nvidia/gpus" / gpu.bus.lower()).mkdir(parents=True)
    gpus = opened(root).gpus()
    assert [(gpu.index, gpu.uuid) for gpu in gpus] == [(0, uuid(0)), (1, ""), (2, uuid(2)), (3, uuid(3))]
    assert gpus[1].lost == "GPU is lost"


@on_stub
def test_a_gpu_lost_before_the_start_stands_where_nvml_lists_it_otherwise(machine: NvmlState) -> None:
    gpus = [StubGpu(f"0000:{0x10 + k:02X}:00.0", uuid(k)) for k in range(3)]
    machine.set_gpus(*gpus).lose(1)
    nvml = opened(bare(machine))
    for _ in range(2):
        assert [(gpu.uuid, bool(gpu.lost)) for gpu in nvml.gpus()] == [
            (uuid(0), False),
            ("", True),
            (uuid(2), False),
        ]


@on_stub
def test_gpus_that_answer_only_later_take_the_places_that_were_kept_for_them(machine: NvmlState) -> None:
    for failing in ((0, 1, 2, 3), (1, 3), (3,), (0,)):
        machine.four_gpus()
        for number in failing:
            machine.change(number, error=UNKNOWN)
        nvml = opened(bare(machine))
        assert sum(bool(gpu.lost) for gpu in nvml.gpus()) == len(failing)
        machine.four_gpus()
        found = [(gpu.index, gpu.uuid, gpu.lost) for gpu in nvml.gpus()]
        assert found == [(k, uuid(k), "") for k in range(4)], failing
        nvml.close()


@on_stub
def test_a_passing_error_is_a_problem_of_one_look(machine: NvmlState) -> None:
    machine.four_gpus()
    nvml = opened(bare(machine))
    machine.change(2, error=UNKNOWN)
    usage = nvml.usage(uuid(2))
    assert usage.problem
    assert not usage.lost
    assert not nvml.lost(uuid(2))
    machine.change(2, error=0)
    assert nvml.usage(uuid(2)).total_bytes


@on_stub
def test_gpus_without_permission_have_no_place_in_the_order(machine: NvmlState) -> None:
    machine.four_gpus().change(0, error=NO_PERMISSION)
    gpus = opened(with_card(machine)).gpus()
    assert [(gpu.index, gpu.uuid) for gpu in gpus] == [(0, uuid(1)), (1, uuid(2)), (2, uuid(3))]


@on_stub
def test_no_permission_for_any_gpu_is_no_gpu(machine: NvmlState) -> None:
    machine.set_gpus(StubGpu("0000:1A:00.0", uuid(0), error=NO_PERMISSION))
    found = open_nvml(root=with_card(machine))
    assert isinstance(found, NoGpus)
    assert "permission" in found.reason


@on_stub
def test_a_machine_with_a_driver_and_no_gpu(machine: NvmlState) -> None:
    assert open_nvml(root=bare(machine)) == NoGpus("NVML lists no GPU")
    with pytest.raises(MachineError, match=r"0000:1a:00\.0 exists.*NVML lists no GPU.*--gpus none"):
        open_nvml(root=with_card(machine))


@on_stub
def test_a_driver_that_is_not_loaded(machine: NvmlState) -> None:
    machine.no_driver()
    assert open_nvml(root=bare(machine)) == NoGpus("the NVIDIA driver is not loaded")
    with pytest.raises(MachineError, match=r"the NVIDIA driver is not loaded.*reboot.*--gpus none"):
        open_nvml(root=with_card(machine))


@on_stub
def test_versions_of_library_and_driver_that_differ(machine: NvmlState) -> None:
    machine.init_error = VERSIONS_DIFFER
    machine.write()
    with pytest.raises(MachineError, match=r"version mismatch.*Reload the driver or reboot.*--gpus none"):
        open_nvml(root=bare(machine))


@without_library
def test_a_machine_without_the_library(machine: NvmlState) -> None:
    found = open_nvml(root=bare(machine))
    assert found == NoGpus("the driver's library libnvidia-ml.so.1 was not found")
    (bare(machine) / "dev").mkdir()
    (bare(machine) / "dev/nvidia0").touch()
    with pytest.raises(MachineError, match=r"dev/nvidia0 exists.*libnvidia-ml.*Install"):
        open_nvml(root=bare(machine))


@on_old_driver
def test_an_old_driver_is_asked_in_the_old_way(machine: NvmlState) -> None:
    machine.four_gpus().claim(os.getpid(), 3, mib=100)
    nvml = opened(bare(machine))
    for _ in range(2):
        usage = nvml.usage(uuid(3))
        assert [process.pid for process in usage.compute] == [os.getpid()]
        # It cannot tell its reserve from what is used.
        assert usage.used_bytes == (4 + 600 + 100) * MIB
    assert not nvml.has_visible_processes(uuid(0))


@on_stub
def test_mig_instances_are_listed_with_their_gpu_and_looked_at_alone(machine: NvmlState) -> None:
    machine.mig_machine()
    nvml = opened(bare(machine))
    whole, split = nvml.gpus()
    assert (whole.mig, whole.instances) == (False, ())
    assert split.mig
    assert [(part.uuid, part.index, part.gpu_instance) for part in split.instances] == [
        (mig_uuid(0), 0, 3),
        (mig_uuid(1), 2, 5),
    ]
    machine.claim(os.getpid(), 1, place=2)
    assert nvml.usage(mig_uuid(0)).compute == ()
    assert [process.pid for process in nvml.usage(mig_uuid(1)).compute] == [os.getpid()]


@on_stub
def test_a_mig_instance_that_was_removed_is_lost_and_one_made_anew_is_found(machine: NvmlState) -> None:
    machine.mig_machine()
    nvml = opened(bare(machine))
    instances = machine.instances
    machine.instances = instances[:1]
    machine.write()
    assert nvml.lost(mig_uuid(1))
    assert not nvml.lost(mig_uuid(0))
    machine.instances = instances
    machine.write()
    assert not nvml.lost(mig_uuid(1))


@on_stub
def test_how_busy_a_gpu_and_its_processes_are(machine: NvmlState) -> None:
    machine.four_gpus().change(1, busy="0:10,5:95")
    nvml = opened(bare(machine))
    machine.at(0)
    assert (nvml.busy_percent(uuid(1)), nvml.busy_percent(uuid(0))) == (10.0, 0.0)
    assert nvml.busy_by_process(uuid(1)) == {}
    machine.claim(os.getpid(), 1, busy="0:7,5:60")
    machine.at(5)
    assert nvml.busy_percent(uuid(1)) == 95.0
    assert nvml.busy_by_process(uuid(1)) == {os.getpid(): 60.0}
    machine.lose(1)
    assert nvml.busy_percent(uuid(1)) is None
    assert nvml.busy_by_process(uuid(1)) is None


@on_stub
def test_how_busy_a_mig_instance_is_cannot_be_told(machine: NvmlState) -> None:
    machine.mig_machine()
    nvml = opened(bare(machine))
    assert nvml.busy_percent(mig_uuid(0)) is None
    assert nvml.busy_by_process(mig_uuid(0)) is None


@on_old_driver
def test_an_old_driver_does_not_tell_how_busy_processes_are(machine: NvmlState) -> None:
    machine.four_gpus().change(0, busy=50)
    nvml = opened(bare(machine))
    assert nvml.busy_percent(uuid(0)) == 50.0
    assert nvml.busy_by_process(uuid(0)) is None


@on_stub
def test_calls_that_fail_for_a_moment_are_repeated(machine: NvmlState) -> None:
    machine.fail_every = 2
    machine.four_gpus()
    nvml = opened(with_card(machine))
    for _ in range(3):
        gpus = nvml.gpus()
        assert [(gpu.uuid, gpu.lost) for gpu in gpus] == [(uuid(k), "") for k in range(4)]
        assert [nvml.usage(uuid(k)).used_bytes for k in range(4)] == [4 * MIB] * 4
    machine.fail_every = 1
    machine.write()
    assert nvml.usage(uuid(0)).problem == "Unknown Error"
    assert nvml.lost(uuid(0)) == ""


def test_pynvml_is_not_imported_where_no_gpu_is_looked_for() -> None:
    code = "import sys, hyperband.launch.slots; sys.exit('pynvml' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
