"""child.py under the oldest interpreter and the oldest numpy that it promises to run with."""

import ast
import select
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from numpy.random import MT19937, RandomState, SeedSequence
from other_pythons import find_python

from hyperband.errors import ContractError
from hyperband.script import child
from hyperband.script.candidates import Candidates
from hyperband.script.host import ScriptHost
from hyperband.script.id_stream import Exhausted, Sampled

CHILD = Path(child.__file__)
SCRIPT = """
import random, sys
import numpy
assert sys.version_info[:2] == (3, 8), sys.version
def get_random_config_id(rng):
    return "x:%r.n:%d" % (rng.uniform(), rng.randint(1000))
def run_identity(argv):
    return "%s %s" % (numpy.__version__, argv)
def get_config(config_id):
    return {"x": numpy.float32(0.5), "n": (1, None)}
"""


@pytest.fixture
def python38(tmp_path: Path) -> Path:
    """A virtual environment of Python 3.8 with the oldest numpy that child.py takes and nothing else."""
    base = find_python("3.8")
    if base is None:
        pytest.skip("no Python 3.8 on this machine")
    subprocess.run([base, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    # by our pip: one of its own would take longer to install than numpy
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    pip += ["--python-version=3.8", "--implementation=cp", "--only-binary=:all:"]
    pip += ["--target", str(tmp_path / "env" / "lib" / "python3.8" / "site-packages")]
    installed = subprocess.run([*pip, "numpy==1.17.*"], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, f"no numpy 1.17 for Python 3.8 could be installed: {installed.stderr}"
    return python


def receive_all(host: ScriptHost) -> list[Sampled | Exhausted]:
    results: list[Sampled | Exhausted] = []
    while host.is_sampling:
        select.select([host], [], [])
        for found in host.receive():
            assert not isinstance(found, Candidates)
            results.append(found)
    return results


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_python_38_with_numpy_117(python38: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with ScriptHost(python38, script, ["--model", "a"], cwd=None, write_bytecode=False) as host:
        host.load()
        version, _, argv = host.identity().partition(" ")
        assert version.startswith("1.17.")
        assert argv == "['--model', 'a']"
        assert host.configs(["a"]) == [{"x": 0.5, "n": [1, None]}]
        drawn = host.draw(42, range(50), limit_s=60)
        host.start_sampling(42, 0, 50, [])
        ids = [i for result in receive_all(host) if isinstance(result, Sampled) for i in result.ids]
    assert list(drawn) == ids
    # the same numbers as under any other Python and numpy
    rngs = [RandomState(MT19937(SeedSequence([42, trial]))) for trial in range(50)]
    assert ids == [f"x:{float(rng.uniform())!r}.n:{rng.randint(1000)}" for rng in rngs]

    script.write_text("import argparse, sys\nsys.exit('not without arguments')\n")
    with (
        ScriptHost(python38, script, [], cwd=None, write_bytecode=False) as host,
        pytest.raises(ContractError, match="runs its experiment when it is imported"),
    ):
        host.load()
    script.write_text("def f(:\n")
    with (
        ScriptHost(python38, script, [], cwd=None, write_bytecode=False) as host,
        pytest.raises(ContractError, match="SyntaxError"),
    ):
        host.load()

    dummy = Path(__file__).parents[1] / "dummy.py"
    command = [str(python38), str(dummy), "lr:0.03.momentum:0.9.batch_size:64", "--epochs"]
    short, straight = (
        subprocess.run([*command, n], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for n in ("3", "9")
    )
    assert float(straight.splitlines()[-1]) < float(short.splitlines()[-1])


def test_its_syntax_is_that_of_38() -> None:
    ast.parse(CHILD.read_text(), feature_version=(3, 8))


def test_vermin_finds_nothing_newer_than_38() -> None:
    vermin = Path(sysconfig.get_path("scripts")) / "vermin"
    # annotations are left alone: `from __future__ import annotations` keeps them from being evaluated
    command = [sys.executable, str(vermin), "--target=3.8-", "--no-tips", "--no-eval-annotations", str(CHILD)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "Minimum required versions" in run.stdout
