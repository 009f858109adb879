"""The experiments: which jobs of which configurations run, and what their losses say.

A configuration W goes first and takes the cold start; A is trained to 1, 1, 3 and 1 epochs, and to 3 in one
go; B and C run at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.check.bench import Bench, Ran, losses
from hyperband.check.findings import Report, Status
from hyperband.check.memory import GpuMemory
from hyperband.check.reads import ReadWatch
from hyperband.check.resuming import Evidence, Judgement, is_repeatable, is_same, judge
from hyperband.check.traces import Look, Places
from hyperband.report.text import counted, duration
from hyperband.script.contract import shortened
from hyperband.search.trial import Outcome
from hyperband.verdicts import Resuming

#: as far as configurations are trained: the first and the second rung of a plan with eta 3
FIRST, SECOND = 1, 3
#: a configuration may be a bad one: so many are tried before the script is to blame
_N_TRIES = 3
_OWN_CHECKPOINT = (
    "give each configuration a checkpoint of its own: put the config id, or its hash, into the name"
)


@dataclass(slots=True)
class History:
    """What configuration A went through."""

    first: Ran
    again: Ran
    #: to 3 epochs, going on
    resumed: Ran
    #: to 1 epoch when there were 3
    beyond: Ran
    #: files that its jobs made; those that they changed and that were there before
    files: list[Path]
    old_files: list[Path]
    #: whether the resuming job read any of them first; None: not known
    has_read: bool | None
    #: what was there before it, and before the check
    before: Look
    known: Look


class Training:
    """All experiments of one check, in order."""

    def __init__(self, report: Report, bench: Bench, places: Places, config_ids: Sequence[str]) -> None:
        """Take the parts; `config_ids` are distinct, at least one."""
        self._report = report
        self._bench = bench
        self._places = places
        self._unused = list(config_ids)

    def run(self) -> None:
        """Run everything that can be run.

        Raises:
            CheckStoppedError: a signal came.
            MachineError: jobs cannot be started.
        """
        self._report.trained = self._bench.trained
        start = self._places.look(self._unused[0])
        warmed_up = self._one_epoch()
        if warmed_up is None:
            why = "no configuration can be trained for one epoch"
            self._report.add_rest(("again", "beyond", "resuming", "together"), why)
            return
        history = self._history(warmed_up, start)
        straight = self._straight(history)
        repeatable = is_repeatable([ran.loss for ran in straight if ran.loss is not None])
        self._again(history, repeatable)
        self._beyond(history, repeatable)
        self._resuming(history, straight)
        now = self._places.look(history.first.config_id)
        # What a configuration left in a file of all would answer for both alike.
        with self._places.aside(now, history.known, now.changed_since(history.before)):
            self._together(repeatable, {warmed_up.loss, history.first.loss})

    def _one_epoch(self) -> Ran | None:
        """Train a configuration for one epoch, another one if it fails, and look at the GPU afterwards."""
        memory = GpuMemory()
        failed: list[Ran] = []
        try:
            while self._unused and len(failed) < _N_TRIES:
                ran = self._bench.run(self._unused.pop(0), FIRST)
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
        tried = f" ({len(failed)} configurations tried)" if len(failed) > 1 else ""
        fixes = {
            Outcome.NO_LOSS: "the last line on standard output must be the loss alone: print(loss)",
            Outcome.TIMED_OUT: "give the check more time for a job with --timeout",
        }
        fix = fixes.get(first.reading.outcome, "run it by hand: SCRIPT CONFIG_ID --epochs 1 --gpu 0")
        words = f"{shortened(first.config_id)} for 1 epoch: {first.describe()}{tried}"
        self._report.add("one_epoch", Status.FAILS, words, fix)
        self._report.add("gpu_memory", Status.UNKNOWN, "no job ended well")
        return None

    def _say_one_epoch(self, ran: Ran, failed: Sequence[Ran]) -> None:
        took = "" if ran.duration_s is None else f" in {duration(ran.duration_s)}"
        words = f"exit code 0{took}, last line {shortened(ran.last_line)}, on {ran.slot.name}"
        for other in failed:
            words += f"\n{shortened(other.config_id)} gave {other.reading.outcome}: {other.reading.note}"
        self._report.add("one_epoch", Status.OK, words)

    def _gpu_memory(self, ran: Ran, memory: GpuMemory) -> None:
        if not ran.slot.gpu_uuids:
            self._report.add("gpu_memory", Status.NONE, f"jobs run on {ran.slot.name}, without a GPU")
            return
        is_released, words = memory.released(ran.slot.gpu_uuids, self._bench.interrupts)
        status = Status.UNKNOWN if is_released is None else Status.OK if is_released else Status.FAILS
        fix = (
            ""
            if is_released is not False
            else "look with nvidia-smi for who holds it; a reboot may be needed"
        )
        self._report.add("gpu_memory", status, words, fix)

    def _history(self, warmed_up: Ran, start: Look) -> History:
        """Train A to 1, again to 1, to 3, and to 1 once more; watch what the third job reads."""
        first = warmed_up  # where the space has one configuration only
        before = start
        for _ in range(min(_N_TRIES, len(self._unused))):
            config_id = self._unused.pop(0)
            before = self._places.look(config_id)
            first = self._bench.run(config_id, FIRST)
            if first.loss is not None:
                break
        config_id = first.config_id
        again = self._bench.run(config_id, FIRST)
        made = self._places.look(config_id).changed_since(before)
        with ReadWatch(made) as watch:
            resumed = self._bench.run(config_id, SECOND)
            read = watch.read_first() if watch.works else None
        beyond = self._bench.run(config_id, FIRST)
        changed = self._places.look(config_id).changed_since(before)
        # What was there before the check is somebody's; by a pattern, only this configuration's is seen.
        known = before if self._places.has_pattern else start
        files = [path for path in changed if path not in known.files]
        old = [path for path in changed if path in known.files]
        relevant = set(files or old)
        has_read = None if read is None else not relevant.isdisjoint(read)
        return History(first, again, resumed, beyond, files, old, has_read, before, known)

    def _straight(self, history: History) -> list[Ran]:
        """Train A to 3 epochs in one go, twice, as if it had never been trained; empty if it cannot be."""
        config_id = history.first.config_id
        if not history.files or history.first.loss is None:
            return []
        now = self._places.look(config_id)
        with self._places.aside(now, history.known, history.files):
            before = self._places.look(config_id)
            one = self._bench.run(config_id, SECOND)
            then = self._places.look(config_id)
            with self._places.aside(then, history.known, then.changed_since(before)):
                return [one, self._bench.run(config_id, SECOND)]

    def _again(self, history: History, repeatable: bool) -> None:
        first, again = history.first, history.again
        if first.loss is None or again.loss is None:
            self._failed("again", again if first.loss is not None else first)
        elif is_same(first.loss, again.loss):
            self._report.add("again", Status.OK, f"the loss at 1 epoch is {first.loss!r} when asked again")
        else:
            self._report.add(
                "again",
                Status.FAILS if repeatable or history.has_read else Status.UNKNOWN,
                f"asked for 1 epoch twice, it printed {losses(first, again)}",
                "when the checkpoint has N epochs already, print the loss that it had there; --epochs is the "
                "total number of epochs, not a number of further ones",
            )

    def _beyond(self, history: History, repeatable: bool) -> None:
        first, resumed, beyond = history.first, history.resumed, history.beyond
        if first.loss is None or beyond.loss is None or resumed.loss is None:
            self._failed("beyond", next(ran for ran in (first, resumed, beyond) if ran.loss is None))
        elif is_same(first.loss, beyond.loss):
            words = f"asked for 1 epoch when it had 3, it printed the loss at 1 again: {beyond.loss!r}"
            self._report.add("beyond", Status.OK, words)
        else:
            is_later = is_same(resumed.loss, beyond.loss)
            whose = ", which is that at 3" if is_later else ""
            self._report.add(
                "beyond",
                Status.FAILS if is_later or repeatable else Status.UNKNOWN,
                f"asked for 1 epoch when it had 3, it printed {beyond.loss!r}{whose}; "
                f"at 1 it was {first.loss!r}",
                "use a checkpoint only if it has at most N epochs, or keep the losses of all epochs in it",
            )

    def _failed(self, check: str, ran: Ran) -> None:
        self._report.add(
            check, Status.UNKNOWN, f"a job to {counted(ran.epochs, 'epoch')} gave {ran.describe()}"
        )

    def _resuming(self, history: History, straight: list[Ran]) -> None:
        report = self._report
        others: list[Ran] = []
        if not straight:
            # Its files cannot be put aside: others, trained in one go, show at least how long that takes.
            n = min(2, len(self._unused) - 2)  # two are for what follows
            others = [self._bench.run(self._unused.pop(0), SECOND) for _ in range(n)]
        if history.first.loss is None or any(ran.loss is None for ran in straight):
            self._failed("resuming", next(ran for ran in (history.first, *straight) if ran.loss is None))
            return
        if history.resumed.loss is None and not straight:
            self._failed("resuming", history.resumed)
            return
        judgement = judge(
            Evidence(
                resumed_loss=history.resumed.loss,
                straight_losses=[ran.loss for ran in straight if ran.loss is not None],
                has_read=history.has_read,
                first_s=history.first.duration_s,
                resumed_s=history.resumed.duration_s,
                straight_s=[ran.duration_s for ran in straight or others if ran.duration_s is not None],
            )
        )
        report.resuming = judgement.verdict
        words = f"1 epoch, then 3: {judgement.verdict}"
        words = "\n".join(filter(None, (words, judgement.words, self._about_files(history))))
        if history.resumed.loss is None:
            words += f"\n{history.resumed.describe()}"
        status = {Resuming.RESUMES: Status.OK, Resuming.UNKNOWN: Status.UNKNOWN}
        report.add("resuming", status.get(judgement.verdict, Status.FAILS), words, _fix(judgement, history))

    def _about_files(self, history: History) -> str:
        if history.files:
            return f"its files: {_names(history.files, self._places.cwd)}"
        if history.old_files:
            return (
                f"it wrote into files that were there before: {_names(history.old_files, self._places.cwd)}"
            )
        if self._places.too_large:
            return f"{self._places.too_large[0]} is too large to look for its files"
        return f"no file of its own was found below {', '.join(map(str, self._places.roots))}"

    def _together(self, repeatable: bool, earlier: set[float | None]) -> None:
        """Train two configurations at once (or by turns), and then each again by itself."""
        at_once = self._bench.slots.n_slots() > 1
        how = "at once" if at_once else "by turns (there is one slot)"
        both: list[Ran] = []
        alone: list[Ran] = []
        start = self._places.look(self._unused[-1]) if self._unused else Look({}, frozenset())
        for _ in range(_N_TRIES):
            if len(self._unused) < 2:
                break
            ids = [self._unused.pop(0), self._unused.pop(0)]
            by_turns = [] if at_once else [self._bench.run(config_id, FIRST) for config_id in ids]
            both = by_turns or self._bench.run_together(ids, FIRST)
            alone = [self._bench.run(config_id, FIRST) for config_id in ids]
            if all(ran.loss is not None for ran in alone):
                break
        if not both:
            self._report.add("together", Status.UNKNOWN, "the sampler gives too few distinct ids")
            return
        failed = next((ran for ran in (*alone, *both) if ran.loss is None), None)
        if failed is not None:
            is_theirs = failed not in alone
            status = Status.FAILS if is_theirs else Status.UNKNOWN
            words = f"of two {how}, one gave {failed.describe()}"
            fix = "let nothing that a job uses (files, folders, ports) be the same for two configurations"
            self._report.add("together", status, words, fix if is_theirs else "")
            return
        if is_same(_loss(both[0]), _loss(both[1])) and self._is_shared(how, both, start, earlier):
            return
        self._compare(how, both, alone, repeatable)

    def _is_shared(self, how: str, both: list[Ran], start: Look, earlier: set[float | None]) -> bool:
        """Find out why two configurations print the same loss: by the same checkpoint, or by chance."""
        fresh: list[Ran] = []
        for ran in both:
            now = self._places.look(ran.config_id)
            with self._places.aside(now, start, now.changed_since(start)):
                fresh.append(self._bench.run(ran.config_id, FIRST))
        loss = _loss(both[0])
        if any(ran.loss is not None and not is_same(ran.loss, loss) for ran in fresh):
            words = f"two configurations {how} both printed {loss!r}; each from nothing: {losses(*fresh)}"
            self._report.add("together", Status.FAILS, words, _OWN_CHECKPOINT)
            return True
        if earlier == {loss}:
            words = f"every configuration printed the loss {loss!r}: is one checkpoint used for all?"
            self._report.add("together", Status.UNKNOWN, words, _OWN_CHECKPOINT)
            return True
        return False

    def _compare(self, how: str, both: list[Ran], alone: list[Ran], repeatable: bool) -> None:
        """Say whether two configurations printed at once what they print by themselves."""
        if all(is_same(_loss(one), _loss(two)) for one, two in zip(both, alone, strict=True)):
            words = f"two configurations {how} and again by themselves: the same losses ({losses(*both)})"
            self._report.add("together", Status.OK, words)
            return
        pairs = [(one, two) for one in alone for two in both if one.config_id != two.config_id]
        swapped = any(is_same(_loss(one), _loss(two)) for one, two in pairs)
        self._report.add(
            "together",
            Status.FAILS if swapped or repeatable else Status.UNKNOWN,
            f"two configurations {how} printed {losses(*both)}, and again by themselves {losses(*alone)}",
            _OWN_CHECKPOINT,
        )


def _loss(ran: Ran) -> float:
    assert ran.loss is not None
    return ran.loss


def _names(paths: Sequence[Path], cwd: Path) -> str:
    shown = [str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path) for path in paths[:3]]
    return ", ".join(shown) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _fix(judgement: Judgement, history: History) -> str:
    if judgement.verdict is Resuming.FROM_SCRATCH:
        return "begin with the checkpoint if there is one of at most N epochs, and train the rest"
    if judgement.verdict is Resuming.DISAGREES:
        return (
            "save and load everything that the next epoch depends on: parameters, the optimizer's state, the "
            "learning rate schedule, the states of random generators, the order of the data"
        )
    if judgement.verdict is Resuming.UNKNOWN and history.old_files and not history.files:
        return "if these are checkpoints, keep one for each configuration; move them away and check again"
    if judgement.verdict is Resuming.UNKNOWN:
        return (
            "if it keeps checkpoints, name them: --checkpoints 'FOLDER/{config_id}*' (below the folder that "
            "jobs run in); if it keeps none, each rung of a search trains from the beginning"
        )
    return ""
