"""Attempts in Slurm jobs of their own: who is asked to carry them, and what Slurm's word says of their end.

Owns how long Slurm's word on an end is waited for. Must not know: what is submitted when.
"""

import time
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.base import Ending, Lease, StopReason
from hyperband.launch.remote.carrier import Carrier, Room
from hyperband.launch.remote.files import Ordered, Sight, claim_for_search, ending_of, was_asked
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.launch.slurm.jobs.endings import fate_of, judged, may_be_slurms
from hyperband.launch.slurm.jobs.events import JobOver
from hyperband.launch.slurm.jobs.slots import TrialJobSlots
from hyperband.machine.limits import allow_open_files

#: Slurm's word on a job that was ended from outside is waited for so long; on one of which nothing was heard
#: for a while it was asked meanwhile
_WORD_S, _WORD_ON_LOST_S = 20.0, 5.0
#: files that a job takes here
_N_FILES_EACH = 1
#: in place of Slurm's number, before there is one
NO_NUMBER = "not submitted"


class TrialJobCarriers:
    """Slurm carries each attempt, once it was asked to."""

    def __init__(self, slots: TrialJobSlots) -> None:
        """Ask through these slots."""
        self._slots = slots

    def room(self, lease: Lease) -> Room:  # noqa: ARG002
        """Return what a job finds: all that its script's environment says, GPUs included."""
        return Room()

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:  # noqa: ARG002
        """Have a job submitted, with others that start in the same turn."""
        self._slots.ask(attempt, folder)
        return Carrier(label=NO_NUMBER, is_told=True)

    def is_coming(self, label: str) -> bool:
        """Return whether an attempt may still begin: one that was ordered does, in the queue or not."""
        return bool(label)

    def let_go(self, carrier: Carrier) -> None:
        """Do nothing: of attempts that are over the slots hear by name."""

    def close(self) -> None:
        """Do nothing: jobs stay in the queue."""


class TrialJobLauncher(RemoteLauncher):
    """Runs each attempt in a Slurm job. What Slurm takes away is never the attempt's fault."""

    # as it is said on the command line
    engine = "slurm --slurm-mode jobs"

    def __init__(self, slots: TrialJobSlots, *, cwd: Path, grace_s: float) -> None:
        """See RemoteLauncher; slots: submit, and hear what became of it.

        Raises:
            MachineError: so many jobs cannot be watched by one process.
        """
        n_slots = slots.n_slots()
        allow_open_files(n_slots * _N_FILES_EACH, f"{n_slots} jobs on Slurm")
        super().__init__(TrialJobCarriers(slots), cwd=cwd, grace_s=grace_s)
        self._slots = slots
        #: what Slurm said of the jobs of attempts that have not been finished
        self._words: dict[RemoteJob, JobOver] = {}
        #: over by their keeper's word, and Slurm's is waited for until then
        self._silent_s: dict[RemoteJob, float] = {}

    def adopt(self, folder: Path, lease: Lease) -> RemoteJob | None:
        """Return the job of an earlier search that lives in this folder, or is in the queue, or may be.

        Also one that Slurm ended when no search was there: who ended it, only Slurm can say.
        """
        job = super().adopt(folder, lease)
        if job is None and (job := self._ended_by_slurm(folder, lease)) is None:
            return None
        self._slots.ask_old(job.attempt, folder, _label_of(job), has_begun=_is_claimed(job))
        return job

    def heed(self) -> None:
        """Take in what became of Slurm's jobs.

        Raises:
            MachineError: a folder cannot be written to.
        """
        by_attempt = {job.attempt: job for job in self._jobs}
        for given in self._slots.take_given():
            job = by_attempt.get(given.attempt)
            if job is not None and job.carrier is not None:
                job.carrier.label = given.job_id
                _write(job.carrier, job.folder)
        for over in self._slots.take_over():
            job = by_attempt.get(over.attempt)
            if job is not None:
                self._words[job] = over
                # its result counts, if there is one; if nobody has begun it, nobody will
                self.give_up(job, over.words)
        for job in self._jobs:
            if job.has_begun:
                self._slots.note_begun(job.attempt)
            job.note_stopped(self._slots.is_suspended(_label_of(job)))
        now_s = time.monotonic()
        for job in [one for one, until_s in self._silent_s.items() if one in self._words or now_s >= until_s]:
            self._silent_s[job] = 0.0
            job.ring()

    def next_look_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing is said; None: never."""
        until_s = [until_s for until_s in self._silent_s.values() if until_s > 0]
        return max(0.0, min(until_s) - time.monotonic()) if until_s else None

    def take_back(self) -> None:
        """See that nothing begins that has not: the search comes to its end, and queues may be long.

        Raises:
            MachineError: the folder of a job cannot be written to.
        """
        for job in self._jobs:
            if job.has_begun or job.is_over:
                continue
            try:
                is_ours = claim_for_search(job.folder, job.attempt, "it had not begun", StopReason.STOP)
            except OSError as err:
                raise _cannot_write(job.folder, err) from err
            if is_ours:
                self._patrol.look(job)

    def finish(self, job: RemoteJob) -> Ending | None:
        """Tell how a job ended; None: not over yet, or Slurm has not said why it ended it."""
        if job.is_over and self._awaits_word(job):
            job.hush()
            return None
        ending = super().finish(job)
        if ending is None:
            return None
        self._silent_s.pop(job, None)
        word = self._words.pop(job, None)
        if job.has_begun:
            self._slots.note_begun(job.attempt)
        said = "" if word is None or ending.exit_status is not None else self._slots.said_of(word.job_id)
        found = judged(ending, word, is_asked=was_asked(job.folder), said=said)
        if (fate := fate_of(ending, found.ending, word)) is not None:
            self._slots.note_fate(job.attempt, fate)
        self._slots.note_done(job.attempt)
        if found.has_run:
            self._slots.note_run()
        if found.failure:
            self._slots.note_failed(found.failure)
        return found.ending

    def _is_excused(self, job: RemoteJob, silent_since_s: float, at_s: float) -> bool:
        if job.asked is not None:
            return False  # the search is not to wait for it
        return self._slots.excuses(_label_of(job), silent_since_s, lease_s=job.lease_s, at_s=at_s)

    def _awaits_word(self, job: RemoteJob) -> bool:
        """Whether only Slurm can say why a job ended, and may still do so."""
        assert job.ending is not None
        if job in self._words or not may_be_slurms(job.ending, is_asked=was_asked(job.folder)):
            return False
        now_s = time.monotonic()
        if job not in self._silent_s:
            is_lost = job.ending.exit_status is None and not job.ending.never_ran
            self._silent_s[job] = now_s + (_WORD_ON_LOST_S if is_lost else _WORD_S)
            self._slots.clerk.look()
        return now_s < self._silent_s[job]

    def _ended_by_slurm(self, folder: Path, lease: Lease) -> RemoteJob | None:
        """Return a job again that has ended when no search was there, if only Slurm can say why."""
        try:
            ordered = Ordered.read(folder)
            sight = None if ordered is None else Sight.of(folder, ordered.attempt)
            ending = None if sight is None else ending_of(sight)
            is_slurms = ending is not None and may_be_slurms(ending, is_asked=was_asked(folder))
            carrier = Carrier.find(folder)
        except OSError as err:
            raise MachineError(
                f"cannot look at the job in {folder}: {err.strerror or err}; mend the folder and start the "
                "same command again"
            ) from err
        if ordered is None or sight is None or sight.is_gone or not is_slurms:
            return None
        if sight.is_ours:
            return None  # a search saw to it that it never begins, and may have cancelled its job itself
        return self._watch(self._job(folder, lease, ordered, carrier))


def _label_of(job: RemoteJob) -> str:
    """Return the id of the Slurm job that an attempt has; empty: it is not known."""
    return "" if job.carrier is None or job.carrier.label == NO_NUMBER else job.carrier.label


def _is_claimed(job: RemoteJob) -> bool:
    """Return whether a node has an attempt.

    Raises:
        MachineError: its folder cannot be looked at.
    """
    try:
        sight = Sight.of(job.folder, job.attempt)
    except OSError as err:
        raise _cannot_write(job.folder, err) from err
    return sight.claimed is not None and not sight.is_ours


def _write(carrier: Carrier, folder: Path) -> None:
    try:
        carrier.write(folder)
    except FileNotFoundError:
        pass  # somebody removed it, of which the patrol tells
    except OSError as err:
        raise _cannot_write(folder, err) from err


def _cannot_write(folder: Path, err: OSError) -> MachineError:
    return MachineError(
        f"cannot use the folder of a job, {folder}: {err.strerror or err}; make room, or make it writable, "
        "and start the same command again: the job goes on"
    )
