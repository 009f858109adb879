"""The pattern that names a trial's checkpoint files: what it may be, which paths it means. Touches no file.

A pattern is a path with `{config_id}` or `{config_id_sha256}` in it, with `*` and `?` in one component and
`**` for any number of components. A config id in it stands for itself: what would be a wildcard is none.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from hyperband.errors import UsageError

#: our own folder for what is about to be deleted begins with this, and never matches
ASIDE = ".hyperband-aside-"

_ID = "{config_id}"
_SHA256 = "{config_id_sha256}"
_TOKEN = re.compile(r"\{[^{}]*\}|[*?]|[^*?{}]+|[{}]")
_NOT_A_NAME = ("", ".", "..")


class Deep(Enum):
    """`**`: any number of components, and at the end of a pattern at least one."""

    DEEP = auto()


DEEP = Deep.DEEP
#: one component of a path: a name, names with wildcards, or `**`
Part = str | re.Pattern[str] | Deep


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one trial: the components of their paths below the pattern's static prefix."""

    parts: tuple[Part, ...]
    #: so many of them come before the config id's first
    n_before_id: int

    def match(self, names: Sequence[str]) -> bool:
        """Whether a file of this path is one of them."""
        return _matches(self.parts, names, as_folder=False)

    def may_lie_in(self, names: Sequence[str]) -> bool:
        """Whether one of them may lie somewhere in the folder of this path."""
        return _matches(self.parts, names, as_folder=True)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of checkpoint files. Make it with `parse`."""

    text: str
    #: it begins at the root, and not in the folder in which the jobs run
    is_absolute: bool
    #: the folders that it begins with, up to the first component with a wildcard or a config id
    prefix: tuple[str, ...]
    _rest: tuple[tuple[str, ...], ...]

    @property
    def uses_sha256(self) -> bool:
        """Whether the hash of a config id stands in every path."""
        return any(_SHA256 in component for component in self._rest)

    @property
    def is_anchored(self) -> bool:
        """Whether what stands for the trial (`key`) always begins a component."""
        wanted = _SHA256 if self.uses_sha256 else _ID
        return all(wanted not in component[1:] for component in self._rest)

    def key(self, config_id: str) -> str:
        """Return what of a trial stands in each of its paths, to be looked for in them."""
        return sha256_of(config_id) if self.uses_sha256 else config_id

    def files(self, config_id: str) -> Files | None:
        """Return what a trial's files are; None for an id that could lead elsewhere, such as `../x`."""
        if "\0" in config_id or any(name in _NOT_A_NAME for name in config_id.split("/")):
            return None
        parts: list[Part] = []
        n_before_id: int | None = None
        for component in self._rest:
            if component == ("**",):
                parts.append(DEEP)
                continue
            if n_before_id is None and (_ID in component or _SHA256 in component):
                n_before_id = len(parts)
            parts += _parts(component, config_id)
        assert n_before_id is not None
        if any(part in _NOT_A_NAME for part in parts if isinstance(part, str)):
            return None
        return Files(tuple(parts), n_before_id)


def sha256_of(config_id: str) -> str:
    """Return what `{config_id_sha256}` stands for: the SHA-256 of an id, in hexadecimal digits."""
    return hashlib.sha256(config_id.encode("utf-8", "surrogateescape")).hexdigest()


def parse(text: str) -> Pattern:
    """Return the pattern that a text means.

    Raises:
        UsageError: it is none, or could mean files that are nobody's checkpoints.
    """
    example = "such as 'runs/{config_id}/**' or 'checkpoints/{config_id_sha256}.pt'"
    components: list[tuple[str, ...]] = []
    names = text.removeprefix("/").split("/")
    for name in names[1:] if len(names) > 1 and names[0] == "." else names:
        if name in _NOT_A_NAME or "\0" in name:
            what = "ends with '/'" if text.endswith("/") else f"has {name!r} between its slashes"
            raise UsageError(f"--checkpoints {text!r} {what}; give a pattern of files, {example}")
        tokens = tuple(_TOKEN.findall(name))
        unknown = [token for token in tokens if token[0] in "{}" and token not in (_ID, _SHA256)]
        if unknown:
            raise UsageError(
                f"--checkpoints {text!r} has {unknown[0]}, but only {_ID} and {_SHA256} can stand in "
                f"braces, {example}"
            )
        if "**" in name:
            if name != "**":
                raise UsageError(
                    f"--checkpoints {text!r} has {name!r}, but ** stands for whole components: write it "
                    "between "
                    f"slashes, {example}"
                )
            tokens = ("**",)
        components.append(tokens)
    if not any(token in (_ID, _SHA256) for tokens in components for token in tokens):
        raise UsageError(
            f"--checkpoints {text!r} has no {_ID} (or {_SHA256}), so it cannot tell one trial's files from "
            f"another's; give a pattern {example}"
        )
    n_static = next(n for n, tokens in enumerate(components) if any(token[0] in "{*?" for token in tokens))
    prefix = tuple("".join(tokens) for tokens in components[:n_static])
    return Pattern(text, text.startswith("/"), prefix, tuple(components[n_static:]))


def _parts(component: tuple[str, ...], config_id: str) -> list[Part]:
    """Return the components of a path that one component of a pattern becomes: an id may have slashes."""
    pieces: list[list[str]] = [[]]
    wild = [False]
    for token in component:
        if token in ("*", "?"):
            pieces[-1].append("[^/]*" if token == "*" else "[^/]")
            wild[-1] = True
            continue
        if token in (_ID, _SHA256):
            token = config_id if token == _ID else sha256_of(config_id)
        first, *others = token.split("/")
        pieces[-1].append(re.escape(first))
        pieces += [[re.escape(other)] for other in others]
        wild += [False] * len(others)
    return [
        re.compile("".join(piece), re.DOTALL) if is_wild else _unescaped("".join(piece))
        for piece, is_wild in zip(pieces, wild, strict=True)
    ]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def is_part(part: Part, name: str) -> bool:
    """Whether a name is meant by one component that is not `**`."""
    if name.startswith(ASIDE):
        return False
    if isinstance(part, str):
        return part == name
    return isinstance(part, re.Pattern) and part.fullmatch(name) is not None


def _matches(parts: Sequence[Part], names: Sequence[str], *, as_folder: bool) -> bool:
    if not names:
        return bool(parts) if as_folder else not parts
    if not parts:
        return False
    if parts[0] is DEEP:
        if any(name.startswith(ASIDE) for name in names):
            return False
        if len(parts) == 1 or as_folder:
            return True
        return any(_matches(parts[1:], names[n:], as_folder=False) for n in range(len(names)))
    return is_part(parts[0], names[0]) and _matches(parts[1:], names[1:], as_folder=as_folder)
