"""The options of `check` by name: those of a search that a check has a use for, with its own defaults."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperband.cli import values
from hyperband.cli.common_options import add_gpus, add_on, add_output, add_python, add_ray
from hyperband.cli.groups import Group, Parser
from hyperband.cli.words import Words
from hyperband.errors import UsageError
from hyperband.report.text import shown

_HELP = """\
Run a script through everything that a search needs of it and say, line by line, what holds, what does not,
and what to do about it. Trains a few configurations for at most 3 epochs each, about 12 jobs in all. With
--on slurm or ray it trains nothing, and tries out instead what jobs find on nodes of the cluster.

The command line is that of a search: what stands after SCRIPT and is no option of hyperband is handed on.
"""
_EXAMPLE = """\
example:
  {prog} check dummy.py --gpus none --model large

exit code: 0 everything holds, 1 something does not, 2 the command is wrong,
           130 it was ended by a signal
"""


def check_parser(prog: str) -> Parser:
    """Every option of `check`."""
    parser = Parser(
        f"{prog} check",
        usage=f"{prog} check [options] SCRIPT [options and the script's own options]",
        description=_HELP,
        epilog=_EXAMPLE.format(prog=prog),
    )
    group = Group(parser, "how jobs run")
    add_on(group)
    add_ray(group)
    add_gpus(group)
    group.whole(
        "--slots",
        "N",
        at_least=1,
        help="jobs at a time where there are no GPUs; more than 2 are not used (default: 2)",
    )
    group.flag("--isolate", help="each job sees its own GPU only, as --gpu 0")
    group.number(
        "--timeout",
        "S",
        unit="seconds",
        above=0,
        default=600.0,
        help="seconds that one job may take (default: 600 seconds)",
    )
    group.text(
        "--checkpoints",
        "PATTERN",
        help="a configuration's checkpoint files: 'runs/{config_id}/**', relative to the folder that jobs run"
        " in (default: whatever files a job makes there)",
    )
    add_python(group)
    group = Group(parser, "what is kept")
    group.whole(
        "--seed",
        "N",
        at_least=0,
        default=42,
        help="of the draws that are compared; what is trained is new each time (default: 42)",
    )
    group.text(
        "--logs",
        "DIR",
        default="logs",
        help="folder of all studies, where the verdict on resuming is kept for searches (default: logs)",
    )
    add_output(Group(parser, "output"))
    return parser


def refuse_others(words: Words, ours: Mapping[str, bool]) -> None:
    """Raise for options of a search that mean nothing to a check: they must not reach the script either."""
    for name, _ in words.ours:
        if name not in ours:
            raise UsageError(
                f"check has no use for {shown(name)}, an option of a search; leave it out. If it is meant "
                f"for the script, write it after a -- of its own: SCRIPT -- {shown(name)}"
            )


def script_in(words: Words, prog: str, cwd: Path) -> Path:
    """The script that the words name."""
    if words.script is None:
        expected: Sequence[str] = (prog, "check [options] SCRIPT [options and the script's own]")
        raise UsageError(f"Found no SCRIPT, expected: {' '.join(expected)}.")
    return values.script_path(words.script, cwd)
