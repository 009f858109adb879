"""Other studies that the model learns from: `--learn-from`. Their journals are read once, at the start.

Owns whether they can be of use at all. Their trials are never results of this study.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import InternalError, JournalError, MachineError, UsageError
from hyperband.journal import read_events
from hyperband.report.text import counted, shown
from hyperband.script.config import decode
from hyperband.script.failures import ProcessEndedError
from hyperband.script.host import ScriptHost
from hyperband.search.events import Event, IdProposed, IdsDrawn, JobEnded, JobStarted, StudyCreated
from hyperband.search.guide import History
from hyperband.search.trial import Outcome
from hyperband.study.looking import Look, TooSlowError, impatient, own_configs

#: so many config ids of a study are looked at
_N_IDS = 200
_READ_S = 2.0
_N_NAMES = 8


@dataclass(frozen=True, slots=True)
class Lesson:
    """One other study."""

    folder: Path
    events: Sequence[Event]
    n_losses: int
    #: from where its journal was read, if not from where it is written, in sentences
    read_from: tuple[str, ...] = ()

    def describe(self) -> str:
        """The folder, and how much it has to teach."""
        return f"{shown(str(self.folder))} ({self.n_losses:,} {'loss' if self.n_losses == 1 else 'losses'})"


def refuse_itself(folders: Sequence[Path], study: Path) -> None:
    """Refuse to learn from this study, whether it runs, is finished, or could go on.

    Args:
        folders: of the studies to learn from.
        study: folder of this study, which need not be there yet.

    Raises:
        UsageError: one of them is this study.
    """
    for folder in folders:
        if study.is_dir() and study.samefile(folder):
            raise UsageError(
                f"--learn-from {folder} is the study of this search, which learns from itself anyway; name "
                "another one, or leave it out"
            )


def read_lessons(folders: Sequence[Path]) -> list[Lesson]:
    """Read the journals of other studies, which may be being written at this moment.

    Args:
        folders: of those studies.

    Raises:
        JournalError: one of them cannot be read, or has no study in it.
    """
    lessons = []
    for folder in folders:
        said: list[str] = []
        events = read_events(folder, say=said.append)
        if not events or not isinstance(events[0], StudyCreated):
            raise JournalError(f"--learn-from {folder}: its journal holds no study yet; leave it out")
        kept = _checked(folder, events)
        n_losses = sum(isinstance(event, JobEnded) and event.outcome is Outcome.LOSS for event in kept)
        lessons.append(Lesson(folder, kept, n_losses, tuple(said)))
    return lessons


def _checked(folder: Path, events: Sequence[Event]) -> list[Event]:
    """The events that teach something.

    Raises:
        JournalError: they do not follow from each other.
    """
    kept: list[Event] = [
        event for event in events if isinstance(event, IdsDrawn | IdProposed | JobStarted | JobEnded)
    ]
    history = History()
    try:
        for event in kept:
            history.see(event)
    except InternalError as err:
        raise JournalError(
            f"--learn-from {folder}: its journal contradicts itself ({err}); leave it out"
        ) from err
    return kept


def sorted_lessons(
    lessons: Sequence[Lesson], look: Look, host: ScriptHost, say: Callable[[str], None]
) -> tuple[tuple[Lesson, ...], list[str]]:
    """The studies that teach something, and a warning for each that teaches little or nothing.

    Args:
        lessons: the other studies.
        look: at the ids of this script's sampler.
        host: of this script, to read the ids with its own `get_config`; another process of it afterwards if
            that ended it, or was too slow.
        say: told when that takes long.

    Raises:
        ContractError, UsageError, MachineError: the script's process had to be started again, and was not.
    """
    useful: list[Lesson] = []
    warnings: list[str] = []
    for lesson in lessons:
        is_useful, found = _judged(lesson, look, host, say)
        useful += [lesson] if is_useful else []
        if found:
            how = "teaches the model little" if is_useful else "teaches the model nothing, and is left out"
            warnings.append(f"Warning: --learn-from {lesson.folder} {how}: {found}")
    return tuple(useful), warnings


def _judged(lesson: Lesson, look: Look, host: ScriptHost, say: Callable[[str], None]) -> tuple[bool, str]:
    """Whether a study teaches anything; and what is wrong: no losses, or ids that say something else."""
    ids = _ids_of(lesson.events)[:_N_IDS]
    if lesson.n_losses == 0 or not ids:
        return False, "it has no losses yet."
    if look.by_get_config:
        try:
            found_by_id = own_configs(host.read(ids, limit_s=_READ_S, on_slow=impatient(say)))
        except (MachineError, ProcessEndedError, TooSlowError) as err:
            host.load_again()
            return False, f"its config ids cannot be read. {err}"
        configs = list(found_by_id.values())
    else:
        configs = [decode(config_id) for config_id in ids]
    read = [config for config in configs if config]
    n_alike = sum(
        look.common <= config.keys() and not config.keys().isdisjoint(look.names) for config in read
    )
    if n_alike == len(configs):
        return True, ""
    theirs = tuple(dict.fromkeys(name for config in read for name in config))
    found = f"they say {_listed(theirs)}" if theirs else "nothing can be read from them"
    return n_alike > 0, (
        f"of {counted(len(configs), 'config id')} looked at, {n_alike:,} have what this script's have "
        f"({_listed(look.names)}); {found}."
    )


def _ids_of(events: Sequence[Event]) -> list[str]:
    ids: list[str] = []
    for event in events:
        if isinstance(event, IdsDrawn):
            ids += event.ids
        elif isinstance(event, IdProposed):
            ids.append(event.config_id)
    return ids


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:_N_NAMES])) + (", ..." if len(names) > _N_NAMES else "")
