"""Whole searches with `--on ray --ray-files sent`: the nodes of a real Ray find nothing of the search's folder."""

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_fixture import RayCluster, wait_for
from search_fixture import HYPERBAND, Ran, Searches, script, until
from test_ray_search import OnRay, decided

#: goes on from its checkpoint if there is one, and says what it found; imports what lies beside it
TRAIN = """
    import json, os, socket, time
    import beside
    os.makedirs("runs", exist_ok=True)
    path = f"runs/{config_id[2:]}.json"
    trained = json.load(open(path))["epochs"] if os.path.exists(path) else 0
    about = {"host": socket.gethostname(), "from": trained, "to": epochs, "cwd": os.getcwd()}
    about["sees"] = os.path.exists(SEARCH)
    print(json.dumps(about), file=sys.stderr)
    time.sleep(SECONDS)
    with open(path + ".new", "w") as stream:
        json.dump({"epochs": epochs}, stream)
    os.rename(path + ".new", path)
    print(beside.loss(config_id, epochs))
"""
BESIDE = """
def loss(config_id, epochs):
    return float(config_id[2:]) + 1 / epochs
"""
PATTERN = ("--checkpoints", "runs/{config_id}.json")


class Sent(OnRay):
    """Searches in a folder that no node sees."""

    def __init__(self, cluster: RayCluster, seconds: float = 0.0) -> None:
        folder = cluster.unshared / f"it's a $folder {uuid.uuid4().hex[:6]}"
        folder.mkdir()
        super().__init__(Searches(folder), cluster)
        main = TRAIN.replace("SECONDS", repr(seconds)).replace("SEARCH", repr(str(folder)))
        main = main.replace("runs/{config_id[2:]}", "runs/{config_id}")
        self.searches.write(script(main, top="import os, sys\nsys.path.insert(0, os.path.dirname(__file__))"))
        (folder / "beside.py").write_text(BESIDE)

    def words(self, *options: str) -> list[str]:
        return super().words("--ray-files", "sent", *PATTERN, *options)

    def here(self, *options: str) -> Ran:
        return self.searches.run(*options, "--slots", "2", "--logs", "here")


@pytest.fixture
def sent(ray_cluster: RayCluster) -> Iterator[Sent]:
    found = Sent(ray_cluster)
    yield found
    found.searches.close()


@pytest.mark.slow
def test_a_search_without_shared_files_comes_to_what_it_comes_to_here(sent: Sent) -> None:
    there = sent.run("--max-epochs", "3", "--logs", "there")
    assert there.exit_code == 0, there.err
    assert sent.is_all_given_back()
    here = sent.here("--max-epochs", "3")
    assert decided(there) == decided(here)
    said = sent.said("there")
    assert {about["host"] for about in said} == {"m1", "m2", "m3"}
    assert not any(about["sees"] for about in said)
