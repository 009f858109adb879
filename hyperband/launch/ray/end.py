"""Ending what a search that is gone still holds of a Ray cluster: its slots, by name.

Where nodes share no files with us, what ended there and was not fetched is fetched first, and what runs is
asked to stop, so that its end is known. A slot of which that cannot be had is left, and told of.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hyperband.errors import MachineError
from hyperband.folder import JOBS_FOLDER, RAY_FOLDER
from hyperband.launch.base import StopReason
from hyperband.launch.ray.files import Cluster, forget, log_of
from hyperband.launch.ray.link import RayLink, default_environment
from hyperband.launch.ray.local import LocalRay
from hyperband.launch.ray.words import GIVE_UP_S, LOCAL, Join
from hyperband.launch.remote.carrier import Carrier
from hyperband.launch.remote.files import Ordered, Sight, ending_of
from hyperband.machine.claim import ORDER_FILE, parse, read_fresh
from hyperband.machine.keeper import RESULT_FILE
from hyperband.machine.process import wait_for_end
from hyperband.report.text import counted

#: patience with Ray: with a wrong token it takes its time to say so
_END_S = 60.0
#: patience with slots that do not say what they have: with all, and further with those to which a job was
#: given whose end is not here (Ray takes half a minute to find out that a node is gone)
_GREET_S, _MEET_S = 2.0, 40.0
#: so many are named
_N_NAMED = 5
#: patience with what comes from slots, beyond the grace of a job
_FETCH_S = 60.0
#: a slot that is never asked for takes nothing
_NOTHING = {"GPU": 0.0, "CPU": 0.0}
#: nothing travels, and what is there counts whatever travelled with it
_WITHOUT_BAGGAGE: Mapping[str, Any] = {"runtime_env": None, "mark": None}


class UnfetchedError(MachineError):
    """What jobs left is at their slots still, and cannot be fetched; all other slots have ended."""


def shares_no_files(study: Path) -> bool:
    """Return whether a search that is gone holds slots on nodes that share no files with us."""
    cluster = Cluster.read(study)
    return cluster is not None and cluster.files == "sent"


def has_own_ray(study: Path) -> bool:
    """Return whether a search that is gone left a Ray of this machine, which it had started, or begun to."""
    cluster = Cluster.read(study)
    own = cluster is not None and cluster.address == LOCAL
    return own and LocalRay.find(study / RAY_FOLDER) is not None


def end_slots(study: Path, *, gives_up: bool = False, say: Callable[[str], None] = lambda _: None) -> int:
    """End the slots of a study and see them gone; return how many there were.

    Args:
        study: its folder.
        gives_up: end also those of which what jobs left cannot be fetched: it is lost.
        say: told what is waited for.

    Raises:
        UnfetchedError: results cannot be fetched from some of them; these were left, and will keep them.
        MachineError: Ray does not answer, or does not end them.
    """
    cluster = Cluster.read(study)
    if cluster is None:
        return 0
    with contextlib.closing(RayLink(log_of(study))) as link:
        n_ended = _Ending(link, cluster, study, say, gives_up=gives_up).run()
    forget(study)
    return n_ended


class _Ending:
    """One conversation with Ray's side, until all slots have ended."""

    def __init__(
        self, link: RayLink, cluster: Cluster, study: Path, say: Callable[[str], None], *, gives_up: bool
    ) -> None:
        self._link = link
        self._cluster = cluster
        self._study = study
        self._say = say
        self._gives_up = gives_up
        self._trouble = ""
        self._n_ended: int | None = None
        #: slots that are there; None: it is not known yet
        self._found: set[str] | None = None
        #: of which it is known what they have, or that they are gone
        self._met: set[str] = set()
        #: attempts of which something is still to come, and whose slots those are
        self._awaited: dict[str, str] = {}
        #: attempts that are not known to have ended, and whose slots they were given to
        self._missing: dict[str, str] = {}
        #: slots as the search called them, by their keys
        self._names: dict[str, str] = {}
        self._grace_s = 0.0

    def run(self) -> int:
        """Return how many slots were ended."""
        cluster = self._cluster
        token = None if cluster.token is None else Path(cluster.token)
        sent = _WITHOUT_BAGGAGE if cluster.files == "sent" else None
        folder = str(self._link.log.parent)
        join = Join(cluster.address, cluster.name, _NOTHING, "", folder, sent, may_start=False)
        self._link.open(join, default_environment(token))
        if sent is None or self._fetch():
            left = {} if self._gives_up else self._left()
            self._link.say({"op": "end", "but": sorted(left.values())})
            self._listen(_END_S, lambda: self._n_ended is not None)
            if self._n_ended is not None and left:
                raise UnfetchedError(self._said_of(left))
        if self._n_ended is not None:
            return self._n_ended
        raise MachineError(
            f"the slots of this study in Ray at {cluster.address} could not be ended: "
            f"{self._trouble or f'it did not answer within {_END_S:g} s'}. By themselves they end after "
            f"{GIVE_UP_S:g} s without a search, and with their cluster; start the same command again when "
            f"Ray answers, or, where that cluster is gone for good: hyperband stop --give-up {self._study}"
        )

    def _fetch(self) -> bool:
        """Have fetched what ended, and ended and fetched what runs; False: Ray does not say what there is."""
        self._look_for_missing()
        self._listen(_END_S, lambda: self._found is not None)
        if (found := self._found) is None:
            return False
        self._listen(_GREET_S, lambda: found <= self._met)
        # slots that are being made have nothing; those that are cut off may
        if (silent := self._silent()) and not self._gives_up:
            names = self._named(silent.values())
            self._say(
                f"Waiting for {names}, which may keep what a job left: given up after {_MEET_S:g} s. An "
                "interrupt leaves all slots, and what they keep, where they are."
            )
            self._listen(_MEET_S, lambda: not self._silent())
        # a slot gives what is carried for a job up after twice its grace
        self._listen(_FETCH_S + 2 * self._grace_s, lambda: not self._awaited)
        return True

    def _silent(self) -> dict[str, str]:
        """Return the attempts that slots may have which are there and say nothing, and those slots."""
        unmet = (self._found or set()) - self._met
        return {attempt: key for attempt, key in self._missing.items() if key in unmet}

    def _left(self) -> dict[str, str]:
        """Return the attempts that are at their slots still, and those slots."""
        return {**self._silent(), **self._awaited} if self._link.is_open else {}

    def _named(self, keys: Iterable[str]) -> str:
        """Return slots in words."""
        names = sorted(self._names.get(key, key) for key in set(keys))
        more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
        return f"{', '.join(names[:_N_NAMED])}{more}"

    def _said_of(self, left: Mapping[str, str]) -> str:
        why = []
        if silent := self._silent():
            why.append(f"nothing is heard of {self._named(silent.values())}")
        if self._awaited:
            why.append(
                f"it was not handed over, or not written into {self._study} ({self._link.log} says more)"
            )
        return (
            f"what {counted(len(left), 'job')} left could not be fetched from this study's slots in Ray at "
            f"{self._cluster.address}: {'; '.join(why)}. All other slots were ended; what is "
            f"left keeps it, for a day at most. Mend that, and run the same command again, or give it "
            f"up: hyperband stop --give-up {self._study}"
        )

    def _look_for_missing(self) -> None:
        for path in (self._study / JOBS_FOLDER).glob("*-*"):
            ordered = None if (path / RESULT_FILE).exists() else Ordered.read(path)
            if ordered is None or ending_of(Sight.of(path, ordered.attempt)) is not None:
                continue
            if (carrier := Carrier.find(path)) is not None:
                key = carrier.label.rpartition("/")[2]
                self._missing[ordered.attempt] = key
                self._names[key] = carrier.label

    def _listen(self, patience_s: float, is_enough: Callable[[], bool]) -> None:
        """Take in what is said until that is enough, or for so long, or until nobody is there any more."""
        until_s = time.monotonic() + patience_s
        while not is_enough() and self._link.is_open and (left_s := until_s - time.monotonic()) > 0:
            wait_for_end(self._link.fileno(), left_s)
            for words in self._link.heard():
                self._hear(words)

    def _hear(self, words: Mapping[str, Any]) -> None:
        match words["at"]:
            case "ended":
                self._n_ended = words["n"]
            case "refused" | "failed":
                self._trouble = words["words"]
            case "found":
                self._found = set(words["keys"])
            case "slot":
                self._meet(words)
            case "gone":
                self._met.add(words["key"])
                self._awaited = {one: key for one, key in self._awaited.items() if key != words["key"]}
            case "over":
                self._awaited.pop(words["attempt"], None)

    def _meet(self, slot: Mapping[str, Any]) -> None:
        self._met.add(slot["key"])
        if self._cluster.files != "sent" or not slot["attempt"]:
            return
        # one that has ended already hears nothing of it
        stop = {"op": "tell", "key": slot["key"], "attempt": slot["attempt"], "line": StopReason.STOP}
        self._link.say(stop)
        self._awaited[slot["attempt"]] = slot["key"]
        self._missing.pop(slot["attempt"], None)
        with contextlib.suppress(OSError):  # without its folder nothing of it is wanted
            attempt = self._study / JOBS_FOLDER / Path(slot["folder"]).name
            order = parse(read_fresh(str(attempt), ORDER_FILE)[0])
            self._grace_s = max(self._grace_s, float((order or {}).get("grace_s", 0.0)))
