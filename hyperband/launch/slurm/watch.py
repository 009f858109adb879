"""The jobs and steps whose end is looked for, between two looks at Slurm.

Pure: no clock, no command. Owns for how long a job that Slurm does not list may still turn up, and what the
absence of a step proves. Must not know: how Slurm is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hyperband.launch.slurm.words import JobLine, JobState


@dataclass(frozen=True, slots=True)
class AwaitedStep:
    """A step whose end is looked for; see Clerk.see_over."""

    name: str
    #: of the allocation in which it was started
    job_id: str
    #: when that had started, in Slurm's own words
    started: str
    #: on the monotonic clock
    until_s: float


@dataclass(slots=True)
class _Watched:
    """A job that we asked for and whose end was not reported."""

    last: JobLine | None = None
    #: since when squeue does not list it
    missing_since_s: float | None = None


class WatchList:
    """What is looked for. Times are seconds of one monotonic clock."""

    def __init__(self, name: str) -> None:
        """Look for nothing; name: of all jobs of the study."""
        self._name = name
        self._watched: dict[str, _Watched] = {}
        self._steps: dict[str, AwaitedStep] = {}

    def add(self, *job_ids: str) -> None:
        """Look for jobs from now on."""
        for job_id in job_ids:
            self._watched.setdefault(job_id, _Watched())

    def add_step(self, step: AwaitedStep) -> None:
        """Look for the end of a step."""
        self._steps[step.name] = step

    @property
    def has_jobs(self) -> bool:
        """Whether any job is looked for."""
        return bool(self._watched)

    @property
    def has_steps(self) -> bool:
        """Whether any step is."""
        return bool(self._steps)

    # Jobs.

    def missing(self, listed: Sequence[JobLine]) -> tuple[str, ...]:
        """Return the jobs that squeue does not list."""
        there = {line.job_id for line in listed} | {line.job_id.split("_")[0] for line in listed}
        return tuple(job_id for job_id in self._watched if job_id not in there)

    def known_of_missing(
        self, missing: Sequence[str], in_accounts: Mapping[str, JobLine], *, now_s: float, patience_s: float
    ) -> list[JobLine]:
        """Return what is known of jobs that squeue does not list.

        Args:
            missing: those.
            in_accounts: what the accounts have of them, where there are any.
            now_s: of the clock.
            patience_s: so long after it was missed first a job is taken for gone.
        """
        found = []
        for job_id in missing:
            watched = self._watched[job_id]
            line = in_accounts.get(job_id)
            if line is not None and line.state.is_over:
                found.append(line)
                continue
            if watched.missing_since_s is None:
                # the first time proves nothing: it may have been between two places
                watched.missing_since_s = now_s
            elif now_s - watched.missing_since_s >= patience_s:
                last = watched.last or JobLine(job_id, self._name, JobState.GONE, "")
                found.append(replace(last, state=JobState.GONE, said="", reason="", time_left_s=None))
                continue
            if watched.last is not None:
                found.append(watched.last)
        return found

    def note(self, lines: Sequence[JobLine], listed: Sequence[JobLine]) -> None:
        """Take in what is about to be reported.

        Args:
            lines: all of it.
            listed: that of it which squeue listed.
        """
        for line in lines:
            if line.state.is_over:
                self._watched.pop(line.job_id, None)
            else:
                before = self._watched.get(line.job_id)
                since_s = None if line in listed or before is None else before.missing_since_s
                self._watched[line.job_id] = _Watched(line, since_s)
            whole, task, _ = line.job_id.partition("_")
            if task:  # an array is listed by its tasks
                self._watched.pop(whole, None)

    # Steps.

    def allocations_of_steps(self, now_s: float) -> tuple[str, ...]:
        """Return the allocations whose steps are to be listed; those looked for in vain are let go."""
        self._steps = {name: step for name, step in self._steps.items() if now_s < step.until_s}
        return tuple(dict.fromkeys(step.job_id for step in self._steps.values()))

    def unlisted(self, names: Sequence[str]) -> list[AwaitedStep]:
        """Return the steps that are not among those listed: they are over, or went with their allocation."""
        return [step for step in self._steps.values() if step.name not in names]

    def over(self, unlisted: Sequence[AwaitedStep], listed: Sequence[JobLine]) -> list[AwaitedStep]:
        """Return the steps that are over for sure, and look for none of these any more.

        Args:
            unlisted: those that were not listed, before jobs were.
            listed: the jobs: an allocation must run, and be the same, for its step to be over.
        """
        for step in unlisted:
            del self._steps[step.name]
        running = {(line.job_id, line.started) for line in listed if line.state == JobState.RUNNING}
        return [step for step in unlisted if (step.job_id, step.started) in running]
