"""`hyperband slurm init [FILE]`: a commented profile of what is asked of Slurm."""

from hyperband.cli.commands import SlurmInitOptions
from hyperband.cli.output import print_out
from hyperband.errors import UsageError
from hyperband.launch.slurm.profile_keys import EXAMPLE
from hyperband.report.text import shown


def slurm_init(options: SlurmInitOptions) -> int:
    """Write the example; the exit code.

    Raises:
        UsageError: the file is there already, or cannot be written.
    """
    path = shown(str(options.path))
    try:
        with options.path.open("x", encoding="utf-8") as stream:
            stream.write(EXAMPLE)
    except FileExistsError as err:
        raise UsageError(f"{path} is there already; name another file, or remove it first.") from err
    except OSError as err:
        raise UsageError(f"{path} cannot be written: {err.strerror}; name another file.") from err
    print_out(f"wrote {path}: every line is a comment; take out the # where your site needs it\n")
    return 0
