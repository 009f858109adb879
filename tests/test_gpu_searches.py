"""Whole searches on GPUs: the real pynvml on a stub of the driver's library, real leases, real jobs."""

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from nvml_stub import NvmlState, uuid
from nvml_stub.cases import built_stub
from search_fixture import LOSS, Searches, one_job, script, searches, until

from hyperband.journal import read_events
from hyperband.search.events import JobEnded, SlotQuarantined
from hyperband.search.trial import Outcome

__all__ = ["searches"]

ONE = ("--algorithm", "random", "--max-trials", "1", "--max-epochs", "1")
#: a job that is seen on its GPU, and writes down when it had which
ON_GPU = """
import json, os, time
lines = json.loads(os.environ["GPU_LINES"])
if "--gpu" in sys.argv:
    mine = [int(sys.argv[sys.argv.index("--gpu") + 1])]
else:
    uuids = json.loads(os.environ["GPU_UUIDS"])
    mine = [uuids.index(uuid) for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
began = time.monotonic()
claim = os.path.join(os.environ["GPU_CLAIMS"], str(os.getpid()))
with open(claim, "w") as stream:
    stream.writelines(f"{lines[number]} 1000 C -1\\n" for number in mine)
time.sleep(0.05)
record = os.open(os.environ["GPU_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
for number in mine:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    entry = [number, began, time.monotonic(), config_id, epochs, len(mine), shown]
    os.write(record, (json.dumps(entry) + "\\n").encode())
"""


@pytest.fixture
def machine(searches: Searches, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> NvmlState:
    """Four GPUs, seen by every search of the test."""
    found = NvmlState(tmp_path / "machine", built_stub(tmp_path_factory)).four_gpus()
    order = sorted(range(4), key=lambda line: found.lines[line].bus)
    searches.environment.update(found.environment())
    searches.environment["GPU_LINES"] = json.dumps(order)
    searches.environment["GPU_UUIDS"] = json.dumps([found.lines[line].uuid for line in order])
    searches.environment["GPU_CLAIMS"] = str(found.procdir)
    searches.environment["GPU_RECORD"] = str(searches.folder / "record")
    return found


def record(searches: Searches) -> list[list[object]]:
    """What the jobs wrote down: GPU, began, ended, config id, epochs, how many GPUs, which are visible."""
    return [json.loads(line) for line in (searches.folder / "record").read_text().splitlines()]


def assert_never_shared(searches: Searches) -> None:
    """No two jobs had one GPU at a time."""
    entries = sorted((entry[0], entry[1], entry[2]) for entry in record(searches))
    for (gpu, _, ended), (next_gpu, began, _) in itertools.pairwise(entries):
        assert gpu != next_gpu or ended <= began  # type: ignore[operator]


def test_every_free_gpu_is_used_and_none_that_others_use(searches: Searches, machine: NvmlState) -> None:
    with subprocess.Popen(["sleep", "100"]) as foreign:
        machine.claim(foreign.pid, 1)
        searches.write(script(ON_GPU + LOSS))
        ran = searches.run("--max-epochs", "9", "--no-multi-gpu", gpus=None)
        foreign.kill()
    assert ran.exit_code == 0
    assert {entry[0] for entry in record(searches)} == {0, 2, 3}
    assert {job["slot"] for job in ran.document["jobs"]} == {"gpu:0", "gpu:2", "gpu:3"}
    assert_never_shared(searches)


@pytest.mark.usefixtures("machine")
def test_two_searches_never_share_a_gpu(searches: Searches) -> None:
    searches.write(script(ON_GPU + LOSS))
    options = ("--max-epochs", "9", "--no-multi-gpu")
    both = [searches.start(*options, "--logs", name, gpus=None) for name in ("one", "two")]
    ran = [searches.wait(search) for search in both]
    assert [one.exit_code for one in ran] == [0, 0]
    assert len(record(searches)) == 44
    assert ran[0].document["best"] == ran[1].document["best"]
    assert_never_shared(searches)


@pytest.mark.usefixtures("machine")
def test_two_searches_with_shares_never_share_a_gpu(searches: Searches) -> None:
    main = ON_GPU.replace("time.sleep(0.05)", "time.sleep(0.2)")
    searches.write(script(main + LOSS))
    options = ("--max-epochs", "9", "--no-multi-gpu", "--jobs-per-gpu", "2", "--gpus", "0,1")
    both = [searches.start(*options, "--logs", name, gpus=None) for name in ("one", "two")]
    documents = [searches.wait(search).document for search in both]
    spans = [
        (job["slot"].split("/")[0], job["started_at"], job["ended_at"], place)
        for place, document in enumerate(documents)
        for job in document["jobs"]
    ]
    for one, other in itertools.combinations(spans, 2):
        if one[0] == other[0] and one[3] != other[3]:
            assert one[2] <= other[1] or other[2] <= one[1]
    assert {job["slot"] for document in documents for job in document["jobs"]} >= {"gpu:0/0", "gpu:0/1"}


def test_a_gpu_lost_in_the_middle(searches: Searches, machine: NvmlState) -> None:
    hangs = ON_GPU + (
        "if mine == [2] and not os.path.exists('went'):\n    open('went', 'w').close()\n    "
        "time.sleep(1000)\n"
    )
    searches.write(script(hangs + LOSS))
    search = searches.start("--max-epochs", "9", "--no-multi-gpu", gpus=None)
    until((searches.folder / "went").exists, "a job on GPU 2")
    machine.lose(2)
    ran = searches.wait(search)
    assert ran.exit_code == 0
    outcomes = [(job["outcome"], job["slot"]) for job in ran.document["jobs"] if job["outcome"] != "Loss"]
    assert outcomes == [("Lost", "gpu:2")]
    assert len(ran.document["trials"]) == 17
    assert all(trial["state"] != "failed" for trial in ran.document["trials"])


@pytest.mark.usefixtures("machine")
def test_the_last_promotions_get_every_gpu(searches: Searches) -> None:
    searches.write(script(ON_GPU + LOSS))
    ran = searches.run("--max-epochs", "9", "--algorithm", "halving", gpus=None)
    last = ran.document["jobs"][-1]
    assert last["slot"] == "gpu:0,1,2,3"
    assert [entry[5] for entry in record(searches)] == [1] * 12 + [4] * 4
    uuids = ",".join(uuid(number) for number in range(4))
    assert record(searches)[-1][6] == uuids
    assert all(entry[6] is None for entry in record(searches)[:12])


@pytest.mark.usefixtures("machine")
def test_a_guided_search_fills_every_gpu_and_gives_all_to_a_trial_that_is_alone(searches: Searches) -> None:
    searches.write(script(ON_GPU + LOSS))
    ran = searches.run("--max-epochs", "9", "--no-multi-gpu", "--logs", "many", gpus=None, guide="model")
    assert ran.exit_code == 0, ran.err
    assert {entry[0] for entry in record(searches)} == {0, 1, 2, 3}
    assert len(ran.document["trials"]) == 17
    assert_never_shared(searches)
    ran = searches.run(*ONE, gpus=None, guide="model")
    assert one_job(ran)["slot"] == "gpu:0,1,2,3"
    assert "Warning" not in ran.err


@pytest.mark.usefixtures("machine")
def test_a_guided_search_with_as_many_jobs_on_a_gpu_as_fit(searches: Searches) -> None:
    searches.write(script(ON_GPU + LOSS))
    ran = searches.run(
        "--max-epochs", "9", "--no-multi-gpu", "--jobs-per-gpu", "auto", gpus=None, guide="model"
    )
    assert ran.exit_code == 0, ran.err
    assert len(ran.document["jobs"]) == 22


@pytest.mark.usefixtures("machine")
def test_no_multi_gpu(searches: Searches) -> None:
    searches.write(script(ON_GPU + LOSS))
    ran = searches.run("--max-epochs", "9", "--algorithm", "halving", "--no-multi-gpu", gpus=None)
    assert all("," not in job["slot"] for job in ran.document["jobs"])


@pytest.mark.parametrize(
    ("preset", "used"),
    [
        ("1,3", {1, 3}),
        (f"{uuid(2)[:12]},{uuid(0)}", {0, 2}),
        ("2,-1,3", {2}),
        ("0,99,1", {0}),
    ],
    ids=["indices", "UUIDs and prefixes", "ends at -1", "ends at the first unknown"],
)
@pytest.mark.usefixtures("machine")
def test_a_preset_selection_narrows(searches: Searches, preset: str, used: set[int]) -> None:
    searches.write(script(ON_GPU + LOSS))
    searches.environment["CUDA_VISIBLE_DEVICES"] = preset
    ran = searches.run("--max-epochs", "9", "--no-multi-gpu", gpus=None)
    assert ran.exit_code == 0
    assert {entry[0] for entry in record(searches)} == used
    assert all(entry[6] is None for entry in record(searches))


@pytest.mark.parametrize("preset", ["", "-1"])
@pytest.mark.usefixtures("machine")
def test_a_preset_selection_of_none_means_cpus(searches: Searches, preset: str) -> None:
    searches.write(script())
    searches.environment["CUDA_VISIBLE_DEVICES"] = preset
    ran = searches.run(*ONE, gpus=None)
    assert one_job(ran)["slot"] == "cpu:0"
    assert "CUDA_VISIBLE_DEVICES" in ran.err


def test_a_mig_instance_by_name(searches: Searches, machine: NvmlState) -> None:
    machine.mig_machine()
    searches.write(script("import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[-2:])\nprint(1)"))
    name = machine.instances[0].uuid
    searches.environment["CUDA_VISIBLE_DEVICES"] = name
    job = one_job(searches.run(*ONE, gpus=None))
    assert Path(job["stdout"]).read_text().splitlines()[0] == f"{name} --gpu 0"
    assert job["slot"] == "gpu:1/0"


def test_named_gpus_that_are_busy_are_waited_for(searches: Searches, machine: NvmlState) -> None:
    searches.write(script(ON_GPU + LOSS))
    with subprocess.Popen(["sleep", "100"]) as foreign:
        machine.claim(foreign.pid, 3)
        search = searches.start(*ONE, "--gpus", "3", gpus=None)
        log = searches.study / "hyperband.log"
        until(
            lambda: log.exists() and f"pid {foreign.pid}" in log.read_text(),
            "a line that names the foreign process",
        )
        foreign.kill()
    ran = searches.wait(search)
    assert one_job(ran)["slot"] == "gpu:3"
    assert f"pid {foreign.pid}" in ran.err


@pytest.mark.usefixtures("machine")
def test_unknown_gpus_are_refused(searches: Searches) -> None:
    searches.write(script())
    ran = searches.run(*ONE, "--gpus", "0,9", gpus=None)
    assert ran.exit_code == 2
    assert "9" in ran.err
    assert not (searches.folder / "logs").exists()


def test_all_busy_waits_and_does_not_fall_to_cpus(searches: Searches, machine: NvmlState) -> None:
    searches.write(script(ON_GPU + LOSS))
    with subprocess.Popen(["sleep", "100"]) as foreign:
        for number in range(4):
            machine.change(number, used_mib=40000)  # memory is taken, by nobody that can be seen
        search = searches.start(*ONE, gpus=None)
        log = searches.study / "hyperband.log"
        until(lambda: log.exists() and " wait " in log.read_text(), "a line that says what is waited for")
        machine.change(2, used_mib=4)
        ran = searches.wait(search)
        foreign.kill()
    assert one_job(ran)["slot"] == "gpu:2"


def test_no_driver_means_cpus_and_says_so(searches: Searches, machine: NvmlState) -> None:
    machine.no_driver()
    searches.write(script())
    ran = searches.run(*ONE, gpus=None)
    assert one_job(ran)["slot"] == "cpu:0"
    assert "no NVIDIA GPU" in ran.err


def test_a_killed_search_keeps_its_gpus_until_its_jobs_end(searches: Searches, machine: NvmlState) -> None:
    held = (
        ON_GPU
        + "open(f'on-{config_id}', 'w').close()\nwhile not os.path.exists('off'):\n    time.sleep(0.01)\n"
    )
    searches.write(script(held + LOSS))
    options = ("--algorithm", "random", "--max-epochs", "1", "--max-trials")
    first = searches.start(*options, "4", gpus=None)
    until(lambda: len(list(searches.folder.glob("on-*"))) == 4, "four jobs to run")
    searches.kill(first)
    for claim in machine.procdir.iterdir():
        claim.unlink()  # as if NVML showed nothing yet: only the leases tell
    other = searches.start(*options, "1", "--logs", "other", gpus=None)
    log = searches.folder / "other" / "study" / "hyperband.log"
    until(lambda: log.exists() and "leased by" in log.read_text(), "the other search to see the leases")
    again = searches.start(*options, "4", gpus=None)
    until(lambda: "4 running jobs" in (searches.study / "hyperband.log").read_text(), "the adoption")
    (searches.folder / "off").touch()
    assert [job["outcome"] for job in searches.wait(again).document["jobs"]] == ["Loss"] * 4
    assert searches.wait(other).exit_code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
def test_kills_on_gpus(searches: Searches) -> None:
    searches.write(script(ON_GPU + LOSS))
    options = ("--max-epochs", "9", "--no-multi-gpu")
    wanted = searches.run(*options, "--logs", "undisturbed", gpus=None).document
    (searches.folder / "record").unlink()
    for delay_s in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        search = searches.start(*options, gpus=None)
        try:
            search.wait(timeout=delay_s)
        except subprocess.TimeoutExpired:
            search.send_signal(signal.SIGKILL)
        search.communicate()
    found = searches.run(*options, gpus=None)
    assert found.exit_code == 0
    assert found.document["trials"] == wanted["trials"]
    assert found.document["best"] == wanted["best"]
    ran = [(entry[3], entry[4]) for entry in record(searches)]
    assert len(ran) == len(set(ran)) == 22
    assert_never_shared(searches)
    leases = Path(os.environ["HYPERBAND_LEASES"])
    locks = Path("/proc/locks").read_text()
    inodes = [str(path.stat().st_ino) for path in leases.iterdir()]
    assert inodes
    assert not any(f":{inode} " in locks for inode in inodes)


@pytest.mark.usefixtures("machine")
def test_a_job_that_fails_on_all_gpus_is_tried_twice(searches: Searches) -> None:
    searches.write(script("raise KeyError('bn')"))
    ran = searches.run(*ONE, gpus=None)
    found = [(job["slot"], job["outcome"]) for job in ran.document["jobs"]]
    assert found == [("gpu:0,1,2,3", "Crashed")] * 2
    assert ran.exit_code == 1


#: fails three jobs once GPU 1 is lost, which has run one job well before
LAST_GPU = """
import os, time
gpu = int(sys.argv[sys.argv.index("--gpu") + 1])
if gpu == 1 and os.path.exists("one"):
    open("hangs", "w").close()
    time.sleep(1000)
if gpu == 1:
    open("one", "w").close()
while gpu == 0 and not os.path.exists("lost"):
    time.sleep(0.01)
failed = [name for name in os.listdir() if name.startswith("failed")]
if gpu == 0 and len(failed) < 3:
    open(f"failed{len(failed)}", "w").close()
    sys.exit("no CUDA-capable device")
"""


def test_the_last_gpu_that_is_not_lost_is_never_in_quarantine(searches: Searches, machine: NvmlState) -> None:
    searches.write(script(LAST_GPU + LOSS))
    options = ("--algorithm", "random", "--max-trials", "8", "--max-epochs", "1", "--grace", "0")
    search = searches.start(*options, "--no-multi-gpu", gpus="0,1")
    until((searches.folder / "hangs").exists, "a job on GPU 1 that hangs")
    machine.lose(1)
    until(lambda: Outcome.LOST in outcomes(searches), "the loss of GPU 1 to be seen")
    (searches.folder / "lost").touch()
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert outcomes(searches).count(Outcome.CRASHED) == 3
    assert all(trial["loss"] is not None for trial in ran.document["trials"])
    assert not [event for event in read_events(searches.study) if isinstance(event, SlotQuarantined)]


def outcomes(searches: Searches) -> list[Outcome]:
    """How the jobs ended so far."""
    return [event.outcome for event in read_events(searches.study) if isinstance(event, JobEnded)]
