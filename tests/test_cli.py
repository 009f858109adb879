"""The command as a user runs it: real processes, real terminals; exit codes, streams, errors."""

import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from other_pythons import find_python
from study_fixture import play, settings, small_plan

from hyperband.cli import main as main_module
from hyperband.cli.main import main
from hyperband.errors import InternalError
from hyperband.journal import Journal, read_events
from hyperband.report.document import study_document

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "hyperband.py")]
SCRIPT = """
import sys

def get_random_config_id(rng):
    return f"x:{rng.uniform():.6f} [red]'q'"

def run_identity(argv):
    return "study"

if __name__ == "__main__":
    BODY
    print(float(sys.argv[1].split()[0][2:]) / int(sys.argv[3]))
"""


def script(body: str = "pass") -> str:
    """The text of a script that does this before it prints its loss."""
    return SCRIPT.replace("BODY", body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a script."""
    (tmp_path / "train.py").write_text(script())
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end without a terminal."""
    return subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def search(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a small search on CPU slots."""
    return run(folder, "--max-epochs", "3", "--gpus", "none", "train.py", *words)


def on_terminal(
    folder: Path, words: Sequence[str], *, answer: bytes = b"", until: Callable[[bytes], bool] | None = None
) -> tuple[int, str]:
    """Run the command on a terminal of its own; its exit code and all it printed.

    Args:
        folder: the working directory.
        words: of the command.
        answer: typed at the start.
        until: closes the terminal as soon as this holds for what was printed.
    """
    terminal, inner = pty.openpty()
    started = subprocess.Popen(
        [*COMMAND, *words],
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(inner)
    os.write(terminal, answer)
    seen = b""
    while until is None or not until(seen):
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # EIO: nobody has it open any more
            break
    os.close(terminal)
    return started.wait(timeout=100), seen.decode()


# Help and errors.


@pytest.mark.parametrize("start", [COMMAND, [sys.executable, "-m", "hyperband"]])
def test_help(start: list[str]) -> None:
    ran = subprocess.run([*start, "-h"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert ran.stdout.startswith("usage: python ")
    assert f"usage: python {' '.join(start[1:]).replace(str(ROOT) + '/', '')} [options]" in ran.stdout


@pytest.mark.parametrize("words", [["hyperband.py"], ["-m", "hyperband"]], ids=" ".join)
@pytest.mark.parametrize("version", ["3.8", "3.10"])
def test_an_older_python_is_refused_without_a_traceback(version: str, words: list[str]) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    ran = subprocess.run([python, *words, "dummy.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"hyperband: this is Python {version}.")
    assert "3.11 or newer is needed to run the search" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from hyperband.cli.main import main; main(['-h']); print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.splitlines()[-1].split())
    assert "argparse" in loaded
    assert loaded & {"rich", "tabulate", "sqlite3", "numpy", "psutil", "pynvml"} == set()


def test_wrong_arguments_are_one_paragraph_and_exit_2(folder: Path) -> None:
    ran = run(folder, "train.py", "--sed", "3")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("hyperband: --sed is no option of hyperband. Did you mean --seed?")
    assert ran.stderr.count("\n") == 1
    debug = run(folder, "--debug", "train.py", "--sed", "3")
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr
    # a --debug of the script's own is not ours
    assert "Traceback" not in run(folder, "train.py", "--sed", "--", "--debug").stderr


@pytest.mark.parametrize(
    ("word", "command"), [("stopp", "stop"), ("reprot", "report"), ("slot", "slots"), ("chek", "check")]
)
def test_a_misspelt_command_is_no_script(
    word: str,
    command: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert main([word, "logs/study"]) == 2
    expected = f"Found no file {word}, expected a SCRIPT or a command. Did you mean {command}?"
    assert capfd.readouterr() == ("", f"hyperband: {expected}\n")
    (folder / word).write_text(script())
    assert main(["--dry-run", word]) == 0
    assert main([word, "--dry-run"]) == 0


@pytest.mark.parametrize("command", ["report", "stop", "slots"])
def test_an_error_of_a_command_has_our_name_once(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    expected = f"hyperband: {command}: the following arguments are required: STUDY_DIR; see --help.\n"
    assert capfd.readouterr() == ("", expected)


def test_a_removed_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from hyperband.cli.main import main; sys.exit(main(['x']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=gone, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "working directory was removed" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("division"), ["ZeroDivisionError: division", "report"]),
        (InternalError("The state contradicts itself."), ["contradicts itself", "--debug"]),
        (PermissionError(13, "Permission denied", "/some/file"), ["/some/file: Permission denied"]),
    ],
)
def test_an_error_of_our_own_is_one_paragraph(
    error: Exception, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Sequence[str]) -> int:
        raise error

    monkeypatch.setattr(main_module, "_run", fail)
    assert main(["x.py"]) == 1
    text = capsys.readouterr().err
    assert [word for word in words if word not in text] == []
    assert "Traceback" not in text
    assert text.count("\n") == 1
    assert main(["x.py", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_while_the_script_is_imported(folder: Path) -> None:
    os.mkfifo(folder / "here")
    top = 'import time\nwith open("here", "w") as here:\n    here.write("x")\ntime.sleep(600)\n'
    (folder / "train.py").write_text(top + script())
    with subprocess.Popen(
        [*COMMAND, "train.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert (folder / "here").read_text() == "x"
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=100)
    assert started.returncode == 130
    assert "Traceback" not in out + err
    assert err == "hyperband: interrupted.\n"


# The dry run.


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder: Path) -> None:
    ran = run(folder, "train.py", "--dry", "--lr", "0.1", "--logs", "there")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "81 @ 1" in ran.stdout
    assert "1,902" in ran.stdout
    assert f"{folder / 'train.py'} CONFIG_ID --epochs N --gpu K --lr 0.1" in ran.stdout
    assert [path.name for path in folder.iterdir()] == ["train.py"]


def test_a_dry_run_in_json(folder: Path) -> None:
    ran = run(folder, "train.py", "--dry-run", "--json")
    document = json.loads(ran.stdout)
    assert (document["state"], document["identity"], document["jobs"]) == ("planned", "study", [])
    assert len(document["plan"]) == 5
    assert "81 @ 1" in ran.stderr


# A whole search.


def test_a_search_for_people(folder: Path) -> None:
    ran = search(folder, "--slots", "2", "--max-epochs", "9")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\x1b" not in ran.stdout
    assert ran.stdout.index("9 @ 1") < ran.stdout.index("trial 0")
    assert "finished: " in ran.stdout
    lines = ran.stdout.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("best ")) :][2:12]
    assert [line.split()[0] for line in table] == [str(place) for place in range(1, 11)]
    # the command at the end trains the best again: the same loss, now by hand
    begins = f"env CUDA_VISIBLE_DEVICES= {shlex.quote(sys.executable)}"
    command = next(line for line in lines if line.startswith(begins))
    assert shlex.split(command)[5:-1] == ["--epochs", "9", "--gpu"]
    by_hand = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert float(by_hand.stdout) == pytest.approx(float(table[0].split()[1]), rel=1e-5)
    # a finished study prints its result and runs nothing
    again = search(folder, "--slots", "2", "--max-epochs", "9")
    assert again.returncode == 0
    assert command in again.stdout
    assert "trial 0 " not in again.stdout


def test_one_of_a_kind_is_told_in_the_singular(folder: Path) -> None:
    (folder / "train.py").write_text(script("").replace("f\"x:{rng.uniform():.6f} [red]'q'\"", '"x:1"'))
    ran = search(folder, "--slots", "1", "--timeout-per-epoch", "50")
    assert ran.returncode == 0, ran.stderr
    told = "the space has only 1 config id: it is trained to the full number of epochs"
    assert f"plan: {told}\n" in ran.stdout
    log = (folder / "logs" / "study" / "hyperband.log").read_text()
    assert "every bracket is over after 1 job, 0 of them failed" in log


def test_a_pattern_that_matches_nothing_is_told_of_once(folder: Path) -> None:
    pattern = "run/{config_id}/**"
    ran = search(folder, "--max-epochs", "9", "--keep-checkpoints", "best", "--checkpoints", pattern)
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if "--checkpoints" in line]
    assert line.startswith("Warning: no file of the trials ")
    assert f" matches --checkpoints '{pattern}' in {folder}: " in line


def test_a_pattern_that_matches_is_not(folder: Path) -> None:
    write = "import pathlib; pathlib.Path(sys.argv[1]).write_text('')"
    (folder / "train.py").write_text(script(write))
    ran = search(folder, "--slots", "2", "--keep-checkpoints", "best", "--checkpoints", "{config_id}")
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stdout


def test_a_search_for_programs(folder: Path) -> None:
    ran = search(folder, "--json")
    assert ran.returncode == 0
    assert ran.stdout.count("\n") == 1
    document = json.loads(ran.stdout)
    assert document["state"] == "finished"
    assert len(document["jobs"]) == 6
    losses = [float(Path(job["stdout"]).read_text()) for job in document["jobs"]]
    assert losses == [job["loss"] for job in document["jobs"]]
    full = [job for job in document["jobs"] if job["epochs"] == 3]
    assert document["best"]["loss"] == min(job["loss"] for job in full)
    assert "finished: " in ran.stderr
    study = folder / "logs" / "study"
    reported = json.loads(run(folder, "report", str(study), "--json").stdout)
    assert reported == document


def test_a_search_in_which_all_fail(folder: Path) -> None:
    (folder / "train.py").write_text(script('sys.exit("no such \\x1b[31mdata set")'))
    ran = search(folder, "--json")
    assert ran.returncode == 1
    document = json.loads(ran.stdout)
    assert (document["state"], document["best"]) == ("failed", None)
    assert {job["outcome"] for job in document["jobs"]} == {"Crashed"}
    assert document["jobs"][0]["loss"] is None
    assert document["jobs"][0]["retry"]
    assert document["jobs"][-1]["loss"] == 100
    assert document["trials"][0]["loss"] == 100
    assert "data set" in ran.stderr
    assert "\x1b" not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert document["jobs"][-1]["stderr"].removesuffix("/stderr") in ran.stderr


def test_a_study_that_another_search_writes(folder: Path) -> None:
    study = folder / "logs" / "study"
    journal = Journal.open(study)
    try:
        journal.append(*play(small_plan(), settings(folder), n_ends=3), durable=False)
        ran = search(folder, "--json")
        clean = search(folder, "--clean", "--yes")
    finally:
        journal.close()
    assert ran.returncode == 1
    assert f"pid {os.getpid()}" in ran.stderr
    assert json.loads(ran.stdout)["state"] == "running"
    assert clean.returncode == 1
    assert f"pid {os.getpid()}" in clean.stderr
    assert len(read_events(study)) > 0


def test_a_script_that_breaks_the_contract_exits_2(folder: Path) -> None:
    (folder / "train.py").write_text("raise RuntimeError('not today')\n")
    ran = search(folder, "--json")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "not today" in ran.stderr
    assert not (folder / "logs").exists()


# Streams that are closed, and terminals.


@pytest.mark.parametrize("closing", ["| head -n 1", ">&-", ">/dev/full", "2>&- >&- <&-"])
def test_a_closed_output_never_ends_a_search(folder: Path, closing: str) -> None:
    words = shlex.join([*COMMAND, "--max-epochs", "3", "--gpus", "none", "train.py"])
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {closing}"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    study = folder / "logs" / "study"
    assert study_document(read_events(study), folder=study, running=False)["state"] == "finished"


def test_a_full_device_under_the_json_is_an_error_of_the_machine(folder: Path) -> None:
    words = shlex.join([*COMMAND, "train.py", "--dry-run", "--json"])
    ran = subprocess.run(
        ["sh", "-c", f"{words} >/dev/full"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "Standard output cannot be written: No space left on device." in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    both = subprocess.run(["sh", "-c", f"{words} >/dev/full 2>&1"], cwd=folder, check=False)
    assert both.returncode == 1


def test_a_search_on_a_terminal_has_live_lines_and_leaves_none(folder: Path) -> None:
    exit_code, text = on_terminal(folder, ["--max-epochs", "3", "--gpus", "none", "train.py"])
    assert exit_code == 0
    assert "/6 done" in text
    result = text[text.index("finished: ") :]
    assert "/6 done" not in result
    assert "train the best to 3 epochs again" in result
    assert "[red]'q'" in result.replace("'\"'\"'", "'")


def test_json_on_a_terminal_is_indented(folder: Path) -> None:
    assert search(folder, "--max-epochs", "1").returncode == 0
    exit_code, seen = on_terminal(folder, ["report", "logs/study", "--json"])
    assert exit_code == 0
    assert '{\r\n  "identity": "study",\r\n' in seen
    piped = run(folder, "report", "logs/study", "--json")
    assert piped.stdout.count("\n") == 1
    assert json.loads(seen) == json.loads(piped.stdout)


def test_a_search_whose_terminal_vanishes_goes_on(folder: Path) -> None:
    words = ["--max-epochs", "9", "--gpus", "none", "train.py"]
    exit_code, text = on_terminal(folder, words, until=lambda seen: b"trial 0 " in seen)
    assert exit_code == 0
    assert "finished: " not in text
    study = folder / "logs" / "study"
    assert study_document(read_events(study), folder=study, running=False)["state"] == "finished"


# --clean and stop.


def test_clean_without_a_terminal_needs_yes(folder: Path) -> None:
    assert search(folder).returncode == 0
    ran = search(folder, "--clean")
    assert ran.returncode == 2
    assert "--yes" in ran.stderr
    study = folder / "logs" / "study"
    (study / "mine").write_text("")
    cleaned = search(folder, "--clean", "--yes")
    assert cleaned.returncode == 0
    assert "checkpoints stay" in cleaned.stdout
    assert "trial 0 " in cleaned.stdout
    assert (study / "mine").exists()  # only what the study itself wrote goes
    assert len(list((study / "jobs").iterdir())) == 6


def test_clean_asks_on_a_terminal(folder: Path) -> None:
    assert search(folder).returncode == 0
    journal = folder / "logs" / "study" / "journal.db"
    before = journal.stat().st_ctime_ns
    words = ["--max-epochs", "3", "--gpus", "none", "--clean", "train.py"]
    for answer, exit_code in ((b"n\n", 130), (b"\n", 130), (b"\x04", 130), (b"yes\n", 0)):
        found, text = on_terminal(folder, words, answer=answer)
        assert found == exit_code
        assert "remove it? [y/N]" in text
        assert str(journal.parent) in text
        assert (journal.stat().st_ctime_ns == before) == (exit_code == 130)


def test_stop_ends_a_running_search(folder: Path) -> None:
    os.mkfifo(folder / "here")
    body = 'open("here", "w").close(); import time; time.sleep(600)'
    (folder / "train.py").write_text(script(body))
    words = ["--max-epochs", "9", "--gpus", "none", "--slots", "1", "--json", "train.py"]
    with subprocess.Popen(
        [*COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        (folder / "here").read_text()
        report = run(folder, "report", "logs/study", "--json")
        assert json.loads(report.stdout)["state"] == "running"
        assert json.loads(report.stdout)["jobs"][0]["outcome"] is None
        stopped = run(folder, "stop", "logs/study")
        out, _ = started.communicate(timeout=100)
    assert stopped.returncode == 0
    assert stopped.stdout.strip()
    assert started.returncode == 130
    document = json.loads(out)
    assert document["state"] == "stopped"
    assert document["jobs"][0]["outcome"] == "Stopped"
    # nothing is left to stop, and saying so is no error
    again = run(folder, "stop", "logs/study")
    assert again.returncode == 0
    assert run(folder, "stop", ".").returncode == 1


@pytest.mark.parametrize("words", [["hyperband.py"], ["-m", "hyperband"]])
def test_an_interrupt_in_the_first_moments_shows_no_traceback(words: list[str]) -> None:
    # -v tells of each import: the interrupt comes in the middle of ours
    argv = [sys.executable, "-v", *words, "report", "/nowhere"]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if line.startswith("import 'argparse'"):
                break
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
    assert started.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err
