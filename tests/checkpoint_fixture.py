"""A search in miniature whose jobs leave checkpoints: the real engine, files and `Checkpoints`."""

import os
import sys
from pathlib import Path

from engine_fixture import Simulation, plan

from hyperband.search.events import CheckpointsRemoved, IdsDrawn, PlanMade
from hyperband.settings import KeepCheckpoints, Settings
from hyperband.study.checkpoints import Checkpoints

WHOLE = "runs/{config_id}/**"


class Study:
    """A search in miniature, whose jobs leave checkpoints."""

    def __init__(
        self, tmp_path: Path, ids: tuple[str, ...], pattern: str = WHOLE, keep: str = "best"
    ) -> None:
        self.cwd = tmp_path
        self.folder = tmp_path / "logs" / "study"
        self.ids = ids
        self.simulation = Simulation(PlanMade(plan([(len(ids), 1), (1, 3)])), IdsDrawn(0, ids))
        self.settings = Settings(
            script=tmp_path / "s.py",
            python=Path(sys.executable),
            logs=tmp_path / "logs",
            keep_checkpoints=KeepCheckpoints(keep),
            checkpoints=pattern,
        )
        self.told: list[CheckpointsRemoved] = []
        self.checkpoints = self.open()

    def open(self) -> Checkpoints:
        """A new start of the search."""
        checkpoints = Checkpoints(
            self.settings, cwd=self.cwd, engine=self.simulation.engine, study_folder=self.folder
        )
        checkpoints.recover(self.simulation.events)
        return checkpoints

    def write(self, *names: str, n_bytes: int = 5000) -> None:
        for name in names:
            path = self.cwd / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(n_bytes))

    def end(self, loss: float, *, settle: bool = True) -> None:
        """The next job ends with this loss, and the turn's work is done."""
        start = self.simulation.start()
        self.checkpoints.note([start.trial], self.simulation.end(start, loss))
        if settle:
            self.work(durable=True)

    def work(self, *, durable: bool) -> None:
        event = self.checkpoints.after_turn(durable=durable)
        while event is not None or self.checkpoints.pending:
            if event is not None:
                self.told.append(event)
                self.simulation.handle(event)
            event = self.checkpoints.after_turn(durable=False)

    def finish(self) -> None:
        if (event := self.checkpoints.finish()) is not None:
            self.told.append(event)

    def run(self) -> None:
        """Every job: trial 0 is the best and goes on."""
        for trial in range(len(self.ids)):
            self.end(float(trial))
        self.end(0.0)
        self.finish()

    def files(self) -> list[str]:
        found = []
        for folder, names, others in os.walk(self.cwd):  # folders may go meanwhile
            links = [name for name in names if Path(folder, name).is_symlink()]
            found += [str(Path(folder, name).relative_to(self.cwd)) for name in [*links, *others]]
        return sorted(found)

    def folders(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.cwd))
            for path in self.cwd.rglob("*")
            if path.is_dir() and not path.is_symlink()
        )
