"""How long a slot stands idle between two jobs, engine by engine, beside what the engine itself takes.

    python benchmarks/engines.py [--jobs 40] [--rounds 3] [--sleep 0.2] [--only slurm|ray]

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
    ray          hyperband --on ray: an actor that stays holds the slot
    ray call     one actor that has the GPU, called for each job: what Ray itself takes (ray_peers.py)
    ray tune     Ray Tune, a trial at a time; "reused": with reuse_actors, which is not its default

They take turns, round by round, so that a noisy machine troubles all alike; all rounds are pooled. Each
search begins with an allocation of its own, which is in front of its first job and so counts for nothing.
Percentiles are by nearest rank. Needs Debian's slurm-wlm and munge, and root: a Slurm of three nodes is
started for it (tests/slurm_cluster.py), without accounting, and ended with it. Needs ray[tune] for a Ray of
one machine in namespaces (tests/ray_fixture.py). `--only ray` or `--only slurm` leaves the other out.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slot_gap import HYPERBAND, JOB, Run, Summary, finish, read_idle_ms
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import ray_fixture  # type: ignore[import-not-found]
from cluster_fixture import wait_for  # type: ignore[import-not-found]
from slurm_cluster import SlurmCluster, running_cluster, why_no_slurm  # type: ignore[import-not-found]

#: of a bare step, of a bare actor call
GOAL_RATIO = 1.2
#: more than on this machine without an engine
GOAL_OVERHEAD_MS = 15.0
#: of Ray Tune's idle time
GOAL_OF_TUNE = 1 / 50
PEERS = Path(__file__).resolve().parent / "ray_peers.py"
#: both GPUs of it are what a job of Slurm's asks for, so that they follow one another
NODE = "n1"


def main() -> None:
    """Measure, print the table, and say whether the goal is met."""
    options = parse_options()
    for name, reason in (("slurm", why_no_slurm()), ("ray", ray_fixture.why_no_ray())):
        if options.only in (None, name) and reason is not None:
            sys.exit(reason)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="engines-") as scratch, opened(options.only) as clusters:
        idle_ms = measure(Path(scratch), clusters, options)
    found = {name: Summary.of(each) for name, each in idle_ms.items()}
    floors = [name for name in ("srun", "ray call") if name in found]
    rows = [
        [name, own.median, own.p99, *(own.median / found[floor].median for floor in floors)]
        for name, own in found.items()
    ]
    print(f"idle milliseconds per job; jobs of {options.sleep:g} s, one slot; load before {load:.1f}")
    headers = ["", "median", "p99", *(f"median\nof {floor}'s" for floor in floors)]
    print(tabulate(rows, headers=headers, floatfmt=("", ".1f", ".1f", ".2f", ".2f")))
    for words, is_met in goals({name: own.median for name, own in found.items()}):
        print(f"goal ({words}): {'met' if is_met else 'missed'}")


def goals(median_ms: Mapping[str, float]) -> Iterator[tuple[str, bool]]:
    """Say of each goal whether it is met, as far as it was measured."""
    for own, floor, what in (("slurm held", "srun", "step"), ("ray", "ray call", "actor call")):
        if own in median_ms:
            words = f"{own} within {GOAL_RATIO:g} x of a bare {what}"
            yield words, median_ms[own] <= GOAL_RATIO * median_ms[floor]
    if "ray" in median_ms:
        over_ms = median_ms["ray"] - median_ms["local"]
        words = f"ray at most {GOAL_OVERHEAD_MS:g} ms more than local: {over_ms:.1f}"
        yield words, over_ms <= GOAL_OVERHEAD_MS
        for tune in ("ray tune", "ray tune reused"):
            times = median_ms[tune] / median_ms["ray"]
            words = f"ray idle at most 1/{1 / GOAL_OF_TUNE:g} of {tune}: 1/{times:.1f}"
            yield words, median_ms["ray"] <= GOAL_OF_TUNE * median_ms[tune]


@dataclass(frozen=True)
class Clusters:
    """Those that run."""

    slurm: SlurmCluster | None
    ray: ray_fixture.RayCluster | None

    def clear(self) -> None:
        """Let nothing of one turn trouble the next."""
        if self.slurm is not None:
            self.slurm.clear()


@contextlib.contextmanager
def opened(only: str | None) -> Iterator[Clusters]:
    """Start what is measured, and end it."""
    with contextlib.ExitStack() as stack:
        slurm = stack.enter_context(running_cluster()) if only != "ray" else None
        if slurm is not None:
            os.environ.update(slurm.environment)
        ray = stack.enter_context(ray_fixture.running_cluster("m1")) if only != "slurm" else None
        yield Clusters(slurm, ray)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=40, help="per engine and round (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each takes its turn (default 3)")
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds that each job sleeps (default 0.2)")
    parser.add_argument("--only", choices=("slurm", "ray"), help="one engine (default: both)")
    options = parser.parse_args()
    if options.jobs < 2 or options.rounds < 1:
        parser.error("--jobs must be at least 2 (one has none before it) and --rounds at least 1")
    return options


def turns_of(clusters: Clusters) -> dict[str, Callable[[Run], None]]:
    """What is measured, by name."""
    turns: dict[str, Callable[[Run], None]] = {"local": on_this_machine}
    if (slurm := clusters.slurm) is not None:
        turns |= {
            "srun": lambda run: by_srun(run, slurm),
            "slurm held": on_slurm,
            "sbatch": by_sbatch,
            "slurm jobs": in_slurm_jobs,
        }
    if (ray := clusters.ray) is not None:
        turns |= {
            "ray": lambda run: on_ray(run, ray),
            "ray call": lambda run: by_ray(run, ray, "call"),
            "ray tune": lambda run: by_ray(run, ray, "tune"),
            "ray tune reused": lambda run: by_ray(run, ray, "tune-reused"),
        }
    return turns


def measure(scratch: Path, clusters: Clusters, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the idle times in ms of all rounds, by engine."""
    turns = turns_of(clusters)
    idle_ms: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(options.rounds):
        for name in list(turns) if number % 2 == 0 else reversed(list(turns)):
            folder = scratch / f"{number}-{name.replace(' ', '-')}"
            folder.mkdir()
            script = folder / "job.py"
            script.write_text(JOB)
            run = Run(folder, script, 1, options.jobs, options.sleep)
            turns[name](run)
            idle_ms[name] += read_idle_ms(run)
            clusters.clear()
    return idle_ms


def on_this_machine(run: Run) -> None:
    """Run the jobs by a random search of one epoch each."""
    finish(run, [*search_argv(run), "--gpus", "none", "--slots", "1", str(run.script)], "")


def on_slurm(run: Run) -> None:
    """Run them by the same search in steps."""
    asked = ["--on", "slurm", "--slurm-set", "gpus=1", "--max-slots", "1"]
    finish(run, [*search_argv(run), *asked, str(run.script)], "")


def in_slurm_jobs(run: Run) -> None:
    """Run them by the same search as jobs of Slurm's own, one after the other."""
    asked = ["--on", "slurm", "--slurm-mode", "jobs", "--slurm-set", "gpus=1", "--max-slots", "1"]
    finish(run, [*search_argv(run), *asked, str(run.script)], "")


def on_ray(run: Run, cluster: ray_fixture.RayCluster) -> None:
    """Run them by the same search at a slot of Ray's."""
    asked = ["--on", "ray", "--ray-address", cluster.address, "--ray-token", str(cluster.token)]
    argv = [*search_argv(run), *asked, "--max-slots", "1", str(run.script)]
    finish(run, cluster.on_head(argv, run.folder), "")


def by_ray(run: Run, cluster: ray_fixture.RayCluster, how: str) -> None:
    """Run them on Ray without hyperband; how: see ray_peers.py."""
    settings = [f"{name}={value}" for name, value in cluster.ray_environment.items()]
    settings.append(f"RAY_ADDRESS={cluster.address}")
    argv = ["env", *settings, sys.executable, str(PEERS), how, str(run.n_jobs), str(run.script)]
    finish(run, cluster.on_head([*argv, str(run.folder)], run.folder), "")


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


def by_sbatch(run: Run) -> None:
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
