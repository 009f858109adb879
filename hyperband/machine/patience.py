"""A library of the driver that is asked again when it fails for a reason that may pass.

Owns: which errors pass, and how often a call is repeated.
Must not know: what is asked, or what the answers mean.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

#: times that one call is made in all. A driver under load is seen to answer "unknown error" now and then;
#: what fails three times in a row is a state of the device and not a moment's
_N_TRIES = 3


class Patient:
    """pynvml, with each of its calls repeated at once when it fails for a reason that may pass."""

    def __init__(self, pynvml: ModuleType) -> None:
        """Ask this module; its constants and exceptions are handed on as they are."""
        self._pynvml = pynvml
        self._passing = (pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_TIMEOUT)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
        """Return what the module has under this name."""
        found = getattr(self._pynvml, name)
        return self._patiently(found) if name.startswith("nvml") and callable(found) else found

    def _patiently(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: object) -> Any:  # noqa: ANN401
            for _ in range(_N_TRIES - 1):
                try:
                    return call(*arguments)
                except self._pynvml.NVMLError as err:
                    if err.value not in self._passing:
                        raise
            return call(*arguments)

        return asked
