"""Imports the user's script under its own interpreter and answers for it.

Owns the talk on one inherited descriptor: JSON lines, never standard input or output. The one file of
ours that runs under `--python`: standard library and numpy >= 1.17 alone, Python >= 3.8, and nothing
of hyperband. Started as `python child.py DESCRIPTOR SCRIPT_FOLDER SCRIPT [ARGUMENTS]`.
Must not know the search.

It is one file, and longer than others, because it is started by its path: before the script's first line
`sys.path[0]` becomes the script's folder, and neighbours of ours would be names that the script could no
longer use for its own.
"""

from __future__ import annotations

import sys

#: what `python script.py` has loaded too before the script's first line
AT_START = frozenset(sys.modules)

# Every name is bound here, before the script can replace attributes of these modules.
import ctypes  # noqa: E402
import fcntl  # noqa: E402
from contextlib import suppress  # noqa: E402
from errno import ECONNRESET, EPIPE  # noqa: E402
from importlib.machinery import PathFinder, SourceFileLoader  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from json import JSONDecoder, JSONEncoder  # noqa: E402
from os import _exit, chdir, close, getpid, kill, read, write  # noqa: E402
from resource import RLIMIT_NOFILE, getrlimit  # noqa: E402
from select import POLLHUP, poll  # noqa: E402
from signal import SIGKILL  # noqa: E402
from time import monotonic  # noqa: E402
from traceback import format_exception, format_exception_only  # noqa: E402
from types import ModuleType, TracebackType  # noqa: E402
from typing import Any, Callable, Iterator, Mapping, NoReturn, Sequence  # noqa: E402

FUNCTIONS = ("get_random_config_id", "run_identity")
#: as multiprocessing does with `__mp_main__`: the script is the main module, but its guard is not true
MODULE_NAME = "__hyperband_main__"
#: a space in which this many draws in a row repeat counts as exhausted
MAX_REPEATS = 1000
#: a batch of ids goes out when it has so many ids, so many characters, or is so old
BATCH_IDS = 512
BATCH_CHARACTERS = 1 << 16
BATCH_AGE_S = 0.05
#: above what a script that closes "all" descriptors usually reaches, below what makes a fork slow
HIGHEST_DESCRIPTOR = 4095
#: of a configuration; JSON has no whole numbers of more than 4,300 digits for whoever reads it
MOST_BITS = 14000
DEEPEST = 100
PR_SET_PDEATHSIG = 1


class Talk:
    """JSON lines on one descriptor. A forked copy of this process has no part in it."""

    def __init__(self, descriptor: int) -> None:
        limit = getrlimit(RLIMIT_NOFILE)[0]
        highest = HIGHEST_DESCRIPTOR if limit < 0 else min(limit - 1, HIGHEST_DESCRIPTOR)
        # Close-on-exec, so that programs which the script starts do not hold the line open.
        self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, max(descriptor, highest - 16))
        close(descriptor)
        self._pid = getpid()
        self._received = b""
        self._encode = JSONEncoder().encode
        self._decode = JSONDecoder().decode

    def say(self, message: Mapping[str, object]) -> None:
        """Send one message; waits while the other side has not read the ones before."""
        if getpid() != self._pid:
            _exit(0)  # the script forked and let the copy return into our code
        data = memoryview((self._encode(message) + "\n").encode("ascii"))
        try:
            while data:
                data = data[write(self._descriptor, data) :]
        except OSError as error:
            _end(error)

    def hear(self) -> dict[str, Any]:
        """The next request; ends this process group when the other side is gone."""
        if getpid() != self._pid:
            _exit(0)
        parts = [self._received]
        while b"\n" not in parts[-1]:
            try:
                part = read(self._descriptor, 1 << 20)
            except OSError as error:
                _end(error)
            if not part:
                _end(None)
            parts.append(part)
        line, _, self._received = b"".join(parts).partition(b"\n")
        request: dict[str, Any] = self._decode(line.decode("ascii"))
        return request

    def has_ended(self) -> bool:
        """True when the other side is gone, even if requests of it are still unread."""
        poller = poll()
        poller.register(self._descriptor, 0)
        return any(event & POLLHUP for _, event in poller.poll(0))


def _end(error: OSError | None) -> NoReturn:
    """End without a word more of the script's code: the other side is gone, or unreachable."""
    if error is None or error.errno in (EPIPE, ECONNRESET):
        kill(0, SIGKILL)  # we were started in a session of our own: this ends what the script started, too
    write(2, b"the script closed a descriptor that it had not opened, and with it the line to hyperband\n")
    _exit(1)


class ScriptRaisedError(Exception):
    """The script raised: the message to send instead of an answer."""

    def __init__(self, doing: str, error: BaseException) -> None:
        super().__init__(doing)
        self.message = {
            "kind": "raised",
            "doing": doing,
            "error": "".join(format_exception_only(type(error), error)).strip(),
            "traceback": "".join(format_exception(type(error), error, _users_frames(error))),
            "exits": isinstance(error, (SystemExit, KeyboardInterrupt)),
        }
        _flush_output()


def _users_frames(error: BaseException) -> TracebackType | None:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames


def _flush_output() -> None:
    """Bring what the script printed to the file whose last lines are shown with the error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed or replaced by the script: there is nothing to show then
            stream.flush()


def call(doing: str, function: Callable[..., object], *arguments: object) -> object:
    """Call into the script; whatever it raises, exits included, becomes a ScriptRaisedError."""
    try:
        return function(*arguments)
    except BaseException as error:
        raise ScriptRaisedError(doing, error) from error


class Batch:
    """Config ids and their configurations, on their way out. Old when the script is slow."""

    def __init__(self, first: int) -> None:
        """Begin with the id of this number."""
        self._first = first
        self._ids: list[str] = []
        #: None for ids that `get_config` refuses
        self._configs: list[object] = []
        #: why it refused the first of them
        self._refusal: dict[str, Any] | None = None
        self._has_configs = False
        self._n_characters = 0
        self._began_at = monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it should go out now."""
        is_old = monotonic() - self._began_at >= BATCH_AGE_S
        is_full = len(self._ids) >= BATCH_IDS or self._n_characters >= BATCH_CHARACTERS
        return bool(self._ids) and (is_old or is_full)

    def add(self, config_id: str, read: dict[str, Any] | None) -> None:
        """Take in an id and what was read from it."""
        self._ids.append(config_id)
        self._n_characters += len(config_id)
        self._has_configs = self._has_configs or read is not None
        is_config = read is not None and read["kind"] == "config"
        self._configs.append(read["config"] if is_config and read is not None else None)
        if not is_config and self._refusal is None:
            self._refusal = read

    def message(self, *, is_last: bool) -> dict[str, Any]:
        """All of it; `is_last`: nothing comes after."""
        return {
            "kind": "candidates",
            "first": self._first,
            "ids": self._ids,
            "configs": self._configs if self._has_configs else None,
            "refusal": self._refusal,
            "is_last": is_last,
        }


class Script:
    """The user's script as a module."""

    def __init__(self, path: str, folder: str, arguments: Sequence[str]) -> None:
        self._path = path
        self._loader = SourceFileLoader(MODULE_NAME, path)
        self._module = ModuleType(MODULE_NAME)
        sys.argv = [path, *arguments]
        if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
            sys.path[0] = folder  # it was the folder of this file; `python script.py` puts the script's there
            _forget_shadowed(folder)

    def load(self) -> dict[str, Any]:
        """Run the script's top level as its current source has it, and look for the two functions."""
        if find_spec("numpy") is None:
            return {"kind": "no_numpy", "found": None}
        module = self._module
        module.__dict__.update(__file__=self._path, __loader__=self._loader)
        sys.modules["__main__"] = sys.modules[MODULE_NAME] = module
        call("import", self._execute)
        for name in FUNCTIONS:
            function = getattr(module, name, None)
            if not callable(function):
                found = type(function).__name__ if hasattr(module, name) else None
                return {"kind": "no_function", "name": name, "found": found}
        return {"kind": "loaded", "has_get_config": hasattr(module, "get_config")}

    def _execute(self) -> None:
        source = self._loader.get_data(self._path)
        # Compiled anew: the import system would take a .pyc of the same second and size for this source.
        exec(compile(source, self._path, "exec", dont_inherit=True), self._module.__dict__)

    def identity(self, argv: Sequence[str]) -> dict[str, Any]:
        """The name of the search that these arguments mean."""
        identity = call("run_identity", self._module.run_identity, list(argv))
        if not isinstance(identity, str):
            return _no_text("run_identity", identity)
        return {"kind": "identity", "value": identity}

    def draw(self, seed: int, trials: Sequence[int], limit_s: float) -> dict[str, Any]:
        """The first id that each of these trials draws, repeats and all; fewer when the time is up."""
        try:
            from numpy.random import MT19937, RandomState, SeedSequence
        except ImportError:
            return _no_numpy()
        ids = []
        ends_at = monotonic() + limit_s
        for trial in trials:
            rng = RandomState(MT19937(SeedSequence([seed, trial])))
            config_id = call("get_random_config_id", self._module.get_random_config_id, rng)
            if not isinstance(config_id, str):
                return _no_text("get_random_config_id", config_id)
            ids.append(config_id)
            if monotonic() >= ends_at:
                break
        return {"kind": "drawn", "ids": ids}

    def configs(self, ids: Sequence[str], limit_s: float) -> dict[str, Any]:
        """What the script's own `get_config` makes of these ids, as plain values; None: it has none.

        No further id is read after `limit_s` seconds; the first one always is.
        """
        function = getattr(self._module, "get_config", None)
        if function is None:
            return {"kind": "configs", "configs": None}
        if not callable(function):
            return {"kind": "no_config", "found": type(function).__name__, "repr": None}
        configs: list[object] = []
        ends_at = monotonic() + limit_s
        for config_id in ids:
            if configs and monotonic() >= ends_at:
                break
            message = _config(function, config_id)
            if message["kind"] != "config":
                return message
            configs.append(message["config"])
        return {"kind": "configs", "configs": configs}

    def candidates(
        self, seed: int, first: int, count: int, limit_s: float, with_configs: bool
    ) -> Iterator[dict[str, Any]]:
        """Draws first, first + 1, ... of a stream beside that of the trials, repeats and all, in batches.

        Draw k is what RandomState(MT19937(SeedSequence([seed, 1, k]))) gives first; k begins with 1, since
        SeedSequence takes a last 0 for nothing, and trial 1 has [seed, 1]. With each id comes what
        `get_config` makes of it, if that is wanted. No further draw begins after `limit_s` seconds; the first
        one always does.
        """
        try:
            from numpy.random import MT19937, RandomState, SeedSequence
        except ImportError:
            yield _no_numpy()
            return
        batch = Batch(first)
        ends_at = monotonic() + limit_s
        for draw in range(first, first + count):
            rng = RandomState(MT19937(SeedSequence([seed, 1, draw])))
            config_id = call("get_random_config_id", self._module.get_random_config_id, rng)
            if not isinstance(config_id, str):
                yield _no_text("get_random_config_id", config_id)
                return
            batch.add(config_id, self._read(config_id) if with_configs else None)
            if draw == first + count - 1 or monotonic() >= ends_at:
                break
            if batch.is_due:
                yield batch.message(is_last=False)
                batch = Batch(draw + 1)
        yield batch.message(is_last=True)

    def read(self, ids: Sequence[str], limit_s: float) -> Iterator[dict[str, Any]]:
        """What `get_config` makes of these ids, in batches; none begins after `limit_s` but the first."""
        batch = Batch(0)
        ends_at = monotonic() + limit_s
        for place, config_id in enumerate(ids):
            if place and monotonic() >= ends_at:
                break
            if batch.is_due:
                yield batch.message(is_last=False)
                batch = Batch(place)
            batch.add(config_id, self._read(config_id))
        yield batch.message(is_last=True)

    def _read(self, config_id: str) -> dict[str, Any] | None:
        """The configuration of an id, or why there is none; None: the script has no `get_config`."""
        function = getattr(self._module, "get_config", None)
        if function is None:
            return None
        if not callable(function):
            return {"kind": "no_config", "found": type(function).__name__, "repr": None}
        try:
            return _config(function, config_id)
        except ScriptRaisedError as error:
            return error.message

    def sample(self, seed: int, first: int, count: int, seen: set[str]) -> Iterator[dict[str, Any]]:
        """Config ids of the trials first, first + 1, ...: batches, then maybe why there are no more.

        Trial t takes the first id that is not in `seen` from RandomState(MT19937(SeedSequence([seed, t]))).
        """
        try:
            from numpy.random import MT19937, RandomState, SeedSequence
        except ImportError:
            yield _no_numpy()
            return
        batch: list[str] = []
        n_characters = 0
        sent_at = monotonic()
        for trial in range(first, first + count):
            drawn = self._draw(RandomState(MT19937(SeedSequence([seed, trial]))), seen)
            if drawn["kind"] != "id":
                yield {"kind": "ids", "first": trial - len(batch), "ids": batch}
                yield dict(drawn, n_ids=trial)
                return
            batch.append(drawn["id"])
            n_characters += len(drawn["id"])
            now = monotonic()
            if len(batch) >= BATCH_IDS or n_characters >= BATCH_CHARACTERS or now - sent_at >= BATCH_AGE_S:
                yield {"kind": "ids", "first": trial + 1 - len(batch), "ids": batch}
                batch, n_characters, sent_at = [], 0, now
        yield {"kind": "ids", "first": first + count - len(batch), "ids": batch}

    def _draw(self, rng: object, seen: set[str]) -> dict[str, Any]:
        for _ in range(MAX_REPEATS):
            config_id = call("get_random_config_id", self._module.get_random_config_id, rng)
            if not isinstance(config_id, str):
                return _no_text("get_random_config_id", config_id)
            if config_id not in seen:
                seen.add(config_id)
                return {"kind": "id", "id": config_id}
        return {"kind": "exhausted"}


def _config(function: Callable[..., object], config_id: str) -> dict[str, Any]:
    """What `get_config` makes of one id."""
    config = call("get_config", function, config_id)
    if not isinstance(config, Mapping):
        text = str(call("get_config", repr, config))
        return {"kind": "no_config", "found": type(config).__name__, "repr": text[:200]}
    return {"kind": "config", "config": call("get_config", _plain, config)}


def _no_numpy() -> dict[str, Any]:
    return {"kind": "no_numpy", "found": getattr(sys.modules.get("numpy"), "__version__", "broken")}


def _plain(value: object, depth: int = 0) -> object:
    """A configuration in what JSON has; numbers of numpy and torch become Python's own."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise ValueError(f"it holds a whole number of {value.bit_length()} bits")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part, depth + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, depth + 1) for part in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return _plain(item(), depth + 1)
    raise TypeError(f"it holds {value!r:.80} of type {type(value).__name__}")


def _no_text(function: str, value: object) -> dict[str, Any]:
    text = str(call(function, repr, value))
    return {"kind": "no_text", "function": function, "type": type(value).__name__, "repr": text[:200]}


def _forget_shadowed(folder: str) -> None:
    """Let the script import a neighbour by a name that we have taken for a module of Python's own."""
    for name in sorted(set(sys.modules) - AT_START):
        if PathFinder.find_spec(name.partition(".")[0], [folder]) is not None:
            del sys.modules[name]


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, even in the middle of an import."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def answer(script: Script, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers to one request."""
    if request["do"] == "load":
        yield script.load()
    elif request["do"] == "chdir":
        chdir(request["folder"])
        yield {"kind": "changed"}
    elif request["do"] == "identity":
        yield script.identity(request["argv"])
    elif request["do"] == "draw":
        yield script.draw(request["seed"], request["trials"], request["limit_s"])
    elif request["do"] == "configs":
        yield script.configs(request["ids"], request["limit_s"])
    elif request["do"] == "read":
        yield from script.read(request["ids"], request["limit_s"])
    elif request["do"] == "candidates":
        limit_s, with_configs = request["limit_s"], request["with_configs"]
        yield from script.candidates(
            request["seed"], request["first"], request["count"], limit_s, with_configs
        )
    else:
        seen = set(request["seen"])
        yield from script.sample(request["seed"], request["first"], request["count"], seen)


def main() -> None:
    """Answer requests until the other side is gone."""
    descriptor, folder, path = sys.argv[1:4]
    talk = Talk(int(descriptor))
    _die_with_parent()
    if talk.has_ended():
        return  # it ended before the kernel was asked
    talk.say({"kind": "hello", "version": sys.version_info[:3]})
    script = Script(path, folder, sys.argv[4:])
    while True:
        request = talk.hear()
        try:
            for message in answer(script, request):
                talk.say(message)
        except ScriptRaisedError as error:
            talk.say(error.message)


if __name__ == "__main__":
    main()
