"""What a check found, line by line: for people as it becomes known, for programs as one document."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import hyperband
from hyperband.check.outcomes import Failure
from hyperband.report.text import counted
from hyperband.settings import Settings
from hyperband.verdicts import Resuming


class Status(StrEnum):
    """What became of one line."""

    OK = "ok"
    FAILS = "FAILS"
    #: it could not be found out
    UNKNOWN = "unknown"
    #: it does not apply here
    NONE = "-"


#: every line in order: its name for programs, and for people
TITLES = {
    "import": "import",
    "functions": "functions",
    "sampler": "sampler",
    "decoding": "config ids",
    "options": "options",
    "one_epoch": "one epoch",
    "gpu_memory": "GPU memory",
    "again": "same again",
    "beyond": "beyond N",
    "resuming": "resuming",
    "together": "two at once",
    "warm": "warm start",
    "configurations": "configs",
    # instead of all that trains, with --on slurm or ray
    "slurm": "Slurm",
    "ray": "Ray",
    "ray_settings": "settings",
    "node": "a node",
    "files": "files",
    "interpreter": "interpreter",
    "node_gpus": "its GPUs",
}
_WIDTH = max(map(len, TITLES.values()))


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what came out, and what to do about it."""

    #: a key of TITLES
    check: str
    status: Status
    words: str
    #: what the script's author can do; empty when nothing needs to be done
    fix: str = ""

    def text(self) -> str:
        """Lines for people."""
        indent = "\n" + " " * 9
        words = self.words.replace("\n", indent)
        fix = f"{indent}fix: {self.fix.replace(chr(10), indent)}" if self.fix else ""
        return f"{self.status:<8} {TITLES[self.check]:<{_WIDTH}}  {words}{fix}"


@dataclass(slots=True)
class Report:
    """All that a check found so far. `add` also says it."""

    settings: Settings
    #: told each line as soon as it is known
    say: Callable[[str], None]
    #: what run_identity answered; None: it did not
    identity: str | None = None
    #: the hyperparameters' names; empty when config ids say nothing that could be read
    names: tuple[str, ...] = ()
    resuming: Resuming = Resuming.UNKNOWN
    findings: list[Finding] = field(default_factory=list)
    #: config ids that were trained, and how far
    trained: dict[str, int] = field(default_factory=dict)
    #: config ids of which a job gave no loss
    failed: Mapping[str, Failure] = field(default_factory=dict)

    def add(self, check: str, status: Status, words: str, fix: str = "") -> None:
        """Note one line."""
        finding = Finding(check, status, words, fix)
        self.findings.append(finding)
        self.say(finding.text())

    def add_rest(self, checks: Sequence[str], why: str) -> None:
        """Note lines that cannot be found out."""
        for check in checks:
            self.add(check, Status.UNKNOWN, why)

    @property
    def holds(self) -> bool:
        """True when nothing was found that does not hold."""
        return all(finding.status is not Status.FAILS for finding in self.findings)

    def summary(self) -> str:
        """The last lines for people."""
        lines = []
        if self.trained:
            lines.append("trained by this check; what the script keeps of them stays with its own:")
            lines += [f"  {config_id} ({epochs} ep.)" for config_id, epochs in self.trained.items()]
        if self.failed:
            lines.append("failed:")
            lines += [
                f"  {name} ({failure.epochs} ep.): {failure.outcome}, {failure.fingerprint}"
                for name, failure in self.failed.items()
            ]
        fails = [TITLES[f.check] for f in self.findings if f.status is Status.FAILS]
        unknown = [TITLES[f.check] for f in self.findings if f.status is Status.UNKNOWN]
        told = [f"does not hold: {', '.join(fails)}"] if fails else []
        told += [f"not known: {', '.join(unknown)}"] if unknown else []
        told = told or ["everything holds"]
        if self.failed:
            n = len(self.failed.keys() | self.trained.keys())
            told.append(f"{len(self.failed)} of {counted(n, 'configuration')} failed")
        return "\n".join([*lines, "; ".join(told)])

    def document(self) -> dict[str, object]:
        """Everything, for programs."""
        return {
            "hyperband": hyperband.__version__,
            "script": str(self.settings.script),
            "script_args": list(self.settings.script_args),
            "python": str(self.settings.python),
            "identity": self.identity,
            "holds": self.holds,
            "resuming": str(self.resuming),
            "hyperparameters": list(self.names),
            "findings": [
                {"check": f.check, "status": str(f.status), "words": f.words, "fix": f.fix}
                for f in self.findings
            ],
            "trained": [{"config_id": name, "epochs": epochs} for name, epochs in self.trained.items()],
            "failed": [
                {
                    "config_id": name,
                    "epochs": failure.epochs,
                    "outcome": str(failure.outcome),
                    "fingerprint": failure.fingerprint,
                }
                for name, failure in self.failed.items()
            ],
        }
