"""Studies made of events, by the real engine: what a search with one slot would have journalled."""

from collections.abc import Callable
from pathlib import Path

from hyperband.journal import Journal
from hyperband.search.brackets import make_plan
from hyperband.search.engine import Engine
from hyperband.search.events import (
    Event,
    IdsDrawn,
    JobEnded,
    JobStarted,
    PlanMade,
    SearchEnded,
    SearchStarted,
    StudyCreated,
)
from hyperband.search.trial import Algorithm, Outcome, Plan
from hyperband.settings import Settings

#: when the simulated search started, Unix seconds
BEGAN_AT = 1_700_000_000.0


def settings(tmp_path: Path, **changes: object) -> Settings:
    """Settings with nothing but what they need."""
    known: dict[str, object] = {
        "script": tmp_path / "train.py",
        "python": Path("/usr/bin/python3"),
        "logs": tmp_path / "logs",
        "script_args": ("--model", "vgg"),
    }
    return Settings(**(known | changes))  # type: ignore[arg-type]


def small_plan(max_epochs: int = 9) -> Plan:
    """Hyperband's plan for eta 3."""
    return make_plan(
        algorithm=Algorithm.HYPERBAND,
        max_epochs=max_epochs,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=None,
    )


def config_id(trial: int) -> str:
    """The id of a trial: different for each, with characters that a shell would eat."""
    return f"lr:{trial} 'quoted'"


def loss_by_number(trial: int, epochs: int) -> tuple[Outcome, float | None]:
    """Lower numbers are worse; more epochs are better."""
    return Outcome.LOSS, 100.0 / (1 + trial) / epochs


def play(
    plan: Plan,
    used: Settings,
    *,
    outcome_of: Callable[[int, int], tuple[Outcome, float | None]] = loss_by_number,
    n_ends: int | None = None,
    ends: bool = True,
    id_of: Callable[[int], str] = config_id,
) -> list[Event]:
    """The events of a search on one slot.

    Args:
        plan: what is searched.
        used: the settings that are journalled.
        outcome_of: outcome and loss by trial and epochs.
        n_ends: stop after so many ends, with the next job running; None: play to the end.
        ends: whether the last event says that the search ended in good order.
        id_of: the config ids.
    """
    engine = Engine()
    events: list[Event] = []

    def happen(event: Event) -> None:
        engine.handle(event)
        events.append(event)

    happen(StudyCreated("vgg", str(used.script), used.script_args, "/somewhere", ()))
    happen(SearchStarted(BEGAN_AT, used.document(), "here", 1, "boot", "0.1.0"))
    happen(PlanMade(plan))
    happen(IdsDrawn(0, tuple(id_of(trial) for trial in range(plan.n_trials))))
    at = BEGAN_AT
    while (start := engine.next_start()) is not None:
        at += 1.0
        happen(
            JobStarted(
                at,
                start.job,
                start.attempt,
                start.trial,
                start.rung,
                start.epochs,
                "gpu:1/0",
                False,
                "0",
                "h",
            )
        )
        if n_ends is not None and start.job >= n_ends:
            return events
        outcome, loss = outcome_of(start.trial, start.epochs)
        status = None if outcome is Outcome.LOST else 0 if outcome is Outcome.LOSS else 1
        happen(
            JobEnded(
                at + 0.9, start.job, start.attempt, outcome, loss, status, at + 0.1, at + 0.8, True, "why"
            )
        )
    if ends:
        state = "failed" if engine.best() is None else "finished"
        happen(SearchEnded(at + 1, state, "every bracket is over"))
    return events


def write_study(folder: Path, events: list[Event]) -> None:
    """Put the events into a real journal that nobody holds any more."""
    journal = Journal.open(folder)
    journal.append(*events, durable=False)
    journal.close()
