"""What is said about GPU slots: which there are, and why none can be had. Reads, never decides.

Must not know: NVML, leases.
"""

from collections.abc import Sequence

from hyperband.launch.base import Wish
from hyperband.launch.gpu.names import short
from hyperband.launch.gpu.place import Place
from hyperband.launch.gpu.sharing import Sharing


def described(places: Sequence[Place], sharing: Sharing, n_slots: int, notes: Sequence[str]) -> str:
    """One line: the GPUs, the slots on them, and what narrowed the choice."""
    n_whole = sum(place.unit.instance is None for place in places)
    counts = [counted(n_whole, "GPU")] if n_whole else []
    if n_whole < len(places):
        counts.append(counted(len(places) - n_whole, "MIG instance"))
    names = ", ".join(short(place.unit) for place in places)
    models = ", ".join(sorted({place.unit.model for place in places}))
    line = f"{' and '.join(counts)}: {names} ({models})"
    if sharing.is_packed and n_whole:
        line += ", as many jobs on a GPU as fit by their memory"
    elif sharing.n_shares > 1 and n_whole:
        line += f", {sharing.n_shares} jobs on a GPU, {counted(n_slots, 'slot')}"
    if sharing.leave_free:
        line += f", {sharing.leave_free} idle left to others"
    return "; ".join([line, *notes])


def reasons(
    places: Sequence[Place],
    awaited: Sequence[Place],
    refused: Sequence[Wish],
    *,
    leave_free: int,
    unused: Sequence[str],
) -> list[str]:
    """Why nothing that was asked for can be had, each reason once.

    Args:
        places: All of the search.
        awaited: Those that a later look may give, whatever our own jobs do.
        refused: What was asked for.
        leave_free: Of the settings.
        unused: Names of slots without a job of ours.
    """
    waiting = list(dict.fromkeys(place for place in awaited if place.why_not))
    # A GPU that a job of ours has just left is named only when it is the only reason.
    found = [place.why_not for place in waiting if not place.is_settling()]
    n_left = sum(place.is_left for place in places)
    if n_left:
        are = "is" if n_left == 1 else "are"
        found.append(f"{counted(n_left, 'idle GPU')} {are} left to others (--leave-free {leave_free})")
    found = found or [place.why_not for place in waiting]
    for wish in refused:
        found += [
            f"{place.unit} {why}"
            for place in places
            if len(place.used) < place.n_shares and (why := place.why_no_room(wish))
        ]
    for wish in refused:
        kept = [name for name in unused if name in wish.avoid]
        if kept:
            found.append(f"{', '.join(kept)} must not be used for this job")
    return list(dict.fromkeys(found))


def counted(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
