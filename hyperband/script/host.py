"""The user's script as the search sees it: imported in a process of its own, and asked there.

Owns the questions of which the answer is waited for, and the checks on it. Importing a script may be slow,
crash or take a GPU: never in ours. Must not know studies, plans or journals.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hyperband.errors import ContractError, UsageError
from hyperband.script.contract import check_config_id, shortened
from hyperband.script.failures import OLDEST_PYTHON, failure, slow, too_old
from hyperband.script.id_stream import SLOW_S, IdStream
from hyperband.script.interpreter import Interpreter

#: after SLOW_S it is said that the import takes long, and then again after each of these
_STILL_SLOW_S = 30.0
#: where nobody waits
_LONG_S = 86400.0


class ScriptHost(IdStream):
    """A process that imports the user's script and answers for it.

    Call `load` once, first. Close it in the end; the kernel ends the process when the thread that made this
    object ends without closing it.
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
        self._script_args = list(script_args)
        self._open = partial(Interpreter, python, script, script_args, cwd=cwd, write_bytecode=write_bytecode)
        super().__init__(script, self._open())

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

    def _ask(
        self,
        doing: str,
        request: dict[str, object] | None,
        kind: str,
        on_slow: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Ask, and wait for the one answer, which must be of this kind."""
        patience_s = None if on_slow is None else SLOW_S
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
