"""Why a search ends, before its plan is complete or with it: signals, time, failures, and the verdict.

Owns the word that nothing more is started. The loop asks for it; jobs are stopped through `Attempts`.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hyperband.errors import HyperbandError, MachineError, SearchFailedError
from hyperband.launch.base import StopReason
from hyperband.report.ladder import why_complete
from hyperband.report.screen import Console
from hyperband.report.text import counted
from hyperband.report.view import study_view
from hyperband.script.contract import describe_exit
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted, SearchEnded, SearchStarted
from hyperband.settings import Settings
from hyperband.study.attempts import Attempts
from hyperband.study.failures import N_SAME_FAILURES, FirstFailures, last_words
from hyperband.study.voice import Voice
from hyperband.study.wake import Wake

#: so many attempts in a row of which nothing ran are this machine's fault
_N_NEVER_RAN = 3
#: why a search ended whose next start follows at once
_HANDED_OVER = "its time is over: it is started again, and goes on"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a search ended."""

    #: stopped, finished or failed
    state: str
    exit_code: int
    reason: str
    #: what the user must be told, if the search could not go on
    error: HyperbandError | None = None
    #: its next start follows at once: what is held for it is kept
    is_handed_over: bool = False


def spent_s(events: Iterable[Event]) -> float:
    """Return for how many seconds the starts ran just before this one that were handed over to it."""
    total_s, began_at = 0.0, 0.0
    for event in events:
        if isinstance(event, SearchStarted):
            began_at = event.at
        elif isinstance(event, SearchEnded):
            total_s = total_s + event.at - began_at if event.reason == _HANDED_OVER else 0.0
    return total_s


class Finish:
    """What ends one search. `is_near` is final."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        attempts: Attempts,
        voice: Voice,
        console: Console,
        wake: Wake,
        *,
        spent_s: float,
    ) -> None:
        """Begin the time of `--max-time`, of which so much is over; the engine is only read."""
        self._settings = settings
        self._engine = engine
        self._attempts = attempts
        self._voice = voice
        self._console = console
        self._wake = wake
        self._early: Verdict | None = None
        self._failures = FirstFailures()
        #: the latest failure, for its last words
        self._last_failure: tuple[JobStarted, JobEnded] | None = None
        self._began_s = time.monotonic() - spent_s

    @property
    def is_near(self) -> bool:
        """Whether nothing more is to be started."""
        return self._early is not None

    @property
    def leaves_jobs(self) -> bool:
        """Whether the search ends at once, and the jobs that run are for its next start."""
        is_handed_over = self._early is not None and self._early.is_handed_over
        return is_handed_over and self._settings.slurm_mode == "jobs"

    def fail(self, reason: str, error: HyperbandError) -> None:
        """End the search when the running jobs are done, unless that is certain already."""
        self._early = self._early or Verdict("failed", error.exit_code, reason, error)

    def count(self, started: JobStarted, event: JobEnded) -> None:
        """Take in how an attempt ended: the script may be at fault for all of them."""
        if event.outcome.is_failure and not event.retry:
            self._last_failure = (started, event)
        if not self._failures.see(event) or self._settings.keep_going or self._early is not None:
            return
        how = event.outcome.value if event.exit_status is None else describe_exit(event.exit_status)
        words = (
            f"the first {N_SAME_FAILURES} jobs all failed in the same way ({event.outcome}, {how}). Repeat "
            "one by hand with its command in hyperband.log, mend the script, and start again with --clean "
            f"(failures are final); or go on in spite of it with --keep-going.{self._last_words()}"
        )
        reason = f"the first {N_SAME_FAILURES} jobs all failed in the same way"
        self.fail(reason, SearchFailedError(words))
        self._stop_all()

    def heed(self) -> None:
        """Look at signals, at the time, and at whether jobs can be started at all."""
        self._heed_signals()
        self._heed_max_time()
        self._heed_never_ran()

    def wait_s(self) -> float | None:
        """Return seconds until `heed` has something to do although nothing happened; None: never."""
        limit_s = self._settings.max_time_s
        if limit_s is None or self._early is not None:
            return None
        return self._began_s + limit_s - time.monotonic()

    def verdict(self, events: Callable[[], Iterable[Event]]) -> Verdict:
        """Return how the search ended, when no job runs any more.

        Args:
            events: gives all events of the study; asked only where they are needed.
        """
        if self._early is not None and (self._early.error is not None or not self._engine.is_complete):
            return self._early
        if self._engine.best() is None:
            words = f"the search ended without a single loss: every job failed.{self._last_words()}"
            return Verdict("failed", 1, "no job gave a loss", SearchFailedError(words))
        return Verdict("finished", 0, self._why_complete(events))

    def _why_complete(self, events: Callable[[], Iterable[Event]]) -> str:
        if not self._engine.plan.promotion.is_open:
            return "the plan is complete"
        return why_complete(study_view(events(), folder=None, running=False))

    def _heed_signals(self) -> None:
        wake = self._wake
        if wake.hung_up:
            wake.hung_up = False
            self._console.hang_up()
            self._voice.says("SIGHUP: going on without the terminal")
        if wake.hand_over_asked and not wake.terminated:
            if self._early is None:
                self._early = Verdict("stopped", 0, _HANDED_OVER, is_handed_over=True)
            if not self.leaves_jobs:
                # what carries them goes with us: they end in order, and not because it is gone
                self._stop_all()
            return
        if wake.n_interrupts == 0 and not wake.terminated:
            return
        now = wake.terminated or wake.n_interrupts >= 2
        if self._early is None or self._early.is_handed_over:
            # also where it was to be started again
            self._early = Verdict("stopped", 130, "terminated" if wake.terminated else "interrupted")
            if len(self._attempts) and not now:
                self._voice.says(f"Interrupted: {self._to_finish()}; Ctrl-C again stops them now.")
        if now:
            self._stop_all()

    def _heed_max_time(self) -> None:
        wait_s = self.wait_s()
        if wait_s is not None and wait_s <= 0:
            self._early = Verdict("stopped", 130, f"--max-time {self._settings.max_time_s:g} was over")
            self._voice.says(f"--max-time is over: {self._to_finish()}.")

    def _to_finish(self) -> str:
        """What is still to end, in words."""
        n_queued = self._attempts.n_queued
        if not n_queued or self._settings.slurm_mode != "jobs":
            return f"{self._attempts.words()} to finish first"
        running = counted(len(self._attempts) - n_queued, "running job")
        return f"{running} to finish first, and {n_queued} queued taken back"

    def _heed_never_ran(self) -> None:
        """End the search when this machine cannot make processes: no configuration is to blame for that."""
        if self._attempts.n_never_ran < _N_NEVER_RAN:
            return
        error = MachineError(
            f"{self._attempts.n_never_ran} jobs in a row could not be started: "
            f"{self._attempts.why_never_ran}. Nothing is lost: look for a limit on processes "
            "(`ulimit -u`, a container's), on memory or on the disk, and start the same command again."
        )
        self.fail("jobs could not be started", error)

    def _stop_all(self) -> None:
        for attempt in self._attempts:
            self._attempts.stop(attempt, StopReason.STOP)

    def _last_words(self) -> str:
        """Return the last words of the latest failure, to be put behind a message."""
        if self._last_failure is None:
            return ""
        started, event = self._last_failure
        return last_words(event, trial=started.trial, error_lines=self._voice.error_lines(started))
