"""The experiments in order: which jobs of which configurations run.

A configuration W goes first and takes the cold start; A is trained to 1, 1, 3 and 1 epochs, and to 3 in one
go, also as a fork; B and C run at once.
"""

import shlex
from collections.abc import Sequence

from hyperband.check.bench import Ran
from hyperband.check.findings import TITLES, Status
from hyperband.check.memory import GpuMemory
from hyperband.check.outcomes import kinds_in_words, reason
from hyperband.check.parts import FIRST, N_TRIES, SECOND, History, Parts
from hyperband.check.reads import ReadWatch
from hyperband.check.rungs import judge_again, judge_beyond, judge_resuming
from hyperband.check.together import Together
from hyperband.check.traces import Look
from hyperband.check.warm import compare_warm
from hyperband.report.text import duration
from hyperband.script.contract import shortened
from hyperband.search.trial import Outcome


class Training:
    """All experiments of one check."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts; there is at least one config id."""
        self._parts = parts

    def run(self) -> None:
        """Run everything that can be run.

        Raises:
            CheckStoppedError: a signal came.
            MachineError: jobs cannot be started.
        """
        parts = self._parts
        parts.report.trained, parts.report.failed = parts.bench.trained, parts.bench.failures
        start = parts.places.look(parts.unused[0])
        parts.bench.pulse.doing = TITLES["one_epoch"]
        warmed_up = self._one_epoch()
        if warmed_up is None:
            why = "no configuration can be trained for one epoch"
            parts.report.add_rest(("again", "beyond", "resuming", "together", "warm"), why)
            self._configurations()
            return
        parts.bench.pulse.doing = TITLES["resuming"]
        history = self._history(warmed_up, start)
        history.straight = self._straight(history)
        history.ignores_epochs = self._ignores_epochs(history, warmed_up)
        judge_again(parts, history)
        judge_beyond(parts, history)
        judge_resuming(parts, history)
        now = parts.places.look(history.first.config_id)
        # What a configuration left in a file of all would answer for both alike.
        with parts.places.aside(
            now, history.known, now.changed_since(history.before), parts.bench.config_ids
        ):
            parts.bench.pulse.doing = TITLES["together"]
            Together(parts, history).run({warmed_up.loss, history.first.loss})
        parts.bench.pulse.doing = TITLES["warm"]
        compare_warm(parts, history)
        self._configurations()

    def _configurations(self) -> None:
        """Say how many configurations failed: a search copes with some, but each costs it a job."""
        report, n = self._parts.report, len(self._parts.bench.config_ids)
        if not report.failed:
            report.add("configurations", Status.OK, f"none of {n} failed")
            return
        words = f"{len(report.failed)} of {n} failed:{kinds_in_words(report.failed)}"
        status = Status.OK if report.trained else Status.FAILS
        fix = "if they cannot work, let get_random_config_id draw no such ones: in a search each costs a job"
        report.add("configurations", status, words, fix if report.trained else "")

    def _one_epoch(self) -> Ran | None:
        """Train a configuration for one epoch, another one if it fails, and look at the GPU afterwards."""
        memory = GpuMemory()
        failed: list[Ran] = []
        try:
            while self._parts.unused and len(failed) < N_TRIES:
                ran = self._parts.bench.run(self._parts.unused.pop(0), FIRST)
                if ran.loss is not None:
                    self._say_one_epoch(ran, failed)
                    self._gpu_memory(ran, memory)
                    return ran
                failed.append(ran)
                if ran.reading.outcome is Outcome.TIMED_OUT:
                    break  # another would take as long
        finally:
            memory.close()
        first = failed[0]
        tried = f"none of {len(failed)} configurations gave a loss; " if len(failed) > 1 else ""
        fixes = {
            Outcome.NO_LOSS: "the last line on standard output must be the loss alone: print(loss)",
            Outcome.TIMED_OUT: "give the check more time for a job with --timeout",
        }
        fix = fixes.get(first.reading.outcome, f"run it by hand: {shlex.join(first.argv)}")
        words = f"{tried}{shortened(first.config_id)} for 1 epoch: {first.describe()}"
        self._parts.report.add("one_epoch", Status.FAILS, words, fix)
        self._parts.report.add("gpu_memory", Status.UNKNOWN, "no job ended well")
        return None

    def _say_one_epoch(self, ran: Ran, failed: Sequence[Ran]) -> None:
        took = "" if ran.duration_s is None else f" in {duration(ran.duration_s)}"
        of = f"of {shortened(ran.config_id)}"
        words = f"exit code 0{took}, last line {shortened(ran.last_line)} {of}, on {ran.slot.name}"
        for other in failed:
            words += f"\n{shortened(other.config_id)} gave {reason(other.reading)}"
        self._parts.report.add("one_epoch", Status.OK, words)

    def _gpu_memory(self, ran: Ran, memory: GpuMemory) -> None:
        if not ran.slot.gpu_uuids:
            self._parts.report.add("gpu_memory", Status.NONE, f"jobs run on {ran.slot.name}, without a GPU")
            return
        is_released, words = memory.released(ran.slot.gpu_uuids, self._parts.bench.interrupts)
        status = Status.UNKNOWN if is_released is None else Status.OK if is_released else Status.FAILS
        fix = (
            ""
            if is_released is not False
            else "look with nvidia-smi for who holds it; a reboot may be needed"
        )
        self._parts.report.add("gpu_memory", status, words, fix)

    def _history(self, warmed_up: Ran, start: Look) -> History:
        """Train A to 1, again to 1, to 3, and to 1 once more; watch what the third job reads."""
        first = warmed_up  # where the space has one configuration only
        before = start
        for _ in range(min(N_TRIES, len(self._parts.unused))):
            config_id = self._parts.unused.pop(0)
            before = self._parts.places.look(config_id)
            first = self._parts.bench.run(config_id, FIRST)
            if first.loss is not None:
                break
        config_id = first.config_id
        again = self._parts.bench.run(config_id, FIRST)
        made = self._parts.places.look(config_id).changed_since(before)
        with ReadWatch(made) as watch:
            resumed = self._parts.bench.run(config_id, SECOND)
            read = watch.read_first()
            is_known = bool(read) or watch.is_complete
        beyond = self._parts.bench.run(config_id, FIRST)
        changed = self._parts.places.look(config_id).changed_since(before)
        # What was there before the check is somebody's; by a pattern, only this configuration's is seen.
        known = before if self._parts.places.has_pattern else start
        files = [path for path in changed if path not in known.files]
        old = [path for path in changed if path in known.files]
        relevant = set(files or old)
        has_read = not relevant.isdisjoint(read) if is_known else None
        return History(first, again, resumed, beyond, files, old, has_read, before, known, [])

    def _ignores_epochs(self, history: History, other: Ran) -> bool:
        """Whether 3 epochs print exactly what 1 does, in one go and for another configuration as well."""
        at_three = {ran.loss for ran in history.straight or [history.resumed]}
        if history.first.loss is None or at_three != {history.first.loss}:
            return False
        return self._parts.bench.run(other.config_id, SECOND).loss == other.loss

    def _straight(self, history: History) -> list[Ran]:
        """Train A to 3 epochs in one go, twice, as if it had never been trained; empty if it cannot be."""
        config_id = history.first.config_id
        if not history.files or history.first.loss is None:
            return []
        now = self._parts.places.look(config_id)
        with self._parts.places.aside(now, history.known, history.files, self._parts.bench.config_ids):
            before = self._parts.places.look(config_id)
            one = self._parts.bench.run(config_id, SECOND)
            then = self._parts.places.look(config_id)
            with self._parts.places.aside(
                then, history.known, then.changed_since(before), self._parts.bench.config_ids
            ):
                return [one, self._parts.bench.run(config_id, SECOND)]
