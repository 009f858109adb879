"""Whether a job that is forked from a process with the script's modules prints what a fresh one prints."""

import time
from collections.abc import Sequence
from pathlib import Path

from hyperband.check.bench import Ran
from hyperband.check.findings import Status
from hyperband.check.parts import SECOND, History, Parts, loss_of
from hyperband.check.resuming import is_same
from hyperband.launch.environment import job_environment
from hyperband.launch.warm.hosting import WarmHost
from hyperband.machine.process import JobRequest

#: a host that takes longer to import what the script imports is not waited for
_PATIENCE_S = 60.0
#: what --warm saves of a job is clear from such a share of its time, or so many seconds
_CLEAR_SHARE, _CLEAR_S = 0.1, 1.0
_NOT_WARM = "without --warm every job starts cold: nothing needs to be done"


class _NotingHost(WarmHost):
    """Remembers whether it forked what it was asked for."""

    n_forked = 0

    def start(self, request: JobRequest) -> int | None:
        """Fork a job if that can be done now."""
        found = super().start(request)
        self.n_forked += found is not None
        return found


def compare_warm(parts: Parts, history: History) -> None:
    """Train configuration A to 3 epochs in one go once more, as a fork, and compare.

    Raises:
        CheckStoppedError: a signal came.
    """
    settings = parts.report.settings
    hidden = history.first.slot.environment.get("CUDA_VISIBLE_DEVICES") == ""
    hosts: list[_NotingHost] = []

    def make(lock: int, errors: Path) -> WarmHost:
        host = _NotingHost(
            python=settings.python,
            script=settings.script,
            script_args=settings.script_args,
            cwd=Path.cwd(),
            lock=lock,
            errors=errors,
            environment={
                **job_environment(parts.bench.slots.n_slots()),
                "CUDA_VISIBLE_DEVICES": "" if hidden else None,
            },
        )
        hosts.append(host)
        return host

    if not history.straight or any(ran.loss is None for ran in history.straight):
        parts.report.add("warm", Status.UNKNOWN, "there is no training in one go to compare it with")
        return
    with parts.bench.launching(make):
        (host,) = hosts
        why = _wait(parts, host)
        if why:
            parts.report.add("warm", Status.NONE, why, _NOT_WARM)
            return
        now = parts.places.look(history.first.config_id)
        with parts.places.aside(
            now, history.known, now.changed_since(history.before), parts.bench.config_ids
        ):
            ran = parts.bench.run(history.first.config_id, SECOND)
        if not host.n_forked:
            why = "; ".join(host.take_news()) or "the job could not be forked"
            parts.report.add("warm", Status.NONE, why, _NOT_WARM)
            return
    _compare(parts, history, ran)


def _wait(parts: Parts, host: WarmHost) -> str:
    """Wait until the host can fork; why it cannot, in words, empty when it can."""
    ends_s = time.monotonic() + _PATIENCE_S
    while not host.is_ready:
        if host.pid is None:
            return "; ".join(host.take_news())
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            return f"importing ahead takes longer than {_PATIENCE_S:.0f} s"
        parts.bench.interrupts.sleep([host.fileno()], min(left_s, parts.bench.pulse.left_s()))
        parts.bench.pulse.beat("importing ahead what the script imports")
        parts.bench.interrupts.heed()
        host.heed()
    return ""


def _compare(parts: Parts, history: History, ran: Ran) -> None:
    cold = history.straight[-1]
    times = ""
    if ran.duration_s is not None and cold.duration_s is not None:
        times = f"; {ran.duration_s:.1f} s instead of {cold.duration_s:.1f} s for 3 epochs"
        if not _is_faster(
            ran.duration_s, [took_s for other in history.straight if (took_s := other.duration_s) is not None]
        ):
            times += "\n--warm gains nothing here: the time goes into the script's own lines"
    fix = "start searches of this script without --warm"
    if ran.loss is None:
        parts.report.add("warm", Status.FAILS, f"started by --warm, a job gave {ran.describe()}", fix)
    elif any(is_same(ran.loss, loss_of(other)) for other in history.straight):
        parts.report.add(
            "warm", Status.OK, f"a forked job prints the loss of a fresh one: {ran.loss!r}{times}"
        )
    else:
        status = Status.FAILS if history.repeatable else Status.UNKNOWN
        words = f"a forked job prints {ran.loss!r}, a fresh one {loss_of(cold)!r}{times}"
        parts.report.add("warm", status, words, fix if history.repeatable else "")


def _is_faster(warm_s: float, cold_s: Sequence[float]) -> bool:
    """Whether a forked job was clearly faster than fresh ones, which differ among themselves."""
    saved_s = cold_s[-1] - warm_s
    jitter_s = max(cold_s) - min(cold_s)
    return saved_s > jitter_s and saved_s >= min(_CLEAR_SHARE * cold_s[-1], _CLEAR_S)
