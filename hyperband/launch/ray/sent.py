"""Jobs at slots of Ray's whose nodes share no files with us: what travels there, and what its return means.

An attempt's folder here is what it is on a shared file system: the bridge lays into it what comes back
(laying.py). So only the beginning differs, where the order travels and not its place, and the end:
nothing has to be fenced before a job is tried again, since no attempt ever touches what another one writes.
"""

import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperband.launch.base import Ending, Lease, Order, StopReason
from hyperband.launch.ray.launcher import RayCarrier, RayLauncher
from hyperband.launch.ray.slots import RaySlots
from hyperband.launch.remote.carrier import Carrier, Room
from hyperband.launch.remote.files import Ordered, Sight
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.shipping import NODE_MODULES, START_FILE, node_files
from hyperband.machine.checkpoint_pattern import DEEP, Pattern, parse, sha256_of
from hyperband.machine.claim import BY_NODE, CLAIM_FILE, FENCE, ORDER_FILE, claim, lease_age_s, read_fresh
from hyperband.machine.claim import parse as parsed
from hyperband.machine.keeper import RESULT_FILE

#: without a word from a search or Ray's head a job ends after so long
LEASE_S = 60.0
#: of the process that carries checkpoints on a node
DEPOT_FILE = "depot.py"
_KEY_DIGITS = 32
#: why nothing is carried to the next job of a trial
_UNKNOWN = "without --checkpoints it is not known what to carry from node to node"
_ELSEWHERE = "with its config id the pattern of --checkpoints could lead elsewhere"
_SOME_ID = "some-config-id"


@dataclass(frozen=True, slots=True)
class Baggage:
    """What travels to the nodes, as the bridge is told."""

    #: of Ray's runtime environment
    runtime_env: Mapping[str, Any]
    #: tells it from what travelled earlier
    mark: str = ""

    def words(self) -> dict[str, Any]:
        """Return what the bridge needs of it."""
        files = {name: data.decode() for name, data in node_files((*NODE_MODULES, "depot")).items()}
        files[DEPOT_FILE] = node_files((), "depot")[START_FILE].decode()
        return {
            "runtime_env": dict(self.runtime_env),
            "mark": self.mark,
            "files": files,
            "lease_s": LEASE_S,
        }


def paths_of(pattern: Pattern, config_id: str) -> str | None:
    """Return the regular expression of a trial's paths; None for an id that could lead elsewhere."""
    files = pattern.files(config_id)
    if files is None:
        return None
    words = "".join(f"{re.escape(name)}/" for name in pattern.prefix)
    for n_before, part in enumerate(files.parts):
        is_last = n_before == len(files.parts) - 1
        if part is DEEP:
            words += "(?:[^/]+/)*[^/]+" if is_last else "(?:[^/]+/)*"
        else:
            name = part.pattern if isinstance(part, re.Pattern) else re.escape(str(part))
            words += name + ("" if is_last else "/")
    return words


def paths_of_all(pattern: Pattern) -> str | None:
    """Return the regular expression of the paths of every trial's files; None: the code's could be such."""
    if not pattern.prefix:
        return None  # any id may stand there, so that `{config_id}/**` would be all that lies in folders
    words = paths_of(pattern, _SOME_ID)
    assert words is not None
    return words.replace(sha256_of(_SOME_ID), "[0-9a-f]{64}").replace(re.escape(_SOME_ID), ".+")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in the folder that travels, and where checkpoints go."""

    #: the script, by its path in that folder
    script: str
    #: where jobs run, likewise
    cwd: str
    #: the interpreter on the nodes; None: that of the slot itself
    python: str | None
    #: of checkpoints, relative to where jobs run; None: they are not known
    pattern: str | None
    #: URI below which checkpoints are stored; None: they stay on their nodes
    storage: str | None


class SentCarrier(RayCarrier):
    """A slot that is given an attempt with all that belongs to it."""

    is_waited_for = True  # it is claimed here, for its node

    def __init__(
        self, slots: RaySlots, slot_name: str, folder: Path, attempt: str, words: Mapping[str, Any]
    ) -> None:
        """Tell nothing yet; words: for the node."""
        super().__init__(slots, slot_name, folder, attempt)
        self._sent = words

    def tell(self, line: str) -> bool:
        """Claim the attempt for its node, and send it; a word for its keeper, later."""
        if self.is_told:
            return super().tell(line)
        self.is_told = True
        host = self.label.partition(":")[0]
        content = {"token": uuid.uuid4().hex, "by": BY_NODE, "attempt": self._attempt, "host": host}
        # from here on only what comes back from there counts
        if not claim(str(self._folder), content):
            return False
        return self._slots.begin(self.label, str(self._folder), self._attempt, self._sent)


class SentCarriers:
    """Every slot has its carrier already: the actor that holds it."""

    def __init__(self, slots: RaySlots, layout: Layout, *, study: str) -> None:
        """Remember; study: the name of its folder."""
        self._slots = slots
        self._layout = layout
        self._study = study
        self._pattern = None if layout.pattern is None else parse(layout.pattern)
        #: of attempts that are about to start, by their folders: whose checkpoint they go on from
        self._after: dict[Path, Path | None] = {}

    def expect(self, order: Order) -> None:
        """Hear what is about to start."""
        self._after[order.folder] = order.after

    def room(self, lease: Lease) -> Room:  # noqa: ARG002
        """Return what a job finds: what is on its node."""
        return Room(None, None, (), ends_with_carrier=True)

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:
        """Return the carrier of a slot.

        Raises:
            OSError: what was ordered cannot be read.
        """
        order = parsed(read_fresh(str(folder), ORDER_FILE)[0])
        assert order is not None  # it has just been written
        python, _, config_id, *rest = order["argv"]
        if self._layout.python is None:
            python = None
        order["argv"] = [python, self._layout.script, config_id, *rest]
        # nobody could fetch what it leaves when its slot is gone: no grace
        order |= {"cwd": self._layout.cwd, "last_word": FENCE}
        words = {
            "attempt": attempt,
            "at_search": str(folder),
            "order": order,
            "checkpoint": self._checkpoint(config_id, self._after.pop(folder, None)),
        }
        return SentCarrier(self._slots, lease.slot.name, folder, attempt, words)

    def _checkpoint(self, config_id: str, after: Path | None) -> dict[str, Any]:
        pattern = None if self._pattern is None else paths_of(self._pattern, config_id)
        if pattern is None:
            why = _UNKNOWN if self._pattern is None else _ELSEWHERE
            # the node says so in the job's result: the search that reads it may be another one
            nothing = None if after is None else {"sealed": None, "why": why}
            return {"pattern": None, "key": "", "storage": None, "after": nothing}
        key = sha256_of(config_id)[:_KEY_DIGITS]
        storage = self._layout.storage
        return {
            "pattern": pattern,
            "key": key,
            "storage": None if storage is None else f"{storage.rstrip('/')}/{self._study}/{key}",
            "after": None if after is None else sealed_by(after),
        }

    def is_coming(self, label: str) -> bool:  # noqa: ARG002
        """Return False: what was sent was claimed before."""
        return False

    def let_go(self, carrier: Carrier) -> None:
        """Do nothing: slots stay."""

    def close(self) -> None:
        """Do nothing: slots stay."""


def sealed_by(folder: Path) -> dict[str, Any]:
    """Return what an attempt left, by its folder: `sealed`, or `why` nothing was."""
    result = parsed(read_fresh(str(folder), RESULT_FILE)[0]) if folder.is_dir() else None
    found: dict[str, Any] = (result or {}).get("checkpoint") or {}
    if not found.get("sealed"):
        return {
            "sealed": None,
            "why": found.get("why", "none was sealed when it was trained before"),
        }
    if found["sealed"]["n_files"] == 0:
        return {"sealed": None, "why": "no file that it left before matches --checkpoints"}
    return found


def host_of(folder: Path) -> str:
    """Return the node on whose disk the checkpoint of an attempt is; empty: there is none."""
    if not folder.is_dir() or sealed_by(folder)["sealed"] is None:
        return ""
    claimed = parsed(read_fresh(str(folder), CLAIM_FILE)[0])
    return str((claimed or {}).get("host", ""))


class SentJob(RemoteJob):
    """A job whose attempt is claimed here before it is sent: that claim does not mean that it has begun."""

    def saw(self, sight: Sight, at_s: float) -> None:
        """Take in a look: it has begun when its node says for how long it runs, or how it ended.

        Before that its checkpoint is fetched there, which takes nothing of its time.
        """
        if (lease_age_s(sight.lease) or 0.0) > 0.0 or sight.result is not None:
            super().saw(sight, at_s)


class SentLauncher(RayLauncher):
    """Runs jobs at slots that share no files with us."""

    def __init__(self, slots: RaySlots, carriers: SentCarriers, *, cwd: Path, grace_s: float) -> None:
        """See RayLauncher."""
        super().__init__(slots, carriers, cwd=cwd, grace_s=grace_s, lease_s=LEASE_S)
        self._sent = carriers
        #: what was asked of jobs, by their attempts: a slot may be away when it is
        self._asked: dict[str, StopReason] = {}

    def start(self, order: Order, lease: Lease) -> RemoteJob:
        """Start a job; see RemoteLauncher."""
        self._sent.expect(order)
        return super().start(order, lease)

    def stop(self, job: RemoteJob, reason: StopReason) -> None:
        """Ask for a job's end; a slot that is away is told when it is met."""
        super().stop(job, reason)
        self._asked[job.attempt] = reason
        if not isinstance(job.carrier, RayCarrier):
            self._slots.tell(job.lease.slot.name, job.attempt, reason)

    def heed(self) -> None:
        """Take in which attempts and slots have ended, and what runs at slots that were found again."""
        super().heed()
        jobs = {job.attempt: job for job in self._jobs}
        for name, attempt in self._slots.take_met():
            if attempt not in jobs:
                self._slots.tell(name, attempt, FENCE)
            elif attempt in self._asked:
                self._slots.tell(name, attempt, self._asked[attempt])

    def give_up(self, job: RemoteJob, why: str, *, is_proven: bool = False) -> None:  # noqa: ARG002
        """Give a job up at once: a copy that runs on ends by itself, and touches nothing of the next."""
        super().give_up(job, why, is_proven=True)

    def look_now(self, job: RemoteJob, why: str, *, is_proven: bool = False) -> None:  # noqa: ARG002
        """Look at once; likewise."""
        super().look_now(job, why, is_proven=True)

    def _job(self, folder: Path, lease: Lease, ordered: Ordered, carrier: Carrier | None) -> RemoteJob:
        return SentJob(folder, lease, ordered, carrier, self._ask_for_proof, self.bell, self._is_excused)

    def may_be_lost(self, job: RemoteJob) -> bool:  # noqa: ARG002
        """Return False: what did not reach its slot is known when that is met."""
        return False

    def finish(self, job: RemoteJob) -> Ending | None:
        """Tell how a job ended; None: it is not over yet."""
        ending = super().finish(job)
        if ending is not None:
            self._asked.pop(job.attempt, None)
        return ending


def python_on_nodes(python: Path) -> str | None:
    """Return the interpreter that was named for the script; None: that of the slot, where none was named."""
    return None if str(python) == sys.executable else str(python)
