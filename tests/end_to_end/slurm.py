"""A Slurm of one node, this machine, if its programs are installed and can be started."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Debian's packages have the same names, except that munged is in munge.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=main Nodes={host} Default=YES State=UP
"""


class NoSlurmError(Exception):
    """No Slurm can be started here; the message says why."""


@contextmanager
def one_node() -> Iterator[Path]:
    """A block during which a Slurm runs; yields its configuration, for ``SLURM_CONF``.

    Raises
    ------
    NoSlurmError
        If it cannot be started.
    """
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        raise NoSlurmError(f"{', '.join(missing)} not installed (Debian: slurmctld slurmd munge)")
    if os.getuid() != 0:
        raise NoSlurmError("slurmd can be started by root alone")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # a socket's path must be short
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        folder.chmod(0o755)
        config = folder / "slurm.conf"
        config.write_text(
            _CONFIG.format(
                host=platform.node().split(".")[0], folder=folder, controller_port=_free_port(),
                node_port=_free_port(),
            )
        )  # fmt: skip
        environment = {**os.environ, "SLURM_CONF": str(config), "PATH": _path()}
        munge = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key"]
        munge += [f"--{name}={folder}/munge.{name}" for name in ("socket", "seed-file", "log-file")]
        munge.append(f"--pid-file={folder}/munge.pid")
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"]):
            with open(folder / f"{command[0]}.out", "wb") as out:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)
                )
            _wait_for(command[0], daemons[-1], folder, environment)
        yield config
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(
    name: str, daemon: subprocess.Popen[bytes], folder: Path, environment: dict[str, str]
) -> None:
    """Wait until a daemon answers, and for slurmd until a job can run."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and daemon.poll() is None:
        if name == "munged":
            if (folder / "munge.socket").exists():
                return
        else:
            answer = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if answer.returncode == 0 and (name == "slurmctld" or "idle" in answer.stdout):
                return
        time.sleep(0.2)
    lines = (folder / f"{name}.out").read_text(errors="replace").splitlines() or ["no message"]
    raise NoSlurmError(f"{name} does not start: {lines[-1]}")


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
