"""The loop of one search: ends and ids in, decisions, starts out; one transaction a turn.

Each turn: read what ended, feed the engine, choose what starts, journal all of it, and only then act. Nothing
that is not in the journal ever happens; what is in the journal and did not happen is repeated as Lost.
"""

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from hyperband.errors import HyperbandError, InternalError
from hyperband.journal import Journal
from hyperband.launch.base import Wish
from hyperband.report.completions import Completed, Completions
from hyperband.report.screen import Console, Status
from hyperband.search.decisions import Decision
from hyperband.search.engine import Engine
from hyperband.search.events import CheckpointsRemoved, Event, JobEnded, JobStarted
from hyperband.search.health import Health
from hyperband.search.packing import Packing
from hyperband.search.trial import Progress, TrialState
from hyperband.settings import Settings
from hyperband.study.attempts import Attempts
from hyperband.study.checkpoints import Checkpoints
from hyperband.study.disk import DiskWatch
from hyperband.study.finish import Finish, Verdict
from hyperband.study.grounds import Grounds, Waiting
from hyperband.study.jobs import JobFiles
from hyperband.study.judging import judged_end
from hyperband.study.pace import Pace, epochs_before
from hyperband.study.quarantine import take_release_request
from hyperband.study.sampling import Ids
from hyperband.study.slot_health import SlotHealth
from hyperband.study.starting import Chosen, Starting, room_wish
from hyperband.study.stored_checkpoints import StoredCheckpoints
from hyperband.study.unsaid import Unsaid
from hyperband.study.voice import Voice
from hyperband.study.wake import HasDescriptor, Wake, earliest
from hyperband.study.watching import Watching

_SCRIPT_CHANGED = (
    "Warning: the script has changed since its last job. The config ids drawn so far stay, and losses of the "
    "old and the new script are compared with each other; --clean begins anew."
)


class Search:
    """One process's work on a study. `run` it once."""

    def __init__(
        self,
        *,
        settings: Settings,
        journal: Journal,
        engine: Engine,
        grounds: Grounds,
        attempts: Attempts,
        ids: Ids,
        files: JobFiles,
        health: Health,
        packing: Packing,
        pace: Pace,
        completions: Completions | None,
        checkpoints: Checkpoints | StoredCheckpoints,
        voice: Voice,
        console: Console,
        wake: Wake,
        spent_s: float,
    ) -> None:
        """Put the parts together; nothing happens before `run`. spent_s: of the time of `--max-time`."""
        self._settings = settings
        self._journal = journal
        self._engine = engine
        self._grounds = grounds
        self._slots = grounds.slots
        self._attempts = attempts
        self._ids = ids
        self._files = files
        self._voice = voice
        self._console = console
        self._wake = wake
        self._unsaid = Unsaid(voice)
        self._health = health
        self._slot_health = SlotHealth(
            health,
            folder=journal.folder,
            slots=grounds.slots,
            wake=wake,
            unsaid=self._unsaid,
            quarantine_s=settings.quarantine_s,
        )
        self._packing = packing
        self._checkpoints = checkpoints
        #: what is looked at for ids
        self._watched: tuple[HasDescriptor, ...] = ()
        #: events of which the journal hears with the next ones
        self._unwritten: list[Event] = []
        self._pace = pace
        #: None: complete rungs are decisions
        self._completions = completions
        self._complete: list[Completed] = []
        self._starting = Starting(
            settings=settings,
            engine=engine,
            slots=grounds.slots,
            expected_s=self._pace.expected_s if grounds.know_time else None,
            near=lambda trial: grounds.near(files.after(trial)),
            ids=ids,
            files=files,
            health=health,
            packing=packing,
            disk=DiskWatch((journal.folder, Path(files.cwd)), round(settings.min_free_disk_gib * (1 << 30))),
        )
        self._watching = Watching(settings, attempts, voice)
        self._finish = Finish(settings, engine, attempts, voice, console, wake, spent_s=spent_s)

    def run(self) -> Verdict:
        """Search until the plan is complete, or until something ends it before.

        Raises:
            HyperbandError: something of ours or of the machine gave way; jobs that run go on by themselves.
        """
        self._watch_ids()
        for thing in self._grounds.watched:
            self._wake.watch(thing)
        self._take_over()
        ready: set[object] = set()
        while True:
            self._turn(ready)
            has_none = len(self._attempts) == 0 and (self._finish.is_near or self._engine.is_complete)
            if has_none or self._finish.leaves_jobs:
                self._clear_away()
                self._say()
                return self._finish.verdict(self._journal.events)
            self._refuse_deadlock()
            # who waits for a slot comes before who waits for words: they are said when nothing else is ready
            is_busy = len(self._unsaid) > 0 or self._checkpoints.pending
            ready = self._wake.sleep(0.0 if is_busy else self._sleep_s())
            if len(self._unsaid) > 0 and (not ready or self._unsaid.are_many):
                self._say()  # and then another turn: a signal may have come, which is no descriptor

    # One turn.

    def _turn(self, ready: set[object]) -> None:
        events, self._unwritten = self._unwritten, []
        decisions: list[Decision] = []
        began = self._attempts.began()
        ended = self._take_in(self._attempts.ended(ready), events, decisions)
        self._receive_ids(ready, events, decisions)
        self._finish.heed()
        if ended or self._slot_health.is_due:
            self._slot_health.heed(events)
        self._grounds.heed()
        # what it brought to an end has not waited for the next turn to free its slot
        if self._grounds.watched and (
            more := self._take_in(self._attempts.ended(self._wake.peek()), events, decisions)
        ):
            ended += more
            self._slot_health.heed(events)
        if (why_over := self._grounds.why_over()) is not None and not self._finish.is_near:
            self._finish.fail("no job can be started any more", why_over)
        if self._checkpoints.failure is not None and not self._finish.is_near:
            self._finish.fail("no checkpoint could be stored", self._checkpoints.failure)
        chosen = self._choose()
        self._grounds.want(self._waiting)
        events += self._starting.take_events()
        decisions += self._starting.take_decisions()
        if began or events:
            # files go after decisions, also after those that no end brought about
            is_sure = bool(ended or decisions or (chosen and self._grounds.outlive_us))
            self._journal.append(*began, *events, durable=is_sure)
        # slots are filled before anything is said: words can wait, slots should not
        orders = [(new, self._attempts.start(new.start, new.lease, new.started)) for new in chosen]
        for event in events:
            self._ids.see(event)
        self._checkpoints.note((started.trial for started, _, _ in ended), decisions)
        # on a full disk no outcome may ever follow, and what was decided is on disk
        is_sure = bool(ended) or self._starting.disk_is_full
        self._note_removal(self._checkpoints.after_turn(durable=is_sure))
        complete, self._complete = self._complete, []
        self._unsaid.add_turn(
            ended=ended,
            complete=complete,
            decisions=decisions,
            events=events,
            orders=orders,
            lines=self._news(),
        )
        if self._files.has_changed:
            self._files.has_changed = False
            self._voice.says(_SCRIPT_CHANGED)
        # only now, with every end read, is it certain which jobs still run
        self._watching.look()
        if len(self._unsaid) == 0:
            self._show()
        if self._settings.debug:
            self._engine.validate()

    def _news(self) -> list[str]:
        """What slots, warm host and journal have to tell."""
        found = [
            *self._grounds.news(),
            *self._journal.news,
            *self._checkpoints.news,
            *self._ids.take_news(),
        ]
        self._journal.news.clear()
        self._checkpoints.news.clear()
        return found

    def _note_removal(self, removed: CheckpointsRemoved | None) -> None:
        if removed is not None:
            self._unwritten.append(removed)
            self._unsaid.add_removed(removed)

    def _clear_away(self) -> None:
        """Remove what is left of checkpoints that are not kept, at the end."""
        self._note_removal(self._checkpoints.finish())
        if self._unwritten:
            self._journal.append(*self._unwritten, durable=True)
        for line in self._news():
            self._voice.says(line)

    def _say(self) -> None:
        """Say what happened, in order."""
        self._unsaid.say()
        self._show()

    def _take_over(self) -> None:
        """Adopt the jobs of an earlier search, and journal those that ended meanwhile."""
        events: list[Event] = []
        decisions: list[Decision] = []
        take_release_request(self._journal.folder)  # one that an earlier search did not live to read
        ended = self._take_in(self._attempts.adopt(self._wish_of), events, decisions)
        self._slot_health.heed(events)
        if events:
            self._journal.append(*events, durable=True)
        for event in events:
            self._ids.see(event)
        self._checkpoints.note((started.trial for started, _, _ in ended), decisions)
        if ended or len(self._attempts):
            ends = [event for _, event, _ in ended]
            n_unbegun = sum(event.loss is None and event.ended_at == event.started_at for event in ends)
            unbegun = f", {n_unbegun} had not begun" if n_unbegun else ""
            self._voice.says(
                f"Taken over: {self._attempts.words()}; {len(ended) - n_unbegun} ended while no search was "
                f"there{unbegun}."
            )
        for one in ended:
            self._voice.ended(*one)
        for decision in decisions:
            self._voice.decided(decision)

    def _wish_of(self, started: JobStarted) -> Wish:
        wish = room_wish(self._settings, self._packing, started.epochs)
        return replace(wish, whole=wish.whole or self._engine.ran_out_of_memory(started.job))

    def _take_in(
        self, ended: list[tuple[JobStarted, JobEnded]], events: list[Event], decisions: list[Decision]
    ) -> list[tuple[JobStarted, JobEnded, Progress]]:
        """Judge attempts that are over, one after the other, and feed them to all that decides.

        Return each with how far the search was then.
        """
        judged: list[tuple[JobStarted, JobEnded, Progress]] = []
        for started, found in ended:
            event = judged_end(self._health, started, found, retries=self._settings.retries)
            decisions += self._engine.handle(event)
            self._health.see(event)
            self._packing.see(event)
            events.append(event)
            judged.append((started, event, self._engine.progress()))
            complete = None if self._completions is None else self._completions.see(started, event)
            self._complete += [] if complete is None else [complete]
        for started, event, _ in judged:
            self._count(started, event)
            self._files.note_end(started.trial, event)
            self._checkpoints.note_end(started.trial, event)
        return judged

    def _count(self, started: JobStarted, event: JobEnded) -> None:
        self._pace.see(started, event)
        self._finish.count(started, event)

    def _watch_ids(self) -> None:
        self._watched = self._ids.watched
        for thing in self._watched:
            self._wake.watch(thing)

    def _receive_ids(self, ready: set[object], events: list[Event], decisions: list[Decision]) -> None:
        """Take in what the script's sampler gave; an error ends the search when the running jobs are done."""
        is_over = self._engine.n_ids_wanted() == 0 or self._finish.is_near
        is_due = self._ids.wait_s() == 0.0  # something that should have come in did not
        if not self._watched or not (is_over or is_due or ready.intersection(self._watched)):
            return
        for thing in self._watched:
            self._wake.forget(thing)
        try:
            for event in self._ids.receive():
                decisions += self._engine.handle(event)
                events.append(event)
        except HyperbandError as err:
            self._finish.fail("the script's sampler failed", err)
            self._ids.close()
        if self._engine.n_ids_wanted() == 0:
            self._ids.close()
        elif self._finish.is_near:
            self._ids.rest()
        self._watch_ids()

    def _choose(self) -> list[Chosen]:
        """Choose what starts."""
        self._starting.forget()
        return [] if self._finish.is_near else self._starting.choose()

    def _why_idle(self) -> str | None:
        """Return why nothing starts, or why what was started has not begun."""
        return self._starting.waiting_for or self._grounds.why_waiting() or None

    def _waiting(self) -> Waiting:
        """Count what waits for a slot, up to as many as there could be."""
        if self._finish.is_near:
            # what is in a queue keeps its place there for a start that follows at once
            return Waiting(0, is_last=not self._finish.leaves_jobs)
        quarantined = frozenset(self._health.quarantined)
        most = self._slots.n_slots()
        n_new = self._engine.n_ids_wanted()
        start = self._engine.next_start()
        if start is None:
            return Waiting(min(most, n_new), quarantined=quarantined)
        queued = (trial for trial in self._engine.trials() if trial.state is TrialState.QUEUED)
        # a promotion that is only proposed is none of them
        n_queued = max(1, sum(1 for _ in islice(queued, most)))
        n_epochs = start.epochs - epochs_before(self._engine, start)
        return Waiting(min(most, n_queued + n_new), self._pace.expected_s(n_epochs), quarantined)

    def _sleep_s(self) -> float | None:
        """Return for how long nothing can happen that gives no event."""
        look_at_s = self._starting.look_at_s
        waits_s = [None if look_at_s is None else look_at_s - time.monotonic(), self._finish.wait_s()]
        waits_s += [self._ids.wait_s(), self._grounds.next_look_s()]
        waits_s += [self._slot_health.next_look_s(), self._voice.wait_s()]
        return earliest([*waits_s, self._watching.next_look_s(), self._console.next_redraw_s()])

    def _refuse_deadlock(self) -> None:
        idle = len(self._attempts) == 0 and self._engine.next_start() is None and not self._ids.is_awaited
        if idle and not self._finish.is_near:
            raise InternalError(
                "nothing runs, nothing can start and no config id is awaited, but the plan is not complete; "
                "this is an error of hyperband's own: please report it with the journal in "
                f"{self._journal.folder}"
            )

    def _show(self) -> None:
        """Say what is waited for, after all that led to it, and how far the search is."""
        why_idle = self._why_idle()
        self._voice.waits(why_idle, in_numbers=not self._grounds.outlive_us)
        # of a cluster it was told in other words, as news, why it gives nothing
        if why_idle is None and self._grounds.outlive_us and self._starting.lacks_slot and not self._attempts:
            why_idle = self._slots.why_none()
        self._voice.shows(why_idle, self._attempts.suspended())
        progress = self._engine.progress()
        n_slots = self._slots.n_slots()
        self._console.status(
            Status(
                progress=progress,
                n_slots=n_slots,
                n_queued=self._attempts.n_queued,
                time_left_s=self._pace.time_left_s(progress.epochs_left, n_slots),
                why_idle=why_idle,
                draining=self._finish.is_near,
            )
        )
