"""A Slurm cluster of one machine, real but for its GPUs, from Debian's slurm-wlm and munge."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SBIN = "/usr/sbin"  # where Debian puts daemons, not on everyone's PATH
PATIENCE = 60  # seconds until something counts as never going to happen

# Everything it keeps lies in {folder}. Without cgroups: a container or sandbox has none to give.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# As many CPUs as jobs that are to run at once, however many the machine has.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 Gres=gpu:{gpus}
PartitionName=test Nodes={host} Default=YES MaxTime=60
ReturnToService=2
SchedulerParameters=sched_interval=2
# So many seconds after its end squeue knows a job: the plugin asks it, and so do the tests.
MinJobAge=3600
"""


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    number: str
    state: str
    comment: str  # rule_<rule>_wildcards_<values>, by Snakemake's plugin


def ask(*command: str) -> str:
    """Return what a command of Slurm's prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def jobs() -> list[Job]:
    """Return all jobs that the cluster remembers."""
    lines = ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%k").splitlines()
    return [Job(*line.split("|")) for line in lines]


def detail(job: Job, field: str) -> str:
    """Return what the controller knows of a job under a name, such as Restarts."""
    found = re.search(rf"\b{field}=(\S*)", ask("scontrol", "--details", "show", "job", job.number))
    assert found, f"job {job.number} has no {field}"
    return found[1]


def wait_for(what: str, happened: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return once something has happened; fail, saying what has not, after so many seconds."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


@contextmanager
def daemon(folder: Path, *command: str) -> Iterator[None]:
    """Run a daemon in the foreground, and end it by its pid."""
    with (folder / f"{Path(command[0]).name}.out").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def logs_of(folder: Path) -> str:
    """Return the ends of what the daemons wrote."""
    files = [*folder.glob("*.out"), *folder.glob("*.log")]
    return "\n".join(f"== {file.name}\n{file.read_text()[-2000:]}" for file in sorted(files))


@contextmanager
def slurm(folder: Path, cpus: int, gpus: int) -> Iterator[None]:
    """Run a cluster of this machine alone, all of it in `folder`; SLURM_CONF leads to it.

    The GPUs are only counted: their files are other names of /dev/null.
    """
    assert os.geteuid() == 0, "a cluster of its own needs root: sudo make test-slurm"
    daemons = {n: shutil.which(n, path=SBIN) for n in ("munged", "slurmctld", "slurmd")}
    missing = [name for name, path in daemons.items() if path is None]
    assert not missing, f"no {', '.join(missing)} here: apt-get install slurm-wlm munge"
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for number in range(gpus):
        os.mknod(folder / f"gpu{number}", 0o20666, os.stat("/dev/null").st_rdev)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    controller_port, node_port = free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(SLURM_CONF.format(**locals()))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{gpus - 1}]\n")
    files = {name: folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
    munge = [
        *("--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}"),
        *(f"--pid-file={files['pid']}", f"--log-file={files['log']}"),
        f"--seed-file={files['seed']}",
    ]
    # Within a job the plugin takes SLURM_CONF away from srun, which would look in /etc/slurm.
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    changed = {"SLURM_CONF": str(conf), "PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}"}
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        with daemon(folder, daemons["munged"], *munge):
            wait_for("munged", files["socket"].exists)
            with (
                daemon(folder, daemons["slurmctld"], "-D", "-i", "-f", str(conf)),
                daemon(folder, daemons["slurmd"], "-D", "-f", str(conf), "-N", host),
            ):
                idle = ("sinfo", "--noheader", "--format=%T")
                wait_for(
                    "an idle node",
                    lambda: "idle" in subprocess.run(idle, capture_output=True, text=True).stdout,
                )
                try:
                    yield
                finally:
                    subprocess.run(["scancel", "--user=root"], check=False)
                    left = ("squeue", "--noheader")
                    wait_for("an empty queue", lambda: not ask(*left).strip())
    except BaseException:
        print(logs_of(folder))
        raise
    finally:
        os.environ.clear()
        os.environ.update(before)
