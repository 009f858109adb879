"""The folder `ray/` of a study: which slots of which cluster are its, and the environment of its jobs.

Owns these names and what is written there. Must not know: what is asked of Ray, or jobs.
"""

import contextlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperband.errors import MachineError
from hyperband.folder import RAY_FOLDER
from hyperband.launch.remote.shipping import ship
from hyperband.machine.claim import parse, write_whole

_CLUSTER_FILE = "cluster.json"
_ENVIRONMENT_FILE = "environment.json"
_LOG_FILE = "bridge.log"
_CODE_FILE = "code.zip"
_NAME_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which slots of which cluster are a study's."""

    #: what their names begin with
    name: str
    #: as it was given
    address: str
    #: file with the token, if there is one
    token: str | None
    #: how files get to the nodes: "shared" or "sent"
    files: str = "shared"
    #: where the study's folder was when they began to be held; empty: it was not written down
    study: str = ""

    @classmethod
    def read(cls, study: Path) -> "Cluster | None":
        """Return what an earlier search held; None: nothing is held."""
        try:
            found = parse((study / RAY_FOLDER / _CLUSTER_FILE).read_bytes())
        except FileNotFoundError:
            return None
        return (
            None
            if found is None
            else cls(
                found["name"],
                found["address"],
                found["token"],
                found.get("files", "shared"),
                found.get("study", ""),
            )
        )


def log_of(study: Path) -> Path:
    """Return the file to which Ray's side of a search appends what it says."""
    return study / RAY_FOLDER / _LOG_FILE


def forget(study: Path) -> None:
    """Note that nothing is held, and remove what may hold secrets."""
    for name in (_CLUSTER_FILE, _ENVIRONMENT_FILE):
        with contextlib.suppress(FileNotFoundError):
            (study / RAY_FOLDER / name).unlink()


class RayFiles:
    """One study's folder for what Ray needs."""

    def __init__(
        self,
        study: Path,
        *,
        address: str,
        token: Path | None,
        environ: Mapping[str, str],
        files: str = "shared",
    ) -> None:
        """Make it, or find it.

        Args:
            study: its folder, shared with the nodes.
            address: of the cluster, as it was given.
            token: file with the cluster's token.
            environ: what jobs begin with.
            files: how files get to the nodes.

        Raises:
            MachineError: it cannot be written to, or an earlier search holds slots of another cluster, or of
                nodes that look for the study where it is no more.
        """
        self.study = study
        folder = study / RAY_FOLDER
        self.environment = folder / _ENVIRONMENT_FILE
        self.log = log_of(study)
        before = Cluster.read(study)
        if before is not None:
            _refuse_other(before, study, address, files)
        #: the code that travels to nodes that share no files
        self.code = folder / _CODE_FILE
        #: nothing was held before
        self.is_new = before is None
        if before is None:
            words = re.sub(r"[^A-Za-z0-9_.-]+", "-", study.name)[:_NAME_LENGTH]
            before = Cluster(f"{words}-{uuid.uuid4().hex[:8]}", address, None, files)
        self.name = before.name
        about = {"name": self.name, "address": address, "token": None if token is None else str(token)}
        about |= {"files": files, "study": str(study)}
        # what is Ray's is of our side alone, a token among it
        kept = {name: value for name, value in environ.items() if not name.startswith("RAY_")}
        environment = {"environment": kept}
        try:
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
            write_whole(str(folder), _CLUSTER_FILE, json.dumps(about).encode())
            write_whole(str(folder), _ENVIRONMENT_FILE, json.dumps(environment).encode(), mode=0o600)
        except OSError as err:
            raise MachineError(
                f"cannot write what Ray's nodes need into {folder}: {err.strerror or err}; make room, or "
                "make the study's folder writable, and start the same command again"
            ) from err
        self.script = ship(study)

    def clear(self) -> None:
        """Note that all slots are given back."""
        forget(self.study)


def _refuse_other(before: Cluster, study: Path, address: str, files: str) -> None:
    """Refuse to go on where what is held may be elsewhere, or of another kind."""
    if before.address != address:
        raise MachineError(
            f"an earlier start of this study may hold slots of the Ray cluster {before.address}, and "
            f"this one names {address}; give --ray-address {before.address}, or end what is held with "
            f"`hyperband stop` first (where that cluster is gone for good: hyperband stop --give-up {study})"
        )
    if before.files != files:
        raise MachineError(
            f"an earlier start of this study may hold slots with --ray-files {before.files}, and this "
            f"one has --ray-files {files}; give the earlier one, or end what is held with `hyperband "
            "stop` first"
        )
    if files == "shared" and before.study and not _is_same(Path(before.study), study):
        raise MachineError(
            f"the study's folder was {before.study} when it was started before, where Ray's nodes look for "
            f"it still if that start left slots, and now it is {study}; move it back, or end what is held "
            f"with `hyperband stop {study}` (jobs that ran are tried again), and start the same command again"
        )


def _is_same(one: Path, other: Path) -> bool:
    # it may have several names
    return one == other or (one.exists() and one.samefile(other))
