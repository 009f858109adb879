"""What holders of allocations write into the shared folder, and what they are told there.

Owns when that folder is looked at, and that trouble with it ends no search. Must not know: what an allocation
is good for.
"""

from pathlib import Path

from hyperband.launch.slurm.files import GIVE_UP_S, Held, SlurmFiles

#: between looks for files of holders while an allocation is on its way
_LOOK_S = 0.2
#: a tenth of the time after which holders believe that nobody wants them
_WANTED_S = GIVE_UP_S / 10
#: a shared folder that could not be used is tried again after so long
_TROUBLE_S = 5.0


class Holders:
    """The holders of one search's allocations. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        """Nothing has been read or written."""
        #: the newest environment of each allocation
        self._environments: dict[str, Path] = {}
        self._tokens: set[str] = set()
        self._look_at_s = self._wanted_at_s = 0.0
        #: the shared folder could not be used, and it was told of
        self._is_in_trouble = False
        #: to be said
        self.news: list[str] = []

    def attend(self, files: SlurmFiles, now_s: float, *, are_coming: bool) -> list[tuple[Held, bool]]:
        """Read and write what is due; return what holders said, each with whether it is new.

        Args:
            files: of the study.
            now_s: of the clock.
            are_coming: a word of a holder is waited for.
        """
        found: list[tuple[Held, bool]] = []
        try:
            if now_s >= self._look_at_s and are_coming:
                found = [self._noted(held) for held in files.holders()]
                self._look_at_s = now_s + _LOOK_S
            if now_s >= self._wanted_at_s:
                files.say_wanted()
                self._wanted_at_s = now_s + _WANTED_S
                self._is_in_trouble = False
        except OSError as err:
            if not self._is_in_trouble:
                self.news.append(f"cannot use {files.folder} ({err.strerror or err}): it is tried again")
            self._is_in_trouble = True
            self._look_at_s = self._wanted_at_s = now_s + _TROUBLE_S
        return found

    def hurry(self) -> None:
        """Look at the next call: something happened."""
        self._look_at_s = 0.0

    def wait_s(self, now_s: float, *, are_coming: bool) -> float:
        """Return seconds until `attend` has something to do."""
        return (min(self._wanted_at_s, self._look_at_s) if are_coming else self._wanted_at_s) - now_s

    def environment_of(self, job_id: str) -> Path | None:
        """Return the file with the environment that the setup lines of an allocation made."""
        return self._environments.get(job_id)

    def _noted(self, held: Held) -> tuple[Held, bool]:
        is_new = held.ready.token not in self._tokens
        self._tokens.add(held.ready.token)
        self._environments[held.ready.job_id] = held.path
        return held, is_new
