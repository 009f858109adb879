"""`hyperband check` where there are GPUs: the real pynvml on a stub of the driver's library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_stub import NvmlState, uuid
from nvml_stub.cases import built_stub
from test_check import GOOD, Checked, changed, check

#: a job that is seen on its GPU with some memory
ON_GPU = """
        number = int(sys.argv[sys.argv.index("--gpu") + 1])
        with open(os.path.join(os.environ["GPU_CLAIMS"], str(os.getpid())), "w") as file:
            file.write(f"{json.loads(os.environ['GPU_LINES'])[number]} 1000 C -1")
        time.sleep(0.05)
"""
#: looks at the memory of GPU 2 before and after the words in ARGV[1] became the stub's state
LOOK = """
import os, sys
from hyperband.check import memory
from hyperband.check.interrupts import Interrupts
memory._PATIENCE_S = 0.3
found = memory.GpuMemory()
os.replace(sys.argv[1], os.environ["HYPERBAND_STUB_NVML"])
with Interrupts() as interrupts:
    print(found.released([sys.argv[2]], interrupts))
found.close()
"""


@pytest.fixture
def machine(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> NvmlState:
    """Four GPUs."""
    return NvmlState(tmp_path / "machine", built_stub(tmp_path_factory)).four_gpus()


def check_on(machine: NvmlState, folder: Path, *words: str) -> Checked:
    order = sorted(range(4), key=lambda line: machine.lines[line].bus)
    environ = {
        **machine.environment(),
        "GPU_LINES": json.dumps(order),
        "GPU_CLAIMS": str(machine.procdir),
    }
    folder.mkdir()
    source = changed(("        losses.append", f"{ON_GPU}        losses.append"))
    return check(folder, source, *words, environ=environ, gpus=None)


@pytest.mark.slow
def test_a_check_on_gpus(machine: NvmlState, tmp_path: Path) -> None:
    found = check_on(machine, tmp_path / "work")
    assert found.exit_code == 0, found.lines
    assert "on gpu:0" in found.words("one_epoch")
    assert found.status("gpu_memory") == "ok"
    assert "free again" in found.words("gpu_memory")
    assert "at once" in found.words("together")


@pytest.mark.slow
def test_one_gpu_runs_two_configurations_by_turns(machine: NvmlState, tmp_path: Path) -> None:
    found = check_on(machine, tmp_path / "work", "--gpus", "2")
    assert found.exit_code == 0, found.lines
    assert "on gpu:2" in found.words("one_epoch")
    assert "by turns" in found.words("together")


def look(machine: NvmlState, tmp_path: Path) -> str:
    """What is said of GPU 2 when the machine became what it is now."""
    now = tmp_path / "now"
    now.write_text(machine.path.read_text())
    machine.four_gpus()
    ran = subprocess.run(
        [sys.executable, "-c", LOOK, now, uuid(2)],
        env={**os.environ, **machine.environment(), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_memory_that_comes_back_and_memory_that_does_not(machine: NvmlState, tmp_path: Path) -> None:
    assert look(machine, tmp_path).startswith("(True, ")
    machine.change(2, used_mib=20)
    assert look(machine, tmp_path).startswith("(True, ")  # what a driver keeps for itself
    machine.change(2, used_mib=3004)
    assert look(machine, tmp_path).startswith('(False, "3,000 MiB more than before')
    machine.change(2, used_mib=3004)
    machine.claim(os.getpid(), 2)
    found = look(machine, tmp_path)
    assert found.startswith("(None, ")
    assert f"pid {os.getpid()}" in found


def test_a_lost_gpu_tells_nothing(machine: NvmlState, tmp_path: Path) -> None:
    machine.lose(2)
    assert look(machine, tmp_path).startswith("(None, ")


def test_gpus_that_are_not_there_are_refused(machine: NvmlState, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GOOD)
    ran = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "hyperband.py", "check", "--gpus", "7", "train.py"],
        cwd=tmp_path,
        env={**os.environ, **machine.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "7" in ran.stderr
