"""The slots that a search holds in a Ray cluster.

Owns what is known of them from Ray's side of the search (ray_link.py), and how many are asked for. Must not
know: how a job is run at one.
"""

import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperband.errors import InternalError, MachineError
from hyperband.launch.allocation_events import Place
from hyperband.launch.base import NO_WISH, Lease, Observation, Slot, Wish
from hyperband.launch.environment import THREAD_VARIABLES
from hyperband.launch.ray_files import RayFiles
from hyperband.launch.ray_link import RayLink, default_environment
from hyperband.launch.ray_words import GIVE_UP_S, Join
from hyperband.launch.slurm_starts import FailedStarts

#: a slot that nothing waits for is given back after so long
IDLE_S = 60.0
#: between tries to join a cluster again: at first, and in the end
_FIRST_TRY_S, _LAST_TRY_S = 1.0, 30.0
#: patience with the end of slots
_END_S = 40.0
#: so many slots in a row that cannot be made ready are no accident
_N_UNFIT = 3


@dataclass(slots=True)
class _Held:
    """A slot that is there."""

    key: str
    slot: Slot
    #: what runs there; empty: nothing does
    attempt: str
    #: since when nothing does, on the monotonic clock
    free_since_s: float


@dataclass(frozen=True, slots=True)
class Over:
    """An attempt whose keeper has ended, or whose slot has."""

    attempt: str
    #: what was said of it
    said: str


class RaySlots:
    """Slots `NODE:gpuK/KEY` and `NODE:cpu/KEY`. `open` first; before that only `describe` and `n_slots`."""

    def __init__(
        self,
        address: str,
        resources: Mapping[str, float],
        *,
        token: Path | None,
        max_slots: int | None,
    ) -> None:
        """Start nothing yet.

        Args:
            address: `auto` or HOST:PORT.
            resources: of one slot, as far as they were said.
            token: file with the cluster's token.
            max_slots: jobs at once; None: as many as there is room for.
        """
        self._address = address
        self._resources = dict(resources)
        self._token = token
        self._max_slots = max_slots
        self._capacity = 0
        self._held: dict[str, _Held] = {}
        #: by the name of its slot
        self._leases: dict[str, Lease] = {}
        #: which attempt a slot was given, by its name
        self._attempts: dict[str, str] = {}
        self._starts = FailedStarts()
        self._news: list[str] = []
        self._over: list[Over] = []
        self._lost: list[tuple[str, str]] = []
        self._met: list[tuple[str, str]] = []
        #: slots in a row for which Ray could not make ready what travels to nodes
        self._n_unfit = 0
        #: found slots that have not said where they are
        self._unmet: set[str] | None = None
        self._has_joined = False
        self._is_silent = False
        self._trouble = ""
        self._warned: set[str] = set()
        self._try_at_s: float | None = None
        self._try_s = _FIRST_TRY_S
        self._n_waiting = 0
        self._n_asked = 0
        self._n_ended: int | None = None
        self._failure: MachineError | None = None
        self._open: tuple[RayLink, RayFiles] | None = None
        self._sent: Mapping[str, Any] | None = None

    def open(self, files: RayFiles, sent: Mapping[str, Any] | None = None) -> None:
        """Begin to join the cluster; sent: what travels to its nodes, see ray_words.Join."""
        self._sent = sent
        self._open = RayLink(files.log), files
        self._join()

    # What the search asks of slots.

    def describe(self) -> str:
        """One line: which cluster, and what a slot takes of it."""
        takes = ", ".join(f"{amount:g} {name}" for name, amount in self._resources.items() if amount > 0)
        most = "" if self._max_slots is None else f"up to {self._max_slots} slots, "
        return f"Ray at {self._address}: {most}{takes or 'a GPU, where there are any,'} each"

    def n_slots(self) -> int:
        """How many jobs may run at once if nobody else uses the cluster."""
        n_slots = max(1, self._capacity)
        return n_slots if self._max_slots is None else min(n_slots, self._max_slots)

    def take(self, wish: Wish) -> Lease | None:
        """Lease a free slot that the wish does not avoid."""
        now_s = time.monotonic()
        if self._max_slots is not None and len(self._leases) >= self._max_slots:
            return None
        for held in self._held.values():
            name = held.slot.name
            is_free = not held.attempt and name not in self._leases and name not in wish.avoid
            if is_free and not self._starts.are_held_back(_place(held.key), now_s):
                self._leases[name] = Lease(held.slot, ())
                return self._leases[name]
        return None

    def names(self) -> tuple[str, ...]:
        """Every slot that is there."""
        return tuple(held.slot.name for held in self._held.values())

    def take_all(self, avoid: frozenset[str] = frozenset()) -> Lease | None:  # noqa: ARG002
        """Never: what a job has of a node is said by its resources."""
        return None

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:  # noqa: ARG002
        """Count a slot as used by a job of an earlier search, also before it was found again.

        Raises:
            InternalError: it is taken.
        """
        if slot_name in self._leases:
            raise InternalError(
                f"Slot {slot_name} cannot be adopted. This is a bug of ours: please report it."
            )
        self._leases[slot_name] = Lease(Slot(slot_name, (), {}), ())
        return self._leases[slot_name]

    def release(self, lease: Lease) -> None:
        """Count the slot as free.

        Raises:
            InternalError: it was not taken.
        """
        name = lease.slot.name
        if self._leases.pop(name, None) is None:
            raise InternalError(f"Slot {name} was released but not taken: please report it.")
        self._attempts.pop(name, None)
        for held in self._held.values():
            if held.slot.name == name:
                held.free_since_s = time.monotonic()

    def observe(self, lease: Lease, belongs: Callable[[int], bool]) -> Observation:  # noqa: ARG002
        """Nothing: its GPU is on another machine."""
        return Observation()

    def news(self) -> tuple[str, ...]:
        """What happened to the cluster since the last call."""
        news, self._news = self._news, []
        return tuple(news)

    def is_lost(self, lease: Lease) -> bool:  # noqa: ARG002 (of a GPU on another machine its job tells)
        """False."""
        return False

    def next_look_s(self) -> float | None:
        """Seconds after which a slot may be free that was held back; of all else the grounds tell."""
        return self._starts.wait_s(time.monotonic())

    def why_none(self) -> str:
        """One line: what the search waits for."""
        if words := self._starts.words(time.monotonic()):
            return words
        if self._trouble:
            return f"Ray at {self._address} is away: {self._trouble}"
        if not self._has_joined:
            return f"joining Ray at {self._address}"
        if self._is_silent:
            return f"Ray's head at {self._address} does not answer"
        if self._capacity == 0:
            return "no node of the Ray cluster has what a slot takes"
        return "Ray has not given the slots yet: others use the cluster"

    # What the grounds and the launcher ask.

    @property
    def link(self) -> RayLink:
        """Its descriptor is readable when there is something to heed."""
        return self._opened()[0]

    @property
    def failure(self) -> MachineError | None:
        """Why there will be no slots any more."""
        return self._failure

    def heed(self) -> None:
        """Take in what Ray's side said; join again if it is gone.

        Raises:
            MachineError: it cannot be started again.
        """
        for words in self.link.heard():
            self._hear(words)
        if self._try_at_s is not None and time.monotonic() >= self._try_at_s:
            self._try_at_s = None
            self._join()
        self._ask()

    def want(self, n_jobs: int) -> None:
        """Hear how many jobs wait for a slot."""
        self._n_waiting = n_jobs
        self._ask()

    def wait_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing is said; None: never."""
        now_s = time.monotonic()
        waits_s = [] if self._try_at_s is None else [self._try_at_s - now_s]
        if self._n_waiting == 0:
            waits_s += [held.free_since_s + IDLE_S - now_s for held in self._idle()]
        return max(0.0, min(waits_s)) if waits_s else None

    def take_over(self) -> list[Over]:
        """Return the attempts whose keepers ended since the last call."""
        over, self._over = self._over, []
        return over

    def take_lost(self) -> list[tuple[str, str]]:
        """Return the names of taken slots that were lost since the last call, and how.

        With an empty name: what was on its way to any slot may have been lost.
        """
        lost, self._lost = self._lost, []
        return lost

    def key_of(self, name: str) -> str | None:
        """Return what Ray's side calls a slot; None: it is not there."""
        return next((held.key for held in self._held.values() if held.slot.name == name), None)

    def take_met(self) -> list[tuple[str, str]]:
        """Return the names of slots that were found since the last call with an attempt there, and which."""
        met, self._met = self._met, []
        return met

    def begin(self, name: str, folder: str, attempt: str, order: Mapping[str, Any] | None = None) -> bool:
        """Have an attempt run at a slot; return False if it is not there.

        order: all of it, where the slot cannot read the folder.
        """
        key = self.key_of(name)
        words = {"op": "run", "key": key, "folder": folder, "attempt": attempt}
        if key is None or not self.link.say(words if order is None else {**words, "order": order}):
            return False
        self._held[key].attempt = attempt
        self._attempts[name] = attempt
        return True

    def tell(self, name: str, attempt: str, line: str) -> bool:
        """Hand a word on to the keeper of an attempt; return False if nobody can."""
        key = self.key_of(name)
        return key is not None and self.link.say({"op": "tell", "key": key, "attempt": attempt, "line": line})

    def note_failed_start(self, name: str, words: str) -> None:
        """Hear that a job could not be started at a slot."""
        if (key := self.key_of(name)) is not None:
            self._starts.note(_place(key), words, time.monotonic(), is_ending=False)
            words_of_fault = self._starts.judge(lambda place: place.job_id in self._held)
            if words_of_fault is not None:
                self._failure = self._failure or MachineError(
                    f"jobs cannot be started on slots that Ray gave: {words_of_fault}. Mend it (the study's "
                    "folder and the script must be at the same path on every node), and start the same "
                    "command again: the search goes on where it is"
                )

    def note_run(self, name: str) -> None:
        """Hear that a job ran at a slot to its end."""
        if (key := self.key_of(name)) is not None:
            self._starts.forget(_place(key))

    def end(self) -> list[str]:
        """Give every slot back; return what must be said if that fails."""
        if self._open is None:
            return []
        link, files = self._open
        words = self._trouble or ("" if self._has_joined else "it was not joined")
        if not words and link.say({"op": "end"}):
            until_s = time.monotonic() + _END_S
            while self._n_ended is None and link.is_open and (left_s := until_s - time.monotonic()) > 0:
                select.select([link], [], [], left_s)
                for said in link.heard():
                    self._hear(said)
            words = self._trouble or "it did not answer in time"
        if self._n_ended is not None or (files.is_new and not self._has_joined):
            files.clear()
            return []
        return [
            f"The slots in Ray at {self._address} could not be given back ({words}); they end by themselves "
            f"after {GIVE_UP_S:g} s without a search, or by `hyperband stop {files.study}`."
        ]

    def close(self) -> None:
        """Leave the cluster; slots and jobs go on."""
        if self._open is not None:
            self._open[0].close()
            self._open = None

    # Inside.

    def _opened(self) -> tuple[RayLink, RayFiles]:
        if self._open is None:
            raise InternalError("Ray's slots were used before they were opened: please report it.")
        return self._open

    def _join(self) -> None:
        link, files = self._opened()
        join = Join(self._address, files.name, self._resources, str(files.script), self._sent)
        link.open(join, default_environment(self._token))
        self._n_asked = 0

    def _hear(self, words: Mapping[str, Any]) -> None:
        match words["at"]:
            case "joined":
                self._note_joined(words)
            case "refused":
                self._trouble = words["words"]
                if not self._has_joined:
                    self._failure = self._failure or MachineError(
                        f"cannot join Ray at {self._address}: {self._trouble}. Is it running, and is its "
                        "token right (--ray-token)? Then start the same command again"
                    )
            case "failed":
                self._trouble = words["words"]
            case "closed":
                self._note_closed()
            case "silent":
                self._is_silent = words["is_silent"]
                verb = "does not answer" if self._is_silent else "answers again"
                self._news.append(f"Ray's head at {self._address} {verb}")
            case "capacity":
                self._capacity = words["n_slots"]
                n_nodes = words["n_nodes"]
                self._news.append(
                    f"Ray: {n_nodes} node{'s' if n_nodes != 1 else ''}, room for {self._capacity} "
                    f"slot{'s' if self._capacity != 1 else ''}"
                )
            case "found":
                self._unmet = set(words["keys"])
                self._settle("")
            case "slot":
                self._note_slot(words)
            case "unfit":
                self._note_unfit(words["words"])
            case "gone":
                self._note_gone(words["key"], words["words"])
            case "over":
                self._note_over(words)
            case "ended":
                self._n_ended = words["n"]

    def _note_joined(self, words: Mapping[str, Any]) -> None:
        again = " again" if self._has_joined else ""
        self._has_joined, self._trouble, self._is_silent = True, "", False
        self._try_s = _FIRST_TRY_S
        # a cluster that has lost its GPUs for a moment must not change what a slot is
        self._resources = dict(words["resources"])
        self._news.append(
            f"joined Ray {words['version']} at {words['address']}{again}; each slot takes "
            + ", ".join(f"{amount:g} {name}" for name, amount in self._resources.items() if amount > 0)
        )
        if not words["has_token"]:
            self._warn(
                "Warning: this Ray cluster asks for no token: whoever reaches its ports runs what he likes "
                "as its user. Start Ray with RAY_AUTH_MODE=token, and give --ray-token FILE."
            )

    def _note_closed(self) -> None:
        """Ray's side has ended: jobs go on as long as their slots do, of which we know nothing."""
        self._held.clear()
        self._unmet = None
        self._lost.append(("", "Ray's side of the search ended before it was begun"))
        if self._failure is not None or self._n_ended is not None:
            return
        self._trouble = self._trouble or "it ended our side of it, as it does where its head is gone"
        self._news.append(
            f"Ray at {self._address} is away: {self._trouble}; the search waits, and joins again in "
            f"{self._try_s:g} s"
        )
        self._try_at_s = time.monotonic() + self._try_s
        self._try_s = min(_LAST_TRY_S, 2 * self._try_s)

    def _note_slot(self, words: Mapping[str, Any]) -> None:
        key, name = words["key"], words["name"]
        has_gpu = self._resources.get("GPU", 0.0) > 0
        environment: dict[str, str | None] = {} if has_gpu else {"CUDA_VISIBLE_DEVICES": ""}
        has_several = has_gpu and "," in words["gpus"]
        arguments = ("--multi_gpu",) if has_several else ("--gpu", "0")
        if THREAD_VARIABLES[0] not in os.environ:
            n_cpus = self._resources.get("CPU", 0.0)
            share = n_cpus if n_cpus >= 1 and has_gpu else words["n_cpus"] // max(1, words["n_on_node"])
            environment |= {
                variable: str(max(1, int(share)))
                for variable in THREAD_VARIABLES
                if variable not in os.environ
            }
        slot = Slot(name, arguments, environment)
        self._held[key] = _Held(key, slot, words["attempt"], time.monotonic())
        self._n_unfit = 0
        if words["attempt"]:
            self._met.append((name, words["attempt"]))
        node = words["host"]
        if not words["has_keepalive"]:
            self._warn(
                f"Warning: Ray on {node} was started without RAY_grpc_client_keepalive_time_ms=5000 and "
                "RAY_grpc_client_keepalive_timeout_ms=5000: Ray itself may notice only after minutes that a "
                "machine is cut off."
            )
        if words["nice"] > 0:
            self._warn(
                f"Warning: Ray runs jobs on {node} with niceness {words['nice']}; start it with "
                "RAY_worker_niceness=0 where nothing else is to be preferred."
            )
        if name in self._leases and name not in self._attempts and not words["attempt"]:
            self._lost.append((name, "nothing runs at its slot any more"))
        elif name in self._attempts and self._attempts[name] != words["attempt"]:
            self._lost.append((name, "nothing of it runs at its slot any more"))
        self._settle(key)

    def _note_unfit(self, words: str) -> None:
        self._n_unfit += 1
        self._warn(f"Warning: Ray could not make a node ready for jobs, and tries again: {words}")
        if self._n_unfit >= _N_UNFIT:
            self._failure = self._failure or MachineError(
                f"Ray cannot make ready on its nodes what travels there: {words}. Mend --ray-runtime-env, or "
                "the nodes, and start the same command again: the search goes on where it is"
            )

    def _note_gone(self, key: str, words: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._news.append(f"the slot {held.slot.name} is gone: {words}")
            if held.slot.name in self._leases:
                self._lost.append((held.slot.name, f"its slot is gone from Ray: {words}"))
        self._settle(key)

    def _note_over(self, words: Mapping[str, Any]) -> None:
        for held in self._held.values():
            if held.attempt == words["attempt"]:
                held.attempt = ""
                held.free_since_s = time.monotonic()
        self._over.append(Over(words["attempt"], words["said"]))

    def _settle(self, key: str) -> None:
        """When all slots of an earlier time were met, those that are missing are lost."""
        if self._unmet is None:
            return
        self._unmet.discard(key)
        if not self._unmet:
            self._unmet = None
            there = set(self.names())
            self._lost += [(name, "its slot is gone from Ray") for name in self._leases if name not in there]

    def _idle(self) -> list[_Held]:
        leased = self._leases
        return [held for held in self._held.values() if not held.attempt and held.slot.name not in leased]

    def _ask(self) -> None:
        """Ask for as many slots as can be used; give back those that nothing waits for."""
        n_wanted = len(self._leases) + self._n_waiting
        if self._max_slots is not None:
            n_wanted = min(n_wanted, self._max_slots)
        if self._has_joined and n_wanted != self._n_asked and self.link.say({"op": "want", "n": n_wanted}):
            self._n_asked = n_wanted
        if self._n_waiting == 0:
            now_s = time.monotonic()
            for held in [one for one in self._idle() if now_s >= one.free_since_s + IDLE_S]:
                del self._held[held.key]
                self.link.say({"op": "drop", "key": held.key})
                self._news.append(f"the slot {held.slot.name} is given back: nothing waits for it")

    def _warn(self, words: str) -> None:
        if words not in self._warned:
            self._warned.add(words)
            self._news.append(words)


def _place(key: str) -> Place:
    """Return what failed starts are counted by."""
    return Place(key, "", 0)
