"""What a failed job's standard error says: a short name for the failure, and whether memory ran out.

Owns the reading of error texts: tracebacks of every shape, what runtimes and compilers print, and the words
that frameworks have for running out of memory. Pure but for the reading of a bounded end of one file; knows
no outcomes of others, no studies, no slots. The shapes of tracebacks are taken apart in `tracebacks.py`,
and what varies from job to job is taken out in `fingerprint.py`.
"""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from hyperband.script.contract import clean_lines, describe_exit, read_tail
from hyperband.script.fingerprint import fingerprint
from hyperband.script.tracebacks import PythonError, last_error

#: what failed within so many last bytes of standard error is found
CRASH_WINDOW_BYTES = 64 * 1024
#: where no error is told from other lines, the error is among so many last ones
_N_LAST_LINES = 5
#: what native code says before it aborts may be followed by a stack of this many lines
_N_NATIVE_LINES = 60

#: what a process says in which memory ran out -> its fingerprint, the most specific first.
#: Sources: PyTorch c10/cuda/CUDACachingAllocator.cpp, c10/core/impl/alloc_cpu.cpp; CUDA driver and runtime
#: API error names; hip_runtime_api.h; XLA and TensorFlow bfc_allocator.cc; numpy _core/_exceptions.py;
#: CPython's errno texts; NCCL; R memory.c.
_OUT_OF_MEMORY = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"\bHIP (?:error: )?out of memory|hipErrorOutOfMemory", "HIP out of memory"),
        (r"\bXPU out of memory", "XPU out of memory"),
        (r"\bMPS backend out of memory", "MPS backend out of memory"),
        (r"\bCUDA out of memory|CUDA(?: runtime| driver)? error.{0,20}: out of memory", "CUDA out of memory"),
        (r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY", "CUDA out of memory"),
        (r"Cuda failure (?:\d+ )?'out of memory'|cudaMalloc\w* .*out of memory", "CUDA out of memory"),
        (r"\b(CU(?:BLAS|DNN|SOLVER|SPARSE|RAND)_STATUS_ALLOC(?:ATION)?_FAILED)\b", r"\1"),
        (r"\b((?:HIP|ROC)BLAS_STATUS_(?:ALLOC_FAILED|MEMORY_ERROR)|CUFFT_ALLOC_FAILED)\b", r"\1"),
        (r"\b(miopenStatusAllocFailed|MIOPEN_STATUS_ALLOC_FAILED)\b", r"\1"),
        (r"OOM when allocating tensor", "TensorFlow: OOM when allocating tensor"),
        (r"RESOURCE_EXHAUSTED: .*(?:memory|allocat|\bOOM\b)", "XLA out of memory (RESOURCE_EXHAUSTED)"),
        (
            r"DefaultCPUAllocator: (?:not enough|can't allocate) memory",
            "DefaultCPUAllocator: not enough memory",
        ),
        (r"Unable to allocate .{1,40} for an array with shape", "MemoryError: Unable to allocate an array"),
        (r"std::bad_alloc", "std::bad_alloc"),
        (r"\[Errno 12\] Cannot allocate memory", "OSError: Cannot allocate memory"),
        (r"cannot allocate vector of size", "cannot allocate vector"),
        (r"JavaScript heap out of memory|java\.lang\.OutOfMemoryError", "heap out of memory"),
    )
)
#: an exception of such a class needs no text
_MEMORY_CLASSES = {
    "MemoryError": "MemoryError",
    "_ArrayMemoryError": "MemoryError: Unable to allocate an array",
    "ArrayMemoryError": "MemoryError: Unable to allocate an array",
    "OutOfMemoryError": "",
    "CUDAOutOfMemoryError": "CUDA out of memory",
}
#: anybody's words for it, where the specific ones are not there
_ANYBODY = re.compile(r"\bout of memory\b(?!.?(?:bounds|range|mapped))", re.IGNORECASE)
#: a line that says so, and that the program went on
_HANDLED = re.compile(
    r"warn|not a failure|retrying|trying again|falling back|reducing|skipp|^\S*\d \S*: W |\bW tensorflow",
    re.IGNORECASE,
)
#: with a kill by the kernel for want of memory on record: a helper process was the one that it killed
_HELPER_KILLED = re.compile(
    r"is killed by signal: Killed|BrokenProcessPool|terminated by signal SIGKILL|signal 9 \(SIGKILL\)"
    r"|died with <Signals\.SIGKILL",
)

#: what native code prints when it gives up -> its fingerprint
_NATIVE = tuple(
    re.compile(pattern)
    for pattern in (
        r"^terminate called after throwing an instance of '(?P<name>.+)'$",
        r"^libc\+\+abi: terminating (?:due to|with) uncaught exception of type (?P<name>[^:]+(?:::[^:]+)*)"
        r"(?:: (?P<message>.*))?$",
        r"^(?P<message>terminate called without an active exception)$",
        r"^(?P<message>Fatal Python error: .+)$",
        r"^(?P<message>(?:free|malloc|realloc|munmap_chunk|malloc_consolidate)\(\): .+)$",
        r"^(?P<message>double free or corruption.*|corrupted (?:size|double).*|\*\*\* .+ \*\*\*.*)$",
        r"(?P<message>Assertion [`'].+' failed)",
        r"(?P<message>Check failed: .+)$",
        r"^(?P<message>LLVM ERROR: .+)$",
        r"(?P<message>pure virtual method called)$",
        r"^thread '.*' panicked at (?P<message>.+)$",
    )
)
_WHAT = re.compile(r"^\s*what\(\):\s*(?P<message>.*)$")
#: what faulthandler calls the signals: the signal's own name says as much
_FAULTS = ("Segmentation fault", "Aborted", "Bus error", "Floating point exception", "Illegal instruction")
#: a line that is an error by its own words, in whatever language the program is written
_ERROR_LINE = re.compile(
    r"^(?:\S+: )*(?:(?:fatal |internal )?error(?:\[\w+\])?: |fatal: |panic: |Error in )"
    r"|^[^\W\d][\w.]*(?:Error|Exception)\b(?::|$)",
    re.IGNORECASE,
)
_ERROR_WORDS = re.compile(
    r"\b(?:fatal|failed to|cannot|can't|could not|couldn't|unable to|invalid|abort(?:ed|ing)?|unknown"
    r"|not found|no such|missing|required|denied|refused|must)\b",
    re.IGNORECASE,
)
_N_ERROR_LINES = 20
#: exit codes by which a shell says that its program died of a signal
_SHELL_SIGNAL = 128


@dataclass(frozen=True, slots=True)
class Crash:
    """What is known of a job whose exit status was not 0."""

    #: what it has in common with others of its kind: printable, one line, bounded; never empty
    fingerprint: str
    #: memory ran out, on a GPU or on the host
    is_out_of_memory: bool
    #: how it ended, in words
    note: str


def read_crash(
    stderr: Path | int, exit_status: int, *, config_id: str = "", oom_killed: bool = False
) -> Crash:
    """Read why a job failed from the end of its standard error.

    Reads the final 64 KiB at most. A file that is not there, or cannot be read, says nothing.

    Args:
        stderr: the file, or a descriptor of it that can be read from.
        exit_status: the script's exit code, or minus the signal that ended it; not 0.
        config_id: of its trial; where it stands in a text it is no difference between two failures.
        oom_killed: the kernel killed a process of the job's cgroup for want of memory while it ran. Whoever
            ended the job by SIGKILL must not ask for a reading: its death says nothing.
    """
    try:
        tail, is_cut = read_tail(stderr, CRASH_WINDOW_BYTES)
    except OSError:  # the outcome does not depend on it, and the log says what happened to the file
        tail, is_cut = b"", False
    text = tail.decode("utf-8", errors="replace")
    if is_cut:
        text = text.partition("\n")[2]  # the first line lacks its beginning
    return crash_of(text, exit_status, config_id=config_id, oom_killed=oom_killed)


def crash_of(text: str, exit_status: int, *, config_id: str = "", oom_killed: bool = False) -> Crash:
    """Tell why a job failed from the end of its standard error; arguments as in `read_crash`."""
    note = describe_exit(exit_status)
    if oom_killed and exit_status in (-signal.SIGKILL, _SHELL_SIGNAL + signal.SIGKILL):
        return Crash(
            "killed for want of memory (SIGKILL)", True, f"{note}: the kernel killed it for want of memory"
        )
    lines = clean_lines(text)
    error = last_error(lines, is_uncaught=exit_status == 1)
    told = _native(lines) if exit_status not in (1, -signal.SIGKILL) else ""
    memory = _memory_of(error, told, lines, exit_status)
    if not memory and oom_killed and _HELPER_KILLED.search("\n".join(_last(lines))):
        memory = "a helper process was killed for want of memory"
    if memory:
        return Crash(fingerprint(memory, config_id), True, note)
    if told:
        name = told
    elif exit_status < 0:
        name = note  # a traceback before it was not what ended the process
    elif error is not None:
        name = _name_of(error)
    else:
        name = _error_line(lines) or note
    return Crash(fingerprint(name, config_id) or note, False, note)


def _memory_of(error: PythonError | None, told: str, lines: list[str], exit_status: int) -> str:
    """The fingerprint of running out of memory; empty if it was something else.

    The error that ended the process decides, with those that it came from. Only where no error can be told
    from the other lines the very last ones do: a warning long before the end was handled.
    """
    if found := _memory_in(told):
        return found
    if error is not None:
        for part in error.all_parts():
            name = part.name.rpartition(".")[2]
            found = _memory_in(part.text)
            if found or name in _MEMORY_CLASSES:
                # the class of the newer PyTorch says less than its message
                return found or _MEMORY_CLASSES[name] or "out of memory"
            if name == "ResourceExhaustedError":
                return "TensorFlow out of memory (ResourceExhaustedError)"
        return ""
    if told or exit_status == -signal.SIGKILL:
        return ""
    for line in reversed(_last(lines)):
        if not _HANDLED.search(line) and (found := _memory_in(line)):
            return found
    return ""


def _memory_in(text: str) -> str:
    for pattern, name in _OUT_OF_MEMORY:
        if found := pattern.search(text):
            return found.expand(name).upper() if name == r"\1" else name
    return "out of memory" if _ANYBODY.search(text) else ""


def _name_of(error: PythonError) -> str:
    """The words that people know an exception by, such as `KeyError 'bn'`, with its direct cause."""
    if error.members:
        told = list(dict.fromkeys(_name_of(member) for member in error.members))
        more = f" and {len(told) - 3} others" if len(told) > 3 else ""
        return f"{error.short_name} of {', '.join(told[:3])}{more}"
    name = error.short_name
    if not error.message:
        words = f"{name}: {error.source}" if name == "AssertionError" and error.source else name
    elif name == "KeyError" and error.message[0] in "'\"":
        words = f"{name} {error.message}"
    else:
        words = f"{name}: {error.message}"
    cause = error.cause
    if cause is None or not (cause.message or cause.members) or cause.message in words:
        return words
    return f"{words[:80]}, from {_name_of(cause)}"


def _native(lines: list[str]) -> str:
    """What native code said when it gave up; empty if it said nothing, or no more than its signal does."""
    last = lines[-_N_NATIVE_LINES:]
    for place in range(len(last) - 1, -1, -1):
        found = next((hit for pattern in _NATIVE if (hit := pattern.search(last[place]))), None)
        if found is None:
            continue
        groups = found.groupdict()
        message = groups.get("message") or ""
        if message.removeprefix("Fatal Python error: ") in _FAULTS:
            return ""
        following = last[place + 1 : place + 3]
        if what := next((hit for line in following if (hit := _WHAT.match(line))), None):
            message = what["message"]
        name = groups.get("name") or ""
        if message and message != name:
            return f"{name}: {message}" if name else message
        return name or message
    return ""


def _error_line(lines: list[str]) -> str:
    """The last line that is an error by its own words; empty if there is none."""
    last = [line.strip() for line in lines[-_N_ERROR_LINES:] if line.strip()]
    for line in reversed(last):
        if _ERROR_LINE.search(line):
            return line
    # `sys.exit("...")`, and what shells say
    return last[-1] if last and _ERROR_WORDS.search(last[-1]) else ""


def _last(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip()][-_N_LAST_LINES:]
