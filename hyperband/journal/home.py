"""Taking a journal out of its study's folder, onto a local disk, and bringing it back. Where: see place.py.

Who has a study is decided by `link()` onto `journal.place`. It is complete before that, so a journal that
was taken out is whole, and one that was not is where it was. How files are moved is for carrying.py to know.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from hyperband.errors import JournalError, StudyBusyError
from hyperband.folder import (
    COPY_FILE,
    JOURNAL_FILE,
    PLACE_FILE,
    RESTORED_FILE,
    holder,
    lock_study,
    remove_study_files,
    unlock_study,
)
from hyperband.journal.carrying import carry_all, signature
from hyperband.journal.place import (
    ABOUT_FILE,
    Place,
    base_for,
    refuse_living,
    slurm_run,
    words_from_elsewhere,
)
from hyperband.journal.spare import mark, remove, sweep, unmark
from hyperband.journal.stop_request import take_stop
from hyperband.machine.claim import CANNOT_LINK, read_fresh, write_whole
from hyperband.machine.mounts import file_system

_NAME_LENGTH = 40
#: somebody takes the study out or brings it back at the same moment
_N_TRIES = 20

#: the option that goes on without the journal
FROM_COPY = "--from-copy"


class Home:
    """Where the files of an open journal are; its lock is held."""

    def __init__(self, study: Path, path: Path, lock: int, place: Place | None = None) -> None:
        """Take over the lock; use `open`."""
        #: the study's folder
        self.study = study
        #: where the files are
        self.path = path
        #: descriptor of the lock
        self.lock = lock
        #: None: they are in the study's folder
        self.place = place
        #: where the journal was that is lost, so that its copy was taken
        self.lost: Place | None = None

    @classmethod
    def open(cls, study: Path, environ: Mapping[str, str], *, from_copy: bool) -> "Home":
        """Find the journal of a study, take it out if it has to be, and lock it.

        Args:
            study: its folder, made if it is not there.
            environ: ours.
            from_copy: go on from the copy if the journal cannot be reached.

        Raises:
            StudyBusyError: another process writes it.
            JournalError: it is on another machine, or there is no place for it.
            OSError: a file system does not let us.
        """
        for _ in range(_N_TRIES):
            place = Place.read(study)
            if place is None:
                base = base_for(study, environ)
                found = _unplaced(study) if base is None else _taken_out(study, base, environ, None)
            elif place.is_here:
                found = _entered(study, place, environ)
            elif not _is_still(place, study):
                found = None  # it has just been brought back, and is no longer where we looked
            elif from_copy or _is_restarted(place, environ):
                if not _is_restarted(place, environ):
                    refuse_living(study, FROM_COPY)
                base = base_for(study, environ)
                found = _put_back(study) if base is None else _taken_out(study, base, environ, place)
                if found is not None:
                    found.lost = place
            else:
                raise _elsewhere(study, place)
            if found is not None:
                if found.place is not None:
                    sweep(found.path.parent, _name_of(study), study)
                return found
        raise StudyBusyError(
            f"the study in {study} is just being opened or closed by another process; try again"
        )

    def is_ours(self) -> bool:
        """Return whether nobody has taken the study over; asks the file server.

        Raises:
            FileNotFoundError: nobody has, but the folder was deleted.
            OSError: it cannot be looked at.
        """
        if self.place is None:
            return True
        # its content, since numbers of inodes need not change with the file (sshfs)
        (data,) = read_fresh(str(self.study), PLACE_FILE)
        if data is not None:
            return self.place.token.encode() in data
        if any((self.study / name).exists() for name in (JOURNAL_FILE, COPY_FILE)):
            return False  # who took it over has brought it back already
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.study / PLACE_FILE))

    def point(self, *, anew: bool) -> bool:
        """Say in the study's folder where the journal is; return False if somebody else did before.

        Args:
            anew: whatever is said there.
        """
        assert self.place is not None
        if anew:
            write_whole(str(self.study), PLACE_FILE, self.place.to_bytes())
        elif not _link(self.study, self.place):
            return False
        return True

    def write_about(self) -> None:
        """Say in the place whose journal it is."""
        assert self.place is not None
        write_whole(str(self.path), ABOUT_FILE, self.place.to_bytes())

    def show_life(self) -> None:
        """Let others see that we are there."""
        os.utime(self.study / PLACE_FILE)

    def take_stop_request(self) -> bool:
        """Return whether somebody on another machine asks us to end, once.

        Raises:
            OSError: the folder cannot be looked at.
        """
        assert self.place is not None
        return take_stop(self.study, self.place)

    def bring_back(self) -> None:
        """Put the journal, which is closed, back into its study's folder, and let go of the lock.

        Where processes of ours are left that hold the lock as well, all stays as it is, copied once more.

        Raises:
            JournalError: it could not be, and stays where it is.
        """
        assert self.place is not None
        try:
            try:
                carry_all(self.path, self.study)
                before = signature(self.path)
            finally:
                unlock_study(self.lock)
            try:
                lock = lock_study(self.path, study=self.study)
            except (StudyBusyError, FileNotFoundError):
                return  # it is somebody else's to bring back
            try:
                if signature(self.path) == before and self.is_ours():
                    mark(self.path, self.study)
                    (self.study / PLACE_FILE).unlink()
                    remove(self.path)
            finally:
                unlock_study(lock)
        except OSError as err:
            raise JournalError(
                f"the journal could not be brought back into {self.study} ({err.strerror or err}): it is "
                f"whole at {self.path} on {self.place.host}; make room there, or mend the file system, and "
                "start the same command again on this machine"
            ) from err


def refuse_away(study: Path, *, from_copy: bool) -> None:
    """Refuse to do what needs the journal of a study, where that is out of reach.

    Raises:
        JournalError: it is, and it is not to be done without, or its writer lives.
    """
    place = Place.read(study)
    if place is None or place.is_here or not _is_still(place, study):
        return
    if not from_copy:
        raise _elsewhere(study, place)
    refuse_living(study, FROM_COPY)


@contextlib.contextmanager
def removing(study: Path, *, from_copy: bool) -> Iterator[int]:
    """Hold the lock of a study that is to be removed, wherever its journal is; remove its files afterwards.

    Args:
        study: its folder.
        from_copy: also if the journal cannot be reached.

    Raises:
        StudyBusyError: another process writes it.
        JournalError: its journal is on another machine.
        OSError: a file cannot be removed.
    """
    refuse_away(study, from_copy=from_copy)
    place = Place.read(study)
    there = study if place is None or not place.is_here else place.path
    lock = lock_study(there, study=study)
    try:
        yield lock
        if there != study:
            remove(there)
        remove_study_files(study)
    finally:
        unlock_study(lock)


def _is_still(place: Place, study: Path) -> bool:
    """Return whether a journal is said to be where it was a moment ago."""
    now = Place.read(study)
    return now is not None and now.token == place.token


def _elsewhere(study: Path, place: Place) -> JournalError:
    return JournalError(
        f"{words_from_elsewhere(study, place)}. Start the same command there; or end the search with "
        f"`hyperband stop {study}`, which brings the journal back. If it is lost for good, {FROM_COPY} goes "
        "on from the copy: jobs that have started since are ended, and run again"
    )


def _unplaced(study: Path) -> Home | None:
    study.mkdir(parents=True, exist_ok=True)
    lock = lock_study(study)
    if Place.read(study) is None:
        return Home(study, study, lock)
    unlock_study(lock)  # somebody who was told another place was faster
    return None


def _put_back(study: Path) -> Home | None:
    """Go on from the copy where it is: the study's folder is on a local disk of this machine."""
    lock = lock_study(study)
    (study / RESTORED_FILE).touch()
    (study / PLACE_FILE).unlink(missing_ok=True)
    return Home(study, study, lock)


def _entered(study: Path, place: Place, environ: Mapping[str, str]) -> Home | None:
    try:
        lock = lock_study(place.path, study=study)
    except FileNotFoundError:
        return None  # it has just been brought back
    try:
        home = Home(study, place.path, lock, Place.of_us(place.token, place.path, place.file_system, environ))
        if _is_still(place, study):
            # who was here before may have been killed on his way
            unmark(home.path)
            home.point(anew=True)
            return home
    except BaseException:
        unlock_study(lock)
        raise
    unlock_study(lock)
    return None


def _taken_out(study: Path, base: Path, environ: Mapping[str, str], before: Place | None) -> Home | None:
    """Take a journal out of its folder; None: somebody else did at this moment."""
    found = holder(study)
    if found is not None:
        raise StudyBusyError(
            f"the study in {study} is being written by {found.describe()}; wait for it, or end it there"
        )
    study.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    path = base / f"{_name_of(study)}-{token[:12]}"
    path.mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        home = Home(
            study,
            path,
            lock_study(path, study=study),
            Place.of_us(token, path, file_system(study), environ),
        )
        stack.callback(unlock_study, home.lock)
        mark(path, study)
        home.write_about()
        taken = signature(study)
        carry_all(study, path)
        if before is not None:
            (path / RESTORED_FILE).touch()
        if not home.point(anew=before is not None):
            return None
        while (now := signature(study)) != taken:
            # who wrote it before brought back more at the same moment
            taken = now
            carry_all(study, path)
        unmark(path)
        stack.pop_all()
        return home


def _name_of(study: Path) -> str:
    """What the names of a study's places begin with."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", study.name)[:_NAME_LENGTH]


def _link(study: Path, place: Place) -> bool:
    beside = f"{PLACE_FILE}.{place.token}"
    write_whole(str(study), beside, place.to_bytes())
    try:
        os.link(study / beside, study / PLACE_FILE)
    except FileExistsError:
        pass  # another's; or ours, where the server's answer was lost on its way and it was asked twice
    except OSError as err:
        if err.errno not in CANNOT_LINK:
            raise
        # without hard links a reader may see half of it for a moment, and says that it is damaged
        with contextlib.suppress(FileExistsError), (study / PLACE_FILE).open("xb") as stream:
            stream.write(place.to_bytes())
    finally:
        (study / beside).unlink(missing_ok=True)
    return _is_still(place, study)


def _is_restarted(place: Place, environ: Mapping[str, str]) -> bool:
    """Return whether who wrote the journal was this very job of Slurm's, which has started it again since.

    So Slurm itself says that it is over, or cut off with its node: then its next word to the journal ends it.
    """
    job, restarts = slurm_run(environ)
    return bool(job) and job == place.slurm_job and restarts > place.slurm_restarts
