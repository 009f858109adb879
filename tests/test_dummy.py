"""dummy.py keeps the contract it is the example for: run as hyperband runs it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dummy
from hyperband.script.contract import check_config_id, job_argv, read_outcome
from hyperband.script.host import ScriptHost

SCRIPT = Path(dummy.__file__).absolute()
BEST = "lr:0.03.momentum:0.9.batch_size:64"
OTHER = "lr:0.2.momentum:0.1.batch_size:16"


def run(folder: Path, config_id: str, epochs: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = job_argv(
        python=sys.executable,
        script=str(SCRIPT),
        config_id=config_id,
        epochs=epochs,
        slot_arguments=("--gpu", "0"),
        script_args=arguments,
    )
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


def loss_of(folder: Path, config_id: str, epochs: int, *arguments: str) -> float:
    done = run(folder, config_id, epochs, *arguments)
    output = folder / "output"
    output.write_text(done.stdout)
    reading = read_outcome(output, done.returncode)
    assert reading.loss is not None, done.stderr
    return reading.loss


def checkpoints(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "dummy-checkpoints").rglob("*") if path.is_file()}


def test_three_then_nine_is_nine_straight(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "straight").mkdir()
    at_3 = loss_of(tmp_path / "steps", OTHER, 3)
    at_9 = loss_of(tmp_path / "steps", OTHER, 9)
    assert at_9 == loss_of(tmp_path / "straight", OTHER, 9)
    assert at_9 < at_3
    assert list(checkpoints(tmp_path / "steps").values()) == list(checkpoints(tmp_path / "straight").values())


def test_it_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    loss_of(tmp_path, BEST, 3)
    (path,) = checkpoints(tmp_path)
    path.write_text('{"epoch": 3, "above_floor": 0.0}')
    assert loss_of(tmp_path, BEST, 9) == pytest.approx(0.05)


def test_again_at_n_is_the_loss_at_n_again_and_writes_nothing(tmp_path: Path) -> None:
    first = loss_of(tmp_path, BEST, 9)
    before = checkpoints(tmp_path)
    assert loss_of(tmp_path, BEST, 9) == first
    assert checkpoints(tmp_path) == before


def test_a_checkpoint_beyond_n_is_not_used_for_n_and_stays(tmp_path: Path) -> None:
    at_3 = loss_of(tmp_path, BEST, 3)
    loss_of(tmp_path, BEST, 9)
    before = checkpoints(tmp_path)
    assert loss_of(tmp_path, BEST, 3) == at_3
    assert checkpoints(tmp_path) == before


def test_one_checkpoint_per_identity_and_configuration(tmp_path: Path) -> None:
    loss_of(tmp_path, BEST, 1)
    loss_of(tmp_path, OTHER, 1)
    loss_of(tmp_path, BEST, 1, "--model", "large")
    assert len(checkpoints(tmp_path)) == 3
    assert {path.parent.name for path in checkpoints(tmp_path)} == {"dummy-small", "dummy-large"}


def test_the_documented_optimum_is_the_optimum() -> None:
    ids = [dummy.get_random_config_id(np.random.RandomState(i)) for i in range(500)]
    floors = [dummy.floor_of(config_id, "small") for config_id in ids]
    assert dummy.floor_of(BEST, "small") == pytest.approx(0.05)
    assert min(floors) > 0.05
    assert max(floors) > 0.5
    assert len(set(ids)) == 500
    for config_id in ids:
        assert check_config_id(config_id) == config_id


def test_failures_are_decided_by_id_and_epochs(tmp_path: Path) -> None:
    def fails(config_id: str, epochs: int, rate: str) -> bool:
        done = run(tmp_path, config_id, epochs, "--fail-rate", rate)
        assert (done.returncode == 1) == ("--fail-rate" in done.stderr)
        return done.returncode != 0

    dice = int(hashlib.sha256(f"{BEST} 3".encode()).hexdigest(), 16) / 16**64
    assert fails(BEST, 3, str(dice + 0.01))
    assert fails(BEST, 3, str(dice + 0.01))
    assert not fails(BEST, 3, str(dice - 0.01))
    assert fails(OTHER, 1, "1")
    assert not fails(OTHER, 1, "0")


def test_many_gpus_and_no_gpu_are_the_same_to_it(tmp_path: Path) -> None:
    argv = [sys.executable, str(SCRIPT), BEST, "--epochs", "2"]
    outputs = {
        subprocess.run([*argv, *more], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for more in (["--multi_gpu"], ["--gpu", "3"], [])
    }
    assert len(outputs) == 1


def test_a_foreign_config_id_is_refused_in_words(tmp_path: Path) -> None:
    done = run(tmp_path, "width:7 ü/../x" * 100, 1)
    assert done.returncode == 1
    assert "is no configuration such as" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_kill_while_it_saves_leaves_the_checkpoint_whole(tmp_path: Path) -> None:
    at_9 = loss_of(tmp_path, BEST, 9)
    (path,) = checkpoints(tmp_path)
    path.unlink()
    loss_of(tmp_path, BEST, 3)
    path.with_suffix(".unfinished").write_text('{"epoch": 4, "abo')  # as a kill in the middle of writing does
    assert loss_of(tmp_path, BEST, 9) == at_9
    assert not path.with_suffix(".unfinished").exists()


def test_the_host_imports_it_and_its_options_name_the_search(tmp_path: Path) -> None:
    names = {(): "dummy-small", ("--model", "large", "--fail-rate", "0.5"): "dummy-large"}
    for arguments, identity in names.items():
        with ScriptHost(Path(sys.executable), SCRIPT, arguments, cwd=tmp_path, write_bytecode=False) as host:
            host.load()
            assert host.identity() == identity
    assert list(tmp_path.iterdir()) == []


def test_importing_it_loads_no_package_but_numpy() -> None:
    code = "import sys, numpy; before = set(sys.modules); import dummy; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True
    )
    assert {name.split(".")[0] for name in done.stdout.split()} - {"dummy"} <= set(sys.stdlib_module_names)


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 100
