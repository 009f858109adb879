"""Fifty kill -9 of the search at random moments; at full size it is a command of benchmarks/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).resolve().parents[1] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [sys.executable, str(KILLS), "--max-epochs", "9", "--kills", "50"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = {
        line.rsplit(maxsplit=1)[0].strip(): int(line.split()[-1]) for line in done.stdout.splitlines()[2:]
    }
    assert numbers["kill -9 of the search"] == 50
    assert numbers["jobs run to their end"] >= 22 * numbers["searches"]
    assert numbers["of these while the search was dead"] > 0
    assert numbers["promotions or losses differ"] == 0
