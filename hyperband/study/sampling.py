"""Config ids from the script's own sampler, in the background, as events for the journal."""

import os
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from hyperband.errors import InternalError, MachineError
from hyperband.script.host import ScriptHost
from hyperband.script.id_stream import Exhausted, Sampled
from hyperband.search.engine import Engine
from hyperband.search.events import Event, IdProposed, IdsDrawn, SpaceExhausted
from hyperband.search.trial import Plan
from hyperband.study.wake import HasDescriptor

#: a script host that was killed is started anew so often
N_STARTS = 3
#: draws that hold up the first job are told of after so long, and then again and again
_WORTH_TELLING_S = 2.0
_AGAIN_S = 10.0


class Ids(Protocol):
    """Where a search has its config ids from. Nothing here waits. One owner: the search's loop."""

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """What `receive` has something to do for when it becomes readable; it changes in `receive` only."""
        ...

    @property
    def is_awaited(self) -> bool:
        """Whether ids can be had, now or later, without anything else happening first."""
        ...

    @property
    def can_propose(self) -> bool:
        """Whether `propose` has an id to give."""
        ...

    def propose(self) -> IdProposed:
        """The id of the next new trial, chosen now; the engine must be fed it at once."""
        ...

    def receive(self) -> list[Event]:
        """What came in, as events that the engine must be fed at once and in this order.

        Raises:
            ContractError: the sampler raises or gives something that is no config id.
            MachineError: its process was killed again and again.
        """
        ...

    def see(self, event: Event) -> None:
        """Take in what has happened, after the journal has it; all events, in order."""
        ...

    def take_news(self) -> list[str]:
        """Lines for people, since the last call."""
        ...

    def wait_s(self) -> float | None:
        """Seconds until `can_propose` may change, or there is news, although nothing comes in, or None."""
        ...

    def owns(self, pid: int) -> bool:
        """Whether a process of this machine is the script's, imported to draw, or of its session."""
        ...

    def rest(self) -> None:
        """No new trial will start any more."""
        ...

    def close(self) -> None:
        """Let all processes go; a second call does nothing."""
        ...


class Sampling:
    """Draws until every trial of the plan has its config id; then lets the script's process go."""

    def __init__(self, open_host: Callable[[], ScriptHost], engine: Engine, seed: int) -> None:
        """Start to draw if ids are wanted.

        Args:
            open_host: starts a process that has imported the script; called again if that is killed.
            engine: tells which ids are there; not changed here.
            seed: of the search.
        """
        self._open_host = open_host
        self._engine = engine
        self._seed = seed
        self._n_starts = 0
        self._host: ScriptHost | None = None
        self._tell_at_s = time.monotonic() + _WORTH_TELLING_S
        if engine.n_ids_wanted() > 0:
            self._start()

    @property
    def watched(self) -> tuple[HasDescriptor, ...]:
        """The process that draws, until all ids are there."""
        return () if self._host is None else (self._host,)

    @property
    def is_awaited(self) -> bool:
        """Whether it still draws."""
        return self._host is not None

    @property
    def can_propose(self) -> bool:
        """False: all ids come by `receive`."""
        return False

    def propose(self) -> NoReturn:
        """Not here."""
        raise InternalError("ids that are drawn ahead are not proposed; please report this")

    def owns(self, pid: int) -> bool:
        """Return whether a process of this machine is the script's, imported to draw, or of its session."""
        return is_of_session(pid, self._host)

    def receive(self) -> list[Event]:
        """Return what came in; with the last id the script's process goes.

        Raises:
            ContractError, MachineError: as `Ids` says.
        """
        if self._host is None:
            return []
        try:
            found = self._host.receive()
        except MachineError:
            # killed from outside: the ids so far are there, the rest is the same whoever draws it
            if self._n_starts >= N_STARTS:
                raise
            self.close()
            self._start()
            return []
        events: list[Event] = []
        for message in found:
            if isinstance(message, Exhausted):
                events.append(SpaceExhausted(message.n_ids, self._engine.will_train_all(message.n_ids)))
            elif isinstance(message, Sampled):
                events.append(IdsDrawn(message.first, message.ids))
        if not self._host.is_sampling:
            self.close()
        return events

    def see(self, event: Event) -> None:
        """Nothing: what is drawn depends on nothing that happens."""

    def take_news(self) -> list[str]:
        """How far it is, as long as jobs wait for it."""
        now = time.monotonic()
        if not self._holds_up or now < self._tell_at_s:
            return []
        self._tell_at_s = now + _AGAIN_S
        n_ids, plan = len(self._engine.ids()), self._engine.plan
        n_needed = min(plan.n_trials, n_trainable(plan) + 1)
        return [
            f"Config ids are drawn before the first job starts: {n_ids:,} of {n_needed:,} so far. With fewer "
            "of them all would be trained to the full number of epochs."
        ]

    def wait_s(self) -> float | None:
        """Seconds until there is news although nothing comes in."""
        return max(0.0, self._tell_at_s - time.monotonic()) if self._holds_up else None

    def rest(self) -> None:
        """Nothing: ids that are drawn now are there when the search goes on another day."""

    def close(self) -> None:
        """Let the script's process go."""
        if self._host is not None:
            self._host.close()
            self._host = None

    @property
    def _holds_up(self) -> bool:
        """Whether the first job cannot start before more ids are there."""
        engine = self._engine
        if self._host is None or engine.progress().n_jobs_final > 0 or engine.n_running > 0:
            return False
        return len(engine.ids()) <= n_trainable(engine.plan) and engine.next_start() is None

    def _start(self) -> None:
        self._n_starts += 1
        ids = self._engine.ids()
        self._host = self._open_host()
        self._host.start_sampling(self._seed, len(ids), self._engine.n_ids_wanted(), ids)


def n_trainable(plan: Plan) -> int:
    """How many trials could be trained to the full number of epochs for the price of a plan."""
    limit = plan.max_total_epochs
    return (plan.epochs if limit is None else min(plan.epochs, limit)) // plan.max_epochs


def is_of_session(pid: int, host: ScriptHost | None) -> bool:
    """Whether a process of this machine is the script's, imported to draw, or of its session."""
    try:
        return host is not None and os.getsid(pid) == host.pid
    except (ProcessLookupError, PermissionError):
        return False
