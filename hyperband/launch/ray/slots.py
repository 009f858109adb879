"""The slots that a search holds in a Ray cluster: what was decided of them, carried out.

Owns the line to Ray's side of the search (link.py). Whether the cluster is there is decided in
joining.py, who has which slot in holdings.py, where some may come yet in coming.py. Must not know: how a
job is run at one.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperband.errors import HyperbandError, InternalError
from hyperband.launch.base import NO_WISH, Lease, Wish
from hyperband.launch.environment import THREAD_VARIABLES
from hyperband.launch.ray.coming import Coming
from hyperband.launch.ray.files import RayFiles
from hyperband.launch.ray.holdings import Holdings, Over
from hyperband.launch.ray.joining import Joining
from hyperband.launch.ray.link import RayLink, default_environment
from hyperband.launch.ray.words import GIVE_UP_S, LOCAL, Join, described, named, slot_of, warnings_of
from hyperband.launch.remote.slots import RemoteSlots
from hyperband.machine.process import wait_for_end
from hyperband.report.text import counted

#: patience with the end of slots
_END_S = 40.0
#: so many slots in a row that cannot be made ready are no accident
_N_UNFIT = 3
#: what is waited for is said when no slot came for so long
_SLOW_S = 10.0


class RaySlots(RemoteSlots):
    """Slots `NODE:gpuK/KEY` and `NODE:cpu/KEY`; see RemoteSlots."""

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
            address: `auto`, `local` or HOST:PORT.
            resources: of one slot, as far as they were said.
            token: file with the cluster's token.
            max_slots: jobs at once; None: as many as there is room for.
        """
        super().__init__()
        self._address = address
        self._resources = dict(resources)
        #: of a slot as it was asked for
        self._asked = json.dumps(sorted(self._resources.items()))
        self._token = token
        self._max_slots = max_slots
        self._joining = Joining(address, token)
        self._holdings = Holdings(max_slots)
        self._coming = Coming()
        #: slots in a row for which Ray could not make ready what travels to nodes
        self._n_unfit = 0
        self._warned: set[str] = set()
        self._n_waiting = 0
        self._n_asked = 0
        self._n_ended: int | None = None
        self._open: tuple[RayLink, RayFiles] | None = None
        self._sent: Mapping[str, Any] | None = None
        self._makes: Sequence[str] = ()
        #: since when none of the slots that were asked for is there; None: it is not so
        self._without_s: float | None = None
        self._has_said_slow = False

    def open(self, files: RayFiles, sent: Mapping[str, Any] | None = None, makes: Sequence[str] = ()) -> None:
        """Begin to join the cluster.

        Args:
            files: of the study.
            sent: what travels to its nodes, see words.Join.
            makes: what of --ray-runtime-env a node has to make before a slot begins there.
        """
        self._sent = sent
        self._makes = makes
        self._open = RayLink(files.log), files
        self._joining.log = str(files.log)
        self._news += self._joining.begin(time.monotonic())
        self._join()

    # What the search asks of slots.

    def describe(self) -> str:
        """One line: which cluster, and what a slot takes of it."""
        most = "slots" if self._max_slots is None else f"up to {counted(self._max_slots, 'slot')}"
        return f"{named(self._address)}: {most}, each with {described(self._resources)}"

    def n_slots(self) -> int:
        """How many jobs may run at once if nobody else uses the cluster."""
        n_slots = max(1, self._joining.capacity)
        return n_slots if self._max_slots is None else min(n_slots, self._max_slots)

    def take(self, wish: Wish) -> Lease | None:
        """Lease a free slot that the wish does not avoid."""
        return self._holdings.take(wish, time.monotonic())

    def names(self) -> tuple[str, ...]:
        """Every slot that is there."""
        return self._holdings.names()

    def adopt(self, slot_name: str, wish: Wish = NO_WISH) -> Lease:  # noqa: ARG002
        """Count a slot as used by a job of an earlier search, also before it was found again.

        Raises:
            InternalError: it is taken.
        """
        return self._holdings.adopt(slot_name)

    def release(self, lease: Lease) -> None:
        """Count the slot as free.

        Raises:
            InternalError: it was not taken.
        """
        self._holdings.release(lease.slot.name, time.monotonic())

    def next_look_s(self) -> float | None:
        """Seconds after which a slot may be free that was held back; of all else the grounds tell."""
        return self._holdings.held_back_s(time.monotonic())

    def why_none(self) -> str:
        """One line: what the search waits for."""
        words = self._holdings.why_held_back(time.monotonic()) or self._joining.why_none()
        if not words and self._makes and not self._holdings.names():
            return f"Ray makes what --ray-runtime-env names under {' and '.join(self._makes)}, on its nodes"
        return words or "Ray has not given a slot yet: they are made, or others use the cluster"

    def why_waiting(self) -> str:
        """Nothing: a slot is there before its job starts."""
        return ""

    # What the grounds and the launcher ask.

    @property
    def link(self) -> RayLink:
        """Its descriptor is readable when there is something to heed."""
        return self._opened()[0]

    @property
    def failure(self) -> HyperbandError | None:
        """Why there will be no slots any more."""
        return self._failure or self._joining.failure

    def heed(self) -> None:
        """Take in what Ray's side said; join again if it is gone.

        Raises:
            MachineError: it cannot be started again.
        """
        for words in self.link.heard():
            self._hear(words)
        self._coming.settle(time.monotonic())
        self._news += self._joining.look(time.monotonic())
        self._heed_slow(time.monotonic())
        if self._joining.is_due(time.monotonic()):
            self._join()
        self._ask()

    def want(self, n_jobs: int) -> None:
        """Hear how many jobs wait for a slot."""
        self._n_waiting = n_jobs
        self._ask()
        n_wanted = self._holdings.n_wanted(n_jobs)
        self._coming.look(n_wanted, len(self._holdings.names()), time.monotonic())

    def may_come(self, node: str) -> bool:
        """Return whether slots of a node may come yet: they were asked for, and are being made."""
        return self._coming.may_come(node, len(self._holdings.names()))

    def wait_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing is said; None: never."""
        now_s = time.monotonic()
        slow_at_s = None if self._without_s is None else self._without_s + _SLOW_S
        look_at_s = (self._joining.try_at_s, self._joining.look_at_s(), slow_at_s)
        waits_s = [max(0.0, at_s - now_s) for at_s in look_at_s if at_s is not None]
        if self._n_waiting == 0 and (surplus_s := self._holdings.surplus_in_s(now_s)) is not None:
            waits_s.append(surplus_s)
        if (coming_s := self._coming.over_in_s(now_s)) is not None:
            waits_s.append(coming_s)
        return min(waits_s, default=None)

    def take_over(self) -> list[Over]:
        """Return the attempts whose keepers ended since the last call."""
        return self._holdings.take_over()

    def take_lost(self) -> list[tuple[str, str]]:
        """Return the names of taken slots that were lost since the last call, and how; see Holdings."""
        return self._holdings.take_lost()

    def take_met(self) -> list[tuple[str, str]]:
        """Return the names of slots that were found since the last call with an attempt there, and which."""
        return self._holdings.take_met()

    def begin(self, name: str, folder: str, attempt: str, order: Mapping[str, Any] | None = None) -> bool:
        """Have an attempt run at a slot; return False if it is not there.

        order: all of it, where the slot cannot read the folder.
        """
        key = self._holdings.key_of(name)
        words = {"op": "run", "key": key, "folder": folder, "attempt": attempt}
        if key is None or not self.link.say(words if order is None else {**words, "order": order}):
            return False
        self._holdings.begin(name, attempt)
        return True

    def tell(self, name: str, attempt: str, line: str) -> bool:
        """Hand a word on to the keeper of an attempt; return False if nobody can."""
        key = self._holdings.key_of(name)
        return key is not None and self.link.say({"op": "tell", "key": key, "attempt": attempt, "line": line})

    def distrust(self, name: str) -> None:
        """Hear that what ran at a slot was ended with it, whatever Ray says: have it ended for good."""
        if (key := self._holdings.drop(name)) is not None:
            self.link.say({"op": "drop", "key": key})

    def note_failed_start(self, name: str, words: str) -> None:
        """Hear that a job could not be started at a slot."""
        fault = self._holdings.note_failed_start(name, words, time.monotonic())
        if fault is not None:
            must = "the study's folder and the script must be at the same path on every node"
            if self._sent is not None:
                must = (
                    "--python, if it is given, must be there on every node, and --storage reachable from it"
                )
            self._fail(
                f"jobs cannot be started on slots that Ray gave: {fault}. Mend it ({must}), and start the "
                "same command again: the search goes on where it is"
            )

    def note_run(self, name: str) -> None:
        """Hear that a job ran at a slot to its end."""
        self._holdings.note_run(name)

    def end(self) -> list[str]:
        """Give every slot back; return what must be said if that fails."""
        if self._open is None:
            return []
        link, files = self._open
        has_joined = self._joining.has_joined
        words = self._joining.trouble or ("" if has_joined else "it was not joined")
        if not words and link.say({"op": "end"}):
            until_s = time.monotonic() + _END_S
            while self._n_ended is None and link.is_open and (left_s := until_s - time.monotonic()) > 0:
                wait_for_end(link.fileno(), left_s)
                for said in link.heard():
                    self._hear(said)
            words = self._joining.trouble or "it did not answer in time"
        if self._n_ended is not None or (files.is_new and not has_joined):
            files.clear()
            return []
        return [
            f"The slots in {named(self._address)} could not be given back ({words}); they end by themselves "
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
        folder = str(files.log.parent)
        mark = f"{'' if self._sent is None else self._sent['mark']} {self._asked}"
        script = str(files.script)
        join = Join(self._address, files.name, self._resources, script, folder, self._sent, mark=mark)
        link.open(join, default_environment(self._token))
        self._n_asked = 0

    def _hear(self, words: Mapping[str, Any]) -> None:
        now_s = time.monotonic()
        match words["at"]:
            case "closed":
                self._holdings.note_away()
                if self._n_ended is None:
                    self._news += self._joining.close(now_s)
            case "found":
                self._holdings.note_found(words["keys"])
            case "slot":
                self._note_slot(words, now_s)
            case "unfit":
                self._note_unfit(words["words"])
            case "gone":
                name = self._holdings.note_gone(words["key"], words["words"])
                if name is not None:
                    self._news.append(f"the slot {name} is gone: {words['words']}")
            case "over":
                self._holdings.note_over(words["attempt"], words["said"], now_s)
            case "ended":
                self._n_ended = words["n"]
            case _:
                self._news += self._joining.hear(words, now_s)
                if words["at"] == "capacity":
                    self._coming.note_nodes(words["n_on"])
                if words["at"] == "joined":
                    self._coming.note_joined(now_s)
                    # a cluster that has lost its GPUs for a moment must not change what a slot is
                    self._resources = dict(words["resources"])

    def _note_slot(self, words: Mapping[str, Any], now_s: float) -> None:
        share = {name for name in THREAD_VARIABLES if name not in os.environ}
        slot = slot_of(words, self._resources, share if THREAD_VARIABLES[0] in share else ())
        self._n_unfit = 0
        self._without_s = None
        warnings = warnings_of(words, is_ours=self._address == LOCAL)
        self._news += [line for line in warnings if line not in self._warned]
        self._warned.update(warnings)
        self._holdings.note_slot(words["key"], slot, words["attempt"], now_s)

    def _heed_slow(self, now_s: float) -> None:
        """Say once what is waited for where no slot comes for a while."""
        if self._without_s is None or now_s < self._without_s + _SLOW_S:
            return
        self._without_s, self._has_said_slow = None, True
        if self._makes and self._joining.capacity:
            self._news.append(
                f"no slot has begun for {_SLOW_S:g} s: Ray makes what --ray-runtime-env names under "
                f"{' and '.join(self._makes)} on its nodes, which may take minutes, and where that cannot be "
                "fetched, too; runtime_env_setup-*.log in Ray's logs on a node says how far it is"
            )
        elif self._joining.capacity:
            self._news.append(f"no slot has begun for {_SLOW_S:g} s: {self.why_none()}")

    def _note_unfit(self, words: str) -> None:
        self._n_unfit += 1
        line = f"Ray could not make a node ready for jobs, and tries again: {words}"
        if self._n_unfit == 1 and line not in self._warned:
            self._warned.add(line)
            self._news.append(line)
        # a node that is not fit is no reason to end what goes on at others
        if self._n_unfit >= _N_UNFIT and not self._holdings.names():
            self._fail(
                f"Ray cannot make ready on its nodes what travels there: {words}. Mend --ray-runtime-env, "
                "or the nodes, and start the same command again: the search goes on where it is"
            )

    def _ask(self) -> None:
        """Ask for as many slots as can be used; give back those that nothing waits for."""
        n_wanted = self._holdings.n_wanted(self._n_waiting)
        may_ask = self._joining.has_joined and n_wanted != self._n_asked
        if may_ask and self.link.say({"op": "want", "n": n_wanted}):
            self._n_asked = n_wanted
            if n_wanted and not self._has_said_slow and not self._holdings.names():
                self._without_s = self._without_s or time.monotonic()
        for held in self._holdings.give_up_beyond():
            self.link.say({"op": "drop", "key": held.key})
            self._news.append(f"the slot {held.slot.name} is given back: --max-slots is {self._max_slots}")
        if self._n_waiting == 0:
            for held in self._holdings.give_up_surplus(time.monotonic()):
                self.link.say({"op": "drop", "key": held.key})
                self._news.append(f"the slot {held.slot.name} is given back: nothing waits for it")
