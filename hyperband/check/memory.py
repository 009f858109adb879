"""Whether a job's GPU memory comes back after its end. Must not know leases or slots."""

import time
from collections.abc import Sequence

from hyperband.check.interrupts import Interrupts
from hyperband.errors import HyperbandError
from hyperband.machine.gpu import NoGpus
from hyperband.machine.nvml import Nvml, open_nvml

#: what a driver keeps or gives back by itself
_SLACK_BYTES = 64 << 20
_PATIENCE_S = 30.0
_LOOK_S = 0.05
_MIB = 1 << 20


class GpuMemory:
    """The used memory of the machine's GPUs, from before a job on."""

    def __init__(self) -> None:
        """Open NVML and look once; without GPUs there is nothing to look at."""
        try:
            found = open_nvml()
        except HyperbandError:
            found = NoGpus("NVML cannot be used")  # the slots say so, or nobody wants a GPU
        self._nvml: Nvml | None = None if isinstance(found, NoGpus) else found
        self._before: dict[str, int | None] = {}
        if self._nvml is not None:
            for gpu in self._nvml.gpus():
                for uuid in (gpu.uuid, *(instance.uuid for instance in gpu.instances)):
                    self._before[uuid] = self._nvml.usage(uuid).used_bytes

    def close(self) -> None:
        """Close NVML."""
        if self._nvml is not None:
            self._nvml.close()

    def released(self, uuids: Sequence[str], interrupts: Interrupts) -> tuple[bool | None, str]:
        """Wait until the memory is what it was; whether it is, None if that is not known, and words.

        Raises:
            CheckStoppedError: a signal came.
        """
        assert self._nvml is not None
        began_s = time.monotonic()
        while True:
            excess = self._excess(uuids)
            waited_s = time.monotonic() - began_s
            if excess is None:
                return None, "the driver does not tell how much memory is used"
            if excess <= _SLACK_BYTES:
                return True, f"all of it is free again {max(waited_s, 0.05):.1f} s after the job's end"
            if waited_s >= _PATIENCE_S:
                break
            # The driver gives no event when it has taken memory back.
            interrupts.sleep([], _LOOK_S)
            interrupts.heed()
        strangers = sorted({f"pid {p.pid} ({p.name})" for u in uuids for p in self._nvml.usage(u).compute})
        words = f"{excess // _MIB:,} MiB more than before are used {_PATIENCE_S:.0f} s after the job's end"
        if strangers:
            return None, f"{words}, but others are on that GPU: {', '.join(strangers)}"
        return False, words

    def _excess(self, uuids: Sequence[str]) -> int | None:
        assert self._nvml is not None
        found = 0
        for uuid in uuids:
            now, before = self._nvml.usage(uuid).used_bytes, self._before.get(uuid)
            if now is None or before is None:
                return None
            found = max(found, now - before)
        return found
