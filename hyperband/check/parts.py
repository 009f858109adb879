"""What the experiments share: the script's surroundings, and what became of one configuration."""

from dataclasses import dataclass
from pathlib import Path

from hyperband.check.bench import Bench, Ran
from hyperband.check.findings import Report, Status
from hyperband.check.resuming import is_repeatable, is_same
from hyperband.check.traces import Look, Places
from hyperband.report.text import counted

#: as far as configurations are trained: the first and the second rung of a plan with eta 3
FIRST, SECOND = 1, 3
#: what to do about a loss that is another one each time
SEED_IT = "the loss is random: seed it with the config id, or print the loss of the checkpoint"
#: a configuration may be a bad one: so many are tried before the script is to blame
N_TRIES = 3


@dataclass(slots=True)
class Parts:
    """What every experiment works with."""

    report: Report
    bench: Bench
    places: Places
    #: distinct config ids that nothing was trained of yet
    unused: list[str]

    def failed(self, check: str, ran: Ran) -> None:
        """Note that a line is not known, because this job gave no loss."""
        words = f"a job to {counted(ran.epochs, 'epoch')} gave {ran.describe()}"
        self.report.add(check, Status.UNKNOWN, words)


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
    #: it to 3 epochs in one go, twice; empty where its files could not be put aside
    straight: list[Ran]
    #: 3 epochs print what 1 does, also for another configuration
    ignores_epochs: bool = False

    @property
    def is_random(self) -> bool:
        """True when the same training prints another loss each time, and no file keeps the first."""
        first, again = self.first.loss, self.again.loss
        if first is None or again is None or is_same(first, again):
            return False
        if not self.straight:
            return not self.files and not self.old_files
        known = [ran.loss for ran in self.straight if ran.loss is not None]
        return len(known) > 1 and not is_repeatable(known)

    @property
    def repeatable(self) -> bool:
        """True when the same training is known to print the same loss again."""
        return is_repeatable([ran.loss for ran in self.straight if ran.loss is not None])


def loss_of(ran: Ran) -> float:
    """The loss of a job that is known to have one."""
    assert ran.loss is not None
    return ran.loss
