"""Jobs that the time limit of their allocation cut off: how often that may happen to one. Pure.

A script may save as it goes and be further each time, so that a job may take several allocations; one that
does not would be tried for ever. Must not know: how a cut is found out.
"""

import math

#: tries of a job besides those that it needs if it goes on each time where it was cut off
_N_SPARE = 2


class CutOffs:
    """How often each job was cut off in this search."""

    def __init__(self) -> None:
        """None was."""
        self._n_cuts: dict[str, int] = {}

    def note(self, job: str, *, ran_s: float, expected_s: float | None) -> str | None:
        """Take in that a job was cut off; return what is to be done about it, if it was once too often.

        Args:
            job: its number.
            ran_s: for how long it had run, seconds.
            expected_s: how long it was expected to run; None: nothing was known.
        """
        n_cuts = self._n_cuts[job] = self._n_cuts.get(job, 0) + 1
        n_needed = 1 if expected_s is None or ran_s <= 0 else math.ceil(expected_s / ran_s)
        if n_cuts < n_needed + _N_SPARE:
            return None
        return (
            f"job {job} was cut off by the time limit of its allocation {n_cuts} times, the last time after "
            f"{ran_s:.0f} s, and did not come to its end. Ask for more time (--slurm-set time=...), or have "
            "the script save what it has (--slurm-set signal=USR1@60 warns it) and go on from there; then "
            "start the same command again: the search goes on where it is"
        )
