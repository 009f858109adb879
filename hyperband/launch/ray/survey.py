"""What only Ray's head knows of a search's slots, asked beside the thread that talks with the search.

Owns the calls that may hang, since the head is away: which nodes there are, which actors are ours, new ones,
and the end of all. What it finds is told in the other thread (Listener). Must not know: what runs at a slot,
nor the search.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import ray
from ray.util import list_named_actors

from hyperband.launch.ray.words import GIVE_UP_S, NAMESPACE, Join, room_by_name

#: between looks at the cluster's nodes
SURVEY_S = 1.0
#: slots that are asked for at once, so that a wish that is withdrawn leaves few behind
_N_AT_ONCE = 16
#: patience with the end of slots
_END_S = 30.0
#: and before they are killed, where they were asked to leave
LEAVE_S = 5.0
#: calls of one slot that run at once: a job, the two that wait, and words
_N_CALLS = 8
#: after a slot that could not be made ready none is asked for, for so long at first, and at most
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0
#: Ray says nothing of types that would help here: handles have the methods of what they lead to
Handle: TypeAlias = Any


class Listener(Protocol):
    """Hears what is found, in its own thread."""

    def find(self, keys: Sequence[str]) -> None:
        """Hear which slots an earlier search left; each was told of by `add` before."""
        ...

    def add(self, key: str, handle: Handle) -> None:
        """Hear of an actor of ours, there or about to be."""
        ...

    def n_slots(self) -> int:
        """Return how many are there, or about to be."""
        ...

    def met(self) -> set[str]:
        """Return which of them have said that they are there; asked in the survey's thread."""
        ...

    def count_room(self, n_on: Mapping[str, int], n_nodes: int) -> None:
        """Hear for how many slots there is room, by the names of nodes, and on how many nodes."""
        ...

    def end(self, n_ended: int) -> None:
        """Hear that every slot has ended."""
        ...


class Survey:
    """Looks at the cluster until every slot is to end. All but `_run` and below is for the other thread."""

    def __init__(
        self, join: Join, actor: Handle, listener: Listener, call: Callable[[Callable[[], None]], None]
    ) -> None:
        """Ask nothing yet.

        Args:
            join: what a slot is.
            actor: the remote class of slots.
            listener: hears what is found.
            call: has something done in the listener's thread.
        """
        self._join = join
        self._actor = actor
        self._listener = listener
        self._call = call
        self._is_due = threading.Event()
        self._n_wanted = 0
        #: slots that there is room for, by the name of a node
        self._n_on: dict[str, int] | None = None
        #: when the head answered last
        self.answered_s = time.monotonic()
        self.is_ending = False
        #: slots that stay then
        self.spared: frozenset[str] = frozenset()
        #: nothing is created before, since that failed; and for how long it is not after the next failure
        self._create_at_s, self._pause_s = 0.0, _FIRST_PAUSE_S

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="survey", daemon=True).start()

    def hurry(self) -> None:
        """Look now."""
        self._is_due.set()

    def want(self, n_slots: int) -> None:
        """Have so many slots."""
        self._n_wanted = n_slots
        self.hurry()

    def end(self, but: frozenset[str]) -> None:
        """End every slot; but: but these, by their keys."""
        self.spared = but
        self.is_ending = True
        self.hurry()

    def n_on(self, node: str) -> int:
        """Return for how many slots there is room on a node; slots are added after nodes were looked at."""
        assert self._n_on is not None
        return self._n_on.get(node, 1)

    def note_fit(self) -> None:
        """Hear that a slot could be made ready."""
        self._pause_s = _FIRST_PAUSE_S

    def note_unfit(self) -> bool:
        """Hear that one could not; return False if it failed together with others that were told of."""
        now_s = time.monotonic()
        if now_s < self._create_at_s:
            return False
        self._create_at_s = now_s + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        return True

    def _run(self) -> None:
        try:
            self._look_at_nodes()
            self._find()
            while not self.is_ending:
                self._look()
                self._is_due.wait(SURVEY_S)
                self._is_due.clear()
            n_ended = self._end_all()
            self._call(lambda: self._listener.end(n_ended))
        except Exception as err:  # noqa: BLE001 (it goes on in the thread that talks with the search)
            error = err
            self._call(lambda: _raise(error))

    def _named(self) -> list[str]:
        """Names of the actors of this study that live, or are about to, but for those that stay."""
        named = list_named_actors(all_namespaces=True)
        names = [one["name"] for one in named if one["namespace"] == NAMESPACE]
        ours = [name for name in names if name.startswith(f"{self._join.study}/")]
        return [name for name in ours if name.rpartition("/")[2] not in self.spared]

    def _find(self) -> None:
        """Find the slots that an earlier search left."""
        keys: list[str] = []
        for name in self._named():
            key = name.rpartition("/")[2]
            # one that ended between the two
            with contextlib.suppress(ValueError):
                self._add(key, ray.get_actor(name, NAMESPACE))
                keys.append(key)
        self._call(lambda: self._listener.find(keys))

    def _add(self, key: str, handle: Handle) -> None:
        self._call(lambda: self._listener.add(key, handle))

    def _look(self) -> None:
        capacity = self._look_at_nodes()
        there = threading.Event()
        n_there = 0

        def count() -> None:
            nonlocal n_there
            n_there = self._listener.n_slots()
            there.set()

        self._call(count)
        there.wait()
        if time.monotonic() < self._create_at_s:
            return
        for _ in range(min(_N_AT_ONCE, min(self._n_wanted, capacity) - n_there)):
            self._create()

    def _look_at_nodes(self) -> int:
        """Return how many slots the cluster has room for if nobody else is there; tell of changes."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        named = ((node["NodeManagerHostname"], node["Resources"]) for node in nodes)
        n_on = room_by_name(named, self._join.resources)
        self.answered_s = time.monotonic()
        if n_on != self._n_on:
            self._n_on = n_on
            self._call(lambda: self._listener.count_room(n_on, len(nodes)))
        return sum(n_on.values())

    def _create(self) -> None:
        resources = dict(self._join.resources)
        options: dict[str, Any] = {"num_gpus": resources.pop("GPU", 0), "num_cpus": resources.pop("CPU", 0)}
        if (memory := resources.pop("memory", 0)) > 0:
            options["memory"] = memory
        key = uuid.uuid4().hex[:8]
        sent = self._join.sent
        what: tuple[Any, ...] = (self._join.script, GIVE_UP_S, self._join.mark)
        if sent is not None:
            what = (self._join.study, sent["files"], GIVE_UP_S, sent["lease_s"], self._join.mark)
        handle = self._actor.options(
            name=f"{self._join.study}/{key}",
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=0,
            max_concurrency=_N_CALLS,
            resources=resources,
            **options,
        ).remote(*what)
        self._add(key, handle)

    def _end_all(self) -> int:
        """End every slot of the study, and see them gone."""
        until_s = time.monotonic() + _END_S
        first = self._named()
        n_ended = len(first)
        kill_at_s = 0.0
        if self._join.sent is not None:
            # they have folders on their nodes to remove
            kill_at_s = time.monotonic() + LEAVE_S
            met = self._listener.met()
            for name in first:
                with contextlib.suppress(ValueError):
                    handle = ray.get_actor(name, NAMESPACE)
                    if name.rpartition("/")[2] in met:
                        handle.leave.remote()
                    else:
                        ray.kill(handle)  # it is being made still, and has nothing to remove
        while names := self._named():
            n_ended = max(n_ended, len(names))
            for name in names if time.monotonic() >= kill_at_s else ():
                with contextlib.suppress(ValueError):
                    ray.kill(ray.get_actor(name, NAMESPACE))
            if time.monotonic() > until_s:
                raise TimeoutError(f"{len(names)} of its slots did not end within {_END_S:g} s")
            self._is_due.wait(0.05)
        return n_ended


def _raise(error: Exception) -> None:
    raise error
