"""Ending a study from outside: its search if there is one, else the jobs that a killed one left running."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import JournalError, MachineError
from hyperband.folder import JOURNAL_FILE, Holder, has_study, job_folder
from hyperband.journal import Journal, writer_of
from hyperband.journal.place import Place
from hyperband.journal.stop_request import ask_to_stop, withdraw_stop
from hyperband.machine.process import wait_for_end
from hyperband.report.text import counted
from hyperband.search.engine import Engine
from hyperband.search.events import Event, SearchEnded
from hyperband.search.health import Health
from hyperband.study.attempts import as_timed
from hyperband.study.judging import judged_end
from hyperband.study.opening import last_settings
from hyperband.study.rest import Rest, end_held, end_living_jobs, read_ended
from hyperband.study.submitted import end_submitted, submitted_job
from hyperband.study.verdict import ended_event

_LOOK_S = 0.3


def stop_study(
    folder: Path,
    *,
    from_copy: bool = False,
    gives_up: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """End what runs of the study in `folder`, and wait until it has ended; return what was done, in words.

    Args:
        folder: of the study.
        from_copy: also if its journal is on a machine that is lost.
        gives_up: what jobs left on other machines is lost where it cannot be fetched.
        say: told what is waited for.

    Raises:
        JournalError: there is no study, or its journal is on another machine.
        MachineError: its search runs on another machine, or belongs to somebody else.
    """
    folder = folder.absolute()
    was_submitted = submitted_job(folder) is not None
    job_id = end_submitted(folder, say)
    words = "" if job_id is None else f"Ended the search, Slurm's job {job_id}. "
    if was_submitted and not has_study(folder):
        return f"{words}It had not begun." if words else "Nothing of the study was running."
    return words + _stop_study(folder, from_copy=from_copy, gives_up=gives_up, was_ended=bool(words), say=say)


def _stop_study(
    folder: Path, *, from_copy: bool, gives_up: bool, was_ended: bool, say: Callable[[str], None]
) -> str:
    if not has_study(folder):
        raise JournalError(
            f"{folder} holds no study ({JOURNAL_FILE} is not there); give the folder of one, such as "
            "logs/IDENTITY"
        )
    found = writer_of(folder)
    stopped = None if found is None else _stop_search(folder, found, from_copy=from_copy)
    # also when a search was there: it may have been killed meanwhile
    rest, held = _end_what_is_left(folder, from_copy=from_copy, gives_up=gives_up, say=say)
    things = [*([] if held and not rest.n_ended else [counted(rest.n_ended, "job")]), *held]
    ended = " and ".join(part for part in (", ".join(things[:-1]), things[-1]) if part)
    results = "the result" if rest.n_fetched == 1 else "the results"
    fetched = ""
    if rest.n_fetched:
        fetched = f" Fetched {results} of {counted(rest.n_fetched, 'job')} that had ended by then."
    if stopped is not None:
        return (f"{stopped} {ended} of it ended." if rest.n_ended or held else stopped) + fetched
    if rest.n_ended == 0 and not held:
        if was_ended or fetched:
            return f"The same command goes on with it.{fetched}"
        return f"Nothing of the study in {folder} was running."
    return f"No search was running; ended {ended} that an earlier one had left.{fetched}"


def _end_what_is_left(
    folder: Path, *, from_copy: bool, gives_up: bool, say: Callable[[str], None]
) -> tuple[Rest, list[str]]:
    """End living jobs and what is held of clusters, and journal the end of every attempt that no search saw.

    Return what became of jobs, and what was held, counted.
    """
    with contextlib.closing(Journal.open(folder, from_copy=from_copy)) as journal:
        rest = end_living_jobs(folder, journal.lock, gives_up=gives_up, say=say)
        journal.settle()
        engine = Engine()
        before = journal.events()
        for event in before:
            engine.handle(event)
        events: list[Event] = []
        health = Health(before)
        settings = last_settings(before)
        retries = settings.get("retries", 1)
        assert isinstance(retries, int)
        limits_s = [settings.get(name) for name in ("timeout", "timeout_per_epoch", "stall_timeout")]
        is_timed = any(limit_s is not None for limit_s in limits_s)
        for started in engine.running():
            ending = read_ended(job_folder(folder, started.job, started.attempt), folder, journal.lock)
            ending = as_timed(ending, is_timed=is_timed)
            found = ended_event(
                engine,
                folder,
                started,
                ending,
                began_at=journal.beginnings.when(started),
                gpu_is_lost=False,
                search_alive=False,
            )
            ended = judged_end(health, started, found, retries=retries)
            engine.handle(ended)
            health.see(ended)
            events.append(ended)
        if events:
            was_left = rest.n_ended > 0 or bool(rest.held)
            reason = f"killed{', and what was left of it ended by `hyperband stop`' if was_left else ''}"
            journal.append(*events, SearchEnded(time.time(), "stopped", reason), durable=True)
        # last: if a cluster does not answer, the ends of jobs are told all the same
        held = [*rest.held, *end_held(folder, gives_up=gives_up, say=say)]
    return rest, held


def _stop_elsewhere(folder: Path, found: Holder, place: Place, *, from_copy: bool) -> str | None:
    """Ask a search on another machine, whose journal is there, to end; wait while it shows that it lives.

    Return what was done; None: it does not live, and its journal is given up.
    """
    try:
        ask_to_stop(folder, place)
        try:
            while _is_written_by(Place.read(folder), place):
                if writer_of(folder) is None:
                    if from_copy:
                        return None
                    raise MachineError(
                        f"the search ({found.describe()}) was asked to end, and gives no sign of life; run "
                        f"`hyperband stop` on {found.host}, or, if that is lost, `hyperband stop --from-copy "
                        f"{folder}` here"
                    )
                time.sleep(_LOOK_S)  # a file of another machine gives no event
        finally:
            withdraw_stop(folder)
    except OSError as err:
        raise MachineError(
            f"cannot ask the search ({found.describe()}) to end: {err.strerror or err}; make {folder} "
            "writable"
        ) from err
    return f"Stopped the search ({found.describe()}); the same command goes on with it."


def _is_written_by(now: Place | None, place: Place) -> bool:
    """Return whether the journal is where it was, and has not another writer."""
    return now is not None and (now.token, now.writer) == (place.token, place.writer)


def _stop_search(folder: Path, found: Holder, *, from_copy: bool) -> str | None:
    place = Place.read(folder)
    if not found.is_here and place is not None:
        return _stop_elsewhere(folder, found, place, from_copy=from_copy)
    if not found.is_here:
        raise MachineError(
            f"the study in {folder} is being written by {found.describe()}; run `hyperband stop` on that "
            "machine"
        )
    search = found.process.open()
    if search is None:
        return f"The search ({found.describe()}) ended by itself."
    try:
        signal.pidfd_send_signal(search, signal.SIGTERM)
        signal.pidfd_send_signal(search, signal.SIGCONT)  # a suspended one would not hear it
        wait_for_end(search)
    except PermissionError as err:
        raise MachineError(
            f"the search ({found.describe()}) belongs to another user and cannot be ended by you; ask its "
            "owner"
        ) from err
    except ProcessLookupError:
        pass  # it ended between our look and the signal
    finally:
        os.close(search)
    return f"Stopped the search ({found.describe()}); the same command goes on with it."
