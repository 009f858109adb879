"""The studies of one folder, for people: a line for each. Owns the layout; reads no journal itself."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from hyperband.report.text import number, shown
from hyperband.report.view import StudyView
from hyperband.search.trial import TrialState


def studies_table(studies: Sequence[tuple[Path, StudyView | str]]) -> str:
    """What each study is and how far it got.

    Args:
        studies: the folder of each, and the study, or in words why it cannot be read.
    """
    rows = []
    for folder, study in studies:
        if isinstance(study, str):
            rows.append([shown(folder.name), study, "", "", "", ""])
            continue
        n_started = sum(trial.state is not TrialState.QUEUED for trial in study.trials)
        best = ["", ""] if study.best is None else [number(study.best.loss), f"{study.best.epochs:,}"]
        algorithm = str(study.settings.get("algorithm", ""))
        rows.append([shown(folder.name), study.state, algorithm, f"{n_started:,}", *best])
    return tabulate(
        rows,
        headers=["study", "state", "algorithm", "trials", "best loss", "at epochs"],
        disable_numparse=True,
        colalign=("left", "left", "left", "right", "right", "right"),
    )
