"""Jobs on other machines: who has an attempt, when it is over, and that nothing runs twice."""

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from launch_fixture import SLOT, LocalCarriers, RemoteBench
from other_pythons import find_python
from search_fixture import until

from hyperband.errors import InternalError, MachineError
from hyperband.folder import NODE_FOLDER
from hyperband.launch.base import Lease, StopReason
from hyperband.launch.remote.carrier import Carrier, Room
from hyperband.launch.remote.files import LeaseWatch, Ordered, Sight, claim_for_search
from hyperband.launch.remote.launcher import RemoteLauncher
from hyperband.launch.remote.patrol import Patrol
from hyperband.launch.remote.shipping import ship
from hyperband.machine import becoming, claim, keeper, proc
from hyperband.machine.next_signal import next_signal
from hyperband.machine.node_keeper import NODE_SIGNALS

#: leases in tests: short, but long enough for a machine with little time for us
LEASE_S, MARGIN_S = 1.0, 0.4
TICKS = "import time\nwhile True:\n    open('ticks', 'a').write('.')\n    time.sleep(0.01)"
#: ticks of a job whose keeper is about to be given some processor time; of a lease there are twice as many
A_MOMENT = 50
#: waits for the word to end
HELD = "import os, time\nwhile not os.path.exists('off'):\n    time.sleep(0.01)\nprint(0.25)"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RemoteBench]:
    found = RemoteBench(tmp_path, lease_s=LEASE_S, margin_s=MARGIN_S)
    yield found
    found.close()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[RemoteBench]:
    """A bench whose leases last longer than any test: what ends a job is something else."""
    found = RemoteBench(tmp_path, lease_s=600.0, margin_s=600.0)
    yield found
    found.close()


@pytest.fixture
def queued(bench: RemoteBench, monkeypatch: pytest.MonkeyPatch) -> RemoteBench:
    """A bench whose engine only puts jobs into a queue, from which a test takes them by run_node()."""
    monkeypatch.setattr(bench.carriers, "carry", lambda *_: Carrier(label="77", is_told=True))
    return bench


def run_node(bench: RemoteBench, folder: Path, attempt: str | None = None) -> "subprocess.Popen[bytes]":
    """Have a node run an attempt, as a batch job does."""
    if attempt is None:
        ordered = Ordered.read(folder)
        assert ordered is not None
        attempt = ordered.attempt
    return subprocess.Popen([*bench.carriers.argv, str(folder), attempt], stdin=subprocess.DEVNULL)


def pids(bench: RemoteBench) -> tuple[int, int, int]:
    """Of the warden, the keeper and the job that were started last."""
    about = bench.about()
    warden = proc.parent(about["pid"])
    assert warden is not None
    return warden, about["pid"], about["job_pid"]


def is_gone(pid: int) -> bool:
    return proc.start_ticks(pid) is None


def n_ticks(bench: RemoteBench) -> int:
    return (bench.folder / "ticks").stat().st_size if (bench.folder / "ticks").exists() else 0


def n_renewals(folder: Path) -> int:
    return int((folder / claim.LEASE_FILE).read_bytes().split()[0])


# Whose an attempt is.


def test_a_node_that_is_second_never_runs_it(queued: RemoteBench) -> None:
    job = queued.start("/bin/sh", "-c", "touch ran")
    assert claim_for_search(job.folder, job.attempt, "no patience")
    assert run_node(queued, job.folder).wait() == 0
    ending = queued.wait(job)
    assert (ending.never_ran, ending.exit_status, ending.note) == (True, None, "no patience")
    assert not (queued.folder / "ran").exists()


def test_a_search_that_is_second_does_not_get_it(bench: RemoteBench) -> None:
    job = bench.start("/bin/sh", "-c", "while [ ! -e off ]; do sleep 0.01; done; exit 5")
    bench.about()
    assert not claim_for_search(job.folder, job.attempt, "no patience")
    (bench.folder / "off").touch()
    assert bench.wait(job).exit_status == 5


def contend(folder: str, n: int, at: float) -> bool:
    while time.time() < at:
        pass
    return claim.claim(folder, {"token": str(n)})


def test_of_many_who_claim_at_once_one_succeeds(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for n in range(10):
            folder = tmp_path / str(n)
            folder.mkdir()
            at = time.time() + 0.02
            won = pool.starmap(contend, [(str(folder), k, at) for k in range(4)])
            assert sum(won) == 1
            assert os.listdir(folder) == [claim.CLAIM_FILE]  # noqa: PTH208
        pool.close()
        pool.join()


def test_a_claim_whose_answer_was_lost_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def asked_twice(source: str, target: str) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", asked_twice)
    assert claim.claim(str(tmp_path), {"token": "a"})
    assert not claim.claim(str(tmp_path), {"token": "b"})


def test_a_node_told_of_an_attempt_whose_folder_another_has_now_runs_nothing(queued: RemoteBench) -> None:
    job = queued.start("/bin/sh", "-c", "touch ran")
    assert run_node(queued, job.folder, "an earlier one").wait() == 3
    assert not (job.folder / claim.CLAIM_FILE).exists()
    queued.launcher.stop(job, StopReason.STOP)
    ending = queued.wait(job)
    assert (ending.never_ran, ending.asked, ending.exit_status) == (True, StopReason.STOP, -signal.SIGTERM)
    assert queued.carriers.let_go_of == ["77"]


def test_the_order_is_for_its_owner_alone(queued: RemoteBench) -> None:
    job = queued.start("/bin/true", environment={"TOKEN": "secret"})
    assert (job.folder / claim.ORDER_FILE).stat().st_mode & 0o077 == 0
    queued.launcher.stop(job, StopReason.STOP)
    queued.wait(job)


# Carriers.


def test_one_that_waits_and_is_never_told_ends_with_its_input(bench: RemoteBench) -> None:
    waiting = bench.carriers.wait_ahead()
    assert waiting.process is not None
    time.sleep(0.1)
    assert not waiting.has_ended()
    waiting.dismiss()
    until(waiting.has_ended, "it to end")
    assert os.waitpid(waiting.process.pid, 0)[1] == 0
    assert {path.name for path in bench.folder.iterdir()} == {"carriers.err", NODE_FOLDER}


def test_one_that_waits_is_used_and_its_end_wakes_us(bench: RemoteBench) -> None:
    bench.carriers.wait_ahead()
    job = bench.start("/bin/sh", "-c", "exit 5")
    assert bench.carriers.standby is None
    assert bench.wait(job).exit_status == 5


def test_the_end_of_its_input_means_nothing_once_there_is_a_job(bench: RemoteBench) -> None:
    job = bench.start("/bin/sh", "-c", "while [ ! -e off ]; do sleep 0.01; done; exit 5")
    bench.about()
    assert job.carrier is not None
    job.carrier.dismiss()
    time.sleep(1.1 * LEASE_S)
    (bench.folder / "off").touch()
    assert bench.wait(job).exit_status == 5


def test_one_that_dies_before_it_got_there_ran_nothing_and_says_why(bench: RemoteBench) -> None:
    bench.carriers.argv = ("/bin/sh", "-c", "echo 'srun: error: Invalid job id' >&2; exit 1")
    ending = bench.wait(bench.start("/bin/true"))
    assert ending.never_ran
    assert "Invalid job id" in ending.note


def test_one_that_was_killed_while_it_waited_ran_nothing(bench: RemoteBench) -> None:
    waiting = bench.carriers.wait_ahead()
    waiting.kill()
    until(waiting.has_ended, "it to end")
    assert bench.wait(bench.start("/bin/true")).never_ran


def wait_in_pairs(bench: RemoteBench) -> tuple[int, int]:
    """Have a node wait; return the pids of the keeper and of the process that is to be its job."""
    waiting = bench.carriers.wait_ahead()
    assert waiting.process is not None
    warden = waiting.process.pid
    until(lambda: len(proc.descendants(warden)) == 2, "a keeper and its job to be")
    kept, to_be = proc.descendants(warden)
    return kept, to_be


def test_in_the_place_of_a_keeper_that_was_killed_while_it_waited_is_another(bench: RemoteBench) -> None:
    kept, _ = wait_in_pairs(bench)
    os.kill(kept, signal.SIGKILL)
    until(lambda: is_gone(kept), "its end")
    assert bench.wait(bench.start("/bin/sh", "-c", "exit 5")).exit_status == 5


def test_a_job_to_be_that_was_killed_while_it_waited_never_ran(bench: RemoteBench) -> None:
    _, to_be = wait_in_pairs(bench)
    os.kill(to_be, signal.SIGKILL)
    until(lambda: is_gone(to_be), "its end")
    assert bench.wait(bench.start("/bin/true")).never_ran


def test_what_is_sent_to_all_that_wait_is_not_meant_for_the_job_to_come(bench: RemoteBench) -> None:
    kept, to_be = wait_in_pairs(bench)
    time.sleep(0.2)  # no event tells that they wait
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(kept, number)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTSTP):
        os.kill(to_be, number)
    ending = bench.wait(bench.start("/bin/sh", "-c", "exit 5"))
    assert (ending.exit_status, ending.asked) == (5, None)


def test_a_keeper_says_that_its_job_is_over_if_it_is_asked_to(queued: RemoteBench) -> None:
    job = queued.start("/bin/true")
    with subprocess.Popen(
        queued.carriers.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        assert node.stdout.readline() == f"{claim.WAITS}\n"
        about = {"folder": str(job.folder), "attempt": job.attempt, "says_over": True}
        print(json.dumps(about), file=node.stdin, flush=True)
        assert node.stdout.readline() == f"{claim.OVER}\n"
        assert json.loads((job.folder / keeper.RESULT_FILE).read_text())["exit_status"] == 0
    assert queued.wait(job).exit_status == 0


def test_a_result_that_was_told_of_stays_whatever_becomes_of_its_keeper(queued: RemoteBench) -> None:
    job = queued.start("/bin/true")
    with subprocess.Popen(
        queued.carriers.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdout.readline()
        about = {"folder": str(job.folder), "attempt": job.attempt, "says_over": True}
        print(json.dumps(about), file=node.stdin, flush=True)
        assert node.stdout.readline() == f"{claim.OVER}\n"
        # it stays for a moment
        os.kill(json.loads((job.folder / keeper.KEEPER_FILE).read_text())["pid"], signal.SIGKILL)
    assert queued.wait(job).exit_status == 0


def test_who_waits_may_do_so_on_any_descriptor() -> None:
    low = os.eventfd(1)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
    os.close(low)
    with os.fdopen(high, "rb", buffering=0) as awaited:
        becoming.rehearse(awaited)


def test_a_stop_reaches_a_job_without_a_carrier_by_its_file(queued: RemoteBench) -> None:
    job = queued.python("open('on', 'w').close()\nimport time; time.sleep(1000)")
    with run_node(queued, job.folder):
        until((queued.folder / "on").exists, "the job to run")
        queued.launcher.stop(job, StopReason.TIMEOUT)
        ending = queued.wait(job)
    assert (ending.exit_status, ending.asked) == (-signal.SIGTERM, StopReason.TIMEOUT)


# Leases and fences.


def test_a_warden_that_hangs_ends_the_job(bench: RemoteBench) -> None:
    job = bench.python(TICKS)
    warden, _, job_pid = pids(bench)
    os.kill(warden, signal.SIGSTOP)  # as if it hung in the file system
    until(lambda: is_gone(job_pid), "the keeper to end it")
    ending = bench.wait(job)
    assert ending.exit_status is None
    assert not ending.never_ran
    assert "could not be renewed" in ending.note
    os.kill(warden, signal.SIGCONT)


def test_a_job_that_stops_its_warden_or_keeper_is_told_from_a_node_in_trouble(bench: RemoteBench) -> None:
    """Lost for ever it must not be, nor keep its slot: both count as those that kill them."""
    for who in ("os.getppid()", "int(open(f'/proc/{os.getppid()}/stat').read().split()[3])"):
        # the parent of a job is its keeper, and the keeper's the warden
        job = bench.python(f"import os, signal\nos.kill({who}, signal.SIGSTOP)\n{TICKS}")
        warden, keeper_pid, job_pid = pids(bench)
        ending = bench.wait(job)
        assert (ending.exit_status, ending.never_ran, ending.lost_keeper) == (None, False, True), who
        assert "stopped" in ending.note
        assert is_gone(job_pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(warden, signal.SIGCONT)
        until(partial(is_gone, keeper_pid), "the keeper to go")


def test_a_keeper_that_its_job_has_stopped_hears_that_the_job_is_to_end(patient: RemoteBench) -> None:
    job = patient.python(f"import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\n{TICKS}")
    _, keeper_pid, _ = pids(patient)
    until(lambda: proc.is_stopped(keeper_pid), "the keeper to be stopped")
    patient.launcher.stop(job, StopReason.STOP)
    assert patient.wait(job).asked is StopReason.STOP


def test_a_node_that_stood_still_is_not_taken_for_a_job_that_stops_its_warden(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.launcher, "_is_excused", lambda *_: True)
    job = bench.python(TICKS)
    until(lambda: n_ticks(bench) > 0, "the job to run")
    stopped = pids(bench)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(LEASE_S + 0.1)  # the clock of leases goes on
    n = n_ticks(bench)
    for pid in reversed(stopped):  # the warden last
        os.kill(pid, signal.SIGCONT)
    until(lambda: n_ticks(bench) > n + 10, "the job to go on")
    bench.launcher.stop(job, StopReason.STOP)
    ending = bench.wait(job)
    assert (ending.asked, ending.lost_keeper) == (StopReason.STOP, False)


def test_a_warden_that_is_killed_ends_the_job_at_once(patient: RemoteBench) -> None:
    job = patient.python(TICKS)
    until(lambda: n_ticks(patient) > 0, "the job to run")
    warden, _, job_pid = pids(patient)
    os.kill(warden, signal.SIGKILL)
    until(lambda: is_gone(job_pid), "the keeper to end it")
    ending = patient.wait(job)
    assert (ending.exit_status, ending.never_ran, ending.lost_keeper) == (None, False, True)
    assert "killed" in ending.note


def test_a_keeper_that_was_killed_is_told_from_what_it_ran_in(bench: RemoteBench) -> None:
    job = bench.python(TICKS)
    until(lambda: n_ticks(bench) > 0, "the job to run")
    _, keeper, _ = pids(bench)
    os.kill(keeper, signal.SIGKILL)
    ending = bench.wait(job)
    assert (ending.exit_status, ending.never_ran, ending.lost_keeper) == (None, False, True)


def test_a_node_that_comes_back_ends_its_job_and_is_not_believed(bench: RemoteBench) -> None:
    job = bench.python(TICKS)
    frozen = pids(bench)
    until(lambda: n_ticks(bench) > 0, "the job to run")
    until((job.folder / claim.LEASE_FILE).is_file, "its lease to be renewed")
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    ending = bench.wait(job)
    assert ending.exit_status is None
    assert "lease" in ending.note
    n = n_ticks(bench)
    with contextlib.suppress(ProcessLookupError):
        for pid in reversed(frozen[:2]):
            os.kill(pid, signal.SIGCONT)
    until(lambda: is_gone(frozen[2]), "the job to be ended")
    assert n_ticks(bench) == n
    until(lambda: is_gone(frozen[0]), "the warden to go")
    found = bench.launcher.read(job.folder)
    assert found.exit_status is None
    assert 0 < (found.ran_s or 0) < 5 * LEASE_S, "its lease tells for how long it ran"
    assert bench.launcher.adopt(job.folder, Lease(SLOT, ())) is None


def stopped_for(bench: RemoteBench, pause_s: float) -> list[int]:
    """Stop the job that runs, with its warden and keeper, as an engine does that suspends it."""
    until(lambda: n_ticks(bench) > 0, "the job to run")
    until((bench.latest / claim.LEASE_FILE).is_file, "its lease to be renewed")
    frozen = [*pids(bench)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(pause_s)
    return frozen


def test_a_job_that_was_stopped_with_its_keeper_goes_on_when_nobody_gave_it_up(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.launcher, "_is_excused", lambda *_: True)
    job = bench.python(TICKS)
    frozen = stopped_for(bench, LEASE_S + 2 * MARGIN_S)
    n, lease = n_ticks(bench), (job.folder / claim.LEASE_FILE).read_bytes()
    for pid in reversed(frozen):  # the job first: its keeper holds it until its lease is renewed
        os.kill(pid, signal.SIGCONT)
    until(lambda: (job.folder / claim.LEASE_FILE).read_bytes() != lease, "its lease to be renewed")
    until(lambda: n_ticks(bench) > n + 20, "the job to go on")
    # from then on it is a job like any other: a warden that hangs ends it
    os.kill(frozen[0], signal.SIGSTOP)
    until(lambda: is_gone(frozen[2]), "the keeper to end it")
    os.kill(frozen[0], signal.SIGCONT)
    ending = bench.wait(job)
    assert ending.exit_status is None
    assert "could not be renewed" in ending.note


def test_a_job_that_was_given_up_while_it_was_stopped_writes_nothing_more(bench: RemoteBench) -> None:
    job = bench.python(TICKS)
    frozen = stopped_for(bench, 0.0)
    assert bench.wait(job).exit_status is None
    n = n_ticks(bench)
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until(lambda: is_gone(frozen[2]), "the job to be ended")
    assert n_ticks(bench) <= n + A_MOMENT, (
        "between the word to go on and its keeper's it has a moment at most"
    )
    until(lambda: is_gone(frozen[0]), "the warden to go")
    assert bench.launcher.read(job.folder).exit_status is None


def test_a_job_that_was_stopped_where_its_folder_cannot_be_reached_ends_in_time(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.launcher, "_is_excused", lambda *_: True)
    job = bench.python(TICKS)
    warden, keeper_pid, job_pid = stopped_for(bench, 1.2 * LEASE_S)
    n = n_ticks(bench)
    began_s = time.monotonic()
    for pid in (keeper_pid, job_pid):  # its warden hangs on
        os.kill(pid, signal.SIGCONT)
    until(lambda: is_gone(job_pid), "the keeper to end it")
    assert time.monotonic() - began_s > 0.5 * LEASE_S, "its warden had the time to go on"
    assert n_ticks(bench) <= n + A_MOMENT
    os.kill(warden, signal.SIGCONT)
    assert bench.wait(job).exit_status is None


def test_a_result_that_comes_after_the_fence_is_refused(bench: RemoteBench) -> None:
    job = bench.python(HELD)
    warden, keeper_pid, job_pid = pids(bench)
    for pid in (warden, keeper_pid):
        os.kill(pid, signal.SIGSTOP)
    (bench.folder / "off").touch()
    until(lambda: is_gone(job_pid), "the job to end by itself")
    assert bench.wait(job).exit_status is None
    for pid in (keeper_pid, warden):
        os.kill(pid, signal.SIGCONT)
    path = job.folder / keeper.RESULT_FILE
    until(path.is_file, "the late result")
    late = json.loads(path.read_text())
    assert (late["exit_status"], late["fenced"]) == (0, "")
    ending = bench.launcher.read(job.folder)
    assert ending.exit_status is None
    assert "lease" in ending.note


def test_a_job_that_ended_well_while_it_was_being_given_up_counts(patient: RemoteBench) -> None:
    job = patient.python(HELD)
    _, keeper_pid, job_pid = pids(patient)
    os.kill(keeper_pid, signal.SIGSTOP)
    (patient.folder / "off").touch()
    until(lambda: is_gone(job_pid), "the job to end by itself")
    patient.launcher.give_up(job, "its node failed")
    until((job.folder / keeper.STOP_FILE).is_file, "the fence to begin")
    os.kill(keeper_pid, signal.SIGCONT)
    assert patient.wait(job).exit_status == 0


def test_a_job_whose_engine_is_gone_is_ended_without_grace(bench: RemoteBench) -> None:
    job = bench.python(f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{TICKS}")
    until(lambda: n_ticks(bench) > 0, "the job to run")
    job_pid = bench.about()["job_pid"]
    bench.launcher.give_up(job, "node n2 failed")
    ending = bench.wait(job)
    assert (ending.exit_status, ending.lost_keeper) == (None, False)
    assert is_gone(job_pid)
    assert "given it up" in ending.note


def test_a_job_of_which_nothing_is_left_for_sure_is_lost_at_once(patient: RemoteBench) -> None:
    job = patient.python(TICKS)
    all_pids = pids(patient)
    for pid in all_pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in all_pids:
        os.kill(pid, signal.SIGKILL)
    patient.launcher.give_up(job, "its step has ended", is_proven=True)
    ending = patient.wait(job)
    assert (ending.exit_status, ending.never_ran) == (None, False)
    # its carrier ended as well, and may be seen first
    assert patient.launcher.read(job.folder).note in (
        "its step has ended",
        "what carried it to its node ended without a result",
    )


def test_a_job_whose_engine_is_gone_before_it_began_is_over_at_once(
    patient: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient.carriers, "carry", lambda *_: Carrier(label="77", is_told=True))
    job = patient.start("/bin/sh", "-c", "touch ran")
    patient.launcher.give_up(job, "node n2 failed")
    ending = patient.wait(job)
    assert (ending.never_ran, ending.note) == (True, "node n2 failed")
    assert run_node(patient, job.folder).wait() == 0
    assert not (patient.folder / "ran").exists()


def test_who_tells_of_an_end_does_not_hang_in_its_folder(queued: RemoteBench) -> None:
    job = queued.start("/bin/sh", "-c", "touch ran")
    watched = queued.launcher._patrol._rounds
    until(lambda: job in watched and watched[job].look_at_s > 0, "the first look")
    hangs = job.folder / claim.CLAIM_FILE
    os.mkfifo(hangs)  # whoever reads it waits for somebody who writes
    telling = threading.Thread(target=queued.launcher.look_now, args=(job, "its slot ended"), daemon=True)
    telling.start()
    telling.join(10.0)
    has_hung = telling.is_alive()
    writer = os.open(hangs, os.O_RDWR)
    hangs.unlink()
    os.close(writer)
    assert not has_hung
    assert queued.wait(job).note == "its slot ended"


def test_a_job_of_a_killed_carrier_is_fenced(queued: RemoteBench, monkeypatch: pytest.MonkeyPatch) -> None:
    # as an srun that is killed: what it carried is another process, which goes on
    carrying = LocalCarriers(queued.folder, waits=False)
    carrying.argv = ("/bin/sh", "-c", "exec sleep 1000")
    carrier = carrying.carry(queued.folder, "any", Lease(SLOT, ()))
    monkeypatch.setattr(queued.carriers, "carry", lambda *_: carrier)
    job = queued.python(TICKS)
    with run_node(queued, job.folder):
        until(lambda: n_ticks(queued) > 0, "the job to run")
        carrier.kill()
        ending = queued.wait(job)
    assert ending.exit_status is None
    assert is_gone(queued.about()["job_pid"])


def test_a_file_system_that_hangs_before_the_job_begins_prevents_it(queued: RemoteBench) -> None:
    job = queued.start("/bin/sh", "-c", "touch ran")
    hangs = queued.folder / "hangs"
    os.mkfifo(hangs)  # whoever opens it waits
    os.link(hangs, job.folder / keeper.STOP_FILE)
    with run_node(queued, job.folder):
        until((job.folder / claim.CLAIM_FILE).is_file, "the claim")
        time.sleep(1.1 * LEASE_S)
        writer = os.open(hangs, os.O_WRONLY | os.O_NONBLOCK)
        (job.folder / keeper.STOP_FILE).unlink()
        os.close(writer)
        ending = queued.wait(job)
    assert ending.exit_status is None
    assert not (queued.folder / "ran").exists()


def test_trouble_with_the_file_system_says_nothing_of_a_job(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.start("/bin/sh", "-c", "exit 5")
    n_looks = 0

    def fails(*_: object) -> Sight:
        nonlocal n_looks
        n_looks += 1
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Sight, "of", fails)
        until(lambda: n_looks >= 3, "the patrol to look")
        assert not job.is_over
    assert bench.wait(job).exit_status == 5


def test_a_patrol_that_fails_says_so(bench: RemoteBench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.start("/bin/true")
    with monkeypatch.context() as patch:
        patch.setattr(Patrol, "_is_over", lambda *_: 1 / 0)
        assert select.select([job], [], [], 60)[0]
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        bench.launcher.finish(job)


def test_a_bad_end_is_told_when_what_carried_the_job_has_ended_too(patient: RemoteBench) -> None:
    """Its last words and how it ended tell whose doing it was."""
    carrying = LocalCarriers(patient.folder, waits=False)
    carrying.argv = ("/bin/sh", "-c", "read end; echo cancelled by somebody >&2; exit 9")
    carrier = carrying.carry(patient.folder, "any", Lease(SLOT, ()))
    patient.carriers.carry = lambda *_: carrier  # type: ignore[method-assign]
    job = patient.start("/bin/sh", "-c", "kill -9 $$")
    with run_node(patient, job.folder):
        until((job.folder / keeper.RESULT_FILE).is_file, "the result")
    patient.launcher._patrol.look(job)
    assert not select.select([job], [], [], 0.2)[0], "it may have more to say"
    carrier.tell("end")
    assert select.select([job], [], [], 60)[0]
    assert carrier.exit_status() == 9
    assert "cancelled by somebody" in carrier.said()
    assert patient.wait(job).exit_status == -signal.SIGKILL


def test_a_job_whose_folder_is_removed_is_ended(bench: RemoteBench) -> None:
    job = bench.python(TICKS)
    _, _, job_pid = pids(bench)
    shutil.rmtree(job.folder)
    until(lambda: is_gone(job_pid), "the keeper to end it")
    assert bench.wait(job).exit_status is None


def test_a_job_whose_folder_is_made_anew_is_ended_at_once(patient: RemoteBench) -> None:
    job = patient.python(TICKS)
    _, _, job_pid = pids(patient)
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    until(lambda: is_gone(job_pid), "the warden to see it")
    assert patient.wait(job).exit_status is None


def test_a_lease_runs_out_by_our_clock_alone() -> None:
    watch = LeaseWatch(patience_s=10.0)
    assert not watch.saw(None, before_s=100.0, after_s=101.0)
    # the same record was there all the time, although nobody looked meanwhile
    assert not watch.saw(None, before_s=111.0, after_s=150.0)
    assert watch.saw(None, before_s=111.1, after_s=150.0)
    # a look that took long may show a record from its beginning
    assert not watch.saw(b"1", before_s=120.0, after_s=160.0)
    assert not watch.saw(b"1", before_s=170.0, after_s=170.0)
    assert watch.saw(b"1", before_s=170.1, after_s=170.1)
    assert not watch.saw(b"2", before_s=1000.0, after_s=1000.0)


#: runs a script on a node whose clock is set back by an hour each time that somebody looks at it
CLOCK_IS_SET_BACK = """
import runpy, sys, time
times = iter(range(2_000_000_000, 0, -3600))
time.time = lambda: float(next(times))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
"""


def test_a_node_whose_clock_is_set_back_renews_its_lease_and_tells_for_how_long_its_job_ran(
    queued: RemoteBench,
) -> None:
    job = queued.python("import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)")
    python, *options, script = queued.carriers.argv
    node = [python, *options, "-c", CLOCK_IS_SET_BACK, script, str(job.folder), job.attempt]
    records: list[tuple[int, float]] = []

    def is_renewed() -> bool:
        with contextlib.suppress(FileNotFoundError):
            counter, age_s = (job.folder / claim.LEASE_FILE).read_text().split()
            records.append((int(counter), float(age_s)))
        return bool(records) and records[-1][0] >= 3

    with subprocess.Popen(node, stdin=subprocess.DEVNULL):
        until(is_renewed, "three renewals")
        (queued.folder / "go").touch()
        found = queued.wait(job)
    assert found.exit_status == 0
    assert records == sorted(records)
    assert records[0][1] >= 0
    assert found.started_at is not None
    assert found.ended_at is not None
    assert 0 < found.ended_at - found.started_at < 60


def test_output_that_did_not_arrive_is_waited_for_and_not_believed_without(queued: RemoteBench) -> None:
    job = queued.python("print(0.25)")
    with run_node(queued, job.folder) as node:
        until((job.folder / keeper.RESULT_FILE).is_file, "the result")
        node.wait()
    assert queued.wait(job).exit_status == 0
    # as a file server shows it that has not heard all yet
    (job.folder / "stdout").write_text("0.2")
    adopted = queued.launcher.adopt(job.folder, Lease(SLOT, ()))
    assert adopted is None
    assert queued.launcher.read(job.folder).exit_status is None


def test_results_of_other_attempts_are_not_seen(bench: RemoteBench) -> None:
    job = bench.python("print(0.25)")
    bench.wait(job)
    path = job.folder / keeper.RESULT_FILE
    result = json.loads(path.read_text())
    for changed in ({"attempt": "another"}, {"token": "another"}):
        path.write_text(json.dumps({**result, **changed}))
        assert Sight.of(job.folder, job.attempt).result is None
        with pytest.raises(MachineError, match="may still be running"):
            bench.launcher.read(job.folder)
    path.write_text("{")
    order = job.folder / claim.ORDER_FILE
    order.write_text(json.dumps({**json.loads(order.read_text()), "lease_s": 0.1}))
    adopted = bench.launcher.adopt(job.folder, Lease(SLOT, ()))
    assert adopted is not None
    ending = bench.wait(adopted)
    assert ending.exit_status is None
    assert "without a sign" in ending.note


# Searches that die.

SEARCH = """
import os, sys, time
from pathlib import Path
from launch_fixture import RemoteBench
bench = RemoteBench(Path(sys.argv[1]), lease_s={lease_s}, margin_s={margin_s})
bench.start("/bin/sh", "-c", "while [ ! -e off ]; do sleep 0.01; done; exit 5")
bench.about()
print("begun", flush=True)
time.sleep(1000)
"""


def killed_search(folder: Path) -> None:
    """A search that starts a job and is killed."""
    code = SEARCH.format(lease_s=LEASE_S, margin_s=MARGIN_S)
    search = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with search:
        assert search.stdout is not None
        assert search.stdout.readline() == b"begun\n"
        search.kill()


def test_a_killed_search_loses_nothing(bench: RemoteBench) -> None:
    killed_search(bench.folder)
    folder = bench.folder / "job-0"
    time.sleep(1.1 * LEASE_S)
    first = bench.launcher.adopt(folder, Lease(SLOT, ()))
    assert first is not None
    assert first.carrier is not None
    assert first.carrier.pidfd is not None
    # and the one after it, which ends in good order without its job
    bench.launcher.close()
    bench.launcher = bench.another()
    second = bench.launcher.adopt(folder, Lease(SLOT, ()))
    assert second is not None
    until(lambda: second.running_s() > LEASE_S, "its age to be known")
    assert second.host
    (bench.folder / "off").touch()
    assert bench.wait(second).exit_status == 5
    assert bench.launcher.adopt(folder, Lease(SLOT, ())) is None


def test_an_adopted_job_without_a_sign_of_its_carrier_goes_on(bench: RemoteBench) -> None:
    killed_search(bench.folder)
    folder = bench.folder / "job-0"
    (
        folder / "carrier.json"
    ).unlink()  # as for one who has no right to see it, or sees it from another machine
    job = bench.launcher.adopt(folder, Lease(SLOT, ()))
    assert job is not None
    assert job.carrier is None
    time.sleep(LEASE_S + 2 * MARGIN_S)
    assert not job.is_over
    (bench.folder / "off").touch()
    assert bench.wait(job).exit_status == 5


def test_an_attempt_that_was_ordered_and_nobody_carries_never_runs(queued: RemoteBench) -> None:
    job = queued.start("/bin/sh", "-c", "touch ran")
    second = queued.another()
    assert second.adopt(job.folder, Lease(SLOT, ())) is None
    ending = second.read(job.folder)
    assert (ending.never_ran, ending.exit_status) == (True, None)
    assert run_node(queued, job.folder).wait() == 0
    assert not (queued.folder / "ran").exists()
    queued.wait(job)
    second.close()


def test_an_attempt_that_still_waits_in_the_queue_is_adopted(queued: RemoteBench) -> None:
    job = queued.start("/bin/sh", "-c", "exit 5")
    queued.carriers.coming.add("77")
    second = queued.another()
    adopted = second.adopt(job.folder, Lease(SLOT, ()))
    assert adopted is not None
    assert adopted.running_s() == 0
    assert not adopted.has_begun
    with run_node(queued, job.folder):
        assert queued.wait(adopted, second).exit_status == 5
        assert queued.wait(job).exit_status == 5
    second.close()


def test_a_search_killed_between_its_claim_and_its_journal_finds_it(queued: RemoteBench) -> None:
    job = queued.start("/bin/true")
    claim_for_search(job.folder, job.attempt, "ended before it began", StopReason.STOP)
    second = queued.another()
    assert second.adopt(job.folder, Lease(SLOT, ())) is None
    ending = second.read(job.folder)
    assert (ending.never_ran, ending.asked) == (True, StopReason.STOP)
    queued.wait(job)
    second.close()


def test_a_folder_that_was_deleted_does_not_keep_jobs_alive(bench: RemoteBench) -> None:
    bench.python(TICKS)
    _, _, job_pid = pids(bench)
    shutil.rmtree(bench.latest)
    bench.launcher.end_all()
    assert is_gone(job_pid)


# What a job finds on its node.


def test_a_job_gets_its_part_of_the_gpus_and_the_environment_of_its_place(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bench.folder / "environment.json"
    there = {"PATH": "/conda/bin", "SLURM_STEP_ID": "batch", "BOTH": "file"}
    environment.write_text(json.dumps({"job_id": 7, "environment": there}))
    for name, value in {"CUDA_VISIBLE_DEVICES": "4,7,9", "SLURM_STEP_ID": "3", "BOTH": "carrier"}.items():
        monkeypatch.setenv(name, value)
    bench.carriers.room_is = Room(
        (0, 2), environment, ("SLURM_*", "CUDA_VISIBLE_DEVICES", "HYPERBAND_TEST_MARK")
    )
    names = ("PATH", "SLURM_STEP_ID", "BOTH", "CUDA_VISIBLE_DEVICES", "NEW", "HOME")
    job = bench.python(f"import os; print([os.environ.get(n) for n in {names}])", environment={"NEW": "1"})
    assert bench.wait(job).exit_status == 0
    assert (job.folder / "stdout").read_text() == "['/conda/bin', '3', 'file', '4,9', '1', None]\n"


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (Room(gpus=(2,)), "it was to have the GPUs"),
        (Room(environment_file=Path("/no/such/file")), "cannot be read"),
    ],
)
def test_a_node_that_cannot_run_a_job_says_why(
    bench: RemoteBench, monkeypatch: pytest.MonkeyPatch, room: Room, words: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    bench.carriers.room_is = room
    ending = bench.wait(bench.start("/bin/true"))
    assert ending.never_ran
    assert words in ending.note


def test_what_was_sent_to_a_process_that_only_waited_does_not_count(tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_text(json.dumps({"argv": ["/bin/true"], "environment": {}}))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NODE_SIGNALS)
    here = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            becoming.become_job(theirs, here)
        finally:
            os._exit(99)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.kill(pid, signal.SIGTERM)
    with ours, theirs, request.open() as words, Path(os.devnull).open("r+b") as nothing:
        socket.send_fds(ours, [b"r"], [words.fileno(), nothing.fileno(), nothing.fileno()])
        ours.send(b"go")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_who_is_stopped_until_its_time_is_over_was_sent_nothing() -> None:
    """Python's sigtimedwait() tells of a signal then that nobody sent."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            wanted = {signal.SIGUSR1, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
            numbers = [next_signal(wanted, wait_s) for wait_s in (0.5, 0.0, 1e-9)]
            os.kill(os.getpid(), signal.SIGTERM)
            code = 0 if [*numbers, next_signal(wanted, 30.0)] == [0, 0, 0, signal.SIGTERM] else 1
        finally:
            os._exit(code)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S", "it to wait")
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    time.sleep(0.7)  # longer than any of its waits
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def be_keeper_of_a_slow_job(folder: Path, ready: int) -> None:
    """Be the keeper of a job that takes its request only after a while."""
    here = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.SIGNALS)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(0.3)
            becoming.become_job(theirs, here)
        finally:
            os._exit(99)
    theirs.close()
    flags = os.O_RDWR | os.O_CREAT
    opened = [os.open(folder / name, flags) for name in ("request", "stdout", "stderr", "lock")]
    opened.insert(1, os.open(folder, os.O_RDONLY))
    keeps = keeper.Keeper(pid, ours, "boot", "host")
    keeps.take([*opened[:4], ready], opened[4])
    keeps.keep()


def test_a_stop_that_comes_while_the_job_takes_its_request_is_not_lost(tmp_path: Path) -> None:
    request = {"argv": ["/bin/sleep", "60"], "environment": {}, "grace_s": 60.0}
    (tmp_path / "request").write_text(json.dumps(request))
    listen, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            be_keeper_of_a_slow_job(tmp_path, ready)
        finally:
            os._exit(0)
    os.close(ready)
    until((tmp_path / keeper.KEEPER_FILE).is_file, "the keeper to write itself down")
    os.kill(pid, keeper.STOP_SIGNAL)
    assert os.read(listen, 10) == keeper.DONE
    os.close(listen)
    os.waitpid(pid, 0)
    result = json.loads((tmp_path / keeper.RESULT_FILE).read_text())
    assert (result["exit_status"], result["asked"]) == (-signal.SIGTERM, "stop")


def test_a_working_directory_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    bench = RemoteBench(tmp_path)
    bench.launcher.close()
    bench.launcher = RemoteLauncher(bench.carriers, cwd=tmp_path / "no", grace_s=1.0)
    ending = bench.wait(bench.start("/bin/true"))
    assert ending.never_ran
    assert "no" in ending.note
    bench.close()


#: whom a batch system sends what: all processes of a step, or only that which it has started itself
TO_WHOM = pytest.mark.parametrize("n_told", [3, 1], ids=["to all", "to the first"])


@TO_WHOM
def test_a_warning_of_the_batch_system_goes_to_the_script_once(bench: RemoteBench, n_told: int) -> None:
    job = bench.python(
        "import os, signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('warned', flush=True))\n"
        "open('on', 'w').close()\nsignal.pause()\n"
        "while not os.path.exists('go'):\n    time.sleep(0.01)"
    )
    until((bench.folder / "on").exists, "the job to run")
    until((job.folder / claim.LEASE_FILE).is_file, "its lease")
    for pid in pids(bench)[:n_told]:
        os.kill(pid, signal.SIGUSR1)
    until(lambda: (job.folder / "stdout").read_text() != "", "the warning")
    # whatever else the warden makes of it comes before its next renewal but one
    n = n_renewals(job.folder)
    until(lambda: n_renewals(job.folder) > n + 1, "two renewals")
    (bench.folder / "go").touch()
    ending = bench.wait(job)
    assert (ending.exit_status, ending.asked) == (0, None)
    assert (job.folder / "stdout").read_text() == "warned\n"


@TO_WHOM
def test_a_batch_system_that_ends_all_of_a_step_asks_for_the_end(bench: RemoteBench, n_told: int) -> None:
    job = bench.python("open('on', 'w').close()\nimport time; time.sleep(1000)")
    until((bench.folder / "on").exists, "the job to run")
    for pid in pids(bench)[:n_told]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    ending = bench.wait(job)
    assert (ending.exit_status, ending.asked) == (-signal.SIGTERM, StopReason.STOP)


@pytest.mark.parametrize("version", ["3.9", "3.12"])
def test_a_node_may_have_another_python(tmp_path: Path, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    bench = RemoteBench(tmp_path, python=str(python))
    job = bench.start("/bin/sh", "-c", "echo out; exit 7")
    assert bench.wait(job).exit_status == 7
    stopped = bench.start("/bin/sleep", "1000")
    bench.about()
    bench.launcher.stop(stopped, StopReason.TIMEOUT)
    assert bench.wait(stopped).asked is StopReason.TIMEOUT
    assert set((tmp_path / "carriers.err").read_text().splitlines()) <= {claim.WAITS}
    bench.close()


def test_what_is_shipped_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    start = ship(tmp_path)
    assert ship(tmp_path) == start
    damaged = start.parent / "hyperband" / "machine" / "node.py"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    assert ship(tmp_path) == start
    assert damaged.read_bytes() == whole
    assert [path.name for path in start.parents[1].iterdir() if not path.name.startswith(".")] == [
        start.parent.name
    ]
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write"):
        ship(tmp_path / "file")


def test_a_file_system_without_hard_links_is_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    with pytest.raises(MachineError, match="hard links"):
        ship(tmp_path)
