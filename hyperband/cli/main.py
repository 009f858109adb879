"""The entry of every command: words in, exit code out. Owns what an error looks like and costs."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hyperband.cli.commands import Help, ReportOptions, SlotsOptions, SlurmInitOptions, StopOptions
from hyperband.cli.options import CheckOptions, parse
from hyperband.cli.output import complain, prepare_streams, print_out
from hyperband.errors import HyperbandError, InternalError, UsageError

_INTERRUPTED = 130
_FAILED = 1


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None: those this process was started with.

    Returns:
        0 finished, 1 the search could not go on, 2 wrong arguments or a script that breaks the contract,
        130 interrupted or stopped.
    """
    words = sys.argv[1:] if argv is None else argv
    own = words[: words.index("--")] if "--" in words else words
    prepare_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return _complain("interrupted.", _INTERRUPTED, debug=False)
    except InternalError as error:
        return _complain(f"{error}{_where_more(own)}", error.exit_code, debug="--debug" in own)
    except HyperbandError as error:
        return _complain(str(error), error.exit_code, debug="--debug" in own)
    except ModuleNotFoundError as error:
        text = (
            f"the Python that runs this, {sys.executable}, has no {error.name}, which hyperband needs. Run "
            "it with the "
            "Python of its environment (.venv/bin/python after `make demo`), or install it there: pip "
            "install ."
        )
        return _complain(text, _FAILED, debug="--debug" in own)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        text = (
            f"the system refused something that was needed: {what}. Mend it and start the same command again."
        )
        return _complain(f"{text}{_where_more(own)}", _FAILED, debug="--debug" in own)
    except Exception as error:  # noqa: BLE001 - the last stop before a traceback in the user's face
        found = f"{type(error).__name__}: {error}"
        text = f"found an error of its own ({found}), expected none; please report it with the command."
        return _complain(f"{text}{_where_more(own)}", _FAILED, debug="--debug" in own)


def _run(words: Sequence[str]) -> int:
    """Read the words and run their command; imports are here because `-h` should not wait for them."""
    try:
        cwd = Path.cwd()
    except FileNotFoundError as err:
        raise UsageError(
            "The working directory was removed, expected one that is there; change to another."
        ) from err
    chosen = parse(words, cwd=cwd, environ=os.environ, prog=_program(sys.argv[0]))
    if isinstance(chosen, Help):
        print_out(chosen.text)
        return 0
    if isinstance(chosen, ReportOptions):
        from hyperband.cli.report import report

        return report(chosen, cwd=cwd)
    if isinstance(chosen, StopOptions):
        from hyperband.cli.stop import stop

        return stop(chosen)
    if isinstance(chosen, SlotsOptions):
        from hyperband.cli.slots import slots

        return slots(chosen)
    if isinstance(chosen, CheckOptions):
        from hyperband.cli.check import check

        return check(chosen)
    if isinstance(chosen, SlurmInitOptions):
        from hyperband.cli.slurm import slurm_init

        return slurm_init(chosen)
    from hyperband.cli.run import run

    return run(chosen, cwd=cwd)


def _program(argv0: str) -> str:
    """How the user starts us, for the help."""
    name = Path(argv0).name
    if name == "__main__.py":
        return "python -m hyperband"
    return "python hyperband.py" if name == "hyperband.py" else "hyperband"


def _complain(text: str, exit_code: int, *, debug: bool) -> int:
    complain(text)
    if debug:
        complain(traceback.format_exc().rstrip())
    return exit_code


def _where_more(own: Sequence[str]) -> str:
    return "" if "--debug" in own else " The same command with --debug shows the traceback."
