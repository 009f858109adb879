"""The benchmark of sample efficiency on a stand-in for its learning curves; at full size it is a command."""

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import sample_efficiency  # type: ignore[import-not-found]  # noqa: E402
from efficiency import (  # type: ignore[import-not-found]  # noqa: E402
    campaign,
    environments,
    methods,
    ours,
    scale,
    table,
)
from efficiency.cells import BrokenCells, Cell, Cells  # type: ignore[import-not-found]  # noqa: E402
from efficiency.clock import Deadlock, Job, Method, simulate  # type: ignore[import-not-found]  # noqa: E402
from efficiency.landscape import Curve, Landscape, NoData  # type: ignore[import-not-found]  # noqa: E402

from hyperband.search.engine import Engine  # noqa: E402
from hyperband.search.events import IdsDrawn, PlanMade  # noqa: E402

SCRIPT = BENCHMARKS / "sample_efficiency.py"

#: the same interface as that of the real curves: a bowl, reached sooner with more epochs
LOAD = """
import numpy as np
from bowl import height

MAX_EPOCH = 9
SPACE = [
    ("size", "int", 1, 100, True),
    ("rate", "float", 1e-4, 1.0, True),
    ("drop", "float", 0.0, 1.0, False),
]
TASKS = {"left": 0, "right": 1}


def from_unit(U):
    U = np.atleast_2d(U)
    X = np.empty_like(U, dtype=float)
    X[:, 0] = np.round(100 ** U[:, 0])
    X[:, 1] = 10 ** (4 * U[:, 1] - 4)
    X[:, 2] = U[:, 2]
    return X


class LCBench:
    def curve(self, task, X):
        X = np.atleast_2d(X)
        left = np.arange(MAX_EPOCH, 0, -1) / MAX_EPOCH
        err = 5 + 20 * height(X, TASKS[task])[:, None] + 30 * left[None, :]
        return {"err": err, "epoch_time": 0.5 + X[:, 0] / 50}
"""
BOWL = """
import numpy as np


def height(X, task):
    return (np.log10(X[:, 1]) + 2 - task) ** 2 + (X[:, 2] - 0.3) ** 2
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "curves"
    folder.mkdir()
    (folder / "load.py").write_text(LOAD)
    (folder / "bowl.py").write_text(BOWL)
    return folder


def cell(**changes: Any) -> Cell:  # noqa: ANN401
    fields: dict[str, Any] = {
        "method": "asha",
        "task": "left",
        "seed": 0,
        "workers": 1,
        "version": "asha 1",
        "data": "d",
        "horizon": 10.0,
        "improvements": ((0.5, 40.0), (3.0, 30.0)),
        "n_jobs": 1,
        "n_epochs": 9,
        "wall_s": 0.5,
        "ran_at": "2026-01-01T00:00Z",
    }
    return Cell(**{**fields, **changes})


#: best 20, median 40: an error of 30 is a regret of a half
SCALE = scale.Scale(best=20.0, median=40.0, worst=90.0, full_training_s=10.0, n_random=1, data_sha256="d")


# The clock.


class Listed(Method):  # type: ignore[misc]
    """Wants what it is told to, and remembers what it hears."""

    def __init__(self, jobs: list[Job], *, sees_epochs: bool = True, ends_at: int = 99) -> None:
        self.sees_epochs = sees_epochs
        self.jobs = jobs
        self.ends_at = ends_at
        self.ended: list[tuple[object, int, float]] = []

    def next_job(self, now_s: float) -> Job | None:  # noqa: ARG002
        return self.jobs.pop(0) if self.jobs else None

    def on_epoch(self, job: Job, epoch: int, error: float) -> bool:  # noqa: ARG002
        return epoch < self.ends_at

    def on_end(self, job: Job, epoch: int, error: float, now_s: float) -> None:  # noqa: ARG002
        self.ended.append((job.trial, epoch, now_s))


def curve(values: tuple[float, ...]) -> Curve:
    """Errors 90, 80, ... and as many seconds an epoch as the configuration says."""
    return Curve(tuple(90.0 - 10.0 * epoch for epoch in range(9)), values[0])


def test_an_epoch_takes_its_time_and_counts_when_it_ends() -> None:
    method = Listed([Job("a", (2.0,), 3)])
    with pytest.raises(Deadlock, match=r"6\.0 s"):
        simulate(method, curve, n_workers=1, horizon_s=100.0)
    method = Listed([Job("a", (2.0,), 3)])
    found = simulate(method, curve, n_workers=1, horizon_s=5.9)
    assert found.improvements == [(2.0, 90.0), (4.0, 80.0)]
    assert method.ended == []


def test_where_only_ends_of_jobs_are_seen_the_epochs_between_do_not_count() -> None:
    method = Listed([Job("a", (2.0,), 3), Job("a", (2.0,), 9)], sees_epochs=False)
    found = simulate(method, curve, n_workers=1, horizon_s=17.9)
    assert found.improvements == [(6.0, 70.0)]
    assert (found.n_jobs, found.n_epochs) == (2, 8)


def test_a_trial_that_goes_on_pays_only_its_new_epochs() -> None:
    method = Listed([Job("a", (2.0,), 3), Job("b", (1.0,), 1), Job("a", (2.0,), 4), Job("c", (9.0,), 9)])
    simulate(method, curve, n_workers=1, horizon_s=9.5)
    assert method.ended == [("a", 3, 6.0), ("b", 1, 7.0), ("a", 4, 9.0)]


def test_workers_train_at_the_same_time_and_a_job_may_be_ended_early() -> None:
    jobs = [Job("a", (2.0,), 9), Job("b", (3.0,), 9), Job("c", (10.0,), 9), Job("d", (10.0,), 9)]
    method = Listed(jobs, ends_at=2)
    simulate(method, curve, n_workers=2, horizon_s=10.0)
    assert method.ended == [("a", 2, 4.0), ("b", 2, 6.0)]


def test_what_was_trained_already_is_known_at_once() -> None:
    method = Listed([Job("a", (2.0,), 3), Job("a", (2.0,), 3), Job("b", (9.0,), 9)])
    simulate(method, curve, n_workers=1, horizon_s=7.0)
    assert method.ended == [("a", 3, 6.0), ("a", 3, 6.0)]


# The data and its scale.


def test_missing_data_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(NoData, match=r"YAHPO.*LCBENCH_DIR"):
        Landscape(tmp_path)


def test_curves_that_are_no_numbers_are_refused(data: Path) -> None:
    (data / "bowl.py").write_text("def height(X, task):\n    return X[:, 0] * float('nan')\n")
    with pytest.raises(NoData, match="must be finite"):
        Landscape(data).curve("left", (1.0, 0.1, 0.5))


def test_values_are_brought_to_what_a_configuration_can_be(data: Path) -> None:
    landscape = Landscape(data)
    assert landscape.curve("left", (2.2, 0.1, 0.5)) == landscape.curve("left", (2.0, 0.1, 0.5))
    assert landscape.curve("left", (2.0, 7.0, 0.5)) == landscape.curve("left", (2.0, 1.0, 0.5))


def test_the_scale_runs_from_the_best_known_to_the_median(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landscape = Landscape(data)
    file = tmp_path / "cells" / "scale.json"
    found = scale.scales(landscape, ["left", "right"], file=file, sha256="one", n_random=300)
    for one in found.values():
        # the bottom of the bowl after all epochs
        assert one.best == pytest.approx(5 + 30 / 9, abs=1e-3)
        assert one.best < one.median < one.worst
        assert (one.regret(one.best), one.regret(one.median)) == (0.0, 1.0)
    capsys.readouterr()
    assert scale.scales(landscape, ["right"], file=file, sha256="one", n_random=300) == {
        "right": found["right"]
    }
    assert capsys.readouterr().out == ""
    again = scale.scales(landscape, ["left"], file=file, sha256="another", n_random=300)
    assert again["left"].data_sha256 == "another"
    assert "once" in capsys.readouterr().out


# Cells.


def test_a_cell_is_as_it_was_written_and_replaced_by_its_key(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells")
    cells.put(cell(seed=1))
    cells.put(cell(seed=0))
    longer = cell(seed=1, horizon=20.0)
    cells.put(longer)
    assert cells.of("asha", 1) == {("left", 0): cell(seed=0), ("left", 1): longer}
    assert cells.of("asha", 8) == {}


def test_two_campaigns_that_write_to_one_file_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import dataclasses, pathlib, sys; from efficiency.cells import Cell, Cells; "
        f"one = {cell()!r}; "
        "cells = Cells(pathlib.Path(sys.argv[1])); first = int(sys.argv[2]); "
        "[cells.put(dataclasses.replace(one, seed=seed)) for seed in range(first, first + 20)]"
    )
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cells"), first], env=environment)
        for first in ("0", "100")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(Cells(tmp_path / "cells").of("asha", 1)) == 40


def test_a_line_that_is_no_cell_is_told_with_its_place(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.put(cell())
    path = tmp_path / "asha.w1.jsonl"
    path.write_text(path.read_text() + '{"method": "asha"}\n')
    with pytest.raises(BrokenCells, match=r"line 2 of .*asha\.w1\.jsonl"):
        cells.of("asha", 1)


def test_thinned_improvements_say_the_same_at_every_tenth() -> None:
    rng = random.Random(1)
    for _ in range(50):
        times = sorted(rng.uniform(0.001, 5) for _ in range(60))
        errors = sorted((rng.uniform(1, 90) for _ in times), reverse=True)
        whole = cell(improvements=tuple(zip(times, errors, strict=True)))
        thin = cell(improvements=campaign.thinned(whole.improvements))
        assert len(thin.improvements) <= 50
        for tenth in range(1, 51):
            before, after = whole.error_at(tenth / 10), thin.error_at(tenth / 10)
            assert (before is None) == (after is None)
            if before is not None:
                assert after == pytest.approx(before, abs=1e-3)


def test_the_campaign_goes_by_seeds_and_runs_what_is_missing_stale_or_short(
    tmp_path: Path, data: Path
) -> None:
    cells = Cells(tmp_path / "cells")
    places = campaign.Places(data=data, data_sha256="d", cells=cells, environments=tmp_path)
    method = methods.NAMED["asha"]
    others: list[dict[str, Any]] = [{}, {"version": "older"}, {"data": "other"}, {"horizon": 2.0}]
    for seed, changes in enumerate(others):
        cells.put(cell(**{"seed": seed, "version": method.version, "horizon": 20.0, **changes}))

    def found(horizon: float | None) -> list[tuple[str, int, str]]:
        wanted = campaign.wanted(
            places,
            [method, methods.NAMED["hyperband"]],
            tasks=["left"],
            seeds=range(5),
            workers=[1],
            horizon=horizon,
        )
        return [(one.method.name, one.seed, one.task) for one in wanted]

    asha = [name_seed[1] for name_seed in found(None) if name_seed[0] == "asha"]
    assert asha == [1, 2, 3, 4]
    assert [one[1] for one in found(None)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [one[1] for one in found(2.0) if one[0] == "asha"] == [1, 2, 4]


def test_a_cell_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = Cells(tmp_path / "cells")
    places = campaign.Places(data=data, data_sha256="d", cells=cells, environments=tmp_path)
    broken = methods.MethodKind("broken", None, "nowhere", "broken", {1: 1.0})
    wanted = [
        campaign.Wanted(method, "left", seed, 1, 1.0)
        for seed in range(2)
        for method in (broken, methods.NAMED["asha"])
    ]
    failures = campaign.run(places, wanted, {"left": SCALE}, n_jobs=1)
    assert len(failures) == 2
    assert all("broken, task left" in failure and "nowhere" in failure for failure in failures)
    assert len(cells.of("asha", 1)) == 2
    assert "4/4" in capsys.readouterr().out


# The figures.


def test_regret_before_the_first_observation_is_that_of_the_worst() -> None:
    assert table.regret(cell(), SCALE, 0.4) == pytest.approx(3.5)
    assert table.regret(cell(), SCALE, 0.5) == pytest.approx(1.0)
    assert table.regret(cell(), SCALE, 3.0) == pytest.approx(0.5)


def found_of(*cells: Cell) -> dict[tuple[str, int], Cell]:
    return {one.key: one for one in cells}


def test_a_mean_is_over_seeds_that_have_all_tasks_and_its_error_is_over_seeds() -> None:
    scales = {"left": SCALE, "right": SCALE}
    found = found_of(
        cell(task="left", seed=0, improvements=((0.1, 40.0),)),  # 1.0
        cell(task="right", seed=0, improvements=((0.1, 20.0),)),  # 0.0
        cell(task="left", seed=1, improvements=((0.1, 30.0),)),  # 0.5
        cell(task="right", seed=1, improvements=((0.1, 40.0),)),  # 1.0
        cell(task="left", seed=2, improvements=((0.1, 20.0),)),
        cell(task="left", seed=3, improvements=((0.1, 20.0),)),
        cell(task="right", seed=3, improvements=((0.1, 20.0),), horizon=1.0),
    )
    assert table.by_seed(found, ["left", "right"], scales, 2.0) == {0: 0.5, 1: 0.75}
    mean = table.mean_of([0.5, 0.75])
    assert mean is not None
    assert (mean.mean, mean.n_seeds) == (0.625, 2)
    assert mean.error == pytest.approx(0.125)  # standard deviation 0.1768 over the root of 2


def test_the_table_ranks_methods_and_leaves_out_what_they_did_not_reach() -> None:
    better = [cell(seed=seed, improvements=((0.1, 22.0),), horizon=1.0) for seed in range(2)]
    worse = [cell(seed=seed, improvements=((0.1, 40.0),), horizon=20.0) for seed in range(2)]
    lines = table.means_table(
        {"worse": found_of(*worse), "better": found_of(*better)}, ["left"], {"left": SCALE}, 1
    ).splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["method", "seeds", "1", "2", "5", "10", "20"]
    assert re.findall(r"\S+", lines[2])[:5] == ["worse", "2", "1.000", "±0.000", "(2)"]
    assert re.findall(r"\S+", lines[3]) == ["better", "2", "0.100", "±0.000", "(1)", "-", "-", "-", "-"]


def test_half_a_full_training_is_looked_at_with_several_workers_only() -> None:
    assert table.marks(1) == [1, 2, 5, 10, 20]
    assert table.marks(8) == table.marks(32) == table.marks(3) == [0.5, 1, 2, 5, 10, 20]


def test_worse_than_the_baseline_is_more_than_two_standard_errors_of_the_paired_difference() -> None:
    def at(errors: list[float]) -> dict[tuple[str, int], Cell]:
        return found_of(
            *(cell(seed=seed, improvements=((0.1, error),), horizon=1.0) for seed, error in enumerate(errors))
        )

    base = at([20.0, 30.0, 40.0, 50.0])
    scales = {"left": SCALE}
    # each seed is a little worse than the same seed of the baseline, however far apart the seeds are
    result = table.paired(at([22.0, 32.0, 43.0, 52.0]), base, ["left"], scales, 1)
    assert (result.n_comparisons, result.n_worse, result.n_better) == (1, 1, 0)
    assert result.worse[0][:2] == ("left", 1)
    result = table.paired(at([10.0, 45.0, 50.0, 40.0]), base, ["left"], scales, 1)
    assert (result.n_comparisons, result.n_worse, result.n_better) == (1, 0, 0)
    result = table.paired(at([18.0, 28.0, 38.5, 48.0]), base, ["left"], scales, 1)
    assert (result.n_worse, result.n_better) == (0, 1)


# Ours.


def run_ours(
    data: Path,
    name: str,
    horizon_s: float = 300.0,
    **changes: Any,  # noqa: ANN401
) -> tuple[list[tuple[Any, ...]], Any]:
    """Every job that one of ours wants, and what it found."""
    landscape = Landscape(data)
    options: dict[str, Any] = {"seed": 0, "n_workers": 2, **changes}
    method = ours.make(landscape, name=name, **options)
    jobs: list[tuple[Any, ...]] = []
    want = method.next_job

    def noted(now_s: float) -> Job | None:
        job = want(now_s)
        if job is not None:
            jobs.append((job.trial, job.epochs, job.values))
        return job

    method.next_job = noted
    found = simulate(
        method,
        lambda values: landscape.curve("left", values),
        n_workers=options["n_workers"],
        horizon_s=horizon_s,
    )
    return jobs, found


@pytest.mark.parametrize("name", ["asha", "pasha", "hyperband", "hyperband-async"])
def test_our_searches_run_and_repeat(data: Path, name: str) -> None:
    jobs, found = run_ours(data, name)
    assert len(jobs) > 30
    # here the ranking never changes with the epochs, so that pasha adds no rung
    assert max(epochs for _, epochs, _ in jobs) == (3 if name == "pasha" else 9)
    assert run_ours(data, name)[0] == jobs
    assert run_ours(data, name, seed=1)[0] != jobs
    errors = [error for _, error in found.improvements]
    assert errors == sorted(errors, reverse=True)


def test_ids_that_come_one_at_a_time_make_the_same_search_as_ids_drawn_ahead(data: Path) -> None:
    jobs, _ = run_ours(data, "hyperband")
    landscape = Landscape(data)
    sampler = ours.Sampler(landscape, 0)
    plan = ours.plan_of("hyperband", landscape.max_epochs)
    used: set[str] = set()
    for trial in range(plan.n_trials):
        used.add(sampler.trial_id(trial, used))
    engine = Engine()
    engine.handle(PlanMade(plan))
    engine.handle(IdsDrawn(0, tuple(sampler.values)))
    ahead = ours.make(landscape, seed=0, n_workers=2, name="hyperband")
    ahead._engine, ahead._sampler = engine, sampler
    again: list[tuple[Any, ...]] = []
    want = ahead.next_job

    def noted(now_s: float) -> Job | None:
        job = want(now_s)
        if job is not None:
            again.append((job.trial, job.epochs, job.values))
        return job

    ahead.next_job = noted
    simulate(ahead, lambda values: landscape.curve("left", values), n_workers=2, horizon_s=300.0)
    assert again == jobs


def test_a_model_hears_of_an_end_when_the_clock_has_moved_on(data: Path) -> None:
    for name, n_known in (("asha+model", 0), ("asha+model+fresh", 1)):
        landscape = Landscape(data)
        method = ours.make(landscape, seed=0, n_workers=1, name=name)
        job = method.next_job(0.0)
        assert job is not None
        method.on_end(job, job.epochs, 50.0, 1.5)
        assert method.next_job(1.5) is not None
        assert len(method._ids._history) == n_known


def test_a_guided_search_tries_better_configurations_than_a_random_one(data: Path) -> None:
    def mean_error(name: str) -> float:
        jobs, _ = run_ours(data, name, 60.0, n_workers=1)
        assert run_ours(data, name, 60.0, n_workers=1)[0] == jobs
        landscape = Landscape(data)
        trials = {trial: values for trial, _, values in jobs}
        return statistics.fmean(landscape.curve("left", values).errors[-1] for values in trials.values())

    assert mean_error("asha+model") < mean_error("asha") - 5


# The command.


def command(data: Path, cells: Path, *options: str) -> list[str]:
    common = ["--data", str(data), "--cells", str(cells), "--tasks", "all", "--random", "200"]
    return [sys.executable, str(SCRIPT), *common, *options]


def run(data: Path, cells: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data, cells, *options), capture_output=True, text=True, check=False)


SMALL = ("--methods", "asha,hyperband", "--workers", "1,2", "--seeds", "0-1", "--horizon", "2")


def test_the_command_runs_what_is_missing_and_prints_both_tables(tmp_path: Path, data: Path) -> None:
    cells = tmp_path / "cells"
    done = run(data, cells, *SMALL, "--jobs", "2", "--by-task")
    assert done.returncode == 0, done.stderr
    assert "16/16" in done.stdout
    assert "mean normalised regret, 1 worker, 2 tasks: left, right" in done.stdout
    assert "task right, 1 worker" in done.stdout
    assert "against asha" in done.stdout
    again = run(data, cells, *SMALL)
    assert "/" not in again.stdout.partition("mean normalised")[0]
    assert again.stdout.splitlines()[-2:] == done.stdout.splitlines()[-2:]
    assert run(data, cells, *SMALL, "--only-table").stdout == again.stdout
    lines = [line for path in cells.glob("*.jsonl") for line in path.read_text().splitlines()]
    versions = {json.loads(line)["version"] for line in lines}
    assert versions == {f"hyperband {methods.code_sha256()} r1"}


def test_cells_of_other_code_are_told_as_stale(tmp_path: Path, data: Path) -> None:
    cells = tmp_path / "cells"
    run(data, cells, "--methods", "asha", "--workers", "1", "--seeds", "0", "--horizon", "1")
    path = cells / "asha.w1.jsonl"
    path.write_text(path.read_text().replace(methods.code_sha256(), "0123456789ab", 1))
    done = run(data, cells, "--methods", "asha", "--workers", "1", "--seeds", "0", "--only-table")
    assert f"STALE: 1, the code now is hyperband {methods.code_sha256()}" in done.stdout


def test_a_campaign_that_is_ended_keeps_whole_cells_and_goes_on(tmp_path: Path, data: Path) -> None:
    cells = tmp_path / "cells"
    options = ("--methods", "asha", "--workers", "1", "--horizon", "20", "--seeds", "0-500")
    with subprocess.Popen(command(data, cells, *options), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("3/"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    kept = Cells(cells).of("asha", 1)
    assert 3 <= len(kept) < 500
    done = run(data, cells, "--methods", "asha", "--workers", "1", "--horizon", "20", "--seeds", "0-2")
    assert done.returncode == 0
    assert set(kept) <= set(Cells(cells).of("asha", 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "ash"), r"--methods has 'ash', but the methods are asha, "),
        (("--seeds", "a-b"), r"--seeds is 'a-b', but must be"),
        (("--seeds", "3-1"), r"--seeds is '3-1', but must be"),
        (("--workers", "0"), r"--workers is 0, but each number must be at least 1"),
        (("--tasks", "7"), r"--tasks has 7, but .* has left, right"),
        (("--jobs", "0"), r"--jobs is 0, but must be at least 1"),
        (("--horizon", "0"), r"--horizon is 0.0, but must be above 0"),
        (
            ("--methods", "dehb", "--environments", "none"),
            r"none/dehb is no environment .*--make-environments",
        ),
        (("--data", "nothing"), r"nothing/load\.py does not exist.*surrogate.*LCBENCH_DIR"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, data: Path, options: tuple[str, ...], words: str
) -> None:
    _, _, *common = command(data, tmp_path / "cells")
    with pytest.raises(SystemExit) as end:
        sample_efficiency.main([*common, "--seeds", "0", "--workers", "1", "--horizon", "1", *options])
    assert re.search(words, str(end.value.code))


# The peers.


def test_what_the_extra_installs_is_what_the_environments_have() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extra = {line for line in setup["options.extras_require"]["bench"].split("\n") if line}
    pinned = {pins[0] for pins in environments.PINS.values()}
    assert extra < pinned
    assert {pin.partition("==")[0].partition("[")[0] for pin in pinned - extra} == {"syne-tune", "hpbandster"}


def test_every_method_has_a_driver_and_an_environment() -> None:
    for method in methods.METHODS:
        driver = BENCHMARKS / "efficiency" / (method.driver.replace(".", "/") + ".py")
        assert driver.is_file()
        assert method.environment is None or method.environment in environments.PINS
        assert set(method.horizons) == {1, 8, 32}


def test_an_environment_is_used_only_as_it_is_pinned(tmp_path: Path) -> None:
    home = tmp_path / "dehb"
    home.mkdir()
    (home / "made-from.txt").write_text("dehb==0.0.1\n")
    with pytest.raises(environments.NoEnvironment, match=r"made from \['dehb==0\.0\.1'\], but pinned"):
        environments.python(tmp_path, "dehb")
    (home / "made-from.txt").write_text("\n".join(environments.PINS["dehb"]))
    assert environments.python(tmp_path, "dehb") == home / "bin" / "python"


def test_what_a_peer_prints_is_no_answer(tmp_path: Path, data: Path) -> None:
    """A driver that writes to stdout, as several peers do, beside the answers."""
    package = tmp_path / "path" / "noisy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from efficiency.clock import Job, Method\n"
        "class Noisy(Method):\n"
        "    def next_job(self, now_s):\n"
        "        print('hello', flush=True)\n"
        "        return Job(now_s, (3.0, 0.1, 0.2), 2)\n"
        "    def on_end(self, job, epoch, error, now_s):\n"
        "        pass\n"
        "def make(landscape, *, seed, n_workers, name):\n"
        "    return Noisy()\n"
    )
    request = {"method": "", "task": "left", "seed": 0, "workers": 2, "horizon_s": 10.0}
    code = (
        "import sys, efficiency, noisy; sys.modules['efficiency.noisy'] = noisy; "
        "from efficiency.serve import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), "noisy"],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(tmp_path / "path")])},
    )
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert answer["n_jobs"] > 2
    assert "hello" in done.stderr
