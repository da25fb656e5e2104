"""The examples under deploy/: Kubernetes against its schema, Slurm against bash, its own options, and a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from balcap.training.launch import SAVE_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
SCRIPT = DEPLOY / "slurm/train.sbatch"
SBATCH = {
    "array", "begin", "chdir", "comment", "constraint", "cpus-per-gpu", "cpus-per-task", "dependency", "error",
    "exclude", "exclusive", "export", "gpus", "gpus-per-node", "gpus-per-task", "gres", "hold", "input", "job-name",
    "mail-type", "mem", "mem-per-cpu", "mem-per-gpu", "nice", "no-requeue", "nodelist", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "priority", "requeue", "signal", "time", "time-min", "wait",
}  # fmt: skip
"""Long options of sbatch that no site needs to change: without account, partition and quality of service."""
STUB = """#!/bin/bash
echo "$(basename "$0") $*" >> {log}
"""
SRUN = """echo "at $MASTER_ADDR:$MASTER_PORT with $SRUN_CPUS_PER_TASK cores" >> {log}
trap 'echo "srun was ended" >> {log}; exit 143' TERM
trap 'sleep 0.2; echo "saved" >> {log}; exit {code}' USR1
echo $$ > {ready}.tmp && mv {ready}.tmp {ready}
while true; do sleep 0.05; done
"""
"""A signal to srun itself ends the tasks; USR1 stands for what scancel sends to the tasks alone."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_accepts_every_document(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, "1.37", strict=True)
        broken = {**document, "spec": {**document["spec"], "nodes": 2}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, "1.37", strict=True)


def test_the_pods_of_the_job_find_each_other() -> None:
    service, job = documents(DEPLOY / "kubernetes/train.yaml")
    spec, pod = job["spec"], job["spec"]["template"]
    container = pod["spec"]["containers"][0]
    env = {one["name"]: one.get("value") for one in container["env"]}
    # A pod of an indexed job is called JOB-INDEX, and found below the service that its subdomain names.
    assert env["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert int(env["MASTER_PORT"]) == service["spec"]["ports"][0]["port"]
    assert spec["completions"] == spec["parallelism"] and spec["completionMode"] == "Indexed"
    assert pod["spec"]["terminationGracePeriodSeconds"] > SAVE_SECONDS
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["spec"]["volumes"]}
    assert container["command"] == ["python", "-m", "steps.train"]
    # A pod begun anew beside one of the old group would meet nobody: all end with the first that fails.
    assert spec["backoffLimit"] == 0 and "podFailurePolicy" not in spec
    assert pod["spec"]["shareProcessNamespace"], "to process 1 the kernel gives no signal that it has no handler for"


def options() -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), flags=re.M)
    assert len(found) == SCRIPT.read_text().count("\n#SBATCH "), "an option that does not read as one"
    return dict(found)


def test_a_cancelled_run_leaves_as_much_time_for_a_checkpoint() -> None:
    stages = yaml.safe_load((DEPLOY.parent / "dvc.yaml").read_text())["stages"]
    assert stages["train"]["meta"]["grace"] > SAVE_SECONDS


def test_slurm_script_is_bash_and_uses_known_options() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True, timeout=60)
    found = options()
    assert set(found) <= SBATCH
    assert found["ntasks-per-node"] == "1" and "requeue" in found
    asked = re.fullmatch(r"B:TERM@(\d+)", found["signal"])
    assert asked and int(asked[1]) > SAVE_SECONDS


@pytest.mark.parametrize("code", [1, 0])
def test_slurm_job_waits_for_its_checkpoint_and_queues_itself_again_unless_done(tmp_path: Path, code: int) -> None:
    log, ready = tmp_path / "log", tmp_path / "ready"
    programs = {
        "srun": SRUN,
        "scancel": "kill -USR1 $(cat {ready})",
        "scontrol": "[ $1 = show ] && printf 'first\\nsecond\\n'; true",
    }
    for name, text in programs.items():
        text = (STUB + text).replace("{log}", str(log)).replace("{ready}", str(ready)).replace("{code}", str(code))
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "20007"}
    env |= {"SLURM_JOB_NODELIST": "nodes", "SLURM_CPUS_PER_TASK": options()["cpus-per-task"]}
    job = subprocess.Popen(["bash", str(SCRIPT)], cwd=tmp_path, env=env)
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert job.poll() is None and time.monotonic() < deadline, "srun was not started"
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == code
    assert log.read_text().splitlines() == [
        "scontrol show hostnames nodes",
        "srun --kill-on-bad-exit=1 bash -c NODE_RANK=$SLURM_NODEID exec python -m steps.train",
        "at first:20007 with 32 cores",
        "scancel --signal=TERM 20007.0",
        "saved",
        *(["scontrol requeue 20007"] if code else []),
    ]
