"""What the nodes of a Ray cluster find of what a search takes for granted there: files, interpreters, GPUs.

One short task for each node, asked for as a slot would be, tries it out; what it says comes back through Ray,
so that nothing need be shared for that. Nothing is trained. How Ray is asked is launch/'s.
"""

import contextlib
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperband.check.findings import Report, Status
from hyperband.check.interrupts import Interrupts
from hyperband.check.on_nodes import (
    PROBE,
    add_files,
    add_interpreters,
    arguments,
    folder_of_check,
    n_visible,
    names_of_gpus,
    said_of,
)
from hyperband.check.pulse import Pulse
from hyperband.launch.ray.link import RayLink, default_environment
from hyperband.launch.ray.token import denied, refuse_token, warnings_of_token
from hyperband.launch.ray.travel import what_travels
from hyperband.launch.ray.words import (
    LOCAL,
    Join,
    Probe,
    means_other_version,
    named,
    slot_resources,
    warnings_of,
)
from hyperband.report.text import counted, duration
from hyperband.settings import Settings

_LINES = ("node", "files", "interpreter", "node_gpus")
#: patience with Ray's first word: with a wrong token, and to start one, it takes its time
_ANSWER_S = 90.0
#: nodes that do not answer so long after the first one did are busy
_BUSY_S = 20.0
_LOG_FILE = "ray.log"
#: of what does not travel to the nodes, so much is named
_N_NAMED = 30
#: what Ray's side says before it has joined, or was refused
_ON_THE_WAY = ("starts", "waits")


def check_ray(settings: Settings, report: Report, interrupts: Interrupts, pulse: Pulse) -> None:
    """Try out what jobs find on the nodes.

    Args:
        settings: what is said of Ray, script, interpreter and folder of studies count here.
        report: gets the lines.
        interrupts: entered.
        pulse: told that nodes are waited for.

    Raises:
        UsageError: the resources of a slot are wrong.
        MachineError: the token is not to be had, or nothing can be written here.
        CheckStoppedError: a signal ended it; nothing is left on the cluster.
    """
    resources = slot_resources(settings.ray_resources, 1)
    refuse_token(settings.ray_token)
    with folder_of_check(settings.logs) as folder:
        _Check(settings, resources, folder, report, interrupts, pulse).run()


class _Check:
    """One check, from the first word to Ray to the last line."""

    def __init__(
        self,
        settings: Settings,
        resources: Mapping[str, float],
        folder: Path,
        report: Report,
        interrupts: Interrupts,
        pulse: Pulse,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._report = report
        self._interrupts = interrupts
        self._pulse = pulse
        self._word = uuid.uuid4().hex
        self._join = Join(settings.ray_address, f"check-{self._word}", resources, "", str(folder))
        #: what the nodes said, by their names, and of those that said nothing why
        self._said: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, str] = {}

    def run(self) -> None:
        """Ask, and note what came."""
        began_s = time.monotonic()
        told = arguments(self._settings, self._folder, self._word, sys.executable)
        with contextlib.closing(RayLink(self._folder / _LOG_FILE)) as link:
            environment = default_environment(self._settings.ray_token)
            link.open(self._join, environment, Probe(PROBE, told))
            self._pulse.doing = "Ray"
            words = self._next(link, began_s + _ANSWER_S, "its head is asked to let us in")
            if words is None or words["at"] != "joined":
                self._note_refused(words)
                return
            self._note_cluster(words)
            self._pulse.doing = "nodes"
            ends_s = began_s + (self._settings.timeout_s or float("inf"))
            while len(self._said) + len(self._failed) < len(words["nodes"]):
                waits = "a slot's resources are waited for, or a task runs"
                if (one := self._next(link, ends_s, waits)) is None:
                    break
                if one["at"] != "probed":
                    why = one.get("words", "Ray's side of the check ended")
                    self._report.add("node", Status.FAILS, why, "`ray status` shows what there is")
                    self._report.add_rest(("ray_settings", *_LINES[1:]), "the check of the nodes failed")
                    return
                if one["words"]:
                    self._failed[one["node"]] = one["words"]
                else:
                    self._said[one["node"]] = {**one, **said_of(one["output"])}
                    ends_s = min(ends_s, time.monotonic() + _BUSY_S)
        self._note_nodes(words, time.monotonic() - began_s)

    def _next(self, link: RayLink, ends_s: float, waits: str) -> dict[str, Any] | None:
        """Return the next that Ray's side says; None: it took too long."""
        while True:
            if (found := link.heard_one()) is not None:
                if found["at"] not in _ON_THE_WAY:
                    return found
                waits = found.get("words", "a Ray of this machine is started")
                continue
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                return None
            self._interrupts.sleep([link.fileno()], min(self._pulse.left_s(), left_s))
            self._interrupts.heed()
            self._pulse.beat(waits)

    def _note_cluster(self, words: Mapping[str, Any]) -> None:
        n_slots = counted(words["n_slots"], "slot")
        takes = ", ".join(f"{amount:g} {name}" for name, amount in words["resources"].items() if amount)
        self._report.add(
            "ray",
            Status.OK,
            f"version {words['version']}, Python {words['python']}, at {words['address']}; "
            f"{counted(words['n_nodes'], 'node')}, room for {n_slots} of {takes}",
        )

    def _note_refused(self, words: Mapping[str, Any] | None) -> None:
        if words is None:
            said = f"no answer within {_ANSWER_S:g} s"
        else:
            said = words.get("words", "its side of the check ended without a word")
        fix = "is it running at --ray-address, and is its token right (--ray-token)?"
        if means_other_version(said):
            fix = "start hyperband with the cluster's versions of Ray and Python"
        elif (refused := denied(said, self._settings.ray_token)) is not None:
            said, fix = refused
        name = named(self._settings.ray_address)
        self._report.add("ray", Status.FAILS, f"cannot join {name}: {said}", fix)
        self._report.add_rest(("ray_settings", *_LINES), "Ray cannot be joined")

    def _note_nodes(self, words: Mapping[str, Any], took_s: float) -> None:
        said = [self._said[node] for node in sorted(self._said)]
        self._note_settings(words, said)
        silent = [node for node in words["nodes"] if node not in self._said and node not in self._failed]
        if not said:
            why = "; ".join(f"{node}: {one}" for node, one in self._failed.items())
            why = why or ("all are busy" if silent else "no node has what a slot takes (--ray-resources)")
            self._report.add("node", Status.FAILS, f"no task runs: {why}", "`ray status` shows what there is")
            self._report.add_rest(_LINES[1:], "no task runs")
            return
        ran = ", ".join(one["node"] for one in said)
        told = f"{ran} ran a task, done {duration(took_s)} after the cluster was asked"
        if silent:
            told += f"; busy, and not tried: {', '.join(silent)}"
        if self._failed:
            why = "; ".join(f"{node}: {one}" for node, one in self._failed.items())
            fix = "`ray status` shows what there is; what Ray says of a node stands in its logs"
            self._report.add("node", Status.FAILS, f"{told}; {why}", fix)
        else:
            self._report.add("node", Status.OK, told)
        if self._settings.ray_files == "sent":
            told = f"the nodes share none: {what_travels(self._settings, Path.cwd()).words(_N_NAMED)}"
            self._report.add("files", Status.NONE, told)
            told = "Ray's on its nodes, or what --ray-runtime-env makes there"
            self._report.add("interpreter", Status.NONE, told)
        else:
            add_files(self._settings, self._folder, self._word, said, self._report)
            add_interpreters(self._settings, sys.executable, said, self._report)
        self._note_gpus(words["resources"].get("GPU", 0.0), said)

    def _note_settings(self, words: Mapping[str, Any], said: list[dict[str, Any]]) -> None:
        found = [] if words["has_token"] else ["no token: whoever reaches its ports runs what he likes"]
        # where we have none it was just said
        nodes = [{**one, "has_token": one["has_token"] or not words["has_token"]} for one in said]
        lines = warnings_of_token(self._settings.ray_token)
        is_ours = self._settings.ray_address == LOCAL
        lines += [line for one in nodes for line in warnings_of(one, is_ours=is_ours)]
        found += [line.removeprefix("Warning: ") for line in lines]
        if found:
            fix = "start Ray as docs/ray.md says; a search works as it is, and warns of the same"
            self._report.add("ray_settings", Status.OK, "\n".join(found), fix)
        else:
            told = "the token, and settings by which machines that are cut off are noticed"
            self._report.add("ray_settings", Status.OK, told)

    def _note_gpus(self, n_gpus: float, said: list[dict[str, Any]]) -> None:
        if n_gpus == 0:
            self._report.add("node_gpus", Status.NONE, "a slot takes none (--ray-resources GPU=1)")
            return
        n_expected = max(1, int(n_gpus))
        wrong = [
            f"{one['node']}: CUDA_VISIBLE_DEVICES is {one.get('visible')!r}"
            for one in said
            if n_visible(one) != n_expected
        ]
        if wrong:
            fix = "the nodes must not set RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
            told = f"a slot takes {n_gpus:g}, but {'; '.join(wrong)}"
            self._report.add("node_gpus", Status.FAILS, told, fix)
            return
        given = "; ".join(f"CUDA_VISIBLE_DEVICES {one['visible']} on {one['node']}" for one in said)
        self._report.add("node_gpus", Status.OK, f"Ray gives {n_gpus:g}: {given}{names_of_gpus(said)}")
