"""Old checkpoints in a storage go beside the search, and what stands in their way is said."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from study_fixture import play, settings, small_plan

from hyperband.folder import job_folder
from hyperband.report.again import NOT_STORED
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted
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


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_storage_that_never_took_a_checkpoint_ends_the_search_at_the_third(
    tmp_path: Path, keep_going: bool
) -> None:
    uri = "file:///proc/nowhere"
    used = settings(tmp_path, storage=uri, ray_files="sent", checkpoints="{config_id}", keep_going=keep_going)
    played = [
        replace(event, note=f"{NOT_STORED}: a reason") if isinstance(event, JobEnded) else event
        for event in play(small_plan(), used, n_ends=6)
    ]

    def of_a_start(events: list[Event], n_before: int, n_running: int = 0) -> tuple[int | None, list[str]]:
        """Feed a start that finds so many ends, and so many jobs that run; after how many does it end?"""
        ends = [event for event in events if isinstance(event, JobEnded)]
        began = [event for event in events if isinstance(event, JobStarted)][n_before : n_before + n_running]
        before = [*events[: events.index(ends[n_before - 1]) + 1], *began] if n_before else []
        engine = Engine()
        for event in before:
            engine.handle(event)
        found = StoredCheckpoints(used, engine=engine, study_folder=tmp_path)
        found.recover(before)
        for n, event in enumerate(ends[n_before:], start=1):
            found.note_end(0, event)
            if found.failure is not None:
                assert uri in str(found.failure)
                assert "a reason" in str(found.failure)
                assert "the same command goes on" in str(found.failure)
                return n, found.news
        return None, found.news

    n, (said,) = of_a_start(played, 0)
    assert n == (None if keep_going else 3)
    assert (said.startswith("Warning: no checkpoint") and uri in said) if keep_going else "ends" in said
    if not keep_going:
        # the same command with a storage that was mended is not ended by what it finds
        assert of_a_start(played, 3)[0] == 3
        assert of_a_start(played, 2, n_running=1)[0] == 4
        first = next(event for event in played if isinstance(event, JobEnded))
        stored: list[Event] = [replace(first, note="") if event is first else event for event in played]
        assert of_a_start(stored, 0) == (None, [])
        assert of_a_start(stored, 2) == (None, [])
