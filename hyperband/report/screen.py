"""The only place of a run that prints: plain lines, and on a terminal a live line or two below them.

Owns the screen. It must not know the journal or the engine: it gets words and frozen snapshots. Nothing
here blocks, starts a thread or raises because the screen is gone; then it goes silent and the search goes on.
"""

import io
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from hyperband.report.outlet import Outlet
from hyperband.report.text import counted, number, shortened, shown, time_left
from hyperband.search.trial import Progress

if TYPE_CHECKING:
    from rich.live import Live

#: shortest time between two drawings of the live lines
_REDRAW_S = 0.25
#: columns to the right of the live lines: a ^C that the terminal shows there must not begin another row
_ECHO_WIDTH = 2
#: how often text that waits for its reader is tried again
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """What the live lines say."""

    progress: Progress
    #: how many jobs could run at once
    n_slots: int
    #: estimate until the search is finished; None: not known yet
    time_left_s: float | None
    #: why nothing starts although a slot is free or wanted; None when all is well
    why_idle: str | None
    #: nothing more is started: running jobs finish, then the search stops
    draining: bool = False
    #: of the jobs that count as running, how many wait in a queue of their engine
    n_queued: int = 0

    @property
    def n_running(self) -> int:
        """How many jobs really run."""
        return max(0, self.progress.n_jobs_running - self.n_queued)


class Console:
    """Lines for people on one stream; a live status below them where the stream is a terminal."""

    def __init__(
        self,
        stream: TextIO | None,
        *,
        live: bool | None = None,
        environ: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the screen.

        Args:
            stream: usually `sys.stdout`, with `--json` `sys.stderr`; None prints nothing.
            live: whether to draw live lines; None: when the stream is a terminal that can (TERM).
            environ: where TERM, NO_COLOR, COLUMNS are looked up.
            monotonic: the clock that limits how often is drawn, in seconds.
        """
        self._outlet = Outlet(stream)
        self._is_terminal = stream is not None and stream.isatty()
        self._monotonic = monotonic
        self._screen: _LiveScreen | None = None
        self._latest: Status | None = None
        #: when the live lines were drawn last, and whether something newer waits to be drawn
        self._drawn_at = float("-inf")
        self._is_stale = False
        if live if live is not None else _can_be_live(stream, environ):
            self._screen = _LiveScreen(environ)

    @property
    def lost(self) -> bool:
        """True once nobody can see the screen any more."""
        return self._outlet.lost

    @property
    def is_live(self) -> bool:
        """True while live lines are drawn."""
        return self._screen is not None and not self.lost

    def line(self, text: str = "") -> None:
        """Print one or more whole lines (above the live ones); control characters are shown as escapes."""
        if self.lost:
            return
        lines = [shown(part) for part in text.split("\n")]
        if self._screen is None:
            self._outlet.write("".join(f"{part}\n" for part in lines))
        else:
            self._outlet.write(self._screen.lines(lines))

    def status(self, status: Status) -> None:
        """Take a newer snapshot; it is drawn at once unless the last drawing is very recent."""
        self._latest = status
        self._is_stale = True
        self.redraw()

    def redraw(self) -> None:
        """Draw a snapshot that waits, and write text that waits, when it is time; cheap otherwise."""
        if self._outlet.is_behind:
            self._outlet.flush()
        if self._screen is None or self.lost or not self._is_stale or self._latest is None:
            return
        now = self._monotonic()
        # A reader that does not read gets no pile of outdated frames.
        if self._outlet.is_behind or now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        self._is_stale = False
        self._outlet.write(self._screen.frame(status_lines(self._latest)))

    def next_redraw_s(self) -> float | None:
        """Seconds after which `redraw` should be called; None: nothing waits."""
        if self.lost:
            return None
        if self._outlet.is_behind:
            return _RETRY_S
        if self._screen is None or not self._is_stale:
            return None
        return max(0.0, self._drawn_at + _REDRAW_S - self._monotonic())

    def give_up(self) -> None:
        """Never print again."""
        self._outlet.give_up()

    def hang_up(self) -> None:
        """Never print again on a terminal that is gone (SIGHUP); a file or a pipe goes on."""
        if self._is_terminal:
            self.give_up()

    def close(self) -> None:
        """Take the live lines away. `line` goes on working; may be called again."""
        if self._screen is not None:
            self._outlet.write(self._screen.end())
            self._screen = None

    def drain(self) -> None:
        """Wait until all lines are out: for the very end, when no loop can be held up."""
        self.close()
        self._outlet.drain()

    def __enter__(self) -> Self:
        """The console itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live lines away, write what is kept and give the descriptor back."""
        self.close()
        # An interrupt is in a hurry: it does not wait for a reader.
        if kind is None or issubclass(kind, Exception):
            self._outlet.drain()
        self._outlet.close()


def status_lines(status: Status) -> list[str]:
    """The live lines in words: where the search is, and below what matters most now."""
    progress = status.progress
    left = ""
    # the estimate is one of the whole plan: a search that ends early has much less to do
    if status.time_left_s is not None and not status.draining:
        left = f" · about {time_left(status.time_left_s)} left"
    # an estimate where there are no brackets either: the losses decide who goes on
    planned = f"{'about ' if progress.is_estimate else ''}{progress.n_jobs_planned}"
    bracket = "" if progress.is_estimate else f"bracket {progress.bracket}, "
    # Short enough for 80 columns: the time left stands at the end.
    first = (
        f"{bracket}rung {progress.rung}"
        f" · {status.n_running}/{status.n_slots} running"
        f"{f', {status.n_queued} queued' if status.n_queued else ''}"
        f" · {progress.n_jobs_final}/{planned} done, {progress.n_jobs_failed} failed{left}"
    )
    lines = [first]
    if progress.best is not None:
        best = progress.best
        lines.append(f"best {number(best.loss)} at {counted(best.epochs, 'epoch')}: {best.config_id}")
    if status.draining:
        if status.n_running:
            waits = counted(status.n_running, "running job")
            them = "it" if status.n_running == 1 else "them"
            lines.append(f"ending: {waits} to finish first; Ctrl-C stops {them} now")
    elif status.why_idle is not None:
        lines.append(f"nothing starts: {status.why_idle}")
    # Two lines at most: why nothing happens matters more than the best so far.
    return [shown(text) for text in (lines if len(lines) < 3 else [lines[0], lines[2]])]


class _LiveScreen:
    """Rich's live display, drawn into memory: what comes out is text for the outlet."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # Imported here: rich takes longer to import than most commands take to run.
        from rich.console import Console as RichConsole

        self._buffer = io.StringIO()
        self._console: RichConsole = RichConsole(
            file=self._buffer,
            force_terminal=True,
            markup=False,
            emoji=False,
            highlight=False,
            _environ=environ,
        )
        self._live: Live | None = None

    def lines(self, lines: list[str]) -> str:
        """The text that prints whole lines above the live ones."""
        for line in lines:
            self._console.print(line, soft_wrap=True)
        return self._taken()

    def frame(self, lines: list[str]) -> str:
        """The text that draws the live lines anew, each cut in its middle to fit the terminal."""
        from rich.constrain import Constrain
        from rich.live import Live
        from rich.text import Text

        width = max(1, self._console.width - _ECHO_WIDTH)
        # A reason often ends with what matters, after a long path. Wide characters may need a second cut.
        text = Text(
            "\n".join(shortened(line, width) for line in lines), no_wrap=True, overflow="ellipsis", end=""
        )
        text.stylize("dim")
        body = Constrain(text, width)
        if self._live is None:
            self._live = Live(
                body,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)
            # A search that is killed must not leave its terminal without a cursor.
            self._console.show_cursor(True)
        else:
            self._live.update(body, refresh=True)
        return self._taken()

    def end(self) -> str:
        """The text that takes the live lines away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        return self._taken()

    def _taken(self) -> str:
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text


def _can_be_live(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    if stream is None or environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
