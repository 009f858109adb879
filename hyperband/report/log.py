"""`hyperband.log`: what happened and why, in lines that a person can follow and repeat by hand."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from hyperband.errors import JournalError
from hyperband.report.text import command_line, shown
from hyperband.search.decisions import Decision
from hyperband.search.events import JobEnded
from hyperband.search.trial import Outcome, Start


class StudyLog:
    """Appends to one study's log. Reading it is for people: programs read the journal."""

    def __init__(self, path: Path, *, has_brackets: bool = True) -> None:
        """Open the log.

        Args:
            path: of the file, which may be there already.
            has_brackets: False where all trials climb the same rungs.

        Raises:
            JournalError: it cannot be written.
        """
        try:
            self._stream = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as err:
            raise JournalError(
                f"cannot write {path}: {err.strerror or err}; make it writable and start again"
            ) from err
        self._path = path
        self._has_brackets = has_brackets

    def line(self, text: str) -> None:
        """Write one line with the time before it.

        Raises:
            JournalError: the disk is full, or the file is not writable any more.
        """
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            self._stream.write(f"{now} {shown(text)}\n")
        except OSError as err:
            raise JournalError(
                f"cannot write {self._path}: {err.strerror or err}; no result is lost: make room and start "
                "the same command again"
            ) from err

    def start(
        self, start: Start, slot: str, argv: Sequence[str], environment: Mapping[str, str | None], cwd: str
    ) -> None:
        """Write that an attempt starts, with the command that repeats it by hand."""
        removed = [word for name, value in environment.items() if value is None for word in ("-u", name)]
        added = [f"{name}={value}" for name, value in environment.items() if value is not None]
        command = command_line(["env", *removed, *added, *argv])
        bracket = f"bracket {start.bracket}, " if self._has_brackets else ""
        self.line(
            f"start  job {start.job} attempt {start.attempt}: trial {start.trial}, {bracket}"
            f"rung {start.rung}, to epoch {start.epochs} on {slot}: {command_line(['cd', cwd])} && {command}"
        )

    def end(self, event: JobEnded, trial: int, last_error_lines: str) -> None:
        """Write how an attempt ended; for a failure with the last lines of its standard error."""
        took_s = event.ended_at - event.started_at
        when = f"after {took_s:.2f} s" if took_s or event.loss is not None else "before it began"
        loss = "" if event.loss is None else f" {event.loss!r}"
        # the kind is what lines of this log can be searched and counted by
        kind = f" [{event.fingerprint}]" if event.fingerprint else ""
        note = f" ({event.note}){kind}" if event.note else kind
        again = "; it is tried again" if event.retry else ""
        self.line(
            f"end    job {event.job} attempt {event.attempt}: trial {trial}: {event.outcome}{loss} {when}"
            f"{note}{again}"
        )
        if event.outcome is not Outcome.LOSS:
            for line in last_error_lines.splitlines():
                self.line(f"       | {line}")

    def decision(self, decision: Decision) -> None:
        """Write a decision of the engine with its reason."""
        self.line(f"decide {describe(decision, has_brackets=self._has_brackets)}")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def describe(decision: Decision, *, has_brackets: bool = True) -> str:
    """Return one decision in words: what, about which trials, and why."""
    name = type(decision).__name__
    if not has_brackets:
        name = name.replace("Bracket", "Rungs")
    about = [
        f"{field} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for field in ("job", "trial", "attempt", "bracket", "rung", "trials")
        if (has_brackets or field != "bracket") and (value := getattr(decision, field, None)) is not None
    ]
    return f"{name}{': ' if about else ''}{', '.join(about)}: {decision.reason}"
