"""What jobs took, rung by rung and slot by slot: tables for people. Owns their layout; decides nothing."""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from hyperband.report.text import duration, moment, shortened, shown, size
from hyperband.report.view import StudyView
from hyperband.search.events import JobEnded
from hyperband.search.health import place_of
from hyperband.search.trial import Outcome

_REASON_WIDTH = 80


@dataclass(slots=True)
class _Slot:
    """What ran on one slot."""

    n_jobs: int = 0
    n_losses: int = 0
    n_failures: int = 0
    busy_s: float = 0.0


def rungs_table(study: StudyView) -> str:
    """For each number of epochs: jobs, time and memory of their attempts. Empty if nothing has ended.

    Lost and stopped attempts are left out, since what they took is that of a part of the job, and so are
    those that never began. A peak is that of the largest job. Columns without a single value are left out.
    """
    by_epochs: dict[int, list[JobEnded]] = {}
    for job in study.jobs:
        if job.end is not None and job.end.outcome.is_final and job.has_begun:
            by_epochs.setdefault(job.start.epochs, []).append(job.end)
    if not by_epochs:
        return ""
    order = sorted(by_epochs)
    columns: list[tuple[str, Callable[[Sequence[JobEnded]], str]]] = [
        ("jobs", lambda ends: f"{sum(not end.retry for end in ends):,}"),
        ("median\ntime", lambda ends: duration(statistics.median(e.ended_at - e.started_at for e in ends))),
        ("median\nprocessor", lambda ends: _of(statistics.median, (e.cpu_s for e in ends), duration)),
        ("median\nmemory", lambda ends: _of(statistics.median, (e.memory_peak_bytes for e in ends), size)),
        ("peak\nmemory", lambda ends: _of(max, (e.memory_peak_bytes for e in ends), size)),
        ("peak GPU\nmemory", lambda ends: _of(max, (e.gpu_memory_peak_bytes for e in ends), size)),
        (
            "mean GPU\nutilisation",
            lambda ends: _of(statistics.fmean, (e.gpu_utilisation_percent for e in ends), _percent),
        ),
    ]
    found = [(head, [words(by_epochs[epochs]) for epochs in order]) for head, words in columns]
    kept = [(head, cells) for head, cells in found if any(cells)]
    rows = [[f"{epochs:,}", *(cells[row] for _, cells in kept)] for row, epochs in enumerate(order)]
    return tabulate(
        rows,
        headers=["epochs", *(head for head, _ in kept)],
        disable_numparse=True,
        colalign=["right"] * (len(kept) + 1),
    )


def slots_table(study: StudyView) -> str:
    """For each slot that ran anything or is in quarantine: attempts, losses, failures. Empty if none."""
    slots: dict[str, _Slot] = {event.slot: _Slot() for event in study.quarantined}
    for job in study.jobs:
        if not job.has_begun:
            continue  # the time of a queue is nobody's
        name = job.start.slot
        if name not in slots:
            slots[name] = _Slot()
        _count(slots[name], job.end)
    quarantined = {event.slot: event for event in study.quarantined}
    for name in [name for name in quarantined if any(place_of(slot) == name != slot for slot in slots)]:
        del slots[name]  # its shares are there
    rows: list[list[str]] = []
    for name in sorted(slots, key=_in_order):
        slot = slots[name]
        row = [name, f"{slot.n_jobs:,}", f"{slot.n_losses:,}", f"{slot.n_failures:,}", duration(slot.busy_s)]
        event = quarantined.get(place_of(name))
        if event is not None:
            row.append(f"until {moment(event.until_at)}: {shortened(event.reason, _REASON_WIDTH)}")
        rows.append([shown(cell) for cell in row])
    headers = ["slot", "attempts", "losses", "failures", "busy", *["in quarantine"][: len(quarantined)]]
    align = ["left", *["right"] * 4, "left"][: len(headers)]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=align) if rows else ""


def _count(slot: _Slot, end: JobEnded | None) -> None:
    slot.n_jobs += 1
    if end is not None:
        slot.n_losses += end.outcome is Outcome.LOSS
        slot.n_failures += end.outcome.is_failure
        slot.busy_s += end.ended_at - end.started_at


def _in_order(name: str) -> list[tuple[bool, int, str]]:
    """`gpu:2` before `gpu:10`, `slurm/2` before `slurm/10`, `n2/15/0` before `n10/15/0`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _of(
    measure: Callable[[list[float]], float], values: Iterable[float | None], words: Callable[[float], str]
) -> str:
    """The measure of those values that are known, in words; empty if none is."""
    known = [value for value in values if value is not None]
    return words(measure(known)) if known else ""


def _percent(value: float) -> str:
    return f"{value:.0f} %"
