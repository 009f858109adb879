"""Tests that run in a process of their own, which has the stub on its LD_LIBRARY_PATH from the start.

    @on_stub
    def test_something(machine: NvmlState) -> None:
        machine.four_gpus()
        nvml = open_nvml()
        ...

pytest sees a test without arguments of this kind; it starts Python anew, which imports the module of
the test and calls the function. A failed assert there fails the test with the traceback.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nvml_stub import NvmlState, build_stub, why_no_stub

Case = Callable[[NvmlState], None]
Test = Callable[[Path, pytest.TempPathFactory], None]

#: the cases of the modules imported so far, by (module, function)
_cases: dict[tuple[str, str], Case] = {}


def on_stub(case: Case) -> Test:
    """Run the test on the stub of a current driver."""
    return _as_test(case, "lib")


def on_old_driver(case: Case) -> Test:
    """Run the test on the stub of a driver before R510."""
    return _as_test(case, "lib-old")


def without_library(case: Case) -> Test:
    """Run the test where the driver's library cannot be found, on a machine that has one too."""
    return _as_test(case, "lib-none")


def built_stub(factory: pytest.TempPathFactory, name: str = "lib") -> Path:
    """The folder of the compiled stub, made once in a session of tests; skips without gcc."""
    reason = why_no_stub()
    if reason is not None:
        pytest.skip(reason)
    folder = factory.getbasetemp() / "nvml-stub"
    library = folder / name / "libnvidia-ml.so.1"
    if library.exists():
        return library.parent
    if name == "lib-none":
        # A file that is no library hides the one of the machine: the loader takes the first it finds.
        library.parent.mkdir(parents=True)
        library.write_text("not a library")
        return library.parent
    return build_stub(folder, old_driver=name == "lib-old")


def _as_test(case: Case, library: str) -> Test:
    def test(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        run_case(case, NvmlState(tmp_path / "machine", built_stub(tmp_path_factory, library)))

    _cases[case.__module__, case.__name__] = case
    test.__doc__, test.__name__, test.__module__ = case.__doc__, case.__name__, case.__module__
    return test


def run_case(case: Case, machine: NvmlState) -> None:
    """Run a case in a new Python on this machine; fails the test if it fails there."""
    words = [case.__module__, case.__name__, str(machine.path.parent)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "nvml_stub.cases", *words],
        env=child_environment(machine),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"in the process with the stub:\n{done.stdout}{done.stderr}", pytrace=False)


def child_environment(machine: NvmlState) -> dict[str, str]:
    """The environment of a process on the machine of the stub, with a folder of leases of its own."""
    kept = {name: text for name, text in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    tests = Path(__file__).parent.parent
    return {
        **kept,
        **machine.environment(),
        "HYPERBAND_LEASES": str(machine.path.parent / "leases"),
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }


def _main(module: str, name: str, folder: str) -> None:
    importlib.import_module(module)
    # Under `-m` this file runs as __main__; the module has registered with its other copy.
    registered = sys.modules["nvml_stub.cases"]._cases
    registered[module, name](NvmlState(Path(folder), None))


if __name__ == "__main__":
    _main(*sys.argv[1:])
