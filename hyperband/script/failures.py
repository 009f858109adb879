"""What a script's process says instead of an answer, as errors for people.

Owns the wording alone: found, expected, where, what to do next. Must not know the process.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperband.errors import ContractError, HyperbandError, InternalError, MachineError, UsageError
from hyperband.script.contract import describe_exit, last_printable_lines, shortened

OLDEST_PYTHON = (3, 8)
OLDEST_NUMPY = "1.17"

_EXAMPLES = {
    "get_random_config_id": "def get_random_config_id(rng): return f'lr:{10 ** rng.uniform(-4, 0):.3g}'",
    "run_identity": "def run_identity(argv): return ''",
}
_ANSWERS = {
    "get_random_config_id": "a string",
    "run_identity": "a string",
    "get_config": "a dict of numbers, strings, booleans and None",
}
_GUARD = "if __name__ == '__main__':"
_N_TRACEBACK_LINES = 12
_LONG_IMPORT_S = 30.0


class NoFunctionError(ContractError):
    """The script was imported and lacks one of the functions that it must have."""


class ProcessEndedError(ContractError):
    """The script ended the process that imported it, where it should have returned."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it went wrong."""

    python: Path
    script: Path
    #: the last lines of what the script's process printed, safe to show
    output: str


def failure(message: dict[str, Any], scene: Scene) -> HyperbandError:
    """The error for a message of child.py that is no answer."""
    match message["kind"]:
        case "raised":
            return _raised(message, scene)
        case "no_function":
            return _no_function(message["name"], message["found"], scene)
        case "no_text":
            return ContractError(
                f"{message['function']} in {scene.script} gave {shortened(message['repr'])}, "
                f"which is of type {message['type']}: it must return a string (str)."
            )
        case "no_config":
            return _no_config(message["found"], message["repr"], scene)
        case "no_numpy":
            return _no_numpy(message["found"], scene)
        case _:
            return InternalError(f"the script's process sent {message!r:.200}; please report this")


def ended(doing: str, exit_status: int, scene: Scene) -> HyperbandError:
    """The error for a process that is gone.

    Args:
        doing: `start`, `import` or the name of the function that was asked.
        exit_status: exit code, or minus the signal.
        scene: where.
    """
    how = describe_exit(exit_status)
    if doing == "start":
        return UsageError(
            f"--python {scene.python} did not start our child.py: {how}. Python 3.8 or newer with numpy is "
            "expected; give the path of the interpreter that runs your script."
            f"{_below('It printed', scene.output)}"
        )
    what = f"importing {scene.script}" if doing == "import" else f"{doing} in {scene.script}"
    printed = _below("It last printed", scene.output)
    if exit_status < 0:
        return MachineError(
            f"the process that imports the script was {how} during {what}. Look for a library "
            f"that crashes, or for a lack of memory (dmesg).{printed}"
        )
    return ProcessEndedError(
        f"{what} ended the whole process ({how}) where it should return. Something there calls os._exit or "
        f"closes descriptors that it did not open; put what runs the experiment under `{_GUARD}`.{printed}"
    )


def slow(doing: str, scene: Scene, so_far_s: float) -> str:
    """Words for people who wait.

    Args:
        doing: `import`, or the name of the function that was asked.
        scene: where.
        so_far_s: for how long it has been waited.
    """
    printed = scene.output.splitlines()
    last = f"; it last printed: {printed[-1]}" if printed else ""
    # many scripts import for a while: only a long time is a sign that one trains
    is_long = doing == "import" and so_far_s >= _LONG_IMPORT_S
    hint = f". If it trains there, put that under `{_GUARD}`." if is_long else ""
    what = f"importing {scene.script}" if doing == "import" else f"waiting for {doing} in {scene.script}"
    return f"{what} ({so_far_s:.0f} s so far){last}{hint}"


def too_old(version: list[int], scene: Scene) -> UsageError:
    """The error for an interpreter that child.py does not run under."""
    found = ".".join(str(part) for part in version)
    return UsageError(
        f"--python {scene.python} is Python {found}; {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is "
        "needed. Give the path of a newer interpreter that runs your script."
    )


def _raised(message: dict[str, Any], scene: Scene) -> ContractError:
    error = shortened(message["error"].splitlines()[-1] if message["error"] else "an error", 300)[1:-1]
    if message["doing"] != "import" and message["exits"]:
        return ContractError(
            f"{message['doing']} in {scene.script} raised {error}: most likely it does not know an option "
            "that was "
            "handed on to it. Check what stands after the script's path; it must return a string for "
            "whatever "
            f"it is to be started with.{_below('It printed', scene.output)}"
        )
    if message["doing"] != "import":
        answer = _ANSWERS[message["doing"]]
        return ContractError(
            f"{message['doing']} in {scene.script} raised {error}. It must return {answer} "
            f"for whatever it is given.{_below_traceback(message['traceback'])}"
        )
    if message["exits"]:
        return ContractError(
            f"importing {scene.script} raised {error}: the script runs its experiment when "
            "it is imported. Importing must only define things; put the rest under "
            f"`{_GUARD}`.{_below('It printed', scene.output)}"
        )
    return ContractError(
        f"importing {scene.script} raised {error}. Importing it under {scene.python} must be safe: install "
        "what is missing there, or name the interpreter that has it with --python, or put what runs the "
        f"experiment under `{_GUARD}`.{_below_traceback(message['traceback'])}"
    )


def _no_function(name: str, found: str | None, scene: Scene) -> NoFunctionError:
    what = "has no function" if found is None else f"has a {found}, not a function, as"
    return NoFunctionError(
        f"{scene.script} {what} {name}. The search needs it at the top level of the script, outside "
        f"`{_GUARD}`; for example: {_EXAMPLES[name]}"
    )


def _no_config(found: str, value: str | None, scene: Scene) -> ContractError:
    what = f"has {found} as get_config" if value is None else f"gave {shortened(value)} of type {found}"
    where = scene.script if value is None else f"get_config in {scene.script}"
    return ContractError(
        f"{where} {what}; expected a function that returns {_ANSWERS['get_config']}, nested or not, for a "
        "config id. It may also be left out."
    )


def _no_numpy(found: str | None, scene: Scene) -> UsageError:
    what = "has no numpy" if found is None else f"has numpy {found}"
    return UsageError(
        f"--python {scene.python} {what}; numpy {OLDEST_NUMPY} or newer is needed to draw configurations. "
        f"Install it there (`{scene.python} -m pip install numpy`) or name another interpreter."
    )


def _below_traceback(traceback: str) -> str:
    """The end of a traceback, which has a heading of its own unless that was cut off."""
    end = last_printable_lines(traceback, _N_TRACEBACK_LINES)
    return f"\n{end}" if end.startswith("Traceback") else _below("Traceback", end)


def _below(title: str, text: str) -> str:
    return f"\n{title}:\n{text}" if text else ""
