"""The slots of a search whose jobs are Slurm jobs of their own: one for each that may be there at once.

Owns the way between what happens (reports of the clerk, starts and ends of attempts) and the jobs, which
decide (trial_jobs.py), and carries their orders out. Must not know: how an attempt ended.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hyperband.launch.base import NO_WISH, Lease, Wish
from hyperband.launch.remote.slots import Booked
from hyperband.launch.slurm.clerk import Pace
from hyperband.launch.slurm.files import described
from hyperband.launch.slurm.jobs.events import (
    Asked,
    Begun,
    Done,
    Event,
    Exclude,
    Failed,
    Fared,
    Found,
    Given,
    JobOver,
    Remember,
    Seen,
    SeenJob,
    SubmitJobs,
    Worked,
)
from hyperband.launch.slurm.jobs.files import TrialJobFiles
from hyperband.launch.slurm.jobs.nodes import Fate
from hyperband.launch.slurm.jobs.state import Stage
from hyperband.launch.slurm.jobs.trial_jobs import TrialJobs
from hyperband.launch.slurm.orders import Cancel, Fail, Say, Stop, Tick
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.reports import FoundSite, Report, Status
from hyperband.launch.slurm.room import lease_named
from hyperband.launch.slurm.slots import SlotsOfSlurm

#: of jobs that are told of together so many by their ids
_N_NAMED = 3
#: a shared folder that could not be used is tried again after so long
_TROUBLE_S = 5.0
#: what all slots are called, with a number: where a job runs is for Slurm to say
SLOT_PREFIX = "slurm/"


def profile_of_one(profile: Profile) -> Profile:
    """Return what is asked for one job of a trial, from a profile that was read for this mode."""
    return replace(profile, slots_per_allocation=1)


class TrialJobSlots(SlotsOfSlurm[TrialJobFiles]):
    """Slots `slurm/K`; see RemoteSlots."""

    def __init__(self, profile: Profile, *, max_slots: int | None) -> None:
        """Ask nothing yet.

        Args:
            profile: what a job is, see profile_of_one; its `max_allocations` is how many there may be.
            max_slots: the same, if it is less.
        """
        super().__init__(profile)
        most = profile.max_allocations
        self._n_slots = most if max_slots is None else min(most, max_slots)
        self._jobs = TrialJobs()
        self._booked = Booked()
        #: of each attempt that is not done
        self._folders: dict[str, Path] = {}
        #: which attempt a job was known to be for, also where its comment says nothing
        self._attempt_of: dict[str, str] = {}
        self._given: list[Given] = []
        self._over: list[JobOver] = []
        #: the shared folder could not be used, and it was told of
        self._is_in_trouble = False
        self._look_at_s: float | None = None
        #: not told yet, by the reason
        self._cancelled: dict[str, list[str]] = {}

    def open(self, files: TrialJobFiles, environ: Mapping[str, str], pace: Pace | None = None) -> None:
        """Begin to ask Slurm: first of all, what of this study is there already."""
        self._jobs = TrialJobs(
            n_at_once=self._profile.array_throttle, log_of=str(files.log), has_earlier=files.may_have_jobs
        )
        recalled = files.recall()
        self._begin(files, environ, pace)
        for one in recalled:
            self._tell(one)

    def said_of(self, job_id: str) -> str:
        """Return what Slurm itself printed where the output of jobs goes, of this one."""
        return self._opened()[1].said_of(job_id)

    # What the search asks of slots.

    def describe(self) -> str:
        """One line: how many there may be, and of what kind."""
        n = self._n_slots
        asked = ", ".join(described(self._profile)) or "the site's defaults"
        jobs = "1 job, one after the other" if n == 1 else f"{n} jobs"
        most = self._profile.array_throttle
        running = "" if most is None or most >= n else f", {most} of them running"
        return f"Slurm: each job of a trial is one of Slurm's ({asked}); up to {jobs} at once{running}"

    def n_slots(self) -> int:
        """How many jobs may be queued or running at once."""
        return self._n_slots

    def take(self, wish: Wish) -> Lease | None:
        """Lease a slot that is free, if Slurm takes jobs now."""
        if not self._jobs.may_get_jobs(time.monotonic()) or len(self._booked) >= self._n_slots:
            return None
        for name in self.names():
            if name not in self._booked and name not in wish.avoid:
                return self._booked.book(lease_named(self._profile, name, 0))
        return None

    def names(self) -> tuple[str, ...]:
        """Every slot."""
        return tuple(f"{SLOT_PREFIX}{number}" for number in range(self._n_slots))

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:  # noqa: ARG002
        """Count a slot as used by a job of an earlier search, which may have had more of them.

        Raises:
            InternalError: it is taken.
        """
        return self._booked.book(lease_named(self._profile, slot_name, 0))

    def release(self, lease: Lease) -> None:
        """Count the slot as free.

        Raises:
            InternalError: it was not taken.
        """
        self._booked.free(lease.slot.name)

    def next_look_s(self) -> float | None:
        """Seconds after which Slurm may take jobs again."""
        return self._jobs.next_look_s(time.monotonic())

    def why_none(self) -> str:
        """One line: why no job is submitted."""
        return self._jobs.why_none(time.monotonic())

    def news(self) -> tuple[str, ...]:
        """What happened since the last call; of jobs cancelled for the same reason one line."""
        for why, job_ids in self._cancelled.items():
            if len(job_ids) == 1:
                self._news.append(f"Slurm's job {job_ids[0]} is cancelled: {why}")
                continue
            first, n_more = ", ".join(job_ids[:_N_NAMED]), len(job_ids) - _N_NAMED
            more = f" and {n_more} more" if n_more > 0 else ""
            self._news.append(f"Slurm's jobs {first}{more} are cancelled: {_of_several(why)}")
        self._cancelled.clear()
        return super().news()

    def note_cancelled(self, job_ids: Sequence[str], why: str) -> None:
        """Have it told that jobs are cancelled."""
        self._cancelled.setdefault(why, []).extend(job_ids)

    # What the grounds and the launcher ask.

    def why_waiting(self) -> str:
        """One line on attempts that wait in Slurm's queue; empty: none does, or not for long."""
        return self._jobs.why_waiting(time.monotonic())

    def ask(self, attempt: str, folder: Path) -> None:
        """Have a job submitted for an attempt, with others that are asked for in the same turn."""
        # not told yet: what is ready at the same moment goes as one array
        self._folders[attempt] = folder

    def ask_old(self, attempt: str, folder: Path, job_id: str, *, has_begun: bool) -> None:
        """Go on with the job of an attempt that an earlier search asked for, or submit one if it did not."""
        self._folders[attempt] = folder
        if job_id:
            self._attempt_of[job_id] = attempt
            self.clerk.watch([job_id])
        self._tell(Found(attempt, job_id, _job_of(folder)))
        if has_begun:
            self._tell(Begun(attempt))

    def note_begun(self, attempt: str) -> None:
        """Hear that a node has an attempt."""
        if self._jobs.stage_of(attempt) not in (None, Stage.RUNNING):
            self._tell(Begun(attempt))

    def note_done(self, attempt: str) -> None:
        """Hear that an attempt is over, or will never begin."""
        if self._folders.pop(attempt, None) is not None:
            self._tell(Done(attempt))
            self.clerk.look()

    def note_fate(self, attempt: str, fate: Fate) -> None:
        """Hear how an attempt ended that is not done yet, as far as that says something of its node."""
        self._tell(Fared(attempt, fate))

    def note_failed(self, words: str) -> None:
        """Hear that a job of Slurm's could not run what it is for."""
        self._tell(Failed(words))

    def note_run(self) -> None:
        """Hear that an attempt was run to its end."""
        self._tell(Worked())

    def take_given(self) -> list[Given]:
        """Return which attempts were given which jobs since the last call."""
        given, self._given = self._given, []
        return given

    def take_over(self) -> list[JobOver]:
        """Return which attempts' jobs are over since the last call."""
        over, self._over = self._over, []
        return over

    def heed(self) -> None:
        """Take in what the clerk reported, and submit what is new.

        Raises:
            InternalError: the clerk's thread has ended.
        """
        for report in self.clerk.reports():
            self._hear(report)
        if new := self._new():
            self._tell(Asked(new, tuple(_job_of(self._folders[name]) for name in new)))
        if self._look_at_s is not None and time.monotonic() >= self._look_at_s:
            self._look_at_s = None
            self.clerk.look()
        self._tell(Tick())

    def wait_s(self) -> float | None:
        """Return seconds until `heed` has something to do although the clerk says nothing; None: never."""
        if self._new():
            return 0.0
        now_s = time.monotonic()
        waits_s = [self._jobs.next_look_s(now_s)]
        waits_s += [] if self._look_at_s is None else [max(0.0, self._look_at_s - now_s)]
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    def end(self) -> list[str]:
        """Cancel every job and see its end begin; return what must be said if that fails."""
        return self._give_back(self._hear, lambda: self._jobs.is_given_up)

    # Inside.

    def _why_not_ended(self, files: TrialJobFiles, patience_s: float) -> str:
        return (
            f"Slurm did not end the jobs within {patience_s:g} s: `scancel --name={files.name}` or "
            f"`hyperband stop {files.study}` ends all of them. One that starts after that finds nothing "
            "to do, and ends by itself."
        )

    def _hear(self, report: Stop | Report) -> None:
        if isinstance(report, Status):
            self._news += self._suspended.note(report)
            if (seen := self._seen(report)) is not None:
                self._tell(seen)
            return
        if isinstance(report, FoundSite):
            self._note_site(report)
        self._tell(report)

    def _seen(self, status: Status) -> Seen | None:
        """Return whose jobs those are; None: the folder that says so cannot be read now."""
        _, files = self._opened()
        try:
            found = tuple(
                SeenJob(
                    line,
                    self._attempt_of.get(line.job_id) or files.attempt_of(line.job_id, line.comment),
                    files.excluded_by(line.comment),
                )
                for line in status.jobs
            )
        except OSError as err:
            self._note_trouble(files, err)
            return None
        self._is_in_trouble = False
        return Seen(found)

    def _new(self) -> tuple[str, ...]:
        """Attempts of which the jobs have not been told."""
        return tuple(attempt for attempt in self._folders if self._jobs.stage_of(attempt) is None)

    def _tell(self, event: Event) -> None:
        """Tell the jobs, and do what they want done."""
        for action in self._jobs.handle(event, time.monotonic()):
            match action:
                case SubmitJobs():
                    self._submit(action)
                case Cancel(job_ids, why):
                    self.clerk.cancel(job_ids)
                    self.note_cancelled(job_ids, why)
                case Exclude(job_id, nodes):
                    self.clerk.exclude(job_id, self._opened()[1].excluding(nodes))
                case Remember():
                    self._remember(action)
                case Given(attempt, job_id):
                    self._attempt_of[job_id] = attempt
                    self._given.append(action)
                case JobOver():
                    self._over.append(action)
                case Say(words):
                    self._news.append(words)
                case Fail():
                    self._fail_as(action)

    def _submit(self, order: SubmitJobs) -> None:
        clerk, files = self._opened()
        folders = {attempt: self._folders[attempt] for attempt in order.attempts}
        try:
            word = files.write_tasks(folders, order.exclude)
        except OSError as err:
            words = f"cannot write what Slurm is to run into {files.folder}: {err.strerror or err}; make room"
            self._fail(f"{words}, or make it writable, and start the same command again")
            return
        clerk.submit(order.ticket, files.argv(word, folders, order.exclude), len(folders))

    def _remember(self, what: Remember) -> None:
        files = self._opened()[1]
        try:
            files.remember(what.node, what.of, what.fate)
        except OSError as err:
            words = f"cannot write into {files.folder} how a job ended on {what.node} ({err.strerror or err})"
            self._news.append(f"{words}: the next start of the search will not know it")

    def _note_trouble(self, files: TrialJobFiles, err: OSError) -> None:
        if not self._is_in_trouble:
            self._is_in_trouble = True
            self._news.append(f"cannot use {files.folder} ({err.strerror or err}): it is tried again")
        self._look_at_s = time.monotonic() + _TROUBLE_S


def _of_several(why: str) -> str:
    """Return a reason that was said of one job, of several."""
    return re.sub(r"\bit\b", "them", re.sub(r"^it\b", "they", why))


def _job_of(folder: Path) -> str:
    """Return what an attempt is one at, by its folder."""
    return folder.name.partition("-")[0]
