"""What Slurm runs and reads in a study's folder where each job of a trial is a Slurm job of its own.

Owns `slurm/tasks/`: one file for each submission, with the command of each of its tasks, and so whose they
are; and `slurm/nodes.jsonl`: how attempts ended on which nodes, for the next start. Must not know: what is
submitted when, and which nodes are avoided.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.folder import SLURM_FOLDER
from hyperband.launch.remote.shipping import ship
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.files import forget_name, note_name, open_folder, read_name
from hyperband.launch.slurm.jobs.events import Recalled
from hyperband.launch.slurm.jobs.nodes import Fate
from hyperband.launch.slurm.profile import Profile
from hyperband.machine.claim import read_fresh, write_whole

_SCRIPT_FILE = "job.sh"
_LOG_FILE = "jobs.log"
_TASKS_FOLDER = "tasks"
_NODES_FILE = "nodes.jsonl"
#: so much of the end of that is recalled: what is older says little of nodes now
_RECALLED_BYTES = 1 << 18
#: so much of the end of what jobs print is looked through for what Slurm said of one
_SAID_BYTES = 1 << 18
_BY_SLURM = re.compile(r"slurmstepd\S*: (?:error: )?")


class TrialJobFiles:
    """One study's folder for jobs of Slurm's that run one attempt each."""

    def __init__(self, study: Path, profile: Profile, cwd: Path) -> None:
        """Make it, or find it.

        Args:
            study: its folder, shared with the nodes.
            profile: what a job is.
            cwd: where jobs run.

        Raises:
            MachineError: it cannot be written to, or the study has allocations.
        """
        self.study = study
        self.folder = study / SLURM_FOLDER
        self.log = self.folder / _LOG_FILE
        self._tasks = self.folder / _TASKS_FOLDER
        self._profile = profile
        self._cwd = cwd
        self.name = open_folder(study, profile, mode="jobs", script=_SCRIPT_FILE, within=(_TASKS_FOLDER,))
        self._python = (sys.executable, "-I", "-S")
        self._holder = ship(study, modules=("holder",), main="holder")
        self._node = ship(study)
        #: of each submission that was looked at
        self._known: dict[str, _Submission] = {}

    @property
    def may_have_jobs(self) -> bool:
        """Whether Slurm may have something of this study: it was asked for that, by whichever start."""
        return read_name(self.study) is not None

    def write_tasks(self, folders: Mapping[str, Path], exclude: Sequence[str] = ()) -> str:
        """Write down what is about to be submitted together; return the word by which it is found again.

        Args:
            folders: of each attempt, by its name, in the order of their tasks.
            exclude: nodes that none of it is to get.

        Raises:
            OSError: that cannot be written.
        """
        word = uuid.uuid4().hex
        commands = [self._command(folder, attempt) for attempt, folder in folders.items()]
        if exclude:
            write_whole(str(self._tasks), _exclude_file(word), json.dumps(list(exclude)).encode())
        write_whole(str(self._tasks), f"{word}.json", json.dumps(commands).encode())
        note_name(self.study, self.name)
        self._known[word] = _Submission(tuple(folders), tuple(exclude))
        return word

    def excluding(self, nodes: Sequence[str]) -> str:
        """Return the nodes that a job is not to get, as sbatch takes them: these and the profile's."""
        return ",".join(filter(None, (self._profile.exclude, *nodes)))

    def argv(self, word: str, folders: Mapping[str, Path], exclude: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the arguments of sbatch for what was written down under this word.

        exclude: nodes that none of it is to get, besides those that the profile excludes.
        """
        profile = replace(self._profile, exclude=self.excluding(exclude) or None)
        comment = f"hyperband {self.study} {word}"
        script = self.folder / _SCRIPT_FILE
        if len(folders) == 1:
            [(attempt, folder)] = folders.items()
            return slurm_text.job_argv(
                profile,
                name=self.name,
                comment=comment,
                log=self.log,
                cwd=self._cwd,
                script=script,
                command=self._command(folder, attempt),
            )
        return slurm_text.array_argv(
            profile,
            n_tasks=len(folders),
            name=self.name,
            comment=comment,
            log=self.log,
            cwd=self._cwd,
            script=script,
            command=(*self._python, str(self._holder), "task", str(self._tasks / f"{word}.json")),
        )

    def attempt_of(self, job_id: str, comment: str) -> str | None:
        """Return the attempt that a job was submitted for; None: this study knows of none.

        Args:
            job_id: as squeue lists it, `15_3` for a task.
            comment: of the job.

        Raises:
            OSError: the folder cannot be read now.
        """
        names = self._submission(comment).attempts
        task = job_id.partition("_")[2]
        number = int(task) if task.isdigit() else 0
        return names[number] if number < len(names) else None

    def excluded_by(self, comment: str) -> tuple[str, ...]:
        """Return the nodes that a job with this comment was not to get, besides those of the profile.

        Raises:
            OSError: the folder cannot be read now.
        """
        return self._submission(comment).exclude

    def remember(self, node: str, of: str, fate: Fate) -> None:
        """Write down how an attempt ended on a node.

        Raises:
            OSError: that cannot be written.
        """
        line = json.dumps({"at": time.time(), "node": node, "of": of, "fate": fate})
        with (self.folder / _NODES_FILE).open("ab", buffering=0) as stream:
            # what a search that was killed may have left of its last line must not spoil this one
            stream.write(f"\n{line}".encode())

    def recall(self) -> list[Recalled]:
        """Return what was written down of nodes, oldest first; lines that are not whole are left out.

        Raises:
            MachineError: that cannot be read.
        """
        path = self.folder / _NODES_FILE
        try:
            with path.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - _RECALLED_BYTES))
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as err:
            raise MachineError(
                f"cannot read {path}: {err.strerror or err}; make it readable, or remove it (the search then "
                "does not know which nodes lost jobs), and start the same command again"
            ) from err
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                about = json.loads(line)
                ago_s = max(0.0, time.time() - float(about["at"]))
                found.append(Recalled(str(about["node"]), str(about["of"]), Fate(about["fate"]), ago_s))
        return found

    def said_of(self, job_id: str) -> str:
        """Return what Slurm itself printed of a job, on one line; empty if nothing, or it cannot be read now.

        Args:
            job_id: as squeue lists it, `15_3` for a task.
        """
        about = re.compile(rf"\b(?:StepId=|JobId=|Job |Step )?{re.escape(job_id)}(?:\.\w+)?\b")
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - _SAID_BYTES))
                lines = stream.read().decode(errors="replace").splitlines()
        except OSError:
            return ""  # of the jobs themselves their folders tell
        found = [line.strip() for line in lines if _BY_SLURM.match(line) and about.search(line)]
        return "; ".join(dict.fromkeys(_BY_SLURM.sub("", line) for line in found))

    def clear(self) -> None:
        """Note that no job of Slurm's is left."""
        forget_name(self.study)
        shutil.rmtree(self._tasks, ignore_errors=True)

    def _command(self, folder: Path, attempt: str) -> Sequence[str]:
        return (*self._python, str(self._node), str(folder), attempt)

    def _submission(self, comment: str) -> "_Submission":
        word = comment.rpartition(" ")[2]
        if word not in self._known and (found := self._read(word)) is not None:
            self._known[word] = found
        return self._known.get(word, _Submission())

    def _read(self, word: str) -> "_Submission | None":
        if not word.isalnum():
            return None
        with contextlib.suppress(FileNotFoundError, ValueError):  # somebody removed or damaged it
            found, exclude = read_fresh(str(self._tasks), f"{word}.json", _exclude_file(word))
            if found is not None:
                attempts = tuple(str(command[-1]) for command in json.loads(found))
                return _Submission(attempts, () if exclude is None else tuple(json.loads(exclude)))
        return None


@dataclass(frozen=True, slots=True)
class _Submission:
    """What was asked of Slurm at once."""

    #: in the order of their tasks
    attempts: tuple[str, ...] = ()
    #: nodes that none of them was to get, besides those of the profile
    exclude: tuple[str, ...] = ()


def _exclude_file(word: str) -> str:
    return f"{word}.exclude.json"
