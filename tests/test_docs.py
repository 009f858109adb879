"""README and docs/ stay true: options, commands, the first script, links, JSON keys, codes, messages."""

import ast
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_fixture import Searches, searches
from test_floors import FLOOR_OF, PACKAGE

from hyperband.cli.commands import Help
from hyperband.cli.definitions import search_parser
from hyperband.cli.main import main
from hyperband.cli.options import parse
from hyperband.errors import HyperbandError
from hyperband.folder import JOURNAL_FILE
from hyperband.report.document import JOB_COLUMNS
from hyperband.report.tables import plan_table
from hyperband.search.brackets import make_plan
from hyperband.search.trial import Algorithm, Outcome, TrialState
from hyperband.settings import Settings

__all__ = ["searches"]

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.glob("docs/*.md"))}
TEXTS = {"README.md": README, **DOCS}

#: options that are the scripts' own in README's examples
OF_SCRIPTS = {"--epochs", "--gpu", "--multi_gpu", "--model", "--fail-rate", "--lr-schedule"}
#: options of the benchmarks, which docs/ may show
#: of `ray start`
OF_RAY = {"--address", "--head", "--port"}
OF_BENCHMARKS = {
    name
    for path in ROOT.glob("benchmarks/*.py")
    for name in re.findall(r'"(--[a-z][\w-]*)"', path.read_text())
}
#: options shown because they are refused
REFUSED = {"--max-epoch"}
#: files that README's examples take for given
GIVEN = (
    "dummy.py",
    "hole.py",
    "examples/digits.py",
    "train.py",
    "colours.py",
    "slow.py",
    "my_script.py",
    "known.txt",
)

#: settings that a study keeps
FIXED = ("algorithm", "max_epochs", "eta", "min_epochs", "brackets", "seed", "start_with")

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_SHELL_WORDS = {"|", "||", "&&", ";", "&"}


def fenced(kind: str, text: str = README) -> list[str]:
    return [match[2] for match in _FENCE.finditer(text) if match[1] == kind]


def spaced(text: str) -> str:
    """The text with every run of white space as one space: lines break anywhere."""
    return " ".join(text.split())


def option_actions() -> list[tuple[list[str], str | None]]:
    return [(list(action.option_strings), action.help) for action in search_parser("hyperband")._actions]


def help_text(*words: str) -> str:
    shown = parse([*words, "--help"], cwd=ROOT, environ={})
    assert isinstance(shown, Help)
    return shown.text


def tables_of(heading: str, text: str = README) -> list[list[list[str]]]:
    """The rows, without the head, of each table whose head begins with this cell."""
    rule = rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)"
    return [
        [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in found.splitlines()]
        for found in re.findall(rule, text, re.MULTILINE)
    ]


def table_of(heading: str) -> list[list[str]]:
    """The rows of README's one table whose head begins with this cell."""
    (table,) = tables_of(heading)
    return table


# Options.


def test_every_option_has_a_help_text() -> None:
    for names, text in option_actions():
        assert text, f"{names} has no help text"
        assert text.strip()


@pytest.mark.parametrize("name", [name for names, _ in option_actions() for name in names if name != "-h"])
def test_every_option_is_in_the_docs(name: str) -> None:
    # the short form of --dry-run, and what everybody knows
    if name not in ("--dry", "--help", "--version"):
        assert any(name in _OPTION.findall(text) for text in TEXTS.values()), f"{name} is documented nowhere"


@pytest.mark.parametrize("where", TEXTS)
def test_every_option_in_the_docs_exists(where: str) -> None:
    known = {name for names, _ in option_actions() for name in names}
    others = ("report", "stop", "slots", "check", "slurm")
    known |= {name for words in others for name in _OPTION.findall(help_text(words))}
    assert set(_OPTION.findall(TEXTS[where])) - known - OF_SCRIPTS - OF_BENCHMARKS - OF_RAY - REFUSED == set()


def test_defaults_in_the_tables_are_those_of_the_parser() -> None:
    defaults = {name: a.default for a in search_parser("hyperband")._actions for name in a.option_strings}
    rows = {row[0].split()[0]: row[1] for row in table_of("option")}
    told = {name: int(found[1]) for name, row in rows.items() if (found := re.search(r"\((\d+)\)", row))}
    assert told == {name: defaults[name] for name in told}
    assert {"--max-epochs", "--eta", "--min-epochs", "--seed"} <= told.keys()


# Commands.


def command_lines(text: str) -> Iterator[str]:
    """The lines in code blocks that a reader would type."""
    for block in fenced("sh", text):
        yield from block.splitlines()
    for block in fenced("console", text):
        yield from (line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))


def searches_in(line: str) -> Iterator[list[str]]:
    """The words that hyperband gets from each of its commands in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _SHELL_WORDS:
            command.append(word)
            continue
        if ">" in command:
            at = command.index(">")
            command = command[: at - 1 if command[at - 1].isdigit() else at]
        if "=" in command[0]:  # a variable for this command alone
            del command[0]
        if Path(command[0]).name == "python":
            del command[0]
        if command[:2] == ["-m", "hyperband"]:
            del command[0]
        if Path(command[0]).name in ("hyperband", "hyperband.py"):
            yield command[1:]
        command = []


COMMANDS = [(where, line) for where, text in TEXTS.items() for line in command_lines(text)]
OURS = [(words, line) for _, line in COMMANDS for words in searches_in(line)]


def test_the_docs_show_commands() -> None:
    assert len(OURS) >= 20
    assert ["report", "logs/slow", "--top", "3"] in [words for words, _ in OURS]
    first = ["dummy.py", "--max-epochs", "9", "--slots", "2", "--logs", "first", "--guide", "none"]
    assert first in [words for words, _ in OURS]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with all that the examples take for given."""
    here = tmp_path / "here"
    for name in GIVEN:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (here / "logs" / "slow").mkdir(parents=True)
    (here / "first" / "dummy-small").mkdir(parents=True)
    (here / "first" / "dummy-small" / JOURNAL_FILE).touch()
    interpreter = tmp_path / "torch-env" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.touch(mode=0o755)
    return here


@pytest.mark.parametrize(("words", "line"), OURS, ids=lambda found: found if isinstance(found, str) else "")
def test_every_command_in_the_docs_is_understood(words: list[str], line: str, here: Path) -> None:
    if REFUSED & set(words):
        with pytest.raises(HyperbandError) as refused:
            parse(words, cwd=here, environ={})
        assert f"{line}\nhyperband: {refused.value}\n" in README
    else:
        parse(words, cwd=here, environ={})


def test_readme_can_be_followed_from_top_to_bottom(here: Path) -> None:
    """No command asks for other settings of a study that one before it began, `make demo` included."""
    studies: dict[tuple[str, Path], tuple[str, tuple[object, ...]]] = {}
    identity_of_dummy = runpy.run_path(str(ROOT / "dummy.py"))["run_identity"]
    shown = [words for line in command_lines(README) for words in searches_in(line)]
    for words in [["dummy.py"], *shown]:
        if REFUSED & set(words):
            continue
        settings = parse(words, cwd=here, environ={})
        if not isinstance(settings, Settings) or settings.dry_run or settings.script.name == "train.py":
            continue
        args = list(settings.script_args)
        identity = identity_of_dummy(args) if settings.script.name == "dummy.py" else settings.script.name
        fixed = tuple(getattr(settings, name) for name in FIXED)
        began, before = studies.setdefault((identity, settings.logs), (shlex.join(words), fixed))
        assert fixed == before, f"{shlex.join(words)} cannot follow on {began}"
    assert len(studies) > 5


@pytest.mark.parametrize("name", ["slow", "hole", "colours"])
def test_small_scripts_that_are_shown_come_with_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert f"[{name}.py](examples/{name}.py)" in README
    (tmp_path / f"{name}.py").write_text((ROOT / "examples" / f"{name}.py").read_text())
    monkeypatch.chdir(tmp_path)
    (words,) = [words for words, _ in OURS if words[0] == f"{name}.py"]
    assert main([*words, "--dry-run"]) == 0
    assert f"study     {name}\n" in capfd.readouterr().out


def test_the_plan_of_the_colours_in_readme(searches: Searches) -> None:
    searches.write((ROOT / "examples" / "colours.py").read_text())
    ran = searches.run("--max-epochs", "9")
    assert ran.exit_code == 0, ran.err
    at = ran.err.index("plan: the space")
    assert ran.err[at : ran.err.index("[1/4]")].rstrip() in README


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in TEXTS.values() for name in re.findall(r"^make (\w+)|`make (\w+)`", text, re.M)}
    assert {first or second for first, second in named} <= targets
    assert README.index("\nmake demo") < README.index("\nmake test") < README.index("python hyperband.py")


# What is shown.


def test_the_first_script_of_readme_really_runs(searches: Searches) -> None:
    searches.write(fenced("python")[0])
    ran = searches.run("--max-epochs", "3")
    assert ran.exit_code == 0, ran.err
    assert ran.document["identity"] == "my-search"
    assert ran.document["state"] == "finished"
    assert {job["outcome"] for job in ran.document["jobs"]} == {"Loss"}
    best = ran.document["best"]["config_id"]
    trained = json.loads((searches.folder / "checkpoints" / f"{best}.json").read_text())
    assert trained["epoch"] == 3
    again = searches.run("--repeat", "2", "--max-epochs", "3")
    assert again.document["jobs"][: len(ran.document["jobs"])] == ran.document["jobs"]


def test_the_default_plan_in_readme() -> None:
    plan = make_plan(
        algorithm=Algorithm.HYPERBAND,
        max_epochs=81,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=None,
    )
    assert f"```text\n{plan_table(plan)}\n```" in README
    assert f"({plan.epochs // plan.max_epochs + 1} for the default plan)" in spaced(README)
    assert f"{plan.epochs_resumed:,} epochs" in spaced(README)
    assert f"all {plan.n_trials} configurations to the end" in spaced(README)
    assert f"would have been {plan.n_trials * plan.max_epochs:,}" in spaced(README)


def shape(value: object) -> object:
    """The keys of a document in their order, values left out; lists by their first element."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


def test_the_json_in_the_docs_has_the_keys_that_are_produced_and_tells_of_each(searches: Searches) -> None:
    text = DOCS["docs/results.md"]
    shown = json.loads(fenced("json", text)[0])
    searches.write((ROOT / "dummy.py").read_text())
    ran = searches.run("--max-epochs", "1", guide=None)
    assert ran.exit_code == 0, ran.err
    assert shape(shown) == shape(ran.document)
    assert tuple(shown["jobs"][0]) == JOB_COLUMNS
    for key in ("identity", "state", "best", "plan", "trials"):
        assert shown[key] == ran.document[key]
    told = [{key for row in table for key in re.findall(r"\w+", row[0])} for table in tables_of("key", text)]
    assert told == [set(shown), set(shown["trials"][0]), set(shown["jobs"][0])]


def test_states_and_outcomes_are_all_told() -> None:
    assert [row[0] for row in table_of("outcome")] == [str(outcome) for outcome in Outcome]
    for row in table_of("outcome"):
        outcome = Outcome(row[0])
        expected = "failed" if outcome.is_failure else "repeated" if not outcome.is_final else "counts"
        assert row[2].startswith("tried again" if outcome.may_be_retried else expected)
        assert expected in row[2]
    told = spaced(DOCS["docs/results.md"])
    assert all(f"`{state}`" in told for state in TrialState)
    for text in (told, spaced(README)):
        assert all(f"`{state}`" in text for state in ("planned", "running", "stopped", "finished", "failed"))


# Codes and messages.


def subclasses(kind: type[HyperbandError]) -> Iterator[type[HyperbandError]]:
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


def test_exit_codes_are_those_of_the_errors(capfd: pytest.CaptureFixture[str]) -> None:
    told = {int(row[0]) for row in table_of("exit code")}
    assert told == {0, 130} | {error.exit_code for error in subclasses(HyperbandError)}
    assert main(["--version"]) == 0
    assert main(["--no-such-option", "dummy.py"]) == 2
    assert main(["report", str(ROOT)]) == 1
    assert "holds no study" in capfd.readouterr().err


def said_by_the_program() -> str:
    """Every text in the package, the values in it as `{}`, each between line ends."""
    texts: list[str] = []
    for path in sorted((ROOT / "hyperband").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_under_troubleshooting_exists() -> None:
    said = said_by_the_program()
    rows = table_of("message")
    assert len(rows) > 10
    for message, remedy in rows:
        assert message in said, f"nothing says {message!r}"
        assert remedy


# Paths.


def anchors(text: str) -> set[str]:
    """What a link within a page can lead to, the way GitHub names headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("where", [*TEXTS, "CHANGELOG.md"])
def test_links_lead_somewhere(where: str) -> None:
    text = TEXTS.get(where) or (ROOT / where).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        page = ROOT / where if not path else (ROOT / where).parent / path
        assert page.exists(), f"{where} links to {target}"
        if anchor:
            assert anchor in anchors(page.read_text()), f"{where} links to {target}"


@pytest.mark.parametrize("where", TEXTS)
def test_files_of_ours_that_are_named_exist(where: str) -> None:
    found = r"(?<![\w/.])(?:hyperband|tests|docs|benchmarks|examples)/[\w/.-]*\w/?"
    for name in re.findall(found, TEXTS[where]):
        assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), f"{where} names {name}"


@pytest.mark.parametrize("where", [*TEXTS, "CHANGELOG.md"])
def test_no_path_of_anybodys_machine(where: str) -> None:
    text = TEXTS.get(where) or (ROOT / where).read_text()
    paths = set(re.findall(r"(?<![\w.~/*-])/(?:home|root|work|tmp|Users|mnt|srv)\b[\w./-]*", text))
    neutral = {path for path in paths if path.startswith("/home/me/demo")}
    assert paths - neutral <= {"/tmp", "/tmp/hyperband-leases"}


# The house.


def test_the_floors_in_the_design_are_those_that_are_kept() -> None:
    rows = re.findall(r"^\| (\d+) \| `hyperband/(\w+)[./`]", DOCS["docs/design.md"], re.MULTILINE)
    assert {room: int(floor) for floor, room in rows} == {
        room: floor for room, floor in FLOOR_OF.items() if room in {path.stem for path in PACKAGE.iterdir()}
    }
