"""What a study's folder has for a Ray cluster."""

import binascii
import json
from pathlib import Path
from typing import Any

import pytest

from hyperband.errors import MachineError
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.laying import Laying
from hyperband.launch.remote.files import read_ending
from hyperband.report.again import NOT_STORED, STARTED_OVER, not_stored, started_over


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


def an_attempt(folder: Path) -> Laying:
    """A folder whose attempt A is a node's, and what comes from there is laid into."""
    (folder / "order.json").write_text(json.dumps({"attempt": "A", "lease_s": 60.0}))
    (folder / "claim").write_text(json.dumps({"attempt": "A", "token": "ours", "by": "node", "host": "n"}))
    return Laying(folder, "A")


def a_part(*, stdout: bytes = b"", n_answers: int = 1, result: object = None) -> dict[str, Any]:
    """What comes from a node."""
    parts = {"stdout": stdout, "stderr": b""}
    return {"parts": parts, "keeper": b"", "n_answers": n_answers, "age_s": 1.0, "result": result}


def test_whoever_reads_a_result_knows_what_became_of_its_checkpoints(tmp_path: Path) -> None:
    done = {
        **{"attempt": "A", "exit_status": 0, "asked": None, "started_at": 1.0, "ended_at": 2.0},
        **{"leftovers": [], "never_ran": False, "n_oom_kills": 0, "memory_peak_bytes": 0, "cpu_s": 0.0},
    }
    done["checkpoint"] = {"started_over": "it is gone", "sealed": None, "why": "it could not be stored"}
    assert an_attempt(tmp_path).lay(a_part(result=done))
    ending = read_ending(tmp_path)
    assert ending.exit_status == 0
    assert ending.note == f"{STARTED_OVER}: it is gone; it could not be stored"
    again = tmp_path / "again"
    again.mkdir()
    why = f"{NOT_STORED}: in s3://bucket/x: No such file or directory"
    done["checkpoint"] = {"started_over": why, "sealed": None, "why": why}
    assert an_attempt(again).lay(a_part(result=done))
    note = read_ending(again).note
    assert note == f"{STARTED_OVER}: none could be stored before; {why}"
    assert started_over(note)
    assert not_stored(note)


def test_output_that_a_script_cut_short_is_fetched_anew(tmp_path: Path) -> None:
    laying, said = an_attempt(tmp_path), b"0.5\n"  # such as by `echo 0.5 >/dev/stdout`, which truncates it
    result = {"attempt": "A", "stdout_bytes": len(said), "stdout_crc32": binascii.crc32(said)}
    assert not laying.lay(a_part(stdout=b"epoch 1\nepoch 2\n"))
    assert not laying.lay(a_part(n_answers=2, result=result))
    assert laying.offsets == {"stdout": 0, "stderr": 0}
    assert not (tmp_path / "result.json").exists()
    assert laying.lay(a_part(stdout=said, n_answers=3, result=result))
    assert (tmp_path / "stdout").read_bytes() == said
    # what was damaged on its node is so every time, and is for whoever reads it
    other = Laying(tmp_path, "A")
    assert not other.lay(a_part(n_answers=4, result={**result, "stdout_bytes": 9}))
    assert other.lay(a_part(stdout=said, n_answers=5, result={**result, "stdout_bytes": 9}))


def test_what_a_slot_refused_never_ran(tmp_path: Path) -> None:
    an_attempt(tmp_path).lay_unbegun("RuntimeError: the attempt B is here already")
    ending = read_ending(tmp_path)
    assert (ending.never_ran, ending.exit_status) == (True, None)
    assert ending.note == "n: RuntimeError: the attempt B is here already"


def test_a_disk_that_is_full_here_does_not_make_a_node_seem_gone(tmp_path: Path) -> None:
    laying = an_attempt(tmp_path)
    (tmp_path / "stdout").symlink_to("/dev/full")
    assert not laying.lay(a_part())
    before = (tmp_path / "lease").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        laying.lay(a_part(stdout=b"0.5\n", n_answers=2))
    assert (tmp_path / "lease").read_bytes() != before
