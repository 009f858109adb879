"""How far a study is, for people: jobs done of those planned, the state of each rung, and the time it took.

Owns the words and the table. Reads, never decides: what is planned, and what has become of trials, is the
engine's.
"""

from collections import Counter

from hyperband.report.tables import columns
from hyperband.report.text import counted, duration, moment
from hyperband.report.view import StudyView
from hyperband.search.trial import Bracket, TrialState, TrialView

#: brackets that are over, or have not begun, are counted where there are more than so many
_MOST_BRACKETS = 20
_OVER = (TrialState.DROPPED, TrialState.FAILED, TrialState.DONE)


def progress_words(study: StudyView, *, now: float) -> str:
    """Jobs that are done of those that are planned, and when the study was worked on; three lines at most.

    Args:
        study: where they are from.
        now: Unix seconds; what runs has run until then.
    """
    lines = []
    progress = study.progress
    if progress is not None:
        about = "about " if progress.is_estimate and study.state != "finished" else ""
        n_queued, n_suspended = study.n_queued, study.n_suspended
        n_running = progress.n_jobs_running - n_queued - n_suspended
        states = (("running", n_running), ("suspended", n_suspended), ("queued", n_queued))
        running = "".join(f", {n:,} {state}" for state, n in states if n)
        failed = f", {progress.n_jobs_failed:,} of them failed" if progress.n_jobs_failed else ""
        lines.append(
            f"jobs    {progress.n_jobs_final:,} of {about}{progress.n_jobs_planned:,} done{failed}{running}"
        )
    if study.last_seen_at is not None:
        seen = moment(study.last_seen_at)
        lines.append(f"seen    no search is running: jobs are shown as last seen at {seen}")
    if study.spans:
        began_at = study.spans[0].began_at
        ran_s = sum((now if span.ended_at is None else span.ended_at) - span.began_at for span in study.spans)
        ran = "has run" if study.spans[-1].ended_at is None else "ran"
        starts = f" in {counted(len(study.spans), 'start')}" if len(study.spans) > 1 else ""
        lines.append(f"time    began {moment(began_at)}, {ran} for {duration(ran_s)}{starts}")
    return "\n".join(lines)


def brackets_table(study: StudyView) -> str:
    """Where each bracket is: its state, and in each rung the trials that are done of those planned.

    Empty without brackets, and once all are complete.
    """
    if not study.has_brackets or not study.plan.brackets or study.state == "finished":
        return ""
    n_done: Counter[tuple[int, int]] = Counter()
    n_failed: Counter[tuple[int, int]] = Counter()
    started: set[tuple[int, int]] = set()
    #: the highest rung in which a job has started, by bracket
    tops: dict[int, int] = {}
    for job in study.jobs:
        rung = (job.bracket, job.rung)
        started.add(rung)
        tops[job.bracket] = max(job.rung, tops.get(job.bracket, 0))
        if job.end is not None and job.end.outcome.is_final and not job.retry:
            n_done[rung] += 1
            n_failed[rung] += job.has_failed
    trials: dict[int, list[TrialView]] = {}
    for trial in study.trials:
        trials.setdefault(trial.bracket, []).append(trial)
    rows: list[list[str]] = []
    left_out: Counter[str] = Counter()
    n_rungs = max(len(bracket.rungs) for bracket in study.plan.brackets)
    for place, bracket in enumerate(study.plan.brackets):
        state = _state_of(bracket, trials.get(place, []), tops.get(place))
        if len(study.plan.brackets) > _MOST_BRACKETS and not state.startswith("rung"):
            left_out[state] += 1
            continue
        cells = [
            f"{n_done[place, rung]:,} of {planned.n:,}"
            + (f", {n_failed[place, rung]:,} failed" if n_failed[place, rung] else "")
            if (place, rung) in started
            else "-"
            for rung, planned in enumerate(bracket.rungs)
        ]
        rows.append([str(place), state, *cells, *[""] * (n_rungs - len(cells))])
    heads = ["bracket", "state", *(f"rung {rung}" for rung in range(n_rungs))]
    others = ", ".join(f"{counted(n, 'bracket')} {state}" for state, n in left_out.items())
    table = columns(rows, heads) if rows else ""
    return "\n".join(filter(None, (table, f"and {others}" if table and others else others)))


def _state_of(bracket: Bracket, trials: list[TrialView], top: int | None) -> str:
    """`complete`, `failed`, `not begun`, or the highest rung in which a job has started."""
    if top is None:
        return "not begun"
    if len(trials) < bracket.rungs[0].n or any(trial.state not in _OVER for trial in trials):
        return f"rung {top}"
    return "complete" if any(trial.state is TrialState.DONE for trial in trials) else "failed"
