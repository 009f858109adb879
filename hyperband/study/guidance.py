"""What a guided search has to go by, found out before anything starts: the script's ids, and other studies.

Owns the words about it in the plan.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hyperband.script.host import ScriptHost
from hyperband.search.guide import RANDOM_SHARE
from hyperband.settings import GuideKind, Settings
from hyperband.study.learning import Lesson, read_lessons, sorted_lessons
from hyperband.study.looking import Look, look_at


@dataclass(frozen=True, slots=True)
class Guidance:
    """The sampler's ids as they look, and the other studies that teach something."""

    look: Look
    lessons: tuple[Lesson, ...]
    #: what the user should know
    warnings: tuple[str, ...]

    def describe(self) -> tuple[str, ...]:
        """In words, for the plan, a line each."""
        if not self.look.names:
            return (f"none: {self.look.describe()[0]}",)
        share = f"{100 * RANDOM_SHARE:g} % of the trials stay random"
        return (
            f"a model of the losses chooses among the sampler's draws; {share}",
            *self.look.describe(),
            *(f"it learns from {lesson.describe()}" for lesson in self.lessons),
        )


def guidance_of(settings: Settings, host: ScriptHost, say: Callable[[str], None]) -> Guidance | None:
    """Look at the script's ids and read the studies to learn from; waits for that. None: no guide is wanted.

    Args:
        settings: of the search.
        host: of the script, loaded and idle.
        say: told when reading the ids takes long.

    Raises:
        UsageError: the interpreter's numpy is missing.
        ContractError: the sampler does not work.
        JournalError: a study to learn from cannot be read.
        MachineError: a signal ended the script's process.
    """
    if settings.guide is GuideKind.NONE:
        return None
    lessons = read_lessons(settings.learn_from)
    look = look_at(host, settings.seed, say)
    useful, warnings = sorted_lessons(lessons if look.names else (), look, host, say)
    read_from = [f"--learn-from {lesson.folder}: {words}" for lesson in useful for words in lesson.read_from]
    return Guidance(look, useful, (*look.warnings(), *read_from, *warnings))
