"""`--keep-checkpoints`: the files of trials that no job will want again go, a little in every turn.

Whose files may go is decided by `hyperband.search.retention`, and which files those are by the pattern. They
are moved aside once the outcome that let them go is on disk, and deleted once the next outcome is. What a
killed search left aside is put back or deleted by the next one, as the journal says.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from hyperband.errors import MachineError, UsageError
from hyperband.machine.checkpoint_files import CheckpointFiles, Names
from hyperband.machine.checkpoint_pattern import Files, Pattern, parse, sha256_of
from hyperband.report.text import counted
from hyperband.search.decisions import Decision
from hyperband.search.events import CheckpointsRemoved, Event, JobEnded, JobStarted, SearchStarted
from hyperband.search.retention import Retention
from hyperband.search.state import SearchState
from hyperband.settings import KeepCheckpoints, Settings

#: for so long a turn of the loop may be held up; one system call more can come on top
_TURN_S = 0.05
_KEY_DIGITS = 32
#: so many trials without a single file that matches are no accident
_N_UNMATCHED = 3


class Checkpoints:
    """The checkpoint files of one search. Call `recover` once, and then `note` and `after_turn` each turn."""

    def __init__(self, settings: Settings, *, cwd: Path, engine: SearchState, study_folder: Path) -> None:
        """Read the settings; nothing is looked at yet.

        Args:
            settings: of the search.
            cwd: where its jobs run.
            engine: is only read.
            study_folder: tells the files of one study from those of another.
        """
        #: one line for the user about each kind of thing that could not be done; whoever tells it empties
        #: this
        self.news: list[str] = []
        #: why the search had better end; None: nothing of theirs says so
        self.failure: MachineError | None = None
        self._engine = engine
        self._cwd = cwd
        self._study_folder = study_folder
        keep = settings.keep_checkpoints
        self._pattern: Pattern | None = None
        if keep is not KeepCheckpoints.ALL and settings.checkpoints is not None:
            self._pattern = parse(settings.checkpoints)
            self._files = self._files_of(self._pattern)
        self._retention = Retention(keep_done=keep is not KeepCheckpoints.NONE)
        #: trials whose files are to be moved aside
        self._to_move: deque[int] = deque()
        #: trials whose files were moved aside since the last outcome that is on disk for sure
        self._moved: list[int] = []
        #: trials whose files aside are to be deleted
        self._to_delete: deque[int] = deque()
        self._work: Iterator[None] | None = None
        self._trial_of: dict[str, int] = {}
        #: the first trials without a file that matches; None: one had some, or it was told
        self._unmatched: list[int] | None = []
        self._key_lengths: set[int] = set()
        #: folders that config ids with slashes share: the trials below each
        self._below: dict[str, list[int]] = {}
        self._n_known = 0
        #: deleted and not told of yet
        self._removed: list[int] = []
        self._n_files = 0
        self._n_bytes = 0

    @property
    def pending(self) -> bool:
        """Whether there is work that need not wait for an outcome: then the loop should come back soon."""
        return bool(self._work is not None or self._to_move or self._to_delete)

    def recover(self, events: Iterable[Event]) -> None:
        """Set right what an earlier search left behind, and find out what is still to do.

        Args:
            events: of the study so far, which the engine has seen.
        """
        done: set[int] = set()
        patterns: dict[str, None] = {}
        was_ours = self._pattern is not None
        for event in events:
            if isinstance(event, CheckpointsRemoved) and was_ours:
                done.update(event.trials)  # by another pattern, other files went
            elif isinstance(event, JobStarted):
                done.discard(event.trial)  # taken back when more was asked for: it may leave files again
            elif isinstance(event, SearchStarted):
                text = event.settings.get("checkpoints")
                was_ours = self._pattern is not None and text == self._pattern.text
                if isinstance(text, str):
                    patterns[text] = None
        if self._pattern is not None:
            patterns[self._pattern.text] = None
        if patterns:
            self._recover_aside(patterns)
        if self._pattern is not None:
            over = self._retention.all_over(self._engine)
            # what was moved only in part before a kill is done at last
            self._to_move.extend(trial for trial in over if trial not in done)

    def note_end(self, trial: int, event: JobEnded) -> None:
        """Do nothing: the files of a trial are its own, whichever job wrote them."""

    def note(self, ended: Iterable[int], decisions: Iterable[Decision]) -> None:
        """Take in what happened, after the engine did.

        Args:
            ended: trials of the attempts that ended.
            decisions: what the engine decided.
        """
        if self._pattern is not None:
            self._to_move.extend(self._retention.over(self._engine, ended, decisions))

    def after_turn(self, *, durable: bool) -> CheckpointsRemoved | None:
        """Work for at most 50 ms, and say what is deleted; call after the journal was written.

        Args:
            durable: what was written would survive a power cut.

        Returns:
            What to journal, with whatever comes next.
        """
        if self._pattern is None:
            return None
        if durable:
            self._to_delete.extend(self._moved)
            self._moved.clear()
        ends_s = time.monotonic() + _TURN_S
        self._run(ends_s)
        return self._told()

    def finish(self) -> CheckpointsRemoved | None:
        """Do all that is left, without a limit of time: the search ends, and its outcomes are on disk."""
        if self._pattern is None:
            return None
        self._run(float("inf"))
        self._to_delete.extend(self._moved)
        self._moved.clear()
        self._run(float("inf"))
        return self._told()

    def _run(self, ends_s: float) -> None:
        if not self.pending:
            return
        self._learn_ids()
        while self.pending:
            self._work = self._work or self._steps()
            for _ in self._work:
                if time.monotonic() >= ends_s:
                    return
            self._work = None

    def _steps(self) -> Iterator[None]:
        """One trial's worth of work, file by file."""
        yield  # most trials of a restart have nothing left: their number counts as well
        if self._to_delete:
            yield from self._delete(self._to_delete.popleft())
        elif self._to_move:
            yield from self._move(self._to_move.popleft())

    def _move(self, trial: int) -> Iterator[None]:
        files = self._files_for(trial)
        if files is None or self._retention.needs(self._engine, trial):
            return
        key = self._key(trial)
        found, folders = self._files.find(files)
        if self._engine.trial(trial).loss is not None:  # one that crashed may never have written any
            self._note_match(trial, has_matched=bool(found))
        n_moved = 0
        for names in found:
            yield
            if not self._is_needed(names, but_for=trial):
                n_moved += self._files.move_aside(key, names)
        for names in reversed(folders):
            yield
            if not self._may_be_wanted(names, trial):
                self._files.remove_empty(names)
        if n_moved:
            self._moved.append(trial)

    def _note_match(self, trial: int, *, has_matched: bool) -> None:
        """Say once that the pattern seems to be wrong: no file of the first trials to go matches it."""
        if has_matched or self._unmatched is None:
            self._unmatched = None
            return
        self._unmatched.append(trial)
        if len(self._unmatched) == _N_UNMATCHED:
            assert self._pattern is not None
            trials = ", ".join(map(str, self._unmatched))
            self.news.append(
                f"Warning: no file of the trials {trials} matches --checkpoints {self._pattern.text!r} in "
                f"{self._cwd}: is it what the script writes?"
            )
            self._unmatched = None

    def _delete(self, trial: int) -> Iterator[None]:
        key = self._key(trial)
        if self._retention.needs(self._engine, trial):
            self._put_back(self._files, key)
            return
        found, folders = self._files.files_aside(key)
        n_deleted = 0
        for names in found:
            yield
            n_bytes = self._files.delete_aside(key, names)
            if n_bytes is not None:
                n_deleted += 1
                self._n_files += 1
                self._n_bytes += n_bytes
        self._files.forget_aside(key, folders)
        if n_deleted:
            self._removed.append(trial)

    def _told(self) -> CheckpointsRemoved | None:
        if not self._removed:
            return None
        told = CheckpointsRemoved(time.time(), tuple(self._removed), self._n_files, self._n_bytes)
        self._removed.clear()
        self._n_files = self._n_bytes = 0
        return told

    def _recover_aside(self, patterns: Iterable[str]) -> None:
        trial_of = {_key(config_id): trial for trial, config_id in enumerate(self._engine.ids())}
        for text in patterns:
            try:
                files = self._files_of(parse(text))
            except UsageError:
                continue  # an older version allowed it, and moved nothing
            is_ours = self._pattern is not None and text == self._pattern.text
            for key in files.aside_keys():
                trial = trial_of.get(key)
                if is_ours and trial is not None and not self._retention.needs(self._engine, trial):
                    self._to_delete.append(trial)
                else:
                    # it may still be promoted, or the study or the rules are others now
                    self._put_back(files, key)

    def _put_back(self, files: CheckpointFiles, key: str) -> None:
        found, folders = files.files_aside(key)
        n_back = sum(files.put_back(key, names) for names in found)
        files.forget_aside(key, folders)
        if n_back:
            self.news.append(
                f"{counted(n_back, 'checkpoint file')} that an earlier search had moved aside in "
                f"{files.place} "
                f"{'is' if n_back == 1 else 'are'} in place again."
            )

    # Whose files are whose.

    def _is_needed(self, names: Names, *, but_for: int) -> bool:
        """Whether a file is also one of a trial that keeps its own."""
        for trial in self._candidates("/".join(names)):
            if trial != but_for and self._retention.needs(self._engine, trial):
                files = self._files_for(trial)
                if files is not None and files.match(names):
                    return True
        return False

    def _may_be_wanted(self, names: Names, trial: int) -> bool:
        """Whether a job may be about to write into an empty folder."""
        config_id = self._engine.trial(trial).config_id
        beside = [self._below.get(folder, ()) for folder in (*_folders_of(config_id), config_id)]
        for other in chain(self._candidates("/".join(names)), *beside):
            if other != trial and self._retention.needs(self._engine, other):
                files = self._files_for(other)
                if files is not None and files.may_lie_in(names):
                    return True
        return False

    def _candidates(self, path: str) -> Iterator[int]:
        """Yield the trials whose id (or its hash) stands in a path: no other can match it."""
        assert self._pattern is not None
        begins = range(len(path))
        if self._pattern.is_anchored:
            begins_of_names = [n for n in begins if n == 0 or path[n - 1] == "/"]
        for begin in begins_of_names if self._pattern.is_anchored else begins:
            for length in self._key_lengths:
                if (trial := self._trial_of.get(path[begin : begin + length])) is not None:
                    yield trial

    def _learn_ids(self) -> None:
        """Take in the ids that were drawn since the last look."""
        assert self._pattern is not None
        ids = self._engine.ids()
        for trial in range(self._n_known, len(ids)):
            key = self._pattern.key(ids[trial])
            self._trial_of[key] = trial
            self._key_lengths.add(len(key))
            for folder in _folders_of(ids[trial]):
                self._below.setdefault(folder, []).append(trial)
        self._n_known = len(ids)

    def _files_for(self, trial: int) -> Files | None:
        assert self._pattern is not None
        return self._pattern.files(self._engine.trial(trial).config_id)

    def _files_of(self, pattern: Pattern) -> CheckpointFiles:
        return CheckpointFiles(pattern, cwd=self._cwd, study_folder=self._study_folder, say=self.news.append)

    def _key(self, trial: int) -> str:
        return _key(self._engine.trial(trial).config_id)


def _key(config_id: str) -> str:
    """Return the name of a trial's folder aside: of its id, since a number means another after `--clean`."""
    return sha256_of(config_id)[:_KEY_DIGITS]


def _folders_of(config_id: str) -> Iterator[str]:
    """Yield the folders that an id with slashes lies in: `a` and `a/b` for `a/b/c`."""
    end = config_id.find("/")
    while end >= 0:
        yield config_id[:end]
        end = config_id.find("/", end + 1)
