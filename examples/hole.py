"""hole.py: slot 0 is broken, and whatever runs there fails at once (README: When jobs fail)."""

import sys
import time

import numpy as np


def get_random_config_id(rng: np.random.RandomState) -> str:
    """A number that is its own loss."""
    return f"x:{rng.uniform(0, 1):.3f}"


def run_identity(argv: list[str]) -> str:  # noqa: ARG001 - the contract's
    """The name of the search."""
    return "hole"


if __name__ == "__main__":
    if sys.argv[sys.argv.index("--gpu") + 1] == "0":
        raise RuntimeError("no CUDA-capable device is detected")
    time.sleep(0.5)
    print(float(sys.argv[1][len("x:") :]))
