"""The smallest honest experiment: everything that hyperband needs of a script, and nothing else.

    python hyperband.py dummy.py                                           # a search
    python dummy.py lr:0.03.momentum:0.9.batch_size:64 --epochs 9          # one run by hand

It pretends to train: the loss falls by about 10 % an epoch (each time a little more or less) towards a
floor that the hyperparameters set. The best ones are lr 0.03, momentum 0.9 and batch size 64; their
floor is 0.05.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np


def get_random_config_id(rng: np.random.RandomState) -> str:
    """A string that fully describes one random configuration."""
    lr = 10 ** rng.uniform(-4, 0)
    momentum = rng.uniform(0, 1)
    batch_size = 2 ** rng.randint(4, 10)
    return f"lr:{lr:.4g}.momentum:{momentum:.4g}.batch_size:{batch_size}"


def run_identity(argv: list[str]) -> str:
    """The name of the search that the script's own options mean: each model is a search of its own."""
    parser = argparse.ArgumentParser()
    add_own_options(parser)
    return f"dummy-{parser.parse_args(argv).model}"


def add_own_options(parser: argparse.ArgumentParser) -> None:
    """The options that hyperband does not know and hands on."""
    parser.add_argument("--model", choices=["small", "large"], default="small")
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of the runs that fail")


def floor_of(config_id: str, model: str) -> float:
    """The loss that this configuration would reach in the end."""
    match = re.fullmatch(r"lr:(.+)\.momentum:(.+)\.batch_size:(\d+)", config_id)
    if match is None:
        sys.exit(f"{config_id!r} is no configuration such as 'lr:0.03.momentum:0.9.batch_size:64'")
    lr, momentum, batch_size = float(match[1]), float(match[2]), int(match[3])
    distance = np.log10(lr / 0.03) ** 2 / 10 + (momentum - 0.9) ** 2 + np.log2(batch_size / 64) ** 2 / 100
    return 0.05 + float(distance) * (2 if model == "large" else 1)


def train(config_id: str, epochs: int, model: str, checkpoint: Path) -> float:
    """Train up to a total number of epochs and return the loss there."""
    seed = int(hashlib.sha256(config_id.encode()).hexdigest()[:8], 16)
    saved = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"epoch": 0, "above_floor": 1.0}
    # A checkpoint beyond the epochs that are asked for cannot be used; it stays for whoever needs it.
    state = saved if saved["epoch"] <= epochs else {"epoch": 0, "above_floor": 1.0}
    for epoch in range(int(state["epoch"]) + 1, epochs + 1):
        # What is random in an epoch depends on its number alone, so that 3 epochs and then
        # 6 more are the same as 9 at once.
        rng = np.random.RandomState([seed, epoch])
        state = {"epoch": epoch, "above_floor": state["above_floor"] * rng.uniform(0.8, 1)}
        if epoch > saved["epoch"]:
            save(state, checkpoint)
    return floor_of(config_id, model) + state["above_floor"]


def save(state: dict[str, float], checkpoint: Path) -> None:
    """Write beside, then rename: there is a whole checkpoint at every moment, whoever kills this run."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = checkpoint.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(state))
    unfinished.replace(checkpoint)


def main() -> None:
    """Run one configuration; the last line printed is the loss."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config_id")
    parser.add_argument("--epochs", type=int, required=True, help="total number, earlier runs' included")
    parser.add_argument("--gpu", help="the GPU to use; there is nothing to compute here")
    parser.add_argument("--multi_gpu", action="store_true", help="use all GPUs")
    add_own_options(parser)
    args = parser.parse_args()

    # A config id may be too long or too strange for a file name; its hash never is.
    name = hashlib.sha256(args.config_id.encode()).hexdigest()
    checkpoint = Path("dummy-checkpoints") / f"dummy-{args.model}" / f"{name}.json"
    dice = hashlib.sha256(f"{args.config_id} {args.epochs}".encode()).hexdigest()
    if int(dice, 16) / 16 ** len(dice) < args.fail_rate:
        sys.exit(f"failed as --fail-rate {args.fail_rate} asks for")
    print(f"training up to epoch {args.epochs} with the checkpoint {checkpoint}")
    print(train(args.config_id, args.epochs, args.model, checkpoint))


if __name__ == "__main__":
    main()
