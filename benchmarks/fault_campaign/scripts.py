"""The texts that a run of the campaign needs: the user's script with its variants, and a clock that jumps.

The script is deterministic in config id and epochs, trains from checkpoints, fails by itself for some
configurations, and keeps a record of its own of when it ran and what it trained. The record is what the
searches are held against; it lies outside of whatever the fault harms.
"""

#: marks where the variants differ: when the script is imported, before it trains, and before its loss
_TOP, _BEFORE, _LATE = "# top", "# before", "# late"

_TEXT = """\
import hashlib
import json
import os
import random
import sys
import time

# top


def get_random_config_id(rng):
    return f"x:{rng.uniform(0, 1):.9f}"


def run_identity(argv):
    return "faults"


def note(*words):
    record = os.open(os.environ["FAULTS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(record, (" ".join(map(str, words)) + "\\n").encode())
    os.close(record)


def main():
    config_id, epochs = sys.argv[1], int(sys.argv[sys.argv.index("--epochs") + 1])
    gpu = int(sys.argv[sys.argv.index("--gpu") + 1])
    job = os.readlink("/proc/self/fd/1").split("/")[-2]
    first_try = job.endswith("-0")
    luck = int(hashlib.sha256(f"{config_id} {epochs}".encode()).hexdigest()[:8], 16) / 2**32
    chance = random.Random(f"{os.environ['FAULTS_SEED']} {config_id} {epochs}")
    note("start", job, config_id, epochs, time.monotonic_ns())
    if "FAULTS_GPUS" in os.environ:
        with open(os.path.join(os.environ["FAULTS_CLAIMS"], str(os.getpid())), "w") as claim:
            claim.write(f"{json.loads(os.environ['FAULTS_GPUS'])[gpu]} 1000 C -1\\n")
    # before
    path = f"checkpoints/{config_id}.json"
    state = {"epoch": 0, "value": 7}
    if os.path.exists(path):
        with open(path) as stream:
            saved = json.load(stream)
        if saved["epoch"] <= epochs:
            state = saved
    os.makedirs("checkpoints", exist_ok=True)
    while state["epoch"] < epochs:
        if os.path.exists(f"lost-{gpu}"):
            if chance.random() < 0.5:
                sys.exit("CUDA error: the GPU is lost")
            time.sleep(1000)
        time.sleep(0.005 + 0.02 * luck)
        epoch = state["epoch"] + 1
        state = {"epoch": epoch, "value": (state["value"] * 31 + epoch) % 1000003}
        beside = f"{path}.{os.getpid()}"
        with open(beside, "w") as stream:
            json.dump(state, stream)
        os.replace(beside, path)
        note("epoch", job, config_id, epoch)
    # late
    if luck < 0.1:
        note("fail", job, config_id, epochs, time.monotonic_ns())
        sys.exit("bad luck")
    loss = float(config_id[2:]) + 1 / epochs + state["value"] * 1e-9
    print(loss, flush=True)
    note("end", job, config_id, epochs, time.monotonic_ns(), loss)
    os._exit(0)  # whatever comes now comes too late to be a fault of this job


if __name__ == "__main__":
    main()
"""


def script(*, top: str = "", before: str = "", late: str = "") -> str:
    """The script with lines of its own at the three places.

    Args:
        top: when it is imported or run.
        before: before it trains; `config_id`, `epochs`, `gpu`, `job`, `first_try`, `luck` (of config id and
            epochs alone) and `chance` (of these and the run's seed) are there.
        late: after it trained, before its loss.
    """
    text = _TEXT
    for mark, lines in ((_TOP, top), (_BEFORE, before), (_LATE, late)):
        if lines:
            indent = "" if mark == _TOP else "    "
            text = text.replace(mark, lines.strip("\n").replace("\n", f"\n{indent}"))
    return text


SCRIPT = script()
#: as a framework that takes long to import, and a sampler that is asked for long
SLOW_SAMPLER = script().replace('    return f"x:{rng', '    time.sleep(0.02)\n    return f"x:{rng')
CHILDREN = script(
    before="""
import subprocess
for own_session in (False, True):
    subprocess.Popen(["sleep", "1000"], start_new_session=own_session, stdout=subprocess.DEVNULL)
"""
)
BLACK_HOLE = script(before='if gpu == 1:\n    sys.exit("no such device")')
FLAKY_SLOT = script(before='if gpu == 1 and first_try and chance.random() < 0.4:\n    sys.exit("bus error")')
CUDA_MEMORY = script(
    before="""
if first_try and chance.random() < 0.2:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.")
"""
)
PYTHON_MEMORY = script(before="if first_try and chance.random() < 0.2:\n    raise MemoryError")
CRASH_ONCE = script(before='if first_try and chance.random() < 0.2:\n    raise RuntimeError("once")')
ENDLESS = script(before="while 0.1 < luck < 0.2:\n    time.sleep(1)")
SILENT = script(before='if 0.1 < luck < 0.2:\n    print("epoch 0", flush=True)\n    time.sleep(1000)')
FLOOD = script(
    before="""
if 0.1 < luck < 0.2:
    for _ in range(100):
        sys.stdout.write(("x" * 1023 + "\\n") * 1024)
"""
)
#: once a megabyte, so that a small file system fills while it writes
LOUD_ONCE = script(
    before="""
if first_try and chance.random() < 0.2:
    for _ in range(64):
        sys.stdout.write("x" * 65536)
        sys.stdout.flush()
        time.sleep(0.001)
"""
)

#: loaded before the C library: the real-time clock is off by the seconds in a file, read at every call
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *shared;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0)
        close(file);
    if (found != MAP_FAILED)
        shared = found;
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    if (answer == 0 && shared && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *shared;
    return answer;
}

time_t time(time_t *target)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (target)
        *target = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict target, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    target->tv_sec = now.tv_sec;
    target->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
