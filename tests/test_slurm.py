"""Slurm for real, on one machine: its daemons are started here, and a study of eight runs lives
through a drained node, a job that its time limit ends, and a controller that is restarted."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread

import pandas as pd
import psutil
import pytest
import yaml

from cyborg.manifest import read_manifest
from cyborg.predictions import read_predictions
from cyborg.study.file import read_study, study_runs
from cyborg.study.grid import plan

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
LACKING = [name for name in PROGRAMS if not shutil.which(name)]
LACKING += [] if find_spec("dask_jobqueue") else ["dask-jobqueue (pip install 'cyborg[slurm]')"]
LACKING += [] if os.geteuid() == 0 else ["root, who may start its daemons"]
pytestmark = [
    pytest.mark.skipif(not os.environ.get("CYBORG_SLOW"), reason="slow: CYBORG_SLOW=1 runs it"),
    pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}: slurm-wlm of Debian"),
]
EPOCHS = 30  # so that a run takes half a minute, and a job several runs
SETTINGS = """
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
"""


class Slurm:
    "Nodes of one core each; every daemon is a child of this process."

    def __init__(self, folder: Path, nodes: int):
        self.folder, self.running = folder, {}
        self.nodes = [f"node{i}" for i in range(1, nodes + 1)]
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def write(self) -> None:
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(1 + len(self.nodes))]
        ports = [one.getsockname()[1] for one in held]
        for one in held:
            one.close()
        host, folder = socket.gethostname(), self.folder
        lines = [f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={ports[0]}"]
        lines += [SETTINGS, f"AuthInfo=socket={folder}/munge/socket"]
        lines += [f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool-%n"]
        lines += [f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/%n.pid"]
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            "CPUs=1 RealMemory=1000 State=UNKNOWN"
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        lines += ["PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP"]
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        (folder / "munge").mkdir(mode=0o755)
        (folder / "state").mkdir()
        (folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (folder / "munge" / "key").chmod(0o400)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log
            )

    def up(self) -> None:
        self.write()
        munge = self.folder / "munge"
        files = [f"--{word}={munge}/{word}" for word in ("socket", "pid-file", "log-file")]
        files += [f"--key-file={munge}/key", f"--seed-file={munge}/seed"]
        self.start("munged", "munged", "--foreground", "--force", *files)
        wait_until((munge / "socket").exists, 20)
        self.start("slurmctld", "slurmctld", "-D")
        for name in self.nodes:
            self.start(name, "slurmd", "-D", "-N", name)
        wait_until(
            lambda: self.say("sinfo", "-h", "-t", "idle", "-o", "%D") == str(len(self.nodes))
        )

    def restart_controller(self) -> None:
        self.running["slurmctld"].terminate()
        self.running["slurmctld"].wait(30)
        self.start("slurmctld", "slurmctld", "-D")

    def say(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        "Node of each running job."
        lines = self.say("squeue", "-h", "-t", "running", "-o", "%A %N").splitlines()
        return dict(line.split() for line in lines)

    def down(self) -> None:
        self.say("scancel", "--me")
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(ready, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


@pytest.fixture
def slurm(tmp_path):
    "Four nodes of one core."
    folder = tmp_path / "slurm"
    folder.mkdir()
    cluster = Slurm(folder, 4)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def at_work(runs: Path) -> list[Path]:
    "Run folders below `runs` that a process is at work on, one for each process."
    found = []
    for process in psutil.process_iter():
        try:
            if "cyborg.study.runner" in " ".join(process.cmdline()):
                found.append(Path(process.cwd()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [path for path in found if runs in path.parents]


class Watcher(Thread):
    "Notes which run folders two processes were at work on at a time."

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.ended, self.doubled = folder, Event(), set()

    def run(self) -> None:
        while not self.ended.wait(0.5):
            self.doubled |= {p for p, n in Counter(at_work(self.folder)).items() if n > 1}


def test_every_run_of_a_study_ends_once_whatever_slurm_does(slurm, content, faces, tmp_path):
    content |= {
        "seeds": 4,
        "settings": {"size": 64, "epochs": EPOCHS, "device": "cpu", "batch_size": 4},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    prologue = [f"export PYTHONPATH={os.pathsep.join(path for path in sys.path if path)}"]
    jobs = {"cores": 1, "memory": "1GB", "walltime": "00:20:00", "python": sys.executable}
    jobs |= {"log-directory": str(tmp_path / "jobs"), "job-script-prologue": prologue}
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "jobqueue.yaml").write_text(yaml.safe_dump({"jobqueue": {"slurm": jobs}}))
    environment = slurm.environment | {
        "DASK_CONFIG": str(tmp_path / "dask"),
        "CYBORG_RUNS": str(tmp_path / "runs"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", "from cyborg.commands import study_command as s; s()"]
    command += [
        str(tmp_path / "s.yaml"),
        "--scheduler",
        "slurm",
        "--workers",
        "3",
        "--threads",
        "1",
    ]
    watcher = Watcher(tmp_path / "runs")
    watcher.start()
    command += ["--threads", "1", "--no_audit"]
    with (tmp_path / "study.log").open("w") as log:
        study = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: len(at_work(tmp_path / "runs")) == 3, 300)  # each job has a run
        first = slurm.jobs()
        ended, node = next(iter(first.items()))
        (spare,) = set(slurm.nodes) - set(first.values())
        slurm.say("scontrol", "update", f"JobId={ended}", "TimeLimit=1")  # minutes
        slurm.say("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        slurm.restart_controller()
        wait_until(lambda: ended not in slurm.jobs(), 200)
        assert "DUE TO TIME LIMIT" in "".join(p.read_text() for p in (tmp_path / "jobs").iterdir())
        wait_until(lambda: set(slurm.jobs()) - set(first), 200)  # another one in its place
        (another,) = set(slurm.jobs()) - set(first)
        assert slurm.jobs()[another] == spare  # and not on the node that was drained
        study.wait(900)
    finally:
        study.kill()
        watcher.ended.set()
        print((tmp_path / "study.log").read_text())
    assert study.returncode == 0
    told = (tmp_path / "study.log").read_text()
    assert re.search("8 of 8 runs finished, 0 running, 0 failed", told)
    assert not watcher.doubled
    read = read_study(tmp_path / "s.yaml", tmp_path / "runs")
    assert plan(read)["state"].tolist() == ["finished"] * 8
    n = len(read_manifest(faces / "manifest.csv", faces).split("test"))
    for run in study_runs(read):
        history = pd.read_csv(run.config.folder / "history.csv")
        assert history["epoch"].tolist() == [*range(1, EPOCHS + 1)]
        assert read_predictions(run.config.folder)["image"].nunique() == n
    assert slurm.say("sinfo", "-h", "-t", "drain,draining,drained", "-o", "%N") == node
    wait_until(lambda: not slurm.say("squeue", "-h", "--me"))  # no job is left behind
