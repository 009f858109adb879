"""The journal of whoever writes a study: stores events, and keeps them whole whatever befalls the files."""

import os
from collections.abc import Callable
from pathlib import Path

from hyperband.errors import JournalError, StudyBusyError
from hyperband.folder import JOURNAL_FILE, LOCK_FILE, RESTORED_FILE, lock_study, unlock_study
from hyperband.journal.beginnings import Beginnings, Entry
from hyperband.journal.belief import open_whole, replace, salvage
from hyperband.journal.copy import Copy
from hyperband.journal.courier import Courier
from hyperband.journal.database import DamagedError, Database
from hyperband.journal.home import Home
from hyperband.journal.place import words_on_copy
from hyperband.journal.reading import Found, read
from hyperband.journal.rows import row_of
from hyperband.machine.mounts import file_system
from hyperband.search.events import Event


class Journal:
    """An open study, with the right to write it. Use `Journal.open`, and close it."""

    def __init__(self, home: Home) -> None:
        """Take over the lock; `open` does the rest."""
        #: of the study
        self.folder = home.study
        #: descriptor of the lock, for processes that must hold it together with us
        self.lock = home.lock
        self._home = home
        #: where our files are
        self._path = home.path
        self._marker = home.path / RESTORED_FILE
        self._courier: Courier | None = None
        #: one line for the user about each thing that was found wrong and mended; whoever tells it empties
        #: this
        self.news: list[str] = []
        #: events were restored: a job of which the journal does not know may still run
        self.was_restored = False
        #: the folder, or its lock, was deleted while we wrote: nobody can find the jobs that run in it
        self.was_deleted = False
        #: somebody else writes a study in our folder: it is not ours any more
        self._is_taken = False
        self._lock_file = f"{home.path}/{LOCK_FILE}"
        self._copy = Copy(home.path)
        #: the copy cannot be written, and the user knows
        self._copy_fails = False
        #: what was read on opening, until somebody wants it or it is no longer all
        self._opened: Found | None = None
        self._n = 0
        #: what is known of attempts that have to wait; only to be read
        self.beginnings = Beginnings()
        self._database: Database

    @classmethod
    def open(
        cls, folder: Path, *, from_copy: bool = False, on_stop: Callable[[], None] | None = None
    ) -> "Journal":
        """Lock and open the study in `folder`, making both if they are not there, and whole if they are not.

        Where the folder is on a network file system, the journal is taken out of it until it is closed; see
        Home.

        Args:
            folder: of the study.
            from_copy: go on from the copy in the folder, where the journal is on a machine that is lost.
            on_stop: called in another thread when somebody on another machine asks us to end.

        Raises:
            StudyBusyError: another process writes it.
            JournalError: the folder or the file cannot be used.
        """
        try:
            home = Home.open(folder, os.environ, from_copy=from_copy)
        except OSError as err:
            raise JournalError(
                f"cannot open the study in {folder}: {err.strerror or err}; "
                "make it writable and see that there is room, or choose another folder with --logs"
            ) from err
        journal = cls(home)
        try:
            journal._open()
        except BaseException:
            journal._copy.close()
            unlock_study(home.lock)
            raise
        if home.place is not None:
            journal._courier = Courier(home, lambda: journal._n, on_stop)
        return journal

    @property
    def place(self) -> str | None:
        """Words on where the journal is while we write it and why; None: in the study's folder."""
        return None if self._home.place is None else self._home.place.describe(self.folder)

    @property
    def write_ahead(self) -> bool:
        """Whether SQLite's write-ahead log is used (local file systems only)."""
        return self._database.write_ahead

    def append(self, *events: Entry, durable: bool) -> None:
        """Store events in one transaction.

        Args:
            events: in order.
            durable: return only when they would survive a power cut. Otherwise they survive the death of
                this process at once, and a power cut no later than the next durable ones.

        Raises:
            JournalError: they could not be stored, and none of them was; or, with `was_deleted`, they were,
                but this search cannot go on.
        """
        rows = [row_of(event) for event in events]
        deleted = self._mend()
        if self._courier is not None:
            while self._courier.news:
                self.news.append(self._courier.news.popleft())
        try:
            self._database.append(rows, self._n + 1, durable=durable)
        except DamagedError as err:
            self._rebuild(str(err))
            try:
                self._database.append(rows, self._n + 1, durable=durable)
            except DamagedError as again:
                raise self._no_way(str(again)) from again
        self._opened = None
        self._n += len(rows)
        self.beginnings.hear(events)
        if self._copy.is_open and self._copy.n == self._n - len(rows) and not self._copy.is_damaged:
            self._copy_on(lambda: self._copy.append(rows))
        else:
            self._copy_on(self._bring_copy_up)
        if deleted is not None:
            raise deleted

    def events(self) -> list[Event]:
        """Return every event so far, in order.

        Raises:
            JournalError: one cannot be read.
        """
        found, self._opened = self._opened, None
        try:
            found = found or read(self._database.rows(), mark=0)
        except DamagedError as err:
            raise self._no_way(str(err)) from err
        found.refuse_unreadable(self._path)
        return found.events

    def settle(self) -> None:
        """Hear that no job lives any more of which a restored journal might not know."""
        self._marker.unlink(missing_ok=True)
        self.was_restored = False

    def close(self) -> None:
        """Close the files and let go of the lock.

        Raises:
            JournalError: the files had been deleted or damaged meanwhile; all that can be is restored. Or
            they
                could not be brought back into the study's folder, and are where they were.
        """
        if self._courier is not None:
            self._courier.close()
        is_whole = False
        try:
            deleted = None if self._is_taken else self._mend()
            self._database.to_plain_file()
            is_whole = not self._is_taken and self._home.place is not None
        finally:
            self._database.close()
            self._copy.close()
            if not is_whole:
                unlock_study(self.lock)
        if is_whole:
            self._home.bring_back()
        if deleted is not None:
            raise deleted

    def _open(self) -> None:
        if self._home.lost is not None:
            self.news.append(
                f"The journal at {self._home.lost.path} on {self._home.lost.host} is given up: "
                f"{words_on_copy(self.folder)}, and is gone on with. What it knows to have ended stays so; "
                "jobs that have started since are ended, and run again."
            )
        self._copy_on(lambda: self._copy.open(to_write=True))
        if not self._copy.is_open and self._copy.path.exists() and not (self._path / JOURNAL_FILE).exists():
            raise JournalError(
                f"{self._path / JOURNAL_FILE} was deleted, and {self._copy.path}, from which it can be "
                "restored, "
                "cannot be opened; make it readable and writable, and start the same command again"
            )
        self._database, self._opened, was_restored = open_whole(self._path, self._copy, self.news)
        if was_restored:
            # until somebody has seen to the jobs, also if that is not this process
            self._marker.touch()
        self.was_restored = self._marker.exists()
        self._n = self._opened.n
        self.beginnings = self._opened.beginnings
        if self._copy.n != self._n or self._copy.is_damaged:
            self._copy_on(self._bring_copy_up)

    def _mend(self) -> JournalError | None:
        """See that what we write to is what others will read, and make it so; return why we cannot go on."""
        deleted = None
        if self._home.place is not None:
            deleted = self._see_that_it_is_ours()
        if self._lock_is_gone():
            deleted = self._lock_again()
        if self._copy.is_open and not self._copy.is_untouched():
            self.news.append(f"{self._copy.path} was changed or deleted by another program: written anew.")
            self._copy.is_damaged = True
        try:
            self._database.look()
        except DamagedError as err:
            self._rebuild(str(err))
        return deleted

    def _see_that_it_is_ours(self) -> JournalError | None:
        """See that nobody has gone on without us from the copy; return why we cannot go on."""
        assert self._home.place is not None
        deleted = None
        try:
            is_ours = self._home.is_ours()
        except FileNotFoundError as away:
            if file_system(self.folder) != self._home.place.file_system:
                raise self._cannot_look(away) from away  # nothing was deleted: it is not mounted now
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                is_ours = self._home.point(anew=False)
            except OSError as err:
                raise self._cannot_look(err) from err
            self.was_deleted = is_ours
            deleted = self._deleted(was_there=False)
        except OSError as err:
            raise self._cannot_look(err) from err
        if not is_ours:
            self._is_taken = True
            raise StudyBusyError(
                f"another search has gone on with the study in {self.folder} from the copy of its journal "
                f"(or journal.place was removed there); this one ends; what it had is kept in {self._path}"
            )
        return deleted

    def _cannot_look(self, err: OSError) -> JournalError:
        return JournalError(
            f"cannot look at {self.folder}: {err.strerror or err}; nothing that was stored is lost: "
            "mend the "
            "file system, and start the same command again"
        )

    def _lock_is_gone(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self._lock_file), os.fstat(self.lock))  # noqa: PTH116
        except FileNotFoundError:
            return True
        except OSError as err:
            raise self._cannot_look(err) from err

    def _lock_again(self) -> JournalError:
        """Make the study ours once more, under the same descriptor; return what the user must know."""
        was_there = self.folder.is_dir()
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            lock = lock_study(self._path, study=self.folder)
            if self._home.place is not None:
                self._home.write_about()
        except StudyBusyError as err:
            self._is_taken = True
            raise StudyBusyError(
                f"the study in {self.folder} was deleted while this search wrote it, and another search has "
                "begun "
                f"there ({err}); this one ends"
            ) from err
        except OSError as err:
            raise JournalError(
                f"the study's folder {self.folder} was deleted while the search ran, and cannot be made "
                "again: "
                f"{err.strerror or err}; make its parent folder writable and start the same command again"
            ) from err
        os.dup2(lock, self.lock, inheritable=False)
        os.close(lock)
        self.was_deleted = True
        return self._deleted(was_there=was_there)

    def _deleted(self, *, was_there: bool) -> JournalError:
        what, left = (
            ("lock file of the study in {} was", "The journal is whole")
            if was_there
            else (
                "study's folder {} was",
                "It was made again with the whole journal; the output of its jobs is gone",
            )
        )
        return JournalError(
            f"the {what.format(self.folder)} deleted while the search ran. {left}: start the same command "
            "again, "
            "and it goes on"
        )

    def _rebuild(self, why: str) -> None:
        """Put a whole database in the place of one that was deleted, replaced or damaged under our hands."""
        self.was_restored = True
        old = self._database
        # the copy, where it is whole, needs no help from what may be damaged
        copied = self._copy.is_open and self._copy.n == self._n and not self._copy.is_damaged
        try:
            rows = [] if copied else old.readable()
            if len(rows) < self._n:
                try:
                    rows = salvage(self._path, self._copy, rows, why)
                except JournalError:
                    if not copied:
                        raise
                    # it was damaged without a change of its length; what is open may still have everything
                    rows = old.readable()
                    if len(rows) < self._n:
                        rows = salvage(self._path, self._copy, rows, why)
                    self._copy.is_damaged = True
        finally:
            old.close()  # before the new one is there: SQLite removes a log by its name
        if len(rows) < self._n:
            raise JournalError(
                f"{old.path} {why}: only {len(rows)} of its {self._n} events could be saved, and nothing was "
                "changed; restore the folder from a backup, or move it away and start anew"
            )
        replace(self._path, rows, why, self.news)
        try:
            self._database = Database.open(self._path)
        except DamagedError as err:
            raise self._no_way(str(err)) from err
        self._opened = None
        self._n = len(rows)

    def _bring_copy_up(self) -> None:
        """Give the copy what the database has beyond it, or all if the copy is not there or not whole."""
        if not self._copy.is_open:
            self._copy.open(to_write=True)
        try:
            if self._copy.is_damaged or self._copy.n > self._n or not self._copy.is_untouched():
                self._copy.rewrite(self._database.rows())
            else:
                for batch in self._database.rows(after=self._copy.n):
                    self._copy.append(batch)
        except DamagedError:
            return  # the database comes first: what is wrong with it shows when it is next used

    def _copy_on(self, write: Callable[[], None]) -> None:
        """Write the copy; that it cannot be is told once, and loses nothing."""
        try:
            write()
            self._copy_fails = False
        except OSError as err:
            if not self._copy_fails:
                self.news.append(
                    f"{self._copy.path} cannot be written ({err.strerror or err}): the journal itself is "
                    "whole, and "
                    "the copy is brought up to date as soon as it can be."
                )
            self._copy_fails = True

    def _no_way(self, why: str) -> JournalError:
        return JournalError(
            f"{self._database.path} {why} and cannot be mended; restore the folder from a backup, or move "
            "it away "
            "and start anew"
        )
