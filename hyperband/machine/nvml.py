"""The GPUs of this machine as NVIDIA's management library (NVML) shows them.

Owns: the only import of pynvml (of nvidia-ml-py), made when the library is opened, so that machines
without GPUs pay nothing; the order of GPUs; every error code of NVML.
Must not know: leases, slots, jobs, CUDA_VISIBLE_DEVICES. It says what is there, never who may use it.

Two traits of NVML shape this module. Its own index has no fixed order, so GPUs are ranked by PCI
address, which is what CUDA shows under CUDA_DEVICE_ORDER=PCI_BUS_ID. And `nvmlDeviceGetHandleByUUID`
may answer "GPU is lost" when *any* GPU is lost, so handles are found by PCI address instead.
"""

import importlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.machine.gpu import Gpu, GpuProcess, MigInstance, NoGpus, Usage
from hyperband.machine.patience import Patient

#: (domain, bus, device, tie): `tie` is 0 but for a GPU whose address was never readable
_Address = tuple[int, int, int, int]

#: how far back samples of single processes are asked for: the driver takes several a second
_SAMPLES_S = 5.0
_MPS_SERVER = "nvidia-cuda-mps-server"
_PROC_NAME = re.compile(r"([0-9a-fA-F]+):([0-9a-fA-F]+):([0-9a-fA-F]+)\.[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class _Known:
    """A GPU that was seen at least once."""

    uuid: str
    name: str


class _LostError(Exception):
    """What was asked for is not on the machine any more."""


def open_nvml(*, root: Path = Path("/")) -> "Nvml | NoGpus":
    """Open NVML, or say why there is no GPU.

    Args:
        root: Where `dev` and `proc` are looked at for GPUs that NVML cannot show.

    Raises:
        MachineError: A GPU is evidently there, but NVML cannot be used: training on CPUs without a
            word would waste days, so the user decides.
    """
    try:
        pynvml = Patient(importlib.import_module("pynvml"))
    except ModuleNotFoundError as err:
        return _unusable(root, "the Python package nvidia-ml-py is not installed", "Install it", err)
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as err:
        return _init_failed(root, pynvml, err)
    try:
        nvml = Nvml(pynvml, root)
        gpus = nvml.gpus()
    except pynvml.NVMLError as err:
        pynvml.nvmlShutdown()
        return _unusable(root, f"NVML cannot list the GPUs ({err})", "Reload the driver or reboot", err)
    if gpus:
        return nvml
    pynvml.nvmlShutdown()
    if nvml.n_forbidden:
        return NoGpus(f"this process may not use any of the machine's {nvml.n_forbidden} (no permission)")
    return _unusable(root, "NVML lists no GPU", "Look for the driver's errors in `dmesg`", None)


def _init_failed(root: Path, pynvml: Patient, err: Exception) -> NoGpus:
    code = getattr(err, "value", None)
    if code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        found, remedy = (
            "the driver's library libnvidia-ml.so.1 was not found",
            "Install the driver's libraries",
        )
    elif code == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        found, remedy = "the NVIDIA driver is not loaded", "Load it (`modprobe nvidia`) or reboot"
    else:
        found, remedy = f"NVML does not start ({err})", "Reload the driver or reboot"
    # A mismatch of versions is found by asking the loaded kernel module: there is a GPU behind it.
    certain = code == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    return _unusable(root, found, remedy, err, certain=certain)


def _unusable(root: Path, found: str, remedy: str, err: Exception | None, *, certain: bool = False) -> NoGpus:
    signs = _signs_of_gpus(root)
    if not signs and not certain:
        return NoGpus(found)
    where = f" ({signs[0]} exists)" if signs else ""
    raise MachineError(
        f"This machine has an NVIDIA GPU{where}, but it cannot be used: {found}. "
        f"{remedy}, or run on CPUs with `--gpus none`."
    ) from err


def _signs_of_gpus(root: Path) -> list[Path]:
    return sorted(root.glob("proc/driver/nvidia/gpus/*")) + sorted(root.glob("dev/nvidia[0-9]*"))


class Nvml:
    """An open NVML. One thread; made by `open_nvml`."""

    def __init__(self, pynvml: Patient, root: Path) -> None:
        """Take over an initialised pynvml."""
        self._pynvml = pynvml
        self._root = root
        #: every GPU ever seen by its address; the order of the addresses is the order of the indices
        self._seen: dict[_Address, _Known] = {}
        #: handles of whole GPUs and MIG instances by UUID
        self._handles: dict[str, object] = {}
        #: (address of the GPU, is it a MIG instance) by UUID
        self._homes: dict[str, tuple[_Address, bool]] = {}
        #: the newest version of each process call that this driver knows
        self._versions: dict[str, str] = {}
        self._has_memory_v2 = True
        #: GPUs of the machine that this process has no permission for (as of the last `gpus`)
        self.n_forbidden = 0

    def close(self) -> None:
        """Shut NVML down; the object is of no use afterwards."""
        self._pynvml.nvmlShutdown()

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU of the machine in PCI order, lost ones included at their old index.

        Raises:
            pynvml.NVMLError: Even their number cannot be read.
        """
        problems = self._enumerate()
        gpus = []
        for index, address in enumerate(sorted(self._seen)):
            known = self._seen[address]
            lost = problems.get(address, "")
            mig = not lost and self._is_mig(known.uuid)
            instances = self._instances(known.uuid, address) if mig else ()
            gpus.append(Gpu(index, known.uuid, known.name, lost, mig, instances))
        return tuple(gpus)

    def usage(self, uuid: str) -> Usage:
        """One look at a GPU or MIG instance; never raises for what NVML answers."""
        return self._look(uuid, self._usage)

    def lost(self, uuid: str) -> str:
        """Why the GPU is lost, in words; empty while it is there or when this look does not tell."""
        return self._look(uuid, self._presence).lost

    def has_visible_processes(self, uuid: str) -> bool:
        """True when any process can be seen on the GPU, graphics and the MPS server included."""

        def look(handle: object) -> Usage:
            found = [*self._processes(handle, "Graphics"), *self._processes(handle, "Compute")]
            return Usage(compute=tuple(GpuProcess(pid, "", used) for pid, used in found))

        return bool(self._look(uuid, look).compute)

    def busy_percent(self, uuid: str) -> float | None:
        """How busy the GPU is at the moment, 0 to 100; None: not known (MIG instances)."""
        try:
            return float(self._pynvml.nvmlDeviceGetUtilizationRates(self._handle(uuid)).gpu)
        except (_LostError, self._pynvml.NVMLError, self._pynvml.NVMLLibraryMismatchError):
            return None

    def busy_by_process(self, uuid: str) -> Mapping[int, float] | None:
        """By pid, how much of the GPU each process used of late, 0 to 100; None: the driver does not tell.

        A process that did nothing there is not in it.
        """
        since_us = int((time.time() - _SAMPLES_S) * 1e6)
        try:
            samples = self._pynvml.nvmlDeviceGetProcessUtilization(self._handle(uuid), since_us)
        except (_LostError, self._pynvml.NVMLError, self._pynvml.NVMLLibraryMismatchError) as err:
            return {} if getattr(err, "value", None) == self._pynvml.NVML_ERROR_NOT_FOUND else None
        return {
            int(sample.pid): float(sample.smUtil)
            for sample in sorted(samples, key=lambda sample: int(sample.timeStamp))
        }

    def _enumerate(self) -> dict[_Address, str]:
        """Read all GPUs into `_seen`; the lost ones with the reason in words."""
        answered: dict[_Address, int] = {}
        failed: dict[int, str] = {}
        self.n_forbidden = 0
        # those that have never answered are given their places anew: what was kept for one may be another's
        self._seen = {address: known for address, known in self._seen.items() if known.uuid}
        for number in range(self._pynvml.nvmlDeviceGetCount()):
            try:
                answered[self._read(number)] = number
            except self._pynvml.NVMLError as err:
                # A device that is hidden by permissions (cgroups of a batch system) is hidden from
                # CUDA too and has no place in CUDA's order.
                if err.value == self._pynvml.NVML_ERROR_NO_PERMISSION:
                    self.n_forbidden += 1
                else:
                    failed[number] = str(err)
        return self._place_lost(answered, failed)

    def _read(self, number: int) -> _Address:
        handle = self._pynvml.nvmlDeviceGetHandleByIndex(number)
        pci = self._pynvml.nvmlDeviceGetPciInfo(handle)
        address = (int(pci.domain), int(pci.bus), int(pci.device), 0)
        uuid = str(self._pynvml.nvmlDeviceGetUUID(handle))
        try:
            name = str(self._pynvml.nvmlDeviceGetName(handle))
        except self._pynvml.NVMLError:
            name = "NVIDIA GPU"
        self._seen[address] = _Known(uuid, name)
        self._handles[uuid] = handle
        self._homes[uuid] = (address, False)
        return address

    def _place_lost(self, answered: dict[_Address, int], failed: dict[int, str]) -> dict[_Address, str]:
        """Give each GPU that did not answer the address at which it was, or must be."""
        problems = {address: "it is not listed any more" for address in self._seen if address not in answered}
        addresses = sorted(problems)
        if not self.n_forbidden:
            addresses += sorted(self._addresses_in_proc() - set(self._seen))
        for number, problem in failed.items():
            if addresses:
                address = addresses.pop(0)
            else:
                before = [place for place, other in answered.items() if other < number]
                domain, bus, device, tie = max(before, default=(0, 0, 0, 0))
                address = (domain, bus, device, tie + 1)
                while address in problems:
                    address = (domain, bus, device, address[3] + 1)
            problems[address] = problem
            self._seen.setdefault(address, _Known("", "NVIDIA GPU"))
        return problems

    def _addresses_in_proc(self) -> set[_Address]:
        found = set()
        for path in self._root.glob("proc/driver/nvidia/gpus/*"):
            match = _PROC_NAME.fullmatch(path.name)
            if match is not None:
                domain, bus, device = (int(part, 16) for part in match.groups())
                found.add((domain, bus, device, 0))
        return found

    def _is_mig(self, uuid: str) -> bool:
        try:
            current, _pending = self._pynvml.nvmlDeviceGetMigMode(self._handles[uuid])
        except self._pynvml.NVMLError:
            return False
        return bool(current == self._pynvml.NVML_DEVICE_MIG_ENABLE)

    def _instances(self, parent: str, address: _Address) -> tuple[MigInstance, ...]:
        handle = self._handles[parent]
        try:
            n_places = self._pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        except self._pynvml.NVMLError:
            return ()
        found = []
        for place in range(n_places):
            try:
                instance = self._pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                uuid = str(self._pynvml.nvmlDeviceGetUUID(instance))
            except self._pynvml.NVMLError:
                continue  # an empty place: NVML counts what could be there
            gpu_instance = self._optional(self._pynvml.nvmlDeviceGetGpuInstanceId, instance)
            compute_instance = self._optional(self._pynvml.nvmlDeviceGetComputeInstanceId, instance)
            self._handles[uuid] = instance
            self._homes[uuid] = (address, True)
            found.append(MigInstance(uuid, place, gpu_instance, compute_instance))
        return tuple(found)

    def _optional(self, call: Callable[[object], int], handle: object) -> int | None:
        try:
            return int(call(handle))
        except self._pynvml.NVMLError:
            return None

    def _look(self, uuid: str, look: Callable[[object], Usage]) -> Usage:
        """Look through the handle at hand, and once more through a fresh one if that fails."""
        handle = self._handles.get(uuid)
        if handle is not None:
            try:
                return look(handle)
            except self._pynvml.NVMLError:
                # A handle does not outlive a reset of its GPU or a re-made MIG instance.
                self._handles.pop(uuid, None)
        try:
            return look(self._fresh_handle(uuid))
        except _LostError as err:
            return Usage(lost=str(err))
        except self._pynvml.NVMLError as err:
            gone = (
                self._pynvml.NVML_ERROR_GPU_IS_LOST,
                self._pynvml.NVML_ERROR_RESET_REQUIRED,
                self._pynvml.NVML_ERROR_NOT_FOUND,
            )
            return Usage(lost=str(err)) if err.value in gone else Usage(problem=str(err))

    def _handle(self, uuid: str) -> object:
        return self._handles.get(uuid) or self._fresh_handle(uuid)

    def _fresh_handle(self, uuid: str) -> object:
        (domain, bus, device, _tie), is_instance = self._homes[uuid]
        handle = self._pynvml.nvmlDeviceGetHandleByPciBusId(f"{domain:08X}:{bus:02X}:{device:02X}.0")
        parent = str(self._pynvml.nvmlDeviceGetUUID(handle))
        self._handles[parent] = handle
        if is_instance:
            self._instances(parent, (domain, bus, device, 0))
        if uuid not in self._handles:
            raise _LostError("it is not at its place any more")
        return self._handles[uuid]

    def _presence(self, handle: object) -> Usage:
        self._pynvml.nvmlDeviceGetUUID(handle)
        self._memory(handle)
        return Usage()

    def _usage(self, handle: object) -> Usage:
        total_bytes, used_bytes = self._memory(handle)
        found = dict(self._processes(handle, "Compute"))
        # Clients of an MPS server are listed apart by newer drivers.
        found |= dict(self._processes(handle, "MPSCompute"))
        compute = [GpuProcess(pid, self._process_name(pid), used) for pid, used in sorted(found.items())]
        compute = [process for process in compute if process.name != _MPS_SERVER]
        return Usage(total_bytes=total_bytes, used_bytes=used_bytes, compute=tuple(compute))

    def _memory(self, handle: object) -> tuple[int | None, int | None]:
        """Total and used bytes; None for both on devices that share the memory of the machine."""
        if self._has_memory_v2:
            try:
                memory = self._pynvml.nvmlDeviceGetMemoryInfo(handle, self._pynvml.nvmlMemory_v2)
                return int(memory.total), int(memory.used)
            except self._pynvml.NVMLError as err:
                if err.value != self._pynvml.NVML_ERROR_NOT_SUPPORTED and not self._is_absent(err):
                    raise
                self._has_memory_v2 = not self._is_absent(err)
        try:
            memory = self._pynvml.nvmlDeviceGetMemoryInfo(handle)
        except self._pynvml.NVMLError as err:
            if err.value == self._pynvml.NVML_ERROR_NOT_SUPPORTED or self._is_absent(err):
                return None, None
            raise
        return int(memory.total), int(memory.used)

    def _is_absent(self, err: Exception) -> bool:
        """True when the driver is too old for the call that raised."""
        code = getattr(err, "value", None)
        return code in (
            self._pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            self._pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        ) or isinstance(err, self._pynvml.NVMLLibraryMismatchError)

    def _processes(self, handle: object, kind: str) -> list[tuple[int, int | None]]:
        """(pid, used bytes) of one kind; empty where the driver does not have such a list."""
        while (version := self._versions.get(kind, "_v3")) != "none":
            call = getattr(self._pynvml, f"nvmlDeviceGet{kind}RunningProcesses{version}")
            try:
                return [(int(process.pid), process.usedGpuMemory) for process in call(handle)]
            except (self._pynvml.NVMLError, self._pynvml.NVMLLibraryMismatchError) as err:
                if getattr(err, "value", None) == self._pynvml.NVML_ERROR_NOT_SUPPORTED:
                    return []
                if not self._is_absent(err):
                    raise
                self._versions[kind] = "_v2" if version == "_v3" else "none"
        return []

    def _process_name(self, pid: int) -> str:
        try:
            line = str(self._pynvml.nvmlSystemGetProcessName(pid))
        except self._pynvml.NVMLError:
            return "name unknown"
        return Path(line.split("\0", 1)[0].split(" ", 1)[0]).name or "name unknown"
