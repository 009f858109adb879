"""From the way an attempt ended to its outcome: pure but for the reading of the last line of its output."""

from pathlib import Path

from hyperband.launch.base import Ending, StopReason
from hyperband.script.contract import Reading, read_outcome
from hyperband.search.trial import Outcome


def judge(ending: Ending, *, stdout: Path, gpu_is_lost: bool) -> Reading:
    """Return the outcome of one attempt.

    Args:
        ending: what its launcher wrote down.
        stdout: file of its standard output.
        gpu_is_lost: a GPU of its slot fell off the bus: a failure is not the configuration's.
    """
    if ending.exit_status is None:
        return Reading(Outcome.LOST, None, ending.note)
    if gpu_is_lost and (ending.asked is not None or ending.exit_status != 0):
        return Reading(Outcome.LOST, None, "its GPU was lost")
    # A job that ends well after its end was asked for may have stopped its training early:
    # its number is no loss at the epochs wanted.
    if ending.asked is StopReason.TIMEOUT:
        return Reading(Outcome.TIMED_OUT, None, "ended after --timeout")
    if ending.asked is StopReason.STOP:
        return Reading(Outcome.STOPPED, None, "ended with the search")
    return read_outcome(stdout, ending.exit_status)


def remark(ending: Ending, reading: Reading) -> str:
    """Return the words on one attempt's end that the journal keeps."""
    words = [reading.note, ending.note if ending.note != reading.note else ""]
    if ending.leftovers:
        words.append(f"ended what it left behind: {', '.join(ending.leftovers)}")
    return "; ".join(word for word in words if word)
