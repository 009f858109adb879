"""The environment that every job gets, in a search and in a check alike, besides what its slot adds."""

import os
from collections.abc import Mapping

#: what the usual numerical libraries read; the second and later ones go before the first where both are set
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def thread_caps(n_at_once: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep each of so many jobs to its share of the cores.

    A variable that the user set stays as it is, and OMP_NUM_THREADS speaks for all: the others would overrule
    it in their libraries.
    """
    if THREAD_VARIABLES[0] in environ:
        return {}
    share = max(1, len(os.sched_getaffinity(0)) // max(1, n_at_once))
    return {name: str(share) for name in THREAD_VARIABLES if name not in environ}


def job_environment(n_at_once: int) -> dict[str, str]:
    """Return what every job's environment has besides what its slot adds; n_at_once jobs share the cores."""
    return {
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **thread_caps(n_at_once, os.environ),
    }
