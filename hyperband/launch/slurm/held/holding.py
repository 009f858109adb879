"""The allocations that a search holds: what happens to them is told, and what follows is carried out.

Owns the way between what happens (reports of the clerk, files of holders, starts and ends of jobs) and the
allocations, which decide. Must not know: who has a slot, or how a job gets onto its node.
"""

import contextlib
import time
from collections.abc import Mapping, Set
from pathlib import Path

from hyperband.launch.remote.place import Place
from hyperband.launch.remote.starts import FailedStarts
from hyperband.launch.slurm.clerk import Pace
from hyperband.launch.slurm.files import SlurmFiles
from hyperband.launch.slurm.held.allocation import Phase
from hyperband.launch.slurm.held.allocations import Allocations
from hyperband.launch.slurm.held.cuts import CutOffs
from hyperband.launch.slurm.held.events import Avoid, Event, Lost, Submit, Wanted
from hyperband.launch.slurm.held.holders import Holders
from hyperband.launch.slurm.orders import Cancel, Fail, Say, Tick
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.reports import FoundSite, Status, StepOver
from hyperband.launch.slurm.room import rules_of
from hyperband.launch.slurm.slots import SlotsOfSlurm
from hyperband.launch.slurm.words import means_ending


class SlurmHolding(SlotsOfSlurm[SlurmFiles]):
    """Allocations, the clerk and the holders of one search. `open` first."""

    def __init__(self, profile: Profile, *, max_slots: int | None) -> None:
        """Ask nothing yet; see SlurmSlots."""
        super().__init__(profile)
        self._rules = rules_of(profile, max_slots)
        self._allocations = Allocations(self._rules)
        self._starts = FailedStarts()
        self._holders = Holders()
        self._lost: list[Lost] = []
        self._steps_over: list[str] = []
        #: of the job at a place, when it began there
        self._expected_s: dict[Place, float | None] = {}
        self._cuts = CutOffs()
        #: nodes on which nothing is started
        self._avoided: frozenset[str] = frozenset()

    def open(self, files: SlurmFiles, environ: Mapping[str, str], pace: Pace | None = None) -> None:
        """Begin to ask Slurm: first of all, what of this study is there already."""
        self._allocations = Allocations(self._rules, log_of=str(files.log), has_earlier=files.may_have_jobs)
        self._begin(files, environ, pace)

    @property
    def is_reachable(self) -> bool:
        """Whether Slurm answered when it was asked last."""
        return self._allocations.is_reachable

    def heed(self) -> None:
        """Take in what the clerk reported and what holders wrote.

        Raises:
            InternalError: the clerk's thread has ended.
        """
        clerk, files = self._opened()
        for report in clerk.reports():
            self._tell(report)
            if isinstance(report, Status):
                self._news += self._suspended.note(report)
                self._note_status()
            elif isinstance(report, StepOver):
                self._steps_over.append(report.name)
            elif isinstance(report, FoundSite):
                self._note_site(report)
        phases = self._allocations.phases
        are_coming = self._allocations.n_coming > 0
        for held, is_new in self._holders.attend(files, time.monotonic(), are_coming=are_coming):
            if is_new and phases.get(held.ready.job_id) == Phase.QUEUED:
                clerk.look()  # it runs already, and Slurm has not been asked since
            self._tell(held.ready)
        self._news += self._holders.news
        self._holders.news.clear()
        self._tell(Tick())

    def want(self, n_jobs: int, shortest_s: float | None, quarantined: Set[str] = frozenset()) -> None:
        """Hear how many jobs wait for a slot, and which nodes are in quarantine."""
        avoided = quarantined | self._starts.bad_nodes
        if avoided != self._avoided:
            self._avoided = frozenset(avoided)
            self._tell(Avoid(self._avoided))
        self._tell(Wanted(n_jobs, shortest_s))

    def why_waiting(self) -> str:
        """One line: what allocations wait for while there is none, or one is suspended; empty: neither."""
        is_told = self._allocations.are_awaited or bool(self._suspended.jobs)
        return self._allocations.why_none() if is_told else ""

    def wait_s(self) -> float | None:
        """Return seconds until `heed` has something to do although the clerk says nothing."""
        now_s = time.monotonic()
        waits_s = [self._holders.wait_s(now_s, are_coming=self._allocations.n_coming > 0)]
        if (tick_s := self._allocations.next_look_s(now_s)) is not None:
            waits_s.append(tick_s)
        return max(0.0, min(waits_s))

    def take_lost(self) -> list[Lost]:
        """Return what was lost with its allocation since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def take_steps_over(self) -> list[str]:
        """Return the names of steps that were found to be over since the last call."""
        over, self._steps_over = self._steps_over, []
        return over

    def started(self, place: Place) -> str:
        """Return when the allocation of a place started, in Slurm's words; empty: it is not known."""
        return self._allocations.started(place.job_id)

    def places(self) -> tuple[Place, ...]:
        """Return the slots of allocations that run, free or not."""
        return self._allocations.places()

    def environment_of(self, place: Place) -> Path | None:
        """Return the file with the environment that the setup lines of its allocation made."""
        return self._holders.environment_of(place.job_id)

    def is_held_back(self, place: Place) -> bool:
        """Whether nothing is to be started there now, since it failed a moment ago."""
        return self._starts.are_held_back(place, time.monotonic())

    def note_failed_start(
        self, place: Place, words: str, *, is_ending: bool = False, does_run: bool = False
    ) -> None:
        """Hear that a job could not be started at a place, or lost it: its allocation may be gone.

        is_ending: it was seen to come to its end.
        does_run: no, Slurm says that the allocation runs.
        """
        is_ending = is_ending or means_ending(words)
        self._starts.note(place, words, time.monotonic(), is_ending=is_ending, does_run=does_run)
        self.look()

    def is_at_limit(self, place: Place) -> bool:
        """Whether the time of a place's allocation is over, or about to be."""
        return self._allocations.is_at_limit(place.job_id, time.monotonic())

    def note_cut_off(self, place: Place, job: str, ran_s: float) -> None:
        """Hear that the time limit ended the job at a place; ran_s: for how long it had run there."""
        words = self._cuts.note(job, ran_s=ran_s, expected_s=self._expected_s.get(place))
        if words is not None:
            self._fail(words)

    def note_run(self, place: Place) -> None:
        """Hear that something was run at a place."""
        self._starts.forget(place)

    def look(self) -> None:
        """Have Slurm asked now."""
        self.clerk.look()

    def end(self) -> list[str]:
        """Cancel every allocation and see its end begin; return what must be said if that fails."""
        return self._give_back(self._tell, lambda: self._allocations.is_given_up)

    # Inside.

    def _why_not_ended(self, files: SlurmFiles, patience_s: float) -> str:
        with contextlib.suppress(OSError):  # then they end when nobody has wanted them for a while
            files.say_unwanted()
        there = self._allocations.job_ids
        what = f"the allocations {', '.join(there)}" if there else "an allocation that it may have taken"
        return (
            f"Slurm did not end {what} within {patience_s:g} s: `scancel --name={files.name}` or `hyperband "
            f"stop {files.study}` ends all of them, and by themselves they end when it answers again."
        )

    def _tell(self, event: Event) -> None:
        """Tell the allocations, and do what they want done."""
        for action in self._allocations.handle(event, time.monotonic()):
            match action:
                case Submit():
                    self._submit(action)
                case Cancel(job_ids, why):
                    self.clerk.cancel(job_ids)
                    self._news.append(f"allocation {', '.join(job_ids)} given up: {why}")
                case Lost():
                    self._lost.append(action)
                case Say(words):
                    self._news.append(words)
                case Fail():
                    self._fail_as(action)

    def _submit(self, order: Submit) -> None:
        clerk, files = self._opened()
        try:
            files.note_asked()
        except OSError as err:
            words = f"cannot write what Slurm is asked for into {files.folder}: {err.strerror or err}"
            self._fail(f"{words}; make room, or make it writable, and start the same command again")
            return
        clerk.submit(order.ticket, files.allocation_argv(order.exclude))

    def _note_status(self) -> None:
        """Starts that failed were their allocation's fault, or that of what is started."""
        held = self._allocations.held
        words = self._starts.judge(lambda place: place.job_id in held)
        self._news += self._starts.take_news()
        if words is not None:
            self._fail(
                f"jobs cannot be started in allocations that run: {words}. Mend it (the interpreter of "
                "hyperband and the study's folder must be at the same path on the nodes), and start the "
                "same command again: the search goes on where it is"
            )
        self._holders.hurry()
