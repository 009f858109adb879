"""Kinds of fault that happen to files: disks that fill, journals that are harmed, folders that go."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fault_campaign.kind import Kind, compiled, no_compiler, no_immutable_files, no_mounts
from fault_campaign.scene import Scene
from fault_campaign.scripts import CLOCK, LOUD_ONCE, SCRIPT
from hyperband.journal import read_events
from hyperband.search.engine import Engine

_CPU = ("--gpus", "none", "--slots", "2")
#: half a megabyte must be free
_SMALL_DISK = (*_CPU, "--min-free-disk", "0.0005")
_DAY_S = 86400


def small_logs(scene: Scene) -> None:
    """The folder of all studies is a file system of 4 MB."""
    scene.mount(scene.folder / "logs", 4)


def small_work(scene: Scene) -> None:
    """Jobs run, and write their checkpoints, on a file system of 2 MB."""
    scene.cwd = scene.folder / "work"
    scene.mount(scene.cwd, 2)


def _full_for_a_while(scene: Scene, folder: Path) -> None:
    scene.moment()
    hog = scene.fill(folder)
    scene.pause(0.1, 1.0)
    if scene.is_over() and scene.search is not None:
        scene.finish()
        if scene.rng.random() < 0.5:  # a start with the disk still full
            scene.start()
            scene.pause(0.0, 1.0)
    hog.unlink()


def study_disk_full(scene: Scene) -> None:
    """The study's disk is full to the last byte for a while."""
    _full_for_a_while(scene, scene.folder / "logs")


def checkpoint_disk_full(scene: Scene) -> None:
    """The disk of the checkpoints is full to the last byte for a while."""
    _full_for_a_while(scene, scene.cwd)


def output_fills_disk(scene: Scene) -> None:
    """Jobs print until the study's disk is full; somebody makes it larger."""
    scene.harmed.update(range(1000))
    scene.n_faults += 1
    scene.start()
    full = scene.until(lambda: shutil.disk_usage(scene.folder / "logs").free < 1 << 16)
    if full:
        scene.pause(0.0, 0.5)
    scene.resize(scene.folder / "logs", 200)


def read_only(scene: Scene) -> None:
    """No file can be made in the study's folder, or in that of its jobs, for a while."""
    scene.start()
    if not scene.until((scene.study / "jobs").exists):
        return
    scene.pause(0.0, 0.6 * scene.length_s)
    folder = scene.rng.choice([scene.study, scene.study / "jobs"])
    scene.harmed.update(range(1000))
    subprocess.run(["chattr", "+i", folder], check=True)
    scene.n_faults += 1
    try:
        scene.pause(0.1, 0.6)
        if scene.is_over():
            scene.finish()
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


def _runs(scene: Scene) -> bool:
    """Start a search, and let a part of it pass; False: it is over."""
    scene.start()
    if not scene.until((scene.study / "jobs").exists):
        return False
    scene.pause(0.0, 0.6 * scene.length_s)
    return not scene.is_over()


def study_deleted(scene: Scene) -> None:
    """The study's folder is deleted under a running search: of its jobs only the losses are left."""
    if not _runs(scene):
        return
    search = scene.start()
    # held meanwhile, since one that has written its last word could not notice
    search.send_signal(signal.SIGSTOP)
    engine = Engine()
    for event in read_events(scene.study):
        engine.handle(event)
    if not engine.is_complete:
        scene.n_faults += 1
        scene.harmed.update(range(1000))
        scene.outputs_deleted = True
        shutil.rmtree(scene.study, ignore_errors=True)  # jobs may end while it is being deleted
    search.send_signal(signal.SIGCONT)


def journal_deleted(scene: Scene) -> None:
    """The journal is deleted under a running search: the database, its log, its copy, or some of them."""
    if not _runs(scene):
        return
    scene.n_faults += 1
    files = list(scene.study.glob("journal.*"))
    for path in scene.rng.sample(files, scene.rng.randint(1, len(files))):
        path.unlink(missing_ok=True)


def _truncate(path: Path, scene: Scene) -> None:
    n_bytes = path.stat().st_size
    cut = scene.rng.randrange(n_bytes)
    # nothing, whole pages, any number
    os.truncate(path, scene.rng.choice([0, cut - cut % 4096, cut]))


def _garbage(path: Path, scene: Scene) -> None:
    with path.open("r+b") as stream:
        stream.seek(scene.rng.choice([0, scene.rng.randrange(path.stat().st_size)]))
        stream.write(scene.rng.randbytes(scene.rng.randint(100, 9000)))


def journal_truncated(scene: Scene) -> None:
    """The journal, its copy or both lose their end while the search is dead."""
    _harmed_while_dead(scene, _truncate)


def journal_garbage(scene: Scene) -> None:
    """Parts of the journal, its copy or both are overwritten while the search is dead."""
    _harmed_while_dead(scene, _garbage)


def _harmed_while_dead(scene: Scene, harm: Callable[[Path, Scene], None]) -> None:
    scene.moment()
    scene.kill_search()
    files = [scene.study / name for name in ("journal.db", "journal.copy")]
    if not all(path.exists() and path.stat().st_size for path in files):
        return
    # every job must be over: what is restored below would not know of what they do meanwhile
    ends_s = time.monotonic() + 20
    while scene.processes() and time.monotonic() < ends_s:
        time.sleep(0.01)
    backup = scene.copy_study("backup")
    # one plain file, as after a search that ended in good order
    connection = sqlite3.connect(files[0])
    connection.execute("PRAGMA journal_mode=delete")
    connection.close()
    victims = scene.rng.choice([files[:1], files[1:], files])
    for path in victims:
        harm(path, scene)
        scene.n_faults += 1
    code = scene.finish()
    if code != 0:
        scene.expect(
            code == 1 and len(victims) == 2, f"{len(victims)} harmed files of two: ended with {code}"
        )
        shutil.rmtree(scene.study)
        backup.rename(scene.study)


def journal_harmed_alive(scene: Scene) -> None:
    """The journal, its log or its copy is cut short or overwritten under a running search."""
    if not _runs(scene):
        return
    scene.n_faults += 1
    path = scene.rng.choice([found for found in scene.study.glob("journal.*") if found.stat().st_size])
    harm = scene.rng.choice([_truncate, _garbage])
    if path.name.endswith("-shm") and harm is _truncate:
        # memory that SQLite has mapped: the kernel ends whoever touches it
        scene.allowed_ends.add(-signal.SIGBUS)
    harm(path, scene)


def journal_locked(scene: Scene) -> None:
    """Another program holds the journal locked for a while."""
    scene.start()
    if not scene.until((scene.study / "jobs").exists):
        return
    for _ in range(scene.rng.randint(1, 3)):
        scene.pause(0.0, 0.4 * scene.length_s)
        connection = sqlite3.connect(scene.study / "journal.db", timeout=5.0, isolation_level=None)
        try:
            connection.execute(scene.rng.choice(["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]))
            scene.n_faults += 1
            scene.pause(0.1, 1.0)
        except sqlite3.OperationalError:
            continue  # the search was just at it
        finally:
            connection.close()


def checkpoints_removed(scene: Scene) -> None:
    """Checkpoints vanish under a running search, and the script trains from scratch."""
    scene.may_retrain = True
    for _ in range(3):
        scene.moment()
        for path in (scene.cwd / "checkpoints").glob("*"):
            if scene.rng.random() < 0.7:
                path.unlink(missing_ok=True)
                scene.n_faults += 1


def checkpoints_let_go(scene: Scene) -> None:
    """Kill -9 of the search while it deletes checkpoints: the right ones go, the right ones stay."""
    folder = scene.cwd / "checkpoints"
    folder.mkdir()
    (folder / "decoy.json").write_text("nobody's")
    while scene.rng.random() < 0.8 and not scene.document:
        scene.moment()
        scene.kill_search()
        scene.dead()
    if not scene.document:
        scene.settle()
    best = scene.document["best"]["config_id"]
    kept = {trial["config_id"] for trial in scene.document["trials"] if trial["state"] == "done"} | {best}
    wanted = {"decoy.json", *(f"{config_id}.json" for config_id in kept)}
    found = {path.name for path in scene.folder.rglob("*") if path.is_file() and _is_checkpoint(path.name)}
    scene.expect(found == wanted, f"checkpoints: {sorted(found ^ wanted)} are there or not there wrongly")


def _is_checkpoint(name: str) -> bool:
    return name == "decoy.json" or (name.startswith("x:") and name.endswith(".json"))


def script_edited(scene: Scene) -> None:
    """The script is saved anew, with a comment more, while it runs; for a moment it is not there."""
    for n in range(scene.rng.randint(1, 3)):
        scene.moment()
        fresh = scene.folder / "script.new"
        fresh.write_text(f"{scene.script.read_text()}# {n}\n")
        if scene.rng.random() < 0.5:
            scene.script.unlink()
            scene.pause(0.0, 0.2)
        fresh.replace(scene.script)
        scene.n_faults += 1


def jumping_clock(scene: Scene) -> None:
    """The clock of everything that the search starts can jump."""
    clock = scene.folder / "clock"
    clock.write_bytes(bytes(8))
    scene.environment["LD_PRELOAD"] = str(compiled(CLOCK, "clock"))
    scene.environment["FAULTS_CLOCK"] = str(clock)


def clock_jumps(scene: Scene) -> None:
    """The clock jumps by a day, forwards and backwards, while it runs; sometimes the search is killed too."""
    for _ in range(3):
        scene.moment()
        offset_s = scene.rng.choice([-_DAY_S, 0, _DAY_S])
        with (scene.folder / "clock").open("r+b") as stream:
            stream.write(offset_s.to_bytes(8, sys.byteorder, signed=True))
        scene.n_faults += 1
        if scene.rng.random() < 0.3:
            scene.kill_search()


KINDS = (
    Kind(
        name="study-disk-full",
        about="the study's disk is full",
        story=study_disk_full,
        options=_SMALL_DISK,
        prepare=small_logs,
        missing=no_mounts,
    ),
    Kind(
        name="checkpoint-disk-full",
        about="the checkpoints' disk is full",
        story=checkpoint_disk_full,
        options=_SMALL_DISK,
        prepare=small_work,
        missing=no_mounts,
    ),
    Kind(
        name="output-fills-disk",
        about="jobs print until the disk is full",
        story=output_fills_disk,
        script=LOUD_ONCE,
        undisturbed=SCRIPT,
        options=_SMALL_DISK,
        prepare=small_logs,
        missing=no_mounts,
    ),
    Kind(name="read-only", about="the study becomes read-only", story=read_only, missing=no_immutable_files),
    Kind(name="study-deleted", about="the study's folder is deleted", story=study_deleted),
    Kind(name="journal-deleted", about="the journal is deleted", story=journal_deleted),
    Kind(name="journal-truncated", about="the journal is cut short", story=journal_truncated),
    Kind(name="journal-garbage", about="parts of the journal are overwritten", story=journal_garbage),
    Kind(name="journal-harmed-alive", about="the same under a running search", story=journal_harmed_alive),
    Kind(name="journal-locked", about="another program locks the journal", story=journal_locked),
    Kind(name="checkpoints-removed", about="checkpoints vanish", story=checkpoints_removed),
    Kind(
        name="checkpoints-let-go",
        about="kill -9 while checkpoints are let go",
        story=checkpoints_let_go,
        options=(*_CPU, "--keep-checkpoints", "best", "--checkpoints", "checkpoints/{config_id}.json"),
    ),
    Kind(name="script-edited", about="the script is edited", story=script_edited),
    Kind(
        name="clock-jumps",
        about="the clock jumps by a day",
        story=clock_jumps,
        options=(*_CPU, "--timeout", "10"),
        prepare=jumping_clock,
        missing=no_compiler,
    ),
)
