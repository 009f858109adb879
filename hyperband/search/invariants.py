"""What must hold in every state of a search, whatever happened: the counts against a full recount.

Owns the checks only; returns what is broken in words and raises nothing.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from hyperband.search.halving import Halving, StartOrder
from hyperband.search.ledger import Trials
from hyperband.search.trial import TrialState

#: states of a trial whose job in its rung is final
_FINAL = (TrialState.WAITING, TrialState.FAILED, TrialState.DONE)


def check_brackets(brackets: Sequence[Halving], firsts: Sequence[int], trials: Trials) -> list[str]:
    """What is wrong with the rungs of each bracket."""
    broken = []
    first = 0
    for place, halving in enumerate(brackets):
        rungs = halving.bracket.rungs
        if firsts[place] != first:
            broken.append(f"bracket {place} begins at trial {firsts[place]}, not {first}")
        members = [trial for trial in halving.members if trial < len(trials)]
        states = Counter(trials.state(trial) for trial in members)
        if len(halving.members) > rungs[halving.rung].n:
            broken.append(f"bracket {place} has {len(halving.members)} trials in rung {halving.rung}")
        if halving.n_final != sum(states[state] for state in _FINAL):
            broken.append(f"bracket {place} counts {halving.n_final} final jobs, its trials are {states}")
        if halving.n_losses != states[TrialState.WAITING] + states[TrialState.DONE]:
            broken.append(f"bracket {place} counts {halving.n_losses} losses, its trials are {states}")
        if halving.is_over != halving.is_rung_complete:
            broken.append(f"bracket {place} is over: {halving.is_over}, with {halving.n_final} final jobs")
        if any(trials.rungs[trial] != halving.rung for trial in members):
            broken.append(f"bracket {place} has a trial in its rung that is in another one")
        left = set(range(first, min(first + rungs[0].n, len(trials)))) - set(members)
        if any(trials.state(trial) not in (TrialState.DROPPED, TrialState.FAILED) for trial in left):
            broken.append(f"bracket {place} has a trial below its rung that is neither dropped nor failed")
        first += rungs[0].n
    return broken


def check_jobs(running: Collection[int], order: StartOrder, trials: Trials) -> list[str]:
    """What is wrong with the queue and the running jobs."""
    broken = []
    states = [trials.state(trial) for trial in range(len(trials))]
    queued = sorted(order.queued(len(trials)))
    if queued != [trial for trial, state in enumerate(states) if state is TrialState.QUEUED]:
        broken.append(f"the queue holds the trials {queued[:20]}, which differ from those that are queued")
    n_running = states.count(TrialState.RUNNING)
    if n_running != len(running):
        broken.append(f"{n_running} trials are running, but {len(running)} jobs are")
    return broken
