"""The guide's process and the search's way to it: real processes, killed, stopped and broken ones too."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from guide_fixture import (
    PATIENCE_S,
    Endless,
    Failing,
    NearestToBest,
    ended,
    proposed,
    receive_until,
    serving,
    started,
)

from hyperband.guide import service
from hyperband.guide.client import FeaturesRead, Guide, NeedCandidates, NeedConfigs, News, Note, Proposal
from hyperband.search.events import IdsDrawn

ROOT = Path(__file__).resolve().parent.parent
SPACE = [f"x:{x}" for x in range(200)]

Opens = Callable[..., Guide]


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    """Opens guides with a simple model, and closes them in the end."""
    with contextlib.ExitStack() as stack:

        def open_guide(model: type[NearestToBest] = NearestToBest, *, n_ready: int = 2) -> Guide:
            monkeypatch.setattr(service, "_SERVE", serving(model))
            guide = Guide(max_epochs=9, seed=0, log=tmp_path / "guide.log", n_ready=n_ready)
            return stack.enter_context(contextlib.closing(guide))

        yield open_guide


def has(kind: type[News]) -> Callable[[list[News]], bool]:
    return lambda news: any(isinstance(one, kind) for one in news)


def notes(news: list[News]) -> list[str]:
    return [one.text for one in news if isinstance(one, Note)]


def tell_first(guide: Guide, *, n: int = 1) -> None:
    """Trials 0 to n - 1 with x = 0, 1, ... and their numbers as losses."""
    for trial in range(n):
        guide.tell(proposed(trial, f"x:{trial}"))
        guide.tell(started(trial, trial))
        guide.tell(ended(trial, float(trial)))


def take_when_ready(guide: Guide, used: set[str], *, n_observations: int) -> list[str]:
    """All proposals of the first list that knows so many observations."""
    poll = select.poll()
    poll.register(guide, select.POLLIN)
    while True:
        found: list[Proposal] = []
        while (proposal := guide.take(used)) is not None:
            found.append(proposal)
        if found and found[0].n_observations == n_observations:
            return [one.config_id for one in found]
        assert poll.poll(PATIENCE_S * 1000), "no proposal came"
        guide.receive()


def pid_of(guide: Guide) -> int:
    assert guide.pid is not None
    return guide.pid


def test_proposals_come_from_draws_and_losses(opens: Opens) -> None:
    guide = opens()
    assert receive_until(guide, has(NeedCandidates)) == [NeedCandidates(2048)]
    assert guide.n_candidates_wanted == 2048
    guide.offer(SPACE, None)
    assert guide.n_candidates_wanted == 1848
    assert guide.take(()) is None
    assert receive_until(guide, has(FeaturesRead)) == [FeaturesRead(("x",))]
    tell_first(guide)
    assert guide.n_observations == 1
    assert take_when_ready(guide, {"x:2"}, n_observations=1) == ["x:1", "x:3", "x:4"]
    assert guide.take(()) is None, "each proposal is taken once"
    guide.want(4)
    guide.tell(proposed(1, "x:1"))
    assert take_when_ready(guide, {"x:0", "x:1"}, n_observations=1) == [f"x:{x}" for x in range(2, 10)]


def test_other_studies_are_learned_from(opens: Opens) -> None:
    guide = opens()
    guide.learn([IdsDrawn(0, ("x:0", "x:70")), started(0, 1), ended(0, 0.5)])
    guide.learn([IdsDrawn(0, ("x:90",)), started(0, 0), ended(0, 0.7)])
    guide.offer(SPACE, None)
    assert take_when_ready(guide, set(), n_observations=2)[0] == "x:70"


def test_a_script_is_asked_what_ids_mean(opens: Opens) -> None:
    guide = opens()
    tell_first(guide)
    guide.offer([f"{n:x}" for n in range(100)], [{"n": n} for n in range(100)])
    assert NeedConfigs(("x:0",)) in receive_until(guide, has(NeedConfigs))
    guide.describe(["x:0"], [{"n": 0}])
    assert take_when_ready(guide, set(), n_observations=1) == ["0", "1", "2", "3"]


def test_the_process_keeps_out_of_the_jobs_way(opens: Opens) -> None:
    guide = opens()
    receive_until(guide, has(NeedCandidates))
    process = psutil.Process(pid_of(guide))
    assert os.getsid(process.pid) == process.pid
    assert process.nice() >= 10
    assert process.num_threads() == 1
    assert process.environ()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_killed_process_starts_again_and_knows_the_same(opens: Opens) -> None:
    guide = opens()
    descriptor = guide.fileno()
    guide.learn([IdsDrawn(0, ("x:70",)), started(0, 0), ended(0, 0.5)])
    guide.offer(SPACE, None)
    tell_first(guide, n=5)
    assert take_when_ready(guide, set(), n_observations=6)[0] == "x:5"
    first = pid_of(guide)
    os.kill(first, signal.SIGKILL)
    news = receive_until(guide, has(NeedCandidates))
    assert notes(news) == [
        "The guide's process has ended (signal 9, Killed); it starts again, and hears everything anew."
    ]
    assert pid_of(guide) != first
    assert guide.fileno() == descriptor
    assert guide.n_candidates_wanted == 1848, "the draws are told again, too"
    assert take_when_ready(guide, set(), n_observations=6)[0] == "x:5"


def test_a_killed_process_knows_again_what_a_small_space_has(opens: Opens) -> None:
    guide = opens()
    guide.offer(SPACE, None, is_last=True)
    tell_first(guide)
    before = take_when_ready(guide, set(), n_observations=1)
    os.kill(pid_of(guide), signal.SIGKILL)
    assert take_when_ready(guide, set(), n_observations=1) == before
    assert guide.n_candidates_wanted == 0


def test_only_the_newest_draws_are_kept_for_another_process(opens: Opens) -> None:
    guide = opens()
    for _ in range(30):
        guide.offer(SPACE, None)
    receive_until(guide, has(FeaturesRead))
    os.kill(pid_of(guide), signal.SIGKILL)
    receive_until(guide, has(Note))
    assert guide._n_offered == 2200


def test_what_was_not_sent_when_the_process_was_killed_is_sent_to_the_next(opens: Opens) -> None:
    guide = opens()
    receive_until(guide, has(NeedCandidates))
    os.kill(pid_of(guide), signal.SIGSTOP)
    tell_first(guide)
    for _ in range(40):
        guide.offer([f"{one}.y:{'abc'[n % 3] * 1000}" for n, one in enumerate(SPACE)], None)
        guide.receive()
    assert guide.n_candidates_wanted == 0
    os.kill(pid_of(guide), signal.SIGKILL)
    receive_until(guide, has(FeaturesRead))
    assert take_when_ready(guide, set(), n_observations=1)


def test_a_process_that_is_killed_again_and_again_is_given_up(opens: Opens, tmp_path: Path) -> None:
    guide = opens()
    guide.offer(SPACE, None)
    tell_first(guide)
    assert take_when_ready(guide, set(), n_observations=1)
    told: list[str] = []
    while guide.pid is not None:
        n_told = len(told)
        os.kill(guide.pid, signal.SIGKILL)
        told += notes(receive_until(guide, has(Note)))
        assert len(told) == n_told + 1
    assert len(told) == 4
    assert "has ended 4 times, the last time with signal 9, Killed" in told[-1]
    assert "goes on with random draws" in told[-1]
    assert str(tmp_path / "guide.log") in told[-1]
    # from now on nothing is asked, nothing fails and nothing wakes the search
    guide.tell(proposed(1, "x:1"))
    guide.offer(SPACE, None)
    guide.describe(["x:1"], None)
    guide.want(7)
    assert guide.receive() == []
    assert guide.take(()) is None
    assert guide.n_candidates_wanted == 0
    assert not select.select([guide], [], [], 0)[0]


def test_an_error_of_the_model_is_told_with_its_log(opens: Opens, tmp_path: Path) -> None:
    guide = opens(Failing)
    guide.offer(SPACE, None)
    tell_first(guide)
    (note,) = notes(receive_until(guide, has(Note)))
    assert "its model failed: ValueError: 1 observations are too many for me" in note
    assert str(tmp_path / "guide.log") in note
    assert "Traceback" in (tmp_path / "guide.log").read_text()
    assert guide.pid is None
    assert guide.take(()) is None


def test_an_error_of_the_model_is_told_also_to_who_has_more_to_say(opens: Opens) -> None:
    guide = opens(Failing)
    guide.offer(SPACE, None)
    receive_until(guide, has(FeaturesRead))
    tell_first(guide)
    guide.receive()
    os.waitid(os.P_PID, pid_of(guide), os.WEXITED | os.WNOWAIT)
    guide.offer(SPACE, None)
    (note,) = notes(receive_until(guide, has(Note)))
    assert "its model failed: ValueError" in note


def test_a_process_that_cannot_begin_is_given_up(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = opens()
    monkeypatch.setattr(service, "_SERVE", "raise SystemExit(3)")
    os.kill(pid_of(guide), signal.SIGKILL)
    told = notes(receive_until(guide, lambda news: len(notes(news)) == 4))
    assert "has ended 4 times, the last time with exit code 3" in told[-1]
    assert guide.pid is None


def test_an_interpreter_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with contextlib.closing(Guide(max_epochs=9, seed=0, log=tmp_path / "log", n_ready=1)) as guide:
        (note,) = notes(guide.receive())
        assert "cannot be started" in note
        assert guide.receive() == []


def test_nothing_waits_for_a_process_that_does_not_read(opens: Opens) -> None:
    guide = opens()
    receive_until(guide, has(NeedCandidates))
    os.kill(pid_of(guide), signal.SIGSTOP)
    try:
        guide.offer(SPACE[1:], None)
        guide.tell(IdsDrawn(0, tuple(f"x:{n}" for n in range(30_000))))
        for trial in range(30_000):
            guide.tell(started(trial, trial))
            guide.tell(ended(trial, trial % 7 + 0.5))
            if trial % 1000 == 0:
                assert guide.receive() == []
        assert guide.take(()) is None
        assert len(guide._queue) == 0
        assert len(guide._service._unsent) < 1 << 20, "what was not sent is made when it can be"
    finally:
        os.kill(pid_of(guide), signal.SIGCONT)
    guide.offer([f"x:{n}" for n in range(40_000, 41_000)], None)
    assert take_when_ready(guide, set(), n_observations=30_000)[0] == "x:40000"


def test_messages_may_be_large(opens: Opens) -> None:
    guide = opens()
    large = [f"{n}" + "é" * 200_000 for n in range(20)]
    guide.offer(SPACE, [{"x": n, "text": "é" * 10_000} for n in range(200)])
    guide.tell(IdsDrawn(0, tuple(large)))
    news = receive_until(guide, has(NeedConfigs))
    assert NeedConfigs(tuple(large)) in news


def test_a_process_that_computes_without_end_is_no_obstacle(opens: Opens) -> None:
    guide = opens(Endless)
    guide.offer(SPACE, None)
    receive_until(guide, has(FeaturesRead))
    tell_first(guide)
    guide.receive()
    assert guide.take(()) is None
    guide.close()
    assert guide.pid is None
    guide.close()


def test_the_process_ends_with_a_search_that_is_killed(tmp_path: Path) -> None:
    code = (
        "from hyperband.guide.client import Guide; from pathlib import Path; import signal\n"
        f"guide = Guide(max_epochs=9, seed=0, log=Path({str(tmp_path / 'log')!r}), n_ready=1)\n"
        "print(guide.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as search:
        assert search.stdout is not None
        pid = int(search.stdout.readline())
        pidfd = os.pidfd_open(pid)
        search.kill()
        try:
            assert select.select([pidfd], [], [], PATIENCE_S)[0]
        finally:
            os.close(pidfd)


def test_the_process_is_ours_also_where_another_package_of_the_name_is_installed(tmp_path: Path) -> None:
    (tmp_path / "hyperband").mkdir()
    (tmp_path / "hyperband" / "__init__.py").write_text("raise SystemExit('another version')\n")
    code = service._SERVE.replace("main()", "print(main.__code__.co_filename)")
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code, str(ROOT)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == str(ROOT / "hyperband" / "guide" / "server.py")
