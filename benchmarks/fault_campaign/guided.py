"""Kinds of fault for searches that a model guides: what proposes, what draws, and the moment of a proposal.

What such a search tries depends on when jobs end, so that none is like an undisturbed one: it is held against
its own journal.
"""

import signal
import time
from collections.abc import Callable

from fault_campaign.kind import Kind
from fault_campaign.processes import job_killed, keeper_killed, search_killed
from fault_campaign.scene import Scene

_OPTIONS = ("--gpus", "none", "--slots", "2", "--repeat", "2")
_WITHOUT_BARRIERS = (
    *("--gpus", "none", "--slots", "2", "--algorithm", "asha"),
    *("--max-trials", "30"),
)


def guide(scene: Scene) -> int | None:
    """The process that computes proposals."""
    return next(iter(scene.children(b"hyperband.guide.server")), None)


def _hit(scene: Scene, find: Callable[[], int | None], number: signal.Signals = signal.SIGKILL) -> int | None:
    """Wait for a process, and then for a random moment; send it a signal. None: it was not there."""
    if not scene.until(lambda: find() is not None):
        return None
    scene.pause(0.0, 0.4 * scene.length_s)
    pid = find()
    return pid if pid is not None and scene.hit(pid, number) else None


def guide_killed(scene: Scene) -> None:
    """Kill -9 of the guide's process, one to five times: from the fourth on it is given up."""
    scene.start()
    for _ in range(scene.rng.randint(1, 5)):
        _hit(scene, lambda: guide(scene))


def guide_stopped(scene: Scene) -> None:
    """SIGSTOP of the guide's process, half of the times for good."""
    scene.start()
    pid = _hit(scene, lambda: guide(scene), signal.SIGSTOP)
    if pid is not None and scene.rng.random() < 0.5:
        scene.pause(0.1, 1.5)
        scene.hit(pid, signal.SIGCONT, counts=False)


def host_killed(scene: Scene) -> None:
    """Kill -9 of the process that draws, once or twice while the search goes on."""
    scene.start()
    for _ in range(scene.rng.randint(1, 2)):
        _hit(scene, scene.host)
        scene.pause(0.2, 0.5)


def host_stopped(scene: Scene) -> None:
    """SIGSTOP of the process that draws, for a while."""
    scene.start()
    pid = _hit(scene, scene.host, signal.SIGSTOP)
    if pid is not None:
        time.sleep(scene.rng.uniform(0.3, 1.5))
        scene.hit(pid, signal.SIGCONT, counts=False)


def proposal_killed(scene: Scene) -> None:
    """Kill -9 of the search when its journal is just being written to, one to four times.

    Most of what it writes is a proposal with the start of its trial, or an end with the next of these.
    """
    written = scene.study / "journal.db-wal"

    def size() -> int:
        try:
            return written.stat().st_size
        except FileNotFoundError:
            return 0

    for _ in range(scene.rng.randint(1, 4)):
        scene.moment()
        before = size()
        if scene.until(lambda before=before: size() != before):  # type: ignore[misc]
            time.sleep(scene.rng.choice([0.0, scene.rng.uniform(0.0, 0.005)]))
            scene.kill_search()
        scene.note_journal()
        scene.dead()


def several(scene: Scene) -> None:
    """Two or three of these, or of what happens to other searches, one after the other."""
    stories = [guide_killed, guide_stopped, host_killed, host_stopped, proposal_killed, search_killed]
    stories += [job_killed, keeper_killed]
    for story in scene.rng.sample(stories, scene.rng.randint(2, 3)):
        if not scene.document:
            story(scene)
            scene.note_journal()


def _kind(name: str, about: str, story: Callable[[Scene], None], options: tuple[str, ...] = _OPTIONS) -> Kind:
    return Kind(name=name, about=f"guided: {about}", story=story, options=options, is_guided=True)


KINDS = (
    _kind("guide-killed", "kill -9 of the guide", guide_killed),
    _kind("guide-stopped", "SIGSTOP of the guide", guide_stopped),
    _kind("guided-host-killed", "kill -9 of the process that draws", host_killed),
    _kind("guided-host-stopped", "SIGSTOP of the process that draws", host_stopped),
    _kind("proposal-killed", "kill -9 of the search at a proposal", proposal_killed),
    _kind("asha-proposal-killed", "the same with asha", proposal_killed, _WITHOUT_BARRIERS),
    _kind("guided-several", "two or three of these", several),
)
