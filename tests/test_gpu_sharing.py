"""Whole searches that share GPUs: packed by measured memory, beside others, isolated, after late releases."""

import subprocess
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from nvml_stub import NvmlState, StubGpu, StubProcess, uuid
from nvml_stub.cases import built_stub
from search_fixture import LOSS, Ran, Searches, script, searches, until

from hyperband.journal import read_events
from hyperband.search.events import JobEnded

__all__ = ["searches"]

HALVING = ("--algorithm", "halving", "--max-epochs", "9", "--no-multi-gpu")
RANDOM = ("--algorithm", "random", "--max-epochs", "1", "--no-multi-gpu", "--max-trials")
GPU_MIB = 40_000
MIB = 1 << 20
#: a job that takes memory on its GPU, and fails as PyTorch does when there is not enough
TAKES = """
import os, time
uuids = os.environ["GPU_UUIDS"].split()
shown = os.environ.get("CUDA_VISIBLE_DEVICES")
number = int(sys.argv[sys.argv.index("--gpu") + 1])
number = number if shown is None else uuids.index(shown.split(",")[number])
claims = os.environ["GPU_CLAIMS"]
def living(pid):
    try:
        os.kill(int(pid), 0)
    except OSError:
        return False
    return True
def takes(mib, busy=50):
    with open(os.path.join(claims, str(os.getpid())), "w") as stream:
        stream.write(f"{number} {mib} C -1 {busy}\\n")
    used = 0
    for pid in filter(living, os.listdir(claims)):
        try:
            gpu, its_mib = open(os.path.join(claims, pid)).read().split()[:2]
        except (OSError, ValueError):
            continue
        used += int(its_mib) if int(gpu) == number else 0
    if used > int(os.environ.get("GPU_TOTALS", "40000 40000").split()[number]):
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
"""


@pytest.fixture
def machine(searches: Searches, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> NvmlState:
    """Two GPUs of 40,000 MiB, seen by every search of the test."""
    found = NvmlState(tmp_path / "machine", built_stub(tmp_path_factory))
    found.set_gpus(*(StubGpu(f"0000:{0x10 + k:02X}:00.0", uuid(k), total_mib=GPU_MIB) for k in range(2)))
    searches.environment.update(found.environment())
    searches.environment["GPU_UUIDS"] = f"{uuid(0)} {uuid(1)}"
    searches.environment["GPU_CLAIMS"] = str(found.procdir)
    return found


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, until the end of the test."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process
        process.kill()


def gpu_of(job: dict[str, Any]) -> str:
    return str(job["slot"]).split("/", maxsplit=1)[0]


def most_together(jobs: list[dict[str, Any]]) -> int:
    """The most of these jobs that ran on one GPU at a time."""
    most = 0
    for _gpu, some in groupby(sorted(jobs, key=gpu_of), key=gpu_of):
        here = list(some)
        for job in here:
            at = job["started_at"]
            most = max(most, sum(other["started_at"] <= at < other["ended_at"] for other in here))
    return most


def outcomes(ran: Ran) -> set[str]:
    return {job["outcome"] for job in ran.document["jobs"]}


@pytest.mark.usefixtures("machine")
def test_jobs_are_packed_once_their_memory_is_known(searches: Searches) -> None:
    searches.write(script(TAKES + "takes(9000)\ntime.sleep(0.5)\n" + LOSS))
    ran = searches.run("--max-epochs", "9", "--no-multi-gpu", "--jobs-per-gpu", "auto", gpus=None)
    assert ran.exit_code == 0, ran.err
    jobs = ran.document["jobs"]
    assert outcomes(ran) == {"Loss"}, "nothing ran out of memory"
    measured = [job["gpu_memory_peak_bytes"] for job in jobs]
    assert set(measured) - {None} == {9000 * MIB}
    assert {job["gpu_utilisation_percent"] for job in jobs} >= {50.0}
    # 9,000 MiB and what may be missed, of nine tenths of 40,000
    assert most_together(jobs) == 3
    first = sorted(jobs, key=lambda job: job["started_at"])[:3]
    assert most_together(first) == 1, "nothing is known of them"
    last = [job for job in jobs if job["epochs"] == 9]
    assert len(last) == 5
    for job in last:
        during = [
            other["slot"]
            for other in jobs
            if other["started_at"] < job["ended_at"] and job["started_at"] < other["ended_at"]
        ]
        assert [slot.split("/")[0] for slot in during].count(gpu_of(job)) == 1, "the last rung is alone"


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
def test_packing_backs_off_when_memory_runs_out(searches: Searches) -> None:
    # After the first three each takes twice as much, and only when it was looked at.
    grows = """
    takes(8000, 0)
    time.sleep(0.6)
    if epochs == 1 and os.path.exists("grow"):
        takes(16000, 0)
        time.sleep(0.4)
    open(f"seen-{config_id}", "w").close()
    if sum(name.startswith("seen-") for name in os.listdir()) > 2:
        open("grow", "w").close()
    """
    searches.write(script(TAKES + grows.replace("\n    ", "\n") + LOSS))
    ran = searches.run(*HALVING, "--jobs-per-gpu", "auto", gpus=None)
    assert ran.exit_code == 0, ran.err
    jobs = sorted(ran.document["jobs"], key=lambda job: job["started_at"])
    assert {trial["state"] for trial in ran.document["trials"]} <= {"done", "dropped"}
    failed = [job for job in jobs if job["outcome"] == "OutOfMemory"]
    assert failed
    again = [job for job in jobs if job["attempt"] > 0]
    assert {job["outcome"] for job in again} == {"Loss"}, "it was alone"
    later = [job for job in jobs if job["started_at"] > failed[0]["ended_at"]]
    assert most_together(later) < 4


def test_what_ran_out_of_memory_is_tried_on_the_gpu_with_the_most(
    searches: Searches, machine: NvmlState
) -> None:
    machine.change(1, total_mib=80_000)
    searches.environment["GPU_TOTALS"] = "40000 80000"
    # One job at a time fits even on the larger of the two.
    searches.write(script(TAKES + "takes(50000)\ntime.sleep(0.2)\n" + LOSS))
    ran = searches.run(*RANDOM, "3", "--jobs-per-gpu", "2", gpus=None)
    assert ran.exit_code == 0, ran.err
    jobs = ran.document["jobs"]
    assert {job["outcome"] for job in jobs if job["attempt"] == 0} >= {"OutOfMemory"}
    again = [job for job in jobs if job["attempt"] > 0]
    assert {(job["outcome"], gpu_of(job)) for job in again} == {("Loss", "gpu:1")}
    assert most_together(again) == 1


@pytest.mark.usefixtures("machine")
def test_an_isolated_job_sees_one_gpu(searches: Searches) -> None:
    main = TAKES + "print(shown, sys.argv[sys.argv.index('--gpu') + 1])\ntime.sleep(0.2)\n"
    searches.write(script(main + LOSS))
    ran = searches.run(*RANDOM, "2", "--isolate", gpus=None)
    said = {job["slot"]: Path(job["stdout"]).read_text().splitlines()[0] for job in ran.document["jobs"]}
    assert said == {"gpu:0": f"{uuid(0)} 0", "gpu:1": f"{uuid(1)} 0"}


#: goes on when told, or when it is stopped
HELD = """
takes(5000)
with open(f"on-{number}", "a") as stream:
    stream.write("x")
while number == 0 and not os.path.exists("off"):
    time.sleep(0.01)
"""


def test_a_job_is_stopped_and_queued_again_for_others(
    searches: Searches, machine: NvmlState, stranger: subprocess.Popen[bytes]
) -> None:
    searches.write(script(TAKES + HELD + LOSS))
    search = searches.start(*RANDOM, "3", "--when-shared", "yield", gpus=None)
    until((searches.folder / "on-0").exists, "a job on GPU 0")
    machine.claim(stranger.pid, 0)
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    jobs = ran.document["jobs"]
    assert [(job["outcome"], job["attempt"]) for job in jobs if gpu_of(job) == "gpu:0"] == [("Stopped", 0)]
    assert [job["outcome"] for job in jobs if gpu_of(job) == "gpu:1"] == ["Loss"] * 3
    assert f"pid {stranger.pid} (sleep)" in ran.err


@pytest.mark.parametrize("how", ["wait", "share"])
def test_a_job_goes_on_beside_others_and_the_next_one_waits_or_does_not(
    searches: Searches, machine: NvmlState, stranger: subprocess.Popen[bytes], how: str
) -> None:
    searches.write(script(TAKES + HELD + LOSS))
    search = searches.start(*RANDOM, "2", "--when-shared", how, "--gpus", "0", gpus=None)
    until((searches.folder / "on-0").exists, "a job on GPU 0")
    machine.claim(stranger.pid, 0)
    log = searches.study / "hyperband.log"
    until(lambda: f"pid {stranger.pid} (sleep)" in log.read_text(), "a line that names the stranger")
    (searches.folder / "off").touch()
    if how == "wait":
        until(lambda: f"GPU 0 is used by pid {stranger.pid}" in log.read_text(), "what is waited for")
        assert (searches.folder / "on-0").read_text() == "x"
        stranger.kill()
        stranger.wait()
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    assert [(job["outcome"], job["slot"]) for job in ran.document["jobs"]] == [("Loss", "gpu:0")] * 2


@pytest.mark.usefixtures("machine")
def test_a_gpu_is_left_to_others(searches: Searches) -> None:
    searches.write(script(TAKES + "takes(5000)\ntime.sleep(0.1)\n" + LOSS))
    ran = searches.run(*RANDOM, "4", "--leave-free", "1", gpus=None)
    assert ran.exit_code == 0
    assert {job["slot"] for job in ran.document["jobs"]} == {"gpu:0"}
    refused = searches.run(*RANDOM, "4", "--leave-free", "2", "--logs", "other", gpus=None)
    assert refused.exit_code == 2
    assert "--leave-free 2 leaves all 2 GPUs" in refused.err


def test_a_gpu_is_not_used_again_before_its_memory_is_back(searches: Searches, machine: NvmlState) -> None:
    held = """
takes(5000)
is_first = not os.path.exists("pid")
with open("pid", "a") as stream:
    stream.write(f"{os.getpid()}\\n")
if is_first:
    time.sleep(1.5)
"""
    searches.write(script(TAKES + held + LOSS))
    search = searches.start(*RANDOM, "2", "--gpus", "0", gpus=None)
    pid = searches.folder / "pid"
    until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the first job")
    first_pid = int(pid.read_text())
    # The driver shows the job's process from now on, whether it lives or not.
    machine.processes = [StubProcess(0, first_pid, 5000)]
    (machine.procdir / str(first_pid)).unlink()
    machine.write()
    until(lambda: any(isinstance(event, JobEnded) for event in read_events(searches.study)), "its end")
    back_at = time.time()
    machine.processes = []
    machine.write()
    ran = searches.wait(search)
    assert ran.exit_code == 0, ran.err
    first, second = ran.document["jobs"]
    assert first["gpu_memory_peak_bytes"] == 5000 * MIB
    assert first["ended_at"] < back_at <= second["started_at"]


def test_a_search_goes_on_with_a_driver_that_fails_every_other_call(
    searches: Searches, machine: NvmlState
) -> None:
    machine.fail_every = 2
    machine.write()
    searches.write(script(TAKES + "takes(5000)\ntime.sleep(0.1)\n" + LOSS))
    ran = searches.run(*HALVING, gpus=None)
    assert ran.exit_code == 0, ran.err
    assert outcomes(ran) == {"Loss"}
    assert {job["slot"] for job in ran.document["jobs"]} == {"gpu:0", "gpu:1"}
