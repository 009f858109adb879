"""What every test gets: leases of its own, and a look for processes and descriptors left behind."""

import compileall
import os
import signal
import time
import uuid
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from cluster_fixture import cmdline
from hypothesis import HealthCheck, settings
from ray_fixture import ray_cluster, ray_session
from slurm_fixture import slurm, slurm_accounting, slurm_session
from undertaker import marked, running

#: one cluster for all tests of a process
__all__ = ["ray_cluster", "ray_session", "slurm", "slurm_accounting", "slurm_session"]

MARK = "HYPERBAND_TEST_MARK"

# no test depends on how fast this machine is
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Searches start by the hundred: where the environment forbids Python to write bytecode, each would compile
# the package anew.
if "PYTEST_XDIST_WORKER" not in os.environ:
    compileall.compile_dir(Path(__file__).resolve().parents[1] / "hyperband", quiet=2)

# Most of them import numpy once or twice, whose threads nobody here needs: a third of that time is theirs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell starts what runs in the background with these ignored, and children inherit that: tests send them.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail a test that leaves a process alive, wherever it went, or a descriptor open."""
    monkeypatch.setenv("HYPERBAND_LEASES", str(tmp_path_factory.mktemp("leases")))
    mark = str(uuid.uuid4())
    monkeypatch.setenv(MARK, mark)
    before, others = _descriptors(), running()
    yield
    left = _wait_until_gone(f"{MARK}={mark}", others)
    assert not left, f"processes left behind: {left}"
    # an engine that a module opened asks its cluster now and then
    ends_s = time.monotonic() + 30.0
    while (opened := _opened_since(before)) and time.monotonic() < ends_s:
        time.sleep(0.02)
    assert not opened, f"descriptors left open: {opened}"


def _wait_until_gone(mark: str, others: Set[int], patience_s: float = 30.0) -> dict[int, str]:
    """Return what still carries the mark in its environment, after giving it time to end."""
    ends_s = time.monotonic() + patience_s
    while (found := _marked(mark, others)) and time.monotonic() < ends_s:
        time.sleep(0.02)
    return found


def _marked(mark: str, others: Set[int]) -> dict[int, str]:
    return {pid: cmdline(pid).replace(b"\0", b" ").decode() for pid in marked(mark, but=others)}


def _opened_since(before: dict[str, str]) -> dict[str, str]:
    return {number: target for number, target in _descriptors().items() if number not in before}


def _descriptors() -> dict[str, str]:
    found: dict[str, str] = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[link.name] = str(link.readlink())
        except FileNotFoundError:
            continue  # that of the listing itself
    return found
