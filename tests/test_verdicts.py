"""What a check found out is there for a later search of the same script and options, and for no other."""

import json
from pathlib import Path

import pytest

from hyperband.errors import MachineError
from hyperband.folder import refuse_foreign_folder
from hyperband.verdicts import Resuming, read_resuming, verdict_path, write_resuming


def test_a_verdict_is_found_again_for_the_same_script_and_options_alone(tmp_path: Path) -> None:
    path = write_resuming(
        tmp_path / "logs", "a/b", script_sha256="ab", script_args=["--m", "1"], verdict=Resuming.FROM_SCRATCH
    )
    assert path == verdict_path(tmp_path / "logs", "a/b")

    def read(identity: str = "a/b", sha256: str = "ab", *args: str) -> Resuming | None:
        return read_resuming(
            tmp_path / "logs", identity, script_sha256=sha256, script_args=args or ("--m", "1")
        )

    assert read() is Resuming.FROM_SCRATCH
    assert read("a/c") is None
    assert read("a/b", "cd") is None
    assert read("a/b", "ab", "--m", "2") is None


def test_a_later_verdict_replaces_an_earlier_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    for verdict in Resuming:
        write_resuming(tmp_path, "", script_sha256="ab", script_args=[], verdict=verdict)
        assert read_resuming(tmp_path, "", script_sha256="ab", script_args=[]) is verdict
    assert [path.name for path in (tmp_path / ".checks").iterdir()] == ["default.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"identity": "x"}', "\0"])
def test_a_damaged_verdict_counts_as_none(tmp_path: Path, content: str) -> None:
    path = write_resuming(tmp_path, "x", script_sha256="ab", script_args=[], verdict=Resuming.RESUMES)
    path.write_text(content)
    assert read_resuming(tmp_path, "x", script_sha256="ab", script_args=[]) is None


def test_a_verdict_of_another_version_counts_as_none(tmp_path: Path) -> None:
    path = write_resuming(tmp_path, "x", script_sha256="ab", script_args=[], verdict=Resuming.RESUMES)
    path.write_text(json.dumps({**json.loads(path.read_text()), "resuming": "perhaps"}))
    assert read_resuming(tmp_path, "x", script_sha256="ab", script_args=[]) is None


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(MachineError, match="cannot be kept"):
        write_resuming(tmp_path / "logs", "x", script_sha256="ab", script_args=[], verdict=Resuming.RESUMES)
    assert read_resuming(tmp_path / "logs", "x", script_sha256="ab", script_args=[]) is None


def test_a_verdict_makes_no_studys_folder(tmp_path: Path) -> None:
    write_resuming(tmp_path, "x", script_sha256="ab", script_args=[], verdict=Resuming.RESUMES)
    assert not (tmp_path / "x").exists()
    refuse_foreign_folder(tmp_path / "x")
