"""What is known of Slurm's side of a search, in either mode, and what may be said and ordered of it.

Pure. Must not know: what Slurm was asked for, or what follows from what it says.
"""

from dataclasses import dataclass, field
from typing import Protocol

from hyperband.launch.slurm.orders import Cancel, Fail, Say
from hyperband.launch.slurm.reports import CancelRefused, Unreachable
from hyperband.launch.slurm.words import WHERE_IT_ANSWERS, JobLine, means_no_configuration

#: patience with a Slurm that has never answered and has nothing of ours: its controller may be starting
_FIRST_ANSWER_S = 60.0


class Orders(Protocol):
    """What is to be done, in order; each mode has orders of its own besides."""

    def append(self, order: Cancel | Say | Fail, /) -> None:
        """Add one."""
        ...


@dataclass(slots=True, kw_only=True)
class SlurmState:
    """What both modes keep alike."""

    #: where the output of what Slurm runs is, for messages
    log_of: str
    n_tickets: int = 0
    #: until then nothing is submitted
    not_before_s: float = 0.0
    #: why not, in words; only said while it is so
    why_paused: str = ""
    has_looked: bool = False
    is_reachable: bool = True
    #: what was said when Slurm did not answer
    silence: str = ""
    #: Slurm has never answered, and nothing of an earlier start can be there
    is_unheard: bool = False
    #: then it is asked until then; None: it has not been silent
    silent_until_s: float | None = None
    is_stopping: bool = False
    has_failed: bool = False
    #: said already
    said: set[str] = field(default_factory=set)

    def note_answer(self, actions: Orders) -> None:
        """Take in that Slurm has said what is there."""
        self.is_unheard = False
        if not self.is_reachable:
            self.is_reachable, self.silence = True, ""
            actions.append(Say("Slurm answers again"))

    def note_trouble(self, event: Unreachable | CancelRefused, now_s: float, actions: Orders) -> None:
        """Take in that Slurm does not do what it was asked for."""
        match event:
            case Unreachable(words):
                self.is_reachable, self.silence = False, words
                if not self.is_unheard:
                    actions.append(Say(f"Slurm does not answer ({words}): jobs go on, and it is asked again"))
                    return
                patience_s = 0.0 if means_no_configuration(words) else _FIRST_ANSWER_S
                self.silent_until_s = now_s + patience_s
                if patience_s:
                    again = f"it is asked again, for {patience_s:g} s"
                    actions.append(Say(f"Slurm does not answer ({words}): {again}"))
            case CancelRefused(job_ids, words):
                actions.append(Say(f"Slurm did not cancel {', '.join(job_ids)}: {words}"))

    def heed_silence(self, now_s: float, actions: Orders) -> None:
        """Have the search end if Slurm, which never answered, has had its time."""
        left_s = self.silence_left_s(now_s)
        if left_s is not None and left_s <= 0 and not self.is_stopping:
            self.fail(
                f"Slurm has not answered once ({self.silence}), and the study has nothing there to wait for. "
                f"Start the search {WHERE_IT_ANSWERS}.",
                actions,
            )

    def silence_left_s(self, now_s: float) -> float | None:
        """Return for how many seconds a Slurm that never answered is waited for; None: that is not so."""
        return self.silent_until_s - now_s if self.is_unheard and self.silent_until_s is not None else None

    def why_silent(self) -> str:
        """One line on a Slurm that does not answer; empty: it does."""
        if self.is_reachable:
            return ""
        return f"Slurm does not answer{f' ({self.silence})' if self.silence else ''}"

    def note_unknown_word(self, line: JobLine, actions: Orders) -> None:
        """Take in that Slurm said something of a job that is not known here: it changes nothing."""
        self.say_once(f"Slurm says {line.said!r} of {line.job_id}, a word not known here", actions)

    def fail(self, words: str, actions: Orders, *, is_in_log: bool = False) -> None:
        """Have the search end, once, with what was found and what to do; is_in_log: see Fail."""
        if not self.has_failed:
            self.has_failed = True
            actions.append(Fail(words, is_in_log))

    def say_once(self, words: str, actions: Orders) -> None:
        """Have a line said, unless it was before."""
        if words not in self.said:
            self.said.add(words)
            actions.append(Say(words))
