"""What must hold in every state of a search, whatever happened: the counts against a full recount.

Owns the checks only; returns what is broken in words and raises nothing.
"""

from collections import Counter
from collections.abc import Collection

from hyperband.search.asha import AsyncRung, trial_of
from hyperband.search.asynchronous import Asynchronous
from hyperband.search.halving import Halving
from hyperband.search.ledger import Trials
from hyperband.search.order import StartOrder
from hyperband.search.trial import TrialState

#: states of a trial whose job in its rung is final
_FINAL = (TrialState.WAITING, TrialState.FAILED, TrialState.DONE)


def check_halving(halving: Halving, trials: Trials) -> list[str]:
    """What is wrong with the rung of a bracket."""
    broken = []
    rungs, place, first = halving.bracket.rungs, halving.place, halving.first
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
    return broken


def check_asynchronous(bracket: Asynchronous, trials: Trials, next_new: int) -> list[str]:
    """What is wrong with the rungs of a bracket without barriers; next_new: the first that never started."""
    broken = []
    sizes = [rung.n for rung in bracket.bracket.rungs]
    end = min(bracket.first + sizes[0], next_new)
    of_rung: list[list[int]] = [[] for _ in sizes]
    for trial in range(bracket.first, end):
        of_rung[trials.rungs[trial]].append(trial)
    n_above = 0
    for here in reversed(bracket.rungs):
        name = f"bracket {bracket.place}, rung {here.place}"
        states = Counter(trials.state(trial) for trial in of_rung[here.place])
        n_final = sum(states[state] for state in (*_FINAL, TrialState.DROPPED)) + n_above
        counts = (here.entered, here.final, here.n_results, here.n_promoted)
        found = (
            len(of_rung[here.place]) + n_above,
            n_final,
            n_final - states[TrialState.FAILED],
            n_above,
        )
        if counts != found:
            broken.append(f"{name} counts {counts} entered, final, results, promoted, but has {found}")
        broken += _check_order(here, name, trials)
        if here.place < bracket.last and here.n_waiting != states[TrialState.WAITING]:
            broken.append(f"{name} counts {here.n_waiting} that wait, but has {states[TrialState.WAITING]}")
        if (not bracket.is_open or here.place == 0) and found[0] > sizes[here.place]:
            broken.append(f"{name} has {found[0]} trials, planned are {sizes[here.place]}")
        n_above = found[0]
    if bracket.is_over and any(here.n_running for here in bracket.rungs):
        broken.append(f"bracket {bracket.place} is over, but jobs of it run")
    return broken


def _check_order(here: AsyncRung, name: str, trials: Trials) -> list[str]:
    """What is wrong with who is among the best of a rung."""
    keys = here.results()
    left = [trial_of(key) for key in keys if trials.rungs[trial_of(key)] == here.place]
    best = {trial_of(key) for key in keys[: len(keys) // here.eta]}
    promotable = left if here.is_filled else [trial for trial in left if trial in best]
    broken = []
    if len(keys) != here.n_results or len(best) != here.n_best:
        broken.append(f"{name} has {len(keys)} losses and {here.n_best} best, of {here.n_results}")
    if not here.is_filled and len(promotable) != here.n_promotable:
        broken.append(f"{name} counts {here.n_promotable} to promote, but has {promotable[:20]}")
    if here.n_promotable and here.head != promotable[0]:
        broken.append(f"{name} would promote trial {here.head}, but trial {promotable[0]} is better")
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
