"""Room on the disk: nothing starts once a file system is nearly full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperband.study import disk
from hyperband.study.disk import DiskWatch

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: 8 MiB, 20 files."""
    place = tmp_path / "small"
    place.mkdir()
    options = "size=8m,nr_inodes=20"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def _always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_LOOK_S", 0.0)


def test_there_is_room_until_there_is_not_and_then_again(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    free_bytes = found.f_bavail * found.f_frsize
    assert DiskWatch([tmp_path], free_bytes // 2).why_full() is None
    assert "are free on" in (DiskWatch([tmp_path], free_bytes * 2).why_full() or "")


@pytest.mark.usefixtures("_always_looks")
def test_a_disk_that_fills_up_is_told_of_with_its_figures(small_disk: Path) -> None:
    study = small_disk / "logs" / "study"
    study.mkdir(parents=True)
    watch = DiskWatch([small_disk.parent, study], 4 * MIB)
    assert watch.why_full() is None
    (small_disk / "ballast").write_bytes(bytes(6 * MIB))
    why = watch.why_full()
    assert why == (f"--min-free-disk is 0.0039 GiB, only 0.002 GiB are free on {small_disk} (of {study})")
    (small_disk / "ballast").unlink()
    assert watch.why_full() is None


@pytest.mark.usefixtures("_always_looks")
def test_a_file_system_without_inodes_is_full(small_disk: Path) -> None:
    watch = DiskWatch([small_disk], 1)
    assert watch.why_full() is None
    made = 0
    while os.statvfs(small_disk).f_favail:
        (small_disk / f"{made}").touch()
        made += 1
    assert "all 20 inodes are in use" in (watch.why_full() or "")


def test_nothing_is_watched_when_it_is_turned_off(tmp_path: Path) -> None:
    assert DiskWatch([tmp_path / "gone"], 0).why_full() is None


@pytest.mark.usefixtures("_always_looks")
def test_a_folder_that_is_gone_is_no_reason(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    watch = DiskWatch([tmp_path / "gone"], 1)
    (tmp_path / "gone").rmdir()
    assert watch.why_full() is None
    watch = DiskWatch([tmp_path / "gone", tmp_path], 1 << 60)
    assert str(tmp_path) in (watch.why_full() or ""), "the others are still watched"


def test_looks_are_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_LOOK_S", 3600.0)
    watch = DiskWatch([tmp_path], 1)
    looks: list[Path] = []
    real = os.statvfs

    def counted(path: Path) -> os.statvfs_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(os, "statvfs", counted)
    for _ in range(1000):
        assert watch.why_full() is None
    assert len(looks) == 1
