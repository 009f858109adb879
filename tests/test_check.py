"""`hyperband check` on scripts that break their contract in one way each, and on those that keep it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fixture import until
from study_fixture import settings

from hyperband.check.findings import Report
from hyperband.check.inspecting import inspect
from hyperband.check.interrupts import Interrupts
from hyperband.check.pulse import Pulse
from hyperband.check.reads import ReadWatch
from hyperband.check.resuming import Evidence, judge
from hyperband.check.traces import Places
from hyperband.cli.main import main
from hyperband.errors import UsageError
from hyperband.script.fingerprint import fingerprint
from hyperband.settings import Settings
from hyperband.verdicts import Resuming, read_resuming

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "hyperband.py"), "check"]
#: a training that keeps its contract; tests replace parts of it
GOOD = """
import hashlib, json, os, random, sys, time

def get_random_config_id(rng):
    return f"lr:{rng.uniform():.9f}"

def run_identity(argv):
    return "study"

def name_of(config_id):
    return hashlib.sha256(config_id.encode()).hexdigest() + ".json"

def main(config_id, epochs):
    rng = random.Random(config_id)
    path = os.path.join("runs", name_of(config_id))
    losses = []
    if os.path.exists(path):
        with open(path) as file:
            saved = json.load(file)
        losses = saved["losses"]
        version, state, gauss = saved["rng"]
        rng.setstate((version, tuple(state), gauss))
    while len(losses) < epochs:
        EPOCH
        losses.append((losses[-1] if losses else 1.0) * rng.uniform(0.5, 1))
        os.makedirs("runs", exist_ok=True)
        with open(path, "w") as file:
            json.dump({"losses": losses, "rng": rng.getstate()}, file)
    return losses[epochs - 1]

if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[sys.argv.index("--epochs") + 1])))
""".replace("        EPOCH\n", "")


@dataclass(frozen=True)
class Checked:
    """A check that has ended."""

    exit_code: int
    document: dict[str, Any]
    lines: str

    def status(self, check: str) -> str:
        """`ok`, `FAILS`, `unknown` or `-`."""
        return str(self._finding(check)["status"])

    def words(self, check: str) -> str:
        """The words and the fix of one line."""
        found = self._finding(check)
        return f"{found['words']}\n{found['fix']}"

    def all_but(self, *checks: str) -> set[str]:
        """What became of the other lines."""
        return {f["status"] for f in self.document["findings"] if f["check"] not in checks}

    def _finding(self, check: str) -> dict[str, str]:
        (found,) = [f for f in self.document["findings"] if f["check"] == check]
        return dict(found)


def changed(*pairs: tuple[str, str], source: str = GOOD) -> str:
    """The good script with parts replaced; each must be there."""
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


def begins(*lines: str) -> str:
    """The good script with these lines before its training."""
    code = "".join(f"    {line}\n" for line in lines)
    return changed(("    rng = random.Random", f"{code}    rng = random.Random"))


def start_check(
    folder: Path, *words: str, environ: dict[str, str] | None = None, gpus: str | None = "none"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *([] if gpus is None else ["--gpus", gpus]), *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )


def check(
    folder: Path,
    source: str | None,
    *words: str,
    environ: dict[str, str] | None = None,
    gpus: str | None = "none",
) -> Checked:
    """Check this script (None: train.py as it is there)."""
    if source is not None:
        (folder / "train.py").write_text(source)
    process = start_check(folder, "--json", "train.py", *words, environ=environ, gpus=gpus)
    out, err = process.communicate(timeout=100)
    assert process.returncode in (0, 1), err
    return Checked(process.returncode, json.loads(out), err)


def test_a_script_that_keeps_its_contract(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.json").write_text("keep me")
    found = check(tmp_path, GOOD)
    assert found.exit_code == 0, found.lines
    assert found.document["holds"]
    assert found.document["resuming"] == "resumes"
    assert found.document["hyperparameters"] == ["lr"]
    assert found.all_but("options", "gpu_memory") == {"ok"}
    assert found.status("options") == found.status("gpu_memory") == "-"
    assert "1,000 distinct" in found.words("sampler")
    assert "everything holds" in found.lines
    # what it trained is told, and stays with what the script had
    trained = {entry["config_id"]: entry["epochs"] for entry in found.document["trained"]}
    assert sorted(trained.values()) == [1, 1, 1, 3]
    # losses of different configurations stand below each other: whose they are is said
    (resumed,) = (config_id for config_id, epochs in trained.items() if epochs == 3)
    assert repr(resumed) in found.words("again")
    assert any(repr(config_id) in found.words("one_epoch") for config_id in trained.keys() - {resumed})
    kept = {path.name: path.read_text() for path in (tmp_path / "runs").iterdir()}
    assert kept.pop("mine.json") == "keep me"
    assert sorted(len(json.loads(text)["losses"]) for text in kept.values()) == [1, 1, 1, 3]
    assert all(config_id in found.lines for config_id in trained)
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "runs", "logs"}
    sha256 = hashlib.sha256(GOOD.encode()).hexdigest()
    verdict = read_resuming(tmp_path / "logs", "study", script_sha256=sha256, script_args=[])
    assert verdict is Resuming.RESUMES


@pytest.mark.slow
def test_the_example_keeps_its_contract(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes((ROOT / "dummy.py").read_bytes())
    found = check(tmp_path, None, "--model", "large")
    assert found.exit_code == 0, found.lines
    assert found.all_but("gpu_memory") == {"ok"}
    assert "'dummy-large' with them, 'dummy-small' without" in found.words("options")
    assert found.document["hyperparameters"] == ["lr", "momentum", "batch_size"]


def test_a_sampler_with_dice_of_its_own_and_one_search_for_all_options(tmp_path: Path) -> None:
    source = changed(("{rng.uniform():.9f}", "{random.random():.9f}"))
    source += "\ndef get_config(config_id): return {'lr': [1, 2][5]}\n"
    found = check(tmp_path, source, "--depth", "3")
    assert found.exit_code == 1
    assert found.status("sampler") == "FAILS"
    assert "(1,000 of 1,000 differ)" in found.words("sampler")
    assert "global random state" in found.words("sampler")
    assert found.status("decoding") == "FAILS"
    assert "IndexError" in found.words("decoding")
    assert found.status("options") == "unknown"
    assert "both would be one search" in found.words("options")
    assert found.all_but("sampler", "decoding", "options", "gpu_memory") == {"ok"}
    assert "does not hold: sampler, config ids; not known: options" in found.lines


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        ("return {'lr': config_id[3:]}", "ok", ["lr is '0.", "let get_config return numbers"]),
        ("return {'lr': float('nan')}", "FAILS", ["lr = nan", "finite numbers"]),
        ("return {}", "FAILS", ["gives {} for", "return for each id a dict"]),
        ("return {'lr': random.random()}", "FAILS", ["is not deterministic", "depend on the id"]),
        ("raise ValueError('no')", "FAILS", ["ValueError: no", "it may also be left out"]),
        ("os._exit(3)", "FAILS", ["ended the whole process", "it may also be left out"]),
        (
            "time.sleep(0.5); return {'lr': 1.0}",
            "unknown",
            ["it takes 0.", " s for an id", "only read the id"],
        ),
    ],
)
def test_a_get_config_with_a_mistake_is_reported_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, status: str, words: list[str]
) -> None:
    monkeypatch.setattr("hyperband.check.decoding._READ_S", 1.0)
    path = tmp_path / "train.py"
    path.write_text(f"{GOOD}\n".replace("if __name__", f"def get_config(config_id): {source}\nif __name__"))
    lines: list[str] = []
    report = Report(settings(tmp_path, python=Path(sys.executable)), lines.append)
    assert inspect(report.settings, report), lines
    (found,) = [finding for finding in report.findings if finding.check == "decoding"]
    assert found.status == status
    assert found.fix
    assert [word for word in words if word not in found.text()] == []
    assert found.text().count("Traceback") <= 1


def test_what_is_not_read_from_ids_is_said(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    ids = 'return f"(k{rng.randint(10**9):x}q, lr={rng.uniform():.4f}, {rng.randint(9)})"'
    path.write_text(changed(('return f"lr:{rng.uniform():.9f}"', ids)))
    report = Report(settings(tmp_path, python=Path(sys.executable)), lambda _: None)
    assert inspect(report.settings, report)
    (found,) = [finding for finding in report.findings if finding.check == "decoding"]
    assert found.status == "ok"
    assert "the ids say #1 (" in found.words
    assert "#k is the k-th piece of an id" in found.words
    assert "not read: #1 (another text in each id" in found.words


def test_a_number_that_may_be_missing_is_told_with_both(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    ids = 'return f"lr:{rng.uniform():.4f}.beta:{[None, 0.9, 0.99][rng.randint(3)]}"'
    path.write_text(changed(('return f"lr:{rng.uniform():.9f}"', ids)))
    report = Report(settings(tmp_path, python=Path(sys.executable)), lambda _: None)
    assert inspect(report.settings, report)
    (found,) = [finding for finding in report.findings if finding.check == "decoding"]
    assert found.words.endswith(", beta (None or 0.9 to 0.99)")


def test_a_sampler_that_remembers(tmp_path: Path) -> None:
    remembers = "n = [0]\n\ndef get_random_config_id(rng):\n    n[0] += 1\n    return f'{n[0]}:'"
    found = check(tmp_path, changed(("def get_random_config_id(rng):\n    return", remembers + " +")))
    assert found.status("sampler") == "FAILS"
    assert "counter" in found.words("sampler")


def test_a_checkpoint_that_is_written_and_never_read(tmp_path: Path) -> None:
    found = check(tmp_path, changed(("if os.path.exists(path)", "if False")))
    assert found.exit_code == 1
    assert found.status("resuming") == "FAILS"
    assert found.document["resuming"] == "trains again from scratch"
    assert "reads nothing that the earlier one wrote" in found.words("resuming")
    assert "both ways" in found.words("resuming")
    assert found.all_but("resuming", "options", "gpu_memory") == {"ok"}


def test_a_checkpoint_beyond_n_and_ids_that_say_nothing(tmp_path: Path) -> None:
    ids = "return hashlib.sha256(rng.bytes(8)).hexdigest()"
    found = check(
        tmp_path, changed(("losses[epochs - 1]", "losses[-1]"), ('return f"lr:{rng.uniform():.9f}"', ids))
    )
    assert found.exit_code == 1
    assert found.status("beyond") == "FAILS"
    assert "which is that at 3" in found.words("beyond")
    assert found.status("decoding") == "unknown"
    assert "get_config" in found.words("decoding")
    assert found.all_but("beyond", "decoding", "options", "gpu_memory") == {"ok"}


def test_a_checkpoint_without_the_state_of_the_generator(tmp_path: Path) -> None:
    found = check(tmp_path, changed(("        rng.setstate((version, tuple(state), gauss))\n", "")))
    assert found.exit_code == 1
    assert found.document["resuming"] == "loads but disagrees"
    assert "random generators" in found.words("resuming")
    assert found.status("again") == "ok"
    assert found.all_but("resuming", "options", "gpu_memory") == {"ok"}


def test_a_script_that_rolls_dice_and_resumes_is_not_called_wrong(tmp_path: Path) -> None:
    found = check(tmp_path, changed(("random.Random(config_id)", "random.Random()")))
    assert found.exit_code == 0, found.lines
    assert found.document["resuming"] == "resumes"
    assert "another one each time" in found.words("resuming") or "but for chance" in found.words("resuming")


def test_a_script_that_rolls_dice_and_keeps_nothing_gets_no_hints_about_checkpoints(tmp_path: Path) -> None:
    source = changed(("random.Random(config_id)", "random.Random()"), ("open(path, ", "open(os.devnull, "))
    found = check(tmp_path, source)
    assert found.exit_code == 1, found.lines
    assert found.status("again") == "FAILS"
    assert {found.status(name) for name in ("beyond", "resuming", "together", "warm")} == {"unknown"}
    for name in ("again", "beyond", "together"):
        assert "the loss is random: seed it with the config id" in found.words(name)
    assert "no file of its own was found below" in found.words("resuming")
    assert "--checkpoints" in found.words("resuming")


def test_dice_with_a_checkpoint_that_is_never_read_are_told_as_dice(tmp_path: Path) -> None:
    source = changed(("random.Random(config_id)", "random.Random()"), ("os.path.exists(path)", "False"))
    found = check(tmp_path, source)
    assert found.status("again") == "FAILS"
    assert "the loss is random" in found.words("again")


@pytest.mark.parametrize("keeps", [True, False])
def test_a_script_that_does_not_look_at_its_epochs(tmp_path: Path, keeps: bool) -> None:
    source = changed(('sys.argv.index("--epochs") + 1])', 'sys.argv.index("--epochs") + 1]) and 1'))
    if not keeps:
        source = changed(("open(path, ", "open(os.devnull, "), source=source)
    found = check(tmp_path, source)
    assert found.exit_code == 0, found.lines
    for name in ("beyond", "resuming"):
        assert found.status(name) == "unknown"
        assert "is --epochs used?" in found.words(name)
        assert "checkpoint" not in found.words(name)
    assert found.document["resuming"] == "unknown"


def test_one_checkpoint_for_all_configurations(tmp_path: Path) -> None:
    found = check(tmp_path, changed(("sha256(config_id.encode())", "sha256(b'')")))
    assert found.exit_code == 1
    assert found.status("together") == "FAILS"
    assert "checkpoint of its own" in found.words("together")


def test_one_checkpoint_for_all_that_was_there_before(tmp_path: Path) -> None:
    source = changed(("sha256(config_id.encode())", "sha256(b'')"))
    check(tmp_path, source)
    found = check(tmp_path, None)
    assert found.status("together") == "unknown"
    assert "is one checkpoint used for all?" in found.words("together")


def test_one_slot_shows_a_shared_checkpoint_by_turns(tmp_path: Path) -> None:
    found = check(tmp_path, changed(("sha256(config_id.encode())", "sha256(b'')")), "--slots", "1")
    assert found.status("together") == "FAILS"
    assert "by turns" in found.words("together")


def test_epochs_taken_for_further_ones(tmp_path: Path) -> None:
    source = changed(
        ("while len(losses) < epochs", "for _ in range(epochs)"), ("losses[epochs - 1]", "losses[-1]")
    )
    found = check(tmp_path, source)
    assert found.status("again") == "FAILS"
    assert "total number of epochs" in found.words("again")
    assert found.document["resuming"] == "loads but disagrees"


SLOW = changed(("        losses.append", "        time.sleep(0.4)\n        losses.append"))


@pytest.mark.slow
def test_long_epochs_show_that_nothing_is_kept(tmp_path: Path) -> None:
    found = check(tmp_path, changed(("open(path, ", "open(os.devnull, "), source=SLOW))
    # on a busy machine times say nothing, and then nothing is claimed
    assert found.document["resuming"] in ("trains again from scratch", "unknown"), found.lines


@pytest.mark.slow
def test_long_epochs_show_that_something_is_kept_where_nobody_looks(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    # a place that neither the script's text nor its options name
    source = changed(
        ('os.path.join("runs"', 'os.path.join(os.environ["PLACE"]'),
        ('"runs", exist_ok', 'os.environ["PLACE"], exist_ok'),
        source=SLOW,
    )
    found = check(tmp_path / "work", source, environ={"PLACE": str(tmp_path / "elsewhere")})
    assert found.document["resuming"] in ("resumes", "unknown"), found.lines


def test_a_folder_that_an_option_names_is_looked_at(tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    source = changed(('os.path.join("runs"', "os.path.join(sys.argv[-1]"))
    found = check(work, source, str(elsewhere))
    assert found.exit_code == 0, found.lines
    assert found.document["resuming"] == "resumes"
    assert str(elsewhere) in found.words("resuming")
    assert len(list(elsewhere.iterdir())) == 4


def test_checkpoints_that_a_pattern_names(tmp_path: Path) -> None:
    source = changed(("return hashlib.sha256(config_id.encode()).hexdigest() + ", "return config_id + "))
    found = check(tmp_path, source, "--checkpoints", "runs/{config_id}.json")
    assert found.exit_code == 0, found.lines
    assert found.document["resuming"] == "resumes"
    assert len(list((tmp_path / "runs").iterdir())) == 4


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (changed(("    print(main(", "    print('x', main(")), ["NoLoss", "print(loss)"]),
        (
            begins("raise ValueError('no data')"),
            ["ValueError: no data (exit code 1)", "none of 3 config", "train.py lr:"],
        ),
    ],
)
def test_no_job_gives_a_loss(tmp_path: Path, source: str, words: list[str]) -> None:
    found = check(tmp_path, source)
    assert found.exit_code == 1
    assert found.status("one_epoch") == "FAILS"
    assert [word for word in words if word not in found.words("one_epoch")] == []
    assert {found.status(name) for name in ("again", "beyond", "resuming", "together", "warm")} == {"unknown"}


def test_bad_configurations_are_not_the_scripts_fault(tmp_path: Path) -> None:
    found = check(tmp_path, begins("if os.environ['HYPERBAND_TRIAL'] in '02': sys.exit('diverged')"))
    assert found.exit_code == 0, found.lines
    assert found.status("one_epoch") == found.status("resuming") == found.status("together") == "ok"
    assert "Crashed: exit code 1" in found.words("one_epoch")


def test_configurations_that_fail_later_are_told_as_a_search_would(tmp_path: Path) -> None:
    # 1 is tried for the history, 3 and 4 together, 5 and 6 in their place
    lines = (
        "if os.environ['HYPERBAND_TRIAL'] == '1': raise ValueError('width 32 is not supported')",
        "if os.environ['HYPERBAND_TRIAL'] == '3': raise MemoryError",
    )
    found = check(tmp_path, begins(*lines))
    assert found.exit_code == 0, found.lines
    assert found.status("configurations") == found.status("resuming") == found.status("together") == "ok"
    told = {(entry["outcome"], entry["fingerprint"]) for entry in found.document["failed"]}
    assert told == {
        ("Crashed", fingerprint("ValueError: width 32 is not supported")),
        ("OutOfMemory", "MemoryError"),
    }
    assert "2 of 7 failed" in found.words("configurations")
    assert "MemoryError" in found.words("configurations")
    assert "everything holds; 2 of 7 configurations failed" in found.lines
    trained = {entry["config_id"] for entry in found.document["trained"]}
    assert len(trained) == 5
    assert trained.isdisjoint(entry["config_id"] for entry in found.document["failed"])


def test_one_configuration_for_all_draws(tmp_path: Path) -> None:
    found = check(tmp_path, changed(('f"lr:{rng.uniform():.9f}"', "'lr:0.1'")))
    assert found.status("sampler") == "FAILS"
    assert "every one of 1,000 draws" in found.words("sampler")
    assert found.status("resuming") == "ok"
    assert found.status("together") == "unknown"


def test_a_forked_job_that_prints_another_loss(tmp_path: Path) -> None:
    # an installed module that remembers the process which imported it
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "born.py").write_text("import os\npid = os.getpid()\n")
    source = changed(
        ("import hashlib,", "import born, hashlib,"),
        ("rng.uniform(0.5, 1)", "rng.uniform(0.5, 1) * (1 if born.pid == os.getpid() else 2)"),
    )
    found = check(tmp_path, source, environ={"PYTHONPATH": str(installed)})
    assert found.status("warm") == "FAILS"
    assert "without --warm" in found.words("warm")
    assert found.all_but("warm", "options", "gpu_memory") == {"ok"}


def test_a_job_that_takes_too_long_is_a_finding(tmp_path: Path) -> None:
    found = check(tmp_path, begins("time.sleep(100)"), "--timeout", "0.5")
    assert found.exit_code == 1
    assert "TimedOut" in found.words("one_epoch")
    assert "--timeout" in found.words("one_epoch")
    assert found.document["trained"] == []
    (failed,) = found.document["failed"]
    assert (failed["outcome"], failed["fingerprint"]) == ("TimedOut", "timed out")


@pytest.mark.parametrize(
    ("source", "failing", "words"),
    [
        ("raise ValueError('at once')", "import", "at once"),
        ("import sys; sys.exit(main())", "import", "main"),
        ("def run_identity(argv): return ''", "functions", "has no function get_random_config_id"),
        (changed(('"study"', "3")), "functions", "type int"),
        (changed((":.9f", ":.9f}{1 / (rng.uniform() > .99)")), "functions", "ZeroDivisionError"),
        (changed(('return f"lr', 'return "-" + f"lr')), "functions", "begins with '-'"),
    ],
)
def test_what_importing_shows(tmp_path: Path, source: str, failing: str, words: str) -> None:
    found = check(tmp_path, source)
    assert found.exit_code == 1
    assert found.status(failing) == "FAILS"
    assert words in found.words(failing)
    assert len(found.document["findings"]) == 13
    assert found.document["trained"] == []
    assert not (tmp_path / "logs").exists()


def test_long_silences_are_broken_more_and_more_seldom() -> None:
    now, said = [100.0], list[str]()
    pulse = Pulse(said.append, monotonic=lambda: now[0])
    pulse.doing = "resuming"
    times = []
    for now[0] in range(100, 301):
        n = len(said)
        pulse.beat("training 3 of about 12")
        times += [now[0]] * (len(said) - n)
    assert times == [105, 115, 135, 175, 235, 295]
    assert set(said) == {"         resuming: training 3 of about 12"}
    pulse.say("a line")
    assert pulse.left_s() == 5
    assert said[-1] == "a line"


@pytest.mark.slow
def test_a_job_that_takes_long_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, begins("time.sleep(100)"), "--timeout", "7")
    assert "         one epoch: training 1 of about 12, for " in found.lines


@pytest.mark.slow
def test_a_warm_start_that_gains_nothing_is_told(tmp_path: Path) -> None:
    # longer where it is a fork of the host, so that it never gains, however busy the machine is
    parent = "pathlib.Path(f'/proc/{os.getppid()}/cmdline').read_bytes()"
    found = check(tmp_path, begins("import os, pathlib", f"time.sleep(1.0 if b'host.py' in {parent} else 0)"))
    assert found.status("warm") == "ok"
    assert "--warm gains nothing here" in found.words("warm")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_check_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    source = begins("open('running', 'w').close()", "time.sleep(100)")
    (tmp_path / "train.py").write_text(source)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = start_check(tmp_path, "train.py", environ={"TMPDIR": str(temporary)})
    ends_s = time.monotonic() + 60
    while not (tmp_path / "running").exists():
        assert time.monotonic() < ends_s
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"ended by {number.name}" in err
    assert list(temporary.iterdir()) == []


def test_checkpoints_are_back_when_the_check_is_ended_while_they_are_away(tmp_path: Path) -> None:
    # three epochs in one go, with the checkpoint out of the way, never end
    source = begins(
        "if epochs == 3 and not (os.path.exists('runs') and os.listdir('runs')[1:]):",
        "    open('away', 'w').close()",
        "    time.sleep(100)",
    )
    (tmp_path / "train.py").write_text(source)
    process = start_check(tmp_path, "train.py")
    ends_s = time.monotonic() + 60
    while not (tmp_path / "away").exists():
        assert time.monotonic() < ends_s
        time.sleep(0.01)
    assert len(list((tmp_path / "runs").iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "runs", "away"}


def test_options_of_a_search_are_refused_and_the_help_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(GOOD)
    assert main(["check", "train.py", "--max-epochs", "9"]) == 2
    assert "no use for --max-epochs" in capsys.readouterr().err
    assert main(["check", "train.py", "--gpuss", "none"]) == 2
    assert "Did you mean --gpus" in capsys.readouterr().err
    assert main(["check", "nothing.py"]) == 2
    assert main(["check", str(tmp_path)]) == 2
    assert main(["check"]) == 2
    assert main(["check", "train.py", "--checkpoints", "runs/*"]) == 2
    assert main(["check", "train.py", "--python", "/no/python"]) == 2
    capsys.readouterr()
    assert main(["check", "--help"]) == 0
    assert "check dummy.py" in capsys.readouterr().out


def evidence(
    resumed: float | None = 0.5,
    straight: tuple[float, ...] = (0.5, 0.5),
    read: bool | None = True,
    times: tuple[float, float, tuple[float, ...]] = (0.1, 0.1, (0.1, 0.1)),
) -> Evidence:
    return Evidence(resumed, straight, read, *times)


SAVED = (2.0, 3.0, (4.0, 4.1))
NOT_SAVED = (2.0, 4.0, (4.0, 4.1))


@pytest.mark.parametrize(
    ("given_", "verdict"),
    [
        (evidence(), Resuming.RESUMES),
        (evidence(read=False), Resuming.FROM_SCRATCH),
        (evidence(read=None), Resuming.UNKNOWN),
        (evidence(resumed=0.6), Resuming.DISAGREES),
        (evidence(resumed=0.6, times=SAVED), Resuming.DISAGREES),
        (evidence(resumed=None), Resuming.DISAGREES),
        (evidence(resumed=0.5000000001), Resuming.RESUMES),
        # time decides where it can be measured
        (evidence(read=True, times=NOT_SAVED), Resuming.FROM_SCRATCH),
        (evidence(read=False, times=SAVED), Resuming.RESUMES),
        (evidence(read=None, straight=(), times=SAVED), Resuming.RESUMES),
        (evidence(read=None, straight=(), times=NOT_SAVED), Resuming.FROM_SCRATCH),
        (evidence(read=None, straight=(), times=(2.0, 3.0, (3.0, 5.0))), Resuming.UNKNOWN),
        # dice are no disagreement
        (evidence(resumed=0.9, straight=(0.5, 0.6)), Resuming.RESUMES),
        (evidence(resumed=0.9, straight=(0.5, 0.6), read=False), Resuming.FROM_SCRATCH),
        (evidence(resumed=0.9, straight=(0.5,)), Resuming.RESUMES),
    ],
)
def test_the_verdict_on_resuming(given_: Evidence, verdict: Resuming) -> None:
    assert judge(given_).verdict is verdict


@given(
    st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.sampled_from([True, False, None]),
    st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10),
)  # fmt: skip
def test_a_script_that_prints_another_loss_each_time_is_never_said_to_disagree(
    resumed: float, one: float, two: float, read: bool | None, a: float, b: float, c: float, d: float
) -> None:
    if abs(one - two) > 1e-3:
        assert judge(Evidence(resumed, (one, two), read, a, b, (c, d))).verdict is not Resuming.DISAGREES


def test_reading_before_writing_is_told_from_writing_alone(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("read", "appended", "rewritten", "both", "asked", "replaced")}
    for path in paths.values():
        path.write_text("x")
    with ReadWatch(list(paths.values())) as watch:
        assert watch.is_complete
        paths["read"].read_text()
        with paths["appended"].open("a") as file:
            file.write("y")
        paths["rewritten"].write_text("y")
        paths["rewritten"].read_text()
        paths["both"].read_text()
        paths["both"].write_text("y")
        paths["asked"].stat()
        paths["replaced"].read_text()
        (tmp_path / "beside").write_text("y")
        (tmp_path / "beside").replace(paths["replaced"])
        assert {path.name for path in watch.read_first()} == {"read", "both", "replaced"}
        assert watch.is_complete
    with ReadWatch([paths["read"], tmp_path / "none"]) as watch:
        assert not watch.is_complete
    with ReadWatch([]) as watch:
        assert not watch.is_complete


def places(folder: Path, checkpoints: str | None = None, script_args: tuple[str, ...] = ()) -> Places:
    (folder / "train.py").write_text(GOOD)
    settings = Settings(
        script=folder / "train.py",
        script_args=script_args,
        checkpoints=checkpoints,
        python=Path(sys.executable),
        logs=folder / "logs",
    )
    return Places(settings, folder, print)


def test_only_new_files_go_aside_and_come_back_unless_they_have_a_successor(tmp_path: Path) -> None:
    found = places(tmp_path)
    (tmp_path / "old").write_text("old")
    before = found.look("x")
    (tmp_path / "old").write_text("changed")
    for name in ("a/b/one", "a/two", "three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    now = found.look("x")
    changed_ = now.changed_since(before)
    assert {path.name for path in changed_} == {"old", "one", "two", "three"}
    with (tmp_path / "three").open() as _, found.aside(now, before, changed_, ()):
        # what a living process has open is somebody else's
        left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
        assert left == {"old", "train.py", "three"}
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "two").write_text("successor")
    assert (tmp_path / "a/b/one").read_text() == "a/b/one"
    assert (tmp_path / "a/two").read_text() == "successor"
    assert {path.name for path in tmp_path.iterdir()} == {"old", "train.py", "three", "a"}


def test_a_pattern_reaches_nothing_outside_and_follows_no_link(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "runs").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x[1]").write_text("")
    (work / "link").symlink_to(tmp_path / "outside")
    (work / "runs" / "x[1]").write_text("")
    (work / "runs" / "x1").write_text("")
    look = places(work, checkpoints="runs/{config_id}").look
    assert set(look("x[1]").files) == {work / "runs" / "x[1]"}
    assert look("../outside/x[1]").files == {}
    assert places(work, checkpoints="*/{config_id}").look("x[1]").files.keys() == {work / "runs" / "x[1]"}
    with pytest.raises(UsageError, match="between its slashes"):
        places(work, checkpoints="../outside/{config_id}")


def test_folders_near_the_root_and_the_systems_own_are_not_looked_through(tmp_path: Path) -> None:
    found = places(tmp_path, script_args=("--a=/", "/proc/self", "/usr/share/doc", "/nonexistent/x", "\0/"))
    assert found.roots == [tmp_path]


def test_studies_are_left_alone_and_other_files_beside_them_are_not(tmp_path: Path) -> None:
    found = places(tmp_path)
    for name in ("logs/a/journal.db", "logs/a/jobs/x", "logs/.checks/a.json", "logs/b/mine", ".git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert {path.name for path in found.look("x").files} == {"train.py", "mine"}


def test_a_folder_that_is_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperband.check.traces._MAX_ENTRIES", 2)
    found = places(tmp_path)
    for n in range(3):
        (tmp_path / str(n)).write_text("")
    assert found.look("x").files == {}
    assert found.too_large == [tmp_path]


def test_a_signal_is_heeded_between_two_steps() -> None:
    with Interrupts() as interrupts:
        interrupts.heed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.sleep([], 10) == set()
        with pytest.raises(Exception, match="SIGTERM"):
            interrupts.heed()


# ---- somebody else works in the same folder -------------------------------------------------------


def test_what_somebody_else_writes_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GOOD)
    empty, table = tmp_path / "mine" / "run7", tmp_path / "results" / "mine.csv"
    n_lines = 0
    with start_check(tmp_path, "train.py") as process:
        until(lambda: any(tmp_path.glob("runs/*")) or process.poll() is not None, "the first job")
        empty.mkdir(parents=True)
        table.parent.mkdir()
        while process.poll() is None:
            with table.open("a") as file:
                file.write(f"{n_lines}\n")
            n_lines += 1
            assert empty.is_dir()
            time.sleep(0.002)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert table.read_text().splitlines() == [str(n) for n in range(n_lines)]
    assert n_lines > 20, "the check and the other one did not run at the same time"
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "runs", "logs", "mine", "results"}


@pytest.mark.parametrize("name", ["lr_0.5.pt", f"{hashlib.sha256(b'lr:0.5').hexdigest()}.pt", "LR-0-5/1.pt"])
def test_where_files_are_named_after_configurations_no_other_is_touched(tmp_path: Path, name: str) -> None:
    found = places(tmp_path)
    before = found.look("lr:0.5")
    theirs, ours = tmp_path / "results" / "mine.csv", tmp_path / "runs" / name
    for path in (theirs, ours):
        path.parent.mkdir(parents=True)
        path.write_text("before")
    (tmp_path / "empty").mkdir()
    now = found.look("lr:0.5")
    with found.aside(now, before, now.changed_since(before), ["lr:0.5"]):
        assert theirs.read_text() == "before"
        assert (tmp_path / "empty").is_dir()
        assert not (tmp_path / "runs").exists()
        ours.parent.mkdir(parents=True)
        ours.write_text("after")
    assert ours.read_text() == "after"
    assert [path.name for path in ours.parent.iterdir()] == [ours.name]


def test_a_file_that_may_be_somebody_elses_is_kept_beside_a_newer_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = places(tmp_path)
    before = found.look("x:1")
    for name in ("changed", "same", "gone"):
        (tmp_path / name).write_text("before")
    (tmp_path / "empty").mkdir()
    now = found.look("x:1")
    with found.aside(now, before, now.changed_since(before), ["x:1"]):
        assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"train.py", "empty"}
        (tmp_path / "changed").write_text("after")
        (tmp_path / "same").write_text("before")
    assert (tmp_path / "changed").read_text() == "after"
    kept = {path.name: path.read_text() for path in tmp_path.glob("*.before-check")}
    assert kept == {"changed.before-check": "before"}
    assert (tmp_path / "same").read_text() == (tmp_path / "gone").read_text() == "before"
    assert "kept in changed.before-check" in capsys.readouterr().out
