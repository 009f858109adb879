"""Launchers: real keepers, real jobs, every way they can end. What all have in common, and this machine's."""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from engine_benches import EngineBench, engine_on_ray, engine_on_slurm
from launch_fixture import SLOT, AnyBench, LocalBench, RemoteBench
from search_fixture import until

from hyperband.errors import MachineError
from hyperband.launch.base import Lease, Order, StopReason
from hyperband.machine import keeper, proc
from hyperband.machine.process import ProcessId, end_strays

__all__ = ["engine_on_ray", "engine_on_slurm"]  # fixtures


@pytest.fixture(
    scope="module",
    params=[
        "local",
        "remote",
        pytest.param("slurm", marks=pytest.mark.xdist_group("slurm")),
        pytest.param("ray", marks=pytest.mark.xdist_group("ray")),
    ],
)
def make_bench(request: pytest.FixtureRequest) -> Callable[[Path], AnyBench]:
    """What makes a bench of each launcher; engines are opened before any test begins, once."""
    if request.param == "local":
        return LocalBench
    if request.param == "remote":
        return RemoteBench
    return partial(EngineBench, engine=request.getfixturevalue(f"engine_on_{request.param}"))


@pytest.fixture
def any_bench(make_bench: Callable[[Path], AnyBench], tmp_path: Path) -> Iterator[AnyBench]:
    """A bench, for what all launchers have in common."""
    found = make_bench(tmp_path)
    yield found
    found.close()


# What all launchers have in common.


def test_exit_codes_and_output(any_bench: AnyBench) -> None:
    job = any_bench.python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    ending = any_bench.wait(job)
    assert (ending.exit_status, ending.asked, ending.leftovers, ending.note) == (7, None, (), "")
    assert ending.started_at is not None
    assert ending.ended_at is not None
    assert ending.started_at <= ending.ended_at
    assert (job.folder / "stdout").read_text() == "out\n"
    assert (job.folder / "stderr").read_text() == "err\n"


def test_signals_are_negative(any_bench: AnyBench) -> None:
    assert any_bench.wait(any_bench.python("import os; os.kill(os.getpid(), 11)")).exit_status == -11


def test_a_program_that_is_not_there(any_bench: AnyBench) -> None:
    job = any_bench.start("/no/such/python")
    assert any_bench.wait(job).exit_status == 127
    assert "cannot run /no/such/python" in (job.folder / "stderr").read_text()


def test_the_environment_is_added_to_and_taken_from(
    any_bench: AnyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("GONE", "1")
    job = any_bench.python(
        "import os; print([os.environ.get(n) for n in ('KEPT', 'GONE', 'NEW')])",
        environment={"GONE": None, "NEW": "2"},
    )
    any_bench.wait(job)
    assert (job.folder / "stdout").read_text() == "['1', None, '2']\n"


def test_a_job_leads_its_own_session_with_default_signals(any_bench: AnyBench) -> None:
    code = (
        "import os, signal; print(os.getsid(0) == os.getpgid(0) == os.getpid(), "
        "signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.pthread_sigmask(signal.SIG_BLOCK, ()), "
        "hex(int(open('/proc/self/status').read().split('SigIgn:')[1].split()[0], 16) & 0x7FFFFFFF))"
    )
    # Python ignores SIGPIPE (13) and SIGXFSZ (25) by itself
    job = any_bench.python(code)
    any_bench.wait(job)
    assert (job.folder / "stdout").read_text() == f"True True set() {hex((1 << 12) | (1 << 24))}\n"


def test_stop_and_timeout_are_told_apart(any_bench: AnyBench) -> None:
    for reason in StopReason:
        job = any_bench.start("/bin/sleep", "1000")
        any_bench.about()
        any_bench.launcher.stop(job, reason)
        ending = any_bench.wait(job)
        assert ending.asked is reason
        assert ending.exit_status in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_job_that_ends_well_after_it_was_asked_to_end(any_bench: AnyBench) -> None:
    job = any_bench.python(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: (print(0.5), sys.exit(0)))\n"
        "open('on', 'w').close()\nsignal.pause()"
    )
    until((any_bench.folder / "on").exists, "the job to run")
    any_bench.launcher.stop(job, StopReason.STOP)
    ending = any_bench.wait(job)
    assert (ending.exit_status, ending.asked) == (0, StopReason.STOP)


def test_adopted_by_another_launcher(any_bench: AnyBench) -> None:
    job = any_bench.start("/bin/sh", "-c", "while [ ! -e off ]; do sleep 0.01; done; exit 5")
    job_pid = any_bench.about()["job_pid"]
    second = any_bench.another()
    adopted = second.adopt(job.folder, any_bench.lease())
    assert adopted is not None
    assert second.owns(job_pid) == isinstance(any_bench, LocalBench)
    assert not second.owns(os.getpid())
    until(lambda: adopted.running_s() > 0, "its age to be known")
    (any_bench.folder / "off").touch()
    assert any_bench.wait(adopted, second).exit_status == 5
    assert any_bench.wait(job).exit_status == 5
    assert second.adopt(job.folder, any_bench.lease()) is None
    second.close()


def test_an_adopted_job_can_be_stopped(any_bench: AnyBench) -> None:
    job = any_bench.start("/bin/sleep", "1000")
    any_bench.about()
    second = any_bench.another()
    adopted = second.adopt(job.folder, any_bench.lease())
    assert adopted is not None
    second.stop(adopted, StopReason.TIMEOUT)
    assert any_bench.wait(adopted, second).asked is StopReason.TIMEOUT
    any_bench.wait(job)
    second.close()


def test_a_killed_keeper_leaves_nothing_and_its_job_is_lost(any_bench: AnyBench) -> None:
    job = any_bench.python(
        "import subprocess, time\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "subprocess.Popen(['sleep', '1000'])\nopen('on', 'w').close()\ntime.sleep(1000)",
        environment={"HYPERBAND_TRIAL": "1"},
    )
    until((any_bench.folder / "on").exists, "the job to run")
    os.kill(any_bench.about()["pid"], signal.SIGKILL)
    ending = any_bench.wait(job)
    assert ending.exit_status is None
    assert ending.ended_at is None
    if isinstance(any_bench, LocalBench):
        # both of its children are named, and the job itself if it was still dying
        assert ending.note.count(",") in (1, 2)


def test_a_keeper_that_cannot_write_itself_down_never_runs_its_job(any_bench: AnyBench) -> None:
    folder = any_bench.folder / "job"
    folder.mkdir()
    (folder / keeper.KEEPER_FILE).mkdir()  # a rename onto a folder fails
    job = any_bench.launcher.start(Order(folder, ("/bin/sh", "-c", "touch ran"), {}), any_bench.lease())
    job._about = None
    assert select.select([job], [], [], 60)[0]
    (folder / keeper.KEEPER_FILE).rmdir()
    ending = any_bench.wait(job)
    assert ending.exit_status is None
    assert "Error" in ending.note
    assert not (any_bench.folder / "ran").exists()


def test_a_stop_before_the_keeper_is_known_prevents_the_job(any_bench: AnyBench) -> None:
    folder = any_bench.folder / "job"
    folder.mkdir()
    (folder / keeper.STOP_FILE).write_text("stop")
    job = any_bench.launcher.start(Order(folder, ("/bin/sh", "-c", "touch ran"), {}), any_bench.lease())
    ending = any_bench.wait(job)
    assert ending.asked is StopReason.STOP
    assert not (any_bench.folder / "ran").exists()


def test_a_job_that_never_was(any_bench: AnyBench) -> None:
    folder = any_bench.folder / "nothing"
    folder.mkdir()
    assert any_bench.launcher.adopt(folder, any_bench.lease()) is None
    assert any_bench.launcher.read(folder).note == "it was never started"


def test_a_folder_that_is_gone_is_an_error_with_nothing_open(any_bench: AnyBench) -> None:
    lease = os.open(any_bench.folder / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    with pytest.raises(MachineError, match="cannot start a job"):
        any_bench.launcher.start(Order(any_bench.folder / "no", ("/bin/true",), {}), any_bench.lease(lease))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lease)


def test_huge_command_lines_and_environments(any_bench: AnyBench) -> None:
    argument = "x" * 131_000
    job = any_bench.start(
        sys.executable,
        "-c",
        "import sys, os; print(len(sys.argv[1]), len(os.environ['BIG']))",
        argument,
        environment={"BIG": "y" * 100_000},
    )
    any_bench.wait(job)
    assert (job.folder / "stdout").read_text() == "131000 100000\n"


def test_a_job_that_has_ended_cannot_be_asked_to(any_bench: AnyBench) -> None:
    waits = "while not os.path.exists('off'): time.sleep(0.01)"
    job = any_bench.python(f"import os, time\nopen('on', 'w').close()\n{waits}\nprint(0.25)")
    about = any_bench.about()
    until((any_bench.folder / "on").exists, "the job to run")
    os.kill(about["pid"], signal.SIGSTOP)  # a machine too busy to run the keeper for a moment
    (any_bench.folder / "off").touch()
    until(lambda: proc.start_ticks(about["job_pid"]) is None, "the job to end by itself")
    any_bench.launcher.stop(job, StopReason.TIMEOUT)
    with contextlib.suppress(ProcessLookupError):  # being asked may wake it, and it is over at once
        os.kill(about["pid"], signal.SIGCONT)
    ending = any_bench.wait(job)
    assert (ending.exit_status, ending.asked) == (0, None)


def test_an_empty_stop_file_still_stops(any_bench: AnyBench) -> None:
    folder = any_bench.folder / "job"
    folder.mkdir()
    (folder / keeper.STOP_FILE).write_text("")
    job = any_bench.launcher.start(Order(folder, ("/bin/sleep", "1000"), {}), any_bench.lease())
    assert any_bench.wait(job).asked is StopReason.STOP


def test_a_job_can_be_stopped_although_its_folder_is_gone(any_bench: AnyBench) -> None:
    job = any_bench.start("/bin/sleep", "1000")
    any_bench.about()
    until(lambda: job.running_s() > 0, "it to be seen running")
    job.folder.rename(any_bench.folder / "moved")
    any_bench.launcher.stop(job, StopReason.STOP)
    (any_bench.folder / "moved").rename(job.folder)
    assert any_bench.wait(job).asked is StopReason.STOP


BY_SIGNAL = "import time\nopen('on', 'w').close()\ntime.sleep(1000)"
BY_HANDLER = f"import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n{BY_SIGNAL}"


@pytest.mark.parametrize("code", [BY_SIGNAL, BY_HANDLER], ids=["by the signal", "by its handler"])
@pytest.mark.parametrize("job_first", [True, False])
def test_a_machine_that_goes_down_fails_no_job(any_bench: AnyBench, code: str, job_first: bool) -> None:
    job = any_bench.python(code)
    until((any_bench.folder / "on").exists, "the job to run")
    about = any_bench.about()
    pids = [about["job_pid"], about["pid"]]
    for pid in pids if job_first else reversed(pids):
        with contextlib.suppress(ProcessLookupError):  # the keeper may have ended its job already
            os.kill(pid, signal.SIGTERM)
    ending = any_bench.wait(job)
    if ending.was_taken_away:  # an engine ends jobs by the same signal
        assert (ending.asked, ending.exit_status) == (None, None)
    else:
        assert ending.asked is StopReason.STOP
        assert ending.exit_status in (-15, 143)


def test_a_job_that_crashes_by_itself_is_not_called_stopped(any_bench: AnyBench) -> None:
    ending = any_bench.wait(any_bench.start("/bin/sh", "-c", "kill -TERM $$"))
    assert (ending.exit_status, ending.asked) == (-15, None)


# What is of this machine.


def those_who_wait(bench: LocalBench) -> tuple[int, list[int]]:
    """Pids of the fork server, and of the keeper that waits with its job to be."""
    first = bench.start("/bin/true")
    bench.wait(first)
    assert first.about is not None
    until(lambda: not first.about.keeper.is_alive(), "the first keeper to go")  # type: ignore[union-attr]
    server = bench.launcher._server.pid
    assert server is not None
    until(lambda: len(proc.descendants(server)) == 2, "the next keeper to wait, with its job to be")
    return server, proc.descendants(server)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LocalBench]:
    found = LocalBench(tmp_path)
    yield found
    found.close()


def test_a_keeper_that_its_job_has_stopped_hears_all_the_same_of_its_end(
    bench: LocalBench,
) -> None:
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGSTOP); time.sleep(1000)"
    for reason in StopReason:
        job = bench.python(code)
        pid = bench.about()["pid"]
        until(partial(proc.is_stopped, pid), "the keeper to be stopped")
        bench.launcher.stop(job, reason)
        ending = bench.wait(job)
        assert (ending.exit_status, ending.asked) == (-signal.SIGTERM, reason)


def test_its_lease_is_held_until_the_last_descendant_is_gone(bench: LocalBench) -> None:
    path = bench.folder / "lease"
    lease = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lease, fcntl.LOCK_EX)
    job = bench.start(
        "/bin/sh",
        "-c",
        "setsid sh -c 'trap \"\" TERM; touch on; while :; do sleep 1; done' & while [ ! -e on ]; do sleep "
        "0.01; done",
        leases=(lease,),
    )
    with path.open() as mine:
        until((bench.folder / "on").exists, "the daemon to run")
        with pytest.raises(BlockingIOError):
            fcntl.flock(mine, fcntl.LOCK_SH | fcntl.LOCK_NB)
        bench.launcher.stop(job, StopReason.STOP)
        ending = bench.wait(job)
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert ending.leftovers


def test_a_pid_of_an_earlier_boot_or_start_is_not_adopted(bench: LocalBench) -> None:
    job = bench.start("/bin/true")
    bench.wait(job)
    path = job.folder / keeper.KEEPER_FILE
    about = json.loads(path.read_text())
    here = ProcessId.of(os.getpid())
    assert here is not None
    for changed in (
        {"pid": here.pid, "start_ticks": here.start_ticks - 1},
        {"pid": here.pid, "start_ticks": here.start_ticks, "boot_id": "an earlier boot"},
    ):
        path.write_text(json.dumps({**about, **changed}))
        assert bench.launcher.adopt(job.folder, Lease(SLOT, ())) is None


def test_a_job_of_another_machine_is_not_called_lost(bench: LocalBench) -> None:
    job = bench.start("/bin/true")
    bench.wait(job)
    path = job.folder / keeper.KEEPER_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another", "host": "elsewhere"}))
    with pytest.raises(MachineError, match="elsewhere"):
        bench.launcher.adopt(job.folder, Lease(SLOT, ()))


def test_strays_of_others_are_spared(bench: LocalBench) -> None:
    job = bench.start("/bin/sleep", "1000", environment={"HYPERBAND_TRIAL": "1"})
    until(lambda: job.about is not None, "the keeper to write itself down")
    assert job.about is not None
    folder = bench.folder / "another"
    folder.mkdir()
    assert end_strays(session=job.about.job_pid, marks={"HYPERBAND_TRIAL": "2"}, folder=folder) == []
    assert proc.start_ticks(job.about.job_pid) is not None
    bench.launcher.stop(job, StopReason.STOP)
    bench.wait(job)


def test_a_result_cut_short_by_a_power_cut_is_lost(bench: LocalBench) -> None:
    job = bench.start("/bin/true")
    bench.wait(job)
    (job.folder / keeper.RESULT_FILE).write_text('{"exit_sta')
    assert bench.launcher.read(job.folder).exit_status is None


def test_processes_are_named_for_ever() -> None:
    here = ProcessId.of(os.getpid())
    assert here is not None
    assert here.is_alive()
    later = ProcessId(here.pid, here.start_ticks + 1, here.boot_id, here.pid_namespace)
    assert not later.is_alive()
    assert later.open() is None
    assert not later.signal(0)
    assert here.signal(0)
    assert ProcessId.of(2**22 + 1) is None


def test_zombies_are_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    until(lambda: proc.start_ticks(pid) is None, "the child to end")
    assert proc.parent(pid) is None
    os.waitpid(pid, 0)


def test_a_killed_waiting_keeper_is_replaced(bench: LocalBench) -> None:
    server, waiting = those_who_wait(bench)
    os.kill(waiting[0], signal.SIGKILL)
    until(lambda: len(set(proc.descendants(server)) - set(waiting)) == 2, "another to wait in its place")
    assert bench.wait(bench.start("/bin/sh", "-c", "exit 4")).exit_status == 4


def test_nothing_waits_once_the_launcher_is_closed(bench: LocalBench) -> None:
    server, waiting = those_who_wait(bench)
    bench.launcher.close()
    until(lambda: all(proc.start_ticks(pid) is None for pid in waiting), "both to end")
    assert proc.start_ticks(server) is None


def test_a_job_of_another_container_is_neither_adopted_nor_called_lost(bench: LocalBench) -> None:
    job = bench.start("/bin/sh", "-c", "while [ ! -e off ]; do sleep 0.01; done")
    until(lambda: job.about is not None, "the keeper to write itself down")
    path = job.folder / keeper.KEEPER_FILE
    # in place, as the keeper's lock is on this very file
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid_namespace": 1}))
    with pytest.raises(MachineError, match="container"):
        bench.launcher.adopt(job.folder, Lease(SLOT, ()))
    (bench.folder / "off").touch()
    bench.wait(job)
    (job.folder / keeper.RESULT_FILE).unlink()
    assert bench.launcher.adopt(job.folder, Lease(SLOT, ())) is None
    assert "container" in bench.launcher.read(job.folder).note


def test_output_that_a_power_cut_ate_is_not_trusted(bench: LocalBench) -> None:
    job = bench.python("print(1.0585)")
    bench.wait(job)
    path = job.folder / keeper.KEEPER_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "the boot before"}))
    assert bench.launcher.read(job.folder).exit_status == 0
    (job.folder / "stdout").write_text("1.0")
    assert bench.launcher.read(job.folder).exit_status is None
    (job.folder / "stdout").write_text("")
    assert bench.launcher.read(job.folder).exit_status is None


def test_whoever_reads_along_is_spared(bench: LocalBench) -> None:
    job = bench.start("/bin/sleep", "1000")
    until(lambda: job.about is not None, "the keeper to write itself down")
    assert job.about is not None
    with subprocess.Popen(["tail", "-f", job.folder / "stdout"], stdout=subprocess.DEVNULL) as reader:
        until(lambda: job.folder / "stdout" in opened_by(reader.pid), "tail to open it")
        os.kill(job.about.keeper.pid, signal.SIGKILL)
        bench.wait(job)
        assert reader.poll() is None
        reader.kill()


def opened_by(pid: int) -> list[Path]:
    return [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_job_killed_before_it_took_its_request_was_asked_to_stop(bench: LocalBench) -> None:
    # the process that would become the job is stopped: it cannot have read the request when it is killed
    _, (waiting, to_be) = those_who_wait(bench)
    assert proc.parent(to_be) == waiting
    os.kill(to_be, signal.SIGSTOP)
    folder = bench.folder / "job-asked"
    folder.mkdir()
    (folder / keeper.STOP_FILE).write_text("timeout")
    job = bench.launcher.start(Order(folder, ("/bin/true",), {}), Lease(SLOT, ()))
    ending = bench.wait(job)
    assert (ending.asked, ending.exit_status, ending.note) == (StopReason.TIMEOUT, -signal.SIGKILL, "")


FORK_FAILS = """
import os, sys
sys.path.append(sys.argv[1])
from hyperband.machine import fork_server
real, n = os.fork, 0
def fork():
    global n
    n += 1
    if os.path.exists("full"):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real()
os.fork = fork
fork_server.main()
"""


def test_a_machine_without_room_for_processes_says_so(
    bench: LocalBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperband.machine.process._SERVE", FORK_FAILS)
    (bench.folder / "full").touch()
    job = bench.start("/bin/true")
    ending = bench.wait(job)
    assert ending.never_ran
    assert "no process" in ending.note
    (bench.folder / "full").unlink()
    assert bench.wait(bench.start("/bin/sh", "-c", "exit 6")).exit_status == 6


def test_signals_to_those_who_wait_are_not_spent_on_the_next_job(bench: LocalBench) -> None:
    for pid in those_who_wait(bench)[1]:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    ending = bench.wait(bench.start("/bin/sh", "-c", "exit 3"))
    assert (ending.exit_status, ending.asked) == (3, None)


def test_a_patience_beyond_all_clocks(tmp_path: Path) -> None:
    bench = LocalBench(tmp_path, grace_s=1e300)
    job = bench.start("/bin/sleep", "1000")
    bench.launcher.stop(job, StopReason.STOP)
    assert bench.wait(job).asked is StopReason.STOP
    bench.launcher.close()
    os.close(bench.lock)
