"""Kinds of fault for jobs that start warm, as forks of a process that imported ahead."""

from collections.abc import Callable

from fault_campaign.kind import Kind
from fault_campaign.processes import job_killed, keeper_killed, search_killed
from fault_campaign.scene import Scene

_WARM = ("--gpus", "none", "--slots", "2", "--warm")


def _host(scene: Scene) -> int | None:
    return next(iter(scene.children(b"warm_host")), None)


def warm_host_killed(scene: Scene) -> None:
    """Kill -9 of the process that jobs are forked from, one to three times; jobs that live go on."""
    scene.start()
    for _ in range(scene.rng.randint(1, 3)):
        if scene.until(lambda: _host(scene) is not None):
            scene.pause(0.0, 0.4 * scene.length_s)
            host = _host(scene)
            if host is not None:
                scene.hit(host)
            scene.pause(0.0, 0.2)


def warm_several(scene: Scene) -> None:
    """Kill -9 of two or three of host, search, job and keeper."""
    stories: list[Callable[[Scene], None]] = [warm_host_killed, search_killed, job_killed, keeper_killed]
    for story in scene.rng.sample(stories, scene.rng.randint(2, 3)):
        if not scene.document:
            story(scene)


KINDS = (
    Kind(name="warm-host-killed", about="--warm: kill -9 of the host", story=warm_host_killed, options=_WARM),
    Kind(
        name="warm-search-killed", about="--warm: kill -9 of the search", story=search_killed, options=_WARM
    ),
    Kind(name="warm-several", about="--warm: two or three of these", story=warm_several, options=_WARM),
)
