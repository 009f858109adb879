"""One exception tree, split by who must act; each class knows the exit code of the command.

A message is one short paragraph: what was found, what was expected, where, and what to do next.
"""

from typing import ClassVar


class HyperbandError(Exception):
    """Base of every error that a user may see."""

    exit_code: ClassVar[int] = 1


class UsageError(HyperbandError):
    """The arguments are wrong: the user changes the command."""

    exit_code = 2


class ContractError(HyperbandError):
    """The script breaks its contract: the author changes the script."""

    exit_code = 2


class MachineError(HyperbandError):
    """This machine (GPUs, driver, disk, kernel) cannot do what is needed."""


class JournalError(HyperbandError):
    """The study's folder or journal cannot be used as it is."""


class StudyBusyError(JournalError):
    """Another process is writing this study."""


class SearchFailedError(HyperbandError):
    """The search could not go on, or ended without a single loss."""


class InternalError(HyperbandError):
    """Our own bug: should never happen; the message asks for a report."""
