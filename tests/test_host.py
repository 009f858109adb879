"""Real scripts in real processes: importing them, naming the search, sampling, and every way to fail."""

import ast
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from numpy.random import MT19937, RandomState, SeedSequence
from other_pythons import find_python

from hyperband.errors import ContractError, HyperbandError, InternalError, MachineError, UsageError
from hyperband.script import child
from hyperband.script.candidates import Candidates
from hyperband.script.failures import NoFunctionError, ProcessEndedError
from hyperband.script.host import ScriptHost
from hyperband.script.id_stream import Exhausted, Sampled
from hyperband.script.interpreter import END_THREAD

PYTHON = Path(sys.executable)
GOOD = """
def get_random_config_id(rng):
    return f"lr:{rng.uniform():.6f}"

def run_identity(argv):
    return "id " + repr(argv)
"""
FUNCTIONS = """
def get_random_config_id(rng): return f"x:{rng.uniform()}"
def run_identity(argv): return ANSWER
"""
#: an upper limit for what ends at once when all is well; a broken test ends by it
PATIENCE_MS = 30_000

Start = Callable[..., ScriptHost]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a folder, with ünicode"
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """A host of a script with this source; every process and descriptor of it must be gone in the end."""
    hosts: list[ScriptHost] = []
    n_descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def start(
        source: str | bytes,
        *script_args: str,
        name: str = "train.py",
        python: Path = PYTHON,
        cwd: Path | None = None,
        write_bytecode: bool = True,
    ) -> ScriptHost:
        script = folder / name
        script.write_bytes(source if isinstance(source, bytes) else textwrap.dedent(source).encode())
        host = ScriptHost(python, script, script_args, cwd=cwd, write_bytecode=write_bytecode)
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        host.close()
    for thread in threading.enumerate():
        if thread.name == END_THREAD:
            thread.join(PATIENCE_MS / 1000)  # of a script that ignores SIGTERM
    assert [host.pid for host in hosts if psutil.pid_exists(host.pid)] == []
    assert len(list(Path("/proc/self/fd").iterdir())) == n_descriptors


def collect(host: ScriptHost) -> list[Sampled | Exhausted | Candidates]:
    """What a search's loop does: wait for the descriptor, receive, until the sampling is over."""
    poller = select.poll()
    poller.register(host.fileno(), select.POLLIN)
    results: list[Sampled | Exhausted | Candidates] = []
    while host.is_sampling:
        assert poller.poll(PATIENCE_MS), "nothing came in"
        results += host.receive()
    assert not poller.poll(0), "readable although nothing is awaited"
    return results


def sample(host: ScriptHost, seed: int, count: int, first: int = 0, seen: Sequence[str] = ()) -> list[str]:
    """Ids of a space that is large enough; the batches must join without gaps."""
    host.start_sampling(seed, first, count, seen)
    ids: list[str] = []
    for result in collect(host):
        assert isinstance(result, Sampled)
        assert result.first == first + len(ids)
        ids += result.ids
    return ids


def refusal(kind: type[HyperbandError], host: ScriptHost, *words: str) -> str:
    """The message with which loading, naming and sampling fail."""

    def use() -> None:
        host.load()
        host.identity()
        sample(host, 42, 100)

    with pytest.raises(kind) as caught:
        use()
    message = str(caught.value)
    # who must act is told by the class; a broken contract has cases of its own
    expected = (ContractError, NoFunctionError, ProcessEndedError) if kind is ContractError else (kind,)
    assert type(caught.value) in expected, message
    for word in words:
        assert word in message
    return message


def test_the_three_answers(start: Start) -> None:
    host = start(GOOD, "--model", "vgg", "ü '")
    host.load()
    assert host.identity() == "id ['--model', 'vgg', \"ü '\"]"
    ids = sample(host, 42, 5)
    assert ids == [f"lr:{RandomState(MT19937(SeedSequence([42, t]))).uniform():.6f}" for t in range(5)]


def test_a_trials_id_depends_on_seed_and_number_alone(start: Start) -> None:
    host = start(GOOD)
    host.load()
    whole = sample(host, 7, 2000)
    assert len(set(whole)) == 2000
    assert sample(host, 7, 1200, first=800, seen=whole[:800]) == whole[800:]
    assert sample(host, 8, 5) != whole[:5]
    assert sample(host, 7, 0) == []


def test_a_repeated_id_is_drawn_again_from_the_same_state(start: Start) -> None:
    host = start("""
        def get_random_config_id(rng): return str(rng.randint(50))
        def run_identity(argv): return ""
    """)
    host.load()
    expected: list[str] = []
    for trial in range(40):
        rng = RandomState(MT19937(SeedSequence([3, trial])))
        while (config_id := str(rng.randint(50))) in expected:
            pass
        expected.append(config_id)
    assert sample(host, 3, 40) == expected
    assert sample(host, 3, 10, first=30, seen=expected[:30]) == expected[30:]


def test_four_distinct_ids_exhaust_the_space(start: Start) -> None:
    host = start("""
        n_calls = 0
        def get_random_config_id(rng):
            global n_calls
            n_calls += 1
            return "c:%d" % rng.randint(4)
        def run_identity(argv): return str(n_calls)
    """)
    host.load()
    host.start_sampling(42, 0, 81, [])
    *sampled, last = collect(host)
    ids = [config_id for result in sampled if isinstance(result, Sampled) for config_id in result.ids]
    assert sorted(ids) == ["c:0", "c:1", "c:2", "c:3"]
    assert last == Exhausted(4)
    assert 1004 <= int(host.identity()) < 1100
    host.start_sampling(42, 4, 1, ids)
    assert collect(host) == [Exhausted(4)]


def test_ids_of_earlier_trials_that_the_sampler_never_gives_count(start: Start) -> None:
    host = start("""
        def get_random_config_id(rng): return "only"
        def run_identity(argv): return ""
    """)
    host.load()
    host.start_sampling(42, 2, 9, ["given:1", "given:2"])
    assert collect(host) == [Sampled(2, ("only",)), Exhausted(3)]


def test_the_first_ids_of_a_slow_sampler_come_soon(start: Start, folder: Path) -> None:
    os.mkfifo(folder / "go on")
    host = start(f"""
        n = 0
        def get_random_config_id(rng):
            global n
            n += 1
            if n == 2:
                import time
                time.sleep(0.06)
            if n == 3:
                open({str(folder / "go on")!r}).read()
            return str(n)
        def run_identity(argv): return ""
    """)
    host.load()
    host.start_sampling(42, 0, 3, [])
    poller = select.poll()
    poller.register(host.fileno(), select.POLLIN)
    came: tuple[str, ...] = ()
    while len(came) < 2:  # while the third call waits for us
        assert poller.poll(PATIENCE_MS)
        for result in host.receive():
            assert isinstance(result, Sampled)
            came += result.ids
    assert came == ("1", "2")
    (folder / "go on").write_text("")
    assert collect(host) == [Sampled(2, ("3",))]


def test_100_000_seen_ids_and_long_ids_do_not_block(start: Start) -> None:
    host = start("""
        def get_random_config_id(rng): return "y" * 5000 + str(rng.uniform())
        def run_identity(argv): return ""
    """)
    host.load()
    seen = [f"seen:{i}:" + "\N{SNOWMAN}" * 20 for i in range(100_000)]
    ids = sample(host, 1, 1000, first=len(seen), seen=seen)
    assert len({config_id for config_id in ids if len(config_id) > 5000}) == 1000


def test_a_reader_that_does_not_read_is_not_flooded(start: Start, tmp_path: Path) -> None:
    host = start(
        """
        n = 0
        def get_random_config_id(rng):
            global n
            n += 1
            open("n", "w").write(str(n))
            return "z" * 1000 + str(n)
        def run_identity(argv): return ""
    """,
        cwd=tmp_path,
    )
    host.load()
    host.start_sampling(1, 0, 100_000, [])
    process = psutil.Process(host.pid)
    select.select([host.fileno()], [], [], PATIENCE_MS / 1000)
    host.receive()  # the request is out
    while process.status() != psutil.STATUS_SLEEPING:  # it waits in write(): for us
        assert process.is_running()
        os.sched_yield()
    received = host.receive()
    n_ids = sum(len(result.ids) for result in received if isinstance(result, Sampled))
    assert 0 < n_ids < 10_000


def test_prints_while_importing_and_sampling_are_no_answers(start: Start) -> None:
    host = start("""
        import os, sys
        print('{"kind": "loaded"}')
        os.write(1, b"0.5\\n"); os.write(2, b"noise\\n")
        def get_random_config_id(rng):
            print("noise")
            return str(rng.uniform())
        def run_identity(argv):
            print("noise"); return "quiet"
    """)
    host.load()
    assert host.identity() == "quiet"
    assert len(sample(host, 1, 100)) == 100


def test_a_slow_import_costs_no_processor_time(start: Start) -> None:
    host = start("import time; time.sleep(1)\n" + GOOD)
    before = time.process_time()
    host.load()
    assert time.process_time() - before < 0.5


def test_ctrl_c_ends_the_wait_for_an_import(start: Start) -> None:
    host = start(f"""
        import os, signal, time
        os.kill({os.getpid()}, signal.SIGINT)
        time.sleep(600)
    """)
    with pytest.raises(KeyboardInterrupt):
        host.load()
    host.close()
    assert not psutil.pid_exists(host.pid)


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_the_surroundings_are_those_of_a_run(
    start: Start, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe_path: str
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", safe_path)
    source = """
        import sys, os, __main__
        def surroundings():
            return repr([sys.path, sys.argv, __file__, __package__, os.getcwd(), __main__.__file__,
                         __main__.surroundings is surroundings, sys.flags, __spec__])
        def get_random_config_id(rng): return "x"
        def run_identity(argv): return surroundings()
        if __name__ == "__main__":
            print(surroundings())
    """
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    host = start(source, "--a", "b", cwd=cwd)
    host.load()
    command = [str(PYTHON), str(folder / "train.py"), "--a", "b"]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    assert host.identity() + "\n" == run.stdout


def test_a_linked_scripts_neighbours_are_those_of_the_real_file(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    start(GOOD + "\nimport beside_it\n")
    (folder / "beside_it.py").write_text("")
    link = tmp_path / "link.py"
    link.symlink_to(folder / "train.py")
    with ScriptHost(PYTHON, link, [], cwd=None, write_bytecode=False) as host:
        host.load()
        assert host.identity() == "id []"


def test_names_of_our_own_files_are_not_importable(start: Start) -> None:
    host = start(
        """
        import importlib.util
        names = [n for n in ("host", "child", "contract", "failures", "interpreter")
                 if importlib.util.find_spec(n)]
        assert not names, names
        assert "talk" not in globals() and "Script" not in globals()
    """
        + textwrap.indent(GOOD, " " * 8),
        cwd=Path("/"),
    )
    host.load()


@pytest.mark.parametrize(
    "name", ["random.py", "json.py", "a-b.c d.py", "class.py", "no suffix", "numpy_like.py"]
)
def test_any_file_name_will_do(start: Start, name: str) -> None:
    host = start(
        """
        import dataclasses, pickle, sys, typing
        @dataclasses.dataclass
        class Config:
            lr: "float"
        assert pickle.loads(pickle.dumps(Config(0.5))) == Config(0.5)
        assert typing.get_type_hints(Config) == {"lr": float}
        assert sys.modules[Config.__module__].Config is Config
    """
        + textwrap.indent(GOOD, " " * 8),
        name=name,
    )
    host.load()
    if name not in ("random.py", "json.py"):  # numpy itself would import these, as in a run of the script
        assert len(sample(host, 1, 3)) == 3


@pytest.mark.parametrize("name", ["contextlib", "json", "traceback"])
def test_a_neighbour_may_have_the_name_of_a_module_that_we_use(start: Start, folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text("OURS = 'the neighbour'")
    host = start(f"""
        import {name}
        assert {name}.OURS == "the neighbour", {name}
        def get_random_config_id(rng): return "x"
        def run_identity(argv): return {name}.OURS
    """)
    host.load()
    assert host.identity() == "the neighbour"


def test_a_neighbour_may_import_the_script(start: Start, folder: Path) -> None:
    (folder / "model.py").write_text("from train import Config\n")
    host = start("import model\nclass Config: pass\n" + GOOD)
    script = folder / "train.py"
    script.write_text("import model\n" + GOOD + "\nclass Config: pass\n")
    (folder / "model.py").write_text("import train\n")
    host.load()
    assert host.identity() == "id []"
    assert subprocess.run([PYTHON, script], check=False).returncode == 0


def test_the_source_counts_not_a_stale_pyc(folder: Path) -> None:
    script = folder / "train.py"
    script.write_text(FUNCTIONS.replace("ANSWER", "'old'"))
    subprocess.run([PYTHON, "-c", "import train"], cwd=folder, check=True)
    times = script.stat()
    with ScriptHost(PYTHON, script, [], cwd=None, write_bytecode=True) as host:
        script.write_text(FUNCTIONS.replace("ANSWER", "'new'"))
        os.utime(script, ns=(times.st_atime_ns, times.st_mtime_ns))
        host.load()
        assert host.identity() == "new"


def test_a_dry_run_writes_nothing(start: Start, folder: Path) -> None:
    (folder / "beside_it.py").write_text("")
    before = sorted(folder.rglob("*"))
    host = start("import beside_it\n" + GOOD, write_bytecode=False)
    host.load()
    sample(host, 1, 3)
    assert sorted(folder.rglob("*")) == sorted([*before, folder / "train.py"])


def test_numpy_is_imported_for_sampling_only(start: Start) -> None:
    host = start("""
        import sys
        def get_random_config_id(rng): return str(rng.uniform())
        def run_identity(argv): return str("numpy" in sys.modules)
    """)
    host.load()
    assert host.identity() == "False"
    sample(host, 1, 1)
    assert host.identity() == "True"


HOSTILE = {
    "closes low descriptors": "import os; os.closerange(3, 256)",
    "closes its output": "import os, sys; sys.stdout.close(); os.close(1); os.close(2)",
    "replaces its output": "import sys; sys.stdout = sys.stderr = None; sys.stdin = 5",
    "changes its folder": "import os; os.chdir('/')",
    "patches modules": """
import json, os, time, codecs, select, traceback, types
def broken(*args, **kwargs): raise AssertionError("patched")
for module, names in [(json, ["dumps", "loads", "JSONEncoder", "JSONDecoder"]), (time, ["monotonic"]),
                      (os, ["read", "write", "getpid", "_exit", "kill", "close"]), (select, ["poll"]),
                      (traceback, ["format_exception"])]:
    for name in names:
        setattr(module, name, broken)
""",
    "forks": "import os\nif os.fork() == 0: pass",
    "forks and waits": """
import os
pid = os.fork()
if pid: assert os.waitpid(pid, 0)[1] == 0
""",
    "forks and exits": "import os, sys\nif os.fork() == 0: sys.exit(3)",
    "starts threads": """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
threading.Thread(target=time.sleep, args=(600,)).start()
""",
    "starts programs": "import subprocess; subprocess.Popen(['sleep', '600'], close_fds=False)",
    "ignores signals": "import signal; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 13, 15)]",
    "has an exit handler": "import atexit, time; atexit.register(time.sleep, 600)",
    "clears sys": "import sys; sys.argv.clear(); sys.path[:] = sys.path[1:]; sys.modules.pop('__main__')",
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_script_that_disturbs_its_process_is_heard(start: Start, trick: str) -> None:
    host = start(HOSTILE[trick] + "\n" + GOOD)
    host.load()
    assert host.identity() == "id []"
    assert len(sample(host, 1, 600)) == 600
    group = [pid for pid in psutil.pids() if _group_of(pid) == host.pid and pid != host.pid]
    with ends_of(group) as ends:
        host.close()
        wait_for(ends)


def test_letting_a_script_go_that_ignores_signals_takes_no_time(start: Start) -> None:
    host = start(HOSTILE["ignores signals"] + "\n" + GOOD)
    host.load()
    with ends_of([host.pid]) as ends:
        began_s = time.monotonic()
        host.close()
        assert time.monotonic() - began_s < 0.5
        wait_for(ends)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@contextlib.contextmanager
def ends_of(pids: Sequence[int]) -> Iterator[list[int]]:
    """Descriptors that are readable once the processes have ended, whoever is to reap them."""
    with contextlib.ExitStack() as stack:
        ends = []
        for pid in pids:
            ends.append(os.pidfd_open(pid))
            stack.callback(os.close, ends[-1])
        yield ends


def wait_for(ends: Sequence[int]) -> None:
    for end in ends:
        assert select.select([end], [], [], PATIENCE_MS / 1000)[0], "a process lives on"


def test_programs_that_the_script_starts_do_not_hold_the_line(start: Start) -> None:
    host = start("""
        import subprocess
        def get_random_config_id(rng): return "x"
        def run_identity(argv):
            return subprocess.run("ls -l /proc/self/fd", shell=True, close_fds=False,
                                  stdout=subprocess.PIPE).stdout.decode()
    """)
    host.load()
    assert "socket" not in host.identity()


def test_closing_every_descriptor_is_named(start: Start) -> None:
    host = start("import os; os.closerange(3, 100000)\n" + GOOD)
    refusal(ContractError, host, "importing", "train.py", "exit code 1", "closed a descriptor")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "def run_identity(argv): return ''",
            ["has no function get_random_config_id", "def get_random_config_id(rng)"],
        ),
        (
            "def get_random_config_id(rng): return 'x'",
            ["has no function run_identity", "def run_identity(argv)"],
        ),
        (GOOD + "run_identity = 'resnet'", ["has a str, not a function, as run_identity"]),
        ("import not_there", ["ModuleNotFoundError: No module named 'not_there'", "--python", "line 1"]),
        ("def f():\n    raise ValueError('deep')\nf()", ["ValueError: deep", 'train.py", line 2, in f']),
        ("def f(:\n", ["SyntaxError", "train.py"]),
        (b"\x00\x01\x02\xff", ["raised", "train.py"]),
        ("raise SystemExit", ["runs its experiment when it is imported", "if __name__ == '__main__':"]),
        ("import sys; sys.exit('no such config')", ["SystemExit: no such config", "__main__"]),
        ("raise KeyboardInterrupt", ["KeyboardInterrupt", "runs its experiment when it is imported"]),
        (
            "import argparse; p = argparse.ArgumentParser(); p.add_argument('config_id'); p.parse_args()",
            ["SystemExit: 2", "__main__", "the following arguments are required: config_id"],
        ),
        (
            "print('last words'); import os, sys; sys.stdout.flush(); os._exit(0)",
            ["exit code 0", "last words"],
        ),
        (
            "class E(Exception):\n  def __str__(self): raise ValueError\nraise E",
            ["raised", "E: <exception str() failed>"],
        ),
        ("raise RuntimeError('\\x1b[31m' + 'x' * 10**6)", ["RuntimeError", "xxx"]),
        (FUNCTIONS.replace("ANSWER", "5"), ["run_identity", "'5'", "type int", "str"]),
        (FUNCTIONS.replace("ANSWER", "None"), ["type NoneType"]),
        (FUNCTIONS.replace("ANSWER", "'\\ud800'"), ["run_identity", "UTF-8"]),
        (FUNCTIONS.replace("ANSWER", "1/0"), ["run_identity in", "ZeroDivisionError", 'train.py", line']),
        (FUNCTIONS.replace("ANSWER", "exit(4)"), ["run_identity in", "raised SystemExit: 4"]),
        (GOOD.replace("rng.uniform()", "rng.missing"), ["get_random_config_id in", "AttributeError"]),
        (
            GOOD.replace("return f", "import sys; sys.exit(5); return f"),
            ["get_random_config_id", "SystemExit: 5"],
        ),
        (
            GOOD.replace("return f", "import os; os._exit(5); return f"),
            ["get_random_config_id", "exit code 5"],
        ),
        (GOOD.replace('return f"', "return 5 #"), ["get_random_config_id", "'5'", "type int"]),
        (GOOD.replace('return f"', "return b'lr' #"), ["type bytes"]),
        (GOOD.replace('f"', 'f"-'), ["'-lr:", "begins with '-'", "train.py"]),
        (GOOD.replace('return f"', 'return "" #'), ["is empty"]),
        (GOOD.replace('return f"', 'return "a\\n" + f"'), ["newline"]),
        (GOOD.replace('return f"', 'return "a\\0" + f"'), ["NUL"]),
        (GOOD.replace('return f"', 'return "\\ud800" + f"'), ["surrogate"]),
        (GOOD.replace('return f"', 'return "x" * 131072 + f"'), ["131,083 bytes"]),
    ],
)
def test_a_broken_contract_is_named(start: Start, source: str | bytes, words: list[str]) -> None:
    message = refusal(ContractError, start(source), *words)
    assert all(line.isprintable() for line in message.split("\n"))
    assert len(message) < 3000
    assert "child.py" not in message


def test_a_segfault_while_importing(start: Start) -> None:
    host = start("print('7', flush=True)\nimport ctypes; ctypes.string_at(0)")
    refusal(MachineError, host, "SIGSEGV", "importing", "train.py", "7")


def test_a_kill_while_sampling(start: Start) -> None:
    host = start(
        GOOD.replace("return f", "import os; rng.uniform() < .2 and os.kill(os.getpid(), 9); return f")
    )
    refusal(MachineError, host, "SIGKILL", "get_random_config_id", "memory")


def test_ids_before_a_failure_are_received(start: Start) -> None:
    host = start("""
        n = 0
        def get_random_config_id(rng):
            global n
            n += 1
            return str(n) if n < 4 else n
        def run_identity(argv): return ""
    """)
    host.load()
    host.start_sampling(1, 0, 9, [])
    with pytest.raises(ContractError, match="type int"):
        collect(host)
    assert not host.is_sampling
    assert host.receive() == []
    assert host.identity() == ""  # the process is as good as before


def test_an_idle_process_that_ends_is_no_news_until_it_is_asked(start: Start) -> None:
    host = start(GOOD)
    host.load()
    sample(host, 1, 5)
    process = psutil.Process(host.pid)
    process.send_signal(signal.SIGKILL)
    while process.status() != psutil.STATUS_ZOMBIE:
        os.sched_yield()
    assert select.select([host.fileno()], [], [], 0)[0] == []
    assert host.receive() == []
    with pytest.raises(MachineError, match="SIGKILL"):
        host.identity()


def test_asking_twice_at_once_is_our_bug(start: Start) -> None:
    host = start(GOOD)
    host.load()
    host.start_sampling(1, 0, 9, [])
    with pytest.raises(InternalError):
        host.start_sampling(1, 0, 9, [])
    host.close()
    host.close()


def test_the_script_cannot_be_read(folder: Path) -> None:
    for script, word in [(folder / "gone.py", "No such file"), (folder, "is a folder")]:
        with pytest.raises(UsageError, match=word):
            ScriptHost(PYTHON, script, [], cwd=None, write_bytecode=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_the_script_may_not_be_read(folder: Path) -> None:
    script = folder / "secret.py"
    script.touch(mode=0)
    with pytest.raises(UsageError, match="Permission denied"):
        ScriptHost(PYTHON, script, [], cwd=None, write_bytecode=True)


def test_the_working_directory_is_gone(start: Start, folder: Path) -> None:
    with pytest.raises(MachineError, match="gone"):
        start(GOOD, cwd=folder / "nowhere")


@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [
        (None, 0, "No such file"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("no program", 0o755, "Exec format error"),
        ("#!/bin/sh\nexit 0\n", 0o755, "did not start our child.py: exit code 0"),
        ("#!/bin/sh\necho what is this >&2; exit 3\n", 0o755, "what is this"),
        ("#!/bin/sh\nkill -9 $$\n", 0o755, "SIGKILL"),
    ],
)
def test_python_is_no_python(start: Start, tmp_path: Path, content: str | None, mode: int, word: str) -> None:
    python = tmp_path / "python"
    if content is not None:
        python.write_text(content)
        python.chmod(mode)
    with pytest.raises(UsageError) as caught:
        start(GOOD, python=python).load()
    assert word in str(caught.value)
    assert f"--python {python}" in str(caught.value)


def test_python_may_be_a_wrapper(start: Start, tmp_path: Path) -> None:
    python = tmp_path / "wrapper"
    python.write_text(f'#!/bin/sh\n"{PYTHON}" "$@"\nexit $?\n')
    python.chmod(0o755)
    host = start(GOOD, python=python)
    host.load()
    assert len(sample(host, 1, 3)) == 3
    (inner,) = psutil.Process(host.pid).children()
    with ends_of([inner.pid]) as ends:
        host.close()
        wait_for(ends)


def test_python_without_numpy(start: Start, tmp_path: Path) -> None:
    python = tmp_path / "bare"
    python.write_text(f'#!/bin/sh\nexec "{PYTHON}" -S "$@"\n')
    python.chmod(0o755)
    refusal(UsageError, start(GOOD, python=python), "has no numpy", "-m pip install numpy", str(python))


def test_numpy_too_old(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("__version__ = '1.16.6'")
    (tmp_path / "numpy" / "random.py").write_text("RandomState = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    refusal(UsageError, start(GOOD), "has numpy 1.16.6", "1.17 or newer")


@pytest.mark.parametrize(("version", "words"), [("3.7", ["is Python 3.7."]), ("3.6", []), ("2.7", [])])
def test_an_older_python_is_named(start: Start, version: str, words: list[str]) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    refusal(UsageError, start(GOOD, python=python), "3.8 or newer", str(python), *words)


def test_it_ends_with_the_search_even_in_the_middle_of_an_import(folder: Path) -> None:
    script = folder / "train.py"
    script.write_text(
        "print(end='', flush=True)\nimport time\nopen('importing', 'w').close()\ntime.sleep(600)"
    )
    os.mkfifo(folder / "importing")
    search = f"""
        import pathlib
        from hyperband.script.host import ScriptHost
        host = ScriptHost({PYTHON!r}, {script!r}, [], cwd={folder!r}, write_bytecode=False)
        print(host.pid, flush=True)
        host.load()
    """.replace("PosixPath", "pathlib.Path")
    root = Path(child.__file__).parents[2]
    with subprocess.Popen(
        [PYTHON, "-c", textwrap.dedent(search)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        with ends_of([int(process.stdout.readline())]) as ends:
            (folder / "importing").read_text()
            process.kill()
            wait_for(ends)


def test_at_the_end_of_the_line_it_takes_what_it_started_with_it(folder: Path) -> None:
    script = folder / "train.py"
    script.write_text("import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\n" + GOOD)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [PYTHON, child.__file__, str(theirs.fileno()), folder, script],
            stdout=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        ours.sendall(b'{"do": "load"}\n')
        assert process.stdout is not None
        sleeping = int(process.stdout.readline())
    with process, ends_of([sleeping]) as ends:
        wait_for(ends)
        assert process.wait() == -signal.SIGKILL


def test_the_child_imports_nothing_of_ours() -> None:
    tree = ast.parse(Path(child.__file__).read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= set(sys.stdlib_module_names) | {"numpy"}


def test_a_draw_takes_what_a_search_would_take_and_repeats_stay(start: Start) -> None:
    host = start("""
        def get_random_config_id(rng): return str(rng.randint(50))
        def run_identity(argv): return ""
    """)
    host.load()
    drawn = host.draw(3, range(100), limit_s=60)
    assert list(drawn) == [str(RandomState(MT19937(SeedSequence([3, t]))).randint(50)) for t in range(100)]
    assert host.draw(3, [7, 0], limit_s=60) == (drawn[7], drawn[0])
    assert host.draw_one(3) == drawn[0] == sample(host, 3, 1)[0]


def test_a_draw_ends_when_its_time_is_up(start: Start) -> None:
    host = start(GOOD.replace("return f", "import time; time.sleep(0.05); return f"))
    host.load()
    assert 1 < len(host.draw(3, range(100_000), limit_s=1.0)) < 21
    assert len(host.draw(3, range(100_000), limit_s=0)) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def get_random_config_id(rng): return 7", ["type int", "string"]),
        ("def get_random_config_id(rng): return '-x'", ["begins with '-'"]),
        ("def get_random_config_id(rng): return rng.no_such()", ["no_such", "get_random_config_id"]),
        ("def get_random_config_id(rng): import os; os._exit(3)", ["exit code 3"]),
    ],
)
def test_one_draw_shows_a_sampler_that_does_not_work(start: Start, source: str, words: list[str]) -> None:
    host = start(f"{source}\ndef run_identity(argv): return ''")
    host.load()
    with pytest.raises(ContractError) as caught:
        host.draw_one(42)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_identity_of_other_arguments(start: Start) -> None:
    host = start(GOOD, "--model", "vgg")
    host.load()
    assert host.identity([]) == "id []"
    assert host.identity() == "id ['--model', 'vgg']"


def test_a_scripts_own_reading_of_its_ids(start: Start) -> None:
    host = start(f"""{GOOD}
import numpy as np

def get_config(config_id):
    opt = {{"name": config_id, "on": np.bool_(True), "betas": (1, None)}}
    return {{"lr": np.float32(0.5), "n": np.int64(3), "opt": opt, 5: float("inf")}}
""")
    host.load()
    opt = {"name": "a", "on": True, "betas": [1, None]}
    assert host.configs(["a"]) == [{"lr": 0.5, "n": 3, "opt": opt, "5": float("inf")}]
    assert host.configs([]) == []


def test_a_script_without_get_config(start: Start) -> None:
    host = start(GOOD)
    host.load()
    assert host.configs(["a"]) is None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def get_config(config_id): return [1, 2]", ["[1, 2]", "type list", "dict"]),
        ("def get_config(config_id): return {'a': {'b': print}}", ["get_config", "built-in", "type builtin"]),
        ("def get_config(config_id): return {'a': 1}[config_id]", ["KeyError: 'x'", "dict of numbers"]),
        ("get_config = {'a': 1}", ["has dict as get_config", "left out"]),
    ],
)
def test_a_get_config_that_is_none_is_named(start: Start, source: str, words: list[str]) -> None:
    host = start(GOOD + source)
    host.load()
    with pytest.raises(ContractError) as caught:
        host.configs(["x"])
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_missing_function_is_told_from_an_import_that_fails(start: Start) -> None:
    host = start("def run_identity(argv): return ''")
    with pytest.raises(NoFunctionError):
        host.load()
    host = start("raise ValueError(1)")
    with pytest.raises(ContractError) as caught:
        host.load()
    assert not isinstance(caught.value, NoFunctionError)
