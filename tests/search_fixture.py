"""Whole searches as a user runs them: `python hyperband.py ... SCRIPT` in a folder of their own.

Without a guide unless a test asks for one: what is tried then depends on seed and trial number alone.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HYPERBAND = Path(__file__).resolve().parents[1] / "hyperband.py"
SAMPLER = """
def get_random_config_id(rng):
    return f"x:{rng.uniform(0, 1):.9f}"
"""
IDENTITY = """
def run_identity(argv):
    return "study"
"""
MAIN = """
if __name__ == "__main__":
    import sys
    config_id, epochs = sys.argv[1], int(sys.argv[sys.argv.index("--epochs") + 1])
"""
LOSS = "print(float(config_id[2:]) + 1 / epochs)"


def script(main: str = LOSS, *, sampler: str = SAMPLER, identity: str = IDENTITY, top: str = "") -> str:
    """Return the text of a script that honours the contract but for what is given."""
    body = textwrap.indent(textwrap.dedent(main), "    ")
    return f"{textwrap.dedent(top)}{textwrap.dedent(sampler)}{identity}{MAIN}{body}\n"


@dataclass(frozen=True)
class Ran:
    """A search that has ended."""

    exit_code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON that `--json` printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found


class Searches:
    """Starts searches in one folder; each runs on CPU slots unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "script.py"
        self.environment: dict[str, str] = {}
        self._started: list[subprocess.Popen[str]] = []

    @property
    def study(self) -> Path:
        """The study's folder, for scripts whose identity is `study`."""
        return self.folder / "logs" / "study"

    def write(self, text: str) -> None:
        """Write the script."""
        self.path.write_text(text)

    def start(
        self,
        *options: str,
        gpus: str | None = "none",
        guide: str | None = "none",
        cwd: Path | None = None,
        as_json: bool = True,
        after: Sequence[str] = (),
    ) -> subprocess.Popen[str]:
        """Start a search and return its process; standard output is the JSON of its end."""
        argv = [sys.executable, str(HYPERBAND), *(["--json"] if as_json else [])]
        argv += [] if guide is None else ["--guide", guide]
        argv += [] if gpus is None else ["--gpus", gpus]
        argv += [*options, str(self.path), *after]
        return self.start_argv(argv, cwd=cwd)

    def start_argv(self, argv: Sequence[str], *, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start a command that is or runs a search, and return its process."""
        search = subprocess.Popen(
            argv,
            cwd=cwd or self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(search)
        return search

    def run(
        self,
        *options: str,
        gpus: str | None = "none",
        guide: str | None = "none",
        cwd: Path | None = None,
        as_json: bool = True,
        after: Sequence[str] = (),
    ) -> Ran:
        """Run a search to its end."""
        return self.wait(self.start(*options, gpus=gpus, guide=guide, cwd=cwd, as_json=as_json, after=after))

    def wait(self, search: subprocess.Popen[str]) -> Ran:
        """Wait for the end of a search."""
        out, err = search.communicate(timeout=240)
        return Ran(search.returncode, out, err)

    def kill(self, search: subprocess.Popen[str]) -> None:
        """End a search as a power cut would."""
        search.send_signal(signal.SIGKILL)
        search.communicate()

    def command(self, *words: str) -> Ran:
        """Run another command of ours to its end."""
        return self.wait(self.start_words(*words))

    def start_words(self, *words: str) -> subprocess.Popen[str]:
        """Start another command of ours."""
        return self.start_argv([sys.executable, str(HYPERBAND), *words])

    def close(self) -> None:
        """End what a failed test left."""
        for search in self._started:
            if search.poll() is None:
                search.kill()
            if search.stdout is not None and not search.stdout.closed:
                search.communicate()


@pytest.fixture
def searches(tmp_path: Path) -> Iterator[Searches]:
    """Searches in a folder with a name that has to be quoted."""
    folder = tmp_path / "it's a $folder"
    folder.mkdir()
    found = Searches(folder)
    yield found
    found.close()


def one_job(ran: Ran) -> Mapping[str, Any]:
    """Return the only job of a search that had one."""
    (job,) = ran.document["jobs"]
    found: Mapping[str, Any] = job
    return found


def until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    """Wait for something that gives no event to a test, with a limit."""
    ends_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < ends_s, f"waited {patience_s} s in vain: {what}"
        time.sleep(0.01)
