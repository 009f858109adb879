"""What starts next, and where: the engine's order, the slots' room, and what stands in the way.

Owns the way from a job that may start to a leased slot, and the reason in words when none is to be had.
Starts nothing.
"""

import os
import socket
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from hyperband.launch.base import NO_WISH, Lease, Slots, Wish
from hyperband.search.decisions import Decision
from hyperband.search.engine import Engine
from hyperband.search.events import IdProposed, JobStarted
from hyperband.search.health import Health, place_of
from hyperband.search.packing import Packing
from hyperband.search.trial import Plan, Start
from hyperband.settings import Settings
from hyperband.study.disk import DiskWatch
from hyperband.study.jobs import JobFiles
from hyperband.study.pace import epochs_before
from hyperband.study.sampling import Ids
from hyperband.study.wake import earliest

#: so many starts in one turn, and then a pause: requests on their way take descriptors, which are limited
_N_STARTS = 32
_STARTS_PAUSE_S = 0.25
#: waiting for a slot is told of when the next look is this far away
_WORTH_TELLING_S = 1.0
#: for so long a job that could start elsewhere waits for a slot where its trial's checkpoint is
HOME_S = 60.0
#: how soon a script that is away for a moment is looked for again
_SCRIPT_LOOK_S = 0.2
#: and how soon a disk that is full
_DISK_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """A job with its slot, journalled next and started after that."""

    start: Start
    lease: Lease
    started: JobStarted


def room_wish(settings: Settings, packing: Packing, epochs: int) -> Wish:
    """What a job that trains to this many epochs gets of its GPU."""
    if settings.jobs_per_gpu is not None:
        return NO_WISH
    room = packing.room(epochs)
    return Wish(whole=room.whole, gpu_memory_bytes=room.gpu_memory_bytes, most_jobs=room.most_jobs)


class Starting:
    """Chooses what starts. One owner: the search's loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        slots: Slots,
        ids: Ids,
        files: JobFiles,
        health: Health,
        packing: Packing,
        disk: DiskWatch,
        expected_s: Callable[[int], float | None] | None,
        near: Callable[[int], frozenset[str] | None],
    ) -> None:
        """Put the parts together; the engine is told of what is chosen, the rest is only asked.

        near: slots of which alone a trial's checkpoint is in reach; empty: of such that may come yet; None:
            of all, or of none.
        expected_s: how long a job runs that trains so many epochs; None: the slots have no use for it.
        """
        self._expected_s = expected_s
        self._near = near
        #: jobs that wait for such a slot: until when, on the monotonic clock
        self._home_until_s: dict[int, float] = {}
        self._settings = settings
        self._engine = engine
        self._slots = slots
        self._ids = ids
        self._files = files
        self._health = health
        self._packing = packing
        self._disk = disk
        self._host_name = socket.gethostname()
        #: what was decided and the journal has not heard
        self._events: list[IdProposed | JobStarted] = []
        #: and what the starts among it decided
        self._decisions: list[Decision] = []
        #: when, on the monotonic clock, another try may have more luck although nothing ended
        self.look_at_s: float | None = None
        #: why nothing starts although something could, in words
        self.waiting_for: str | None = None
        #: nothing starts for want of room on the disk
        self.disk_is_full = False
        #: something could start, and gets no slot
        self.lacks_slot = False
        #: since something lacks one, a look was as far away as is worth telling: it holds until that look
        self._waits_long = False

    def choose(self) -> list[Chosen]:
        """Lease slots for the next jobs, in the engine's order, until either runs out.

        Raises:
            ContractError: the script is gone for good.
            MachineError: slots cannot be had any more, for good.
        """
        chosen: list[Chosen] = []
        self.forget()
        while (start := self._engine.next_start()) is not None or self._may_propose():
            if len(chosen) == _N_STARTS:
                self._look_in(_STARTS_PAUSE_S)
                break
            if start is not None and start.attempt > 0:
                # the attempt before may have failed for want of room a moment ago
                self._disk.forget()
            if (full := self._disk.why_full()) is not None:
                self._look_in(_DISK_LOOK_S)
                self.waiting_for = full
                self.disk_is_full = True
                break
            sha256 = self._files.script_sha256()
            if sha256 is None:
                self._look_in(_SCRIPT_LOOK_S)
                self.waiting_for = f"the script {self._settings.script} is not there"
                break
            found = self._lease() or self._lease_for_new()
            if found is None:
                self.lacks_slot = True
                self._look_later()
                break
            chosen.append(self._begin(*found, sha256))
        self._waits_long = self._waits_long and self.lacks_slot and not chosen
        return chosen

    def take_events(self) -> list[IdProposed | JobStarted]:
        """What was decided since the last call, in order, for the journal."""
        events, self._events = self._events, []
        return events

    def take_decisions(self) -> list[Decision]:
        """What the engine decided when it heard of starts since the last call, in order."""
        decisions, self._decisions = self._decisions, []
        return decisions

    def forget(self) -> None:
        """Nothing is to be started any more."""
        self.look_at_s = self.waiting_for = None
        self.disk_is_full = self.lacks_slot = False

    def _begin(self, start: Start, lease: Lease, sha256: str) -> Chosen:
        started = JobStarted(
            at=time.time(),
            job=start.job,
            attempt=start.attempt,
            trial=start.trial,
            rung=start.rung,
            epochs=start.epochs,
            slot=lease.slot.name,
            several_gpus=len(lease.slot.gpu_uuids) > 1,
            script_sha256=sha256,
            host=self._host_name,
            gpu_uuids=lease.slot.gpu_uuids,
        )
        self._home_until_s.pop(start.job, None)
        self._decisions += self._engine.handle(started)
        self._events.append(started)
        self._health.see(started)
        self._packing.see(started)
        return Chosen(start, lease, started)

    def _lease(self) -> tuple[Start, Lease] | None:
        """Lease a slot for the first job in the engine's order that gets one."""
        refused: set[Wish] = set()
        for start in self._engine.starts():
            if start.alone and self._settings.multi_gpu and not start.lost_on_several_gpus:
                several = self._slots.take_all(self._closed())
                if several is not None:
                    return start, several
            wishes = self._wishes(start)
            at_home = self._at_home(start, wishes)
            lease = self._take(at_home or wishes, refused)
            if lease is None and at_home and (lease := self._take(wishes, refused)) is not None:
                now_s = time.monotonic()
                if now_s < self._home_until_s.setdefault(start.job, now_s + HOME_S):
                    self._give_back(lease)
                    continue
            if lease is not None:
                return start, lease
        return None

    def _take(self, wishes: list[Wish], refused: set[Wish]) -> Lease | None:
        """Lease a slot that grants one of these wishes, the first ones first; note those that none does."""
        for wish in wishes:
            if wish in refused:
                continue
            if (lease := self._slots.take(wish)) is not None:
                return lease
            refused.add(wish)
        return None

    def _may_propose(self, *, past_retries: bool = False) -> bool:
        """Whether a new trial would start next, and can have its config id now."""
        return self._engine.wants_id(past_retries=past_retries) and self._ids.can_propose

    def _lease_for_new(self) -> tuple[Start, Lease] | None:
        """Lease a slot for a new trial, and only then choose its config id: the later, the more is known."""
        if not self._may_propose(past_retries=True):
            return None
        wish = NO_WISH
        if self._settings.jobs_per_gpu is None:
            plan = self._engine.plan
            epochs = _first_epochs(plan, self._n_trials())
            wish = room_wish(self._settings, self._packing, epochs)
        wish = self._timed(wish, _first_epochs(self._engine.plan, self._n_trials()))
        lease = self._slots.take(replace(wish, avoid=self._closed()))
        if lease is None:
            return None
        event = self._ids.propose()
        self._engine.handle(event)
        self._events.append(event)
        *_, start = self._engine.starts()
        if start.alone and self._settings.multi_gpu:
            # it can have several GPUs, by the way that all such starts go
            self._give_back(lease)
            return self._lease()
        return start, lease

    def _give_back(self, lease: Lease) -> None:
        for descriptor in lease.descriptors:
            os.close(descriptor)
        self._slots.release(lease)

    def _wishes(self, start: Start) -> list[Wish]:
        """What the job would like, best first; what it cannot have at all is not among it."""
        closed = self._closed()
        room = self._timed(
            room_wish(self._settings, self._packing, start.epochs),
            start.epochs - epochs_before(self._engine, start),
        )
        anywhere = replace(room, avoid=closed)
        if start.out_of_memory:
            return [replace(anywhere, whole=True, most_memory=True)]
        shunned = closed | self._slots_at({*map(place_of, start.failed_on)})
        others = {*self._slots.names()} - shunned
        if not start.failed_on or not others:
            return [anywhere]
        elsewhere = replace(anywhere, avoid=shunned)
        # another slot is worth waiting for only while a job of ours will give it back
        used = {running.slot for running in self._engine.running()}
        return [elsewhere] if others & used else [elsewhere, anywhere]

    def _at_home(self, start: Start, wishes: list[Wish]) -> list[Wish]:
        """What the job would like where its trial's checkpoint is; empty: that is everywhere, or nowhere."""
        near = self._near(start.trial)
        # those that are all closed are not waited for
        if near is None or (near and near <= wishes[0].avoid):
            return []
        far = frozenset(self._slots.names()) - near
        return [replace(wish, avoid=wish.avoid | far) for wish in wishes]

    def _n_trials(self) -> int:
        """How many trials have their config id."""
        return self._engine.plan.n_trials - self._engine.n_ids_wanted()

    def _timed(self, wish: Wish, n_epochs: int) -> Wish:
        return wish if self._expected_s is None else replace(wish, expected_s=self._expected_s(n_epochs))

    def _closed(self) -> frozenset[str]:
        """Slots that no job gets."""
        return self._slots_at(self._health.held_back(time.time()).keys() | self._health.quarantined.keys())

    def _slots_at(self, places: Set[str]) -> frozenset[str]:
        if not places:
            return frozenset()
        return frozenset(name for name in self._slots.names() if place_of(name) in places)

    def _look_in(self, wait_s: float) -> None:
        self.look_at_s = time.monotonic() + wait_s

    def _look_later(self) -> None:
        """Note when the slots are worth another look, and what is waited for, if that is worth telling."""
        look_s = self._slots.next_look_s()
        now = time.time()
        waits_s = [look_s, *(until_at - now for until_at in self._health.held_back(now).values())]
        now_s = time.monotonic()
        waits_s += [until_s - now_s for until_s in self._home_until_s.values() if until_s > now_s]
        if (soonest_s := earliest(waits_s)) is not None:
            self._look_in(soonest_s)
        # shorter waits are for what our own jobs are just giving back; of closed slots it was told
        self._waits_long = self._waits_long or (look_s is not None and look_s >= _WORTH_TELLING_S)
        if look_s is None or not self._waits_long:
            return
        if self._engine.n_running < self._slots.n_slots() - len(self._closed()):
            self.waiting_for = self._slots.why_none()


def _first_epochs(plan: Plan, trial: int) -> int:
    """To how many epochs a trial is trained first."""
    for bracket in plan.brackets:
        if trial < bracket.rungs[0].n:
            return bracket.rungs[0].epochs
        trial -= bracket.rungs[0].n
    return plan.max_epochs
