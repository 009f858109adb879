"""Cells on request: a process in one peer's environment that simulates what it is asked for, line by line.

`python -m efficiency.serve DATA DRIVER` reads one JSON object a line from stdin (`method`, `task`, `seed`,
`workers`, `horizon_s`) and answers each with one on stdout: `improvements` as (seconds, error), `n_jobs`,
`n_epochs`, `wall_s`, or `failure`. What a peer prints itself goes to stderr. Must not import what the peers'
environments lack.
"""

import importlib
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from efficiency.clock import simulate
from efficiency.landscape import Landscape


def simulated(landscape: Landscape, driver: str, request: dict[str, Any]) -> dict[str, Any]:
    """One cell."""
    random.seed(request["seed"])
    np.random.seed(request["seed"])  # what several peers draw from
    began_s = time.perf_counter()
    make = importlib.import_module(f"efficiency.{driver}").make
    method = make(landscape, seed=request["seed"], n_workers=request["workers"], name=request["method"])
    found = simulate(
        method,
        lambda values: landscape.curve(request["task"], values),
        n_workers=request["workers"],
        horizon_s=request["horizon_s"],
    )
    return {
        "improvements": found.improvements,
        "n_jobs": found.n_jobs,
        "n_epochs": found.n_epochs,
        "wall_s": round(time.perf_counter() - began_s, 2),
    }


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a peer's own words are no answers
    landscape = Landscape(Path(sys.argv[1]))
    for line in sys.stdin:
        try:
            answer = simulated(landscape, sys.argv[2], json.loads(line))
        except Exception:  # noqa: BLE001  # whatever a peer raises is the answer for this cell
            answer = {"failure": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
