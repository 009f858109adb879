"""Jobs as steps of Slurm's allocations: srun carries a keeper to its node, mostly before there is a job.

Owns the steps, those that wait included, and what Slurm's ways mean for how an attempt ended. Must not know:
which allocations there are and why.
"""

import contextlib
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch import slurm_text
from hyperband.launch.allocation_events import Lost, Place
from hyperband.launch.base import Ending, Lease, Order
from hyperband.launch.carrier import Carrier, Room, spawn
from hyperband.launch.remote import RemoteLauncher
from hyperband.launch.remote_files import claim_for_search, stop_word
from hyperband.launch.remote_job import RemoteJob
from hyperband.launch.slurm_endings import Heard, judged
from hyperband.launch.slurm_files import SlurmFiles
from hyperband.launch.slurm_profile import Profile
from hyperband.launch.slurm_room import gpus_of, place_of
from hyperband.launch.slurm_slots import SlurmSlots
from hyperband.launch.slurm_words import JobState, said_by_srun
from hyperband.machine.claim import FENCE
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
#: a job whose step has not begun by then, although Slurm answers, is taken back
_BEGIN_WITHIN_S = 30.0
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


class SlurmLauncher(RemoteLauncher):
    """Runs jobs in steps. What a job ran in may be taken away: that is never the job's fault."""

    engine = "slurm"

    def __init__(self, slots: SlurmSlots, carriers: SlurmCarriers, *, cwd: Path, grace_s: float) -> None:
        """See RemoteLauncher; slots: hear of starts that failed."""
        super().__init__(carriers, cwd=cwd, grace_s=grace_s)
        self._slots = slots
        #: names of slots whose allocation was lost under their job, and how
        self._taken: dict[RemoteJob, Lost] = {}
        #: jobs that have not been seen to begin, and when on the monotonic clock they were ordered
        self._ordered_s: dict[RemoteJob, float] = {}
        #: by folder of a job, when its allocation had started; read in the patrol's thread, too
        self._started: dict[Path, str] = {}
        #: their step is over, although their allocation runs
        self._proven: set[RemoteJob] = set()

    def start(self, order: Order, lease: Lease) -> RemoteJob:
        """Start a job that was journalled; see RemoteLauncher."""
        self._started[order.folder] = self._slots.started(place_of(lease))
        return self._note_ordered(super().start(order, lease))

    def adopt(self, folder: Path, lease: Lease) -> RemoteJob | None:
        """Return the job of an earlier search that lives in this folder; see RemoteLauncher."""
        job = super().adopt(folder, lease)
        return None if job is None else self._note_ordered(job)

    def give_up_late(self) -> None:
        """Take back the jobs whose step does not begin, although Slurm answers: srun may wait for ever.

        Raises:
            MachineError: the folder of one cannot be written to.
        """
        now_s = time.monotonic()
        for job, ordered_s in list(self._ordered_s.items()):
            if job.has_begun or job.is_over:
                del self._ordered_s[job]
            elif now_s >= ordered_s + _BEGIN_WITHIN_S and self._slots.is_reachable:
                del self._ordered_s[job]
                words = f"its step did not begin within {_BEGIN_WITHIN_S:g} s"
                try:
                    claim_for_search(job.folder, job.attempt, words)
                except OSError as err:
                    raise MachineError(
                        f"cannot give up the job in {job.folder}: {err.strerror or err}; make the folder "
                        "writable and start the same command again"
                    ) from err
                self._patrol.look(job)  # who claimed first has it

    def next_look_s(self) -> float | None:
        """Return seconds until `give_up_late` may have something to do; None: no job is late."""
        if not self._ordered_s or not self._slots.is_reachable:
            return None
        return max(0.0, min(self._ordered_s.values()) + _BEGIN_WITHIN_S - time.monotonic())

    def lose(self, lost: Lost) -> None:
        """Give up the jobs of an allocation that is gone; each is over when nothing of it can run."""
        names = {place.name for place in lost.places}
        for job in self._jobs:
            if job.lease.slot.name in names:
                self._taken[job] = lost
                self.give_up(job, lost.words)

    def prove(self, step: str) -> None:
        """Hear that a step is over: what still counts as running in it is lost, and can be tried again."""
        for job in self._jobs:
            if _step_of(job) == step:
                self._proven.add(job)
                self.give_up(job, "its step has ended", is_proven=True)

    def finish(self, job: RemoteJob) -> Ending | None:
        """Tell how a job ended; one that Slurm ended is lost with what it ran in.

        Raises:
            InternalError, MachineError: nobody watches it any more; its folder cannot be read.
        """
        if job.carrier is None or not job.is_over:
            said, srun_status = "", None
        else:
            said, srun_status = job.carrier.said(), job.carrier.exit_status()
        ending = super().finish(job)
        if ending is None:
            return None
        self._ordered_s.pop(job, None)
        self._started.pop(job.folder, None)
        word = stop_word(job.folder)
        lost = self._taken.pop(job, None)
        heard = Heard(
            said=said,
            srun_status=srun_status,
            was_asked=job.asked is not None or word not in (None, FENCE),
            was_fenced=word == FENCE,
            taken="" if lost is None else lost.words,
            does_run=job in self._proven,
        )
        self._proven.discard(job)
        found = judged(ending, heard)
        place = place_of(job.lease)
        is_over_time = lost is not None and lost.state == JobState.TIME_LIMIT
        if found.ending.was_taken_away and (is_over_time or self._slots.is_at_limit(place)):
            number = job.folder.name.partition("-")[0]
            self._slots.note_cut_off(place, number.lstrip("0") or "0", job.running_s())
        if found.trouble is not None:
            self._slots.note_failed_start(
                place, found.trouble, is_ending=found.is_ending, does_run=found.does_run
            )
        elif not found.ending.never_ran:
            self._slots.note_run(place)
        return found.ending

    def _ask_for_proof(self, job: RemoteJob) -> None:
        started = self._started.get(job.folder)
        if started and (step := _step_of(job)):
            self._slots.clerk.see_over(step, place_of(job.lease).job_id, started)

    def _note_ordered(self, job: RemoteJob) -> RemoteJob:
        self._ordered_s[job] = time.monotonic()
        return job


def _those_left(carriers: Sequence[Carrier], patience_s: float) -> list[Carrier]:
    """Wait for the end of some together; return those that have not ended by then."""
    until_s = time.monotonic() + patience_s
    return [
        one
        for one in carriers
        if one.pidfd is not None and not wait_for_end(one.pidfd, max(0.0, until_s - time.monotonic()))
    ]


def _step_of(job: RemoteJob) -> str:
    """Return the name of the step that runs a job, which is that of the file with what its srun says."""
    carrier = job.carrier
    return "" if carrier is None or carrier.errors is None else carrier.errors.name
