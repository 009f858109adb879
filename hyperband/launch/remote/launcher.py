"""Jobs on other machines whose folders they share with us: what is common to all engines.

Owns the life of an attempt from its order to its ending. How a keeper gets onto a node is an engine's
business (launch/remote/carrier.py), when a folder is looked at the patrol's (launch/remote/patrol.py).
"""

import contextlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hyperband.errors import InternalError, MachineError
from hyperband.launch.base import Bell, Ending, Lease, Order, StopReason
from hyperband.launch.remote.carrier import Carrier, Carriers
from hyperband.launch.remote.files import (
    Ordered,
    Sight,
    claim_for_search,
    ending_of,
    read_ending,
    touch_outputs,
    write_order,
    write_stop,
)
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.patrol import Patrol
from hyperband.machine.claim import FENCE, ORDER_FILE
from hyperband.machine.keeper import KEEPER_FILE
from hyperband.machine.process import wait_for_end

#: how long a lease lasts that is not renewed
LEASE_S = 15.0
#: how much longer than the node the search believes in it: a kill takes a moment, and clocks drift
MARGIN_S = 5.0


class RemoteLauncher:
    """The launcher of an engine whose nodes share the study's folder with us."""

    #: which engine it is, as said with --on: jobs of another one are not ours to go on with; empty: all are
    engine: ClassVar[str] = ""

    def __init__(
        self,
        carriers: Carriers,
        *,
        cwd: Path,
        grace_s: float,
        lease_s: float = LEASE_S,
        margin_s: float = MARGIN_S,
    ) -> None:
        """Remember where and how jobs run; nothing is started yet.

        Args:
            carriers: bring keepers onto nodes; closed with the launcher.
            cwd: working directory of the jobs, on the nodes.
            grace_s: between SIGTERM and SIGKILL.
            lease_s: how long a job goes on whose node cannot reach its folder.
            margin_s: how much later than that it is given up here.
        """
        self._carriers = carriers
        self._cwd = cwd
        self._grace_s = grace_s
        self._lease_s = lease_s
        self._margin_s = margin_s
        self._patrol = Patrol(margin_s=margin_s)
        self._jobs: set[RemoteJob] = set()
        #: rung when a job has begun on its node
        self.bell = Bell()

    @property
    def begin_within_s(self) -> None:
        """None: it may wait for its node."""
        return

    def knows(self, folder: Path) -> bool:
        """Return whether an attempt was ordered by our engine, or not at all."""
        if not (folder / ORDER_FILE).exists():
            return not (folder / KEEPER_FILE).exists()
        ordered = Ordered.read(folder)
        return ordered is None or not self.engine or ordered.engine in (self.engine, "")

    def start(self, order: Order, lease: Lease) -> RemoteJob:
        """Start a job that was journalled; the launcher holds the lease from now on.

        Raises:
            MachineError: its folder cannot be written to, or the engine cannot be used any more.
        """
        carrier: Carrier | None = None
        try:
            room = self._carriers.room(lease)
            ordered = write_order(
                order,
                room,
                cwd=self._cwd,
                grace_s=self._grace_s,
                lease_s=self._lease_s,
                engine=self.engine,
            )
            carrier = self._carriers.carry(order.folder, ordered.attempt, lease)
            if carrier.is_waited_for:
                carrier.write(order.folder)  # before it is told: a later search must find what may claim it
            if not carrier.is_told:
                # one that is not there any more has ended, of which the patrol hears
                carrier.tell(json.dumps({"folder": str(order.folder), "attempt": ordered.attempt}))
            # what can wait until it is told
            if not carrier.is_waited_for:
                carrier.write(order.folder)
            touch_outputs(order.folder)
        except OSError as err:
            if carrier is not None:
                self._send_away(carrier)
            raise MachineError(
                f"cannot start a job in {order.folder}: {err.strerror or err}; free what is missing there "
                "and start the search again: it goes on where it is"
            ) from err
        finally:
            for descriptor in lease.descriptors:
                os.close(descriptor)
        return self._watch(self._job(order.folder, Lease(lease.slot, ()), ordered, carrier))

    def adopt(self, folder: Path, lease: Lease) -> RemoteJob | None:
        """Return the job of an earlier search that lives in this folder, or may begin; None if neither.

        Raises:
            MachineError: the folder cannot be looked at.
        """
        try:
            ordered = Ordered.read(folder)
            if ordered is None:
                return None
            sight = Sight.of(folder, ordered.attempt)
            if sight.is_gone or ending_of(sight) is not None:
                return None
            carrier = Carrier.find(folder)
            if sight.claimed is None and not self._may_begin(carrier):
                why = "the search that ordered it ended, and nobody had begun it"
                if claim_for_search(folder, ordered.attempt, why):
                    if carrier is not None:
                        self._send_away(carrier)
                    return None
        except OSError as err:
            raise MachineError(
                f"cannot look at the job in {folder}: {err.strerror or err}; mend the folder and start the "
                "same command again: the job goes on"
            ) from err
        job = self._job(folder, lease, ordered, carrier)
        job.saw(sight, time.monotonic())
        return self._watch(job)

    def stop(self, job: RemoteJob, reason: StopReason) -> None:
        """Ask for a job's end: SIGTERM, grace, SIGKILL; one that nobody has begun never begins.

        Raises:
            MachineError: the node cannot be told.
        """
        trouble: OSError | None = None
        job.asked = job.asked or reason
        try:
            write_stop(job.folder, reason)
            if claim_for_search(job.folder, job.attempt, f"ended before it began ({reason})", reason):
                self._patrol.look(job)
                return
        except OSError as err:
            trouble = err
        # the warden looks for the file each second; a line is there at once, and also where the folder is not
        is_told = job.carrier is not None and job.carrier.tell(reason)
        if trouble is not None and not is_told and not job.is_over:
            raise MachineError(
                f"cannot ask for the end of the job in {job.folder}: {trouble.strerror or trouble}; make the "
                "folder writable and start the search again, or end the job by hand"
            ) from trouble

    def give_up(self, job: RemoteJob, why: str, *, is_proven: bool = False) -> None:
        """Fence a job: the engine knows that what ran it is gone, such as its allocation or its node.

        Its descriptor tells when nothing of it can run any more: at once if it never began, otherwise with
        its result, or when its lease has run out.

        Args:
            job: still watched, or over already.
            why: in words, for the log.
            is_proven: the engine knows that no process of it is left, such as of a step that has ended on a
                node that answers: no lease is waited for. A node that does not answer proves nothing.
        """
        self._patrol.give_up(job, why, is_proven=is_proven)

    def heed(self) -> None:
        """Take in what the engine said of what jobs run in; each turn.

        Raises:
            MachineError: the folder of a job cannot be written to.
        """

    def next_look_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing is said; None: never."""
        return None

    def look_now(self, job: RemoteJob, why: str, *, is_proven: bool = False) -> None:
        """Do what `give_up` does, and wait a moment to see whether it is over: its result should be there."""
        self._patrol.look_now(job, why, is_proven=is_proven)

    def finish(self, job: RemoteJob) -> Ending | None:
        """Give back what a job that is over still takes here, and tell how it ended; None: not over yet.

        Raises:
            InternalError: nobody watches it any more.
        """
        if job.failure is not None:
            raise InternalError(f"the patrol of remote jobs failed: {job.failure!r}") from job.failure
        if not job.is_over:
            return None
        assert job.ending is not None
        ending = job.ending
        self._jobs.discard(job)
        job.close()
        if job.carrier is not None:
            if ending.exit_status is None and (said := job.carrier.said()):
                ending = replace(ending, note="; ".join(words for words in (ending.note, said) if words))
            self._send_away(job.carrier)
        return ending

    def read(self, folder: Path) -> Ending:
        """Read how an attempt ended that no longer lives; one that nobody has begun never begins.

        Raises:
            MachineError: a node has it and may still run it, or the folder cannot be looked at.
        """
        try:
            return read_ending(folder)
        except OSError as err:
            raise MachineError(
                f"cannot look at the job in {folder}: {err.strerror or err}; mend the folder and start the "
                "same command again"
            ) from err

    def owns(self, pid: int) -> bool:  # noqa: ARG002
        """Return False: processes of this machine are none of its jobs'."""
        return False

    def belongs(self, pid: int, job: RemoteJob) -> bool:  # noqa: ARG002
        """Return False: processes of this machine are none of its jobs'."""
        return False

    def kill_servers(self) -> None:
        """Do nothing: no process of this machine starts jobs."""

    def end_all(self) -> None:
        """End every job and wait for that, although their folders may be gone: then their leases run out."""
        for job in self._jobs:
            with contextlib.suppress(OSError):
                write_stop(job.folder, FENCE)
            if job.carrier is not None:
                job.carrier.tell(FENCE)
            self._patrol.give_up(job, "the search ended it", is_proven=False)
        for job in list(self._jobs):
            wait_for_end(job.fileno(), job.lease_s + 2 * self._margin_s)
            if job.carrier is not None:
                self._send_away(job.carrier)
            self._jobs.discard(job)
            job.close()

    def close(self) -> None:
        """Let go of everything but the jobs: those go on."""
        has_ended = self._patrol.close()
        for job in self._jobs:
            if has_ended:
                job.close()
            if job.carrier is not None:
                job.carrier.close()
        self._jobs.clear()
        if has_ended:
            self.bell.close()
        self._carriers.close()

    def _may_begin(self, carrier: Carrier | None) -> bool:
        """Return whether somebody may still claim an attempt that an earlier search ordered."""
        if carrier is None:
            return False
        return carrier.pidfd is not None or (bool(carrier.label) and self._carriers.is_coming(carrier.label))

    def _job(self, folder: Path, lease: Lease, ordered: Ordered, carrier: Carrier | None) -> RemoteJob:
        return RemoteJob(folder, lease, ordered, carrier, self._ask_for_proof, self.bell, self._is_excused)

    def _is_excused(self, job: RemoteJob, silent_since_s: float, at_s: float) -> bool:  # noqa: ARG002
        """Return whether the engine may have stopped a job whose lease is not renewed; see Patrol.

        Called in the patrol's thread.
        """
        return False

    def _ask_for_proof(self, job: RemoteJob) -> None:
        """Find out, if the engine can, whether anything is left of a job without a carrier; see give_up.

        Called in the patrol's thread.
        """

    def _watch(self, job: RemoteJob) -> RemoteJob:
        self._jobs.add(job)
        self._patrol.watch(job)
        return job

    def _send_away(self, carrier: Carrier) -> None:
        carrier.dismiss()
        self._carriers.let_go(carrier)
        self._patrol.see_off(carrier)
