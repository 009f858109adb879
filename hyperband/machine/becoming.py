"""The process that waits to become a job, and what it has in common with the keeper that it waits for.

Owns the way from a request to the job's first instruction: the request's descriptors put in place, signals,
environment, the word to run. Must not know what becomes of the job (machine/keeper.py).

Standard library only, and little of that: it is forked from a bare interpreter. `ctypes` is there because
Python has no prctl.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is imported is copied at every fork
    from collections.abc import Mapping
    from typing import Any, Protocol

    class HasDescriptor(Protocol):
        """Anything that becomes readable."""

        def fileno(self) -> int:
            """Return the descriptor."""
            ...


MAX_DESCRIPTORS = 250
PR_SET_PDEATHSIG = 1
#: what the keeper says to it when all is written down
WORD = b"go"
#: what it says to the keeper when it has its request
TAKEN = b"t"

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, as the kernel's manual describes it."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def tell(pipe: int, words: bytes) -> None:
    """Say something to whoever listens; that nobody does any more changes nothing."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, words)


def become_job(line: socket.socket, keeper: int) -> None:
    """Take a request from the keeper, make everything ready, wait for the word, and become the job."""
    lead_session()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    request = take_request(line)
    if request is None:
        return
    environment = changed(os.environ, request["environment"])
    argv = request["argv"]
    # all is ready, and meanwhile the keeper has been writing us down
    if not has_word(line, keeper):
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        if "cwd" in request:
            os.chdir(request["cwd"])
        os.execve(argv[0], argv, environment)
    except OSError as err:
        os.write(2, f"hyperband: cannot run {argv[0]}: {err.strerror}\n".encode(errors="replace"))


def lead_session() -> None:
    """Lead a session of our own, and end with the keeper."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_request(line: socket.socket) -> dict[str, Any] | None:
    """Wait for the job's part of a request, and put its descriptors in place; None: the keeper is gone."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    message, descriptors, _, _ = socket.recv_fds(line, 1, MAX_DESCRIPTORS)
    if not message:
        return None
    forget_signals()
    # from here on signals are meant for the job, and stay pending until it is ready
    with contextlib.suppress(BrokenPipeError):  # the keeper was killed: we never run
        line.send(TAKEN)
    request = read_request(descriptors[0])
    for target, descriptor in enumerate((nothing, *descriptors[1:3])):
        os.dup2(descriptor, target)
    for descriptor in (nothing, *descriptors[:3]):
        os.close(descriptor)
    for lease in descriptors[3:]:
        os.set_inheritable(lease, True)
    return request


def has_word(line: socket.socket, keeper: int) -> bool:
    """Wait for the word to run; False if the keeper died before it had written us down: we never run."""
    return os.getppid() == keeper and line.recv(len(WORD)) == WORD


def rehearse(awaited: HasDescriptor) -> None:
    """Go through the motions of a start, so that they are quick then; not if what is waited for is there.

    A forked process gets its own copy of a page of memory when it first touches it, and code is slow the
    first time. Who waits has the time for both.
    """
    ready = select.poll()  # (select takes no descriptor above 1023)
    ready.register(awaited, select.POLLIN)
    if ready.poll(0):
        return
    memory = request_of({"argv": ["-", "-"], "environment": dict(os.environ)})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(ours, [b"r"], [memory] * 4)
        _, descriptors, _, _ = socket.recv_fds(theirs, 1, MAX_DESCRIPTORS)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        os.close(descriptor)
    request = read_request(memory)
    os.close(memory)
    with contextlib.suppress(OSError):  # there is no such program: all but the last step is done
        os.execve("", request["argv"], changed(os.environ, request["environment"]))


def changed(environment: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return a copy of an environment with variables added, or taken out where the value is None."""
    found = dict(environment)
    for variable, value in changes.items():
        if value is None:
            found.pop(variable, None)
        else:
            found[variable] = value
    return found


def request_of(words: Mapping[str, object]) -> int:
    """Return a descriptor of a request that says this, in memory."""
    memory = os.memfd_create("hyperband-request")
    data = json.dumps(words).encode()
    while data:
        data = data[os.write(memory, data) :]
    return memory


def read_request(descriptor: int) -> dict[str, Any]:
    """Read a request without moving the offset that others share."""
    data = b""
    while part := os.pread(descriptor, 1 << 20, len(data)):
        data += part
    found: dict[str, Any] = json.loads(data)
    return found


def forget_signals() -> None:
    """Forget what was sent to a process that was only waiting: it was not meant for the job to come."""
    while pending := signal.sigpending():
        signal.sigtimedwait(pending, 0)
