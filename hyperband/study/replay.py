"""A study as its journal has it when a search starts on it, and what the settings make of it now. Only reads.

Owns what the first events of a start are. Must not know: slots, jobs that may still run.
"""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hyperband
from hyperband.errors import MachineError
from hyperband.journal import Journal
from hyperband.machine import proc
from hyperband.search.engine import Engine
from hyperband.search.events import Event, IdsDrawn, PlanMade, SearchStarted, StudyCreated
from hyperband.settings import Settings
from hyperband.study.opening import Opened, continued, created_of


@dataclass(frozen=True, slots=True)
class Replayed:
    """What earlier starts left, fed to the engine, beside what was opened now."""

    opened: Opened
    created: StudyCreated
    #: those of earlier starts; empty: this is the first
    events: Sequence[Event]
    engine: Engine
    #: there is no plan yet, or it is larger now
    grows: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.grows and self.engine.is_complete

    @property
    def wants_ids(self) -> bool:
        """Whether config ids are drawn, now or with the larger plan."""
        return self.grows or self.engine.n_ids_wanted() > 0

    def cwd(self) -> Path:
        """Return the folder in which the jobs of this study run.

        Raises:
            MachineError: it is gone.
        """
        cwd = Path(self.created.cwd)
        if not cwd.is_dir():
            raise MachineError(
                f"the study was first started in {cwd}, which is gone, and its jobs run there; make the "
                "folder again, or begin a new study with --clean or another folder for --logs"
            )
        return cwd

    def begin(self, settings: Settings) -> list[Event]:
        """Feed the engine what this start begins with; return it."""
        begin: list[Event] = [] if self.events else [self.created]
        begin.append(search_started(settings))
        begin += [PlanMade(self.opened.plan)] if self.grows else []
        if self.created.start_with_ids and not self.events:
            begin.append(IdsDrawn(0, self.created.start_with_ids))
        for event in begin:
            self.engine.handle(event)
        return begin


def replay(journal: Journal, settings: Settings, opened: Opened) -> Replayed:
    """Replay a journal, which may be empty, and hold the settings against it.

    Raises:
        UsageError, JournalError: they would make another search of the study.
    """
    events = journal.events()
    if events:
        opened = continued(events, settings, opened)
    engine = Engine()
    for event in events:
        engine.handle(event)
    created = created_of(events, journal.folder) if events else _created(settings, opened)
    plans = [event.plan for event in events if isinstance(event, PlanMade)]
    return Replayed(opened, created, events, engine, grows=not plans or plans[-1] != opened.plan)


def search_started(settings: Settings) -> SearchStarted:
    """Return the event that this process searches from now on."""
    return SearchStarted(
        at=time.time(),
        settings=settings.document(),
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=proc.boot_id(),
        version=hyperband.__version__,
    )


def _created(settings: Settings, opened: Opened) -> StudyCreated:
    return StudyCreated(
        identity=opened.identity,
        script=str(settings.script),
        script_args=settings.script_args,
        cwd=str(Path.cwd()),
        start_with_ids=opened.start_with_ids,
    )
