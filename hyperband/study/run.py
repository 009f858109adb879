"""A search from its arguments to its result: the study opened, the search on it run, all closed again."""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import HyperbandError
from hyperband.folder import has_study, refuse_foreign_folder
from hyperband.journal import Journal, read_events
from hyperband.machine.process import require_pidfd
from hyperband.report.screen import Console
from hyperband.search.trial import Plan
from hyperband.settings import On, Settings
from hyperband.study.assembly import Assembly
from hyperband.study.clearing import clear_folder
from hyperband.study.complete import end_again
from hyperband.study.detaching import Detached
from hyperband.study.grounds import Grounds
from hyperband.study.guidance import Guidance, guidance_of
from hyperband.study.opening import continued, open_script
from hyperband.study.parts import grounds_of
from hyperband.study.ray_grounds import RayWords
from hyperband.study.replay import replay
from hyperband.study.submitted import refuse_submitted
from hyperband.study.wake import Wake


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended."""

    folder: Path
    #: stopped, finished or failed
    state: str
    exit_code: int
    reason: str
    #: what the user must be told, if the search could not go on
    error: HyperbandError | None
    #: its next start is to follow at once, and finds what is held for it
    is_handed_over: bool = False


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a search would begin with."""

    #: what the user should know of where its jobs would run
    notes: tuple[str, ...]
    identity: str
    plan: Plan
    guidance: Guidance | None


def dry_run(settings: Settings, *, console: Console) -> DryRun:
    """Return what a search would begin with; imports the script, writes nothing, and asks no cluster.

    A study that is there is read, and what would make another search of it is refused as by the search.

    Raises:
        UsageError, ContractError: the arguments or the script are wrong, or do not go with the study.
        MachineError: a file that was named for a cluster, or what it needs, is not here.
        JournalError: the study, or one to learn from, cannot be read, or its folder is somebody else's.
    """
    notes = tuple(RayWords(settings).notes()) if settings.on is On.RAY else ()
    with open_script(settings, say=console.line) as opened:
        refuse_foreign_folder(opened.folder)
        if has_study(opened.folder) and (events := read_events(opened.folder, say=console.line)):
            opened = continued(events, settings, opened)
        opened.host.draw_one(settings.seed)
        guidance = guidance_of(settings, opened.host, console.line)
        return DryRun(notes, opened.identity, opened.plan, guidance)


def run_search(
    settings: Settings,
    *,
    console: Console,
    confirm: Callable[[Path], None],
    detached: Detached | None = None,
) -> SearchResult:
    """Run, or go on with, the search that the settings describe.

    Args:
        settings: from the command line.
        console: the screen; stays open.
        confirm: with `--clean`, called with the folder of the study that is about to be removed; raises to
            keep it.
        detached: how it was started by one that detached it; None: it was not.

    Raises:
        HyperbandError: before anything ran, or when ours or the machine gave way; running jobs go on.
    """
    require_pidfd()
    owners: list[Callable[[int], bool]] = []
    with open_script(settings, say=console.line) as opened:
        refuse_submitted(opened.folder, console.line)
        clear_folder(settings, opened.folder, console=console, confirm=confirm)
        guidance = None
        if not has_study(opened.folder):
            # a sampler that does not work leaves nothing behind
            opened.host.draw_one(settings.seed)
            guidance = guidance_of(settings, opened.host, console.line)

        def find_grounds() -> Grounds:
            return grounds_of(settings, opened.folder, lambda pid: any(owns(pid) for owns in owners))

        # wrong GPUs leave no folder of a new study behind; an old one may have its result to tell
        grounds = None if has_study(opened.folder) else find_grounds()
        # from the moment the study is ours, whoever ends us must find its jobs ended as well
        with (
            Wake(hands_over=detached is not None and detached.is_in_slurm) as wake,
            contextlib.closing(
                Journal.open(opened.folder, from_copy=settings.from_copy, on_stop=_end_ourselves)
            ) as journal,
        ):
            study = replay(journal, settings, opened)
            if study.is_complete:
                verdict = end_again(settings, study, journal, console)
            else:
                if guidance is None and study.wants_ids:
                    guidance = guidance_of(settings, opened.host, console.line)
                assembly = Assembly(
                    settings,
                    study,
                    journal,
                    grounds or find_grounds(),
                    guidance=guidance,
                    console=console,
                    wake=wake,
                    detached=detached,
                )
                del guidance  # other studies may be large, and whoever learns from them has them
                verdict = assembly.run(owners)
    return SearchResult(
        opened.folder,
        verdict.state,
        verdict.exit_code,
        verdict.reason,
        verdict.error,
        is_handed_over=verdict.is_handed_over,
    )


def _end_ourselves() -> None:
    """End this search as `hyperband stop` does, which cannot reach us from another machine."""
    os.kill(os.getpid(), signal.SIGTERM)
