"""The files by which a search and a node agree on one attempt: who has it, and whether its keeper lives.

Owns the claim, the lease and the names of the others. Knows nothing of what is run, nor of who asks.

A shared file system keeps copies of what it was asked: so everything here is opened anew each time, the
folder first, which makes the copies fresh (close-to-open, as NFS has it), and only link() decides between two
machines.

Standard library only, Python 3.9 or newer: a node has nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node carries what it imports
    from collections.abc import Mapping
    from typing import Any

#: what the search wants done
ORDER_FILE = "order.json"
#: whose the attempt is, for ever: the node's that runs it, or the search's that gave it up
CLAIM_FILE = "claim"
#: a counter that grows while the keeper is there, and how long it has been
LEASE_FILE = "lease"
#: the search has given up an attempt that a node had: no result of it counts any more
FENCED_FILE = "fenced.json"
#: in the `stop` file and as a line: the job is not ours any more, and ends at once
FENCE = "fence"

BY_NODE, BY_SEARCH = "node", "search"
#: what a node says that waits for an attempt
WAITS = "hyperband: waits for a job"
#: and when its job is over and all is written down, if it was asked to
OVER = "hyperband: the job is over"

#: file systems without hard links say so with one of these
CANNOT_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_READ_BYTES = 64 * 1024


class CannotClaimError(OSError):
    """The file system has no hard links, so that nothing there can decide between two machines."""


def read_fresh(folder: str, *names: str) -> list[bytes | None]:
    """Return what files of a folder say at this moment, wherever they were written; None for one not there.

    Raises:
        FileNotFoundError: the folder is not there.
        OSError: it cannot be read now.
    """
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [_read(directory, name) for name in names]
    finally:
        os.close(directory)


def _read(directory: int, name: str) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        data = b""
        while part := os.read(descriptor, _READ_BYTES):
            data += part
        return data
    finally:
        os.close(descriptor)


def parse(data: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object in a file's bytes; None if there is none, or not all of it."""
    try:
        found = None if data is None else json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def write_whole(folder: str, name: str, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file that is there whole or not at all: closed, and so on its server, before it is named."""
    beside = f"{folder}/{name}.{os.urandom(8).hex()}"
    try:
        _write_new(beside, data, mode)
        os.rename(beside, f"{folder}/{name}")  # noqa: PTH104 (pathlib is more than a node should carry)
    except BaseException:
        _remove(beside)
        raise


def _write_new(path: str, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    # it is not there, or the file system is in trouble, of which whoever uses it is told
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def claim(folder: str, content: Mapping[str, object]) -> bool:
    """Make an attempt ours for ever; return False if somebody was first. Of all who try, one succeeds.

    Args:
        folder: of the attempt.
        content: what others are to know of us; its `token` is unlike any other.

    Raises:
        CannotClaimError: the file system has no hard links.
        OSError: the folder cannot be written to.
    """
    beside = f"{folder}/{CLAIM_FILE}.{content['token']}"
    _write_new(beside, json.dumps(content).encode(), 0o666)
    try:
        os.link(beside, f"{folder}/{CLAIM_FILE}")
    except FileExistsError:
        pass  # another's; or ours, where the server's answer was lost on its way and it was asked twice
    except OSError as err:
        if err.errno in CANNOT_LINK:
            raise CannotClaimError(err.errno, f"no hard links here: {err.strerror}", folder) from err
        raise
    finally:
        _remove(beside)
    found = parse(read_fresh(folder, CLAIM_FILE)[0])
    return found is not None and found.get("token") == content["token"]


def write_lease(folder: str, counter: int, age_s: float) -> None:
    """Renew a lease, in place: whoever has opened it, or opens it later, sees the same file.

    Args:
        folder: of the attempt; by its path, since the search does not look at one that was moved away.
        counter: greater than the one before.
        age_s: for how long the job has been there, on the node's own clock.

    Raises:
        OSError: the server did not take it.
    """
    descriptor = os.open(f"{folder}/{LEASE_FILE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.pwrite(descriptor, f"{counter:012d} {age_s:015.3f}\n".encode(), 0)
        # a client to which the file was delegated would not ask the server otherwise, nor miss it
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lease_age_s(record: bytes | None) -> float | None:
    """Return how old a job was when its lease was renewed so; None if the record does not say."""
    try:
        return float((record or b"").split()[1])
    except (IndexError, ValueError):
        return None
