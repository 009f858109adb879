"""Jobs at slots of a Ray cluster: the actor that holds a slot carries the keeper to its node.

Owns what Ray's ways mean for how an attempt ended. Must not know: which slots there are and why.
"""

from dataclasses import replace
from pathlib import Path

from hyperband.launch.base import Ending, Lease, StopReason
from hyperband.launch.ray.holdings import Over
from hyperband.launch.ray.slots import RaySlots
from hyperband.launch.ray.words import means_low_memory
from hyperband.launch.remote.carrier import Carrier, Carriers, Room
from hyperband.launch.remote.files import was_asked
from hyperband.launch.remote.job import RemoteJob
from hyperband.launch.remote.launcher import LEASE_S, RemoteLauncher

#: variables in which a slot knows better than the search
_KEPT = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "TPU_VISIBLE_CHIPS",
    "RAY_*",
    "HOSTNAME",
)
_TOLD_TO_END = "its slot ended: Ray, or somebody, ended its actor or its node"


class RayCarrier(Carrier):
    """A slot that was given an attempt."""

    is_waited_for = False  # who claims first has the attempt

    def __init__(self, slots: RaySlots, slot_name: str, folder: Path, attempt: str) -> None:
        """Tell nothing yet."""
        super().__init__(label=slot_name)
        self._slots = slots
        self._folder = folder
        self._attempt = attempt
        self._words = ""

    def tell(self, line: str) -> bool:
        """Tell it its attempt, at first; a word for its keeper, later."""
        if not self.is_told:
            self.is_told = True
            return self._slots.begin(self.label, str(self._folder), self._attempt)
        return self._slots.tell(self.label, self._attempt, line)

    def note(self, words: str) -> None:
        """Hear what the keeper said."""
        self._words = words

    def said(self) -> str:
        """Return what the keeper said."""
        return self._words


class RayCarriers:
    """Every slot has its carrier already: the actor that holds it."""

    def __init__(self, slots: RaySlots, environment: Path) -> None:
        """Remember; environment: file with what jobs begin with."""
        self._slots = slots
        self._environment = environment

    def room(self, lease: Lease) -> Room:  # noqa: ARG002
        """Return what a job finds: our environment, and the GPUs that Ray gave."""
        return Room(None, self._environment, _KEPT, ends_with_carrier=True)

    def carry(self, folder: Path, attempt: str, lease: Lease) -> Carrier:
        """Return the carrier of a slot."""
        return RayCarrier(self._slots, lease.slot.name, folder, attempt)

    def is_coming(self, label: str) -> bool:  # noqa: ARG002
        """Return False: who claims first has the attempt."""
        return False

    def let_go(self, carrier: Carrier) -> None:
        """Do nothing: slots stay."""

    def close(self) -> None:
        """Do nothing: slots stay."""


class RayLauncher(RemoteLauncher):
    """Runs jobs at slots. What a job ran on may be taken away: that is never the job's fault."""

    engine = "ray"

    def __init__(
        self, slots: RaySlots, carriers: Carriers, *, cwd: Path, grace_s: float, lease_s: float = LEASE_S
    ) -> None:
        """See RemoteLauncher; slots: hear of starts that failed."""
        super().__init__(carriers, cwd=cwd, grace_s=grace_s, lease_s=lease_s)
        self._slots = slots
        #: why what a job ran on is gone
        self._taken: dict[RemoteJob, str] = {}
        #: whose keepers ended at slots that are there still
        self._over: set[RemoteJob] = set()

    def heed(self) -> None:
        """Take in which keepers and slots have ended."""
        for over in self._slots.take_over():
            self._note_over(over)
        for name, words in self._slots.take_lost():
            for job in self._jobs:
                if job.lease.slot.name == name or (not name and self.may_be_lost(job)):
                    self._taken.setdefault(job, words)
                    self.give_up(job, words)

    def may_be_lost(self, job: RemoteJob) -> bool:
        """Return whether a job may never have reached its slot when our side of Ray ended."""
        return not job.has_begun

    def finish(self, job: RemoteJob) -> Ending | None:
        """Tell how a job ended; one whose slot was taken away is lost with it."""
        ending = super().finish(job)
        if ending is None:
            return None
        taken = self._taken.pop(job, "")
        has_lost_keeper = ending.lost_keeper or job in self._over
        self._over.discard(job)
        name = job.lease.slot.name
        if ending.never_ran:
            if ending.asked is None and not taken:
                self._slots.note_failed_start(name, ending.note)
            return ending
        if ending.asked is StopReason.STOP and not (job.asked or was_asked(job.folder)):
            words = taken or _TOLD_TO_END
            # Ray may say so only later: nothing is to be started there meanwhile
            self._slots.distrust(name)
            ending = replace(ending, exit_status=None, asked=None, note=words)
            return replace(ending, was_taken_away=not means_low_memory(taken))
        if ending.exit_status is None and (taken or not has_lost_keeper):
            # a job that takes more memory than its node has would be tried for ever
            return replace(ending, was_taken_away=not means_low_memory(taken))
        # a job that takes its keeper along each time must not be tried for ever
        self._slots.note_run(name)
        return ending

    def _note_over(self, over: Over) -> None:
        for job in self._jobs:
            if job.attempt == over.attempt:
                if isinstance(job.carrier, RayCarrier):
                    job.carrier.note(over.said)
                self._over.add(job)
                # its result is there, or soon will be; if not, nobody else will ever write it
                self.look_now(job, "its keeper ended without a result")
