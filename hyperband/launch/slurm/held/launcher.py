"""Jobs as steps of Slurm's allocations.

Owns what is done about a job that does not begin, that loses what it runs in, or of whose end Slurm alone can
tell whose doing it was. How it reaches its node is for launch/slurm/held/steps.py, whose doing an end was for
launch/slurm/held/endings.py. Must not know: which allocations there are and why.
"""

import time
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.base import Ending, Lease, Order
from hyperband.launch.remote.carrier import Carriers
from hyperband.launch.remote.files import claim_for_search, stop_word
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.launch.slurm.held.endings import Heard, judged, may_be_cancelled_by_hand
from hyperband.launch.slurm.held.events import Lost
from hyperband.launch.slurm.held.slots import SlurmSlots
from hyperband.launch.slurm.room import place_of
from hyperband.launch.slurm.words import JobState
from hyperband.machine.claim import FENCE

#: a job whose step has not begun by then, although Slurm answers, is taken back
_BEGIN_WITHIN_S = 30.0
#: so long Slurm may take to say that a step is over, and its allocation is not
_WORD_S = 5.0


class SlurmLauncher(RemoteLauncher):
    """Runs jobs in steps. What a job ran in may be taken away: that is never the job's fault."""

    engine = "slurm"

    def __init__(self, slots: SlurmSlots, carriers: Carriers, *, cwd: Path, grace_s: float) -> None:
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
        #: over, and until when Slurm's word on their step is waited for
        self._awaited_s: dict[RemoteJob, float] = {}

    def start(self, order: Order, lease: Lease) -> RemoteJob:
        """Start a job that was journalled; see RemoteLauncher."""
        self._started[order.folder] = self._slots.started(place_of(lease))
        return self._note_ordered(super().start(order, lease))

    def adopt(self, folder: Path, lease: Lease) -> RemoteJob | None:
        """Return the job of an earlier search that lives in this folder; see RemoteLauncher."""
        job = super().adopt(folder, lease)
        return None if job is None else self._note_ordered(job)

    def heed(self) -> None:
        """Take in what became of allocations and steps, and what is late.

        Raises:
            MachineError: the folder of a job cannot be written to.
        """
        for lost in self._slots.take_lost():
            self.lose(lost)
        for step in self._slots.take_steps_over():
            self.prove(step)
        for job in self._jobs:
            job.note_stopped(self._slots.is_suspended(place_of(job.lease).job_id))
        self.give_up_late()

    def give_up_late(self) -> None:
        """Take back the jobs whose step does not begin, although Slurm answers: srun may wait for ever.

        What Slurm has not said of the end of a job by now is not waited for any more, either.

        Raises:
            MachineError: the folder of one cannot be written to.
        """
        now_s = time.monotonic()
        for job in [one for one, until_s in self._awaited_s.items() if now_s >= until_s]:
            self._ring(job)
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
        due_s = [until_s for until_s in self._awaited_s.values() if until_s > 0]
        if self._ordered_s and self._slots.is_reachable:
            due_s.append(min(self._ordered_s.values()) + _BEGIN_WITHIN_S)
        return max(0.0, min(due_s) - time.monotonic()) if due_s else None

    def lose(self, lost: Lost) -> None:
        """Give up the jobs of an allocation that is gone; each is over when nothing of it can run."""
        names = {place.name for place in lost.places}
        for job in self._jobs:
            if job.lease.slot.name in names:
                self._taken[job] = lost
                self.give_up(job, lost.words)
                self._ring(job)

    def prove(self, step: str) -> None:
        """Hear that a step is over: what still counts as running in it is lost, and can be tried again."""
        for job in self._jobs:
            if _step_of(job) == step:
                self._proven.add(job)
                self.give_up(job, "its step has ended", is_proven=True)
                self._ring(job)

    def finish(self, job: RemoteJob) -> Ending | None:
        """Tell how a job ended; one that Slurm ended is lost with what it ran in.

        None: it is not over, or only Slurm can say whether its step alone was cancelled.

        Raises:
            InternalError, MachineError: nobody watches it any more; its folder cannot be read.
        """
        if job.is_over and self._awaits_word(job):
            job.hush()
            return None
        self._awaited_s.pop(job, None)
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

    def _is_excused(self, job: RemoteJob, silent_since_s: float, at_s: float) -> bool:
        if job.asked is not None:
            return False  # the search is not to wait for it
        job_id = place_of(job.lease).job_id
        return self._slots.excuses(job_id, silent_since_s, lease_s=job.lease_s, at_s=at_s)

    def _awaits_word(self, job: RemoteJob) -> bool:
        """Whether somebody may have cancelled a job's step alone, which Slurm can still say."""
        assert job.ending is not None
        said = "" if job.carrier is None else job.carrier.said()
        is_known = job in self._proven or job in self._taken or job.asked is not None
        if is_known or not may_be_cancelled_by_hand(job.ending, said):
            return False
        now_s = time.monotonic()
        if job not in self._awaited_s:
            self._awaited_s[job] = now_s + _WORD_S
            self._ask_for_proof(job)
            self._slots.look()
        return now_s < self._awaited_s[job]

    def _ring(self, job: RemoteJob) -> None:
        if self._awaited_s.get(job):
            self._awaited_s[job] = 0.0
            job.ring()

    def _ask_for_proof(self, job: RemoteJob) -> None:
        started = self._started.get(job.folder)
        if started and (step := _step_of(job)):
            self._slots.clerk.see_over(step, place_of(job.lease).job_id, started)

    def _note_ordered(self, job: RemoteJob) -> RemoteJob:
        self._ordered_s[job] = time.monotonic()
        return job


def _step_of(job: RemoteJob) -> str:
    """Return the name of the step that runs a job, which is that of the file with what its srun says."""
    carrier = job.carrier
    return "" if carrier is None or carrier.errors is None else carrier.errors.name
