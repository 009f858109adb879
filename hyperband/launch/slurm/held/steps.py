"""Steps of Slurm's allocations: each srun carries a keeper to its node, mostly before there is a job.

Owns the steps, those that wait included, until they have a job. Must not know: which allocations there are
and why, or how jobs end.
"""

import contextlib
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperband.launch.base import Lease
from hyperband.launch.remote.carrier import Carrier, Room, spawn
from hyperband.launch.remote.place import Place
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.files import SlurmFiles
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.room import gpus_of, place_of
from hyperband.launch.slurm.words import said_by_srun
from hyperband.machine.limits import allow_open_files
from hyperband.machine.process import wait_for_end

#: variables in which a step knows better than the script of its allocation
_KEPT = (
    "SLURM_*",
    "SLURMD_*",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_DEVICES",
    "HOSTNAME",
)
#: files that a slot takes: input and end of its step and of the one that waits beside it, and of its job
_N_FILES_EACH = 5
#: patience with all steps together that wait and are not wanted any more, and then with their death
_LEAVE_S, _DIE_S = 1.5, 0.5


class SlurmCarriers:
    """Steps that wait for jobs, and those that have one. All but those with a job are ours to close."""

    def __init__(
        self, slots: SlurmSlots, files: SlurmFiles, profile: Profile, *, cwd: Path, environ: Mapping[str, str]
    ) -> None:
        """Start nothing yet.

        Args:
            slots: say where jobs run.
            files: of the study.
            profile: what an allocation is.
            cwd: where srun runs.
            environ: ours.

        Raises:
            MachineError: so many slots cannot be served by one process.
        """
        n_slots = slots.n_slots()
        allow_open_files(n_slots * _N_FILES_EACH, f"{n_slots} slots on Slurm")
        self._slots = slots
        self._files = files
        self._profile = profile
        self._cwd = cwd
        self._environment = slurm_text.engine_environment(environ)
        #: by allocation and node
        self._waiting: dict[tuple[str, str], list[Carrier]] = defaultdict(list)
        self._leaving: list[Carrier] = []

    def room(self, lease: Lease) -> Room:
        """Return what a job finds at this slot."""
        place = place_of(lease)
        gpus = gpus_of(self._profile, place.index)
        return Room(gpus, self._slots.environment_of(place), _KEPT)

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:  # noqa: ARG002
        """Return a step that waits for its job: one that was started ahead, or a new one.

        Raises:
            MachineError: srun cannot be started.
        """
        place = place_of(lease)
        waiting = self._waiting[place.job_id, place.node]
        # one that is on its way yet may wait for Slurm's word
        waiting.sort(key=lambda carrier: not carrier.is_there())
        while waiting:
            carrier = waiting.pop(0)
            if not carrier.has_ended():
                return carrier
            self._discard(carrier)
        return self._spawn(place)

    def is_prepared(self, place: Place) -> bool:
        """Return whether a step waits there on its node: a job begins in it without a word of Slurm's."""
        return any(carrier.is_there() for carrier in self._waiting.get((place.job_id, place.node), ()))

    def is_coming(self, label: str) -> bool:  # noqa: ARG002
        """Return False: a step whose srun is gone is cancelled, and who claims first has the attempt."""
        return False

    def let_go(self, carrier: Carrier) -> None:
        """Hear that the job of a step is over: it ends by itself."""
        if carrier.errors is not None:
            with contextlib.suppress(OSError):
                carrier.errors.unlink()

    def prepare(self) -> None:
        """Have a step wait for each slot that runs a job; let go of those whose allocation is gone."""
        for carrier in [one for one in self._leaving if one.has_ended()]:
            self._leaving.remove(carrier)
            self._forget(carrier)
        there = {(place.job_id, place.node): place for place in self._slots.places()}
        for at, waiting in list(self._waiting.items()):
            ended = [carrier for carrier in waiting if carrier.has_ended()]
            for carrier in ended:
                waiting.remove(carrier)
                if at in there:
                    # whether what is started is at fault, starts of jobs tell
                    words = said_by_srun(carrier.said()) or "a step that waited has ended"
                    self._slots.note_failed_start(there[at], words, is_ending=True)
                self._discard(carrier)
            if at not in there:
                for carrier in self._waiting.pop(at):
                    self._discard(carrier)
        for place in self._missing():
            self._waiting[place.job_id, place.node].append(self._spawn(place))

    @property
    def are_missing(self) -> bool:
        """Whether `prepare` has steps to start."""
        return bool(self._missing())

    def _missing(self) -> list[Place]:
        """The slots whose next job would have to wait for its step."""
        if not self._slots.is_reachable:
            return []
        n_there = Counter({at: len(waiting) for at, waiting in self._waiting.items()})
        missing = []
        places = set(self._slots.places())
        for place in self._slots.used():
            if n_there[place.job_id, place.node] > 0:
                n_there[place.job_id, place.node] -= 1
            elif place in places and not self._slots.is_held_back(place):
                missing.append(place)
        return missing

    def close(self) -> None:
        """Let those go that wait for a job; those that have one go on."""
        for waiting in self._waiting.values():
            for carrier in waiting:
                self._discard(carrier)
        self._waiting.clear()
        for carrier in _those_left(self._leaving, _LEAVE_S):
            carrier.kill()
        _those_left(self._leaving, _DIE_S)
        for carrier in self._leaving:
            self._forget(carrier)
        self._leaving.clear()

    def _spawn(self, place: Place) -> Carrier:
        name = f"hb-{uuid.uuid4().hex}"
        return spawn(
            self._files.step_argv(place.job_id, place.node, name),
            cwd=self._cwd,
            environment=self._environment,
            errors=self._files.steps / name,
            label=place.job_id,
            is_told=False,
        )

    def _discard(self, carrier: Carrier) -> None:
        carrier.dismiss()
        self._leaving.append(carrier)

    def _forget(self, carrier: Carrier) -> None:
        carrier.close()
        self.let_go(carrier)


def _those_left(carriers: Sequence[Carrier], patience_s: float) -> list[Carrier]:
    """Wait for the end of some together; return those that have not ended by then."""
    until_s = time.monotonic() + patience_s
    return [
        one
        for one in carriers
        if one.pidfd is not None and not wait_for_end(one.pidfd, max(0.0, until_s - time.monotonic()))
    ]
