"""What a kind of fault is, and what a machine must have for it."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_campaign.scene import Scene
from fault_campaign.scripts import SCRIPT

Story = Callable[[Scene], None]


def nothing(_: Scene) -> None:
    """What a scene gets before its first search: nothing more."""


def everything() -> str | None:
    """What is missing for a kind that needs nothing."""
    return None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault: a script, options, and the story of a run."""

    name: str
    about: str
    #: starts the search, injects; what is not finished after it is started again until it is
    story: Story
    script: str = SCRIPT
    options: tuple[str, ...] = ("--gpus", "none", "--slots", "2")
    #: prepares the machine, also for the undisturbed search
    prepare: Story = nothing
    #: why it cannot be run here; None: it can
    missing: Callable[[], str | None] = everything
    #: the undisturbed search runs this script (by default the same)
    undisturbed: str = ""
    #: a model chooses what is tried: no search is like another, and each is held against its own journal
    is_guided: bool = False


@functools.cache
def no_mounts() -> str | None:
    """Why no small file system can be mounted here, or None."""
    if os.geteuid() != 0:
        return "only root may mount a small file system"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "faults", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return f"no small file system can be mounted here ({done.stderr.strip()})"
        subprocess.run(["umount", folder], check=True)
    return None


@functools.cache
def no_immutable_files() -> str | None:
    """Why a folder cannot be made read-only for root here, or None."""
    if os.geteuid() != 0 or shutil.which("chattr") is None:
        return "only root may make a folder immutable, with chattr"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["chattr", "+i", folder], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"a folder cannot be made immutable here ({done.stderr.strip()})"
        subprocess.run(["chattr", "-i", folder], check=True)
    return None


def no_compiler() -> str | None:
    """Why nothing can be compiled here, or None."""
    return None if shutil.which("gcc") else "gcc is not installed"


@functools.cache
def compiled(source: str, name: str) -> Path:
    """A shared library from C, made once."""
    folder = Path(tempfile.mkdtemp(prefix="faults-lib-"))
    atexit.register(shutil.rmtree, folder)
    (folder / f"{name}.c").write_text(source)
    library = folder / f"{name}.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", library, folder / f"{name}.c", "-ldl"], check=True)
    return library
