"""What Slurm's commands print, understood: pure functions over text, for versions 20.11 to 25.

Owns the closed set of states of a job and what Slurm's words for states, reasons and refusals mean. Words
that are not known are tolerated. Must not know: who asked, when, or what follows from it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hyperband.launch.slurm.text import SQUEUE_FIELDS


class JobState(StrEnum):
    """What a job of Slurm is doing, or how it ended. `GONE`: Slurm does not know it any more."""

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    #: over, and its processes may still be there
    ENDING = "ending"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "out of memory"
    GONE = "gone"
    #: a word of a version that we do not know: nothing follows from it
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """Whether the job will do nothing any more under this id, unless it is queued again."""
        return self not in _NOT_OVER


_NOT_OVER = frozenset(
    {JobState.WAITING, JobState.RUNNING, JobState.SUSPENDED, JobState.ENDING, JobState.UNKNOWN}
)
_STATES = {
    "PENDING": JobState.WAITING,
    "CONFIGURING": JobState.WAITING,
    "REQUEUED": JobState.WAITING,
    "REQUEUE_FED": JobState.WAITING,
    "REQUEUE_HOLD": JobState.WAITING,
    "SPECIAL_EXIT": JobState.WAITING,
    "RESV_DEL_HOLD": JobState.WAITING,
    "POWER_UP_NODE": JobState.WAITING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "EXPEDITING": JobState.WAITING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "COMPLETING": JobState.ENDING,
    "STAGE_OUT": JobState.ENDING,
    "UPDATE_DB": JobState.ENDING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.NODE_FAILURE,
    "RECONFIG_FAIL": JobState.NODE_FAILURE,
    "BOOT_FAIL": JobState.NODE_FAILURE,
    "NODE_FAIL": JobState.NODE_FAILURE,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIME_LIMIT,
    "DEADLINE": JobState.TIME_LIMIT,
    "PREEMPTED": JobState.PREEMPTED,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
}


@dataclass(frozen=True, slots=True)
class JobLine:
    """What Slurm says of one job, or of one task of an array."""

    #: as scancel takes it: `15`, or `15_3` for a task
    job_id: str
    name: str
    state: JobState
    #: Slurm's own word for the state
    said: str
    #: why it waits, or how it ended; empty when Slurm does not say
    reason: str = ""
    nodes: tuple[str, ...] = ()
    #: when it started, as Slurm prints it: only good for telling one start from another
    started: str = ""
    #: until its time limit; None: no limit, or not known
    time_left_s: float | None = None
    comment: str = ""
    #: exit code, or minus the signal, of its script; None: not known
    exit_status: int | None = None


class Waiting(StrEnum):
    """What a reason to wait means for whoever waits."""

    #: the job will start sooner or later
    PASSES = "passes"
    #: it waits for a person, or was put on hold: nothing but a release starts it
    HELD = "held"
    #: Slurm tried to start it, failed, and put it on hold
    BROKEN = "broken"
    #: it can never start as it was asked for
    NEVER = "never"


#: reasons are told apart by how they begin: versions add details to them
_REASONS = (
    ("launch_failed_requeued_held", Waiting.BROKEN),
    ("launch failed requeued held", Waiting.BROKEN),
    ("JobHoldMaxRequeue", Waiting.BROKEN),
    ("BadConstraints", Waiting.NEVER),
    ("PartitionNodeLimit", Waiting.NEVER),
    ("PartitionTimeLimit", Waiting.NEVER),
    ("InvalidAccount", Waiting.NEVER),
    ("InvalidQOS", Waiting.NEVER),
    ("AccountNotAllowed", Waiting.NEVER),
    ("QOSNotAllowed", Waiting.NEVER),
    ("DependencyNeverSatisfied", Waiting.NEVER),
    ("QOSMaxWallDurationPerJobLimit", Waiting.NEVER),
    ("AssocMaxWallDurationPerJobLimit", Waiting.NEVER),
    ("QOSMaxCpuPerJobLimit", Waiting.NEVER),
    ("QOSMaxGRESPerJob", Waiting.NEVER),
    ("QOSMaxNodePerJobLimit", Waiting.NEVER),
    ("QOSMaxMemoryPerJob", Waiting.NEVER),
    ("QOSMinGRES", Waiting.NEVER),
    ("AssocMaxCpuPerJobLimit", Waiting.NEVER),
    ("AssocMaxGRESPerJob", Waiting.NEVER),
    ("AssocMaxNodePerJobLimit", Waiting.NEVER),
    ("AssocMaxMemPerJob", Waiting.NEVER),
    ("JobHeld", Waiting.HELD),
    ("ReservationDeleted", Waiting.HELD),
    ("job_requeued_in_held_state", Waiting.HELD),
)


def meaning_of(reason: str) -> Waiting:
    """What it means that a job waits for this reason; a reason that is not known passes."""
    return next((meaning for words, meaning in _REASONS if reason.startswith(words)), Waiting.PASSES)


class Refusal(StrEnum):
    """Why a command of Slurm did not do what it was asked."""

    #: nobody answered: nothing is known
    UNREACHABLE = "unreachable"
    #: as many jobs as are allowed are there already, of the user or of all who share a limit
    LIMIT = "limit"
    #: it will be refused again
    WRONG = "wrong"


_NO_ANSWER = re.compile(
    "unable to contact|unable to establish|socket timed out|connection (refused|failure|reset|timed out)|"
    "communication ((connection|shutdown) )?failure|message (send|receive) failure|"
    "zero bytes were transmitted|backup controller|in standby|"
    "protocol authentication error|transport endpoint|slurm_receive_msg|resource temporarily unavailable|"
    "temporarily unable|name or service not known|no route to host|network is unreachable",
    re.IGNORECASE,
)
#: no command finds out which cluster to ask: nothing that it was to do has been done
_NO_CONFIGURATION = re.compile(
    "establish a configuration source|unable to (status|process) (config(uration)? )?file|"
    r"slurm\.conf\b.*no such file",
    re.IGNORECASE,
)
#: where a command of Slurm does what it is for, for messages
WHERE_IT_ANSWERS = "where `squeue` answers: on a login node, or with SLURM_CONF set as there"
_TOO_MANY = re.compile("(Max|Grp)Submit|MaxJobCount|maximum job count|too many jobs", re.IGNORECASE)


def refusal_of(words: str) -> Refusal:
    """What a failed command's error output means."""
    # a limit first: sbatch says on its way that it waits and tries again
    if _TOO_MANY.search(words):
        return Refusal.LIMIT
    is_silent = _NO_ANSWER.search(words) or means_no_configuration(words)
    return Refusal.UNREACHABLE if is_silent else Refusal.WRONG


def means_no_configuration(words: str) -> bool:
    """Whether Slurm's commands find no cluster to ask: nobody has heard of what they were to do."""
    return bool(_NO_CONFIGURATION.search(words))


_ENDING = re.compile(
    "unable to create step|unable to confirm allocation|invalid job id|node failure|revoked|has expired|"
    "nodes? .*not responding",
    re.IGNORECASE,
)
#: a step that was asked for in a way that never works
_BAD_STEP = re.compile(
    "configuration is not available|invalid generic resource|more processors", re.IGNORECASE
)


def means_ending(words: str) -> bool:
    """Whether srun failed since its allocation, or a node of it, is gone or going, or nobody answered."""
    if _BAD_STEP.search(words):
        return False
    return bool(_ENDING.search(words)) or refusal_of(words) == Refusal.UNREACHABLE


def means_cancelled(words: str) -> bool:
    """Whether srun said that Slurm ended the step, or its allocation, whatever the reason."""
    return bool(re.search(r"\*\*\* (STEP|JOB) \S+ ON \S+ CANCELLED AT ", words))


def means_cancelled_by_hand(words: str) -> bool:
    """Whether srun said that the step was cancelled and gave no reason: Slurm has one, and says it."""
    return bool(re.search(r"\*\*\* STEP \S+ ON \S+ CANCELLED AT \S+ \*\*\*", words))


def means_out_of_memory(words: str) -> bool:
    """Whether srun said that the step was ended for using more memory than its allocation has."""
    found = re.search(r"exceeded (job |step )?memory limit|oom[-_ ]kill|out of memory", words, re.IGNORECASE)
    return found is not None


_ENDED_BY_SLURM = re.compile(
    r"\*\*\* (?P<what>STEP|JOB) (?P<id>\S+) ON (?P<node>\S+) CANCELLED AT \S+"
    r"( DUE TO (?P<why>.*?)(, SEE SLURMCTLD LOG FOR DETAILS)?)? \*\*\*"
)
#: what says nothing of a failure that is not said better elsewhere
_NOISE = ("lacks support for cpu binding", "Job step aborted: Waiting up to")


def said_by_srun(words: str) -> str:
    """What srun said, on one line: without names of programs and what says nothing, ends in plain words."""
    parts = [part.strip() for part in re.split(r"; |\n", words)]
    parts = [part for part in parts if part and not any(noise in part for noise in _NOISE)]
    parts = [re.sub(r"^(srun|slurmstepd(-\S+)?): (error: )?", "", part) for part in parts]
    return "; ".join(dict.fromkeys(_ENDED_BY_SLURM.sub(_in_plain_words, part) for part in parts))


def _in_plain_words(found: re.Match[str]) -> str:
    what = "step" if found["what"] == "STEP" else "job"
    why = f" ({found['why'].lower()})" if found["why"] else ""
    return f"Slurm's {what} {found['id']} on {found['node']} was ended{why}"


def said_by(words: str) -> str:
    """Slurm's own words on one line, without the names of its programs and without warnings.

    Where nobody answered only the last, in which the others, from the depths of its network, come to an end.
    """
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in words.splitlines()]
    found = [line for line in lines if line and not re.match(r"\w+: warning: ", line)]
    return "; ".join(found[-1:] if refusal_of(words) == Refusal.UNREACHABLE else found)


def state_of(word: str) -> JobState:
    """The state that a word stands for, also `CANCELLED by 1000` and `RUNNING+`."""
    first = word.split()[0].rstrip("+").upper() if word.split() else ""
    return _STATES.get(first, JobState.UNKNOWN)


def job_id_of(printed: str) -> str | None:
    """The id that `sbatch --parsable` printed (`15` or `15;cluster`), None if there is none."""
    for line in reversed(printed.split()):
        if found := re.fullmatch(r"([0-9]+)(;\S*)?", line):
            return found[1]
    return None


def jobs_in_squeue(printed: str) -> tuple[JobLine, ...]:
    """The jobs that squeue printed with `SQUEUE_FIELDS`; a line of another form is left out."""
    found = []
    for line in printed.splitlines():
        fields = line.split("|", len(SQUEUE_FIELDS) - 1)
        if len(fields) == len(SQUEUE_FIELDS) and fields[0]:
            job_id, name, word, reason, nodes, started, left, comment = fields
            found.append(
                JobLine(
                    job_id=job_id,
                    name=name,
                    state=state_of(word),
                    said=word,
                    reason="" if reason in ("None", "(null)", "N/A") else reason,
                    nodes=expanded(nodes),
                    started="" if started in ("N/A", "Unknown", "(null)") else started,
                    time_left_s=duration_s(left),
                    comment="" if comment == "(null)" else comment,
                )
            )
    return tuple(found)


def jobs_in_sacct(printed: str) -> tuple[JobLine, ...]:
    """The jobs that `sacct --parsable2` printed with its header, in any columns; a job's last run counts."""
    header, *lines = printed.splitlines() or [""]
    columns = header.split("|")
    if not {"JobID", "State"} <= set(columns):
        return ()
    found: dict[str, JobLine] = {}
    for line in lines:
        row = dict(zip(columns, line.split("|"), strict=False))
        job_id, word = row.get("JobID", ""), row.get("State", "")
        if not word or not re.fullmatch(r"[0-9]+(_[0-9]+)?", job_id):
            continue  # a step, or tasks of an array that have not been looked at one by one
        started = row.get("Start", "")
        found[job_id] = JobLine(
            job_id=job_id,
            name=row.get("JobName", ""),
            state=state_of(word),
            said=word,
            nodes=expanded(row.get("NodeList", "")),
            started="" if started in ("Unknown", "None") else started,
            exit_status=exit_status_of(row.get("ExitCode", "")),
        )
    return tuple(found.values())


def exit_status_of(word: str) -> int | None:
    """The status in `CODE:SIGNAL`, the signal as a negative number; None if it has no such form."""
    found = re.fullmatch(r"([0-9]+):([0-9]+)", word)
    if found is None:
        return None
    return -int(found[2]) if found[2] != "0" else int(found[1])


def duration_s(word: str) -> float | None:
    """Seconds of `[days-[hours:]]minutes:seconds`, as squeue prints times; None: no limit, or not known."""
    found = re.fullmatch(r"(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):([0-9]+)", word)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def expanded(nodes: str) -> tuple[str, ...]:
    """The names in a list of nodes such as `n[1-3,07],gpu5`; numbers keep their zeros."""
    if nodes in ("", "(null)", "N/A", "None", "None assigned"):
        return ()
    return tuple(name for part in _split(nodes) for name in _names(part))


def _split(nodes: str) -> Sequence[str]:
    """The parts between commas that are not inside brackets."""
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes)


def _names(part: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        return [part]
    before, after = part[: found.start()], _names(part[found.end() :])
    names = []
    for piece in found[1].split(","):
        first, _, last = piece.partition("-")
        if first.isdigit() and last.isdigit():
            numbers = [str(k).zfill(len(first)) for k in range(int(first), int(last) + 1)]
        else:
            numbers = [piece]
        names += [f"{before}{number}{end}" for number in numbers for end in after]
    return names


@dataclass(frozen=True, slots=True)
class Site:
    """How a site's Slurm is set up, as far as it matters."""

    version: str
    has_accounting: bool


def site_in_config(printed: str) -> Site:
    """The site in what `scontrol show config` printed; without a line on accounting there is none."""
    found = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", printed, re.MULTILINE))
    kind = found.get("AccountingStorageType", "")
    return Site(
        version=found.get("SLURM_VERSION", "of unknown version"),
        has_accounting=kind not in ("", "(null)", "accounting_storage/none"),
    )
