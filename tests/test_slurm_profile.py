"""A Slurm profile: what it says, what it may not say, and how it is told."""

from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import pytest

from hyperband.cli.options import parse
from hyperband.errors import UsageError
from hyperband.launch.slurm.profile import Profile, seconds_of
from hyperband.launch.slurm.profile_file import read_profile
from hyperband.launch.slurm.profile_keys import EXAMPLE

FULL = """\
partition: gpu
account: my_project
qos: normal
time: 4:00:00
gpus: a100:2
cpus: 16
mem: 64G
nodes: 1
exclude: gpu[03,07-09]
constraint: "a100&nvlink"
array_throttle: 8
signal: SIGUSR1@120
setup:
  - module load cuda/12.4
  - source "$HOME/my env/bin/activate"
max_allocations: 6
min_allocations: 1
idle_s: 30
slots_per_allocation: 4
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_profile(written(folder, text), overrides)
    return str(caught.value)


def test_a_whole_profile(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path, FULL))
    assert profile == Profile(
        partition="gpu",
        account="my_project",
        qos="normal",
        time="4:00:00",
        gpus="a100:2",
        cpus=16,
        mem="64G",
        exclude="gpu[03,07-09]",
        constraint="a100&nvlink",
        array_throttle=8,
        signal="USR1@120",
        setup=("module load cuda/12.4", 'source "$HOME/my env/bin/activate"'),
        max_allocations=6,
        min_allocations=1,
        idle_s=30.0,
        slots_per_allocation=4,
    )
    assert (profile.n_gpus, profile.n_slots, profile.n_slots_per_node) == (2, 4, 4)
    assert profile.time_limit_s == 4 * 3600  # yaml would have made 14400 of it, and sbatch minutes of that


def test_without_a_file_all_is_left_to_the_site() -> None:
    profile = read_profile(None)
    assert profile == Profile()
    assert (profile.n_gpus, profile.n_slots, profile.time_limit_s) == (0, 1, None)


def test_words_of_the_command_line_override_the_file(tmp_path: Path) -> None:
    words = ("time=90", "gpus=1", "setup=echo a", "setup=echo b=c", "slots_per_allocation=1", "time=30")
    profile = read_profile(written(tmp_path, FULL), words)
    assert (profile.time, profile.gpus, profile.partition) == ("30", "1", "gpu")
    assert profile.setup == ("echo a", "echo b=c")


def test_every_key_stands_in_the_example_and_works_when_it_is_uncommented(tmp_path: Path) -> None:
    assert read_profile(written(tmp_path, EXAMPLE)) == Profile()
    lines = [line.removeprefix("# ") for line in EXAMPLE.splitlines()]
    keys = {field.name for field in fields(Profile)}
    settings = [line for line in lines if line.split(":")[0] in keys or line.startswith("  - ")]
    assert {line.split(":")[0] for line in settings if not line.startswith(" ")} == keys
    both = "\n".join(line for line in settings if not line.startswith("gres"))
    assert read_profile(written(tmp_path, both)).setup[0] == "module load cuda/12.4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin: gpu", "line 1: there is no key 'partitoin' in a Slurm profile; did you mean partition?"),
        ("zzz: 1", "known are partition, account"),
        ("time: soon", "time is 'soon', expected a time limit"),
        ("time: 0:30", "at least a minute"),
        ("\nmem: 3 GB", "line 2: mem is '3 GB'"),
        ("gpus: 0", "expected a number of GPUs"),
        ("cpus: 1.5", "a whole number"),
        ("idle_s: nan", "a number of seconds"),
        ("signal: KILL@3", "USR1 or TERM"),
        ("qos: [a, b]", "qos is a list"),
        ("setup: {a: b}", "is a mapping"),
        ("setup: [[a]]", "a list of shell lines"),
        ("time: 10\ntime: 20", "line 2: time is there twice, first in line 1"),
        ("- a", "expected lines such as"),
        ("a: 'b", "line 1: this is no YAML: found unexpected end of stream"),
        ("time: 10\na: b: c", "line 2: this is no YAML: mapping values are not allowed here"),
        ("time: 10\n---\ntime: 10", "line 2: this is no YAML"),
        ("a: \0", "is no text in UTF-8 (special characters are not allowed)"),
        ("[a, b]: c", "line 1: expected a line such as"),
        ("time: 10\npartition:", "line 2: partition has no value; give it one, or leave the line out"),
        ("qos: ~", "line 1: qos has no value"),
        ("exclude: /home/me/nodes", "exclude is '/home/me/nodes', expected a list of nodes"),
        (
            "setup:\n  - cd /\n  - if true; then",
            "line 1: bash cannot read the setup lines: line 3: syntax error",
        ),
        ("gpus: 1\ngres: gpu:1", "expected one of them"),
        ("max_allocations: 1\nmin_allocations: 2", "at most the second"),
        ("nodes: 2\nslots_per_allocation: 3", "a multiple of it"),
        ("gpus: 4\nslots_per_allocation: 3", "whole GPUs for each job"),
        ("account: ''", "account is ''"),
        ('account: "a\\nb"', "expected a name"),
    ],
)
def test_what_is_wrong_is_refused_with_what_was_expected(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_word_that_is_wrong_is_named_as_it_was_given(tmp_path: Path) -> None:
    assert "--slurm-set time=x: time is 'x'" in refused(tmp_path, "", "time=x")
    assert "--slurm-set time: expected KEY=VALUE" in refused(tmp_path, "", "time")


def test_a_file_that_is_not_there_is_told_of_with_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slurm init"):
        read_profile(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("10:30", 630),
        ("1:00:00", 3600),
        ("2-12", 216000),
        ("1-00:30", 88200),
        ("1-0:0:1", 86401),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_in_all_forms(time: str, seconds: float | None) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("gres", "n_gpus"),
    [("gpu", 1), ("gpu:2", 2), ("gpu:a100:4,shard:8", 4), ("nvme:1", 0), ("gres/gpu:3", 3)],
)
def test_gpus_are_counted_in_generic_resources(gres: str, n_gpus: int) -> None:
    assert Profile(gres=gres).n_gpus == n_gpus


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("array_throttle=2", "held"),
        ("nodes=2", "jobs"),
        ("slots_per_allocation=2", "jobs"),
        ("min_allocations=1", "jobs"),
        ("idle_s=30", "jobs"),
    ],
)
def test_a_key_that_means_nothing_in_the_mode_is_refused_also_in_a_dry_run(
    tmp_path: Path, key: str, mode: str
) -> None:
    (tmp_path / "train.py").touch()
    words = ["train.py", "--on", "slurm", "--dry-run", "--slurm-mode", mode, "--slurm-set", key]
    name = key.partition("=")[0]
    with pytest.raises(UsageError) as caught:
        parse(words, cwd=tmp_path, environ={})
    assert str(caught.value).startswith(f"--slurm-set {key}: {name} is ")
    assert str(caught.value).endswith(f"--slurm-mode {'jobs' if mode == 'held' else 'held'}.")
    words[words.index(mode)] = "jobs" if mode == "held" else "held"
    parse(words, cwd=tmp_path, environ={})


def test_a_key_of_the_other_mode_is_named_with_its_line_and_one_that_changes_nothing_is_let_be(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, "partition: gpu\narray_throttle: 3\n")
    with pytest.raises(UsageError, match=r"profile.yaml, line 2: array_throttle is of arrays"):
        read_profile(path, mode="held")
    assert read_profile(path, ["nodes=1", "min_allocations=0"], mode="jobs").array_throttle == 3


@pytest.mark.parametrize(
    ("time", "grace_s", "is_enough"),
    [
        ("1", 10, False),
        ("4:59", 10, False),
        ("5", 10, True),
        ("1-0", 10, True),
        ("5", 31, False),
        ("9", 300, False),
    ],
)
def test_a_time_for_the_search_itself_in_which_nothing_can_be_done_is_refused(
    tmp_path: Path, time: str, grace_s: int, is_enough: bool
) -> None:
    (tmp_path / "train.py").touch()
    words = ["train.py", "--on", "slurm", "--slurm-set", f"search_time={time}", f"--grace={grace_s}"]
    parse(words, cwd=tmp_path, environ={})  # only asked for with --detach
    with nullcontext() if is_enough else pytest.raises(UsageError, match=r"gets nothing done\. Expected"):
        parse([*words, "--detach"], cwd=tmp_path, environ={})
