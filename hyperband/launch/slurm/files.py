"""The folder `slurm/` of a study: the name of its allocations, their script, log and holders' files.

Owns these names and what is written there. Must not know: what is asked of Slurm when, or jobs.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.folder import SLURM_FOLDER
from hyperband.launch.remote.shipping import ship
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.held.events import Ready
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.words import expanded
from hyperband.machine.claim import write_whole
from hyperband.machine.holder import write_wanted

#: an allocation that no search has wanted for so long, and in which no job runs, ends by itself
GIVE_UP_S = 900.0
_NAME_FILE = "name"
_SCRIPT_FILE = "allocation.sh"
_LOG_FILE = "allocations.log"
_HOLDERS_FOLDER = "holders"
_STEPS_FOLDER = "steps"
_NAME_LENGTH = 24
#: so much of the end of a log is looked at
_SAID_BYTES = 1 << 12
#: what stands before the words of a shell, of ourselves and of Slurm
_WHO_SAYS = re.compile(r"^(\S+: line \d+: |hyperband: |(slurmstepd|slurm_script)\S*: (error: )?)")
#: what names begin with, by the mode that asks for jobs of such a name
_MODE_OF = {"hb-": "held", "hbj-": "jobs"}


def read_name(study: Path) -> str | None:
    """Return the name of a study's allocations, or jobs; None: nothing was asked for that may be there."""
    try:
        return (study / SLURM_FOLDER / _NAME_FILE).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def mode_of(name: str) -> str:
    """Return the `--slurm-mode` that has jobs of this name."""
    return next((mode for begin, mode in _MODE_OF.items() if name.startswith(begin)), "held")


def open_folder(study: Path, profile: Profile, *, mode: str, script: str, within: Sequence[str]) -> str:
    """Make the folder of a study for what Slurm runs and writes, or find it; return the name of its jobs.

    A new name is not written down before something is asked for under it; see note_name.

    Args:
        study: its folder, shared with the nodes.
        profile: with the setup lines of the script.
        mode: `--slurm-mode`.
        script: name of the file with what sbatch is given.
        within: folders in it.

    Raises:
        MachineError: it cannot be written to.
    """
    folder = study / SLURM_FOLDER
    try:
        for path in (folder, *(folder / name for name in within)):
            path.mkdir(exist_ok=True)
        # environments lie here, which may hold secrets
        folder.chmod(0o700)
        write_whole(str(folder), script, slurm_text.batch_script(profile).encode(), mode=0o700)
        name = read_name(study)
        if name is None:
            words = re.sub(r"[^A-Za-z0-9_.-]+", "-", study.name)[:_NAME_LENGTH]
            begin = next(begin for begin, other in _MODE_OF.items() if other == mode)
            name = f"{begin}{words}-{uuid.uuid4().hex[:8]}"
    except OSError as err:
        raise MachineError(
            f"cannot write what Slurm needs into {folder}: {err.strerror or err}; make room, or "
            "make the study's folder writable, and start the same command again"
        ) from err
    return name


def note_name(study: Path, name: str) -> None:
    """Note that Slurm is about to be asked for something under this name, and may have it from now on.

    Raises:
        OSError: that cannot be written.
    """
    if read_name(study) is None:
        write_whole(str(study / SLURM_FOLDER), _NAME_FILE, f"{name}\n".encode())


def forget_name(study: Path) -> None:
    """Note that a study has no allocations any more."""
    with contextlib.suppress(FileNotFoundError):
        (study / SLURM_FOLDER / _NAME_FILE).unlink()


def say_unwanted(study: Path) -> None:
    """Tell the holders of a study, also those of allocations still to come, that no search wants them.

    Raises:
        OSError: its folder cannot be written to.
    """
    with contextlib.suppress(FileNotFoundError):  # there were none
        write_wanted(str(study / SLURM_FOLDER / _HOLDERS_FOLDER), "", name="")


def last_said(log: Path) -> str:
    """Return what the script of a job said last in a log, for messages; empty: nothing, or it cannot be read.

    A setup line that failed is named after what it said itself: that is told with it.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _SAID_BYTES))
            lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""  # where it is the message says
    found = [_WHO_SAYS.sub("", line) for line in lines if line][-2:]
    are_of_setup = [line.startswith(slurm_text.SETUP_FAILED) for line in found]
    return "; ".join(found if are_of_setup == [False, True] else found[-1:])


@dataclass(frozen=True, slots=True)
class Held:
    """What the holder of an allocation wrote down."""

    ready: Ready
    #: the environment that the setup lines made
    path: Path


class SlurmFiles:
    """One study's folder for what Slurm runs and writes."""

    def __init__(self, study: Path, profile: Profile, cwd: Path) -> None:
        """Make it, or find it.

        Args:
            study: its folder, shared with the nodes.
            profile: what allocations are.
            cwd: where jobs run.

        Raises:
            MachineError: it cannot be written to.
        """
        self.study = study
        self.folder = study / SLURM_FOLDER
        self.log = self.folder / _LOG_FILE
        self.steps = self.folder / _STEPS_FOLDER
        self._holders = self.folder / _HOLDERS_FOLDER
        self._profile = profile
        self._cwd = cwd
        #: by name and identity of a file: they are written once
        self._known: dict[tuple[str, int, int], Held] = {}
        self._n_wanted = 0
        self.name = open_folder(
            study, profile, mode="held", script=_SCRIPT_FILE, within=(_HOLDERS_FOLDER, _STEPS_FOLDER)
        )
        self._holder = ship(study, modules=("holder",), main="holder")
        self.node = ship(study)

    @property
    def may_have_jobs(self) -> bool:
        """Whether Slurm may have something of this study: it was asked for that, by whichever start."""
        return read_name(self.study) is not None

    def note_asked(self) -> None:
        """Note that an allocation is about to be asked for.

        Raises:
            OSError: that cannot be written.
        """
        note_name(self.study, self.name)

    def allocation_argv(self, exclude: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the arguments of sbatch for one more allocation; exclude: nodes, besides the profile's."""
        excluded = ",".join(filter(None, (self._profile.exclude, *exclude)))
        hold = ("hold", str(self._holders), f"{GIVE_UP_S:g}")
        return slurm_text.allocation_argv(
            replace(self._profile, exclude=excluded or None),
            name=self.name,
            comment=f"hyperband {self.study}",
            log=self.log,
            cwd=self._cwd,
            script=self.folder / _SCRIPT_FILE,
            command=(sys.executable, "-I", "-S", str(self._holder), *hold),
        )

    def step_argv(self, job_id: str, node: str, name: str) -> tuple[str, ...]:
        """Return the arguments of srun for a keeper that waits on a node for its job."""
        return slurm_text.step_argv(
            self._profile,
            job_id=job_id,
            node=node,
            name=name,
            cwd=self._cwd,
            command=(sys.executable, "-I", "-S", str(self.node)),
        )

    def holders(self) -> list[Held]:
        """Return what holders have written down, the newest of each allocation last; asks the file server."""
        directory = os.open(self._holders, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found: list[tuple[int, Held]] = []
            for name in os.listdir(directory):  # noqa: PTH208 (the folder was opened anew: no old copy)
                if not name.endswith(".json"):
                    continue
                try:
                    stat = os.stat(name, dir_fd=directory)
                except FileNotFoundError:
                    continue  # its allocation ends
                key = (name, stat.st_ino, stat.st_mtime_ns)
                held = self._known.get(key) or self._read(name)
                if held is not None:
                    self._known[key] = held
                    found.append((stat.st_mtime_ns, held))
        finally:
            os.close(directory)
        return [held for _, held in sorted(found, key=lambda one: one[0])]

    def _read(self, name: str) -> Held | None:
        path = self._holders / name
        try:
            about = json.loads(path.read_bytes())
            ready = Ready(str(about["job_id"]), str(about["token"]), expanded(about["nodes"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None  # being replaced
        return Held(ready, path)

    def clear(self) -> None:
        """Note that all allocations are given up; what their environments held is removed."""
        forget_name(self.study)
        shutil.rmtree(self.steps, ignore_errors=True)
        with contextlib.suppress(OSError):  # of trouble with the folder was told
            for path in self._holders.glob("*.json"):
                path.unlink()
            self.say_unwanted()  # a late answer of Slurm's may be one allocation more

    def say_wanted(self) -> None:
        """Tell the holders that a search lives; well within GIVE_UP_S."""
        self._n_wanted += 1
        write_wanted(str(self._holders), f"{os.getpid()}-{self._n_wanted}", name=self.name)

    def say_unwanted(self) -> None:
        """Tell the holders that no search wants them; see say_unwanted of this module."""
        say_unwanted(self.study)


def described(profile: Profile) -> Sequence[str]:
    """Return what is asked for, key by key, for messages."""
    keys = ("partition", "account", "qos", "time", "gpus", "gres", "cpus", "mem", "constraint")
    return [f"{key} {value}" for key in keys if (value := getattr(profile, key)) is not None]
