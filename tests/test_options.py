"""The command line: whose word is whose, misspellings, values, and the help."""

import os
import string
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband import __version__
from hyperband.cli.commands import Help, ReportOptions, StopOptions
from hyperband.cli.definitions import search_parser
from hyperband.cli.options import parse
from hyperband.cli.words import within_one_edit
from hyperband.errors import UsageError
from hyperband.search.trial import Algorithm
from hyperband.settings import GuideKind, Settings, changed_words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a script, a file of ids and an interpreter."""
    (tmp_path / "train.py").write_text("")
    (tmp_path / "ids.txt").write_text("a\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python-of-mine").symlink_to(sys.executable)
    return tmp_path


def read(folder: Path, *argv: str) -> Settings:
    """The settings of a search."""
    found = parse(argv, cwd=folder, environ={"PATH": str(folder / "bin")})
    assert isinstance(found, Settings)
    return found


def refusal(folder: Path, *argv: str) -> str:
    """The message that refuses a command."""
    with pytest.raises(UsageError) as caught:
        parse(argv, cwd=folder, environ={"PATH": str(folder / "bin")})
    message = str(caught.value)
    assert "\n" not in message
    return message


# Whose word is whose.


@pytest.mark.parametrize(
    ("argv", "handed_on"),
    [
        (["train.py"], []),
        (["train.py", "--lr", "0.1", "data"], ["--lr", "0.1", "data"]),
        (["train.py", "--lr", "--seed", "3", "0.1"], ["--lr", "0.1"]),
        (["train.py", "a", "--seed=3", "b", "--json"], ["a", "b"]),
        (["--seed", "3", "train.py", "--x"], ["--x"]),
        (["train.py", "--", "--seed", "3"], ["--seed", "3"]),
        (["train.py", "--x", "--", "--", "y"], ["--x", "--", "y"]),
        (["train.py", "--"], []),
        (["--", "train.py", "--seed", "3"], ["--seed", "3"]),
        (["--", "train.py", "--", "x"], ["--", "x"]),
        (["train.py", "-5", "-v", "-x=3", "", "-"], ["-5", "-v", "-x=3", "", "-"]),
        (["train.py", "--x=--seed"], ["--x=--seed"]),
        (["train.py", "report", "stop"], ["report", "stop"]),
        (["train.py", "--", "--epochs", "3", "--gpu=1", "--sed"], ["--epochs", "3", "--gpu=1", "--sed"]),
        (["train.py", "--max", "3"], ["--max", "3"]),
        (
            ["train.py", "--no-multi", "--start", "--epoch", "--help-me"],
            ["--no-multi", "--start", "--epoch", "--help-me"],
        ),
    ],
)
def test_words_that_are_handed_on(folder: Path, argv: list[str], handed_on: list[str]) -> None:
    assert read(folder, *argv).script_args == tuple(handed_on)


def test_our_options_are_ours_wherever_they_stand(folder: Path) -> None:
    before = read(folder, "--seed", "3", "--json", "--max-epochs=9", "train.py", "--x", "1")
    after = read(folder, "train.py", "--x", "--json", "1", "--max-epochs=9", "--seed", "3")
    assert before == after
    assert (before.seed, before.json, before.max_epochs) == (3, True, 9)


@pytest.mark.parametrize("option", ["--lr", "-x", "--sed", "-5", "--epochs", "--gpu=1"])
def test_before_the_script_only_our_options_may_stand(folder: Path, option: str) -> None:
    message = refusal(folder, option, "train.py")
    assert "The script's own options come after SCRIPT" in message
    assert ("Did you mean --seed?" in message) == (option == "--sed")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--sed", "--seed"),
        ("--sseed", "--seed"),
        ("--sead", "--seed"),
        ("--esed", "--seed"),
        ("-seed", "--seed"),
        ("--max_epochs", "--max-epochs"),
        ("--max-iter", "--max_iter"),
        ("--max_itr", "--max_iter"),
        ("--dy", "--dry"),
        ("--dry_run", "--dry-run"),
        ("--beta", "--eta"),
        ("--slot", "--slots"),
        ("--jsno", "--json"),
        ("--gups", "--gpus"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "{}=3"])
def test_a_slip_of_the_hand_is_refused(folder: Path, wrong: str, right: str, form: str) -> None:
    word = form.format(wrong)
    message = refusal(folder, "train.py", word)
    assert f"Did you mean {right}" in message
    # no full stop that would be copied with it
    assert f"SCRIPT -- {word} " in message
    assert read(folder, "train.py", "--", word).script_args == (word,)


@pytest.mark.parametrize("word", ["--epochs", "--epochs=3", "--gpu", "--gpu=0", "--multi_gpu"])
def test_what_hyperband_sets_itself_is_refused(folder: Path, word: str) -> None:
    message = refusal(folder, "train.py", word, "3")
    assert "hyperband itself gives" in message
    assert "--max-epochs" in message


_letters = st.text(alphabet="ab-", max_size=6)


def _distance(a: str, b: str) -> int:
    """Optimal string alignment by its definition, row by row."""
    rows = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, change)
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@given(_letters, _letters)
def test_within_one_edit_is_what_the_table_says(a: str, b: str) -> None:
    assert within_one_edit(a, b) == (_distance(a, b) <= 1)


# Values.


def test_defaults(folder: Path) -> None:
    assert read(folder, "train.py") == Settings(
        script=folder / "train.py", python=Path(sys.executable), logs=folder / "logs"
    )


def test_every_option_reaches_the_settings(folder: Path) -> None:
    words = (
        "--max_iter 27 --eta 4 --min-epochs 2 --brackets 2 --repeat 3 --seed 0 --start-with ids.txt"
        " --penalty -1.5e3 --gpus 0,2 --slots 3 --jobs-per-gpu 2 --no-multi-gpu --timeout 1.5 --max-time 60"
        " --grace 0 --keep-going --python python-of-mine --logs there --clean --yes --json --debug"
    )
    assert read(folder, "train.py", *words.split()) == Settings(
        script=folder / "train.py",
        max_epochs=27,
        eta=4,
        min_epochs=2,
        brackets=2,
        repeat=3,
        seed=0,
        start_with=folder / "ids.txt",
        penalty=-1500.0,
        gpus="0,2",
        slots=3,
        jobs_per_gpu=2,
        multi_gpu=False,
        timeout_s=1.5,
        max_time_s=60.0,
        grace_s=0.0,
        keep_going=True,
        python=folder / "bin" / "python-of-mine",
        logs=folder / "there",
        clean=True,
        yes=True,
        json=True,
        debug=True,
    )
    (folder / "old").mkdir()
    (folder / "old" / "journal.db").touch()
    guided = read(folder, "train.py", "--guide", "model", "--learn-from", "old")
    assert (guided.guide, guided.learn_from) == (GuideKind.MODEL, (folder / "old",))
    random = read(folder, "train.py", "--algorithm", "random", "--max-trials", "5", "--dry")
    assert (random.algorithm, random.max_trials, random.dry_run) == (Algorithm.RANDOM, 5, True)


@pytest.mark.parametrize("option", ["--max-epochs", "--eta", "--slots", "--seed", "--repeat"])
@pytest.mark.parametrize(
    "value", ["1_000", " 3", "3 ", "3.0", "1e2", "", "x", "٣", "0x10", "nan", "9" * 19, "-1", "--"]
)
def test_what_is_no_whole_number(folder: Path, option: str, value: str) -> None:
    message = refusal(folder, "train.py", f"{option}={value}")
    assert message.startswith(f"{option}: found {value!r}, expected a whole number of at least ")


@pytest.mark.parametrize(
    ("word", "bound"),
    [
        ("--eta=1", 2),
        ("--max-epochs=0", 1),
        ("--min-epochs=0", 1),
        ("--slots=0", 1),
        ("--jobs-per-gpu=0", 1),
        ("--brackets=0", 1),
        ("--repeat=0", 1),
        ("--max-trials=0", 1),
        ("--seed=-1", 0),
    ],
)
def test_whole_numbers_have_a_lower_bound(folder: Path, word: str, bound: int) -> None:
    assert f"at least {bound}," in refusal(folder, "train.py", word)


@pytest.mark.parametrize(
    "word",
    [
        "--timeout=0",
        "--timeout=-1",
        "--timeout=inf",
        "--timeout=1e999",
        "--timeout=nan",
        "--timeout=1_0",
        "--timeout= 1",
        "--max-time=0",
        "--grace=-0.1",
        "--grace=inf",
        "--penalty=nan",
        "--penalty=-inf",
        "--penalty=ten",
    ],
)
def test_numbers_that_are_refused(folder: Path, word: str) -> None:
    option, _, value = word.partition("=")
    message = refusal(folder, "train.py", word)
    assert message.startswith(f"{option}: found {value!r}, expected a finite number")
    assert ("seconds" in message) == (option != "--penalty")


@pytest.mark.parametrize(
    "value", ["all", "none", "0", "0,2", "GPU-1b2c3d4e-aaaa", "1,GPU-ff", "MIG-GPU-aa/1/0"]
)
def test_gpu_lists(folder: Path, value: str) -> None:
    assert read(folder, "train.py", "--gpus", value).gpus == value


@pytest.mark.parametrize("value", ["", "0,", "0, 2", "-1", "cuda:0", "0,0", "All", "0;1"])
def test_gpu_lists_that_are_refused(folder: Path, value: str) -> None:
    assert refusal(folder, "train.py", f"--gpus={value}").startswith(f"--gpus: found {value!r}, expected ")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--algorithm tpe", ["hyperband, halving, random, asha, pasha", "'tpe'"]),
        ("--min-epochs 9 --max-epochs 3", ["--min-epochs is 9", "--max-epochs is 3"]),
        ("--brackets 2 --algorithm halving", ["--brackets", "halving"]),
        ("--brackets 2 --algorithm asha", ["--brackets", "asha"]),
        ("--max-trials 2", ["--max-trials", "random or asha or pasha", "hyperband"]),
        ("--async --algorithm asha", ["--async", "hyperband or halving", "asha"]),
        ("--async --algorithm random", ["--async", "random"]),
        ("--max-total-epochs 9", ["--max-total-epochs", "asha or pasha", "hyperband"]),
        (
            "--max-total-epochs 9 --min-epochs 10 --algorithm pasha",
            ["--max-total-epochs is 9", "--min-epochs is 10"],
        ),
        ("--repeat 2 --algorithm asha", ["--repeat is 2", "asha, which has no brackets", "--max-trials"]),
        ("--repeat 2 --algorithm pasha --max-trials 9", ["--repeat is 2", "pasha", "--max-total-epochs"]),
        ("--repeat 2 --algorithm random --max-trials 9", ["--repeat is 2", "--max-trials is 9", "one of"]),
        ("--max-time never", ["--max-time", "'never'", "seconds"]),
        ("--timeout=", ["--timeout", "''"]),
        ("--clean --dry-run", ["--clean", "--dry-run"]),
        ("--json=yes", ["--json takes no value"]),
        ("--eta", ["--eta", "the end of the command"]),
        ("--eta --json", ["--eta", "'--json'"]),
        ("--logs -- x", ["--logs", "'--'"]),
        ("--logs=", ["--logs", "''"]),
        ("--start-with nothing.txt", ["--start-with", "nothing.txt"]),
        ("--python nothing", ["--python", "PATH"]),
        ("--python ./train.py", ["--python", "interpreter"]),
    ],
)
def test_what_is_refused_says_what_and_why(folder: Path, words: str, parts: list[str]) -> None:
    message = refusal(folder, "train.py", *words.split())
    assert [part for part in parts if part not in message] == []


def test_several_studies_to_learn_from(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "journal.copy").touch()
    (folder / "link").symlink_to("a")
    words = ["train.py", "--guide", "model", "--learn-from", "b", "--learn-from=a"]
    assert read(folder, *words).learn_from == (folder / "b", folder / "a")
    again = refusal(folder, *words, "--learn-from", "link")
    assert again.startswith(f"--learn-from: found '{folder / 'a'}', expected each study once")
    for found in ("", "nowhere", ".", "train.py"):
        message = refusal(folder, *words, "--learn-from", found)
        assert message.startswith(f"--learn-from: found {found!r}, expected the folder of a study")
    message = refusal(folder, "train.py", "--guide", "none", "--learn-from", "a")
    assert message == "--learn-from feeds the model of --guide model; found --guide none."


def test_none_is_how_no_limit_is_spelt(folder: Path) -> None:
    words = "--timeout none --timeout-per-epoch=none --stall-timeout none --max-time none"
    assert read(folder, "train.py", "--timeout", "3", *words.split()) == read(folder, "train.py")
    ladder = ["train.py", "--algorithm", "asha"]
    left_out, lifted = read(folder, *ladder), read(folder, *ladder, "--max-total-epochs", "none")
    assert (left_out.max_total_epochs, left_out.lifts_max_total_epochs) == (None, False)
    assert (lifted.max_total_epochs, lifted.lifts_max_total_epochs) == (None, True)
    limited = read(folder, *ladder, "--max-total-epochs", "none", "--max-total-epochs", "9")
    assert (limited.max_total_epochs, limited.lifts_max_total_epochs) == (9, False)


def test_what_changed_is_said_in_the_words_of_the_command_line() -> None:
    assert changed_words("async", False, True) == "--async was not given and now is"
    assert changed_words("async", True, False) == "--async was given and now is not"
    assert changed_words("brackets", None, 2) == "--brackets was not given and is now 2"
    assert changed_words("brackets", 2, None) == "--brackets was 2 and is not given now"
    assert changed_words("max_epochs", 9, 27) == "--max-epochs was 9 and is now 27"


@pytest.mark.parametrize("argv", [[], ["--seed", "3"], ["nothing.py"], ["bin"], [""], ["--"]])
def test_a_script_is_needed(folder: Path, argv: list[str]) -> None:
    assert "script" in refusal(folder, *argv).lower()


def test_messages_show_control_characters_as_escapes(folder: Path) -> None:
    assert "\x1b" not in refusal(folder, "train.py", "--eta=\x1b[31m")
    assert "\x1b" not in refusal(folder, "\x1b[31m")


def test_paths_are_absolute_with_their_links_kept(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (folder / "real" / "train.py").write_text("")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "in").symlink_to(folder / "real")
    found = read(folder, "link/train.py", "--python", "bin/python-of-mine", "--logs", "/var/logs")
    assert found.script == folder / "link" / "train.py"
    assert found.python == folder / "bin" / "python-of-mine"
    assert found.logs == Path("/var/logs")
    # the same script has one path, from wherever it is named
    assert read(folder / "real", "../train.py").script == folder / "train.py"
    # elsewhere/in/.. is the folder of real, not elsewhere
    (folder / "elsewhere" / "train.py").write_text("")
    through_link = read(folder, "elsewhere/in/../train.py").script
    assert through_link.samefile(folder / "train.py")


# Other commands and help.


def test_report_and_stop_are_commands_as_first_word_only(folder: Path) -> None:
    (folder / "report").write_text("")
    assert parse(["report", "bin", "--csv", "--top", "3"], cwd=folder, environ={}) == ReportOptions(
        folder / "bin", "csv", 3, False
    )
    assert parse(["report", "--json", "bin"], cwd=folder, environ={}) == ReportOptions(
        folder / "bin", "json", 10, False
    )
    assert parse(["stop", "bin", "--debug"], cwd=folder, environ={}) == StopOptions(
        folder / "bin", False, False, True
    )
    assert read(folder, "./report").script == folder / "report"
    assert read(folder, "--seed", "1", "report").script == folder / "report"


@pytest.mark.parametrize(
    "words",
    [
        "report",
        "report bin --json --csv",
        "report bin --top 0",
        "report bin x",
        "report nothing",
        "stop",
        "stop bin --js",
    ],
)
def test_report_and_stop_refuse_what_they_do_not_know(folder: Path, words: str) -> None:
    assert refusal(folder, *words.split())


@pytest.mark.parametrize(
    "argv", [["-h"], ["--help"], ["train.py", "--help"], ["--seed", "3", "-h", "--nonsense-after"]]
)
def test_help_wins(folder: Path, argv: list[str]) -> None:
    if argv[-1] == "--nonsense-after":
        refusal(folder, *argv)
        return
    found = parse(argv, cwd=folder, environ={})
    assert isinstance(found, Help)
    assert found.text.startswith("usage: python hyperband.py [options] SCRIPT")


def test_help_has_every_option_with_its_default_and_an_example() -> None:
    parser = search_parser("hyperband")
    text = " ".join(parser.format_help().split())
    for action in parser._actions:
        assert action.help, action.option_strings
        for name in action.option_strings:
            assert name in text
        if action.nargs != 0:
            assert "(default: " in action.help, action.option_strings
    assert "example: hyperband dummy.py" in text
    assert "hyperband report STUDY_DIR [--json|--csv] [--top N]" in text
    for seconds in ("--timeout", "--max-time", "--grace"):
        assert "seconds" in next(a.help or "" for a in parser._actions if seconds in a.option_strings)


def test_the_example_of_the_help_can_be_pasted(tmp_path: Path) -> None:
    help_text = search_parser("python hyperband.py").format_help()
    example = next(
        line for line in help_text.splitlines() if line.startswith("  python hyperband.py dummy.py")
    )
    (tmp_path / "dummy.py").write_text("")
    found = parse(example.split()[2:], cwd=tmp_path, environ=os.environ)
    assert isinstance(found, Settings)
    assert found.max_epochs == 27


def test_the_settings_of_the_json_are_the_long_option_names() -> None:
    names = {
        option.removeprefix("--").replace("-", "_")
        for action in search_parser("x")._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    shown = set(Settings(script=Path("/s"), python=Path("/p"), logs=Path("/l")).document())
    assert shown - names == {"script_args"}
    assert names - shown == {"help", "version", "dry", "max_iter"}


def test_version(folder: Path) -> None:
    assert parse(["--version"], cwd=folder, environ={}) == Help(f"hyperband {__version__}\n")


def test_no_option_looks_like_another_of_ours() -> None:
    names = [n for action in search_parser("x")._actions for n in action.option_strings if len(n) > 2]
    near = {(a, b) for a in names for b in names if a < b and within_one_edit(a, b)}
    assert near == set()
    assert all(ch in string.ascii_letters + "-_" for name in names for ch in name)


# Where jobs run.


def test_options_of_this_machine_are_refused_on_a_cluster(folder: Path) -> None:
    given = {
        "--gpus": "0",
        "--slots": "2",
        "--jobs-per-gpu": "2",
        "--when-shared": "wait",
        "--leave-free": "1",
    }
    for words in [*([name, value] for name, value in given.items()), ["--isolate"], ["--warm"]]:
        said = refusal(folder, "--on", "slurm", *words, "train.py")
        assert f"{words[0]} does not go with --on slurm" in said


def test_options_of_a_cluster_are_refused_without_it(folder: Path) -> None:
    of_slurm = {"--slurm-profile": "x.yaml", "--slurm-set": "gpus=1", "--slurm-mode": "held"}
    of_ray = {"--ray-address": "auto", "--ray-resources": "GPU=1", "--ray-token": "x"}
    for name, value in of_slurm.items():
        assert f"{name} goes with --on slurm only" in refusal(folder, name, value, "train.py")
        assert f"{name} goes with --on slurm only" in refusal(folder, "--on", "ray", name, value, "train.py")
    for name, value in of_ray.items():
        assert f"{name} goes with --on ray only" in refusal(folder, name, value, "train.py")
    assert "--max-slots goes with --on slurm or ray only" in refusal(folder, "--max-slots", "2", "train.py")


def test_a_mistake_in_the_profile_is_told_before_anything_happens(folder: Path) -> None:
    said = refusal(folder, "--on", "slurm", "--slurm-set", "partitoin=gpu", "train.py")
    assert "did you mean partition?" in said
    (folder / "slurm.yaml").write_text("gpus: many\n")
    said = refusal(folder, "--on", "slurm", "--slurm-profile", "slurm.yaml", "train.py")
    assert f"{folder / 'slurm.yaml'}, line 1: gpus is 'many'" in said
