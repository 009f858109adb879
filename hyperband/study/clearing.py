"""Making way for a new study: `--clean`, and folders that are somebody else's."""

from collections.abc import Callable
from pathlib import Path

from hyperband.errors import JournalError
from hyperband.folder import has_study, refuse_foreign_folder
from hyperband.journal import refuse_away, removing
from hyperband.report.screen import Console
from hyperband.settings import Settings
from hyperband.study.learning import read_lessons
from hyperband.study.rest import end_held, end_living_jobs


def clear_folder(
    settings: Settings, folder: Path, *, console: Console, confirm: Callable[[Path], None]
) -> None:
    """Remove the study in `folder` if that is asked for, and refuse a folder that is no study's.

    Args:
        settings: from the command line.
        folder: of the study.
        console: told what was removed.
        confirm: called with the folder before it is removed; raises to keep it.

    Raises:
        HyperbandError: it stays, or cannot be used.
    """
    if not (settings.clean and has_study(folder)):
        refuse_foreign_folder(folder)
        return
    # refused before anything is asked or removed
    read_lessons(settings.learn_from)
    refuse_away(folder, from_copy=settings.from_copy)
    confirm(folder)
    try:
        # nobody may be writing it, and its living jobs are ended first
        with removing(folder, from_copy=settings.from_copy) as lock:
            end_living_jobs(folder, lock, gives_up=True)  # nobody will read what they left
            end_held(folder)
    except OSError as err:
        raise JournalError(f"cannot remove {folder}: {err}; remove it by hand") from err
    console.line(f"Removed {folder}; the script's own checkpoints stay where they are.")
