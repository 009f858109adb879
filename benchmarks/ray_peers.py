"""The jobs of engines.py without hyperband, on a Ray cluster: by bare actor calls, and by Ray Tune.

    python benchmarks/ray_peers.py call|tune|tune-reused N_JOBS SCRIPT FOLDER

Each job is the same subprocess with one GPU of Ray's. `call`: one actor that has the GPU, and a call of it
for each job, one after the other. `tune`: a Tuner with ASHAScheduler whose function runs the subprocess and
reports its loss, one trial at a time, all else as Ray Tune has it; `tune-reused`: with `reuse_actors`.

Runs on a machine of the cluster that RAY_ADDRESS names, and needs ray[tune] of its version.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

import ray


def run(argv: Sequence[str], environment: dict[str, str]) -> float:
    """Run a job; return the loss that it prints last."""
    given = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(argv, env={**environment, **given}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def job(script: str, number: int) -> list[str]:
    """The command line of a job."""
    return [sys.executable, script, f"job:{number}", "--epochs", "1", "--gpu", "0"]


def by_calls(n_jobs: int, script: str) -> None:
    """One actor, called once for each job."""

    class Slot:
        def run(self, argv: Sequence[str], environment: dict[str, str]) -> float:
            return run(argv, environment)

    slot = ray.remote(num_gpus=1)(Slot).remote()
    for number in range(n_jobs):
        ray.get(slot.run.remote(job(script, number), dict(os.environ)))


def by_tune(n_jobs: int, script: str, folder: str, *, reuses: bool) -> None:
    """A tuner, one trial for each job."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    environment = dict(os.environ)

    def train(config: dict[str, int]) -> None:
        tune.report({"loss": run(job(script, config["number"]), environment)})

    tuner = tune.Tuner(
        tune.with_resources(train, {"gpu": 1}),
        param_space={"number": tune.randint(0, 1 << 31)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=n_jobs,
            max_concurrent_trials=1,
            scheduler=ASHAScheduler(),
            reuse_actors=reuses,
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    errors = tuner.fit().errors
    if errors:
        sys.exit(f"trials of Ray Tune failed: {errors[0]}")


def main() -> None:
    """Run the jobs as the command line says."""
    how, n_jobs, script, folder = sys.argv[1:5]
    ray.init(log_to_driver=False, logging_level="ERROR")
    if how == "call":
        by_calls(int(n_jobs), script)
    else:
        by_tune(int(n_jobs), script, folder, reuses=how == "tune-reused")


if __name__ == "__main__":
    main()
