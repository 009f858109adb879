"""What a study's folder has for a Ray cluster."""

import json
from pathlib import Path

from hyperband.launch.ray.files import RayFiles


def test_jobs_get_our_environment_and_nobody_gets_rays_secrets(tmp_path: Path) -> None:
    environ = {"PATH": "/bin", "MODEL": "large", "RAY_AUTH_TOKEN": "very-secret", "RAY_ADDRESS": "elsewhere"}
    files = RayFiles(tmp_path, address="auto", token=None, environ=environ)
    kept = json.loads(files.environment.read_text())["environment"]
    assert kept == {"PATH": "/bin", "MODEL": "large"}
    assert files.environment.stat().st_mode & 0o077 == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if b"very-secret" in path.read_bytes()] == []
