"""Searches without barriers that are limited in epochs, or grow: what is said of them, and what is left."""

from pathlib import Path

from checkpoint_fixture import Study
from engine_fixture import Simulation
from search_fixture import Searches, script, searches
from test_asha import asha_plan, search_of

from hyperband.report.tables import plan_table
from hyperband.search.events import IdsDrawn, PlanMade
from hyperband.search.trial import Algorithm, Outcome

__all__ = ["searches"]


def test_what_is_left_is_never_more_than_the_limit_of_epochs() -> None:
    search = search_of(asha_plan(1000, 81, total=20))
    for n_started in range(4):
        search.start()
        progress = search.engine.progress()
        assert progress.epochs_left == 20
        assert n_started + 1 <= progress.n_jobs_planned <= 20
    for started in search.engine.running():
        search.end(started, 1.0 - started.trial)
    progress = search.engine.progress()
    assert progress.epochs_left == 16
    assert progress.n_jobs_final < progress.n_jobs_planned <= 20
    search.run(lambda *_: 1.0)
    assert search.engine.progress().epochs_left == 0


def test_a_limit_that_is_no_limit_changes_no_estimate() -> None:
    free, limited = search_of(asha_plan(27, 9)), search_of(asha_plan(27, 9, total=10_000))
    for search in (free, limited):
        search.end(search.start(), 1.0)
    assert free.engine.progress() == limited.engine.progress()


def test_what_runs_is_counted_as_left_whatever_the_limit() -> None:
    search = search_of(asha_plan(9, total=5, algorithm=Algorithm.PASHA))
    starts = [search.start() for _ in range(5)]
    assert search.engine.next_start() is None
    assert search.engine.progress().epochs_left == 5
    assert search.engine.progress().n_jobs_planned == 5
    for start in starts:
        search.end(start, Outcome.CRASHED)
    assert search.engine.progress().n_jobs_planned == 5
    assert search.engine.is_complete


def test_the_plans_numbers_are_what_the_limit_of_epochs_pays_for() -> None:
    table, notes = plan_table(asha_plan(1000, 9, total=20)).split("\n\n")
    assert [cell.strip() for cell in table.splitlines()[-1].split("  ") if cell.strip()] == [
        "about 8 @ 1",
        "about 2 @ 3",
        "about 0 @ 9",
        "about 10",
        "about 12",
        "about 14",
    ]
    assert "what 20 epochs (--max-total-epochs) pay for." in notes
    assert "more than 20 epochs in all, resuming, and after 1,000 trials at the latest" in notes
    # a limit that is large enough changes no number
    assert plan_table(asha_plan(9, 9, total=3000)).startswith(plan_table(asha_plan(9, 9)).split("\n\n")[0])
    notes = plan_table(asha_plan(100, 27, total=50, algorithm=Algorithm.PASHA)).split("\n\n")[1]
    assert "pay for if all rungs are used." in notes
    assert "by more than the noise" in notes


def test_a_ladder_of_one_rung_has_no_estimates() -> None:
    text = plan_table(asha_plan(5, 9, min_epochs=9))
    assert "about" not in text
    assert "estimates" not in text
    assert "goes on" not in text


def test_files_of_a_trial_that_was_taken_back_go_after_a_kill(tmp_path: Path) -> None:
    """Its first files were removed, and the journal says so; what a later job left is still to go."""
    names = tuple("abcdefghi")
    study = Study(tmp_path, names, keep="none")
    study.simulation = Simulation(PlanMade(asha_plan(9, 3)), IdsDrawn(0, names))
    study.checkpoints = study.open()
    study.write(*(f"runs/{name}/1" for name in names))
    # trial 3 is the fourth of nine, and left behind
    for _ in range(12):
        start = study.simulation.engine.next_start()
        assert start is not None
        study.end(float(start.trial) if start.rung == 0 else -1.0)
    assert study.simulation.engine.is_complete
    study.finish()
    study.simulation.events.extend(study.told)
    assert "runs/d/1" not in study.files()
    # three more trials: now it goes on, and leaves files again
    more = tuple("jkl")
    study.simulation.handle(PlanMade(asha_plan(12, 3)))
    study.simulation.handle(IdsDrawn(9, more))
    study.checkpoints = study.open()
    while (start := study.simulation.engine.next_start()) is not None:
        study.write(f"runs/{start.config_id}/2")
        is_last = study.simulation.engine.progress().n_jobs_final == 15
        if is_last:  # a kill comes with the outcome in the journal and nothing done
            study.simulation.start()
            study.simulation.end(start, 9.0)
        else:
            study.end(9.0)
    assert study.simulation.engine.trial(3).rung == 1
    assert "runs/d/2" in study.files()
    study.checkpoints = study.open()
    study.finish()
    assert "runs/d/2" not in study.files()


def test_more_ids_to_start_with_than_trials_are_refused_with_what_helps(searches: Searches) -> None:
    searches.write(script())
    (searches.folder / "ids").write_text("".join(f"x:0.{n}\n" for n in range(1, 9)))
    refused = searches.run("--algorithm", "asha", "--max-total-epochs", "5", "--start-with", "ids")
    assert refused.exit_code == 2
    assert "the plan has only 5 trials" in refused.err
    assert "(--max-total-epochs, --max-trials)" in refused.err
