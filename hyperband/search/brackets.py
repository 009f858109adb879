"""Plans: the numbers of successive halving, in whole numbers only.

Owns the arithmetic that turns settings into a Plan, and the plan of a space with too few configurations.
Knows nothing of trials, losses or time.
"""

import math
from dataclasses import replace

from hyperband.errors import UsageError
from hyperband.search.trial import Algorithm, Bracket, Plan, Promotion, Rung


def hyperband_brackets(*, max_epochs: int, eta: int, min_epochs: int) -> tuple[Bracket, ...]:
    """The brackets of one pass of Hyperband, from the most exploring to plain random search.

    Li et al. 2018, Algorithm 1, with R = max_epochs and the smallest resource r = min_epochs: s_max is the
    largest s with r * eta^s <= R; bracket s = s_max..0 starts n = ceil((s_max + 1) * eta^s / (s + 1)) trials;
    its rung i has n // eta^i trials at R // eta^(s - i) epochs. Whole numbers throughout: the logarithm in
    floating point loses a bracket at 243/3 and 1000/10.

    Raises:
        UsageError: eta < 2, or not 1 <= min_epochs <= max_epochs.
    """
    if eta < 2:
        raise UsageError(
            f"--eta is {eta}, but must be a whole number of at least 2: each rung keeps 1 trial in eta. "
            "Leave the option out for the usual 3."
        )
    if not 1 <= min_epochs <= max_epochs:
        raise UsageError(
            f"--min-epochs is {min_epochs} and --max-epochs is {max_epochs}, but "
            "1 <= --min-epochs <= --max-epochs must hold. Change one of the two."
        )
    s_max = 0
    while min_epochs * eta ** (s_max + 1) <= max_epochs:
        s_max += 1
    brackets = []
    for s in range(s_max, -1, -1):
        n = -(-(s_max + 1) * eta**s // (s + 1))
        brackets.append(Bracket(tuple(Rung(n // eta**i, max_epochs // eta ** (s - i)) for i in range(s + 1))))
    return tuple(brackets)


def make_plan(
    *,
    algorithm: Algorithm,
    max_epochs: int,
    eta: int,
    min_epochs: int,
    brackets: int | None,
    repeat: int,
    max_trials: int | None,
    asynchronous: bool = False,
    max_total_epochs: int | None = None,
) -> Plan:
    """The plan that the settings ask for.

    Args:
        algorithm: hyperband: the first `brackets` brackets; halving: the most exploring one alone; random:
            one rung at the full number of epochs; asha, pasha: one ladder of rungs that all trials climb.
        max_epochs: R, the full number of epochs.
        eta: one trial in eta goes on from rung to rung.
        min_epochs: r, the smallest number of epochs worth a job.
        brackets: how many of the most exploring brackets; None: all. For hyperband only.
        repeat: how often the brackets are gone through.
        max_trials: number of trials, for random, asha and pasha. None: for random as many as `repeat` passes
            of Hyperband pay for; for the others as many as they start, or as it takes for one to be expected
            to reach R if that is more, or with `max_total_epochs` as many as these could pay for.
        asynchronous: trials of hyperband's or halving's brackets go on without waiting for their rung.
        max_total_epochs: of all jobs together when each goes on from a checkpoint; for asha and pasha.

    Raises:
        UsageError: a number is out of its range, or an option does not go with the algorithm.
    """
    full = hyperband_brackets(max_epochs=max_epochs, eta=eta, min_epochs=min_epochs)
    if repeat < 1:
        raise UsageError(
            f"--repeat is {repeat}, but must be at least 1: the number of times through the brackets. "
            "Leave the option out for 1."
        )
    if brackets is not None and algorithm is not Algorithm.HYPERBAND:
        raise UsageError(
            f"--brackets {brackets} was given with --algorithm {algorithm}, but only hyperband has several "
            "brackets to choose from. Leave out one of the two options."
        )
    if max_trials is not None and algorithm in (Algorithm.HYPERBAND, Algorithm.HALVING):
        raise UsageError(
            f"--max-trials {max_trials} was given with --algorithm {algorithm}, but only random, asha and "
            "pasha take their number of trials from it. Leave it out, or change the plan by --repeat or "
            "--brackets."
        )
    if asynchronous and algorithm not in (Algorithm.HYPERBAND, Algorithm.HALVING):
        raise UsageError(
            f"--async was given with --algorithm {algorithm}, but is for the brackets of hyperband and "
            "halving: asha and pasha never wait for a rung, and random has but one. Leave out one of the two "
            "options."
        )
    if max_total_epochs is not None and not algorithm.has_one_ladder:
        raise UsageError(
            f"--max-total-epochs {max_total_epochs} was given with --algorithm {algorithm}, but only asha "
            "and pasha end by it. Leave it out, or change the plan by --repeat, --brackets or --max-trials."
        )
    match algorithm:
        case Algorithm.HYPERBAND | Algorithm.HALVING:
            n_kept = 1 if algorithm is Algorithm.HALVING else brackets
            plan = Plan(_first_brackets(full, n_kept) * repeat, max_epochs)
            return replace(plan, promotion=Promotion.ASYNCHRONOUS, eta=eta) if asynchronous else plan
        case Algorithm.RANDOM:
            return Plan((_random_bracket(full, max_epochs, repeat, max_trials),), max_epochs)
        case Algorithm.ASHA | Algorithm.PASHA:
            promotion = Promotion(str(algorithm))
            epochs = ladder(max_epochs=max_epochs, eta=eta, min_epochs=min_epochs)
            n_default = Plan(full * repeat, max_epochs).n_trials
            n = _n_on_ladder(epochs, eta, n_default, max_trials, max_total_epochs)
            rungs = _on_ladder(n, epochs, eta)
            return Plan((rungs,), max_epochs, promotion, eta, max_total_epochs)


def ladder(*, max_epochs: int, eta: int, min_epochs: int) -> tuple[int, ...]:
    """Epochs of the rungs of ASHA: r * eta^i below R, and then R.

    Li et al. 2020, section 3.2, counts up from r; Hyperband counts down from R, and gets other numbers where
    R / r is no power of eta. So 52 / 3 from 1 has 1, 3, 9, 27, 52 here, and 1, 5, 17, 52 there.
    """
    epochs = []
    reached = min_epochs
    while reached < max_epochs:
        epochs.append(reached)
        reached *= eta
    return (*epochs, max_epochs)


def with_trials(plan: Plan, n: int) -> Plan:
    """A plan of one ladder, with n trials to begin with."""
    epochs = tuple(rung.epochs for rung in plan.brackets[0].rungs)
    return replace(plan, brackets=(_on_ladder(n, epochs, plan.eta),))


def _on_ladder(n: int, epochs: tuple[int, ...], eta: int) -> Bracket:
    """The rungs with n trials in the first; of those above it is expected that 1 in eta of the one below."""
    return Bracket(tuple(Rung(n // eta**i, reached) for i, reached in enumerate(epochs)))


def _n_on_ladder(
    epochs: tuple[int, ...],
    eta: int,
    n_default: int,
    max_trials: int | None,
    max_total_epochs: int | None,
) -> int:
    """How many trials a search by asha or pasha starts at most."""
    if max_trials is not None and max_trials < 1:
        raise UsageError(
            f"--max-trials is {max_trials}, but must be at least 1: the number of trials. Leave the option "
            "out for as many as Hyperband would start."
        )
    if max_total_epochs is not None and max_total_epochs < epochs[0]:
        raise UsageError(
            f"--max-total-epochs is {max_total_epochs}, but a single job trains {epochs[0]} epochs already "
            "(--min-epochs). Raise the first, or lower the second."
        )
    if max_trials is not None:
        return max_trials
    if max_total_epochs is None:
        return max(n_default, int(eta ** (len(epochs) - 1)))
    # no promotion is certain: only with so many trials are the epochs used up in any case
    return max_total_epochs // epochs[0]


def _first_brackets(full: tuple[Bracket, ...], brackets: int | None) -> tuple[Bracket, ...]:
    """The `brackets` most exploring brackets."""
    if brackets is None:
        return full
    if not 1 <= brackets <= len(full):
        raise UsageError(
            f"--brackets is {brackets}, but must be from 1 to {len(full)}: these --max-epochs, --eta and "
            f"--min-epochs give {len(full)} brackets. Leave the option out for all of them."
        )
    return full[:brackets]


def _random_bracket(
    full: tuple[Bracket, ...], max_epochs: int, repeat: int, max_trials: int | None
) -> Bracket:
    """Random search as one bracket with one rung, as dear as `repeat` passes of Hyperband by default."""
    if max_trials is None:
        max_trials = repeat * Plan(full, max_epochs).epochs // max_epochs
    elif max_trials < 1:
        raise UsageError(
            f"--max-trials is {max_trials}, but must be at least 1: the number of trials of a random search. "
            "Leave the option out for as many as Hyperband would pay for."
        )
    return Bracket((Rung(max_trials, max_epochs),))


def exhausted_plan(plan: Plan, *, n_ids: int, train_all: bool) -> Plan:
    """The plan for a space that has only `n_ids` configurations, for good.

    A bracket that got m ids of its n runs rungs of max(1, m // eta^i) trials, a bracket without ids is
    dropped; with `train_all` the plan is one bracket that trains every id to the full number of epochs.

    Args:
        plan: a plan as `make_plan` gives it. Its first bracket is the most exploring one, which starts
            exactly eta^s trials: so eta is the ratio of its first two rungs.
        n_ids: how many ids there are, at least 1.
        train_all: all ids to the full number of epochs cost no more than the plan.
    """
    if train_all:
        return Plan((Bracket((Rung(n_ids, plan.max_epochs),)),), plan.max_epochs)
    if plan.promotion.is_open:
        epochs = tuple(rung.epochs for rung in plan.brackets[0].rungs)
        return replace(plan, brackets=(_on_ladder(n_ids, epochs, plan.eta),))
    widest = plan.brackets[0].rungs
    eta = widest[0].n // widest[1].n if len(widest) > 1 else 1
    kept = []
    n_left = n_ids
    for bracket in plan.brackets:
        if n_left == 0:
            break
        m = min(n_left, bracket.rungs[0].n)
        n_left -= m
        kept.append(bracket if m == bracket.rungs[0].n else _shrunk(bracket, m, eta))
    return replace(plan, brackets=tuple(kept))


def _shrunk(bracket: Bracket, m: int, eta: int) -> Bracket:
    """The bracket with m trials to begin with; every rung keeps at least one."""
    return Bracket(tuple(Rung(max(1, m // eta**i), rung.epochs) for i, rung in enumerate(bracket.rungs)))


def is_extension(plan: Plan, *, of: Plan) -> bool:
    """True if the plan is the same, or adds brackets at the end, or trials to a sole rung.

    A plan of asha or pasha may add trials, and epochs to train in all; no limit is more than any.
    """
    if (plan.max_epochs, plan.promotion, plan.eta) != (of.max_epochs, of.promotion, of.eta):
        return False
    if plan.promotion.is_open:
        epochs, before = ([rung.epochs for rung in p.brackets[0].rungs] for p in (plan, of))
        limit, limit_before = (
            math.inf if p.max_total_epochs is None else p.max_total_epochs for p in (plan, of)
        )
        return epochs == before and plan.n_trials >= of.n_trials and limit >= limit_before
    if plan.brackets[: len(of.brackets)] == of.brackets:
        return True
    if len(plan.brackets) != 1 or len(of.brackets) != 1:
        return False
    old, new = of.brackets[0].rungs, plan.brackets[0].rungs
    return len(old) == len(new) == 1 and old[0].epochs == new[0].epochs and old[0].n <= new[0].n
