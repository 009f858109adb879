"""Warm starts: jobs that are forks of a process with the script's imports, and else like all others."""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_pythons import find_python
from search_fixture import Searches, script, searches, until

from hyperband.launch.base import Ending, Lease, Order, Slot, StopReason
from hyperband.launch.local import LocalJob, LocalLauncher
from hyperband.launch.warm import ahead as warm_ahead
from hyperband.launch.warm.hosting import WarmHost
from hyperband.machine import proc

__all__ = ["searches"]

SLOT = Slot("cpu:0", ("--gpu", "0"), {})
ENVIRONMENT: dict[str, str | None] = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
#: the first lines of a script that tells whether `marker` was imported ahead
AHEAD = "import sys\nAHEAD = 'marker' in sys.modules\nimport marker\n"
#: behind it stands what only a job does
MAIN = "\nif __name__ == '__main__':\n    "


class Warm:
    """A script in a folder, a warm host for it, and launchers with and without the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "script.py"
        self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.launchers: list[LocalLauncher] = []
        self.news: list[str] = []
        self.n = 0
        self.write("marker", "")

    def write(self, module: str, text: str) -> None:
        (self.folder / f"{module}.py").write_text(textwrap.dedent(text))

    def open(
        self, script: str | None = None, *, python: Path | str = sys.executable, ready: bool = True
    ) -> None:
        """Start the host, and by default wait for it."""
        if script is not None:
            self.write("script", script)
        self.python = Path(python)
        self.host = WarmHost(
            python=self.python,
            script=self.script,
            script_args=("--own",),
            cwd=self.folder,
            lock=self.lock,
            errors=self.folder / "keepers.err",
            environment=ENVIRONMENT,
        )
        self.launcher = self.another(self.host)
        self.cold = self.another(None)
        if ready:
            self.ready()

    def another(self, host: WarmHost | None) -> LocalLauncher:
        launcher = LocalLauncher(
            cwd=self.folder, lock=self.lock, errors=self.folder / "keepers.err", grace_s=5.0, warm=host
        )
        self.launchers.append(launcher)
        return launcher

    def heed_until(self, condition: Callable[[], bool], what: str) -> None:
        """Heed the host until something is so."""

        def is_so() -> bool:
            self.host.heed()
            self.news += self.host.take_news()
            return condition()

        until(is_so, what)

    def ready(self) -> None:
        self.heed_until(lambda: self.host.is_ready, f"the host to be ready; it said {self.news}")

    def said(self, words: str) -> None:
        self.heed_until(lambda: any(words in line for line in self.news), f"{words!r} among {self.news}")

    def start(
        self, *arguments: str, cold: bool = False, environment: dict[str, str | None] | None = None
    ) -> LocalJob:
        folder = self.folder / f"job-{self.n}"
        folder.mkdir()
        self.n += 1
        argv = (str(self.python), str(self.script), *arguments)
        order = Order(folder, argv, {**ENVIRONMENT, "HYPERBAND_TRIAL": "7", **(environment or {})})
        return (self.cold if cold else self.launcher).start(order, Lease(SLOT, ()))

    def wait(self, job: LocalJob, launcher: LocalLauncher | None = None) -> Ending:
        while True:
            assert select.select([job], [], [], 60)[0], "the job did not end"
            if (ending := (launcher or self.launcher).finish(job)) is not None:
                return ending

    def run(
        self, *arguments: str, cold: bool = False, environment: dict[str, str | None] | None = None
    ) -> tuple[int | None, str, str]:
        """Run a job; return its exit status, standard output and standard error."""
        job = self.start(*arguments, cold=cold, environment=environment)
        ending = self.wait(job, self.cold if cold else None)
        return ending.exit_status, (job.folder / "stdout").read_text(), (job.folder / "stderr").read_text()

    def errors(self) -> str:
        return (self.folder / "keepers.err").read_text()

    def close(self) -> None:
        for launcher in self.launchers:
            launcher.close()
        os.close(self.lock)


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    folder = tmp_path / "it's a $folder"
    folder.mkdir()
    found = Warm(folder)
    yield found
    found.close()


STATE = """
import json
import os
import random
import signal
import sys

CLASSES = []


class Registered:
    def __init_subclass__(cls):
        CLASSES.append(cls.__name__)


class One(Registered):
    pass


if __name__ == "__main__":
    import threading
    import warnings
    import __main__
    status = open("/proc/self/status").read()
    state = {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "cmdline": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0"),
        "globals": sorted(name for name in globals() if name != "state"),
        "main": [__name__, __file__, str(__spec__), __package__, str(type(__loader__)), __doc__],
        "builtins": type(__builtins__).__name__,
        "is main": __main__.__dict__ is globals() and sys.modules["__main__"] is __main__,
        "path": sys.path,
        "executable": [sys.executable, sys.prefix],
        "flags": str(sys.flags),
        "cwd": os.getcwd(),
        "environ": dict(sorted(os.environ.items())),
        "child's environ": os.popen("env | sort").read(),
        "threads": [threading.active_count(), threading.current_thread() is threading.main_thread()],
        "native id": threading.main_thread().native_id == os.getpid(),
        "signals": {int(n): str(signal.getsignal(n)).split(" at ")[0] for n in signal.valid_signals()},
        "ignored": [line for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt", "SigBlk"))],
        "session": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "stdin": os.readlink("/proc/self/fd/0"),
        "stdout": [sys.stdout.write_through, sys.stdout.encoding, sys.stdout.errors, sys.stdout.name],
        "stderr": [sys.stderr.write_through, sys.stderr.encoding, sys.stderr.errors, sys.stderr.name],
        "classes": CLASSES,
        "module": [One.__module__, One.__qualname__],
        "ours": [name for name in sys.modules if "hyperband" in name or "warm" in name],
        "filters": [str(found) for found in warnings.filters],
        "caller": sys._getframe(0).f_code.co_name,
    }
    print(json.dumps(state, indent=1))
"""


def test_a_job_finds_what_it_finds_under_a_fresh_interpreter(warm: Warm) -> None:
    warm.open(STATE)
    arguments = ("x:1 é", "--epochs", "3")
    warm_one, cold_one = warm.run(*arguments), warm.run(*arguments, cold=True)
    assert warm_one[1].splitlines() == cold_one[1].splitlines()
    assert warm_one == cold_one
    assert '"x:1 \\u00e9"' in warm_one[1]
    assert warm.errors() == ""


ENDS = """
import atexit
import os
import signal
import sys
import threading
import time
import marker


def fail():
    raise ValueError("é")


if __name__ == "__main__":
    atexit.register(print, "at exit")
    how = sys.argv[1]
    print("begun")
    if how == "code":
        sys.exit(7)
    elif how == "words":
        sys.exit("some words")
    elif how == "raise":
        fail()
    elif how == "chain":
        try:
            fail()
        except ValueError as err:
            raise RuntimeError("second") from err
    elif how == "_exit":
        os._exit(5)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif how == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    elif how == "thread":
        threading.Thread(target=lambda: (time.sleep(0.05), print("thread's end"))).start()
    elif how == "fork":
        if os.fork() == 0:
            sys.exit(3)
        os.wait()
    elif how == "hook":
        sys.excepthook = lambda kind, error, trace: print("hook", kind, trace.tb_frame.f_code.co_filename)
        fail()
"""


ENDINGS = "end code words raise chain _exit kill term interrupt thread fork hook"


def test_jobs_end_as_under_a_fresh_interpreter(warm: Warm) -> None:
    warm.write("marker", "import atexit\natexit.register(print, 'at the exit of an import')\n")
    warm.open(ENDS)
    for how in ENDINGS.split():
        assert warm.run(how) == warm.run(how, cold=True), how
    assert warm.run("end")[1].splitlines() == ["begun", "at exit", "at the exit of an import"]
    assert warm.run("raise")[2].count("File") == 2


def test_a_script_that_does_not_compile_or_is_gone_fails_as_it_does_cold(warm: Warm) -> None:
    warm.open(AHEAD)
    job = warm.start()  # another waits now that knows the script as it was
    warm.wait(job)
    # the look at the files would start the host anew: here the jobs themselves must notice
    warm.host._look_at_files = lambda: None  # type: ignore[method-assign]
    for text in ("x = 1\nprint(x\n", "\tprint()\n  1\n"):
        warm.script.write_text(text)
        assert warm.run() == warm.run(cold=True)
    warm.script.unlink()
    assert warm.run() == warm.run(cold=True)


def test_each_job_runs_the_script_as_it_is(warm: Warm) -> None:
    warm.open(AHEAD + "print(AHEAD, 1)")
    assert warm.run() == (0, "True 1\n", "")
    warm.write("script", AHEAD + "print(AHEAD, 2)")
    assert warm.run() == (0, "False 2\n", ""), "cold until it is imported anew"
    warm.said("since script.py changed")
    warm.ready()
    assert warm.run() == (0, "True 2\n", "")


def test_a_module_beside_the_script_that_is_edited_is_imported_anew(warm: Warm) -> None:
    warm.write("marker", "VALUE = 1")
    warm.open(AHEAD + "print(AHEAD, marker.VALUE)")
    assert warm.run() == (0, "True 1\n", "")
    warm.write("marker", "VALUE = 'two'")
    assert warm.run() == (0, "False two\n", "")
    warm.ready()
    assert warm.run() == (0, "True two\n", "")


def test_random_numbers_differ_between_jobs(warm: Warm) -> None:
    warm.open("import random, numpy\nprint(random.random(), numpy.random.rand())")
    drawn = [warm.run()[1].split() for _ in range(4)]
    assert len({first for first, _ in drawn}) == len({second for _, second in drawn}) == 4


def test_a_file_that_an_import_left_open_is_read_by_each_job_from_the_same_place(warm: Warm) -> None:
    (warm.folder / "data").write_bytes(b"0123456789" * 1000)
    installed = warm.folder / "site-packages"
    installed.mkdir()
    (installed / "reader.py").write_text("FILE = open('data', 'rb', buffering=0)\nFILE.read(3)\n")
    warm.write("marker", "")
    path = f"import sys\nsys.path.append({str(installed)!r})\nimport reader\n"
    warm.open(path + AHEAD + "print(AHEAD, reader.FILE.read(4))")
    assert [warm.run()[1] for _ in range(3)] == ["True b'3456'\n"] * 3


def test_a_module_of_the_users_that_reads_a_file_of_theirs_is_left_to_each_job(warm: Warm) -> None:
    (warm.folder / "settings.json").write_text("1")
    warm.write("configuration", "import json\nVALUE = json.load(open('settings.json'))")
    warm.write("marker", "")
    warm.open("import configuration\n" + AHEAD + "print(AHEAD, configuration.VALUE)")
    assert "configuration (reads settings.json)" in warm.news[0]
    assert warm.run()[1] == "True 1\n"
    (warm.folder / "settings.json").write_text("2")
    assert warm.run()[1] == "True 2\n"


def test_processes_of_a_job_find_its_classes_and_functions(warm: Warm) -> None:
    warm.open(
        """
        import multiprocessing, pickle, sys

        class Point:
            def __init__(self, x):
                self.x = x

        def double(point):
            return Point(2 * point.x)

        if __name__ == "__main__":
            assert b"__main__" in pickle.dumps(Point(1))
            for how in ("fork", "spawn"):
                with multiprocessing.get_context(how).Pool(1) as pool:
                    print(how, pool.map(double, [Point(4)])[0].x)
        """
    )
    assert warm.run() == (0, "fork 8\nspawn 8\n", "")


def test_loggers_write_into_the_jobs_own_files(warm: Warm) -> None:
    warm.write(
        "marker",
        "import logging\nlogging.basicConfig(format='%(message)s')\nprint('imported')",
    )
    warm.open(AHEAD + "marker.logging.warning('AHEAD is %s', AHEAD)")
    assert warm.run() == (0, "", "AHEAD is True\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys\nARGUMENTS = sys.argv[1:]", "reads sys.argv"),
        ("import argparse\nparser = argparse.ArgumentParser()\nparser.parse_known_args()", "reads sys.argv"),
        ("import os\nTRIAL = os.environ.get('HYPERBAND_TRIAL')", "reads HYPERBAND_TRIAL"),
        ("import time\nBEGAN = time.time()", "reads the clock"),
        ("import random\nrandom.seed(3)", "random numbers of random"),
        ("import numpy\nnumpy.random.rand()", "random numbers of numpy"),
        ("open('log', 'w').write('x')", "writes to files"),
        ("import os\nos.makedirs('runs', exist_ok=True)", "makes folders"),
        ("import sys\nsys.path.append('elsewhere')", "changes sys.path"),
        ("import os\nos.system('true')", "starts a program"),
        ("import time\nDAY = time.strftime('%j')", "reads the clock"),
        ("import random\nDICE = random.Random()", "asks for the process or for entropy"),
        ("import mmap\nCOUNTER = mmap.mmap(-1, 8)", "shares memory"),
        ("import os\nENDS = os.pipe()", "makes a pipe"),
        ("import os\nGPU = os.environ.get('CUDA_VISIBLE_DEVICES')", "reads CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_module_that_each_job_must_import_itself_is_left_to_it(warm: Warm, text: str, why: str) -> None:
    warm.write("setting", text)
    warm.write("user", "import setting")
    warm.open("import random, numpy\nimport user, setting\n" + AHEAD + "print(AHEAD)")
    warm.said(why)
    assert "user (" in warm.news[0]
    assert warm.run() == (0, "True\n", ""), "others are imported ahead all the same"


def test_a_module_that_finds_the_trial_in_the_environment_is_right_in_each_job(warm: Warm) -> None:
    warm.write("setting", "import os\nTRIAL = os.environ['HYPERBAND_TRIAL']")
    warm.open(
        "import os\nos.environ.setdefault('HYPERBAND_TRIAL', '-1')\nimport setting\nprint(setting.TRIAL)"
    )
    assert [warm.run(environment={"HYPERBAND_TRIAL": str(n)})[1] for n in (1, 2)] == ["1\n", "2\n"]


def test_variables_that_imports_set_are_set_in_each_job(warm: Warm) -> None:
    warm.write("marker", "import os\nos.environ['BY_MODULE'] = 'm'\nSEEN = os.environ.get('BY_SCRIPT')")
    warm.open(
        "import os, sys\nprint(sorted(n for n in os.environ if n.startswith('BY_')))\n"
        "os.environ['BY_SCRIPT'] = 's'\nimport marker\nprint(os.environ['BY_MODULE'], marker.SEEN)"
    )
    warm_one, cold_one = warm.run(), warm.run(cold=True)
    assert warm_one[1].splitlines()[1] == cold_one[1].splitlines()[1] == "m s"
    assert "BY_SCRIPT" not in warm_one[1].splitlines()[0]


def test_folders_that_the_script_adds_to_its_path_are_looked_into(warm: Warm) -> None:
    (warm.folder / "lib").mkdir()
    (warm.folder / "lib" / "far.py").write_text("VALUE = 4")
    warm.open(
        "import os, sys\nHERE = os.path.dirname(__file__)\nAHEAD = 'far' in sys.modules\n"
        "sys.path.insert(0, os.path.join(HERE, 'lib'))\nimport far\nprint(AHEAD, far.VALUE, len(sys.path))"
    )
    (_, found, _), (_, expected, _) = warm.run(), warm.run(cold=True)
    assert found == expected.replace("False", "True")


NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
handle = ctypes.c_ulong()
# a thread that sleeps in C: nobody of Python's knows it
libc.pthread_create(ctypes.byref(handle), None, libc.sleep, ctypes.c_void_p(1000))
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "Python threads",
        ),
        (NATIVE, "native threads that a fork would lose"),
        ("import socket\nPAIR = socket.socketpair()", "a connected socket"),
    ],
    ids=["python", "native", "socket"],
)
def test_it_refuses_what_no_fork_survives(warm: Warm, text: str, why: str) -> None:
    warm.write("marker", text)
    warm.open(AHEAD + "print(AHEAD)", ready=False)
    warm.said("no warm starts")
    assert why in warm.news[-1]
    assert "once marker is imported" in warm.news[-1]
    assert warm.run()[:2] == (0, "False\n"), "cold"


def test_it_refuses_once_a_gpu_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_ahead, "_GPU_DEVICES", ("/dev/full",))
    soundness = warm_ahead.Soundness()
    expected = pytest.raises(warm_ahead.SpoiltError, match=r"holds a GPU .* once torch is imported")
    with Path("/dev/full").open(), expected:
        soundness.check("torch")


def test_thread_pools_that_survive_a_fork_are_no_reason_to_refuse(warm: Warm) -> None:
    warm.write("marker", "import numpy\nnumpy.ones((300, 300)) @ numpy.ones((300, 300))")
    warm.open(AHEAD + "import numpy\nprint(AHEAD, (numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())")
    assert warm.run() == (0, "True 27000000.0\n", "")


def test_what_a_job_imports_late_is_there_for_the_next(warm: Warm) -> None:
    warm.write("late", "import colorsys")
    warm.open(
        """
        import sys
        if __name__ == "__main__":
            print("late" in sys.modules, "wave" in sys.modules)
            import late
            import wave
        """
    )
    assert warm.run() == (0, "False False\n", "")
    warm.said("imported ahead from now on: ")
    assert warm.run() == (0, "True True\n", "")
    warm.write("late", "")  # a module that was learned is looked at as any other
    assert warm.run() == (0, "False False\n", "")


def test_a_late_import_that_would_spoil_the_host_is_left_to_the_jobs(warm: Warm) -> None:
    warm.write(
        "spoils", "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    warm.write("reads", "import sys\nsys.argv[1:]")
    warm.open(
        """
        import sys
        if __name__ == "__main__":
            print(*(name in sys.modules for name in ("spoils", "reads", "wave")))
            import spoils, reads, wave
        """
    )
    assert warm.run()[:2] == (0, "False False False\n")
    for _ in range(4):  # one lesson after the other, each from the report of a job
        warm.heed_until(lambda: True, "")
        printed = warm.run()[1]
    until(lambda: warm.run()[1] == "False False True\n", f"wave to be imported ahead: {printed} {warm.news}")


def test_jobs_are_started_cold_where_thread_caps_differ(warm: Warm) -> None:
    warm.open(AHEAD + "print(AHEAD)")
    assert warm.run()[1] == "True\n"
    assert warm.run(environment={"OMP_NUM_THREADS": "2"})[1] == "False\n"
    assert warm.run(environment={"MKL_NUM_THREADS": "1"})[1] == "False\n"


def test_many_at_once_and_none_waits_for_another(warm: Warm) -> None:
    warm.open(
        f"import sys, os, time{MAIN}open(sys.argv[1], 'w').close()\n"
        "    while not os.path.exists('go'): time.sleep(0.01)"
    )
    jobs = [warm.start(f"begun-{number}") for number in range(6)]
    until(lambda: len(list(warm.folder.glob("begun-*"))) == 6, "all six to run")
    (warm.folder / "go").touch()
    assert [warm.wait(job).exit_status for job in jobs] == [0] * 6


SLEEPS = (
    f"import os, time{MAIN}open('on', 'w').close()\n    while not os.path.exists('go'): time.sleep(0.01)\n"
    "    print(0.5)"
)


def test_a_killed_host_loses_nothing_and_is_started_anew(warm: Warm) -> None:
    warm.open(AHEAD + SLEEPS)
    job = warm.start()
    until((warm.folder / "on").exists, "the job to run")
    assert warm.host.pid is not None
    os.kill(warm.host.pid, signal.SIGKILL)
    warm.said("the warm host died")
    (warm.folder / "go").touch()
    assert warm.wait(job).exit_status == 0
    assert (job.folder / "stdout").read_text() == "0.5\n"
    warm.ready()
    assert warm.run()[0] == 0
    for _ in range(2):
        warm.ready()
        os.kill(warm.host.pid, signal.SIGKILL)
        warm.heed_until(lambda: not warm.host.is_ready, "its death to be seen")
    assert "died 3 times" in warm.news[-1]
    assert warm.run()[:2] == (0, "0.5\n")


def test_a_request_to_a_host_that_is_just_dying_is_not_counted_as_run(warm: Warm) -> None:
    warm.open(AHEAD)
    assert warm.host.pid is not None
    os.kill(warm.host.pid, signal.SIGSTOP)
    waiting = proc.descendants(warm.host.pid)
    for pid in waiting:
        with contextlib.suppress(ProcessLookupError):  # what is to be a job ends with its keeper
            os.kill(pid, signal.SIGKILL)
    job = warm.start()  # nobody is there to take it
    os.kill(warm.host.pid, signal.SIGKILL)
    assert warm.wait(job).never_ran


def test_a_warm_job_is_adopted_and_stopped_by_the_next_search(warm: Warm) -> None:
    warm.open(SLEEPS)
    job = warm.start()
    until((warm.folder / "on").exists, "the job to run")
    second = warm.another(None)
    adopted = second.adopt(job.folder, Lease(SLOT, ()))
    assert adopted is not None
    warm.host.close()
    assert second.owns(adopted.about.job_pid)  # type: ignore[union-attr]
    second.stop(adopted, StopReason.STOP)
    ending = warm.wait(adopted, second)
    assert (ending.asked, ending.exit_status) == (StopReason.STOP, -signal.SIGTERM)
    assert warm.wait(job).asked is StopReason.STOP
    warm.launcher.warm = None


def test_a_killed_keeper_takes_its_warm_job_and_all_that_is_known_to_be_its_own(warm: Warm) -> None:
    warm.open(
        """
        import os, time
        if __name__ == "__main__":
            if os.fork() == 0:  # it has no output of the job's: known by its session and its environment
                for descriptor in range(3):
                    os.close(descriptor)
                open("child", "w").close()
                time.sleep(1000)
            open("on", "w").close()
            time.sleep(1000)
        """
    )
    job = warm.start()
    for file in ("on", "child"):
        until((warm.folder / file).exists, "the job to run")
    assert job.about is not None
    os.kill(job.about.keeper.pid, signal.SIGKILL)
    ending = warm.wait(job)
    assert ending.exit_status is None
    assert "ended what was left" in ending.note


def test_leases_are_held_by_the_warm_job_and_by_nobody_else(warm: Warm) -> None:
    warm.open(SLEEPS)
    path = warm.folder / "lease"
    lease = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lease, fcntl.LOCK_EX)
    folder = warm.folder / "job"
    folder.mkdir()
    order = Order(folder, (str(warm.python), str(warm.script)), ENVIRONMENT)
    job = warm.launcher.start(order, Lease(SLOT, (lease,)))
    with path.open() as mine:
        until((warm.folder / "on").exists, "the job to run")
        with pytest.raises(BlockingIOError):
            fcntl.flock(mine, fcntl.LOCK_SH | fcntl.LOCK_NB)
        (warm.folder / "go").touch()
        warm.wait(job)
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)


SEARCH = """
import fcntl, os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from hyperband.launch.warm.hosting import WarmHost
lock = os.open("lock", os.O_RDWR | os.O_CLOEXEC)
host = WarmHost(python=Path(sys.executable), script=Path("script.py").resolve(), script_args=(),
                cwd=Path.cwd(), lock=lock, errors=Path("keepers.err"), environment={{}})
fcntl.flock(lock, fcntl.LOCK_EX)
print(host.pid, flush=True)
if sys.argv[1] == "ready":
    while not host.is_ready:
        host.heed()
    print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("when", ["ready", "importing"])
def test_a_killed_search_leaves_neither_host_nor_lock(warm: Warm, when: str) -> None:
    sleep = "import os, time\nopen('on', 'w').close()\ntime.sleep(1000)\n" if when == "importing" else ""
    warm.write("script", sleep)
    fcntl.flock(warm.lock, fcntl.LOCK_UN)
    root = str(Path(__file__).resolve().parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", SEARCH.format(root=root), when],
        cwd=warm.folder,
        stdout=subprocess.PIPE,
        text=True,
    ) as search:
        assert search.stdout is not None
        host = int(search.stdout.readline())
        if when == "ready":
            assert search.stdout.readline() == "ready\n"
        else:
            until((warm.folder / "on").exists, "the import to begin")
        search.kill()
    until(lambda: not _is_locked(warm.lock), "the lock to be free")
    until(lambda: proc.start_ticks(host) is None, "the host to end")


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def test_a_script_whose_neighbours_have_the_names_of_pythons_own(warm: Warm) -> None:
    warm.write("socket", "HERE = True")
    warm.write("base", "HERE = True")
    warm.open("import base, socket\nprint(base.HERE, socket.HERE)")
    assert warm.run() == (0, "True True\n", "")


def test_a_script_that_cannot_be_imported_again_is_refused(warm: Warm) -> None:
    warm.open("raise SystemExit('not today')", ready=False)
    warm.said("SystemExit: not today")
    assert warm.run()[0] == 1


def test_nothing_of_ours_stays_open_in_a_job_but_the_line_for_its_report(warm: Warm) -> None:
    main = "os.system(f'ls /proc/{os.getpid()}/fd')\n    print(os.readlink('/proc/self/fd/4'))"
    warm.open(f"import os{MAIN}{main}")
    *numbers, target = warm.run()[1].splitlines()
    assert numbers == ["0", "1", "2", "4"]
    assert target.startswith("socket:")


def test_python_3_8_is_refused(warm: Warm) -> None:
    python = find_python("3.8")
    if python is None:
        pytest.skip("no Python 3.8 on this machine")
    warm.open("print(1)", python=python, ready=False)
    warm.said("needs Python 3.9 or newer")
    assert warm.run() == (0, "1\n", "")


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_other_versions_of_python(warm: Warm, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    warm.open(STATE.replace("sys.orig_argv", "getattr(sys, 'orig_argv', None)"), python=python)
    warm_one, cold_one = warm.run("a", "b"), warm.run("a", "b", cold=True)
    assert warm_one[1].splitlines() == cold_one[1].splitlines()
    assert warm_one == cold_one
    assert warm.errors() == ""


def test_a_host_that_is_let_go_while_it_imports_goes_at_once(warm: Warm) -> None:
    warm.open("import time\nopen('on', 'w').close()\ntime.sleep(1000)", ready=False)
    until((warm.folder / "on").exists, "the import to begin")
    pid = warm.host.pid
    assert pid is not None
    warm.launcher.close()
    warm.launcher.warm = None
    assert proc.start_ticks(pid) is None


def test_a_module_that_finds_the_gpu_in_the_environment_is_right_in_each_job(warm: Warm) -> None:
    warm.write("setting", "import os\nGPU = os.environ.get('CUDA_VISIBLE_DEVICES')")
    warm.open("import setting\n" + AHEAD + "print(AHEAD, setting.GPU)")
    for gpu in ("GPU-1", "GPU-2"):
        assert warm.run(environment={"CUDA_VISIBLE_DEVICES": gpu}) == (0, f"True {gpu}\n", "")


def lesson(warm: Warm) -> None:
    """Wait until the host has made up its mind about what a job imported late."""

    def is_over() -> bool:
        return any("imported ahead from now on" in line or "left to each" in line for line in warm.news)

    warm.heed_until(is_over, "a lesson")


@pytest.mark.parametrize("is_installed", [False, True])
def test_what_a_script_sets_before_a_late_import_holds_in_each_job(
    warm: Warm, monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    folder = warm.folder / "site-packages" if is_installed else warm.folder
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text("import os\nWIDTH = os.environ.get('MODEL_WIDTH')")
    monkeypatch.setenv("PYTHONPATH", str(warm.folder / "site-packages"))
    warm.open(
        """
        if __name__ == "__main__":
            import os
            os.environ["MODEL_WIDTH"] = "7"
            import model
            import wave
            print(model.WIDTH)
        """
    )
    assert warm.run() == (0, "7\n", "")
    lesson(warm)
    assert [warm.run()[1] for _ in range(3)] == ["7\n"] * 3


#: looks for its model in the folder that its argument names, if it has one
LOOKS_ELSEWHERE = """
import os
import sys
if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), sys.argv[1]))
    import model
    import wave
    print(model.NAME)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("one", "two", "one"),
        ("one", "", "two"),
        ("", "one", "two"),
    ],
)
def test_a_script_that_changes_its_path_before_a_late_import_finds_its_own_module(
    warm: Warm, arguments: tuple[str, ...]
) -> None:
    for name in ("", "one", "two"):
        (warm.folder / name).mkdir(exist_ok=True)
        (warm.folder / name / "model.py").write_text(f"NAME = {name!r}")
    warm.open(LOOKS_ELSEWHERE)
    for argument in arguments:
        assert warm.run(*filter(None, [argument])) == (0, f"{argument}\n", "")
        lesson(warm)


def test_a_script_that_sets_a_variable_for_some_configurations_before_a_late_import(warm: Warm) -> None:
    warm.write("model", "import os\nWIDTH = os.environ.get('MODEL_WIDTH')")
    warm.open(
        """
        import os
        import sys
        if __name__ == "__main__":
            if len(sys.argv) > 1:
                os.environ["MODEL_WIDTH"] = sys.argv[1]
            import model
            print(model.WIDTH)
        """
    )
    for arguments, printed in ((), "None"), (("7",), "7"), ((), "None"), (("9",), "9"):
        assert warm.run(*arguments) == (0, f"{printed}\n", "")


def test_a_guided_search_forks_its_jobs_and_the_process_that_draws_stays_another(searches: Searches) -> None:
    (searches.folder / "marker.py").write_text("")
    # what draws is no fork of the warm host, where the module is there already
    sampler = """
    def get_random_config_id(rng):
        assert not AHEAD
        return f"x:{rng.uniform():.6f}"
    """
    main = "import time; time.sleep(0.2); print('ahead', AHEAD); print(float(config_id[2:]) + 1 / epochs)"
    searches.write(script(main, sampler=sampler, top=AHEAD))
    options = ("--algorithm", "asha", "--max-epochs", "3", "--max-trials", "16", "--slots", "2")
    ran = searches.run(*options, "--warm", "--guide", "model")
    assert ran.exit_code == 0, ran.err
    document = ran.document
    assert len({trial["config_id"] for trial in document["trials"]}) == 16
    assert "model" in {trial["source"] for trial in document["trials"]}
    assert all(job["outcome"] == "Loss" for job in document["jobs"])
    n_ahead = sum(Path(job["stdout"]).read_text().startswith("ahead True") for job in document["jobs"])
    assert n_ahead >= len(document["jobs"]) // 2, ran.err
    left = [line for line in ran.err.splitlines() if line.startswith("Warning")]
    assert left == []
