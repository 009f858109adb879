"""Which local modules must not be imported ahead: their import does what each job has to do for itself.

Local is what is neither Python's own nor installed in site-packages. Owns the watching of imports, in a
forked process that ends afterwards. Runs under the user's interpreter: standard library only,
Python >= 3.9. Must not know jobs, keepers or the search.
"""

from __future__ import annotations

import os
import random
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_STANDARD = os.path.dirname(os.__file__)  # noqa: PTH120
_OURS = os.path.dirname(__file__)  # noqa: PTH120
_SITES = {"site-packages", "dist-packages"}
#: before these are imported there is no generator of theirs
_GENERATORS_COME_WITH = ("numpy.random.mtrand", "torch")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: audit events: what an import does to the world, and every job must do for itself
_DEEDS = {
    "fcntl.flock": "locks files",
    "fcntl.lockf": "locks files",
    "os.chdir": "changes the working directory",
    "os.exec": "starts a program",
    "os.fork": "forks",
    "os.kill": "sends signals",
    "os.link": "makes files",
    "os.mkdir": "makes folders",
    "os.posix_spawn": "starts a program",
    "os.remove": "removes files",
    "os.rename": "renames files",
    "os.rmdir": "removes folders",
    "os.symlink": "makes files",
    "os.system": "starts a program",
    "os.truncate": "changes files",
    "socket.bind": "opens a socket",
    "socket.connect": "opens a socket",
    "sqlite3.connect": "opens a database",
    "subprocess.Popen": "starts a program",
}
#: what lies here is the same for all jobs, and what ends so is code
_OF_THE_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/opt/", "/var/lib/")
_CODE = (".py", ".pyc", ".so", ".pth")
#: functions that tell each job something else
_MOMENTARY = (
    ("os", ("getpid", "getppid", "urandom"), "asks for the process or for entropy"),
    ("os", ("pipe", "pipe2"), "makes a pipe"),
    (
        "time",
        (
            *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
            *("localtime", "gmtime", "ctime", "strftime", "asctime"),
        ),
        "reads the clock",
    ),
)


def is_local(file: str | None) -> bool:
    """Return whether a module's file is the user's own: neither Python's nor installed."""
    if not file or file.startswith("<") or not os.path.isabs(file):  # noqa: PTH117
        return False
    return not (file.startswith((_STANDARD + "/", _OURS + "/")) or _SITES & set(file.split("/")))


def _is_data(file: str) -> bool:
    """Return whether a file is the user's own and no code: it may change between two jobs."""
    place = os.path.abspath(file)  # noqa: PTH100
    return is_local(place) and not place.startswith(_OF_THE_SYSTEM) and not place.endswith(_CODE)


def generators() -> dict[str, object]:
    """Return the state of each global generator of random numbers that is loaded."""
    found: dict[str, object] = {"random": hash(random.getstate())}
    numpy_s = getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)
    if numpy_s is not None:
        state = numpy_s.get_state(legacy=False)["state"]
        found["numpy"] = {name: bytes(part) if name == "key" else part for name, part in state.items()}
    torchs = getattr(sys.modules.get("torch"), "default_generator", None)
    if torchs is not None:
        found["torch"] = bytes(torchs.get_state().numpy())
    return found


class Watch:
    """Notes which local module's import does what no import ahead may do. Never taken off again."""

    def __init__(self, script: str | None) -> None:
        self._script = script
        #: name -> what it does, in words
        self.unfit: dict[str, str] = {}
        #: environment variables that the imports of modules set (None: took out)
        self.set_by_modules: dict[str, str | None] = {}
        #: those that the script itself set: how many modules there were, name, value
        self.set_by_script: list[tuple[int, str, str | None]] = []
        self._generators: dict[str, object] = {}
        #: names of the local modules that are being imported, outermost first
        self._importing: list[str] = []

    def install(self) -> None:
        """Watch from here on."""
        sys.dont_write_bytecode = True  # writing it would look like a deed of the importing module
        sys.argv = _Argv(sys.argv)
        sys.argv.watch = self
        sys.path = _Path(sys.path)
        sys.path.watch = self
        os.environ.__class__ = _environ_class(self)
        for module, names, why in _MOMENTARY:
            for name in names:
                setattr(sys.modules[module], name, self._blaming(getattr(sys.modules[module], name), why))
        random._urandom = os.urandom  # type: ignore[attr-defined]
        random.Random = _random_class(self)  # type: ignore[misc]
        sys.meta_path.insert(0, self)
        sys.addaudithook(self._audit)

    def blame(self, why: str) -> None:
        """Note what is just being done, if the import of a local module does it."""
        for name in self._who()[1]:
            self.unfit.setdefault(name, why)

    def changes(self, variable: str, value: str | None) -> None:
        """Note who sets an environment variable (None: takes it out): a module's import, or the script."""
        if self._who()[0]:
            self.set_by_modules[variable] = value
        else:
            self.set_by_script.append((len(sys.modules), variable, value))

    def _who(self) -> tuple[bool, list[str]]:
        """Return whether a module's import does what is just being done, and the names of the local ones."""
        names: list[str] = []
        frame: Any = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if frame.f_code.co_name == "<module>" and not file.startswith("<"):
                if file == self._script or file.startswith(_OURS + "/"):
                    break
                if is_local(file):
                    names.append(frame.f_globals.get("__name__", ""))
                elif not names:
                    return True, []  # an installed package may: it does the same for everybody
            frame = frame.f_back
        return bool(names), names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ANN401
        """Find a module as the other finders do; the import of a local one is looked at closely."""
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                if name in _GENERATORS_COME_WITH and hasattr(spec.loader, "exec_module"):
                    self._note_after(spec.loader)
                elif spec.has_location and is_local(spec.origin) and hasattr(spec.loader, "exec_module"):
                    self._look_closely(name, spec.loader)
                return spec
        return None

    def _note_after(self, loader: Any) -> None:  # noqa: ANN401
        """Take the generators for unused as they are after this import."""
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._generators = {**generators(), **self._generators}

        loader.exec_module = exec_module

    def _look_closely(self, name: str, loader: Any) -> None:  # noqa: ANN401
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self._compare_generators()
            self._importing.append(name)
            try:
                run(module)
            finally:
                self._compare_generators()
                self._importing.pop()
                del loader.exec_module

        loader.exec_module = exec_module

    def _compare_generators(self) -> None:
        found = generators()
        for library, state in found.items():
            if self._generators.get(library, state) != state:
                for name in self._importing:
                    self.unfit.setdefault(name, f"uses the random numbers of {library}")
        self._generators = found

    def _blaming(self, function: Callable[..., Any], why: str) -> Callable[..., Any]:
        def blaming(*arguments: Any) -> Any:  # noqa: ANN401
            self.blame(why)
            return function(*arguments)

        return blaming

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            if isinstance(flags, int) and flags & _WRITES:
                self.blame("writes to files")
            elif isinstance(arguments[0], str) and _is_data(arguments[0]):
                self.blame(f"reads {os.path.basename(arguments[0])}")  # noqa: PTH119
        elif event == "mmap.__new__" and arguments[0] == -1:
            self.blame("shares memory")
        elif event in _DEEDS:
            self.blame(_DEEDS[event])


class _Argv(list):  # type: ignore[type-arg]
    """`sys.argv`, of which only the first word is the same for all jobs."""

    watch: Watch

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if index != 0:
            self.watch.blame("reads sys.argv")
        return super().__getitem__(index)

    def __iter__(self) -> Any:  # noqa: ANN401
        self.watch.blame("reads sys.argv")
        return super().__iter__()

    def __len__(self) -> int:
        self.watch.blame("reads sys.argv")
        return super().__len__()

    def __contains__(self, word: object) -> bool:
        self.watch.blame("reads sys.argv")
        return super().__contains__(word)


class _Path(list):  # type: ignore[type-arg]
    """`sys.path`: a job starts with a fresh one, and changes it as its own imports tell it to."""

    watch: Watch


def _watched(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def changing(self: _Path, *arguments: Any) -> Any:  # noqa: ANN401
        self.watch.blame("changes sys.path")
        return method(self, *arguments)

    return changing


for _name in (
    "append",
    "insert",
    "extend",
    "remove",
    "pop",
    "clear",
    "__setitem__",
    "__delitem__",
    "__iadd__",
):
    setattr(_Path, _name, _watched(_name))


def _random_class(watch: Watch) -> Any:  # noqa: ANN401
    """`random.Random` that notes who makes a generator without a seed."""

    class Random(random.Random):
        def __init__(self, *seed: Any) -> None:  # noqa: ANN401
            if seed in ((), (None,)):
                watch.blame("asks for the process or for entropy")
            super().__init__(*seed)

    return Random


def _environ_class(watch: Watch) -> Any:  # noqa: ANN401
    """`os.environ` that notes who reads what differs between jobs, and who sets what."""
    plain: Any = type(os.environ)

    class Environ(plain):  # type: ignore[misc]
        def __getitem__(self, name: Any) -> Any:  # noqa: ANN401
            if isinstance(name, str) and (name == "CUDA_VISIBLE_DEVICES" or name.startswith("HYPERBAND_")):
                watch.blame(f"reads {name}")
            return super().__getitem__(name)

        def __setitem__(self, name: Any, value: Any) -> None:  # noqa: ANN401
            watch.changes(name, value)
            super().__setitem__(name, value)

        def __delitem__(self, name: Any) -> None:  # noqa: ANN401
            watch.changes(name, None)
            super().__delitem__(name)

    return Environ
