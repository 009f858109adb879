"""What a study's folder has for a Ray cluster."""

import json
from pathlib import Path

import pytest

from hyperband.errors import MachineError
from hyperband.launch.ray.files import RayFiles


def test_a_study_that_was_moved_while_nodes_may_look_for_it_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    name = RayFiles(old, address="auto", token=None, environ={}).name
    (tmp_path / "alias").symlink_to(old)
    assert RayFiles(tmp_path / "alias", address="auto", token=None, environ={}).name == name
    old.rename(new)
    with pytest.raises(MachineError, match=f"was {tmp_path}/alias .* `hyperband stop {new}`"):
        RayFiles(new, address="auto", token=None, environ={})
    sent = tmp_path / "sent"
    sent.mkdir()
    name = RayFiles(sent, address="auto", token=None, environ={}, files="sent").name
    sent.rename(old)
    assert RayFiles(old, address="auto", token=None, environ={}, files="sent").name == name


def test_jobs_get_our_environment_and_nobody_gets_rays_secrets(tmp_path: Path) -> None:
    environ = {"PATH": "/bin", "MODEL": "large", "RAY_AUTH_TOKEN": "very-secret", "RAY_ADDRESS": "elsewhere"}
    files = RayFiles(tmp_path, address="auto", token=None, environ=environ)
    kept = json.loads(files.environment.read_text())["environment"]
    assert kept == {"PATH": "/bin", "MODEL": "large"}
    assert files.environment.stat().st_mode & 0o077 == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if b"very-secret" in path.read_bytes()] == []
