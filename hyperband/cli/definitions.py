"""The options by name: their groups, units, defaults and help. Knows no words of an actual command."""

import argparse
from typing import NoReturn

from hyperband.cli import values
from hyperband.errors import UsageError
from hyperband.report.text import shown
from hyperband.search.trial import Algorithm
from hyperband.settings import GuideKind, KeepCheckpoints, WhenShared

_SEARCH_HELP = """\
Search the hyperparameters of a training script on every free GPU, or on CPU slots where there is none.

Only options of hyperband may stand before SCRIPT. After it they are hyperband's wherever they stand, and all
other words are handed on to the script in order; after -- everything is handed on as it is, the -- left out.
(Where -- stands before SCRIPT, the next word is SCRIPT and everything after that is handed on.)
Start the same command again to go on with a search that was stopped or killed.
"""
_EXAMPLE = """\
example:
  {prog} dummy.py --max-epochs 27 --logs /tmp/hyperband-example --fail-rate 0.05

other commands:
  {prog} check SCRIPT [the script's own options]      what of the contract the script keeps, line by line
  {prog} report STUDY_DIR [--json|--csv] [--top N]    a study that runs, was stopped or is finished
  {prog} stop STUDY_DIR                               stop the search that writes a study
  {prog} slots STUDY_DIR [--release SLOT]             what each slot did; give one back from quarantine
"""


class Parser(argparse.ArgumentParser):
    """argparse for definitions and help; its errors are ours, its abbreviations are off."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str = "") -> None:
        """A parser whose help keeps the line breaks of its texts."""
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the process."""
        raise UsageError(f"{self.prog}: {shown(message)}; see --help.")


def search_parser(prog: str) -> Parser:
    """Every option of a search, in groups; SCRIPT and what is handed on are taken apart before."""
    parser = Parser(
        prog,
        usage=f"{prog} [options] SCRIPT [options and the script's own options]",
        description=_SEARCH_HELP,
        epilog=_EXAMPLE.format(prog=prog),
    )
    _add_plan_options(parser)
    _add_search_options(parser)
    _add_slot_options(parser)
    _add_job_options(parser)
    _add_study_options(parser)
    _add_output_options(parser)
    return parser


def _add_plan_options(parser: Parser) -> None:
    group = parser.add_argument_group("the plan")
    whole = values.whole_number
    group.add_argument(
        "--max-epochs",
        "--max_iter",
        metavar="R",
        type=whole("--max-epochs", at_least=1),
        default=81,
        help="epochs of the longest jobs, the total per configuration (default: 81 epochs)",
    )
    group.add_argument(
        "--eta",
        metavar="N",
        type=whole("--eta", at_least=2),
        default=3,
        help="of each rung the best 1/N go on, to N times the epochs (default: 3)",
    )
    group.add_argument(
        "--min-epochs",
        metavar="N",
        type=whole("--min-epochs", at_least=1),
        default=1,
        help="epochs of the shortest jobs (default: 1 epoch)",
    )
    group.add_argument(
        "--brackets",
        metavar="K",
        type=whole("--brackets", at_least=1),
        help="only the K most exploring brackets; with hyperband only (default: all)",
    )
    group.add_argument(
        "--repeat",
        metavar="N",
        type=whole("--repeat", at_least=1),
        default=1,
        help="times through the brackets (default: 1)",
    )
    algorithms = tuple(str(algorithm) for algorithm in Algorithm)
    group.add_argument(
        "--algorithm",
        metavar="NAME",
        type=values.one_of("--algorithm", algorithms),
        default="hyperband",
        help="hyperband; halving: the most exploring bracket alone; random: all to R epochs; asha: all climb"
        " the same rungs, and nobody waits; pasha: likewise, and only as high as rankings still change"
        " (default: hyperband)",
    )
    group.add_argument(
        "--async",
        dest="asynchronous",
        action="store_true",
        help="trials go on as soon as they are among the best 1/eta of their rung so far; with hyperband and"
        " halving only",
    )
    group.add_argument(
        "--max-trials",
        metavar="N",
        type=whole("--max-trials", at_least=1),
        help="number of configurations; with random, asha and pasha only (default: random: the epochs of"
        " hyperband's plan // R; the others: as many as hyperband starts, or as --max-total-epochs pays for)",
    )
    group.add_argument(
        "--max-total-epochs",
        metavar="N",
        type=whole("--max-total-epochs", at_least=1),
        help="epochs of all jobs together, those of checkpoints counted once; with asha and pasha only"
        " (default: no limit)",
    )


def _add_search_options(parser: Parser) -> None:
    group = parser.add_argument_group("the search")
    group.add_argument(
        "--seed",
        metavar="N",
        type=values.whole_number("--seed", at_least=0),
        default=42,
        help="the same seed samples the same configurations (default: 42)",
    )
    group.add_argument(
        "--start-with",
        metavar="FILE",
        help="config ids, one a line, to try first (default: none)",
    )
    group.add_argument(
        "--guide",
        metavar="HOW",
        type=values.one_of("--guide", tuple(GuideKind)),
        default=str(GuideKind.MODEL),
        help="model: learn from the losses which draws of the sampler to try; none: all at random"
        " (default: model)",
    )
    group.add_argument(
        "--learn-from",
        metavar="STUDY_DIR",
        action="append",
        default=[],
        help="another study that the model learns from as well; may be given several times (default: none)",
    )
    group.add_argument(
        "--penalty",
        metavar="LOSS",
        type=values.finite_number("--penalty"),
        default=100.0,
        help="loss shown for a failed trial; it never takes part in decisions (default: 100)",
    )


def _add_slot_options(parser: Parser) -> None:
    group = parser.add_argument_group("where jobs run")
    group.add_argument(
        "--gpus",
        metavar="LIST",
        type=values.gpu_choice("--gpus"),
        default="all",
        help="all, none, or a list of PCI order indices or UUIDs: 0,2 (default: all)",
    )
    group.add_argument(
        "--slots",
        metavar="N",
        type=values.whole_number("--slots", at_least=1),
        help="jobs at a time where there are no GPUs (default: half of the cores, at least 1)",
    )
    group.add_argument(
        "--jobs-per-gpu",
        metavar="N",
        type=values.number_or_auto("--jobs-per-gpu", at_least=1),
        default=1,
        help="jobs at a time on one GPU; auto: as many as fit by the memory that the first rung was seen to"
        " take, but one in the last rung (default: 1)",
    )
    group.add_argument(
        "--isolate",
        action="store_true",
        help="each job sees its own GPU only, as --gpu 0: for scripts that use cuda:0 whatever they are told",
    )
    group.add_argument(
        "--when-shared",
        metavar="HOW",
        type=values.one_of("--when-shared", tuple(WhenShared)),
        default=str(WhenShared.WAIT),
        help="when somebody else's process comes to a GPU with a job: wait: the job goes on, the next one"
        " waits until the GPU is ours alone; share: so does the next one; yield: the job is stopped and"
        " queued again (default: wait)",
    )
    group.add_argument(
        "--leave-free",
        metavar="N",
        type=values.whole_number("--leave-free", at_least=0),
        default=0,
        help="idle GPUs that are left to others (default: 0)",
    )
    group.add_argument(
        "--no-multi-gpu",
        action="store_true",
        help="never --multi_gpu: a trial that is alone gets one GPU, not all (default: all)",
    )


def _add_job_options(parser: Parser) -> None:
    group = parser.add_argument_group("how jobs run")
    seconds = values.finite_number
    group.add_argument(
        "--timeout",
        metavar="S",
        type=seconds("--timeout", unit="seconds", above=0),
        help="seconds that one job may take (default: no limit)",
    )
    group.add_argument(
        "--timeout-per-epoch",
        metavar="S",
        type=seconds("--timeout-per-epoch", unit="seconds", above=0),
        help="seconds that one job may take for each epoch of its --epochs (default: no limit)",
    )
    group.add_argument(
        "--stall-timeout",
        metavar="S",
        type=seconds("--stall-timeout", unit="seconds", above=0),
        help="seconds that a job may be without any output (default: no limit)",
    )
    group.add_argument(
        "--retries",
        metavar="N",
        type=values.whole_number("--retries", at_least=0),
        default=1,
        help="times that a job which crashed, ran out of memory or printed no loss is tried again, on another"
        " slot if there is one (default: 1)",
    )
    group.add_argument(
        "--quarantine-s",
        metavar="S",
        type=seconds("--quarantine-s", unit="seconds", above=0),
        default=3600.0,
        help="seconds for which a slot is not used that fails jobs which succeed elsewhere"
        " (default: 3600 seconds)",
    )
    group.add_argument(
        "--min-free-disk",
        metavar="GIB",
        type=seconds("--min-free-disk", unit="GiB", at_least=0),
        default=1.0,
        help="GiB of free disk below which nothing is started (default: 1 GiB)",
    )
    group.add_argument(
        "--max-time",
        metavar="S",
        type=seconds("--max-time", unit="seconds", above=0),
        help="seconds after which nothing more is started; what runs is finished (default: no limit)",
    )
    group.add_argument(
        "--grace",
        metavar="S",
        type=seconds("--grace", unit="seconds", at_least=0),
        default=10.0,
        help="seconds between SIGTERM and SIGKILL for a job that must stop (default: 10 seconds)",
    )
    group.add_argument(
        "--keep-going",
        action="store_true",
        help="go on although the first 10 jobs all failed in the same way (default: stop)",
    )
    group.add_argument(
        "--warm",
        action="store_true",
        help="start jobs as forks of a process that has imported the script's modules already",
    )
    group.add_argument(
        "--python",
        metavar="PATH",
        help="interpreter of the script; it needs numpy, not hyperband (default: the one running this)",
    )


def _add_study_options(parser: Parser) -> None:
    group = parser.add_argument_group("the study")
    group.add_argument("--logs", metavar="DIR", default="logs", help="folder of all studies (default: logs)")
    group.add_argument(
        "--dry-run",
        "--dry",
        action="store_true",
        help="import the script, print the plan, write nothing",
    )
    group.add_argument(
        "--clean",
        action="store_true",
        help="remove the study first, after asking; the script's own checkpoints stay",
    )
    group.add_argument("--yes", action="store_true", help="the answer to the question of --clean")
    group.add_argument(
        "--keep-checkpoints",
        metavar="WHOSE",
        type=values.one_of("--keep-checkpoints", tuple(KeepCheckpoints)),
        default=str(KeepCheckpoints.ALL),
        help="all; best: of trials that reach the last rung of their bracket; none; those of the best trial"
        " always stay (default: all)",
    )
    group.add_argument(
        "--checkpoints",
        metavar="PATTERN",
        help="a trial's checkpoint files, for --keep-checkpoints: 'runs/{config_id}/**', relative to the"
        " folder that the jobs run in (default: none)",
    )


def _add_output_options(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json",
        action="store_true",
        help="one JSON object on standard output at the end; all else on standard error",
    )
    group.add_argument("--debug", action="store_true", help="a traceback with every error")
    group.add_argument("-h", "--help", action="store_true", help="this text")
    group.add_argument("--version", action="store_true", help="the version of hyperband")
