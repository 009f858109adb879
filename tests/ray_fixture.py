"""A real Ray of up to three machines on this one, for tests: each has a network, a host name and a /dev/shm.

Every machine is a set of namespaces that a process of ours keeps open, joined by a bridge in one more. A
process beside them waits for the end of a pipe and then kills what carries the cluster's mark in its
environment: so nothing is left, however the test process ends.
"""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_fixture import cmdline, in_own_folder, signal_all, wait_for
from undertaker import marked, start_undertaker

MACHINES = ("m1", "m2", "m3")
#: what the nodes of a cluster with such GPUs declare; here m2 alone does
ACCELERATOR = "accelerator_type:A100"
N_GPUS = 2
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_NEEDED = ("ip", "unshare", "nsenter", "mount")
#: in the environment of all that runs on a machine; begins so that jobs there have it
_MACHINE_VARIABLE = "RAY_TEST_MACHINE"
_CLUSTER_VARIABLE = "RAY_TEST_CLUSTER"


def why_no_ray() -> str | None:
    """The reason to skip a test that needs a Ray of several machines; None: it can be had."""
    if importlib.util.find_spec("ray") is None:
        return "no Ray in this environment: pip install '.[ray]'"
    absent = [name for name in _NEEDED if shutil.which(name, path=_SYSTEM_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not found (Debian: apt install iproute2 util-linux)"
    if os.geteuid() != 0:
        return "only root may make machines of namespaces"
    return None


class RayCluster:
    """Machines, and Ray on them: m1 is the head. Searches run on m1, by `on_head`."""

    def __init__(self, folder: Path) -> None:
        """Take a folder (its path must be short: sockets lie in it); start nothing."""
        self.folder = folder
        self.token = folder / "token"
        # its own: Ray takes another machine's head for one of this machine if it listens to the same port
        self._port = random.randrange(20_000, 30_000)
        self.address = f"10.77.9.11:{self._port}"
        #: searches see it, and Ray's nodes find nothing there
        self.unshared = folder / "unshared"
        self._mark = str(uuid.uuid4())
        #: of processes that keep namespaces open
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._undertaker: subprocess.Popen[bytes] | None = None
        #: the head takes them for dead, whatever runs there still
        self._were_cut: set[str] = set()

    # the whole of it

    def start(self, *machines: str) -> None:
        """Make the machines and start Ray on them."""
        self.token.write_text("0123456789abcdef" * 4)
        self.token.chmod(0o600)
        self._undertaker = start_undertaker(f"{_CLUSTER_VARIABLE}={self._mark}", self.folder)
        self._hold("hub")
        self._in("hub", "ip", "link", "set", "lo", "up")
        self._in("hub", "ip", "link", "add", "br0", "type", "bridge")
        self._in("hub", "ip", "link", "set", "br0", "up")
        for machine in MACHINES:
            self._make(machine)
        self._start_rays(machines or MACHINES)

    def end(self) -> None:
        """End everything, and see that nothing is left."""
        for machine in MACHINES:
            self.kill_machine(machine)
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        self._holders.clear()
        if self._undertaker is not None:
            self._undertaker.communicate(timeout=60)

    def mend(self) -> None:
        """Whole again, for the next test: every link up, and Ray anew where it is not, or was cut off."""
        for machine in MACHINES:
            self.heal(machine)
        broken = {machine for machine in MACHINES if not self.runs_ray(machine)} | self._were_cut
        self._were_cut.clear()
        # without its head no other can go on
        machines = MACHINES if "m1" in broken else tuple(sorted(broken))
        for machine in machines:
            self.kill_machine(machine)
        if machines:
            self._start_rays(machines)
            wait_for(lambda: self.n_alive() == len(MACHINES), words="a head that knows all machines")

    def _start_rays(self, machines: Sequence[str]) -> None:
        """Start Ray on machines, the head first and then all at once."""
        if "m1" in machines:
            self.start_ray("m1")
        with ThreadPoolExecutor(len(MACHINES)) as pool:
            for done in [pool.submit(self.start_ray, machine) for machine in machines if machine != "m1"]:
                done.result()

    # one machine

    def start_ray(self, machine: str) -> None:
        """Start Ray on a machine; return when it is up."""
        head = ["--head", f"--port={self._port}", "--include-dashboard=false"]
        done = self._in(
            machine,
            *("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.unshared)),
            str(Path(sys.executable).parent / "ray"),
            "start",
            *(head if machine == "m1" else [f"--address={self.address}"]),
            f"--node-ip-address={_address(machine)}",
            f"--temp-dir={self.folder}/tmp",
            f"--num-gpus={N_GPUS}",
            *(["--resources", json.dumps({ACCELERATOR: 1})] if machine == "m2" else []),
            "--num-cpus=4",
            "--object-store-memory=80000000",
            "--disable-usage-stats",
            # the nodes of a cluster have disks of their own
            environment={**self.ray_environment, **self._marks(machine), "TMPDIR": f"{self.folder}/tmp"},
        )
        assert self.runs_ray(machine), done

    def runs_ray(self, machine: str) -> bool:
        """Whether Ray's daemon is there."""
        return any(b"raylet/raylet" in cmdline(pid) for pid in self.pids(machine))

    def raylet(self, machine: str) -> int:
        """Ray's daemon."""
        return next(pid for pid in self.pids(machine) if b"raylet/raylet" in cmdline(pid))

    def kill_ray(self, machine: str) -> None:
        """Kill all that is of Ray's own on a machine; keepers and jobs must end by themselves."""
        of_ray = [pid for pid in self.pids(machine) if _is_of_ray(cmdline(pid))]
        signal_all(of_ray, signal.SIGKILL)

    def kill_machine(self, machine: str) -> None:
        """Cut a machine's power: everything on it is gone at once."""
        while pids := self.pids(machine):
            signal_all(pids, signal.SIGSTOP)
            signal_all(pids, signal.SIGKILL)
            time.sleep(0.02)

    def cut(self, machine: str) -> None:
        """Pull its cable: nothing comes or goes, and nobody is told."""
        self._were_cut.add(machine)
        self._in("hub", "ip", "link", "set", f"h-{machine}", "down")

    def heal(self, machine: str) -> None:
        """Put its cable back."""
        self._in("hub", "ip", "link", "set", f"h-{machine}", "up")

    # for tests

    @property
    def ray_environment(self) -> dict[str, str]:
        """Ray's settings, for daemons and searches alike."""
        return {
            "RAY_grpc_client_keepalive_time_ms": "2000",
            "RAY_grpc_client_keepalive_timeout_ms": "2000",
            # after so long without a head everybody ends; the default is 60
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
        }

    def on_head(self, argv: Sequence[str], cwd: Path) -> list[str]:
        """Return the words that run a command on m1, in a folder that all machines share."""
        target = f"--target={self._holders['m1'].pid}"
        # who enters a mount namespace is at its root
        return ["nsenter", target, "--net", "--mount", "--uts", f"--wdns={cwd}", "--", *argv]

    def pids(self, machine: str) -> list[int]:
        """All that runs on a machine but for searches, which are tests'."""
        return marked(*(f"{name}={value}" for name, value in self._marks(machine).items()))

    def n_alive(self) -> int:
        """How many machines the head takes for alive."""
        asked = (
            f"import ray; ray.init({self.address!r}, log_to_driver=False, logging_level='ERROR'); "
            "print('alive', sum(node['Alive'] for node in ray.nodes()), 'of all')"
        )
        said = self._in("m1", sys.executable, "-c", asked, environment=self.ray_environment)
        return int(said.partition("alive ")[2].split()[0])

    def keepers(self) -> list[int]:
        """What runs of ours on any machine: keepers that wait, those with a job, and jobs."""
        pids = [pid for machine in MACHINES for pid in self.pids(machine)]
        return [pid for pid in pids if b"node/" in cmdline(pid)]

    def tasks(self) -> list[int]:
        """Workers of Ray's that run a task, or were kept for one, of searches' drivers or others."""
        pids = [pid for machine in MACHINES for pid in self.pids(machine)]
        named = (b"ray::look", b"ray::<lambda>")
        return [pid for pid in pids if cmdline(pid).startswith(named)]

    @contextlib.contextmanager
    def hidden(self, machine: str, folder: Path) -> Iterator[None]:
        """Within, what Ray runs on a machine finds nothing in a folder."""
        there = ["nsenter", f"--target={self.raylet(machine)}", "--mount", "--"]
        subprocess.run([*there, "mount", "-t", "tmpfs", "none", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run([*there, "umount", str(folder)], check=True)

    def actors(self) -> list[int]:
        """Workers of Ray's that hold a slot."""
        pids = [pid for machine in MACHINES for pid in self.pids(machine)]
        return [pid for pid in pids if cmdline(pid).startswith((b"ray::SlotActor", b"ray::SentSlotActor"))]

    # inside

    def _marks(self, machine: str) -> dict[str, str]:
        return {_CLUSTER_VARIABLE: self._mark, _MACHINE_VARIABLE: machine}

    def _make(self, machine: str) -> None:
        self._hold(machine)
        self._in(machine, "mount", "--make-rprivate", "/")
        for name in ("tmp", "unshared"):
            (self.folder / name).mkdir(exist_ok=True)
        for private in ("/dev/shm", f"{self.folder}/tmp"):
            self._in(machine, "mount", "-t", "tmpfs", "-o", "mode=1777", "none", private)
        self._in(machine, "hostname", machine)
        holder = str(self._holders[machine].pid)
        link = ("ip", "link", "add", f"h-{machine}", "type", "veth", "peer", "name", "eth0", "netns", holder)
        self._in("hub", *link)
        self._in("hub", "ip", "link", "set", f"h-{machine}", "master", "br0", "up")
        self._in(machine, "ip", "link", "set", "lo", "up")
        self._in(machine, "ip", "addr", "add", f"{_address(machine)}/24", "dev", "eth0")
        self._in(machine, "ip", "link", "set", "eth0", "up")

    def _hold(self, name: str) -> None:
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", "echo; exec sleep 100000"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={"PATH": _SYSTEM_PATH, _CLUSTER_VARIABLE: self._mark},
            start_new_session=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.read(1) == b"\n"
        holder.stdout.close()
        self._holders[name] = holder

    def _in(self, name: str, *argv: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command on a machine; return what it printed."""
        target = f"--target={self._holders[name].pid}"
        # what it starts lives on, and keeps what it prints to: a file, not a pipe
        with tempfile.TemporaryFile() as out:
            done = subprocess.run(
                ["nsenter", target, "--net", "--mount", "--uts", "--", *argv],
                cwd=self.folder,
                env={"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=180,
                check=False,
            )
            out.seek(0)
            said = out.read().decode(errors="replace")
        assert done.returncode == 0, f"{argv}: {done.returncode} {said}"
        return said


def _address(machine: str) -> str:
    return f"10.77.9.{10 + int(machine[1:])}"


def _is_of_ray(cmdline: bytes) -> bool:
    return cmdline.startswith(b"ray::") or b"/site-packages/ray/" in cmdline


@contextlib.contextmanager
def running_cluster(*machines: str) -> Iterator[RayCluster]:
    """A cluster in a folder of its own, ended with everything on it; machines: those with Ray, at first."""
    with in_own_folder(RayCluster, lambda cluster: cluster.start(*machines), prefix="hb-ray-") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RayCluster]:
    """The one cluster of a test process."""
    reason = why_no_ray()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def ray_cluster(ray_session: RayCluster) -> Iterator[RayCluster]:
    """The cluster, whole before the test."""
    ray_session.mend()
    yield ray_session
    try:
        wait_for(lambda: not ray_session.keepers(), words="no keeper left behind")
    finally:
        if ray_session.keepers():  # of a test that failed: the next one begins on a new cluster
            ray_session.kill_machine("m1")
