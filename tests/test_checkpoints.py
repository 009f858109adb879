"""`--keep-checkpoints`: files of trials that are over go, and no others; kills lose and double nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from checkpoint_fixture import Study
from engine_fixture import Simulation, plan
from hypothesis import given
from hypothesis import strategies as st
from search_fixture import Searches, script, searches

from hyperband.errors import UsageError
from hyperband.machine.checkpoint_files import check_pattern
from hyperband.machine.checkpoint_pattern import parse, sha256_of
from hyperband.search.events import IdsDrawn, PlanMade

__all__ = ["searches"]


def test_files_of_those_who_are_over_go_and_the_others_stay(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b", "c"))
    study.write("runs/a/last.pt", "runs/b/last.pt", "runs/b/old/1.pt", "runs/b/.hidden", "runs/c/last.pt")
    study.write("runs/notes.txt", "other/b/last.pt", "runs/bb/last.pt")
    study.run()
    assert study.files() == ["other/b/last.pt", "runs/a/last.pt", "runs/bb/last.pt", "runs/notes.txt"]
    assert study.folders() == ["other", "other/b", "runs", "runs/a", "runs/bb"], "no empty folders"
    assert sorted(trial for event in study.told for trial in event.trials) == [1, 2]
    assert sum(event.n_files for event in study.told) == 4
    assert sum(event.n_bytes for event in study.told) == 4 * 8192, "whole blocks, as the disk counts"
    assert study.checkpoints.news == []


def test_nothing_is_deleted_before_the_next_outcome_is_on_disk(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b"), keep="none")
    study.write("runs/a/1", "runs/b/1")
    study.end(0.0)
    study.end(1.0)
    assert study.told == []
    (aside,) = (tmp_path / "runs").glob(".hyperband-aside-*")
    assert [path.name for path in aside.rglob("*") if path.is_file()] == ["1"]
    study.work(durable=False)
    assert study.told == []
    study.end(0.5)
    assert [event.trials for event in study.told] == [(1,)]
    assert study.files() == ["runs/a/1"]
    assert not aside.exists()


@pytest.mark.parametrize(("keep", "left"), [("all", "abc"), ("best", "ab"), ("none", "b")])
def test_which_trials_keep_theirs(tmp_path: Path, keep: str, left: str) -> None:
    study = Study(tmp_path, ("a", "b", "c"), keep=keep)
    study.simulation = Simulation(PlanMade(plan([(3, 1), (2, 3)])), IdsDrawn(0, ("a", "b", "c")))
    study.checkpoints = study.open()
    study.write("runs/a/1", "runs/b/1", "runs/c/1")
    for loss in (1.0, 2.0, 3.0, 5.0, 4.0):
        study.end(loss)
    study.finish()
    assert [name[5] for name in study.files()] == list(left)


def test_files_named_by_the_hash_as_dummy_does(tmp_path: Path) -> None:
    ids = ("lr:0.1", "lr:0.2")
    study = Study(tmp_path, ids, pattern="dummy/{config_id_sha256}.json")
    names = [f"dummy/{sha256_of(config_id)}.json" for config_id in ids]
    study.write(*names, "dummy/other.json")
    study.run()
    assert study.files() == sorted([names[0], "dummy/other.json"])


def test_an_id_stands_for_itself_whatever_is_in_it(tmp_path: Path) -> None:
    ids = ("keep", "*", "[ab]", "x?", "a b\n'$(c)", "**")
    study = Study(tmp_path, ids, pattern="runs/{config_id}/w")
    study.write(*[f"runs/{config_id}/w" for config_id in (*ids, "a", "b", "xy", "zzz")])
    study.run()
    assert study.files() == ["runs/a/w", "runs/b/w", "runs/keep/w", "runs/xy/w", "runs/zzz/w"]


@pytest.mark.parametrize("evil", ["..", ".", "../secret", "b/../../secret", "/etc", "b//c", "b/", "", "b\0c"])
def test_an_id_that_leads_elsewhere_is_never_touched(tmp_path: Path, evil: str) -> None:
    study = Study(tmp_path, ("a", evil))
    study.write("runs/a/1", "runs/b/1", "runs/c/1", "secret/1", "secret/secret/1", "1")
    before = study.files()
    study.run()
    assert study.files() == before


def test_ids_with_slashes_share_folders(tmp_path: Path) -> None:
    study = Study(tmp_path, ("m/a", "m/b", "m", "m/b/c"))
    study.write("runs/m/a/1", "runs/m/b/1", "runs/m/1", "runs/m/b/c/1")
    study.end(0.0)
    study.end(1.0)
    study.end(2.0)
    study.end(3.0)
    study.end(0.0)
    study.finish()
    assert study.files() == ["runs/m/a/1"]
    assert study.folders() == ["runs", "runs/m", "runs/m/a"]


def test_a_file_that_is_also_one_of_a_trial_that_goes_on_stays(tmp_path: Path) -> None:
    study = Study(tmp_path, ("xx", "x", "y"), pattern="runs/*{config_id}*")
    study.write("runs/1-xx-last", "runs/1-x-last", "runs/y", "runs/x")
    study.run()
    assert study.files() == ["runs/1-xx-last"]


def test_a_folder_that_a_job_may_be_making_is_not_removed(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a/b", "a"))
    study.write("runs/a/1")
    (tmp_path / "runs/a/b").mkdir()
    (tmp_path / "runs/a/empty").mkdir()
    study.run()
    assert study.folders() == ["runs", "runs/a", "runs/a/b"]


def test_nothing_is_reached_through_a_symbolic_link(tmp_path: Path) -> None:
    study = Study(tmp_path, ("keep", "a", "b", "c", "d"))
    study.write("outside/1", "runs/a/1")
    (tmp_path / "runs/b").symlink_to("../outside")
    (tmp_path / "runs/a/link").symlink_to("../../outside")
    (tmp_path / "runs/a/file").symlink_to("../../outside/1")
    (tmp_path / "runs/c").mkdir()
    (tmp_path / "runs/c/up").symlink_to("..")
    (tmp_path / "runs/d").symlink_to("/")
    study.run()
    assert study.files() == [
        "outside/1",
        "runs/a/file",
        "runs/a/link",
        "runs/b",
        "runs/c/up",
        "runs/d",
    ]


def test_a_prefix_that_becomes_a_link_stops_all_of_it(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b", "c"))
    study.write("elsewhere/b/1", "elsewhere/c/1")
    (tmp_path / "runs").symlink_to("elsewhere")
    study.run()
    assert study.files() == ["elsewhere/b/1", "elsewhere/c/1", "runs"]
    assert len(study.checkpoints.news) == 1
    assert "symbolic link" in study.checkpoints.news[0]


SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while True:
    for here in ("runs/b", "runs/b/deep"):
        try:
            os.rename(here, here + ".away")
            os.symlink(os.path.join(sys.argv[1], "outside"), here)
            os.unlink(here)
            os.rename(here + ".away", here)
        except OSError:
            pass
"""


@pytest.fixture
def swapper(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_folders_that_turn_into_links_under_our_hands_lead_nowhere(
    tmp_path: Path, swapper: subprocess.Popen[str]
) -> None:
    study = Study(tmp_path, ("a", "b"))
    outside = [f"outside/{n}" for n in range(20)] + [f"outside/deep/{n}" for n in range(20)]
    study.write(*outside, n_bytes=1)
    assert swapper.stdout is not None
    swapper.stdout.readline()
    study.end(0.0)
    study.end(1.0, settle=False)
    ends_s = time.monotonic() + 1.0
    while time.monotonic() < ends_s:
        for n in range(20):
            for folder in ("runs/b", "runs/b/deep"):
                try:
                    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                    fd = os.open(tmp_path / folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                except OSError:
                    continue
                # another folder may have been renamed onto this one, which was empty
                with contextlib.suppress(FileNotFoundError):
                    os.close(os.open(f"{n}", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
                os.close(fd)
        study.checkpoints._to_move.append(1)
        study.checkpoints.finish()
    assert [name for name in study.files() if name.startswith("outside")] == sorted(outside)


def test_another_file_system_is_left_alone(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b"))
    place = tmp_path / "runs/b"
    place.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("only root may mount a file system")
    try:
        study.write("runs/b/1", "runs/b/2")
        study.run()
        assert study.files() == ["runs/b/1", "runs/b/2"]
        (line,) = study.checkpoints.news
        assert "cross-device" in line
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_the_studys_own_folder_is_never_entered(tmp_path: Path) -> None:
    study = Study(tmp_path, ("stderr", "stdout", "journal.db"), pattern="**/{config_id}")
    study.write("logs/study/journal.db", "logs/study/jobs/000000-0/stdout", "deep/down/stdout", "journal.db")
    study.run()
    assert study.files() == ["logs/study/jobs/000000-0/stdout", "logs/study/journal.db"]


def test_a_turn_is_short_and_the_rest_is_done_in_the_next_ones(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b"))
    study.write(*[f"runs/b/{n}" for n in range(1000)], n_bytes=1)
    study.end(0.0)
    study.end(1.0, settle=False)
    n_turns = 0
    study.checkpoints.after_turn(durable=True)
    while study.checkpoints.pending:
        study.checkpoints.after_turn(durable=False)
        n_turns += 1
    assert n_turns > 0
    study.finish()
    assert study.told[0].n_files == 1000
    assert study.files() == []


def test_many_trials_without_files_do_not_hold_up_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path, tuple(f"t{n}" for n in range(50)), keep="none")
    for trial in range(50):
        study.end(float(trial), settle=False)
    monkeypatch.setattr("hyperband.study.checkpoints._TURN_S", 0.0)
    n_turns = 0
    while study.checkpoints.pending:
        study.checkpoints.after_turn(durable=True)
        n_turns += 1
    assert n_turns >= 49


def test_a_restart_does_not_look_again_at_what_is_done(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b", "c"))
    study.write("runs/b/1")
    study.run()
    study.simulation.events.extend(study.told)
    study.write("runs/b/again", "runs/c/late")
    study.checkpoints = study.open()
    study.finish()
    assert study.files() == ["runs/b/again"]


def test_what_was_moved_aside_of_a_trial_that_goes_on_is_put_back(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b"))
    study.write("runs/b/1", "runs/b/deep/2")
    content = (tmp_path / "runs/b/deep/2").read_bytes()
    study.end(0.0)
    study.end(1.0)
    assert not (tmp_path / "runs/b").exists()
    # the journal lost its last event: by it trial 1 still runs
    study.simulation = Simulation(*study.simulation.events[:-1])
    study.checkpoints = study.open()
    assert study.files() == ["runs/b/1", "runs/b/deep/2"]
    assert (tmp_path / "runs/b/deep/2").read_bytes() == content
    assert study.folders() == ["runs", "runs/b", "runs/b/deep"]
    (line,) = study.checkpoints.news
    assert "2 checkpoint files" in line


def test_putting_back_never_takes_the_place_of_a_newer_file(tmp_path: Path) -> None:
    study = Study(tmp_path, ("a", "b"))
    study.write("runs/b/1")
    study.end(0.0)
    study.end(1.0)
    study.simulation = Simulation(*study.simulation.events[:-1])
    study.write("runs/b/1")
    newer = (tmp_path / "runs/b/1").read_bytes()
    study.checkpoints = study.open()
    assert (tmp_path / "runs/b/1").read_bytes() == newer
    assert len(study.files()) == 2
    assert "cannot be put back" in study.checkpoints.news[0]


RUN = """
import sys
sys.path[:0] = eval(sys.argv[2])
from pathlib import Path
from checkpoint_fixture import Study
IDS = tuple(f't{n}' for n in range(6))
study = Study(Path(sys.argv[1]), IDS)
for trial in range(int(sys.argv[3])):
    study.end(float(trial), settle=False)
print("ready", flush=True)
study.work(durable=True)
study.finish()
"""
IDS = tuple(f"t{n}" for n in range(6))


def test_kills_at_any_moment_lose_nothing_that_is_needed(tmp_path: Path) -> None:
    dice = Random(1)
    needed = {}
    study = Study(tmp_path, IDS)
    for n in range(6):
        study.write(*[f"runs/t{n}/{k}/w" for k in range(60)], n_bytes=10)
    for k in range(60):
        needed[f"runs/t0/{k}/w"] = (tmp_path / f"runs/t0/{k}/w").read_bytes()
    for _ in range(8):
        # by the journal of some of these searches every trial but the first is over, by that of others none
        n_ended = dice.choice([5, 6, 6])
        writer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUN,
                str(tmp_path),
                repr([*sys.path, str(Path(__file__).parent)]),
                str(n_ended),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(dice.random() * 0.03)  # a kill at a random moment is what this is about
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        left = {name: (tmp_path / name).read_bytes() for name in study.files() if name.startswith("runs/t0/")}
        assert left == needed
    study.run()
    assert study.files() == sorted(needed)
    assert study.folders() == sorted(["runs", "runs/t0", *[f"runs/t0/{k}" for k in range(60)]])


def test_kills_while_files_are_put_back_lose_and_double_nothing(tmp_path: Path) -> None:
    dice = Random(2)
    study = Study(tmp_path, IDS)
    for n in range(6):
        study.write(*[f"runs/t{n}/{k}" for k in range(100)], n_bytes=10)
    before = {name: (tmp_path / name).read_bytes() for name in study.files()}
    for trial in range(6):
        study.end(float(trial))
    assert len([name for name in study.files() if name.startswith("runs/t")]) == 100, "all others are aside"
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path), repr([*sys.path, str(Path(__file__).parent)]), "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        aside = next((tmp_path / "runs").glob(".hyperband-aside-*"), None)
        n_before = len(study.files())
        while writer.poll() is None and aside is not None and len(study.files()) == n_before:
            if not aside.exists():
                break
            time.sleep(dice.random() * 0.002)  # likewise
            if len(list((tmp_path / "runs").glob("t*"))) > 1:
                break
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    study.simulation = Simulation(*study.simulation.events[:2])
    study.checkpoints = study.open()
    assert {name: (tmp_path / name).read_bytes() for name in study.files()} == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("runs/**", "has no {config_id}"),
        ("", "between its slashes"),
        ("runs/../{config_id}", "'..'"),
        ("/tmp//{config_id}", "''"),
        ("runs/{config_id}/", "ends with '/'"),
        ("runs/{trial}/{config_id}", "{trial}"),
        ("runs/{config_id}{", "only {config_id}"),
        ("runs/a**/{config_id}", "whole components"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_pattern(text, cwd=tmp_path)
    assert why in str(refused.value)


def test_a_pattern_through_a_link_is_refused_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "scratch/big").mkdir(parents=True)
    (tmp_path / "runs").symlink_to("scratch")
    target = f"{tmp_path.resolve()}/scratch/big/{{config_id}}/**"
    for text in (
        "runs/big/{config_id}/**",
        "./runs/big/{config_id}/**",
        f"{tmp_path}/runs/big/{{config_id}}/**",
    ):
        with pytest.raises(UsageError) as refused:
            check_pattern(text, cwd=tmp_path)
        assert f"'{target}'" in str(refused.value)
    check_pattern(target, cwd=tmp_path)
    check_pattern("not/there/yet/{config_id}", cwd=tmp_path)


NAMES = st.lists(st.sampled_from(["a", "b", "ab", "x", "a.pt", "*"]), min_size=1, max_size=4)


@given(
    st.sampled_from(
        ["{config_id}", "r/{config_id}/**", "**/{config_id}/*", "r/*{config_id}?", "**/{config_id}/**"]
    ),
    st.sampled_from(["a", "*", "a/b", "ab"]),
    NAMES,
)
def test_what_is_found_on_disk_is_what_matches(
    tmp_path_factory: pytest.TempPathFactory, text: str, config_id: str, names: list[str]
) -> None:
    place = tmp_path_factory.mktemp("place")
    study = Study(place, ("never", config_id), pattern=text)
    paths = {"/".join(names), "/".join(["r", *names]), "r/a/b/x"}
    made = set()
    for path in sorted(paths):
        try:
            study.write(path, n_bytes=1)
            made.add(path)
        except OSError:
            continue  # a file is where a folder would have to be
    files = parse(text).files(config_id)
    assert files is not None
    n_prefix = len(parse(text).prefix)
    prefix = list(parse(text).prefix)
    wanted = {
        path
        for path in made
        if path.split("/")[:n_prefix] == prefix and files.match(path.split("/")[n_prefix:])
    }
    study.run()
    assert set(study.files()) == made - wanted


#: whole searches that remove what is not needed any more
REMOVING = ("--algorithm", "halving", "--max-epochs", "9", "--keep-checkpoints", "best", "--checkpoints")
SAVES = """
import os, time
os.makedirs(os.path.join("runs", config_id), exist_ok=True)
for name in ("best.pt", "last.pt"):
    with open(os.path.join("runs", config_id, name), "wb") as file:
        file.write(b"x" * int(os.environ.get("SAVES_BYTES", "1000")))
time.sleep(float(os.environ.get("SAVES_S", "0")))
print(float(config_id[2:]) + 1 / epochs)
"""


def saved(searches: Searches) -> list[str]:
    """The files that are left, by config id and name."""
    return sorted(str(path.relative_to(searches.folder / "runs")) for path in _files(searches))


def _files(searches: Searches) -> list[Path]:
    return [path for path in (searches.folder / "runs").rglob("*") if path.is_file()]


def test_with_another_pattern_the_files_go_that_the_first_one_left(searches: Searches) -> None:
    searches.write(script(SAVES))
    ran = searches.run(*REMOVING, "runs/{config_id}/best.pt", "--slots", "2")
    assert ran.exit_code == 0, ran.err
    best = ran.document["best"]["config_id"]
    trials = [trial["config_id"] for trial in ran.document["trials"]]
    assert saved(searches) == sorted([f"{best}/best.pt", *(f"{name}/last.pt" for name in trials)])
    ran = searches.run(*REMOVING, "runs/{config_id}/**", "--slots", "2")
    assert ran.exit_code == 0, ran.err
    assert saved(searches) == [f"{best}/best.pt", f"{best}/last.pt"]


@pytest.fixture
def searches_on_64_mib(tmp_path: Path) -> Iterator[Searches]:
    """Searches on a file system of their own."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("only root may mount a file system")
    found = Searches(place)
    yield found
    found.close()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_emptied_by_what_makes_room(searches_on_64_mib: Searches) -> None:
    """After 9 trials with 4 MiB each less than 30 MiB are free, and 24 MiB of the rest are not needed.

    After 8 there is still room: the ninth may start, however late it comes.
    """
    searches = searches_on_64_mib
    # a job takes longer than a look at the disk counts
    searches.environment.update(SAVES_BYTES=str(2 << 20), SAVES_S="0.3")
    searches.write(script(SAVES))
    least = ("--min-free-disk", f"{30 / 1024}")
    ran = searches.run(*REMOVING, "runs/{config_id}/**", "--slots", "3", *least)
    assert ran.exit_code == 0, ran.err
    assert [path.split("/")[0] for path in saved(searches)] == [ran.document["best"]["config_id"]] * 2


def test_a_pattern_that_matches_nothing_is_told_of_once(tmp_path: Path) -> None:
    study = Study(tmp_path, tuple("abcdefgh"), pattern="run/{config_id}/**")
    for config_id in "abcdefgh":
        study.write(f"runs/{config_id}/1")
    study.run()
    news = [line for line in study.checkpoints.news if "no file of the trials" in line]
    assert len(news) == 1
    assert "'run/{config_id}/**'" in news[0]
    assert len(study.files()) == 8
