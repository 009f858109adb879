"""What was right and wrong after a run: its journal, its files, its record and its processes.

Owns the meaning of the columns. Knows no kind of fault: what a kind excuses stands in the scene.
"""

import collections
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_campaign.scene import Scene
from hyperband.errors import HyperbandError
from hyperband.folder import job_folder
from hyperband.journal import read_events
from hyperband.journal.rows import row_of
from hyperband.search.engine import Engine
from hyperband.search.events import Event, JobEnded, JobStarted
from hyperband.search.trial import Outcome

COLUMNS = ("results lost", "run twice", "left over", "not as undisturbed", "unclear ends")
_PATIENCE_S = 10.0


def check(scene: Scene, wanted: dict[str, Any], *, is_guided: bool = False) -> None:
    """Judge a run that is over.

    Args:
        scene: the run.
        wanted: what the undisturbed search of the same script printed.
        is_guided: a model chose what was tried: it may be other trials than there.
    """
    _check_left_over(scene)
    try:
        events = read_events(scene.study)
    except HyperbandError as err:
        scene.complain("results lost", str(err))
        return
    ended = {(event.job, event.attempt): event for event in events if isinstance(event, JobEnded)}
    _check_results(scene, ended)
    _check_record(scene, ended)
    errors = scene.study / "keepers.err"
    if errors.exists() and errors.stat().st_size:
        scene.complain("unclear ends", f"keepers.err: {errors.read_text(errors='replace')[-600:]}")
    if is_guided:
        _check_replay(scene, events, wanted)
    else:
        _check_same(scene, wanted)


def _check_left_over(scene: Scene) -> None:
    """No process of the run lives, and no lease is held."""
    ends_s = time.monotonic() + _PATIENCE_S
    while (left := scene.processes()) and time.monotonic() < ends_s:
        time.sleep(0.02)
    for pid in left:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            words = "gone since"
        scene.complain("left over", f"process {pid}: {words[:200]}")
    locks = Path("/proc/locks").read_text()
    for path in scene.leases.iterdir() if scene.leases.exists() else ():
        if f":{path.stat().st_ino} " in locks:
            scene.complain("left over", f"lease {path.name}")


def loss_of(folder: Path) -> float | None:
    """The loss that an attempt gave by the files of its folder; None: it did not end well, or unseen."""
    try:
        result = json.loads((folder / "result.json").read_bytes())
        with (folder / "stdout").open("rb") as stream:
            stream.seek(max(0, (folder / "stdout").stat().st_size - 4096))
            last = stream.read().split()[-1]
        return float(last) if result["exit_status"] == 0 and result["asked"] is None else None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _check_results(scene: Scene, ended: dict[tuple[int, int], JobEnded]) -> None:
    """What ended well is in the journal as it was, and what is in the journal is in the files."""
    losses: dict[int, list[float]] = collections.defaultdict(list)
    for folder in sorted(scene.study.glob("jobs/*-*")):
        job, attempt = map(int, folder.name.split("-"))
        loss = loss_of(folder)
        event = ended.get((job, attempt))
        if loss is not None and (event is None or event.loss != loss):
            how = "is not there" if event is None else f"is {event.outcome} {event.loss}"
            scene.complain("results lost", f"{folder.name} gave {loss}, but in the journal it {how}")
        if event is not None and event.loss is not None:
            losses[job].append(event.loss)
    for (job, attempt), event in ended.items():
        folder = job_folder(scene.study, job, attempt)
        if scene.outputs_deleted and not folder.exists():
            continue
        if event.loss is not None and loss_of(folder) != event.loss:
            scene.complain("results lost", f"{job}-{attempt} is {event.loss} in the journal alone")
    for job, found in losses.items():
        if len(found) > 1:
            scene.complain("run twice", f"job {job} has {len(found)} losses in the journal")


def _check_record(scene: Scene, ended: dict[tuple[int, int], JobEnded]) -> None:
    """What the script itself saw: runs after an end, losses, epochs that were trained again."""
    finished: dict[int, str] = {}
    trained: collections.Counter[tuple[str, str]] = collections.Counter()
    spans: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    began: dict[str, int] = {}
    for line in scene.record.read_text().splitlines() if scene.record.exists() else ():
        word, folder, config_id, epochs, *more = line.split()
        job, attempt = map(int, folder.split("-"))
        if word == "epoch":
            trained[config_id, epochs] += 1
        elif word == "start":
            began[folder] = int(more[0])
            before = finished.get(job)
            if before is not None and (
                job not in scene.harmed or loss_of(scene.study / "jobs" / before) is not None
            ):
                scene.complain("run twice", f"{folder} ran after {before} had finished")
        elif word == "end":
            spans[config_id].append((began[folder], int(more[0])))
            event = ended.get((job, attempt))
            if event is not None and event.outcome is Outcome.STOPPED:
                continue  # it was told to end when it had printed, but before its process was gone
            finished[job] = folder
            if job not in scene.harmed and (event is None or event.loss != float(more[1])):
                how = "is not there" if event is None else f"is {event.outcome} {event.loss}"
                scene.complain("results lost", f"{folder} printed {more[1]}, but in the journal it {how}")
    for config_id, runs in spans.items():
        runs.sort()
        if any(later[0] < earlier[1] for earlier, later in itertools.pairwise(runs)):
            scene.complain("run twice", f"{config_id} ran twice at once")
    for (config_id, epoch), n in trained.items():
        if n > 1 and not scene.may_retrain:
            scene.complain("run twice", f"{config_id} was trained {n} times to epoch {epoch}")


def _check_same(scene: Scene, wanted: dict[str, Any]) -> None:
    """Ids, promotions, losses and the best are those of the undisturbed search."""
    for key in ("plan", "trials", "best"):
        if scene.document.get(key) != wanted[key]:
            found, expected = scene.document.get(key), wanted[key]
            if key == "trials" and found is not None:
                pairs = [(one, other) for one, other in zip(found, expected, strict=False) if one != other]
                found, expected = pairs[0] if pairs else (len(found), len(expected))
            scene.complain("not as undisturbed", f"{key}: {found} and not {expected}")
    found_last, wanted_last = _last_attempts(scene.document), _last_attempts(wanted)
    if found_last != wanted_last:
        difference = set(found_last.items()) ^ set(wanted_last.items())
        scene.complain("not as undisturbed", f"last attempts: {sorted(difference, key=str)[:4]}")


def _check_replay(scene: Scene, events: Sequence[Event], wanted: dict[str, Any]) -> None:
    """The journal only ever grew, and when it is replayed it gives what the search printed."""
    rows = [row_of(event) for event in events]
    for before in scene.journals:
        if rows[: len(before)] != before:
            scene.complain("not as undisturbed", f"what the journal held, {len(before)} events, is changed")
    engine = Engine()
    try:
        for event in events:
            engine.handle(event)
        engine.validate()
    except HyperbandError as err:
        scene.complain("not as undisturbed", f"the journal cannot be replayed: {err}")
        return
    trials = [(trial["number"], trial["config_id"]) for trial in scene.document.get("trials", ())]
    best, shown = engine.best(), scene.document.get("best")
    held = {
        "complete": (engine.is_complete, True),
        "plan": (scene.document.get("plan"), wanted["plan"]),
        "trials": (trials, list(enumerate(engine.ids()))),
        "best": (shown, best and {"config_id": best.config_id, "loss": best.loss, "epochs": best.epochs}),
        "different trials": (len({config_id for _, config_id in trials}), len(wanted["trials"])),
    }
    for name, (found, expected) in held.items():
        if found != expected:
            scene.complain("not as undisturbed", f"{name}: {found} and not {expected}")
    ids = engine.ids()
    starts = {(event.job, event.attempt): event.trial for event in events if isinstance(event, JobStarted)}
    for line in scene.record.read_text().splitlines():
        word, folder, config_id, *_ = line.split()
        job, attempt = map(int, folder.split("-"))
        if word == "start" and ids[starts[job, attempt]] != config_id:
            scene.complain("not as undisturbed", f"{folder} ran {config_id}, which is not its trial's id")


def _last_attempts(document: dict[str, Any]) -> dict[tuple[int, int], tuple[str, float]]:
    """By trial and epochs, the outcome of the last attempt, whatever the clock said meanwhile."""
    jobs = sorted(document.get("jobs", ()), key=lambda job: int(job["attempt"]))
    return {(job["trial"], job["epochs"]): (job["outcome"], job["loss"]) for job in jobs}
