"""A stand-in NVML library for tests and for trying things out on a machine without GPUs.

The real pynvml loads it, in a process that has the folder of the compiled library on its
LD_LIBRARY_PATH *before it starts*: what uses it runs in a process of its own.

By hand, for a whole search on four GPUs that do not exist:

    library = build_stub(Path("/tmp/stub"))
    machine = NvmlState(Path("/tmp/stub/machine"), library).four_gpus()
    subprocess.Popen(["python", "hyperband.py", "dummy.py"], env={**os.environ, **machine.environment()})
    machine.lose(1)

A process claims memory, and is seen on a GPU, by writing `machine.procdir / <its pid>` with lines of
"GPU MIB" in it, where GPU is the line of the GPU in the state file (`machine.claim` writes it by the
GPU's PCI index); the claim ends with the process. Memory and how busy something is may be a curve over
the time since the file was written, or over `machine.now_s`: "0:100,2.5:4000,10:-".
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_SOURCE = Path(__file__).with_name("stub_nvml.c")

#: codes of nvmlReturn_t that tests set
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
VERSIONS_DIFFER = 18
UNKNOWN = 999


@dataclass(frozen=True)
class StubGpu:
    """A GPU of the stub; memory in MiB."""

    bus: str
    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total_mib: int = 81559
    #: a number, or a curve
    used_mib: int | str = 4
    reserved_mib: int = 600
    #: percent: a number, or a curve
    busy: int | str = 0
    mig: bool = False
    #: answered by every call on this GPU; 0: none
    error: int = 0


@dataclass(frozen=True)
class StubProcess:
    """A process on a GPU, shown whether there is one with this pid or not."""

    #: the line of the GPU
    gpu: int
    pid: int
    mib: int | str = 1000
    busy: int | str = 0
    kind: str = "C"
    place: int = -1
    alive: int = 0


@dataclass(frozen=True)
class StubInstance:
    """A MIG instance: `gpu` is the line of its GPU, `place` its number there."""

    gpu: int
    place: int
    uuid: str
    gi: int
    ci: int = 0


def why_no_stub() -> str | None:
    """Why the stub cannot be built here, or None."""
    return None if shutil.which("gcc") else "gcc is not installed: the stub of NVML cannot be compiled"


def build_stub(folder: Path, *, old_driver: bool = False) -> Path:
    """Compile the stub.

    Args:
        folder: Where to; made if it is not there.
        old_driver: Leave out what drivers before R510 do not have.

    Returns:
        The folder to put on LD_LIBRARY_PATH.
    """
    library = folder / ("lib-old" if old_driver else "lib")
    library.mkdir(parents=True, exist_ok=True)
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread"]
    target = library / "libnvidia-ml.so.1"
    define = ["-DOLD_DRIVER"] if old_driver else []
    subprocess.run(
        ["gcc", *flags, *define, "-Wl,-soname,libnvidia-ml.so.1", "-o", target, _SOURCE], check=True
    )
    return library


def uuid(number: int) -> str:
    """The UUID of GPU `number` of the named scenarios."""
    return f"GPU-{number + 1:08x}-0000-4000-8000-00000000000{number}"


def mig_uuid(number: int) -> str:
    """The UUID of instance `number` of the named scenarios."""
    return f"MIG-{number + 1:08x}-0000-5000-8000-00000000000{number}"


class NvmlState:
    """The state file of the stub, and the environment in which processes see it.

    `lines` are the GPUs in the order in which NVML lists them. Each change is written at once, by
    write and rename.
    """

    def __init__(self, folder: Path, library: Path | None) -> None:
        """Use `folder` for the state.

        Args:
            folder: Made if it is not there.
            library: What `build_stub` gave; None: a machine without the library.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "state.txt"
        self.procdir = folder / "processes"
        self.procdir.mkdir(exist_ok=True)
        self._library = library
        self.lines: list[StubGpu] = []
        self.instances: list[StubInstance] = []
        self.processes: list[StubProcess] = []
        self.init_error = 0
        #: every so many calls of a process fail; 0: none
        self.fail_every = 0
        #: the time on all curves; None: they run since their file was written
        self.now_s: float | None = None
        self.write()

    def environment(self) -> dict[str, str]:
        """What to add to the environment of a process that shall see this machine."""
        before = os.environ.get("LD_LIBRARY_PATH")
        folders = [] if self._library is None else [str(self._library)]
        folders += [before] if before else []
        return {"LD_LIBRARY_PATH": ":".join(folders), "HYPERBAND_STUB_NVML": str(self.path)}

    def write(self) -> "NvmlState":
        """Make the file say what the object says."""
        text = [f"init_error {self.init_error}", f"fail_every {self.fail_every}"]
        text += [] if self.now_s is None else [f"now {self.now_s}"]
        text += [f"procdir {self.procdir}"]
        for gpu in self.lines:
            fields = {**vars(gpu), "mig": int(gpu.mig), "name": gpu.name.replace(" ", "_")}
            text.append("gpu " + _words(fields))
        text += ["instance " + _words(vars(instance)) for instance in self.instances]
        text += ["process " + _words(vars(process)) for process in self.processes]
        fresh = self.path.with_suffix(".new")
        fresh.write_text("\n".join(text) + "\n")
        fresh.replace(self.path)
        return self

    def set_gpus(self, *gpus: StubGpu, instances: tuple[StubInstance, ...] = ()) -> "NvmlState":
        """The machine has these GPUs now."""
        self.lines, self.instances = list(gpus), list(instances)
        return self.write()

    def four_gpus(self) -> "NvmlState":
        """Four GPUs; NVML lists them in another order than that of their PCI addresses."""
        gpus = [StubGpu(bus=f"0000:{0x1A + 0x20 * k:02X}:00.0", uuid=uuid(k)) for k in range(4)]
        return self.set_gpus(gpus[2], gpus[0], gpus[3], gpus[1])

    def mig_machine(self) -> "NvmlState":
        """GPU 0 whole, GPU 1 in MIG mode with two instances."""
        whole = StubGpu(bus="0000:1A:00.0", uuid=uuid(0))
        split = StubGpu(bus="0000:3A:00.0", uuid=uuid(1), mig=True)
        places = (StubInstance(1, 0, mig_uuid(0), gi=3), StubInstance(1, 2, mig_uuid(1), gi=5))
        return self.set_gpus(whole, split, instances=places)

    def change(self, number: int, **fields: object) -> "NvmlState":
        """Change GPU `number` (in PCI order), e.g. `error=15` or `used_mib=9000`."""
        place = self._line(number)
        self.lines[place] = replace(self.lines[place], **fields)  # type: ignore[arg-type]
        return self.write()

    def lose(self, number: int) -> "NvmlState":
        """GPU `number` falls off the bus."""
        return self.change(number, error=GPU_IS_LOST)

    def no_driver(self) -> "NvmlState":
        """The driver is not loaded."""
        self.init_error = DRIVER_NOT_LOADED
        return self.write()

    def claim(
        self,
        pid: int,
        number: int,
        mib: int | str = 1000,
        kind: str = "C",
        place: int = -1,
        busy: int | str = 0,
    ) -> Path:
        """A process is on GPU `number` (in PCI order) with this much memory, until it ends.

        Args:
            pid: Of a living process.
            number: The GPU.
            mib: Its memory there: a number, or a curve.
            kind: C compute, G graphics, M client of an MPS server.
            place: The MIG instance; -1: none.
            busy: How much it uses the GPU, in percent: a number, or a curve.
        """
        path = self.procdir / str(pid)
        path.write_text(f"{self._line(number)} {mib} {kind} {place} {busy}\n")
        return path

    def show(self, pid: int, number: int, mib: int | str = 1000, busy: int | str = 0) -> "NvmlState":
        """NVML shows a process on GPU `number` (in PCI order) that need not be there."""
        self.processes.append(StubProcess(self._line(number), pid, mib, busy))
        return self.write()

    def at(self, now_s: float) -> "NvmlState":
        """It is this time on all curves."""
        self.now_s = now_s
        return self.write()

    def _line(self, number: int) -> int:
        """The line of the GPU that is `number` in PCI order."""
        order = sorted(range(len(self.lines)), key=lambda line: self.lines[line].bus)
        return order[number]


def _words(fields: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in fields.items())
