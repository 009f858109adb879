"""What a search says: every event and decision in the log, the notable ones on the screen.

And for those who look from outside what is so at this moment.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from hyperband.folder import job_folder
from hyperband.launch.base import Order
from hyperband.report.failures import Failures
from hyperband.report.log import StudyLog
from hyperband.report.now import NowFile
from hyperband.report.promotions import Promotions
from hyperband.report.screen import Console
from hyperband.report.tables import plan_table
from hyperband.report.text import counted, duration, moment, number, size
from hyperband.script.contract import last_lines
from hyperband.search.decisions import (
    BracketDone,
    BracketFailed,
    Decision,
    PlanChanged,
    PlanKept,
    Promoted,
    RungAdded,
    WentOn,
)
from hyperband.search.events import (
    CheckpointsRemoved,
    IdProposed,
    IdSource,
    JobEnded,
    JobStarted,
    SlotQuarantined,
    SlotReleased,
)
from hyperband.search.health import N_EATEN
from hyperband.search.trial import Best, Outcome, Progress, Start
from hyperband.study.wake import earliest

_N_ERROR_LINES = 10
#: what was waited for so long ago is told again
_FORGET_S = 300.0
#: and what passes within this time is not told at all
_PASSES_S = 1.0


class Voice:
    """Speaks for one search, to the log and to the screen."""

    def __init__(
        self,
        folder: Path,
        log: StudyLog,
        console: Console,
        *,
        now: NowFile,
        cwd: str,
        best: Best | None,
        failures: Failures,
        has_brackets: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to speak of a study.

        Args:
            folder: of the study.
            log: gets every event and decision.
            console: gets the notable ones.
            now: gets what is waited for.
            cwd: where its jobs run.
            best: the best so far.
            failures: those so far, by kind.
            has_brackets: False where all trials climb the same rungs.
            monotonic: the clock by which what was said is forgotten, in seconds.
        """
        self._monotonic = monotonic
        self._folder = folder
        self._cwd = cwd
        self._log = log
        self._console = console
        self._now = now
        self._now_fails = False
        self._best = best
        self._failures = failures
        self._has_brackets = has_brackets
        self._promotions = Promotions()
        #: what was said of waiting, piece by piece: when that was so last, on the monotonic clock
        self._waited: dict[str, float] = {}
        #: the pieces of what is waited for now
        self._waits_for: frozenset[str] = frozenset()
        #: those of them that are something new and were not said yet: since when they are so
        self._unsaid: dict[str, float] = {}

    def ended(self, started: JobStarted, event: JobEnded, progress: Progress) -> None:
        """Say how an attempt ended."""
        errors = ""
        if event.outcome is not Outcome.LOSS:
            errors = self.error_lines(started)
        self._log.end(event, started.trial, errors)
        self._failures.see(started.trial, event)
        best = progress.best
        is_best = best is not None and best != self._best and best.trial == started.trial
        if is_best:
            self._best = best
        if self._console.is_live and event.outcome is Outcome.LOSS and not is_best:
            return  # the live line counts it
        took_s = event.ended_at - event.started_at
        took = duration(took_s) if took_s or event.loss is not None else "it had not begun"
        what = str(event.outcome) if event.loss is None else f"loss {number(event.loss)}"
        note = f": {event.note}" if event.note else ""
        note += "; it is tried again" if event.retry else ""
        about = "about " if progress.is_estimate else ""
        self._console.line(
            f"[{progress.n_jobs_final}/{about}{progress.n_jobs_planned}] trial {started.trial} to epoch "
            f"{started.epochs} on "
            f"{started.slot}: {what}{f' (best at {started.epochs})' if is_best else ''}, {took}{note}"
        )

    def proposed(self, event: IdProposed) -> None:
        """Say in the log where the config id of a new trial is from."""
        self._log.line(f"id     trial {event.trial}: {described_source(event)}: {event.config_id}")

    def started(self, start: Start, slot: str, order: Order) -> None:
        """Say that an attempt starts, with the command that repeats it by hand."""
        self._log.start(start, slot, order.argv, order.environment, self._cwd)

    def decided(self, decision: Decision) -> None:
        """Say what the engine decided, and why."""
        self._log.decision(decision)
        match decision:
            case PlanChanged() | PlanKept():
                self._console.line(f"plan: {decision.reason}")
                if isinstance(decision, PlanChanged):
                    self._console.line(f"\n{plan_table(decision.plan, has_brackets=self._has_brackets)}\n")
            case WentOn():
                words = self._promotions.words(decision, is_live=self._console.is_live)
                if words is not None:
                    self._of_bracket(decision.bracket, words)
            case BracketDone() if not self._has_brackets:
                pass  # it is the end of the search, which says why itself
            case Promoted() | RungAdded() | BracketDone() | BracketFailed():
                self._of_bracket(decision.bracket, decision.reason)
            case _:
                pass  # of single trials: the log has them

    def complete(self, bracket: int, words: str) -> None:
        """Say that a rung, for which nobody waits, has all of its results."""
        self._log.line(f"rung   bracket {bracket}: {words}")
        self._of_bracket(bracket, words)

    def _of_bracket(self, bracket: int, words: str) -> None:
        self._console.line(f"bracket {bracket}: {words}" if self._has_brackets else words)

    def slot(self, change: SlotQuarantined | SlotReleased) -> None:
        """Say that a slot is not used for a while, or is used again."""
        if isinstance(change, SlotQuarantined):
            until = moment(change.until_at)
            self.says(
                f"{change.slot} is in quarantine until {until}: {change.reason}. `hyperband slots "
                f"{self._folder} --release {change.slot}` gives it back before."
            )
        else:
            self.says(f"{change.slot} is used again: {change.reason}.")

    def holds(self, place: str) -> None:
        """Say that a place gets no job for now."""
        self.says(
            f"{place} failed {N_EATEN} jobs in a row within seconds: its next job waits for what jobs on "
            "other slots come to."
        )

    def waits(self, waiting_for: str | None, *, in_numbers: bool = True) -> None:
        """Say why nothing starts, where that is something new; None: something does, or nothing is wanted.

        A batch system changes its mind about reasons and numbers all the time: what was so a while ago is
        nothing new, whatever else it is said with. And what passes at once is not worth a line.

        Args:
            waiting_for: in words; its pieces stand between `:`, `;`, `,` and brackets.
            in_numbers: whether other numbers make it something new.
        """
        now_s = self._monotonic()
        before, self._waits_for = self._waits_for, _pieces(waiting_for or "", in_numbers=in_numbers)
        for piece in self._waits_for - before:
            if now_s >= self._waited.get(piece, float("-inf")) + _FORGET_S:
                self._unsaid[piece] = now_s
        # until now it was so as well
        self._waited.update(dict.fromkeys((before | self._waits_for) - self._unsaid.keys(), now_s))
        for piece in self._unsaid.keys() - self._waits_for:
            del self._unsaid[piece]
        if waiting_for is not None and any(now_s >= since_s + _PASSES_S for since_s in self._unsaid.values()):
            self._waited.update(dict.fromkeys(self._unsaid, now_s))
            self._unsaid.clear()
            self._log.line(f"wait   {waiting_for}")
            if not self._console.is_live:
                self._console.line(f"waiting: {waiting_for}")

    def shows(self, waiting_for: str | None, suspended: frozenset[tuple[int, int]]) -> None:
        """Let whoever looks from outside know what is so now.

        Args:
            waiting_for: why nothing starts, in words; None: something does, or nothing is wanted.
            suspended: numbers of jobs and attempts that their engine has stopped for a while.
        """
        self._tell_outside(lambda: self._now.see(waiting_for, suspended))

    def wait_s(self) -> float | None:
        """Return seconds until it has something to say although nothing happens; None: it has not."""
        now_s = self._monotonic()
        return earliest(
            [self._now.wait_s(), *(since_s + _PASSES_S - now_s for since_s in self._unsaid.values())]
        )

    def _tell_outside(self, do: Callable[[], None]) -> None:
        try:
            do()
        except OSError as err:
            if not self._now_fails:
                self._now_fails = True
                self.says(f"Warning: `hyperband report` may not say what this search waits for: {err}")

    def removed(self, removed: CheckpointsRemoved) -> None:
        """Say whose checkpoints are deleted: the log in full, the screen nothing in between."""
        trials = ", ".join(map(str, removed.trials))
        what = f"{counted(removed.n_files, 'file')}, {size(removed.n_bytes)}"
        self._log.line(f"clean  checkpoints of trials {trials}: {what}")

    def over(self, state: str, reason: str) -> None:
        """Say in the log how the search ended, and which failures there were."""
        for line in self._failures.text().splitlines():
            self._log.line(f"fail   {line}")
        self._log.line(f"over   {state}: {reason}")
        self._tell_outside(self._now.close)

    def says(self, text: str) -> None:
        """Say something to both."""
        self._log.line(f"note   {text}")
        self._console.line(text)

    def error_lines(self, started: JobStarted) -> str:
        """Return the last lines of an attempt's standard error, safe to print."""
        folder = job_folder(self._folder, started.job, started.attempt)
        return last_lines(folder / "stderr", _N_ERROR_LINES)


def _pieces(words: str, *, in_numbers: bool) -> frozenset[str]:
    """Return what is said, piece by piece; without its numbers in neither singular nor plural."""
    if not in_numbers:
        words = re.sub(r"[0-9]+", "", words)
        words = " ".join(word if word.endswith("ss") else word.rstrip("s") for word in words.split(" "))
    return frozenset(piece.strip() for piece in re.split(r"[:;,()]", words)) - {""}


def described_source(event: IdProposed) -> str:
    """Where an id is from, in words."""
    match event.source:
        case IdSource.MODEL:
            return f"the model's choice after {counted(event.n_observations, 'result')}"
        case IdSource.RANDOM:
            return "a random draw"
        case IdSource.UNREADY:
            return "a random draw, since the model had no proposal ready"
        case IdSource.START_WITH:
            return "from --start-with"
        case _:
            assert_never(event.source)
