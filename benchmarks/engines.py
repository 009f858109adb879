"""How long a slot stands idle between two jobs, engine by engine, beside what the engine itself takes.

    python benchmarks/engines.py [--jobs 40] [--rounds 3] [--sleep 0.2]

What is measured. Every job is the script of slot_gap.py under the same interpreter: it appends to one file
CLOCK_MONOTONIC at the first and at the last statement of its main block. Idle time is the start of a job's
main block minus the end of the one before it on the same slot, of which there is one: so it holds the end of
one interpreter, the news of it, the decision, and the start of the next. All nodes are this machine, so that
there is one clock.

    local        hyperband on this machine
    srun         a shell that runs one step after the other, inside an allocation that is there: a bare step
    slurm held   hyperband --on slurm: allocations are held, and jobs are steps in them
    sbatch       jobs of Slurm's for the same node, in the queue well before their turn
    slurm jobs   hyperband --on slurm --slurm-mode jobs: each job is one of Slurm's, and is submitted when the
                 one before it has ended

They take turns, round by round, so that a noisy machine troubles all alike; all rounds are pooled. Each
search begins with an allocation of its own, which is in front of its first job and so counts for nothing.
Percentiles are by nearest rank. Needs Debian's slurm-wlm and munge, and root: a Slurm of three nodes is
started for it (tests/slurm_cluster.py), without accounting, and ended with it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from slot_gap import HYPERBAND, JOB, Run, Summary, finish, read_idle_ms
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from slurm_cluster import SlurmCluster, running_cluster, wait_for, why_no_slurm  # type: ignore[import-not-found]

#: of a bare step
GOAL_RATIO = 1.2
#: both GPUs of it are what a job of Slurm's asks for, so that they follow one another
NODE = "n1"


def main() -> None:
    """Measure, print the table, and say whether the goal is met."""
    options = parse_options()
    if (reason := why_no_slurm()) is not None:
        sys.exit(reason)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="engines-") as scratch, running_cluster() as cluster:
        os.environ.update(cluster.environment)
        idle_ms = measure(Path(scratch), cluster, options)
    found = {name: Summary.of(each) for name, each in idle_ms.items()}
    step, job = found["srun"], found["sbatch"]
    rows = [
        [name, own.median, own.p99, own.median / step.median, own.median / job.median]
        for name, own in found.items()
    ]
    print(f"idle milliseconds per job; jobs of {options.sleep:g} s, one slot; load before {load:.1f}")
    headers = ["", "median", "p99", "median\nof srun's", "median\nof sbatch's"]
    print(tabulate(rows, headers=headers, floatfmt=("", ".1f", ".1f", ".2f", ".3f")))
    is_met = found["slurm held"].median <= GOAL_RATIO * step.median
    print(f"goal (slurm held within {GOAL_RATIO:g} x of a bare step): {'met' if is_met else 'missed'}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=40, help="per engine and round (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each takes its turn (default 3)")
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds that each job sleeps (default 0.2)")
    options = parser.parse_args()
    if options.jobs < 2 or options.rounds < 1:
        parser.error("--jobs must be at least 2 (one has none before it) and --rounds at least 1")
    return options


def measure(scratch: Path, cluster: SlurmCluster, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the idle times in ms of all rounds, by engine."""
    turns: dict[str, Callable[[Run, SlurmCluster], None]] = {
        "local": on_this_machine,
        "srun": by_srun,
        "slurm held": on_slurm,
        "sbatch": by_sbatch,
        "slurm jobs": in_slurm_jobs,
    }
    idle_ms: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(options.rounds):
        for name in list(turns) if number % 2 == 0 else reversed(list(turns)):
            folder = scratch / f"{number}-{name.replace(' ', '-')}"
            folder.mkdir()
            script = folder / "job.py"
            script.write_text(JOB)
            run = Run(folder, script, 1, options.jobs, options.sleep)
            turns[name](run, cluster)
            idle_ms[name] += read_idle_ms(run)
            cluster.clear()
    return idle_ms


def on_this_machine(run: Run, _: SlurmCluster) -> None:
    """Run the jobs by a random search of one epoch each."""
    finish(run, [*search_argv(run), "--gpus", "none", "--slots", "1", str(run.script)], "")


def on_slurm(run: Run, _: SlurmCluster) -> None:
    """Run them by the same search in steps."""
    asked = ["--on", "slurm", "--slurm-set", "gpus=1", "--max-slots", "1"]
    finish(run, [*search_argv(run), *asked, str(run.script)], "")


def in_slurm_jobs(run: Run, _: SlurmCluster) -> None:
    """Run them by the same search as jobs of Slurm's own, one after the other."""
    asked = ["--on", "slurm", "--slurm-mode", "jobs", "--slurm-set", "gpus=1", "--max-slots", "1"]
    finish(run, [*search_argv(run), *asked, str(run.script)], "")


def search_argv(run: Run) -> list[str]:
    """The search, but for where it runs."""
    plan = ["--algorithm", "random", "--max-trials", str(run.n_jobs), "--max-epochs", "1", "--guide", "none"]
    return [sys.executable, str(HYPERBAND), *plan, "--logs", str(run.folder / "logs")]


def by_srun(run: Run, cluster: SlurmCluster) -> None:
    """Run them by a shell, each as a step of the same allocation."""
    held = cluster.run("sbatch", "--parsable", "--gres=gpu:1", "--wrap", "sleep 1000").strip()
    wait_for(lambda: "RUNNING" in cluster.run("squeue", "-h", "-j", held, "-o", "%T"), 30, "an allocation")
    step = f"srun --jobid={held} --overlap --ntasks=1 --gres=gpu:1 --mpi=none --cpu-bind=none"
    job = f"{sys.executable} {run.script} job:$K --epochs 1 --gpu 0"
    finish(run, ["bash", "-e", "-c", f"for K in $(seq {run.n_jobs}); do {step} {job}; done"], "")


def by_sbatch(run: Run, _: SlurmCluster) -> None:
    """Run them as jobs of Slurm's that all wait for the same node."""
    submit = f"sbatch --parsable --nodelist={NODE} --gres=gpu:2 --chdir={run.folder}"
    job = f'--wrap "{sys.executable} {run.script} job:$K --epochs 1 --gpu 0"'
    finish(run, ["bash", "-e", "-c", f"for K in $(seq {run.n_jobs}); do {submit} {job}; done"], "")
    record = run.folder / "record"
    patience_s = 60 + run.n_jobs * (10 + run.sleep_s)
    wait_for(
        lambda: record.exists() and len(record.read_text().splitlines()) == run.n_jobs, patience_s, "jobs"
    )


if __name__ == "__main__":
    main()
