"""Config ids as the script gives them, one after the other: asked for, and taken in whenever some have come.

Owns what is awaited, and the checks on it. Must not know how the script was imported, studies, or plans.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperband.errors import InternalError
from hyperband.script.candidates import Candidates, read_candidates
from hyperband.script.contract import check_config_id
from hyperband.script.failures import failure, slow
from hyperband.script.interpreter import Interpreter

#: after so long it is said that an answer takes long
SLOW_S = 3.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Config ids of the trials first, first + 1, ..."""

    first: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The script gives no further distinct config id: n_ids is all there are, earlier trials' included."""

    n_ids: int


class IdStream:
    """The ids of a process that has imported the script; see ScriptHost.

    Nothing here blocks but `draw_candidates` and `read`: `start_sampling`, `start_candidates` or
    `start_reading`, then `receive` whenever `fileno` is readable, until `is_sampling` is false.
    """

    def __init__(self, script: Path, interpreter: Interpreter) -> None:
        """Ask for nothing yet.

        Args:
            script: for messages.
            interpreter: the process; another one may take its place while nothing is awaited.
        """
        self._script = script
        self._interpreter = interpreter
        self._is_sampling = False
        #: known when it is loaded
        self.has_get_config = False
        #: the trial whose id comes next, and the one after the last
        self._next = self._end = 0

    @property
    def is_sampling(self) -> bool:
        """True from a start until the last id, Exhausted or an error was received."""
        return self._is_sampling

    def start_sampling(self, seed: int, first: int, count: int, seen: Sequence[str]) -> None:
        """Ask for the config ids of `count` trials from number `first` on.

        Args:
            seed: of the search; trial t draws from SeedSequence([seed, t]).
            first: number of the first trial without an id.
            count: how many ids.
            seen: ids of all earlier trials, which no later one may have.
        """
        if count == 0:
            return
        self._next, self._end = first, first + count
        request = {"do": "sample", "seed": seed, "first": first, "count": count, "seen": list(seen)}
        self._start("get_random_config_id", request)

    def start_candidates(
        self, seed: int, first: int, count: int, *, limit_s: float, with_configs: bool = True
    ) -> None:
        """Ask for `count` draws, repeats included, of the stream of candidates from draw `first` on.

        Args:
            seed: of the search; draw k = 1, 2, ... is the first one from SeedSequence([seed, 1, k]).
            first: number of the first draw.
            count: how many, at least 1.
            limit_s: no further draw begins after so many seconds; the first one always does.
            with_configs: the script's `get_config`, if it has one, reads each id.
        """
        self._start(
            "get_random_config_id or get_config"
            if with_configs and self.has_get_config
            else "get_random_config_id",
            {
                "do": "candidates",
                "seed": seed,
                "first": first,
                "count": count,
                "limit_s": limit_s,
                "with_configs": with_configs,
            },
        )

    def start_reading(self, ids: Sequence[str], *, limit_s: float) -> None:
        """Ask what the script's own `get_config` makes of config ids, at least one; see `read`."""
        self._start("get_config", {"do": "read", "ids": list(ids), "limit_s": limit_s})

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do; quiet unless sampling."""
        return self._interpreter.fileno()

    def receive(self) -> list[Sampled | Exhausted | Candidates]:
        """What has come in; never waits. Each id is checked.

        Raises:
            ContractError: an id breaks a rule, or `get_random_config_id` raises or ends the process.
            UsageError: the interpreter's numpy is missing or too old.
            MachineError: a signal ended the process.
        """
        if not self._is_sampling:
            return []
        results: list[Sampled | Exhausted | Candidates] = []
        try:
            for message in self._interpreter.exchange():
                if message["kind"] == "candidates":
                    found = read_candidates(message, self._interpreter.scene())
                    self._is_sampling = not found.is_last
                    results.append(found)
                else:
                    results += self._read_sample(message)
        except BaseException:
            self._is_sampling = False
            raise
        finally:
            if not self._is_sampling:
                self._interpreter.finish()
        return results

    def draw_candidates(
        self,
        seed: int,
        count: int,
        *,
        limit_s: float,
        with_configs: bool = True,
        on_slow: Callable[[str, float], None] | None = None,
    ) -> Iterator[Candidates]:
        """The first draws of the stream of candidates, with what they say, as they come; waits for them.

        Args:
            seed: of the search.
            count: how many at most, at least 1.
            limit_s: as `start_candidates` says.
            with_configs: as `start_candidates` says.
            on_slow: called, with words for people and the seconds since the last draw, when none comes for
                long, and again now and then; it may raise to end the wait, and then `load_again` is needed.

        Raises:
            ContractError, UsageError, MachineError: as `draw_one` says.
        """
        self.start_candidates(seed, 1, count, limit_s=limit_s, with_configs=with_configs)
        yield from self._wait_for_candidates(on_slow)

    def read(
        self, ids: Sequence[str], *, limit_s: float, on_slow: Callable[[str, float], None] | None = None
    ) -> list[Candidates]:
        """What the script's own `get_config` makes of config ids, at least one; waits for it.

        Args:
            ids: in order; those that the time was not enough for are left out.
            limit_s: no further id is read after so many seconds; the first one always is.
            on_slow: as `draw_candidates` says.

        Raises:
            ContractError: `get_config` ends the process.
            MachineError: a signal ended the process.
        """
        self.start_reading(ids, limit_s=limit_s)
        return list(self._wait_for_candidates(on_slow))

    def _start(self, doing: str, request: dict[str, object]) -> None:
        if self._is_sampling:
            raise InternalError("ids were asked for while others are still awaited; please report this")
        self._is_sampling = True
        self._interpreter.begin(doing, request)

    def _read_sample(self, message: dict[str, Any]) -> Iterator[Sampled | Exhausted]:
        if message["kind"] == "exhausted":
            self._is_sampling = False
            yield Exhausted(message["n_ids"])
            return
        if message["kind"] != "ids":
            raise failure(message, self._interpreter.scene())
        source = f"get_random_config_id in {self._script}"
        ids = tuple(check_config_id(config_id, source) for config_id in message["ids"])
        if message["first"] != self._next:
            raise InternalError(
                f"ids from trial {message['first']} on came instead of trial {self._next}; please report this"
            )
        self._next += len(ids)
        self._is_sampling = self._next < self._end
        if ids:
            yield Sampled(message["first"], ids)

    def _wait_for_candidates(
        self, on_slow: Callable[[str, float], None] | None = None
    ) -> Iterator[Candidates]:
        began_s = time.monotonic()
        while self._is_sampling:
            if not self._interpreter.wait(None if on_slow is None else SLOW_S) and on_slow is not None:
                so_far_s = time.monotonic() - began_s
                on_slow(slow(self._interpreter.doing, self._interpreter.scene(), so_far_s), so_far_s)
            for part in self.receive():
                assert isinstance(part, Candidates)
                began_s = time.monotonic()
                yield part
