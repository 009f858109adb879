"""Old checkpoints in a storage go beside the search, and what stands in their way is said."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from study_fixture import play, settings, small_plan

from hyperband.folder import job_folder
from hyperband.search.engine import Engine
from hyperband.search.events import JobEnded
from hyperband.study import stored_checkpoints
from hyperband.study.stored_checkpoints import StoredCheckpoints

STILL = "Old checkpoints stay in the storage for now: "
#: the first one answers as where a storage hangs, and ends
HANGS_ONCE = """
import pathlib, sys
path = pathlib.Path({path!r})
hangs = not path.exists()
path.touch()
for _ in sys.stdin:
    print('{{"ok": false, "why": "no answer"}}' if hangs else '{{"ok": true}}', flush=True)
    if hangs:
        break
"""


@pytest.fixture
def checkpoints(tmp_path: Path) -> Callable[[], StoredCheckpoints]:
    """Makes those of a study of which some have to go."""
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

    def make() -> StoredCheckpoints:
        found = StoredCheckpoints(used, engine=engine, study_folder=tmp_path)
        found.recover(events)
        return found

    return make


def test_what_speaks_with_a_storage_and_cannot_be_started_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: Callable[[], StoredCheckpoints]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    found = checkpoints()
    assert found.finish() is None
    (words,) = found.news
    assert words.startswith(STILL)
    assert "cannot be started: No such file or directory" in words


def test_a_storage_that_hung_once_is_spoken_with_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: Callable[[], StoredCheckpoints]
) -> None:
    monkeypatch.setattr(stored_checkpoints, "_RUN", HANGS_ONCE.format(path=str(tmp_path / "hung")))
    found = checkpoints()
    removed = found.finish()
    assert found.news == [f"{STILL}no answer"]
    n_superseded = len(list((tmp_path / "jobs").glob("*/checkpoint.removed")))
    assert n_superseded + (0 if removed is None else len(removed.trials)) > 1
