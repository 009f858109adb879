"""Allocations, the clerk and holders together, on a real Slurm: what a search with `--on slurm` stands on."""

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_fixture import SlurmCluster

from hyperband.launch.remote.place import Place
from hyperband.launch.slurm import text as slurm_text
from hyperband.launch.slurm.clerk import Clerk, Pace
from hyperband.launch.slurm.held.allocations import Allocations
from hyperband.launch.slurm.held.events import Action, Began, Ended, Event, Lost, Ready, Rules, Submit, Wanted
from hyperband.launch.slurm.orders import Cancel, Fail, Stop
from hyperband.launch.slurm.profile import Profile
from hyperband.launch.slurm.words import JobState, expanded
from hyperband.machine import holder

PROFILE = Profile(gpus="2", time="10")
RULES = Rules(max_allocations=2, n_slots_per_node=2, idle_s=1.0, margin_s=10.0, time_limit_s=600.0)


class Search:
    """The part of a search that holds allocations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allocations = Allocations(RULES)
        self.clerk = Clerk(
            "hb-allocations", os.environ, Pace(soonest_s=0.1, latest_s=0.5, latest_running_s=0.5)
        )
        self.actions: list[Action] = []
        (folder / "batch.sh").write_text(slurm_text.batch_script(PROFILE))
        self.clerk.look()

    def tell(self, event: Event) -> None:
        for action in self.allocations.handle(event, time.monotonic()):
            self.actions.append(action)
            match action:
                case Submit(ticket):
                    self.clerk.submit(ticket, self.argv())
                case Cancel(job_ids):
                    self.clerk.cancel(job_ids)
                case _:
                    pass
        self.allocations.validate()

    def argv(self) -> tuple[str, ...]:
        return slurm_text.allocation_argv(
            PROFILE, name="hb-allocations", comment="allocation", log=self.folder / "log", cwd=self.folder,
            script=self.folder / "batch.sh",
            command=(sys.executable, "-I", "-S", holder.__file__, "hold", str(self.folder), "600"),
        )  # fmt: skip

    def until(self, what: Callable[[], object], patience_s: float = 60.0) -> None:
        until_s = time.monotonic() + patience_s
        while not what():
            assert time.monotonic() < until_s, f"in vain: {self.allocations.why_none()}; {self.actions[-5:]}"
            select.select([self.clerk], [], [], 0.2)
            for report in self.clerk.reports():
                self.tell(report)
            for path in self.folder.glob("*.json"):
                about = json.loads(path.read_bytes())
                self.tell(Ready(about["job_id"], about["token"], expanded(about["nodes"])))

    def free(self) -> tuple[Place, ...]:
        return self.allocations.free(None, time.monotonic())

    def lost(self) -> list[Lost]:
        return [action for action in self.actions if isinstance(action, Lost)]


@pytest.fixture
def search(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Search]:
    assert os.environ["SLURM_CONF"] == str(slurm.conf)
    search = Search(tmp_path)
    yield search
    search.clerk.close()


@pytest.mark.slow
def test_allocations_grow_survive_and_go(search: Search, slurm: SlurmCluster, tmp_path: Path) -> None:
    search.tell(Wanted(3))
    search.until(lambda: len(search.free()) == 4)
    first, other = search.free()[0], search.free()[2]
    assert first.node != other.node
    for place in (first, other):
        search.tell(Began(place))
    # a node is lost, with the job that ran there: its allocation comes back, and so do its places
    slurm.run("scontrol", "update", f"nodename={first.node}", "state=down", "reason=test")
    search.until(search.lost)
    [lost] = search.lost()
    assert (lost.places, lost.state) == ((first,), JobState.WAITING)
    search.tell(Ended(first))
    # nobody answers, and nothing follows from it
    slurm.stop_controller()
    search.clerk.look()
    search.until(lambda: not search.allocations.is_reachable)
    n_actions = len(search.actions)
    search.tell(Wanted(50))
    assert len(search.actions) == n_actions
    slurm.start_controller()
    search.until(lambda: search.allocations.is_reachable)
    search.until(lambda: len(search.free()) == 3)
    # the search dies; the next one finds what there is
    after = Search(tmp_path)
    try:
        after.tell(Began(other))
        after.until(lambda: len(after.free()) == 3)
        assert other not in after.free()
        assert not [action for action in after.actions if isinstance(action, Submit | Lost | Fail)]
        # what is not needed goes, except under a job; in the end everything does
        after.until(lambda: [action for action in after.actions if isinstance(action, Cancel)])
        after.until(lambda: len(after.allocations.places()) == 2)
        assert {place.job_id for place in after.allocations.places()} == {other.job_id}
        after.tell(Stop())
        after.until(lambda: after.allocations.is_given_up and not after.allocations.job_ids)
        assert after.lost()[-1].state == JobState.CANCELLED
        assert slurm.run("squeue", "-h", "-o", "%i %T") == ""
    finally:
        after.clerk.close()
