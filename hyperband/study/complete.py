"""A study that has nothing left to do, started once more: what is said, and what its end left undone.

Owns the verdict on it. Nothing of the script's is run.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from hyperband.errors import MachineError, SearchFailedError
from hyperband.folder import job_folder
from hyperband.journal import Journal
from hyperband.report.ladder import why_complete
from hyperband.report.screen import Console
from hyperband.report.tables import plan_text
from hyperband.report.view import study_view
from hyperband.script.contract import last_lines
from hyperband.search.events import Event, JobEnded, JobStarted, SearchEnded
from hyperband.settings import Settings
from hyperband.study.failures import last_words
from hyperband.study.finish import Verdict
from hyperband.study.opening import last_settings
from hyperband.study.parts import checkpoints_of
from hyperband.study.replay import Replayed, search_started
from hyperband.study.rest import end_held
from hyperband.study.warnings import warnings_of

_N_ERROR_LINES = 10


def end_again(settings: Settings, study: Replayed, journal: Journal, console: Console) -> Verdict:
    """Do what a search that was killed at its very end did not, and return how the study ended.

    Raises:
        HyperbandError: the journal cannot be written.
    """
    events = study.events
    console.line(plan_text(study.engine.plan, settings, identity=study.opened.identity))
    for warning in warnings_of(events, settings):
        console.line(warning)
    if last_settings(events) != settings.document():
        state = "finished" if study.engine.best() else "failed"
        again = SearchEnded(time.time(), state, _why_complete(events))
        journal.append(search_started(settings), again, durable=True)
    _clear_away(settings, study, journal)
    _give_back(journal.folder, console)
    return _verdict(study, journal.folder)


def _clear_away(settings: Settings, study: Replayed, journal: Journal) -> None:
    """Remove checkpoints that are not kept."""
    cwd = Path(study.created.cwd)
    if not cwd.is_dir():
        return  # and with it what was to be removed
    checkpoints = checkpoints_of(settings, cwd, study.engine, journal.folder)
    checkpoints.recover(study.events)
    removed = checkpoints.finish()
    if removed is not None:
        journal.append(removed, durable=True)


def _give_back(folder: Path, console: Console) -> None:
    """End what is held of clusters."""
    try:
        end_held(folder)
    except MachineError as err:
        console.line(str(err))


def _verdict(study: Replayed, folder: Path) -> Verdict:
    events = study.events
    if study.engine.best() is not None:
        return Verdict("finished", 0, _why_complete(events))
    starts = {(event.job, event.attempt): event for event in events if isinstance(event, JobStarted)}
    failed = [event for event in events if isinstance(event, JobEnded) and event.outcome.is_failure]
    words = "the search ended without a single loss: every job failed."
    if failed:
        last = failed[-1]
        stderr = job_folder(folder, last.job, last.attempt) / "stderr"
        trial = starts[last.job, last.attempt].trial
        words += last_words(last, trial=trial, error_lines=last_lines(stderr, _N_ERROR_LINES))
    words += "\nMend the script and begin anew with --clean."
    return Verdict("failed", 1, "no job gave a loss", SearchFailedError(words))


def _why_complete(events: Sequence[Event]) -> str:
    """Return why there is nothing left to do."""
    study = study_view(events, folder=None, running=False)
    if not study.plan.promotion.is_open:
        return "the plan was complete before"
    return f"complete before: {why_complete(study)}"
