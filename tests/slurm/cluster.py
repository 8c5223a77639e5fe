"""A SLURM of one node on the loopback address, for as long as it is entered.

Everything (keys, sockets, ports, spool, logs) is its own and lies in one temporary folder, so that it meets no other
SLURM or munge of the machine. No accounting database, hence no sacct, as on many small clusters.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))

CONFIG = """\
ClusterName=ebmbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=15 State=UP
PartitionName=abrupt Nodes=ALL PriorityTier=1 GraceTime=0 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing_programs() -> list[str]:
    """What this machine lacks to run a SLURM."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return lacking if os.geteuid() == 0 else [*lacking, "the rights of root"]


@dataclass(frozen=True)
class Cluster:
    """A running SLURM; its programs find it by `SLURM_CONF`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a program that talks to it has in its environment."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}

    def call(self, *words: str) -> str:
        """Output of one of SLURM's programs."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def queue(self) -> dict[str, str]:
        """Job (`12_3` for a task of an array) to state, of the jobs that have not ended."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Starts munged, slurmctld and slurmd, waits until the node takes jobs, and ends them by their process ids."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "munge").chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    ctld_port, d_port = _free_ports(2)
    text = CONFIG.format(host=host, folder=folder, ctld_port=ctld_port, d_port=d_port)
    (folder / "slurm.conf").write_text(text)
    cluster = Cluster(folder)
    daemons: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_end, daemons)
        munge = folder / "munge"
        own = [f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid"]
        own += [f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
        daemons.append(_start(folder, "munged", "--foreground", "--force", *own))
        _wait(lambda: (munge / "socket").exists(), "munged", folder)
        daemons.append(_start(folder, "slurmctld", "-D", "-f", str(folder / "slurm.conf")))
        daemons.append(_start(folder, "slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", host))
        _wait(lambda: "idle" in cluster.call("sinfo", "-h", "-o", "%T"), "slurmd", folder)
        yield cluster
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            cluster.call("scancel", "--user", "root")
            cluster.call("scancel", "--user", "root", "--signal=KILL")
            deadline = time.monotonic() + 10
            while cluster.queue() and time.monotonic() < deadline:
                time.sleep(0.2)


def _start(folder: Path, program: str, *words: str) -> subprocess.Popen[bytes]:
    path = shutil.which(program, path=PATH)
    assert path is not None
    with open(folder / f"{program}.out", "wb") as out:
        environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        return subprocess.Popen([path, *words], stdout=out, stderr=out, env=environment, cwd=folder)


def _end(daemons: list[subprocess.Popen[bytes]]) -> None:
    for daemon in reversed(daemons):
        daemon.send_signal(signal.SIGTERM)
    for daemon in daemons:
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait(ready: object, name: str, folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            if ready():  # type: ignore[operator]
                return
        time.sleep(0.1)
    logs = [path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out"))]
    raise RuntimeError(f"{name} did not start:\n" + "\n".join(logs))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
