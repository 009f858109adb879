"""Attempts in Slurm jobs of their own: who is asked to carry them, and what Slurm's word says of their end.

Owns the way from how a keeper saw its job end, and how Slurm says that its own job ended, to the ending. Must
not know: what is submitted when.
"""

import signal
import time
from dataclasses import replace
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.base import Ending, Lease, StopReason
from hyperband.launch.carrier import Carrier, Room
from hyperband.launch.remote import RemoteLauncher
from hyperband.launch.remote_files import Ordered, Sight, claim_for_search, ending_of, was_asked
from hyperband.launch.remote_job import RemoteJob
from hyperband.launch.slurm_words import JobState
from hyperband.launch.trial_job_events import JobOver
from hyperband.launch.trial_job_slots import TrialJobSlots

#: Slurm's word on a job that was ended from outside is waited for so long; on one of which nothing was heard
#: for a while it was asked meanwhile
_WORD_S, _WORD_ON_LOST_S = 20.0, 5.0
#: how a job ends that is ended from outside, also as a shell says it
_ENDED_FROM_OUTSIDE = frozenset(
    {-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
)
#: what Slurm says of a job that it took away
_TAKEN = frozenset({JobState.CANCELLED, JobState.TIME_LIMIT, JobState.NODE_FAILURE, JobState.PREEMPTED})
#: what it says where its script came to an end by itself
_BY_ITSELF = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.OUT_OF_MEMORY})
_TOLD_TO_END = "Slurm told it to end: preempted, at its time limit, or cancelled"
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
        """See RemoteLauncher; slots: submit, and hear what became of it."""
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
        label = "" if job.carrier is None or job.carrier.label == NO_NUMBER else job.carrier.label
        self._slots.ask_old(job.attempt, folder, label, has_begun=_is_claimed(job))
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
        self._slots.note_done(job.attempt)
        return self._judged(ending, word, is_asked=was_asked(job.folder))

    def _awaits_word(self, job: RemoteJob) -> bool:
        """Whether only Slurm can say why a job ended, and may still do so."""
        assert job.ending is not None
        if job in self._words or not _may_be_slurms(job.ending, is_asked=was_asked(job.folder)):
            return False
        now_s = time.monotonic()
        if job not in self._silent_s:
            is_lost = job.ending.exit_status is None and not job.ending.never_ran
            self._silent_s[job] = now_s + (_WORD_ON_LOST_S if is_lost else _WORD_S)
            self._slots.clerk.look()
        return now_s < self._silent_s[job]

    def _judged(self, ending: Ending, word: JobOver | None, *, is_asked: bool) -> Ending:
        state = None if word is None else word.state
        words = _TOLD_TO_END if word is None else word.words
        if not _may_be_slurms(ending, is_asked=is_asked):
            if ending.exit_status is not None and not ending.never_ran:
                self._slots.note_run()
            return ending
        if word is not None and word.by_somebody:
            note = (
                f"somebody cancelled its Slurm job {word.job_id}: this trial is given up. `hyperband stop` "
                "ends a search"
            )
            return replace(ending, exit_status=None, asked=None, note=note, was_cancelled=True)
        if ending.never_ran:
            if state is None or state in _BY_ITSELF:
                self._slots.note_failed("; ".join(dict.fromkeys((ending.note, words))))
            return ending
        if state == JobState.OUT_OF_MEMORY and ending.exit_status in (None, *_ENDED_FROM_OUTSIDE):
            # with a job that takes too much some sites end all of it, our keeper included
            return replace(
                ending,
                exit_status=-signal.SIGKILL,
                asked=None,
                note=words,
                oom_killed=True,
                lost_keeper=False,
            )
        if ending.asked is None and state not in _TAKEN and (ending.lost_keeper or ending.exit_status):
            # it is no fault of what it ran in: a job that does so each time must not be tried for ever
            self._slots.note_run()
            return ending
        return replace(ending, exit_status=None, asked=None, note=words, was_taken_away=True)

    def _ended_by_slurm(self, folder: Path, lease: Lease) -> RemoteJob | None:
        """Return a job again that has ended when no search was there, if only Slurm can say why."""
        try:
            ordered = Ordered.read(folder)
            sight = None if ordered is None else Sight.of(folder, ordered.attempt)
            ending = None if sight is None else ending_of(sight)
            is_slurms = ending is not None and _may_be_slurms(ending, is_asked=was_asked(folder))
            carrier = Carrier.find(folder)
        except OSError as err:
            raise MachineError(
                f"cannot look at the job in {folder}: {err.strerror or err}; mend the folder and start the "
                "same command again"
            ) from err
        if ordered is None or sight is None or sight.is_gone or not is_slurms:
            return None
        return self._watch(self._job(folder, lease, ordered, carrier))


def _may_be_slurms(ending: Ending, *, is_asked: bool) -> bool:
    """Return whether Slurm, and not the job or we, may have brought this end about.

    is_asked: a search asked for its end.
    """
    if ending.asked is not None:
        return ending.asked is StopReason.STOP and not is_asked and not _is_ours(ending)
    return ending.exit_status is None or ending.exit_status in _ENDED_FROM_OUTSIDE


def _is_ours(ending: Ending) -> bool:
    """Return whether it was ended before it began: only a search does that."""
    return ending.never_ran and ending.asked is not None


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
