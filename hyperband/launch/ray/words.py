"""What is said of Ray: which resources a slot takes, how many there are room for, and Ray's errors in a line.

Pure: no clock, no process, no Ray.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperband.errors import UsageError
from hyperband.launch.base import Slot

#: the cluster is one of this machine alone, which the search starts, and which ends with it
LOCAL = "local"
#: the cluster that this machine is part of
AUTO = "auto"
#: of all slots of all studies, in Ray's own names
NAMESPACE = "hyperband"
#: milliseconds for the settings by which machines that are cut off are noticed; Ray takes minutes
KEEPALIVE_MS = "5000"
#: a slot that no search has wanted for so long, and in which no job runs, ends by itself
GIVE_UP_S = 300.0
#: what Ray gives in thousandths at the least
_LEAST = 0.001
_SAID_LENGTH = 400
_NAME = re.compile(r"[A-Za-z0-9_.:\-]+")


@dataclass(frozen=True, slots=True)
class Join:
    """What the bridge is told first."""

    #: `auto`, `local` or HOST:PORT
    address: str
    #: what the names of this study's slots begin with
    study: str
    #: of one slot: `GPU`, `CPU`, `memory` (bytes) and the cluster's own
    resources: Mapping[str, float]
    #: what is run on nodes
    script: str
    #: the folder `ray/` of the study
    folder: str
    #: what travels to nodes that share no files with us (Baggage of sent.py); None: they share them
    sent: Mapping[str, Any] | None = None
    #: a Ray of this machine (`local`) is started if none runs
    may_start: bool = True
    #: what tells slots of this start from those of an earlier one that are not to be used; None: all may
    mark: str | None = None

    @property
    def n_gpus(self) -> float:
        """GPUs of one slot, or what part of one."""
        return self.resources.get("GPU", 0.0)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a check has run on nodes."""

    #: text, for sh
    script: str
    arguments: Sequence[str]


def check_address(address: str) -> None:
    """Raise for what is no address of a cluster.

    Raises:
        UsageError: it is none.
    """
    host, colon, port = address.rpartition(":")
    is_one = bool(colon and host and "/" not in host) and port.isdigit() and 0 < int(port) < 1 << 16
    if not (is_one or address in (AUTO, LOCAL)):
        raise UsageError(f"--ray-address is {address!r}; expected HOST:PORT, auto or local.")


def named(address: str) -> str:
    """Return the cluster in words: `Ray at HOST:PORT`, or `the Ray of this machine`."""
    return "the Ray of this machine" if address in (AUTO, LOCAL) else f"Ray at {address}"


def read_resources(words: Sequence[str]) -> dict[str, float]:
    """Return what `NAME=AMOUNT` words ask for.

    Raises:
        UsageError: one is no such word, or an amount that Ray does not give.
    """
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        try:
            amount = float(text)
        except ValueError:
            amount = -1.0
        if not equals or not _NAME.fullmatch(name) or not 0 <= amount < float("inf"):
            raise UsageError(
                f"--ray-resources {word}: expected NAME=AMOUNT, such as GPU=1, CPU=4, memory=8e9 (bytes), or "
                "accelerator_type:A100=0.001."
            )
        if 0 < amount < _LEAST:
            raise UsageError(f"--ray-resources {word}: Ray gives {_LEAST} of a resource at the least.")
        if amount > 1 and amount != int(amount):
            raise UsageError(f"--ray-resources {word}: Ray gives parts below 1, or whole numbers.")
        found[name] = amount
    return found


def slot_resources(words: Sequence[str], jobs_per_gpu: int | None) -> dict[str, float]:
    """Return what one slot takes as far as it was said; without `GPU` the cluster has to be asked for one.

    Raises:
        UsageError: see read_resources; or the words do not go with --jobs-per-gpu.
    """
    asked = read_resources(words)
    if jobs_per_gpu is None:
        raise UsageError(
            "--jobs-per-gpu auto does not go with --on ray: memory is not measured on other machines. Give a "
            "number."
        )
    if jobs_per_gpu > 1:
        if asked.get("GPU", 1.0) != 1.0:
            raise UsageError(
                f"--jobs-per-gpu {jobs_per_gpu} does not go with --ray-resources GPU={asked['GPU']:g}; leave "
                "one of the two out."
            )
        # rounded down, since so many must fit: Ray counts in ten-thousandths
        asked["GPU"] = int(10_000 / jobs_per_gpu) / 10_000
    return asked


def with_gpus(asked: Mapping[str, float], has_gpus: bool) -> dict[str, float]:
    """Return what a slot takes, what was not said included: a GPU where there are any, without one a core."""
    whole = {"GPU": 1.0 if has_gpus else 0.0, **asked}
    whole = {"CPU": 0.0 if whole["GPU"] > 0 else 1.0, **whole}
    return {name: amount for name, amount in whole.items() if amount > 0 or name == "GPU"}


def described(asked: Mapping[str, float]) -> str:
    """Return in words what a slot takes, as far as it was said before the cluster is known."""
    takes = [f"{amount:g} {name}" for name, amount in asked.items() if amount > 0]
    if "GPU" not in asked:
        takes.insert(
            0, "a GPU where there are any" if "CPU" in asked else "a GPU, or a core if there are none"
        )
    return " and ".join(takes) or "a core"


def n_slots_of(has: Mapping[str, float], takes: Mapping[str, float]) -> int:
    """Return how many slots a node has room for if nobody else is there."""
    # parts of a GPU are of one GPU: three of 0.4 are on two
    fits = []
    for name, amount in takes.items():
        if amount == 0:
            continue
        there = has.get(name, 0.0)
        fits.append(int(there) * int(1 / amount + 1e-9) if amount < 1 else int(there / amount + 1e-9))
    return min(fits, default=0)


def room_by_name(
    nodes: Iterable[tuple[str, Mapping[str, float]]], takes: Mapping[str, float]
) -> dict[str, int]:
    """Return for how many slots there is room, by the names of nodes, of which several may have one.

    Args:
        nodes: name and resources of each.
        takes: resources of a slot.
    """
    found: dict[str, int] = {}
    for name, has in nodes:
        found[name] = found.get(name, 0) + n_slots_of(has, takes)
    return found


def slot_of(about: Mapping[str, Any], takes: Mapping[str, float], thread_variables: Iterable[str]) -> Slot:
    """Return a slot as jobs get it.

    Args:
        about: what Ray's side says of it: name, GPUs, cores and slots of its node.
        takes: resources of a slot.
        thread_variables: those that are to say how many threads a job may have.
    """
    has_gpu = takes.get("GPU", 0.0) > 0
    environment: dict[str, str | None] = {} if has_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    arguments = ("--multi_gpu",) if has_gpu and "," in about["gpus"] else ("--gpu", "0")
    n_cpus = takes.get("CPU", 0.0)
    share = n_cpus if n_cpus >= 1 and has_gpu else about["n_cpus"] // max(1, about["n_on_node"])
    environment |= dict.fromkeys(thread_variables, str(max(1, int(share))))
    return Slot(about["name"], arguments, environment)


def warnings_of(about: Mapping[str, Any], *, is_ours: bool = False) -> list[str]:
    """Return what is worth a warning in what Ray's side says of a slot: how Ray was started on its node.

    is_ours: it is one of this machine that the search started, with the niceness that the search has.
    """
    node, found = about["host"], []
    if not about["has_token"]:
        found.append(
            f"Warning: Ray on {node} was started without RAY_AUTH_MODE=token: whoever reaches its ports runs "
            "what he likes as its user."
        )
    if not about["has_keepalive"]:
        found.append(
            f"Warning: Ray on {node} was started without RAY_grpc_client_keepalive_time_ms={KEEPALIVE_MS} "
            f"and RAY_grpc_client_keepalive_timeout_ms={KEEPALIVE_MS}: Ray itself may notice only after "
            "minutes that a machine is cut off."
        )
    if about["nice"] > 0 and not is_ours:
        found.append(
            f"Warning: Ray runs jobs on {node} with niceness {about['nice']}; start it with "
            "RAY_worker_niceness=0 where nothing else is to be preferred."
        )
    return found


def means_other_version(words: str) -> bool:
    """Whether Ray's words for why we cannot join say that it is another Ray or Python than ours."""
    return "Version mismatch" in words


def means_low_memory(words: str) -> bool:
    """Whether Ray's words for the end of a slot say that its node ran out of memory."""
    return "running low on memory" in words


def said_by_ray(error: BaseException | None) -> str:
    """Return Ray's words for what happened, in one line and without its colours."""
    if error is None:
        return "it ended"
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    # what it says of tokens stands below what it raises
    denied = re.search(r"RPC error: (\w*Auth\w*: [^.\n]*)", str(error.__cause__ or ""))
    text += f"\n({denied[1]})" if denied is not None else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:_SAID_LENGTH]


def end_of(text: str, length: int) -> str:
    """Return the end of what was said, in one line, from the beginning of a word, without a full stop."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= length else f"... {line[-length:].partition(' ')[2]}"
