"""The slots that a search has of Slurm, in either mode: whom Slurm is asked through, how all is given back.

Must not know: what is asked of it when, and what a slot is.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from hyperband.errors import InternalError
from hyperband.launch.remote.slots import RemoteSlots
from hyperband.launch.slurm.clerk import Clerk, Pace
from hyperband.launch.slurm.closing import see_the_end
from hyperband.launch.slurm.files import last_said
from hyperband.launch.slurm.orders import Fail, Stop
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.reports import FoundSite, Report
from hyperband.launch.slurm.suspended import SuspendedJobs


class HasName(Protocol):
    """What a study's folder has for Slurm."""

    #: what the scripts of its jobs print
    log: Path

    @property
    def name(self) -> str:
        """That of all of the study's jobs in Slurm."""
        ...

    @property
    def may_have_jobs(self) -> bool:
        """Whether Slurm may have any of them, or was never asked for one."""
        ...

    def clear(self) -> None:
        """Note that no job of Slurm's is left."""
        ...


F = TypeVar("F", bound=HasName)


class SlotsOfSlurm(RemoteSlots, Generic[F]):
    """The clerk of one search, and the study's folder for Slurm. `_begin` first."""

    def __init__(self, profile: Profile) -> None:
        """Ask nothing yet; profile: what is asked for."""
        super().__init__()
        self._profile = profile
        self._open: tuple[Clerk, F] | None = None
        #: read in the patrol's thread, too
        self._suspended = SuspendedJobs()

    def excuses(self, job_id: str, silent_since_s: float, *, lease_s: float, at_s: float) -> bool:
        """Return whether an attempt whose lease is not renewed may be suspended; see SuspendedJobs.

        Called in the patrol's thread.
        """
        found = self._open
        # who cannot be asked says nothing
        return found is None or self._suspended.excuses(
            job_id, silent_since_s, lease_s=lease_s, at_s=at_s, ask=found[0].look
        )

    def is_suspended(self, job_id: str) -> bool:
        """Return whether Slurm said that it has suspended this job."""
        return job_id in self._suspended.jobs

    @property
    def clerk(self) -> Clerk:
        """Its descriptor is readable when there is something to heed."""
        return self._opened()[0]

    def close(self) -> None:
        """Ask nothing more; what Slurm has goes on."""
        if self._open is not None:
            self._open[0].close()
            self._open = None

    def _begin(self, files: F, environ: Mapping[str, str], pace: Pace | None) -> None:
        """Begin to ask Slurm: first of all, what of this study is there already."""
        clerk = Clerk(files.name, environ, pace)
        self._open = clerk, files
        clerk.look()

    def _opened(self) -> tuple[Clerk, F]:
        if self._open is None:
            raise InternalError("Slurm's slots were used before they were opened: please report it.")
        return self._open

    def _fail_as(self, order: Fail) -> None:
        """Have the search end with what was found, and with what is in the log of that."""
        said = last_said(self._opened()[1].log) if order.is_in_log else ""
        self._fail(f"{order.words.rstrip('.')}. That log ends with: {said}" if said else order.words)

    def _note_site(self, found: FoundSite) -> None:
        has = "with" if found.site.has_accounting else "without"
        self._news.append(f"Slurm {found.site.version}, {has} accounting")

    def _give_back(
        self, tell: Callable[[Stop | Report], object], is_given_up: Callable[[], bool]
    ) -> list[str]:
        """Have everything cancelled and see its end begin; return what must be said if that fails.

        Args:
            tell: whoever knows what there is, of the end and of each report until then.
            is_given_up: whether nothing is left, by what was told.
        """
        if self._open is None:
            return []
        clerk, files = self._open
        tell(Stop())
        if not files.may_have_jobs:
            files.clear()
            return []
        in_vain_s = see_the_end(clerk, tell, is_given_up)
        if in_vain_s is not None:
            return [self._why_not_ended(files, in_vain_s)]
        files.clear()
        return []

    @abstractmethod
    def _why_not_ended(self, files: F, patience_s: float) -> str:
        """Return what must be said where Slurm ended nothing for so long."""
