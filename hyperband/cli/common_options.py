"""The options by name that a search and a check have in common."""

from hyperband.cli import values
from hyperband.cli.groups import Group
from hyperband.settings import On


def add_gpus(group: Group) -> None:
    """`--gpus`."""
    group.text(
        "--gpus",
        "LIST",
        read=values.gpu_choice("--gpus"),
        default="all",
        help="all, none, or a list of PCI order indices or UUIDs: 0,2 (default: all)",
    )


def add_on(group: Group) -> None:
    """`--on`, and what is asked of Slurm."""
    group.one_of(
        "--on",
        "WHERE",
        tuple(On),
        default=str(On.LOCAL),
        help="local: this machine; slurm: on a Slurm cluster, see --slurm-mode; ray: at slots of a Ray"
        " cluster (default: local)",
    )
    group.text(
        "--slurm-profile",
        "FILE",
        help="what is asked of Slurm; `slurm init` writes a commented one (default: the site's defaults)",
    )
    group.text(
        "--slurm-set",
        "KEY=VALUE",
        default=[],
        help="one key of the profile, over that of the file; may be given several times (default: none)",
    )


def add_ray(group: Group) -> None:
    """What is said of a Ray cluster."""
    group.text(
        "--ray-address",
        "WHERE",
        default="auto",
        help="HOST:PORT of the Ray cluster; auto: the one of this machine; local: one that the search"
        " starts here, and that ends with it (default: auto)",
    )
    group.text(
        "--ray-resources",
        "NAME=AMOUNT",
        default=[],
        help="what one slot takes of a node, such as GPU=1, CPU=4 or accelerator_type:A100=0.001; may be"
        " given several times (default: a GPU, and a CPU where there are no GPUs)",
    )
    group.text(
        "--ray-token",
        "FILE",
        help="file with the token of the Ray cluster (default: what the environment says)",
    )
    group.one_of(
        "--ray-files",
        "HOW",
        ("shared", "sent"),
        default="shared",
        help="shared: the nodes of the Ray cluster see the study's folder and the script; sent: they"
        " share no files, and what jobs need travels there and back (default: shared)",
    )


def add_python(group: Group) -> None:
    """`--python`."""
    group.text(
        "--python",
        "PATH",
        help="interpreter of the script; it needs numpy, not hyperband (default: the one running this)",
    )


def add_output(group: Group) -> None:
    """`--json`, `--debug`, `--help`."""
    group.flag("--json", help="one JSON object on standard output at the end; all else on standard error")
    group.flag("--debug", help="a traceback with every error")
    group.flag("-h", "--help", help="this text")
