"""Whether a search is in its Ray cluster, decided: what Ray's side says goes in; when to try again comes out.

Pure: no clock, no process, no Ray. Times are seconds of one monotonic clock, given with what was said. Must
not know: slots and jobs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperband.errors import HyperbandError, InternalError, MachineError
from hyperband.launch.ray.token import denied
from hyperband.launch.ray.words import AUTO, LOCAL, means_other_version, named

#: between tries to join a cluster again: at first, and in the end
_FIRST_TRY_S, _LAST_TRY_S = 1.0, 30.0
#: so often in a row Ray's side may fail in the same way soon after it joined: then it is no absence of Ray's
_N_SAME = 5
#: what failed later than that after it joined is not the same again
_SOON_S = 60.0
#: it is said that the first answer takes long after so long, and given up after so long
_LONG_S, _MOST_S = 10.0, 90.0
#: Ray's words for a machine that is part of no cluster, and what they mean here
_NO_RAY = "Could not find any running Ray instance"
_NO_RAY_HERE = (
    "this machine is part of no cluster; start Ray here (`ray start`), name another cluster with "
    "--ray-address HOST:PORT, or have one of this machine alone started by --ray-address local."
)


class Joining:
    """One search's way into one cluster, and back into it. `hear` is the only door."""

    def __init__(self, address: str, token: Path | None = None) -> None:
        """Be outside; address and token: of the cluster, as they were given."""
        self._address = address
        self._token = token
        #: in words
        self._name = named(address)
        #: where the tracebacks of Ray's side are, for messages
        self.log = "its log"
        #: it was in the cluster once
        self.has_joined = False
        #: Ray's head is there, and does not answer
        self.is_silent = False
        #: why it is not in the cluster; empty: it is, or is on its way for the first time
        self.trouble = ""
        #: slots that there is room for if nobody else is there
        self.capacity = 0
        #: why it will never be
        self.failure: HyperbandError | None = None
        #: when to try again; None: not needed
        self.try_at_s: float | None = None
        self._pause_s = _FIRST_TRY_S
        self._joined_s = 0.0
        #: since when its first answer is waited for; None: it is not
        self._asked_s: float | None = None
        self._has_said_long = False
        self._n_same, self._same = 0, ""

    def begin(self, now_s: float) -> list[str]:
        """Hear that it is being joined; return what is worth saying of that, the first time."""
        if self._asked_s is not None or self.has_joined or self._address == LOCAL:
            return []  # of one of our own there is more to say, and later
        self._asked_s = now_s
        where = "of this machine" if self._address == AUTO else f"at {self._address}"
        return [f"joining the Ray cluster {where} ..."]

    def look(self, now_s: float) -> list[str]:
        """Return what is worth saying of an answer that takes long; in the end it is waited for no more."""
        if self._asked_s is None or self.has_joined or self.failure is not None:
            return []
        if now_s >= self._asked_s + _MOST_S:
            self.failure = MachineError(
                f"{self._name} did not answer within {_MOST_S:g} s. Is its head there (`ray "
                "start --head` prints it, mostly port 6379), and is its token right (--ray-token)? Then "
                "start the same command again"
            )
        elif now_s >= self._asked_s + _LONG_S and not self._has_said_long:
            self._has_said_long = True
            return [f"{self._name} has not answered for {_LONG_S:g} s; given up after {_MOST_S:g} s"]
        return []

    def look_at_s(self) -> float | None:
        """When `look` has something to do; None: never."""
        if self._asked_s is None or self.has_joined or self.failure is not None:
            return None
        return self._asked_s + (_MOST_S if self._has_said_long else _LONG_S)

    def hear(self, words: Mapping[str, Any], now_s: float) -> list[str]:
        """Take in what Ray's side said; return what is worth saying of it. Of slots it is silent."""
        match words["at"]:
            case "joined":
                return self._note_joined(words, now_s)
            case "starts":
                return ["starting a Ray of this machine, which takes some seconds ..."]
            case "waits":
                self._has_said_long = True
                return [words["words"]]
            case "refused":
                self._note_refused(words["words"], is_all=words.get("is_all", False))
            case "failed":
                self._note_failed(words, now_s)
            case "silent":
                self.is_silent = words["is_silent"]
                verb = "does not answer" if self.is_silent else "answers again"
                return [f"the head of {self._name} {verb}"]
            case "capacity":
                self.capacity = words["n_slots"]
                n_nodes = words["n_nodes"]
                return [
                    f"Ray: {n_nodes} node{'s' if n_nodes != 1 else ''}, room for {self.capacity} "
                    f"slot{'s' if self.capacity != 1 else ''}"
                ]
        return []

    def close(self, now_s: float) -> list[str]:
        """Hear that Ray's side has ended although it was not told to; return what is worth saying."""
        if self.failure is not None:
            return []
        self.is_silent = False
        self.trouble = self.trouble or "it ended our side of it, as it does where its head is gone"
        pause_s, self._pause_s = self._pause_s, min(_LAST_TRY_S, 2 * self._pause_s)
        self.try_at_s = now_s + pause_s
        return [f"{self._name} is away: {self.trouble}; the search waits, and joins again in {pause_s:g} s"]

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to try again; True once for each try."""
        if self.failure is not None or self.try_at_s is None or now_s < self.try_at_s:
            return False
        self.try_at_s = None
        return True

    def why_none(self) -> str:
        """One line on why there are no slots, as far as the cluster is the reason; else empty."""
        if self.trouble:
            return f"{self._name} is away: {self.trouble}"
        if not self.has_joined:
            return "starting a Ray of this machine" if self._address == LOCAL else f"joining {self._name}"
        if self.is_silent:
            return f"the head of {self._name} does not answer"
        return "" if self.capacity else "no node of the Ray cluster has what a slot takes"

    def _note_joined(self, words: Mapping[str, Any], now_s: float) -> list[str]:
        again = " again" if self.has_joined else ""
        self.has_joined, self.is_silent, self.trouble = True, False, ""
        self._joined_s = now_s
        self._pause_s = _FIRST_TRY_S
        takes = ", ".join(f"{amount:g} {name}" for name, amount in words["resources"].items() if amount > 0)
        news = [f"joined Ray {words['version']} at {words['address']}{again}; each slot takes {takes}"]
        if not words["has_token"] and not again:
            news.append(
                "Warning: this Ray cluster asks for no token: whoever reaches its ports runs what he likes "
                "as its user. Start Ray with RAY_AUTH_MODE=token, and give --ray-token FILE."
            )
        return news

    def _note_refused(self, words: str, *, is_all: bool) -> None:
        """Hear that it could not be joined; is_all: the words say also what to do."""
        if self._address == AUTO and _NO_RAY in words:
            words, is_all = _NO_RAY_HERE, True
        elif (said := denied(words, self._token)) is not None:
            words, is_all = f"{'; '.join(said)}.", True
        self.trouble = words
        if means_other_version(words):
            self.failure = self.failure or MachineError(
                f"{self._name} is of another version than ours: {words}. Start hyperband with the "
                "cluster's versions of Ray and Python; then the same command goes on where it is"
            )
        elif not self.has_joined:
            self.failure = self.failure or MachineError(
                f"cannot join {self._name}: {words}"
                + ("" if is_all else ". Is it running, and is its token right (--ray-token)?")
                + " Then start the same command again"
            )

    def _note_failed(self, words: Mapping[str, Any], now_s: float) -> None:
        self.trouble = said = words["words"]
        if words["is_ours"]:
            self.failure = self.failure or InternalError(
                f"Ray's side of the search failed by an error of ours: {said}. Its traceback is in "
                f"{self.log}: please report it. The same command goes on where it is."
            )
            return
        is_same = said == self._same and now_s < self._joined_s + _SOON_S
        self._n_same, self._same = self._n_same + 1 if is_same else 1, said
        if self._n_same >= _N_SAME:
            self.failure = self.failure or MachineError(
                f"Ray's side of the search failed {_N_SAME} times in the same way although Ray at "
                f"{self._address} could be joined: {said}. Its tracebacks are in {self.log}; start the "
                "same command again when that is mended"
            )
