"""The virtual environments of the peers: one each where they clash, with pinned versions, made by pip.

Owns what is installed where. Must not know how a peer is driven.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

#: environment -> what pip installs there; the first is the peer itself, whose version stands in its cells
PINS: dict[str, tuple[str, ...]] = {
    "optuna": ("optuna==5.0.0", "numpy==2.4.6"),
    # it calls functions that numpy 2 lacks
    "syne-tune-0.13": ("syne-tune[gpsearchers]==0.13.0", "autograd==1.9.1", "numpy==1.26.4", "scipy==1.17.1"),
    # its conformal searcher imports the repository of recorded benchmarks, and that the hub: neither is used
    "syne-tune-0.16": (
        "syne-tune[basic,blackbox-repository]==0.16.0",
        "huggingface_hub==2.4.0",
        "numpy==2.4.6",
        "scikit-learn==1.9.1",
        "scipy==1.17.1",
    ),
    "dehb": ("dehb==0.1.2", "ConfigSpace==1.2.2", "numpy==1.26.4"),
    "smac": ("smac==2.4.1", "ConfigSpace==1.2.2", "numpy==2.4.6", "scikit-learn==1.9.1"),
    # with a newer ConfigSpace its model fails at every call, and it draws at random with a warning
    "hpbandster": (
        "hpbandster==0.7.4",
        "ConfigSpace==0.7.1",
        "numpy==1.26.4",
        "pandas==2.2.3",
        "scipy==1.11.4",
        "statsmodels==0.14.6",
    ),
}
#: written last: what an environment was made from
_STAMP = "made-from.txt"


class NoEnvironment(Exception):
    """A peer's environment is missing, or was made from other versions."""


def version(environment: str) -> str:
    """`optuna 5.0.0`: the peer without its extras."""
    name, _, number = PINS[environment][0].partition("==")
    return f"{name.partition('[')[0]} {number}"


def python(folder: Path, environment: str) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        NoEnvironment: it is not there, or not as pinned.
    """
    home = folder / environment
    stamp = home / _STAMP
    if not stamp.is_file():
        raise NoEnvironment(
            f"{home} is no environment made by this script, but {version(environment)} runs in it. Make it "
            f"with --make-environments {folder}, or leave its methods out with --methods."
        )
    if stamp.read_text().split() != list(PINS[environment]):
        raise NoEnvironment(
            f"{home} was made from {stamp.read_text().split()}, but pinned are {list(PINS[environment])}. "
            f"Make it again with --make-environments {folder}."
        )
    return home / "bin" / "python"


def make(folder: Path, names: list[str]) -> None:
    """Make every environment that is not there as pinned.

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    for name in names:
        try:
            python(folder, name)
            continue
        except NoEnvironment:
            pass
        home = folder / name
        print(f"{home}: {' '.join(PINS[name])}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINS[name]], check=True, env={**os.environ, "PIP_NO_INPUT": "1"})
        (home / _STAMP).write_text("\n".join(PINS[name]) + "\n")
