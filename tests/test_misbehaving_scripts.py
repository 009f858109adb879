"""Scripts that do what scripts do: each kind of misbehaviour, seen by a real search."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest
from search_fixture import LOSS, Ran, Searches, one_job, script, searches, until

__all__ = ["searches"]

ONE = ("--algorithm", "random", "--max-trials", "1", "--max-epochs", "1")


def run_one(searches: Searches, main: str, *options: str) -> Ran:
    """Run a script with this main block as one job."""
    searches.write(script(main))
    return searches.run(*ONE, *options)


def test_one_that_behaves(searches: Searches) -> None:
    ran = run_one(searches, "print('training'); print(0.25)")
    assert ran.exit_code == 0
    job = one_job(ran)
    assert (job["outcome"], job["loss"]) == ("Loss", 0.25)
    assert Path(job["stdout"]).read_text() == "training\n0.25\n"
    assert ran.document["best"] == {"config_id": job["config_id"], "loss": 0.25, "epochs": 1}


#: by config id: the main block, its outcome, words that are said of it, and what it is counted as
FAILURES = {
    "it raises": ("raise KeyError('bn')", "Crashed", "KeyError: 'bn'", "KeyError 'bn'"),
    "it names its config id": (
        "raise ValueError(f'no {sys.argv[1]}')",
        "Crashed",
        "ValueError: no",
        "ValueError: no CONFIG_ID",
    ),
    "case of memory": ("bytearray(1 << 60)", "OutOfMemory", "MemoryError", "MemoryError"),
    "it exits after a number": ("print(0.5); sys.exit(3)", "Crashed", "exit code 3", "exit code 3"),
    "it segfaults after a number": (
        "print(0.5, flush=True); import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "Crashed",
        "SIGSEGV",
        "ended by SIGSEGV (signal 11)",
    ),
    "it is killed by somebody": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "Crashed",
        "SIGKILL",
        "ended by SIGKILL (signal 9)",
    ),
    "case of nothing": ("pass", "NoLoss", "nothing was printed", "nothing was printed to standard output"),
    "case of text last": (
        "print(0.5); print('done')",
        "NoLoss",
        "'done'",
        "the last line of standard output is 'done'",
    ),
    "case of nan": ("print('nan')", "NotFinite", "nan", "loss nan"),
    "case of overflow": ("print(1e999)", "NotFinite", "inf", "loss inf"),
}


def run_each(searches: Searches, mains: Mapping[str, str], *options: str) -> Ran:
    """Run a script whose config ids are these, each with a main block of its own, one job each."""
    sampler = f"""
IDS = {list(mains)!r}
def get_random_config_id(rng):
    return IDS[rng.randint(len(IDS))]
"""
    cases = "".join(f"if config_id == {name!r}:\n    {main}\n" for name, main in mains.items())
    searches.write(script(cases, sampler=sampler))
    return searches.run(*ONE[:3], str(len(mains)), *ONE[4:], "--slots", "2", *options)


def test_failures(searches: Searches) -> None:
    ran = run_each(searches, {name: case[0] for name, case in FAILURES.items()}, "--retries", "0")
    assert ran.exit_code == 1
    assert ran.document["state"] == "failed"
    assert ran.document["best"] is None
    jobs = {job["config_id"]: job for job in ran.document["jobs"]}
    assert jobs.keys() == FAILURES.keys()
    log = (searches.study / "hyperband.log").read_text()
    for name, (_, outcome, words, kind) in FAILURES.items():
        job = jobs[name]
        assert (job["outcome"], job["fingerprint"]) == (outcome, kind)
        assert job["loss"] == 100
        assert job["memory_peak_bytes"] > 1 << 20
        assert 0 < job["cpu_s"] < 60
        failure = {"fingerprint": kind, "outcome": outcome, "n_final": 1, "n_retried": 0}
        assert {**failure, "trials": [job["trial"]]} in ran.document["failures"]
        assert words in ran.err
        assert words in log
        assert f"[{kind}]" in log


def test_one_failure_is_told_in_the_singular(searches: Searches) -> None:
    ran = run_one(searches, "raise KeyError('bn')", "--retries", "0")
    assert ran.exit_code == 1
    assert "1 job failed: 1 x KeyError 'bn' (trial 0)" in ran.err


def test_a_failure_that_is_tried_again_and_then_is_none(searches: Searches) -> None:
    ran = run_one(
        searches,
        "import os\nif not os.path.exists('been'):\n    open('been', 'w').close()\n    raise KeyError('bn')\n"
        "print(0.5)",
    )
    assert ran.exit_code == 0
    assert [(job["outcome"], job["loss"], job["retry"]) for job in ran.document["jobs"]] == [
        ("Crashed", None, True),
        ("Loss", 0.5, False),
    ]
    assert "1 failed attempt was tried again, 1 with a loss in the end: 1 x KeyError 'bn'" in ran.err
    assert "job failed" not in ran.err


#: by config id: the main block and its loss
LOSSES = {
    "no newline": ("sys.stdout.write('0.5')", 0.5),
    "CRLF": ("sys.stdout.write('epoch 1\\r\\n0.5\\r\\n')", 0.5),
    "progress bar": ("sys.stdout.write('10%\\r55%\\r0.125')", 0.125),
    "invalid UTF-8": ("sys.stdout.buffer.write(b'\\xff\\xfe caf\\xe9\\n0.5\\n')", 0.5),
    "closes stdout": ("print(0.5, flush=True); import os; os.close(1)", 0.5),
    "blank lines after": ("print('1e-3'); print(); print('   ')", 0.001),
}


def test_a_loss_all_the_same(searches: Searches) -> None:
    ran = run_each(searches, {name: main for name, (main, _) in LOSSES.items()})
    assert ran.exit_code == 0, ran.err
    losses = {job["config_id"]: job["loss"] for job in ran.document["jobs"]}
    assert losses == {name: loss for name, (_, loss) in LOSSES.items()}


@pytest.mark.slow
def test_two_hundred_megabytes(searches: Searches) -> None:
    ran = run_one(searches, "for _ in range(200): sys.stdout.write(('x' * 1023 + '\\n') * 1024)\nprint(0.75)")
    job = one_job(ran)
    assert job["loss"] == 0.75
    assert Path(job["stdout"]).stat().st_size == 200 * 2**20 + len("0.75\n")


def test_a_segfault_while_the_search_is_dead(searches: Searches) -> None:
    searches.write(
        script(
            "import os, signal, time\nopen('on', 'w').close()\nprint(0.5, flush=True)\n"
            "while not os.path.exists('off'): time.sleep(0.01)\nos.kill(os.getpid(), signal.SIGSEGV)"
        )
    )
    search = searches.start(*ONE)
    until((searches.folder / "on").exists, "the job to run")
    searches.kill(search)
    (searches.folder / "off").touch()
    until(lambda: any(searches.study.glob("jobs/*/result.json")), "the keeper to write how it ended")
    ran = searches.run(*ONE, "--retries", "0")
    assert one_job(ran)["outcome"] == "Crashed"
    assert ran.exit_code == 1


def test_one_that_ignores_sigterm_is_killed_after_the_grace(searches: Searches) -> None:
    ran = run_one(
        searches,
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(0.5, "
        "flush=True)\ntime.sleep(100)",
        *("--timeout", "2", "--grace", "0.2"),
    )
    job = one_job(ran)
    assert job["outcome"] == "TimedOut"
    result = json.loads(Path(job["stdout"]).with_name("result.json").read_text())
    assert result["exit_status"] == -9


def test_a_daemon_in_a_session_of_its_own_is_ended_and_told_of(searches: Searches) -> None:
    ran = run_one(
        searches,
        "import subprocess\nchild = subprocess.Popen(['sleep', '1000'], "
        "start_new_session=True)\nprint(child.pid)\nprint(0.5)",
    )
    job = one_job(ran)
    assert job["loss"] == 0.5
    pid = int(Path(job["stdout"]).read_text().splitlines()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert f"sleep (pid {pid})" in (searches.study / "hyperband.log").read_text()


def test_forked_loaders_end_with_the_job(searches: Searches) -> None:
    main = """
    import os, time
    for _ in range(3):
        if os.fork() == 0:
            os.setpgid(0, 0)
            time.sleep(1000)
    print(0.5, flush=True)
    os._exit(0)
    """
    ran = run_one(searches, main)
    assert one_job(ran)["loss"] == 0.5
    assert (searches.study / "hyperband.log").read_text().count("(pid ") == 3


@pytest.mark.parametrize("name", ["get_random_config_id", "run_identity"])
def test_a_missing_function_is_named(searches: Searches, name: str) -> None:
    searches.write(script(LOSS, **{"sampler" if name == "get_random_config_id" else "identity": ""}))
    ran = searches.run(*ONE)
    assert ran.exit_code == 2
    assert name in ran.err
    assert not (searches.folder / "logs").exists()


def test_an_id_that_is_no_string(searches: Searches) -> None:
    searches.write(script(LOSS, sampler="def get_random_config_id(rng):\n    return 0.5\n"))
    ran = searches.run(*ONE)
    assert ran.exit_code == 2
    assert "float" in ran.err
    assert "0.5" in ran.err


def test_an_id_that_no_command_line_can_hold(searches: Searches) -> None:
    config_id = "a\nb"
    searches.write(script(LOSS, sampler=f"def get_random_config_id(rng):\n    return {config_id!r}\n"))
    ran = searches.run(*ONE)
    assert ran.exit_code == 2
    assert repr(config_id) in ran.err
    assert "Traceback" not in ran.err


def test_ids_with_everything_in_them(searches: Searches) -> None:
    ids = ["a b 'c' \"d\" $HOME `x` \\ /e/ *", "ünïcødé 漢字 🎉", "y" * 5000, "[red]\t\x1b[31m"]
    sampler = f"IDS = {ids!r}\ndef get_random_config_id(rng):\n    return IDS[rng.randint(len(IDS))]\n"
    searches.write(script("print(len(config_id.encode()))", sampler=sampler))
    ran = searches.run("--algorithm", "random", "--max-trials", "4", "--max-epochs", "1")
    assert ran.exit_code == 0
    losses = {job["config_id"]: job["loss"] for job in ran.document["jobs"]}
    assert losses == {config_id: len(config_id.encode()) for config_id in ids}


def test_one_that_fails_on_import(searches: Searches) -> None:
    searches.write(script(LOSS, top="import no_such_module\n"))
    ran = searches.run(*ONE)
    assert ran.exit_code == 2
    assert "no_such_module" in ran.err
    assert "script.py" in ran.err
    assert not (searches.folder / "logs").exists()


@pytest.mark.slow
def test_one_that_imports_for_five_seconds(searches: Searches) -> None:
    searches.write(script(LOSS, top="import time\nif __name__ != '__main__':\n    time.sleep(5)\n"))
    assert searches.run(*ONE).exit_code == 0


def test_one_that_prints_on_import(searches: Searches) -> None:
    searches.write(
        script(
            LOSS,
            top="print('hello')\nimport os\nif __name__ != '__main__':\n    os.write(1, b'{}' * 100)\n",
        )
    )
    ran = searches.run(*ONE)
    assert ran.exit_code == 0
    assert ran.document["state"] == "finished"


def test_a_space_of_four_ids_is_trained_whole(searches: Searches) -> None:
    sampler = "def get_random_config_id(rng):\n    return f'x:0.{rng.randint(4)}'\n"
    searches.write(script(LOSS, sampler=sampler))
    ran = searches.run("--max-epochs", "9", "--slots", "2")
    assert ran.exit_code == 0
    assert ran.document["plan"] == [{"bracket": 0, "rungs": [{"n": 4, "epochs": 9}]}]
    assert [job["epochs"] for job in ran.document["jobs"]] == [9] * 4
    assert "only 4 config ids" in ran.err


def test_losses_around_a_thousand_with_crashes(searches: Searches) -> None:
    main = "x = float(config_id[2:])\nif x < 0.3:\n    raise SystemExit('diverged')\nprint(1000 + x)"
    searches.write(script(main))
    ran = searches.run("--max-epochs", "3", "--slots", "2")
    assert ran.exit_code == 0
    failed = [trial for trial in ran.document["trials"] if trial["state"] == "failed"]
    assert failed
    assert all(trial["rung"] == 0 and trial["loss"] == 100 for trial in failed)
    assert ran.document["best"]["loss"] > 1000


def test_ten_failures_of_one_kind_end_the_search(searches: Searches) -> None:
    searches.write(script("raise RuntimeError('no such dataset')"))
    ran = searches.run("--max-epochs", "81", "--slots", "2")
    assert ran.exit_code == 1
    assert "no such dataset" in ran.err
    assert "--keep-going" in ran.err
    assert sum(job["outcome"] == "Crashed" for job in ran.document["jobs"]) < 2 * 14  # each is tried twice
    assert ran.document["state"] == "failed"


def test_keep_going_in_spite_of_failures(searches: Searches) -> None:
    searches.write(script("raise RuntimeError('no such dataset')"))
    ran = searches.run("--max-epochs", "9", "--keep-going", "--retries", "0")
    assert ran.exit_code == 1
    assert len(ran.document["jobs"]) == 17
    assert "without a single loss" in ran.err


def test_a_script_for_another_interpreter(searches: Searches, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python3*/site-packages")
    (packages / "numpy.pth").write_text(str(Path(numpy.__file__).parents[1]))
    searches.write(script("print(0.5 if sys.prefix.endswith('venv') else 1)"))
    ran = searches.run(*ONE, "--python", str(venv / "bin" / "python"))
    assert one_job(ran)["loss"] == 0.5
