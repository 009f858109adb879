"""Whether anybody listens at a cluster's address, found out before Ray is asked, which takes minutes for it.

Must not know Ray, nor what listens there. Standard library only.
"""

import select
import socket
import time
from collections.abc import Callable

#: one try, all of them, and the pause after one that failed at once
_TRY_S, _MOST_S, _PAUSE_S = 3.0, 24.0, 1.0


class UnreachableError(Exception):
    """Nobody is there."""


def reach(address: str, say: Callable[[str], None]) -> None:
    """Return once somebody takes a connection.

    Args:
        address: HOST:PORT.
        say: told once, in words, that it takes long.

    Raises:
        UnreachableError: nobody does, in words for the user.
    """
    host, _, port = address.rpartition(":")
    until_s = time.monotonic() + _MOST_S
    has_said = False
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY_S):
                return
        except socket.gaierror as err:
            raise UnreachableError(
                f"the name {host} is not known here ({err.strerror}); correct it."
            ) from err
        except ConnectionRefusedError as err:
            raise UnreachableError(
                f"nothing listens there (connection refused); start Ray on {host} with `ray start --head "
                f"--port={port}`, or give the address that this printed."
            ) from err
        except OSError as err:
            why = "no answer" if isinstance(err, TimeoutError) else err.strerror or str(err)
            if time.monotonic() > until_s:
                raise UnreachableError(
                    f"{host} does not answer ({why}, tried for {_MOST_S:g} s); is the host up, and does a "
                    "firewall let us through to that port?"
                ) from err
            if not has_said:
                has_said = True
                say(f"{host} does not answer yet ({why}); trying for {_MOST_S:g} s")
            if not isinstance(err, TimeoutError):
                time.sleep(_PAUSE_S)  # a network that is away gives no event


def has_hung_up(line: socket.socket | int) -> bool:
    """Return whether the other end of a line, or of a pipe, is closed, also if something is unread."""
    poll = select.poll()
    poll.register(line, 0)
    return bool(poll.poll(0))
