"""slow.py: jobs of two seconds, to be interrupted (README: Kill it, stop it, go on)."""

import sys
import time

import numpy as np


def get_random_config_id(rng: np.random.RandomState) -> str:
    """A number that decides the loss."""
    return f"x:{rng.uniform(0, 1):.3f}"


def run_identity(argv: list[str]) -> str:  # noqa: ARG001 - the contract's
    """The name of the search."""
    return "slow"


if __name__ == "__main__":
    time.sleep(2)
    epochs = int(sys.argv[sys.argv.index("--epochs") + 1])
    print(float(sys.argv[1][len("x:") :]) + 1 / epochs)
