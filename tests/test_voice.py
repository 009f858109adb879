"""What a search says while it waits: each thing once."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperband.report.failures import Failures
from hyperband.report.log import StudyLog
from hyperband.report.now import NowFile
from hyperband.report.screen import Console
from hyperband.study.voice import Voice


class Said:
    """A voice, a clock that the test sets, and what came to the screen."""

    def __init__(self, folder: Path, log: StudyLog, now: NowFile) -> None:
        self.stream = io.StringIO()
        self.now_s = 0.0
        self.voice = Voice(
            folder,
            log,
            Console(self.stream, live=False),
            now=now,
            cwd="/",
            best=None,
            failures=Failures(),
            monotonic=lambda: self.now_s,
        )

    def after(self, seconds: float, words: str | None, *, in_numbers: bool = False) -> str:
        """What is new on the screen when this is so after so long."""
        self.now_s += seconds
        before = self.stream.getvalue()
        self.voice.waits(words, in_numbers=in_numbers)
        if self.voice.wait_s() is not None:
            # something new, which is worth a line if it does not pass at once
            assert self.stream.getvalue() == before
            self.now_s += 0.9
            self.voice.waits(words, in_numbers=in_numbers)
            assert self.stream.getvalue() == before
            assert self.voice.wait_s() == pytest.approx(0.1)
            self.now_s += 0.11
            self.voice.waits(words, in_numbers=in_numbers)
            assert self.voice.wait_s() is None
        return self.stream.getvalue()[len(before) :].removeprefix("waiting: ").rstrip()


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Said]:
    with StudyLog(tmp_path / "log") as log:
        yield Said(tmp_path, log, NowFile(tmp_path / "study", 1.0))


def test_what_is_waited_for_is_told_once_however_often_it_changes_and_comes_back(said: Said) -> None:
    priority = "12 jobs wait in Slurm's queue (Priority)"
    assert said.after(0, priority) == priority
    for _ in range(50):
        assert said.after(1, "11 jobs wait in Slurm's queue (Priority)") == ""
        assert said.after(1, None) == ""
    both = "1 job waits in Slurm's queue (Priority, Resources)"
    assert said.after(1, both) == both
    for words in ("3 jobs wait in Slurm's queue (Resources)", priority, None, both) * 50:
        assert said.after(20, words) == ""
    suspended = f"{both}; 1 job suspended by Slurm"
    assert said.after(1, suspended) == suspended
    # what has gone on all the time is not new after any time
    assert said.after(5000, suspended) == ""
    assert said.after(5, None) == ""
    assert said.after(301, priority) == priority


def test_what_passes_at_once_is_not_worth_a_line(said: Said) -> None:
    for words in ("Slurm has not said yet", "3 asked for", "2 asked for; 1 waits", "3 wait", None):
        said.voice.waits(words, in_numbers=False)
        said.now_s += 0.2
    assert (said.stream.getvalue(), said.voice.wait_s()) == ("", None)
    assert said.after(5, "3 asked for") == "3 asked for", "once it stays"
    # but what comes and goes in between says nothing against what stays
    for words in ("3 wait (Priority)", "3 wait (Resources)", "3 wait (Priority)", "3 wait (Resources)"):
        said.voice.waits(words, in_numbers=False)
        said.now_s += 0.4
    assert said.stream.getvalue().endswith("asked for\nwaiting: 3 wait (Resources)\n")


def test_another_pid_on_a_gpu_of_this_machine_is_something_new(said: Said) -> None:
    words = "GPU 0 is used by pid 123 (python)"
    assert said.after(0, words, in_numbers=True) == words
    assert said.after(1, words, in_numbers=True) == ""
    assert said.after(1, words.replace("3", "4"), in_numbers=True) == words.replace("3", "4")
    assert said.after(1, words, in_numbers=True) == ""


def test_a_folder_that_takes_no_word_on_what_is_waited_for_ends_no_search(said: Said) -> None:
    for words in ("1 waits", "2 wait"):
        said.voice.shows(words, frozenset())
    said.voice.over("stopped", "interrupted")
    told = said.stream.getvalue()
    assert told.count("Warning: `hyperband report` may not say what this search waits for: ") == 1
    assert "No such file or directory" in told
