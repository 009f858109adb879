"""The keys of a Slurm profile: what each value must look like, and the commented example of all of them.

Owns the check of one value under its key. Must not know: where a value comes from, or which go together.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping

from hyperband.errors import UsageError
from hyperband.launch.slurm.profile import seconds_of

_WHOLE = re.compile(r"[0-9]{1,9}")
_MEMORY = re.compile(r"[0-9]{1,12}[KMGT]?", re.IGNORECASE)
_GPUS = re.compile(r"(?:([A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*):)?([1-9][0-9]{0,3})")
#: not the name of a file, which sbatch takes, too: nodes are added to it
_NODES = re.compile(r"[^\s/]+")
_SIGNAL = re.compile(r"(?:SIG)?(USR1|TERM)(?:@([0-9]{1,5}))?", re.IGNORECASE)
#: seconds before the time limit at which Slurm sends a signal when the profile does not say
_SIGNAL_BEFORE_S = 60


def checked(key: str, value: str | list[str], where: str) -> object:
    """The value as the profile keeps it.

    Raises:
        UsageError: No such key, or none of its values.
    """
    if key not in _CHECKS:
        near = difflib.get_close_matches(key, _CHECKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_CHECKS)}."
        raise UsageError(f"{where}: there is no key {key!r} in a Slurm profile; {hint}")
    check, expected = _CHECKS[key]
    if isinstance(value, list) != (key == "setup") and not (key == "setup" and isinstance(value, str)):
        raise UsageError(f"{where}: {key} is a list, expected {expected}.")
    try:
        return check(value)
    except ValueError as err:
        shown = value if isinstance(value, str) else "a list with something else in it"
        raise UsageError(f"{where}: {key} is {shown!r}, expected {expected}.") from err


def _text(found: object) -> str:
    text = str(found)
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError(text)
    return text


def _whole(at_least: int) -> Callable[[object], int]:
    def check(found: object) -> int:
        text = str(found)
        if not _WHOLE.fullmatch(text) or int(text) < at_least:
            raise ValueError(text)
        return int(text)

    return check


def _time(found: object) -> str:
    text = str(found)
    seconds = seconds_of(text)
    if seconds is not None and seconds < 60:
        raise ValueError(text)
    return text


def _matching(form: re.Pattern[str]) -> Callable[[object], str]:
    def check(found: object) -> str:
        text = str(found)
        if not form.fullmatch(text):
            raise ValueError(text)
        return text

    return check


def _signal(found: object) -> str:
    match = _SIGNAL.fullmatch(str(found))
    if match is None:
        raise ValueError(found)
    return f"{match[1].upper()}@{int(match[2]) if match[2] else _SIGNAL_BEFORE_S}"


def _seconds(found: object) -> float:
    seconds = float(str(found))
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(found)
    return seconds


def _lines(found: object) -> tuple[str, ...]:
    lines = [found] if isinstance(found, str) else found
    assert isinstance(lines, list)
    if any("\0" in line for line in lines):
        raise ValueError(found)
    return tuple(line for line in lines if line.strip())


_NAME = (_text, "a name, as sbatch takes it")
_TIME_FORMS = "a time limit of at least a minute: 90 (minutes), 4:00:00, 2-12 (days-hours) or unlimited"
#: check and words for each key, in the order of the example
_CHECKS: Mapping[str, tuple[Callable[[object], object], str]] = {
    "partition": _NAME,
    "account": _NAME,
    "qos": _NAME,
    "time": (_time, _TIME_FORMS),
    "gpus": (_matching(_GPUS), "a number of GPUs per node, with their type where it matters: 2 or a100:2"),
    "gres": (_text, "generic resources, as sbatch takes them"),
    "cpus": (_whole(1), "a whole number of at least 1"),
    "mem": (_matching(_MEMORY), "memory per node, such as 32G"),
    "nodes": (_whole(1), "a whole number of at least 1"),
    "exclude": (_matching(_NODES), "a list of nodes, such as gpu[03,07-09]"),
    "constraint": (_text, "features of nodes, as sbatch takes them"),
    "array_throttle": (_whole(1), "a whole number of at least 1"),
    "signal": (_signal, "USR1 or TERM, with the seconds before the time limit: USR1@120"),
    "setup": (_lines, "a list of shell lines"),
    "max_allocations": (_whole(1), "a whole number of at least 1"),
    "min_allocations": (_whole(0), "a whole number of at least 0"),
    "idle_s": (_seconds, "a number of seconds of at least 0"),
    "slots_per_allocation": (_whole(1), "a whole number of at least 1"),
    "search_partition": _NAME,
    "search_time": (_time, _TIME_FORMS),
    "search_mem": (_matching(_MEMORY), "memory, such as 4G"),
}

EXAMPLE = """\
# What hyperband asks of Slurm (python hyperband.py SCRIPT --on slurm --slurm-profile THIS_FILE).
# Each line can be left out; the site's own default then counts. --slurm-set KEY=VALUE overrides one line.

# --- one allocation: what sbatch is asked for ---
# partition: gpu
# account: my_project
# qos: normal
# minutes, H:MM:SS, days-hours; jobs that would not end in time start in the next allocation
# time: 8:00:00
# GPUs on each node, with a type where it matters (a100:2); or gres, as sbatch takes it
# gpus: 1
# gres: gpu:1
# cores and memory on each node
# cpus: 8
# mem: 32G
# nodes of one allocation
# nodes: 1
# exclude: gpu[03,07-09]
# constraint: a100
# so many seconds before the time limit the script gets this signal (USR1 or TERM); without it, nothing
# signal: USR1@120

# --- shell lines that run first on the node; the first one that fails ends the allocation ---
# setup:
#   - module load cuda/12.4
#   - source ~/miniconda3/bin/activate my_environment

# --- how many ---
# max_allocations: 4
# these are kept also while nothing waits
# min_allocations: 0
# an allocation without a job is given up after so many seconds
# idle_s: 120
# jobs at once in one allocation; as many as GPUs if it is left out, 1 without GPUs
# slots_per_allocation: 1

# --- with --slurm-mode jobs: each job of a trial is a job of Slurm's, or a task of an array ---
# What stands above is of one such job then. So many are queued or running at once as max_allocations says;
# idle_s and min_allocations are refused then, and more than one node or slot for each; array_throttle is
# refused without it.
# So many of them run at once, at most; without this line as many as Slurm starts
# array_throttle: 8

# --- with --detach: the search itself, a small job of its own without a GPU ---
# partition above, if this is left out
# search_partition: cpu
# at its time limit it is queued again, and goes on; at least 5 minutes
# search_time: 7-00:00:00
# search_mem: 4G
"""
