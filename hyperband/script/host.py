"""The user's script as the search sees it: what it is named, which configurations it samples.

Owns the questions to the process that imported it and the checks on its answers. Importing a script may
be slow, crash or take a GPU: never in ours. Must not know studies, plans or journals.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hyperband.errors import ContractError, InternalError, UsageError
from hyperband.script.candidates import Candidates, read_candidates
from hyperband.script.contract import check_config_id, shortened
from hyperband.script.failures import OLDEST_PYTHON, failure, slow, too_old
from hyperband.script.interpreter import Interpreter

#: after so long it is said that the import takes long, and then again after each of the longer times
_SLOW_S = 3.0
_STILL_SLOW_S = 30.0
#: where nobody waits
_LONG_S = 86400.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Config ids of the trials first, first + 1, ..."""

    first: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The script gives no further distinct config id: n_ids is all there are, earlier trials' included."""

    n_ids: int


class ScriptHost:
    """A process that imports the user's script and answers for it.

    Call `load` once, first. Sampling does not block: `start_sampling`, `start_candidates` or
    `start_reading`, then `receive` whenever `fileno` is readable, until `is_sampling` is false. Close it in
    the end; the kernel ends the process when the thread that made this object ends without closing it.
    """

    def __init__(
        self,
        python: Path,
        script: Path,
        script_args: Sequence[str],
        *,
        cwd: Path | None,
        write_bytecode: bool,
    ) -> None:
        """Start the process; nothing of the script runs before `load`.

        Args:
            python: the interpreter; Python >= 3.8 with numpy >= 1.17.
            script: the user's script, absolute.
            script_args: `sys.argv[1:]` while it is imported.
            cwd: its working directory; None: ours.
            write_bytecode: False keeps the imports from writing `__pycache__` folders.

        Raises:
            UsageError: the script cannot be read, or the interpreter cannot be started.
            MachineError: the working directory is gone.
        """
        check_readable(script)
        self._script = script
        self._script_args = list(script_args)
        self._is_sampling = False
        #: known when it is loaded
        self.has_get_config = False
        #: the trial whose id comes next, and the one after the last
        self._next = self._end = 0
        self._open = partial(Interpreter, python, script, script_args, cwd=cwd, write_bytecode=write_bytecode)
        self._interpreter = self._open()

    def __enter__(self) -> Self:
        """The host itself; closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def pid(self) -> int:
        """Process id; also that of its process group and session."""
        return self._interpreter.pid

    @property
    def is_sampling(self) -> bool:
        """True from a start until the last id, Exhausted or an error was received."""
        return self._is_sampling

    def load(self, on_slow: Callable[[str], None] | None = None) -> None:
        """Import the script and check that it has its functions; waits for as long as the import takes.

        Args:
            on_slow: called with words for people when the import takes long, and again now and then.

        Raises:
            ContractError: the import fails or exits, or a function is missing or no function.
            UsageError: `--python` is no Python, too old, or has no numpy.
            MachineError: a signal ended the process.
        """
        hello = self._ask("start", None, "hello")
        if tuple(hello["version"]) < OLDEST_PYTHON:
            raise too_old(hello["version"], self._interpreter.scene())
        self.has_get_config = self._ask("import", {"do": "load"}, "loaded", on_slow)["has_get_config"]

    def load_again(self) -> None:
        """End the process, whatever it does, and import the script in another; waits for that.

        Raises:
            ContractError, UsageError, MachineError: as `load` says, and where it could not be started.
        """
        self.close()
        self._interpreter = self._open()
        self.load()

    def identity(self, argv: Sequence[str] | None = None) -> str:
        """What `run_identity` answers for the arguments that are handed on to the script.

        Args:
            argv: other arguments than those.

        Raises:
            ContractError: it raises, or its answer is no text.
            MachineError: a signal ended the process.
        """
        argv = self._script_args if argv is None else list(argv)
        reply = self._ask("run_identity", {"do": "identity", "argv": argv}, "identity")
        identity = str(reply["value"])
        try:
            identity.encode()
        except UnicodeEncodeError as err:
            raise ContractError(
                f"run_identity in {self._script} gave {shortened(identity)}, which UTF-8 cannot hold (a lone "
                "surrogate). Return plain text that names the search."
            ) from err
        return identity

    def change_folder(self, folder: Path) -> None:
        """Make `folder`, which is there, the working directory of the script.

        Raises:
            MachineError: a signal ended the process.
        """
        self._ask("chdir", {"do": "chdir", "folder": str(folder)}, "changed")

    def draw_one(self, seed: int) -> str:
        """The config id of a search's first trial: shows that the sampler works, and changes nothing.

        Raises:
            ContractError: the id breaks a rule, or `get_random_config_id` raises or ends the process.
            UsageError: the interpreter's numpy is missing or too old.
            MachineError: a signal ended the process.
        """
        (config_id,) = self.draw(seed, [0], limit_s=0.0)
        return config_id

    def draw(self, seed: int, trials: Sequence[int], *, limit_s: float) -> tuple[str, ...]:
        """The first id that each of these trials draws, in this order and repeats included; each is checked.

        Args:
            seed: of the search.
            trials: their numbers, at least one.
            limit_s: no further trial draws after so many seconds; the first one always does.

        Raises:
            ContractError, UsageError, MachineError: as `draw_one` says.
        """
        request = {"do": "draw", "seed": seed, "trials": list(trials), "limit_s": limit_s}
        reply = self._ask("get_random_config_id", request, "drawn")
        source = f"get_random_config_id in {self._script}"
        return tuple(check_config_id(config_id, source) for config_id in reply["ids"])

    def configs(
        self,
        ids: Sequence[str],
        *,
        limit_s: float = _LONG_S,
        on_slow: Callable[[str], None] | None = None,
    ) -> list[dict[str, Any]] | None:
        """What the script's own `get_config` makes of config ids, as nested plain values; None: it has none.

        Args:
            ids: in order; those that the time was not enough for are left out.
            limit_s: no further id is read after so many seconds; the first one always is.
            on_slow: called with words for people when it takes long, and again now and then.

        Raises:
            ContractError: it raises, ends the process, or gives no dict of plain values.
            MachineError: a signal ended the process.
        """
        request = {"do": "configs", "ids": list(ids), "limit_s": limit_s}
        reply = self._ask("get_config", request, "configs", on_slow)
        configs: list[dict[str, Any]] | None = reply["configs"]
        return configs

    def draw_candidates(
        self,
        seed: int,
        count: int,
        *,
        limit_s: float,
        with_configs: bool = True,
        on_slow: Callable[[str, float], None] | None = None,
    ) -> Iterator[Candidates]:
        """The first draws of the stream of candidates, with what they say, as they come; waits for them.

        Args:
            seed: of the search.
            count: how many at most, at least 1.
            limit_s: as `start_candidates` says.
            with_configs: as `start_candidates` says.
            on_slow: called, with words for people and the seconds since the last draw, when none comes for
                long, and again now and then; it may raise to end the wait, and then `load_again` is needed.

        Raises:
            ContractError, UsageError, MachineError: as `draw_one` says.
        """
        self.start_candidates(seed, 1, count, limit_s=limit_s, with_configs=with_configs)
        yield from self._wait_for_candidates(on_slow)

    def read(
        self, ids: Sequence[str], *, limit_s: float, on_slow: Callable[[str, float], None] | None = None
    ) -> list[Candidates]:
        """What the script's own `get_config` makes of config ids, at least one; waits for it.

        Args:
            ids: in order; those that the time was not enough for are left out.
            limit_s: no further id is read after so many seconds; the first one always is.
            on_slow: as `draw_candidates` says.

        Raises:
            ContractError: `get_config` ends the process.
            MachineError: a signal ended the process.
        """
        self.start_reading(ids, limit_s=limit_s)
        return list(self._wait_for_candidates(on_slow))

    def _wait_for_candidates(
        self, on_slow: Callable[[str, float], None] | None = None
    ) -> Iterator[Candidates]:
        began_s = time.monotonic()
        while self._is_sampling:
            if not self._interpreter.wait(None if on_slow is None else _SLOW_S) and on_slow is not None:
                so_far_s = time.monotonic() - began_s
                on_slow(slow(self._interpreter.doing, self._interpreter.scene(), so_far_s), so_far_s)
            for part in self.receive():
                assert isinstance(part, Candidates)
                began_s = time.monotonic()
                yield part

    def start_sampling(self, seed: int, first: int, count: int, seen: Sequence[str]) -> None:
        """Ask for the config ids of `count` trials from number `first` on.

        Args:
            seed: of the search; trial t draws from SeedSequence([seed, t]).
            first: number of the first trial without an id.
            count: how many ids.
            seen: ids of all earlier trials, which no later one may have.
        """
        if count == 0:
            return
        self._next, self._end = first, first + count
        request = {"do": "sample", "seed": seed, "first": first, "count": count, "seen": list(seen)}
        self._start("get_random_config_id", request)

    def start_candidates(
        self, seed: int, first: int, count: int, *, limit_s: float, with_configs: bool = True
    ) -> None:
        """Ask for `count` draws, repeats included, of the stream of candidates from draw `first` on.

        Args:
            seed: of the search; draw k = 1, 2, ... is the first one from SeedSequence([seed, 1, k]).
            first: number of the first draw.
            count: how many, at least 1.
            limit_s: no further draw begins after so many seconds; the first one always does.
            with_configs: the script's `get_config`, if it has one, reads each id.
        """
        self._start(
            "get_random_config_id or get_config"
            if with_configs and self.has_get_config
            else "get_random_config_id",
            {
                "do": "candidates",
                "seed": seed,
                "first": first,
                "count": count,
                "limit_s": limit_s,
                "with_configs": with_configs,
            },
        )

    def start_reading(self, ids: Sequence[str], *, limit_s: float) -> None:
        """Ask what the script's own `get_config` makes of config ids, at least one; see `read`."""
        self._start("get_config", {"do": "read", "ids": list(ids), "limit_s": limit_s})

    def _start(self, doing: str, request: dict[str, object]) -> None:
        if self._is_sampling:
            raise InternalError("ids were asked for while others are still awaited; please report this")
        self._is_sampling = True
        self._interpreter.begin(doing, request)

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do; quiet unless sampling."""
        return self._interpreter.fileno()

    def receive(self) -> list[Sampled | Exhausted | Candidates]:
        """What has come in; never waits. Each id is checked.

        Raises:
            ContractError: an id breaks a rule, or `get_random_config_id` raises or ends the process.
            UsageError: the interpreter's numpy is missing or too old.
            MachineError: a signal ended the process.
        """
        if not self._is_sampling:
            return []
        results: list[Sampled | Exhausted | Candidates] = []
        try:
            for message in self._interpreter.exchange():
                if message["kind"] == "candidates":
                    found = read_candidates(message, self._interpreter.scene())
                    self._is_sampling = not found.is_last
                    results.append(found)
                else:
                    results += self._read_sample(message)
        except BaseException:
            self._is_sampling = False
            raise
        finally:
            if not self._is_sampling:
                self._interpreter.finish()
        return results

    def _read_sample(self, message: dict[str, Any]) -> Iterator[Sampled | Exhausted]:
        if message["kind"] == "exhausted":
            self._is_sampling = False
            yield Exhausted(message["n_ids"])
            return
        if message["kind"] != "ids":
            raise failure(message, self._interpreter.scene())
        source = f"get_random_config_id in {self._script}"
        ids = tuple(check_config_id(config_id, source) for config_id in message["ids"])
        if message["first"] != self._next:
            raise InternalError(
                f"ids from trial {message['first']} on came instead of trial {self._next}; please report this"
            )
        self._next += len(ids)
        self._is_sampling = self._next < self._end
        if ids:
            yield Sampled(message["first"], ids)

    def _ask(
        self,
        doing: str,
        request: dict[str, object] | None,
        kind: str,
        on_slow: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Ask, and wait for the one answer, which must be of this kind."""
        patience_s = None if on_slow is None else _SLOW_S
        self._interpreter.begin(doing, request)
        began_s = time.monotonic()
        try:
            while not (messages := self._interpreter.exchange()):
                if not self._interpreter.wait(patience_s) and on_slow is not None:
                    patience_s = _STILL_SLOW_S
                    so_far_s = time.monotonic() - began_s
                    on_slow(slow(self._interpreter.doing, self._interpreter.scene(), so_far_s))
        finally:
            self._interpreter.finish()
        (message,) = messages
        if message["kind"] != kind:
            raise failure(message, self._interpreter.scene())
        return message

    def close(self) -> None:
        """End the process and all others of its group, soon; a second call does nothing."""
        self._is_sampling = False
        self._interpreter.close()


def check_readable(script: Path) -> None:
    """Refuse a script that is no file, or one that cannot be read.

    Raises:
        UsageError: it is.
    """
    try:
        with script.open("rb") as file:
            file.read(1)
    except IsADirectoryError as err:
        raise UsageError(
            f"{script} is a folder; SCRIPT must be the Python file of your experiment. Give that file's path."
        ) from err
    except OSError as err:
        raise UsageError(
            f"the script {script} cannot be read: {err.strerror}. SCRIPT must be the Python file of your "
            "experiment; check the spelling, the working directory and the permissions."
        ) from err
