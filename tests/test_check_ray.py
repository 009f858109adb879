"""`hyperband check --on ray`: what nodes find of what a search takes for granted there. And other Rays."""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray_fixture import ACCELERATOR, RayCluster
from search_fixture import HYPERBAND, Ran, Searches, script, searches, until

from hyperband.launch.ray import link as ray_link
from hyperband.launch.ray.link import RayLink, bridge_environment
from hyperband.launch.ray.local import LocalRay
from hyperband.launch.ray.words import Join, means_other_version
from hyperband.machine import proc

__all__ = ["searches"]
pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(autouse=True)
def _script(searches: Searches) -> None:
    searches.write(script("open('trained', 'w').close()\nprint(1)"))


def check(searches: Searches, cluster: RayCluster, *options: str) -> list[str]:
    searches.environment.update(cluster.ray_environment)
    words = [sys.executable, str(HYPERBAND), "check", "--json", "--on", "ray"]
    words += ["--ray-address", cluster.address, *options, str(searches.path)]
    return cluster.on_head(words, searches.folder)


def findings(ran: Ran) -> dict[str, tuple[str, str, str]]:
    found = json.loads(ran.out)["findings"]
    return {one["check"]: (one["status"], one["words"], one["fix"]) for one in found}


@pytest.mark.slow
def test_nodes_that_have_all_and_one_that_lacks_the_studies(
    searches: Searches, ray_cluster: RayCluster
) -> None:
    with ray_cluster.hidden("m2", searches.folder):
        ran = searches.wait(searches.start_argv(check(searches, ray_cluster)))
    found = findings(ran)
    assert ran.exit_code == 1, (found["node"], found["files"])
    assert found["ray"][:2] == ("ok", found["ray"][1])
    assert "3 nodes, room for 6 slots of 1 GPU" in found["ray"][1]
    assert "no token" not in found["ray_settings"][1]
    assert found["node"][1].startswith("m1, m2, m3 ran a task, done ")
    assert found["files"][0] == "FAILS"
    assert "a file that was written here is not read on m2" in found["files"][1]
    assert "m1" not in found["files"][1].removeprefix(str(searches.folder))
    assert f"{searches.path} cannot be read on m2" in found["interpreter"][1]
    assert found["node_gpus"][0] == "ok"
    assert "CUDA_VISIBLE_DEVICES 0 on m1" in found["node_gpus"][1]
    assert not (searches.folder / "trained").exists()
    assert not (searches.folder / "logs").exists()


@pytest.mark.slow
def test_a_check_that_is_ended_while_it_waits_leaves_nothing(
    searches: Searches, ray_cluster: RayCluster
) -> None:
    holds = (
        "import ray, time; ray.init(address='auto', log_to_driver=False); "
        f"f = ray.remote(resources={{'{ACCELERATOR}': 1}})(lambda: time.sleep(100)); "
        "held = f.remote(); time.sleep(100)"
    )
    searches.environment.update(ray_cluster.ray_environment, RAY_ADDRESS=ray_cluster.address)
    other = searches.start_argv(ray_cluster.on_head([sys.executable, "-c", holds], searches.folder))
    until(lambda: len(ray_cluster.tasks()) == 1, "the only one to be taken")
    asked = ("--ray-resources", f"{ACCELERATOR}=1")
    process = searches.start_argv(check(searches, ray_cluster, *asked))
    assert process.stderr is not None
    while "room for 1 slot" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ran = searches.wait(process)
    assert ran.exit_code == 130, ran
    searches.kill(other)
    until(lambda: ray_cluster.tasks() == [], "every task to be gone")


def heard(link: RayLink, at: str) -> dict[str, Any]:
    ends_s = time.monotonic() + 150
    while True:
        while (words := link.heard_one()) is None:
            assert select.select([link], [], [], ends_s - time.monotonic())[0], f"waited for {at}"
        if words["at"] == at:
            return words
        assert words["at"] != "closed", f"waited for {at}"


@pytest.mark.slow
def test_another_version_is_told_and_an_error_of_ours_is_called_ours(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_link, "COMMAND", tuple(ray_cluster.on_head(ray_link.COMMAND, tmp_path)))
    environment = bridge_environment(ray_cluster.ray_environment | {"PATH": "/usr/bin:/bin"}, None)
    join = Join(ray_cluster.address, "nobody", {}, "", str(tmp_path))
    with contextlib.closing(RayLink(tmp_path / "log")) as link:
        link.open(join, environment)
        heard(link, "joined")
        link.say({"op": "run"})
        failed = heard(link, "failed")
        assert (failed["is_ours"], failed["words"]) == (True, "KeyError: 'key'")
        heard(link, "closed")
        assert "Traceback" in (tmp_path / "log").read_text()
        other = ray_link.RUN.replace("from hyper", "import ray; ray.__version__ = '2.59.0'; from hyper")
        monkeypatch.setattr(ray_link, "RUN", other)
        link.open(join, environment)
        assert means_other_version(heard(link, "refused")["words"])


# A Ray that the search starts itself.

LOCAL = ("--on", "ray", "--ray-address", "local")


@pytest.fixture
def home(searches: Searches) -> Searches:
    """Searches whose Ray is their own."""
    pytest.importorskip("ray", reason="no Ray in this environment: pip install '.[ray]'")
    waits = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\n"
    searches.write(script(f"open('began', 'a').write('x')\n{waits}print(1)"))
    return searches


def start(home: Searches) -> Any:  # noqa: ANN401 (Popen is generic at type checking only)
    plan = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "2", "--max-slots", "2")
    return home.start(*LOCAL, *plan, "--ray-resources", "GPU=0", gpus=None)


def keeper(home: Searches) -> int:
    found: int = json.loads((home.study / "ray" / "local.json").read_text())["keeper"]["pid"]
    return found


@pytest.mark.slow
def test_a_ray_of_the_searchs_own_is_found_again_and_ends_with_it(home: Searches) -> None:
    first = start(home)
    began = home.folder / "began"
    until(lambda: began.exists() and began.read_text() == "xx", "both jobs", 150.0)
    pid = keeper(home)
    home.kill(first)
    second = start(home)
    until(lambda: "Taken over: 2 running jobs" in (home.study / "hyperband.log").read_text(), "its jobs")
    until(lambda: "joined Ray" in (home.study / "hyperband.log").read_text().rpartition("Taken")[2], "it")
    assert keeper(home) == pid
    (home.folder / "go").touch()
    ran = home.wait(second)
    assert ran.exit_code == 0, ran.err
    assert began.read_text() == "xx"
    assert "asks for no token" not in ran.err
    assert sorted(path.suffix for path in (home.study / "ray").iterdir()) == [".log", ".log"]
    assert proc.start_ticks(pid) is None


@pytest.mark.slow
def test_stop_ends_a_ray_of_a_search_that_was_killed(home: Searches) -> None:
    first = start(home)
    began = home.folder / "began"
    until(lambda: began.exists() and began.read_text() == "xx", "both jobs", 150.0)
    pid = keeper(home)
    home.kill(first)
    stopped = home.command("stop", str(home.study))
    assert "ended 2 jobs, 2 slots and the Ray of this machine that" in stopped.out, stopped
    assert proc.start_ticks(pid) is None


@pytest.mark.slow
def test_a_search_that_hangs_up_without_reading_all_leaves_no_ray_of_its_own(
    home: Searches, tmp_path: Path
) -> None:
    tail = '"ended"'
    with contextlib.closing(RayLink(tmp_path / "log")) as link:
        join = Join("local", "nobody", {"GPU": 0.0, "CPU": 1.0}, "", str(tmp_path))
        link.open(join, bridge_environment({**os.environ, **home.environment}, None))
        heard(link, "joined")
        found = LocalRay.find(tmp_path)
        assert found is not None
        line = link._line
        assert line is not None
        link.say({"op": "end"})
        until(lambda: tail in peeked(line), "its last word, which stays unread")
    assert found.keeper.is_alive() is False
    assert "Traceback" not in (tmp_path / "log").read_text()


def peeked(line: socket.socket) -> str:
    """What came, and stays to be read."""
    with contextlib.suppress(BlockingIOError):
        return line.recv(1 << 16, socket.MSG_PEEK).decode()
    return ""
