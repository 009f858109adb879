"""What a search asks of a site's Slurm: read from a YAML file and from `KEY=VALUE` words, checked early.

Owns the keys, their checks and messages, and the commented example. Must not know: how the values become
arguments of sbatch, jobs, the search.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import UsageError

_WHOLE = re.compile(r"[0-9]{1,9}")
_MEMORY = re.compile(r"[0-9]{1,12}[KMGT]?", re.IGNORECASE)
_GPUS = re.compile(r"(?:([A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*):)?([1-9][0-9]{0,3})")
_SIGNAL = re.compile(r"(?:SIG)?(USR1|TERM)(?:@([0-9]{1,5}))?", re.IGNORECASE)
#: the forms that `man sbatch` gives for --time
_TIMES = (
    re.compile(r"(?P<m>\d+)(:(?P<s>\d+))?"),
    re.compile(r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)"),
    re.compile(r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?"),
)
_UNIT_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_UNLIMITED = ("unlimited", "infinite")
#: seconds before the time limit at which Slurm sends a signal when the profile does not say
_SIGNAL_BEFORE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one allocation is, and how many may be; texts as sbatch takes them, None: the site's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    #: per node, `2` or `a100:2`
    gpus: str | None = None
    #: instead of `gpus`, per node, as sbatch takes it
    gres: str | None = None
    #: per node
    cpus: int | None = None
    #: per node
    mem: str | None = None
    #: how many nodes one allocation has
    nodes: int = 1
    exclude: str | None = None
    constraint: str | None = None
    #: tasks of one array that run at once; None: no limit
    array_throttle: int | None = None
    #: `USR1@120`: so many seconds before the time limit the script gets this signal
    signal: str | None = None
    #: shell lines that run before anything else on the node
    setup: tuple[str, ...] = ()
    max_allocations: int = 4
    min_allocations: int = 0
    #: an allocation without a job is given up after so long
    idle_s: float = 120.0
    slots_per_allocation: int | None = None

    @property
    def time_limit_s(self) -> float | None:
        """The time limit that the profile asks for; None: it names none, or asks for none."""
        return None if self.time is None else seconds_of(self.time)

    @property
    def n_gpus(self) -> int:
        """GPUs of an allocation on each of its nodes."""
        if self.gpus is not None:
            return int(self.gpus.rpartition(":")[2])
        return 0 if self.gres is None else _n_gpus_in(self.gres)

    @property
    def n_slots(self) -> int:
        """How many jobs may run at once in one allocation, on all of its nodes together."""
        if self.slots_per_allocation is not None:
            return self.slots_per_allocation
        return max(1, self.n_gpus) * self.nodes

    @property
    def n_slots_per_node(self) -> int:
        """The same on each of its nodes."""
        return self.n_slots // self.nodes


def seconds_of(time: str) -> float | None:
    """Seconds of a time limit in one of sbatch's forms, None for no limit.

    Raises:
        ValueError: it has none of the forms.
    """
    if time.lower() in _UNLIMITED:
        return None
    for form in _TIMES:
        if found := form.fullmatch(time):
            return float(sum(_UNIT_S[unit] * int(n) for unit, n in found.groupdict().items() if n))
    raise ValueError(time)


def _n_gpus_in(gres: str) -> int:
    """GPUs that a --gres text asks for: `gpu`, `gpu:2`, `gpu:a100:2`, among others separated by commas."""
    n = 0
    for entry in gres.split(","):
        name, *rest = entry.removeprefix("gres/").removeprefix("gres:").split(":")
        if name == "gpu":
            n += int(rest[-1]) if rest and _WHOLE.fullmatch(rest[-1]) else 1
    return n


def read_profile(path: Path | None, overrides: Sequence[str] = ()) -> Profile:
    """The profile of a file, with `KEY=VALUE` words over it; the later word counts, `setup` words add up.

    Args:
        path: A YAML file with one mapping; None: all defaults.
        overrides: Words of `--slurm-set`.

    Raises:
        UsageError: The file cannot be read, is no such mapping, has a key twice or one that is unknown, or
            a value is none of those expected; with the line.
    """
    found: dict[str, object] = {}
    if path is not None:
        for key, (value, line) in _entries(path).items():
            found[key] = _checked(key, value, f"{path}, line {line}")
    set_here: dict[str, str | list[str]] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        where = f"--slurm-set {word}"
        if not equals:
            raise UsageError(f"{where}: expected KEY=VALUE, such as time=4:00:00.")
        lines = set_here.setdefault(key, []) if key == "setup" else None
        if isinstance(lines, list):
            lines.append(value)
        else:
            set_here[key] = value
        found[key] = _checked(key, set_here[key], where)
    profile = Profile(**found)  # type: ignore[arg-type] # each was checked under its own name
    _check_together(profile, "the Slurm profile" if path is None else str(path))
    return profile


def _entries(path: Path) -> Mapping[str, tuple[str | list[str], int]]:
    """Keys of a YAML mapping with their values as written and their lines: `4:00:00` is no number here."""
    try:
        import yaml
    except ImportError as err:
        raise UsageError(
            f"--slurm-profile {path} needs PyYAML, which is not installed: pip install 'hyperband[slurm]'. "
            "Without it, every key can be given as --slurm-set KEY=VALUE."
        ) from err
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(
            f"--slurm-profile {path} cannot be read ({err}); `hyperband slurm init` writes a commented one."
        ) from err
    except yaml.YAMLError as err:
        raise UsageError(f"--slurm-profile {path} is no YAML: {' '.join(str(err).split())}.") from err
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"--slurm-profile {path}: expected lines such as `partition: gpu`.")
    found: dict[str, tuple[str | list[str], int]] = {}
    for key_node, value_node in root.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in found:
            raise UsageError(f"{path}, line {line}: {key} is there twice, first in line {found[key][1]}.")
        if isinstance(value_node, yaml.SequenceNode):
            value: str | list[str] = [
                str(node.value) if isinstance(node, yaml.ScalarNode) else "\0" for node in value_node.value
            ]
        elif isinstance(value_node, yaml.ScalarNode):
            value = str(value_node.value)
        else:
            raise UsageError(f"{path}, line {line}: {key} is a mapping, expected a value or a list.")
        found[key] = (value, line)
    return found


def _checked(key: str, value: str | list[str], where: str) -> object:
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


def _check_together(profile: Profile, where: str) -> None:
    if profile.gpus is not None and profile.gres is not None:
        raise UsageError(
            f"{where} has gpus ({profile.gpus}) and gres ({profile.gres}); expected one of them."
        )
    if profile.min_allocations > profile.max_allocations:
        raise UsageError(
            f"{where}: min_allocations is {profile.min_allocations} and max_allocations is "
            f"{profile.max_allocations}; expected the first to be at most the second."
        )
    if profile.n_slots % profile.nodes:
        raise UsageError(
            f"{where}: slots_per_allocation is {profile.n_slots} and nodes is {profile.nodes}; expected a "
            "multiple of it, the same number on each node."
        )
    if (
        profile.n_gpus
        and profile.n_gpus % profile.n_slots_per_node
        and profile.n_slots_per_node % profile.n_gpus
    ):
        raise UsageError(
            f"{where}: {profile.n_slots_per_node} jobs at once on {profile.n_gpus} GPUs of a node; expected "
            "whole GPUs for each job, or the same number of jobs on each GPU: change slots_per_allocation."
        )


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
    "exclude": (_text, "a list of nodes, such as gpu[03,07-09]"),
    "constraint": (_text, "features of nodes, as sbatch takes them"),
    "array_throttle": (_whole(1), "a whole number of at least 1"),
    "signal": (_signal, "USR1 or TERM, with the seconds before the time limit: USR1@120"),
    "setup": (_lines, "a list of shell lines"),
    "max_allocations": (_whole(1), "a whole number of at least 1"),
    "min_allocations": (_whole(0), "a whole number of at least 0"),
    "idle_s": (_seconds, "a number of seconds of at least 0"),
    "slots_per_allocation": (_whole(1), "a whole number of at least 1"),
}
KEYS = tuple(_CHECKS)

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
# --slurm-mode jobs: tasks of one array that run at once
# array_throttle: 8
"""
