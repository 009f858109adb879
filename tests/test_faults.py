"""Every kind of fault of the campaign, once; at full size it is a command of benchmarks/."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import faults  # type: ignore[import-not-found]  # noqa: E402
from fault_campaign import checks, scripts  # type: ignore[import-not-found]  # noqa: E402
from fault_campaign.scene import Scene  # type: ignore[import-not-found]  # noqa: E402

FAULTS = BENCHMARKS / "faults.py"
N_GROUPS = 7
KINDS = [kind.name for kind in faults.KINDS]


def test_there_are_many_kinds() -> None:
    listed = subprocess.run(
        [sys.executable, str(FAULTS), "--list"], capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()] == KINDS
    assert len(KINDS) == len(set(KINDS)) >= 20


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", range(N_GROUPS))
def test_every_kind_once(tmp_path: Path, group: int) -> None:
    # neighbours, because many of them share one undisturbed search
    chosen = KINDS[group * len(KINDS) // N_GROUPS : (group + 1) * len(KINDS) // N_GROUPS]
    done = subprocess.run(
        [
            *(sys.executable, str(FAULTS), "--kinds", ",".join(chosen), "--runs", str(len(chosen))),
            *("--seed", str(group), "--parallel", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(chosen)} runs in " in done.stdout


#: in one worker, where that run is made once
of_one_run = pytest.mark.xdist_group("faults")
OPTIONS = ("--max-epochs", "3", "--gpus", "none", "--slots", "2")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """An undisturbed run that is over."""
    scene = Scene(tmp_path_factory.mktemp("first") / "run", 0, OPTIONS)
    scene.script.write_text(scripts.SCRIPT)
    try:
        assert scene.finish() == 0
    finally:
        scene.close()
    return scene


@pytest.fixture
def finished(first: Scene, tmp_path: Path) -> Iterator[Scene]:
    """A copy of it, to be changed."""
    scene = Scene(tmp_path / "run", 0, OPTIONS)
    shutil.copytree(first.folder, scene.folder, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    scene.document = first.document
    yield scene
    scene.close()


def columns(scene: Scene, wanted: Mapping[str, object]) -> set[str]:
    """The columns of the table in which a run counts."""
    checks.check(scene, wanted)
    return {column for column, _ in scene.wrong}


@of_one_run
def test_an_undisturbed_run_has_nothing_wrong(finished: Scene) -> None:
    assert columns(finished, finished.document) == set()


@of_one_run
def test_a_lost_result_is_found(finished: Scene) -> None:
    folder = finished.study / "jobs" / "000099-0"
    folder.mkdir()
    (folder / "result.json").write_text('{"exit_status": 0, "asked": null}')
    (folder / "stdout").write_text("0.5\n")
    assert columns(finished, finished.document) == {"results lost"}


@of_one_run
def test_a_second_run_of_a_job_is_found(finished: Scene) -> None:
    lines = finished.record.read_text().splitlines()
    start = next(line for line in lines if line.startswith("start "))
    finished.record.write_text("\n".join([*lines, start]) + "\n")
    assert columns(finished, finished.document) == {"run twice"}


@of_one_run
def test_an_epoch_that_was_trained_again_is_found(finished: Scene) -> None:
    lines = finished.record.read_text().splitlines()
    epoch = next(line for line in lines if line.startswith("epoch "))
    finished.record.write_text("\n".join([*lines, epoch]) + "\n")
    assert columns(finished, finished.document) == {"run twice"}


@of_one_run
def test_a_process_left_over_is_found(finished: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_PATIENCE_S", 0.2)
    # a process that has just been made shows no environment yet: one that speaks does
    speaks = ["sh", "-c", "echo; read never"]
    pipe = subprocess.PIPE
    with subprocess.Popen(speaks, env=finished.environment, stdin=pipe, stdout=pipe) as left:
        assert left.stdout is not None
        left.stdout.readline()
        found = columns(finished, finished.document)
        left.kill()
    assert found == {"left over"}


@of_one_run
def test_another_decision_is_found(finished: Scene) -> None:
    wanted = {**finished.document, "best": {"config_id": "x:0.5", "loss": 0.0, "epochs": 3}}
    assert columns(finished, wanted) == {"not as undisturbed"}


def guided_columns(scene: Scene, wanted: Mapping[str, object]) -> set[str]:
    """The same for a guided search, which is held against its own journal."""
    checks.check(scene, wanted, is_guided=True)
    return {column for column, _ in scene.wrong}


@of_one_run
def test_a_search_that_is_what_its_journal_says_has_nothing_wrong(finished: Scene) -> None:
    finished.note_journal()
    others = [{**trial, "config_id": "x:0.5"} for trial in finished.document["trials"]]
    assert len(finished.journals) == 1
    assert guided_columns(finished, {**finished.document, "trials": others, "best": None}) == set()


@of_one_run
def test_a_decision_that_the_journal_does_not_give_is_found(finished: Scene) -> None:
    wanted = finished.document
    finished.document = {**wanted, "best": {"config_id": "x:0.5", "loss": 0.0, "epochs": 3}}
    assert guided_columns(finished, wanted) == {"not as undisturbed"}


@of_one_run
def test_a_journal_that_was_rewritten_is_found(finished: Scene) -> None:
    finished.note_journal()
    (rows,) = finished.journals
    rows[3] = rows[2]
    assert guided_columns(finished, finished.document) == {"not as undisturbed"}


@of_one_run
def test_a_job_that_ran_another_id_than_its_trials_is_found(finished: Scene) -> None:
    lines = finished.record.read_text().splitlines()
    place, start = next((place, line) for place, line in enumerate(lines) if line.startswith("start "))
    word, folder, _, *rest = start.split()
    lines[place] = " ".join([word, folder, "x:0.5", *rest])
    finished.record.write_text("\n".join(lines) + "\n")
    assert guided_columns(finished, finished.document) == {"not as undisturbed"}


@of_one_run
def test_an_unclear_end_is_found(finished: Scene) -> None:
    finished.script.write_text("import no_such_module\n")
    assert finished.finish() == 2
    assert finished.wrong == []
    finished._check_end(1, "", "hyperband: it did not work.", "search")
    finished._check_end(1, "", 'hyperband: \n  File "/x/hyperband/journal.py", line 1, again', "search")
    finished._check_end(3, "", "", "search")
    assert [column for column, _ in finished.wrong] == ["unclear ends"] * 3
