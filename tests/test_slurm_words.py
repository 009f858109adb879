"""What Slurm prints is understood: real output of 22.05, that of other versions after their documentation."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband.launch.slurm.words import (
    JobState,
    Refusal,
    Waiting,
    duration_s,
    exit_status_of,
    expanded,
    job_id_of,
    jobs_in_sacct,
    jobs_in_squeue,
    meaning_of,
    means_no_configuration,
    refusal_of,
    said_by,
    site_in_config,
    state_of,
)

DATA = Path(__file__).parent / "slurm"


def test_every_job_that_squeue_lists_is_found() -> None:
    jobs = {job.job_id: job for job in jobs_in_squeue((DATA / "squeue_22.05.txt").read_text())}
    states = {job_id: job.state for job_id, job in jobs.items()}
    assert states == {
        "1": JobState.COMPLETED,
        "2": JobState.FAILED,
        "3": JobState.FAILED,
        "4_0": JobState.RUNNING,
        "4_1": JobState.RUNNING,
        "4_2": JobState.WAITING,
        "4_3": JobState.WAITING,
        "5": JobState.RUNNING,
        "6": JobState.RUNNING,
        "7": JobState.CANCELLED,
        "8": JobState.WAITING,
        "9": JobState.WAITING,
    }
    assert jobs["6"].nodes == ("n1", "n2")
    assert jobs["5"].time_left_s == 598
    assert jobs["5"].comment == "a|b"
    assert jobs["1"].reason == ""
    assert meaning_of(jobs["8"].reason) == Waiting.NEVER
    assert meaning_of(jobs["9"].reason) == Waiting.HELD
    assert jobs["8"].started == ""
    # what nothing but a person, or another job in its place, brings to run
    assert meaning_of("JobHoldMaxRequeue") == Waiting.BROKEN
    assert meaning_of("ReservationDeleted") == Waiting.HELD


def test_a_job_that_lost_its_node_waits_again_and_started_later() -> None:
    before = {job.job_id: job for job in jobs_in_squeue((DATA / "squeue_22.05.txt").read_text())}
    after = {job.job_id: job for job in jobs_in_squeue((DATA / "squeue_22.05_node_down.txt").read_text())}
    assert after["5"].state == JobState.WAITING
    assert after["5"].nodes == ()
    assert meaning_of(after["5"].reason) == Waiting.PASSES
    assert after["5"].started != before["5"].started


def test_the_last_run_of_a_job_counts_in_the_accounts() -> None:
    jobs = {job.job_id: job for job in jobs_in_sacct((DATA / "sacct_22.05.txt").read_text())}
    assert jobs["5"].state == JobState.RUNNING  # its first run ended with its node
    assert jobs["7"].state == JobState.CANCELLED
    assert (jobs["1"].exit_status, jobs["2"].exit_status, jobs["3"].exit_status) == (0, 3, -9)
    assert jobs["8"].nodes == ()
    assert jobs["4_3"].exit_status == 3


def test_columns_that_are_not_known_or_missing_are_no_trouble() -> None:
    printed = (
        "Cluster|State|JobID|Planned|ExitCode\nc1|OUT_OF_MEMORY|12|00:01:00|0:125\n"
        "c1|COMPLETED|12.batch||0:0\n"
    )
    [job] = jobs_in_sacct(printed)
    assert (job.job_id, job.state, job.exit_status, job.nodes) == ("12", JobState.OUT_OF_MEMORY, -125, ())
    assert jobs_in_sacct("") == jobs_in_sacct("Slurm accounting storage is disabled\n") == ()


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("COMPLETING", JobState.ENDING),
        ("PREEMPTED", JobState.PREEMPTED),
        ("DEADLINE", JobState.TIME_LIMIT),
        ("BOOT_FAIL", JobState.NODE_FAILURE),
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY),
        ("REQUEUE_HOLD", JobState.WAITING),
        ("SIGNALING", JobState.RUNNING),
        ("LAUNCH_FAILED", JobState.NODE_FAILURE),  # 23.11
        ("POWER_UP_NODE", JobState.WAITING),  # 23.11
        ("EXPEDITING", JobState.WAITING),  # 25.05
        ("SOMETHING_OF_2031", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_states_of_all_versions(word: str, state: JobState) -> None:
    assert state_of(word) == state


def test_of_a_slurm_that_is_not_there_the_last_words_tell() -> None:
    words = (  # 22.05, seen
        "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
        "squeue: error: fetch_config: DNS SRV lookup failed\n"
        "squeue: error: _establish_config_source: failed to fetch config\n"
        "squeue: fatal: Could not establish a configuration source\n"
    )
    assert said_by(words) == "Could not establish a configuration source"
    assert refusal_of(words) == Refusal.UNREACHABLE
    assert means_no_configuration(said_by(words))
    assert not means_no_configuration("Unable to contact slurm controller (connect failure)")


def test_a_state_that_is_not_known_is_no_end() -> None:
    assert not JobState.UNKNOWN.is_over
    assert not JobState.ENDING.is_over
    assert JobState.GONE.is_over


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        # 22.05, seen
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect"
            " failure)",
            Refusal.UNREACHABLE,
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            Refusal.WRONG,
        ),
        ("sbatch: error: Invalid --time specification", Refusal.WRONG),
        ("sbatch: error: invalid partition specified: nix", Refusal.WRONG),
        # other versions, after their sources' messages
        ("slurm_load_jobs error: Socket timed out on send/recv operation", Refusal.UNREACHABLE),
        ("slurm_load_jobs error: Slurm backup controller in standby mode", Refusal.UNREACHABLE),
        (
            "squeue: fatal: Unable to establish configuration source",
            Refusal.UNREACHABLE,
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job"
            " violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            Refusal.LIMIT,
        ),
        ("sbatch: error: AssocMaxSubmitJobLimit", Refusal.LIMIT),
        # of all who share an account, or a QOS
        (
            "sbatch: error: AssocGrpSubmitJobsLimit\nsbatch: error: Batch job submission failed: Job"
            " violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            Refusal.LIMIT,
        ),
        ("sbatch: error: QOSGrpSubmitJobsLimit", Refusal.LIMIT),
        ("sbatch: error: Batch job submission failed: Message receive failure", Refusal.UNREACHABLE),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination",
            Refusal.WRONG,
        ),
    ],
)
def test_why_a_command_was_refused(words: str, refusal: Refusal) -> None:
    assert refusal_of(words) == refusal


def test_slurms_own_words_come_without_its_programs_names() -> None:
    words = (
        "sbatch: warning: can't honor\nsbatch: error: invalid partition\nsbatch: error: Batch job failed\n"
    )
    assert said_by(words) == "invalid partition; Batch job failed"


@pytest.mark.parametrize(
    ("printed", "job_id"),
    [("15\n", "15"), ("15;cluster\n", "15"), ("sbatch: hello\n16\n", "16"), ("", None), ("no", None)],
)
def test_the_id_of_a_new_job(printed: str, job_id: str | None) -> None:
    assert job_id_of(printed) == job_id


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("9:58", 598),
        ("1:00:00", 3600),
        ("2-03:04:05", 183845),
        ("0:00", 0),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
    ],
)
def test_times_that_are_left(word: str, seconds: float | None) -> None:
    assert duration_s(word) == seconds


@pytest.mark.parametrize(
    ("word", "status"), [("0:0", 0), ("3:0", 3), ("0:9", -9), ("0:125", -125), ("", None), ("1", None)]
)
def test_exit_codes(word: str, status: int | None) -> None:
    assert exit_status_of(word) == status


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("gpu[08-10,12],login1", ["gpu08", "gpu09", "gpu10", "gpu12", "login1"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("a-[1-2]-x", ["a-1-x", "a-2-x"]),
        ("", []),
        ("None assigned", []),
    ],
)
def test_lists_of_nodes(nodes: str, names: list[str]) -> None:
    assert list(expanded(nodes)) == names


def test_how_the_site_is_set_up() -> None:
    site = site_in_config((DATA / "config_22.05.txt").read_text())
    assert (site.version, site.has_accounting) == ("22.05.8", True)
    without = site_in_config("SLURM_VERSION = 20.11.9\nAccountingStorageType   = accounting_storage/none\n")
    assert (without.version, without.has_accounting) == ("20.11.9", False)
    # 24.05 prints (null) where there is none
    assert not site_in_config("AccountingStorageType = (null)\n").has_accounting


@given(st.text())
def test_no_text_whatever_makes_it_stumble(printed: str) -> None:
    jobs_in_squeue(printed)
    jobs_in_squeue(f"15|{printed}|RUNNING|||||")
    jobs_in_sacct(f"JobID|State\n{printed}")
    expanded(printed)
    refusal_of(printed)
    said_by(printed)
    site_in_config(printed)
    state_of(printed)
    job_id_of(printed)
