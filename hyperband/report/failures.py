"""Failures of one kind together: `17 x CUDA out of memory, 3 x KeyError 'bn' (trials 4, 9, 31)`.

Owns the grouping and its words. What makes two failures one kind was decided when they were journalled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from hyperband.report.text import counted, shortened
from hyperband.report.view import StudyView
from hyperband.script.fingerprint import fingerprint
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome

#: so many trials of a group are listed
_MOST_LISTED = 5
#: so many groups are told of in words
_MOST_GROUPS = 6
_FINGERPRINT_WIDTH = 90


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed attempts of one kind."""

    fingerprint: str
    outcome: Outcome
    #: failures that are the last word on their job
    n_final: int
    #: failures after which the job was tried again
    n_retried: int
    #: the trials of both, by number, each once
    final_trials: tuple[int, ...]
    retried_trials: tuple[int, ...]

    @property
    def trials(self) -> tuple[int, ...]:
        """Every trial that failed in this way, by number."""
        return tuple(sorted({*self.final_trials, *self.retried_trials}))


@dataclass(slots=True)
class _Gathered:
    outcome: Outcome
    #: job and trial of each failed attempt
    final: list[tuple[int, int]] = field(default_factory=list)
    retried: list[tuple[int, int]] = field(default_factory=list)


class Failures:
    """Failures as they happen, or as a journal tells them: a fold over the ends of attempts."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self._gathered: dict[str, _Gathered] = {}
        #: how many attempts at a job failed and were tried again so far, by job
        self._n_retried: dict[int, int] = {}
        self._n_mended = 0

    def see(self, trial: int, end: JobEnded) -> None:
        """Take in how an attempt at a job of a trial ended; they come in order."""
        if end.outcome is Outcome.LOSS:
            if self._n_retried:
                self._n_mended += self._n_retried.pop(end.job, 0)
            return
        if not end.outcome.is_failure:
            return
        name = end.fingerprint or _kind_of_note(end.note) or str(end.outcome)
        group = self._gathered.setdefault(name, _Gathered(end.outcome))
        (group.retried if end.retry else group.final).append((end.job, trial))
        if end.retry:
            self._n_retried[end.job] = self._n_retried.get(end.job, 0) + 1

    def groups(self) -> tuple[FailureGroup, ...]:
        """All failed attempts by kind: the largest group first, then by its first trial."""
        groups = [
            FailureGroup(
                fingerprint=name,
                outcome=group.outcome,
                n_final=len(group.final),
                n_retried=len(group.retried),
                final_trials=_trials(group.final),
                retried_trials=_trials(group.retried),
            )
            for name, group in self._gathered.items()
        ]
        return tuple(sorted(groups, key=lambda g: (-g.n_final - g.n_retried, g.trials[0])))

    def text(self) -> str:
        """The failures by kind in a line or two, those that were tried again apart; empty if none.

        What failed again in the same way when it was tried again is told of once.
        """
        final = {name: group.final for name, group in self._gathered.items()}
        failed = {name: {job for job, _ in attempts} for name, attempts in final.items()}
        retried = {name: group.retried for name, group in self._gathered.items()}
        others = {
            name: [(job, trial) for job, trial in attempts if job not in failed[name]]
            for name, attempts in retried.items()
        }
        n_final, n_retried = (sum(map(len, kinds.values())) for kinds in (final, retried))
        lines = []
        if n_final:
            lines.append(f"{counted(n_final, 'job')} failed: {_listed(final)}")
        if n_retried:
            again = "was" if n_retried == 1 else "were"
            how = f", {self._n_mended:,} with a loss in the end" if self._n_mended else ""
            kinds = f": {_listed(others)}" if any(others.values()) else ""
            lines.append(f"{counted(n_retried, 'failed attempt')} {again} tried again{how}{kinds}")
        return "\n".join(lines)


def failures_of(study: StudyView) -> Failures:
    """The failures of a study."""
    failures = Failures()
    for job in study.jobs:
        if job.end is not None:
            failures.see(job.start.trial, job.end)
    return failures


@cache
def _kind_of_note(note: str) -> str:
    """What journals of earlier versions, which have no fingerprints, say of a failure."""
    return fingerprint(note.partition("; ")[0])


def _listed(kinds: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    """Kinds of failures in words, the largest first: `17 x CUDA out of memory, 3 x KeyError 'bn' (..)`."""
    told = [(len(attempts), _trials(attempts), name) for name, attempts in kinds.items() if attempts]
    told.sort(key=lambda kind: (-kind[0], kind[1]))
    words = [_words(*kind) for kind in told[:_MOST_GROUPS]]
    others = told[_MOST_GROUPS:]
    if others:
        words.append(f"{sum(kind[0] for kind in others):,} x {counted(len(others), 'other kind')}")
    return ", ".join(words)


def _words(n: int, trials: Sequence[int], name: str) -> str:
    name = shortened(name, _FINGERPRINT_WIDTH)
    noun = "trial" if len(trials) == 1 else "trials"
    n_more = len(trials) - _MOST_LISTED
    more = f" and {n_more:,} more, see report --json" if n_more > 0 else ""
    return f"{n:,} x {name} ({noun} {', '.join(map(str, trials[:_MOST_LISTED]))}{more})"


def _trials(attempts: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(sorted({trial for _, trial in attempts}))
