"""The example of a real training script: it learns, and it keeps every clause of the contract."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "digits.py"
GOOD = "lr:0.1.momentum:0.9.width:64.weight_decay:1e-05.batch_size:32"
OTHER = "lr:0.0178.momentum:0.724.width:16.weight_decay:3.25e-05.batch_size:16"
DIVERGES = "lr:1e300.momentum:0.9.width:16.weight_decay:0.1.batch_size:256"


def train(folder: Path, config_id: str, n_epochs: int, *more: str) -> str:
    """Run one job with `folder` as its working directory; return the last line, as hyperband reads it."""
    options = more or ("--gpu", "0")
    command = [sys.executable, str(SCRIPT), config_id, "--epochs", str(n_epochs), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()[-1]


def checkpoint(folder: Path) -> Path:
    (found,) = folder.glob("digits-checkpoints/*/*.npz")
    return found


def state(path: Path) -> dict[str, tuple[str, bytes]]:
    with np.load(path) as stored:
        return {name: (str(stored[name].dtype), stored[name].tobytes()) for name in stored.files}


@pytest.fixture
def digits() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("digits", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["digits"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["digits"]


def test_resumed_training_equals_training_in_one_go_bit_for_bit_and_any_epoch_is_told_again(
    tmp_path: Path,
) -> None:
    paused, straight = tmp_path / "paused", tmp_path / "straight"
    paused.mkdir()
    straight.mkdir()
    at_three = train(paused, OTHER, 3)
    # as left by a job that was killed while saving
    checkpoint(paused).with_suffix(".partial").write_bytes(b"half a file")
    assert train(paused, OTHER, 3) == at_three
    at_nine = train(straight, OTHER, 9)
    assert train(paused, OTHER, 9) == at_nine != at_three
    assert not list(paused.glob("digits-checkpoints/*/*.partial"))
    before = state(checkpoint(straight))
    assert state(checkpoint(paused)) == before
    assert train(paused, OTHER, 3) == at_three
    assert state(checkpoint(paused)) == before


def test_a_good_configuration_learns_and_each_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    train(tmp_path, OTHER, 1)
    train(tmp_path, OTHER, 1, "--multi_gpu", "--train-seed", "1")
    assert float(train(tmp_path, GOOD, 9)) < 10
    folders = sorted(path.parent.name for path in tmp_path.glob("digits-checkpoints/*/*.npz"))
    assert folders == ["digits-layers=1-seed=0", "digits-layers=1-seed=0", "digits-layers=1-seed=1"]


def test_more_hidden_layers_learn_too(tmp_path: Path) -> None:
    assert float(train(tmp_path, GOOD, 9, "--gpu", "0", "--hidden-layers", "2")) < 10


def test_a_network_that_diverges_says_so(tmp_path: Path) -> None:
    assert train(tmp_path, DIVERGES, 2) == "nan"


def test_a_config_id_says_all_that_is_trained(digits: ModuleType) -> None:
    rng = np.random.RandomState(7)
    for _ in range(200):
        config_id = digits.get_random_config_id(rng)
        config = digits.Config.parse(config_id)
        assert config_id == (
            f"lr:{config.lr:.3g}.momentum:{config.momentum:.3g}.width:{config.width}"
            f".weight_decay:{config.weight_decay:.3g}.batch_size:{config.batch_size}"
        )
        assert 0 < config.lr <= 1
        assert 0 <= config.momentum < 1
        assert 8 <= config.width <= 256


def test_the_identity_names_what_changes_a_loss(digits: ModuleType) -> None:
    variants = [[], ["--hidden-layers", "2"], ["--train-seed", "1"]]
    assert len({digits.run_identity(argv) for argv in variants}) == len(variants)


def test_gradients_are_those_of_the_cross_entropy(digits: ModuleType) -> None:
    """Back-propagation against central differences, through one step with learning rate 1."""
    rng = np.random.default_rng(3)
    images, labels = rng.random((5, 64)), np.array([0, 3, 3, 9, 7])
    config = digits.Config(lr=1.0, momentum=0.0, width=4, weight_decay=0.0, batch_size=5)

    def cross_entropy(training: object) -> float:
        logits = training._forward(images)[-1]  # type: ignore[attr-defined]
        top = logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        return float(np.mean(log_sums - logits[np.arange(len(labels)), labels]))

    stepped = digits.Training(config, 2, seed=0)
    stepped._step(images, labels)
    probed = digits.Training(config, 2, seed=0)
    for parameter, velocity in zip(probed.parameters, stepped.velocities, strict=True):
        place = tuple(rng.integers(size) for size in parameter.shape)
        kept, small = parameter[place], 1e-6
        parameter[place] = kept + small
        above = cross_entropy(probed)
        parameter[place] = kept - small
        below = cross_entropy(probed)
        parameter[place] = kept
        assert -velocity[place] == pytest.approx((above - below) / (2 * small), rel=1e-4, abs=1e-7)


def test_importing_the_script_is_cheap() -> None:
    code = "import sys, digits; print('sklearn' in sys.modules)"
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=SCRIPT.parent, text=True)
    assert printed.strip() == "False"
