"""How many files this process may have open at once, and that what it starts is not let have more by that.

Owns RLIMIT_NOFILE. Jobs get the limit that the search was started under: some programs close, or list, as
many descriptors as they might have. Must not know: what they are needed for.
"""

import resource
from collections.abc import Sequence
from pathlib import Path

from hyperband.errors import MachineError

#: what the user's shell, or whoever started us, had set
_SOFT_AT_START, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
_OPEN_FILES = Path("/proc/self/fd")
#: for all else that a search opens now and then
_RESERVE = 200
#: of what there may be any number of, room is made for so many at a time
_STEP = 100


def allow_open_files(n_more: int, what_for: str) -> None:
    """Raise the soft limit, if that is needed, so that so many more files can be open than are now.

    Args:
        n_more: Files.
        what_for: In words, for the message: `400 slots on Slurm`.

    Raises:
        MachineError: The hard limit does not allow it.
    """
    n_needed = sum(1 for _ in _OPEN_FILES.iterdir()) + n_more + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= n_needed:
        return
    if hard != resource.RLIM_INFINITY and hard < n_needed:
        raise MachineError(
            f"{what_for} need {n_needed} open files at once, and this process may have {hard} "
            "(`ulimit -H -n`); raise that limit, or bound the slots with --max-slots, and start the same "
            "command again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_needed, hard))


def allow_one_more(n_there: int, n_each: int, what_for: str) -> None:
    """Raise the soft limit now and then, where it is not known how many of something there will be.

    Args:
        n_there: So many there are already.
        n_each: Files that each of them takes.
        what_for: All of them, see allow_open_files.

    Raises:
        MachineError: The hard limit does not allow it.
    """
    if n_there % _STEP == 0:
        allow_open_files(_STEP * n_each, what_for)


def under_first_limit(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the words that start a program under the limit of our own start; its process stays the same."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == _SOFT_AT_START:
        return tuple(argv)
    return ("/bin/sh", "-c", f'ulimit -S -n {_SOFT_AT_START} && exec "$@"', "sh", *argv)
