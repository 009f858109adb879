"""The floors of the house, read from the imports: a room imports only from lower floors.

Also what the lowest floor must not know, and which libraries have one door only.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hyperband"

#: rooms from the ground up; those on one floor do not know each other. The root holds the version alone.
FLOORS = (
    {"", "errors"},
    {"search"},
    {"settings"},
    {"machine", "script"},
    # over the machine: who holds a study's lock is told by the identity of a process
    {"folder", "verdicts", "guide"},
    {"journal"},
    {"report", "fleet"},
    {"launch"},
    {"study", "check", "rounds", "experiment"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

#: the same inside launch/, whose rooms are folders or single files
LAUNCH_FLOORS = (
    {"base", "environment", "named_files"},
    {"cpu_slots", "gpu", "warm", "remote"},
    {"local", "slots", "slurm", "ray"},
)
LAUNCH_FLOOR_OF = {room: floor for floor, rooms in enumerate(LAUNCH_FLOORS) for room in rooms}

#: all that deciding may use of the standard library: no clock, file, process, thread, log or random state
PURE = {
    "array",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "heapq",
    "itertools",
    "math",
    "struct",
    "typing",
}

#: built-in functions that touch the world
WORLDLY = {"print", "open", "input", "exec", "eval", "compile", "__import__", "breakpoint", "id", "hash"}

#: libraries that one module alone may import
DOORS = {
    "fsspec": ("machine/depot.py",),
    "pynvml": ("machine/nvml.py",),
    # what is sent to a slot asks there whether Ray's head answers
    "ray": (
        "launch/ray/bridge.py",
        "launch/ray/probe.py",
        "launch/ray/sent_actor.py",
        "launch/ray/survey.py",
    ),
    "sqlite3": ("journal/database.py",),
    "yaml": ("launch/ray/environment.py", "launch/slurm/profile_file.py"),
}


def sources(under: str = "") -> list[Path]:
    return sorted((PACKAGE / under).rglob("*.py"))


def place(path: Path) -> str:
    """The path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def imported(source: str) -> frozenset[str]:
    """Every module that a source imports, wherever the statement stands, and by `import_module("...")`.

    What is imported from the root is a room of its own; of all others the module is enough.
    """
    return frozenset(_imported(source))


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield node.module
            if node.module == "hyperband":
                yield from (f"hyperband.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield ast.literal_eval(node.args[0])


def room(module: str) -> str:
    """The room of a module of the package: its first name below `hyperband`, or the root."""
    name = module.split(".")[1] if "." in module else ""
    return "" if name.startswith("__") and name != "__main__" else name


def climbs(path: str, source: str) -> list[str]:
    """Imports of this file that do not go down to a lower floor."""
    own = room("hyperband." + path.removesuffix(".py").replace("/", "."))
    others = {room(module) for module in imported(source) if module.split(".")[0] == "hyperband"} - {own}
    return [f"{path} imports {other}" for other in sorted(others) if FLOOR_OF[other] >= FLOOR_OF[own]]


def launch_climbs(path: str, source: str) -> list[str]:
    """The same for the rooms inside launch/."""
    own = path.removesuffix(".py").split("/")[1]
    others = {
        module.split(".")[2]
        for module in imported(source)
        if module.startswith("hyperband.launch.") and module.split(".")[2] != own
    }
    return [
        f"{path} imports {other}"
        for other in sorted(others)
        if LAUNCH_FLOOR_OF[other] >= LAUNCH_FLOOR_OF[own]
    ]


def impurities(source: str) -> list[str]:
    """What a file of the lowest floor must not have in it."""
    found = [
        f"imports {module}"
        for module in imported(source)
        if module not in PURE and module != "hyperband.errors" and not module.startswith("hyperband.search.")
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in WORLDLY:
            found.append(f"uses {node.id}")
        if isinstance(node, ast.Global):
            found.append("has a global statement")
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room("hyperband." + place(path).removesuffix(".py").replace("/", ".")) for path in sources()}
    assert rooms <= FLOOR_OF.keys(), "a new room: give it a floor in this file and in docs/design.md"
    assert {"errors", "search", "settings", "machine", "script", "journal", "report", "launch"} <= rooms


# One test for all files: workers share no parsed file.


def test_rooms_import_only_from_lower_floors_and_a_library_has_few_doors() -> None:
    assert [found for path in sources() for found in climbs(place(path), path.read_text())] == []
    inside = [path for path in sources("launch") if place(path) != "launch/__init__.py"]
    assert [found for path in inside for found in launch_climbs(place(path), path.read_text())] == []
    doors = {
        library: tuple(
            place(path)
            for path in sources()
            if library in {module.split(".")[0] for module in imported(path.read_text())}
        )
        for library in DOORS
    }
    assert doors == DOORS


def test_deciding_never_touches_the_world() -> None:
    found = {place(path): impurities(path.read_text()) for path in sources("search")}
    assert {path: what for path, what in found.items() if what} == {}


def test_what_runs_under_the_users_interpreter_is_one_file() -> None:
    modules = {module.split(".")[0] for module in imported((PACKAGE / "script" / "child.py").read_text())}
    assert "hyperband" not in modules


@pytest.mark.parametrize(
    ("path", "source", "broken"),
    [
        ("search/a.py", "from hyperband.search.trial import Plan", []),
        ("search/a.py", "from hyperband.errors import UsageError", []),
        ("search/a.py", "import hyperband.journal", ["search/a.py imports journal"]),
        ("search/a.py", "def f():\n    from hyperband import settings", ["search/a.py imports settings"]),
        ("script/a.py", "from hyperband.machine.nvml import x", ["script/a.py imports machine"]),
        ("report/a.py", "from hyperband.study.run import x", ["report/a.py imports study"]),
        ("study/a.py", "from hyperband import __version__, journal", []),
        ("machine/a.py", "m = importlib.import_module('hyperband.cli')", ["machine/a.py imports cli"]),
        ("journal/a.py", "import hyperband.cli.main as m, os", ["journal/a.py imports cli"]),
    ],
)
def test_a_climb_is_found(path: str, source: str, broken: list[str]) -> None:
    assert climbs(path, source) == broken


@pytest.mark.parametrize(
    ("path", "source", "broken"),
    [
        ("launch/ray/a.py", "from hyperband.launch.remote.files import x", []),
        ("launch/ray/a.py", "from hyperband.launch.ray.words import x", []),
        ("launch/ray/a.py", "from hyperband.launch.slurm.words import x", ["launch/ray/a.py imports slurm"]),
        ("launch/base.py", "import hyperband.launch.gpu.slots", ["launch/base.py imports gpu"]),
    ],
)
def test_a_climb_inside_launch_is_found(path: str, source: str, broken: list[str]) -> None:
    assert launch_climbs(path, source) == broken


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("import heapq\nfrom collections.abc import Iterator", []),
        ("import time", ["imports time"]),
        ("def f():\n    import logging", ["imports logging"]),
        ("from random import Random", ["imports random"]),
        ("from hyperband.settings import Settings", ["imports hyperband.settings"]),
        ("print(1)", ["uses print"]),
        ("x = map(open, [])", ["uses open"]),
        ("def f():\n    global x\n    x = 1", ["has a global statement"]),
    ],
)
def test_an_impurity_is_found(source: str, broken: list[str]) -> None:
    assert impurities(source) == broken
