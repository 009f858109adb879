"""The screen: plain lines, live lines on a real terminal (a pty), and one that is stuck or gone."""

import fcntl
import io
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from rich.cells import cell_len

from hyperband.report.outlet import Outlet
from hyperband.report.screen import Console, Status, status_lines
from hyperband.search.trial import Best, Progress

ENVIRON = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
BEST = Best(trial=3, config_id="lr:0.1", loss=0.123456789, epochs=27)
PROGRESS = Progress(
    n_jobs_planned=206,
    n_jobs_final=45,
    n_jobs_failed=2,
    n_jobs_running=3,
    epochs_left=500,
    bracket=1,
    rung=2,
    n_brackets=5,
    best=BEST,
)
STATUS = Status(progress=PROGRESS, n_slots=4, time_left_s=125.0, why_idle=None)


class Clock:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Terminal:
    """A real terminal of 80 columns: what is printed there, read from its other side."""

    def __init__(self) -> None:
        self.other_side, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self.other_side, False)
        self.stream: TextIO = os.fdopen(slave, "w")
        self.is_open = True

    def seen(self) -> str:
        """Everything since the last look."""
        parts = []
        while True:
            try:
                part = os.read(self.other_side, 65536)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()

    def vanish(self) -> None:
        """Close the other side, as a window that is closed does."""
        if self.is_open:
            os.close(self.other_side)
            self.is_open = False


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal that is closed at the end."""
    made = Terminal()
    yield made
    made.vanish()
    made.stream.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """A pipe: its reading end and a stream to write."""
    read_end, write_end = os.pipe()
    stream = os.fdopen(write_end, "w")
    yield read_end, stream
    os.close(read_end)
    stream.close()


def drawn_rows(text: str) -> list[str]:
    """The rows a terminal shows after this text: enough of one for what the live lines use."""
    rows, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\n":
            row += 1
            if row == len(rows):
                rows.append("")
        elif piece == "\x1b[2K":
            rows[row] = ""
        elif re.fullmatch(r"\x1b\[[0-9]*A", piece):
            row -= int(piece[2:-1] or 1)
        elif not piece.startswith("\x1b") and piece != "\r":
            rows[row] += piece
    return [line for line in rows if line]


def test_lines_in_memory_and_no_live_line_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Console(stream, environ=ENVIRON) as console:
        assert not console.is_live
        console.line("one")
        console.status(STATUS)
        console.line("two\nthree")
        assert console.next_redraw_s() is None
    assert stream.getvalue() == "one\ntwo\nthree\n"


def test_control_characters_are_shown_as_escapes() -> None:
    stream = io.StringIO()
    with Console(stream, environ=ENVIRON) as console:
        console.line("[red]a\x1b[2Jb\r\x9b\u202ec\ud800[/red]")
    assert stream.getvalue() == "[red]a\\x1b[2Jb\\r\\x9b\\u202ec\\ud800[/red]\n"


def test_live_lines_on_a_terminal(terminal: Terminal) -> None:
    clock = Clock()
    with Console(terminal.stream, environ=ENVIRON, monotonic=clock) as console:
        assert console.is_live
        console.line("the plan")
        console.status(STATUS)
        text = terminal.seen()
        assert drawn_rows(text) == ["the plan", *status_lines(STATUS)]
        clock.now_s += 1
        idle = replace(STATUS, why_idle="GPU 0 is used by pid 7")
        console.status(idle)
        console.line("a line above")
        text += terminal.seen()
        assert drawn_rows(text) == ["the plan", "a line above", *status_lines(idle)]
        assert drawn_rows(text)[-1] == "nothing starts: GPU 0 is used by pid 7"
        console.close()
        console.line("the end")
        console.close()
        text += terminal.seen()
    assert drawn_rows(text) == ["the plan", "a line above", "the end"]
    # never without a cursor for longer than one drawing: a search may be killed at any moment
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.count("\x1b[?25l") == 1
    assert "\x1b[?25h" in text[: text.index("a line above")]


def test_long_and_hostile_ids_take_one_row_each(terminal: Terminal) -> None:
    best = replace(BEST, config_id="[bold]\x1b[2J\n" + "x" * 5000)
    status = replace(STATUS, progress=replace(PROGRESS, best=best))
    with Console(terminal.stream, environ=ENVIRON) as console:
        console.status(status)
        text = terminal.seen()
    assert "\x1b[2J" not in text
    rows = drawn_rows(text)
    assert [len(row) <= 78 for row in rows] == [True, True], "a ^C fits behind them"
    assert rows[1].startswith(r"best 0.123457 at 27 epochs: [bold]\x1b[2J\nxxx")


def test_a_long_reason_shows_its_begin_and_its_end(terminal: Terminal) -> None:
    why = f"only 0.4 GiB are free on /{'scratch/' * 20}logs, --min-free-disk is 1 GiB"
    with Console(terminal.stream, environ=ENVIRON) as console:
        console.status(replace(STATUS, why_idle=why))
        last = drawn_rows(terminal.seen())[-1]
    assert len(last) == 78
    assert last.startswith("nothing starts: only 0.4 GiB are free on /scratch")
    assert last.endswith("--min-free-disk is 1 GiB")


def test_wide_characters_take_no_second_row(terminal: Terminal) -> None:
    status = replace(STATUS, progress=replace(PROGRESS, best=replace(BEST, config_id="字" * 100)))
    with Console(terminal.stream, environ=ENVIRON) as console:
        console.status(status)
        rows = drawn_rows(terminal.seen())
    assert len(rows) == 2
    assert [cell_len(row) <= 78 for row in rows] == [True, True]


@pytest.mark.parametrize("columns", [1, 2, 3, 12])
def test_a_tiny_terminal_is_drawn_on(columns: int, terminal: Terminal) -> None:
    with Console(terminal.stream, environ=ENVIRON | {"COLUMNS": str(columns)}) as console:
        console.status(replace(STATUS, why_idle="GPU 0 is used by pid 7"))
        rows = drawn_rows(terminal.seen())
    assert max(map(len, rows), default=0) <= max(1, columns)


def test_drawing_is_limited_and_what_waits_is_drawn_later(terminal: Terminal) -> None:
    clock = Clock()
    with Console(terminal.stream, environ=ENVIRON, monotonic=clock) as console:
        console.status(STATUS)
        assert console.next_redraw_s() is None
        terminal.seen()
        for n_final in range(46, 100):
            console.status(replace(STATUS, progress=replace(PROGRESS, n_jobs_final=n_final)))
        assert terminal.seen() == ""
        wait_s = console.next_redraw_s()
        assert wait_s is not None
        assert 0 < wait_s <= 0.25
        clock.now_s += wait_s
        console.redraw()
        assert "99/206 done" in terminal.seen()
        assert console.next_redraw_s() is None


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, term: str) -> None:
    with Console(terminal.stream, environ={"TERM": term}) as console:
        console.status(STATUS)
        console.line("plain")
    assert terminal.seen() == "plain\r\n"


def test_no_color_has_no_colours(terminal: Terminal) -> None:
    with Console(terminal.stream, environ=ENVIRON | {"NO_COLOR": "1"}) as console:
        console.line("plain")
        console.status(STATUS)
    assert set(re.findall(r"\x1b\[[0-9;]*m", terminal.seen())) <= {"\x1b[2m", "\x1b[0m"}


def test_a_vanished_terminal_silences_the_screen(terminal: Terminal) -> None:
    with Console(terminal.stream, environ=ENVIRON) as console:
        console.line("one")
        console.status(STATUS)
        terminal.vanish()
        console.line("two")
        assert console.lost
        assert not console.is_live
        console.line("three")
        console.status(STATUS)
        console.redraw()
        assert console.next_redraw_s() is None
        console.drain()


def test_a_closed_pipe_silences_the_screen() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream, Console(stream) as console:
        console.line("one")
        lost = [console.lost]
        os.close(read_end)
        console.line("two")
        lost.append(console.lost)
        assert lost == [False, True]
        console.line("three")
        console.drain()


def test_a_pipe_closed_before_the_start() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stream, Console(stream) as console:
        console.line("one")
        console.drain()
        assert console.lost


def test_no_stream_and_a_full_device() -> None:
    with Console(None) as console:
        console.line("one")
        assert console.lost
    with Path("/dev/full").open("w") as stream, Console(stream) as console:
        console.line("one")
        assert console.lost


def test_give_up_is_for_good() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.line("one")
    console.give_up()
    console.line("two")
    console.close()
    assert stream.getvalue() == "one\n"


def test_a_reader_that_does_not_read_holds_nothing_up(pipe: tuple[int, TextIO]) -> None:
    read_end, stream = pipe
    with Console(stream) as console:
        for number in range(20_000):
            console.line(f"line {number}")
        assert not console.lost
        assert console.next_redraw_s() is not None
        # what was written is whole and in order, also after the reader wakes up
        os.set_blocking(read_end, False)
        got = bytearray()
        while console.next_redraw_s() is not None:
            got += os.read(read_end, 1 << 20)
            console.redraw()
        got += os.read(read_end, 1 << 20)
    assert got.decode().splitlines() == [f"line {number}" for number in range(20_000)]


def test_a_backlog_is_bounded_and_says_what_is_missing(pipe: tuple[int, TextIO]) -> None:
    read_end, stream = pipe
    line = "x" * 999
    with Console(stream) as console:
        for _ in range(3000):
            console.line(line)
        os.set_blocking(read_end, False)
        got = bytearray()
        while console.next_redraw_s() is not None:
            got += os.read(read_end, 1 << 20)
            console.redraw()
        got += os.read(read_end, 1 << 20)
    lines = got.decode().splitlines()
    assert lines[:-1] == [line] * (len(lines) - 1)
    n_left_out = 3000 - (len(lines) - 1)
    assert n_left_out > 1000
    assert lines[-1] == f"[{n_left_out} lines left out: nobody read them in time]"


def test_frames_do_not_pile_up_for_a_stopped_terminal(terminal: Terminal) -> None:
    clock = Clock()
    with Console(terminal.stream, environ=ENVIRON, monotonic=clock) as console:
        for _ in range(5000):
            clock.now_s += 1
            console.status(STATUS)
        n_bytes = len(terminal.seen())
        console.give_up()
    # a terminal takes some kilobytes before it is full; 5,000 frames would be a megabyte
    assert n_bytes < 100_000


def test_the_stream_itself_stays_blocking_and_open(pipe: tuple[int, TextIO]) -> None:
    read_end, stream = pipe
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    outlet = Outlet(stream)
    outlet.write("text\n")
    outlet.drain()
    outlet.close()
    outlet.close()
    assert os.get_blocking(stream.fileno())
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open
    assert os.read(read_end, 100) == b"text\n"


def test_an_encoding_that_lacks_a_character(pipe: tuple[int, TextIO]) -> None:
    read_end, stream = pipe
    ascii_stream = os.fdopen(os.dup(stream.fileno()), "w", encoding="ascii")
    with ascii_stream, Console(ascii_stream) as console:
        console.line("lr·α")
    assert os.read(read_end, 100) == b"lr\\xb7\\u03b1\n"


def test_status_lines_fit_and_say_what_matters() -> None:
    first, second = status_lines(STATUS)
    assert first == "bracket 1, rung 2 · 3/4 running · 45/206 done, 2 failed · about 2 min 5 s left"
    assert len(first) <= 80
    for left_s, left in ((8.9, "9 s"), (0.2, "1 s"), (59.7, "1 min")):
        assert status_lines(replace(STATUS, time_left_s=left_s))[0].endswith(f" · about {left} left")
    assert second == "best 0.123457 at 27 epochs: lr:0.1"
    assert status_lines(replace(STATUS, draining=True, why_idle="x")) == [
        "bracket 1, rung 2 · 3/4 running · 45/206 done, 2 failed",
        "ending: 3 running jobs to finish first; Ctrl-C stops them now",
    ]
    one = replace(STATUS, draining=True, progress=replace(PROGRESS, n_jobs_running=1))
    assert status_lines(one)[1] == "ending: 1 running job to finish first; Ctrl-C stops it now"
    none = replace(STATUS, draining=True, progress=replace(PROGRESS, n_jobs_running=0))
    assert status_lines(none)[1:] == [second]
    about = Status(replace(PROGRESS, is_estimate=True), 4, None, None)
    # where numbers are estimates there are no brackets either
    assert status_lines(about)[0].startswith("rung 2 · 3/4 running · 45/about 206 done, 2 failed")
    empty = Progress(9, 0, 0, 0, 9, 0, 0, 1, None)
    alone = status_lines(Status(empty, 1, None, None))
    assert alone == ["bracket 0, rung 0 · 0/1 running · 0/9 done, 0 failed"]
