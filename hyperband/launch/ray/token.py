"""The file with the token of a Ray cluster: what can be seen to be wrong with it without a word to Ray.

Must not know: what else is said of a cluster. Nobody here keeps the token, or shows it.
"""

import re
import stat
from pathlib import Path

from hyperband.errors import UsageError

_GIVE = "give the file that the cluster was started with (RAY_AUTH_TOKEN_PATH)"
#: in Ray's words for why it cannot be joined, see said_by_ray
_DENIED = re.compile(r"\(\w*Auth\w*: ")


def refuse_token(token: Path | None) -> None:
    """Raise for a token that cannot be had.

    Args:
        token: file of `--ray-token`; None: none was said.

    Raises:
        UsageError: it cannot be read, or is empty.
    """
    if token is None:
        return
    try:
        has_token = bool(token.read_bytes().strip())
    except OSError as err:
        raise UsageError(
            f"the token of --ray-token cannot be read: {token}: {err.strerror}; {_GIVE}"
        ) from err
    if not has_token:
        raise UsageError(f"the token of --ray-token is empty: {token}; {_GIVE}")


def denied(words: str, token: Path | None) -> tuple[str, str] | None:
    """Return what is said of a cluster that does not take our token, and what to do about it.

    None: Ray's words say nothing of that.

    Args:
        words: Ray's, for why it cannot be joined.
        token: file of `--ray-token`; None: none was said.
    """
    if not _DENIED.search(words):
        return None
    if token is None:
        return "it runs, and asks for a token", f"{_GIVE}, with --ray-token FILE"
    return f"it runs, but the token of --ray-token is not the one it has: {token}", _GIVE


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
