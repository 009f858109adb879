"""A search's driver of Ray: it joins the cluster, holds slots there, and carries jobs to them.

It is a process of its own and talks over a socket, one JSON object a line, both ways. The first line says
what to join (words.Join). It ends when the socket does; slots and jobs go on. Ray ends this process where
its head is gone for good, which is why it is not the search's.

Owns the calls of slots, and what is said of them. What has to ask Ray's head, and so may hang, is the
survey's (survey.py). Must not know: what the slots are for.
"""

import contextlib
import json
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import ray
import ray.cloudpickle
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError, RuntimeEnvSetupError

from hyperband.folder import JOBS_FOLDER
from hyperband.launch.ray import actor as ray_actor
from hyperband.launch.ray import sent_actor as ray_sent_actor
from hyperband.launch.ray import sent_checkpoints, sent_folder
from hyperband.launch.ray.laying import Laying
from hyperband.launch.ray.survey import LEAVE_S, SURVEY_S, Handle, Survey
from hyperband.launch.ray.sync import Sync
from hyperband.launch.ray.words import GIVE_UP_S, NAMESPACE, Join, end_of, said_by_ray, with_gpus

#: Ray's head is said not to answer when it took so long
_SILENT_S = 8.0
#: slots that nobody uses hear of us so often
_HEED_S = GIVE_UP_S / 10
#: calls that wait come back after so long: those of searches that were killed stay until then
_WAIT_S = 20.0
#: between tries to reach a slot that cannot be reached
_AGAIN_S = 1.0
_READ_BYTES = 64 * 1024
#: of what Ray says of an environment that it cannot make
_SAID_LENGTH = 400
_Ref: TypeAlias = Any


@dataclass(slots=True)
class _Slot:
    """An actor of ours, from the moment it was asked for."""

    key: str
    handle: Handle
    #: what the search calls it; empty: it is not there yet
    name: str = ""
    #: it is of an earlier start: of another size, or what travelled there is not what travels now
    is_old: bool = False
    #: the attempt that was begun to be fetched last, and what tells that from an earlier time
    fetches: tuple[str, object] = "", None
    #: a call there will tell of its end
    is_awaited: bool = False


class Bridge:
    """Talks with one search, until that ends."""

    def __init__(self, line: socket.socket, join: Join, said: bytes) -> None:
        """Remember; said: what came after the first line. See `run`."""
        self._said = said
        self._line = line
        self._join = join
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        #: held by whoever says something
        self._saying = threading.Lock()
        #: by the last part of their names
        self._slots: dict[str, _Slot] = {}
        self._is_silent = False
        self._heed_at_s = 0.0
        self._has_token = os.environ.get("RAY_AUTH_MODE") == "token"
        #: what is to be done in the thread that talks with the search, and when
        self._later: list[tuple[float, Callable[[], None]]] = []

    def run(self) -> bool:
        """Join, and serve until the socket ends; return whether all slots were to be ended.

        Raises:
            Exception: Ray's head is gone, or something of ours is wrong; the search hears of it.
        """
        about = self._joined()
        if about is None:
            return False
        self._say(about)
        sent = self._join.sent
        actor = ray.remote(ray_actor.SlotActor if sent is None else ray_sent_actor.SentSlotActor)
        self._survey = Survey(self._join, actor, self, self._call)
        self._survey.start()
        self._serve()
        return self._survey.is_ending and not self._survey.spared

    # What the survey found.

    def find(self, keys: Sequence[str]) -> None:
        """Tell which slots an earlier search left."""
        self._say({"at": "found", "keys": list(keys)})

    def add(self, key: str, handle: Handle) -> None:
        """Meet an actor of ours."""
        self._slots[key] = _Slot(key, handle)
        self._meet(self._slots[key])

    def n_slots(self) -> int:
        """Return how many slots are there, or about to be."""
        return len(self._slots)

    def met(self) -> set[str]:
        """Return which of them have said that they are there; asked in the survey's thread."""
        return {slot.key for slot in list(self._slots.values()) if slot.name}

    def count_room(self, n_on: Mapping[str, int], n_nodes: int) -> None:
        """Tell for how many slots there is room, and where."""
        self._say({"at": "capacity", "n_slots": sum(n_on.values()), "n_nodes": n_nodes, "n_on": n_on})

    def end(self, n_ended: int) -> None:
        """Tell that every slot has ended."""
        self._say({"at": "ended", "n": n_ended})

    def _joined(self) -> dict[str, Any] | None:
        """Join the cluster; return what to tell of it, None if there is none (which was told)."""
        try:
            ray.init(
                address=self._join.address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                runtime_env=None if self._join.sent is None else self._join.sent["runtime_env"],
            )
            has = ray.cluster_resources()
            nodes = ray.nodes()
        except Exception as err:  # noqa: BLE001 (Ray has many ways; all of them are told)
            self._say({"at": "refused", "words": said_by_ray(err)})
            return None
        resources = with_gpus(self._join.resources, has_gpus=has.get("GPU", 0.0) > 0)
        self._join = replace(self._join, resources=resources)
        context = ray.get_runtime_context()
        return {
            "at": "joined",
            "version": ray.__version__,
            "address": context.gcs_address,
            "n_nodes": sum(1 for node in nodes if node["Alive"]),
            "resources": resources,
            "has_token": self._has_token,
        }

    # The thread that talks with the search.

    def _serve(self) -> None:
        while True:
            awaited = [self._line.fileno(), self._wake]
            waits_s = [at_s - time.monotonic() for at_s, _ in self._later]
            ready, _, _ = select.select(awaited, [], [], max(0.0, min([SURVEY_S, *waits_s])))
            if self._wake in ready:
                os.eventfd_read(self._wake)
            while not self._calls.empty():
                self._calls.get()()
            if self._line.fileno() in ready:
                part = b""
                # a search that ends with words of ours unread: so it hangs up, too
                with contextlib.suppress(ConnectionResetError):
                    part = self._line.recv(_READ_BYTES)
                if not part:
                    return
                self._said += part
            *lines, self._said = self._said.split(b"\n")
            for words in lines:
                self._hear(json.loads(words))
            self._look_after()

    def _look_after(self) -> None:
        now_s = time.monotonic()
        is_silent = now_s > self._survey.answered_s + _SILENT_S
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            self._say({"at": "silent", "is_silent": is_silent})
        if now_s >= self._heed_at_s:
            self._heed_at_s = now_s + _HEED_S
            for slot in self._slots.values():
                slot.handle.heed.remote()
        due = [call for at_s, call in self._later if at_s <= now_s]
        self._later = [one for one in self._later if one[0] > now_s]
        for call in due:
            call()

    def _hear(self, words: Mapping[str, Any]) -> None:
        match words["op"]:
            case "want":
                self._survey.want(words["n"])
            case "run":
                slot = self._slots.get(words["key"])
                if slot is None:
                    self._say({"at": "over", "attempt": words["attempt"], "said": "its slot is gone"})
                elif "order" in words:
                    self._begin(slot, words)
                else:
                    running = slot.handle.run.remote(words["folder"], words["attempt"])
                    self._await(running, words["attempt"])
            case "tell":
                if (slot := self._slots.get(words["key"])) is not None:
                    slot.handle.tell.remote(words["attempt"], words["line"])
            case "drop":
                if (slot := self._slots.pop(words["key"], None)) is not None:
                    self._dismiss(slot)
            case "end":
                self._survey.end(frozenset(words.get("but", ())))

    def _say(self, words: Mapping[str, Any]) -> None:
        # the search may have ended: then so do we, when we read
        with self._saying, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._line.sendall(json.dumps(words).encode() + b"\n")

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        os.eventfd_write(self._wake, 1)

    def _when(self, ref: _Ref, call: Callable[[Any, BaseException | None], None]) -> None:
        """Have `call` done in this thread when Ray has an answer: with it, or with what came instead."""

        def done(future: Future[Any]) -> None:
            error = future.exception()
            result = None if error is not None else future.result()
            self._call(lambda: call(result, error))

        ref.future().add_done_callback(done)

    def _after(self, wait_s: float, call: Callable[[], None]) -> None:
        """Have `call` done in this thread after a while."""
        self._later.append((time.monotonic() + wait_s, call))

    def _await(self, ref: _Ref, attempt: str) -> None:
        """Tell the end of an attempt; where its slot is gone, that is told of the slot."""

        def done(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                # at once, in Ray's thread: a slot stands idle
                self._say({"at": "over", "attempt": attempt, "said": future.result() or ""})
            elif not isinstance(error, ActorUnavailableError):
                self._call(lambda: self._say({"at": "over", "attempt": attempt, "said": said_by_ray(error)}))
            # else its slot is met again, and says what became of it

        ref.future().add_done_callback(done)

    def _await_found(self, slot: _Slot, attempt: str) -> None:
        """Tell the end of an attempt that was running at a slot when that was met."""

        def came(is_over: bool | None, error: BaseException | None) -> None:
            if error is None and not is_over:
                self._await_found(slot, attempt)
            elif not isinstance(error, ActorUnavailableError):
                if slot.is_old:
                    self._retire(slot)  # first, so that nothing more is begun there
                words = "" if error is None else said_by_ray(error)
                self._say({"at": "over", "attempt": attempt, "said": words})

        self._when(slot.handle.wait.remote(attempt, _WAIT_S), came)

    def _begin(self, slot: _Slot, words: Mapping[str, Any]) -> None:
        """Send an attempt to its slot, and fetch what there is of it from then on."""

        def began(_: None, error: BaseException | None) -> None:
            if isinstance(error, RayTaskError):
                self._note_refused(slot, words, error)
            else:
                # one that did not come there is not known there
                self._sync(slot, words["folder"], words["attempt"])

        self._when(slot.handle.begin.remote(words["order"]), began)

    def _note_refused(self, slot: _Slot, words: Mapping[str, Any], error: BaseException) -> None:
        """Tell that nothing of an attempt ran: its slot has another, which may have come late; ask which."""
        attempt = words["attempt"]
        with contextlib.suppress(OSError):  # then it is Lost
            Laying(Path(words["folder"]), attempt).lay_unbegun(str(error).strip().rpartition("\n")[2])
        self._say({"at": "over", "attempt": attempt, "said": ""})
        self._meet(slot)

    def _sync(self, slot: _Slot, folder: str, attempt: str) -> None:
        """Fetch what there is of an attempt at a slot that shares no files with us, until its end."""

        def over(said: str) -> None:
            if slot.is_old:
                self._retire(slot)  # first, so that nothing more is begun there
            self._say({"at": "over", "attempt": attempt, "said": said})

        mine = attempt, object()
        slot.fetches = mine

        def is_wanted() -> bool:
            is_taken_over = slot.fetches[0] == attempt and slot.fetches is not mine
            return self._slots.get(slot.key) is slot and not is_taken_over

        def when(ref: _Ref, call: Callable[[Any, BaseException | None], None]) -> None:
            def answered(part: dict[str, Any] | None, error: BaseException | None) -> None:
                if not isinstance(error, ActorUnavailableError):
                    call(part, error)
                # else its slot is met again, and asked anew: not before, since it may have had another since

            self._when(ref, answered)

        laying = Laying(Path(folder), attempt)
        Sync(slot.handle, laying, when, self._after, over, is_wanted).begin()

    def _meet(self, slot: _Slot) -> None:
        """Ask a slot where it is; that it answers means that it is there."""

        def met(about: dict[str, Any] | None, error: BaseException | None) -> None:
            if about is None:
                self._part(slot, error)
                return
            # one of an earlier version says nothing of it
            slot.is_old = self._join.mark not in (None, about.get("mark"))
            if slot.is_old and not about["attempt"]:
                self._retire(slot)
                return
            gpus = about["gpus"] if self._join.n_gpus > 0 else ""
            place = f"gpu{gpus}" if gpus else "cpu"
            self._survey.note_fit()
            slot.name = f"{about['host']}:{place}/{slot.key}"
            self._say(
                {
                    "at": "slot",
                    "key": slot.key,
                    "name": slot.name,
                    "n_on_node": self._survey.n_on(about["host"]),
                    **about,
                    # of a search without one it was told already
                    "has_token": about["has_token"] or not self._has_token,
                }
            )
            self._stay_with(slot)
            if about["attempt"] and self._join.sent is not None:
                # the study's folder may have another name than when the attempt began
                jobs = Path(self._join.folder).parent / JOBS_FOLDER
                self._sync(slot, str(jobs / Path(about["folder"]).name), about["attempt"])
            elif about["attempt"]:
                self._await_found(slot, about["attempt"])

        self._when(slot.handle.about.remote(), met)

    def _stay_with(self, slot: _Slot) -> None:
        """Hear of a slot's end by a call that ends with it."""

        def came(_: None, error: BaseException | None) -> None:
            slot.is_awaited = False
            if error is None:
                self._stay_with(slot)
            else:
                self._part(slot, error)

        if slot.is_awaited:
            return  # it was met in between
        slot.is_awaited = True
        self._when(slot.handle.linger.remote(_WAIT_S), came)

    def _part(self, slot: _Slot, error: BaseException | None) -> None:
        """Hear that a slot did not answer: it is gone, or cannot be reached for a moment."""
        if isinstance(error, ActorUnavailableError):
            # it lives, and so does its job: it says so itself, or Ray that it is gone
            self._after(_AGAIN_S, lambda: self._meet(slot))
        else:
            self._forget(slot, error)

    def _retire(self, slot: _Slot) -> None:
        """End a slot that an earlier search left: of another size, or with other code than travels now."""
        if self._slots.pop(slot.key, None) is not None:
            self._survey.hurry()
            self._say(
                {"at": "gone", "key": slot.key, "words": "it is of an earlier start, with other options"}
            )
            self._dismiss(slot)

    def _dismiss(self, slot: _Slot) -> None:
        """End a slot; one that has folders on its node removes them first."""
        if self._join.sent is None:
            ray.kill(slot.handle)
        else:
            slot.handle.leave.remote()
            self._after(LEAVE_S, lambda: ray.kill(slot.handle))

    def _forget(self, slot: _Slot, error: BaseException | None) -> None:
        self._slots.pop(slot.key, None)
        self._survey.hurry()
        is_unfit = isinstance(error, RuntimeEnvSetupError)
        is_unfit |= isinstance(error, RayActorError) and error.actor_init_failed
        # those that fail together are one: others of the same moment may be about to begin
        if is_unfit and self._survey.note_unfit():
            # the reason stands at the end of what Ray says
            self._say({"at": "unfit", "words": end_of(str(error), _SAID_LENGTH)})
        self._say({"at": "gone", "key": slot.key, "words": said_by_ray(error)})


def serve(line: socket.socket, join: Join, said: bytes) -> bool:
    """Serve the search that holds the other end of a socket; return whether it ended all of its slots.

    said: what came after its first line.
    """
    # what is sent to the nodes goes by value: they have nothing of ours
    for module in (ray_actor, ray_sent_actor, sent_checkpoints, sent_folder):
        ray.cloudpickle.register_pickle_by_value(module)
    return Bridge(line, join, said).run()


def leave() -> None:
    """Take leave of the cluster: Ray forgets this process."""
    ray.shutdown()
