"""The parts of one start of a search, put together around a study that is open, run, and taken apart again.

Owns in which order they are made, what is said before anything runs, and what follows if the loop gives way.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import HyperbandError, JournalError, MachineError
from hyperband.folder import LOG_FILE
from hyperband.journal import Journal, StartsMayWait
from hyperband.report.log import StudyLog
from hyperband.report.now import NowFile
from hyperband.report.screen import Console
from hyperband.report.tables import plan_text
from hyperband.search.events import Event, JobStarted, SearchEnded, SearchStarted
from hyperband.search.health import Health
from hyperband.search.packing import Packing
from hyperband.settings import On, Settings
from hyperband.study.attempts import Attempts
from hyperband.study.detaching import Detached
from hyperband.study.finish import Verdict, spent_s
from hyperband.study.grounds import Grounds
from hyperband.study.guidance import Guidance
from hyperband.study.jobs import JobFiles
from hyperband.study.pace import Pace
from hyperband.study.parts import checkpoints_of, completions_of, failures_of, ids_of, others_of
from hyperband.study.replay import Replayed
from hyperband.study.rest import end_held, end_living_jobs, refuse_living_elsewhere
from hyperband.study.sampling import Ids
from hyperband.study.search import Search
from hyperband.study.voice import Voice
from hyperband.study.wake import Wake
from hyperband.study.warnings import cost_of_not_resuming, warnings_of


class Assembly:
    """One start of a search on a study that is not complete. `run` it once."""

    def __init__(
        self,
        settings: Settings,
        study: Replayed,
        journal: Journal,
        grounds: Grounds,
        *,
        guidance: Guidance | None,
        console: Console,
        wake: Wake,
        detached: Detached | None,
    ) -> None:
        """Take what is there already; nothing happens before `run`.

        Args:
            settings: from the command line.
            study: as the journal has it.
            journal: open.
            grounds: where jobs run; opened and closed here.
            guidance: what a model can learn from; None: none is wanted.
            console: the screen; stays open.
            wake: has the signals.
            detached: how the search was started by one that detached it; None: it was not.
        """
        self._settings = settings
        self._study = study
        self._engine = study.engine
        self._journal = journal
        self._folder = journal.folder
        self._grounds = grounds
        self._guidance = guidance
        self._console = console
        self._wake = wake
        self._detached = detached

    def run(self, owners: list[Callable[[int], bool]]) -> Verdict:
        """Search, and journal how that ended.

        Args:
            owners: gets what tells whether a process is the script's host, or what computes the model.

        Raises:
            HyperbandError: before anything ran, or when ours or the machine gave way; running jobs go on.
        """
        self._see_to_rest()
        with contextlib.ExitStack() as stack:
            one_ladder = self._settings.algorithm.has_one_ladder
            log = stack.enter_context(StudyLog(self._folder / LOG_FILE, has_brackets=not one_ladder))
            stack.enter_context(contextlib.closing(self._grounds))
            launcher = self._grounds.open(self._folder, self._journal.lock, self._study.cwd())
            others = others_of(self._grounds.engine, self._folder, self._journal.lock)
            for other in others:
                stack.callback(other.close)
            events = self._begin(may_wait=launcher.bell is not None)
            files = self._job_files()
            voice = self._voice(log, events)
            self._introduce(voice, log, files)
            attempts = Attempts(
                folder=self._folder,
                engine=self._engine,
                launcher=launcher,
                others=others,
                slots=self._grounds.slots,
                files=files,
                log=log,
                wake=self._wake,
                beginnings=self._journal.beginnings,
                is_timed=self._settings.has_time_limit,
            )
            ids = stack.enter_context(contextlib.closing(self._ids(events)))
            owners.append(ids.owns)
            search = self._search(events, attempts=attempts, ids=ids, files=files, voice=voice)
            return self._watched(search, attempts, voice)

    # Before anything runs.

    def _see_to_rest(self) -> None:
        """See that no job of before runs that this search would not know.

        Raises:
            MachineError: one does, or may.
        """
        if self._journal.was_restored:
            # a start may be missing, and its job run: all are ended, and those that were known are repeated
            end_living_jobs(self._folder, self._journal.lock)
            self._journal.settle()
        refuse_living_elsewhere(
            self._engine.running(), self._folder, self._journal.lock, engine=self._grounds.engine
        )

    def _begin(self, *, may_wait: bool) -> list[Event]:
        """Journal that the search begins; return every event until then.

        may_wait: starts are orders, of which whoever reads the journal must know.
        """
        begin = self._study.begin(self._settings)
        orders = [StartsMayWait(time.time())] if may_wait else []
        self._journal.append(*begin, *orders, durable=True)
        if self._detached is not None:
            self._detached.say_begun()
        return [*self._study.events, *begin]

    def _introduce(self, voice: Voice, log: StudyLog, files: JobFiles) -> None:
        """Say what is searched, where, and what should be known of it."""
        settings, guidance = self._settings, self._guidance
        identity = self._study.opened.identity
        guide = () if guidance is None else guidance.describe()
        slots = self._grounds.slots.describe()
        self._console.line(plan_text(self._engine.plan, settings, identity=identity, guide=guide))
        where = "" if self._journal.place is None else f"journal   {self._journal.place}\n"
        self._console.line(f"\nslots     {slots}\nfolder    {self._folder}\n{where}")
        warnings = warnings_of(self._study.events, settings)
        warnings += _give_back_elsewhere(self._folder, settings.on)
        warnings += [] if guidance is None else guidance.warnings
        warnings += cost_of_not_resuming(
            settings, identity=identity, script_sha256=files.script_sha256(), plan=self._engine.plan
        )
        for warning in (*warnings, *self._grounds.news()):
            voice.says(warning)
        log.line(f"begin  pid {os.getpid()} on {socket.gethostname()}: {slots}")

    # The parts.

    def _job_files(self) -> JobFiles:
        events = self._study.events
        before = next((e.script_sha256 for e in reversed(events) if isinstance(e, JobStarted)), None)
        files = JobFiles(
            self._settings,
            self._folder,
            cwd=self._study.created.cwd,
            environment=self._grounds.environment,
            last_sha256=before,
        )
        files.recover(events)
        return files

    def _voice(self, log: StudyLog, events: list[Event]) -> Voice:
        began_at = next(event.at for event in reversed(events) if isinstance(event, SearchStarted))
        return Voice(
            self._folder,
            log,
            self._console,
            now=NowFile(self._folder, began_at),
            cwd=self._study.created.cwd,
            best=self._engine.best(),
            failures=failures_of(self._study.events),
            has_brackets=not self._settings.algorithm.has_one_ladder,
        )

    def _ids(self, events: list[Event]) -> Ids:
        guidance, self._guidance = self._guidance, None  # other studies may be large, and were told of
        return ids_of(
            self._settings,
            self._study.opened,
            self._study.created,
            self._engine,
            events=events,
            guidance=guidance,
            folder=self._folder,
            n_slots=self._grounds.slots.n_slots,
        )

    def _search(
        self, events: list[Event], *, attempts: Attempts, ids: Ids, files: JobFiles, voice: Voice
    ) -> Search:
        settings = self._settings
        checkpoints = checkpoints_of(settings, Path(self._study.created.cwd), self._engine, self._folder)
        checkpoints.recover(events)
        packing = Packing()
        for event in events:
            packing.see(event)
        # one that Slurm starts again and again is one search
        is_one = self._detached is not None and self._detached.is_in_slurm
        return Search(
            settings=settings,
            journal=self._journal,
            engine=self._engine,
            grounds=self._grounds,
            attempts=attempts,
            ids=ids,
            files=files,
            health=Health(events),
            packing=packing,
            pace=Pace(self._engine, self._study.events),
            completions=completions_of(self._engine, self._study.events) if settings.asynchronous else None,
            checkpoints=checkpoints,
            voice=voice,
            console=self._console,
            wake=self._wake,
            spent_s=spent_s(self._study.events) if is_one else 0.0,
        )

    # The end.

    def _watched(self, search: Search, attempts: Attempts, voice: Voice) -> Verdict:
        """Run the loop, and journal how it ended, also when ours or the machine gave way."""
        try:
            verdict = search.run()
        except JournalError:
            if self._journal.was_deleted:
                attempts.end_all()  # nobody could find them again
                self._grounds.give_back()
            raise  # there is nothing left to write to
        except HyperbandError as err:
            going_on = f" {attempts.words()} go on by themselves." if len(attempts) else ""
            verdict = Verdict("failed", err.exit_code, f"{err}{going_on}", err)
        self._journal.append(SearchEnded(time.time(), verdict.state, verdict.reason), durable=True)
        if len(attempts) == 0 and not verdict.is_handed_over:
            for line in self._grounds.give_back():
                voice.says(line)
        voice.over(verdict.state, verdict.reason)
        return verdict


def _give_back_elsewhere(folder: Path, on: On) -> list[str]:
    """End what a start with another --on still holds, now that no job runs there; say what it was."""
    try:
        held = end_held(folder, but=on)
    except MachineError as err:
        return [f"Warning: what an earlier start with another --on holds is not given back: {err}"]
    return [f"Given back what an earlier start with another --on held: {' and '.join(held)}."] if held else []
