"""The rule of searches without barriers spelt out over all results: slow, and without any count or heap."""

from dataclasses import dataclass, field
from itertools import combinations, pairwise

from hyperband.search.trial import Plan, Promotion, Rung

#: (trial, bracket, rung) of a start
Where = tuple[int, int, int]


@dataclass
class Seen:
    """What one rung has seen."""

    entered: list[int] = field(default_factory=list)
    final: set[int] = field(default_factory=set)
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def ranked(self) -> list[int]:
        """The trials with a loss, the best first."""
        return sorted(self.losses, key=lambda trial: (self.losses[trial], trial))


class Reference:
    """One search; told of starts and ends, it says what starts next."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen: list[list[Seen]] = []
        self.sizes: list[list[Rung]] = []
        self.take(plan)
        self.retries: set[Where] = set()
        self.n_ids = 0
        self.n_epochs = 0
        self.top = 1 if plan.promotion is Promotion.PASHA else len(plan.brackets[0].rungs)

    def take(self, plan: Plan) -> None:
        """A plan, or a larger one."""
        self.plan = plan
        self.sizes = [list(bracket.rungs) for bracket in plan.brackets]
        for rungs in self.sizes[len(self.seen) :]:
            self.seen.append([Seen() for _ in rungs])

    def shrink(self, plan: Plan) -> None:
        """Fewer ids: a rung keeps those who have entered it, and an open one has no size."""
        self.sizes = [
            [Rung(max(rung.n, len(seen.entered)), rung.epochs) for rung, seen in zip(*pair, strict=True)]
            for pair in zip((bracket.rungs for bracket in plan.brackets), self.seen, strict=False)
        ]

    def next(self) -> Where | None:
        """What starts next: retries, then in plan order the highest rung that promotes, then a new trial."""
        if self.retries:
            return min(self.retries)
        for place, rungs in enumerate(self.sizes):
            for rung in reversed(range(len(rungs) - 1)):
                if able := self.able(place, rung):
                    return able[0], place, rung + 1
        for place, rungs in enumerate(self.sizes):
            n_started = len(self.seen[place][0].entered)
            trial = sum(numbers[0].n for numbers in self.sizes[:place]) + n_started
            if n_started < rungs[0].n and trial < self.n_ids and self.pays(place, 0):
                return trial, place, 0
        return None

    def able(self, place: int, rung: int) -> list[int]:
        """Who may go on from a rung, the best first."""
        here, above = self.seen[place][rung : rung + 2]
        is_open = self.plan.promotion.is_open
        if rung >= self.top or not self.pays(place, rung + 1):
            return []
        if not is_open and len(above.entered) >= self.sizes[place][rung + 1].n:
            return []
        ranked = here.ranked
        best = (
            ranked if not is_open and self.is_closed(place, rung) else ranked[: len(ranked) // self.plan.eta]
        )
        return [trial for trial in best if trial not in above.entered]

    def is_closed(self, place: int, rung: int) -> bool:
        """Whether no result can follow in a rung."""
        below = self.seen[place][: rung + 1]
        return (
            len(below[0].entered) == self.sizes[place][0].n
            and all(len(seen.entered) == len(seen.final) for seen in below)
            and not any(self.able(place, lower) for lower in range(rung))
        )

    def pays(self, place: int, rung: int) -> bool:
        limit = self.plan.max_total_epochs
        return limit is None or self.n_epochs + self.increment(place, rung) <= limit

    def increment(self, place: int, rung: int) -> int:
        rungs = self.sizes[place]
        return rungs[rung].epochs - (rungs[rung - 1].epochs if rung else 0)

    def start(self, where: Where) -> None:
        if where in self.retries:
            self.retries.remove(where)
            return
        trial, place, rung = where
        self.seen[place][rung].entered.append(trial)
        self.n_epochs += self.increment(place, rung)

    def end(self, where: Where, loss: float | None) -> None:
        trial, place, rung = where
        self.seen[place][rung].final.add(trial)
        if loss is None:
            return
        self.seen[place][rung].losses[trial] = loss
        is_pasha = self.plan.promotion is Promotion.PASHA
        if is_pasha and rung == self.top < len(self.sizes[0]) - 1 and self.rankings_differ():
            self.top += 1

    def rankings_differ(self) -> bool:
        """Bohdal et al. 2023, sections 4.1 to 4.3, over all pairs."""
        rungs = [seen.losses for seen in self.seen[0]]
        curves = [[losses[trial] for losses in rungs if trial in losses] for trial in rungs[1]]
        distances = []
        for one, other in combinations(curves, 2):
            signs = [(a > b) - (a < b) for a, b in zip(one, other, strict=False)]
            n_changes = sum(a != b for a, b in pairwise(filter(None, signs)))
            if signs[-1] and n_changes >= 2:
                distances.append(abs(one[len(signs) - 1] - other[len(signs) - 1]))
        epsilon = sorted(distances)[(len(distances) - 1) * 9 // 10] if distances else 0.0
        high, below = rungs[self.top], rungs[self.top - 1]
        in_high = sorted(high, key=lambda trial: (high[trial], trial))
        in_low = sorted(high, key=lambda trial: (below[trial], trial))
        return any(abs(below[a] - below[b]) > epsilon for a, b in zip(in_high, in_low, strict=True))
