/*
 * A stand-in for NVIDIA's management library, so that the real pynvml can be tested without a GPU.
 *
 * Compiled as libnvidia-ml.so.1. Everything it says comes from the text file that the environment
 * variable HYPERBAND_STUB_NVML names, read again in every call: a test changes the machine by
 * writing the file anew. One thing a line, words apart by blanks:
 *
 *   init_error CODE        what nvmlInit answers (9: the driver is not loaded, 18: versions differ)
 *   fail_every N           every Nth call of a process answers 999, an unknown error; 0: none
 *   now SECONDS            the time for curves; without it they run since their file was written
 *   procdir FOLDER         a file FOLDER/PID: each line "GPU MIB [C|G|M [PLACE [BUSY]]]" is a claim of that process
 *   gpu bus=0000:1A:00.0 uuid=GPU-... name=... total_mib=N used_mib=N reserved_mib=N busy=N mig=0|1 error=CODE
 *   instance gpu=N place=N uuid=MIG-... gi=N ci=N total_mib=N used_mib=N
 *   process gpu=N pid=N mib=N kind=C|G|M place=N busy=N alive=0|1
 *
 * MIB, BUSY (percent), used_mib, mib and busy are numbers, or curves: "0:100,2.5:4000,10:-" is 100 from 0 s on,
 * 4000 from 2.5 s on, and nothing (no such process) from 10 s on. alive=0: shown although there is no such
 * process, as for a moment after its end, or in a container that is shown pids of its host.
 *
 * GPUs are numbered from 0 in the order of their lines, which need not be that of their addresses. An
 * underscore in a name stands for a blank. error=15: the GPU is lost; error=4: no permission; any other
 * code is answered by every call on that GPU. Kinds of processes are compute, graphics and clients of
 * an MPS server. Claims of processes that do not live any more vanish by themselves, and the memory
 * that is used is used_mib plus the claims.
 *
 * With -DOLD_DRIVER the calls that drivers before R510 did not have are left out.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* The values of nvmlReturn_t that are used here. */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

enum { MAX_GPUS = 32, MAX_PLACES = 8, MAX_PROCESSES = 256, MAX_WORDS = 16, NONE = -1 };

#define MEMORY_V2 0x02000028u /* what callers write into the version field of Memory2 */

typedef unsigned int u32;
typedef unsigned long long u64;
typedef void *Device;

/* Structures as the real library lays them out. */
typedef struct { char bus_legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } PciInfo;
typedef struct { u64 total, free, used; } Memory;
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
typedef struct { u32 pid; u64 used; u32 gpu_instance, compute_instance; } ProcessInfo;
typedef struct { u32 gpu, memory; } Rates;
typedef struct { u32 pid; u64 at_us; u32 sm, memory, encoder, decoder; } Sample;

/* What the state file says. */
typedef struct { bool exists; char uuid[96]; long gi, ci; u64 total_mib, used_mib; } Instance;
typedef struct {
    char bus[32], uuid[96], name[96];
    u64 total_mib, used_mib, reserved_mib;
    u32 busy;
    bool mig;
    int error;
    Instance places[MAX_PLACES];
} Gpu;
typedef struct { int gpu, place; u32 pid, busy; u64 mib; char kind; } Process;

static struct {
    int init_error, n_gpus, n_processes, fail_every;
    double now_s; /* for curves; NONE: the clock's */
    double age_s; /* of the state file */
    Gpu gpus[MAX_GPUS];
    Process processes[MAX_PROCESSES];
} state;

/* A handle names an address that was seen once: it goes on meaning that GPU when lines come and go. */
static char addresses[MAX_GPUS * 4][32];
static int n_addresses;
static int n_inits;
static unsigned long n_calls;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- reading the state ---------------------------------------------------------------------- */

static const char *value(char **words, int n, const char *key, const char *otherwise)
{
    size_t length = strlen(key);
    for (int i = 1; i < n; i++)
        if (strncmp(words[i], key, length) == 0 && words[i][length] == '=')
            return words[i] + length + 1;
    return otherwise;
}

static long number(char **words, int n, const char *key, long otherwise)
{
    const char *text = value(words, n, key, NULL);
    return text ? strtol(text, NULL, 0) : otherwise;
}

static void copy(char *target, size_t size, const char *text)
{
    snprintf(target, size, "%s", text);
}

static bool lives(long pid)
{
    return pid > 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The time on the curves of a file. */
static double age_of(FILE *file)
{
    struct stat status;
    if (state.now_s >= 0 || fstat(fileno(file), &status) != 0)
        return state.now_s;
    return clock_s() - (double)status.st_mtim.tv_sec - (double)status.st_mtim.tv_nsec * 1e-9;
}

/* What a number or a curve is at that time; NONE: nothing. */
static long at(const char *text, double age_s)
{
    long found = NONE;
    if (!strchr(text, ':'))
        return text[0] == '-' ? NONE : strtol(text, NULL, 0);
    for (const char *step = text; step; step = strchr(step, ',') ? strchr(step, ',') + 1 : NULL) {
        char *end;
        if (strtod(step, &end) <= age_s && *end == ':')
            found = end[1] == '-' ? NONE : strtol(end + 1, NULL, 0);
    }
    return found;
}

static void add_process(int gpu, long pid, long mib, char kind, long place, long busy)
{
    if (mib == NONE || state.n_processes == MAX_PROCESSES)
        return;
    state.processes[state.n_processes++] = (Process){.gpu = gpu, .place = (int)place, .pid = (u32)pid,
        .busy = busy == NONE ? 0 : (u32)busy, .mib = (u64)mib, .kind = kind};
}

static void read_claims(const char *folder)
{
    DIR *entries = opendir(folder);
    if (!entries)
        return;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        char path[1024], line[512];
        long pid = atol(entry->d_name);
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = isdigit((unsigned char)entry->d_name[0]) && lives(pid) ? fopen(path, "r") : NULL;
        if (!file)
            continue;
        while (fgets(line, sizeof line, file)) {
            char mib[200], busy[200] = "0", kind = 'C';
            int gpu, place = NONE;
            if (sscanf(line, "%d %199s %c %d %199s", &gpu, mib, &kind, &place, busy) >= 2)
                add_process(gpu, pid, at(mib, age_of(file)), kind, place, at(busy, age_of(file)));
        }
        fclose(file);
    }
    closedir(entries);
}

static void read_gpu(char **words, int n)
{
    if (state.n_gpus == MAX_GPUS)
        return;
    Gpu *gpu = &state.gpus[state.n_gpus++];
    copy(gpu->bus, sizeof gpu->bus, value(words, n, "bus", "0000:01:00.0"));
    copy(gpu->uuid, sizeof gpu->uuid, value(words, n, "uuid", "GPU-0"));
    copy(gpu->name, sizeof gpu->name, value(words, n, "name", "Stub"));
    for (char *c = gpu->name; *c; c++)
        if (*c == '_')
            *c = ' ';
    gpu->total_mib = (u64)number(words, n, "total_mib", 81920);
    gpu->used_mib = (u64)at(value(words, n, "used_mib", "0"), state.age_s);
    gpu->busy = (u32)at(value(words, n, "busy", "0"), state.age_s);
    gpu->reserved_mib = (u64)number(words, n, "reserved_mib", 0);
    gpu->mig = number(words, n, "mig", 0) != 0;
    gpu->error = (int)number(words, n, "error", SUCCESS);
}

static void read_instance(char **words, int n)
{
    long gpu = number(words, n, "gpu", NONE), place = number(words, n, "place", NONE);
    if (gpu < 0 || gpu >= MAX_GPUS || place < 0 || place >= MAX_PLACES)
        return;
    Instance *instance = &state.gpus[gpu].places[place];
    instance->exists = true;
    copy(instance->uuid, sizeof instance->uuid, value(words, n, "uuid", "MIG-0"));
    instance->gi = number(words, n, "gi", place + 1);
    instance->ci = number(words, n, "ci", 0);
    instance->total_mib = (u64)number(words, n, "total_mib", 10240);
    instance->used_mib = (u64)number(words, n, "used_mib", 0);
}

static void read_process(char **words, int n)
{
    long pid = number(words, n, "pid", 0);
    if (number(words, n, "alive", 1) == 0 || lives(pid))
        add_process((int)number(words, n, "gpu", NONE), pid, at(value(words, n, "mib", "0"), state.age_s),
                    value(words, n, "kind", "C")[0], number(words, n, "place", NONE),
                    at(value(words, n, "busy", "0"), state.age_s));
}

static void read_line(char *line)
{
    char *words[MAX_WORDS], *rest = NULL;
    int n = 0;
    for (char *w = strtok_r(line, " \t\n", &rest); w && n < MAX_WORDS; w = strtok_r(NULL, " \t\n", &rest))
        words[n++] = w;
    if (n == 0 || words[0][0] == '#')
        return;
    if (strcmp(words[0], "init_error") == 0 && n > 1)
        state.init_error = atoi(words[1]);
    else if (strcmp(words[0], "fail_every") == 0 && n > 1)
        state.fail_every = atoi(words[1]);
    else if (strcmp(words[0], "now") == 0 && n > 1)
        state.now_s = state.age_s = atof(words[1]);
    else if (strcmp(words[0], "procdir") == 0 && n > 1)
        read_claims(words[1]);
    else if (strcmp(words[0], "gpu") == 0)
        read_gpu(words, n);
    else if (strcmp(words[0], "instance") == 0)
        read_instance(words, n);
    else if (strcmp(words[0], "process") == 0)
        read_process(words, n);
}

static void read_state(void)
{
    const char *path = getenv("HYPERBAND_STUB_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[2048];
    memset(&state, 0, sizeof state);
    state.now_s = NONE;
    if (!file) {
        state.init_error = DRIVER_NOT_LOADED;
        return;
    }
    state.age_s = age_of(file);
    while (fgets(line, sizeof line, file))
        read_line(line);
    fclose(file);
}

/* ---- calls: each locks, reads the state, answers ---------------------------------------------- */

static int enter(void)
{
    pthread_mutex_lock(&lock);
    read_state();
    n_calls++;
    if (state.fail_every && n_calls % (unsigned long)state.fail_every == 0)
        return UNKNOWN;
    return n_inits ? SUCCESS : UNINITIALIZED;
}

static int leave(int answer)
{
    pthread_mutex_unlock(&lock);
    return answer;
}

static Device handle_of(int gpu, int place)
{
    int address = 0;
    while (address < n_addresses && strcmp(addresses[address], state.gpus[gpu].bus) != 0)
        address++;
    if (address == n_addresses && n_addresses < (int)(sizeof addresses / sizeof *addresses))
        copy(addresses[n_addresses++], sizeof *addresses, state.gpus[gpu].bus);
    return (Device)(size_t)((address + 1) << 8 | (place + 1));
}

/* Find what a handle means now. The answer is the error of its GPU, if it has one. */
static int resolve(Device handle, int *gpu, int *place)
{
    int address = (int)((size_t)handle >> 8) - 1;
    *place = (int)((size_t)handle & 0xff) - 1;
    if (address < 0 || address >= n_addresses || *place >= MAX_PLACES)
        return INVALID_ARGUMENT;
    for (*gpu = 0; *gpu < state.n_gpus; ++*gpu)
        if (strcmp(state.gpus[*gpu].bus, addresses[address]) == 0)
            break;
    if (*gpu == state.n_gpus)
        return GPU_IS_LOST;
    if (state.gpus[*gpu].error)
        return state.gpus[*gpu].error;
    return *place >= 0 && !state.gpus[*gpu].places[*place].exists ? INVALID_ARGUMENT : SUCCESS;
}

static int enter_on(Device handle, int *gpu, int *place)
{
    int answer = enter();
    return answer ? answer : resolve(handle, gpu, place);
}

static int give_text(char *target, u32 size, const char *text)
{
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    copy(target, size, text);
    return SUCCESS;
}

int nvmlInitWithFlags(u32 flags)
{
    (void)flags;
    int answer = enter();
    if (answer != UNKNOWN)
        answer = state.init_error;
    if (answer == SUCCESS)
        n_inits++;
    return leave(answer);
}

int nvmlShutdown(void)
{
    int answer = enter();
    if (answer == SUCCESS)
        n_inits--;
    return leave(answer);
}

const char *nvmlErrorString(int code)
{
    (void)code;
    return "an error of the stub"; /* pynvml has texts of its own for every code that matters */
}

int nvmlSystemGetProcessName(u32 pid, char *name, u32 size)
{
    char path[64], text[1024] = "";
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return NOT_FOUND;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0'; /* the first word ends at its own NUL */
    snprintf(name, size, "%s", text);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(u32 *count)
{
    int answer = enter();
    *count = (u32)state.n_gpus;
    return leave(answer);
}

int nvmlDeviceGetHandleByIndex_v2(u32 index, Device *handle)
{
    int answer = enter();
    if (answer == SUCCESS && (int)index >= state.n_gpus)
        answer = INVALID_ARGUMENT;
    if (answer == SUCCESS)
        answer = state.gpus[index].error;
    if (answer == SUCCESS)
        *handle = handle_of((int)index, NONE);
    return leave(answer);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Device *handle)
{
    u32 domain, number, device, d, b, v;
    int answer = enter();
    if (answer == SUCCESS)
        answer = sscanf(bus, "%x:%x:%x", &domain, &number, &device) == 3 ? NOT_FOUND : INVALID_ARGUMENT;
    for (int i = 0; answer == NOT_FOUND && i < state.n_gpus; i++)
        if (sscanf(state.gpus[i].bus, "%x:%x:%x", &d, &b, &v) == 3 && d == domain && b == number && v == device) {
            answer = state.gpus[i].error;
            *handle = handle_of(i, NONE);
            break;
        }
    return leave(answer);
}

/* As documented: lost when ANY GPU is lost, since the real one searches through all of them. */
int nvmlDeviceGetHandleByUUID(const char *uuid, Device *handle)
{
    int answer = enter();
    if (answer == SUCCESS)
        answer = NOT_FOUND;
    for (int i = 0; i < state.n_gpus; i++) {
        if (answer == NOT_FOUND && strcmp(state.gpus[i].uuid, uuid) == 0) {
            *handle = handle_of(i, NONE);
            answer = SUCCESS;
        }
        if (state.gpus[i].error == GPU_IS_LOST)
            return leave(GPU_IS_LOST);
    }
    return leave(answer);
}

int nvmlDeviceGetUUID(Device handle, char *uuid, u32 size)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS)
        answer = give_text(uuid, size, place < 0 ? state.gpus[gpu].uuid : state.gpus[gpu].places[place].uuid);
    return leave(answer);
}

int nvmlDeviceGetName(Device handle, char *name, u32 size)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS)
        answer = give_text(name, size, state.gpus[gpu].name);
    return leave(answer);
}

int nvmlDeviceGetPciInfo_v3(Device handle, PciInfo *info)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS) {
        memset(info, 0, sizeof *info);
        sscanf(state.gpus[gpu].bus, "%x:%x:%x", &info->domain, &info->bus, &info->device);
        copy(info->bus_id, sizeof info->bus_id, state.gpus[gpu].bus);
    }
    return leave(answer);
}

/* Bytes in use by claims and by what the file says is used anyway. */
static u64 used_bytes(int gpu, int place)
{
    u64 mib = place < 0 ? state.gpus[gpu].used_mib : state.gpus[gpu].places[place].used_mib;
    for (int i = 0; i < state.n_processes; i++)
        if (state.processes[i].gpu == gpu && (place < 0 || state.processes[i].place == place))
            mib += state.processes[i].mib;
    return mib << 20;
}

static u64 total_bytes(int gpu, int place)
{
    return (place < 0 ? state.gpus[gpu].total_mib : state.gpus[gpu].places[place].total_mib) << 20;
}

int nvmlDeviceGetMemoryInfo(Device handle, Memory *memory)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS) {
        memory->total = total_bytes(gpu, place);
        /* This first version counts what the driver keeps for itself as used. */
        memory->used = used_bytes(gpu, place) + (state.gpus[gpu].reserved_mib << 20);
        memory->free = memory->total - memory->used;
    }
    return leave(answer);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(Device handle, Memory2 *memory)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS && memory->version != MEMORY_V2)
        answer = VERSION_MISMATCH;
    if (answer == SUCCESS) {
        memory->total = total_bytes(gpu, place);
        memory->reserved = state.gpus[gpu].reserved_mib << 20;
        memory->used = used_bytes(gpu, place);
        memory->free = memory->total - memory->reserved - memory->used;
    }
    return leave(answer);
}
#endif

/* Callers ask twice: without room to learn the count, then with room for some more. */
static int list_processes(Device handle, u32 *count, ProcessInfo *infos, char kind)
{
    u32 room = infos ? *count : 0, n = 0;
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    for (int i = 0; answer == SUCCESS && i < state.n_processes; i++) {
        Process *process = &state.processes[i];
        if (process->gpu != gpu || process->kind != kind || (place >= 0 && process->place != place))
            continue;
        if (n < room)
            infos[n] = (ProcessInfo){process->pid, process->mib << 20, ~0u, ~0u};
        n++;
    }
    *count = n;
    if (answer == SUCCESS && n > room)
        answer = INSUFFICIENT_SIZE;
    return leave(answer);
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device handle, u32 *count, ProcessInfo *infos)
{
    return list_processes(handle, count, infos, 'C');
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(Device handle, u32 *count, ProcessInfo *infos)
{
    return list_processes(handle, count, infos, 'G');
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(Device handle, u32 *count, ProcessInfo *infos)
{
    return list_processes(handle, count, infos, 'C');
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device handle, u32 *count, ProcessInfo *infos)
{
    return list_processes(handle, count, infos, 'G');
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(Device handle, u32 *count, ProcessInfo *infos)
{
    return list_processes(handle, count, infos, 'M');
}
#endif

int nvmlDeviceGetUtilizationRates(Device handle, Rates *rates)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS && place >= 0)
        answer = NOT_SUPPORTED;
    if (answer == SUCCESS)
        *rates = (Rates){state.gpus[gpu].busy, 0};
    return leave(answer);
}

#ifndef OLD_DRIVER
/* Samples of the processes that were busy since that time, all taken now. */
int nvmlDeviceGetProcessUtilization(Device handle, Sample *samples, u32 *count, u64 since_us)
{
    u64 now_us = (u64)(clock_s() * 1e6);
    u32 room = samples ? *count : 0, n = 0;
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS && place >= 0)
        answer = NOT_SUPPORTED;
    for (int i = 0; answer == SUCCESS && i < state.n_processes && since_us < now_us; i++) {
        Process *process = &state.processes[i];
        if (process->gpu != gpu || process->busy == 0)
            continue;
        if (n < room)
            samples[n] = (Sample){.pid = process->pid, .at_us = now_us, .sm = process->busy};
        n++;
    }
    *count = n;
    if (answer == SUCCESS)
        answer = n == 0 ? NOT_FOUND : n > room ? INSUFFICIENT_SIZE : SUCCESS;
    return leave(answer);
}
#endif

/* ---- MIG -------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(Device handle, u32 *current, u32 *pending)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS)
        *current = *pending = state.gpus[gpu].mig;
    return leave(answer);
}

int nvmlDeviceGetMaxMigDeviceCount(Device handle, u32 *count)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    *count = MAX_PLACES - 1;
    return leave(answer);
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device handle, u32 index, Device *instance)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS && (index >= MAX_PLACES || !state.gpus[gpu].places[index].exists))
        answer = NOT_FOUND;
    if (answer == SUCCESS)
        *instance = handle_of(gpu, (int)index);
    return leave(answer);
}

static int give_instance_number(Device handle, u32 *number_of, bool of_gpu_instance)
{
    int gpu, place, answer = enter_on(handle, &gpu, &place);
    if (answer == SUCCESS && place < 0)
        answer = NOT_SUPPORTED;
    if (answer == SUCCESS) {
        Instance *instance = &state.gpus[gpu].places[place];
        *number_of = (u32)(of_gpu_instance ? instance->gi : instance->ci);
    }
    return leave(answer);
}

int nvmlDeviceGetGpuInstanceId(Device handle, u32 *id)
{
    return give_instance_number(handle, id, true);
}

int nvmlDeviceGetComputeInstanceId(Device handle, u32 *id)
{
    return give_instance_number(handle, id, false);
}
