"""What somebody who starts a search, or goes on with one, should know before anything runs. Only reads."""

import shlex
from collections.abc import Sequence

from hyperband.report.text import counted
from hyperband.search.events import Event, JobEnded, SearchEnded
from hyperband.search.trial import Plan
from hyperband.settings import Settings
from hyperband.study.opening import last_settings
from hyperband.verdicts import Resuming, read_resuming


def warnings_of(events: Sequence[Event], settings: Settings) -> list[str]:
    """Return what somebody who goes on with a study should know."""
    found: list[str] = []
    before = last_settings(events).get("script_args")
    if isinstance(before, list) and before != list(settings.script_args):
        found.append(
            f"Warning: the script was handed {shlex.join(map(str, before)) or 'nothing'} before, and is "
            f"now handed {shlex.join(settings.script_args) or 'nothing'}; losses of both are compared with "
            "each other. If that is another search, let run_identity tell them apart."
        )
    ended = next((event for event in reversed(events) if isinstance(event, SearchEnded)), None)
    n_failed = sum(
        isinstance(event, JobEnded) and event.outcome.is_failure and not event.retry for event in events
    )
    if ended is not None and ended.state == "failed" and n_failed:
        stay = "stays" if n_failed == 1 else "stay"
        found.append(
            f"Warning: the search before this one stopped ({ended.reason}). Its "
            f"{counted(n_failed, 'failed job')} {stay} failed; if the script was to blame, --clean begins "
            "anew."
        )
    return found


def cost_of_not_resuming(
    settings: Settings, *, identity: str, script_sha256: str | None, plan: Plan
) -> list[str]:
    """Return what a check of this very script found out about its checkpoints, if that is bad news."""
    if script_sha256 is None:
        return []
    found = read_resuming(
        settings.logs, identity, script_sha256=script_sha256, script_args=settings.script_args
    )
    if found is Resuming.FROM_SCRATCH:
        more = plan.epochs - plan.epochs_resumed
        about = "about " if plan.promotion.is_open else ""
        return [
            f"Warning: a check found that the script {found}: promoted trials do not go on from their "
            f"checkpoints, which costs {about}{counted(more, 'epoch')} more ({plan.epochs:,} instead of "
            f"{plan.epochs_resumed:,}) for the whole plan."
        ]
    if found is Resuming.DISAGREES:
        return [
            "Warning: a check found that the script loads its checkpoint but then gives another loss than "
            "training straight through: losses of promoted trials are those of another training."
        ]
    return []
