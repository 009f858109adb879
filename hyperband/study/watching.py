"""Looking after jobs that run: their time limits, what they take of their GPUs, who else is there.

Owns when a job has had its time. What is done about strangers on a GPU follows from the settings.
"""

import time

from hyperband.errors import MachineError
from hyperband.folder import job_folder
from hyperband.launch.base import StopReason
from hyperband.report.text import counted
from hyperband.settings import Settings, WhenShared
from hyperband.study.attempts import Attempt, Attempts
from hyperband.study.voice import Voice
from hyperband.study.wake import earliest

#: between looks at GPUs with running jobs: what they take, and who else is there
_OBSERVE_S = 1.0
#: while memory decides how many jobs share a GPU: the first rung's jobs may be short
_MEASURE_S = 0.25
#: between looks for GPUs that were lost under a job
_LOST_S = 2.0
#: a moment that has come is seen so late, at most
_SOONEST_S = 0.02
#: a job's output is looked at so often within --stall-timeout, so that its end comes at most so much late
_STALL_LOOKS = 8


class Watching:
    """Looks after the running jobs of one search, between its other work."""

    def __init__(self, settings: Settings, attempts: Attempts, voice: Voice) -> None:
        """Begin; nothing has been looked at."""
        self._settings = settings
        self._attempts = attempts
        self._voice = voice
        #: moments of the monotonic clock; None: nothing to look at
        self._observe_at_s: float | None = None
        self._lost_at_s: float | None = None
        self._stall_at_s: float | None = None
        #: (slot, stranger) that was told of and is still there
        self._told: set[tuple[str, str]] = set()

    def look(self) -> None:
        """Look at what is due. Every end that is known must have been read before.

        Raises:
            MachineError: a job cannot be asked to end.
        """
        self._time_out()
        now_s = time.monotonic()
        if any(begin_by_s <= now_s for begin_by_s in self._begin_by_s()):
            self._voice.says(
                f"A job that was ordered {self._attempts.begin_within_s:g} s ago has not begun: the process "
                "that starts jobs hangs. It is killed, and what it had not started is repeated."
            )
            self._attempts.kill_servers()
        on_gpus = any(attempt.is_on_gpu for attempt in self._attempts)
        if not on_gpus:
            self._observe_at_s = self._lost_at_s = None
            return
        if self._lost_at_s is not None and now_s >= self._lost_at_s:
            self._attempts.stop_those_on_lost_gpus()
            self._lost_at_s = None
        if self._lost_at_s is None:
            self._lost_at_s = now_s + _LOST_S
        if self._observe_at_s is None or now_s >= self._observe_at_s:
            if self._observe_at_s is not None:
                self._observe()
            measures = self._settings.jobs_per_gpu is None
            self._observe_at_s = time.monotonic() + (_MEASURE_S if measures else _OBSERVE_S)

    def next_look_s(self) -> float | None:
        """Seconds until something is due; None: only ends matter."""
        now_s = time.monotonic()
        due_s = [self._observe_at_s, self._lost_at_s, self._stall_at_s]
        waits_s = [None if at_s is None else at_s - now_s for at_s in due_s]
        waits_s += [begin_by_s - now_s for begin_by_s in self._begin_by_s()]
        for attempt in self._attempts:
            if attempt.asked is None and (limit_s := self._limit_s(attempt)[0]) is not None:
                # the time of a job that its engine has stopped stands still
                waits_s.append(max(_SOONEST_S, limit_s - attempt.job.running_s()))
        return earliest(waits_s)

    def _begin_by_s(self) -> list[float]:
        """When the jobs that were ordered and have not begun must have done so, on the monotonic clock."""
        within_s = self._attempts.begin_within_s
        if within_s is None:
            return []
        return [
            attempt.began_s + within_s
            for attempt in self._attempts
            if not attempt.adopted and not attempt.job.has_begun
        ]

    # Time.

    def _limit_s(self, attempt: Attempt) -> tuple[float | None, str]:
        """The seconds that an attempt may take, and the option that says so."""
        limit_s, words = self._settings.timeout_s, "--timeout"
        per_epoch_s = self._settings.timeout_per_epoch_s
        if per_epoch_s is not None:
            epochs_s = per_epoch_s * attempt.started.epochs
            if limit_s is None or epochs_s < limit_s:
                limit_s, words = (
                    epochs_s,
                    f"--timeout-per-epoch {per_epoch_s:g}, {counted(attempt.started.epochs, 'epoch')}",
                )
        return limit_s, words

    def _time_out(self) -> None:
        """End the attempts that have had their time."""
        for attempt in self._attempts:
            limit_s, option = self._limit_s(attempt)
            if attempt.asked is None and limit_s is not None and attempt.job.running_s() >= limit_s:
                attempt.why = f"ended after {limit_s:g} s ({option})"
                self._attempts.stop(attempt, StopReason.TIMEOUT)
        stall_s = self._settings.stall_timeout_s
        if stall_s is None or (self._stall_at_s is not None and time.monotonic() < self._stall_at_s):
            return
        for attempt in self._attempts:
            if attempt.asked is None and attempt.job.has_begun:
                self._look_for_output(attempt, stall_s)
        self._stall_at_s = time.monotonic() + stall_s / _STALL_LOOKS if len(self._attempts) else None

    def _look_for_output(self, attempt: Attempt, stall_s: float) -> None:
        """End an attempt whose output has not grown for so long.

        Sizes are compared at moments of its running time: times of files are those of a clock that jumps.
        """
        n_bytes = self._output_bytes(attempt)
        running_s = attempt.job.running_s()
        if n_bytes != attempt.output_bytes:
            attempt.output_bytes, attempt.grown_at_s = n_bytes, running_s
        elif running_s - attempt.grown_at_s >= stall_s:
            attempt.why = f"ended after no output for {stall_s:g} s (--stall-timeout)"
            self._attempts.stop(attempt, StopReason.TIMEOUT)

    def _output_bytes(self, attempt: Attempt) -> int:
        folder = job_folder(self._attempts.folder, attempt.started.job, attempt.started.attempt)
        try:
            return sum((folder / name).stat().st_size for name in ("stdout", "stderr"))
        except OSError as err:
            raise MachineError(
                f"the output of a running job cannot be looked at: {err.filename}: {err.strerror}; mend the "
                "folder and start the same command again: the job goes on, and no result is lost"
            ) from err

    # GPUs.

    def _observe(self) -> None:
        """Look once at every GPU that a job of ours runs on."""
        seen: set[tuple[str, str]] = set()
        for attempt in self._attempts:
            if not attempt.is_on_gpu:
                continue
            slot = attempt.started.slot
            strangers = self._attempts.observe(attempt)
            seen |= {(slot, stranger) for stranger in strangers}
            if strangers and attempt.asked is None and self._settings.when_shared is WhenShared.YIELD:
                self._voice.says(
                    f"{slot} is also used by {', '.join(strangers)}: job {attempt.started.job} (trial "
                    f"{attempt.started.trial}) is stopped and queued again (--when-shared yield)"
                )
                self._attempts.stop(attempt, StopReason.STOP)
        if self._settings.when_shared is not WhenShared.YIELD:
            what = (
                "so do the next ones" if self._settings.when_shared is WhenShared.SHARE else "the next waits"
            )
            for slot, stranger in sorted(seen - self._told):
                self._voice.says(
                    f"{slot} is also used by {stranger}: our job goes on, {what} (--when-shared)"
                )
        self._told = seen
