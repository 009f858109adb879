"""What a keeper measures of its job: memory, processor time, and kills for want of memory."""

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_fixture import Searches, script, searches, until

from hyperband.launch.base import Ending, Lease, Order, Slot
from hyperband.launch.local import LocalLauncher
from hyperband.machine import proc

__all__ = ["searches"]

MIB = 1 << 20
#: where a cgroup with a limit of its own can be made, and the file that takes the limit
HIERARCHIES = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LocalLauncher]:
    with (tmp_path / "lock").open("wb") as lock:
        found = LocalLauncher(cwd=tmp_path, lock=lock.fileno(), errors=tmp_path / "errors", grace_s=5.0)
        yield found
        found.close()


def end_of(launcher: LocalLauncher, folder: Path, code: str) -> Ending:
    folder.mkdir()
    job = launcher.start(
        Order(folder, (sys.executable, "-S", "-c", code), {}), Lease(Slot("cpu:0", (), {}), ())
    )
    while True:
        assert select.select([job], [], [], 60)[0], "the job did not end"
        if (ending := launcher.finish(job)) is not None:
            return ending


def test_the_memory_peak_is_that_of_the_largest_process_of_the_job(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    small = end_of(launcher, tmp_path / "small", "pass")
    # an orphan that nobody of the job waits for is reaped by the keeper
    large = end_of(
        launcher,
        tmp_path / "large",
        "import os\nlisten, say = os.pipe()\n"
        "if os.fork() == 0:\n    if os.fork() == 0: x = b'x' * (96 << 20)\n    os._exit(0)\n"
        "os.close(say); os.wait(); os.read(listen, 1)\n",
    )
    assert small.memory_peak_bytes is not None
    assert large.memory_peak_bytes is not None
    assert 2 * MIB < small.memory_peak_bytes < 64 * MIB
    assert 96 * MIB < large.memory_peak_bytes < 160 * MIB
    assert not large.oom_killed


def test_processor_time_is_that_of_all_descendants(launcher: LocalLauncher, tmp_path: Path) -> None:
    spin = "\nimport time\nwhile time.process_time() < 0.3: pass\n"
    ending = end_of(
        launcher, tmp_path / "job", f"import os\npid = os.fork(){spin}if pid: os.waitpid(pid, 0)\n"
    )
    assert ending.cpu_s is not None
    assert 0.6 <= ending.cpu_s < 3.0


@pytest.mark.parametrize(
    ("files", "n_kills"),
    [
        (
            {
                "/proc/self/cgroup": b"0::/user.slice/run-1.scope\n",
                "/sys/fs/cgroup/user.slice/run-1.scope/memory.events": b"low 0\nmax 9\noom 4\noom_kill 3\n"
                b"oom_group_kill 0\n",
                "/proc/vmstat": b"oom_kill 77\n",
            },
            3,
        ),
        (
            {
                "/proc/self/cgroup": b"5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n0::/\n",
                "/sys/fs/cgroup/memory/docker/a/memory.oom_control": b"oom_kill_disable 0\nunder_oom 0\n"
                b"oom_kill 2\n",
                "/proc/vmstat": b"oom_kill 77\n",
            },
            2,
        ),
        (
            {  # a container: the path is the host's
                "/proc/self/cgroup": b"4:memory:/docker/a:b\n",
                "/sys/fs/cgroup/memory/memory.oom_control": b"under_oom 0\noom_kill 1\n",
            },
            1,
        ),
        (
            {
                "/proc/self/cgroup": b"0::/\n",
                "/proc/vmstat": b"nr_free_pages 1\n" * 2000 + b"oom_kill 77\n",
            },
            77,
        ),
        ({}, 0),
    ],
    ids=["v2", "v1", "v1 in a container", "none but the machine's", "nothing"],
)
def test_kills_for_want_of_memory_are_counted_by_the_nearest_file_that_does(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], n_kills: int
) -> None:
    monkeypatch.setattr(proc, "_read", files.get)
    assert proc.n_oom_kills() == n_kills


def test_a_file_that_may_not_be_read_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str) -> bytes:
        if path == "/proc/self/cgroup":
            return b"0::/job\n"
        if path.startswith("/sys"):
            raise PermissionError(path)
        return b"oom_kill 5\n"

    monkeypatch.setattr(proc, "_read", read)
    assert proc.n_oom_kills() == 5


def test_this_machine_counts() -> None:
    assert proc.n_oom_kills() >= 0
    assert b"oom_kill " in (proc._read("/proc/vmstat") or b""), "the whole of a longer file is read"


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of 160 MiB, where we may make one."""
    for above, limit in HIERARCHIES:
        group = Path(above) / f"hyperband-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(160 * MIB))
            yield group
        except OSError:
            continue
        finally:
            until(lambda group=group: _is_gone(group), "the cgroup to be empty")  # type: ignore[misc]
        return
    pytest.skip("no cgroup with a limit of memory can be made here")


def _is_gone(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_a_job_that_the_kernel_kills_ran_out_of_memory(
    searches: Searches, small_cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches.write(script("hog = []\nwhile True: hog.append(b'x' * (1 << 22))"))
    python = sys.executable
    inside = searches.folder / "inside"
    inside.write_text(f'#!/bin/sh\necho $$ > "{small_cgroup}/cgroup.procs"\nexec "{sys.executable}" "$@"\n')
    inside.chmod(0o755)
    monkeypatch.setattr("search_fixture.sys.executable", str(inside))
    ran = searches.run(
        *("--algorithm", "random", "--max-trials", "1", "--max-epochs", "1", "--python", python)
    )
    jobs = ran.document["jobs"]
    assert [(job["outcome"], job["retry"]) for job in jobs] == [("OutOfMemory", True), ("OutOfMemory", False)]
    assert jobs[0]["fingerprint"] == "killed for want of memory (SIGKILL)"
    assert 32 * MIB < jobs[0]["memory_peak_bytes"] <= 160 * MIB
    assert "the kernel killed it for want of memory" in ran.err
