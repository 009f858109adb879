"""Who goes on: the one place that compares losses."""

from collections.abc import Iterable, Sequence


def best_trials(candidates: Iterable[int], losses: Sequence[float], n: int) -> list[int]:
    """The n candidates with the lowest losses, ties to the lower trial number; by trial number.

    Args:
        candidates: trial numbers in ascending order, only such as have a finite loss at this rung: a failure
            has no loss and so no rank, whatever the scale of the others.
        losses: loss by trial number.
        n: how many go on, at most.
    """
    # The sort is stable and the candidates ascend: equal losses keep the order of their numbers.
    return sorted(sorted(candidates, key=losses.__getitem__)[:n])


def is_better(loss: float, epochs: int, trial: int, than: tuple[float, int, int]) -> bool:
    """True if (loss, epochs, trial) beats `than`: more epochs first, then the lower loss, then the number."""
    other_loss, other_epochs, other_trial = than
    return (-epochs, loss, trial) < (-other_epochs, other_loss, other_trial)
