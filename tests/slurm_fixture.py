"""The one Slurm of a test process, with and without accounting; see slurm_cluster."""

import contextlib
from collections.abc import Iterator

import pytest
from slurm_cluster import (
    NODES,
    SlurmCluster,
    running_cluster,
    why_no_accounting,
    why_no_slurm,
)

__all__ = ["NODES", "SlurmCluster", "running_cluster", "why_no_slurm"]


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    """The one cluster of a test process."""
    reason = why_no_slurm()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


@contextlib.contextmanager
def _led_to(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, *, accounting: bool) -> Iterator[None]:
    """The cluster whole and empty, before and after, and Slurm's commands led to it."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    cluster.set_accounting(accounting)
    yield
    cluster.clear()


@pytest.fixture
def slurm(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, without accounting."""
    with _led_to(slurm_session, monkeypatch, accounting=False):
        yield slurm_session


@pytest.fixture
def slurm_accounting(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, with accounting."""
    reason = why_no_accounting()
    if reason is not None:
        pytest.skip(reason)
    with _led_to(slurm_session, monkeypatch, accounting=True):
        yield slurm_session
