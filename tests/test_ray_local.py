"""What is left of a Ray of this machine whose keeper was killed; without Ray."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from hyperband.launch.ray.local import IN_USE_FILE, KEPT_FILE, enter


def test_what_a_killed_keeper_left_goes_with_the_next_look_and_what_is_used_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("dead", "kept", "searched"):
        (tmp_path / f"hb-ray-{name}" / "session").mkdir(parents=True)
        for file in (IN_USE_FILE, KEPT_FILE):
            (tmp_path / f"hb-ray-{name}" / file).touch()
    # of one that has just been made, and of somebody else's
    (tmp_path / "hb-ray-new").mkdir()
    (tmp_path / "hb-ray-new" / IN_USE_FILE).touch()
    (tmp_path / "hb-ray-other").mkdir()
    held = [
        os.open(tmp_path / "hb-ray-kept" / KEPT_FILE, os.O_RDWR),
        os.open(tmp_path / "hb-ray-searched" / IN_USE_FILE, os.O_RDWR),
    ]
    fcntl.flock(held[0], fcntl.LOCK_EX)
    fcntl.flock(held[1], fcntl.LOCK_SH)
    assert enter(tmp_path, may_start=False, starts=lambda: None, is_unwanted=lambda: False) is None
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["hb-ray-kept", "hb-ray-new", "hb-ray-other", "hb-ray-searched"]
    for descriptor in held:
        os.close(descriptor)
