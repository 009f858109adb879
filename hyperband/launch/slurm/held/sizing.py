"""How many allocations a search has: what is asked for, and what is given up as spent or not needed.

Pure. Owns growing and shrinking. Must not know: what Slurm says, or which job runs where.
"""

from hyperband.launch.slurm.held.allocation import Phase
from hyperband.launch.slurm.held.events import Action, Submit
from hyperband.launch.slurm.held.state import AllocationState
from hyperband.launch.slurm.orders import Say


class AllocationSizing:
    """Asks for what is missing, and gives up what is not needed."""

    def __init__(self, state: AllocationState) -> None:
        """Change this state, from now on."""
        self._all = state

    def settle(self, now_s: float, actions: list[Action]) -> None:
        """Ask for what is missing, give up what is not needed."""
        if self._all.is_stopping:
            rest = [one for one in self._all.allocations.values() if not one.is_cancelled]
            self._all.cancel(rest, "the search is over", actions)
            return
        if not self._all.has_looked or not self._all.is_reachable or self._all.has_failed:
            return
        self._tell_of_too_short(actions)
        self._give_up_spent(now_s, actions)
        if self._all.may_exclude:
            self._give_up_avoided(actions)
        n_needed = self._all.wanted.n_jobs - self._n_slots_coming(now_s)
        self._grow(n_needed, now_s, actions)
        self._shrink(n_needed, now_s, actions)

    def _tell_of_too_short(self, actions: list[Action]) -> None:
        """Say that what waits takes longer than an allocation has: it may be cut off again and again."""
        shortest_s, margin_s = self._all.wanted.shortest_s, self._all.rules.margin_s
        held = [one for one in self._all.allocations.values() if one.may_get_jobs]
        if not held or shortest_s is None or not all(one.is_too_short(shortest_s, margin_s) for one in held):
            return
        if not self._all.has_told_of_time:
            self._all.has_told_of_time = True
            has_s = max(one.whole_s for one in held) - margin_s
            actions.append(
                Say(
                    f"a job that waits is expected to take {shortest_s:.0f} s, and an allocation has "
                    f"{has_s:.0f} s for it: it begins where all of that is left, and comes to its end only "
                    "if the script saves what it has and goes on from there when it is tried again. "
                    "--slurm-set time=... asks for more"
                )
            )

    def _give_up_spent(self, now_s: float, actions: list[Action]) -> None:
        """End those without a job in which none of the waiting ones would come to its end."""
        shortest_s = self._all.wanted.shortest_s if self._all.wanted.n_jobs else None
        spent = [
            one
            for one in self._all.allocations.values()
            if one.may_get_jobs and not one.busy and not self._all.fits(one, shortest_s, now_s)
        ]
        self._all.cancel(spent, "too little of its time is left", actions)

    def _give_up_avoided(self, actions: list[Action]) -> None:
        """End those without a job in which none will be started; others are asked for elsewhere."""
        avoided = [
            one
            for one in self._all.allocations.values()
            if one.phase in (Phase.STARTING, Phase.HELD)
            and not one.is_cancelled
            and not one.busy
            and set(one.nodes) <= self._all.avoided
        ]
        for one in avoided:
            self._all.cancel([one], f"jobs fail on {', '.join(one.nodes)}", actions)

    def _n_slots_coming(self, now_s: float) -> int:
        """Slots that are free, or will be without being asked for again."""
        n_slots = 0
        for one in self._all.allocations.values():
            if one.is_cancelled or one.is_suspended or one.phase == Phase.ENDING:
                continue
            if one.phase == Phase.QUEUED:
                n_slots += self._all.rules.n_slots
            elif self._all.fits(one, self._all.wanted.shortest_s, now_s):
                n_slots += len(self._all.usable_places(one))
        return n_slots + len(self._all.asked) * self._all.rules.n_slots

    def _grow(self, n_needed: int, now_s: float, actions: list[Action]) -> None:
        n_there = len(self._all.allocations) + len(self._all.asked)
        n_kept = n_there - sum(one.is_cancelled for one in self._all.allocations.values())
        n_more = max(-(-n_needed // self._all.rules.n_slots), self._all.rules.min_allocations - n_kept)
        if now_s < self._all.not_before_s:
            return
        self._all.why_paused = ""
        for _ in range(min(n_more, self._all.n_most - n_there)):
            self._all.n_tickets += 1
            self._all.asked[self._all.n_tickets] = False
            exclude = tuple(sorted(self._all.avoided)) if self._all.may_exclude else ()
            actions.append(Submit(self._all.n_tickets, exclude))

    def _shrink(self, n_needed: int, now_s: float, actions: list[Action]) -> None:
        n_kept = sum(not one.is_cancelled for one in self._all.allocations.values()) + len(self._all.asked)
        n_surplus = min(-n_needed // self._all.rules.n_slots, n_kept - self._all.rules.min_allocations)
        if n_surplus <= 0:
            self._all.surplus_since_s = None
            return
        if self._all.surplus_since_s is None:
            self._all.surplus_since_s = now_s
        if now_s - self._all.surplus_since_s < self._all.rules.idle_s:
            return
        idle = [
            one
            for one in self._all.allocations.values()
            if not one.is_cancelled
            and not one.busy
            and one.phase in (Phase.QUEUED, Phase.STARTING, Phase.HELD)
            and now_s - one.idle_since_s >= self._all.rules.idle_s
        ]
        # the newest of those that wait first, then those that would end soonest
        idle.sort(key=lambda one: (one.phase != Phase.QUEUED, one.ends_at_s or float("inf"), -one.number))
        self._all.cancel(idle[:n_surplus], "it is not needed", actions)
