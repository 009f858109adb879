"""The environment that a job on a node begins with, and which of the node's GPUs it sees.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import os

from hyperband.machine.claim import parse, read_fresh

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node carries what it imports
    from collections.abc import Mapping
    from typing import Any

_GPUS = "CUDA_VISIBLE_DEVICES"


class RefusedError(Exception):
    """This node cannot run the job as it was ordered."""


def environment_of(order: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that the job begins with.

    It is that of this process; or that of a file, but for the variables in which this process knows better.
    Over it come the order's changes, and the GPUs that the job gets of those that this process was given.

    Raises:
        RefusedError: it is not to be had, or there are not so many GPUs.
    """
    environment = dict(os.environ)
    if order.get("environment_file") is not None:
        path = order["environment_file"]
        try:
            found = parse(read_fresh(os.path.dirname(path), os.path.basename(path))[0])  # noqa: PTH119, PTH120
        except OSError as err:
            raise RefusedError(f"the environment in {path} cannot be read: {err.strerror}") from err
        if found is None or not isinstance(found.get("environment"), dict):
            raise RefusedError(f"there is no environment in {path}")
        ours = {name: value for name, value in environment.items() if _is_kept(name, order["keeps"])}
        environment = {**found["environment"], **ours}
    given = environment.get(_GPUS)
    for name, value in order["environment"].items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    if order.get("gpus") is not None:
        listed = [entry for entry in (given or "").split(",") if entry]
        try:
            environment[_GPUS] = ",".join(listed[index] for index in order["gpus"])
        except IndexError:
            raise RefusedError(
                f"it was to have the GPUs {order['gpus']} of those in {_GPUS}, which is {given!r} here"
            ) from None
    return environment


def _is_kept(name: str, keeps: list[str]) -> bool:
    """Return whether a variable is one of these; `SLURM_*` stands for all that begin so."""
    return any(name.startswith(kept[:-1]) if kept.endswith("*") else name == kept for kept in keeps)
