"""Why a job failed, by the end of its standard error: real programs that fail, and texts of others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperband.script.crash import CRASH_WINDOW_BYTES, crash_of, read_crash
from hyperband.script.fingerprint import MAX_FINGERPRINT_LENGTH, fingerprint

FRAME = '  File "/home/ann/train.py", line 12, in <module>\n    main()\n'
HEADER = "Traceback (most recent call last):\n"


def traceback(last: str) -> str:
    return f"{HEADER}{FRAME}{last}\n"


def ran(tmp_path: Path, code: str) -> tuple[Path, int]:
    """Run a real Python script; its standard error and exit status."""
    script = tmp_path / "train_17.py"
    script.write_text(code)
    stderr = tmp_path / "stderr"
    with stderr.open("wb") as stream:
        done = subprocess.run([sys.executable, str(script)], stderr=stream, check=False)
    return stderr, done.returncode


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("{}['bn']", "KeyError 'bn'"),
        ("{}[17]", "KeyError: N"),
        ("raise ValueError('32x512 and 0.5e-3')", "ValueError: NxN and N"),
        ("raise RuntimeError()", "RuntimeError"),
        ("x = [1]\nassert len(x) == 3", "AssertionError: assert len(x) == N"),
        ("x = = 1", "SyntaxError: invalid syntax"),
        ("if True:\nx = 1", "IndentationError: expected an indented block after 'if' statement on line N"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "open('/no/such/place/epoch-17.pt')",
            "FileNotFoundError: [Errno N] No such file or directory: '.../epoch-N.pt'",
        ),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded*"),
        (
            "class MyError(Exception): pass\nraise MyError('at ' + repr(object()))",
            "MyError: at <object object at ADDRESS>",
        ),
        ("try:\n    {}['bn']\nexcept KeyError:\n    raise ValueError('later')", "ValueError: later"),
        (
            "try:\n    {}['bn']\nexcept KeyError as err:\n    raise RuntimeError('trial failed') from err",
            "RuntimeError: trial failed, from KeyError 'bn'",
        ),
        ("import sys\nsys.exit(3)", "exit code 3"),
        ("import sys\nsys.exit('cannot read the data')", "cannot read the data"),
        (
            "import argparse\nargparse.ArgumentParser('x').parse_args(['--lr', '3'])",
            "x: error: unrecognized arguments: --lr N",
        ),
        ("import os\nos.abort()", "ended by SIGABRT (signal 6)"),
        ("import os\nos.kill(os.getpid(), 11)", "ended by SIGSEGV (signal 11)"),
        (
            "import faulthandler, os\nfaulthandler.enable()\nos.kill(os.getpid(), 11)",
            "ended by SIGSEGV (signal 11)",
        ),
        (
            "import threading, sys\nt = threading.Thread(target=lambda: 1 / "
            "0)\nt.start(); t.join()\n{}['bn']",
            "KeyError 'bn'",
        ),
        (
            "import threading, sys\nt = threading.Thread(target=lambda: 1 / "
            "0)\nt.start(); t.join()\nsys.exit(1)",
            "ZeroDivisionError: division by zero",
        ),
        (
            "class A:\n    def __del__(self): raise OSError('late')\na = A()\nb = {'x': a}['bn']",
            "KeyError 'bn'",
        ),
        (
            "import atexit\natexit.register(lambda: 1 / 0)\n{}['bn']",
            "KeyError 'bn'",
        ),
        (
            "import logging\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('first')\n"
            "import sys\nfor n in range(30): print('epoch', n, file=sys.stderr)\nsys.exit(4)",
            "exit code 4",
        ),
        (
            "import logging, sys\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('x')\n"
            "    sys.exit(4)",
            "ZeroDivisionError: division by zero",
        ),
        (
            "import multiprocessing as m\ndef f(n): return {}['bn']\n"
            "if __name__ == '__main__':\n    with m.get_context('fork').Pool(1) as p: p.map(f, [1])",
            "KeyError 'bn'",
        ),
        (
            "import multiprocessing as m, sys\ndef f(): return {}['bn']\n"
            "p = m.get_context('fork').Process(target=f); p.start(); p.join(); sys.exit(p.exitcode)",
            "KeyError 'bn'",
        ),
        (
            "import subprocess, sys\nsubprocess.run([sys.executable, '-c', \"{}['bn']\"], check=True)",
            "KeyError 'bn'",
        ),
        (
            "raise ExceptionGroup('many', [KeyError('bn'), ValueError(1), KeyError('bn')])",
            "ExceptionGroup of KeyError 'bn', ValueError: N",
        ),
        (
            "e = []\nfor k in 'ab':\n    try: {}[k]\n    except KeyError as err: e.append(err)\n"
            "raise ExceptionGroup('many', [ExceptionGroup('inner', e), ValueError('x')])",
            "ExceptionGroup of KeyError 'a', KeyError 'b', ValueError: x",
        ),
        (
            "raise RuntimeError('size mismatch:\\n' + '\\n'.join('\\tline' for _ in range(90)))",
            "RuntimeError: size mismatch:",
        ),
    ],
)
def test_what_python_prints(tmp_path: Path, code: str, expected: str) -> None:
    stderr, exit_status = ran(tmp_path, code)
    crash = read_crash(stderr, exit_status)
    assert crash.fingerprint.startswith(expected.rstrip("*"))
    assert crash.fingerprint == expected or expected.endswith("*")
    assert not crash.is_out_of_memory


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise MemoryError", "MemoryError"),
        ("x = bytearray(1 << 60)", "MemoryError"),
        ("import numpy\nnumpy.ones((1 << 40, 1 << 10))", "MemoryError: Unable to allocate an array"),
        ("raise OSError(12, 'Cannot allocate memory')", "OSError: Cannot allocate memory"),
        (
            "try:\n    bytearray(1 << 60)\nexcept MemoryError as e:\n    raise RuntimeError('x') from e",
            "MemoryError",
        ),
        ("try:\n    bytearray(1 << 60)\nfinally:\n    raise ValueError('while cleaning up')", "MemoryError"),
        ("raise ExceptionGroup('many', [KeyError('bn'), MemoryError()])", "MemoryError"),
        (
            "import multiprocessing as m\ndef f(n): return bytearray(1 << 60)\n"
            "if __name__ == '__main__':\n    with m.get_context('fork').Pool(1) as p: p.map(f, [1])",
            "MemoryError",
        ),
        (
            "import sys\nprint('CUDA out of memory. Tried to allocate 2 GiB', file=sys.stderr)\nsys.exit(9)",
            "CUDA out of memory",
        ),
    ],
)
def test_memory_that_runs_out_in_python(tmp_path: Path, code: str, expected: str) -> None:
    crash = read_crash(*ran(tmp_path, code))
    assert (crash.fingerprint, crash.is_out_of_memory) == (expected, True)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 "
            "MiB. GPU 0 has a total capacity "
            "of 139.81 GiB of which 3.12 MiB is free.",
            "CUDA out of memory",
        ),
        (
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate "
            "2.00 GiB (GPU 0; 7.79 GiB total "
            "capacity)",
            "CUDA out of memory",
        ),
        (
            "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
            "CUDA out of memory",
        ),
        ("torch.AcceleratorError: CUDA error: out of memory", "CUDA out of memory"),
        ("RuntimeError: cuda runtime error (2) : out of memory at ../THCStorage.cu:58", "CUDA out of memory"),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "CUBLAS_STATUS_ALLOC_FAILED",
        ),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
        ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 1.50 GiB.", "HIP out of memory"),
        ("torch.OutOfMemoryError: XPU out of memory. Tried to allocate 1.50 GiB.", "XPU out of memory"),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 1 GB)", "MPS backend out of memory"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:114] . "
            "DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
            "DefaultCPUAllocator: not enough memory",
        ),
        (
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of "
            "memory while trying to allocate "
            "4294967296 bytes.",
            "XLA out of memory (RESOURCE_EXHAUSTED)",
        ),
        (
            "jaxlib._jax.XlaRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request for 2.0GiB (B)",
            "XLA out of memory (RESOURCE_EXHAUSTED)",
        ),
        (
            "tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph execution error:\n\n"
            "Detected at node 'x' defined at (most recent call last):\n"
            "OOM when allocating tensor with shape[64,512] and type float on GPU:0",
            "TensorFlow: OOM when allocating tensor",
        ),
        ("cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,000,000,000 bytes", "out of memory"),
        ("pycuda._driver.MemoryError: cuMemAlloc failed: out of memory", "out of memory"),
        (
            "torch.distributed.DistBackendError: NCCL error, unhandled cuda error. Last error:\n"
            "Cuda failure 2 'out of memory'",
            "CUDA out of memory",
        ),
        (
            "KeyError: Caught KeyError in DataLoader worker process 0.\nOriginal "
            + HEADER
            + FRAME
            + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 "
            "TiB for an array with shape (3, 4)",
            "MemoryError: Unable to allocate an array",
        ),
    ],
)
def test_memory_that_runs_out_in_frameworks(last: str, expected: str) -> None:
    crash = crash_of(traceback(last), 1)
    assert (crash.fingerprint, crash.is_out_of_memory) == (expected, True)


@pytest.mark.parametrize(
    ("text", "exit_status", "expected"),
    [
        (
            traceback("torch.OutOfMemoryError: CUDA out of memory.")
            + "batch size is halved\n"
            + traceback("KeyError: 'bn'"),
            1,
            "KeyError 'bn'",
        ),
        (
            "W tensorflow/bfc_allocator.cc:1] Allocator (GPU_0_bfc) ran out of "
            "memory trying to allocate 2.0GiB. The "
            "caller indicates that this is not a failure\n",
            3,
            "exit code 3",
        ),
        ("UserWarning: CUDA out of memory, retrying with a smaller batch\n", 3, "exit code 3"),
        ("CUDA out of memory\n" + "epoch 3\n" * 9, 3, "exit code 3"),
        ("CUDA out of memory\n", -11, "CUDA out of memory"),
        (
            traceback("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 1"),
            1,
            "OutOfResources: out of resource: shared memory, Required: N",
        ),
        (
            traceback("google.api_core.exceptions.ResourceExhausted: 429 Quota exceeded"),
            1,
            "ResourceExhausted: N Quota exceeded",
        ),
        (
            traceback("RuntimeError: CUDA error: an illegal memory access was encountered"),
            1,
            "RuntimeError: CUDA error: an illegal memory access was encountered",
        ),
        (traceback("IndexError: index out of memory bounds"), 1, "IndexError: index out of memory bounds"),
        ("", -9, "ended by SIGKILL (signal 9)"),
    ],
)
def test_memory_is_blamed_for_the_end_alone(text: str, exit_status: int, expected: str) -> None:
    crash = crash_of(text, exit_status)
    assert crash.fingerprint == expected
    assert crash.is_out_of_memory == (expected == "CUDA out of memory")


def test_a_kill_by_the_kernel_is_memory_only_with_the_kernels_word() -> None:
    killed = crash_of("", -signal.SIGKILL, oom_killed=True)
    assert killed.is_out_of_memory
    assert killed.fingerprint == "killed for want of memory (SIGKILL)"
    assert "the kernel killed it for want of memory" in killed.note
    assert crash_of("sh: line 1: 12 Killed python x.py\n", 137, oom_killed=True).is_out_of_memory
    assert not crash_of("", 137).is_out_of_memory
    assert not crash_of("", -signal.SIGSEGV, oom_killed=True).is_out_of_memory
    assert not crash_of(traceback("KeyError: 'bn'"), 1, oom_killed=True).is_out_of_memory


def test_a_helper_killed_by_the_kernel() -> None:
    text = traceback("RuntimeError: DataLoader worker (pid 77) is killed by signal: Killed.")
    assert crash_of(text, 1, oom_killed=True).is_out_of_memory
    crash = crash_of(text, 1)
    assert crash.fingerprint == "RuntimeError: DataLoader worker (pid N) is killed by signal: Killed."
    assert not crash.is_out_of_memory


@pytest.mark.parametrize(
    ("text", "exit_status", "expected"),
    [
        (
            traceback("RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x512 and 256x10)"),
            1,
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (NxN and NxN)",
        ),
        (
            traceback(
                "KeyError: Caught KeyError in DataLoader worker process 0.\nOriginal "
                + traceback("KeyError: 'bn'")
            ),
            1,
            "KeyError 'bn'",
        ),
        (
            traceback(
                "torch.multiprocessing.spawn.ProcessRaisedException: \n\n-- Process 1 terminated with the "
                "following error:\n" + traceback("KeyError: 'bn'")
            ),
            1,
            "KeyError 'bn'",
        ),
        (
            "".join(f"[rank0]: {line}\n" for line in traceback("KeyError: 'bn'").splitlines())
            + "W1121 torch/x.py:8]\n"
            + traceback("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
            + "=" * 60
            + "\ntrain.py FAILED\n",
            1,
            "KeyError 'bn'",
        ),
        (
            "terminate called after throwing an instance of 'std::runtime_error'\n "
            " what():  shape 3 is wrong\n",
            -6,
            "std::runtime_error: shape N is wrong",
        ),
        ("terminate called after throwing an instance of 'int'\n", -6, "int"),
        (
            "libc++abi: terminating due to uncaught exception of type std::range_error: too far\n",
            -6,
            "std::range_error: too far",
        ),
        ("free(): invalid pointer\n", -6, "free(): invalid pointer"),
        ("x: x.c:3: main: Assertion `n == 3' failed.\n", -6, "Assertion `n == N' failed"),
        (
            "Fatal Python error: Segmentation fault\n\nCurrent thread 0x01 (most recent call first):\n"
            '  File "x.py", line 1 in f\n',
            -11,
            "ended by SIGSEGV (signal 11)",
        ),
        (
            "Fatal Python error: none_dealloc: deallocating None\n",
            -6,
            "Fatal Python error: none_dealloc: deallocating None",
        ),
        ("thread 'main' panicked at src/main.rs:2:5:\nno\n", 101, "src/main.rs:N:N:"),
        ("train.sh: line 3: foo: command not found\n", 127, "train.sh: line N: foo: command not found"),
        (
            "Error in f(x) : object 'y' not found\nExecution halted\n",
            1,
            "Error in f(x) : object 'y' not found",
        ),
        (
            "ERROR: LoadError: UndefVarError: `x` not defined\nStacktrace:\n [1] top-level scope\n",
            1,
            "ERROR: LoadError: UndefVarError: `x` not defined",
        ),
        (
            "/x.js:1\nnull.f()\n     ^\n\nTypeError: Cannot read properties of "
            "null\n    at Object.<anonymous> (/x.js:1)\n",
            1,
            "TypeError: Cannot read properties of null",
        ),
        (
            "╭───── Traceback (most recent call last) ─────╮\n│ train.py:3 in f │\n╰────╯\nKeyError: 'bn'\n",
            1,
            "KeyError 'bn'",
        ),
        (
            "Error executing job\n"
            + traceback("KeyError: 'bn'")
            + "\nSet the environment variable HYDRA_FULL_ERROR=1\n",
            1,
            "KeyError 'bn'",
        ),
        ("epoch 3: error 0.25\n", 3, "exit code 3"),
        ("  0%|   | 0/9\r 50%|## | 5/9\r\x1b[31mKeyError: 'bn'\x1b[0m\n", 1, "KeyError 'bn'"),
        ("Segmentation fault\n", 139, "exit code 139"),
    ],
)
def test_what_others_print(text: str, exit_status: int, expected: str) -> None:
    crash = crash_of(text, exit_status)
    assert (crash.fingerprint, crash.is_out_of_memory) == (expected, False)


def test_std_bad_alloc() -> None:
    text = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
    crash = crash_of(text, -6)
    assert (crash.fingerprint, crash.is_out_of_memory) == ("std::bad_alloc", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weights of lr:0.01.bs:256 are nan", "weights of CONFIG_ID are nan"),
        ("/tmp/tmpab3_x9kq/lr:0.01.bs:256.pt", ".../CONFIG_ID.pt"),
        ("at 0x7f3a and 550e8400-e29b-41d4-a716-446655440000", "at ADDRESS and HEX"),
        (
            "no attribute 'conv1' of layer.3.bn in 'layer.3.bn'",
            "no attribute 'conv1' of layer.N.bn in 'layer.3.bn'",
        ),
        ("'tmpab3_x9kq' 'deadbeef0123'", "'TMP' 'TMP'"),
        ("[-1, 3, 224, 224, 7, 8] and/or 1 / 2", "[N, ...] and/or N / N"),
        ("cuda:1 int64 5GB 1e-3 +2", "cuda:N int64 NGB N N"),
        ("sample00017 of /data/x17.npz, float32, resnet152", "sampleN of .../xN.npz, float32, resnet152"),
        ("see https://pytorch.org/docs/1.2 ok", "see URL ok"),
        ("a\x1b[31mb\u202e\x07", "ab\\u202e\\x07"),
    ],
)
def test_what_varies_is_taken_out(text: str, expected: str) -> None:
    assert fingerprint(text, "lr:0.01.bs:256") == expected


PIECES = st.sampled_from(
    [
        "/",
        "'",
        '"',
        "N",
        "x3",
        "12",
        "0x1f",
        "tmpabcd1234",
        "deadbeef12",
        ".",
        "..",
        "~",
        "-",
        " ",
        "\n",
        ":",
        "KeyError",
        HEADER,
        FRAME,
        "  + Exception Group " + HEADER,
        "  | ",
        "    +---------------- 1 ----------------\n",
        "…",
        "terminate called after throwing an instance of 'x'\n",
        "  what(): y",
        "\x1b[3m",
        "CUDA out of memory",
        "(",
        ", ",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=60).map("".join))


@settings(max_examples=300)
@given(TEXTS, st.text(max_size=8))
def test_a_fingerprint_is_short_printable_and_settled(text: str, config_id: str) -> None:
    found = fingerprint(text, config_id)
    assert len(found) <= MAX_FINGERPRINT_LENGTH
    assert found.isprintable()
    assert fingerprint(found) == found


@settings(max_examples=300)
@given(TEXTS, st.integers(-64, 255).filter(bool), st.booleans())
def test_any_text_has_a_fingerprint(text: str, exit_status: int, oom_killed: bool) -> None:
    crash = crash_of(text, exit_status, oom_killed=oom_killed)
    assert crash.fingerprint
    assert crash.fingerprint.isprintable()
    assert len(crash.fingerprint) <= MAX_FINGERPRINT_LENGTH


def test_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # sparse
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n" + traceback("KeyError: 'bn'").encode())
    assert read_crash(path, 1).fingerprint == "KeyError 'bn'"
    path.write_bytes(b"KeyError: 'cut'\n" + b"x" * CRASH_WINDOW_BYTES)
    assert read_crash(path, 1).fingerprint == "exit code 1"
    assert read_crash(tmp_path / "gone", 3).fingerprint == "exit code 3"
    assert read_crash(tmp_path, -9).fingerprint == "ended by SIGKILL (signal 9)"
