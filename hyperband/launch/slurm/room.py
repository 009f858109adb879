"""What a slot in an allocation is, by the profile alone: how many there are, its GPUs and its cores.

Owns the translation of a Profile for those who hold slots. Must not know: which allocations there are.
"""

import os

from hyperband.errors import InternalError
from hyperband.launch.base import Lease, Slot
from hyperband.launch.environment import THREAD_VARIABLES
from hyperband.launch.remote.place import Place
from hyperband.launch.slurm.held.events import Rules
from hyperband.launch.slurm.profile import Profile

#: before the end of an allocation jobs should be over by so much, as part of its time and at most
_MARGIN, _MARGIN_S = 0.1, 60.0


def rules_of(profile: Profile, max_slots: int | None) -> Rules:
    """Return how many allocations of such a profile there may be."""
    limit_s = profile.time_limit_s
    return Rules(
        max_allocations=profile.max_allocations,
        min_allocations=profile.min_allocations,
        n_nodes=profile.nodes,
        n_slots_per_node=profile.n_slots_per_node,
        idle_s=profile.idle_s,
        margin_s=_MARGIN_S if limit_s is None else min(_MARGIN_S, _MARGIN * limit_s),
        time_limit_s=limit_s,
        max_slots=max_slots,
    )


def lease_of(profile: Profile, place: Place) -> Lease:
    """Return the right to a slot, with what a job there is told."""
    return lease_named(profile, place.name, place.index)


def lease_named(profile: Profile, name: str, index: int) -> Lease:
    """Return the right to a slot of this name, which is one of those on its node, counted from 0."""
    gpus = gpus_of(profile, index)
    arguments = ("--gpu", "0") if gpus is None or len(gpus) == 1 else ("--multi_gpu",)
    environment: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": ""} if gpus is None else {}
    return Lease(Slot(name, arguments, environment), ())


def place_of(lease: Lease) -> Place:
    """Return the place of a slot of ours."""
    return place_named(lease.slot.name)


def place_named(name: str) -> Place:
    """Return the place of a slot of ours with this name.

    Raises:
        InternalError: it is none.
    """
    place = Place.named(name)
    if place is None:
        raise InternalError(f"{name} is no slot of Slurm's. This is a bug of ours: please report it.")
    return place


def gpus_of(profile: Profile, index: int) -> tuple[int, ...] | None:
    """Return which of the GPUs that Slurm gave a node the job at this slot of it gets; None: it has none."""
    n_gpus, n_slots = profile.n_gpus, profile.n_slots_per_node
    if n_gpus == 0:
        return None
    if n_gpus < n_slots:
        return (index * n_gpus // n_slots,)
    n_each = n_gpus // n_slots
    return tuple(range(index * n_each, (index + 1) * n_each))


def environ_for_jobs(profile: Profile) -> dict[str, str]:
    """Return what every job gets for its environment: its share of the cores that the profile names."""
    fixed = {"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if profile.cpus is None:
        return fixed
    if THREAD_VARIABLES[0] in os.environ:
        return fixed
    share = str(max(1, profile.cpus // profile.n_slots_per_node))
    return {**fixed, **{name: share for name in THREAD_VARIABLES if name not in os.environ}}
