"""Which options go with which place where jobs run. Owns the words for those that do not."""

from collections.abc import Set

from hyperband.errors import UsageError
from hyperband.settings import On

#: options that say something of this machine's slots, and what to do instead, by where jobs run
_OF_THIS_MACHINE = {
    On.SLURM: {
        "--gpus": "the GPUs are those that Slurm gives: ask for them with gpus or gres in the Slurm profile",
        "--slots": "how many jobs run at a time is for max_allocations in the Slurm profile, or --max-slots",
        "--jobs-per-gpu": "several jobs on a GPU are asked for by slots_per_allocation in the Slurm profile",
        "--isolate": "each job sees its own GPU only, there is nothing to isolate",
        "--when-shared": "GPUs that Slurm gives are nobody else's",
        "--leave-free": "what is left to others is Slurm's to say; bound it by --max-slots",
        "--warm": "jobs start on other machines, where nothing can be imported ahead",
    },
    On.RAY: {
        "--gpus": "the GPUs are those that Ray gives: say what a slot takes with --ray-resources",
        "--slots": "how many jobs run at a time is for --max-slots, and what each takes for --ray-resources",
        "--isolate": "each job sees its own GPU only, there is nothing to isolate",
        "--when-shared": "GPUs that Ray gives are nobody else's",
        "--leave-free": "what is left to others is for --max-slots",
        "--warm": "jobs start on other machines, by keepers that wait there already",
    },
}
_OF_SLURM = ("--slurm-profile", "--slurm-set", "--slurm-mode")
_OF_RAY = ("--ray-address", "--ray-resources", "--ray-token", "--ray-files")
#: what has a meaning only where nodes share no files
_OF_SENT = ("--ray-working-dir", "--ray-runtime-env", "--storage")
#: which options go with which places
_PLACES = {
    **dict.fromkeys(_OF_SLURM, (On.SLURM,)),
    **dict.fromkeys((*_OF_RAY, *_OF_SENT), (On.RAY,)),
    "--max-slots": (On.SLURM, On.RAY),
}


def refuse_where(names: Set[str], on: On) -> None:
    """Raise for an option that has no meaning where jobs run.

    Args:
        names: the options that were given.
        on: where jobs run.
    """
    for name, places in _PLACES.items():
        if name in names and on not in places:
            words = f"--on {' or '.join(places)}"
            raise UsageError(f"{name} goes with {words} only; leave it out, or add {words}.")
    for name, instead in _OF_THIS_MACHINE.get(on, {}).items():
        if name in names:
            raise UsageError(f"{name} does not go with --on {on}: {instead}. Leave {name} out.")


def refuse_unsent(names: Set[str], ray_files: str) -> None:
    """Raise for an option that has no meaning where the nodes share the study's folder.

    Args:
        names: the options that were given.
        ray_files: how files get to the nodes.
    """
    for name in _OF_SENT:
        if name in names and ray_files != "sent":
            raise UsageError(
                f"{name} goes with --ray-files sent only: nodes that share the study's folder see all that "
                "it is for. Leave it out, or add --ray-files sent."
            )
