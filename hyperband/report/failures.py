"""Failures of one kind together: `17 x CUDA out of memory, 3 x KeyError 'bn' (trials 4, 9, 31)`.

Owns the grouping and its words. What makes two failures one kind was decided when they were journalled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from hyperband.report.text import counted, shortened
from hyperband.report.view import StudyView
from hyperband.script.fingerprint import fingerprint
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome

#: of a group with no more trials they are listed
_MOST_LISTED = 5
#: so many groups are told of in words
_MOST_GROUPS = 6
_FINGERPRINT_WIDTH = 90

#: how many failed attempts, their trials, and what they have in common
_Kind = tuple[int, tuple[int, ...], str]


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
    #: a trial for each failed attempt
    final: list[int] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)


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
        if end.outcome is Outcome.LOSS and self._n_retried:
            self._n_mended += self._n_retried.pop(end.job, 0)
        if not end.outcome.is_failure:
            return
        name = end.fingerprint or _kind_of_note(end.note) or str(end.outcome)
        group = self._gathered.setdefault(name, _Gathered(end.outcome))
        (group.retried if end.retry else group.final).append(trial)
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
                final_trials=tuple(sorted(set(group.final))),
                retried_trials=tuple(sorted(set(group.retried))),
            )
            for name, group in self._gathered.items()
        ]
        return tuple(sorted(groups, key=lambda g: (-g.n_final - g.n_retried, g.trials[0])))

    def text(self) -> str:
        """The failures by kind in a line or two, those that were tried again apart; empty if none."""
        groups = self.groups()
        final = [(g.n_final, g.final_trials, g.fingerprint) for g in groups if g.n_final]
        retried = [(g.n_retried, g.retried_trials, g.fingerprint) for g in groups if g.n_retried]
        lines = []
        if final:
            lines.append(f"{counted(sum(kind[0] for kind in final), 'job')} failed: {_listed(final)}")
        if retried:
            how = f", {self._n_mended:,} with a loss in the end" if self._n_mended else ""
            n_retried = sum(kind[0] for kind in retried)
            lines.append(f"{counted(n_retried, 'attempt')} failed and tried again{how}: {_listed(retried)}")
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


def _listed(kinds: Sequence[_Kind]) -> str:
    ordered = sorted(kinds, key=lambda kind: (-kind[0], kind[1]))
    words = [_words(kind) for kind in ordered[:_MOST_GROUPS]]
    others = ordered[_MOST_GROUPS:]
    if others:
        words.append(f"{sum(kind[0] for kind in others):,} x {counted(len(others), 'other kind')}")
    return ", ".join(words)


def _words(kind: _Kind) -> str:
    n, trials, name = kind
    name = shortened(name, _FINGERPRINT_WIDTH)
    if len(trials) > _MOST_LISTED:
        return f"{n:,} x {name}"
    noun = "trial" if len(trials) == 1 else "trials"
    return f"{n:,} x {name} ({noun} {', '.join(map(str, trials))})"
