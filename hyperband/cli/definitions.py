"""The options by name: their groups, units, defaults and help. Knows no words of an actual command."""

from hyperband.cli import values
from hyperband.cli.common_options import add_gpus, add_on, add_output, add_python, add_ray
from hyperband.cli.groups import Group, Parser
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
  {prog} slurm init [FILE]                            write a commented profile for --on slurm
"""


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
    group = Group(parser, "the plan")
    group.whole(
        "--max-epochs",
        "R",
        at_least=1,
        default=81,
        also=["--max_iter"],
        help="epochs of the longest jobs, the total per configuration (default: 81 epochs)",
    )
    group.whole(
        "--eta",
        "N",
        at_least=2,
        default=3,
        help="of each rung the best 1/N go on, to N times the epochs (default: 3)",
    )
    group.whole(
        "--min-epochs",
        "N",
        at_least=1,
        default=1,
        help="epochs of the shortest jobs; with hyperband and halving rounded up to R, R/eta, R/eta^2, ..:"
        " with --max-epochs 81, 10 gives 27 (default: 1 epoch)",
    )
    group.whole(
        "--brackets",
        "K",
        at_least=1,
        help="only the K most exploring brackets; with hyperband only (default: all)",
    )
    group.whole(
        "--repeat",
        "N",
        at_least=1,
        default=1,
        help="times through the brackets, each time with new trials; raised later, a finished search goes on;"
        " not with asha and pasha (default: 1)",
    )
    algorithms = tuple(str(algorithm) for algorithm in Algorithm)
    group.one_of(
        "--algorithm",
        "NAME",
        algorithms,
        default="hyperband",
        help="hyperband; halving: the most exploring bracket alone; random: all to R epochs; asha: all climb"
        " the same rungs, and nobody waits; pasha: likewise, and only as high as rankings still change"
        " (default: hyperband)",
    )
    group.flag(
        "--async",
        dest="asynchronous",
        help="trials go on as soon as they are among the best 1/eta of their rung so far; with hyperband and"
        " halving only",
    )
    group.whole(
        "--max-trials",
        "N",
        at_least=1,
        help="number of configurations; with random, asha and pasha only (default: random: the epochs of"
        " hyperband's plan // R; the others: as many as hyperband starts, or as --max-total-epochs pays for)",
    )
    group.whole(
        "--max-total-epochs",
        "N",
        at_least=1,
        is_limit=True,
        help="epochs of all jobs together, those of checkpoints counted once; with asha and pasha only"
        " (default: none: no limit)",
    )


def _add_search_options(parser: Parser) -> None:
    group = Group(parser, "the search")
    group.whole(
        "--seed",
        "N",
        at_least=0,
        default=42,
        help="the same seed samples the same configurations (default: 42)",
    )
    group.text("--start-with", "FILE", help="config ids, one a line, to try first (default: none)")
    group.one_of(
        "--guide",
        "HOW",
        tuple(GuideKind),
        default=str(GuideKind.MODEL),
        help="model: learn from the losses which draws of the sampler to try; none: all at random"
        " (default: model)",
    )
    group.text(
        "--learn-from",
        "STUDY_DIR",
        default=[],
        help="another study that the model learns from as well; may be given several times (default: none)",
    )
    group.number(
        "--penalty",
        "LOSS",
        default=100.0,
        help="loss shown for a failed trial; it never takes part in decisions (default: 100)",
    )


def _add_slot_options(parser: Parser) -> None:
    group = Group(parser, "where jobs run")
    add_on(group)
    group.one_of(
        "--slurm-mode",
        "HOW",
        ("held", "jobs"),
        default="held",
        help="held: allocations are held, and each job is a step in one; jobs: each is a job of Slurm's own,"
        " or a task of an array (default: held)",
    )
    add_ray(group)
    group.text(
        "--ray-working-dir",
        "DIR",
        help="with --ray-files sent the folder that travels to the nodes (default: the script's)",
    )
    group.text(
        "--ray-runtime-env",
        "FILE",
        help="with --ray-files sent a YAML or JSON file of Ray's runtime environment: pip, uv, conda,"
        " env_vars, py_modules, config (default: none)",
    )
    group.text(
        "--storage",
        "URI",
        help="with --ray-files sent where the files of --checkpoints are between the jobs of a trial: file://,"
        " s3://, gs:// or ssh:// (default: on the node that trained last)",
    )
    group.whole(
        "--max-slots",
        "N",
        at_least=1,
        help="jobs at a time with --on slurm or ray (default: as many as the cluster has room for)",
    )
    add_gpus(group)
    group.whole(
        "--slots",
        "N",
        at_least=1,
        help="jobs at a time where there are no GPUs (default: half of the cores, at least 1)",
    )
    group.text(
        "--jobs-per-gpu",
        "N",
        read=values.number_or_auto("--jobs-per-gpu", at_least=1),
        default=1,
        help="jobs at a time on one GPU; auto: as many as fit by the memory that the first rung was seen to"
        " take, but one in the last rung (default: 1)",
    )
    group.flag(
        "--isolate",
        help="each job sees its own GPU only, as --gpu 0: for scripts that use cuda:0 whatever they are told",
    )
    group.one_of(
        "--when-shared",
        "HOW",
        tuple(WhenShared),
        default=str(WhenShared.WAIT),
        help="when somebody else's process comes to a GPU with a job: wait: the job goes on, the next one"
        " waits until the GPU is ours alone; share: so does the next one; yield: the job is stopped and"
        " queued again (default: wait)",
    )
    group.whole(
        "--leave-free", "N", at_least=0, default=0, help="idle GPUs that are left to others (default: 0)"
    )
    group.flag(
        "--no-multi-gpu", help="never --multi_gpu: a trial that is alone gets one GPU, not all (default: all)"
    )


def _add_job_options(parser: Parser) -> None:
    group = Group(parser, "how jobs run")
    group.number(
        "--timeout",
        "S",
        unit="seconds",
        above=0,
        is_limit=True,
        help="seconds that one job may take (default: none: no limit)",
    )
    group.number(
        "--timeout-per-epoch",
        "S",
        unit="seconds",
        above=0,
        is_limit=True,
        help="seconds that one job may take for each epoch of its --epochs (default: none: no limit)",
    )
    group.number(
        "--stall-timeout",
        "S",
        unit="seconds",
        above=0,
        is_limit=True,
        help="seconds that a job may be without any output (default: none: no limit)",
    )
    group.whole(
        "--retries",
        "N",
        at_least=0,
        default=1,
        help="times that a job which crashed, ran out of memory or printed no loss is tried again, on another"
        " slot if there is one (default: 1)",
    )
    group.number(
        "--quarantine-s",
        "S",
        unit="seconds",
        above=0,
        default=3600.0,
        help="seconds for which a slot is not used that fails jobs which succeed elsewhere"
        " (default: 3600 seconds)",
    )
    group.number(
        "--min-free-disk",
        "GIB",
        unit="GiB",
        at_least=0,
        default=1.0,
        help="GiB of free disk below which nothing is started (default: 1 GiB)",
    )
    group.number(
        "--max-time",
        "S",
        unit="seconds",
        above=0,
        is_limit=True,
        help="seconds after which nothing more is started; what runs is finished (default: none: no limit)",
    )
    group.number(
        "--grace",
        "S",
        unit="seconds",
        at_least=0,
        default=10.0,
        help="seconds between SIGTERM and SIGKILL for a job that must stop (default: 10 seconds)",
    )
    group.flag(
        "--keep-going",
        help="go on although the first 10 jobs all failed in the same way, or --storage takes no checkpoint "
        "of the first 3 (default: stop)",
    )
    group.flag(
        "--warm", help="start jobs as forks of a process that has imported the script's modules already"
    )
    add_python(group)


def _add_study_options(parser: Parser) -> None:
    group = Group(parser, "the study")
    group.text("--logs", "DIR", default="logs", help="folder of all studies (default: logs)")
    group.flag(
        "--detach",
        help="return when the search has begun: it runs on its own then, with --on slurm as a job of Slurm's",
    )
    group.flag("--dry-run", "--dry", help="import the script, print the plan, write nothing")
    group.flag("--clean", help="remove the study first, after asking; the script's own checkpoints stay")
    group.flag("--yes", help="the answer to the question of --clean")
    group.flag(
        "--from-copy",
        help="go on from the journal's copy in the study's folder, where the journal itself is on a local"
        " disk of a machine that is lost",
    )
    group.one_of(
        "--keep-checkpoints",
        "WHOSE",
        tuple(KeepCheckpoints),
        default=str(KeepCheckpoints.ALL),
        help="all; best: of trials that reach the last rung of their bracket; none; those of the best trial"
        " always stay (default: all)",
    )
    group.text(
        "--checkpoints",
        "PATTERN",
        help="a trial's checkpoint files, for --keep-checkpoints: 'runs/{config_id}/**', relative to the"
        " folder that the jobs run in (default: none)",
    )


def _add_output_options(parser: Parser) -> None:
    group = Group(parser, "output")
    add_output(group)
    group.flag("--version", help="the version of hyperband")
