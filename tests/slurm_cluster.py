"""A real Slurm of three nodes with two GPUs each on this machine, for tests and benchmarks: no systemd, no
GPU, and cgroups only where a test wants jobs to be ended for their memory by them.

Every daemon is a child of the process that starts it. A process beside them waits for the end of a pipe and
then kills what has the SLURM_CONF of the cluster in its environment: so nothing is left, however it ends.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster_fixture import in_own_folder, signal_all, wait_for
from undertaker import marked, start_undertaker

NODES = ("n1", "n2", "n3")
N_GPUS = 2
#: SLURM_CONF of the daemons and of everything that runs under them
_CONF_VARIABLE = "SLURM_CONF"
_NODE_VARIABLE = "HYPERBAND_TEST_NODE"
_PORTS_EACH = 20
_FIRST_PORT = 21000
_N_BLOCKS = 400
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
_NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")


_CONF = """\
ClusterName=hyperband
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a job that was requeued may start again cred_expire + 1 s later; less than 5 is taken for 120
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
{memory}
MpiDefault=none
PlugStackConfig=/dev/null
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
# the nodes may say that they have more than this machine
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=1
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout_s}
MessageTimeout=3
TCPTimeout=1
KillWait=2
InactiveLimit=0
WaitTime=0
MinJobAge={min_job_age_s}
UnkillableStepTimeout=20
PropagateResourceLimits=NONE
{accounting}
NodeName=DEFAULT CPUs=8 RealMemory=16000 Gres=gpu:{n_gpus} State=UNKNOWN
{nodes}
PartitionName=DEFAULT Nodes=n[1-3] MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=main Default=YES GraceTime=1
PartitionName=high PriorityTier=10 PreemptMode=OFF
PartitionName=short MaxTime=5
"""
#: how a site sees to it that jobs take no more memory than they asked for
_MEMORY = {
    None: "TaskPlugin=task/none\nJobAcctGatherFrequency=5",
    # job ids of its own, since cgroups are named by them
    "cgroups": "TaskPlugin=task/cgroup\nJobAcctGatherFrequency=5\nFirstJobId={port}",
    "looking": "TaskPlugin=task/none\nJobAcctGatherFrequency=1\nJobAcctGatherParams=OverMemoryKill",
}
_MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
_CGROUP_CONF = """\
CgroupAutomount=no
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
ConstrainDevices=no
ConstrainCores=no
MinRAMSpace=10
"""
_NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStorageUser=root
AccountingStoragePass={folder}/munge.sock
AccountingStorageTRES=gres/gpu"""
_DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass=hyperband
StorageLoc=slurm
"""


def why_no_slurm() -> str | None:
    """The reason to skip a test that needs Slurm; None: it can be had."""
    absent = [name for name in _NEEDED if shutil.which(name, path=_SYSTEM_PATH) is None]
    if absent:
        return f"no Slurm: {', '.join(absent)} not found (Debian: apt install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "only root may start a Slurm of several nodes on one machine"
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.mknod(f"{folder}/gpu", 0o600 | 0o020000, os.makedev(1, 3))
    except OSError as err:
        return f"no device file can be made here ({err.strerror}), and Slurm's GPUs are such"
    return None


def why_no_accounting() -> str | None:
    """The reason to skip a test that needs Slurm's accounting as well; None: it can be had."""
    absent = [name for name in _NEEDED_FOR_ACCOUNTING if shutil.which(name, path=_SYSTEM_PATH) is None]
    if absent:
        return f"no Slurm accounting: {', '.join(absent)} not found (apt install slurmdbd mariadb-server)"
    return why_no_slurm()


def why_no_cgroups() -> str | None:
    """The reason to skip a test that needs Slurm to limit memory by cgroups; None: it can."""
    probe = _MEMORY_CGROUPS / f"hyperband-test-{os.getpid()}"
    try:
        probe.mkdir()
        is_there = (probe / "memory.limit_in_bytes").exists()
        probe.rmdir()
    except OSError as err:
        return f"no cgroup of version 1 can be made for memory ({err.strerror})"
    return why_no_slurm() if is_there else "cgroups of version 1 do not limit memory here"


class SlurmCluster:
    """The daemons of one cluster. `environment` is what leads Slurm's commands to it."""

    def __init__(
        self,
        folder: Path,
        *,
        slurmd_timeout_s: int = 3,
        min_job_age_s: int = 300,
        ends_for_memory_by: str | None = None,
    ) -> None:
        """Take a folder (its path must be short: sockets lie in it) and a block of ports; start nothing.

        ends_for_memory_by: `cgroups`, or `looking` each second; None: nobody ends jobs for that.
        """
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.environment = {_CONF_VARIABLE: str(self.conf)}
        self._slurmd_timeout_s = slurmd_timeout_s
        self._min_job_age_s = min_job_age_s
        self._ends_for_memory_by = ends_for_memory_by
        self._has_accounting = False
        self._held, self._port = _take_ports()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._undertaker: subprocess.Popen[bytes] | None = None

    # the whole of it

    def start(self) -> None:
        """Start everything; return when all nodes are idle."""
        self.folder.chmod(0o755)
        for name in ("state", "spool", "dev", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir()
        for node in NODES:
            for k in range(N_GPUS):  # slurmd wants character devices; these are like /dev/null
                os.mknod(self.folder / "dev" / f"{node}-gpu{k}", 0o666 | 0o020000, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={n} Name=gpu File={self.folder}/dev/{n}-gpu[0-{N_GPUS - 1}]\n" for n in NODES)
        )
        has_cgroups = self._ends_for_memory_by == "cgroups"
        conf = _CGROUP_CONF if has_cgroups else "CgroupAutomount=no\nConstrainDevices=no\n"
        (self.folder / "cgroup.conf").write_text(conf)
        self._write_conf()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        self._undertaker = start_undertaker(f"{_CONF_VARIABLE}={self.conf}", self.folder)
        self._run_munged()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for_idle()

    def end(self) -> None:
        """Cancel what runs, end the daemons, and see that nothing is left."""
        with contextlib.suppress(subprocess.SubprocessError):
            if "slurmctld" in self._daemons:
                self.run("scancel", "--user=root", check=False, timeout_s=10)
        for name, daemon in self._daemons.items():
            daemon.send_signal(signal.SIGCONT)
            daemon.send_signal(signal.SIGTERM if name in ("mariadbd", "slurmdbd") else signal.SIGKILL)
        for name, daemon in self._daemons.items():
            try:
                daemon.wait(5 if name in ("mariadbd", "slurmdbd") else None)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        if self._undertaker is not None:
            self._undertaker.communicate(timeout=60)
        if self._ends_for_memory_by == "cgroups":
            self._remove_cgroups()
        self._held.close()

    def _remove_cgroups(self) -> None:
        """Remove the groups of our jobs, and what is above them unless another cluster has some there."""
        for node in NODES:
            for group in (_MEMORY_CGROUPS / f"slurm_{node}").glob(f"uid_*/job_{self._port // 100}*"):
                for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                    path.rmdir()
                group.rmdir()
            with contextlib.suppress(OSError):
                for path in (_MEMORY_CGROUPS / f"slurm_{node}").glob("uid_*"):
                    path.rmdir()
                (_MEMORY_CGROUPS / f"slurm_{node}").rmdir()

    def wait_for_idle(self) -> None:
        """Return once no job is there and every node is idle."""
        wait_for(
            lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * len(NODES),
            words="idle nodes",
        )

    def clear(self) -> None:
        """Cancel every job and mend every node, for the next test."""
        self.start_controller()
        for node in NODES:
            self.continue_node(node)
            self.start_node(node)
        self.run("scancel", "--user=root")
        wait_for(lambda: self.run("squeue", "-h", "-o", "%i") == "", words="an empty queue")
        states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
        for words in states:
            node, state = words.split()
            if re.search("down|drain|fail|unknown", state):
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait_for_idle()

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60) -> str:
        """Run one of Slurm's commands against this cluster; return what it printed."""
        done = subprocess.run(
            argv,
            cwd=self.folder,  # the output of jobs goes there
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout

    # one node

    def start_node(self, node: str) -> None:
        """Start a node's slurmd unless it runs."""
        self._start(node, ["slurmd", "-D", "-N", node], {_NODE_VARIABLE: node})

    def kill_node(self, node: str) -> None:
        """Cut a node's power: its slurmd, its steps and their processes are gone at once."""
        slurmd = self._daemons.pop(node)
        # shepherds of steps first and all at once: one that lives reports its script as failed; and with them
        # the processes of the steps: a keeper that outlives its job for a moment writes down how that ended
        shepherds = [slurmd.pid, *self._marked(f"{_NODE_VARIABLE}={node}")]
        signal_all(shepherds, signal.SIGSTOP)
        steps = self._marked(f"SLURMD_NODENAME={node}")
        signal_all(steps, signal.SIGSTOP)
        signal_all([*steps, *shepherds], signal.SIGKILL)
        slurmd.wait()

    def stop_node(self, node: str) -> None:
        """Hang a node's slurmd: the controller loses sight of it while its steps go on."""
        self._daemons[node].send_signal(signal.SIGSTOP)

    def continue_node(self, node: str) -> None:
        """Let a hung slurmd go on."""
        if node in self._daemons:
            self._daemons[node].send_signal(signal.SIGCONT)

    def forget_steps(self) -> None:
        """Have the controller take every node as free whose steps are over, whether or not they said so.

        A step that ended while the controller was away tells it that only after a minute.
        """
        for node in NODES:
            if not self.run("squeue", "-h", "-t", "completing", "-w", node, "-o", "%i"):
                continue
            # its slurmd would wait for those who keep them, too, when it is to end
            slurmd = self._daemons.get(node)
            keeping = self._marked(f"{_NODE_VARIABLE}={node}")
            keeping = [pid for pid in keeping if slurmd is None or pid != slurmd.pid]
            signal_all(keeping, signal.SIGKILL)
            self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
            self.run("scontrol", "update", f"nodename={node}", "state=resume")

    # the controller

    def start_controller(self) -> None:
        """Start slurmctld unless it runs; return when it answers."""
        self._start("slurmctld", ["slurmctld", "-D"])
        wait_for(lambda: "UP" in self.run("scontrol", "ping", check=False), words="the controller")

    def stop_controller(self) -> None:
        """End slurmctld in an orderly way: it saves its state. Steps go on."""
        self._end("slurmctld", signal.SIGTERM)

    def kill_controller(self) -> None:
        """Kill slurmctld. What it had not saved in the last seconds is lost."""
        self._end("slurmctld", signal.SIGKILL)

    # accounting

    def set_accounting(self, on: bool) -> None:
        """Switch accounting on or off: starts its daemons, and the controller anew."""
        if on == self._has_accounting:
            return
        if on and "slurmdbd" not in self._daemons:
            self._start_accounting()
        self._has_accounting = on
        self.stop_controller()
        self._write_conf()
        self.start_controller()
        for node in NODES:  # one that starts says so at once; of others the controller hears later
            self._end(node, signal.SIGTERM)
            self.start_node(node)
        self.wait_for_idle()

    def _start_accounting(self) -> None:
        data, sock = self.folder / "db", self.folder / "db.sock"
        with (self.folder / "db-install.log").open("wb") as log:
            subprocess.run(
                [
                    "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root",
                    "--auth-root-authentication-method=socket", "--skip-test-db",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
                env=self._daemon_environment({}),
            )  # fmt: skip
        self._start("mariadbd", [
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", "--bind-address=127.0.0.1",
            f"--port={self._port + 3}", f"--socket={sock}", f"--pid-file={self.folder}/mariadbd.pid",
            "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",
        ])  # fmt: skip
        ask = ("mariadb", "--no-defaults", "-S", str(sock), "-e")

        def answers() -> bool:
            return "1" in self.run(*ask, "select 1", check=False)

        wait_for(answers, words="the database")
        self.run(*ask, "CREATE DATABASE slurm")
        self.run(*ask, "CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'hyperband'")
        self.run(*ask, "GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1'")
        places = {"folder": self.folder, "dbd_port": self._port + 2, "db_port": self._port + 3}
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(_DBD_CONF.format(**places))
        conf.chmod(0o600)
        self._start("slurmdbd", ["slurmdbd", "-D"])
        # sacctmgr reads slurm.conf to find it
        self._has_accounting = True
        self._write_conf()
        wait_for(self._knows_us, words="slurmdbd")

    def _knows_us(self) -> bool:
        self.run("sacctmgr", "-i", "add", "cluster", "hyperband", check=False)
        return "hyperband" in self.run("sacctmgr", "-n", "list", "cluster", "format=cluster", check=False)

    # processes

    def _run_munged(self) -> None:
        self._start("munged", [
            "munged", "--foreground", "--force", f"--socket={self.folder}/munge.sock",
            f"--key-file={self.folder}/munge.key", f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munge.seed",
            "--num-threads=2",
        ])  # fmt: skip
        wait_for((self.folder / "munge.sock").exists, words="munged")

    def _start(self, name: str, argv: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        if name in self._daemons and self._daemons[name].poll() is None:
            return
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._daemon_environment(extra or {}),
                start_new_session=True,
            )

    def _end(self, name: str, number: signal.Signals) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        daemon.wait(60)

    def _daemon_environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Nothing of a test's own: a daemon lives longer than the test that restarted it."""
        return {"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8", **self.environment, **extra}

    def _marked(self, mark: str) -> list[int]:
        """Pids of this cluster with this variable in their environment."""
        return marked(mark, f"{_CONF_VARIABLE}={self.conf}")

    def _write_conf(self) -> None:
        host = os.uname().nodename.split(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.1.{i} Port={self._port + 4 + i}"
            for i, node in enumerate(NODES, start=1)
        )
        places = {"folder": self.folder, "dbd_port": self._port + 2}
        self.conf.write_text(
            _CONF.format(
                **places,
                host=host,
                port=self._port,
                slurmd_port=self._port + 4,
                slurmd_timeout_s=self._slurmd_timeout_s,
                min_job_age_s=self._min_job_age_s,
                memory=_MEMORY[self._ends_for_memory_by].format(port=self._port),
                accounting=_ACCOUNTING.format(**places) if self._has_accounting else _NO_ACCOUNTING,
                n_gpus=N_GPUS,
                nodes=nodes,
            )
        )


def _take_ports() -> tuple[socket.socket, int]:
    """A block of ports that nobody listens on, and what keeps other test processes from it."""
    for block in range(_N_BLOCKS):
        port = _FIRST_PORT + _PORTS_EACH * block
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0hyperband-tests-slurm-{port}")
        except OSError:
            held.close()
            continue
        if all(_is_free(port + k) for k in range(_PORTS_EACH)):
            return held, port
        held.close()
    raise RuntimeError("no free block of ports for a Slurm cluster")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def running_cluster(*, ends_for_memory_by: str | None = None) -> Iterator[SlurmCluster]:
    """A cluster in a folder of its own, ended with everything on it; see SlurmCluster."""

    def make(folder: Path) -> SlurmCluster:
        return SlurmCluster(folder, ends_for_memory_by=ends_for_memory_by)

    with in_own_folder(make, SlurmCluster.start, prefix="hyperband-slurm-") as cluster:
        yield cluster
