"""What a node of a cluster found of what a search takes for granted there: files, interpreters.

Owns the little script that tries it out, and the words for what it says. Knows no engine: how the script gets
to a node, and what it says back, is for those who know one.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hyperband.check.findings import Report, Status
from hyperband.errors import MachineError
from hyperband.machine.claim import read_fresh
from hyperband.settings import Settings

#: patience with a file that was written on a node
_SEEN_S = 10.0
_HERE, _THERE = "from-the-search", "from-the-node"
_MARK = "hyperband-check:"
#: for sh; see `arguments`
PROBE = f"""\
say() {{ printf '{_MARK}%s=%s\\n' "$1" "$2"; }}
version() {{ "$1" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))' 2>&1 | tail -n 1; }}
node=${{SLURMD_NODENAME:-$(hostname)}}
say node "$node"
say word "$(cat "$1/{_HERE}" 2>&1)"
[ -d "$2" ] && say cwd yes
new="$1/new-$node"
printf %s "$3" 2>/dev/null >"$new" && ln "$new" "$1/{_THERE}-$node" && say linked yes
[ -r "$4" ] && say script yes
say python "$(version "$5")"
say own "$(version "$6")"
say visible "${{CUDA_VISIBLE_DEVICES-}}"
names() {{ nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sort | uniq -c; }}
say names "$(names | tr -s ' \\n' ' ')"
"""


@contextlib.contextmanager
def folder_of_check(logs: Path) -> Iterator[Path]:
    """Make a folder among the studies for a check; nothing is left of it, nor of what was made to hold it.

    logs: folder of all studies, which need not be there.

    Raises:
        MachineError: nothing can be written there.
    """
    made = [path for path in (logs, *logs.parents) if not path.exists()]
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=logs, prefix=".hyperband-check-") as folder:
            yield Path(folder)
    except OSError as err:
        raise MachineError(
            f"cannot write into {logs}: {err.strerror or err}; make room, or name another --logs"
        ) from err
    finally:
        with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
            for path in made:
                path.rmdir()


def arguments(settings: Settings, folder: Path, word: str, own: str) -> tuple[str, ...]:
    """Return the arguments of the script; own: hyperband's interpreter. Writes what a node is to read."""
    (folder / _HERE).write_text(word)
    return tuple(map(str, (folder, Path.cwd(), word, settings.script, settings.python, own)))


def said_of(output: str) -> dict[str, str]:
    """Return what the script said."""
    marked = (line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK))
    return {key: value for key, _, value in (line.partition("=") for line in marked)}


def add_files(
    settings: Settings, folder: Path, word: str, said: Sequence[Mapping[str, str]], report: Report
) -> None:
    """Note whether the folder of studies is shared with the nodes that said these."""
    wrong = [words for one in said if (words := _not_shared(folder, word, one))]
    lacking = [one["node"] for one in said if "cwd" not in one]
    if wrong:
        fix = "put the studies where all nodes see them and may write, with hard links: --logs DIR"
        report.add("files", Status.FAILS, f"{settings.logs} is not shared: {'; '.join(wrong)}", fix)
    elif lacking:
        words = (
            f"{settings.logs} is shared, but jobs run in {Path.cwd()}, which is not there on "
            f"{', '.join(lacking)}"
        )
        report.add("files", Status.FAILS, words, "start the search in a folder that the nodes have, too")
    else:
        words = f"{settings.logs}: what is written here is read on {_names(said)}, and the other way round"
        report.add("files", Status.OK, words)


def _not_shared(folder: Path, word: str, said: Mapping[str, str]) -> str:
    node = said["node"]
    if said.get("word") != word:
        return f"a file that was written here is not read on {node}: {said.get('word')}"
    if "linked" not in said:
        return f"{node} cannot write there, or cannot make a hard link"
    if not _is_seen(folder, f"{_THERE}-{node}", word):
        return f"a file that {node} wrote is not seen here within {_SEEN_S:g} s"
    return ""


def _is_seen(folder: Path, name: str, word: str) -> bool:
    ends_s = time.monotonic() + _SEEN_S
    while read_fresh(str(folder), name) != [word.encode()]:
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.2)  # a shared file system tells nobody
    return True


def add_interpreters(settings: Settings, own: str, said: Sequence[Mapping[str, str]], report: Report) -> None:
    """Note whether the script and the interpreters run on the nodes that said these; own: hyperband's."""
    wrong = []
    for one in said:
        for key, path, whose in (("python", settings.python, "the script's"), ("own", own, "hyperband's")):
            if not one.get(key, "")[:1].isdigit():
                words = one.get(key) or "no answer"
                wrong.append(f"{path} ({whose}) does not run on {one['node']}: {words}")
        if "script" not in one:
            wrong.append(f"{settings.script} cannot be read on {one['node']}")
    if wrong:
        fix = (
            "have the interpreters and the script at the same paths on the nodes, and name one with --python"
        )
        report.add("interpreter", Status.FAILS, "\n".join(wrong), fix)
        return
    scripts, owns = (", ".join(sorted({one[key] for one in said})) for key in ("python", "own"))
    words = f"on {_names(said)} the script's is Python {scripts}, and hyperband's is {owns}"
    report.add("interpreter", Status.OK, words)


def n_visible(said: Mapping[str, str]) -> int:
    """How many GPUs the node's environment lists."""
    return len([part for part in said.get("visible", "").split(",") if part])


def names_of_gpus(said: Iterable[Mapping[str, str]]) -> str:
    """`: 2 NVIDIA H200`, as far as nodes said; else empty."""
    names = sorted({name for one in said if (name := one.get("names", "").strip())})
    return f": {', '.join(names)}" if names else ""


def _names(said: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(one["node"] for one in said)
