"""What Slurm says of a search's allocations, taken in: their ends, their starts, and what it refuses.

Pure. Owns what each of Slurm's words means for the allocations that are there. Must not know: how many there
should be.
"""

from hyperband.launch.slurm.held.allocation import Allocation, Phase
from hyperband.launch.slurm.held.events import Action, Lost
from hyperband.launch.slurm.held.state import AllocationState
from hyperband.launch.slurm.orders import Say
from hyperband.launch.slurm.reports import NotSubmitted
from hyperband.launch.slurm.words import JobLine, JobState, Refusal, Waiting, meaning_of

#: allocations in a row that ended by themselves without one job having ended in any: they cannot work
_N_FAILURES = 3
#: one that was held for so long can work
_HELD_LONG_S = 60.0
#: between such an end and the next try: at first, and at most
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
#: until a limit on the number of jobs is tried again
_LIMIT_PAUSE_S = 60.0


class AllocationNews:
    """Takes in what the clerk reports."""

    def __init__(self, state: AllocationState) -> None:
        """Change this state, from now on."""
        self._all = state

    def note_refusal(self, event: NotSubmitted, now_s: float, actions: list[Action]) -> None:
        """Take in that sbatch did not take a request."""
        if event.is_unsure:
            # it may be in the queue: the next status tells, and until then it counts
            self._all.asked[event.ticket] = True
            self._all.is_reachable = self._all.is_reachable and event.refusal != Refusal.UNREACHABLE
            return
        self._all.asked.pop(event.ticket, None)
        if event.refusal == Refusal.UNREACHABLE:
            self._all.is_reachable = False  # and again when it answers
        elif event.refusal == Refusal.LIMIT:
            self._all.not_before_s = now_s + _LIMIT_PAUSE_S
            again = f"one is asked again after {_LIMIT_PAUSE_S:g} s"
            self._all.why_paused = f"{again}, since Slurm takes no more jobs now"
            words = (
                f"Slurm takes no more jobs now ({event.words}); it is asked again every {_LIMIT_PAUSE_S:g} s"
            )
            self._all.say_once(words, actions)
        elif self._all.avoided and self._all.may_exclude:
            self._all.may_exclude = False
            nodes = ", ".join(sorted(self._all.avoided))
            words = f"Slurm has no allocation without {nodes} ({event.words}), on which jobs fail"
            actions.append(Say(f"{words}: it is asked for one with them"))
        elif n_there := len(self._all.allocations):
            self._all.n_most = n_there
            words = f"Slurm refused one more allocation ({event.words}); the search goes on with {n_there}"
            self._all.say_once(words, actions)
        else:
            self._all.fail(
                f"Slurm refused the allocation: {event.words}. Change the Slurm profile (or --slurm-set "
                "KEY=VALUE) so that sbatch takes it, and start the search again: it goes on where it is.",
                actions,
            )

    def note_status(self, jobs: tuple[JobLine, ...], now_s: float, actions: list[Action]) -> None:
        """Take in what Slurm lists."""
        self._all.note_answer(actions)
        for line in jobs:
            one = self._all.allocations.get(line.job_id)
            if one is None and not line.state.is_over:
                one = self._adopt(line, now_s, actions)
            if one is not None:
                self._note_line(one, line, now_s, actions)
        # what Slurm took is among the jobs by now
        self._all.asked = {ticket: unsure for ticket, unsure in self._all.asked.items() if not unsure}
        self._all.has_looked = True
        if self._all.early:
            lost = tuple(sorted(self._all.early))
            self._all.early.clear()
            actions.append(Lost(lost, JobState.GONE, "their allocations are over"))

    def _adopt(self, line: JobLine, now_s: float, actions: list[Action]) -> Allocation:
        one = Allocation(line.job_id, idle_since_s=now_s, is_adopted=not any(self._all.asked.values()))
        one.was_ending = line.state == JobState.ENDING
        one.busy = {place for place in self._all.early if place.job_id == one.job_id}
        self._all.early -= one.busy
        self._all.allocations[one.job_id] = one
        if one.is_adopted and not one.was_ending:  # else it is most likely what we asked for ourselves
            actions.append(Say(f"took over the allocation {one.job_id} of an earlier start"))
        return one

    def _note_line(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        if line.state == JobState.UNKNOWN:
            self._all.note_unknown_word(line, actions)
        elif line.state.is_over:
            self._end(one, line, now_s, actions)
        elif line.state == JobState.WAITING:
            if one.phase != Phase.QUEUED:
                self._queue_again(one, f"({line.reason or line.said})", actions)
            self._note_reason(one, line, now_s, actions)
        elif line.state == JobState.ENDING:
            one.phase = Phase.ENDING
        else:
            self._note_running(one, line, now_s, actions)

    def _note_running(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        if one.started and line.started and line.started != one.started:
            self._queue_again(one, "and has started again", actions)
        if one.phase == Phase.QUEUED:
            one.phase = Phase.STARTING
            one.nodes = line.nodes
            one.reason = ""
        one.started = line.started or one.started
        one.ends_at_s = None if line.time_left_s is None else now_s + line.time_left_s
        one.whole_s = max(one.whole_s, line.time_left_s or 0.0)
        if one.phase == Phase.STARTING or one.is_adopted:
            # one that was taken over has been running for a while
            one.whole_s = max(one.whole_s, self._all.rules.time_limit_s or 0.0)
        one.is_suspended = line.state == JobState.SUSPENDED
        one.note_ready(now_s)

    def _queue_again(self, one: Allocation, words: str, actions: list[Action]) -> None:
        self._lose(one, JobState.WAITING, f"was queued again by Slurm {words}", actions)
        one.note_queued_again()

    def _note_reason(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        one.reason = line.reason
        meaning = meaning_of(line.reason)
        if meaning == Waiting.NEVER and not one.is_cancelled:
            self._all.cancel([one], "it can never start", actions)
            self._all.fail(
                f"Slurm has the allocation {one.job_id} in its queue but can never start it as it was asked "
                f"for ({line.reason}). Change the Slurm profile (or --slurm-set KEY=VALUE) and start again.",
                actions,
            )
        elif meaning == Waiting.BROKEN and not one.is_cancelled:
            self._all.cancel([one], f"Slurm could not start it ({line.reason})", actions)
            self._count_failure(one, line.reason, now_s, actions)
        elif meaning == Waiting.HELD:
            words = f"the allocation {one.job_id} is on hold ({line.reason}); scontrol release {one.job_id}"
            self._all.say_once(f"{words} lets it start, scancel {one.job_id} gives it up", actions)

    def _end(self, one: Allocation, line: JobLine, now_s: float, actions: list[Action]) -> None:
        del self._all.allocations[one.job_id]
        words = f"{line.state}{f' ({line.reason})' if line.reason else ''}"
        self._lose(one, line.state, f"ended: {words}", actions)
        if one.is_cancelled or one.was_ending:
            return  # whoever ended one before this start did not mean what this start asks for
        if line.state == JobState.CANCELLED:
            self._note_cancelled_by_hand(one, actions)
        elif line.state in (JobState.FAILED, JobState.COMPLETED, JobState.OUT_OF_MEMORY):
            self._count_failure(one, words, now_s, actions)
        else:
            actions.append(Say(f"the allocation {one.job_id} ended: {words}"))

    def _note_cancelled_by_hand(self, one: Allocation, actions: list[Action]) -> None:
        """Whoever cancels an allocation wants fewer of them: so many as are left, until the next start."""
        self._all.n_most = min(self._all.n_most, len(self._all.allocations) + len(self._all.asked))
        words = f"the allocation {one.job_id} was cancelled by somebody, and none is asked for in its place"
        actions.append(
            Say(f"{words}: there are at most {self._all.n_most} until the search is started again")
        )
        if self._all.n_most == 0 and not self._all.is_stopping:
            self._all.fail(
                f"The last allocation ({one.job_id}) was cancelled by somebody, so nothing can run any more. "
                "Start the search again to ask for new ones: it goes on where it is.",
                actions,
            )

    def _count_failure(self, one: Allocation, words: str, now_s: float, actions: list[Action]) -> None:
        """Count an end that may be the setup's fault: not if jobs could be started there for long enough.

        Holders end together, with a search that slept and wanted them no more: that is one end.
        """
        said = Say(f"the allocation {one.job_id} ended by itself: {words}; see {self._all.log_of}")
        is_again = now_s < self._all.not_before_s
        if one.held_since_s is not None and (is_again or now_s - one.held_since_s >= _HELD_LONG_S):
            self._pause(_FIRST_PAUSE_S, words, now_s)
            actions.append(said)
            return
        self._all.n_failures += 1
        self._all.not_before_s = now_s
        self._pause(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S**self._all.n_failures), words, now_s)
        if self._all.n_failures < _N_FAILURES:
            actions.append(said)
            return
        self._all.fail(
            f"{self._all.n_failures} allocations in a row ended by themselves without one job coming to its "
            f"end; the last was {one.job_id}: {words}. What it said is in {self._all.log_of}. The setup "
            "lines of the Slurm profile are the most likely reason; mend them and start the search again.",
            actions,
            is_in_log=True,
        )

    def _pause(self, pause_s: float, words: str, now_s: float) -> None:
        """Ask for none for a while, unless it is a longer one already, after an end by itself."""
        if now_s + pause_s > self._all.not_before_s:
            self._all.not_before_s = now_s + pause_s
            after = f"{pause_s:g} s after the last ended by itself ({words})"
            self._all.why_paused = f"the next is asked for {after}"

    def _lose(self, one: Allocation, state: JobState, words: str, actions: list[Action]) -> None:
        """What ran in it cannot come to a good end there any more."""
        if one.busy:
            actions.append(Lost(tuple(sorted(one.busy)), state, f"the allocation {one.job_id} {words}"))
