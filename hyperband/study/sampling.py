"""Config ids from the script's own sampler, in the background, as events for the journal."""

import os
from collections.abc import Callable

from hyperband.errors import MachineError
from hyperband.script.host import Exhausted, Sampled, ScriptHost
from hyperband.search.engine import Engine
from hyperband.search.events import IdsDrawn, SpaceExhausted

#: a script host that was killed is started anew so often
_N_STARTS = 3


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
        if engine.n_ids_wanted() > 0:
            self._start()

    @property
    def host(self) -> ScriptHost | None:
        """The process that draws; None once all ids are there."""
        return self._host

    def owns(self, pid: int) -> bool:
        """Return whether a process of this machine is the script's, imported to draw, or of its session."""
        try:
            return self._host is not None and os.getsid(pid) == self._host.pid
        except (ProcessLookupError, PermissionError):
            return False

    def receive(self) -> list[IdsDrawn | SpaceExhausted]:
        """Return what came in, as events that the engine must be fed at once and in this order.

        Raises:
            ContractError: the sampler raises or gives something that is no config id.
            MachineError: its process was killed again and again.
        """
        assert self._host is not None
        try:
            found = self._host.receive()
        except MachineError:
            # killed from outside: the ids so far are there, the rest is the same whoever draws it
            if self._n_starts >= _N_STARTS:
                raise
            self.close()
            self._start()
            return []
        events: list[IdsDrawn | SpaceExhausted] = []
        for message in found:
            if isinstance(message, Exhausted):
                events.append(SpaceExhausted(message.n_ids, self._engine.will_train_all(message.n_ids)))
            elif isinstance(message, Sampled):
                events.append(IdsDrawn(message.first, message.ids))
        return events

    def close(self) -> None:
        """Let the script's process go."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _start(self) -> None:
        self._n_starts += 1
        ids = self._engine.ids()
        self._host = self._open_host()
        self._host.start_sampling(self._seed, len(ids), self._engine.n_ids_wanted(), ids)
