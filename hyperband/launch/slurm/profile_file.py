"""Reading a Slurm profile: from a YAML file and from `KEY=VALUE` words, refused early with the line.

Owns the file's form, which word counts, which values go together, and which keys are of one mode alone. Must
not know: what a value means.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperband.errors import UsageError
from hyperband.launch.named_files import no_yaml, read_text
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.profile_keys import checked
from hyperband.launch.slurm.setup_lines import why_no_script

#: keys that mean something in one mode only, the values that change nothing in the other, and why not there
_OF_ONE_MODE: Mapping[str, tuple[str, tuple[object, ...], str]] = {
    "array_throttle": (
        "held",
        (),
        "is of arrays of jobs: there are none where allocations are held; max_allocations, or --max-slots, "
        "bounds what runs at once",
    ),
    "nodes": ("jobs", (1,), "is for allocations that are held: each job of a trial is on one node"),
    "slots_per_allocation": (
        "jobs",
        (1,),
        "is for allocations that are held: each job of a trial has all that the profile asks for",
    ),
    "min_allocations": ("jobs", (0,), "is for allocations that are held: no job is kept without a trial"),
    "idle_s": ("jobs", (), "is for allocations that are held: a job of Slurm's ends when its trial's does"),
}

#: what YAML has for no value
_NOTHING = ("", "~", "null", "Null", "NULL")


def read_profile(path: Path | None, overrides: Sequence[str] = (), *, mode: str | None = None) -> Profile:
    """The profile of a file, with `KEY=VALUE` words over it; the later word counts, `setup` words add up.

    Args:
        path: A YAML file with one mapping; None: all defaults.
        overrides: Words of `--slurm-set`.
        mode: `--slurm-mode`; keys that mean nothing there are refused. None: of either.

    Raises:
        UsageError: The file cannot be read, is no such mapping, has a key twice or one that is unknown, or
            a value is none of those expected; with the line.
    """
    found: dict[str, object] = {}
    places: dict[str, str] = {}
    if path is not None:
        for key, (value, line) in _entries(path).items():
            places[key] = f"{path}, line {line}"
            found[key] = checked(key, value, places[key])
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
        found[key] = checked(key, set_here[key], where)
        places[key] = where
    if mode is not None:
        _refuse_other_mode(found, places, mode)
    profile = Profile(**found)  # type: ignore[arg-type] # each was checked under its own name
    if profile.setup and (said := why_no_script(profile.setup)) is not None:
        raise UsageError(f"{places['setup']}: bash cannot read the setup lines: {said}.")
    _check_together(profile, "the Slurm profile" if path is None else str(path))
    return profile


def _refuse_other_mode(found: Mapping[str, object], places: Mapping[str, str], mode: str) -> None:
    """Raise for a key that means nothing in this mode: somebody who gave it counts on it."""
    for key, (not_in, idle_values, why) in _OF_ONE_MODE.items():
        if mode == not_in and key in found and found[key] not in idle_values:
            other = "jobs" if mode == "held" else "held"
            raise UsageError(
                f"{places[key]}: {key} {why}. Leave {key} out with --slurm-mode {mode}, or take "
                f"--slurm-mode {other}."
            )


def _entries(path: Path) -> Mapping[str, tuple[str | list[str], int]]:
    """Keys of a YAML mapping with their values as written and their lines: `4:00:00` is no number here."""
    try:
        import yaml
    except ImportError as err:
        raise UsageError(
            f"--slurm-profile {path} needs PyYAML, which is not installed: `pip install '.[slurm]'` in "
            "hyperband's folder, or `pip install PyYAML`. "
            "Without it, every key can be given as --slurm-set KEY=VALUE."
        ) from err
    text = read_text(path, f"--slurm-profile {path}", "`hyperband slurm init` writes a commented one")
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as err:
        raise no_yaml(err, f"--slurm-profile {path}") from err
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"--slurm-profile {path}: expected lines such as `partition: gpu`.")
    found: dict[str, tuple[str | list[str], int]] = {}
    for key_node, value_node in root.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UsageError(f"{path}, line {line}: expected a line such as `partition: gpu`.")
        if key in found:
            raise UsageError(f"{path}, line {line}: {key} is there twice, first in line {found[key][1]}.")
        if isinstance(value_node, yaml.SequenceNode):
            value: str | list[str] = [
                str(node.value) if isinstance(node, yaml.ScalarNode) else "\0" for node in value_node.value
            ]
        elif isinstance(value_node, yaml.ScalarNode):
            value = str(value_node.value)
            if value_node.style is None and value in _NOTHING:
                raise UsageError(
                    f"{path}, line {line}: {key} has no value; give it one, or leave the line out."
                )
        else:
            raise UsageError(f"{path}, line {line}: {key} is a mapping, expected a value or a list.")
        found[key] = (value, line)
    return found


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
