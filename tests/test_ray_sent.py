"""Searches with `--on ray --ray-files sent`: the nodes of a real Ray find nothing of the search on disk."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_fixture import wait_for
from ray_fixture import MACHINES, RayCluster
from search_fixture import Ran, Searches, script, until
from test_ray_search import OnRay, decided

#: one cluster, and not one for each worker; two for all tests of Ray, which together would be the last to end
pytestmark = pytest.mark.xdist_group("ray-sent")

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
    if not about["sees"]:  # only there it matters
        while not os.path.exists(GO):
            time.sleep(0.05)
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

    def __init__(self, cluster: RayCluster) -> None:
        name = f"it's a $folder {uuid.uuid4().hex[:6]}"
        folder = cluster.unshared / name
        folder.mkdir()
        super().__init__(Searches(folder), cluster)
        #: what jobs wait for lies where all machines see it
        self._go = cluster.folder / f"{name} go"
        main = TRAIN.replace("GO", self.word()).replace("SEARCH", repr(str(folder)))
        main = main.replace("runs/{config_id[2:]}", "runs/{config_id}")
        self.searches.write(script(main, top="import os, sys\nsys.path.insert(0, os.path.dirname(__file__))"))
        (folder / "beside.py").write_text(BESIDE)
        self._left_before = set(self.left_on_nodes())

    def word(self, of: str = "") -> str:
        """The path, in Python, of what jobs wait for; of: another such word."""
        return repr(f"{self._go}{of}")

    def go(self, of: str = "") -> None:
        Path(f"{self._go}{of}").touch()

    def words(self, *options: str) -> list[str]:
        return super().words("--ray-files", "sent", *PATTERN, *options)

    def wait_for_another_word(self, trial: str) -> None:
        """Have the jobs of this trial wait for a word of their own, which is called as the trial is."""
        own = f"({self.word(trial)} if os.environ['HYPERBAND_TRIAL'] == '{trial}' else {self.word()})"
        self.searches.path.write_text(self.searches.path.read_text().replace(self.word(), own))

    def without_checkpoints(self, *options: str) -> "subprocess.Popen[str]":
        """Start a search that carries nothing from job to job."""
        return self.searches.start_argv(super().words("--ray-files", "sent", *options))

    def tops(self) -> list[Path]:
        """Where slots have their folders, on each node."""
        top = f"{self.cluster.folder}/tmp/hyperband-{os.getuid()}"
        return [Path(f"/proc/{self.cluster.raylet(machine)}/root{top}") for machine in MACHINES]

    def left_on_nodes(self) -> list[str]:
        """What slots have in their folders, on any node."""
        kinds = ("node", "attempts")
        return [str(path) for top in self.tops() for kind in kinds for path in top.glob(f"*/{kind}")]

    def results_on_nodes(self) -> set[str]:
        """What keepers have written of jobs that ended, and nobody has fetched and forgotten."""
        # folders may go meanwhile
        there = (found for top in self.tops() for found in os.walk(top))
        return {folder for folder, _, names in there if "result.json" in names}

    def is_all_given_back(self) -> bool:
        # what the machines of another test had when their power was cut goes with the next slot there
        return super().is_all_given_back() and set(self.left_on_nodes()) <= self._left_before

    def log(self, logs: str = "logs") -> str:
        return (self.searches.folder / logs / "study" / "hyperband.log").read_text()

    def told(self, logs: str) -> list[dict[str, Any]]:
        return [dict(about) for about in self.said(logs)]

    def runs_on(self, machine: str) -> bool:
        jobs = [path.parent for path in (self.searches.study / "jobs").glob("*/keeper.json")]
        alive = [path for path in jobs if not (path / "result.json").exists()]
        return any(json.loads((path / "keeper.json").read_text())["host"] == machine for path in alive)

    def here(self, *options: str) -> Ran:
        return self.searches.run(*options, "--slots", "2", "--logs", "here")


@pytest.fixture
def sent(ray_cluster: RayCluster) -> Iterator[Sent]:
    """Searches whose jobs wait for the word to go on."""
    found = Sent(ray_cluster)
    yield found
    found.searches.close()


@pytest.mark.slow
def test_a_search_without_shared_files_comes_to_what_it_comes_to_here(sent: Sent) -> None:
    search = sent.start("--max-epochs", "3", "--logs", "there")
    until(lambda: len({about["host"] for about in sent.told("there")}) > 1, "jobs on two machines")
    sent.go()
    there = sent.searches.wait(search)
    assert there.exit_code == 0, there.err
    assert sent.is_all_given_back()
    here = sent.here("--max-epochs", "3")
    assert decided(there) == decided(here)
    said = sent.told("there")
    assert not any(about["sees"] for about in said)
    # each promotion waits for the node that has its checkpoint
    assert sorted(about["from"] for about in said if about["to"] == 3) == [0, 0, 1], said


@pytest.mark.slow
def test_a_search_that_is_killed_finds_what_ran_and_what_ended_meanwhile(sent: Sent) -> None:
    few = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "4")
    sent.wait_for_another_word("0")
    first = sent.start(*few, "--max-slots", "3")
    until(lambda: sent.n_jobs_begun() == 3, "jobs to begin")
    before = sent.results_on_nodes()
    sent.searches.kill(first)
    # its folder gets another name, which slots need not know
    (sent.searches.folder / "logs").rename(sent.searches.folder / "moved")
    sent.go("0")
    until(lambda: len(sent.results_on_nodes() - before) == 1, "one to end")
    search = sent.start(*few, "--max-slots", "3", "--logs", "moved")
    until(lambda: "Taken over" in sent.log("moved"), "the others to be taken over")
    sent.go()
    again = sent.searches.wait(search)
    assert again.exit_code == 0, again.err
    assert {job["attempt"] for job in again.document["jobs"]} == {0}, "nothing was run twice"
    assert sent.is_all_given_back()
    assert decided(again) == decided(sent.here(*few))


@pytest.mark.slow
def test_a_machine_that_is_cut_off_costs_its_jobs_and_its_checkpoints(sent: Sent) -> None:
    search = sent.start("--max-epochs", "9")
    # which slots there are is Ray's to say; the search itself is on m1
    until(lambda: sent.n_jobs_begun() >= 4, "jobs to begin")
    until(lambda: sent.runs_on("m2") or sent.runs_on("m3"), "a job on another machine")
    cut = "m2" if sent.runs_on("m2") else "m3"
    sent.cluster.cut(cut)
    sent.go()
    ran = sent.searches.wait(search)
    assert ran.exit_code == 0, ran.err
    lost = [job["slot"][:2] for job in ran.document["jobs"] if job["outcome"] == "Lost"]
    assert set(lost) == {cut}
    assert decided(ran) == decided(sent.here("--max-epochs", "9"))
    wait_for(lambda: not sent.cluster.keepers(), 90, "keepers that end there, too")


@pytest.mark.slow
def test_an_interrupt_and_stop_end_jobs_and_slots(sent: Sent) -> None:
    few = ("--max-epochs", "1", "--algorithm", "random", "--max-trials", "2", "--max-slots", "2")
    search = sent.start(*few)
    until(lambda: sent.n_jobs_begun() == 2, "jobs to begin")
    search.send_signal(signal.SIGINT)
    search.send_signal(signal.SIGTERM)
    ran = sent.searches.wait(search)
    assert ran.exit_code == 130, ran.err
    assert [job["outcome"] for job in ran.document["jobs"]] == ["Stopped", "Stopped"]
    assert sent.is_all_given_back()
    # the one ends while no search is there, and the other does not
    sent.wait_for_another_word("1")
    again = sent.start(*few)
    until(lambda: sent.n_jobs_begun() == 4, "jobs to begin again")
    before = sent.results_on_nodes()
    sent.searches.kill(again)
    sent.go("1")
    until(lambda: len(sent.results_on_nodes() - before) == 1, "one to end")
    stopped = sent.stop()
    assert "ended 1 job and 2 slots that" in stopped.out, stopped
    assert "Fetched the result of 1 job that had ended by then." in stopped.out, stopped
    assert sent.is_all_given_back()
    report = json.loads(sent.searches.command("report", "--json", str(sent.searches.study)).out)
    assert sorted(job["outcome"] for job in report["jobs"]) == ["Loss", "Stopped", "Stopped", "Stopped"]


@pytest.fixture
def bucket(ray_cluster: RayCluster) -> Iterator[dict[str, str]]:
    """A bucket of an S3 server that the nodes reach; what finds it stands in the environment."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "s3fs", "flask")):
        pytest.skip("no S3 server here: pip install 'moto[server]' s3fs")
    host, port = ray_cluster.address.partition(":")[0], "5599"
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    argv = [sys.executable, "-m", "moto.server", "-H", host, "-p", port]
    server = subprocess.Popen(
        ray_cluster.on_head(argv, ray_cluster.folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    make = "import boto3; boto3.client('s3').create_bucket(Bucket='bucket')"
    try:
        until(
            lambda: (
                subprocess.run(
                    ray_cluster.on_head([sys.executable, "-c", make], ray_cluster.folder),
                    env=environment,
                    stderr=subprocess.DEVNULL,
                    check=False,
                ).returncode
                == 0
            ),
            "an S3 server",
        )
        yield environment
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_with_a_storage_a_trial_goes_on_at_any_node(sent: Sent, bucket: dict[str, str]) -> None:
    sent.searches.environment.update(bucket)
    (sent.searches.folder / "nodes.json").write_text(json.dumps({"env_vars": bucket}))
    stored = ("--storage", "s3://bucket/some/where", "--ray-runtime-env", "nodes.json")
    sent.go()
    there = sent.run(
        "--max-epochs", "3", "--max-slots", "3", "--keep-checkpoints", "none", "--logs", "there", *stored
    )
    assert there.exit_code == 0, there.err
    assert decided(there) == decided(sent.here("--max-epochs", "3"))
    said = sent.told("there")
    assert sum(about["from"] > 0 for about in said) == sum(job["rung"] > 0 for job in there.document["jobs"])
    by_name = {about["cwd"].split("/")[-2]: about["host"] for about in said}
    assert len(by_name) == len(said), "each attempt has a folder of its own"
    ls = "import s3fs; print(*{path.split('/')[5] for path in s3fs.S3FileSystem().find('bucket')})"
    words = sent.cluster.on_head([sys.executable, "-c", ls], sent.cluster.folder)
    listed = subprocess.run(words, env=bucket, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert len(listed) == 1, "of all checkpoints that of the best trial is left"
    assert "anything" not in (sent.searches.folder / "there" / "study" / "journal.copy").read_text()
