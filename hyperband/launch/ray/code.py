"""What of a user's folder travels to nodes that share no files with us: an archive, without what is ignored.

Owns what is left out, how much may travel, and the archive, which is the same for the same files. Must not
know Ray, nor what is run there.
"""

import ntpath
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import MachineError, UsageError
from hyperband.folder import has_study
from hyperband.machine.checkpoint_pattern import ASIDE
from hyperband.report.text import counted, size

#: files that say what does not travel; the first one that is there counts, at the top of the folder only
IGNORE_FILES = (".hyperbandignore", ".gitignore")
#: never of use on a node
_ALWAYS = (".git/", "__pycache__/", ".ruff_cache/", ".mypy_cache/", ".pytest_cache/", f"{ASIDE}*/")
#: so much travels at most, before it is packed
MOST_BYTES = 100 << 20
#: the largest that are named when it is too much
_N_NAMED = 3
_TOKEN = re.compile(r"(\*+|\?)|\[([!^]?\]?[^\]]*)\]|\\(.)|(.)", re.DOTALL)
#: of files in an archive that must not differ by when they were written
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of an ignore file."""

    pattern: re.Pattern[str]
    is_negated: bool
    is_for_folders: bool


class Ignored:
    """What the lines of an ignore file mean, as `.gitignore` has it; later lines overrule earlier ones."""

    def __init__(self, lines: Sequence[str]) -> None:
        """Read the lines."""
        self._rules = [rule for line in lines if (rule := _rule_of(line)) is not None]

    def has(self, path: str, *, is_folder: bool) -> bool:
        """Whether a path below the folder is left out; what is below an ignored folder need not be asked."""
        found = False
        for rule in self._rules:
            if (is_folder or not rule.is_for_folders) and rule.pattern.fullmatch(path):
                found = not rule.is_negated
        return found


def _rule_of(line: str) -> _Rule | None:
    line = line.rstrip("\r\n")
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    is_negated = line.startswith("!")
    line = line.removeprefix("!").removeprefix("\\")
    is_for_folders = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    is_anchored = "/" in line
    pieces = line.removeprefix("/").split("/")
    words = "" if is_anchored else "(?:.*/)?"
    for n_before, piece in enumerate(pieces):
        is_last = n_before == len(pieces) - 1
        if piece == "**":
            words += ".*" if is_last else "(?:.*/)?"
        else:
            words += _of_name(piece) + ("" if is_last else "/")
    try:
        return _Rule(re.compile(words, re.DOTALL), is_negated, is_for_folders)
    except re.error:
        return None  # such as [z-a]: for git, too, it means no file


def _of_name(piece: str) -> str:
    """Return the regular expression of one component; no wildcard means a slash."""
    words = ""
    for one, inner, escaped, plain in _TOKEN.findall(piece):
        if one:
            words += "[^/]*" if one.startswith("*") else "[^/]"
        elif inner:
            begin = "[^" if inner[0] in "!^" else "["
            words += begin + inner.lstrip("!^").replace("\\", "\\\\").replace("[", "\\[") + "]"
        else:
            words += re.escape(escaped or plain)
    return words


def code_folder(script: Path, given: Path | None) -> Path:
    """Return the folder that travels: the script's own, unless another one was given.

    Raises:
        UsageError: the script does not lie in it.
    """
    folder = script.parent if given is None else given
    if not script.is_relative_to(folder):
        raise UsageError(
            f"--ray-working-dir is {folder}, and the script {script} does not lie in it; give a folder above "
            f"the script, such as {script.parent}"
        )
    if not folder.is_dir():
        raise UsageError(f"--ray-working-dir {folder} is no folder; give one that has the script in it")
    return folder


@dataclass(frozen=True, slots=True)
class Travelling:
    """What of a folder travels, and what does not."""

    folder: Path
    #: by their paths in the folder
    files: tuple[str, ...]
    n_bytes: int
    #: what stays here, likewise; folders end with a slash, and what never travels is not named
    stays: tuple[str, ...]
    #: files that stay since they are checkpoints
    n_checkpoints: int

    def words(self, n_most: int) -> str:
        """Return it in words, with so many of what stays at most."""
        stays = list(self.stays[:n_most])
        if len(self.stays) > n_most:
            stays.append(f"{len(self.stays) - n_most} more")
        if self.n_checkpoints:
            stays.append(f"{counted(self.n_checkpoints, 'checkpoint')} by --checkpoints")
        verb = "travels" if len(self.files) == 1 else "travel"
        told = (
            f"{counted(len(self.files), 'file')}, {size(self.n_bytes)}, of {self.folder} {verb} to the nodes"
        )
        return f"{told}; {', '.join(stays)} stay here" if stays else told


def travelling(folder: Path, *, but: Sequence[Path], checkpoints: str | None) -> Travelling:
    """Return which files of a folder travel.

    Args:
        folder: whose content it is.
        but: folders and files that stay here, wherever they are; so does each folder that holds a study.
        checkpoints: regular expression of paths that are checkpoints.

    Raises:
        MachineError: something cannot be read.
        UsageError: it is too much, or a file has a name that cannot travel.
    """
    lines = list(_ALWAYS)
    try:
        for name in IGNORE_FILES:
            if (folder / name).is_file():
                lines += (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                break
        stays: list[str] = []
        found = sorted(_files(folder, Ignored(lines), {os.path.realpath(one) for one in but}, stays))
        files = [name for name in found if checkpoints is None or not re.fullmatch(checkpoints, name)]
        sizes = {name: (folder / name).stat().st_size for name in files}
    except OSError as err:
        raise _unpacked(folder, err) from err
    _refuse_names(folder, files)
    _refuse_much(folder, sizes)
    always = Ignored(_ALWAYS)
    named = sorted(one for one in stays if not always.has(one.rstrip("/"), is_folder=one.endswith("/")))
    return Travelling(folder, tuple(files), sum(sizes.values()), tuple(named), len(found) - len(files))


def pack(folder: Path, files: Sequence[str], target: Path) -> None:
    """Pack what travels; files: by their paths in the folder; target: the archive, made anew.

    Raises:
        MachineError: a file cannot be read, or the archive not be written.
    """
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in files:
                about = zipfile.ZipInfo(name, _DATE)
                about.compress_type = zipfile.ZIP_DEFLATED
                about.external_attr = (stat.S_IFREG | stat.S_IMODE((folder / name).stat().st_mode)) << 16
                archive.writestr(about, (folder / name).read_bytes())
    except OSError as err:
        raise _unpacked(folder, err) from err


def _unpacked(folder: Path, err: OSError) -> MachineError:
    return MachineError(
        f"cannot pack {folder} for the nodes: {err.filename}: {err.strerror or err}; make it readable, or "
        f"leave it out by a line in {folder / IGNORE_FILES[0]}"
    )


def _files(folder: Path, ignored: Ignored, but: set[str], stays: list[str]) -> Iterator[str]:
    """Yield what travels, by its path below the folder; links to folders are not followed.

    stays: gets what does not.
    """
    for here, folders, names in os.walk(folder):
        at = os.path.relpath(here, folder)
        below = "" if at == "." else f"{at}/"
        goes = {
            name: not ignored.has(below + name, is_folder=True)
            and os.path.realpath(Path(here, name)) not in but
            and not Path(here, name).is_symlink()
            # of another search, wherever its --logs is: it is no code, and grows meanwhile
            and not has_study(Path(here, name))
            for name in folders
        }
        stays += [f"{below}{name}/" for name in folders if not goes[name]]
        folders[:] = [name for name in folders if goes[name]]
        for name in names:
            path = Path(here, name)
            # a link to a file travels as what it leads to; one that leads nowhere stays
            is_out = ignored.has(below + name, is_folder=False) or not path.is_file()
            if not is_out and os.path.realpath(path) not in but:
                yield below + name
            else:
                stays.append(below + name)


def _refuse_names(folder: Path, files: Sequence[str]) -> None:
    """Refuse names that an archive cannot have, or that Ray leaves out without a word."""
    for name in files:
        try:
            name.encode()
        except UnicodeEncodeError:
            pass
        else:
            if "\\" not in name and not ntpath.splitdrive(name)[0]:
                continue
        raise UsageError(
            f"the name {name!a} in {folder} cannot travel to the nodes: it is no UTF-8, has a "
            "backslash, or begins like a drive (`c:`). Rename the file, or leave it out by a line in "
            f"{folder / IGNORE_FILES[0]} (as in .gitignore; ? stands for any one character)"
        )


def _refuse_much(folder: Path, sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if total <= MOST_BYTES:
        return
    tops: dict[str, int] = {}
    for name, n_bytes in sizes.items():
        top = name.partition("/")[0] + ("/" if "/" in name else "")
        tops[top] = tops.get(top, 0) + n_bytes
    largest = sorted(tops.items(), key=lambda item: -item[1])[:_N_NAMED]
    named = ", ".join(f"{name} {n_bytes / (1 << 20):.0f} MiB" for name, n_bytes in largest)
    raise UsageError(
        f"{total / (1 << 20):.0f} MiB of {folder} would travel to every node ({named}), and at most "
        f"{MOST_BYTES >> 20} MiB may; leave out what no job needs by lines in {folder / IGNORE_FILES[0]} "
        "(as in .gitignore), or name a smaller folder with --ray-working-dir. Data belongs where the nodes "
        "find it themselves"
    )
