"""The methods that are compared: where each runs, who drives it, and how far it is followed.

Owns the list. Must not know cells or tables.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from efficiency import environments

#: digest of the code -> the digest before it, and how many of its cells were run again and came out the same
SAME = Path(__file__).with_name("same_decisions.json")
_PACKAGE = Path(__file__).resolve().parents[2] / "hyperband"


@dataclass(frozen=True, slots=True)
class MethodKind:
    """One method of the comparison."""

    name: str
    #: a key of `environments.PINS`; None: ours, under the interpreter of the benchmark
    environment: str | None
    #: module of this package
    driver: str
    #: what the driver calls it
    argument: str
    #: workers -> full trainings per worker that it is followed for; fewer for those that take long to decide
    horizons: Mapping[int, float]
    #: run only when named: another variant of a method, or of a peer that does better otherwise
    is_extra: bool = False
    #: raised by hand when the driver changes what a cell holds
    revision: int = 1

    def horizon(self, workers: int) -> float:
        """How far it is followed with so many workers: as with the next larger number that is listed."""
        listed = [n for n in sorted(self.horizons) if n >= workers]
        return self.horizons[listed[0] if listed else max(self.horizons)]

    @property
    def version(self) -> str:
        """What its cells say they were made by."""
        if self.environment is None:
            return f"hyperband {code_sha256()} r{self.revision}"
        return f"{environments.version(self.environment)} r{self.revision}"

    @property
    def versions(self) -> frozenset[str]:
        """This version, and those that were seen to decide the same (`--verify`)."""
        if self.environment is not None:
            return frozenset([self.version])
        return frozenset(f"hyperband {digest} r{self.revision}" for digest in same_digests())


def code_sha256() -> str:
    """A digest of the code that decides: hyperband/search and hyperband/guide."""
    digest = hashlib.sha256()
    for room in ("search", "guide"):
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def same_digests() -> list[str]:
    """The digest of the code, and of the code before it of which cells came out the same, and so on."""
    found = [code_sha256()]
    same = json.loads(SAME.read_text()) if SAME.exists() else {}
    while (before := same.get(found[-1])) is not None and before["same_as"] not in found:
        found.append(before["same_as"])
    return found


_FAR = {1: 20.0, 8: 20.0, 32: 20.0}
#: a Gaussian process that is fitted anew for each proposal takes minutes a cell
_SLOW = {1: 10.0, 8: 2.0, 32: 0.5}
#: a conformal model of boosted trees takes seconds for each
_SLOWEST = {1: 2.0, 8: 0.5, 32: 0.5}
_MEDIUM = {1: 20.0, 8: 5.0, 32: 2.0}


def _peer(
    name: str,
    environment: str,
    driver: str,
    argument: str,
    horizons: Mapping[int, float] = _FAR,
    *,
    is_extra: bool = False,
) -> MethodKind:
    return MethodKind(name, environment, f"peers.{driver}", argument, horizons, is_extra)


def _ours(algorithm: str) -> tuple[MethodKind, ...]:
    names = (algorithm, f"{algorithm}+model", f"{algorithm}+model+fresh")
    return tuple(MethodKind(name, None, "ours", name, _FAR, name.endswith("+fresh")) for name in names)


_013 = ("syne-tune-0.13", "syne_tune_013")
_016 = ("syne-tune-0.16", "syne_tune_016")

#: of the two types of ASHA in Syne Tune 0.13, promotion does better here for all three
METHODS: tuple[MethodKind, ...] = (
    *_ours("asha"),
    *_ours("asha-r2"),
    *_ours("asha-r3"),
    *_ours("asha-r2-eta2"),
    *_ours("asha-r3-eta2"),
    *_ours("hyperband"),
    *_ours("hyperband-async"),
    *_ours("pasha"),
    _peer("syne-0.13-asha", *_013, "asha-promotion"),
    _peer("syne-0.13-asha-stopping", *_013, "asha-stopping", is_extra=True),
    _peer("syne-0.13-mobster", *_013, "mobster-promotion", _SLOW),
    _peer("syne-0.13-mobster-stopping", *_013, "mobster-stopping", _SLOW, is_extra=True),
    # one bracket, as it comes; the four of its paper do worse here
    _peer("syne-0.13-hypertune", *_013, "hypertune1-promotion", _SLOW),
    _peer("syne-0.13-hypertune-4", *_013, "hypertune-promotion", _SLOW, is_extra=True),
    _peer("syne-0.13-hypertune-4-stopping", *_013, "hypertune-stopping", _SLOW, is_extra=True),
    _peer("syne-0.16-asha", *_016, "asha"),
    _peer("syne-0.16-ashabore", *_016, "ashabore", _SLOW),
    _peer("syne-0.16-ashacqr", *_016, "ashacqr", _SLOWEST),
    _peer("syne-0.16-bohb", *_016, "bohb", _MEDIUM),
    _peer("optuna-tpe", "optuna", "optuna_tpe", "tpe", _MEDIUM),
    _peer("hpbandster-bohb", "hpbandster", "hpbandster_bohb", "bohb", _MEDIUM),
    _peer("dehb", "dehb", "dehb_de", "dehb"),
    _peer("smac", "smac", "smac3", "smac", _SLOW),
)
NAMED = {method.name: method for method in METHODS}
#: plain ASHA, which the paired comparison is with
BASELINES = ("asha", "syne-0.13-asha")
