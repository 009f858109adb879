"""Two configurations that run at the same time must not disturb each other."""

from hyperband.check.bench import Ran, losses
from hyperband.check.findings import Status
from hyperband.check.parts import FIRST, N_TRIES, SEED_IT, History, Parts, loss_of
from hyperband.check.resuming import is_same
from hyperband.check.traces import Look

_OWN_CHECKPOINT = (
    "give each configuration a checkpoint of its own: put the config id, or its hash, into the name"
)


class Together:
    """The experiment with two configurations."""

    def __init__(self, parts: Parts, history: History) -> None:
        """Take the parts, and what became of the configuration before."""
        self._parts = parts
        self._history = history

    def run(self, earlier: set[float | None]) -> None:
        """Train two configurations at once (or by turns), and then each again by itself.

        Args:
            earlier: losses of configurations that were trained before.
        """
        unused = self._parts.unused
        start = self._parts.places.look(unused[-1]) if unused else Look({}, frozenset())
        how = ""
        both: list[Ran] = []
        alone: list[Ran] = []
        for _ in range(N_TRIES):
            if len(unused) < 2:
                break
            how, both = self._train_both([unused.pop(0), unused.pop(0)])
            alone = [self._parts.bench.run(ran.config_id, FIRST) for ran in both]
            if all(ran.loss is not None for ran in alone):
                break
        if not both:
            self._parts.report.add("together", Status.UNKNOWN, "the sampler gives too few distinct ids")
            return
        failed = next((ran for ran in (*alone, *both) if ran.loss is None), None)
        if failed is not None:
            is_theirs = failed not in alone
            status = Status.FAILS if is_theirs else Status.UNKNOWN
            words = f"of two {how}, one gave {failed.describe()}"
            fix = f"let no file, folder or port be the same for two configurations; {_OWN_CHECKPOINT}"
            self._parts.report.add("together", status, words, fix if is_theirs else "")
            return
        if is_same(loss_of(both[0]), loss_of(both[1])) and self._is_shared(how, both, start, earlier):
            return
        self._compare(how, both, alone)

    def _train_both(self, config_ids: list[str]) -> tuple[str, list[Ran]]:
        """Train two at once if there are slots for both, else one after the other; which of it, in words."""
        bench = self._parts.bench
        at_once = bench.run_together(config_ids, FIRST)
        if at_once is not None:
            return "at once", at_once
        return "by turns (for want of a second slot)", [bench.run(name, FIRST) for name in config_ids]

    def _is_shared(self, how: str, both: list[Ran], start: Look, earlier: set[float | None]) -> bool:
        """Find out why two configurations print the same loss: by the same checkpoint, or by chance."""
        fresh: list[Ran] = []
        for ran in both:
            now = self._parts.places.look(ran.config_id)
            with self._parts.places.aside(now, start, now.changed_since(start), self._parts.bench.config_ids):
                fresh.append(self._parts.bench.run(ran.config_id, FIRST))
        loss = loss_of(both[0])
        if any(ran.loss is not None and not is_same(ran.loss, loss) for ran in fresh):
            words = f"two configurations {how} both printed {loss!r}; each from nothing: {losses(*fresh)}"
            self._parts.report.add("together", Status.FAILS, words, _OWN_CHECKPOINT)
            return True
        if earlier == {loss}:
            words = f"every configuration printed the loss {loss!r}: is one checkpoint used for all?"
            self._parts.report.add("together", Status.UNKNOWN, words, _OWN_CHECKPOINT)
            return True
        return False

    def _compare(self, how: str, both: list[Ran], alone: list[Ran]) -> None:
        """Say whether two configurations printed at once what they print by themselves."""
        if all(is_same(loss_of(one), loss_of(two)) for one, two in zip(both, alone, strict=True)):
            words = f"two others {how} and again by themselves: the same losses ({losses(*both)})"
            self._parts.report.add("together", Status.OK, words)
            return
        pairs = [(one, two) for one in alone for two in both if one.config_id != two.config_id]
        swapped = any(is_same(loss_of(one), loss_of(two)) for one, two in pairs)
        self._parts.report.add(
            "together",
            Status.FAILS if swapped or self._history.repeatable else Status.UNKNOWN,
            f"two configurations {how} printed {losses(*both)}, and again by themselves {losses(*alone)}",
            _OWN_CHECKPOINT if swapped or not self._history.is_random else SEED_IT,
        )
