"""The folder of an attempt that runs on another machine, as the search sees and writes it.

Owns what is read there: whose the attempt is, whether its lease is renewed, how it ended. Must not know how a
keeper got to its node. Clocks of two machines are never compared.
"""

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperband.errors import MachineError
from hyperband.launch.base import Ending, Order, StopReason
from hyperband.launch.remote.carrier import Room
from hyperband.machine import claim, keeper
from hyperband.report.again import NOT_STORED, STARTED_OVER


@dataclass(frozen=True, slots=True)
class Ordered:
    """What was ordered of one attempt, as far as it is needed again."""

    #: the name of the attempt, unlike any other's, also where a folder is used twice
    attempt: str
    #: for how long a renewal lasts
    lease_s: float
    #: which launcher ordered it, see RemoteLauncher.engine; empty: it did not say
    engine: str

    @classmethod
    def read(cls, folder: Path) -> "Ordered | None":
        """Return what was ordered in this folder; None: nothing, so that nothing can begin there."""
        try:
            found = claim.parse(claim.read_fresh(str(folder), claim.ORDER_FILE)[0])
        except FileNotFoundError:
            return None
        if found is None:
            return None
        return cls(found["attempt"], float(found["lease_s"]), found.get("engine", ""))


def write_order(
    order: Order, room: Room, *, cwd: Path, grace_s: float, lease_s: float, engine: str
) -> Ordered:
    """Write down what a node is to run, for its owner's eyes only; return what is needed of it again.

    Raises:
        OSError: the folder cannot be written to.
    """
    ordered = Ordered(uuid.uuid4().hex, lease_s, engine)
    words = {
        "attempt": ordered.attempt,
        "engine": engine,
        "lease_s": lease_s,
        "argv": list(order.argv),
        "environment": dict(order.environment),
        "grace_s": grace_s,
        "cwd": str(cwd),
        "gpus": None if room.gpus is None else list(room.gpus),
        "environment_file": None if room.environment_file is None else str(room.environment_file),
        "keeps": list(room.keeps),
        "ends_with_carrier": room.ends_with_carrier,
    }
    claim.write_whole(str(order.folder), claim.ORDER_FILE, json.dumps(words).encode(), mode=0o600)
    return ordered


def touch_outputs(folder: Path) -> None:
    """Make the files of an attempt's output, unless its node has: they are looked at also before it runs.

    Raises:
        OSError: the folder cannot be written to.
    """
    for name in ("stdout", "stderr"):
        (folder / name).touch()


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at an attempt's folder showed."""

    #: its claim: whose it is; None: nobody's yet
    claimed: Mapping[str, Any] | None
    #: the record of the lease
    lease: bytes | None = None
    #: what its keeper, or the keeper's warden, wrote down in the end
    result: Mapping[str, Any] | None = None
    #: the output is all there that the keeper saw
    is_whole: bool = False
    #: why the search gave it up although a node had it; None: it did not
    fenced: str | None = None
    #: the folder is not there
    is_gone: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether a search claimed it, so that it never ran and never will."""
        return self.claimed is not None and self.claimed.get("by") == claim.BY_SEARCH

    @property
    def host(self) -> str:
        """The machine that has it, for messages."""
        return "a node" if self.claimed is None else str(self.claimed.get("host", "a node"))

    @classmethod
    def of(cls, folder: Path, attempt: str | None) -> "Sight":
        """Look at the folder now; results of other attempts are not seen.

        Raises:
            OSError: it cannot be looked at now, which says nothing of it.
        """
        names = (claim.CLAIM_FILE, claim.LEASE_FILE, keeper.RESULT_FILE, claim.FENCED_FILE)
        try:
            claimed_bytes, lease, result_bytes, fenced_bytes = claim.read_fresh(str(folder), *names)
            claimed = claim.parse(claimed_bytes)
            if claimed_bytes is not None and claimed is None:
                claimed = {}  # damaged: somebody's, and not ours
            result, fenced = claim.parse(result_bytes), claim.parse(fenced_bytes)
            if result is not None and not _is_of(result, claimed, attempt):
                result = None
            is_whole = result is not None and _is_whole(folder, result)
        except FileNotFoundError:
            return cls(None, is_gone=True)
        why = None
        if fenced is not None and fenced.get("attempt") == attempt:
            why = str(fenced.get("why"))
        return cls(claimed, lease, result, is_whole, why)


def _is_of(result: Mapping[str, Any], claimed: Mapping[str, Any] | None, attempt: str | None) -> bool:
    return (
        claimed is not None
        and result.get("attempt") == claimed.get("attempt") == attempt
        and result.get("token") == claimed.get("token")
    )


def _is_whole(folder: Path, result: Mapping[str, Any]) -> bool:
    """Return whether the output is here as the keeper saw it there."""
    if "stdout_bytes" not in result:
        return True
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return keeper.checksum_of(descriptor, "stdout") == (result["stdout_bytes"], result["stdout_crc32"])
    finally:
        os.close(descriptor)


class LeaseWatch:
    """Tells whether a lease has run out, by our own clock alone."""

    def __init__(self, patience_s: float) -> None:
        """Begin; patience_s: how long a record that does not change is believed, margin included."""
        self._patience_s = patience_s
        self._record: bytes | None = None
        #: when the record was seen to have changed, at the latest; None: never looked
        self._changed_s: float | None = None

    @property
    def changed_s(self) -> float:
        """When the record was seen to have changed, at the latest; infinite before the first look."""
        return float("inf") if self._changed_s is None else self._changed_s

    def saw(self, record: bytes | None, *, before_s: float, after_s: float) -> bool:
        """Take the record of one look; return True if its keeper must have ended its job by now.

        A gap between looks does no harm: a record that is the same at both ends was never renewed between.

        Args:
            record: what the lease said.
            before_s: our monotonic clock before the look: the record is at least so young.
            after_s: our monotonic clock after it.
        """
        if self._changed_s is None or record != self._record:
            self._record, self._changed_s = record, after_s
            return False
        return before_s - self._changed_s > self._patience_s


def claim_for_search(folder: Path, attempt: str, why: str, asked: StopReason | None = None) -> bool:
    """Make an attempt one that never runs; return False if somebody has it already.

    Raises:
        OSError: the folder cannot be written to.
    """
    return claim.claim(
        str(folder),
        {
            "token": uuid.uuid4().hex,
            "by": claim.BY_SEARCH,
            "attempt": attempt,
            "why": why,
            "asked": asked,
        },
    )


def write_stop(folder: Path, word: str) -> None:
    """Leave a word for the warden: a StopReason, or claim.FENCE.

    Raises:
        OSError: the folder cannot be written to.
    """
    claim.write_whole(str(folder), keeper.STOP_FILE, word.encode())


def stop_word(folder: Path) -> str | None:
    """Return what was left for the warden of an attempt: a StopReason, or claim.FENCE; None: nothing.

    Raises:
        MachineError: the folder cannot be read.
    """
    try:
        found = claim.read_fresh(str(folder), keeper.STOP_FILE)[0]
    except FileNotFoundError:
        return None
    except OSError as err:
        raise MachineError(
            f"cannot look at the job in {folder}: {err.strerror or err}; mend the folder and start the same "
            "command again"
        ) from err
    return None if found is None else found.decode(errors="replace")


def was_asked(folder: Path) -> bool:
    """Return whether a search asked for the end of a job, and not only what ran it.

    Raises:
        MachineError: the folder cannot be read.
    """
    return stop_word(folder) not in (None, claim.FENCE)


def write_fenced(folder: Path, attempt: str, why: str) -> None:
    """Refuse whatever the node of an attempt may still write, for ever.

    Raises:
        OSError: the folder cannot be written to.
    """
    claim.write_whole(str(folder), claim.FENCED_FILE, json.dumps({"attempt": attempt, "why": why}).encode())


def read_ending(folder: Path) -> Ending:
    """Return how an attempt ended that no longer lives; one that nobody began is made to never begin.

    Raises:
        MachineError: a node has it and may still run it.
    """
    ordered = Ordered.read(folder)
    attempt = None if ordered is None else ordered.attempt
    if attempt is None:
        return never_ran("it was never started")
    sight = Sight.of(folder, attempt)
    if sight.claimed is None and not sight.is_gone:
        with contextlib.suppress(FileNotFoundError):
            claim_for_search(folder, attempt, "nobody had begun it")
        sight = Sight.of(folder, attempt)
    if (ending := ending_of(sight)) is None:
        raise MachineError(
            f"the job in {folder} was begun on {sight.host} and may still be running there; go on with the "
            "search, which waits for it, or end it with `hyperband stop`"
        )
    return ending


def never_ran(note: str) -> Ending:
    """Return the ending of an attempt of which nothing ever ran."""
    return Ending(None, None, None, None, (), note, never_ran=True)


def lost(note: str, *, lease: bytes | None = None) -> Ending:
    """Return the ending of an attempt whose end nobody saw; lease: its last record."""
    return Ending(None, None, None, None, (), note, ran_s=claim.lease_age_s(lease))


def ending_of(sight: Sight) -> Ending | None:
    """Return how an attempt ended, by what is in its folder; None: it may still run, or begin."""
    if sight.is_gone:
        return lost("its folder was removed")
    if sight.fenced is not None:
        return lost(sight.fenced, lease=sight.lease)
    if sight.is_ours:
        assert sight.claimed is not None
        if sight.claimed.get("asked") == StopReason.STOP:
            # as one that was ended before its first moment
            return Ending(-signal.SIGTERM, StopReason.STOP, None, None, (), "", never_ran=True)
        return never_ran(str(sight.claimed.get("why", "")))
    result = sight.result
    if result is None:
        return None
    if result.get("fenced"):
        ending = lost(f"{sight.host} ended it: {result['fenced']}", lease=sight.lease)
        return replace(ending, lost_keeper=bool(result.get("lost_warden")))
    if result["exit_status"] is None:
        note = f"{sight.host}: {result.get('note', '')}"
        if result.get("never_ran"):
            return never_ran(note)
        return replace(lost(note, lease=sight.lease), lost_keeper=bool(result.get("lost_keeper")))
    if not sight.is_whole:
        return lost("its output did not reach the shared file system", lease=sight.lease)
    return Ending(
        exit_status=result["exit_status"],
        asked=None if result["asked"] is None else StopReason(result["asked"]),
        started_at=result["started_at"],
        ended_at=result["ended_at"],
        leftovers=tuple(result["leftovers"]),
        note=_of_checkpoint(result),
        never_ran=result["never_ran"],
        oom_killed=result["n_oom_kills"] > 0,
        memory_peak_bytes=result["memory_peak_bytes"],
        cpu_s=result["cpu_s"],
    )


def _of_checkpoint(result: Mapping[str, Any]) -> str:
    """Return what a node says of checkpoints that it carries itself: what is worth telling of them."""
    found: Mapping[str, Any] = result.get("checkpoint") or {}
    why, why_not = found.get("started_over", ""), found.get("why", "")
    if why.startswith(NOT_STORED) and why_not.startswith(NOT_STORED):
        why = "none could be stored before"  # the same trouble need not be told twice
    return "; ".join(part for part in (f"{STARTED_OVER}: {why}" if why else "", why_not) if part)
