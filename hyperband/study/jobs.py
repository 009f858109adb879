"""What a job is given: its folder, its command line, its environment, and the script's fingerprint."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hyperband.errors import ContractError, MachineError
from hyperband.folder import job_folder
from hyperband.launch.base import Order, Slot
from hyperband.script.contract import job_argv
from hyperband.search.events import Event, JobEnded, JobStarted
from hyperband.search.trial import Outcome, Start
from hyperband.settings import Settings

#: how long the script may be away, in seconds, before the search gives up
_ABSENCE_S = 10.0


class JobFiles:
    """Makes the orders of one study's jobs."""

    def __init__(
        self,
        settings: Settings,
        study_folder: Path,
        *,
        cwd: str,
        environment: Callable[[Slot], Mapping[str, str]],
        last_sha256: str | None,
    ) -> None:
        """Remember where and how.

        Args:
            settings: of the search.
            study_folder: where each attempt gets its folder.
            cwd: where every job of the study runs.
            environment: what every job at a slot gets besides what the slot adds.
            last_sha256: the fingerprint of the script when its latest job started; None: there was none.
        """
        self.cwd = cwd
        self._settings = settings
        self._study_folder = study_folder
        self._environment = environment
        self._seen: tuple[int, int, int] | None = None
        self._sha256 = last_sha256
        self._gone_since_s: float | None = None
        #: job and attempt whose checkpoint each trial goes on from
        self._after: dict[int, tuple[int, int]] = {}
        #: the script is not the one that jobs before it ran; whoever tells of it sets it back
        self.has_changed = False

    def script_sha256(self) -> str | None:
        """Return the sha256 of the script as it is now, in hexadecimal; read again only when it changed.

        None while it is not there: an editor that saves it takes it away for a moment.

        Raises:
            ContractError: it has not been there for a while.
        """
        script = self._settings.script
        if self._seen is not None and self._settings.ray_files == "sent":
            return self._sha256  # jobs run what travelled when the search began
        try:
            stat = script.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                found = hashlib.sha256(script.read_bytes()).hexdigest()
                self.has_changed |= self._sha256 not in (None, found)
                self._sha256, self._seen = found, seen
        except OSError as err:
            now_s = time.monotonic()
            self._gone_since_s = self._gone_since_s or now_s
            if now_s - self._gone_since_s < _ABSENCE_S:
                return None
            raise ContractError(
                f"the script {script} cannot be read any more: {err.strerror or err}; put it back and start "
                "the same command again: the search goes on where it is"
            ) from err
        self._gone_since_s = None
        return self._sha256

    def recover(self, events: Iterable[Event]) -> None:
        """Take in what happened before."""
        trials: dict[int, int] = {}
        for event in events:
            if isinstance(event, JobStarted):
                trials[event.job] = event.trial
            elif isinstance(event, JobEnded):
                self.note_end(trials[event.job], event)

    def note_end(self, trial: int, event: JobEnded) -> None:
        """Take in how an attempt ended: the checkpoint counts of the latest one that gave a loss."""
        if event.outcome is Outcome.LOSS:
            self._after[trial] = event.job, event.attempt

    def after(self, trial: int) -> Path | None:
        """Return the folder of the attempt whose checkpoint a trial goes on from; None: it has not begun."""
        found = self._after.get(trial)
        return None if found is None else job_folder(self._study_folder, *found)

    def order(self, start: Start, slot: Slot) -> Order:
        """Return what the launcher needs to start this job on this slot."""
        argv = job_argv(
            python=str(self._settings.python),
            script=str(self._settings.script),
            config_id=start.config_id,
            epochs=start.epochs,
            slot_arguments=slot.arguments,
            script_args=self._settings.script_args,
        )
        environment = {
            **self._environment(slot),
            **slot.environment,
            "HYPERBAND_TRIAL": str(start.trial),
            "HYPERBAND_ATTEMPT": str(start.attempt),
        }
        return Order(
            job_folder(self._study_folder, start.job, start.attempt),
            tuple(argv),
            environment,
            self.after(start.trial),
        )

    def make_folder(self, folder: Path) -> None:
        """Make an attempt's folder, empty.

        Raises:
            MachineError: it cannot be made.
        """
        try:
            if folder.exists():
                # an attempt that the journal forgot with a power cut: nothing of it can still run
                shutil.rmtree(folder)
            try:
                folder.mkdir()
            except FileNotFoundError:
                # not the study's own folder: if that is gone, it must not come back without its journal
                folder.parent.mkdir(exist_ok=True)
                folder.mkdir()
        except OSError as err:
            raise MachineError(
                f"cannot make the folder of a job, {folder}: {err.strerror or err}; make room or make it "
                "writable, and start "
                "the same command again: the search goes on where it is"
            ) from err
