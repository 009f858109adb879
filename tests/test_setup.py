"""setup.cfg says what is true of the package."""

import importlib.metadata
import os
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import hyperband

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read_string((ROOT / "setup.cfg").read_text(encoding="utf-8"))
    return parser


def test_the_version_is_that_of_the_package(setup: ConfigParser) -> None:
    assert setup["metadata"]["version"] == hyperband.__version__
    assert f"## [{hyperband.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_bounded_below_and_above(setup: ConfigParser) -> None:
    extras = dict(setup["options.extras_require"])
    peers = [line for line in extras.pop("bench").split("\n") if line]
    # a table of figures is one of exact versions
    assert [line for line in peers if not re.fullmatch(r"[A-Za-z0-9_,\[\]-]+==[\d.]+", line)] == []
    lists = [setup["options"]["install_requires"], *extras.values()]
    requirements = [line for text in lists for line in text.split("\n") if line]
    assert len(requirements) > 10
    loose = [line for line in requirements if not re.fullmatch(r"[A-Za-z0-9_,\[\]-]+>=[\d.]+,<[\d.]+", line)]
    assert loose == []


def test_the_command_is_the_main_of_the_package(setup: ConfigParser) -> None:
    from hyperband.cli.main import main

    name, _, target = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    point = importlib.metadata.EntryPoint(name, target, "console_scripts")
    assert (name, point.load()) == ("hyperband", main)


@pytest.mark.xdist_group("setup")
def test_what_shares_a_cluster_runs_in_one_worker(request: pytest.FixtureRequest) -> None:
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@setup")


def test_the_package_wins_over_the_file_of_its_name() -> None:
    assert hyperband.__file__ == str(ROOT / "hyperband" / "__init__.py")
