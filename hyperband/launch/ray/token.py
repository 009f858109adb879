"""The file with the token of a Ray cluster: what can be seen to be wrong with it without a word to Ray.

Must not know: what else is said of a cluster. Nobody here keeps the token, or shows it.
"""

import stat
from pathlib import Path

from hyperband.errors import MachineError


def refuse_token(token: Path | None) -> None:
    """Raise for a token that cannot be had.

    Args:
        token: file of `--ray-token`; None: none was said.

    Raises:
        MachineError: it cannot be read, or is empty.
    """
    if token is None:
        return
    give = "give the file that the cluster was started with (RAY_AUTH_TOKEN_PATH)"
    try:
        has_token = bool(token.read_bytes().strip())
    except OSError as err:
        raise MachineError(
            f"the token of --ray-token cannot be read: {token}: {err.strerror}; {give}"
        ) from err
    if not has_token:
        raise MachineError(f"the token of --ray-token is empty: {token}; {give}")


def warnings_of_token(token: Path | None) -> list[str]:
    """Return what should be known of a token that can be used: that others can read it, too."""
    if token is None:
        return []
    mode = stat.S_IMODE(token.stat().st_mode)
    if not mode & 0o077:
        return []
    return [
        f"Warning: others on this machine may read the token of --ray-token ({token}, mode {mode:04o}), and "
        f"whoever has it runs what he likes on the cluster. `chmod 600 {token}` ends that."
    ]
