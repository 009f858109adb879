"""One bracket under way: synchronous successive halving.

Owns how far a bracket is, which trials are in its rung and who goes on. Knows nothing of config ids, attempts
or events.
"""

from collections.abc import Sequence

from hyperband.search.decisions import BracketDone, BracketFailed, Decision, Dropped, Promoted
from hyperband.search.ledger import Trials
from hyperband.search.order import StartOrder
from hyperband.search.ranking import best_trials
from hyperband.search.trial import Bracket, TrialState


class Halving:
    """One bracket under way; one rung of it at a time."""

    __slots__ = (
        "_increments",
        "_order",
        "_trials",
        "bracket",
        "epochs_left",
        "first",
        "is_over",
        "jobs_left",
        "members",
        "n_final",
        "n_losses",
        "place",
        "rung",
    )

    def __init__(self, place: int, bracket: Bracket, first: int, trials: Trials, order: StartOrder) -> None:
        """A bracket in which nothing has started.

        Args:
            place: its number in the plan.
            bracket: its rungs.
            first: its lowest trial number.
            trials: their states, rungs and losses are changed here.
            order: gets those that go on.
        """
        self.place = place
        self.bracket = bracket
        self.first = first
        self._trials = trials
        self._order = order
        self._increments = bracket.increments
        #: the rung that is being worked on, or the last one that was
        self.rung = 0
        #: its trials, ascending; in rung 0 also those that have no config id yet
        self.members: Sequence[int] = range(first, first + bracket.rungs[0].n)
        #: how many of their jobs in this rung are final, and how many of those gave a loss
        self.n_final = 0
        self.n_losses = 0
        #: no job of this bracket will ever start again
        self.is_over = False
        #: at most so many jobs are not final yet, and epochs when each goes on from a checkpoint
        self.jobs_left, self.epochs_left = self.jobs_ahead()

    @property
    def epochs(self) -> int:
        """Total epochs that the current rung trains to."""
        return self.bracket.rungs[self.rung].epochs

    @property
    def is_last_rung(self) -> bool:
        """True if nobody can be promoted from the current rung."""
        return self.rung == len(self.bracket.rungs) - 1

    @property
    def is_rung_complete(self) -> bool:
        """True once each job of the current rung is final."""
        return self.n_final == len(self.members)

    @property
    def n_to_promote(self) -> int:
        """How many trials go on from the current rung when it is complete."""
        if self.is_last_rung:
            return 0
        return min(self.bracket.rungs[self.rung + 1].n, self.n_losses)

    def leads_nowhere_else(self, _rung: int) -> bool:
        """True if the last job of this rung is the last of all, or only its own trial can be promoted."""
        return self.is_last_rung or self.n_losses == 0

    def finish(self, trial: int, loss: float | None) -> list[Decision]:
        """A job of this trial is final; None: it failed."""
        trials = self._trials
        self.n_final += 1
        self.jobs_left -= 1
        self.epochs_left -= self._increments[self.rung]
        if loss is None:
            trials.set_state(trial, TrialState.FAILED)
        else:
            self.n_losses += 1
            trials.losses[trial] = loss
            trials.set_state(trial, TrialState.DONE if self.is_last_rung else TrialState.WAITING)
        return self.settle()

    def settle(self) -> list[Decision]:
        """If every job of the rung is final, promote, or end the bracket."""
        if self.is_over or not self.is_rung_complete:
            return []
        n_promoted = self.n_to_promote
        if n_promoted > 0:
            return self._promote(n_promoted)
        self.is_over = True
        self.jobs_left = self.epochs_left = 0
        jobs = f"rung {self.rung} ({len(self.members)} to epoch {self.epochs})"
        if self.n_losses == 0:
            return [BracketFailed(self.place, self.rung, f"every job of {jobs} failed: nothing to promote")]
        return [BracketDone(self.place, f"{jobs}, its last, is complete")]

    def _promote(self, n_promoted: int) -> list[Decision]:
        """Send the best trials of the complete rung on."""
        trials = self._trials
        ranked = [trial for trial in self.members if trials.state(trial) is TrialState.WAITING]
        n_failed = len(self.members) - len(ranked)
        promoted = best_trials(ranked, trials.losses, n_promoted)
        chosen = set(promoted)
        dropped = tuple(trial for trial in ranked if trial not in chosen)
        rung = self.rung
        what = f"rung {rung} is complete ({len(self.members)} to epoch {self.epochs}, {n_failed} failed)"
        self.rung += 1
        self.members = promoted
        self.n_final = self.n_losses = 0
        self.jobs_left, self.epochs_left = self.jobs_ahead()
        for trial in promoted:
            trials.set_state(trial, TrialState.QUEUED)
            trials.rungs[trial] = self.rung
        for trial in dropped:
            trials.set_state(trial, TrialState.DROPPED)
        self._order.add_promoted(promoted)
        words = f"{what}: the best {len(promoted)} go on to epoch {self.epochs}"
        decisions: list[Decision] = [Promoted(self.place, self.rung, tuple(promoted), words)]
        if dropped:
            words = f"{what}: not among the best {len(promoted)}"
            decisions.append(Dropped(self.place, rung, dropped, words))
        return decisions

    def resize(self, bracket: Bracket) -> Bracket:
        """Take on other numbers while in rung 0: fewer trials exist, or a sole rung gets more."""
        self.bracket = bracket
        self.members = range(self.first, self.first + bracket.rungs[0].n)
        self.is_over = False
        self.jobs_left, self.epochs_left = self.jobs_ahead()
        return bracket

    def jobs_ahead(self) -> tuple[int, int]:
        """(jobs, epochs) that are not final yet, at most, when every job goes on from a checkpoint."""
        if self.is_over:
            return 0, 0
        n_jobs = len(self.members) - self.n_final
        n_epochs = n_jobs * self._increments[self.rung]
        later_jobs, later_epochs = self._jobs_after(len(self.members))
        return n_jobs + later_jobs, n_epochs + later_epochs

    def _jobs_after(self, n_entering: int) -> tuple[int, int]:
        """(jobs, epochs) of the rungs after the current one if at most `n_entering` trials go on."""
        n_jobs = n_epochs = 0
        for rung in range(self.rung + 1, len(self.bracket.rungs)):
            n = min(self.bracket.rungs[rung].n, n_entering)
            n_jobs += n
            n_epochs += n * self._increments[rung]
        return n_jobs, n_epochs
