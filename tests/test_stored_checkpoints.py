"""Old checkpoints in a storage go beside the search, and what stands in their way is said."""

import json
import sys
from pathlib import Path

import pytest
from study_fixture import play, settings, small_plan

from hyperband.folder import job_folder
from hyperband.search.engine import Engine
from hyperband.search.events import JobEnded
from hyperband.study.stored_checkpoints import StoredCheckpoints


def test_what_speaks_with_a_storage_and_cannot_be_started_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = settings(tmp_path, storage=f"file://{tmp_path}/store", ray_files="sent", checkpoints="{config_id}")
    events = play(small_plan(), used)
    engine = Engine()
    for event in events:
        engine.handle(event)
    for event in events:
        if isinstance(event, JobEnded):
            folder = job_folder(tmp_path, event.job, event.attempt)
            folder.mkdir(parents=True)
            sealed = {"attempt": f"a{event.job}", "n_files": 1, "n_bytes": 1}
            left = {"checkpoint": {"sealed": sealed, "storage": used.storage}}
            (folder / "result.json").write_text(json.dumps(left))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    checkpoints = StoredCheckpoints(used, engine=engine, study_folder=tmp_path)
    checkpoints.recover(events)
    assert checkpoints.finish() is None
    (words,) = checkpoints.news
    assert words.startswith("Old checkpoints stay in the storage for now: ")
    assert "cannot be started: No such file or directory" in words
