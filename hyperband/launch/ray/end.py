"""Ending what a search that is gone still holds of a Ray cluster: its slots, by name."""

import contextlib
import select
import time
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.launch.ray.files import Cluster, forget, log_of
from hyperband.launch.ray.link import RayLink, default_environment
from hyperband.launch.ray.words import GIVE_UP_S, Join

#: patience with Ray: with a wrong token it takes its time to say so
_END_S = 60.0
#: a slot that is never asked for takes nothing
_NOTHING = {"GPU": 0.0, "CPU": 0.0}


def shares_no_files(study: Path) -> bool:
    """Return whether a search that is gone holds slots on nodes that share no files with us."""
    cluster = Cluster.read(study)
    return cluster is not None and cluster.files == "sent"


def end_slots(study: Path, *, forgets: bool = True) -> int:
    """End the slots of a study and see them gone; return how many there were.

    Args:
        study: its folder.
        forgets: what is known of its slots goes with them.

    Raises:
        MachineError: Ray does not answer, or does not end them.
    """
    cluster = Cluster.read(study)
    if cluster is None:
        return 0
    with contextlib.closing(RayLink(log_of(study))) as link:
        n_ended = _end(link, cluster)
    if forgets:
        forget(study)
    return n_ended


def _end(link: RayLink, cluster: Cluster) -> int:
    token = None if cluster.token is None else Path(cluster.token)
    folder = str(link.log.parent)
    join = Join(cluster.address, cluster.name, _NOTHING, "", folder, may_start=False)
    link.open(join, default_environment(token))
    link.say({"op": "end"})
    until_s = time.monotonic() + _END_S
    trouble = ""
    while link.is_open and (left_s := until_s - time.monotonic()) > 0:
        select.select([link], [], [], left_s)
        for words in link.heard():
            if words["at"] == "ended":
                n_ended: int = words["n"]
                return n_ended
            trouble = words.get("words", trouble) if words["at"] in ("refused", "failed") else trouble
    raise MachineError(
        f"the slots of this study in Ray at {cluster.address} could not be ended: "
        f"{trouble or f'it did not answer within {_END_S:g} s'}. By themselves they end after {GIVE_UP_S:g} "
        "s without a search, and with their cluster; start the same command again when Ray answers"
    )
