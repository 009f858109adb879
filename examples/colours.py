"""colours.py: a space of four configurations (README: More ways to search)."""

import sys

import numpy as np

COLOURS = {"red": 0.4, "green": 0.1, "blue": 0.3, "yellow": 0.2}


def get_random_config_id(rng: np.random.RandomState) -> str:
    """One of the colours."""
    return sorted(COLOURS)[rng.randint(len(COLOURS))]


def run_identity(argv: list[str]) -> str:  # noqa: ARG001 - the contract's
    """The name of the search."""
    return "colours"


if __name__ == "__main__":
    print(COLOURS[sys.argv[1]])
