"""Train a small network on scikit-learn's handwritten digits: a real script for a real search.

    python hyperband.py examples/digits.py                      (search; `make digits` installs what it needs)
    python examples/digits.py lr:0.1.momentum:0.9.width:64.weight_decay:1e-05.batch_size:32 --epochs 9 --gpu 0

The network is plain numpy: rectified linear units, a softmax, minibatch gradient descent with momentum.
The loss is the percentage of the validation images that it reads wrongly.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

# On matrices this small the threads of numpy's BLAS cost many times what they save, the more so with several
# jobs at once. To be said before numpy is imported; what the user has set stays.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

N_PIXELS = 64
N_CLASSES = 10
N_VALIDATION = 360

Floats = NDArray[np.float64]
#: images, one a row (pixels from 0 to 1), and the digit that each shows
Examples = tuple[Floats, NDArray[np.int64]]


def get_random_config_id(rng: np.random.RandomState) -> str:
    """Draw one configuration; the string says all there is to know about it."""
    learning_rate = 10 ** rng.uniform(-3, 0)
    momentum = 1 - 10 ** rng.uniform(-2, 0)
    width = 2 ** rng.randint(3, 9)
    weight_decay = 10 ** rng.uniform(-6, -1)
    batch_size = 2 ** rng.randint(4, 9)
    return (
        f"lr:{learning_rate:.3g}.momentum:{momentum:.3g}.width:{width}"
        f".weight_decay:{weight_decay:.3g}.batch_size:{batch_size}"
    )


def run_identity(argv: Sequence[str]) -> str:
    """Name the search: every option that changes what a configuration's loss is stands in the name."""
    options = own_options().parse_args(argv)
    return f"digits-layers={options.hidden_layers}-seed={options.train_seed}"


def own_options() -> argparse.ArgumentParser:
    """The options that hyperband does not know and hands on."""
    parser = argparse.ArgumentParser(prog="digits.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--hidden-layers", type=int, default=1, help="each of the configuration's width")
    parser.add_argument("--train-seed", type=int, default=0, help="of first weights and order of images")
    return parser


@dataclass(frozen=True)
class Config:
    """What a config id says."""

    lr: float
    momentum: float
    width: int
    weight_decay: float
    batch_size: int

    @classmethod
    def parse(cls, config_id: str) -> "Config":
        """Read `name:value.name:value...`; a dot before a name ends a value, any other is part of it."""
        values = dict(re.findall(r"(\w+):(.+?)(?:\.(?=[a-z_]+:)|$)", config_id))
        return cls(
            lr=float(values["lr"]),
            momentum=float(values["momentum"]),
            width=int(values["width"]),
            weight_decay=float(values["weight_decay"]),
            batch_size=int(values["batch_size"]),
        )


def load_data() -> tuple[Examples, Examples]:
    """Return training and validation examples: the same split for every configuration."""
    from sklearn.datasets import load_digits  # slow: for jobs alone, not for who asks for a config id

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    images, labels = images[order] / 16, labels[order]
    training = images[N_VALIDATION:], labels[N_VALIDATION:]
    return training, (images[:N_VALIDATION], labels[:N_VALIDATION])


class Training:
    """A network in training: all that an epoch depends on and changes, so all that a checkpoint holds."""

    def __init__(self, config: Config, n_hidden_layers: int, seed: int) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)
        sizes = [N_PIXELS, *[config.width] * n_hidden_layers, N_CLASSES]
        #: weights and offsets of each layer in turn: shapes (n_in, n_out), (n_out,)
        self.parameters: list[Floats] = []
        for n_in, n_out in pairwise(sizes):
            self.parameters += [self.rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out)), np.zeros(n_out)]
        self.velocities = [np.zeros_like(parameter) for parameter in self.parameters]
        #: validation error in percent after each epoch: the loss at any epoch reached can be told again
        self.errors: list[float] = []

    def epoch(self, training: Examples, validation: Examples) -> None:
        """See every training example once, then look at the validation error."""
        images, labels = training
        order = self.rng.permutation(len(labels))
        for start in range(0, len(order), self.config.batch_size):
            batch = order[start : start + self.config.batch_size]
            self._step(images[batch], labels[batch])
        logits = self._forward(validation[0])[-1]
        wrong_percent = 100 * float(np.mean(logits.argmax(axis=1) != validation[1]))
        self.errors.append(wrong_percent if np.isfinite(logits).all() else float("nan"))

    def _forward(self, images: Floats) -> list[Floats]:
        """Return the images, what each hidden layer makes of them, and the logits."""
        values = [images]
        for layer in range(0, len(self.parameters), 2):
            weights, offsets = self.parameters[layer : layer + 2]
            is_last = layer + 2 == len(self.parameters)
            sums = values[-1] @ weights + offsets
            values.append(sums if is_last else np.maximum(sums, 0))
        return values

    def _step(self, images: Floats, labels: NDArray[np.int64]) -> None:
        """One step down the gradient of the mean cross entropy of a batch, by back-propagation."""
        *values, logits = self._forward(images)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope = exponentials / exponentials.sum(axis=1, keepdims=True)
        slope[np.arange(len(labels)), labels] -= 1
        slope /= len(labels)
        gradients: list[Floats] = []
        for layer in reversed(range(len(values))):
            weights = self.parameters[2 * layer]
            decay = self.config.weight_decay * weights
            gradients[:0] = [values[layer].T @ slope + decay, slope.sum(axis=0)]
            slope = (slope @ weights.T) * (values[layer] > 0)
        for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
            velocity *= self.config.momentum
            velocity -= self.config.lr * gradient
            parameter += velocity

    def save(self, path: Path) -> None:
        """Write a checkpoint that a power cut leaves either old or new, never half written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, self.errors, json.dumps(self.rng.bit_generator.state), *self._arrays())
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration, exactly as if training had never paused."""
        with np.load(path) as stored:
            errors, rng_state, *arrays = (stored[f"arr_{place}"] for place in range(len(stored.files)))
        self.errors = errors.tolist()
        self.rng.bit_generator.state = json.loads(str(rng_state))
        for own, array in zip(self._arrays(), arrays, strict=True):
            own[...] = array

    def _arrays(self) -> list[Floats]:
        return [*self.parameters, *self.velocities]


def loss_after(config_id: str, n_epochs: int, own: argparse.Namespace, checkpoint: Path) -> float:
    """Train up to `n_epochs` in all, or tell again what the loss was then; in percent, nan if it diverged."""
    training = Training(Config.parse(config_id), own.hidden_layers, own.train_seed)
    if checkpoint.exists():
        training.load(checkpoint)
    if len(training.errors) < n_epochs:
        data = load_data()
        with np.errstate(all="ignore"):  # a network that diverges is a result: the loss says nan
            while len(training.errors) < n_epochs:
                training.epoch(*data)
                training.save(checkpoint)
                print(f"epoch {len(training.errors)}: {training.errors[-1]:.2f} % wrong")
    return training.errors[n_epochs - 1]


def main() -> None:
    """Run one job: what hyperband calls with a config id and the total number of epochs."""
    parser = argparse.ArgumentParser(description="Train on the digits data.", allow_abbrev=False)
    parser.add_argument("config_id")
    parser.add_argument("--epochs", type=int, required=True, help="in all, those of the checkpoint included")
    device = parser.add_mutually_exclusive_group(required=True)
    device.add_argument("--gpu", help="where a network on GPUs would train; numpy has no use for it")
    device.add_argument("--multi_gpu", action="store_true")
    job, handed_on = parser.parse_known_args()
    name = hashlib.sha256(job.config_id.encode(errors="surrogateescape")).hexdigest()[:16]
    checkpoint = Path("digits-checkpoints", run_identity(handed_on), f"{name}.npz")
    print(loss_after(job.config_id, job.epochs, own_options().parse_args(handed_on), checkpoint))


if __name__ == "__main__":
    main()
