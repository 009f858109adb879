"""A driver of Ray that tries out the nodes of a cluster, and leaves nothing: tasks end with their driver.

Each node with room for a slot has one script run, with what a slot takes, so that it waits where a slot would
wait. Must not know: what the script is for.
"""

import json
import os
import platform
import queue
import select
import socket
import threading
from typing import Any

import ray
import ray.cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hyperband.launch.ray import look as ray_look
from hyperband.launch.ray.actor import KEEPALIVE
from hyperband.launch.ray.words import Join, Probe, n_slots_of, said_by_ray, with_gpus

#: of a large cluster so many are tried out
_N_MOST = 16


class Prober:
    """Tries out one cluster for one check."""

    def __init__(self, line: socket.socket, join: Join, probe: Probe) -> None:
        """Remember. See `run`."""
        self._line = line
        self._join = join
        self._probe = probe
        self._found: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def run(self) -> None:
        """Join, have the script run on each node, tell what it said; until all did, or the socket ends."""
        # Ray's calls block while its head is away: the line is listened to meanwhile
        threading.Thread(target=self._ask, name="ask", daemon=True).start()
        n_left: int | None = None
        while n_left != 0:
            ready, _, _ = select.select([self._line.fileno(), self._wake], [], [])
            if self._line.fileno() in ready and not self._line.recv(1):
                return
            if self._wake in ready:
                os.eventfd_read(self._wake)
            while not self._found.empty():
                words = self._found.get()
                if isinstance(words, Exception):
                    raise words
                self._line.sendall(json.dumps(words).encode() + b"\n")
                if words["at"] == "refused":
                    return
                n_left = len(words["nodes"]) if n_left is None else n_left - 1

    def _tell(self, words: dict[str, Any] | Exception) -> None:
        self._found.put(words)
        os.eventfd_write(self._wake, 1)

    def _ask(self) -> None:
        try:
            self._ask_nodes()
        except Exception as err:  # noqa: BLE001 (it goes on in the thread that talks with the check)
            self._tell(err)

    def _ask_nodes(self) -> None:
        try:
            ray.init(address=self._join.address, log_to_driver=False, configure_logging=False)
            nodes = [node for node in ray.nodes() if node["Alive"]]
        except Exception as err:  # noqa: BLE001 (Ray has many ways; all of them are told)
            self._tell({"at": "refused", "words": said_by_ray(err)})
            return
        has_gpus = any(node["Resources"].get("GPU", 0) > 0 for node in nodes)
        takes = with_gpus(self._join.resources, has_gpus)
        fits = [node for node in nodes if n_slots_of(node["Resources"], takes) > 0]
        self._tell(
            {
                "at": "joined",
                "version": ray.__version__,
                "python": platform.python_version(),
                "address": ray.get_runtime_context().gcs_address,
                "n_nodes": len(nodes),
                "n_slots": sum(n_slots_of(node["Resources"], takes) for node in nodes),
                "resources": takes,
                "nodes": [node["NodeManagerHostname"] for node in fits[:_N_MOST]],
                "has_token": os.environ.get("RAY_AUTH_MODE") == "token",
            }
        )
        resources = dict(takes)
        options: dict[str, Any] = {"num_gpus": resources.pop("GPU", 0), "num_cpus": resources.pop("CPU", 0)}
        if (memory := resources.pop("memory", 0)) > 0:
            options["memory"] = memory
        task = ray.remote(ray_look.look)
        for node in fits[:_N_MOST]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            script, arguments = self._probe.script, list(self._probe.arguments)
            asked = task.options(scheduling_strategy=there, max_retries=0, resources=resources, **options)
            ref = asked.remote(script, arguments, list(KEEPALIVE))
            self._await(ref, node["NodeManagerHostname"])

    def _await(self, ref: Any, node: str) -> None:  # noqa: ANN401 (Ray says nothing of its types)
        def done(future: Any) -> None:  # noqa: ANN401
            error = future.exception()
            if error is not None:
                self._tell({"at": "probed", "node": node, "words": said_by_ray(error), "output": ""})
            else:
                self._tell({"at": "probed", "node": node, "words": "", **future.result()})

        ref.future().add_done_callback(done)


def serve(line: socket.socket, join: Join, probe: Probe) -> None:
    """Try out a cluster for the check that holds the other end of a socket."""
    ray.cloudpickle.register_pickle_by_value(ray_look)
    Prober(line, join, probe).run()
