"""The verdict on resuming, from what was measured. Pure: knows no file, clock or process.

Three kinds of evidence, none of which is enough alone: the losses of 1 and then 3 epochs against 3 in one go;
whether the job read files of its own before it wrote to them; and, where epochs are long enough, the time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from hyperband.verdicts import Resuming

#: losses that differ by less, relatively, are the same
_SAME = 1e-6
#: what repeated runs differ by may be exceeded so many times by what is to be called the same
_SPREADS = 3.0
#: an epoch that is shorter, in seconds, is lost in what starting a process takes
_SHORTEST_EPOCH_S = 0.15
#: shares of the time of one epoch that was, or was not, saved
_SAVED, _NOT_SAVED = 0.6, 0.3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured on one configuration (or, in one go, on others if its files could not be found)."""

    #: the loss at 3 epochs after an earlier job had trained 1; None: that job failed
    resumed_loss: float | None
    #: of 3 epochs in one go, each from nothing; empty when that was not possible
    straight_losses: Sequence[float]
    #: whether the resuming job read files of its own before writing to them; None: not known
    has_read: bool | None
    #: seconds for the first epoch, for going on to 3, and for 3 in one go
    first_s: float | None
    resumed_s: float | None
    straight_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and what it rests on."""

    verdict: Resuming
    words: str


def is_same(loss: float, other: float) -> bool:
    """True for losses that are equal up to rounding."""
    return math.isclose(loss, other, rel_tol=_SAME, abs_tol=1e-12)


def is_repeatable(losses: Sequence[float]) -> bool:
    """True when runs of the same thing printed the same."""
    return len(losses) > 1 and all(is_same(losses[0], loss) for loss in losses[1:])


def judge(evidence: Evidence) -> Judgement:
    """Weigh the evidence.

    A difference of losses counts only when repetitions show none; time counts only when an epoch is long
    enough to be seen in it.
    """
    agrees = _agrees(evidence)
    saves = _saves_time(evidence)
    seen = _in_words(evidence, agrees, saves)
    if evidence.resumed_loss is None or agrees is False:
        return Judgement(Resuming.DISAGREES, seen)
    if saves is not None:
        return Judgement(Resuming.RESUMES if saves else Resuming.FROM_SCRATCH, seen)
    if evidence.has_read is not None:
        return Judgement(Resuming.RESUMES if evidence.has_read else Resuming.FROM_SCRATCH, seen)
    return Judgement(Resuming.UNKNOWN, seen)


def _agrees(evidence: Evidence) -> bool | None:
    """Whether the losses are the same; None where that cannot be told."""
    resumed, straight = evidence.resumed_loss, evidence.straight_losses
    if resumed is None or not straight:
        return None
    if any(is_same(resumed, loss) for loss in straight):
        return True
    if len(straight) > 1 and is_repeatable(straight):
        return False
    spread = max(straight) - min(straight)
    return True if abs(resumed - fmean(straight)) <= _SPREADS * spread else None


def _saves_time(evidence: Evidence) -> bool | None:
    """Whether the epochs of the earlier job were saved; None where they are too short to tell."""
    if evidence.first_s is None or evidence.resumed_s is None or not evidence.straight_s:
        return None
    straight_s = fmean(evidence.straight_s)
    jitter_s = max(evidence.straight_s) - min(evidence.straight_s)
    epoch_s = (straight_s - evidence.first_s) / 2
    if epoch_s < max(_SHORTEST_EPOCH_S, _SPREADS * jitter_s):
        return None
    share = (straight_s - evidence.resumed_s) / epoch_s
    if share >= _SAVED:
        return True
    return False if share <= _NOT_SAVED else None


def _in_words(evidence: Evidence, agrees: bool | None, saves: bool | None) -> str:
    parts: list[str] = []
    straight = " and ".join(repr(loss) for loss in dict.fromkeys(evidence.straight_losses))
    if evidence.resumed_loss is None:
        parts.append("the job that goes on fails, in one go it does not")
    elif straight and agrees is True:
        parts.append(
            f"loss {evidence.resumed_loss!r} both ways"
            if is_repeatable(evidence.straight_losses)
            else f"loss {evidence.resumed_loss!r}, in one go {straight}: the same but for chance"
        )
    elif straight and agrees is False:
        parts.append(f"loss {evidence.resumed_loss!r}, but {straight} in one go, twice")
    elif straight:
        parts.append(f"loss {evidence.resumed_loss!r}, in one go {straight}: it prints another one each time")
    if evidence.has_read is not None:
        read = "reads files" if evidence.has_read else "reads nothing"
        parts.append(f"the job {read} that the earlier one wrote")
    if saves is not None and evidence.resumed_s is not None:
        parts.append(f"{evidence.resumed_s:.1f} s against {fmean(evidence.straight_s):.1f} s in one go")
    return "; ".join(parts)
